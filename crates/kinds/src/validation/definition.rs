//! CustomResourceDefinition: names, versions, and that every schema is structural.
//!
//! Source: `pkg/apis/apiextensions/validation/validation.go` of Kubernetes 1.36.

mod structure;

use serde_json::Value;

use super::{Errors, immutable, invalid};
use crate::custom::JsonPath;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, at, list, text};

const APPROVED: &str = "api-approved.kubernetes.io";

/// A new definition, or one that replaces `old`: what was accepted once is not judged again where it stays the same.
pub(super) fn definition(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &object["spec"];
    let wanted = format!("{}.{}", text(spec, "names.plural"), text(spec, "group"));
    if text(object, "metadata.name") != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", at(object, "metadata.name").clone(), detail));
    }
    approval(object, old, errors);
    let path = Path::new("spec");
    match text(spec, "group") {
        "" => errors.push(FieldError::required(path.child("group"), "")),
        group => {
            invalid(errors, &path.child("group"), &spec["group"], name::dns1123_subdomain(group));
            if !group.contains('.') {
                let detail = "should be a domain with at least one dot";
                errors.push(FieldError::invalid(path.child("group"), group, detail));
            }
        }
    }
    match text(spec, "scope") {
        "" => errors.push(FieldError::required(path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported(path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    names(&spec["names"], &path.child("names"), errors);
    conversion(&spec["conversion"], &path.child("conversion"), errors);
    if spec["preserveUnknownFields"] == true {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(path.child("preserveUnknownFields"), true, detail));
    }
    versions(spec, old, &path, errors);
    if let Some(old) = old {
        update(object, old, errors);
    }
}

/// What the status endpoint may not do either.
pub(super) fn status(object: &Value, errors: &mut Errors) {
    let versions = list(object, "spec.versions");
    let stored = list(object, "status.storedVersions");
    let path = Path::new("status.storedVersions");
    for (index, version) in stored.iter().enumerate() {
        if !versions.iter().any(|known| known["name"] == *version) {
            let detail = "must appear in spec.versions";
            errors.push(FieldError::invalid(path.index(index), version.clone(), detail));
        }
    }
    let storage = versions.iter().find(|version| version["storage"] == true).map(|version| &version["name"]);
    if let Some(storage) = storage.filter(|storage| !stored.contains(storage)) {
        let detail = format!("must have the storage version {}", storage.as_str().unwrap_or_default());
        errors.push(FieldError::invalid(path, Value::from(stored), detail));
    }
}

fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let established = list(old, "status.conditions")
        .iter()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True");
    let mut fields = vec!["spec.group", "spec.names.plural"];
    if established {
        fields.extend(["spec.scope", "spec.names.kind"]);
    }
    for field in fields {
        immutable(errors, field, at(object, field), at(old, field));
    }
    status(object, errors);
}

/// Groups of the Kubernetes community need its approval.
fn approval(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let group = text(object, "spec.group");
    let community = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    if !(community("k8s.io") || community("kubernetes.io")) {
        return;
    }
    let given = |object: &Value| object["metadata"]["annotations"][APPROVED].clone();
    let value = given(object);
    if old.is_some_and(|old| given(old) == value) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVED).to_string();
    match value.as_str().unwrap_or_default() {
        "" => {
            let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            errors.push(FieldError::required(path, detail));
        }
        value if value.starts_with("unapproved") || value.contains("://") => {}
        other => {
            let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
            errors.push(FieldError::invalid(path, other, detail));
        }
    }
}

fn names(names: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let place = path.child(field);
        let given = text(names, field);
        if given.is_empty() {
            if matches!(field, "plural" | "kind") {
                errors.push(FieldError::required(place, ""));
            }
            continue;
        }
        if matches!(field, "plural" | "singular") {
            invalid(errors, &place, &names[field], name::dns1035_label(given));
        } else {
            let wrong = name::dns1035_label(&given.to_lowercase());
            if !wrong.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                errors.push(FieldError::invalid(place, given, detail));
            }
        }
    }
    for field in ["shortNames", "categories"] {
        let place = path.child(field);
        for (index, short) in list(names, field).iter().enumerate() {
            invalid(errors, &place.index(index), short, name::dns1035_label(short.as_str().unwrap_or_default()));
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(path.child("listKind"), kind, detail));
    }
}

fn conversion(conversion: &Value, path: &Path<'_>, errors: &mut Errors) {
    let webhook = &conversion["webhook"];
    let client = path.child("webhookClientConfig");
    match text(conversion, "strategy") {
        "None" | "" => {
            if !webhook.is_null() {
                let detail = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden(client, detail));
            }
        }
        "Webhook" => {
            let config = &webhook["clientConfig"];
            if config.is_null() {
                errors.push(FieldError::required(client, "required when strategy is set to Webhook"));
            } else if config["url"].is_string() == config["service"].is_object() {
                errors.push(FieldError::required(client, "exactly one of url or service is required"));
            }
            let versions = list(webhook, "conversionReviewVersions");
            let place = path.child("conversionReviewVersions");
            if versions.is_empty() {
                errors.push(FieldError::required(place, ""));
            } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
                let detail = "must include at least one of v1, v1beta1";
                errors.push(FieldError::invalid(place, webhook["conversionReviewVersions"].clone(), detail));
            }
        }
        other => errors.push(FieldError::not_supported(path.child("strategy"), other, &["None", "Webhook"])),
    }
}

