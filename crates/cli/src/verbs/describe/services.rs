//! Services, their endpoints, Ingresses, NetworkPolicies and addresses.

use jiff::Timestamp;
use serde_json::Value;

use super::read::{go_moment, int, int_or_string, items, labels, selector, text, text_or, texts};
use super::writer::Writer;
use super::{Related, metadata};

/// A Service.
pub fn service(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let spec = &object["spec"];
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "Selector", labels(&spec["selector"]));
    w.field(0, "Type", text(&spec["type"]));
    if !spec["ipFamilyPolicy"].is_null() {
        w.field(0, "IP Family Policy", text(&spec["ipFamilyPolicy"]));
    }
    let joined = |value: &Value| {
        let texts = texts(value);
        if texts.is_empty() { "<none>".to_owned() } else { texts.join(",") }
    };
    w.field(0, "IP Families", joined(&spec["ipFamilies"]));
    w.field(0, "IP", text(&spec["clusterIP"]));
    w.field(0, "IPs", joined(&spec["clusterIPs"]));
    let optional = |w: &mut Writer, title: &str, value: String| {
        if !value.is_empty() {
            w.field(0, title, value);
        }
    };
    optional(w, "External IPs", texts(&spec["externalIPs"]).join(","));
    optional(w, "Desired LoadBalancer IP", text(&spec["loadBalancerIP"]));
    optional(w, "External Name", text(&spec["externalName"]));
    let addresses: Vec<String> = items(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|address| match (text(&address["ip"]), &address["ipMode"]) {
            (ip, _) if ip.is_empty() => text(&address["hostname"]),
            (ip, Value::Null) => ip,
            (ip, mode) => format!("{ip} ({})", text(mode)),
        })
        .collect();
    if !addresses.is_empty() {
        w.field(0, "LoadBalancer Ingress", addresses.join(", "));
    }
    for port in items(&spec["ports"]) {
        let name = text(&port["name"]);
        let shown = if name.is_empty() { "<unset>" } else { &name };
        let protocol = text(&port["protocol"]);
        w.line(0, format!("Port:\t{shown}\t{}/{protocol}", int(&port["port"])));
        let target = if port["targetPort"].is_null() { "0".to_owned() } else { int_or_string(&port["targetPort"]) };
        w.field(0, "TargetPort", format!("{target}/{protocol}"));
        if int(&port["nodePort"]) != 0 {
            w.line(0, format!("NodePort:\t{shown}\t{}/{protocol}", int(&port["nodePort"])));
        }
        w.field(0, "Endpoints", endpoints_of(&related.slices, &name));
    }
    w.field(0, "Session Affinity", text(&spec["sessionAffinity"]));
    optional(w, "External Traffic Policy", text(&spec["externalTrafficPolicy"]));
    optional(w, "Internal Traffic Policy", text(&spec["internalTrafficPolicy"]));
    if int(&spec["healthCheckNodePort"]) != 0 {
        w.field(0, "HealthCheck NodePort", int(&spec["healthCheckNodePort"]).to_string());
    }
    optional(w, "LoadBalancer Source Ranges", texts(&spec["loadBalancerSourceRanges"]).join(","));
    optional(w, "Traffic Distribution", text(&spec["trafficDistribution"]));
    metadata::events(w, related.events(), now);
}

/// The first three ready addresses of a port and how many more there are.
fn endpoints_of(slices: &[Value], port_name: &str) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    const MOST: usize = 3;
    let mut shown: Vec<String> = Vec::new();
    let mut count = 0;
    // As soon as a fourth one is looked at, ready or not, kubectl speaks of more.
    let mut more = false;
    for slice in slices {
        let ports = items(&slice["ports"]);
        let fitting: Vec<Option<&Value>> = match ports {
            [] => vec![None],
            ports => ports.iter().filter(|port| text(&port["name"]) == port_name).map(Some).collect(),
        };
        for port in fitting {
            for endpoint in items(&slice["endpoints"]) {
                more |= shown.len() == MOST;
                if endpoint["conditions"]["ready"] == false {
                    continue;
                }
                if !more {
                    let address = items(&endpoint["addresses"]).first().map(text).unwrap_or_default();
                    shown.push(match port {
                        Some(port) if address.contains(':') => format!("[{address}]:{}", int(&port["port"])),
                        Some(port) => format!("{address}:{}", int(&port["port"])),
                        None => address,
                    });
                }
                count += 1;
            }
        }
    }
    let list = shown.join(",");
    if more { format!("{list} + {} more...", count - MOST) } else { list }
}

