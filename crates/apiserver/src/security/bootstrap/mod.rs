//! The objects that exist in every cluster: namespaces, roles, bindings, priority classes, the `kubernetes` service.
//!
//! [`objects`] lists them as they should be, [`reconcile`] says what to write where something is stored already.
//! Nothing is written when nothing differs, so a restart costs reads only.

mod controllers;
mod flow;
mod roles;

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::rbac::{missing_rules, missing_subjects};

/// What the objects depend on.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster addresses of the `kubernetes` service, the first one of each service range (like 10.96.0.1).
    pub service_addresses: Vec<IpAddr>,
    /// The tenth address of each service range, at which every node answers DNS.
    pub dns_addresses: Vec<IpAddr>,
    /// The service ranges (like `10.96.0.0/16`).
    pub service_cidrs: Vec<String>,
    /// The ranges of all pods.
    pub cluster_cidrs: Vec<String>,
    /// The domain of services.
    pub cluster_domain: String,
    /// Where the cluster's API servers are reached, as endpoints of the `kubernetes` service.
    pub server_addresses: Vec<IpAddr>,
    /// Their port.
    pub port: u16,
    /// The certificate, in PEM, of the authority that clients' certificates are of.
    pub client_authority: String,
    /// The certificate, in PEM, of the authority that the front proxy's certificate is of.
    pub front_proxy_authority: String,
    /// The day in UTC, as `2006-01-02`.
    pub today: String,
}

/// An object that should exist.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The API group, empty for the core.
    pub group: &'static str,
    /// The API version.
    pub version: &'static str,
    /// The resource in the plural.
    pub resource: &'static str,
    /// The whole object with `apiVersion`, `kind` and `metadata`.
    pub object: Value,
}

/// The namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The ConfigMap that says since when the use of tokens in Secrets is noted.
const TOKEN_TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// All objects that should exist, in an order in which they can be created.
pub fn objects(config: &Config) -> Vec<Desired> {
    let mut desired = Vec::new();
    let mut add = |group: &'static str, version: &'static str, resource: &'static str, object: Value| {
        desired.push(Desired { group, version, resource, object });
    };
    for name in NAMESPACES {
        let metadata = json!({ "name": name, "labels": { "kubernetes.io/metadata.name": name } });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        add("", "v1", "namespaces", object);
    }
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "description": description,
        });
        add("scheduling.k8s.io", "v1", "priorityclasses", object);
    }

    let rbac = "rbac.authorization.k8s.io";
    for role in roles::CLUSTER_ROLES {
        add(rbac, "v1", "clusterroles", roles::role_object(role));
    }
    for (controller, rules) in controllers::CONTROLLERS {
        let name = format!("system:controller:{controller}");
        let mut object = roles::role_object(&roles::CLUSTER_ROLES[0]);
        object["metadata"]["name"] = name.as_str().into();
        object["rules"] = rules.iter().map(|line| roles::rule(line)).collect();
        add(rbac, "v1", "clusterroles", object);
        let subject = format!("sa:{controller}");
        add(rbac, "v1", "clusterrolebindings", roles::binding_object("", &name, &name, &[&subject]));
    }
    for role in roles::ROLES {
        add(rbac, "v1", "roles", roles::role_object(role));
    }
    for (namespace, name, role, subjects) in roles::BINDINGS {
        let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        add(rbac, "v1", resource, roles::binding_object(namespace, name, role, subjects));
    }

    let flow_control = "flowcontrol.apiserver.k8s.io";
    for level in flow::levels() {
        add(flow_control, "v1", "prioritylevelconfigurations", level);
    }
    for schema in flow::schemas() {
        add(flow_control, "v1", "flowschemas", schema);
    }

    if !config.service_cidrs.is_empty() {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
            "spec": { "cidrs": config.service_cidrs },
        });
        add("networking.k8s.io", "v1", "servicecidrs", object);
    }
    add("", "v1", "configmaps", extension_authentication(config));
    add("", "v1", "configmaps", network(config));
    add("", "v1", "configmaps", token_tracking(config));
    add("", "v1", "services", kubernetes_service(config));
    if !config.dns_addresses.is_empty() {
        add("", "v1", "services", dns_service(config));
    }
    desired.extend(endpoints(&config.server_addresses, config.port));
    desired
}

/// The endpoints of the `kubernetes` service. They are of one family, that of the first address.
pub fn endpoints(addresses: &[IpAddr], port: u16) -> [Desired; 2] {
    let first = addresses.first();
    let of_family = addresses.iter().filter(|address| first.is_none_or(|first| first.is_ipv4() == address.is_ipv4()));
    let addresses: Vec<&IpAddr> = of_family.collect();
    [
        Desired { group: "", version: "v1", resource: "endpoints", object: kubernetes_endpoints(&addresses, port) },
        Desired {
            group: "discovery.k8s.io",
            version: "v1",
            resource: "endpointslices",
            object: kubernetes_endpoint_slice(&addresses, port),
        },
    ]
}

