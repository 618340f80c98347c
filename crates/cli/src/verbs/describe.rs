//! `kobune describe`: objects with what is around them, in `kubectl describe`'s words (`k8s.io/kubectl/pkg/describe`).
//!
//! A description is a pure function of an object and of what was read beside it ([`Related`]); the kinds stand in one
//! table, whatever is not in it is described field by field.

mod access;
mod gather;
mod generic;
mod metadata;
mod nodes;
mod pods;
mod policy;
mod read;
mod services;
mod storage;
mod volumes;
mod workloads;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::outcome::{self, Failures};
use super::selection;
use super::{PlaceOptions, from_server};
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::object::ObjectRef;
use crate::{manifests, request};
pub(super) use read::since;
use writer::Writer;

/// The flags of `describe`.
#[derive(Debug, Clone, Args)]
pub struct DescribeOptions {
    /// TYPE [NAME...], TYPE/NAME..., or TYPE PREFIX for all objects whose names begin so
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// What these manifests name
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["arguments", "selector"])]
    pub filename: Vec<PathBuf>,
    /// Take everything below a folder, not only what is in it
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Print what happened to the objects, too
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub show_events: bool,
    /// How many objects are asked for at once; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub chunk_size: usize,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// What stands around an object, as far as its kind's description needs it.
#[derive(Debug, Default)]
pub struct Related {
    events: Option<Vec<Value>>,
    pods: Vec<Value>,
    pods_error: Option<String>,
    replica_sets: Vec<Value>,
    slices: Vec<Value>,
    backends: HashMap<String, std::result::Result<(Value, Vec<Value>), String>>,
    quotas: Option<Vec<Value>>,
    limit_ranges: Option<Vec<Value>>,
    lease: Option<std::result::Result<Value, String>>,
}

impl Related {
    fn events(&self) -> Option<&[Value]> {
        self.events.as_deref()
    }
}

/// What is read beside an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing but, perhaps, its events.
    Events,
    /// Not even events.
    Nothing,
    /// The pods that its selector finds.
    Pods,
    /// The ReplicaSets that its selector finds.
    ReplicaSets,
    /// The pods of its namespace.
    NamespacePods,
    /// The EndpointSlices of a Service.
    Slices,
    /// The Services of an Ingress.
    Backends,
    /// The quotas and limits of a Namespace.
    Bounds,
    /// The pods and the lease of a Node.
    Node,
}

type Describer = fn(&mut Writer, &Value, &Related, Timestamp);

/// The kinds with descriptions of their own.
const KINDS: &[(&str, &str, Need, Describer)] = &[
    ("", "Pod", Need::Events, pods::pod),
    ("", "ReplicationController", Need::Pods, workloads::replication_controller),
    ("", "Secret", Need::Nothing, access::secret),
    ("", "Service", Need::Slices, services::service),
    ("", "ServiceAccount", Need::Events, access::service_account),
    ("", "Node", Need::Node, nodes::node),
    ("", "LimitRange", Need::Nothing, policy::limit_range),
    ("", "ResourceQuota", Need::Nothing, policy::quota),
    ("", "PersistentVolume", Need::Events, storage::persistent_volume),
    ("", "PersistentVolumeClaim", Need::NamespacePods, storage::persistent_volume_claim),
    ("", "Namespace", Need::Bounds, policy::namespace),
    ("", "Endpoints", Need::Events, services::endpoints),
    ("", "ConfigMap", Need::Events, access::config_map),
    ("discovery.k8s.io", "EndpointSlice", Need::Events, services::endpoint_slice),
    ("autoscaling", "HorizontalPodAutoscaler", Need::Events, policy::autoscaler),
    ("networking.k8s.io", "Ingress", Need::Backends, services::ingress),
    ("networking.k8s.io", "IngressClass", Need::Events, services::ingress_class),
    ("networking.k8s.io", "ServiceCIDR", Need::Events, services::service_cidr),
    ("networking.k8s.io", "IPAddress", Need::Events, services::ip_address),
    ("networking.k8s.io", "NetworkPolicy", Need::Nothing, services::network_policy),
    ("batch", "Job", Need::Events, workloads::job),
    ("batch", "CronJob", Need::Events, workloads::cron_job),
    ("apps", "StatefulSet", Need::Pods, workloads::stateful_set),
    ("apps", "Deployment", Need::ReplicaSets, workloads::deployment),
    ("apps", "DaemonSet", Need::Pods, workloads::daemon_set),
    ("apps", "ReplicaSet", Need::Pods, workloads::replica_set),
    ("certificates.k8s.io", "CertificateSigningRequest", Need::Events, access::signing_request),
    ("storage.k8s.io", "StorageClass", Need::Events, storage::storage_class),
    ("storage.k8s.io", "CSINode", Need::Events, storage::csi_node),
    ("storage.k8s.io", "VolumeAttributesClass", Need::Events, storage::volume_attributes_class),
    ("policy", "PodDisruptionBudget", Need::Events, policy::disruption_budget),
    ("rbac.authorization.k8s.io", "Role", Need::Nothing, access::role),
    ("rbac.authorization.k8s.io", "ClusterRole", Need::Nothing, access::role),
    ("rbac.authorization.k8s.io", "RoleBinding", Need::Nothing, access::binding),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", Need::Nothing, access::binding),
    ("scheduling.k8s.io", "PriorityClass", Need::Events, storage::priority_class),
];

