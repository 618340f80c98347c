//! Label selectors (as queries and as `metav1.LabelSelector`) and field selectors.

use std::fmt;

use serde_json::Value;

use crate::name;
use crate::path::{entries, list, text};

/// Why a text is no selector; the words are those of the 400 that upstream answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text does not follow the grammar.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A `metav1.LabelSelector` has an operator that there is not.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// A field selector's term has no operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole selector.
        selector: String,
        /// The term.
        term: String,
    },
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is there with one of the values.
    In,
    /// The label is not there or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is a whole number greater than the value.
    GreaterThan,
    /// The label is a whole number less than the value.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what; sorted for [`Operator::In`] and [`Operator::NotIn`].
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key and values as upstream does.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
        let wrong = |value: &str, errors: Vec<String>| {
            SelectorError::Syntax(format!("<nil>: Invalid value: {value:?}: {}", errors.join("; ")))
        };
        let errors = name::qualified_name(key);
        if !errors.is_empty() {
            return Err(wrong(key, errors));
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let detail = "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty";
                return Err(SelectorError::Syntax(detail.to_owned()));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if let Some(bad) = values.iter().find(|value| value.parse::<i64>().is_err()) {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer".to_owned();
                    return Err(wrong(bad, vec![detail]));
                }
            }
            _ => {}
        }
        for value in &values {
            let errors = name::label_value(value);
            if !errors.is_empty() {
                return Err(wrong(value, errors));
            }
        }
        let mut values = values;
        values.sort_unstable();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let compare = |greater: bool| {
            let (Some(label), Some(value)) = (label.and_then(number), self.values.first().and_then(|v| number(v)))
            else {
                return false;
            };
            if greater { label > value } else { label < value }
        };
        match self.operator {
            Operator::In => label.is_some_and(|label| self.values.iter().any(|value| value == label)),
            Operator::NotIn => !label.is_some_and(|label| self.values.iter().any(|value| value == label)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compare(true),
            Operator::LessThan => compare(false),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match (self.operator, self.values.len()) {
            (Operator::In, 1) => write!(f, "{key}={values}"),
            (Operator::In, _) => write!(f, "{key} in ({values})"),
            (Operator::NotIn, 1) => write!(f, "{key}!={values}"),
            (Operator::NotIn, _) => write!(f, "{key} notin ({values})"),
            (Operator::Exists, _) => write!(f, "{key}"),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::GreaterThan, _) => write!(f, "{key}>{values}"),
            (Operator::LessThan, _) => write!(f, "{key}<{values}"),
        }
    }
}

