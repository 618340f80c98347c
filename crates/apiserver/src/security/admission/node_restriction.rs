//! NodeRestriction: a node agent writes its own node, lease and pods, and nothing that would widen its rights.
//!
//! Who may reach the resource at all is the node authorizer's business; here is what needs the body. The token part is with the
//! token request.

use serde_json::Value;

use super::fields::{items, metadata, text};
use super::{Operation, Request};
use crate::security::Refusal;

/// Labels of other prefixes under kubernetes.io and k8s.io are for administrators alone.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
];

pub(super) fn admit(request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Refusal> {
    let Some(node) = request.user.node() else { return Ok(()) };
    let answer = match (request.group, request.resource) {
        ("", "pods") => pod(request, node, object, old),
        ("", "nodes") => own_node(request, node, object, old),
        ("coordination.k8s.io", "leases") => own_name(request, node, object, "lease"),
        ("resource.k8s.io", "resourceslices") => own_slice(node, [object, old]),
        ("storage.k8s.io", "csinodes") => own_name(request, node, object, "CSINode"),
        _ => Ok(()),
    };
    answer.map_err(|why| request.forbid(object, why))
}

fn pod(request: &Request<'_>, node: &str, object: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    let bound_here = |pod: &Value| text(&pod["spec"], "nodeName") == node;
    match (request.subresource, request.operation) {
        ("", Operation::Create) => {
            let Some(pod) = object else { return Ok(()) };
            let name = text(&pod["metadata"], "name");
            if metadata(pod, "annotations", "kubernetes.io/config.mirror").is_none() {
                return Err(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                ));
            }
            if !bound_here(pod) {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            for owner in items(&pod["metadata"], "ownerReferences") {
                if text(owner, "kind") != "Node" || text(owner, "name") != node || owner["controller"] != true {
                    return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
                }
            }
            let refers = super::super::node::references(pod);
            if !refers.is_empty() || !text(&pod["spec"], "serviceAccountName").is_empty() {
                return Err(format!("node {node:?} can not create pod {name:?} that references API objects"));
            }
            Ok(())
        }
        ("", Operation::Delete) | ("status", Operation::Update) => match old {
            Some(pod) if !bound_here(pod) => {
                let what = if request.operation == Operation::Delete { "delete" } else { "update status for" };
                Err(format!("node {node:?} can only {what} pods with spec.nodeName set to itself"))
            }
            Some(pod) if request.operation == Operation::Update => match object {
                Some(new) if new["metadata"]["labels"] != pod["metadata"]["labels"] => {
                    Err(format!("node {node:?} cannot update labels through pod status"))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        },
        ("eviction", Operation::Create) => match old {
            Some(pod) if !bound_here(pod) => {
                Err(format!("node {node:?} can only evict pods with spec.nodeName set to itself"))
            }
            _ => Ok(()),
        },
        (part, operation) => {
            Err(format!("unexpected operation {operation:?} on pod subresource {part:?} by node {node:?}"))
        }
    }
}

/// A node's slices name it, before and after.
fn own_slice(node: &str, states: [Option<&Value>; 2]) -> Result<(), String> {
    let foreign = |slice: &&Value| text(&slice["spec"], "nodeName") != node;
    match states.into_iter().flatten().find(foreign) {
        None => Ok(()),
        Some(_) => Err("can only create, update or delete ResourceSlices with spec.nodeName set to itself".to_owned()),
    }
}

fn own_node(request: &Request<'_>, node: &str, object: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    own_name(request, node, object, "node").map_err(|_| {
        let what = if request.creates() { "create" } else { "modify" };
        let other = if request.name.is_empty() { "another node" } else { request.name };
        format!("node {node:?} is not allowed to {what} node {other:?}")
    })?;
    let Some(object) = object else { return Ok(()) };
    if request.creates() {
        let wrong = foreign_labels(object, None);
        if !wrong.is_empty() {
            return Err(format!("is not allowed to set the following labels: {}", wrong.join(", ")));
        }
    } else if let Some(old) = old {
        let taints = |node: &Value| items(&node["spec"], "taints").to_vec();
        if taints(object) != taints(old) {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
        let wrong = foreign_labels(object, Some(old));
        if !wrong.is_empty() {
            return Err(format!("is not allowed to modify labels: {}", wrong.join(", ")));
        }
    }
    Ok(())
}

/// The labels set or changed that are not the node's to set.
fn foreign_labels(object: &Value, old: Option<&Value>) -> Vec<String> {
    let labels = |object: &Value| object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (now, before) = (labels(object), old.map(labels).unwrap_or_default());
    let mut changed: Vec<&String> =
        now.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, _)| key).collect();
    changed.extend(before.keys().filter(|key| !now.contains_key(*key)));
    changed.into_iter().filter(|key| is_foreign(key)).cloned().collect()
}