/// How servers behind this one know its users: whose client certificates are good, and what the front proxy says.
fn extension_authentication(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "client-ca-file": config.client_authority,
            "requestheader-allowed-names": json!([crate::aggregation::PROXY_NAME]).to_string(),
            "requestheader-client-ca-file": config.front_proxy_authority,
            "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
            "requestheader-group-headers": r#"["X-Remote-Group"]"#,
            "requestheader-uid-headers": r#"["X-Remote-Uid"]"#,
            "requestheader-username-headers": r#"["X-Remote-User"]"#,
        },
    })
}

/// What a machine that joins has to know of the cluster's network.
fn network(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kobune-network", "namespace": "kube-system" },
        "data": {
            "cluster-cidr": config.cluster_cidrs.join(","),
            "cluster-domain": config.cluster_domain,
            "service-cidr": config.service_cidrs.join(","),
        },
    })
}

/// Since when the use of tokens that stand in Secrets is noted.
fn token_tracking(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": TOKEN_TRACKING, "namespace": "kube-system" },
        "data": { "since": config.today },
    })
}

fn service_spec(addresses: &[IpAddr], ports: Value) -> Value {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let families: Vec<&str> = addresses.iter().map(family).collect();
    let policy = if addresses.len() > 1 { "PreferDualStack" } else { "SingleStack" };
    let mut spec = json!({
        "type": "ClusterIP",
        "ipFamilies": families,
        "ipFamilyPolicy": policy,
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "ports": ports,
    });
    if let Some(first) = texts.first() {
        spec["clusterIP"] = first.as_str().into();
        spec["clusterIPs"] = texts.into();
    }
    spec
}

/// The service whose addresses pods ask for names. Nodes answer there themselves, so that it has no endpoints; it is here
/// to be found, and so that no other service gets the addresses. Its name and labels are those of upstream's add-on.
fn dns_service(config: &Config) -> Value {
    let port = |name: &str, protocol: &str| json!({ "name": name, "port": 53, "protocol": protocol, "targetPort": 53 });
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "KubeDNS",
            },
        },
        "spec": service_spec(&config.dns_addresses, json!([port("dns", "UDP"), port("dns-tcp", "TCP")])),
    })
}

/// The service under which pods reach the API server. It has one family, as its endpoints have.
fn kubernetes_service(config: &Config) -> Value {
    let of_family =
        |address: &&IpAddr| config.server_addresses.first().is_none_or(|server| server.is_ipv4() == address.is_ipv4());
    let first = config.service_addresses.iter().find(of_family).or(config.service_addresses.first());
    let addresses: Vec<IpAddr> = first.copied().into_iter().collect();
    let ports = json!([{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": config.port }]);
    let spec = service_spec(&addresses, ports);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": spec,
    })
}

fn kubernetes_endpoints(addresses: &[&IpAddr], port: u16) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address.to_string() })).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": addresses,
            "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
        }],
    })
}

