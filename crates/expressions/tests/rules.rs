//! The rules of custom resources: what is wrong with them, and what they say about objects.

use kobune_expressions::rules::{Rules, check};
use serde_json::{Value, json};

fn schema(rules: Value) -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-validations": rules, "properties": {
            "x": {"type": "integer"}, "y": {"type": "integer"}, "name": {"type": "string"},
            "list": {"type": "array", "items": {"type": "string"}},
            "keyed": {
                "type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {
                    "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "must not shrink"}],
                },
            },
            "map": {"type": "object", "additionalProperties": {
                "type": "string", "maxLength": 5, "x-kubernetes-validations": [{"rule": "self != 'bad'"}],
            }},
        }},
    }})
}

#[track_caller]
fn wrong(rules: Value, expected: &[&str]) {
    let mut schema = schema(rules);
    schema["properties"]["spec"]["properties"].as_object_mut().expect("an object").remove("map");
    let found: Vec<String> = check(&schema, "s").iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}\n{expected}");
    }
}

#[test]
fn definitions() {
    wrong(json!([{"rule": "self.x + self.y > 0"}]), &[]);
    let at = "s.properties[spec].x-kubernetes-validations[0]";
    wrong(
        json!([{"rule": "self.z == 100"}]),
        &["compilation failed: ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^"],
    );
    wrong(json!([{"rule": " "}]), &[&format!("{at}.rule: Required value: rule is not specified")]);
    wrong(json!([{"rule": "self.x"}]), &["cel expression must evaluate to a bool"]);
    wrong(
        json!([{"rule": "true", "message": "a\nb", "reason": "No", "fieldPath": ".missing", "optionalOldSelf": true}]),
        &[
            "message: Invalid value: \"a\\nb\": must not contain line breaks",
            "reason: Unsupported value: \"No\"",
            "fieldPath: Invalid value: \".missing\": must be a valid path",
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ],
    );
    wrong(json!([{"rule": "true", "messageExpression": "self.x"}]), &["messageExpression must evaluate to a string"]);
    wrong(
        json!([{"rule": "self.list.all(a, self.list.all(b, a == b))"}]),
        &[
            "s.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule",
            "s.properties[spec].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x",
        ],
    );
    // What upstream takes, words of the language as fields and lists out of nowhere included, is taken.
    let taken = json!({"type": "object", "properties": {
        "namespace": {"type": "string"},
        "list": {"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 64}},
    }, "x-kubernetes-validations": [
        {"rule": "!has(self.namespace) || self.namespace != 'x' || self.__namespace__ != 'y'"},
        {"rule": "(has(self.list) ? self.list : []).exists(item, item.contains('/'))"},
    ]});
    assert_eq!(check(&taken, "s"), []);
    let items = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 3, "items": {
        "type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}],
    }}}});
    let found = check(&items, "s");
    assert_eq!(found.len(), 1);
    assert!(found[0].detail.ends_with("uncorrelatable portion of the schema within s.properties[l]"), "{found:?}");
}

#[track_caller]
fn judge(rules: Value, object: Value, old: Option<Value>, errors: &[&str], warnings: &[&str]) {
    let rules = Rules::compile(&schema(rules));
    let judgement = rules.validate(&object, old.as_ref());
    let found: Vec<String> = judgement.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        (found, judgement.warnings.iter().map(String::as_str).collect()),
        (errors.iter().map(|e| (*e).to_owned()).collect(), warnings.to_vec()),
        "{object}"
    );
}

#[test]
fn objects() {
    let positive = json!([{"rule": "self.x + self.y > 0"}]);
    judge(positive.clone(), json!({"spec": {"x": 1, "y": 0}}), None, &[], &[]);
    let zero = json!({"spec": {"x": 0, "y": 0}});
    let failed = "spec: Invalid value: failed rule: self.x + self.y > 0";
    judge(positive.clone(), zero.clone(), None, &[failed], &[]);
    // What was wrong before and has not changed is a warning.
    let mut other = zero.clone();
    other["status"] = json!({});
    judge(positive.clone(), zero.clone(), Some(other), &[], &[failed]);
    judge(
        positive.clone(),
        json!({"spec": {"x": 1}}),
        None,
        &["spec: Invalid value: \"object\": no such key: y evaluating rule: self.x + self.y > 0"],
        &[],
    );
    judge(positive, json!({}), None, &[], &[]);
    judge(
        json!([{"rule": "self.x == 1", "messageExpression": "'x is ' + string(self.x)", "reason": "FieldValueForbidden", "fieldPath": ".x"}]),
        zero.clone(),
        None,
        &["spec.x: Forbidden: x is 0"],
        &[],
    );
    let fixed = json!([{"rule": "self.x == oldSelf.x", "message": "x is fixed"}]);
    judge(fixed.clone(), zero.clone(), None, &[], &[]);
    judge(fixed, zero.clone(), Some(json!({"spec": {"x": 1}})), &["spec: Invalid value: x is fixed"], &[]);
    let first = json!([{"rule": "oldSelf.hasValue() || self.x == 1", "optionalOldSelf": true}]);
    judge(
        first.clone(),
        zero.clone(),
        None,
        &["spec: Invalid value: failed rule: oldSelf.hasValue() || self.x == 1"],
        &[],
    );
    judge(first, zero.clone(), Some(zero), &[], &[]);
    let keyed = |v: i64| json!({"spec": {"keyed": [{"k": "other", "v": 1}, {"k": "a", "v": v}]}});
    judge(
        json!([]),
        json!({"spec": {"keyed": [{"k": "a", "v": 1}]}}),
        Some(keyed(2)),
        &["spec.keyed[0]: Invalid value: must not shrink"],
        &[],
    );
    judge(
        json!([]),
        json!({"spec": {"map": {"k": "bad", "l": "good"}}}),
        None,
        &["spec.map[k]: Invalid value: \"bad\": failed rule: self != 'bad'"],
        &[],
    );
    let costly = json!([{"rule": "self.list.all(a, self.list.all(b, a == b))"}]);
    let list = json!({"spec": {"list": vec!["a"; 2000]}});
    judge(
        costly,
        list,
        None,
        &[
            "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.list.all(a, self.list.all(b, a == b))",
        ],
        &[],
    );
}