fn is_foreign(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    if OWN_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
        return false;
    }
    within("kubernetes.io") || within("k8s.io")
}

fn own_name(request: &Request<'_>, node: &str, object: Option<&Value>, what: &str) -> Result<(), String> {
    let name = object.map(|object| text(&object["metadata"], "name")).filter(|name| !name.is_empty());
    let name = name.unwrap_or(request.name);
    if name == node && (request.name.is_empty() || request.name == node) {
        return Ok(());
    }
    Err(format!("can only access {what} with the same name as the requesting node"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::security::User;

    fn check(
        operation: Operation,
        target: (&str, &str, &str),
        object: Option<Value>,
        old: Option<Value>,
        expected: &str,
    ) {
        let user = User::new("system:node:n1", &["system:nodes"]);
        let request = Request {
            operation,
            group: target.0,
            version: "v1",
            resource: target.1,
            subresource: target.2,
            kind: "",
            namespace: "",
            name: "",
            user: &user,
            dry_run: false,
            trail: None,
        };
        let answer = admit(&request, object.as_ref(), old.as_ref()).err().map(|refusal| refusal.message);
        let answer = answer.unwrap_or_default();
        assert!(
            answer.contains(expected) && answer.is_empty() == expected.is_empty(),
            "{answer:?} is not {expected:?}"
        );
    }

    #[test]
    fn nodes_write_their_own() {
        let pod = |node: &str| Some(json!({ "metadata": { "name": "web" }, "spec": { "nodeName": node } }));
        let (pods, status) = (("", "pods", ""), ("", "pods", "status"));
        check(Operation::Update, status, pod("n1"), pod("n1"), "");
        check(
            Operation::Update,
            status,
            pod("n2"),
            pod("n2"),
            "can only update status for pods with spec.nodeName set to itself",
        );
        check(Operation::Delete, pods, None, pod("n2"), "can only delete pods with spec.nodeName set to itself");
        check(Operation::Create, pods, pod("n1"), None, "can only create mirror pods");
        let node = |name: &str, label: &str| Some(json!({ "metadata": { "name": name, "labels": { label: "x" } } }));
        let nodes = ("", "nodes", "");
        check(Operation::Create, nodes, node("n1", "kubernetes.io/hostname"), None, "");
        check(Operation::Create, nodes, node("n2", "a"), None, "is not allowed to create node");
        check(
            Operation::Create,
            nodes,
            node("n1", "x.node-restriction.kubernetes.io/a"),
            None,
            "not allowed to set the following labels",
        );
        check(Operation::Update, nodes, node("n1", "a"), node("n1", "b"), "");
        check(
            Operation::Update,
            nodes,
            node("n1", "k8s.io/a"),
            node("n1", "b"),
            "is not allowed to modify labels: k8s.io/a",
        );
        let mut tainted = node("n1", "a");
        tainted.as_mut().unwrap()["spec"]["taints"] = json!([{ "key": "x" }]);
        check(Operation::Update, nodes, node("n1", "a"), tainted, "is not allowed to modify taints");
    }
}
