//! The columns and rows of tables, as kubectl prints them.

mod access;
mod admission;
mod batch;
mod cell;
mod cluster;
mod csi;
mod device;
mod event;
mod network;
mod pod;
mod scaling;
mod storage;
mod workload;

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::Kind;
use cell::{age, name, text};

/// One column of a kind's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// The cells' JSON type.
    pub column_type: &'static str,
    /// What the cells mean: `name` marks the object's name.
    pub format: &'static str,
    /// What the column shows.
    pub description: &'static str,
    /// 0 is always shown, more only when wide.
    pub priority: i32,
}

impl Column {
    const fn new(name: &'static str, column_type: &'static str, description: &'static str) -> Column {
        Column { name, column_type, format: "", description, priority: 0 }
    }

    /// The column as a Table has it.
    pub(crate) fn definition(&self) -> Value {
        serde_json::json!({
            "name": self.name, "type": self.column_type, "format": self.format, "description": self.description,
            "priority": self.priority,
        })
    }

    const fn string(name: &'static str, description: &'static str) -> Column {
        Column::new(name, "string", description)
    }

    const fn integer(name: &'static str, description: &'static str) -> Column {
        Column::new(name, "integer", description)
    }

    const fn wide(mut self) -> Column {
        self.priority = 1;
        self
    }
}

/// The object's name, as the first column of nearly every table.
const NAME: Column = Column {
    name: "Name",
    column_type: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};

const CREATION: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// How long ago the object was created.
const AGE: Column = Column::string("Age", CREATION);
/// When the object was created.
const CREATED_AT: Column = Column::new("Created At", "date", CREATION);

/// One row of a kind's table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// One cell a column.
    pub cells: Vec<Value>,
    /// The row's conditions, as in `meta.k8s.io/v1` `TableRow`.
    pub conditions: Vec<Value>,
}

/// A kind's columns and what fills them.
type Table = (&'static [Column], fn(&Value, Timestamp) -> Vec<Value>);

const PLAIN: Table = (&[NAME, AGE], |object, now| vec![name(object), age(object, now)]);
const DATED: Table =
    (&[NAME, CREATED_AT], |object, _| vec![name(object), text(object, "/metadata/creationTimestamp").into()]);

fn table(kind: &Kind) -> Table {
    if kind.custom().is_some() {
        return PLAIN;
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::TABLE,
        ("", "PodTemplate") => workload::POD_TEMPLATES,
        ("", "ReplicationController") => workload::REPLICATION_CONTROLLERS,
        ("apps", "ReplicaSet") => workload::REPLICA_SETS,
        ("apps", "Deployment") => workload::DEPLOYMENTS,
        ("apps", "StatefulSet") => workload::STATEFUL_SETS,
        ("apps", "DaemonSet") => workload::DAEMON_SETS,
        ("apps", "ControllerRevision") => workload::CONTROLLER_REVISIONS,
        ("batch", "Job") => batch::JOBS,
        ("batch", "CronJob") => batch::CRON_JOBS,
        ("", "Service") => network::SERVICES,
        ("", "Endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICES,
        ("networking.k8s.io", "Ingress") => network::INGRESSES,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASSES,
        ("networking.k8s.io", "NetworkPolicy") => network::NETWORK_POLICIES,
        ("networking.k8s.io", "ServiceCIDR") => network::SERVICE_CIDRS,
        ("", "Node") => cluster::NODES,
        ("", "Namespace") => cluster::NAMESPACES,
        ("", "ConfigMap") => cluster::CONFIG_MAPS,
        ("", "Secret") => cluster::SECRETS,
        ("", "ServiceAccount") => cluster::SERVICE_ACCOUNTS,
        ("coordination.k8s.io", "Lease") => cluster::LEASES,
        ("scheduling.k8s.io", "PriorityClass") => cluster::PRIORITY_CLASSES,
        ("node.k8s.io", "RuntimeClass") => cluster::RUNTIME_CLASSES,
        ("apiregistration.k8s.io", "APIService") => cluster::API_SERVICES,
        ("" | "events.k8s.io", "Event") => event::TABLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => access::ROLE_BINDINGS,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => access::CLUSTER_ROLE_BINDINGS,
        ("certificates.k8s.io", "CertificateSigningRequest") => access::SIGNING_REQUESTS,
        ("", "PersistentVolume") => storage::VOLUMES,
        ("", "PersistentVolumeClaim") => storage::CLAIMS,
        ("storage.k8s.io", "StorageClass") => storage::CLASSES,
        ("storage.k8s.io", "CSIDriver") => csi::DRIVERS,
        ("storage.k8s.io", "CSINode") => csi::NODES,
        ("storage.k8s.io", "CSIStorageCapacity") => csi::CAPACITIES,
        ("storage.k8s.io", "VolumeAttachment") => csi::ATTACHMENTS,
        ("storage.k8s.io", "VolumeAttributesClass") => csi::ATTRIBUTES_CLASSES,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            admission::WEBHOOKS
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => admission::VALIDATING_POLICIES,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => admission::MUTATING_POLICIES,
        ("admissionregistration.k8s.io", _) => admission::BINDINGS,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => admission::FLOW_SCHEMAS,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => admission::PRIORITY_LEVELS,
        ("resource.k8s.io", "ResourceClaim") => device::CLAIMS,
        ("resource.k8s.io", "ResourceSlice") => device::SLICES,
        ("networking.k8s.io", "IPAddress") => device::ADDRESSES,
        ("", "ComponentStatus") => device::COMPONENTS,
        ("policy", "PodDisruptionBudget") => scaling::DISRUPTION_BUDGETS,
        ("autoscaling", "HorizontalPodAutoscaler") => scaling::AUTOSCALERS,
        // Upstream has no printer for these, and then shows the moment of creation.
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
        | ("apiextensions.k8s.io", "CustomResourceDefinition")
        | ("", "LimitRange") => DATED,
        _ => PLAIN,
    }
}

pub(crate) fn columns(kind: &Kind) -> &'static [Column] {
    table(kind).0
}

pub(crate) fn row(kind: &Kind, object: &Value, now: Timestamp) -> Row {
    if let Some(custom) = kind.custom() {
        return Row { cells: crate::custom::cells::row(custom, object, now), conditions: Vec::new() };
    }
    if &*kind.kind == "HorizontalPodAutoscaler" && !kind.is_storage_version() {
        // The columns are made for the second version.
        let mut second = object.clone();
        kind.to_storage(&mut second);
        return Row { cells: table(kind).1(&second, now), conditions: Vec::new() };
    }
    let conditions = if kind.group.is_empty() && &*kind.kind == "Pod" { pod::conditions(object) } else { Vec::new() };
    Row { cells: table(kind).1(object, now), conditions }
}

#[cfg(test)]
mod tests;
