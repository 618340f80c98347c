//! Nodes: taints by their conditions, and `Unknown` for nodes that no longer report.
//!
//! A node reports by renewing its Lease or by writing its status. What it reported last is timed by this process's own monotonic
//! clock, so that clocks of other machines and a suspended machine do not matter. How many of them get the taints that evict
//! their pods `zone_disruption` says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};
use crate::replica_set::seconds;
use crate::zone_disruption::{Pace, Turns, is_ready, pace, zone};

/// How long a node may be silent.
const GRACE: Duration = Duration::from_secs(50);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that taint a node while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions a node reports by itself.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// When each node was last heard of, and by which sign.
type Heard = Arc<Mutex<HashMap<Arc<str>, (Sign, Instant)>>>;
/// What changes whenever a node reports: the version of its Lease, the newest heartbeat in its status.
type Sign = (u64, Option<Timestamp>);

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let leases = Arc::<Store<Lease>>::default();
    let heard = Heard::default();
    enqueue_changes(&context.caches.nodes, &queue);
    let (nodes, wake) = (context.caches.nodes.clone(), queue.clone());
    context.caches.nodes.on_change(move |before, after| {
        // One that comes or goes says how it stands with the others, too.
        if before.map(|node| is_ready(node)) != after.map(|node| is_ready(node)) {
            nodes.all().iter().filter(|node| !is_ready(node)).for_each(|node| wake.add(node.key()));
        }
    });
    // A renewal is only timed. It starts no pass: those come when the silence would have become too long.
    let times = heard.clone();
    leases.on_change(move |_, after| {
        if let Some(lease) = after
            && let Some((sign, at)) = times.lock().get_mut(&lease.key().name)
        {
            (sign.0, *at) = (lease.revision(), Instant::now());
        }
    });
    let settings = watcher::Config::default().fields("metadata.namespace=kube-node-lease");
    context.follow_some::<Lease, _>("leases", settings, &leases);
    let nodes = context.caches.nodes.clone();
    let ready = async move { nodes.synced().await };
    let own = context.clone();
    let recorder = context.recorder.for_component("node-controller");
    let turns = Arc::new(Mutex::new(Turns::new(GRACE, Instant::now())));
    context.run_controller("node-lifecycle", queue, ready, move |key| {
        pass(own.clone(), leases.clone(), heard.clone(), turns.clone(), recorder.clone(), key)
    });
}

async fn pass(
    context: Arc<Context>,
    leases: Arc<Store<Lease>>,
    heard: Heard,
    turns: Arc<Mutex<Turns>>,
    recorder: Recorder,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let nodes = &context.caches.nodes;
    let Some(mut node) = nodes.get(&key) else {
        if heard.lock().remove(&key.name).is_some() {
            let about =
                ObjectReference { kind: Some("Node".into()), name: Some(key.name.to_string()), ..Default::default() };
            let message = format!("Node {0} event: Removing Node {0} from Controller", key.name);
            recorder.event(&about, Severity::Normal, "RemovingNode", message);
        }
        turns.lock().forget(&key.name);
        return Ok(None);
    };
    if !heard.lock().contains_key(&key.name) {
        let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
        recorder.event(&kube::Resource::object_ref(&*node, &()), Severity::Normal, "RegisteredNode", message);
    }
    let api = Api::<Node>::all(context.client.clone());
    let left =
        silence_left(&heard, &key, sign(&node, leases.get(&ObjectKey::new("kube-node-lease", &key.name)).as_deref()));
    let silent = left.is_zero();
    if silent && let Some(conditions) = unknown(&node, seconds(clock::now())) {
        let mut changed = (*node).clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => nodes.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("marking a silent node"),
        }
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        let about = kube::Resource::object_ref(&*node, &());
        recorder.event(&about, Severity::Normal, "NodeNotReady", message);
        let Some(newer) = nodes.get(&key) else { return Ok(None) };
        node = newer;
    }
    if silent {
        silence_pods(&context, &key).await?;
    }
    let (evicts, turn) = match eviction(&context, &node, &turns) {
        Ok(evicts) => (evicts, None),
        Err(left) => (false, Some(left)),
    };
    if let Some(taints) = taints(&node, evicts, seconds(clock::now())) {
        // Taints are written as a whole, so only onto the state they were computed from.
        let change = serde_json::json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await {
            Ok(written) => nodes.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the taints of a node"),
        }
    }
    // A silent node comes back by writing its status, which is an event.
    Ok((!silent).then_some(left).into_iter().chain(turn).min())
}

/// Whether a node that is not ready is to have the taint that evicts, or how long it is to wait for its turn.
fn eviction(context: &Context, node: &Node, turns: &Mutex<Turns>) -> Result<bool, Duration> {
    let name = node.key().name;
    if is_ready(node) {
        turns.lock().forget(&name);
        return Ok(false);
    }
    let zone = zone(node);
    let all = context.caches.nodes.all();
    let has_one = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(evicts);
    match pace(all.iter().map(|node| &**node), &zone) {
        Pace::Never => Ok(false),
        _ if has_one => Ok(true),
        Pace::Held => Ok(false),
        Pace::Every(time) => turns.lock().take(&name, zone, time, Instant::now()).map(|()| true),
    }
}

/// Whether a taint is one of those that evict the pods of a node that is not ready.
fn evicts(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
}

