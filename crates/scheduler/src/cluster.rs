//! The scheduler's picture of the cluster: nodes and what is bound, or about to be bound, to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::devices::Devices;
use crate::labels::Labels;
use crate::pod::PodInfo;
use crate::quantity;
use crate::resources::Resources;
use crate::volumes::Volumes;

/// What of a Node matters for scheduling; two that are equal give equal decisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may use together.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub pods: i64,
}

impl From<&Node> for NodeFacts {
    fn from(node: &Node) -> Self {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::from_list(allocatable),
            pods: allocatable.and_then(|list| list.get("pods")).map_or(0, quantity::value),
        }
    }
}

/// A node and what runs there.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// What the Node object says; `None` while pods are bound to a node that is not known.
    pub facts: Option<NodeFacts>,
    /// Sizes of the images it has, by name.
    pub images: HashMap<Arc<str>, i64>,
    /// Pods bound or assumed here, by uid.
    pub pods: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Sum of their requests.
    pub used: Resources,
    /// Sum of their weights.
    pub weight: (i64, i64),
}

impl NodeState {
    /// Counts a pod in.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.used.add(&pod.requests);
        self.weight.0 += pod.weight.0;
        self.weight.1 += pod.weight.1;
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Counts a pod out.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.used.subtract(&pod.requests);
        self.weight.0 -= pod.weight.0;
        self.weight.1 -= pod.weight.1;
        Some(pod)
    }
}

/// What a PodDisruptionBudget says to preemption.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// The pods it is about; none without one.
    pub selector: Option<LabelSelector>,
    /// How many of them may go now.
    pub allowed: i32,
    /// Names of pods that it has let go already.
    pub disrupted: Vec<Box<str>>,
}

impl From<&PodDisruptionBudget> for Budget {
    fn from(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.clone().unwrap_or_default();
        Self {
            selector: budget.spec.as_ref().and_then(|spec| spec.selector.clone()),
            allowed: status.disruptions_allowed.unwrap_or(0),
            disrupted: status.disrupted_pods.into_iter().flatten().map(|(name, _)| name.into()).collect(),
        }
    }
}

/// The label of a node's own name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// How many pods an owner has, by node and by the two topologies that pods spread over without being told.
#[derive(Clone, Debug, Default)]
struct Owned {
    nodes: BTreeMap<Arc<str>, u32>,
    hosts: HashMap<Arc<str>, u32>,
    zones: HashMap<Arc<str>, u32>,
}

impl Owned {
    /// Counts a node's pods in or out of the topologies that its labels say.
    fn count(&mut self, facts: Option<&NodeFacts>, change: impl Fn(u32) -> u32) {
        for (key, counts) in [(HOSTNAME, &mut self.hosts), (ZONE, &mut self.zones)] {
            let Some(value) = facts.and_then(|facts| facts.labels.get(key)) else { continue };
            match counts.get_mut(value.as_str()) {
                Some(count) => {
                    *count = change(*count);
                    if *count == 0 {
                        counts.remove(value.as_str());
                    }
                }
                None if change(0) > 0 => drop(counts.insert(value.as_str().into(), change(0))),
                None => {}
            }
        }
    }
}

/// All nodes, and where each pod is counted.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Nodes by name.
    pub nodes: BTreeMap<Arc<str>, NodeState>,
    /// Labels of namespaces, for affinity terms that select namespaces.
    pub namespaces: HashMap<Arc<str>, Labels>,
    /// Claims, volumes and storage classes.
    pub volumes: Volumes,
    /// Devices and the claims on them.
    pub devices: Devices,
    /// Disruption budgets by namespace and name.
    pub budgets: BTreeMap<(Arc<str>, Arc<str>), Budget>,
    /// The node of each counted pod.
    place: HashMap<Arc<str>, Arc<str>>,
    /// How many pods each owner has on each node, those on their way out left aside.
    owned: HashMap<Arc<str>, Owned>,
    /// How many nodes have an image.
    image_nodes: HashMap<Arc<str>, usize>,
    /// Pods that keep others away or attract them; usually none, which makes most checks free.
    affine: HashSet<Arc<str>>,
    /// Room kept for pods that preempt others: uid to node.
    nominated: HashMap<Arc<str>, (Arc<str>, Arc<PodInfo>)>,
}

