//! What is wrong with a policy or a binding: upstream's checks, with what is wrong with the expressions.

mod matching;

use std::collections::HashSet;

use kobune_expressions::{Environment, ObjectType, Type};
use kobune_kinds::{FieldError, Kind, name};
use serde_json::Value;

use super::{
    environment::{Declared, environment, variables},
    expression::Expression,
};
use matching::{match_resources, selector};

type Errors = Vec<FieldError>;

/// The most audit annotations of a policy.
const MOST_ANNOTATIONS: usize = 20;
/// The longest expression of an audit annotation, in bytes.
const LONGEST_VALUE_EXPRESSION: usize = 5 * 1024;
/// The most match conditions.
const MOST_CONDITIONS: usize = 64;

/// What is wrong with an object, if it is a policy or binding.
pub(crate) fn validate(kind: &Kind, object: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = &object["spec"];
    match &*kind.collection {
        "admissionregistration.k8s.io/validatingadmissionpolicies" => {
            validating_policy(&mut errors, spec, text(&object["metadata"]["name"]));
        }
        "admissionregistration.k8s.io/mutatingadmissionpolicies" => mutating_policy(&mut errors, spec),
        "admissionregistration.k8s.io/validatingadmissionpolicybindings" => {
            binding(&mut errors, spec);
            actions(&mut errors, &spec["validationActions"]);
        }
        "admissionregistration.k8s.io/mutatingadmissionpolicybindings" => binding(&mut errors, spec),
        "admissionregistration.k8s.io/validatingwebhookconfigurations"
        | "admissionregistration.k8s.io/mutatingwebhookconfigurations" => {
            for (index, webhook) in list(&object["webhooks"]).enumerate() {
                let path = format!("webhooks[{index}].matchConditions");
                conditions(&mut errors, &path, &webhook["matchConditions"], false);
            }
        }
        _ => {}
    }
    errors
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text that must be there and one of a few.
fn one_of(errors: &mut Errors, path: String, value: &Value, allowed: &[&str]) {
    match value.as_str() {
        None | Some("") => errors.push(FieldError::required(path, "")),
        Some(found) if !allowed.contains(&found) => errors.push(FieldError::not_supported(path, found, allowed)),
        Some(_) => {}
    }
}

/// An expression that must be there and compile.
fn expression(
    errors: &mut Errors,
    path: String,
    value: &Value,
    environment: &Environment,
    accepted: &[Type],
    missing: &str,
) {
    let source = text(value);
    if source.trim().is_empty() {
        errors.push(FieldError::required(path, missing));
    } else if let Err(problem) = Expression::compile(source, environment, accepted).program {
        errors.push(FieldError::invalid(path, source, problem));
    }
}

/// What both sorts of policies have in common; gives the type of `variables`.
fn policy(errors: &mut Errors, spec: &Value) -> (Declared, Type) {
    one_of(errors, "spec.failurePolicy".to_owned(), &spec["failurePolicy"], &["Fail", "Ignore"]);
    if let Some(kind) = spec.get("paramKind") {
        param_kind(errors, kind);
    }
    match spec.get("matchConstraints") {
        None => errors.push(FieldError::required("spec.matchConstraints", "")),
        Some(constraints) => {
            match_resources(errors, "spec.matchConstraints", constraints);
            if list(&constraints["resourceRules"]).next().is_none() {
                errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
            }
        }
    }
    let declared = Declared { params: spec.get("paramKind").is_some(), authorizer: true, patches: false };
    conditions(errors, "spec.matchConditions", &spec["matchConditions"], declared.params);
    let mut fields: Vec<(Box<str>, Type)> = Vec::new();
    for (index, variable) in list(&spec["variables"]).enumerate() {
        let path = format!("spec.variables[{index}]");
        let name = text(&variable["name"]);
        if name.trim().is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, "name is not a valid CEL identifier"));
        }
        let source = text(&variable["expression"]);
        let so_far = environment(declared, Some(variables(fields.iter().cloned())));
        let missing = "expression is not specified";
        expression(errors, format!("{path}.expression"), &variable["expression"], &so_far, &[], missing);
        let compiled = Expression::compile(source, &so_far, &[]).program;
        fields.push((name.into(), compiled.map_or(Type::Dyn, |program| program.result().clone())));
    }
    (declared, variables(fields))
}

/// A name that expressions can write.
fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|other| other.is_ascii_alphanumeric() || other == '_')
        && kobune_expressions::escape(name).is_some_and(|escaped| escaped == name || name.contains("__"))
}