/// Nobody knows how the pods of a silent node are: they serve no more until it says so itself.
async fn silence_pods(context: &Context, key: &ObjectKey) -> Result<(), PassError> {
    let ready = context.caches.pods.all().into_iter();
    let ready = ready.filter(|pod| pod.node.as_deref() == Some(&*key.name) && pod.ready.is_some());
    for pod in ready {
        let now = Time(seconds(clock::now()));
        let change = serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": now}]}});
        let api = Api::<Pod>::namespaced(context.client.clone(), pod.namespace());
        match api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(&change)).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error).doing("marking a pod of a silent node"),
        }
    }
    Ok(())
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn sign(node: &Node, lease: Option<&Lease>) -> Sign {
    let heartbeat =
        conditions(node).iter().filter_map(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0).max();
    (lease.map_or(0, Cached::revision), heartbeat)
}

/// How much longer the node may be silent.
fn silence_left(heard: &Heard, key: &ObjectKey, sign: Sign) -> Duration {
    let (mut times, now) = (heard.lock(), Instant::now());
    let (known, at) = times.entry(key.name.clone()).or_insert((sign, now));
    if *known != sign {
        (*known, *at) = (sign, now);
    }
    GRACE.saturating_sub(now.duration_since(*at))
}

/// The conditions of a node that is silent; `None` when they say so already.
fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut all = conditions(node).to_vec();
    let mut changed = false;
    for name in REPORTED {
        match all.iter_mut().find(|condition| condition.type_ == name) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                changed = true;
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            None => {
                changed = true;
                all.push(NodeCondition {
                    type_: name.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
            }
        }
    }
    changed.then_some(all)
}

/// The taints the node is to have; `None` when it has them.
fn taints(node: &Node, evicting: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let state = |name: &str| {
        conditions(node).iter().find(|condition| condition.type_ == name).map(|condition| condition.status.as_str())
    };
    let spec = node.spec.clone().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = match state("Ready") {
        Some("True") => Vec::new(),
        Some("Unknown") => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some(_) => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        // It has not reported yet: what admission put on stays, nothing is evicted.
        None => vec![(NOT_READY, "NoSchedule")],
    };
    wanted.retain(|(_, effect)| evicting || *effect != "NoExecute");
    wanted
        .extend(PRESSURES.iter().filter(|(name, _)| state(name) == Some("True")).map(|(_, key)| (*key, "NoSchedule")));
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
                || PRESSURES.iter().any(|(_, key)| *key == taint.key)
        }
        "NoExecute" => evicts(taint),
        _ => false,
    };
    let present = spec.taints.unwrap_or_default();
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut result: Vec<Taint> = present
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|wanted| is(taint, *wanted)))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !result.iter().any(|taint| is(taint, (key, effect))) {
            let time_added = (effect == "NoExecute").then_some(Time(now));
            result.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    (result != present).then_some(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tainted_by_conditions() {
        let check = |ready: Option<&str>,
                     pressure: bool,
                     unschedulable: bool,
                     present: &[&str],
                     expected: Option<&[&str]>| {
            let mut conditions =
                vec![json!({"type": "MemoryPressure", "status": if pressure { "True" } else { "False" }})];
            conditions.extend(ready.map(|ready| json!({"type": "Ready", "status": ready})));
            let present: Vec<_> = present
                .iter()
                .map(|taint| {
                    let (key, effect) = taint.split_once(':').expect("key:effect");
                    json!({"key": if key == "own" { key.to_owned() } else { format!("node.kubernetes.io/{key}") }, "effect": effect})
                })
                .collect();
            let node = json!({"metadata": {}, "spec": {"taints": present, "unschedulable": unschedulable}, "status": {"conditions": conditions}});
            let node = serde_json::from_value(node).expect("a node");
            let found = taints(&node, true, Timestamp::UNIX_EPOCH).map(|taints| {
                let texts = taints
                    .iter()
                    .map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect));
                texts.collect::<Vec<_>>()
            });
            assert_eq!(found, expected.map(|all| all.iter().map(|text| (*text).to_owned()).collect()), "{ready:?}");
        };
        check(Some("True"), false, false, &["not-ready:NoSchedule", "own:NoExecute"], Some(&["own:NoExecute"]));
        check(Some("True"), false, false, &["own:NoSchedule"], None);
        check(None, false, false, &["not-ready:NoSchedule"], None);
        check(
            Some("False"),
            false,
            false,
            &["not-ready:NoSchedule"],
            Some(&["not-ready:NoSchedule", "not-ready:NoExecute"]),
        );
        check(
            Some("Unknown"),
            false,
            false,
            &["not-ready:NoExecute"],
            Some(&["unreachable:NoSchedule", "unreachable:NoExecute"]),
        );
        check(Some("True"), true, true, &[], Some(&["memory-pressure:NoSchedule", "unschedulable:NoSchedule"]));
    }

    #[test]
    fn nobody_is_evicted_in_a_disruption() {
        let node = json!({"metadata": {}, "spec": {"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": "own", "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        let node: Node = serde_json::from_value(node).expect("a node");
        let kept = taints(&node, false, Timestamp::UNIX_EPOCH).expect("a change");
        let kept: Vec<_> = kept.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
        assert_eq!(kept, [("own", "NoExecute"), (UNREACHABLE, "NoSchedule")]);
    }

    #[test]
    fn silent_nodes() {
        let node = json!({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let mut node: Node = serde_json::from_value(node).expect("a node");
        let found = unknown(&node, Timestamp::UNIX_EPOCH).expect("a change");
        assert_eq!(
            (found.len(), found[0].reason.as_deref(), found[1].reason.as_deref()),
            (4, Some("NodeStatusUnknown"), Some("NodeStatusNeverUpdated"))
        );
        node.status.get_or_insert_default().conditions = Some(found);
        assert_eq!(unknown(&node, Timestamp::UNIX_EPOCH), None);
    }
}
