//! Tolerations, gates, spreading, claims and names of other hosts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::selector::{label_key, label_selector};
use super::super::{Errors, follows, invalid, one_of};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};

/// What a taint does; an empty effect is one only where it may mean all of them.
pub(in crate::validation) fn taint_effect(effect: &str, path: &Path<'_>, errors: &mut Errors) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if effect.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(path, effect, &EFFECTS));
    }
}

pub(super) fn tolerations(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("tolerations");
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = path.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            label_key(key, &path.child("key"), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(path.child("operator"), operator, detail));
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let wrong = name::label_value(value);
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(path.child("operator"), value, wrong.join(";")));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(path.child("operator"), value, detail));
            }
            "Gt" | "Lt" => {
                if value.parse::<i64>().is_err() || value.starts_with('+') {
                    let detail = "value must be an integer when `operator` is 'Gt' or 'Lt'";
                    errors.push(FieldError::invalid(path.child("value"), value, detail));
                }
            }
            other => {
                let place = path.child("operator");
                errors.push(FieldError::not_supported(place, other, &["Equal", "Exists", "Gt", "Lt"]));
            }
        }
        if !effect.is_empty() {
            taint_effect(effect, &path.child("effect"), errors);
        }
    }
}

/// `readinessGates` and `schedulingGates`.
pub(super) fn gates(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let readiness = path.child("readinessGates");
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        label_key(text(gate, "conditionType"), &readiness.index(index).child("conditionType"), errors);
    }
    let scheduling = path.child("schedulingGates");
    let mut seen = BTreeSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let (path, gate) = (scheduling.index(index), text(gate, "name"));
        label_key(gate, &path, errors);
        if !seen.insert(gate) {
            errors.push(FieldError::duplicate(path, gate));
        }
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("topologySpreadConstraints");
    let all = list(spec, "topologySpreadConstraints");
    for (index, constraint) in all.iter().enumerate() {
        let path = path.index(index);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let place = path.child("whenUnsatisfiable");
            errors.push(FieldError::not_supported(place, action, &["DoNotSchedule", "ScheduleAnyway"]));
        }
        let same = |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if all[index + 1..].iter().any(same) {
            let place = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(place, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = constraint["minDomains"].as_i64() {
            let place = path.child("minDomains");
            if domains <= 0 {
                errors.push(FieldError::invalid(place, domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(FieldError::invalid(place, domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(errors, &path.child(field), &constraint[field], &["Honor", "Ignore"]);
        }
        spread_keys(constraint, &path.child("matchLabelKeys"), errors);
        label_selector(&constraint["labelSelector"], &path.child("labelSelector"), errors);
    }
}

fn spread_keys(constraint: &Value, path: &Path<'_>, errors: &mut Errors) {
    let keys = list(constraint, "matchLabelKeys");
    let selector = &constraint["labelSelector"];
    if !keys.is_empty() && selector.is_null() {
        errors.push(FieldError::forbidden(path, "must not be specified when labelSelector is not set"));
    }
    for (index, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        let path = path.index(index);
        label_key(key, &path, errors);
        let labelled = entries(selector, "matchLabels").any(|(label, _)| label == key);
        let expressions =
            list(selector, "matchExpressions").iter().filter(|expression| text(expression, "key") == key).count();
        // One expression is the server's own: it merges the keys into the selector when a pod is created.
        if (labelled && expressions > 0) || expressions > 1 {
            errors.push(FieldError::invalid(path, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}

pub(super) fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("hostAliases");
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.index(index);
        invalid(errors, &path.child("ip"), &alias["ip"], name::ip(text(alias, "ip")));
        let path = path.child("hostnames");
        for (index, host) in list(alias, "hostnames").iter().enumerate() {
            let given = host.as_str().unwrap_or_default();
            invalid(errors, &path.index(index), host, name::dns1123_subdomain(given));
        }
    }
}

pub(super) fn resource_claims(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("resourceClaims");
    let mut names = BTreeSet::new();
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.index(index);
        let name_of = text(claim, "name");
        if name_of.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else if !names.insert(name_of) {
            errors.push(FieldError::duplicate(path.child("name"), name_of));
        } else {
            follows(errors, &path, claim, "name", name::dns1123_label);
        }
        let (direct, template) = (&claim["resourceClaimName"], &claim["resourceClaimTemplateName"]);
        let detail = match (direct.is_null(), template.is_null()) {
            (false, false) => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            (true, true) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !detail.is_empty() {
            errors.push(FieldError::invalid(path, claim.clone(), detail));
        }
        for (field, given) in [("resourceClaimName", direct), ("resourceClaimTemplateName", template)] {
            if let Some(text) = given.as_str() {
                invalid(errors, &path.child(field), given, name::dns1123_subdomain(text));
            }
        }
    }
}
