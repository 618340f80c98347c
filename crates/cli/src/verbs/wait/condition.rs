//! What `wait --for` means, and whether an object is that way. Pure.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::jsonpath::{self, Template};

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// That it is there.
    Created,
    /// That it has gone.
    Deleted,
    /// That a condition of its status has a value, whatever the case of its letters.
    Named {
        /// The condition's type.
        name: String,
        /// The value.
        value: String,
    },
    /// That a path finds a value, or anything.
    Path {
        /// The path.
        path: Template,
        /// The value.
        value: Option<String>,
    },
}

/// Reads all of `--for`.
pub fn parse(texts: &[String]) -> Result<Vec<Condition>> {
    if texts.is_empty() {
        bail!("unrecognized condition: \"\"");
    }
    texts.iter().map(|text| one(text)).collect()
}

fn one(text: &str) -> Result<Condition> {
    match text.to_lowercase().as_str() {
        "create" => return Ok(Condition::Created),
        "delete" => return Ok(Condition::Deleted),
        _ => {}
    }
    if let Some(rest) = text.strip_prefix("condition=") {
        let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
        return Ok(Condition::Named { name: name.to_owned(), value: value.to_owned() });
    }
    let Some(rest) = text.strip_prefix("jsonpath=") else {
        bail!("unrecognized condition: {text:?}");
    };
    let parts = split(rest);
    let (path, value) = match parts.as_slice() {
        [path] => (path, None),
        [path, value] => match value.trim_matches(['\'', '"']) {
            "" => bail!(
                "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{{.status.readyReplicas}}'=3"
            ),
            value => (path, Some(value.to_owned())),
        },
        _ => bail!(
            "jsonpath wait format must be --for=jsonpath='{{.status.readyReplicas}}'=3 or --for=jsonpath='{{.status.readyReplicas}}'"
        ),
    };
    if path.is_empty() {
        bail!("jsonpath expression cannot be empty");
    }
    Ok(Condition::Path { path: Template::relaxed(path)?, value })
}

/// Splits at single equal signs; `==` belongs to a path.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = parts.len() - 1;
        if letter != '=' {
            parts[last].push(letter);
        } else if letters.next_if_eq(&'=').is_some() {
            parts[last].push_str("==");
        } else {
            parts.push(String::new());
        }
    }
    parts
}

impl Condition {
    /// Whether an object that is there is that way.
    pub fn met(&self, object: &Value) -> Result<bool> {
        match self {
            Condition::Created => Ok(true),
            Condition::Deleted => Ok(false),
            Condition::Named { name, value } => {
                let same = |left: &str, right: &str| left.to_lowercase() == right.to_lowercase();
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                let found = conditions
                    .into_iter()
                    .find(|it| it["type"].as_str().is_some_and(|kind| same(kind, name)) && it["status"].is_string());
                let Some(condition) = found else { return Ok(false) };
                // What was said about an older version of the object says nothing about this one.
                let seen = condition["observedGeneration"].as_i64().or(object["status"]["observedGeneration"].as_i64());
                if let (Some(seen), Some(generation)) = (seen, object["metadata"]["generation"].as_i64())
                    && seen < generation
                {
                    return Ok(false);
                }
                Ok(condition["status"].as_str().is_some_and(|status| same(status, value)))
            }
            Condition::Path { path, value } => {
                let found = path.find(object)?;
                match (found.as_slice(), value) {
                    ([], _) => Ok(false),
                    ([_], None) => Ok(true),
                    ([Value::Object(_) | Value::Array(_)], Some(_)) => {
                        bail!("jsonpath leads to a nested object or list which is not supported")
                    }
                    ([found], Some(value)) => Ok(jsonpath::shown(found).trim() == value.trim()),
                    _ => bail!("given jsonpath expression matches more than one value"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions() {
        let pod = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "count": 3, "list": [{"a": "x"}, {"a": "y"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]}});
        let check = |text: &str, expected: Result<bool, &str>| {
            let got = one(text).and_then(|condition| condition.met(&pod));
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{text}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{text}: {error}"),
                (got, expected) => panic!("{text}: {got:?} is not {expected:?}"),
            }
        };
        check("condition=ready", Ok(true));
        check("condition=Ready=FALSE", Ok(false));
        check("condition=Old", Ok(false));
        check("condition=None", Ok(false));
        check("jsonpath={.status.phase}=Running", Ok(true));
        check("jsonpath=.status.count=3", Ok(true));
        check("jsonpath={.status.none}", Ok(false));
        check("jsonpath={.status.list}", Ok(true));
        check("jsonpath={.status.list}=x", Err("nested object or list"));
        check("jsonpath={.status.list[*].a}=x", Err("more than one value"));
        check("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", Ok(true));
        check("jsonpath={.a}=", Err("has to have a value"));
        check("jsonpath={.a}=b=c", Err("format must be"));
        check("jsonpath=", Err("cannot be empty"));
        check("Delete", Ok(false));
        check("ready", Err("unrecognized condition: \"ready\""));
        assert_eq!(split("a.b.c====d===g.h=="), ["a.b.c====d==", "g.h=="]);
        assert!(parse(&[]).is_err());
    }
}
