//! Whether an object is what its manifest wants, by its own status.

use serde_json::Value;

/// What an object still lacks; nothing when it is ready. Kinds without a notion of readiness are ready once they exist.
pub fn missing(kind: &str, object: &Value) -> Option<String> {
    let status = &object["status"];
    let seen =
        status["observedGeneration"].as_i64().unwrap_or(0) >= object["metadata"]["generation"].as_i64().unwrap_or(0);
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    match kind {
        "Deployment" | "StatefulSet" if !seen => Some("not seen by its controller yet".to_owned()),
        "Deployment" | "StatefulSet" => {
            let (updated, ready) = (count("updatedReplicas"), count("readyReplicas"));
            (updated < wanted || ready < wanted || count("replicas") > wanted)
                .then(|| format!("{} of {wanted} ready", ready.min(updated)))
        }
        "DaemonSet" if !seen => Some("not seen by its controller yet".to_owned()),
        "DaemonSet" => {
            let (wanted, ready) =
                (count("desiredNumberScheduled"), count("numberReady").min(count("updatedNumberScheduled")));
            (ready < wanted).then(|| format!("{ready} of {wanted} ready"))
        }
        "Job" => (!condition(status, "Complete")).then(|| format!("{} succeeded", count("succeeded"))),
        "Pod" => (!condition(status, "Ready")).then(|| status["phase"].as_str().unwrap_or("not seen yet").to_owned()),
        "CustomResourceDefinition" => (!condition(status, "Established")).then(|| "not established".to_owned()),
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
    fn what_is_missing() {
        let check = |kind: &str, object: Value, expected: Option<&str>| {
            assert_eq!(missing(kind, &object).as_deref(), expected, "{object}");
        };
        let deployment = |generation: i64, ready: i64, all: i64| {
            json!({"metadata": {"generation": generation}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": ready, "replicas": all}})
        };
        check("Deployment", deployment(2, 2, 2), Some("not seen by its controller yet"));
        check("Deployment", deployment(1, 1, 2), Some("1 of 2 ready"));
        check("Deployment", deployment(1, 2, 3), Some("2 of 2 ready"));
        check("Deployment", deployment(1, 2, 2), None);
        check("Pod", json!({"status": {"phase": "Pending"}}), Some("Pending"));
        check("Pod", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), None);
        check("ConfigMap", json!({}), None);
    }
}
