//! Webhook configurations. Whether the CEL expressions in them compile is not judged here.

use serde_json::Value;

use super::checks::{among, qualified_domain, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::selector::{has_invalid_values, selector_with};
use crate::validation::{Errors, invalid};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const HARMLESS: [&str; 2] = ["None", "NoneOnDryRun"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
/// A webhook may have this many match conditions.
const MATCH_CONDITIONS: usize = 64;

/// What is asked of every webhook, unless the old object did without.
#[derive(Clone, Copy)]
struct Rules {
    harmless: bool,
    known_review: bool,
    unique_names: bool,
    label_values: bool,
    match_conditions: bool,
}

pub(super) fn create(object: &Value, errors: &mut Errors) {
    let all =
        Rules { harmless: true, known_review: true, unique_names: true, label_values: true, match_conditions: true };
    webhooks(object, all, errors);
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let before = list(old, "webhooks");
    let names: Vec<&str> = before.iter().map(|hook| text(hook, "name")).collect();
    let now = list(object, "webhooks");
    let same_conditions = now.len() == before.len()
        && now.iter().zip(before).all(|(now, before)| now["matchConditions"] == before["matchConditions"]);
    let rules = Rules {
        harmless: before.iter().all(|hook| HARMLESS.contains(&text(hook, "sideEffects"))),
        known_review: before.iter().all(|hook| {
            let versions = list(hook, "admissionReviewVersions");
            versions.is_empty() || versions.iter().any(is_known_review)
        }),
        unique_names: names.iter().enumerate().all(|(index, name)| !names[..index].contains(name)),
        label_values: !before
            .iter()
            .any(|hook| has_invalid_values(&hook["namespaceSelector"]) || has_invalid_values(&hook["objectSelector"])),
        match_conditions: !same_conditions,
    };
    webhooks(object, rules, errors);
}

fn is_known_review(version: &Value) -> bool {
    version.as_str().is_some_and(|version| REVIEWS.contains(&version))
}

fn webhooks(object: &Value, rules: Rules, errors: &mut Errors) {
    let place = Path::new("webhooks");
    let mut names = Vec::new();
    for (index, hook) in list(object, "webhooks").iter().enumerate() {
        let path = place.index(index);
        webhook(hook, rules, &path, errors);
        review_versions(hook, rules, &path, errors);
        let name = text(hook, "name");
        if rules.unique_names && names.contains(&name) && !name.is_empty() {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        names.push(name);
    }
}

fn webhook(hook: &Value, rules: Rules, path: &Path<'_>, errors: &mut Errors) {
    qualified_domain(text(hook, "name"), &path.child("name"), 3, errors);
    let place = path.child("rules");
    for (index, rule) in list(hook, "rules").iter().enumerate() {
        rule_with_operations(rule, &place.index(index), errors);
    }
    for (field, allowed) in [
        ("failurePolicy", ["Fail", "Ignore"]),
        ("matchPolicy", ["Equivalent", "Exact"]),
        ("reinvocationPolicy", ["IfNeeded", "Never"]),
    ] {
        if !hook[field].is_null() {
            among(&hook[field], &path.child(field), &allowed, errors);
        }
    }
    let allowed: &[&str] = if rules.harmless { &HARMLESS } else { &["None", "NoneOnDryRun", "Some", "Unknown"] };
    if hook["sideEffects"].is_null() {
        let detail = format!("must specify one of {}", allowed.join(", "));
        errors.push(FieldError::required(path.child("sideEffects"), detail));
    } else {
        among(&hook["sideEffects"], &path.child("sideEffects"), allowed, errors);
    }
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(path.child("timeoutSeconds"), seconds, detail));
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        selector_with(&hook[selector], &path.child(selector), !rules.label_values, errors);
    }
    client(&hook["clientConfig"], &path.child("clientConfig"), errors);
    if rules.match_conditions {
        match_conditions(list(hook, "matchConditions"), &path.child("matchConditions"), errors);
    }
}

fn review_versions(hook: &Value, rules: Rules, path: &Path<'_>, errors: &mut Errors) {
    let (place, versions) = (path.child("admissionReviewVersions"), list(hook, "admissionReviewVersions"));
    if versions.is_empty() {
        errors.push(FieldError::required(place, format!("must specify one of {}", REVIEWS.join(", "))));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        if versions[..index].contains(version) {
            errors.push(FieldError::invalid(place.index(index), version.clone(), "duplicate version"));
        } else {
            let messages = name::dns1035_label(version.as_str().unwrap_or_default());
            invalid(errors, &place.index(index), version, messages);
        }
    }
    if rules.known_review && !versions.iter().any(is_known_review) {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(place, hook["admissionReviewVersions"].clone(), detail));
    }
}

