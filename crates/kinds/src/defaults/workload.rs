//! Defaults of the kinds that make pods, and of their autoscaler.

use serde_json::{Value, json};

use super::{always, each, labels_from_template, put, put_text, within};
use crate::kind::Kind;
use crate::path::{at, has, size, text};

fn template(spec: &mut Value) {
    within(spec, "template", super::pod::template);
}

pub(super) fn replication_controller(object: &mut Value) {
    labels_from_template(object);
    within(object, "spec", |spec| {
        put(spec, "replicas", 1);
        let labels = at(spec, "template.metadata.labels").clone();
        if size(spec, "selector") == 0 && !labels.is_null() {
            spec["selector"] = labels;
        }
        template(spec);
    });
}

pub(super) fn replica_set(spec: &mut Value) {
    put(spec, "replicas", 1);
    template(spec);
}

pub(super) fn deployment(spec: &mut Value) {
    put(spec, "replicas", 1);
    always(spec, "strategy", |strategy| {
        put_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            always(strategy, "rollingUpdate", |rolling| {
                put(rolling, "maxUnavailable", "25%");
                put(rolling, "maxSurge", "25%");
            });
        }
    });
    put(spec, "revisionHistoryLimit", 10);
    put(spec, "progressDeadlineSeconds", 600);
    template(spec);
}

pub(super) fn daemon_set(spec: &mut Value) {
    always(spec, "updateStrategy", |strategy| {
        put_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            always(strategy, "rollingUpdate", |rolling| {
                put(rolling, "maxUnavailable", 1);
                put(rolling, "maxSurge", 0);
            });
        }
    });
    put(spec, "revisionHistoryLimit", 10);
    template(spec);
}

pub(super) fn stateful_set(spec: &mut Value) {
    put_text(spec, "podManagementPolicy", "OrderedReady");
    always(spec, "updateStrategy", |strategy| {
        put_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            always(strategy, "rollingUpdate", |rolling| {
                put(rolling, "partition", 0);
                put(rolling, "maxUnavailable", 1);
            });
        }
    });
    always(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
        put_text(policy, "whenDeleted", "Retain");
        put_text(policy, "whenScaled", "Retain");
    });
    put(spec, "replicas", 1);
    put(spec, "revisionHistoryLimit", 10);
    each(spec, "volumeClaimTemplates", |claim| {
        put(claim, "apiVersion", "v1");
        put(claim, "kind", "PersistentVolumeClaim");
        put(claim, "metadata", json!({}));
        super::storage::claim(claim);
    });
    template(spec);
}

fn failure_policy(spec: &mut Value) {
    within(spec, "podFailurePolicy", |policy| {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |condition| put_text(condition, "status", "True"));
        });
    });
}

pub(super) fn job(object: &mut Value) {
    labels_from_template(object);
    within(object, "spec", |spec| {
        if !has(spec, "completions") && !has(spec, "parallelism") {
            put(spec, "completions", 1);
        }
        put(spec, "parallelism", 1);
        // With a limit for each index, none holds for the whole.
        let limit = if has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
        put(spec, "backoffLimit", limit);
        put(spec, "completionMode", "NonIndexed");
        put(spec, "suspend", false);
        failure_policy(spec);
        let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        put(spec, "podReplacementPolicy", replacement);
        template(spec);
    });
}

pub(super) fn cron_job(spec: &mut Value) {
    put_text(spec, "concurrencyPolicy", "Allow");
    put(spec, "suspend", false);
    put(spec, "successfulJobsHistoryLimit", 3);
    put(spec, "failedJobsHistoryLimit", 1);
    within(spec, "jobTemplate", |job| {
        put(job, "metadata", json!({}));
        within(job, "spec", |spec| {
            failure_policy(spec);
            template(spec);
        });
    });
}

pub(super) fn autoscaler(kind: &Kind, object: &mut Value) {
    within(object, "spec", |spec| match &*kind.version {
        "v2" => autoscaler_spec(spec),
        // The first version gets a target when it becomes the second.
        _ => put(spec, "minReplicas", 1),
    });
}

pub(super) fn autoscaler_spec(spec: &mut Value) {
    put(spec, "minReplicas", 1);
    if size(spec, "metrics") == 0 {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}});
        spec["metrics"] = json!([cpu]);
    }
    within(spec, "behavior", |behavior| {
        let fast = json!([{"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15}]);
        let slow = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        // Once there is a behaviour, both directions are written out.
        always(behavior, "scaleUp", |rules| {
            put(rules, "stabilizationWindowSeconds", 0);
            put(rules, "selectPolicy", "Max");
            put(rules, "policies", fast);
        });
        always(behavior, "scaleDown", |rules| {
            put(rules, "selectPolicy", "Max");
            put(rules, "policies", slow);
        });
    });
}
