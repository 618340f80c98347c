//! TaintNodesByCondition: a new node gets no pods before it has said that it is ready.

use serde_json::{Value, json};

use super::fields::{items, list_mut, object_mut, text};

const KEY: &str = "node.kubernetes.io/not-ready";

pub(super) fn admit(node: &mut Value) {
    let spec = object_mut(node, "spec");
    if !items(spec, "taints").iter().any(|taint| text(taint, "key") == KEY && text(taint, "effect") == "NoSchedule") {
        list_mut(spec, "taints").push(json!({ "key": KEY, "effect": "NoSchedule" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_nodes_are_tainted_once() {
        let mut node = json!({ "metadata": { "name": "n" } });
        admit(&mut node);
        admit(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{ "key": KEY, "effect": "NoSchedule" }]));
    }
}