/// All requirements have to hold. [`LabelSelector::nothing`] matches nothing, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// The selector that matches no labels.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the `labelSelector` of a query: `a=b,c!=d,e in (f,g),!h`.
    pub fn parse(query: &str) -> Result<LabelSelector, SelectorError> {
        let requirements = Lexer { rest: query }.requirements()?;
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`. Null selects nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<LabelSelector, SelectorError> {
        if selector.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in entries(selector, "matchLabels") {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements.push(Requirement::new(key, Operator::In, values)?);
        }
        for expression in list(selector, "matchExpressions") {
            let operator = match text(expression, "operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = list(expression, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text(expression, "key"), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a map of labels that have to be there, as Services and ReplicationControllers select.
    pub fn from_labels(labels: &Value) -> LabelSelector {
        let requirements = labels
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// The requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it matches whatever it is shown.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels, found by their key, match.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether a JSON object of labels (or null) matches.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'static str),
    End,
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> (Token<'a>, &'a str) {
        const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"];
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return (Token::End, rest);
        }
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            return (Token::Sign(sign), &rest[sign.len()..]);
        }
        let end = rest.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '<', '>']).unwrap_or(rest.len());
        (Token::Word(&rest[..end]), &rest[end..])
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.peek();
        self.rest = rest;
        token
    }

    fn requirements(mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek().0 {
                Token::End => break,
                Token::Word(_) | Token::Sign("!") => requirements.push(self.requirement()?),
                other => return Err(unexpected(other, "!, identifier, or 'end of string'")),
            }
            match self.next() {
                Token::End => break,
                Token::Sign(",") => match self.peek().0 {
                    Token::Word(_) | Token::Sign("!") => {}
                    other => return Err(unexpected(other, "identifier after ','")),
                },
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek().0 == Token::Sign("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word,
            other => return Err(unexpected(other, "identifier")),
        };
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        match self.peek().0 {
            Token::End | Token::Sign(",") => Requirement::new(key, Operator::Exists, Vec::new()),
            _ => {
                let operator = self.next();
                let one = |operator, value: &str| Requirement::new(key, operator, vec![value.to_owned()]);
                match operator {
                    Token::Sign("=" | "==") => one(Operator::In, self.value()),
                    Token::Sign("!=") => one(Operator::NotIn, self.value()),
                    Token::Sign(">") => one(Operator::GreaterThan, self.value()),
                    Token::Sign("<") => one(Operator::LessThan, self.value()),
                    Token::Word("in") => Requirement::new(key, Operator::In, self.values()?),
                    Token::Word("notin") => Requirement::new(key, Operator::NotIn, self.values()?),
                    other => Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
                }
            }
        }
    }

    /// One value; nothing where the next requirement or the end follows.
    fn value(&mut self) -> &'a str {
        match self.peek() {
            (Token::Word(word), rest) => {
                self.rest = rest;
                word
            }
            _ => "",
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(unexpected(other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value().to_owned());
            match self.next() {
                Token::Sign(",") => {}
                Token::Sign(")") => return Ok(values),
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
    }
}

fn unexpected(token: Token<'_>, expected: &str) -> SelectorError {
    let found = match token {
        Token::Word(word) => word,
        Token::Sign(sign) => sign,
        Token::End => "",
    };
    SelectorError::Syntax(format!("found '{found}', expected: {expected}"))
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's name.
    pub field: String,
    /// Whether the field has to have the value, or must not have it.
    pub equals: bool,
    /// The value.
    pub value: String,
}

/// All terms have to hold; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads the `fieldSelector` of a query: `a=b,c!=d`; a backslash takes the meaning from `,`, `=` and itself.
    pub fn parse(query: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for term in split_terms(query) {
            if term.is_empty() {
                continue;
            }
            let wrong = || SelectorError::Term { selector: query.to_owned(), term: term.to_owned() };
            let (field, equals, value) = split_term(term).ok_or_else(wrong)?;
            let value = unescape(value).ok_or_else(wrong)?;
            terms.push(FieldTerm { field: field.to_owned(), equals, value });
        }
        Ok(FieldSelector { terms })
    }

    /// The terms.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether it matches whatever it is shown.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms about fields for which `first` holds, and the others: an object matches when it matches both.
    pub fn partition(self, first: impl Fn(&str) -> bool) -> (FieldSelector, FieldSelector) {
        let (first, second) = self.terms.into_iter().partition(|term| first(&term.field));
        (FieldSelector { terms: first }, FieldSelector { terms: second })
    }

    /// The value that the field has to have, if the selector says so: a key to look up by.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equals && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether fields, found by their name, match; an absent field is empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (field(&term.field).unwrap_or_default() == term.value) == term.equals)
    }
}

fn split_terms(query: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in query.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&query[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&query[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let (equals, value) = match rest.strip_prefix("!=") {
        Some(value) => (false, value),
        None => (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?),
    };
    Some((field, equals, value))
}

/// Takes backslashes away; nothing where one stands before a letter that needs none, or a sign stands unescaped.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                _ => return None,
            },
            ',' | '=' => return None,
            _ => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_queries() {
        let labels = json!({"a": "b", "n": "5", "x.io/y": "", "tier": "web"});
        let check = |query: &str, expected: bool| {
            let selector = LabelSelector::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
            assert_eq!(selector.matches_labels(&labels), expected, "{query}");
            let again = LabelSelector::parse(&selector.to_string()).expect("its text is a selector");
            assert_eq!(again, selector, "{query}");
        };
        for (query, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a = b", true),
            ("a!=b", false),
            ("z!=b", true),
            ("a", true),
            ("!a", false),
            ("!z", true),
            ("a in (b,c)", true),
            ("a in ( c , d )", false),
            ("a notin (c)", true),
            ("z notin (c)", true),
            ("n>4", true),
            ("n<5", false),
            ("a=b,tier in (web, db),!z", true),
            ("x.io/y=", true),
            ("x.io/y=,a=b", true),
            ("a in (b,)", true),
            ("in in (in)", false),
        ] {
            check(query, expected);
        }
    }

    #[test]
    fn label_queries_refused() {
        for query in ["=", "a b", "a in", "a in b", "a in (b", ",a", "a,", "a,,b", "!", "a=b=c", "a>x", "-a=b", "a=b c"]
        {
            assert!(LabelSelector::parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn label_objects() {
        let labels = json!({"a": "b"});
        let check = |selector: Value, expected: bool| {
            let read = LabelSelector::from_object(&selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert_eq!(read.matches_labels(&labels), expected, "{selector}");
        };
        check(Value::Null, false);
        check(json!({}), true);
        check(json!({"matchLabels": {"a": "b"}}), true);
        check(json!({"matchLabels": {"a": "c"}}), false);
        check(json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true);
        check(json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}), false);
        let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        assert_eq!(LabelSelector::from_object(&wrong), Err(SelectorError::Operator("Like".to_owned())));
    }

    #[test]
    fn field_queries() {
        let field = |name: &str| match name {
            "metadata.name" => Some("a"),
            "type" => Some("x,y"),
            _ => None,
        };
        let check = |query: &str, expected: Option<bool>| {
            let found = FieldSelector::parse(query).ok().map(|selector| selector.matches(field));
            assert_eq!(found, expected, "{query}");
        };
        check("", Some(true));
        check("metadata.name=a", Some(true));
        check("metadata.name==a,other=", Some(true));
        check("metadata.name!=a", Some(false));
        check(r"type=x\,y", Some(true));
        check("metadata.name", None);
        check(r"type=\x", None);
        check("a=b=c", None);
        assert_eq!(FieldSelector::parse("spec.nodeName=n").expect("a selector").exact("spec.nodeName"), Some("n"));
    }
}
