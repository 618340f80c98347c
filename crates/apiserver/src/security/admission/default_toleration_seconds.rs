//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or unreachable.

use serde_json::{Value, json};

use super::fields::{items, list_mut, text};

/// Upstream's default for both.
const SECONDS: i64 = 300;

pub(super) fn admit(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = items(&pod["spec"], "tolerations").iter().any(|toleration| {
            let (own, effect) = (text(toleration, "key"), text(toleration, "effect"));
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            });
            list_mut(&mut pod["spec"], "tolerations").push(toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_completed() {
        let check = |own: Value, expected: &[&str]| {
            let mut pod = json!({ "spec": { "tolerations": own } });
            admit(&mut pod);
            let keys: Vec<&str> = items(&pod["spec"], "tolerations").iter().map(|one| text(one, "key")).collect();
            assert_eq!(keys, expected);
        };
        let (ready, reachable) = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable");
        check(json!([]), &[ready, reachable]);
        check(json!([{ "operator": "Exists" }]), &[""]);
        check(json!([{ "key": ready, "effect": "NoExecute" }]), &[ready, reachable]);
        check(json!([{ "key": ready, "effect": "NoSchedule" }]), &[ready, ready, reachable]);
    }
}
