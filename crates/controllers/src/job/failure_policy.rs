//! `spec.podFailurePolicy`: what a failed pod means to its Job.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/job/pod_failure_policy.go>.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod as ApiPod;

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the back-off limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// Applies the first rule that matches.
pub fn judge(policy: &PodFailurePolicy, pod: &ApiPod) -> Verdict {
    for (at, rule) in policy.rules.iter().enumerate() {
        let Some(what) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {at}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Whether a rule fits, and the words for what it fits.
fn matched(rule: &PodFailurePolicyRule, pod: &ApiPod) -> Option<String> {
    let meta = &pod.metadata;
    let name =
        format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let status = pod.status.as_ref()?;
    if let Some(codes) = &rule.on_exit_codes {
        let statuses =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        for container in statuses {
            if codes.container_name.as_ref().is_some_and(|wanted| *wanted != container.name) {
                continue;
            }
            let Some(ended) = container.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
            let listed = codes.values.contains(&ended.exit_code);
            let fits = if codes.operator == "In" { listed } else { !listed };
            if ended.exit_code != 0 && fits {
                return Some(format!(
                    "Container {} for pod {name} failed with exit code {}",
                    container.name, ended.exit_code
                ));
            }
        }
        return None;
    }
    let conditions = status.conditions.iter().flatten();
    let wanted = rule.on_pod_conditions.iter().flatten();
    let found = wanted.flat_map(|pattern| {
        let status = pattern.status.as_deref().filter(|status| !status.is_empty()).unwrap_or("True");
        conditions.clone().filter(move |condition| condition.type_ == pattern.type_ && condition.status == status)
    });
    found.map(|condition| format!("Pod {name} has condition {}", condition.type_)).next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2, 42]}},
        ]}))
        .expect("a policy");
        let check = |conditions: serde_json::Value, container: &str, code: i32, expected: Verdict| {
            let pod: ApiPod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {
                "conditions": conditions,
                "containerStatuses": [{"name": container, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}]}}))
            .expect("a pod");
            assert_eq!(judge(&policy, &pod), expected, "{container} {code}");
        };
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        check(disrupted, "main", 42, Verdict::Ignore);
        let words = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        check(json!([]), "main", 42, Verdict::FailJob(words.to_owned()));
        check(json!([]), "side", 42, Verdict::Count);
        check(json!([]), "side", 7, Verdict::FailIndex);
        check(json!([]), "main", 1, Verdict::Count);
        check(json!([]), "main", 0, Verdict::Count);
    }
}
