//! Which controllers run, and how many objects each looks at a time: by the names that upstream's controller manager gives them.
//!
//! Names and older names are those of
//! <https://github.com/kubernetes/kubernetes/blob/master/cmd/kube-controller-manager/names/controller_names.go>.

use std::collections::{BTreeMap, BTreeSet};

/// Objects that a controller looks at a time: enough to hide the latency of writes, as upstream's five workers.
const WORKERS: usize = 5;

/// A controller as people know it.
struct Named {
    /// Its name.
    name: &'static str,
    /// What upstream called it before, if it was something else.
    before: &'static str,
    /// The queues that are worked on for it.
    queues: &'static [&'static str],
}

const fn named(name: &'static str, before: &'static str, queues: &'static [&'static str]) -> Named {
    Named { name, before, queues }
}

/// All controllers. The last two are kobune's own, for volumes of drivers without sidecars and of folders.
const CONTROLLERS: [Named; 41] = [
    named("bootstrap-signer-controller", "bootstrapsigner", &["bootstrap-signer"]),
    named("certificatesigningrequest-approving-controller", "csrapproving", &["csrapproving"]),
    named("certificatesigningrequest-cleaner-controller", "csrcleaner", &["csrcleaner"]),
    named("certificatesigningrequest-signing-controller", "csrsigning", &["csrsigning"]),
    named("clusterrole-aggregation-controller", "clusterrole-aggregation", &["clusterrole-aggregation"]),
    named("cronjob-controller", "cronjob", &["cronjob"]),
    named("daemonset-controller", "daemonset", &["daemonset"]),
    named("deployment-controller", "deployment", &["deployment"]),
    named("device-taint-eviction-controller", "", &["device-taint-eviction"]),
    named("disruption-controller", "disruption", &["disruption"]),
    named("endpoints-controller", "endpoint", &["endpoints"]),
    named("endpointslice-controller", "endpointslice", &["endpointslice"]),
    named("endpointslice-mirroring-controller", "endpointslicemirroring", &["endpointslicemirroring"]),
    named("ephemeral-volume-controller", "ephemeral-volume", &["ephemeral-volume"]),
    named("garbage-collector-controller", "garbagecollector", &["garbage-collector"]),
    named("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", &["horizontal-pod-autoscaler"]),
    named("job-controller", "job", &["job", "job-orphans"]),
    named("legacy-serviceaccount-token-cleaner-controller", "", &["legacy-serviceaccount-token-cleaner"]),
    named("namespace-controller", "namespace", &["namespace"]),
    named("node-ipam-controller", "nodeipam", &["node-ipam"]),
    named("node-lifecycle-controller", "nodelifecycle", &["node-lifecycle"]),
    named("persistentvolume-attach-detach-controller", "attachdetach", &["attach-detach"]),
    named("persistentvolume-binder-controller", "persistentvolume-binder", &["persistent-volume-binder"]),
    named("persistentvolume-protection-controller", "pv-protection", &["pv-protection"]),
    named("persistentvolumeclaim-protection-controller", "pvc-protection", &["pvc-protection"]),
    named("pod-garbage-collector-controller", "podgc", &["pod-garbage-collector"]),
    named("replicaset-controller", "replicaset", &["replicaset"]),
    named("replicationcontroller-controller", "replicationcontroller", &["replicationcontroller"]),
    named("resourceclaim-controller", "", &["resource-claim-pods", "resource-claims"]),
    named("resourcequota-controller", "resourcequota", &["resourcequota"]),
    named("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", &["root-ca-certificate-publisher"]),
    named("service-cidr-controller", "", &["servicecidr", "servicecidrs"]),
    named("service-lb-controller", "service", &["service-lb"]),
    named("serviceaccount-controller", "serviceaccount", &["serviceaccount"]),
    named("serviceaccount-token-controller", "serviceaccount-token", &["serviceaccount-token"]),
    named("statefulset-controller", "statefulset", &["statefulset"]),
    named("taint-eviction-controller", "", &["taint-eviction"]),
    named("token-cleaner-controller", "tokencleaner", &["token-cleaner"]),
    named("ttl-after-finished-controller", "ttl-after-finished", &["ttl-after-finished"]),
    named("kobune-driver-controller", "", &["csi-attacher", "csi-provisioner", "csi-resizer", "csi-snapshotter"]),
    named("kobune-local-volume-controller", "", &["local-provisioner"]),
];

