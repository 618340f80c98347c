//! The scheduler and the nodes of a simulation: what happens to pods, in an order that a seed says.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::objects::{Deletion, Objects, Writer, deleting, ended, ready, text};
use crate::clock;
use crate::replica_set::seconds;

/// How pods fare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Pods that end by themselves end badly one in so many times; 0 for never.
    pub fail: u32,
    /// Pods that serve become unready one in so many times.
    pub waver: u32,
    /// Pods that serve are lost with their node one in so many times.
    pub crash: u32,
}

/// Changes an object as the world does, without rules.
pub fn change(objects: &mut Objects, object: &Value, subresource: Option<&str>, edit: impl FnOnce(&mut Value)) {
    let kind = super::objects::kind_of(object);
    let place = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let changed = objects.update(&kind, Writer::World, place, subresource, |old| {
        let mut new = old.clone();
        edit(&mut new);
        Ok(new)
    });
    changed.map(drop).unwrap_or_else(|(_, error)| panic!("the world may do this: {error}"));
}

/// Deletes an object as a person does.
pub fn delete(objects: &mut Objects, object: &Value, propagation: &str, grace: Option<i64>) {
    let kind = super::objects::kind_of(object);
    let place = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let how = Deletion { propagation: propagation.to_owned(), grace, ..Deletion::default() };
    objects
        .delete(&kind, Writer::World, place, &how)
        .map(drop)
        .unwrap_or_else(|(_, error)| panic!("it is there: {error}"));
}

fn conditions(ready: bool) -> Value {
    let now = seconds(clock::now()).to_string();
    let truth = if ready { "True" } else { "False" };
    json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
        {"type": "Ready", "status": truth, "lastTransitionTime": now}])
}

fn end(objects: &mut Objects, pod: &Value, phase: &str) {
    let now = seconds(clock::now()).to_string();
    change(objects, pod, Some("status"), |pod| {
        pod["status"]["phase"] = phase.into();
        pod["status"]["conditions"] = conditions(false);
        let name = pod["spec"]["containers"][0]["name"].clone();
        pod["status"]["containerStatuses"] = json!([{"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": i32::from(phase == "Failed"), "finishedAt": now, "startedAt": now}}}]);
    });
}

/// The node that a pod's affinity names.
fn target(pod: &Value) -> Option<&str> {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
    pod.pointer(&format!("{terms}/matchFields/0/values/0")).and_then(Value::as_str)
}

/// One thing that may happen to a pod next; nothing for one that stays as it is.
pub fn step(objects: &mut Objects, pod: &Arc<Value>, habits: Habits, random: &mut SmallRng) {
    let mut chance = |odds: u32| odds > 0 && random.random_ratio(1, odds);
    let runs_on = text(pod, "/spec/restartPolicy") == "Always";
    if deleting(pod) {
        if ended(pod) || text(pod, "/spec/nodeName").is_empty() {
            if pod["metadata"]["deletionGracePeriodSeconds"] != 0 {
                delete(objects, pod, "", Some(0));
            }
        } else {
            let phase = if runs_on || chance(2) { "Failed" } else { "Succeeded" };
            end(objects, pod, phase);
        }
    } else if ended(pod) {
        // It lies there until somebody takes it.
    } else if text(pod, "/spec/nodeName").is_empty() {
        let nodes: Vec<String> =
            objects.all("core/nodes").map(|node| text(node, "/metadata/name").to_owned()).collect();
        let wanted = target(pod).map(str::to_owned);
        let chosen = match &wanted {
            Some(wanted) => nodes.iter().find(|node| *node == wanted),
            None => nodes.choose(random),
        };
        if let Some(node) = chosen {
            let kind = super::objects::kind_of(pod);
            let place = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
            objects.bind(&kind, place, node);
        }
    } else if text(pod, "/status/phase") != "Running" || (runs_on && !ready(pod)) {
        let last: u32 = text(pod, "/metadata/uid").rsplit('-').next().and_then(|end| end.parse().ok()).unwrap_or(0);
        let address = format!("10.0.{}.{}", last / 250 % 250, last % 250 + 1);
        change(objects, pod, Some("status"), |pod| {
            pod["status"]["phase"] = "Running".into();
            pod["status"]["podIP"] = address.clone().into();
            pod["status"]["podIPs"] = json!([{"ip": address}]);
            pod["status"]["conditions"] = conditions(true);
        });
    } else if !runs_on {
        let phase = if chance(habits.fail) { "Failed" } else { "Succeeded" };
        end(objects, pod, phase);
    } else if chance(habits.waver) {
        change(objects, pod, Some("status"), |pod| pod["status"]["conditions"] = conditions(false));
    } else if chance(habits.crash) {
        end(objects, pod, "Failed");
    }
}
