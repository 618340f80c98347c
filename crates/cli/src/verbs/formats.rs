//! What `-o custom-columns` and `--sort-by` make of objects, as kubectl does (`k8s.io/kubectl/pkg/cmd/get/customcolumn.go`,
//! `sorter.go`). Pure.

use std::cmp::Ordering;
use std::str::FromStr as _;

use anyhow::{Result, bail};
use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use crate::jsonpath::Template;

/// Columns that somebody chose.
#[derive(Debug, Clone)]
pub struct Columns(Vec<(String, Template)>);

impl Columns {
    /// Reads `NAME:.metadata.name,AGE:.metadata.creationTimestamp`.
    pub fn parse(text: &str) -> Result<Columns> {
        if text.is_empty() {
            bail!("custom-columns format specified but no custom columns given");
        }
        let mut columns = Vec::new();
        for part in text.split(',') {
            let Some((heading, path)) = part.split_once(':') else {
                bail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>");
            };
            columns.push((heading.to_owned(), Template::relaxed(path)?));
        }
        Ok(Columns(columns))
    }

    /// Reads a file whose first line has the headings and whose second line has the paths.
    pub fn from_template(text: &str) -> Result<Columns> {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (headings, paths) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if headings.is_empty() || headings.len() != paths.len() {
            bail!("number of headers ({}) and field specifications ({}) don't match", headings.len(), paths.len());
        }
        let pairs = headings.into_iter().zip(paths);
        Ok(Columns(
            pairs.map(|(heading, path)| Ok((heading.to_owned(), Template::relaxed(path)?))).collect::<Result<_>>()?,
        ))
    }

    /// The headings.
    pub fn headings(&self) -> Vec<String> {
        self.0.iter().map(|(heading, _)| heading.clone()).collect()
    }

    /// The cells of an object.
    pub fn row(&self, object: &Value) -> Result<Vec<String>> {
        let cell = |template: &Template| -> Result<String> {
            let found: Vec<String> = template.find(object)?.into_iter().map(as_go).collect();
            Ok(if found.is_empty() { "<none>".to_owned() } else { found.join(",") })
        };
        self.0.iter().map(|(_, template)| cell(template)).collect()
    }
}

/// A value as Go's `%v` prints it.
fn as_go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(as_go).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{}", as_go(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// Sorts by what a path finds; objects without it come first. It is a mistake when none has it.
pub fn sort<T>(items: &mut Vec<T>, path: &str, object: impl Fn(&T) -> &Value) -> Result<()> {
    let template = Template::relaxed(path)?;
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        let key = template.find(object(&item))?.first().map(|value| (*value).clone());
        keyed.push((key, item));
    }
    if !keyed.is_empty() && keyed.iter().all(|(key, _)| key.is_none()) {
        bail!("couldn't find any field with path {:?} in the list of objects", format!("{{{path}}}"));
    }
    keyed.sort_by(|(one, _), (other, _)| match (one, other) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(one), Some(other)) => compare(one, other),
    });
    items.extend(keyed.into_iter().map(|(_, item)| item));
    Ok(())
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::String(one), Value::String(other)) => match (Quantity::from_str(one), Quantity::from_str(other)) {
            (Ok(one), Ok(other)) => one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal),
            _ => one.cmp(other),
        },
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chosen_columns() {
        let columns = Columns::parse("NAME:.metadata.name,L:.metadata.labels,P:{.ports[*]},X:x").unwrap();
        assert_eq!(columns.headings(), ["NAME", "L", "P", "X"]);
        let object = json!({"metadata": {"name": "a", "labels": {"b": "c", "d": [1, null]}}, "ports": [1, 2]});
        assert_eq!(columns.row(&object).unwrap(), ["a", "map[b:c d:[1 <nil>]]", "1,2", "<none>"]);
        assert!(Columns::parse("NAME").is_err() && Columns::parse("").is_err());
        let columns = Columns::from_template("NAME  KIND\n.metadata.name  .kind\n").unwrap();
        assert_eq!(columns.row(&object).unwrap(), ["a", "<none>"]);
    }

    #[test]
    fn orders() {
        let check = |values: Value, expected: Value| {
            let mut items: Vec<Value> = values.as_array().unwrap().iter().map(|value| json!({"a": value})).collect();
            items.push(json!({}));
            sort(&mut items, ".a", |item| item).unwrap();
            let got: Vec<Value> = items.iter().skip(1).map(|item| item["a"].clone()).collect();
            assert!(items[0].get("a").is_none());
            assert_eq!(Value::from(got), expected);
        };
        check(json!(["a2", "a10", "a1"]), json!(["a1", "a10", "a2"]));
        check(json!([10, 9.5, -1]), json!([-1, 9.5, 10]));
        check(json!(["1Gi", "500Mi", "2"]), json!(["2", "500Mi", "1Gi"]));
        check(
            json!(["2026-01-02T00:00:00Z", "2025-12-31T00:00:00Z"]),
            json!(["2025-12-31T00:00:00Z", "2026-01-02T00:00:00Z"]),
        );
        assert!(sort(&mut vec![json!({})], ".a", |item| item).is_err());
    }
}