impl Cluster {
    /// Takes a Node as it is now. Says whether anything changed that could help a waiting pod.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let Some(name) = node.metadata.name.as_deref() else { return false };
        let facts = NodeFacts::from(node);
        let state = self.nodes.entry(name.into()).or_default();
        let images: HashMap<Arc<str>, i64> = node
            .status
            .iter()
            .flat_map(|status| status.images.iter().flatten())
            .flat_map(|image| {
                image.names.iter().flatten().map(|name| (Arc::from(name.as_str()), image.size_bytes.unwrap_or(0)))
            })
            .collect();
        if state.images != images {
            let before = std::mem::replace(&mut state.images, images);
            forget_images(&mut self.image_nodes, before.keys());
            for image in state.images.keys() {
                *self.image_nodes.entry(image.clone()).or_default() += 1;
            }
        }
        let changed = state.facts.as_ref() != Some(&facts);
        if changed {
            self.change_facts(name, Some(facts));
        }
        changed
    }

    /// Forgets a node. Pods bound to it stay counted until they go.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            forget_images(&mut self.image_nodes, std::mem::take(&mut state.images).keys());
            if state.pods.is_empty() {
                self.nodes.remove(name);
            } else {
                self.change_facts(name, None);
            }
        }
    }

    /// Takes what a node is now; the pods there count in its topologies.
    fn change_facts(&mut self, name: &str, facts: Option<NodeFacts>) {
        let Some(state) = self.nodes.get_mut(name) else { return };
        let before = std::mem::replace(&mut state.facts, facts);
        let of =
            |facts: Option<&NodeFacts>| facts.map(|facts| [HOSTNAME, ZONE].map(|key| facts.labels.get(key).cloned()));
        if of(before.as_ref()) == of(state.facts.as_ref()) {
            return;
        }
        for owner in state.pods.values().filter(|pod| !pod.terminating).filter_map(|pod| pod.owner.as_ref()) {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.count(before.as_ref(), |count| count.saturating_sub(1));
                owned.count(state.facts.as_ref(), |count| count + 1);
            }
        }
    }

    /// How many pods an owner has by the values of a topology, where that is kept; nodes that are not known are left aside.
    pub fn owned_by_domain(&self, owner: &str, key: &str) -> Option<&HashMap<Arc<str>, u32>> {
        let owned = self.owned.get(owner)?;
        match key {
            HOSTNAME => Some(&owned.hosts),
            ZONE => Some(&owned.zones),
            _ => None,
        }
    }

    /// The share of the nodes that have an image.
    pub fn image_share(&self, image: &str) -> f64 {
        let with = self.image_nodes.get(image).copied().unwrap_or(0);
        with as f64 / self.nodes.len().max(1) as f64
    }

    /// The nodes where an owner has pods, and how many.
    pub fn owned(&self, owner: &str) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.owned.get(owner).into_iter().flat_map(|owned| &owned.nodes).map(|(node, number)| (node, *number))
    }

    /// Nodes that exist.
    pub fn known(&self) -> impl Iterator<Item = (&Arc<str>, &NodeState, &NodeFacts)> {
        self.nodes.iter().filter_map(|(name, state)| Some((name, state, state.facts.as_ref()?)))
    }

    /// Counts a pod on its node, in place of what was counted of it before.
    pub fn place(&mut self, pod: Arc<PodInfo>) {
        let Some(node) = pod.node.clone() else { return };
        self.unplace(&pod.uid);
        self.nominated.remove(&pod.uid);
        self.place.insert(pod.uid.clone(), node.clone());
        if pod.constraints.is_some() {
            self.affine.insert(pod.uid.clone());
        }
        if let Some(owner) = pod.owner.as_ref().filter(|_| !pod.terminating) {
            let owned = self.owned.entry(owner.clone()).or_default();
            *owned.nodes.entry(node.clone()).or_default() += 1;
            owned.count(self.nodes.get(&node).and_then(|state| state.facts.as_ref()), |count| count + 1);
        }
        self.nodes.entry(node).or_default().add(pod);
    }

    /// Counts a pod that leaves a node out of what its owner has there.
    fn disown(&mut self, pod: &PodInfo, node: &str) {
        let Some(owner) = pod.owner.as_ref().filter(|_| !pod.terminating) else { return };
        let Some(owned) = self.owned.get_mut(owner) else { return };
        if let Some(number) = owned.nodes.get_mut(node) {
            *number -= 1;
            if *number == 0 {
                owned.nodes.remove(node);
            }
        }
        owned.count(self.nodes.get(node).and_then(|state| state.facts.as_ref()), |count| count.saturating_sub(1));
        if owned.nodes.is_empty() {
            self.owned.remove(owner);
        }
    }

    /// Stops counting a pod; gives back what was counted.
    pub fn unplace(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.place.remove(uid)?;
        self.affine.remove(uid);
        let state = self.nodes.get_mut(&node)?;
        let pod = state.remove(uid);
        if state.facts.is_none() && state.pods.is_empty() {
            self.nodes.remove(&node);
        }
        if let Some(pod) = &pod {
            self.disown(pod, &node);
        }
        pod
    }

    /// The pod with this uid, if it is counted.
    pub fn placed(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.nodes.get(self.place.get(uid)?)?.pods.get(uid)
    }

    /// All counted uids.
    pub fn placed_uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.place.keys()
    }

    /// Counted pods with affinity terms, each with its node.
    pub fn affine(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PodInfo>)> {
        self.affine.iter().filter_map(|uid| {
            let node = self.place.get(uid)?;
            Some((node, self.nodes.get(node)?.pods.get(uid)?))
        })
    }

    /// Keeps room for a pod on a node until it is placed there, or lets go of it.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<Arc<str>>) {
        match node {
            Some(node) => self.nominated.insert(pod.uid.clone(), (node, pod.clone())),
            None => self.nominated.remove(&pod.uid),
        };
    }

    /// Lets go of the room kept for a pod.
    pub fn withdraw(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// Where room is kept for a pod.
    pub fn nomination(&self, uid: &str) -> Option<&Arc<str>> {
        self.nominated.get(uid).map(|(node, _)| node)
    }

    /// Pods that room is kept for on `node` and that are less important than `pod`.
    pub fn nominated_after(&self, node: &str, pod: &PodInfo) -> Vec<Arc<PodInfo>> {
        let lower = self.nominated.values().filter(|(on, other)| on.as_ref() == node && other.priority < pod.priority);
        lower.map(|(_, other)| other.clone()).collect()
    }

    /// Pods that room is kept for on `node` and that `pod` may not push aside.
    pub fn nominated_before<'c>(&'c self, node: &'c str, pod: &'c PodInfo) -> impl Iterator<Item = &'c Arc<PodInfo>> {
        self.nominated
            .iter()
            .filter(move |(uid, (on, other))| on.as_ref() == node && other.priority >= pod.priority && **uid != pod.uid)
            .map(|(_, (_, other))| other)
    }
}

