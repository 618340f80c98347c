//! Jobs and cron jobs.

use serde_json::{Value, json};

use super::{create, prepared, update};

fn job() -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
}

fn cron() -> Value {
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job()["spec"].clone()}}})
}

#[track_caller]
fn spec(change: Value, expected: &[&str]) {
    create(&job(), json!({"spec": change}), expected);
}

#[test]
fn labels_are_generated() {
    let labels = json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "x",
        "controller-uid": "u", "job-name": "x"});
    let made = prepared(job());
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(made["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    let mut manual = job();
    manual["spec"]["manualSelector"] = json!(true);
    manual["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
    assert_eq!(prepared(manual)["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
}

#[test]
fn jobs() {
    spec(json!({}), &[]);
    spec(json!({"parallelism": -1}), &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"]);
    spec(
        json!({"template": {"spec": {"restartPolicy": "Always"}}}),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    spec(
        json!({"completionMode": "Indexed", "parallelism": 1}),
        &["spec.completions: Required value: when completion mode is Indexed"],
    );
    spec(
        json!({"completionMode": "Other"}),
        &["spec.completionMode: Unsupported value: \"Other\": supported values: \"NonIndexed\", \"Indexed\""],
    );
    spec(
        json!({"backoffLimitPerIndex": 1}),
        &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
    );
    spec(
        json!({"managedBy": "x"}),
        &["spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
    );
    spec(
        json!({"selector": {"matchLabels": {"a": "b"}}}),
        &[
            "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u\"}}: `selector` not auto-generated",
            "spec.template.metadata.labels: Invalid value: …",
        ],
    );
    spec(
        json!({"podFailurePolicy": {"rules": [{"action": "Ignore"}]}}),
        &[
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ],
    );
}

#[test]
fn jobs_stay() {
    update(&job(), json!({"spec": {"parallelism": 5, "suspend": true}}), None, &[]);
    update(
        &job(),
        json!({"spec": {"completions": 5}}),
        None,
        &["spec.completions: Invalid value: 5: field is immutable"],
    );
    update(
        &job(),
        json!({"spec": {"backoffLimitPerIndex": 5}}),
        None,
        &[
            "spec.backoffLimitPerIndex: Invalid value: 5: requires indexed completion mode",
            "spec.backoffLimitPerIndex: Invalid value: 5: field is immutable",
        ],
    );
    update(
        &job(),
        json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}),
        None,
        &["spec.template: Invalid value: …"],
    );
    let mut suspended = job();
    suspended["spec"]["suspend"] = json!(true);
    update(&suspended, json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}), None, &[]);
}

#[test]
fn status() {
    update(&job(), json!({"status": {"active": 1, "succeeded": 2}}), Some("status"), &[]);
    update(
        &job(),
        json!({"status": {"succeeded": -1}}),
        Some("status"),
        &[
            "status.succeeded: Invalid value: -1: must be greater than or equal to 0",
            "status.succeeded: Invalid value: -1: cannot decrease the succeeded counter",
        ],
    );
    update(
        &job(),
        json!({"status": {"ready": 2, "active": 1}}),
        Some("status"),
        &["status.ready: Invalid value: 2: cannot set more ready pods than active"],
    );
}

#[test]
fn cron_jobs() {
    let spec = |change: Value, expected: &[&str]| create(&cron(), json!({"spec": change}), expected);
    spec(json!({}), &[]);
    spec(json!({"schedule": ""}), &["spec.schedule: Required value"]);
    spec(
        json!({"schedule": "* * *"}),
        &["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"],
    );
    spec(
        json!({"schedule": "61 * * * *"}),
        &["spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61"],
    );
    spec(
        json!({"schedule": "TZ=UTC * * * * *"}),
        &[
            "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ],
    );
    spec(
        json!({"timeZone": "Nowhere/City"}),
        &["spec.timeZone: Invalid value: \"Nowhere/City\": unknown time zone Nowhere/City"],
    );
    spec(
        json!({"concurrencyPolicy": "Maybe"}),
        &["spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\""],
    );
    create(
        &cron(),
        json!({"metadata": {"name": "a".repeat(53)}}),
        &[
            "metadata.name: Invalid value: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": must be no more than 52 characters",
        ],
    );
}