fn validating_policy(errors: &mut Errors, spec: &Value, policy_name: &str) {
    let (declared, composed) = policy(errors, spec);
    let full = environment(declared, Some(composed.clone()));
    let telling = environment(Declared { authorizer: false, ..declared }, Some(composed));
    let count = |field: &str| list(&spec[field]).count();
    if count("validations") == 0 && count("auditAnnotations") == 0 {
        let words = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required("spec.validations", words));
        errors.push(FieldError::required("spec.auditAnnotations", words));
        return;
    }
    for (index, validation) in list(&spec["validations"]).enumerate() {
        let path = |field: &str| format!("spec.validations[{index}].{field}");
        let missing = "expression is not specified";
        expression(errors, path("expression"), &validation["expression"], &full, &[Type::Bool], missing);
        let making = text(&validation["messageExpression"]);
        if !making.is_empty() && making.trim().is_empty() {
            errors.push(FieldError::invalid(path("messageExpression"), making, "must be non-empty if specified"));
        } else if !making.is_empty() {
            expression(
                errors,
                path("messageExpression"),
                &validation["messageExpression"],
                &telling,
                &[Type::String],
                "",
            );
        }
        let message = text(&validation["message"]);
        if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(path("message"), message, "message must be non-empty if specified"));
        } else if message.trim().contains(['\n', '\r']) {
            errors.push(FieldError::invalid(path("message"), message, "message must not contain line breaks"));
        }
        if validation.get("reason").is_some() {
            let allowed = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
            if !allowed.contains(&text(&validation["reason"])) {
                errors.push(FieldError::not_supported(path("reason"), text(&validation["reason"]), &allowed));
            }
        }
    }
    if count("auditAnnotations") > MOST_ANNOTATIONS {
        let words = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.push(FieldError::invalid("spec.auditAnnotations", spec["auditAnnotations"].clone(), words));
    }
    let mut keys = HashSet::new();
    for (index, annotation) in list(&spec["auditAnnotations"]).enumerate() {
        let path = |field: &str| format!("spec.auditAnnotations[{index}].{field}");
        let key = text(&annotation["key"]);
        let qualified = format!("{policy_name}/{key}");
        let problems = name::qualified_name(&qualified);
        errors.extend(problems.into_iter().map(|words| FieldError::invalid(path("key"), qualified.clone(), words)));
        let source = text(&annotation["valueExpression"]);
        if source.trim().len() > LONGEST_VALUE_EXPRESSION {
            let words = format!("must not exceed {LONGEST_VALUE_EXPRESSION} bytes in length");
            errors.push(FieldError::required(path("valueExpression"), words));
        } else {
            let missing = "valueExpression is not specified";
            let accepted = [Type::String, Type::Null];
            expression(errors, path("valueExpression"), &annotation["valueExpression"], &telling, &accepted, missing);
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(path("key"), key));
        }
    }
}

fn mutating_policy(errors: &mut Errors, spec: &Value) {
    let (declared, composed) = policy(errors, spec);
    let patching = environment(Declared { patches: true, ..declared }, Some(composed));
    one_of(errors, "spec.reinvocationPolicy".to_owned(), &spec["reinvocationPolicy"], &["IfNeeded", "Never"]);
    if list(&spec["mutations"]).next().is_none() {
        errors.push(FieldError::required("spec.mutations", "mutations must contain at least one item"));
    }
    let made =
        |name: &str| Type::Object(std::sync::Arc::new(ObjectType { name: name.into(), ..ObjectType::default() }));
    for (index, mutation) in list(&spec["mutations"]).enumerate() {
        let path = |field: &str| format!("spec.mutations[{index}].{field}");
        let sorts = [
            ("ApplyConfiguration", "applyConfiguration", made("Object")),
            ("JSONPatch", "jsonPatch", Type::list(made("JSONPatch"))),
        ];
        let sort = text(&mutation["patchType"]);
        one_of(errors, path("patchType"), &mutation["patchType"], &["ApplyConfiguration", "JSONPatch"]);
        for (name, field, accepted) in sorts {
            match (sort == name, mutation.get(field)) {
                (true, None) => {
                    let words = format!("must be specified when patchType is {name}");
                    errors.push(FieldError::required(path(field), words));
                }
                (true, Some(patch)) => {
                    let place = path(&format!("{field}.expression"));
                    let missing = "expression is not specified";
                    expression(errors, place, &patch["expression"], &patching, &[accepted], missing);
                }
                (false, Some(patch)) => {
                    let words = format!("must not be specified when patchType is not {name}");
                    errors.push(FieldError::invalid(path(field), patch.clone(), words));
                }
                (false, None) => {}
            }
        }
    }
}