fn versions(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    let versions = list(spec, "versions");
    let place = path.child("versions");
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(place, Value::from(versions), detail));
    }
    let unique = versions
        .iter()
        .enumerate()
        .all(|(at, version)| versions[..at].iter().all(|other| other["name"] != version["name"]));
    if !unique {
        errors.push(FieldError::invalid(place, Value::from(versions), "must contain unique version names"));
    }
    // Upstream's internal form has one schema where all versions have the same, and its errors name that.
    let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
    let same = versions.len() > 1 && versions.iter().all(|version| schema(version) == schema(&versions[0]))
        || versions.len() == 1;
    for (index, version) in versions.iter().enumerate() {
        let place = place.index(index);
        let name = version["name"].as_str().unwrap_or_default();
        invalid(errors, &place.child("name"), &version["name"], name::dns1035_label(name));
        if version["deprecationWarning"].is_string() && version["deprecated"] != true {
            let detail = "can only be set for deprecated versions";
            errors.push(FieldError::invalid(
                place.child("deprecationWarning"),
                version["deprecationWarning"].clone(),
                detail,
            ));
        }
        subresources(&version["subresources"], &place.child("subresources"), errors);
        columns(version, &place, errors);
        let text = schema(version);
        if !text.is_object() {
            errors.push(FieldError::required(place.child("schema").child("openAPIV3Schema"), "schemas are required"));
            continue;
        }
        let before =
            old.and_then(|old| list(old, "spec.versions").iter().find(|other| other["name"] == version["name"]));
        if before.is_some_and(|before| schema(before) == text) || (same && index > 0) {
            continue;
        }
        let schema = if same { "spec.validation".to_owned() } else { place.child("schema").to_string() };
        structure::check(&text, &format!("{schema}.openAPIV3Schema"), errors);
    }
}

fn subresources(subresources: &Value, path: &Path<'_>, errors: &mut Errors) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    let path = path.child("scale");
    for (field, roots) in [
        ("specReplicasPath", &[".spec"][..]),
        ("statusReplicasPath", &[".status"]),
        ("labelSelectorPath", &[".status", ".spec"]),
    ] {
        let place = path.child(field);
        let given = text(scale, field);
        if given.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(FieldError::required(place, ""));
            }
            continue;
        }
        if JsonPath::parse(given).and_then(|path| path.fields()).is_none() {
            errors.push(FieldError::invalid(place, given, "should be a simple json path under .spec or .status"));
        } else if !roots.iter().any(|root| given.starts_with(&format!("{root}."))) {
            let detail = format!("should be a json path under {}", roots.join(" or "));
            errors.push(FieldError::invalid(place, given, detail));
        }
    }
}

fn columns(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let place = path.child("additionalPrinterColumns");
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let place = place.index(index);
        for (field, shown) in [("name", "name"), ("type", "type"), ("jsonPath", "JSONPath")] {
            if text(column, field).is_empty() {
                errors.push(FieldError::required(place.child(shown), ""));
            }
        }
        let known = ["integer", "number", "string", "boolean", "date"];
        let given = text(column, "type");
        if !given.is_empty() && !known.contains(&given) {
            let detail = format!("must be one of {}", known.join(","));
            errors.push(FieldError::invalid(place.child("type"), given, detail));
        }
        // A path that nobody understands is no error: the table then shows the plain columns.
        let given = text(column, "jsonPath");
        if !given.is_empty() && !given.starts_with('.') {
            let detail = "must be a simple json path starting with .";
            errors.push(FieldError::invalid(place.child("JSONPath"), given, detail));
        }
    }
    let place = path.child("selectableFields");
    let fields = list(version, "selectableFields");
    if fields.len() > 8 {
        errors.push(FieldError::too_many(place, fields.len(), 8));
    }
    for (index, field) in fields.iter().enumerate() {
        let given = text(field, "jsonPath");
        let place = place.index(index);
        if given.is_empty() {
            errors.push(FieldError::required(place.child("jsonPath"), ""));
            continue;
        }
        if given.starts_with(".metadata") {
            errors.push(FieldError::invalid(place.child("jsonPath"), given, "must not point to fields in metadata"));
        }
        let way = JsonPath::parse(given).and_then(|path| path.fields());
        let leaf = way.as_ref().and_then(|way| {
            way.iter().try_fold(&version["schema"]["openAPIV3Schema"], |schema, step| schema["properties"].get(&**step))
        });
        match (way.is_some(), leaf.map(|leaf| text(leaf, "type"))) {
            (true, Some("string" | "integer" | "boolean")) => {}
            (true, Some(_)) => {
                let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                errors.push(FieldError::invalid(place, given, detail));
            }
            _ => errors.push(FieldError::invalid(
                place.child("jsonPath"),
                given,
                "is an invalid path: does not refer to a valid field",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
