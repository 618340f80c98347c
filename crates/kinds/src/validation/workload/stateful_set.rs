//! StatefulSet.

use serde_json::Value;

use super::super::{Errors, none_negative, not_negative, one_of, pod, same};
use super::{amount, at_most_all, number_or_percent, selected};
use crate::field_error::FieldError;
use crate::path::{Path, text};

pub(in crate::validation) fn stateful_set(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = text(spec, "podManagementPolicy");
    if policy.is_empty() {
        errors.push(FieldError::required(path.child("podManagementPolicy"), ""));
    } else if !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid(path.child("podManagementPolicy"), policy, detail));
    }
    strategy(&spec["updateStrategy"], &path.child("updateStrategy"), errors);
    let retention = path.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let value = &spec["persistentVolumeClaimRetentionPolicy"][field];
        one_of(errors, &retention.child(field), value, &["Retain", "Delete"]);
    }
    none_negative(errors, path, spec, &["replicas", "minReadySeconds"]);
    not_negative(errors, &path.child("ordinals.start"), &spec["ordinals"]["start"]);
    // Volumes come from claims that do not stand in the template: its spec is left to the pods.
    if selected(spec, "statefulset", "", path, errors) {
        pod::loose_template(&spec["template"], &path.child("template"), errors);
    }
    pod::always_restarts(&spec["template"], "StatefulSet", &path.child("template"), errors);
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rolling = path.child("rollingUpdate");
    let update = &strategy["rollingUpdate"];
    match text(strategy, "type") {
        "" => errors.push(FieldError::required(path, "")),
        "OnDelete" => {
            if !update.is_null() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(FieldError::invalid(rolling, update.clone(), detail));
            }
        }
        "RollingUpdate" => {
            not_negative(errors, &rolling.child("partition"), &update["partition"]);
            let most = &update["maxUnavailable"];
            if !most.is_null() {
                let place = rolling.child("maxUnavailable");
                number_or_percent(most, &place, errors);
                if amount(most) == 0 {
                    errors.push(FieldError::invalid(place, most.clone(), "cannot be 0"));
                }
                at_most_all(most, &place, errors);
            }
        }
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(path, strategy.clone(), detail));
        }
    }
}

/// What may change about a set.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// A set that is to replace `old`.
pub(in crate::validation) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    stateful_set(&object["spec"], &Path::new("spec"), errors);
    let (now, before) = (&object["spec"], &old["spec"]);
    let fields = [now, before].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys);
    let mut fixed = fields.filter(|field| !MUTABLE.contains(&field.as_str()));
    if fixed.any(|field| !same(&now[field], &before[field])) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", detail));
    }
}
