//! The scheduler's picture of the cluster: nodes and what is bound, or about to be bound, to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

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

/// All nodes, and where each pod is counted.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Nodes by name.
    pub nodes: BTreeMap<Arc<str>, NodeState>,
    /// Labels of namespaces, for affinity terms that select namespaces.
    pub namespaces: HashMap<Arc<str>, Labels>,
    /// Claims, volumes and storage classes.
    pub volumes: Volumes,
    /// The node of each counted pod.
    place: HashMap<Arc<str>, Arc<str>>,
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
        state.images = node
            .status
            .iter()
            .flat_map(|status| status.images.iter().flatten())
            .flat_map(|image| {
                image.names.iter().flatten().map(|name| (Arc::from(name.as_str()), image.size_bytes.unwrap_or(0)))
            })
            .collect();
        let changed = state.facts.as_ref() != Some(&facts);
        state.facts = Some(facts);
        changed
    }

    /// Forgets a node. Pods bound to it stay counted until they go.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.facts = None;
            if state.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
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
        self.nodes.entry(node).or_default().add(pod);
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

    /// Pods that room is kept for on `node` and that `pod` may not push aside.
    pub fn nominated_before<'c>(&'c self, node: &'c str, pod: &'c PodInfo) -> impl Iterator<Item = &'c Arc<PodInfo>> {
        self.nominated
            .iter()
            .filter(move |(uid, (on, other))| on.as_ref() == node && other.priority >= pod.priority && **uid != pod.uid)
            .map(|(_, (_, other))| other)
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
}
