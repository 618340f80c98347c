//! What makes pods: Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets, Jobs and CronJobs.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::read::{
    controller, int, int_or_string, is, items, labels, moment, quantity_text, seconds_between, selector,
    selector_query, text, texts, time, yes_or_unset,
};
use super::writer::Writer;
use super::{Related, metadata, pods, volumes};
use crate::verbs::go;

/// How many of a controller's pods are in which phase.
fn pods_status(object: &Value, related: &Related) -> String {
    let uid = text(&object["metadata"]["uid"]);
    let own: Vec<String> = related
        .pods
        .iter()
        .filter(|pod| controller(pod).is_some_and(|owner| text(&owner["uid"]) == uid))
        .map(|pod| text(&pod["status"]["phase"]))
        .collect();
    let count = |phase: &str| own.iter().filter(|found| *found == phase).count();
    format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    )
}

/// A Deployment.
pub fn deployment(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    metadata::creation(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "Selector", selector_query(&spec["selector"]).unwrap_or_default());
    w.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            int(&spec["replicas"]),
            int(&status["updatedReplicas"]),
            int(&status["replicas"]),
            int(&status["availableReplicas"]),
            int(&status["unavailableReplicas"])
        ),
    );
    w.field(0, "StrategyType", text(&spec["strategy"]["type"]));
    w.field(0, "MinReadySeconds", int(&spec["minReadySeconds"]).to_string());
    let rolling = &spec["strategy"]["rollingUpdate"];
    if !rolling.is_null() {
        let [unavailable, surge] = ["maxUnavailable", "maxSurge"].map(|field| int_or_string(&rolling[field]));
        w.field(0, "RollingUpdateStrategy", format!("{unavailable} max unavailable, {surge} max surge"));
    }
    pods::template(w, &spec["template"]);
    metadata::conditions_with_reasons(w, object);
    let (old, new) = replica_sets(object, &related.replica_sets);
    if !old.is_empty() || new.is_some() {
        w.field(0, "OldReplicaSets", listed(&old));
        w.field(0, "NewReplicaSet", listed(new.as_slice()));
    }
    metadata::events(w, related.events(), now);
}

/// The older ReplicaSets of a Deployment, and the one with its present template.
fn replica_sets<'r>(deployment: &Value, all: &'r [Value]) -> (Vec<&'r Value>, Option<&'r Value>) {
    let uid = text(&deployment["metadata"]["uid"]);
    let mut own: Vec<&Value> =
        all.iter().filter(|set| controller(set).is_some_and(|owner| text(&owner["uid"]) == uid)).collect();
    own.sort_by_key(|set| (time(&set["metadata"]["creationTimestamp"]), text(&set["metadata"]["name"])));
    let wanted = without_hash(&deployment["spec"]["template"]);
    let new = own.iter().position(|set| without_hash(&set["spec"]["template"]) == wanted);
    let new = new.map(|at| own.remove(at));
    (own, new)
}

/// A template without the label that tells ReplicaSets apart, and without what is empty, as Go compares it.
fn without_hash(template: &Value) -> Value {
    fn filled(value: &Value) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::Object(fields) => {
                let fields: Map<String, Value> =
                    fields.iter().filter_map(|(name, value)| Some((name.clone(), filled(value)?))).collect();
                // An empty `emptyDir` is a choice; empty maps of labels are not.
                Some(Value::Object(fields))
            }
            Value::Array(items) if items.is_empty() => None,
            other => Some(other.clone()),
        }
    }
    let mut template = filled(template).unwrap_or_default();
    if let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(labels) = meta.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove("pod-template-hash");
        }
        meta.retain(|_, value| !super::read::is_empty(value) || !value.is_object());
    }
    template
}

fn listed(sets: &[&Value]) -> String {
    let shown: Vec<String> = sets
        .iter()
        .map(|set| {
            let (name, replicas) = (text(&set["metadata"]["name"]), int(&set["status"]["replicas"]));
            format!("{name} ({replicas}/{} replicas created)", int(&set["spec"]["replicas"]))
        })
        .collect();
    if shown.is_empty() { "<none>".to_owned() } else { shown.join(", ") }
}

/// A ReplicaSet.
pub fn replica_set(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let shown = selector(&object["spec"]["selector"]);
    replicas(w, object, related, now, shown, true);
}

