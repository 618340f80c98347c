//! Type checking of validating policies against the schemas of what they mean. It changes nothing about how a policy
//! acts; what it finds stands in the policy's status.
//!
//! Upstream has a controller for this. Here it is done when the policy is written: nothing runs in the background, the
//! policy is written once, and who has made it finds the warnings in the answer.

use std::{collections::BTreeMap, sync::Arc};

use kobune_expressions::{
    Schema, Type,
    schema::{ListKind, Property},
};
use kobune_kinds::{Catalogue, Kind, ListType, SchemaRef, Shape};
use serde_json::{Value, json};

use super::{
    environment::{Declared, environment, variables},
    expression::Expression,
};

/// The most kinds that a policy is checked against.
const MOST_KINDS: usize = 10;

/// The schema of a kind's type. Types that contain themselves are not followed.
fn schema(place: SchemaRef<'_>, path: &str, inside: &mut Vec<String>) -> Schema {
    let scalar = |kind: &str, format: &str| Schema::scalar(kind, format).unwrap_or_else(Schema::dynamic);
    match place.shape() {
        Shape::Object => {
            let name = place.type_name().unwrap_or_default().to_owned();
            if inside.contains(&name) {
                return Schema::dynamic();
            }
            inside.push(name);
            let properties: Vec<Property> = place
                .fields()
                .map(|(name, field)| Property {
                    name: name.to_owned(),
                    schema: Arc::new(schema(field, &format!("{path}.{name}"), inside)),
                    always_given: field.required(),
                })
                .collect();
            inside.pop();
            Schema::object(path, properties)
        }
        Shape::Map => {
            let values =
                place.item().map_or_else(Schema::dynamic, |item| schema(item, &format!("{path}.@values"), inside));
            Schema::map(Arc::new(values), None)
        }
        Shape::List => {
            let items =
                place.item().map_or_else(Schema::dynamic, |item| schema(item, &format!("{path}.@items"), inside));
            let kind = match place.list_type() {
                ListType::Atomic => ListKind::Atomic,
                ListType::Set => ListKind::Set,
                ListType::Map => ListKind::Map(place.map_keys().to_vec()),
            };
            Schema::list(Arc::new(items), kind, None)
        }
        Shape::String => scalar("string", ""),
        Shape::Integer | Shape::Long => scalar("integer", ""),
        Shape::Number => scalar("number", ""),
        Shape::Boolean => scalar("boolean", ""),
        Shape::Bytes => scalar("string", "byte"),
        Shape::Time | Shape::MicroTime => scalar("string", "date-time"),
        Shape::IntOrString => Schema::int_or_string(),
        Shape::Quantity | Shape::Union | Shape::Any => Schema::dynamic(),
    }
}

fn type_of(kind: &Kind) -> Type {
    schema(kind.schema(), &kind.kind, &mut Vec::new()).declared().clone()
}

fn texts<'v>(rule: &'v Value, field: &str) -> Vec<&'v str> {
    let mut texts: Vec<&str> = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    texts.sort_unstable();
    texts
}

/// The kinds that a policy's rules name, without wildcards.
fn kinds<'c>(spec: &Value, catalogue: &'c Catalogue) -> Vec<&'c Arc<Kind>> {
    let mut found = BTreeMap::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let (groups, versions) = (texts(rule, "apiGroups"), texts(rule, "apiVersions"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        for group in &groups {
            for version in &versions {
                for resource in texts(rule, "resources").into_iter().filter(|name| !name.contains(['*', '/'])) {
                    if let Some(kind) = catalogue.by_resource(group, version, resource) {
                        found.insert((kind.group.clone(), kind.version.clone(), kind.kind.clone()), kind);
                    }
                    if found.len() == MOST_KINDS {
                        return found.into_values().collect();
                    }
                }
            }
        }
    }
    found.into_values().collect()
}

