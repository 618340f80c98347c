//! The node authorizer: what a node agent may do, which depends on the pods that are bound to its node.
//!
//! Facts: upstream's `plugin/pkg/auth/authorizer/node/node_authorizer.go` and the node rules of its bootstrap policy.

mod graph;
mod references;

use super::attributes::{Attributes, Decision};

pub(crate) use graph::NodeGraph;
pub(crate) use references::{Referred, references};

/// What a node agent may do whatever its pods are: verbs, group, resources.
const RULES: &[(&[&str], &str, &[&str])] = &[
    (&["create"], "authentication.k8s.io", &["tokenreviews"]),
    (&["create"], "authorization.k8s.io", &["subjectaccessreviews", "localsubjectaccessreviews"]),
    (&["get", "list", "watch"], "", &["services"]),
    (&["create", "update", "patch"], "", &["nodes"]),
    (&["update", "patch"], "", &["nodes/status"]),
    (&["create", "update", "patch"], "", &["events"]),
    (&["create", "update", "patch"], "events.k8s.io", &["events"]),
    (&["get", "create", "delete"], "", &["pods"]),
    (&["update", "patch"], "", &["pods/status"]),
    (&["create"], "", &["pods/eviction"]),
    (&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"]),
    (&["get", "list", "watch"], "certificates.k8s.io", &["clustertrustbundles"]),
    (&["get", "list", "watch"], "storage.k8s.io", &["csidrivers"]),
    (&["get", "list", "watch"], "node.k8s.io", &["runtimeclasses"]),
    // Which of them are its own NodeRestriction sees.
    (&["get", "create", "update", "patch", "delete"], "resource.k8s.io", &["resourceslices"]),
];

/// Decides for the agent of a node.
pub(crate) fn authorize(graph: &NodeGraph, node: &str, attributes: &Attributes<'_>) -> Decision {
    let answer = match (attributes.group, attributes.resource) {
        ("", "secrets") => read_referred(graph, node, Referred::Secret, attributes),
        ("", "configmaps") => read_referred(graph, node, Referred::ConfigMap, attributes),
        ("", "persistentvolumeclaims") if attributes.subresource == "status" => {
            let verbs: &[&str] = &["get", "update", "patch"];
            referred(graph, node, Referred::Claim, attributes, verbs)
        }
        ("", "persistentvolumeclaims") => {
            plain(attributes).and_then(|()| referred(graph, node, Referred::Claim, attributes, &["get"]))
        }
        ("", "persistentvolumes") => plain(attributes).and_then(|()| match attributes.verb {
            "get" if graph.uses_volume(node, attributes.name) => Ok(()),
            "get" => Err(no_relationship(node)),
            _ => Err("can only get individual resources of this type".to_owned()),
        }),
        ("", "serviceaccounts") if attributes.subresource == "token" => match attributes.verb {
            "create" if graph.refers(node, Referred::ServiceAccount, attributes.namespace, attributes.name) => Ok(()),
            "create" => Err(no_relationship(node)),
            _ => Err("can only create tokens for individual service accounts".to_owned()),
        },
        ("coordination.k8s.io", "leases") => own_lease(node, attributes),
        ("storage.k8s.io", "volumeattachments") => plain(attributes).and_then(|()| match attributes.verb {
            "get" if graph.attaches(node, attributes.name) => Ok(()),
            "get" => Err(no_relationship(node)),
            _ => Err("can only get individual resources of this type".to_owned()),
        }),
        ("resource.k8s.io", "resourceclaims") => {
            plain(attributes).and_then(|()| referred(graph, node, Referred::ResourceClaim, attributes, &["get"]))
        }
        ("storage.k8s.io", "csinodes") => own(node, attributes, &["get", "create", "update", "patch", "delete"]),
        ("", "nodes") if attributes.subresource.is_empty() => match (attributes.verb, attributes.name) {
            ("get" | "list" | "watch", name) if name == node => Ok(()),
            ("get" | "list" | "watch", "") => {
                Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("get" | "list" | "watch", other) => {
                Err(format!("node '{node}' cannot read '{other}', only its own Node object"))
            }
            ("update" | "patch", _) => own(node, attributes, &["update", "patch"]),
            _ => Err(String::new()),
        },
        ("", "pods") if attributes.subresource.is_empty() && matches!(attributes.verb, "list" | "watch") => {
            // One pod by its name is no more than `get` allows.
            match selects(attributes, "spec.nodeName", node) || !attributes.name.is_empty() {
                true => Ok(()),
                false => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
            }
        }
        ("resource.k8s.io", "resourceslices") if matches!(attributes.verb, "list" | "watch" | "deletecollection") => {
            match attributes.subresource.is_empty() && selects(attributes, "spec.nodeName", node) {
                true => Ok(()),
                false => {
                    Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector"
                        .to_owned())
                }
            }
        }
        _ => Err(String::new()),
    };
    match answer {
        Ok(()) => Decision::allow(""),
        Err(reason) => Decision { allowed: reason.is_empty() && always(attributes), reason, ..Decision::default() },
    }
}

/// Whether only objects are meant whose field has this value.
fn selects(attributes: &Attributes<'_>, field: &str, value: &str) -> bool {
    attributes.field_selector.iter().any(|term| term.equals && term.field == field && term.value == value)
}

fn always(attributes: &Attributes<'_>) -> bool {
    RULES.iter().any(|(verbs, group, resources)| {
        *group == attributes.group
            && verbs.contains(&attributes.verb)
            && resources.iter().any(|resource| match resource.split_once('/') {
                None => *resource == attributes.resource && attributes.subresource.is_empty(),
                Some((resource, part)) => resource == attributes.resource && part == attributes.subresource,
            })
    })
}

fn no_relationship(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn plain(attributes: &Attributes<'_>) -> Result<(), String> {
    if attributes.subresource.is_empty() { Ok(()) } else { Err("cannot get subresource".to_owned()) }
}

fn read_referred(graph: &NodeGraph, node: &str, kind: Referred, attributes: &Attributes<'_>) -> Result<(), String> {
    plain(attributes).map_err(|_| "cannot read subresource".to_owned())?;
    if !matches!(attributes.verb, "get" | "list" | "watch") {
        return Err("can only read resources of this type".to_owned());
    }
    if attributes.namespace.is_empty() {
        return Err("can only read namespaced object of this type".to_owned());
    }
    referred(graph, node, kind, attributes, &["get", "list", "watch"])
}

fn referred(
    graph: &NodeGraph,
    node: &str,
    kind: Referred,
    attributes: &Attributes<'_>,
    verbs: &[&str],
) -> Result<(), String> {
    if !verbs.contains(&attributes.verb) {
        return Err("can only get individual resources of this type".to_owned());
    }
    if attributes.name.is_empty() {
        return Err("No Object name found".to_owned());
    }
    if graph.refers(node, kind, attributes.namespace, attributes.name) { Ok(()) } else { Err(no_relationship(node)) }
}

fn own_lease(node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
    if attributes.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    own(node, attributes, &["get", "create", "update", "patch", "delete"])
}

/// The objects of the node's own name. On create the name is in the body alone; NodeRestriction checks it there.
fn own(node: &str, attributes: &Attributes<'_>, verbs: &[&str]) -> Result<(), String> {
    if !verbs.contains(&attributes.verb) {
        return Err(format!("can only {} its own {}", verbs.join(", "), attributes.resource));
    }
    if attributes.name == node || (attributes.verb == "create" && attributes.name.is_empty()) {
        Ok(())
    } else {
        Err(format!("node '{node}' cannot access the {} of another node", attributes.resource))
    }
}

#[cfg(test)]
mod tests {
    use kobune_kinds::selector::FieldSelector;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_sees_what_its_pods_need() {
        let pod = json!({"spec": {
            "serviceAccountName": "bot",
            "volumes": [{"secret": {"secretName": "tls"}}, {"persistentVolumeClaim": {"claimName": "data"}}],
            "resourceClaims": [{"name": "g", "resourceClaimName": "gpu"}, {"name": "h", "resourceClaimTemplateName": "t"}],
        }, "status": {"resourceClaimStatuses": [{"name": "h", "resourceClaimName": "web-h-x"}]}});
        let graph =
            NodeGraph::of(&[("n1", "a", pod)]).with_volume("v", ("a", "data"), ("vault", "key"), ("csi-1", "n1"));
        let check = |verb: &str, group: &str, resource: &str, namespace: &str, name: &str, expected: bool| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let attributes =
                Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() };
            let decision = authorize(&graph, "n1", &attributes);
            assert_eq!(decision.allowed, expected, "{attributes:?}: {}", decision.reason);
        };
        check("get", "", "secrets", "a", "tls", true);
        check("watch", "", "secrets", "a", "tls", true);
        check("get", "", "secrets", "a", "other", false);
        check("get", "", "secrets", "b", "tls", false);
        check("list", "", "secrets", "a", "", false);
        check("update", "", "secrets", "a", "tls", false);
        check("get", "", "persistentvolumeclaims", "a", "data", true);
        check("get", "", "persistentvolumes", "", "v", true);
        check("get", "", "persistentvolumes", "", "w", false);
        check("get", "", "secrets", "vault", "key", true);
        check("get", "", "secrets", "vault", "other", false);
        check("get", "storage.k8s.io", "volumeattachments", "", "csi-1", true);
        check("get", "storage.k8s.io", "volumeattachments", "", "csi-2", false);
        check("delete", "storage.k8s.io", "volumeattachments", "", "csi-1", false);
        check("create", "", "serviceaccounts/token", "a", "bot", true);
        check("create", "", "serviceaccounts/token", "a", "default", false);
        check("get", "resource.k8s.io", "resourceclaims", "a", "gpu", true);
        check("get", "resource.k8s.io", "resourceclaims", "a", "web-h-x", true);
        check("get", "resource.k8s.io", "resourceclaims", "a", "other", false);
        check("list", "resource.k8s.io", "resourceclaims", "a", "", false);
        check("patch", "resource.k8s.io", "resourceclaims/status", "a", "gpu", false);
        check("deletecollection", "resource.k8s.io", "resourceslices", "", "", false);
        check("update", "resource.k8s.io", "resourceslices", "", "s", true);
        check("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1", true);
        check("create", "coordination.k8s.io", "leases", "kube-node-lease", "", true);
        check("update", "coordination.k8s.io", "leases", "kube-node-lease", "n2", false);
        check("update", "coordination.k8s.io", "leases", "default", "n1", false);
        check("get", "", "nodes", "", "n1", true);
        check("get", "", "nodes", "", "n2", false);
        check("create", "", "nodes", "", "", true);
        check("patch", "", "nodes/status", "", "n1", true);
        check("delete", "", "nodes", "", "n1", false);
        check("list", "", "nodes", "", "", false);
        check("watch", "", "nodes", "", "n1", true);
        check("list", "", "pods", "", "", false);
        check("get", "", "pods", "a", "web", true);
        check("patch", "", "pods/status", "a", "web", true);
        check("patch", "", "pods", "a", "web", false);
        check("create", "", "events", "a", "", true);
        check("list", "apps", "deployments", "a", "", false);
    }

    #[test]
    fn a_node_lists_what_is_on_it() {
        let graph = NodeGraph::of(&[]);
        let check = |verb: &str, group: &str, resource: &str, selector: &str, expected: bool| {
            let selector = FieldSelector::parse(selector).expect("a selector");
            let field_selector = selector.terms();
            let attributes = Attributes { verb, group, resource, field_selector, ..Attributes::default() };
            let decision = authorize(&graph, "n1", &attributes);
            assert_eq!(decision.allowed, expected, "{attributes:?}: {}", decision.reason);
        };
        check("list", "", "pods", "spec.nodeName=n1", true);
        check("watch", "", "pods", "spec.nodeName==n1,status.phase!=Failed", true);
        check("list", "", "pods", "spec.nodeName=n2", false);
        check("list", "", "pods", "spec.nodeName!=n1", false);
        check("deletecollection", "", "pods", "spec.nodeName=n1", false);
        check("list", "resource.k8s.io", "resourceslices", "spec.nodeName=n1", true);
        check("deletecollection", "resource.k8s.io", "resourceslices", "spec.nodeName=n1", true);
        check("watch", "resource.k8s.io", "resourceslices", "", false);
    }
}