/// A ReplicationController.
pub fn replication_controller(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let shown = labels(&object["spec"]["selector"]);
    replicas(w, object, related, now, shown, false);
}

fn replicas(w: &mut Writer, object: &Value, related: &Related, now: Timestamp, selector: String, owned: bool) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    w.field(0, "Selector", selector);
    metadata::labels_and_annotations(w, object);
    if owned {
        metadata::controlled_by(w, object);
    }
    w.field(0, "Replicas", format!("{} current / {} desired", int(&status["replicas"]), int(&spec["replicas"])));
    match &related.pods_error {
        Some(error) => w.field(0, "Pods Status", format!("error in fetching pods: {error}")),
        None => w.field(0, "Pods Status", pods_status(object, related)),
    }
    pods::template(w, &spec["template"]);
    metadata::conditions_with_reasons(w, object);
    metadata::events(w, related.events(), now);
}

/// A StatefulSet.
pub fn stateful_set(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    metadata::creation(w, object);
    w.field(0, "Selector", selector_query(&spec["selector"]).unwrap_or_default());
    metadata::labels_and_annotations(w, object);
    w.field(0, "Replicas", format!("{} desired | {} total", int(&spec["replicas"]), int(&status["replicas"])));
    w.field(0, "Update Strategy", text(&spec["updateStrategy"]["type"]));
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if !rolling["partition"].is_null() {
        w.field(1, "Partition", int(&rolling["partition"]).to_string());
        if !rolling["maxUnavailable"].is_null() {
            w.field(1, "MaxUnavailable", int_or_string(&rolling["maxUnavailable"]));
        }
    }
    w.field(0, "Pods Status", pods_status(object, related));
    pods::template(w, &spec["template"]);
    let claims = items(&spec["volumeClaimTemplates"]);
    w.line(0, if claims.is_empty() { "Volume Claims:\t<none>" } else { "Volume Claims:" });
    for claim in claims {
        w.field(1, "Name", text(&claim["metadata"]["name"]));
        w.field(1, "StorageClass", volumes::class(claim));
        metadata::labels_indented(w, "  ", "Labels", &claim["metadata"]["labels"]);
        metadata::labels_indented(w, "  ", "Annotations", &claim["metadata"]["annotations"]);
        let capacity = &claim["spec"]["resources"]["requests"]["storage"];
        w.field(1, "Capacity", if capacity.is_null() { "<default>".to_owned() } else { quantity_text(capacity) });
        w.field(1, "Access Modes", go::list(&texts(&claim["spec"]["accessModes"])));
    }
    metadata::events(w, related.events(), now);
}

/// A DaemonSet.
pub fn daemon_set(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    w.field(0, "Selector", selector_query(&spec["selector"]).unwrap_or_default());
    w.field(0, "Node-Selector", labels(&spec["template"]["spec"]["nodeSelector"]));
    metadata::labels_and_annotations(w, object);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        w.line(0, format!("{title}: {}", int(&status[field])));
    }
    w.field(0, "Pods Status", pods_status(object, related));
    pods::template(w, &spec["template"]);
    metadata::events(w, related.events(), now);
}

/// A Job.
pub fn job(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    w.field(0, "Selector", selector_query(&spec["selector"]).unwrap_or_default());
    metadata::labels_and_annotations(w, object);
    metadata::controlled_by(w, object);
    let number = |value: &Value| int(value).to_string();
    let set = |value: &'static str| Some(&spec[value]).filter(|found| !found.is_null());
    if let Some(parallelism) = set("parallelism") {
        w.field(0, "Parallelism", number(parallelism));
    }
    w.field(0, "Completions", set("completions").map_or_else(|| "<unset>".to_owned(), number));
    if let Some(mode) = set("completionMode") {
        w.field(0, "Completion Mode", text(mode));
    }
    if let Some(suspend) = set("suspend") {
        w.field(0, "Suspend", is(suspend).to_string());
    }
    if let Some(limit) = set("backoffLimit") {
        w.field(0, "Backoff Limit", number(limit));
    }
    if let Some(seconds) = set("ttlSecondsAfterFinished") {
        w.field(0, "TTL Seconds After Finished", number(seconds));
    }
    for (title, field) in [("Start Time", "startTime"), ("Completed At", "completionTime")] {
        if !status[field].is_null() {
            w.field(0, title, moment(&status[field]));
        }
    }
    if let (Some(start), Some(end)) = (time(&status["startTime"]), time(&status["completionTime"])) {
        w.field(0, "Duration", kobune_kinds::duration::human(seconds_between(start, end)));
    }
    if let Some(seconds) = set("activeDeadlineSeconds") {
        w.field(0, "Active Deadline Seconds", format!("{}s", int(seconds)));
    }
    let ready = if status["ready"].is_null() { String::new() } else { format!(" ({} Ready)", int(&status["ready"])) };
    w.field(
        0,
        "Pods Statuses",
        format!(
            "{} Active{ready} / {} Succeeded / {} Failed",
            int(&status["active"]),
            int(&status["succeeded"]),
            int(&status["failed"])
        ),
    );
    if spec["completionMode"] == "Indexed" {
        w.field(0, "Completed Indexes", indexes(&text(&status["completedIndexes"])));
    }
    pods::template(w, &spec["template"]);
    metadata::events(w, related.events(), now);
}

