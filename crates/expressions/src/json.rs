//! Values to JSON: what an expression made, for patches, audit annotations and claims.

use serde_json::{Map as JsonMap, Value as Json};

use crate::error::EvaluationError;
use crate::library::{network, time};
use crate::value::{Items, Map, Value};

/// How deep values may nest; deeper than any object that is accepted.
const DEEPEST: usize = 256;

impl Value<'_> {
    /// The value as JSON. Types, optional values and what libraries hold have no JSON, except quantities, addresses and
    /// URLs, which are their text.
    pub fn to_json(&self) -> Result<Json, EvaluationError> {
        self.json_within(DEEPEST)
    }

    fn json_within(&self, depth: usize) -> Result<Json, EvaluationError> {
        let depth = depth.checked_sub(1).ok_or_else(|| EvaluationError::failed("value is nested too deeply"))?;
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(truth) => Json::Bool(*truth),
            Value::Int(number) => Json::from(*number),
            Value::Uint(number) => Json::from(*number),
            Value::Double(number) => {
                // A whole number is written without a fraction, as upstream's encoder does.
                if number.fract() == 0.0 && number.abs() < 9.0e15 {
                    Json::from(*number as i64)
                } else {
                    serde_json::Number::from_f64(*number)
                        .map(Json::Number)
                        .ok_or_else(|| EvaluationError::failed("number has no JSON form"))?
                }
            }
            Value::String(text) => Json::from(&**text),
            Value::Bytes(bytes) => Json::from(network::to_base64(bytes)),
            Value::Timestamp(at) => Json::from(time::format_timestamp(*at)),
            Value::Duration(nanos) => Json::from(time::format_duration(*nanos)),
            Value::List(list) => match &list.items {
                Items::Json(items) => Json::Array(items.to_vec()),
                Items::Owned(items) => {
                    items.iter().map(|item| item.json_within(depth)).collect::<Result<_, _>>().map(Json::Array)?
                }
            },
            Value::Map(Map::Json(entries, _)) => Json::Object((*entries).clone()),
            Value::Map(Map::Owned(entries)) => {
                let mut object = JsonMap::new();
                for (key, value) in entries.values() {
                    let Value::String(key) = key else {
                        return Err(EvaluationError::failed("only text can be a key in JSON"));
                    };
                    object.insert(key.to_string(), value.json_within(depth)?);
                }
                Json::Object(object)
            }
            Value::Object(made) => {
                let mut object = JsonMap::new();
                for (name, value) in &made.fields {
                    let name = crate::names::unescape(name).unwrap_or_else(|| name.to_string());
                    object.insert(name, value.json_within(depth)?);
                }
                Json::Object(object)
            }
            Value::Held(held) => Json::from(held.to_string()),
            other => {
                let name = other.type_of();
                let message = format!("a value of type {} has no JSON form", name.runtime_name());
                return Err(EvaluationError::failed(message));
            }
        })
    }
}
