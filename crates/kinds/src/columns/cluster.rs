//! Nodes, namespaces, configuration and the smaller kinds around them.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::{NONE, UNKNOWN, age, condition, count, flag, int, list, name, or_none, text, text_or};
use super::{AGE, Column, NAME, Table};

pub(super) const NODES: Table = (
    &[
        NAME,
        Column::string("Status", "The status of the node"),
        Column::string("Roles", "The roles of the node"),
        AGE,
        Column::string("Version", "Kubelet Version reported by the node."),
        Column::string("Internal-IP", "List of addresses reachable to the node.").wide(),
        Column::string("External-IP", "List of addresses reachable to the node.").wide(),
        Column::string(
            "OS-Image",
            "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
        )
        .wide(),
        Column::string(
            "Kernel-Version",
            "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
        )
        .wide(),
        Column::string(
            "Container-Runtime",
            "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
        )
        .wide(),
    ],
    node,
);

fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(node, "Ready").map(|ready| text(ready, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(node, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let role = |(key, value): (&'_ String, &'_ Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let found = list(node, "/status/addresses").iter().find(|address| address["type"] == kind);
        found.map_or(NONE, |address| text_or(address, "/address", NONE))
    };
    let info = |field: &str| text_or(node, &format!("/status/nodeInfo/{field}"), UNKNOWN).to_owned();
    vec![
        name(node),
        status.into(),
        or_none(roles.join(",")).into(),
        age(node, now),
        text(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

pub(super) const NAMESPACES: Table =
    (&[NAME, Column::string("Status", "The status of the namespace"), AGE], |object, now| {
        vec![name(object), text(object, "/status/phase").into(), age(object, now)]
    });

pub(super) const CONFIG_MAPS: Table = (
    &[
        NAME,
        Column::string(
            "Data",
            "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'.",
        ),
        AGE,
    ],
    |object, now| vec![name(object), (count(object, "/data") + count(object, "/binaryData")).into(), age(object, now)],
);

pub(super) const SECRETS: Table = (
    &[
        NAME,
        Column::string("Type", "Used to facilitate programmatic handling of secret data."),
        Column::string(
            "Data",
            "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'.",
        ),
        AGE,
    ],
    |object, now| vec![name(object), text(object, "/type").into(), count(object, "/data").into(), age(object, now)],
);

pub(super) const SERVICE_ACCOUNTS: Table = (
    &[
        NAME,
        Column::string(
            "Secrets",
            "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.",
        ),
        AGE,
    ],
    |object, now| vec![name(object), count(object, "/secrets").into(), age(object, now)],
);

pub(super) const LEASES: Table = (
    &[NAME, Column::string("Holder", "holderIdentity contains the identity of the holder of a current lease."), AGE],
    |object, now| vec![name(object), text(object, "/spec/holderIdentity").into(), age(object, now)],
);

pub(super) const PRIORITY_CLASSES: Table = (
    &[
        NAME,
        Column::integer(
            "Value",
            "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
        ),
        Column::new(
            "Global-Default",
            "boolean",
            "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
        ),
        AGE,
        Column::string(
            "PreemptionPolicy",
            "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority.",
        ),
    ],
    |object, now| {
        vec![
            name(object),
            int(object, "/value").into(),
            flag(object, "/globalDefault").into(),
            age(object, now),
            text(object, "/preemptionPolicy").into(),
        ]
    },
);

pub(super) const RUNTIME_CLASSES: Table = (
    &[
        NAME,
        Column::string(
            "Handler",
            "handler specifies the underlying runtime and configuration that the CRI implementation will use to handle pods of this class.",
        ),
        AGE,
    ],
    |object, now| vec![name(object), text(object, "/handler").into(), age(object, now)],
);

pub(super) const API_SERVICES: Table = (
    &[
        NAME,
        Column::string("Service", "The reference to the service that hosts this API endpoint."),
        Column::string("Available", "Whether this service is available."),
        AGE,
    ],
    |object, now| {
        let service = object.pointer("/spec/service").map_or_else(
            || "Local".to_owned(),
            |service| format!("{}/{}", text(service, "/namespace"), text(service, "/name")),
        );
        let available = match condition(object, "Available") {
            None => "Unknown".to_owned(),
            Some(available) if available["status"] == "True" => "True".to_owned(),
            Some(available) => format!("{} ({})", text(available, "/status"), text(available, "/reason")),
        };
        vec![name(object), service.into(), available.into(), age(object, now)]
    },
);
