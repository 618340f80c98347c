//! What holds for any objects and any manifests, with the merge of kobune's own API server in the server's place.

use jiff::Timestamp;
use kobune_kinds::{Catalogue, SchemaRef};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fields;
use crate::plan::explain::{Evidence, essence, explain};
use crate::plan::model::Why;
use crate::take_over;

fn schema() -> SchemaRef<'static> {
    let kind = Catalogue::builtin().by_kind("apps/v1", "Deployment").expect("a kind of Kubernetes").clone();
    // The schema is the catalogue's, which lives as long as the program.
    Box::leak(Box::new(kind)).schema()
}

/// Some fields of a Deployment: scalars, a map, a list that merges by one key, one by two, and one that is a single value.
fn manifest() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[ab]\\.io/x|[abc]", "[12]", 0..3);
    let env = proptest::collection::btree_map("[ABC]", "[12]", 0..3);
    let ports =
        proptest::collection::btree_set((prop_oneof![Just(53), Just(80)], prop_oneof![Just("TCP"), Just("UDP")]), 0..3);
    let container = (
        prop_oneof![Just("x:1"), Just("x:2")],
        env,
        ports,
        proptest::option::of(proptest::collection::vec("[ab]", 0..3)),
    );
    let containers = proptest::collection::btree_map("[pqr]", container, 0..3);
    (proptest::option::of(0_i64..3), labels, containers, proptest::option::of(any::<bool>())).prop_map(
        |(replicas, labels, containers, paused)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, env, ports, args))| {
                    let mut container = json!({"name": name, "image": image});
                    if !env.is_empty() {
                        container["env"] =
                            env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                    }
                    if !ports.is_empty() {
                        container["ports"] = ports
                            .iter()
                            .map(|(port, protocol)| json!({"containerPort": port, "protocol": protocol}))
                            .collect();
                    }
                    if let Some(args) = args {
                        container["args"] = args.into();
                    }
                    container
                })
                .collect();
            let mut object =
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w", "namespace": "n"}});
            let mut spec = Map::new();
            if let Some(replicas) = replicas {
                spec.insert("replicas".to_owned(), replicas.into());
            }
            if let Some(paused) = paused {
                spec.insert("paused".to_owned(), paused.into());
            }
            if !containers.is_empty() {
                spec.insert("template".to_owned(), json!({"spec": {"containers": containers}}));
            }
            if !labels.is_empty() {
                object["metadata"]["labels"] = json!(labels);
            }
            if !spec.is_empty() {
                object["spec"] = Value::Object(spec);
            }
            object
        },
    )
}

fn apply(live: Option<&Value>, manifest: &Value, manager: &str) -> Value {
    kobune_merge::apply(live, manifest, schema(), manager, true, None, Timestamp::UNIX_EPOCH)
        .expect("the manifest fits its schema")
}

/// An object that somebody else began and kobune went on with.
fn shared(first: &Value, second: &Value) -> Value {
    apply(Some(&apply(None, first, "other")), second, "kobune")
}

proptest! {
    #[test]
    fn after_applying_a_plan_is_empty(first in manifest(), second in manifest(), third in manifest()) {
        let live = apply(Some(&shared(&first, &second)), &third, "kobune");
        let result = apply(Some(&live), &third, "kobune");
        let evidence = Evidence { manifest: &third, live: &live, result: &result, manager: "kobune", taken_over: &[], conflicts: &[] };
        prop_assert_eq!(explain(&evidence), Vec::new());
        prop_assert_eq!(fields::applied_by(&live, "kobune"), fields::applied_by(&result, "kobune"));
    }

    #[test]
    fn every_change_is_told_and_has_its_reason(first in manifest(), second in manifest(), third in manifest()) {
        let live = shared(&first, &second);
        let result = apply(Some(&live), &third, "kobune");
        let evidence = Evidence { manifest: &third, live: &live, result: &result, manager: "kobune", taken_over: &[], conflicts: &[] };
        let changes = explain(&evidence);
        prop_assert_eq!(changes.is_empty(), essence(&live) == essence(&result));
        for change in &changes {
            // There are no defaults and nothing that changes by itself here: whatever comes or goes, somebody wanted.
            let fits = match change.why {
                Why::YouAddedIt => change.old.is_none() && change.new.is_some(),
                Why::YouChangedIt | Why::TakenOver => change.old.is_some(),
                Why::YouRemovedIt => change.new.is_none(),
                _ => false,
            };
            prop_assert!(fits, "{:?}", change);
        }
    }

    #[test]
    fn going_back_is_where_it_was(first in manifest(), second in manifest()) {
        let before = apply(None, &first, "kobune");
        let there = apply(Some(&before), &second, "kobune");
        prop_assert_eq!(essence(&apply(Some(&there), &first, "kobune")), essence(&before));
    }

    #[test]
    fn taking_over_is_foreseen(first in manifest(), second in manifest(), third in manifest()) {
        let from = vec!["other".to_owned()];
        let live = shared(&first, &second);
        // What really happens: the owners move, then the manifest is applied.
        let mut moved = live.clone();
        moved["metadata"]["managedFields"] = Value::Array(take_over::migrated(&live, "kobune", &from));
        let real = apply(Some(&moved), &third, "kobune");
        // What the plan foresees.
        let result = apply(Some(&live), &third, "kobune");
        let foreseen = take_over::without_left_behind(&live, &result, "kobune", &from);
        prop_assert_eq!(pruned(&essence(&foreseen)), pruned(&essence(&real)));
    }
}

/// Without empty lists and maps, which the server drops.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), pruned(value)))
            .filter(|(_, value)| {
                !matches!(value, Value::Object(fields) if fields.is_empty())
                    && !matches!(value, Value::Array(list) if list.is_empty())
            })
            .collect(),
        Value::Array(items) => items.iter().map(pruned).collect(),
        other => other.clone(),
    }
}
