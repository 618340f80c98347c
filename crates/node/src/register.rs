//! The Node object: registered at the start, its status written when something changed or five minutes have passed; and the
//! Lease that says the node is alive, every ten seconds in a task of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kobune_network::cni::Plugins;
use kobune_runtime::Image;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::ledger::Totals;
use crate::machine::{self, Disk, Machine};
use crate::node_events;
use crate::plugins;
use crate::status::time;

/// How often the lease is renewed, upstream's figure for a lease of 40 s.
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often the machine is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// An unchanged status is written this often.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// How soon a failed registration or write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// So many images are listed, and so many names of each: upstream's limits.
const IMAGES: usize = 50;
const IMAGE_NAMES: usize = 5;

/// What the machine looks like at a moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The file system of the data folder.
    pub disk: Disk,
    /// Conditions of pressure that hold.
    pub pressure: Vec<&'static str>,
    /// Why pods cannot be attached to the network, if so.
    pub network: Option<String>,
    /// Images in the store.
    pub images: Vec<Image>,
    /// Why the container runtime can run no pods.
    pub trouble: Option<String>,
    /// Devices by resource: how many there are, and how many of them can be used.
    pub devices: BTreeMap<String, (usize, usize)>,
    /// The time.
    pub now: Timestamp,
}

async fn look(context: &Context) -> Look {
    Look {
        disk: machine::disk(&context.config.data_dir).unwrap_or_default(),
        pressure: context.pressure.all(),
        network: plugins::problem(context),
        images: context.config.runtime.list_images().await,
        trouble: context.config.runtime.trouble(),
        devices: context.devices.amounts(),
        now: Timestamp::now(),
    }
}

/// What of a node does not change while it runs.
struct Facts<'a> {
    ips: &'a [IpAddr],
    name: &'a str,
    port: u16,
    max_pods: u32,
    version: &'a str,
    /// The container runtime's name and version.
    runtime: &'a str,
    machine: &'a Machine,
    reserved: Totals,
    handlers: &'a [String],
}

/// What the status says of an OCI runtime.
fn runtime_handler(name: &str) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(true),
            // Owners are mapped before the runtime is called; one that runs no Linux containers has nothing of it.
            user_namespaces: Some(!name.starts_with("kata") && name != "runsc"),
        }),
    }
}

/// The node's status. Pure.
fn node_status(node: &Facts<'_>, look: &Look, old: &NodeStatus) -> NodeStatus {
    let quantity = |value: String| Quantity(value);
    // Rounded to whole mebibytes so that a moment's change of a file system is no change of the status.
    let disk = (look.disk.size >> 20 << 20).to_string();
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", node.machine.cpus.to_string()),
        ("memory", format!("{}Ki", node.machine.memory / 1024)),
        ("ephemeral-storage", disk),
        ("pods", node.max_pods.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), quantity(value)))
    .collect();
    let (mut capacity, mut allocatable) = (resources.clone(), resources);
    let memory = format!("{}Ki", node.machine.free_memory(node.reserved.memory) / 1024);
    allocatable.insert("memory".to_owned(), quantity(memory));
    if node.reserved.cpu > 0 {
        let milli = node.machine.milli_cpus(node.reserved.cpu);
        let cpus = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
        allocatable.insert("cpu".to_owned(), quantity(cpus));
    }
    if node.reserved.storage > 0 {
        let disk = look.disk.less(node.reserved.storage) >> 20 << 20;
        allocatable.insert("ephemeral-storage".to_owned(), quantity(disk.to_string()));
    }
    for (resource, bytes) in &node.machine.hugepages {
        let amount = if bytes % 1024 == 0 && *bytes > 0 { format!("{}Ki", bytes / 1024) } else { bytes.to_string() };
        capacity.insert(resource.clone(), quantity(amount.clone()));
        allocatable.insert(resource.clone(), quantity(amount));
    }
    for (resource, amount) in old.capacity.iter().flatten().filter(|(resource, _)| is_extended(resource)) {
        capacity.insert(resource.clone(), amount.clone());
        allocatable.insert(resource.clone(), amount.clone());
    }
    for (resource, (all, usable)) in &look.devices {
        capacity.insert(resource.clone(), quantity(all.to_string()));
        allocatable.insert(resource.clone(), quantity(usable.to_string()));
    }
    let short = |condition: &str| look.pressure.contains(&condition);
    let condition = |kind: &str, bad: bool, good_reason: &str, good: &str, bad_reason: &str, bad_text: &str| {
        let (status, reason, message) = if bad { ("True", bad_reason, bad_text) } else { ("False", good_reason, good) };
        (kind.to_owned(), status, reason.to_owned(), message.to_owned())
    };
    // Upstream: `ReadyCondition` in `pkg/kubelet/nodestatus/setters.go`.
    let ready = match look.trouble.as_ref().or(look.network.as_ref()) {
        None => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(trouble) => ("False", "KubeletNotReady", trouble.clone()),
    };
    let own = [
        condition(
            "MemoryPressure",
            short("MemoryPressure"),
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        condition(
            "DiskPressure",
            short("DiskPressure"),
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
        ),
        condition(
            "PIDPressure",
            short("PIDPressure"),
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        ),
        ("Ready".to_owned(), ready.0, ready.1.to_owned(), ready.2),
    ];
    let known = |kind: &str| old.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let mut conditions: Vec<NodeCondition> = own
        .iter()
        .map(|(kind, status, reason, message)| NodeCondition {
            type_: kind.clone(),
            status: (*status).to_owned(),
            reason: Some(reason.clone()),
            message: Some(message.clone()),
            last_heartbeat_time: Some(time(look.now)),
            last_transition_time: known(kind)
                .filter(|before| before.status == *status)
                .and_then(|before| before.last_transition_time.clone())
                .or_else(|| Some(time(look.now))),
        })
        .collect();
    let foreign =
        old.conditions.iter().flatten().filter(|condition| !own.iter().any(|(kind, ..)| *kind == condition.type_));
    conditions.extend(foreign.cloned());
    let mut images: Vec<ContainerImage> = look
        .images
        .iter()
        .map(|image| {
            let names = image.digests.iter().chain(&image.tags).take(IMAGE_NAMES).cloned().collect();
            ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
        })
        .collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    images.truncate(IMAGES);
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let internal = node.ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    NodeStatus {
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions),
        addresses: Some(internal.chain([address("Hostname", node.name.to_owned())]).collect()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(node.port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: node.machine.architecture.clone(),
            boot_id: node.machine.boot_id.clone(),
            container_runtime_version: node.runtime.to_owned(),
            kernel_version: node.machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: node.version.to_owned(),
            machine_id: node.machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: node.machine.os_image.clone(),
            system_uuid: node.machine.system_uuid.clone(),
            swap: None,
        }),
        images: Some(images),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(node.handlers.iter().map(|name| runtime_handler(name)).collect()),
        ..old.clone()
    }
}

