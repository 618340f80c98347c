//! Answers: objects, statuses and documents to responses.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use kobune_kinds::{Kind, protobuf};
use kobune_store::Record;
use serde_json::{Map, Value, json};

use crate::{
    Body,
    accept::{Accept, Encoding, Form},
    error::{Answer, ApiError},
    list, table,
};

/// An object on its way out.
#[derive(Clone, Debug)]
pub(crate) enum Produced {
    /// The bytes of the store, which are copied as they are where the client takes JSON.
    Stored(Record),
    /// An object that was never stored, or not in this form: dry runs, scales, reviews.
    Object(Value),
}

/// What a verb answers.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// The HTTP status.
    pub code: StatusCode,
    /// The object.
    pub produced: Produced,
    /// What the client should be told.
    pub warnings: Vec<String>,
}

impl Made {
    pub(crate) fn ok(produced: Produced) -> Self {
        Self { code: StatusCode::OK, produced, warnings: Vec::new() }
    }

    pub(crate) fn created(produced: Produced) -> Self {
        Self { code: StatusCode::CREATED, produced, warnings: Vec::new() }
    }

    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }
}

/// An outcome with the warnings of how its request was written: a client hears them whether or not it gets what it asked for.
pub(crate) fn warned(outcome: Answer<Made>, warnings: Vec<String>) -> Answer<Made> {
    match outcome {
        Ok(made) => Ok(made.with_warnings(warnings)),
        Err(error) => Err(error.with_warnings(warnings)),
    }
}

/// The `Status` of a success that has no object to show.
pub(crate) fn success(kind: &Kind, name: &str, uid: Option<&str>) -> Value {
    let mut details = Map::new();
    details.insert("name".into(), name.into());
    if !kind.group.is_empty() {
        details.insert("group".into(), (*kind.group).into());
    }
    details.insert("kind".into(), (*kind.plural).into());
    if let Some(uid) = uid {
        details.insert("uid".into(), uid.into());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The stored object as a value of the kind that is asked for. One that a webhook has to convert has been converted.
pub(crate) fn parse(kind: &Kind, record: &Record) -> Answer<Value> {
    if kind.needs_conversion(&record.value) {
        let words = format!("the stored object {} was not converted to {}", record.key, kind.api_version());
        return Err(ApiError::internal_words(&words));
    }
    let mut object: Value = serde_json::from_slice(&record.value)
        .map_err(|error| ApiError::internal_words(&format!("the stored object {} is damaged: {error}", record.key)))?;
    kind.from_storage(&mut object);
    Ok(object)
}

/// The bytes of a stored object as the kind that is asked for shows them; a copy of a reference where nothing differs.
pub(crate) fn shown(kind: &Kind, record: &Record) -> Answer<Bytes> {
    if kind.shows_as_stored(&record.value, record.revision.0) {
        return Ok(record.value.clone());
    }
    Ok(Bytes::from(parse(kind, record)?.to_string()))
}

/// Adds a warning before those that are there.
pub(crate) fn begin_warnings(headers: &mut HeaderMap, warning: &str) {
    let later: Vec<HeaderValue> = headers.get_all(header::WARNING).iter().cloned().collect();
    headers.remove(header::WARNING);
    add_warnings(headers, &[warning.to_owned()]);
    for value in later {
        headers.append(header::WARNING, value);
    }
}

/// Adds the `Warning` headers of RFC 7234, code 299.
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings {
        let mut text = String::with_capacity(warning.len() + 10);
        text.push_str("299 - \"");
        for character in warning.chars() {
            match character {
                '"' | '\\' => {
                    text.push('\\');
                    text.push(character);
                }
                character if character.is_control() => text.push(' '),
                character => text.push(character),
            }
        }
        text.push('"');
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const PROTOBUF: HeaderValue = HeaderValue::from_static(protobuf::MEDIA);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// A response with a body of JSON.
pub(crate) fn json_body(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_CACHE);
    response
}

/// A response with a body of protobuf.
pub(crate) fn protobuf_body(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = json_body(code, body);
    response.headers_mut().insert(header::CONTENT_TYPE, PROTOBUF);
    response
}

/// A value in the encoding that the client asked for.
pub(crate) fn value(code: StatusCode, object: &Value, accept: Accept) -> Answer<Response<Body>> {
    let mut response = match accept.encoding {
        Encoding::Json if accept.pretty => {
            let mut text = serde_json::to_string_pretty(object).map_err(|error| ApiError::internal(&error))?;
            text.push('\n');
            json_body(code, Body::full(text))
        }
        Encoding::Json => json_body(code, Body::full(object.to_string())),
        Encoding::Protobuf => {
            let mut out = Vec::new();
            protobuf::value(&mut out, object).map_err(|error| ApiError::internal(&error))?;
            protobuf_body(code, Body::full(out))
        }
        Encoding::Yaml => {
            let text = serde_saphyr::to_string(object).map_err(|error| ApiError::internal(&error))?;
            let mut response = json_body(code, Body::full(text));
            response.headers_mut().insert(header::CONTENT_TYPE, YAML);
            response
        }
    };
    if accept.form == Form::AggregatedDiscovery {
        let value = HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    Ok(response)
}

/// A stored object as protobuf, with its envelope.
pub(crate) fn write_protobuf(out: &mut Vec<u8>, kind: &Kind, accept: Accept, record: &Record) -> Answer<()> {
    let written = match accept.form {
        Form::Partial => protobuf::partial(out, accept.meta_version, &record.value),
        _ => protobuf::object(out, &kind.api_version(), &kind.kind, kind.schema(), &shown(kind, record)?),
    };
    written.map_err(|error| {
        ApiError::internal_words(&format!("the stored object {} has no protobuf form: {error}", record.key))
    })
}

/// What a verb made, in the form and encoding that the client asked for.
pub(crate) fn made(kind: &Arc<Kind>, made: Made, accept: Accept, include: table::Include) -> Answer<Response<Body>> {
    let plain = accept.form == Form::Object && accept.encoding == Encoding::Json && !accept.pretty;
    let mut response = match &made.produced {
        Produced::Stored(record) if plain => json_body(made.code, Body::full(shown(kind, record)?)),
        Produced::Stored(record) if accept.encoding == Encoding::Protobuf => {
            let mut out = Vec::with_capacity(record.value.len());
            write_protobuf(&mut out, kind, accept, record)?;
            protobuf_body(made.code, Body::full(out))
        }
        produced => {
            let object = match produced {
                // Metadata is the same in every version.
                Produced::Stored(record) if accept.form == Form::Partial => {
                    let mut out = Vec::with_capacity(record.value.len());
                    list::write_partial(&mut out, record, accept.meta_version)?;
                    serde_json::from_slice(&out).map_err(|error| ApiError::internal(&error))?
                }
                Produced::Stored(record) => parse(kind, record)?,
                Produced::Object(object) => object.clone(),
            };
            let is_status = object.get("kind").and_then(Value::as_str) == Some("Status");
            let object = match accept.form {
                Form::Table if !is_status => table::of_one(kind, &object, include, accept.meta_version),
                Form::Partial if !is_status => partial(&object, accept.meta_version),
                _ => object,
            };
            value(made.code, &object, accept)?
        }
    };
    add_warnings(response.headers_mut(), &made.warnings);
    Ok(response)
}

/// Only the metadata of an object.
pub(crate) fn partial(object: &Value, meta_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": meta_version,
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