fn kubernetes_endpoint_slice(addresses: &[&IpAddr], port: u16) -> Value {
    let endpoint = |address: &&IpAddr| json!({ "addresses": [address.to_string()], "conditions": { "ready": true } });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": addresses.first().map_or("IPv4", |address| family(address)),
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    })
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What to write for a desired object: `None` when what is stored is good enough.
///
/// When `stored` is absent the object is to be created as desired. Otherwise the answer is the stored object, changed:
/// roles get missing rules back and bindings missing subjects, unless the annotation
/// `rbac.authorization.kubernetes.io/autoupdate` is `"false"`; flow schemas and priority levels that are marked as ours
/// get their spec back; the service and endpoints of the API server follow its
/// addresses; everything else is left to its owner.
pub fn reconcile(desired: &Value, stored: Option<&Value>) -> Option<Value> {
    let Some(stored) = stored else { return Some(desired.clone()) };
    let mut changed = stored.clone();
    match desired["kind"].as_str().unwrap_or_default() {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => {
            let annotation = &stored["metadata"]["annotations"][roles::AUTOUPDATE];
            if annotation.as_str() == Some("false") {
                return None;
            }
            for part in ["labels", "annotations"] {
                merge(&mut changed["metadata"][part], &desired["metadata"][part]);
            }
            if desired.get("aggregationRule").is_some() {
                // The rules of an aggregated role belong to the aggregation; only its selectors are ours.
                if stored.get("aggregationRule").is_none_or(Value::is_null) {
                    changed["aggregationRule"] = desired["aggregationRule"].clone();
                }
            } else if desired.get("roleRef").is_some() {
                if stored["roleRef"] != desired["roleRef"] {
                    // A binding's role cannot be changed in place; whoever bound this name to another role meant it.
                    return None;
                }
                append(&mut changed, "subjects", missing_subjects(stored, desired));
            } else {
                append(&mut changed, "rules", missing_rules(stored, desired));
            }
        }
        // It began once, unless nobody can tell when.
        "ConfigMap"
            if stored["metadata"]["name"] == TOKEN_TRACKING
                && stored["data"]["since"].as_str().is_some_and(|day| day.parse::<jiff::civil::Date>().is_ok()) =>
        {
            return None;
        }
        "ConfigMap" => {
            // Keys that somebody added stay.
            for (key, value) in desired["data"].as_object().into_iter().flatten() {
                changed["data"][key] = value.clone();
            }
        }
        // Whoever takes the annotation away wants to keep changes of their own.
        "FlowSchema" | "PriorityLevelConfiguration"
            if stored["metadata"]["annotations"][flow::AUTOUPDATE] == "true" =>
        {
            changed["spec"] = desired["spec"].clone();
        }
        "Endpoints" => changed["subsets"] = desired["subsets"].clone(),
        "EndpointSlice" => {
            for part in ["endpoints", "ports"] {
                changed[part] = desired[part].clone();
            }
        }
        "Service" => changed["spec"]["ports"] = desired["spec"]["ports"].clone(),
        _ => return None,
    }
    // A null that indexing put in stands for what is absent, so it does not count as a change.
    for part in ["labels", "annotations"] {
        if let Some(metadata) = changed["metadata"].as_object_mut()
            && metadata.get(part).is_some_and(Value::is_null)
        {
            metadata.remove(part);
        }
    }
    (changed != *stored).then_some(changed)
}

fn merge(target: &mut Value, wanted: &Value) {
    let Some(wanted) = wanted.as_object() else { return };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in wanted {
        target[key] = value.clone();
    }
}

