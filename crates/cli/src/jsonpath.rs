//! Templates of `-o jsonpath=`, as client-go reads and fills them (`k8s.io/client-go/util/jsonpath`): text with paths in
//! braces, `{range}` … `{end}`, filters, slices, unions, recursive descent. A field that is missing gives nothing.

use std::cmp::Ordering;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

/// How deep a template may nest: what is read is bounded like everything else.
const DEEPEST: usize = 64;

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    Recursive,
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template> {
        let mut parser = Parser { rest: text, depth: 0 };
        let nodes = parser.nodes(false)?;
        Ok(Template(nodes))
    }

    /// Reads a path in the loose form of `--sort-by` and `custom-columns`: `x.y`, `.x.y` or `{.x.y}`.
    pub fn relaxed(text: &str) -> Result<Template> {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        if inner.is_empty() || inner.contains(['{', '}']) {
            bail!(
                "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{{name1.name2}}' or '{{.name1.name2}}'"
            );
        }
        let dot = if inner.starts_with(['.', '[']) { "" } else { "." };
        Template::parse(&format!("{{{dot}{inner}}}"))
    }

    /// The text for an object.
    pub fn fill(&self, object: &Value) -> Result<String> {
        let mut out = String::new();
        fill(&self.0, object, &mut out)?;
        Ok(out)
    }

    /// What each part of the template finds, a text as it stands.
    pub fn found(&self, object: &Value) -> Result<Vec<Vec<Value>>> {
        let mut all = Vec::new();
        found(&self.0, object, &mut all)?;
        Ok(all)
    }

    /// The values that the first path finds.
    pub fn find<'v>(&self, object: &'v Value) -> Result<Vec<&'v Value>> {
        match self.0.first() {
            Some(Node::Path(steps)) => walk(steps, object),
            _ => Ok(Vec::new()),
        }
    }
}

fn fill(nodes: &[Node], object: &Value, out: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let found: Vec<String> = walk(steps, object)?.into_iter().map(shown).collect();
                out.push_str(&found.join(" "));
            }
            Node::Range(steps, body) => {
                for item in walk(steps, object)? {
                    fill(body, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn found(nodes: &[Node], object: &Value, into: &mut Vec<Vec<Value>>) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => into.push(vec![text.as_str().into()]),
            Node::Path(steps) => into.push(walk(steps, object)?.into_iter().cloned().collect()),
            Node::Range(steps, body) => {
                for item in walk(steps, object)? {
                    found(body, item, into)?;
                }
            }
        }
    }
    Ok(())
}

/// A value as it is printed: texts without quotes, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "null".to_owned(),
        other => other.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"),
    }
}

fn walk<'v>(steps: &[Step], object: &'v Value) -> Result<Vec<&'v Value>> {
    let mut found = vec![object];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            one(step, value, &mut next)?;
        }
        found = next;
    }
    Ok(found)
}

fn one<'v>(step: &Step, value: &'v Value, into: &mut Vec<&'v Value>) -> Result<()> {
    match step {
        Step::Field(name) => into.extend(value.get(name)),
        Step::Wildcard => match value {
            Value::Array(items) => into.extend(items),
            Value::Object(fields) => into.extend(fields.values()),
            _ => {}
        },
        Step::Recursive => descend(value, into),
        Step::Index(index) => {
            let Value::Array(items) = value else {
                return if value.is_null() { Ok(()) } else { Err(anyhow!("{} is not array or slice", shown(value))) };
            };
            let length = items.len() as i64;
            let at = if *index < 0 { index + length } else { *index };
            match usize::try_from(at).ok().and_then(|at| items.get(at)) {
                Some(item) => into.push(item),
                None => bail!("array index out of bounds: index {index}, length {length}"),
            }
        }
        Step::Slice(from, to, stride) => {
            let Value::Array(items) = value else { return Ok(()) };
            let length = items.len() as i64;
            let bound = |index: i64| (if index < 0 { index + length } else { index }).clamp(0, length);
            let (from, to) = (bound(from.unwrap_or(0)), bound(to.unwrap_or(length)));
            let mut at = from;
            while at < to {
                into.extend(items.get(at as usize));
                at += stride;
            }
        }
        Step::Union(steps) => {
            for step in steps {
                one(step, value, into)?;
            }
        }
        Step::Filter(left, comparison) => {
            let Value::Array(items) = value else { return Ok(()) };
            for item in items {
                if passes(left, comparison.as_ref(), item)? {
                    into.push(item);
                }
            }
        }
    }
    Ok(())
}

/// A value and everything below it.
fn descend<'v>(value: &'v Value, into: &mut Vec<&'v Value>) {
    into.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, into)),
        Value::Object(fields) => fields.values().for_each(|field| descend(field, into)),
        _ => {}
    }
}

