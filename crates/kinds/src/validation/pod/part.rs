//! Endpoints that change one part of a pod: containers for debugging, and resources.

use serde_json::Value;

use super::super::{Errors, resources, same};
use super::annotations::MIRROR;
use super::{metadata_and_spec, update};
use crate::field_error::FieldError;
use crate::path::{Path, entries, list, size, text};

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

/// `pods/ephemeralcontainers`.
pub(in crate::validation) fn ephemeral_containers(pod: &Value, old: &Value, errors: &mut Errors) {
    if is_mirror(old) {
        errors.clear();
        errors.push(FieldError::forbidden("", "static pods do not support ephemeral containers"));
        return;
    }
    metadata_and_spec(pod, errors);
    update::annotations(pod, old, errors);
    let path = Path::new("spec");
    let path = path.child("ephemeralContainers");
    let now = list(&pod["spec"], "ephemeralContainers");
    for before in list(&old["spec"], "ephemeralContainers") {
        let name = text(before, "name");
        match now.iter().find(|container| text(container, "name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden(path, detail));
            }
            Some(container) if !same(container, before) => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(FieldError::forbidden(path, detail));
            }
            Some(_) => {}
        }
    }
}

/// `pods/resize`.
pub(in crate::validation) fn resize(pod: &Value, old: &Value, class: &str, errors: &mut Errors) {
    let refused = if is_mirror(old) {
        Some("static pods cannot be resized")
    } else if old["spec"]["os"]["name"] == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(detail) = refused {
        errors.clear();
        errors.push(FieldError::forbidden("", detail));
        return;
    }
    metadata_and_spec(pod, errors);
    let path = Path::new("spec");
    if text(old, "status.qosClass") != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(path, text(old, "status.qosClass"), detail));
    }
    let running = list(&old["status"], "containerStatuses").iter().find(|status| !status["state"]["running"].is_null());
    if running.is_some_and(|status| status["resources"].is_null()) {
        errors.push(FieldError::forbidden(path, "Pod running on node without support for resize"));
    }
    removed(&pod["spec"], &old["spec"], &path.child("resources"), errors);
    only_basics(&pod["spec"], &old["spec"], "only cpu and memory resources are mutable", &path, errors);
    for (field, detail) in [
        ("initContainers", "only cpu and memory resources for sidecar containers are mutable"),
        ("containers", "only cpu and memory resources are mutable"),
    ] {
        let containers = path.child(field);
        if list(&pod["spec"], field).len() != list(&old["spec"], field).len() {
            errors.push(FieldError::forbidden(containers, "containers may not be added or removed on resize"));
            continue;
        }
        let pairs = list(&pod["spec"], field).iter().zip(list(&old["spec"], field));
        for (index, (now, before)) in pairs.enumerate() {
            if text(now, "name") != text(before, "name") {
                let detail = "containers may not be renamed or reordered on resize";
                errors.push(FieldError::forbidden(containers.index(index).child("name"), detail));
                continue;
            }
            if field == "initContainers" && text(before, "restartPolicy") != "Always" {
                if !same(now, before) {
                    let detail = "resources for non-sidecar init containers are immutable";
                    errors.push(FieldError::forbidden(path, detail));
                }
                continue;
            }
            removed(now, before, &containers.index(index).child("resources"), errors);
            only_basics(now, before, detail, &path, errors);
        }
    }
}

/// What was asked for may change, but not go.
fn removed(now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (field, detail) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        let after = &now["resources"][field];
        if entries(&before["resources"], field).any(|(resource, _)| after[resource].is_null()) {
            errors.push(FieldError::forbidden(path.child(field), detail));
        }
    }
}

/// Only processor and memory can be given or taken while the pod runs.
fn only_basics(now: &Value, before: &Value, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    let others = |holder: &Value, field: &str| -> Vec<(String, Option<crate::quantity::Quantity>)> {
        entries(&holder["resources"], field)
            .filter(|(resource, _)| !matches!(*resource, "cpu" | "memory"))
            .map(|(resource, value)| (resource.to_owned(), resources::quantity(value)))
            .collect()
    };
    let changed = ["requests", "limits"].iter().any(|field| others(now, field) != others(before, field));
    let grown = size(now, "resources.claims") != size(before, "resources.claims");
    if changed || grown {
        errors.push(FieldError::forbidden(path, detail));
    }
}
