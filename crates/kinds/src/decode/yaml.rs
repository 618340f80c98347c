//! YAML as the API takes it: the value that it stands for, and the keys that stand twice in one map.
//!
//! As in upstream's library the last of several equal keys counts; whether that is a mistake is for the caller to say,
//! in the words that clients know ([`Yaml::problem`]).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// A text that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Yaml {
    /// What it stands for.
    pub value: Value,
    /// The lines, from 1, of the keys that repeat another one of their map.
    duplicates: Vec<(u64, String)>,
}

impl Yaml {
    /// Reads a text; the error is what the parser says.
    pub fn parse(raw: &[u8]) -> Result<Yaml, String> {
        let text = std::str::from_utf8(raw).map_err(|error| error.to_string())?;
        let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
        let mut duplicates = Vec::new();
        let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
            Node(&mut duplicates).deserialize(deserializer)
        })
        .map_err(|error| error.to_string())?;
        Ok(Yaml { value, duplicates })
    }

    /// What is wrong with keys that stand twice, in the words of Go's library.
    pub fn problem(&self) -> Option<String> {
        if self.duplicates.is_empty() {
            return None;
        }
        let lines =
            self.duplicates.iter().map(|(line, key)| format!("\n  line {line}: key {key:?} already set in map"));
        Some(format!("yaml: unmarshal errors:{}", lines.collect::<String>()))
    }
}

/// Builds any value and notes keys that are there twice.
struct Node<'d>(&'d mut Vec<(u64, String)>);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
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
        while let Some(item) = list.next_element_seed(Node(self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if fields.contains_key(&key.value) {
                self.0.push((key.referenced.line(), key.value.clone()));
            }
            let value = map.next_value_seed(Node(self.0))?;
            fields.insert(key.value, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_and_repeated_keys() {
        let check = |text: &str, value: Value, problem: Option<&str>| {
            let yaml = Yaml::parse(text.as_bytes()).expect("YAML");
            assert_eq!((&yaml.value, yaml.problem().as_deref()), (&value, problem), "{text}");
        };
        check(
            "\na: 1\nb: [x, 1.5, true, ~]\nc:\n  d: \"2\"\n",
            json!({"a": 1, "b": ["x", 1.5, true, null], "c": {"d": "2"}}),
            None,
        );
        check(
            "\nspec:\n  foo: a\n  foo: b\n  list:\n  - x: 1\n    y: 2\n    x: 3\n",
            json!({"spec": {"foo": "b", "list": [{"x": 3, "y": 2}]}}),
            Some(
                "yaml: unmarshal errors:\n  line 4: key \"foo\" already set in map\n  line 8: key \"x\" already set in map",
            ),
        );
        check(
            r#"{"a":1,"a":2}"#,
            json!({"a": 2}),
            Some("yaml: unmarshal errors:\n  line 1: key \"a\" already set in map"),
        );
        assert!(Yaml::parse(b"a: [").is_err());
        assert!(Yaml::parse(b"\xff").is_err());
    }
}
