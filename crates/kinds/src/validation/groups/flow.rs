//! FlowSchema and PriorityLevelConfiguration.

use serde_json::{Value, json};

use super::checks::{among, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid, required_follows, same};

const HIGHEST_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// The bits of the hash from which a flow's hand of queues is dealt.
const HASH_BITS: f64 = 60.0;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The spec that a mandatory flow schema must have.
pub(super) fn mandatory_schema(name: &str) -> Option<Value> {
    let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
        "namespaces": ["*"]}]);
    let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
            "rules": [{"subjects": [group("system:masters")], "resourceRules": everything, "nonResourceRules": paths}],
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": 10_000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [group("system:unauthenticated"), group("system:authenticated")],
                "resourceRules": everything, "nonResourceRules": paths}],
        })),
        _ => None,
    }
}

pub(super) fn schema(object: &Value, errors: &mut Errors) {
    let (spec, path, name) = (&object["spec"], Path::new("spec"), text(object, "metadata.name"));
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
    let mut wrong = |detail: String| {
        errors.push(FieldError::invalid(path.child("matchingPrecedence"), precedence, detail));
    };
    if precedence <= 0 {
        wrong("must be a positive value".to_owned());
    }
    if precedence > HIGHEST_PRECEDENCE {
        wrong(format!("must not be greater than {HIGHEST_PRECEDENCE}"));
    }
    if precedence == 1 && name != "exempt" {
        wrong("only the schema named 'exempt' may have matchingPrecedence 1".to_owned());
    }
    let method = &spec["distinguisherMethod"];
    if !method.is_null() && !matches!(text(method, "type"), "ByNamespace" | "ByUser") {
        let place = path.child("distinguisherMethod");
        let allowed = ["ByNamespace", "ByUser"];
        errors.push(FieldError::not_supported(place.child("type"), method.clone(), &allowed));
    }
    let place = path.child("priorityLevelConfiguration");
    let level = &spec["priorityLevelConfiguration"];
    if required(level, "name", &place, "must reference a priority level", errors) {
        required_follows(errors, &place, level, "name", name::dns1123_subdomain);
    }
    let place = path.child("rules");
    for (index, one) in list(spec, "rules").iter().enumerate() {
        rule(one, &place.index(index), errors);
    }
    if mandatory_schema(name).is_some_and(|fixed| !same(&fixed, spec)) {
        let detail = format!("spec of '{name}' must equal the fixed value");
        errors.push(FieldError::invalid(path, spec.clone(), detail));
    }
    status(object, errors);
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let place = path.child("subjects");
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errors.push(FieldError::required(place, "subjects must contain at least one value"));
    }
    for (index, one) in subjects.iter().enumerate() {
        subject(one, &place.index(index), errors);
    }
    let (resources, paths) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    let place = path.child("resourceRules");
    for (index, one) in resources.iter().enumerate() {
        resource_rule(one, &place.index(index), errors);
    }
    let place = path.child("nonResourceRules");
    for (index, one) in paths.iter().enumerate() {
        let path = place.index(index);
        verbs(one, &path, errors);
        let none = "nonResourceURLs must contain at least one value";
        if !wildcard(one, "nonResourceURLs", &path, none, "non-resource URLs", errors) {
            let place = path.child("nonResourceURLs");
            for (index, url) in list(one, "nonResourceURLs").iter().enumerate() {
                non_resource_url(url.as_str().unwrap_or_default(), &place.index(index), errors);
            }
        }
    }
}

fn subject(subject: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kinds = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(subject, "kind");
    if !kinds.iter().any(|(known, _)| *known == kind) {
        errors.push(FieldError::not_supported(path.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    }
    for (known, field) in kinds {
        let place = path.child(field);
        match (known == kind, subject[field].is_null()) {
            (true, true) => {
                let detail = format!("{field} is required when subject kind is '{known}'");
                errors.push(FieldError::required(place, detail));
            }
            (false, false) => {
                let detail = format!("{field} is forbidden when subject kind is not '{known}'");
                errors.push(FieldError::forbidden(place, detail));
            }
            (true, false) if known == "ServiceAccount" => {
                let account = &subject[field];
                if required(account, "name", &place, "", errors) && text(account, "name") != "*" {
                    required_follows(errors, &place, account, "name", name::dns1123_subdomain);
                }
                if required(account, "namespace", &place, "must specify namespace for service account", errors) {
                    required_follows(errors, &place, account, "namespace", name::dns1123_label);
                }
            }
            (true, false) => {
                required(&subject[field], "name", &place, "", errors);
            }
            (false, true) => {}
        }
    }
}

/// A list that must not be empty, and in which `*` stands alone. Returns whether it is so far done with.
fn wildcard(rule: &Value, field: &str, path: &Path<'_>, none: &str, others: &str, errors: &mut Errors) -> bool {
    let values = list(rule, field);
    if values.is_empty() {
        errors.push(FieldError::required(path.child(field), none));
        return true;
    }
    let any = values.iter().any(|value| value == "*");
    if any && values.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(path.child(field), rule[field].clone(), detail));
    }
    any
}

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    if !wildcard(rule, "verbs", path, "verbs must contain at least one value", "verbs", errors)
        && !list(rule, "verbs").iter().all(known)
    {
        errors.push(FieldError::not_supported(path.child("verbs"), rule["verbs"].clone(), &VERBS));
    }
}