fn describer(group: &str, kind: &str) -> (Need, Describer) {
    let known = KINDS.iter().find(|(known_group, known_kind, ..)| *known_group == group && *known_kind == kind);
    known.map_or((Need::Events, generic::object as Describer), |(_, _, need, describer)| (*need, *describer))
}

/// The description of an object.
fn text(group: &str, kind: &str, object: &Value, related: &Related, now: Timestamp) -> String {
    let mut writer = Writer::new();
    describer(group, kind).1(&mut writer, object, related, now);
    writer.finish()
}

/// Describes objects.
pub async fn describe(options: DescribeOptions) -> Result<ExitCode> {
    outcome::told(run(options)).await
}

async fn run(options: DescribeOptions) -> Result<ExitCode> {
    if options.arguments.is_empty() && options.filename.is_empty() {
        bail!(
            "You must specify the type of resource to describe. Use \"kobune api-resources\" for a complete list of supported resources."
        );
    }
    let cluster = options.place.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let namespace = options.place.namespace(&cluster);
    let mut failures = Failures::default();
    let mut found = chosen(&options, &cluster, &discovery, &mut failures).await?;
    let mut prefix = None;
    if let ([kind, start], true) = (options.arguments.as_slice(), failures.only_not_found())
        && let [selected] = selection::select(&discovery, std::slice::from_ref(kind))?.as_slice()
    {
        let all = list(&cluster, &selected.resource, Some(&namespace), &options).await.map_err(from_server)?;
        found = all.into_iter().filter(|(_, object)| object.name.starts_with(start)).collect();
        if !found.is_empty() {
            failures = Failures::default();
            prefix = Some(start);
        }
    }
    let now = Timestamp::now();
    let mut printed = false;
    for (resource, object) in &found {
        match one(&cluster, resource, object, &options, now).await {
            Ok(text) if prefix.is_some() => outcome::write(&format!("{text}\n"))?,
            Ok(text) => {
                outcome::write(&format!("{}{text}", if printed { "\n\n" } else { "" }))?;
                printed = true;
            }
            Err(error) => failures.add(error),
        }
    }
    if found.is_empty() && failures.is_empty() {
        match options.all_namespaces {
            true => eprintln!("No resources found"),
            false => eprintln!("No resources found in {namespace} namespace."),
        }
    }
    Ok(failures.tell())
}

