//! Whether the node takes a pod that is new to it: the scheduler is not the only one who binds pods, and may be mistaken.
//!
//! A pod that does not fit fails at once, with the reason in its status, so that its controller makes another. Extended
//! resources are left out: upstream's kubelet ignores those that its node does not offer as well.
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/lifecycle/predicate.go>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::{self, is_sidecar};
use crate::quantity::Amount;

/// The resources that are looked at.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

type Amounts = [Amount; RESOURCES.len()];

/// What a node can give.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// CPU, memory and ephemeral storage; nothing known counts as no bound.
    pub amounts: [Option<Amount>; RESOURCES.len()],
    /// How many pods it takes.
    pub pods: usize,
}

impl Room {
    /// Reads what a node can give from its amounts by name.
    pub fn of(amounts: &std::collections::BTreeMap<String, Amount>, pods: u32) -> Self {
        Self {
            amounts: RESOURCES.map(|name| amounts.get(name).copied()),
            pods: usize::try_from(pods).unwrap_or(usize::MAX),
        }
    }
}

fn add(one: Amounts, other: Amounts) -> Amounts {
    std::array::from_fn(|at| one[at].plus(other[at]))
}

fn most(one: Amounts, other: Amounts) -> Amounts {
    std::array::from_fn(|at| one[at].max(other[at]))
}

fn read(list: Option<&std::collections::BTreeMap<String, Quantity>>) -> [Option<Amount>; RESOURCES.len()] {
    RESOURCES.map(|name| list.and_then(|list| list.get(name)).map(Amount::of))
}

fn of_container(container: &Container) -> Amounts {
    read(container.resources.as_ref().and_then(|resources| resources.requests.as_ref())).map(Option::unwrap_or_default)
}

/// What a pod asks for: its containers together, or the greatest init container with the sidecars before it.
fn requests(owner: &Pod) -> Amounts {
    let spec = pod::spec(owner);
    let mut total = spec.containers.iter().map(of_container).fold(Amounts::default(), add);
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let asked = of_container(container);
        if is_sidecar(container) {
            (total, sidecars) = (add(total, asked), add(sidecars, asked));
            peak = most(peak, sidecars);
        } else {
            peak = most(peak, add(asked, sidecars));
        }
    }
    total = most(total, peak);
    let whole = read(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let overhead = read(spec.overhead.as_ref()).map(Option::unwrap_or_default);
    add(std::array::from_fn(|at| whole[at].unwrap_or(total[at])), overhead)
}

/// Ports on the node that a pod takes: number, protocol, address.
fn ports(owner: &Pod) -> impl Iterator<Item = (i32, &str, &str)> {
    let spec = pod::spec(owner);
    let on_host = spec.host_network == Some(true);
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let all = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    all.filter_map(move |port: &ContainerPort| {
        let number = port.host_port.filter(|number| *number > 0).or(on_host.then_some(port.container_port))?;
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty() && *address != "::");
        Some((number, port.protocol.as_deref().unwrap_or("TCP"), address.unwrap_or("0.0.0.0")))
    })
}

fn same_port(one: (i32, &str, &str), other: (i32, &str, &str)) -> bool {
    (one.0, one.1) == (other.0, other.1) && (one.2 == other.2 || one.2 == "0.0.0.0" || other.2 == "0.0.0.0")
}

/// Reason and message for a pod that does not fit beside `others`, those that have a place on the node already.
pub fn refusal(owner: &Pod, others: &[Arc<Pod>], room: &Room) -> Option<(String, String)> {
    let told = |name: &str, requested: String, used: String, capacity: String| {
        let words = format!("requested: {requested}, used: {used}, capacity: {capacity}");
        Some((format!("OutOf{name}"), format!("Node didn't have enough resource: {name}, {words}")))
    };
    if others.len() >= room.pods {
        return told("pods", "1".to_owned(), others.len().to_string(), room.pods.to_string());
    }
    let asked = requests(owner);
    let used = others.iter().map(|other| requests(other)).fold(Amounts::default(), add);
    for (at, name) in RESOURCES.into_iter().enumerate() {
        let Some(capacity) = room.amounts[at].filter(|_| !asked[at].is_zero()) else { continue };
        if asked[at].plus(used[at]) > capacity {
            let number = |amount: Amount| if name == "cpu" { amount.milli() } else { amount.value() }.to_string();
            return told(name, number(asked[at]), number(used[at]), number(capacity));
        }
    }
    let taken = |wanted| others.iter().any(|other| ports(other).any(|port| same_port(port, wanted)));
    if ports(owner).any(taken) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Some(("NodePorts".to_owned(), message.to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod"))
    }

    #[test]
    fn refusals() {
        let room = Room { amounts: [Amount::parse("2"), Amount::parse("1Gi"), None], pods: 3 };
        let check = |spec: Value, others: &[Value], expected: &str| {
            let others: Vec<_> = others.iter().map(|other| pod(other.clone())).collect();
            let found = refusal(&pod(spec.clone()), &others, &room);
            let text = found.map(|(reason, message)| format!("{reason}: {message}")).unwrap_or_default();
            assert_eq!(text, expected, "{spec}");
        };
        let asks = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "example.com/x": "9"}}}]});
        let port = |ip: &str, protocol: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol}]}]});
        check(asks("2"), &[], "");
        check(
            asks("1500m"),
            &[asks("1")],
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
        );
        check(
            json!({"containers": [], "initContainers": [{"name": "i", "resources": {"requests": {"memory": "2Gi"}}}]}),
            &[],
            "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824",
        );
        let idle = json!({"containers": []});
        check(
            idle.clone(),
            &[idle.clone(), idle.clone(), idle.clone()],
            "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
        );
        let taken = "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        check(port("", "TCP"), &[port("10.0.0.1", "TCP")], taken);
        check(port("10.0.0.2", "TCP"), &[port("10.0.0.1", "TCP")], "");
        check(port("", "UDP"), &[port("", "TCP")], "");
    }
}