/// Counts a node out for these images.
fn forget_images<'i>(counts: &mut HashMap<Arc<str>, usize>, images: impl Iterator<Item = &'i Arc<str>>) {
    for image in images {
        if let Some(number) = counts.get_mut(image) {
            *number -= 1;
            if *number == 0 {
                counts.remove(image);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A node with these parts of metadata, spec and status.
    pub(crate) fn node(
        name: &str,
        labels: serde_json::Value,
        spec: serde_json::Value,
        allocatable: serde_json::Value,
    ) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable},
        }))
        .expect("a node")
    }

    #[test]
    fn amounts_follow_the_pods() {
        let mut cluster = Cluster::default();
        let allocatable = serde_json::json!({"cpu": "2", "memory": "1Gi", "pods": "110"});
        let first = node("n", serde_json::json!({}), serde_json::json!({}), allocatable);
        assert!(cluster.set_node(&first));
        assert!(!cluster.set_node(&first), "a heartbeat changes nothing");
        let pod = Arc::new(crate::pod::tests::pod(
            "p",
            serde_json::json!({"nodeName": "n", "containers": [{"resources": {"requests": {"cpu": "1", "example.com/x": "2"}}}]}),
        ));
        cluster.place(pod.clone());
        cluster.place(pod);
        assert_eq!((cluster.nodes["n"].used.cpu, cluster.nodes["n"].used.other("example.com/x")), (1000, 2));
        assert!(cluster.unplace("p").is_some());
        assert_eq!((cluster.nodes["n"].used.cpu, cluster.nodes["n"].used.other("example.com/x")), (0, 0));
        assert!(cluster.unplace("p").is_none());
        cluster.remove_node("n");
        assert!(cluster.nodes.is_empty());
    }

    proptest::proptest! {
        /// What is kept of topologies is what counting anew gives, whatever pods and nodes come, change and go.
        #[test]
        fn domains_follow_pods_and_nodes(
            steps in proptest::collection::vec((0_u8..5, 0_usize..4, 0_usize..8, 0_usize..3), 1..60),
        ) {
            let mut cluster = Cluster::default();
            for (kind, at, number, zone) in steps {
                let name = format!("n{at}");
                let uid = format!("p{number}");
                match kind {
                    0 => {
                        let labels = serde_json::json!({HOSTNAME: name, ZONE: format!("z{zone}")});
                        cluster.set_node(&node(&name, labels, serde_json::json!({}), serde_json::json!({"pods": "10"})));
                    }
                    1 => cluster.remove_node(&name),
                    2 | 3 => {
                        let mut placed = crate::pod::tests::pod(&uid, serde_json::json!({}));
                        placed.node = Some(name.into());
                        placed.owner = Some(format!("o{}", number % 2).into());
                        placed.terminating = zone == 0 && kind == 3;
                        cluster.place(Arc::new(placed));
                    }
                    _ => drop(cluster.unplace(&uid)),
                }
                for owner in ["o0", "o1"] {
                    for key in [HOSTNAME, ZONE] {
                        let mut counted: HashMap<Arc<str>, u32> = HashMap::new();
                        for (_, state, facts) in cluster.known() {
                            let own = state.pods.values().filter(|pod| pod.owner.as_deref() == Some(owner) && !pod.terminating);
                            let number = u32::try_from(own.count()).expect("few pods");
                            if let Some(value) = facts.labels.get(key).filter(|_| number > 0) {
                                *counted.entry(value.as_str().into()).or_default() += number;
                            }
                        }
                        let kept = cluster.owned_by_domain(owner, key).cloned().unwrap_or_default();
                        proptest::prop_assert_eq!(kept, counted);
                    }
                }
            }
        }
    }
}