fn labels(context: &Context) -> BTreeMap<String, String> {
    let config = &context.config;
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/arch", context.machine.architecture.as_str()),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", context.machine.architecture.as_str()),
        ("beta.kubernetes.io/os", "linux"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The part of a status that counts as a change: all but the heartbeats.
fn substance(status: &NodeStatus) -> Value {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None::<Time>;
    }
    serde_json::to_value(status).unwrap_or_default()
}

/// Whether a resource is of a domain of its own: others than the node may say how much of it there is, by writing the
/// node's capacity. Upstream: `IsExtendedResourceName` in `pkg/apis/core/v1/helper`.
fn is_extended(resource: &str) -> bool {
    resource.contains('/') && !resource.contains("kubernetes.io/") && !resource.starts_with("requests.")
}

/// Whether somebody has changed the capacity of an extended resource that the node has no devices for, and what can be
/// allocated does not say so yet. Upstream: `MachineInfo` in `pkg/kubelet/nodestatus/setters.go`. Pure.
fn lags(status: &NodeStatus, devices: &BTreeMap<String, (usize, usize)>) -> bool {
    let extended = |list: &Option<BTreeMap<String, Quantity>>| -> BTreeMap<String, Quantity> {
        let entries = list.iter().flatten();
        let foreign = entries.filter(|(resource, _)| is_extended(resource) && !devices.contains_key(*resource));
        foreign.map(|(resource, amount)| (resource.clone(), amount.clone())).collect()
    };
    extended(&status.capacity) != extended(&status.allocatable)
}

