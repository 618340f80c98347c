//! What becomes of a pod of a node that is drained (`k8s.io/kubectl/pkg/drain/filters.go`). Pure.

use jiff::Timestamp;
use serde_json::Value;

/// What a caller allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Pods that nobody makes anew may go.
    pub force: bool,
    /// The pods of DaemonSets may stay.
    pub ignore_daemon_sets: bool,
    /// Data in emptyDir volumes may be lost.
    pub delete_local_data: bool,
    /// After how many seconds of deletion a pod is not looked at any more; 0 for never.
    pub skip_after: i64,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is none of ours.
    Skip,
    /// It goes.
    Goes,
    /// It goes, and that is said.
    GoesWith(String),
    /// It stays, and that is said.
    Stays(String),
    /// Because of it nothing is done.
    Refused(String),
}

/// The owner that makes a pod anew.
fn controller(pod: &Value) -> Option<&Value> {
    let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().find(|owner| owner["controller"] == true)
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// The DaemonSet whose pod it is, where that matters.
pub fn daemon_set(pod: &Value) -> Option<&str> {
    let owner = controller(pod)?;
    let is = owner["kind"] == "DaemonSet" && owner["apiVersion"] == "apps/v1";
    (is && !ended(pod)).then(|| owner["name"].as_str()).flatten()
}

/// What becomes of a pod. `lost` says why its DaemonSet could not be read, and whether it is not there.
pub fn of(pod: &Value, rules: Rules, lost: Option<(bool, String)>, now: Timestamp) -> Verdict {
    let metadata = &pod["metadata"];
    let deleted = metadata["deletionTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    if rules.skip_after > 0 && deleted.is_some_and(|time| now.as_second() - time.as_second() > rules.skip_after) {
        return Verdict::Skip;
    }
    // What is said last counts.
    let mut verdict = Verdict::Goes;
    if daemon_set(pod).is_some() {
        verdict = match lost {
            Some((true, words)) if rules.force => Verdict::GoesWith(words),
            Some((_, words)) => return Verdict::Refused(words),
            None if rules.ignore_daemon_sets => return Verdict::Stays("ignoring DaemonSet-managed Pods".to_owned()),
            None => return Verdict::Refused("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)".to_owned()),
        };
    }
    if metadata["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return Verdict::Skip;
    }
    if ended(pod) {
        return Verdict::Goes;
    }
    let local = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| volume.get("emptyDir").is_some());
    if local && !rules.delete_local_data {
        return Verdict::Refused("Pods with local storage (use --delete-emptydir-data to override)".to_owned());
    }
    match (controller(pod).is_some(), rules.force) {
        (true, _) if matches!(verdict, Verdict::GoesWith(_)) => verdict,
        (true, _) => Verdict::Goes,
        (false, true) => Verdict::GoesWith("deleting Pods that declare no controller".to_owned()),
        (false, false) => Verdict::Refused("Pods that declare no controller (use --force to override)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verdicts() {
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "o", "controller": true}]}});
        let check = |pod: &Value, rules: Rules, lost: Option<(bool, &str)>, expected: Verdict| {
            let lost = lost.map(|(gone, words)| (gone, words.to_owned()));
            assert_eq!(of(pod, rules, lost, "2026-01-01T00:10:00Z".parse().unwrap()), expected, "{pod}");
        };
        let none = Rules::default();
        let all = Rules { force: true, ignore_daemon_sets: true, delete_local_data: true, skip_after: 60 };
        let refused = |words: &str| Verdict::Refused(words.to_owned());
        check(&owned("ReplicaSet"), none, None, Verdict::Goes);
        check(&owned("DaemonSet"), none, None, refused("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"));
        check(&owned("DaemonSet"), all, None, Verdict::Stays("ignoring DaemonSet-managed Pods".to_owned()));
        check(&owned("DaemonSet"), all, Some((true, "not found")), Verdict::GoesWith("not found".to_owned()));
        check(&owned("DaemonSet"), none, Some((true, "not found")), refused("not found"));
        let mut local = owned("ReplicaSet");
        local["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        check(&local, none, None, refused("Pods with local storage (use --delete-emptydir-data to override)"));
        check(&local, all, None, Verdict::Goes);
        check(&json!({}), none, None, refused("Pods that declare no controller (use --force to override)"));
        check(&json!({}), all, None, Verdict::GoesWith("deleting Pods that declare no controller".to_owned()));
        check(&json!({"status": {"phase": "Succeeded"}}), none, None, Verdict::Goes);
        check(&json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), none, None, Verdict::Skip);
        check(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), all, None, Verdict::Skip);
    }
}
