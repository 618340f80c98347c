//! What events say of a node whose status changes.
//!
//! Source: the setters of `pkg/kubelet/nodestatus` and `recordNodeStatusEvent` of `pkg/kubelet`, Kubernetes 1.36.

use k8s_openapi::api::core::v1::NodeStatus;

use crate::events::{Recorder, Severity};

/// The reasons when a condition comes to be `True`, and when it comes to be anything else.
const REASONS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ("Ready", "NodeReady", "NodeNotReady"),
];

/// Tells that the node's agent has begun its work.
pub(crate) fn starting(events: &Recorder, node: &str) {
    events.node(node, Severity::Normal, "Starting", "Starting kubelet.");
}

/// Tells what is new in a status that was written: conditions, and a boot since the last one.
pub(crate) fn tell(events: &Recorder, node: &str, old: &NodeStatus, new: &NodeStatus) {
    for (severity, reason, message) in news(node, old, new) {
        events.node(node, severity, reason, message);
    }
}

fn news(node: &str, old: &NodeStatus, new: &NodeStatus) -> Vec<(Severity, &'static str, String)> {
    let status = |of: &NodeStatus, kind: &str| {
        let held = of.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        held.map(|condition| condition.status.clone())
    };
    let mut news = Vec::new();
    for (kind, holds, ended) in REASONS {
        let now = status(new, kind);
        if now.is_some() && now != status(old, kind) {
            let reason = if now.as_deref() == Some("True") { holds } else { ended };
            news.push((Severity::Normal, reason, format!("Node {node} status is now: {reason}")));
        }
    }
    let boot = |of: &NodeStatus| of.node_info.as_ref().map(|info| info.boot_id.clone()).unwrap_or_default();
    let (before, after) = (boot(old), boot(new));
    if !before.is_empty() && before != after {
        news.push((Severity::Warning, "Rebooted", format!("Node {node} has been rebooted, boot id: {after}")));
    }
    news
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSystemInfo};

    use super::*;

    fn status(boot: &str, conditions: &[(&str, &str)]) -> NodeStatus {
        let condition = |(kind, status): &(&str, &str)| NodeCondition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            ..NodeCondition::default()
        };
        NodeStatus {
            conditions: Some(conditions.iter().map(condition).collect()),
            node_info: Some(NodeSystemInfo { boot_id: boot.to_owned(), ..NodeSystemInfo::default() }),
            ..NodeStatus::default()
        }
    }

    #[test]
    fn what_is_new() {
        let well =
            [("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"), ("Ready", "True")];
        let check = |old: &NodeStatus, new: &NodeStatus, expected: &[&str]| {
            let reasons: Vec<&str> = news("n", old, new).iter().map(|(_, reason, _)| *reason).collect();
            assert_eq!(reasons, expected);
        };
        let all = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
        check(&NodeStatus::default(), &status("1", &well), &all);
        check(&status("1", &well), &status("1", &well), &[]);
        check(&status("1", &well), &status("2", &well), &["Rebooted"]);
        check(
            &status("1", &well),
            &status("1", &[("MemoryPressure", "True"), ("DiskPressure", "False"), ("Ready", "False")]),
            &["NodeHasInsufficientMemory", "NodeNotReady"],
        );
        check(&status("1", &[("Ready", "Unknown")]), &status("1", &[("Ready", "True")]), &["NodeReady"]);
        let (severity, _, message) = &news("n", &status("1", &[]), &status("b2", &[]))[0];
        assert_eq!((*severity, message.as_str()), (Severity::Warning, "Node n has been rebooted, boot id: b2"));
    }
}