/// Endpoints.
pub fn endpoints(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    w.line(0, "Subsets:");
    for subset in items(&object["subsets"]) {
        for (title, field) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let addresses: Vec<String> = items(&subset[field]).iter().map(|address| text(&address["ip"])).collect();
            let addresses = addresses.join(",");
            w.field(1, title, if addresses.is_empty() { "<none>" } else { &addresses });
        }
        let ports = items(&subset["ports"]);
        if !ports.is_empty() {
            w.line(1, "Ports:");
            w.line(2, "Name\tPort\tProtocol");
            w.line(2, "----\t----\t--------");
        }
        for port in ports {
            let name = text_or(&port["name"], "<unset>");
            w.line(2, format!("{name}\t{}\t{}", int(&port["port"]), text(&port["protocol"])));
        }
        w.line(0, "");
    }
    metadata::events(w, related.events(), now);
}

/// An EndpointSlice.
pub fn endpoint_slice(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "AddressType", text(&object["addressType"]));
    let ports = items(&object["ports"]);
    if ports.is_empty() {
        w.line(0, "Ports: <unset>");
    } else {
        w.line(0, "Ports:");
        w.line(1, "Name\tPort\tProtocol");
        w.line(1, "----\t----\t--------");
    }
    for port in ports {
        let [name, number] = ["name", "port"].map(|field| text_or(&port[field], "<unset>"));
        w.line(1, format!("{name}\t{number}\t{}", text(&port["protocol"])));
    }
    let endpoints = items(&object["endpoints"]);
    w.line(0, if endpoints.is_empty() { "Endpoints: <none>" } else { "Endpoints:" });
    for endpoint in endpoints {
        let addresses = texts(&endpoint["addresses"]).join(", ");
        w.field(1, "- Addresses", if addresses.is_empty() { "<none>" } else { &addresses });
        w.line(2, "Conditions:");
        w.field(3, "Ready", text_or(&endpoint["conditions"]["ready"], "<unset>"));
        let or_unset = |value: &Value| if value.is_null() { "<unset>".to_owned() } else { text(value) };
        w.field(2, "Hostname", or_unset(&endpoint["hostname"]));
        let target = &endpoint["targetRef"];
        if !target.is_null() {
            w.field(2, "TargetRef", format!("{}/{}", text(&target["kind"]), text(&target["name"])));
        }
        w.field(2, "NodeName", or_unset(&endpoint["nodeName"]));
        w.field(2, "Zone", or_unset(&endpoint["zone"]));
    }
    metadata::events(w, related.events(), now);
}

/// An Ingress.
pub fn ingress(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let spec = &object["spec"];
    metadata::name(w, object);
    metadata::labels(w, "Labels", &object["metadata"]["labels"]);
    w.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    let mut addresses: Vec<String> = items(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|address| text_or(&address["ip"], &text(&address["hostname"])))
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort();
    addresses.dedup();
    w.field(0, "Address", addresses.join(","));
    let class = &spec["ingressClassName"];
    w.field(0, "Ingress Class", if class.is_null() { "<none>".to_owned() } else { text(class) });
    let default = match &spec["defaultBackend"] {
        Value::Null => "<default>".to_owned(),
        found => backend(found, related),
    };
    w.field(0, "Default backend", &default);
    let secrets = items(&spec["tls"]);
    if !secrets.is_empty() {
        w.line(0, "TLS:");
    }
    for secret in secrets {
        let hosts = texts(&secret["hosts"]).join(",");
        match text(&secret["secretName"]) {
            name if name.is_empty() => w.line(1, format!("SNI routes {hosts}")),
            name => w.line(1, format!("{name} terminates {hosts}")),
        }
    }
    w.line(0, "Rules:\n  Host\tPath\tBackends");
    w.line(1, "----\t----\t--------");
    let mut any = false;
    for rule in items(&spec["rules"]).iter().filter(|rule| !rule["http"].is_null()) {
        any = true;
        w.line(1, format!("{}\t", text_or(&rule["host"], "*")));
        for path in items(&rule["http"]["paths"]) {
            w.line(2, format!("\t{} \t{}", text(&path["path"]), backend(&path["backend"], related)));
        }
    }
    if !any {
        w.line(1, format!("*\t*\t{default}"));
    }
    metadata::annotations(w, "Annotations", &object["metadata"]["annotations"]);
    metadata::events(w, related.events(), now);
}

