//! The objects of a simulated node.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};

use crate::Config;

/// What a simulated node has.
#[derive(Clone, Debug)]
pub struct Size {
    /// Processors, as a quantity.
    pub cpu: String,
    /// Memory, as a quantity.
    pub memory: String,
    /// How many pods it takes.
    pub pods: u32,
}

/// The namespace of nodes' leases.
pub const LEASES: &str = "kube-node-lease";
/// The label that tells simulated nodes from others.
pub const SIMULATED: &str = "simulator.kobune.dev/simulated";
/// How long a lease says that it holds, as the kubelet's.
const LEASE_SECONDS: i32 = 40;
/// What a kubelet reports, each with the status that says that all is well.
const CONDITIONS: [(&str, &str, &str, &str); 4] = [
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
];

/// The name of the node with this number.
pub fn name(number: u32) -> String {
    format!("simulated-{number}")
}

/// The node's own address, in the range that is set aside for measuring (RFC 2544): nothing answers there.
pub fn address(number: u32) -> std::net::IpAddr {
    const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 1]);
    std::net::Ipv4Addr::from(FIRST + number % 0x1_fffe).into()
}

/// The node with this number, with its status.
pub fn object(config: &Config, number: u32, now: Timestamp) -> Node {
    let name = name(number);
    let mut labels = config.labels.clone();
    let own = [
        ("kubernetes.io/hostname", name.clone()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", architecture().to_owned()),
        ("topology.kubernetes.io/zone", format!("zone-{}", number % config.zones.max(1))),
        (SIMULATED, "true".to_owned()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    let amounts: BTreeMap<String, Quantity> = [
        ("cpu", config.size.cpu.clone()),
        ("memory", config.size.memory.clone()),
        ("ephemeral-storage", "100Gi".to_owned()),
        ("pods", config.size.pods.to_string()),
    ]
    .map(|(resource, amount)| (resource.to_owned(), Quantity(amount)))
    .into();
    let conditions = CONDITIONS.map(|(type_, status, reason, message)| NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    let addresses = vec![
        NodeAddress { type_: "InternalIP".to_owned(), address: address(number).to_string() },
        NodeAddress { type_: "Hostname".to_owned(), address: name.clone() },
    ];
    let info = NodeSystemInfo {
        kubelet_version: config.version.clone(),
        operating_system: "linux".to_owned(),
        architecture: architecture().to_owned(),
        container_runtime_version: "simulated://0".to_owned(),
        os_image: "simulated".to_owned(),
        ..NodeSystemInfo::default()
    };
    Node {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() },
        spec: None,
        status: Some(NodeStatus {
            addresses: Some(addresses),
            allocatable: Some(amounts.clone()),
            capacity: Some(amounts),
            conditions: Some(conditions.into()),
            node_info: Some(info),
            ..NodeStatus::default()
        }),
    }
}

/// The lease of a node, renewed now.
pub fn lease(name: &str, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASES.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// The processor's name as Go has it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_differ_and_are_ready() {
        let size = Size { cpu: "4".to_owned(), memory: "8Gi".to_owned(), pods: 110 };
        let config = Config { nodes: 3, size, zones: 2, labels: BTreeMap::new(), version: "v1".to_owned() };
        let [first, second] = [0, 1].map(|number| object(&config, number, Timestamp::UNIX_EPOCH));
        let zone =
            |node: &Node| node.metadata.labels.as_ref().and_then(|all| all.get("topology.kubernetes.io/zone")).cloned();
        assert_ne!(zone(&first), zone(&second));
        assert_eq!(zone(&first), zone(&object(&config, 2, Timestamp::UNIX_EPOCH)));
        let status = first.status.expect("a status");
        assert!(
            status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        );
        assert_eq!(status.addresses.expect("addresses")[0].address, "198.18.0.1");
    }
}
