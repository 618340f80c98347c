//! Whether a pod can run on a node, and upstream's words for why it cannot.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::cluster::{Cluster, NodeFacts, NodeState};
use crate::node_match;
use crate::pod::{Constraints, PodInfo};
use crate::volume_match::Place;
use crate::{devices, pod_affinity, spread, volumes};

/// Kinds of obstacles as bits, so that a waiting pod knows which events could help it.
pub mod obstacle {
    /// Too little of a resource, or too many pods.
    pub const RESOURCES: u16 = 1;
    /// A port of the node is taken.
    pub const PORTS: u16 = 2;
    /// Something of the node itself: taints, labels, unschedulable.
    pub const NODE: u16 = 4;
    /// Pods that have to be near or must not be.
    pub const POD_AFFINITY: u16 = 8;
    /// Pods are not spread evenly.
    pub const SPREAD: u16 = 16;
    /// The API server refused the binding.
    pub const BINDING: u16 = 32;
    /// There is no node at all.
    pub const NO_NODES: u16 = 64;
    /// Claims and volumes.
    pub const VOLUMES: u16 = 1024;
    /// Claims on devices.
    pub const DEVICES: u16 = 2048;
    /// An extender says no. What could change its mind only it knows, so that every event counts.
    pub const EXTENDERS: u16 = 4096;
}

/// Why a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Upstream's reasons; those of resources come together.
    pub reasons: Vec<Cow<'static, str>>,
    /// One of `obstacle`.
    pub obstacle: u16,
    /// Whether removing other pods could help.
    pub resolvable: bool,
}

impl Rejection {
    fn node(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], obstacle: obstacle::NODE, resolvable: false }
    }
}

/// What is the same for all nodes while one pod is decided about.
pub struct Question<'c> {
    /// The pod.
    pub pod: &'c PodInfo,
    /// What it asks for.
    pub constraints: &'c Constraints,
    pod_affinity: pod_affinity::Counts,
    spread: spread::Counts<'c>,
    volumes: Option<volumes::Question<'c>>,
    devices: Option<devices::Question<'c>>,
    /// Another pod has a claim that only one pod may have at a time.
    claim_taken: bool,
}

impl<'c> Question<'c> {
    /// Looks at the whole cluster once.
    pub fn new(pod: &'c PodInfo, constraints: &'c Constraints, cluster: &'c Cluster) -> Self {
        Self {
            pod,
            constraints,
            pod_affinity: pod_affinity::Counts::new(pod, constraints, cluster),
            spread: spread::Counts::new(pod, constraints, cluster, spread::Side::Hard),
            volumes: cluster.volumes.question(pod).ok().filter(|volumes| !volumes.is_free()),
            devices: cluster.devices.question(pod).ok().flatten(),
            claim_taken: claim_taken(pod, cluster),
        }
    }

    /// Whether the answer for one node depends on the pods of others.
    pub fn looks_around(&self) -> bool {
        self.spread.is_constrained()
            || self
                .constraints
                .affinity
                .as_ref()
                .is_some_and(|affinity| affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some())
    }