fn backend(backend: &Value, related: &Related) -> String {
    let service = &backend["service"];
    if service.is_object() {
        let (name, port) = (text(&service["name"]), &service["port"]);
        let number = int(&port["number"]);
        let shown = if number != 0 { number.to_string() } else { text(&port["name"]) };
        let found = match related.backends.get(&name) {
            Some(Ok((found, slices))) => {
                let fits = |other: &&Value| {
                    (number != 0 && number == int(&other["port"]))
                        || (!text(&port["name"]).is_empty() && text(&port["name"]) == text(&other["name"]))
                };
                let of = items(&found["spec"]["ports"]).iter().rfind(fits);
                endpoints_of(slices, &of.map(|port| text(&port["name"])).unwrap_or_default())
            }
            Some(Err(error)) => format!("<error: {error}>"),
            None => "<error: services \"\" not found>".to_owned(),
        };
        return format!("{name}:{shown} ({found})");
    }
    let resource = &backend["resource"];
    if resource.is_object() {
        let group = &resource["apiGroup"];
        let group = if group.is_null() { "<none>".to_owned() } else { text(group) };
        return format!("APIGroup: {group}, Kind: {}, Name: {}", text(&resource["kind"]), text(&resource["name"]));
    }
    String::new()
}

/// An IngressClass.
pub fn ingress_class(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "Controller", text(&object["spec"]["controller"]));
    let parameters = &object["spec"]["parameters"];
    if !parameters.is_null() {
        w.line(0, "Parameters:");
        if !parameters["apiGroup"].is_null() {
            w.field(1, "APIGroup", text(&parameters["apiGroup"]));
        }
        w.field(1, "Kind", text(&parameters["kind"]));
        w.field(1, "Name", text(&parameters["name"]));
    }
    metadata::events(w, related.events(), now);
}

/// A range of addresses for Services.
pub fn service_cidr(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "CIDRs", texts(&object["spec"]["cidrs"]).join(", "));
    if !items(&object["status"]["conditions"]).is_empty() {
        w.line(0, "Status:");
        metadata::conditions_with_messages(w, object);
    }
    metadata::events(w, related.events(), now);
}

