//! A namespace that is deleted while things are made in it: its pods go first, nothing stays behind, and nothing goes too early.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::machines::{Habits, change, delete};
use super::objects::{Objects, Write, Writer, deleting, has_finalizer, text};
use super::server::{Faults, make};
use super::{Scenario, TROUBLE, die_at_each_step, simulate};
use crate::{deployment, garbage_collector, namespace, replica_set};

const NAMESPACE: &str = "default";
const NAMESPACES: &str = "core/namespaces";
const MAPS: &str = "core/configmaps";
/// A finalizer of somebody who takes his time.
const SLOW: &str = "example.com/slow";

/// How many objects the namespace has.
fn content(objects: &Objects) -> Vec<String> {
    let inside = objects.everything().filter(|(place, _)| place.1 == NAMESPACE);
    inside.map(|(place, _)| format!("{} {}", place.0, place.2)).collect()
}

fn is_open(objects: &Objects) -> bool {
    objects.named(NAMESPACES, NAMESPACE).is_some_and(|namespace| !deleting(namespace))
}

fn let_go(objects: &mut Objects, map: &Value) {
    change(objects, map, None, |map| map["metadata"]["finalizers"] = json!([]));
}

fn disturb(objects: &mut Objects, random: &mut SmallRng) {
    let held: Vec<_> = objects.all(MAPS).filter(|map| has_finalizer(map, SLOW)).cloned().collect();
    match random.random_range(0..6) {
        0 if is_open(objects) => {
            let namespace = objects.named(NAMESPACES, NAMESPACE).cloned().expect("it is there");
            delete(objects, &namespace, "", None);
        }
        1 | 2 => {
            if let Some(map) = held.choose(random) {
                let_go(objects, map);
            }
        }
        _ if is_open(objects) => {
            let finalizers = if random.random_ratio(1, 2) { json!([SLOW]) } else { json!([]) };
            let metadata = json!({"generateName": "m-", "finalizers": finalizers});
            make(objects, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}));
        }
        _ => {}
    }
}

/// What pods may need goes after them, and the namespace after everything.
fn in_order(objects: &Objects, write: &Write) -> Result<(), String> {
    let pods = objects.all("core/pods").count();
    if &*write.collection == MAPS && write.writer == Writer::Controller && write.condemned().is_some() && pods > 0 {
        return Err(format!("{} goes while {pods} pods are there", text(&write.object, "/metadata/name")));
    }
    let left = content(objects);
    if &*write.collection == NAMESPACES && write.after.is_none() && !left.is_empty() {
        return Err(format!("the namespace goes before {left:?}"));
    }
    Ok(())
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    let scenario = Scenario {
        start: &[namespace::start, garbage_collector::start, deployment::start, replica_set::start],
        shown: &[MAPS, "core/pods", "apps/deployments", "apps/replicasets"],
        faults: Faults { lost: 15, ..TROUBLE },
        habits: Habits { crash: 20, waver: 20, fail: 0 },
        setup: |objects, _| {
            make(objects, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
            let template =
                json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
            make(
                objects,
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}}),
            );
        },
        disturb,
        last: |objects| {
            if let Some(namespace) = objects.named(NAMESPACES, NAMESPACE).filter(|one| !deleting(one)).cloned() {
                delete(objects, &namespace, "", None);
            }
            let held: Vec<_> = objects.all(MAPS).filter(|map| has_finalizer(map, SLOW)).cloned().collect();
            held.iter().for_each(|map| let_go(objects, map));
        },
        always: in_order,
        finally: |objects| {
            let left = content(objects);
            if objects.named(NAMESPACES, NAMESPACE).is_some() || !left.is_empty() {
                return Err(format!("the namespace is there, with {left:?}"));
            }
            Ok(())
        },
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 25);
}
