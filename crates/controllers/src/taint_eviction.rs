//! Evicts pods from nodes with `NoExecute` taints: at once those that do not tolerate them, later those that tolerate them
//! for a while.
//!
//! ```text
//!                  ┌─ no taint, or tolerated for ever ──> stays
//!   pod on a node ─┼─ tolerated for some seconds ──> stays until the first of them is over, counted from when it began
//!                  └─ not tolerated ──> condition DisruptionTarget, deleted
//! ```
//!
//! Time is this process's own monotonic clock. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/tainteviction/taint_eviction.go>.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod as ApiPod, Taint, Toleration};
use kobune_scheduler::node_match::tolerates;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::api::{Api, DeleteParams, Preconditions};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::pod_control::disrupt;
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// What a taint is told apart by, and when it was first seen on the pod's node.
type Seen = Vec<((String, Option<String>), Instant)>;
/// The pods that wait to be evicted: their uid, and since when each taint counts.
type Waiting = Arc<Mutex<HashMap<ObjectKey, (Box<str>, Seen)>>>;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    let waiting = Waiting::default();
    let (nodes, wake, waits) = (caches.nodes.clone(), queue.clone(), waiting.clone());
    caches.pods.on_change(move |before, after| {
        let Some(pod) = after.or(before) else { return };
        let tainted = || {
            let node = pod.node.as_deref().and_then(|node| nodes.get(&ObjectKey::new("", node)));
            node.is_some_and(|node| !evicting(&node).is_empty())
        };
        if waits.lock().contains_key(&pod.key()) || (after.is_some() && tainted()) {
            wake.add(pod.key());
        }
    });
    let (pods, wake) = (caches.pods.clone(), queue.clone());
    caches.nodes.on_change(move |before, after| {
        let taints = |node: Option<&Arc<Node>>| node.map(|node| evicting(node)).unwrap_or_default();
        let Some(node) = after.or(before).filter(|_| taints(before) != taints(after)) else { return };
        let name = node.key().name;
        pods.all().iter().filter(|pod| pod.node.as_deref() == Some(&*name)).for_each(|pod| wake.add(pod.key()));
    });
    let (pods, nodes) = (caches.pods.clone(), caches.nodes.clone());
    let ready = async move {
        pods.synced().await;
        nodes.synced().await;
    };
    let recorder = context.recorder.for_component("taint-eviction-controller");
    let own = context.clone();
    context.run_controller("taint-eviction", queue, ready, move |key| {
        pass(own.clone(), recorder.clone(), waiting.clone(), key)
    });
}

/// The taints of a node that evict.
fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// How long a pod may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As long as it likes.
    Stays,
    /// For this long; nothing left means that it goes now.
    Leaves(Duration),
}