/// The objects that are meant.
async fn chosen(
    options: &DescribeOptions,
    cluster: &Cluster,
    discovery: &Discovery,
    failures: &mut Failures,
) -> Result<Vec<(Resource, ObjectRef)>> {
    let namespace = options.place.namespace(cluster);
    let mut found = Vec::new();
    outcome::check_paths(&options.filename)?;
    for manifest in
        if options.filename.is_empty() { Vec::new() } else { manifests::read(&options.filename, options.recursive)? }
    {
        let object = ObjectRef::of(&manifest.value);
        let Some(resource) = discovery.of_object(&object) else {
            let (kind, version) = (&object.kind, &object.api_version);
            failures.add(format!("no matches for kind {kind:?} in version {version:?}"));
            continue;
        };
        let place = object.namespace.clone().unwrap_or_else(|| namespace.clone());
        found.push((resource.clone(), ObjectRef { namespace: resource.namespaced.then_some(place), ..object }));
    }
    let selected =
        if options.arguments.is_empty() { Vec::new() } else { selection::select(discovery, &options.arguments)? };
    for one in selected {
        let resource = &one.resource;
        if one.names.is_empty() {
            let place = (!options.all_namespaces).then_some(namespace.as_str());
            match list(cluster, resource, place, options).await {
                Ok(objects) => found.extend(objects),
                Err(error) => failures.add(from_server(error)),
            }
            continue;
        }
        if options.all_namespaces {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        if options.selector.is_some() {
            bail!("name cannot be provided when a selector is specified");
        }
        for name in &one.names {
            let path = resource.object_path(Some(&namespace), name);
            match request::send(&cluster.client, Method::GET, &path, None, "application/json").await {
                Ok(answer) => found.push((resource.clone(), reference(resource, &answer.body))),
                Err(error) => failures.refused(error),
            }
        }
    }
    Ok(found)
}

fn reference(resource: &Resource, object: &Value) -> ObjectRef {
    ObjectRef { api_version: resource.api_version(), kind: resource.kind.clone(), ..ObjectRef::of(object) }
}

async fn list(
    cluster: &Cluster,
    resource: &Resource,
    namespace: Option<&str>,
    options: &DescribeOptions,
) -> std::result::Result<Vec<(Resource, ObjectRef)>, request::RequestError> {
    let selector = options.selector.as_deref().map(|text| format!("labelSelector={}", request::query(text)));
    let found =
        gather::list(cluster, &resource.path(namespace), &selector.unwrap_or_default(), options.chunk_size).await?;
    Ok(found.iter().map(|object| (resource.clone(), reference(resource, object))).collect())
}

/// Reads an object and what is around it, and describes it.
async fn one(
    cluster: &Cluster,
    resource: &Resource,
    object: &ObjectRef,
    options: &DescribeOptions,
    now: Timestamp,
) -> Result<String> {
    let (need, _) = describer(&resource.group, &resource.kind);
    let gatherer = gather::Gatherer { cluster, chunk_size: options.chunk_size, show_events: options.show_events };
    let mut resource = resource.clone();
    if resource.kind == "HorizontalPodAutoscaler" {
        // The older version cannot say everything.
        resource.version = "v2".to_owned();
    }
    let path = resource.object_path(object.namespace.as_deref(), &object.name);
    let found = match request::send(&cluster.client, Method::GET, &path, None, "application/json").await {
        Ok(answer) => {
            outcome::warn(&answer.warnings);
            answer.body
        }
        Err(error) if resource.kind == "Pod" && resource.group.is_empty() && options.show_events => {
            return gatherer.lost_pod(object, error, now).await;
        }
        Err(error) => return Err(from_server(error)),
    };
    if resource.kind == "CertificateSigningRequest" {
        access::check_signing_request(&found).map_err(anyhow::Error::msg)?;
    }
    let related = gatherer.related(need, &resource.kind, &found).await.map_err(from_server)?;
    Ok(text(&resource.group, &resource.kind, &found, &related, now))
}

/// A pod template as `rollout history --revision` prints it, whose columns kubectl leaves to the terminal's tabs.
pub(super) fn template(template: &Value) -> String {
    let mut writer = Writer::new();
    pods::template(&mut writer, template);
    writer.unaligned()
}

#[cfg(test)]
mod tests;
