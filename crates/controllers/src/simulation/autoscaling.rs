//! An autoscaler whose metrics, target and process come and go: it stays within its bounds and ends where its load wants it.

use std::collections::HashMap;

use http::Method;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::machines::{Habits, change, delete};
use super::objects::{Objects, Write, Writer, active, deleting, number, ready, text};
use super::server::{Faults, make};
use super::{Scenario, TROUBLE, die_at_each_step, simulate};
use crate::replica_set::seconds;
use crate::{clock, deployment, horizontal_pod_autoscaler, replica_set};

/// The bounds of the autoscaler.
const BOUNDS: (i64, i64) = (2, 8);
/// Bytes that each pod asks for, and the percentage of them that it should use.
const ASKED: i64 = 100_000_000;
const TARGET: i64 = 50;
const DEPLOYMENTS: &str = "apps/deployments";

/// Whether a path is one of the resource metrics.
pub fn is_metrics(path: &str) -> bool {
    path.starts_with("/apis/metrics.k8s.io/")
}

/// Whether a request is one that an autoscaler makes each time that it looks, whatever has changed.
pub fn asks(method: &Method, path: &str, query: &HashMap<String, String>) -> bool {
    let pods = path.ends_with("/pods") && query.contains_key("labelSelector");
    method == Method::GET && (is_metrics(path) || path.ends_with("/scale") || pods)
}

/// What pods use: all of them together what ConfigMap `load` says, each as much as the others.
pub fn metrics(objects: &Objects) -> Value {
    let total: i64 = objects.named("core/configmaps", "load").map_or(0, load);
    let pods: Vec<_> = objects.all("core/pods").filter(|pod| active(pod) && ready(pod)).collect();
    let share = total / i64::try_from(pods.len().max(1)).unwrap_or(i64::MAX);
    let item = |pod: &Value| {
        json!({"metadata": {"name": text(pod, "/metadata/name")}, "timestamp": seconds(clock::now()).to_string(), "window": "15s",
            "containers": [{"name": "c", "usage": {"memory": share.to_string()}}]})
    };
    json!({"kind": "PodMetricsList", "items": pods.into_iter().map(|pod| item(pod)).collect::<Vec<_>>()})
}

/// How discovery shows that Deployments have a scale.
pub fn scale_of_deployments() -> Value {
    json!({"name": "deployments/scale", "kind": "Scale", "group": "autoscaling", "version": "v1", "singularName": "",
        "namespaced": true, "verbs": ["get", "update"]})
}

/// The scale of a Deployment.
pub fn scale(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        metadata[field] = object["metadata"][field].clone();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(object, "/spec/replicas")},
        "status": {"replicas": number(object, "/status/replicas"), "selector": "app=web"}})
}

/// A Deployment with what was written to its scale.
pub fn scaled(old: &Value, sent: &Value) -> Value {
    let mut new = old.clone();
    new["metadata"]["resourceVersion"] = sent["metadata"]["resourceVersion"].clone();
    new["spec"]["replicas"] = sent["spec"]["replicas"].clone();
    new
}

fn load(object: &std::sync::Arc<Value>) -> i64 {
    text(object, "/data/bytes").parse().expect("a number")
}

fn set_up(objects: &mut Objects, _: &mut SmallRng) {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"memory": ASKED.to_string()}}});
    make(
        objects,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}}}),
    );
    let metric = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "Utilization", "averageUtilization": TARGET}}});
    make(
        objects,
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": BOUNDS.0, "maxReplicas": BOUNDS.1, "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}}),
    );
    let data = json!({"bytes": (ASKED * 2).to_string()});
    make(objects, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}, "data": data}));
}

fn disturb(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..4) {
        0 | 1 => {
            let map = objects.named("core/configmaps", "load").cloned().expect("it is there");
            let bytes = random.random_range(0..ASKED * 6);
            change(objects, &map, None, |map| map["data"]["bytes"] = bytes.to_string().into());
        }
        2 => {
            // Somebody who does not know of the autoscaler, out of its bounds too. None at all would turn it off.
            let web = objects.named(DEPLOYMENTS, "web").cloned().expect("it is there");
            let replicas = random.random_range(1..BOUNDS.1 + 3);
            change(objects, &web, None, |web| web["spec"]["replicas"] = replicas.into());
        }
        _ => {
            let pods: Vec<_> = objects.all("core/pods").filter(|pod| !deleting(pod)).cloned().collect();
            if let Some(pod) = pods.choose(random) {
                delete(objects, pod, "", None);
            }
        }
    }
}

/// What the autoscaler writes is within its bounds, and no more than four or as many again at once.
fn within_bounds(_: &Objects, write: &Write) -> Result<(), String> {
    let Some(before) = write.before.as_ref().filter(|_| write.writer == Writer::Controller) else { return Ok(()) };
    let [from, to] = [before, &write.object].map(|object| number(object, "/spec/replicas"));
    if &*write.collection != DEPLOYMENTS || from == to {
        return Ok(());
    }
    let inside = (BOUNDS.0..=BOUNDS.1).contains(&to);
    if inside && to <= (from + 4).max(from * 2) { Ok(()) } else { Err(format!("from {from} to {to} replicas")) }
}

/// The load is shared as it should be, a little more or less, or a bound is reached.
fn as_the_load_wants(objects: &Objects) -> Result<(), String> {
    let web = objects.named(DEPLOYMENTS, "web").ok_or("the deployment is gone")?;
    let replicas = number(web, "/spec/replicas");
    let bytes = objects.named("core/configmaps", "load").map_or(0, load);
    let ratio = bytes as f64 * 100.0 / (replicas * ASKED * TARGET) as f64;
    let fewer = (replicas as f64 * ratio + 0.05).ceil() as i64;
    let autoscaler = objects.named("autoscaling/horizontalpodautoscalers", "web").ok_or("the autoscaler is gone")?;
    let told = (number(autoscaler, "/status/currentReplicas"), number(autoscaler, "/status/desiredReplicas"));
    if told != (replicas, replicas) {
        return Err(format!("the status says {told:?} of {replicas} replicas"));
    }
    if (ratio > 1.15 && replicas < BOUNDS.1) || (ratio < 0.85 && fewer < replicas && replicas > BOUNDS.0) {
        return Err(format!("{replicas} replicas use {ratio:.2} of what each should"));
    }
    Ok(())
}

#[test]
fn an_autoscaler_follows_its_load() {
    let scenario = Scenario {
        start: &[horizontal_pod_autoscaler::start, deployment::start, replica_set::start],
        shown: &[DEPLOYMENTS],
        faults: Faults { lost: 20, ..TROUBLE },
        habits: Habits { crash: 20, waver: 20, fail: 0 },
        setup: set_up,
        disturb,
        last: |_| (),
        always: within_bounds,
        finally: as_the_load_wants,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 15);
}