fn client(client: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (client["url"].as_str(), &client["service"]) {
        (None, Value::Null) => errors.push(FieldError::required(path, "exactly one of url or service is required")),
        (Some(url), Value::Null) => self::url(url, &path.child("url"), errors),
        (None, service) => self::service(service, &path.child("service"), errors),
        (Some(_), _) => errors.push(FieldError::required(path, "exactly one of url or service is required")),
    }
}

fn url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut wrong = |value: &str, detail: String| errors.push(FieldError::invalid(path, value, detail));
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        wrong(host, format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        wrong(user, "user information is not permitted in the URL".to_owned());
    }
    if !fragment.is_empty() {
        wrong(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if !query.is_empty() {
        wrong(query, "query parameters are not permitted in the URL".to_owned());
    }
}

fn service(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(service, "name", path, "", errors);
    required(service, "namespace", path, "", errors);
    let port = service["port"].as_i64().unwrap_or(0);
    let messages = name::port_number(port);
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        errors.push(FieldError::invalid(path.child("port"), port, detail));
    }
    let url = text(service, "path");
    if matches!(url, "" | "/") {
        return;
    }
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path.child("path"), url, detail));
    if url == "//" {
        wrong("segment[0] may not be empty".to_owned());
        return;
    }
    let steps = url.strip_prefix('/').unwrap_or_else(|| {
        wrong("must start with a '/'".to_owned());
        // Upstream goes on with the rest after the first character, whatever it is.
        url.char_indices().nth(1).map_or("", |(next, _)| &url[next..])
    });
    for (index, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{index}] may not be empty"));
        } else {
            for message in name::dns1123_subdomain(step) {
                wrong(format!("segment[{index}]: {message}"));
            }
        }
    }
}

/// Conditions under which a webhook or policy is asked at all.
pub(super) fn match_conditions(conditions: &[Value], place: &Path<'_>, errors: &mut Errors) {
    if conditions.len() > MATCH_CONDITIONS {
        errors.push(FieldError::too_many(place, conditions.len(), MATCH_CONDITIONS));
    }
    let mut names = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = place.index(index);
        if text(condition, "expression").trim().is_empty() {
            errors.push(FieldError::required(path.child("expression"), ""));
        }
        let name = text(condition, "name");
        if required(condition, "name", &path, "", errors) {
            invalid(errors, &path.child("name"), &name.into(), name::qualified_name(name));
            if names.contains(&name) {
                errors.push(FieldError::duplicate(path.child("name"), name));
            }
        }
        names.push(name);
    }
}

/// Which requests a webhook or policy is about.
pub(super) fn rule_with_operations(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let any = |field: &str| list(rule, field).iter().any(|value| value == "*");
    for (field, others) in [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let values = list(rule, field);
        if values.is_empty() {
            errors.push(FieldError::required(path.child(field), ""));
        }
        if values.len() > 1 && any(field) {
            let detail = format!("if '*' is present, must not specify other {others}");
            errors.push(FieldError::invalid(path.child(field), rule[field].clone(), detail));
        }
        let place = path.child(field);
        for (index, value) in values.iter().enumerate() {
            match field {
                "operations" => among(value, &place.index(index), &OPERATIONS, errors),
                "apiVersions" if value == "" => errors.push(FieldError::required(place.index(index), "")),
                _ => {}
            }
        }
    }
    resources(rule, &path.child("resources"), errors);
    if !rule["scope"].is_null() {
        among(&rule["scope"], &path.child("scope"), &["*", "Cluster", "Namespaced"], errors);
    }
}

fn resources(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let resources: Vec<&str> = list(rule, "resources").iter().map(|one| one.as_str().unwrap_or_default()).collect();
    if resources.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let (mut whole, mut everywhere) = (Vec::new(), Vec::new());
    for (index, resource) in resources.iter().enumerate() {
        if resource.is_empty() {
            errors.push(FieldError::required(path.index(index), ""));
            continue;
        }
        let Some((parent, sub)) = resource.split_once('/') else { continue };
        let mut covered = |by: String| {
            let detail = format!("if '{by}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(path.index(index), *resource, detail));
        };
        if whole.contains(&parent) {
            covered(format!("{parent}/*"));
        }
        if everywhere.contains(&sub) {
            covered(format!("*/{sub}"));
        }
        if sub == "*" {
            whole.push(parent);
        }
        if parent == "*" {
            everywhere.push(sub);
        }
    }
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(path, rule["resources"].clone(), detail));
    if resources.len() > 1 && resources.contains(&"*/*") {
        wrong("if '*/*' is present, must not specify other resources");
    }
    // The last resource without a subresource decides, as it does upstream.
    let plain = resources.iter().rfind(|resource| !resource.is_empty() && !resource.contains('/'));
    if resources.contains(&"*") && plain.is_some_and(|resource| *resource != "*") {
        wrong("if '*' is present, must not specify other resources without subresources");
    }
}