fn resource_rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    verbs(rule, path, errors);
    let none = "resource rules must supply at least one api group";
    wildcard(rule, "apiGroups", path, none, "api groups", errors);
    let none = "resource rules must supply at least one resource";
    wildcard(rule, "resources", path, none, "resources", errors);
    let namespaces = list(rule, "namespaces");
    if namespaces.is_empty() && rule["clusterScope"] == true {
        return;
    }
    let none = "resource rules that are not cluster scoped must supply at least one namespace";
    if !wildcard(rule, "namespaces", path, none, "namespaces", errors) {
        let place = path.child("namespaces");
        for (index, namespace) in namespaces.iter().enumerate() {
            let messages = name::dns1123_label(namespace.as_str().unwrap_or_default());
            let intro = "each member of this list must be '*' or a DNS-1123 label; ";
            let messages = messages.into_iter().map(|message| format!("{intro}{message}")).collect();
            invalid(errors, &place.index(index), namespace, messages);
        }
    }
}

fn non_resource_url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    let stars = url.matches('*').count();
    let detail = match url {
        "" => "must not be empty",
        "/" => return,
        _ if !url.starts_with('/') => "must start with slash",
        _ if url.contains(' ') => "must not contain white-space",
        _ if url.contains("//") => "must not contain double slash",
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return,
    };
    errors.push(FieldError::invalid(path, url, detail));
}

/// The spec of the mandatory level `catch-all`.
pub(super) fn catch_all() -> Value {
    json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}})
}

pub(super) fn level(object: &Value, errors: &mut Errors) {
    let (spec, path, name) = (&object["spec"], Path::new("spec"), text(object, "metadata.name"));
    let kind = text(spec, "type");
    if (name == "exempt") != (kind == "Exempt") {
        let detail = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(FieldError::invalid(path.child("type"), kind, detail));
    }
    let (exempt, limited) = (path.child("exempt"), path.child("limited"));
    match kind {
        "Exempt" => {
            if !spec["limited"].is_null() {
                errors.push(FieldError::forbidden(limited, "must be nil if the type is not Limited"));
            }
            if spec["exempt"].is_null() {
                errors.push(FieldError::required(exempt, "must not be empty when type is Exempt"));
            } else {
                shares(&spec["exempt"], &exempt, errors);
            }
        }
        "Limited" => {
            if !spec["exempt"].is_null() {
                errors.push(FieldError::forbidden(exempt, "must be nil if the type is not Exempt"));
            }
            if spec["limited"].is_null() {
                errors.push(FieldError::required(limited, "must not be empty when type is Limited"));
            } else {
                self::limited(&spec["limited"], &limited, errors);
            }
        }
        _ => among(&spec["type"], &path.child("type"), &["Exempt", "Limited"], errors),
    }
    let wrong = match name {
        "catch-all" => !same(&catch_all(), spec),
        // How much the exempt level lends is the operator's choice.
        "exempt" => kind != "Exempt",
        _ => false,
    };
    if wrong {
        let except = if name == "exempt" { " except the 'spec.exempt' field" } else { "" };
        let detail = format!("spec of '{name}'{except} must equal the fixed value");
        errors.push(FieldError::invalid(path, spec.clone(), detail));
    }
    status(object, errors);
}

fn shares(part: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares) = part["nominalConcurrencyShares"].as_i64().filter(|shares| *shares < 0) {
        let path = path.child("nominalConcurrencyShares");
        errors.push(FieldError::invalid(path, shares, "must be a non-negative integer"));
    }
    if let Some(percent) = part["lendablePercent"].as_i64().filter(|percent| !(0..=100).contains(percent)) {
        let path = path.child("lendablePercent");
        errors.push(FieldError::invalid(path, percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(limited: &Value, path: &Path<'_>, errors: &mut Errors) {
    shares(limited, path, errors);
    if let Some(percent) = limited["borrowingLimitPercent"].as_i64().filter(|percent| *percent < 0) {
        let path = path.child("borrowingLimitPercent");
        errors.push(FieldError::invalid(path, percent, "if specified, must be a non-negative integer"));
    }
    let (response, path) = (&limited["limitResponse"], path.child("limitResponse"));
    let place = path.child("queuing");
    match (text(response, "type"), response["queuing"].is_null()) {
        ("Reject", false) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(place, detail));
        }
        ("Reject", true) => {}
        ("Queue", true) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(place, detail));
        }
        ("Queue", false) => queuing(&response["queuing"], &place, errors),
        _ => among(&response["type"], &path.child("type"), &["Queue", "Reject"], errors),
    }
}

fn queuing(queuing: &Value, path: &Path<'_>, errors: &mut Errors) {
    let number = |field: &str| queuing[field].as_i64().unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    let mut wrong = |field: &str, detail: String| {
        errors.push(FieldError::invalid(path.child(field), number(field), detail));
    };
    if number("queueLengthLimit") <= 0 {
        wrong("queueLengthLimit", "must be positive".to_owned());
    }
    if queues <= 0 {
        wrong("queues", "must be positive".to_owned());
    } else if queues > MAX_QUEUES {
        wrong("queues", format!("must not be greater than {MAX_QUEUES}"));
    }
    #[expect(clippy::cast_precision_loss, reason = "both are numbers of 32 bits")]
    let bits = (queues.max(1) as f64).log2() * hand as f64;
    if hand <= 0 {
        wrong("handSize", "must be positive".to_owned());
    } else if hand > queues {
        wrong("handSize", format!("should not be greater than queues ({queues})"));
    } else if bits.ceil() > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        wrong("handSize", detail);
    }
}

pub(super) fn status(object: &Value, errors: &mut Errors) {
    let place = Path::new("status.conditions");
    let mut seen = Vec::new();
    for (index, condition) in list(object, "status.conditions").iter().enumerate() {
        let (path, kind) = (place.index(index), text(condition, "type"));
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(path.child("type"), kind));
        }
        seen.push(kind);
        required(condition, "type", &path, "must not be empty", errors);
    }
}