/// The first fifty letters of a list of indexes, up to the next comma.
fn indexes(text: &str) -> String {
    if text.is_empty() {
        return "<none>".to_owned();
    }
    match text.bytes().enumerate().skip(50).find(|(_, byte)| *byte == b',') {
        Some((end, _)) => format!("{}...", &text[..=end]),
        None => text.to_owned(),
    }
}

/// A CronJob.
pub fn cron_job(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "Schedule", text(&spec["schedule"]));
    w.field(0, "Concurrency Policy", text(&spec["concurrencyPolicy"]));
    w.field(0, "Suspend", yes_or_unset(&spec["suspend"]));
    let or_unset = |value: &Value, unit: &str| {
        if value.is_null() { "<unset>".to_owned() } else { format!("{}{unit}", int(value)) }
    };
    w.field(0, "Successful Job History Limit", or_unset(&spec["successfulJobsHistoryLimit"], ""));
    w.field(0, "Failed Job History Limit", or_unset(&spec["failedJobsHistoryLimit"], ""));
    w.field(0, "Starting Deadline Seconds", or_unset(&spec["startingDeadlineSeconds"], "s"));
    let job = &spec["jobTemplate"]["spec"];
    let chosen = match &job["selector"] {
        Value::Null => "<unset>".to_owned(),
        chosen => selector_query(chosen).unwrap_or_default(),
    };
    w.field(0, "Selector", chosen);
    w.field(0, "Parallelism", or_unset(&job["parallelism"], ""));
    w.field(0, "Completions", or_unset(&job["completions"], ""));
    if !job["activeDeadlineSeconds"].is_null() {
        w.field(0, "Active Deadline Seconds", or_unset(&job["activeDeadlineSeconds"], "s"));
    }
    pods::template(w, &job["template"]);
    let last = &status["lastScheduleTime"];
    w.field(0, "Last Schedule Time", if last.is_null() { "<unset>".to_owned() } else { moment(last) });
    let active: Vec<String> = items(&status["active"]).iter().map(|job| text(&job["name"])).collect();
    w.field(0, "Active Jobs", if active.is_empty() { "<none>".to_owned() } else { active.join(", ") });
    metadata::events(w, related.events(), now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_of_indexes() {
        let check = |text: &str, expected: &str| assert_eq!(indexes(text), expected);
        check("", "<none>");
        check("0-3,5", "0-3,5");
        let long: Vec<String> = (0..40).map(|index| (index * 2).to_string()).collect();
        check(&long.join(","), "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,...");
    }

    #[test]
    fn which_replica_set_is_new() {
        let deployment = json!({"metadata": {"uid": "d"}, "spec": {"template": {"metadata": {}, "spec": {"a": 1}}}});
        let set = |name: &str, template: Value| {
            json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                    "ownerReferences": [{"controller": true, "uid": "d"}]},
                "spec": {"replicas": 2, "template": template}, "status": {"replicas": 1}})
        };
        let new = json!({"metadata": {"labels": {"pod-template-hash": "x"}}, "spec": {"a": 1}});
        let sets = [set("b", new), set("a", json!({"spec": {"a": 2}})), json!({"metadata": {"name": "foreign"}})];
        let (old, new) = replica_sets(&deployment, &sets);
        assert_eq!(listed(&old), "a (1/2 replicas created)");
        assert_eq!(listed(new.as_slice()), "b (1/2 replicas created)");
        assert_eq!(listed(&[]), "<none>");
    }
}
