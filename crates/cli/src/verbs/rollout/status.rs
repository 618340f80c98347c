//! How far a workload is, in kubectl's words (`k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go`). Pure.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::discovery::Resource;

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// In words, a line.
    pub words: String,
    /// Whether there is nothing left to do.
    pub done: bool,
}

/// How far a workload is; for a deployment a revision may be asked for.
pub fn of(resource: &Resource, object: &Value, revision: i64) -> Result<Status> {
    let known = resource.group == "apps" || resource.group == "extensions";
    let (words, done) = match resource.kind.as_str() {
        "Deployment" if known => deployment(object, revision)?,
        "DaemonSet" if known => daemon_set(object)?,
        "StatefulSet" if known => stateful_set(object)?,
        _ => bail!("no status viewer has been implemented for {}", resource.group_kind()),
    };
    Ok(Status { words: words + "\n", done })
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Whether the controller has seen the object as it is.
fn seen(object: &Value) -> bool {
    number(&object["metadata"]["generation"]) <= number(&object["status"]["observedGeneration"])
}

fn deployment(object: &Value, revision: i64) -> Result<(String, bool)> {
    let (name, status) = (name(object), &object["status"]);
    if revision > 0 {
        let own = object["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or("0");
        let Ok(running) = own.parse::<i64>() else {
            bail!("cannot get the revision of deployment {name:?}: strconv.ParseInt: parsing {own:?}: invalid syntax");
        };
        if running != revision {
            bail!("desired revision ({revision}) is different from the running revision ({running})");
        }
    }
    if !seen(object) {
        return Ok(("Waiting for deployment spec update to be observed...".to_owned(), false));
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    if conditions.into_iter().any(|it| it["type"] == "Progressing" && it["reason"] == "ProgressDeadlineExceeded") {
        bail!("deployment {name:?} exceeded its progress deadline");
    }
    let (updated, all, available) =
        (number(&status["updatedReplicas"]), number(&status["replicas"]), number(&status["availableReplicas"]));
    let waiting = format!("Waiting for deployment {name:?} rollout to finish:");
    Ok(match object["spec"]["replicas"].as_i64() {
        Some(wanted) if updated < wanted => {
            (format!("{waiting} {updated} out of {wanted} new replicas have been updated..."), false)
        }
        _ if all > updated => (format!("{waiting} {} old replicas are pending termination...", all - updated), false),
        _ if available < updated => {
            (format!("{waiting} {available} of {updated} updated replicas are available..."), false)
        }
        _ => (format!("deployment {name:?} successfully rolled out"), true),
    })
}

/// Who replaces pods only when somebody deletes them is never on the way.
fn check_strategy(object: &Value) -> Result<()> {
    if object["spec"]["updateStrategy"]["type"] != "RollingUpdate" {
        bail!("rollout status is only available for RollingUpdate strategy type");
    }
    Ok(())
}

fn daemon_set(object: &Value) -> Result<(String, bool)> {
    check_strategy(object)?;
    let (name, status) = (name(object), &object["status"]);
    if !seen(object) {
        return Ok(("Waiting for daemon set spec update to be observed...".to_owned(), false));
    }
    let wanted = number(&status["desiredNumberScheduled"]);
    let (updated, available) = (number(&status["updatedNumberScheduled"]), number(&status["numberAvailable"]));
    let waiting = format!("Waiting for daemon set {name:?} rollout to finish:");
    Ok(if updated < wanted {
        (format!("{waiting} {updated} out of {wanted} new pods have been updated..."), false)
    } else if available < wanted {
        (format!("{waiting} {available} of {wanted} updated pods are available..."), false)
    } else {
        (format!("daemon set {name:?} successfully rolled out"), true)
    })
}

fn stateful_set(object: &Value) -> Result<(String, bool)> {
    check_strategy(object)?;
    let (spec, status) = (&object["spec"], &object["status"]);
    if number(&status["observedGeneration"]) == 0 || !seen(object) {
        return Ok(("Waiting for statefulset spec update to be observed...".to_owned(), false));
    }
    let (ready, updated) = (number(&status["readyReplicas"]), number(&status["updatedReplicas"]));
    let wanted = spec["replicas"].as_i64();
    if let Some(wanted) = wanted.filter(|wanted| ready < *wanted) {
        return Ok((format!("Waiting for {} pods to be ready...", wanted - ready), false));
    }
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if rolling.is_object() {
        if let (Some(wanted), Some(partition)) = (wanted, rolling["partition"].as_i64())
            && updated < wanted - partition
        {
            let words = format!(
                "Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...",
                wanted - partition
            );
            return Ok((words, false));
        }
        return Ok((format!("partitioned roll out complete: {updated} new pods have been updated..."), true));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (current, update) = (text(&status["currentRevision"]), text(&status["updateRevision"]));
    if current != update {
        let words =
            format!("waiting for statefulset rolling update to complete {updated} pods at revision {update}...");
        return Ok((words, false));
    }
    let count = number(&status["currentReplicas"]);
    Ok((format!("statefulset rolling update complete {count} pods at revision {current}..."), true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, object: Value, revision: i64, expected: Result<(&str, bool), &str>) {
        let resource = Resource::of_apps(kind);
        match (of(&resource, &object, revision), expected) {
            (Ok(got), Ok((words, done))) => {
                assert_eq!((got.words.as_str(), got.done), (format!("{words}\n").as_str(), done))
            }
            (Err(error), Err(words)) => assert_eq!(error.to_string(), words),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn deployments() {
        let object = |generation: i64, updated: i64, all: i64, available: i64| {
            json!({"metadata": {"name": "web", "generation": generation, "annotations": {"deployment.kubernetes.io/revision": "3"}},
                "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}})
        };
        let check = |object: Value, revision: i64, expected: Result<(&str, bool), &str>| {
            check("Deployment", object, revision, expected)
        };
        check(object(2, 2, 2, 2), 0, Ok(("Waiting for deployment spec update to be observed...", false)));
        check(
            object(1, 1, 2, 2),
            0,
            Ok((
                "Waiting for deployment \"web\" rollout to finish: 1 out of 2 new replicas have been updated...",
                false,
            )),
        );
        check(
            object(1, 2, 3, 2),
            0,
            Ok(("Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...", false)),
        );
        check(
            object(1, 2, 2, 1),
            0,
            Ok(("Waiting for deployment \"web\" rollout to finish: 1 of 2 updated replicas are available...", false)),
        );
        check(object(1, 2, 2, 2), 3, Ok(("deployment \"web\" successfully rolled out", true)));
        check(object(1, 2, 2, 2), 2, Err("desired revision (2) is different from the running revision (3)"));
        let mut late = object(1, 1, 2, 1);
        late["status"]["conditions"] = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        check(late, 0, Err("deployment \"web\" exceeded its progress deadline"));
    }

    #[test]
    fn others() {
        let daemons = |updated: i64, available: i64| {
            json!({"metadata": {"name": "d"}, "spec": {"updateStrategy": {"type": "RollingUpdate"}},
                "status": {"desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": available}})
        };
        check(
            "DaemonSet",
            daemons(1, 1),
            0,
            Ok(("Waiting for daemon set \"d\" rollout to finish: 1 out of 2 new pods have been updated...", false)),
        );
        check(
            "DaemonSet",
            daemons(2, 1),
            0,
            Ok(("Waiting for daemon set \"d\" rollout to finish: 1 of 2 updated pods are available...", false)),
        );
        check("DaemonSet", daemons(2, 2), 0, Ok(("daemon set \"d\" successfully rolled out", true)));
        check(
            "DaemonSet",
            json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
            0,
            Err("rollout status is only available for RollingUpdate strategy type"),
        );
        let set = |ready: i64, updated: i64, current: &str, partition: Option<i64>| {
            let mut set = json!({"metadata": {"name": "s"}, "spec": {"replicas": 3, "updateStrategy": {"type": "RollingUpdate"}},
                "status": {"observedGeneration": 1, "readyReplicas": ready, "updatedReplicas": updated, "currentReplicas": 3,
                    "currentRevision": current, "updateRevision": "b"}});
            if let Some(partition) = partition {
                set["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": partition});
            }
            set
        };
        check("StatefulSet", set(1, 3, "b", None), 0, Ok(("Waiting for 2 pods to be ready...", false)));
        check(
            "StatefulSet",
            set(3, 1, "a", None),
            0,
            Ok(("waiting for statefulset rolling update to complete 1 pods at revision b...", false)),
        );
        check(
            "StatefulSet",
            set(3, 3, "b", None),
            0,
            Ok(("statefulset rolling update complete 3 pods at revision b...", true)),
        );
        check(
            "StatefulSet",
            set(3, 0, "a", Some(1)),
            0,
            Ok(("Waiting for partitioned roll out to finish: 0 out of 2 new pods have been updated...", false)),
        );
        check(
            "StatefulSet",
            set(3, 2, "a", Some(1)),
            0,
            Ok(("partitioned roll out complete: 2 new pods have been updated...", true)),
        );
        check("Pod", json!({}), 0, Err("no status viewer has been implemented for Pod.apps"));
    }
}