/// Registers the node and keeps its status current until the token is cancelled.
pub async fn keep_status(context: Arc<Context>, port: u16, token: CancellationToken) {
    let api: Api<Node> = Api::all(context.config.client.clone());
    let mut written: Option<(Value, Instant)> = None;
    let mut warned = false;
    let own = watcher::watch_object(api.clone(), &context.config.name).default_backoff();
    let mut own = std::pin::pin!(own);
    let mut network = context.config.network.plugins().map(Plugins::status);
    node_events::starting(&context.events, &context.config.name);
    loop {
        let result = pass(&context, &api, port, &mut written).await;
        let delay = match &result {
            Ok(()) => {
                warned = false;
                LOOK_EVERY
            }
            Err(error) => {
                if !warned {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "the node's status was not written, trying again"
                    );
                }
                warned = true;
                RETRY
            }
        };
        // Dropping the timer loses nothing.
        tokio::select! {
            () = token.cancelled() => return,
            () = context.pressure.changed() => {}
            () = context.devices.changed() => {}
            () = plugins::changed(network.as_mut()) => {}
            () = changed_by_others(&mut own, &context) => written = None,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Ends when the capacity of an extended resource was changed by others. What is heard of the node otherwise is passed
/// over: the watch tells of the node's own writes too.
async fn changed_by_others<S>(own: &mut S, context: &Context)
where
    S: Stream<Item = Result<Option<Node>, watcher::Error>> + Unpin,
{
    while let Some(heard) = own.next().await {
        match heard {
            Ok(node) => {
                let status = node.and_then(|node| node.status).unwrap_or_default();
                if lags(&status, &context.devices.amounts()) {
                    return;
                }
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the node is not watched"),
        }
    }
    std::future::pending().await
}

async fn pass(
    context: &Arc<Context>,
    api: &Api<Node>,
    port: u16,
    written: &mut Option<(Value, Instant)>,
) -> Result<(), kube::Error> {
    let config = &context.config;
    let look = look(context).await;
    let (handlers, runtime) = (config.runtime.handlers().unwrap_or_default(), config.runtime.version());
    let compute = |old: &NodeStatus| {
        let facts = Facts {
            ips: &config.node_ips,
            name: &config.name,
            port,
            max_pods: config.max_pods,
            version: &config.version,
            runtime: &runtime,
            machine: &context.machine,
            reserved: context.kept,
            handlers: &handlers,
        };
        node_status(&facts, &look, old)
    };
    if let Some((known, at)) = written
        && at.elapsed() < STATUS_EVERY
    {
        let old: NodeStatus = serde_json::from_value(known.clone()).unwrap_or_default();
        if substance(&compute(&old)) == *known {
            return Ok(());
        }
    }
    let node = match api.get_opt(&config.name).await? {
        Some(node) => node,
        None => register(context, api).await?,
    };
    let wanted = labels(context);
    let has = node.metadata.labels.clone().unwrap_or_default();
    if wanted.iter().any(|(key, value)| has.get(key) != Some(value)) {
        api.patch(&config.name, &PatchParams::default(), &Patch::Strategic(json!({"metadata": {"labels": wanted}})))
            .await?;
    }
    let old = node.status.clone().unwrap_or_default();
    let made = compute(&old);
    let patch = json!({"status": status_patch(&old, &made)});
    api.patch_status(&config.name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
    node_events::tell(&context.events, &config.name, &old, &made);
    *written = Some((substance(&made), Instant::now()));
    Ok(())
}

/// What differs, with lists that merge by key whole.
fn status_patch(old: &NodeStatus, new: &NodeStatus) -> Value {
    let (old, new) = (serde_json::to_value(old).unwrap_or_default(), serde_json::to_value(new).unwrap_or_default());
    let mut changes = serde_json::Map::new();
    for (key, value) in new.as_object().into_iter().flatten() {
        if old.get(key) != Some(value) {
            let mut value = value.clone();
            if let ("capacity" | "allocatable", Some(amounts), Some(before)) =
                (key.as_str(), value.as_object_mut(), old.get(key).and_then(Value::as_object))
            {
                // Maps merge: what is no more has to be taken away by name.
                let gone: Vec<String> = before.keys().filter(|name| !amounts.contains_key(*name)).cloned().collect();
                amounts.extend(gone.into_iter().map(|name| (name, Value::Null)));
            }
            if key == "addresses"
                && let Some(list) = value.as_array_mut()
            {
                // Addresses merge by type, of which a node of two families has one twice: the list replaces the other.
                // Upstream: `fixupPatchForNodeStatusAddresses` in `staging/src/k8s.io/component-helpers/node/util`.
                list.push(json!({"$patch": "replace"}));
            }
            changes.insert(key.clone(), value);
        }
    }
    Value::Object(changes)
}

async fn register(context: &Arc<Context>, api: &Api<Node>) -> Result<Node, kube::Error> {
    let config = &context.config;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(labels(context)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: config.pod_cidrs.first().cloned(),
            pod_cidrs: (!config.pod_cidrs.is_empty()).then(|| config.pod_cidrs.clone()),
            ..NodeSpec::default()
        }),
        ..Node::default()
    };
    match api.create(&PostParams::default(), &node).await {
        Ok(node) => {
            tracing::info!(node = config.name, "registered the node");
            Ok(node)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(&config.name).await,
        Err(error) => Err(error),
    }
}

/// Renews the node's lease until the token is cancelled.
pub async fn keep_lease(context: Arc<Context>, token: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(context.config.client.clone(), "kube-node-lease");
    let mut ours = false;
    let mut ticks = tokio::time::interval(LEASE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut warned = false;
    loop {
        // Dropping the tick loses nothing.
        tokio::select! {
            () = token.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match renew(&context, &api, &mut ours).await {
            Ok(()) => warned = false,
            Err(error) => {
                if !warned {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the node's lease was not renewed, trying again"
                    );
                }
                warned = true;
                ticks.reset_after(RETRY);
            }
        }
    }
}

async fn renew(context: &Arc<Context>, api: &Api<Lease>, ours: &mut bool) -> Result<(), kube::Error> {
    let name = &context.config.name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    if *ours {
        match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => *ours = false,
            Err(error) => return Err(error),
        }
    }
    // The node controller removes leases whose owner is gone.
    let node = Api::<Node>::all(context.config.client.clone()).get_opt(name).await?;
    let owner = node.and_then(|node| node.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec.clone()),
    };
    match api.create(&PostParams::default(), &lease).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
        }
        Err(error) => return Err(error),
    }
    *ours = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_add_to_the_capacity_can_be_allocated() {
        let amounts = |list: &[(&str, &str)]| -> Option<BTreeMap<String, Quantity>> {
            Some(list.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect())
        };
        let status = |capacity: &[(&str, &str)], allocatable: &[(&str, &str)]| NodeStatus {
            capacity: amounts(capacity),
            allocatable: amounts(allocatable),
            ..NodeStatus::default()
        };
        let devices = BTreeMap::from([("example.com/gpu".to_owned(), (2, 1))]);
        let foo = ("scheduling.k8s.io/foo", "3");
        assert!(!lags(&status(&[("cpu", "2")], &[("cpu", "1")]), &devices));
        assert!(!lags(&status(&[("example.com/gpu", "2")], &[("example.com/gpu", "1")]), &devices));
        assert!(!lags(&status(&[foo], &[foo]), &devices));
        assert!(lags(&status(&[foo], &[]), &devices));
        assert!(lags(&status(&[], &[foo]), &devices));
        assert!(!lags(&status(&[("x.kubernetes.io/foo", "3")], &[]), &devices));
        // What is no more is taken away by name, or the map would keep it.
        let patch = status_patch(&status(&[], &[foo]), &status(&[], &[]));
        assert_eq!(patch, json!({"allocatable": {"scheduling.k8s.io/foo": null}}));
    }

    #[test]
    fn a_status_changes_only_with_its_substance() {
        let machine =
            Machine { cpus: 2, memory: 1 << 30, pid_max: 1000, architecture: "amd64".into(), ..Machine::default() };
        let facts = Facts {
            ips: &[IpAddr::from([192, 0, 2, 1])],
            name: "n",
            port: 10250,
            max_pods: 110,
            version: "v1.36.0",
            runtime: "kobune://1",
            machine: &machine,
            reserved: Totals::default(),
            handlers: &[],
        };
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let disk = Disk { size: 100 << 30, available: 50 << 30, inodes: 100, inodes_free: 50 };
        let look = Look { disk, now: at(1000), ..Look::default() };
        let make = |look: &Look, old: &NodeStatus| node_status(&facts, look, old);
        let first = make(&look, &NodeStatus::default());
        let later = Look { now: at(2000), disk: Disk { available: 49 << 30, ..disk }, ..look.clone() };
        let second = make(&later, &first);
        assert_eq!(substance(&first), substance(&second));
        let known: NodeStatus = serde_json::from_value(substance(&first)).expect("a status");
        assert_eq!(substance(&make(&later, &known)), substance(&first));
        let short = Look { pressure: vec!["MemoryPressure"], ..later };
        let third = make(&short, &second);
        let pressure = third
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "MemoryPressure")
            .expect("the condition");
        assert_eq!(
            (pressure.status.as_str(), pressure.reason.as_deref()),
            ("True", Some("KubeletHasInsufficientMemory"))
        );
        assert_eq!(pressure.last_transition_time, Some(time(at(2000))));
        let ready =
            third.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").expect("the condition");
        assert_eq!(ready.last_transition_time, Some(time(at(1000))));
        let cut_off = Look { network: Some("no network".to_owned()), ..short };
        let fourth = make(&cut_off, &third);
        let ready =
            fourth.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").expect("the condition");
        let said = (ready.status.as_str(), ready.reason.as_deref(), ready.message.as_deref());
        assert_eq!(said, ("False", Some("KubeletNotReady"), Some("no network")));
    }
}
