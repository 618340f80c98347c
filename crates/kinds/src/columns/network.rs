//! Services, endpoints, ingresses and network policies.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::{NONE, UNSET, age, int, labels, list, name, or_none, selector, shortened, text, text_or, texts};
use super::{AGE, Column, NAME, Table};

pub(super) const SERVICES: Table = (
    &[
        NAME,
        Column::string(
            "Type",
            "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are ExternalName, ClusterIP, NodePort, and LoadBalancer.",
        ),
        Column::string("Cluster-IP", "clusterIP is the IP address of the service and is usually assigned randomly."),
        Column::string(
            "External-IP",
            "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service. These IPs are not managed by Kubernetes.",
        ),
        Column::string("Port(s)", "The list of ports that are exposed by this service."),
        AGE,
        Column::string("Selector", "Route service traffic to pods with label keys and values matching this selector.")
            .wide(),
    ],
    service,
);

/// The addresses that a load balancer has given.
fn balancer(object: &Value) -> Vec<&str> {
    let entries = list(object, "/status/loadBalancer/ingress").iter();
    let mut all: Vec<&str> = entries.map(|entry| text_or(entry, "/ip", text(entry, "/hostname"))).collect();
    all.retain(|entry| !entry.is_empty());
    all.sort_unstable();
    all.dedup();
    all
}

fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let external = texts(service, "/spec/externalIPs");
    let external = match text(service, "/spec/type") {
        "LoadBalancer" => {
            let all = [balancer(service), external].concat();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        _ => or_none(external.join(",")),
    };
    let port = |port: &Value| {
        let (number, node, protocol) = (int(port, "/port"), int(port, "/nodePort"), text(port, "/protocol"));
        if node > 0 { format!("{number}:{node}/{protocol}") } else { format!("{number}/{protocol}") }
    };
    let ports = list(service, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(",");
    vec![
        name(service),
        text(service, "/spec/type").into(),
        text_or(service, "/spec/clusterIPs/0", text_or(service, "/spec/clusterIP", NONE)).into(),
        external.into(),
        or_none(ports).into(),
        age(service, now),
        labels(service.pointer("/spec/selector")).into(),
    ]
}

pub(super) const ENDPOINTS: Table = (
    &[NAME, Column::string("Endpoints", "Addresses and ports of the endpoints that are ready."), AGE],
    |object, now| {
        let mut all = Vec::new();
        for subset in list(object, "/subsets") {
            let addresses = || list(subset, "/addresses").iter().map(|address| text(address, "/ip"));
            let ports = list(subset, "/ports");
            if ports.is_empty() {
                all.extend(addresses().map(str::to_owned));
            }
            for port in ports {
                let joined = |ip: &str| {
                    let number = int(port, "/port");
                    if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
                };
                all.extend(addresses().map(joined));
            }
        }
        vec![name(object), or_none(shortened(&all, 3)).into(), age(object, now)]
    },
);

fn or_unset(text: String) -> Value {
    if text.is_empty() { UNSET.into() } else { text.into() }
}

pub(super) const ENDPOINT_SLICES: Table = (
    &[
        NAME,
        Column::string(
            "AddressType",
            "addressType specifies the type of address carried by this EndpointSlice. All addresses in this slice must be the same type.",
        ),
        Column::string(
            "Ports",
            "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name.",
        ),
        Column::string(
            "Endpoints",
            "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum of 1000 endpoints.",
        ),
        AGE,
    ],
    |object, now| {
        let port = |port: &Value| match int(port, "/port") {
            0 => text_or(port, "/name", "*").to_owned(),
            number => number.to_string(),
        };
        let ports: Vec<String> = list(object, "/ports").iter().map(port).collect();
        let endpoints = list(object, "/endpoints").iter();
        let endpoints: Vec<String> =
            endpoints.flat_map(|endpoint| texts(endpoint, "/addresses")).map(str::to_owned).collect();
        vec![
            name(object),
            text(object, "/addressType").into(),
            or_unset(shortened(&ports, 3)),
            or_unset(shortened(&endpoints, 3)),
            age(object, now),
        ]
    },
);

pub(super) const INGRESSES: Table = (
    &[
        NAME,
        Column::string(
            "Class",
            "The name of the IngressClass resource that should be used for additional configuration",
        ),
        Column::string("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
        Column::string("Address", "Address is a list containing ingress points for the load-balancer"),
        Column::string("Ports", "Ports of TLS configurations that open"),
        AGE,
    ],
    |object, now| {
        let rules = list(object, "/spec/rules").iter().map(|rule| text(rule, "/host").to_owned());
        let hosts: Vec<String> = rules.filter(|host| !host.is_empty()).collect();
        let hosts = if hosts.is_empty() { "*".to_owned() } else { shortened(&hosts, 3) };
        let ports = if list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            text_or(object, "/spec/ingressClassName", NONE).into(),
            hosts.into(),
            balancer(object).join(",").into(),
            ports.into(),
            age(object, now),
        ]
    },
);

pub(super) const INGRESS_CLASSES: Table = (
    &[
        NAME,
        Column::string("Controller", "Controller that is responsible for handling this class"),
        Column::string("Parameters", "A reference to a resource with additional parameters"),
        AGE,
    ],
    |object, now| {
        let parameters = object.pointer("/spec/parameters").map_or_else(
            || NONE.to_owned(),
            |parameters| {
                let kind = text(parameters, "/kind");
                let name = text(parameters, "/name");
                match text(parameters, "/apiGroup") {
                    "" => format!("{kind}/{name}"),
                    group => format!("{kind}.{group}/{name}"),
                }
            },
        );
        vec![name(object), text(object, "/spec/controller").into(), parameters.into(), age(object, now)]
    },
);

pub(super) const NETWORK_POLICIES: Table = (
    &[NAME, Column::string("Pod-Selector", "Selects the pods to which this NetworkPolicy object applies."), AGE],
    |object, now| vec![name(object), selector(object.pointer("/spec/podSelector")).into(), age(object, now)],
);

pub(super) const SERVICE_CIDRS: Table = (
    &[
        NAME,
        Column::string(
            "CIDRs",
            "CIDRs defines the IP blocks in CIDR notation from which to assign service cluster IPs.",
        ),
        AGE,
    ],
    |object, now| vec![name(object), texts(object, "/spec/cidrs").join(",").into(), age(object, now)],
);