/// An address that a Service has.
pub fn ip_address(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    let parent = &object["spec"]["parentRef"];
    if !parent.is_null() {
        w.line(0, "Parent Reference:");
        for (title, field) in
            [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")]
        {
            w.field(1, title, text(&parent[field]));
        }
    }
    metadata::events(w, related.events(), now);
}

/// A NetworkPolicy.
pub fn network_policy(w: &mut Writer, object: &Value, _: &Related, _: Timestamp) {
    let spec = &object["spec"];
    metadata::name_and_namespace(w, object);
    w.field(0, "Created on", go_moment(&object["metadata"]["creationTimestamp"]));
    metadata::labels_and_annotations(w, object);
    w.line(0, "Spec:");
    w.put(1, "PodSelector: ");
    let chosen = &spec["podSelector"];
    if super::read::is_empty(&chosen["matchLabels"]) && items(&chosen["matchExpressions"]).is_empty() {
        w.line(2, "<none> (Allowing the specific traffic to all pods in this namespace)");
    } else {
        w.line(2, selector(chosen));
    }
    let types = texts(&spec["policyTypes"]);
    for (kind, word, field, peers, from) in [
        ("Ingress", "ingress", "ingress", "from", "From: <any> (traffic not restricted by source)"),
        ("Egress", "egress", "egress", "to", "To: <any> (traffic not restricted by destination)"),
    ] {
        if types.iter().any(|known| known == kind) {
            w.line(1, format!("Allowing {word} traffic:"));
            rules(w, items(&spec[field]), word, peers, from);
        } else {
            w.line(1, format!("Not affecting {word} traffic"));
        }
    }
    let types = types.join(", ");
    w.line(1, format!("Policy Types: {}", if types.is_empty() { "<none>" } else { &types }));
}

fn rules(w: &mut Writer, rules: &[Value], word: &str, peers: &str, any: &str) {
    const INDENT: &str = "    ";
    if rules.is_empty() {
        w.line(0, format!("{INDENT}<none> (Selected pods are isolated for {word} connectivity)"));
    }
    for (index, rule) in rules.iter().enumerate() {
        let ports = items(&rule["ports"]);
        if ports.is_empty() {
            w.line(0, format!("{INDENT}To Port: <any> (traffic allowed to all ports)"));
        }
        for port in ports {
            let (number, protocol) = (int_or_string(&port["port"]), text_or(&port["protocol"], "TCP"));
            match &port["endPort"] {
                Value::Null => w.line(0, format!("{INDENT}To Port: {number}/{protocol}")),
                end => w.line(0, format!("{INDENT}To Port Range: {number}-{}/{protocol}", int(end))),
            }
        }
        let listed = items(&rule[peers]);
        if listed.is_empty() {
            w.line(0, format!("{INDENT}{any}"));
        }
        for peer in listed {
            w.line(0, format!("{INDENT}{}:", if peers == "from" { "From" } else { "To" }));
            let (namespaces, pods) = (&peer["namespaceSelector"], &peer["podSelector"]);
            if !namespaces.is_null() {
                w.line(1, format!("{INDENT}NamespaceSelector: {}", selector(namespaces)));
            }
            if !pods.is_null() {
                w.line(1, format!("{INDENT}PodSelector: {}", selector(pods)));
            }
            let block = &peer["ipBlock"];
            if namespaces.is_null() && pods.is_null() && !block.is_null() {
                w.line(1, format!("{INDENT}IPBlock:"));
                w.line(2, format!("{INDENT}CIDR: {}", text(&block["cidr"])));
                w.line(2, format!("{INDENT}Except: {}", texts(&block["except"]).join(", ")));
            }
        }
        if index + 1 < rules.len() {
            w.line(0, format!("{INDENT}----------"));
        }
    }
}

/// The names of the Services that an Ingress leads to.
pub fn backend_services(ingress: &Value) -> Vec<String> {
    let spec = &ingress["spec"];
    let paths = items(&spec["rules"]).iter().flat_map(|rule| items(&rule["http"]["paths"]));
    let backends = std::iter::once(&spec["defaultBackend"]).chain(paths.map(|path| &path["backend"]));
    let mut names: Vec<String> = backends
        .filter(|backend| backend["service"].is_object())
        .map(|backend| text(&backend["service"]["name"]))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_services() {
        let slice = |count: usize| {
            let endpoints: Vec<Value> = (1..=count).map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect();
            json!({"ports": [{"name": "web", "port": 80}], "endpoints": endpoints})
        };
        let check = |slices: &[Value], port: &str, expected: &str| assert_eq!(endpoints_of(slices, port), expected);
        check(&[], "web", "<none>");
        check(&[slice(2)], "web", "10.0.0.1:80,10.0.0.2:80");
        check(&[slice(2)], "other", "");
        check(&[slice(5)], "web", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        check(
            &[json!({"endpoints": [{"addresses": ["a"]}, {"addresses": ["b"], "conditions": {"ready": false}}]})],
            "",
            "a",
        );
        check(&[json!({"ports": [{"port": 1}], "endpoints": [{"addresses": ["::1"]}]})], "", "[::1]:1");
    }
}
