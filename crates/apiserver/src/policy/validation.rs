//! What is wrong with a policy or a binding: upstream's checks, with what is wrong with the expressions.

use std::collections::HashSet;

use kobune_expressions::{Environment, ObjectType, Type};
use kobune_kinds::{FieldError, Kind, name, selector::LabelSelector};
use serde_json::Value;

use super::{
    environment::{Declared, environment, variables},
    expression::Expression,
};

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

fn selector(errors: &mut Errors, path: String, selector: Option<&Value>) {
    match selector {
        None => errors.push(FieldError::required(path, "")),
        Some(selector) => {
            if let Err(error) = LabelSelector::from_object(selector) {
                errors.push(FieldError::invalid(path, selector.clone(), error.to_string()));
            }
        }
    }
}

fn match_resources(errors: &mut Errors, path: &str, resources: &Value) {
    one_of(errors, format!("{path}.matchPolicy"), &resources["matchPolicy"], &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        selector(errors, format!("{path}.{field}"), resources.get(field));
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(&resources[field]).enumerate() {
            rule_with_operations(errors, &format!("{path}.{field}[{index}]"), rule);
        }
    }
}

fn rule_with_operations(errors: &mut Errors, path: &str, rule: &Value) {
    let mut names = HashSet::new();
    for (index, resource_name) in list(&rule["resourceNames"]).enumerate() {
        let place = format!("{path}.resourceNames[{index}]");
        let resource_name = text(resource_name);
        let problems = name::path_segment(resource_name);
        errors.extend(problems.into_iter().map(|words| FieldError::invalid(&place, resource_name, words)));
        if !names.insert(resource_name) {
            errors.push(FieldError::duplicate(&place, resource_name));
        }
    }
    for field in ["apiGroups", "apiVersions", "resources"] {
        texts(errors, &format!("{path}.{field}"), &rule[field], field != "apiGroups");
    }
    resource_patterns(errors, &format!("{path}.resources"), &rule["resources"]);
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let place = format!("{path}.operations");
    texts(errors, &place, &rule["operations"], false);
    for (index, operation) in list(&rule["operations"]).enumerate() {
        if !operations.contains(&text(operation)) {
            errors.push(FieldError::not_supported(format!("{place}[{index}]"), text(operation), &operations));
        }
    }
    if rule.get("scope").is_some() && !["*", "Cluster", "Namespaced"].contains(&text(&rule["scope"])) {
        let allowed = ["*", "Cluster", "Namespaced"];
        errors.push(FieldError::not_supported(format!("{path}.scope"), text(&rule["scope"]), &allowed));
    }
}

/// A list that may not be empty, and in which a wildcard stands alone.
fn texts(errors: &mut Errors, path: &str, given: &Value, filled: bool) {
    let count = list(given).count();
    if count == 0 {
        errors.push(FieldError::required(path, ""));
    }
    for (index, item) in list(given).enumerate() {
        if filled && text(item).is_empty() {
            errors.push(FieldError::required(format!("{path}[{index}]"), ""));
        }
    }
    let wildcard = list(given).any(|item| text(item) == "*");
    if wildcard && count > 1 && !path.ends_with("resources") {
        let words = "if '*' is present, must not specify other values";
        errors.push(FieldError::invalid(path, given.clone(), words));
    }
}

