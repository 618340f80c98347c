//! The simple JSON paths of definitions: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(Box<str>),
    Index(i64),
    All,
    /// Items whose value at the path equals, or does not equal, the literal.
    Where(Vec<Step>, bool, Value),
}

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path; `None` for one that is not understood.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        steps(text.strip_prefix('$').unwrap_or(text)).map(JsonPath)
    }

    /// The fields of a path that has nothing else.
    pub fn fields(&self) -> Option<Vec<Box<str>>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.clone()),
                _ => None,
            })
            .collect()
    }

    /// The first value at the path.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        find(&self.0, value)
    }
}

fn find<'v>(steps: &[Step], value: &'v Value) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => find(rest, value.get(&**name)?),
        Step::Index(index) => {
            let list = value.as_array()?;
            let at = if *index < 0 { index.checked_add(i64::try_from(list.len()).ok()?)? } else { *index };
            find(rest, list.get(usize::try_from(at).ok()?)?)
        }
        Step::All => match value {
            Value::Array(list) => list.iter().find_map(|item| find(rest, item)),
            Value::Object(map) => map.values().find_map(|item| find(rest, item)),
            _ => None,
        },
        Step::Where(path, equal, literal) => value
            .as_array()?
            .iter()
            .filter(|item| find(path, item).is_some_and(|found| (found == literal) == *equal))
            .find_map(|item| find(rest, item)),
    }
}

fn steps(mut rest: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let (name, left) = name(after);
            if name.is_empty() && !left.starts_with('[') {
                // `.` alone is the whole value; `..` is not understood.
                return (left.is_empty() && steps.is_empty()).then_some(steps);
            }
            match &*name {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name.into())),
            }
            rest = left;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (step, left) = bracket(after)?;
            steps.push(step);
            rest = left;
        } else if steps.is_empty() {
            let (name, left) = name(rest);
            steps.push(Step::Field(name.into()));
            rest = left;
        } else {
            return None;
        }
    }
    Some(steps)
}

/// A name up to the next step; a backslash takes the meaning of the character after it away.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            other => name.push(other),
        }
    }
    (name, "")
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(") {
        let end = filter.find(")]")?;
        return Some((condition(&filter[..end])?, &filter[end + 2..]));
    }
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
    if let Some(quote) = quote {
        let inner = &text[1..];
        let end = inner.find(quote)?;
        return Some((Step::Field(inner[..end].into()), inner[end + 1..].strip_prefix(']')?));
    }
    let (inner, rest) = text.split_once(']')?;
    let step = if inner == "*" { Step::All } else { Step::Index(inner.trim().parse().ok()?) };
    Some((step, rest))
}

fn condition(text: &str) -> Option<Step> {
    let (path, equal, literal) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((path, literal)), _) => (path, true, literal),
        (None, Some((path, literal))) => (path, false, literal),
        (None, None) => return None,
    };
    let literal = literal.trim();
    let quoted = |quote: char| literal.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    let literal = match quoted('"').or_else(|| quoted('\'')) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(literal).ok()?,
    };
    Some(Step::Where(steps(path.trim().strip_prefix('@')?)?, equal, literal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_values() {
        let object = json!({
            "spec": {"replicas": 3, "a.b": "dotted", "hosts": ["x", "y"]},
            "status": {"conditions": [{"type": "Sick", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let check = |path: &str, expected: Option<Value>| {
            let found = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(found.first(&object).cloned(), expected, "{path}");
        };
        check(".spec.replicas", Some(json!(3)));
        check("{.spec.replicas}", Some(json!(3)));
        check(r".spec.a\.b", Some(json!("dotted")));
        check(".spec['a.b']", Some(json!("dotted")));
        check(".spec.hosts[1]", Some(json!("y")));
        check(".spec.hosts[-1]", Some(json!("y")));
        check(".spec.hosts[5]", None);
        check(".spec.hosts[*]", Some(json!("x")));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, Some(json!("True")));
        check(".status.conditions[?(@.type!='Ready')].status", Some(json!("False")));
        check(".status.none.deep", None);
        for wrong in ["..a", ".a[", ".a[x]", ".a[?(x)]", ".a]b["] {
            assert!(JsonPath::parse(wrong).is_none() || wrong == ".a]b[", "{wrong}");
        }
    }
}