/// For how long one taint is borne: the first toleration that fits decides.
fn borne(taint: &Taint, tolerations: &[Toleration]) -> Verdict {
    match tolerations.iter().find(|toleration| tolerates(toleration, taint)) {
        None => Verdict::Leaves(Duration::ZERO),
        Some(toleration) => match toleration.toleration_seconds {
            None => Verdict::Stays,
            Some(seconds) => Verdict::Leaves(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        },
    }
}

/// Decides about a pod on a node with these taints. `seen` keeps since when each of them counts.
fn plan(taints: &[Taint], tolerations: &[Toleration], seen: &mut Seen, now: Instant) -> Verdict {
    let same = |known: &(String, Option<String>), taint: &Taint| known.0 == taint.key && known.1 == taint.value;
    seen.retain(|(known, _)| taints.iter().any(|taint| same(known, taint)));
    let mut first: Option<Duration> = None;
    for taint in taints {
        let Verdict::Leaves(after) = borne(taint, tolerations) else { continue };
        let since = match seen.iter().find(|(known, _)| same(known, taint)) {
            Some((_, since)) => *since,
            None => {
                seen.push(((taint.key.clone(), taint.value.clone()), now));
                now
            }
        };
        let left = after.saturating_sub(now.duration_since(since));
        first = Some(first.map_or(left, |first| first.min(left)));
    }
    first.map_or(Verdict::Stays, Verdict::Leaves)
}

async fn pass(
    context: Arc<Context>,
    recorder: Recorder,
    waiting: Waiting,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(pod) = caches.pods.get(&key).filter(|pod| !pod.deleting()) else {
        waiting.lock().remove(&key);
        return Ok(None);
    };
    let node = pod.node.as_deref().and_then(|node| caches.nodes.get(&ObjectKey::new("", node)));
    let taints = node.map(|node| evicting(&node)).unwrap_or_default();
    let verdict = {
        let mut waiting = waiting.lock();
        let before = waiting.remove(&key).filter(|(uid, _)| *uid == pod.uid);
        let waited = before.is_some();
        let mut seen = before.map(|(_, seen)| seen).unwrap_or_default();
        let verdict = plan(&taints, &pod.tolerations, &mut seen, Instant::now());
        match verdict {
            Verdict::Stays if waited => {
                let message = format!("Cancelling deletion of Pod {key}");
                recorder.event(&pod.reference(), Severity::Normal, "TaintManagerEviction", message);
            }
            Verdict::Stays => {}
            Verdict::Leaves(_) => drop(waiting.insert(key.clone(), (pod.uid.clone(), seen))),
        }
        verdict
    };
    match verdict {
        Verdict::Stays => Ok(None),
        Verdict::Leaves(left) if !left.is_zero() => Ok(Some(left)),
        Verdict::Leaves(_) => {
            evict(&context, &recorder, &pod).await?;
            waiting.lock().remove(&key);
            Ok(None)
        }
    }
}

async fn evict(context: &Context, recorder: &Recorder, pod: &Pod) -> Result<(), PassError> {
    let key = pod.key();
    let message = format!("Marking for deletion Pod {key}");
    recorder.event(&pod.reference(), Severity::Normal, "TaintManagerEviction", message);
    let reason = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
    if !disrupt(&context.client, pod, reason).await.doing("marking a pod for eviction")? {
        return Ok(());
    }
    let only_this = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    match Api::<ApiPod>::namespaced(context.client.clone(), &key.namespace).delete(&key.name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(error).doing("evicting a pod from a tainted node"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        serde_json::from_value(json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds}))
            .expect("a toleration")
    }

    #[test]
    fn plans() {
        let check = |taints: &[&str], tolerations: &[(&str, Option<i64>)], expected: Option<u64>| {
            let taints: Vec<_> = taints.iter().map(|key| taint(key)).collect();
            let tolerations: Vec<_> = tolerations.iter().map(|(key, seconds)| toleration(key, *seconds)).collect();
            let found = plan(&taints, &tolerations, &mut Seen::new(), Instant::now());
            let expected = expected.map_or(Verdict::Stays, |after| Verdict::Leaves(Duration::from_secs(after)));
            assert_eq!(found, expected, "{taints:?} {tolerations:?}");
        };
        check(&[], &[], None);
        check(&["a"], &[], Some(0));
        check(&["a"], &[("a", None)], None);
        check(&["a"], &[("a", Some(5))], Some(5));
        check(&["a"], &[("a", Some(-5))], Some(0));
        check(&["a", "b"], &[("a", Some(5))], Some(0));
        check(&["a", "b"], &[("a", Some(5)), ("b", Some(3))], Some(3));
        check(&["a", "b"], &[("a", None), ("b", Some(3))], Some(3));
        check(&["a"], &[("a", Some(5)), ("a", None)], Some(5));
    }

    #[test]
    fn time_counts_from_when_each_taint_came() {
        let (start, mut seen) = (Instant::now(), Seen::new());
        let tolerations = [toleration("a", Some(10)), toleration("b", Some(3))];
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let leaves = |seconds: u64| Verdict::Leaves(Duration::from_secs(seconds));
        assert_eq!(plan(&[taint("a")], &tolerations, &mut seen, start), leaves(10));
        assert_eq!(plan(&[taint("a")], &tolerations, &mut seen, at(4)), leaves(6));
        assert_eq!(plan(&[taint("a"), taint("b")], &tolerations, &mut seen, at(4)), leaves(3));
        assert_eq!(plan(&[taint("a")], &tolerations, &mut seen, at(6)), leaves(4), "the other was taken away in time");
        assert_eq!(plan(&[], &tolerations, &mut seen, at(7)), Verdict::Stays);
        assert_eq!(plan(&[taint("a")], &tolerations, &mut seen, at(8)), leaves(10), "it starts anew");
    }

    proptest! {
        /// Whatever taints come and go, a pod never goes while each present taint is borne, and never later than the
        /// first one that is over.
        #[test]
        fn never_early_never_late(steps in prop::collection::vec((prop::bool::ANY, prop::bool::ANY, 0_u64..8), 1..20)) {
            let (mut now, mut seen) = (Instant::now(), Seen::new());
            let tolerations = [toleration("a", Some(10)), toleration("b", Some(6))];
            let mut since: [Option<Instant>; 2] = [None, None];
            for (a, b, pause) in steps {
                now += Duration::from_secs(pause);
                let mut taints = Vec::new();
                for (at, (there, key)) in [(a, "a"), (b, "b")].into_iter().enumerate() {
                    since[at] = there.then(|| since[at].unwrap_or(now));
                    taints.extend(there.then(|| taint(key)));
                }
                let left = [(since[0], 10), (since[1], 6)].into_iter().filter_map(|(since, bound)| {
                    Some(Duration::from_secs(bound).saturating_sub(now.duration_since(since?)))
                });
                let expected = left.min().map_or(Verdict::Stays, Verdict::Leaves);
                prop_assert_eq!(plan(&taints, &tolerations, &mut seen, now), expected);
            }
        }
    }
}
