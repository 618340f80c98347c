//! Policies and bindings as they are stored, read once a change.

use std::collections::HashMap;

use kobune_store::Record;
use serde_json::Value;

use super::criteria::Criteria;

/// A stored policy.
#[derive(Debug)]
pub(crate) struct Source {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) spec: Value,
    /// What the policy is about; `None` when it does not say, which is a mistake.
    pub(super) criteria: Option<Criteria>,
}

/// A stored binding.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) spec: Value,
    /// To what of the policy's requests the binding is limited.
    pub(super) criteria: Option<Criteria>,
}

/// All bindings by the name of their policy.
pub(super) type Bindings = HashMap<String, Vec<Binding>>;

fn objects(records: &[Record]) -> impl Iterator<Item = Value> {
    records.iter().filter_map(|record| match serde_json::from_slice::<Value>(&record.value) {
        Ok(object) => Some(object),
        // The store holds what this server encoded; what is damaged all the same cannot be followed.
        Err(error) => {
            tracing::error!(key = %record.key, %error, "a stored policy is unreadable");
            None
        }
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All policies in the order of their names.
pub(super) fn read(records: &[Record]) -> Vec<Source> {
    objects(records)
        .map(|mut policy| {
            let spec = policy["spec"].take();
            let metadata = &policy["metadata"];
            Source {
                name: text(&metadata["name"]),
                uid: text(&metadata["uid"]),
                generation: metadata["generation"].as_i64().unwrap_or_default(),
                criteria: spec.get("matchConstraints").map(Criteria::from_object),
                spec,
            }
        })
        .collect()
}

/// All bindings.
pub(super) fn read_bindings(records: &[Record]) -> Bindings {
    let mut bindings = Bindings::new();
    for mut binding in objects(records) {
        let spec = binding["spec"].take();
        let name = text(&binding["metadata"]["name"]);
        let criteria = spec.get("matchResources").map(Criteria::from_object);
        bindings.entry(text(&spec["policyName"])).or_default().push(Binding { name, spec, criteria });
    }
    bindings
}