    /// The answer for one node; `state` may differ from the cluster's when preemption tries things out.
    pub fn ask(&self, name: &str, state: &NodeState, facts: &NodeFacts) -> Result<(), Rejection> {
        self.node_itself(name, facts)?;
        let profile = &self.pod.profile;
        if profile.filters("NodePorts") {
            self.ports(state)?;
        }
        if profile.filters("NodeResourcesFit") {
            resources(self.pod, state, facts)?;
        }
        if self.claim_taken && profile.filters("VolumeRestrictions") {
            return Err(Rejection {
                reasons: vec![volumes::IN_USE.into()],
                obstacle: obstacle::VOLUMES,
                resolvable: false,
            });
        }
        if let Some(volumes) = &self.volumes
            && let Err(reason) = volumes.ask(Place { name, labels: &facts.labels })
        {
            return Err(Rejection { reasons: vec![reason.into()], obstacle: obstacle::VOLUMES, resolvable: false });
        }
        if profile.filters("PodTopologySpread") && !self.spread.satisfied(name, facts) {
            let reasons = vec![self.spread.reason(facts).into()];
            let resolvable = !self.spread.lacks_label(facts);
            return Err(Rejection { reasons, obstacle: obstacle::SPREAD, resolvable });
        }
        if profile.filters("InterPodAffinity")
            && let Some((reason, resolvable)) = self.pod_affinity.obstacle(&facts.labels)
        {
            return Err(Rejection { reasons: vec![reason.into()], obstacle: obstacle::POD_AFFINITY, resolvable });
        }
        if profile.filters("DynamicResources")
            && let Some(devices) = &self.devices
            && let Err(reason) = devices.ask(Place { name, labels: &facts.labels })
        {
            // Pods that are pushed aside keep their devices until their claims are free of them.
            return Err(Rejection { reasons: vec![reason.into()], obstacle: obstacle::DEVICES, resolvable: false });
        }
        Ok(())
    }

    fn node_itself(&self, name: &str, facts: &NodeFacts) -> Result<(), Rejection> {
        let tolerations = &self.constraints.tolerations;
        let profile = &self.pod.profile;
        if facts.unschedulable && profile.filters("NodeUnschedulable") {
            let taint = k8s_openapi::api::core::v1::Taint {
                key: node_match::TAINT_UNSCHEDULABLE.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Default::default()
            };
            if !tolerations.iter().any(|toleration| node_match::tolerates(toleration, &taint)) {
                return Err(Rejection::node("node(s) were unschedulable"));
            }
        }
        if profile.filters("TaintToleration")
            && let Some(taint) = node_match::untolerated(&facts.taints, tolerations, &["NoSchedule", "NoExecute"])
        {
            let value = taint.value.as_deref().unwrap_or_default();
            return Err(Rejection::node(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)));
        }
        if !profile.filters("NodeAffinity") {
            return Ok(());
        }
        if !node_match::node_selected(None, profile.added_affinity.as_ref(), name, &facts.labels) {
            return Err(Rejection::node("node(s) didn't match scheduler-enforced node affinity"));
        }
        let affinity = self.constraints.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        if !node_match::node_selected(self.constraints.node_selector.as_ref(), affinity, name, &facts.labels) {
            return Err(Rejection::node("node(s) didn't match Pod's node affinity/selector"));
        }
        Ok(())
    }

    fn ports(&self, state: &NodeState) -> Result<(), Rejection> {
        let taken = |wanted| state.pods.values().any(|pod| pod.ports.iter().any(|port| port.conflicts(wanted)));
        if self.pod.ports.iter().any(taken) {
            let reasons = vec!["node(s) didn't have free ports for the requested pod ports".into()];
            return Err(Rejection { reasons, obstacle: obstacle::PORTS, resolvable: true });
        }
        Ok(())
    }
}

/// Whether a pod that is placed already has a claim of this pod that only one may have.
fn claim_taken(pod: &PodInfo, cluster: &Cluster) -> bool {
    let exclusive = cluster.volumes.exclusive(pod);
    !exclusive.is_empty()
        && cluster.nodes.values().flat_map(|node| node.pods.values()).any(|other| {
            other.namespace == pod.namespace
                && other.uid != pod.uid
                && other.claims.iter().any(|used| exclusive.contains(&&*used.claim))
        })
}

