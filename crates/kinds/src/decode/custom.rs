//! Reading custom resources: any JSON, of which the schema then takes away what it does not name. Metadata is Kubernetes'
//! own type, also in objects within.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::FieldValidation;
use super::visitor::{Seed, State, Step};
use crate::custom::Schema;
use crate::custom::prune::{self, Finder};
use crate::schema::SchemaRef;

/// Reads a body, notes fields that are there twice, and checks it.
pub(super) fn read<'a>(
    raw: &[u8],
    schema: &Schema,
    mode: FieldValidation,
) -> (Result<Value, serde_json::Error>, State<'a>) {
    let mut state = State::new(mode);
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    let read = Plain(&mut state).deserialize(&mut deserializer).and_then(|object| deserializer.end().map(|()| object));
    match read {
        Ok(mut object) => {
            examine(&mut object, schema, &mut state, false);
            (Ok(object), state)
        }
        Err(error) => (Err(error), state),
    }
}

/// Checks an object that is parsed already. A configuration for server-side apply keeps its nulls: they say something.
pub(super) fn check<'a>(object: &mut Value, schema: &Schema, mode: FieldValidation, keeps_nulls: bool) -> State<'a> {
    let mut state = State::new(mode);
    examine(object, schema, &mut state, keeps_nulls);
    state
}

/// Takes away what the schema does not name from an object that comes from the store.
pub(crate) fn prune_stored(object: &mut Value, schema: &Schema) {
    struct Silent;
    impl Finder for Silent {
        fn unknown(&mut self, _: &[prune::Step<'_>], _: &str) {}
        fn metadata(&mut self, _: &[prune::Step<'_>], _: &mut Value) {}
    }
    prune::prune(object, schema, &mut Silent);
}

fn examine(object: &mut Value, schema: &Schema, state: &mut State<'_>, keeps_nulls: bool) {
    prune::prune(object, schema, &mut Found { state, keeps_nulls });
}

struct Found<'s, 'a> {
    state: &'s mut State<'a>,
    keeps_nulls: bool,
}

impl Found<'_, '_> {
    fn within(&mut self, path: &[prune::Step<'_>], act: impl FnOnce(&mut State<'_>)) {
        self.state.path.extend(path.iter().map(|step| match step {
            prune::Step::Field(name) => Step::Key((*name).to_owned()),
            prune::Step::Index(index) => Step::Index(*index),
        }));
        act(self.state);
        self.state.path.clear();
    }
}

impl Finder for Found<'_, '_> {
    fn keeps_nulls(&self) -> bool {
        self.keeps_nulls
    }

    fn unknown(&mut self, path: &[prune::Step<'_>], name: &str) {
        self.within(path, |state| state.find("unknown", name));
    }

    fn metadata(&mut self, path: &[prune::Step<'_>], metadata: &mut Value) {
        let Some(schema) = SchemaRef::object_meta() else { return };
        let mut own = State::new(self.state.mode());
        own.path.extend(path.iter().map(|step| match step {
            prune::Step::Field(name) => Step::Key((*name).to_owned()),
            prune::Step::Index(index) => Step::Index(*index),
        }));
        match Seed::new(&mut own, schema).deserialize(metadata.take()) {
            Ok(Value::Null) => *metadata = Value::Object(Map::new()),
            Ok(read) => *metadata = read,
            Err(error) => {
                let failure = own.failure.take().unwrap_or_else(|| error.to_string());
                self.state.failure.get_or_insert(failure);
            }
        }
        self.state.findings.append(&mut own.findings);
    }
}

/// Builds any value and notes fields that are there twice.
struct Plain<'s, 'a>(&'s mut State<'a>);

impl<'de> DeserializeSeed<'de> for Plain<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.path.push(Step::Index(items.len()));
            let read = list.next_element_seed(Plain(self.0))?;
            self.0.path.pop();
            match read {
                Some(value) => items.push(value),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                self.0.find("duplicate", &name);
            }
            self.0.path.push(Step::Key(name.clone()));
            let value = map.next_value_seed(Plain(self.0))?;
            self.0.path.pop();
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_does_not_belong() {
        let schema = Schema::root(&json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"c": {"type": "string"}}}},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"d": {"type": "object"}}},
                "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            },
        }}}));
        let check = |body: &str, expected: Value, findings: &[&str]| {
            let (object, state) = read(body.as_bytes(), &schema, FieldValidation::Strict);
            assert_eq!(object.expect("JSON"), expected);
            assert_eq!(state.findings, findings);
            assert_eq!(state.failure, None);
        };
        check(
            r#"{"apiVersion":"x/v1","metadata":{"name":"n","more":1},"spec":{"a":1,"a":2,"x":1,"list":[{"b":"1","y":2}],
                "map":{"k":{"c":"1","z":2}},"open":{"any":{"thing":1},"d":{"w":1}},
                "inner":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"i","extra":true},"spec":{},"status":{}}},"top":1}"#,
            json!({"apiVersion": "x/v1", "metadata": {"name": "n"}, "spec": {"a": 2, "list": [{"b": "1"}],
                "map": {"k": {"c": "1"}}, "open": {"any": {"thing": 1}, "d": {}},
                "inner": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "i"}, "spec": {}}}}),
            &[
                r#"duplicate field "spec.a""#,
                r#"unknown field "metadata.more""#,
                r#"unknown field "spec.inner.metadata.extra""#,
                r#"unknown field "spec.inner.status""#,
                r#"unknown field "spec.list[0].y""#,
                r#"unknown field "spec.map.k.z""#,
                r#"unknown field "spec.open.d.w""#,
                r#"unknown field "spec.x""#,
                r#"unknown field "top""#,
            ],
        );
        let (_, state) = read(br#"{"metadata":{"labels":{"a":1}}}"#, &schema, FieldValidation::Ignore);
        let words = "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string";
        assert!(state.failure.as_deref().is_some_and(|failure| failure.starts_with(words)), "{:?}", state.failure);
    }
}
