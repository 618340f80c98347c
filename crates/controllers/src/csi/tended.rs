//! Which drivers are called from here, and through which nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::storage::v1::CSINode;
use kobune_grpc::csi::{CONTROLLERS, controller_can};

/// How a driver's controller is reached, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// The nodes that have it, the one to ask first in front.
    pub nodes: Vec<String>,
    /// CSI's numbers.
    can: BTreeSet<i32>,
}

impl Controller {
    /// The driver of a node's local volumes, as far as it is called from here.
    pub fn local(node: &str) -> Controller {
        Controller { nodes: vec![node.to_owned()], can: [controller_can::CREATE_DELETE_SNAPSHOT].into() }
    }

    /// Whether it can do this.
    pub fn can(&self, kind: i32) -> bool {
        self.can.contains(&kind)
    }
}

/// What a node says of the drivers whose controllers are called through it; what is not understood is not there.
fn said(node: &CSINode) -> BTreeMap<String, BTreeSet<i32>> {
    let text = node.metadata.annotations.as_ref().and_then(|all| all.get(CONTROLLERS));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// How a driver's controller is reached; `None` for drivers that have sidecars.
pub fn controller(nodes: &[Arc<CSINode>], driver: &str, preferred: Option<&str>) -> Option<Controller> {
    let mut found: Vec<(String, BTreeSet<i32>)> =
        nodes.iter().filter_map(|node| Some((node.metadata.name.clone()?, said(node).remove(driver)?))).collect();
    found.sort_by_key(|(name, _)| (Some(name.as_str()) != preferred, name.clone()));
    let (_, can) = found.first()?.clone();
    Some(Controller { nodes: found.into_iter().map(|(name, _)| name).collect(), can })
}

/// How a driver calls a node, and by which labels it tells nodes apart.
pub fn on_node<'n>(node: &'n CSINode, driver: &str) -> Option<(&'n str, &'n [String])> {
    let entry = node.spec.drivers.iter().find(|entry| entry.name == driver)?;
    Some((entry.node_id.as_str(), entry.topology_keys.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, annotation: &str) -> Arc<CSINode> {
        let object = json!({"metadata": {"name": name, "annotations": {CONTROLLERS: annotation}},
            "spec": {"drivers": [{"name": "d", "nodeID": format!("{name}-id"), "topologyKeys": ["zone"]}]}});
        Arc::new(serde_json::from_value(object).expect("a node"))
    }

    #[test]
    fn the_chosen_node_is_asked_first() {
        let nodes = [node("b", r#"{"d":[1,9]}"#), node("a", r#"{"d":[1]}"#), node("c", "nonsense"), node("e", "{}")];
        let check = |driver: &str, preferred: Option<&str>, expected: Option<&[&str]>| {
            let found = controller(&nodes, driver, preferred).map(|found| found.nodes);
            assert_eq!(
                found.as_deref(),
                expected.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>()).as_deref()
            );
        };
        check("d", None, Some(&["a", "b"]));
        check("d", Some("b"), Some(&["b", "a"]));
        check("d", Some("c"), Some(&["a", "b"]));
        check("other", None, None);
        assert!(controller(&nodes, "d", Some("b")).is_some_and(|found| found.can(9) && !found.can(2)));
        assert_eq!(on_node(&nodes[0], "d"), Some(("b-id", &["zone".to_owned()][..])));
    }
}