/// A name that no controller has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not in the list of known controllers")]
pub struct Unknown {
    /// The name.
    pub name: String,
}

fn find(name: &str) -> Result<&'static Named, Unknown> {
    let known = |one: &&Named| one.name == name || (!name.is_empty() && one.before == name);
    CONTROLLERS.iter().find(known).ok_or_else(|| Unknown { name: name.to_owned() })
}

/// Which controllers run. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Queues that nobody works on.
    off: BTreeSet<&'static str>,
    /// How many objects of a queue are looked at a time, where that was said.
    workers: BTreeMap<&'static str, usize>,
}

impl Selection {
    /// Reads a list as upstream's `--controllers`: `*` for all, `name` for one, `-name` for all but one. The first word that is
    /// about a controller decides.
    pub fn parse<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, Unknown> {
        let mut said: BTreeMap<&'static str, bool> = BTreeMap::new();
        let (mut rest, mut any) = (false, false);
        for word in words {
            any = true;
            if word == "*" {
                rest = true;
                continue;
            }
            let (name, on) = word.strip_prefix('-').map_or((word, true), |name| (name, false));
            said.entry(find(name)?.name).or_insert(on);
        }
        let runs = |one: &&Named| said.get(one.name).copied().unwrap_or(rest || !any);
        let off = CONTROLLERS.iter().filter(|one| !runs(one)).flat_map(|one| one.queues);
        Ok(Self { off: off.copied().collect(), workers: BTreeMap::new() })
    }

    /// Lets a controller look at so many objects at a time.
    pub fn set_workers(&mut self, controller: &str, number: usize) -> Result<(), Unknown> {
        let queues = find(controller)?.queues;
        self.workers.extend(queues.iter().map(|queue| (*queue, number.max(1))));
        Ok(())
    }

    /// The names of all controllers.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CONTROLLERS.iter().map(|one| one.name)
    }

    /// Whether a queue is worked on. Every queue has its controller, so that each can be left out.
    pub(crate) fn runs(&self, queue: &str) -> bool {
        debug_assert!(
            CONTROLLERS.iter().any(|one| one.queues.contains(&queue)),
            "queue {queue} belongs to no controller that could be named"
        );
        !self.off.contains(queue)
    }

    /// How many objects of a queue are looked at a time.
    pub(crate) fn workers(&self, queue: &str) -> usize {
        self.workers.get(queue).copied().unwrap_or(WORKERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_controllers() {
        let check = |words: &[&str], queue: &str, expected: bool| {
            let selection = Selection::parse(words.iter().copied()).expect("names");
            assert_eq!(selection.runs(queue), expected, "{words:?} {queue}");
        };
        check(&[], "deployment", true);
        check(&["*"], "deployment", true);
        check(&["*", "-deployment-controller"], "deployment", false);
        check(&["*", "-deployment-controller"], "replicaset", true);
        check(&["-deployment-controller", "*"], "deployment", false);
        check(&["deployment-controller"], "deployment", true);
        check(&["deployment-controller"], "replicaset", false);
        // Older names are good too, and the first word about a controller is what counts.
        check(&["*", "-nodeipam"], "node-ipam", false);
        check(&["deployment", "-deployment-controller"], "deployment", true);
        check(&["*", "-job-controller"], "job-orphans", false);
        let wrong = Selection::parse(["*", "-", "x"]).expect_err("no such name");
        assert_eq!(wrong.to_string(), "\"\" is not in the list of known controllers");
        assert_eq!(Selection::parse(["*"]), Ok(Selection::default()));
    }

    #[test]
    fn workers_are_counted_by_controller() {
        let mut selection = Selection::default();
        selection.set_workers("job-controller", 12).expect("a name");
        assert_eq!(
            [selection.workers("job"), selection.workers("job-orphans"), selection.workers("cronjob")],
            [12, 12, 5]
        );
        selection.set_workers("nobody", 1).expect_err("no such name");
    }

    #[test]
    fn names_are_one_each() {
        let names: BTreeSet<&str> = Selection::names().collect();
        let queues: Vec<&str> = CONTROLLERS.iter().flat_map(|one| one.queues).copied().collect();
        assert_eq!(names.len(), CONTROLLERS.len());
        assert_eq!(queues.iter().collect::<BTreeSet<_>>().len(), queues.len());
    }
}