/// The warnings about a policy's expressions.
fn warnings(spec: &Value, catalogue: &Catalogue) -> Vec<Value> {
    let kinds: Vec<(&Arc<Kind>, Type)> = kinds(spec, catalogue).into_iter().map(|kind| (kind, type_of(kind))).collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let params = spec.get("paramKind").map(|kind| {
        let known = catalogue.by_kind(&text(&kind["apiVersion"]), &text(&kind["kind"]));
        known.map_or(Type::Dyn, |kind| type_of(kind))
    });
    let mut warnings = Vec::new();
    let mut check = |field: String, source: &str| {
        let problems: Vec<String> = kinds
            .iter()
            .filter_map(|(kind, declared)| {
                let problem = problem(spec, source, declared, params.as_ref())?;
                Some(format!("{}/{}, Kind={}: {problem}\n", kind.group, kind.version, kind.kind))
            })
            .collect();
        if !problems.is_empty() {
            warnings.push(json!({"fieldRef": field, "warning": problems.join("\n")}));
        }
    };
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            if let Some(source) = validation[field].as_str().filter(|source| !source.is_empty()) {
                check(format!("spec.validations[{index}].{field}"), source);
            }
        }
    }
    warnings
}

/// What is wrong with an expression when the object is of a type.
fn problem(spec: &Value, source: &str, object: &Type, params: Option<&Type>) -> Option<String> {
    let declared = Declared { params: params.is_some(), authorizer: true, patches: false };
    let typed = |fields: &[(Box<str>, Type)]| {
        let mut environment = environment(declared, Some(variables(fields.iter().cloned())));
        environment.redeclare("object", object.clone());
        environment.redeclare("oldObject", object.clone());
        if let Some(params) = params {
            environment.redeclare("params", params.clone());
        }
        environment
    };
    let mut fields: Vec<(Box<str>, Type)> = Vec::new();
    for variable in spec["variables"].as_array().into_iter().flatten() {
        let expression = Expression::of(&variable["expression"], &typed(&fields), &[]);
        let found = expression.program.map_or(Type::Dyn, |program| program.result().clone());
        fields.push((variable["name"].as_str().unwrap_or_default().into(), found));
    }
    Expression::compile(source, &typed(&fields), &[]).program.err()
}

/// Puts what type checking finds into the status of a validating policy whose spec is new.
pub(crate) fn stamp(kind: &Kind, object: &mut Value, catalogue: &Catalogue) {
    if &*kind.collection != "admissionregistration.k8s.io/validatingadmissionpolicies" {
        return;
    }
    let generation = object["metadata"]["generation"].clone();
    if object["status"]["observedGeneration"] == generation && !generation.is_null() {
        return;
    }
    let warnings = warnings(&object["spec"], catalogue);
    let found = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["observedGeneration"] = generation;
    object["status"]["typeChecking"] = found;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(validation: Value) -> Vec<Value> {
        let spec = json!({
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/status"],
            }]},
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
            "validations": [validation],
        });
        warnings(&spec, &Catalogue::builtin())
    }

    #[test]
    fn finds_what_upstream_finds() {
        assert_eq!(check(json!({"expression": "object.spec.replicas > 1"})), [json!(null); 0]);
        let found = check(json!({
            "expression": "variables.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
        }));
        let warning = |index: usize| found[index]["warning"].as_str().expect("a text");
        assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
        assert_eq!(
            warning(0),
            "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:20: found no matching overload for '_>_' \
             applied to '(int, string)'\n | variables.replicas > '1'\n | ...................^\n"
        );
        assert_eq!(found[1]["fieldRef"], "spec.validations[0].messageExpression");
        assert!(warning(1).contains("found no matching overload for '_+_' applied to '(string, int)'"));
        let found = check(json!({"expression": "object.spec.template.spec.containers.all(c, c.img != '')"}));
        assert!(found[0]["warning"].as_str().expect("a text").contains("undefined field 'img'"), "{found:?}");
        let fine = "object.metadata.creationTimestamp > timestamp('2024-01-01T00:00:00Z') && \
                    object.spec.template.spec.containers.all(c, c.resources.limits['cpu'] != null)";
        assert_eq!(check(json!({"expression": fine})), [json!(null); 0]);
    }

    #[test]
    fn every_kind_has_a_type() {
        for kind in Catalogue::builtin().kinds() {
            assert!(matches!(type_of(kind), Type::Object(_)), "{}", kind.kind);
        }
    }
}