fn param_kind(errors: &mut Errors, kind: &Value) {
    let api_version = text(&kind["apiVersion"]);
    let path = "spec.paramKind.apiVersion";
    match api_version.split('/').collect::<Vec<_>>().as_slice() {
        _ if api_version.is_empty() => errors.push(FieldError::required(path, "")),
        [version] => version_name(errors, path, api_version, version),
        [group, version] => {
            let problems = if group.is_empty() { Vec::new() } else { name::dns1123_subdomain(group) };
            if !problems.is_empty() {
                errors.push(FieldError::invalid(path, *group, problems.join(",")));
            }
            version_name(errors, path, api_version, version);
        }
        _ => {
            let words = format!("unexpected GroupVersion string: {api_version}");
            errors.push(FieldError::invalid(path, api_version, words));
        }
    }
    let name = text(&kind["kind"]);
    let problems = name::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(FieldError::required("spec.paramKind.kind", ""));
    } else if !problems.is_empty() {
        let words = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.push(FieldError::invalid("spec.paramKind.kind", name, words));
    }
}

fn version_name(errors: &mut Errors, path: &str, api_version: &str, version: &str) {
    let problems = name::dns1035_label(version);
    if version.is_empty() {
        errors.push(FieldError::invalid(path, api_version, "version must be specified"));
    } else if !problems.is_empty() {
        errors.push(FieldError::invalid(path, version, problems.join(",")));
    }
}

fn conditions(errors: &mut Errors, path: &str, given: &Value, params: bool) {
    let count = list(given).count();
    if count > MOST_CONDITIONS {
        errors.push(FieldError::too_many(path, count, MOST_CONDITIONS));
    }
    let environment = environment(Declared { params, authorizer: true, patches: false }, None);
    let mut names = HashSet::new();
    for (index, condition) in list(given).enumerate() {
        let place = format!("{path}[{index}].expression");
        expression(errors, place, &condition["expression"], &environment, &[Type::Bool], "");
        let name = text(&condition["name"]);
        let place = format!("{path}[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(place, ""));
            continue;
        }
        let problems = name::qualified_name(name);
        errors.extend(problems.into_iter().map(|words| FieldError::invalid(&place, name, words)));
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&place, name));
        }
    }
}

fn binding(errors: &mut Errors, spec: &Value) {
    let policy = text(&spec["policyName"]);
    if policy.is_empty() {
        errors.push(FieldError::required("spec.policyName", ""));
    } else {
        let problems = name::dns1123_subdomain(policy);
        errors.extend(problems.into_iter().map(|words| FieldError::invalid("spec.policyName", policy, words)));
    }
    if let Some(reference) = spec.get("paramRef") {
        param_ref(errors, reference);
    }
    if let Some(resources) = spec.get("matchResources") {
        // The field is misspelt in upstream's errors, and clients may look for it.
        match_resources(errors, "spec.matchResouces", resources);
    }
}

fn param_ref(errors: &mut Errors, reference: &Value) {
    let name = text(&reference["name"]);
    let problems = if name.is_empty() { Vec::new() } else { name::path_segment(name) };
    errors.extend(problems.into_iter().map(|words| FieldError::invalid("spec.paramRef.name", name, words)));
    match (name.is_empty(), reference.get("selector")) {
        (false, Some(_)) => {
            let words = "name and selector are mutually exclusive";
            errors.push(FieldError::forbidden("spec.paramRef.name", words));
            errors.push(FieldError::forbidden("spec.paramRef.selector", words));
        }
        (true, None) => {
            errors.push(FieldError::required("spec.paramRef", "one of name or selector must be specified"));
        }
        (_, given) => {
            if given.is_some() {
                selector(errors, "spec.paramRef.selector".to_owned(), given);
            }
        }
    }
    let path = "spec.paramRef.parameterNotFoundAction".to_owned();
    one_of(errors, path, &reference["parameterNotFoundAction"], &["Allow", "Deny"]);
}

fn actions(errors: &mut Errors, given: &Value) {
    let path = "spec.validationActions";
    let mut seen = HashSet::new();
    for (index, action) in list(given).map(text).enumerate() {
        let allowed = ["Audit", "Deny", "Warn"];
        if !allowed.contains(&action) {
            errors.push(FieldError::not_supported(format!("{path}[{index}]"), action, &allowed));
        }
        if !seen.insert(action) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let words = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, given.clone(), words));
    }
    if seen.is_empty() {
        errors.push(FieldError::required(path, "at least one validation action is required"));
    }
}

#[cfg(test)]
mod tests;
