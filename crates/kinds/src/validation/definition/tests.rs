use serde_json::{Value, json};

use crate::catalogue::Catalogue;

fn definition(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.harbour.example.com"},
        "spec": {
            "group": "harbour.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}],
        },
        "status": {"storedVersions": ["v1"]},
    });
    change(&mut object);
    object
}

fn errors(object: &Value) -> Vec<String> {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition").expect("built in");
    kind.validate(object).iter().map(ToString::to_string).collect()
}

#[test]
fn definitions() {
    let check = |change: fn(&mut Value), expected: &[&str]| assert_eq!(errors(&definition(change)), expected);
    check(|_| {}, &[]);
    check(
        |object| object["metadata"]["name"] = "x.y.z".into(),
        &["metadata.name: Invalid value: \"x.y.z\": must be spec.names.plural+\".\"+spec.group"],
    );
    check(
        |object| object["spec"]["scope"] = "Somewhere".into(),
        &["spec.scope: Unsupported value: \"Somewhere\": supported values: \"Cluster\", \"Namespaced\""],
    );
    check(
        |object| object["spec"]["names"]["listKind"] = "Boat".into(),
        &["spec.names.listKind: Invalid value: \"Boat\": kind and listKind may not be the same"],
    );
    check(
        |object| {
            object["metadata"]["name"] = "boats.fleet.k8s.io".into();
            object["spec"]["group"] = "fleet.k8s.io".into();
        },
        &["metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval \
           annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"],
    );
    check(
        |object| object["spec"]["versions"][0]["schema"] = Value::Null,
        &["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"],
    );
    let none = errors(&definition(|object| object["spec"]["versions"][0]["storage"] = false.into()));
    assert!(none[0].ends_with("must have exactly one version marked as storage version"), "{none:?}");
}

#[test]
fn structural_schemas() {
    let check = |a: Value, expected: &[&str]| {
        let found = errors(&definition(|object| {
            object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["a"] =
                a.clone();
        }));
        let prefix = "spec.validation.openAPIV3Schema.properties[spec].properties[a]";
        let expected: Vec<String> = expected.iter().map(|words| format!("{prefix}{words}")).collect();
        assert_eq!(found, expected, "{a}");
    };
    check(json!({"description": "no type"}), &[".type: Required value: must not be empty for specified object fields"]);
    check(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), &[]);
    check(json!({"x-kubernetes-preserve-unknown-fields": true}), &[]);
    check(
        json!({"type": "array", "items": {}}),
        &[".items.type: Required value: must not be empty for specified array items"],
    );
    check(json!({"type": "string", "default": "x", "enum": ["x"]}), &[]);
    check(
        json!({"type": "string", "default": 1}),
        &[".default: Invalid value: \"integer\": default in body must be of type string: \"integer\""],
    );
    check(
        json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
        &[".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
    );
    check(
        json!({"type": "object", "anyOf": [{"properties": {"c": {"minLength": 1}}}]}),
        &[".properties[c]: Required value: because it is defined in \
         spec.validation.openAPIV3Schema.properties[spec].properties[a].anyOf[0].properties[c]"],
    );
    check(
        json!({"type": "string", "allOf": [{"type": "string"}]}),
        &[".allOf[0].type: Forbidden: must be empty to be structural"],
    );
    check(
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {
        "type": "object", "properties": {"n": {"type": "string"}}}}),
        &[
            ".items.properties[n].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a \
         default or be a required property",
        ],
    );
    check(json!({"$ref": "#/x", "type": "string"}), &[".$ref: Forbidden: $ref is not supported"]);
}