fn resources(pod: &PodInfo, state: &NodeState, facts: &NodeFacts) -> Result<(), Rejection> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    if i64::try_from(state.pods.len()).unwrap_or(i64::MAX) >= facts.pods {
        reasons.push("Too many pods".into());
        resolvable &= facts.pods > 0;
    }
    let (asked, total, used) = (&pod.requests, &facts.allocatable, &state.used);
    let mut check = |name: Cow<'static, str>, asked: i64, total: i64, used: i64| {
        if asked > 0 && asked > total.saturating_sub(used) {
            reasons.push(name);
            resolvable &= asked <= total;
        }
    };
    check("Insufficient cpu".into(), asked.cpu, total.cpu, used.cpu);
    check("Insufficient memory".into(), asked.memory, total.memory, used.memory);
    check(
        "Insufficient ephemeral-storage".into(),
        asked.ephemeral_storage,
        total.ephemeral_storage,
        used.ephemeral_storage,
    );
    for (name, amount) in asked.others.iter().filter(|(name, _)| !pod.profile.ignores(name)) {
        check(format!("Insufficient {name}").into(), *amount, total.other(name), used.other(name));
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, obstacle: obstacle::RESOURCES, resolvable }) }
}

/// Upstream's sentence for a pod that fits nowhere: `0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods.`
pub fn unschedulable_message<'r>(nodes: usize, reasons: impl Iterator<Item = &'r str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    if parts.is_empty() {
        return format!("0/{nodes} nodes are available");
    }
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;

    fn ask(
        spec: serde_json::Value,
        node_spec: serde_json::Value,
        running: &[serde_json::Value],
    ) -> Result<(), Rejection> {
        let mut cluster = Cluster::default();
        let allocatable = json!({"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/x": "1"});
        cluster.set_node(&node("n", json!({"zone": "a"}), node_spec, allocatable));
        for (number, other) in running.iter().enumerate() {
            let mut info = pod(&format!("running-{number}"), other.clone());
            info.node = Some("n".into());
            cluster.place(info.into());
        }
        let pod = pod("p", spec);
        let question = Question::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster);
        let (name, state, facts) = cluster.known().next().expect("one node");
        question.ask(name, state, facts)
    }

    #[test]
    fn reasons() {
        let check = |spec: serde_json::Value,
                     node_spec: serde_json::Value,
                     running: &[serde_json::Value],
                     expected: &[&str],
                     resolvable: bool| {
            match ask(spec.clone(), node_spec, running) {
                Ok(()) => assert!(expected.is_empty(), "{spec} was let in"),
                Err(rejection) => {
                    assert_eq!(rejection.reasons, expected, "{spec}");
                    assert_eq!(rejection.resolvable, resolvable, "{spec}");
                }
            }
        };
        let asks = |list: serde_json::Value| json!({"containers": [{"resources": {"requests": list}}]});
        let none = &[][..];
        check(json!({}), json!({}), none, &[], true);
        check(json!({}), json!({"unschedulable": true}), none, &["node(s) were unschedulable"], false);
        check(json!({"tolerations": [{"operator": "Exists"}]}), json!({"unschedulable": true}), none, &[], true);
        check(
            json!({}),
            json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}),
            none,
            &["node(s) had untolerated taint {k: v}"],
            false,
        );
        check(json!({}), json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}), none, &[], true);
        check(
            json!({"nodeSelector": {"zone": "b"}}),
            json!({}),
            none,
            &["node(s) didn't match Pod's node affinity/selector"],
            false,
        );
        check(
            asks(json!({"cpu": "3", "memory": "2Gi"})),
            json!({}),
            none,
            &["Insufficient cpu", "Insufficient memory"],
            false,
        );
        check(asks(json!({"cpu": "1500m"})), json!({}), &[asks(json!({"cpu": "1"}))], &["Insufficient cpu"], true);
        check(
            asks(json!({"example.com/x": "1"})),
            json!({}),
            &[asks(json!({"example.com/x": "1"}))],
            &["Insufficient example.com/x"],
            true,
        );
        check(json!({}), json!({}), &[json!({}), json!({}), json!({})], &["Too many pods"], true);
        let port = json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": 80}]}]});
        check(port.clone(), json!({}), &[port], &["node(s) didn't have free ports for the requested pod ports"], true);
    }

    #[test]
    fn messages() {
        let reasons = ["Insufficient cpu", "Too many pods", "Insufficient cpu"];
        assert_eq!(
            unschedulable_message(3, reasons.into_iter()),
            "0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu."
        );
    }
}
