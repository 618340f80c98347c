//! Whether an object is what its manifest wants, by its own status. Pure.

use serde_json::Value;

/// How far an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It is what it should be. Kinds without a notion of readiness are ready once they exist.
    Ready,
    /// What is still missing.
    Missing(String),
    /// It will not get there by itself.
    Failed(String),
}

/// How far an object is.
pub fn of(kind: &str, object: &Value) -> Readiness {
    if let Some(failure) = failure(kind, object) {
        return Readiness::Failed(failure);
    }
    match missing(kind, object) {
        Some(missing) => Readiness::Missing(missing),
        None => Readiness::Ready,
    }
}

/// What an object still lacks; nothing when it is ready.
fn missing(kind: &str, object: &Value) -> Option<String> {
    let status = &object["status"];
    let seen =
        status["observedGeneration"].as_i64().unwrap_or(0) >= object["metadata"]["generation"].as_i64().unwrap_or(0);
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" | "DaemonSet" if !seen => {
            Some("not seen by its controller yet".to_owned())
        }
        "Deployment" => {
            let (updated, available, all) = (count("updatedReplicas"), count("availableReplicas"), count("replicas"));
            if updated < wanted {
                Some(format!("{updated} of {wanted} updated"))
            } else if all > updated {
                Some(format!("{} of before still there", all - updated))
            } else {
                (available < wanted).then(|| format!("{available} of {wanted} ready"))
            }
        }
        "StatefulSet" => {
            // Those below the partition keep their old template on purpose.
            let partition = object["spec"]["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
            let new = (wanted - partition).max(0);
            let by_hand = object["spec"]["updateStrategy"]["type"] == "OnDelete";
            let (updated, ready) = (count("updatedReplicas"), count("readyReplicas"));
            ((updated < new && !by_hand) || ready < wanted || count("replicas") > wanted)
                .then(|| format!("{} of {wanted} ready", ready.min(if by_hand { ready } else { updated + partition })))
        }
        "ReplicaSet" => {
            (count("readyReplicas") < wanted).then(|| format!("{} of {wanted} ready", count("readyReplicas")))
        }
        "DaemonSet" => {
            let wanted = count("desiredNumberScheduled");
            let by_hand = object["spec"]["updateStrategy"]["type"] == "OnDelete";
            let updated = if by_hand { wanted } else { count("updatedNumberScheduled") };
            let ready = count("numberReady").min(updated);
            (ready < wanted).then(|| format!("{ready} of {wanted} ready"))
        }
        "Job" if object["spec"]["suspend"] == true => None,
        "Job" => (!condition(status, "Complete")).then(|| format!("{} succeeded", count("succeeded"))),
        "Pod" if status["phase"] == "Succeeded" => None,
        "Pod" => (!condition(status, "Ready")).then(|| status["phase"].as_str().unwrap_or("not seen yet").to_owned()),
        "CustomResourceDefinition" => (!condition(status, "Established")).then(|| "not established".to_owned()),
        "APIService" => (!condition(status, "Available")).then(|| "not available".to_owned()),
        "Namespace" => (status["phase"] == "Terminating").then(|| "still terminating".to_owned()),
        "Service" if object["spec"]["type"] == "LoadBalancer" => status["loadBalancer"]["ingress"]
            .as_array()
            .is_none_or(Vec::is_empty)
            .then(|| "no address of a load balancer yet".to_owned()),
        _ => None,
    }
}

/// Why an object will not get ready by itself.
fn failure(kind: &str, object: &Value) -> Option<String> {
    let conditions = || object["status"]["conditions"].as_array().into_iter().flatten();
    let says = |condition: &Value| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        format!("{}: {}", text("reason"), text("message"))
    };
    let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
    match kind {
        "Deployment" if seen => conditions()
            .find(|it| {
                it["type"] == "Progressing" && it["status"] == "False" && it["reason"] == "ProgressDeadlineExceeded"
            })
            .map(says),
        "Job" => conditions().find(|it| it["type"] == "Failed" && it["status"] == "True").map(says),
        "Pod" if object["status"]["phase"] == "Failed" => {
            Some(object["status"]["reason"].as_str().unwrap_or("its containers failed").to_owned())
        }
        "CustomResourceDefinition" => {
            conditions().find(|it| it["type"] == "NamesAccepted" && it["status"] == "False").map(says)
        }
        _ => None,
    }
}

fn condition(status: &Value, name: &str) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == name && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn how_far() {
        let check =
            |kind: &str, object: Value, expected: Readiness| assert_eq!(of(kind, &object), expected, "{object}");
        let missing = |text: &str| Readiness::Missing(text.to_owned());
        let deployment = |generation: i64, ready: i64, all: i64| {
            json!({"metadata": {"generation": generation}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": ready, "replicas": all}})
        };
        check("Deployment", deployment(2, 2, 2), missing("not seen by its controller yet"));
        check("Deployment", deployment(1, 1, 2), missing("1 of 2 ready"));
        check("Deployment", deployment(1, 2, 3), missing("1 of before still there"));
        check("Deployment", deployment(1, 2, 2), Readiness::Ready);
        let mut stuck = deployment(1, 1, 2);
        stuck["status"]["conditions"] =
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "m"}]);
        check("Deployment", stuck, Readiness::Failed("ProgressDeadlineExceeded: m".to_owned()));
        check("Pod", json!({"status": {"phase": "Pending"}}), missing("Pending"));
        check("Pod", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), Readiness::Ready);
        check("Pod", json!({"status": {"phase": "Succeeded"}}), Readiness::Ready);
        check("ConfigMap", json!({}), Readiness::Ready);
        let canary = json!({"metadata": {"generation": 1}, "spec": {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}},
            "status": {"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 3, "replicas": 3}});
        check("StatefulSet", canary, Readiness::Ready);
        check(
            "Job",
            json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}]}}),
            Readiness::Failed("BackoffLimitExceeded: m".to_owned()),
        );
    }
}
