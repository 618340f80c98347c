//! Pods of simulated nodes: what the lifecycle plans is written here, some writes at a time.
//!
//! Nothing is kept of a pod that has nothing to do. Of the others the newest state is kept, with the version that our own last
//! write made, so that no state from before it is acted on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kobune_partial::Partial;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{Config as Watch, Event};
use kube::runtime::{WatchStreamExt, watcher};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::task::JoinSet;

use crate::Config;
use crate::addresses::Addresses;
use crate::lifecycle::{Input, Step, plan, refused, running};
use crate::node;

/// Writes on their way at once.
const WRITES: usize = 64;
/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(1);

type Uid = Arc<str>;
type NodeInput = Partial<Node, NodeSpec, IgnoredAny>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

/// What an answer to a write says: the version it made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    metadata: AnswerMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AnswerMetadata {
    resource_version: String,
}

/// A pod that has something to do.
#[derive(Debug)]
struct Busy {
    newest: Arc<Input>,
    /// A state older than this is from before our last write.
    after: u64,
    writing: bool,
    /// When it is looked at again.
    due: Option<Timestamp>,
    /// Addresses that it was given.
    addresses: Vec<IpAddr>,
}

struct Pods {
    client: kube::Client,
    nodes: HashMap<String, (IpAddr, Addresses)>,
    busy: HashMap<Uid, Busy>,
    ready: VecDeque<Uid>,
    due: BTreeSet<(Timestamp, Uid)>,
    /// Pods whose node has no addresses for them yet, by its name.
    without_address: HashMap<String, Vec<Uid>>,
    writes: JoinSet<(Uid, Result<u64, kube::Error>)>,
}

/// Answers for the pods of the nodes for ever.
pub async fn answer(client: kube::Client, config: Arc<Config>) {
    let nodes = (0..config.nodes).map(|number| (node::name(number), (node::address(number), Addresses::default())));
    let mut pods = Pods {
        client: client.clone(),
        nodes: nodes.collect(),
        busy: HashMap::new(),
        ready: VecDeque::new(),
        due: BTreeSet::new(),
        without_address: HashMap::new(),
        writes: JoinSet::new(),
    };
    let of_ours = Watch::default().labels(node::SIMULATED);
    let mut ranges = watcher(Api::<NodeInput>::all(client.clone()), of_ours).default_backoff().boxed();
    let bound = Watch::default().fields("spec.nodeName!=");
    let mut changes = watcher(Api::<Input>::all(client), bound).default_backoff().boxed();
    loop {
        let wake = pods.begin_writes();
        // Dropping an arm loses nothing: changes stay in their streams, results in their set, and the timer is made anew.
        tokio::select! {
            Some(change) = ranges.next() => match change {
                Ok(Event::InitApply(node) | Event::Apply(node)) => pods.node_changed(&node),
                Ok(_) => {}
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the watch of nodes starts again"),
            },
            Some(change) = changes.next() => match change {
                Ok(Event::InitApply(pod) | Event::Apply(pod)) => pods.changed(pod),
                Ok(Event::Delete(pod)) => pods.gone(&pod),
                Ok(_) => {}
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the watch of pods starts again"),
            },
            Some(done) = pods.writes.join_next() => pods.written(done),
            () = at(wake) => {}
        }
    }
}

