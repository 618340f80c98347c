//! APIService.

use serde_json::Value;

use super::checks::{among, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid};

pub(super) fn service(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let (given, wanted) = (text(object, "metadata.name"), format!("{version}.{group}"));
    if given != wanted && name::path_segment(given).is_empty() {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(FieldError::invalid("metadata.name", given, detail));
    }
    if !group.is_empty() {
        invalid(errors, &path.child("group"), &group.into(), name::dns1123_subdomain(group));
    } else if version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(path.child("group"), detail));
    }
    invalid(errors, &path.child("version"), &version.into(), name::dns1035_label(version));
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec[field].as_i64().unwrap_or(0);
        if !(1..=most).contains(&priority) {
            let detail = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(path.child(field), priority, detail));
        }
    }
    let bundle = text(spec, "caBundle");
    let insecure = spec["insecureSkipTLSVerify"] == true;
    let insecure_path = path.child("insecureSkipTLSVerify");
    if spec["service"].is_null() {
        if !bundle.is_empty() {
            // The text is base64: three bytes for four characters, less the padding.
            let padding = bundle.bytes().rev().take_while(|b| *b == b'=').count();
            let bytes = format!("{} bytes", (bundle.len() / 4 * 3).saturating_sub(padding));
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(path.child("caBundle"), bytes, detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(insecure_path, true, detail));
        }
        return;
    }
    let (target, place) = (&spec["service"], path.child("service"));
    required(target, "namespace", &place, "", errors);
    required(target, "name", &place, "", errors);
    let port = target["port"].as_i64().unwrap_or(0);
    let messages = name::port_number(port);
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        errors.push(FieldError::invalid(place.child("port"), port, detail));
    }
    if insecure && !bundle.is_empty() {
        errors.push(FieldError::invalid(insecure_path, true, "may not be true if caBundle is present"));
    }
}

pub(super) fn status(object: &Value, errors: &mut Errors) {
    let place = Path::new("status.conditions");
    for (index, condition) in list(object, "status.conditions").iter().enumerate() {
        let path = place.index(index);
        among(&condition["status"], &path.child("status"), &["True", "False", "Unknown"], errors);
    }
}