/// Patterns of resources that other patterns contain already.
fn resource_patterns(errors: &mut Errors, path: &str, given: &Value) {
    let all: Vec<&str> = list(given).map(text).collect();
    if all.contains(&"*/*") && all.len() > 1 {
        let words = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, given.clone(), words));
    } else if all.contains(&"*") && all.iter().any(|pattern| *pattern != "*" && !pattern.contains('/')) {
        let words = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, given.clone(), words));
    }
    for (index, pattern) in all.iter().enumerate() {
        let Some((resource, subresource)) = pattern.split_once('/') else { continue };
        let place = format!("{path}[{index}]");
        if subresource != "*" && all.contains(&format!("{resource}/*").as_str()) {
            let words = format!("if '{resource}/*' is present, must not specify {pattern}");
            errors.push(FieldError::invalid(place, *pattern, words));
        } else if resource != "*" && all.contains(&format!("*/{subresource}").as_str()) {
            let words = format!("if '*/{subresource}' is present, must not specify {pattern}");
            errors.push(FieldError::invalid(place, *pattern, words));
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
mod tests {
    use kobune_kinds::Catalogue;
    use serde_json::json;

    use super::*;

    fn check(kind: &str, spec: Value, expected: &[&str]) {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind("admissionregistration.k8s.io/v1", kind).expect("a kind");
        let mut object = json!({"metadata": {"name": "p.example.com"}, "spec": spec});
        kind.default(&mut object);
        let errors: Vec<String> = validate(kind, &object).iter().map(FieldError::to_string).collect();
        assert_eq!(errors, expected, "{object}");
    }

    fn policy_with(fields: Value) -> Value {
        let mut spec = json!({
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
            }]},
        });
        spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        spec
    }

    #[test]
    fn policies() {
        let kind = "ValidatingAdmissionPolicy";
        check(
            kind,
            policy_with(json!({"validations": [{"expression": "object.spec.x > 1", "reason": "Forbidden"}]})),
            &[],
        );
        check(
            kind,
            json!({"failurePolicy": "Maybe"}),
            &[
                "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ],
        );
        check(
            kind,
            policy_with(json!({
                "variables": [{"name": "a", "expression": "1"}, {"name": "b-c", "expression": "variables.a + 'x'"}],
                "validations": [{"expression": "variables.a"}, {"expression": "params.x == 1", "message": "a\nb"}],
            })),
            &[
                "spec.variables[1].name: Invalid value: \"b-c\": name is not a valid CEL identifier",
                "spec.variables[1].expression: Invalid value: \"variables.a + 'x'\": compilation failed: ERROR: <input>:1:13: found no matching overload for '_+_' applied to '(int, string)'\n | variables.a + 'x'\n | ............^",
                "spec.validations[0].expression: Invalid value: \"variables.a\": must evaluate to bool but got int",
                "spec.validations[1].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^",
                "spec.validations[1].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            ],
        );
        check(
            kind,
            policy_with(json!({
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConditions": [{"name": "a", "expression": "params.data.a == 'x'"}, {"name": "a", "expression": ""}],
                "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
            })),
            &[
                "spec.matchConditions[1].expression: Required value",
                "spec.matchConditions[1].name: Duplicate value: \"a\"",
                "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null] but got int",
            ],
        );
    }

    #[test]
    fn mutations() {
        let kind = "MutatingAdmissionPolicy";
        let apply = "Object{metadata: Object.metadata{labels: {'a': 'b'}}}";
        check(
            kind,
            policy_with(json!({"reinvocationPolicy": "Never", "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/a', value: 1}]"}},
            ]})),
            &[],
        );
        check(
            kind,
            policy_with(json!({"reinvocationPolicy": "Sometimes", "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}},
                {"patchType": "JSONPatch", "applyConfiguration": {"expression": "1"}},
            ]})),
            &[
                "spec.reinvocationPolicy: Unsupported value: \"Sometimes\": supported values: \"IfNeeded\", \"Never\"",
                "spec.mutations[0].applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object but got int",
                "spec.mutations[1].applyConfiguration: Invalid value: {\"expression\":\"1\"}: must not be specified when patchType is not ApplyConfiguration",
                "spec.mutations[1].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ],
        );
    }

    #[test]
    fn bindings() {
        let kind = "ValidatingAdmissionPolicyBinding";
        check(kind, json!({"policyName": "a", "validationActions": ["Deny"]}), &[]);
        check(
            kind,
            json!({"paramRef": {"name": "a", "selector": {}}, "validationActions": ["Deny", "Warn", "No"]}),
            &[
                "spec.policyName: Required value",
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.validationActions[2]: Unsupported value: \"No\": supported values: \"Audit\", \"Deny\", \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"No\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ],
        );
    }
}