fn passes(left: &Operand, comparison: Option<&(Comparison, Operand)>, item: &Value) -> Result<bool> {
    let of = |operand: &Operand| -> Result<Vec<Value>> {
        Ok(match operand {
            Operand::Literal(value) => vec![value.clone()],
            Operand::Path(steps) => walk(steps, item)?.into_iter().cloned().collect(),
        })
    };
    let left = of(left)?;
    let Some((comparison, right)) = comparison else { return Ok(!left.is_empty()) };
    let right = of(right)?;
    if left.len() > 1 || right.len() > 1 {
        bail!("can only compare one element at a time");
    }
    let (Some(left), Some(right)) = (left.first(), right.first()) else { return Ok(false) };
    let order = match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64().partial_cmp(&right.as_f64()),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (left, right) if left == right => Some(Ordering::Equal),
        _ => None,
    };
    Ok(match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::Unequal => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

impl Parser<'_> {
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn nodes(&mut self, in_range: bool) -> Result<Vec<Node>> {
        self.depth += 1;
        if self.depth > DEEPEST {
            bail!("the template nests deeper than {DEEPEST} levels");
        }
        let mut nodes = Vec::new();
        loop {
            let text = self.rest.find('{').unwrap_or(self.rest.len());
            if text > 0 {
                nodes.push(Node::Text(self.rest[..text].to_owned()));
                self.rest = &self.rest[text..];
            }
            if !self.take("{") {
                if in_range {
                    bail!("not in range, nothing to end: {{end}} is missing");
                }
                break;
            }
            self.skip_blanks();
            if self.take("end") {
                self.close()?;
                if in_range {
                    break;
                }
                bail!("not in range, nothing to end");
            }
            if self.rest.starts_with("range ") {
                self.take("range ");
                self.skip_blanks();
                let steps = self.path()?;
                self.close()?;
                let body = self.nodes(true)?;
                nodes.push(Node::Range(steps, body));
                continue;
            }
            while !self.take("}") {
                match self.rest.chars().next() {
                    None => bail!("unclosed action"),
                    Some(quote @ ('"' | '\'')) => nodes.push(Node::Text(self.quoted(quote)?)),
                    Some(_) => nodes.push(Node::Path(self.path()?)),
                }
                self.skip_blanks();
            }
        }
        self.depth -= 1;
        Ok(nodes)
    }

    fn close(&mut self) -> Result<()> {
        self.skip_blanks();
        if self.take("}") { Ok(()) } else { Err(anyhow!("unclosed action")) }
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next().map(|(_, letter)| letter) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(other) => text.push(other),
                    None => break,
                },
                letter if letter == quote => {
                    self.rest = &self.rest[at + quote.len_utf8()..];
                    return Ok(text);
                }
                letter => text.push(letter),
            }
        }
        bail!("unterminated quoted string")
    }

    fn path(&mut self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let before = self.rest;
        if !self.take("$") {
            self.take("@");
        }
        loop {
            if self.take("..") {
                steps.push(Step::Recursive);
                if !self.rest.starts_with(['.', '[']) {
                    steps.extend(self.field()?);
                }
            } else if self.take(".") {
                if !self.rest.starts_with('[') {
                    steps.extend(self.field()?);
                }
            } else if self.take("[") {
                steps.push(self.brackets()?);
            } else {
                break;
            }
        }
        if self.rest.len() == before.len() {
            bail!("unrecognized character in action: {:?}", before.chars().next().unwrap_or('}'));
        }
        Ok(steps)
    }

    /// A field's name; a backslash keeps the next letter from ending it.
    fn field(&mut self) -> Result<Option<Step>> {
        if self.take("*") {
            return Ok(Some(Step::Wildcard));
        }
        let mut name = String::new();
        let mut letters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
                '.' | '[' | ']' | '}' | ' ' | '\t' | '\n' | '=' | '!' | '<' | '>' | ')' | ',' => {
                    end = at;
                    break;
                }
                letter => name.push(letter),
            }
        }
        self.rest = &self.rest[end..];
        // `{.}` is the object itself.
        Ok((!name.is_empty()).then_some(Step::Field(name)))
    }

    fn brackets(&mut self) -> Result<Step> {
        self.skip_blanks();
        if self.take("?(") {
            return self.filter();
        }
        let mut steps = Vec::new();
        loop {
            self.skip_blanks();
            steps.push(match self.rest.chars().next() {
                None => bail!("unterminated array"),
                Some(quote @ ('"' | '\'')) => Step::Field(self.quoted(quote)?),
                Some('*') => {
                    self.take("*");
                    Step::Wildcard
                }
                Some(_) => self.index()?,
            });
            self.skip_blanks();
            if self.take("]") {
                break;
            }
            if !self.take(",") {
                bail!("invalid array index {}", self.rest);
            }
        }
        Ok(if steps.len() == 1 { steps.remove(0) } else { Step::Union(steps) })
    }

    fn index(&mut self) -> Result<Step> {
        let end = self.rest.find([']', ',']).ok_or_else(|| anyhow!("unterminated array"))?;
        let text = self.rest[..end].trim();
        self.rest = &self.rest[end..];
        let number = |text: &str| -> Result<Option<i64>> {
            match text {
                "" => Ok(None),
                text => text.parse().map(Some).map_err(|_| anyhow!("invalid array index {text}")),
            }
        };
        let parts: Vec<&str> = text.split(':').collect();
        Ok(match parts.as_slice() {
            [one] => Step::Index(number(one)?.ok_or_else(|| anyhow!("invalid array index {text}"))?),
            [from, to] => Step::Slice(number(from)?, number(to)?, 1),
            [from, to, stride] => match number(stride)?.unwrap_or(1) {
                stride if stride > 0 => Step::Slice(number(from)?, number(to)?, stride),
                _ => bail!("step must be > 0"),
            },
            _ => bail!("invalid array index {text}"),
        })
    }

    fn filter(&mut self) -> Result<Step> {
        let left = self.operand()?;
        self.skip_blanks();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let comparison = comparisons.into_iter().find(|(text, _)| self.take(text)).map(|(_, comparison)| comparison);
        let comparison = match comparison {
            Some(comparison) => Some((comparison, self.operand()?)),
            None => None,
        };
        self.skip_blanks();
        if !self.take(")") {
            bail!("unterminated filter");
        }
        self.skip_blanks();
        if !self.take("]") {
            bail!("unclosed array expect ]");
        }
        Ok(Step::Filter(left, comparison))
    }

    fn operand(&mut self) -> Result<Operand> {
        self.skip_blanks();
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => Ok(Operand::Literal(self.quoted(quote)?.into())),
            Some('@' | '$' | '.' | '[') => Ok(Operand::Path(self.path()?)),
            _ => {
                let end = self.rest.find([')', ' ', '=', '!', '<', '>']).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                let value = serde_json::from_str(word).map_err(|_| anyhow!("unrecognized identifier {word}"))?;
                self.rest = rest;
                Ok(Operand::Literal(value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object() -> Value {
        json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"app.io/x": "one"}}, "ports": [{"port": 80}, {"port": 443}], "ready": true},
                {"metadata": {"name": "b"}, "ports": [], "ready": false, "size": 7},
                {"metadata": {"name": "c<d"}, "size": 9},
            ],
        })
    }

    #[test]
    fn what_templates_give() {
        let check = |template: &str, expected: &str| {
            let got = Template::parse(template).and_then(|template| template.fill(&object()));
            assert_eq!(got.unwrap_or_else(|error| panic!("{template}: {error}")), expected, "{template}");
        };
        check("{.kind}", "List");
        check("{$.kind}: {@.kind}", "List: List");
        check("{.items[*].metadata.name}", "a b c<d");
        check("{.items[0].metadata.labels.app\\.io/x}", "one");
        check("{.items[0].metadata.labels['app.io/x']}", "one");
        check(r#"{range .items[*]}{.metadata.name}{"\t"}{.size}{"\n"}{end}"#, "a\t\nb\t7\nc<d\t9\n");
        check(r#"{.items[?(@.metadata.name=="b")].size}"#, "7");
        check("{.items[?(@.size>7)].metadata.name}", "c<d");
        check("{.items[?(@.size)].metadata.name}", "b c<d");
        check("{.items[?(@.ready==true)].metadata.name}", "a");
        check("{.items[-1].size}", "9");
        check("{.items[0:2].metadata.name}", "a b");
        check("{.items[::2].metadata.name}", "a c<d");
        check("{.items[0,2].metadata.name}", "a c<d");
        check("{.items[0]['ready', 'metadata']}", r#"true {"labels":{"app.io/x":"one"},"name":"a"}"#);
        check("{..port}", "80 443");
        check("{.items[0].ports}", r#"[{"port":80},{"port":443}]"#);
        check("{.items[2].metadata}", r#"{"name":"c\u003cd"}"#);
        check("{.nothing.at.all}x", "x");
        check("plain", "plain");
        check("{range .items[*]}{range .ports[*]}{.port},{end};{end}", "80,443,;;;");
    }

    #[test]
    fn what_is_wrong() {
        for (template, words) in [
            ("{.items[5]}", "array index out of bounds: index 5, length 3"),
            ("{.items", "unclosed action"),
            ("{range .items[*]}", "{end} is missing"),
            ("{end}", "nothing to end"),
            ("{.items[?(@.a==b)]}", "unrecognized identifier b"),
            ("{\"a}", "unterminated quoted string"),
            ("{items}", "unrecognized character in action"),
        ] {
            let got = Template::parse(template).and_then(|template| template.fill(&object()));
            let error = got.expect_err(template).to_string();
            assert!(error.contains(words), "{template}: {error}");
        }
        let found = |path: &str| Template::relaxed(path).unwrap().find(&object()).unwrap().len();
        assert_eq!([found("kind"), found(".items[*]"), found("{.items[*].size}")], [1, 3, 2]);
    }

    proptest! {
        #[test]
        fn no_template_is_too_much(text in r#"[{}.\[\]*?()@$'"a0:,=<> \\]{0,40}|(\{range \.\}){0,80}"#) {
            let _ = Template::parse(&text).and_then(|template| template.fill(&object()));
        }
    }
}
