//! Whether a configuration fits its type: every mistake with its place, in upstream's words.
//!
//! Source: `typed/validate.go` of structured-merge-diff. Quantities and times are scalars of any kind there: what cannot be
//! read as one is found when the merged object gets its shape.

use std::collections::BTreeSet;

use kobune_kinds::{SchemaRef, Shape};
use serde_json::Value;

use crate::element;
use crate::error::ApplyError;
use crate::structure::{Form, Lens};

/// No more mistakes than these are told.
const MOST: usize = 100;

/// What does not fit the type in a configuration: values of wrong types, fields that the schema of a built-in kind does
/// not name, and items that cannot be told apart. Each begins with its place, `.spec: expected map, got &{1}`.
pub fn mistakes(configuration: &Value, schema: SchemaRef<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    walk(configuration, Lens::new(Some(schema)), &mut String::new(), &mut problems);
    problems
}

pub(super) fn check(configuration: &Value, schema: SchemaRef<'_>) -> Result<(), ApplyError> {
    let problems = mistakes(configuration, schema);
    if problems.is_empty() { Ok(()) } else { Err(ApplyError::Untyped { problems }) }
}

fn walk(value: &Value, lens: Lens<'_>, path: &mut String, problems: &mut Vec<String>) {
    if value.is_null() || problems.len() >= MOST {
        return;
    }
    let mut wrong = |expected: &str, got: String| problems.push(format!("{path}: expected {expected}, got {got}"));
    match (lens.shape(), value) {
        (Shape::Object | Shape::Map, Value::Object(fields)) => {
            let length = path.len();
            for (name, value) in fields {
                element::show(&element::field(name), path);
                match lens.place(name) {
                    Some(below) => walk(value, below, path, problems),
                    None => problems.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        (Shape::Object | Shape::Map, _) => wrong("map", format!("&{{{}}}", printed(value))),
        (Shape::List, Value::Array(items)) => walk_items(items, value, lens, path, problems),
        (Shape::List, _) => wrong("list", format!("&{{{}}}", printed(value))),
        (Shape::String | Shape::Bytes, Value::String(_))
        | (Shape::Boolean, Value::Bool(_))
        | (Shape::Integer | Shape::Long | Shape::Number, Value::Number(_)) => {}
        (Shape::String | Shape::Bytes, _) => {
            wrong("string", format!("&value.valueUnstructured{{Value:{}}}", in_go(value)));
        }
        (Shape::Boolean, _) => wrong("boolean", format!("&{{{}}}", printed(value))),
        (Shape::Integer | Shape::Long | Shape::Number, _) => wrong("numeric (int or float)", go_type(value).to_owned()),
        (Shape::Quantity | Shape::Time | Shape::MicroTime | Shape::IntOrString, Value::Object(_) | Value::Array(_)) => {
            wrong("any scalar", format!("&{{{}}}", printed(value)));
        }
        _ => {}
    }
}

fn walk_items(items: &[Value], list: &Value, lens: Lens<'_>, path: &mut String, problems: &mut Vec<String>) {
    let form = lens.form(list);
    let length = path.len();
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        if matches!(form, Form::Keyed | Form::Set) {
            let Some(element) = lens.element(form, item) else {
                problems.push(format!("{path}: element {index}: {}", why_no_element(item, form, lens)));
                return;
            };
            let mut shown = String::new();
            element::show(&element, &mut shown);
            if !seen.insert(element) {
                problems.push(format!("{path}: duplicate entries for key {shown}"));
            }
            path.push_str(&shown);
        } else {
            path.push_str(&format!("[{index}]"));
        }
        walk(item, lens.item(), path, problems);
        path.truncate(length);
    }
}

fn why_no_element(item: &Value, form: Form, lens: Lens<'_>) -> String {
    match (form, item) {
        (Form::Set, Value::Object(_)) => "associative list without keys has an element that's a map type".to_owned(),
        (Form::Set, Value::Array(_)) => "not supported: associative list with lists as elements".to_owned(),
        (Form::Set, _) => "associative list without keys has an element that's an explicit null".to_owned(),
        (_, Value::Null) => "associative list with keys may not have a null element".to_owned(),
        (_, Value::Object(_)) => {
            let keys: Vec<String> = lens.keys().iter().map(|key| format!("{key:?}")).collect();
            format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                keys.join(" ")
            )
        }
        _ => "associative list with keys may not have non-map elements".to_owned(),
    }
}

/// A value as Go's `%v` prints it, such as `map[a:1 b:[x <nil>]]`.
pub fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{}", printed(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

/// A value as Go's `%#v` prints it.
fn in_go(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(in_go).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{}", in_go(value))).collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// The Go type of a value that was read from JSON.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use kobune_kinds::schema::Types;
    use serde_json::json;

    use super::*;

    #[test]
    fn mistakes_have_their_places() {
        let check = |spec: Value, expected: &str| {
            let schema = Types::builtin().named("io.k8s.api.core.v1.Pod").expect("pods are built in");
            let found = check(&json!({"spec": spec}), schema);
            assert_eq!(found.err().map(|error| error.to_string()).unwrap_or_default(), expected, "{spec}");
        };
        let container = |with: Value| {
            let mut container = json!({"name": "a"});
            if let (Value::Object(all), Value::Object(with)) = (&mut container, with) {
                all.extend(with);
            }
            json!({"containers": [container]})
        };
        check(json!(1), ".spec: expected map, got &{1}");
        check(json!(null), "");
        check(json!({"containers": "x"}), ".spec.containers: expected list, got &{x}");
        check(json!({"containers": {"a": [1, null]}}), ".spec.containers: expected list, got &{map[a:[1 <nil>]]}");
        check(
            json!({"containers": ["x"]}),
            ".spec.containers: element 0: associative list with keys may not have non-map elements",
        );
        check(
            json!({"containers": [null]}),
            ".spec.containers: element 0: associative list with keys may not have a null element",
        );
        check(
            json!({"containers": [{"name": 1}]}),
            ".spec.containers[name=1].name: expected string, got &value.valueUnstructured{Value:1}",
        );
        check(
            container(json!({"ports": [{"containerPort": "80"}]})),
            ".spec.containers[name=\"a\"].ports[containerPort=\"80\",protocol=\"TCP\"].containerPort: expected numeric \
             (int or float), got string",
        );
        check(json!({"hostNetwork": "true"}), ".spec.hostNetwork: expected boolean, got &{true}");
        check(
            json!({"nodeSelector": {"a": {"b": 1}}}),
            ".spec.nodeSelector.a: expected string, got &value.valueUnstructured{Value:map[string]interface {}{\"b\":1}}",
        );
        check(container(json!({"command": [1]})), {
            ".spec.containers[name=\"a\"].command[0]: expected string, got &value.valueUnstructured{Value:1}"
        });
        check(
            container(json!({"livenessProbe": {"httpGet": {"port": {}}}})),
            ".spec.containers[name=\"a\"].livenessProbe.httpGet.port: expected any scalar, got &{map[]}",
        );
        check(json!({"tolerations": [{"x": 1}]}), ".spec.tolerations[0].x: field not declared in schema");
        check(
            json!({"containers": [{"name": "a"}, {"name": "a"}]}),
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        );
        check(
            json!({"activeDeadlineSeconds": "5", "containers": "x"}),
            "errors:\n  .spec.activeDeadlineSeconds: expected numeric (int or float), got string\n  .spec.containers: \
             expected list, got &{x}",
        );
    }
}
