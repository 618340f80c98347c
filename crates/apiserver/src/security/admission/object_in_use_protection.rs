//! StorageObjectInUseProtection: new claims and volumes get the finalizer that keeps them while they are used.
//!
//! Upstream: `plugin/pkg/admission/storage/storageobjectinuseprotection`.

use serde_json::{Value, json};

/// Adds the finalizer of this resource.
pub(super) fn admit(resource: &str, object: &mut Value) {
    let finalizer = match resource {
        "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
        "persistentvolumes" => "kubernetes.io/pv-protection",
        _ => return,
    };
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|known| known == finalizer) => {}
        Some(list) => list.push(json!(finalizer)),
        None => *finalizers = json!([finalizer]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_gets_its_finalizer_once() {
        let check = |resource: &str, before: Value, expected: Value| {
            let mut object = json!({"metadata": {"name": "x"}});
            if !before.is_null() {
                object["metadata"]["finalizers"] = before;
            }
            admit(resource, &mut object);
            assert_eq!(object["metadata"]["finalizers"], expected, "{resource}");
        };
        check("persistentvolumeclaims", Value::Null, json!(["kubernetes.io/pvc-protection"]));
        check("persistentvolumes", json!(["own/one"]), json!(["own/one", "kubernetes.io/pv-protection"]));
        check("persistentvolumes", json!(["kubernetes.io/pv-protection"]), json!(["kubernetes.io/pv-protection"]));
        check("pods", Value::Null, Value::Null);
    }
}