fn append(object: &mut Value, list: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    match object.get_mut(list).and_then(Value::as_array_mut) {
        Some(present) => present.extend(items),
        None => object[list] = items.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::Attributes;
    use crate::security::rbac::Rbac;
    use crate::security::user::User;

    fn config() -> Config {
        Config {
            service_addresses: vec![IpAddr::from([10, 96, 0, 1])],
            dns_addresses: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_cidrs: vec!["10.244.0.0/16".into()],
            cluster_domain: "cluster.local".to_owned(),
            service_cidrs: vec!["10.96.0.0/16".into()],
            server_addresses: vec![IpAddr::from([192, 0, 2, 7])],
            port: 6443,
            client_authority: "pem".to_owned(),
            front_proxy_authority: "pem".to_owned(),
            today: "2026-01-01".to_owned(),
        }
    }

    fn named<'a>(all: &'a [Desired], resource: &str, name: &str) -> &'a Value {
        let found = all.iter().find(|one| one.resource == resource && one.object["metadata"]["name"] == name);
        &found.unwrap_or_else(|| panic!("no {resource} {name}")).object
    }

    #[test]
    fn the_day_since_which_uses_are_noted_stays() {
        let first = objects(&config());
        let stored = named(&first, "configmaps", TOKEN_TRACKING).clone();
        let later = objects(&Config { today: "2027-01-01".to_owned(), ..config() });
        let desired = named(&later, "configmaps", TOKEN_TRACKING);
        assert_eq!(reconcile(desired, Some(&stored)), None);
        let mut damaged = stored;
        damaged["data"]["since"] = "long ago".into();
        assert_eq!(reconcile(desired, Some(&damaged)).expect("a repair")["data"]["since"], "2027-01-01");
    }

    #[test]
    fn every_object_is_there_once_and_again_unchanged() {
        let all = objects(&config());
        let mut keys: Vec<String> = all
            .iter()
            .map(|one| {
                format!(
                    "{}/{} {}/{}",
                    one.group, one.resource, one.object["metadata"]["namespace"], one.object["metadata"]["name"]
                )
            })
            .collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
        for one in &all {
            assert_eq!(reconcile(&one.object, Some(&one.object)), None, "{}", one.object["metadata"]["name"]);
            assert_eq!(reconcile(&one.object, None), Some(one.object.clone()));
            if one.resource.ends_with("bindings") {
                let roles = if one.object["roleRef"]["kind"] == "Role" { "roles" } else { "clusterroles" };
                named(&all, roles, one.object["roleRef"]["name"].as_str().unwrap());
            }
        }
    }

    #[test]
    fn defaults_come_back_unless_told_otherwise() {
        let all = objects(&config());
        let desired = named(&all, "clusterroles", "system:basic-user");
        let mut stored = desired.clone();
        stored["metadata"]["uid"] = "u".into();
        stored["rules"] = json!([{ "verbs": ["get"], "apiGroups": ["x"], "resources": ["y"] }]);
        let fixed = reconcile(desired, Some(&stored)).unwrap();
        assert_eq!(fixed["metadata"]["uid"], "u");
        assert_eq!(fixed["rules"].as_array().unwrap().len(), 4, "the foreign rule stays, the missing parts come back");
        assert_eq!(reconcile(desired, Some(&fixed)), None);
        stored["metadata"]["annotations"][roles::AUTOUPDATE] = "false".into();
        assert_eq!(reconcile(desired, Some(&stored)), None);

        let desired = named(&all, "clusterrolebindings", "cluster-admin");
        let mut stored = desired.clone();
        stored["subjects"] = json!([{ "kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io" }]);
        let fixed = reconcile(desired, Some(&stored)).unwrap();
        assert_eq!(fixed["subjects"].as_array().unwrap().len(), 2);

        let mut moved = named(&all, "endpoints", "kubernetes").clone();
        moved["subsets"][0]["addresses"][0]["ip"] = "192.0.2.8".into();
        assert_eq!(
            reconcile(named(&all, "endpoints", "kubernetes"), Some(&moved)).as_ref(),
            Some(named(&all, "endpoints", "kubernetes"))
        );
    }

    #[test]
    fn the_default_roles_allow_what_they_should() {
        let mut objects: Vec<(&str, Value)> = Vec::new();
        let all = super::objects(&config());
        for one in &all {
            let collection = match one.resource {
                "clusterroles" => "rbac.authorization.k8s.io/clusterroles",
                "roles" => "rbac.authorization.k8s.io/roles",
                "clusterrolebindings" => "rbac.authorization.k8s.io/clusterrolebindings",
                "rolebindings" => "rbac.authorization.k8s.io/rolebindings",
                _ => continue,
            };
            objects.push((collection, one.object.clone()));
        }
        for role in ["admin", "edit", "view"] {
            let mut binding = roles::binding_object("a", role, role, &[&format!("user:{role}")]);
            binding["roleRef"]["kind"] = "ClusterRole".into();
            objects.push(("rbac.authorization.k8s.io/rolebindings", binding));
        }
        let rbac = Rbac::of(&objects);
        let check = |user: &User, verb: &str, group: &str, resource: &str, namespace: &str, expected: bool| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let attributes = Attributes { verb, group, resource, subresource, namespace, ..Attributes::default() };
            assert_eq!(rbac.authorize(user, &attributes).allowed, expected, "{} {attributes:?}", user.name);
        };
        let user = |name: &str| User::new(name, &[]);
        check(&user("view"), "list", "", "pods", "a", true);
        check(&user("view"), "list", "", "secrets", "a", false);
        check(&user("view"), "list", "", "pods", "b", false);
        check(&user("edit"), "create", "apps", "deployments", "a", true);
        check(&user("edit"), "get", "apps", "deployments", "a", true);
        check(&user("edit"), "create", "rbac.authorization.k8s.io", "roles", "a", false);
        check(&user("admin"), "create", "rbac.authorization.k8s.io", "roles", "a", true);
        check(&user("admin"), "create", "", "pods/exec", "a", true);
        check(&user("admin"), "list", "", "nodes", "", false);
        check(&user("system:kube-scheduler"), "create", "", "pods/binding", "a", true);
        check(&user("system:kube-scheduler"), "list", "storage.k8s.io", "storageclasses", "", true);
        check(&user("system:kube-controller-manager"), "list", "apps", "deployments", "", true);
        check(&User::service_account("kube-system", "job-controller", ""), "create", "", "pods", "a", true);
        check(&User::new("x", &["system:masters"]), "anything", "any", "thing", "", true);
        let path = |user: &User, path: &str, expected: bool| {
            let attributes = Attributes { verb: "get", path, ..Attributes::default() };
            assert_eq!(rbac.authorize(user, &attributes).allowed, expected, "{} {path}", user.name);
        };
        path(&User::anonymous(), "/healthz", true);
        path(&User::anonymous(), "/version", true);
        path(&User::anonymous(), "/api", false);
        path(&User::anonymous(), "/metrics", false);
        path(&user("anyone"), "/openapi/v3", true);
        path(&user("anyone"), "/metrics", false);
        check(&user("anyone"), "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", true);
        check(&User::anonymous(), "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", false);
    }
}