async fn at(time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let left = time.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

fn version(pod: &Input) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Pods {
    fn node_changed(&mut self, node: &NodeInput) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let Some((_, addresses)) = self.nodes.get_mut(name) else { return };
        let ranges = node.spec.pod_cidrs.iter().flatten().filter_map(|range| range.parse().ok());
        addresses.set_ranges(ranges.collect());
        self.ready.extend(self.without_address.remove(name).into_iter().flatten());
    }

    fn changed(&mut self, mut pod: Input) {
        let Some(node) = &pod.spec.node_name else { return };
        let Some((_, addresses)) = self.nodes.get_mut(node) else { return };
        for ip in pod.status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()) {
            addresses.occupy(ip);
        }
        pod.metadata.managed_fields = None;
        let uid = Uid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        match self.busy.get_mut(&uid) {
            Some(busy) if version(&pod) < busy.after => {}
            Some(busy) => {
                busy.newest = Arc::new(pod);
                if !busy.writing {
                    self.ready.push_back(uid);
                }
            }
            None if plan(&pod, Timestamp::now()) == Step::Nothing => {}
            None => {
                let busy = Busy { newest: Arc::new(pod), after: 0, writing: false, due: None, addresses: Vec::new() };
                self.busy.insert(uid.clone(), busy);
                self.ready.push_back(uid);
            }
        }
    }

    fn gone(&mut self, pod: &Input) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let given = self.forget(uid);
        let shown = pod.status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok());
        let node = pod.spec.node_name.as_deref().and_then(|name| self.nodes.get_mut(name));
        if let Some((_, addresses)) = node {
            shown.chain(given).for_each(|ip| addresses.free(ip));
        }
    }

    /// Forgets a pod; gives the addresses that it was given.
    fn forget(&mut self, uid: &str) -> Vec<IpAddr> {
        let Some((uid, busy)) = self.busy.remove_entry(uid) else { return Vec::new() };
        if let Some(due) = busy.due {
            self.due.remove(&(due, uid));
        }
        busy.addresses
    }

    /// Begins the writes that are due, as many as there is room for; says when the next one is.
    fn begin_writes(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        while let Some((time, _)) = self.due.first()
            && *time <= now
            && let Some((_, uid)) = self.due.pop_first()
        {
            if let Some(busy) = self.busy.get_mut(&uid) {
                busy.due = None;
            }
            self.ready.push_back(uid);
        }
        while self.writes.len() < WRITES
            && let Some(uid) = self.ready.pop_front()
        {
            self.next_step(uid, now);
        }
        self.due.first().map(|(time, _)| *time)
    }

    fn next_step(&mut self, uid: Uid, now: Timestamp) {
        let Some(busy) = self.busy.get_mut(&uid).filter(|busy| !busy.writing && version(&busy.newest) >= busy.after)
        else {
            return;
        };
        if let Some(due) = busy.due.take() {
            self.due.remove(&(due, uid.clone()));
        }
        let pod = busy.newest.clone();
        let status = match plan(&pod, now) {
            Step::Nothing => {
                self.forget(&uid);
                return;
            }
            Step::Wait(until) => {
                busy.due = Some(until);
                self.due.insert((until, uid));
                return;
            }
            Step::Delete => {
                busy.writing = true;
                self.writes.spawn(delete(self.client.clone(), uid, pod));
                return;
            }
            Step::Write(status) => status,
            Step::Start => {
                let name = pod.spec.node_name.as_deref().unwrap_or_default();
                let Some((ip, addresses)) = self.nodes.get_mut(name) else { return };
                if busy.addresses.is_empty() {
                    busy.addresses =
                        if pod.spec.host_network { vec![*ip] } else { addresses.take().unwrap_or_default() };
                }
                match busy.addresses.as_slice() {
                    [] if addresses.is_unset() => {
                        self.without_address.entry(name.to_owned()).or_default().push(uid);
                        return;
                    }
                    [] => refused(now),
                    given => running(&pod, *ip, given, now),
                }
            }
        };
        busy.writing = true;
        self.writes.spawn(write(self.client.clone(), uid, pod, status));
    }

    fn written(&mut self, done: Result<(Uid, Result<u64, kube::Error>), tokio::task::JoinError>) {
        let (uid, result) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a write of the simulator panicked");
                return;
            }
        };
        let Some(busy) = self.busy.get_mut(&uid) else { return };
        busy.writing = false;
        match result {
            Ok(version_made) => {
                busy.after = version_made;
                if version(&busy.newest) >= version_made {
                    self.ready.push_back(uid);
                }
            }
            // It is gone, or another pod has its name: its last event says the same.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a simulated pod could not be written");
                let until = Timestamp::now().saturating_add(RETRY).unwrap_or(Timestamp::MAX);
                busy.due = Some(until);
                self.due.insert((until, uid));
            }
        }
    }
}

fn names(pod: &Input) -> (&str, &str) {
    (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

async fn write(
    client: kube::Client,
    uid: Uid,
    pod: Arc<Input>,
    status: serde_json::Value,
) -> (Uid, Result<u64, kube::Error>) {
    let (namespace, name) = names(&pod);
    let change = json!({"metadata": {"uid": &*uid}, "status": status});
    let request = kube::core::Request::new(<Pod as kube::Resource>::url_path(&(), Some(namespace)));
    let request = request.patch_subresource("status", name, &PatchParams::default(), &Patch::Strategic(&change));
    let answer = match request {
        Ok(request) => client.request::<Answer>(request).await,
        Err(error) => Err(kube::Error::BuildRequest(error)),
    };
    (uid, answer.map(|answer| answer.metadata.resource_version.parse().unwrap_or(0)))
}

async fn delete(client: kube::Client, uid: Uid, pod: Arc<Input>) -> (Uid, Result<u64, kube::Error>) {
    let (namespace, name) = names(&pod);
    let only_this = Preconditions { uid: Some(uid.to_string()), resource_version: None };
    let params =
        DeleteParams { grace_period_seconds: Some(0), preconditions: Some(only_this), ..DeleteParams::default() };
    let request =
        kube::core::Request::new(<Pod as kube::Resource>::url_path(&(), Some(namespace))).delete(name, &params);
    let answer = match request {
        Ok(request) => client.request::<IgnoredAny>(request).await,
        Err(error) => Err(kube::Error::BuildRequest(error)),
    };
    // Nothing that happened before the deletion is of interest any more; finalizers of others may still change it.
    (uid, answer.map(|_| u64::MAX))
}
