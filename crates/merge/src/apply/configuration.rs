//! Merging a configuration without owners: what a mutating admission policy does to an object.

use kobune_kinds::SchemaRef;
use serde_json::Value;

use super::{merge, typed};
use crate::error::ApplyError;
use crate::structure::{Form, Lens};

/// The object with the configuration's fields in it. Nobody comes to own them.
///
/// A configuration may not name lists, maps or structs that only change as a whole: who means to add to one would
/// replace it.
pub fn merge_configuration(object: &Value, configuration: &Value, schema: SchemaRef<'_>) -> Result<Value, ApplyError> {
    let lens = Lens::new(Some(schema));
    typed::check(configuration, schema)?;
    let mut atomic = Vec::new();
    find_atomic(configuration, lens, "", &mut atomic);
    if !atomic.is_empty() {
        return Err(ApplyError::Atomic { paths: atomic });
    }
    Ok(merge::merge(Some(object), configuration, lens))
}

/// The places of lists and objects that do not divide.
fn find_atomic(value: &Value, lens: Lens<'_>, path: &str, found: &mut Vec<String>) {
    if matches!(value, Value::Object(_) | Value::Array(_)) && lens.form(value) == Form::Leaf {
        found.push(path.to_owned());
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                find_atomic(value, lens.child(name), &format!("{path}.{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_atomic(item, lens.item(), &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use kobune_kinds::schema::Types;
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations_merge_by_keys_and_leave_atomic_parts_alone() {
        let schema = Types::builtin().named("io.k8s.api.core.v1.Pod").expect("pods are built in");
        let pod = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "x"}], "tolerations": [{"key": "k"}]},
        });
        let check = |configuration: Value, expected: Result<Value, &str>| {
            let found = merge_configuration(&pod, &configuration, schema).map_err(|error| error.to_string());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{configuration} gives {found:?}"),
            }
        };
        check(
            json!({"metadata": {"labels": {"c": "d"}}, "spec": {"containers": [{"name": "s"}, {"name": "a", "tty": true}]}}),
            Ok(json!({
                "metadata": {"labels": {"a": "b", "c": "d"}},
                "spec": {"containers": [{"name": "s"}, {"name": "a", "image": "x", "tty": true}], "tolerations": [{"key": "k"}]},
            })),
        );
        check(
            json!({"spec": {"tolerations": []}}),
            Err("may not mutate atomic arrays, maps or structs: .spec.tolerations"),
        );
        let schema =
            Types::builtin().named("io.k8s.api.core.v1.ServiceAccount").expect("service accounts are built in");
        let found = merge_configuration(&json!({}), &json!({"secrets": [{"kind": "x"}]}), schema);
        assert!(found.expect_err("no name").to_string().contains("omits all key fields [\"name\"]"));
    }
}
