//! Values of custom resources against their schema, in upstream's words, with ratcheting: what an update leaves as it
//! was is not judged again.

use serde_json::Value;

use super::schema::Limits;
use super::{Additional, Schema, ValueType, formats};
use crate::field_error::{FieldError, FieldErrorKind};
use crate::schema::ListType;

/// The place of a value.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    fn field(&'a self, name: &'a str) -> Place<'a> {
        Place { parent: Some(self), step: Step::Field(name) }
    }

    fn index(&'a self, index: usize) -> Place<'a> {
        Place { parent: Some(self), step: Step::Index(index) }
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => out.push_str(&format!("[{index}]")),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    /// How errors name the place: upstream writes the root as nothing's path.
    fn name(&self) -> String {
        let text = self.text();
        if text.is_empty() { "<nil>".to_owned() } else { text }
    }
}

/// So many errors say enough.
const MOST: usize = 200;

type Errors = Vec<FieldError>;

/// What is wrong with an object; `old` is what it replaces.
pub(crate) fn object(object: &Value, old: Option<&Value>, schema: &Schema) -> Errors {
    let mut errors = Errors::new();
    let root = Place { parent: None, step: Step::Root };
    value(object, old, schema, &root, &mut errors);
    errors.truncate(MOST);
    errors
}

fn fail(errors: &mut Errors, place: &Place<'_>, shown: impl Into<Value>, detail: String) {
    errors.push(FieldError::invalid(place.name(), shown, detail));
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(value: &Value, kind: ValueType) -> bool {
    let whole = |value: &Value| value.as_f64().is_some_and(|number| number.fract() == 0.0);
    match kind {
        ValueType::Any => true,
        ValueType::Object => value.is_object(),
        ValueType::Array => value.is_array(),
        ValueType::String => value.is_string(),
        ValueType::Integer => whole(value),
        ValueType::Number => value.is_number(),
        ValueType::Boolean => value.is_boolean(),
        ValueType::IntOrString => value.is_string() || whole(value),
    }
}

fn value(value_: &Value, old: Option<&Value>, schema: &Schema, place: &Place<'_>, errors: &mut Errors) {
    if errors.len() > MOST || old.is_some_and(|old| old == value_) {
        return;
    }
    if value_.is_null() && (schema.is_nullable() || schema.value_type() == ValueType::Any) {
        return;
    }
    if !has_type(value_, schema.value_type()) {
        let found = type_of(value_);
        let wanted = schema.value_type().words();
        let detail = format!("{} in body must be of type {wanted}: \"{found}\"", place.text());
        errors
            .push(FieldError { kind: FieldErrorKind::TypeInvalid, ..FieldError::invalid(place.name(), found, detail) });
        allowed(value_, schema.limits(), place, errors);
        return;
    }
    limits(value_, old, schema.limits(), place, errors);
    match value_ {
        Value::Object(fields) => {
            for name in schema.required() {
                if !fields.contains_key(&**name) {
                    errors.push(FieldError::required(place.field(name).name(), ""));
                }
            }
            if schema.is_embedded() {
                for name in ["apiVersion", "kind"] {
                    if fields.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
                        errors.push(FieldError::required(place.field(name).name(), "must not be empty"));
                    }
                }
            }
            for (name, below) in fields {
                if let Some(schema) = schema.child(name) {
                    let old = old.and_then(|old| old.get(name));
                    value(below, old, schema, &place.field(name), errors);
                } else if matches!(schema.additional(), Additional::Any) {
                    continue;
                }
            }
        }
        Value::Array(items) => {
            list_type(items, schema, place, errors);
            if let Some(below) = schema.items() {
                for (index, item) in items.iter().enumerate() {
                    let old = same_item(item, old, schema);
                    value(item, old, below, &place.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

/// The item that an item of a list with keys was before. Items of other lists have no identity.
pub(crate) fn same_item<'o>(item: &Value, old: Option<&'o Value>, schema: &Schema) -> Option<&'o Value> {
    if schema.list_type() != ListType::Map {
        return None;
    }
    let keys = schema.map_keys();
    old?.as_array()?.iter().find(|other| keys.iter().all(|key| other.get(&**key) == item.get(&**key)))
}

/// Items of sets, and keys of items, must not be there twice.
fn list_type(items: &[Value], schema: &Schema, place: &Place<'_>, errors: &mut Errors) {
    let identity = |item: &Value| match schema.list_type() {
        ListType::Atomic => None,
        ListType::Set => Some(item.clone()),
        ListType::Map => {
            let keys = schema.map_keys().iter();
            let found = keys.filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
            Some(Value::Object(found.collect()))
        }
    };
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        if let Some(identity) = identity(item)
            && !seen.insert(identity.to_string())
        {
            errors.push(FieldError::duplicate(place.index(index).name(), identity));
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What `enum` says, which is asked of values of a wrong type too.
fn allowed(value_: &Value, limits: &Limits, place: &Place<'_>, errors: &mut Errors) {
    if let Some(allowed) = &limits.allowed
        && !allowed.contains(value_)
    {
        let known: Vec<String> = allowed.iter().map(shown).collect();
        let quoted: Vec<String> = known.iter().map(|value| format!("{value:?}")).collect();
        errors.push(FieldError {
            detail: format!("supported values: {}", quoted.join(", ")),
            ..FieldError::not_supported(place.name(), value_.clone(), &[])
        });
    }
}

fn limits(value_: &Value, old: Option<&Value>, limits: &Limits, place: &Place<'_>, errors: &mut Errors) {
    allowed(value_, limits, place, errors);
    match value_ {
        Value::String(text) => texts(text, limits, place, errors),
        Value::Number(number) => numbers(number.as_f64().unwrap_or_default(), value_, limits, place, errors),
        Value::Array(items) => {
            let count = items.len() as u64;
            if limits.max_items.is_some_and(|most| count > most) {
                let most = usize::try_from(limits.max_items.unwrap_or(0)).unwrap_or(usize::MAX);
                errors.push(FieldError::too_many(place.name(), items.len(), most));
            }
            if let Some(least) = limits.min_items.filter(|least| count < *least) {
                fail(errors, place, count, format!("{} in body should have at least {least} items", place.text()));
            }
            if limits.unique_items && items.iter().enumerate().any(|(at, item)| items[..at].contains(item)) {
                fail(errors, place, "", format!("{} in body shouldn't contain duplicates", place.text()));
            }
        }
        Value::Object(fields) => {
            let count = fields.len() as u64;
            if limits.max_properties.is_some_and(|most| count > most) {
                let most = usize::try_from(limits.max_properties.unwrap_or(0)).unwrap_or(usize::MAX);
                errors.push(FieldError::too_many(place.name(), fields.len(), most));
            }
            if let Some(least) = limits.min_properties.filter(|least| count < *least) {
                fail(errors, place, count, format!("{} in body should have at least {least} properties", place.text()));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    junctors(value_, old, limits, place, errors);
}

fn texts(text: &str, limits: &Limits, place: &Place<'_>, errors: &mut Errors) {
    let length = || text.chars().count() as u64;
    if let Some(most) = limits.max_length.filter(|most| length() > *most) {
        errors.push(FieldError::too_long(place.name(), usize::try_from(most).unwrap_or(usize::MAX)));
    }
    if let Some(least) = limits.min_length.filter(|least| length() < *least) {
        fail(errors, place, text, format!("{} in body should be at least {least} chars long", place.text()));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
        fail(errors, place, text, format!("{} in body should match '{}'", place.text(), pattern.source));
    }
    if let Some(format) = limits.format.as_deref().filter(|format| !formats::fits(format, text)) {
        let detail = format!("{} in body must be of type {format}: {text:?}", place.text());
        errors
            .push(FieldError { kind: FieldErrorKind::TypeInvalid, ..FieldError::invalid(place.name(), text, detail) });
    }
}

fn numbers(number: f64, value_: &Value, limits: &Limits, place: &Place<'_>, errors: &mut Errors) {
    if let Some(least) = limits.minimum {
        if limits.exclusive_minimum && number <= least {
            fail(errors, place, value_.clone(), format!("{} in body should be greater than {least}", place.text()));
        } else if number < least {
            let detail = format!("{} in body should be greater than or equal to {least}", place.text());
            fail(errors, place, value_.clone(), detail);
        }
    }
    if let Some(most) = limits.maximum {
        if limits.exclusive_maximum && number >= most {
            fail(errors, place, value_.clone(), format!("{} in body should be less than {most}", place.text()));
        } else if number > most {
            let detail = format!("{} in body should be less than or equal to {most}", place.text());
            fail(errors, place, value_.clone(), detail);
        }
    }
    if let Some(of) = limits.multiple_of.filter(|of| *of > 0.0) {
        let times = number / of;
        if (times - times.round()).abs() > 1e-9 {
            fail(errors, place, value_.clone(), format!("{} in body should be a multiple of {of}", place.text()));
        }
    }
    // Formats of numbers limit their range.
    let range = match limits.format.as_deref() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        Some("float") => Some((f64::from(f32::MIN), f64::from(f32::MAX))),
        _ => None,
    };
    if let Some((least, most)) = range
        && !(least..=most).contains(&number)
    {
        let format = limits.format.as_deref().unwrap_or_default();
        let detail =
            format!("{} in body must be of type {format}: {value_:?}", place.text(), value_ = value_.to_string());
        fail(errors, place, value_.clone(), detail);
    }
}

fn junctors(value_: &Value, old: Option<&Value>, limits: &Limits, place: &Place<'_>, errors: &mut Errors) {
    let judge = |schema: &Schema| {
        let mut found = Errors::new();
        value(value_, old, schema, place, &mut found);
        found
    };
    let whole = |detail: String| FieldError::invalid("<nil>", "", detail);
    let name = place.text();
    if !limits.any_of.is_empty() {
        let mut best: Option<Errors> = None;
        let mut good = false;
        for schema in &limits.any_of {
            let found = judge(schema);
            if found.is_empty() {
                good = true;
                break;
            }
            if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                best = Some(found);
            }
        }
        if !good {
            errors.push(whole(format!("{name:?} must validate at least one schema (anyOf)")));
            errors.extend(best.into_iter().flatten());
        }
    }
    if !limits.one_of.is_empty() {
        let results: Vec<Errors> = limits.one_of.iter().map(judge).collect();
        let good = results.iter().filter(|found| found.is_empty()).count();
        if good != 1 {
            let found =
                if good == 0 { "Found none valid".to_owned() } else { format!("Found {good} valid alternatives") };
            errors.push(whole(format!("{name:?} must validate one and only one schema (oneOf). {found}")));
            if good == 0 {
                errors.extend(results.into_iter().min_by_key(Vec::len).into_iter().flatten());
            }
        }
    }
    if !limits.all_of.is_empty() {
        let before = errors.len();
        let mut failed = 0;
        for schema in &limits.all_of {
            let found = judge(schema);
            failed += usize::from(!found.is_empty());
            errors.extend(found);
        }
        if failed > 0 {
            let none = if failed == limits.all_of.len() { ". None validated" } else { "" };
            errors.insert(before, whole(format!("{name:?} must validate all the schemas (allOf){none}")));
        }
    }
    if let Some(not) = &limits.not
        && judge(not).is_empty()
    {
        errors.push(whole(format!("{name:?} must not validate the schema (not)")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::root(&json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object", "required": ["replicas"], "properties": {
                "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
                "mode": {"type": "string", "enum": ["on", "off"]},
                "cron": {"type": "string", "pattern": "^\\d+$", "maxLength": 5},
                "when": {"type": "string", "format": "date"},
                "port": {"x-kubernetes-int-or-string": true},
                "maybe": {"type": "string", "nullable": true},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "maxItems": 3},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}, "name": {"type": "string", "maxLength": 3}}}},
                "labels": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
                "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
                "not": {"type": "integer", "not": {"enum": [7]}},
                "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            },
        }}}))
    }

    #[test]
    fn errors_read_as_upstream() {
        let check = |spec: Value, expected: &[&str]| {
            let found: Vec<String> =
                object(&json!({"spec": spec}), None, &schema()).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{spec}");
        };
        check(json!({"replicas": 1, "mode": "on", "maybe": null, "port": "http"}), &[]);
        check(json!({"replicas": 2.0, "port": 80}), &[]);
        check(json!({}), &["spec.replicas: Required value"]);
        check(
            json!({"replicas": "x"}),
            &["spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""],
        );
        check(
            json!({"replicas": 0}),
            &["spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"],
        );
        check(
            json!({"replicas": 1, "mode": "x"}),
            &["spec.mode: Unsupported value: \"x\": supported values: \"on\", \"off\""],
        );
        check(
            json!({"replicas": 1, "cron": "abcdef"}),
            &[
                "spec.cron: Too long: may not be more than 5 bytes",
                "spec.cron: Invalid value: \"abcdef\": spec.cron in body should match '^\\d+$'",
            ],
        );
        check(
            json!({"replicas": 1, "when": "now"}),
            &["spec.when: Invalid value: \"now\": spec.when in body must be of type date: \"now\""],
        );
        check(
            json!({"replicas": 1, "set": ["a", "b", "a", "c"]}),
            &["spec.set: Too many: 4: must have at most 3 items", "spec.set[2]: Duplicate value: \"a\""],
        );
        check(
            json!({"replicas": 1, "ports": [{"port": 1}, {"port": 1}]}),
            &["spec.ports[1]: Duplicate value: {\"port\":1}"],
        );
        check(
            json!({"replicas": 1, "labels": {"a": ""}}),
            &["spec.labels.a: Invalid value: \"\": spec.labels.a in body should be at least 1 chars long"],
        );
        check(
            json!({"replicas": 1, "one": {"a": "x", "b": "x"}}),
            &["<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid \
               alternatives"],
        );
        check(
            json!({"replicas": 1, "not": 7}),
            &["<nil>: Invalid value: \"\": \"spec.not\" must not validate the schema (not)"],
        );
        check(
            json!({"replicas": 1, "inner": {"kind": "Pod"}}),
            &["spec.inner.apiVersion: Required value: must not be empty"],
        );
    }

    #[test]
    fn what_stays_is_not_judged_again() {
        let old =
            json!({"spec": {"replicas": 99, "ports": [{"port": 1, "name": "long"}, {"port": 2}], "set": ["a", "a"]}});
        let check = |new: Value, expected: usize| {
            let found = object(&new, Some(&old), &schema());
            assert_eq!(found.len(), expected, "{found:?}");
        };
        check(old.clone(), 0);
        check(json!({"spec": {"replicas": 99, "ports": [{"port": 3}, {"port": 1, "name": "long"}], "mode": "on"}}), 0);
        check(json!({"spec": {"replicas": 98, "ports": [{"port": 1, "name": "longer"}]}}), 2);
    }
}
