//! Reading objects: one pass over the body builds the object and checks it against the schema.
//!
//! The same visitor reads JSON text and values that are parsed already (YAML, the results of patches), so that both
//! meet the same rules: unknown and duplicate fields are collected, nulls and empty optional lists and maps go, as a
//! round trip through upstream's types makes them go, quantities and times become canonical.

mod custom;
mod settled;
mod visitor;
mod yaml;

use serde::de::DeserializeSeed as _;
use serde_json::Value;

use crate::custom::Custom;
use crate::kind::Kind;
use visitor::{Seed, State};

pub use yaml::Yaml;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What happens on unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are an error.
    Strict,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// They are dropped silently.
    Ignore,
}

impl FieldValidation {
    /// Reads the query parameter; an empty one means [`FieldValidation::Warn`].
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Strict" => Some(FieldValidation::Strict),
            "Ignore" => Some(FieldValidation::Ignore),
            _ => None,
        }
    }
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, without nulls and unknown fields.
    pub object: Value,
    /// What the client should be told.
    pub warnings: Vec<String>,
}

/// Why a body could not be read; each is a 400 `BadRequest` with the error's words as its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is no JSON or YAML.
    #[error("couldn't get version/kind; json parse error: {message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// The body is of another group or version than the path.
    #[error("the API version in the data ({found}) does not match the expected API version ({expected})")]
    Version {
        /// What the body says.
        found: String,
        /// What the path says.
        expected: String,
    },
    /// A value has a type that the field cannot take, fields are unknown or twice, or the kind is another.
    #[error("{kind} in version {version:?} cannot be handled as a {expected}: {message}")]
    Content {
        /// The body's kind.
        kind: String,
        /// The body's version, without its group.
        version: String,
        /// The kind that the path takes.
        expected: String,
        /// What is wrong.
        message: String,
    },
}

fn content(kind: &Kind, message: String) -> DecodeError {
    DecodeError::Content {
        kind: kind.kind.to_string(),
        version: kind.version.to_string(),
        expected: kind.kind.to_string(),
        message,
    }
}

pub(crate) fn decode(kind: &Kind, raw: &[u8], media: Media, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    if media == Media::Yaml && !raw.trim_ascii_start().starts_with(b"{") {
        let yaml = Yaml::parse(raw).map_err(|message| DecodeError::Syntax { message })?;
        let problem = yaml.problem().filter(|_| mode != FieldValidation::Ignore);
        if let (FieldValidation::Strict, Some(problem)) = (mode, &problem) {
            return Err(content(kind, format!("strict decoding error: {problem}")));
        }
        let mut object = yaml.value;
        let mut warnings = check_shape(kind, &mut object, mode)?;
        warnings.extend(problem);
        return Ok(Decoded { object, warnings });
    }
    if let Some(custom) = kind.custom() {
        let (object, state) = custom::read(raw, custom.schema(), mode);
        let (object, warnings) = finish(kind, state, object, mode)?;
        return Ok(Decoded { object, warnings });
    }
    let mut state = State::new(mode);
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    let read = Seed::new(&mut state, kind.schema())
        .deserialize(&mut deserializer)
        .and_then(|object| deserializer.end().map(|()| object));
    let (object, warnings) = finish(kind, state, read, mode)?;
    Ok(Decoded { object, warnings })
}

pub(crate) use custom::prune_stored;

pub(crate) fn check_shape(kind: &Kind, object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, DecodeError> {
    if let Some(custom) = kind.custom() {
        return check_custom(kind, custom, object, mode, false);
    }
    let mut state = State::new(mode);
    let read = match settled::is_settled(object, kind.schema()) {
        true => Ok(object.take()),
        false => Seed::new(&mut state, kind.schema()).deserialize(object.take()),
    };
    let (checked, warnings) = finish(kind, state, read, mode)?;
    *object = checked;
    Ok(warnings)
}

/// The same check of a configuration for server-side apply, in which a null says something where the schema is a custom one's.
pub(crate) fn check_configuration(
    kind: &Kind,
    object: &mut Value,
    mode: FieldValidation,
) -> Result<Vec<String>, DecodeError> {
    if let Some(custom) = kind.custom() {
        return check_custom(kind, custom, object, mode, true);
    }
    // What a configuration says is its author's as it is written, a zero and an empty map too. Whether it fits its type
    // server-side apply finds.
    let (checked, warnings) = finish(kind, State::new(mode), Ok(object.take()), mode)?;
    *object = checked;
    Ok(warnings)
}

fn check_custom(
    kind: &Kind,
    custom: &Custom,
    object: &mut Value,
    mode: FieldValidation,
    keeps_nulls: bool,
) -> Result<Vec<String>, DecodeError> {
    let state = custom::check(object, custom.schema(), mode, keeps_nulls);
    let (checked, warnings) = finish(kind, state, Ok(object.take()), mode)?;
    *object = checked;
    Ok(warnings)
}

/// Whether the visitor agrees about an object that looks settled.
#[cfg(test)]
pub(crate) fn settles_rightly(kind: &Kind, object: &Value) -> bool {
    let mut state = State::new(FieldValidation::Warn);
    let read = Seed::new(&mut state, kind.schema()).deserialize(object.clone());
    !settled::is_settled(object, kind.schema())
        || read.is_ok_and(|read| read == *object) && state.findings.is_empty() && state.failure.is_none()
}

fn finish(
    kind: &Kind,
    state: State<'_>,
    read: Result<Value, serde_json::Error>,
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), DecodeError> {
    let mut object = match (read, state.failure) {
        (_, Some(message)) => return Err(content(kind, message)),
        (Err(error), None) => return Err(DecodeError::Syntax { message: error.to_string() }),
        (Ok(object), None) => object,
    };
    let Some(fields) = object.as_object_mut() else {
        return Err(DecodeError::Syntax { message: "the body is not an object".to_owned() });
    };
    let expected = kind.api_version();
    let found = fields.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if found.is_empty() {
        fields.insert("apiVersion".to_owned(), Value::from(expected));
    } else if found != expected {
        return Err(DecodeError::Version { found: found.to_owned(), expected });
    }
    match fields.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            fields.insert("kind".to_owned(), Value::from(&*kind.kind));
        }
        found if found != &*kind.kind => {
            let version = kind.version.to_string();
            let package = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
            let message = format!("converting ({version}.{found}) to ({package}.{}): unknown conversion", kind.kind);
            return Err(DecodeError::Content {
                kind: found.to_owned(),
                version,
                expected: kind.kind.to_string(),
                message,
            });
        }
        _ => {}
    }
    match mode {
        FieldValidation::Strict if !state.findings.is_empty() => {
            Err(content(kind, format!("strict decoding error: {}", state.findings.join(", "))))
        }
        _ => Ok((object, state.findings)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::schema::{SchemaRef, Shape};
    use serde_json::json;

    fn read(api_version: &str, kind: &str, body: &str, mode: FieldValidation) -> Result<Decoded, String> {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind(api_version, kind).expect("a built-in kind");
        kind.decode(body.as_bytes(), Media::Json, mode).map_err(|error| error.to_string())
    }

    /// Puts in what is written whatever was set.
    fn complete(value: &mut Value, schema: SchemaRef<'_>) {
        if let (Value::Object(fields), Shape::Object) = (&mut *value, schema.shape()) {
            schema.complete(fields);
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    schema.child(name).into_iter().for_each(|below| complete(value, below));
                }
            }
            Value::Array(items) => {
                for item in items {
                    schema.item().into_iter().for_each(|below| complete(item, below));
                }
            }
            _ => {}
        }
    }

    #[test]
    fn good_objects() {
        let check = |api_version: &str, kind: &str, body: Value, expected: Value| {
            let mut expected = expected;
            expected["apiVersion"] = api_version.into();
            expected["kind"] = kind.into();
            complete(&mut expected, Catalogue::builtin().by_kind(api_version, kind).expect("built in").schema());
            let found = read(api_version, kind, &body.to_string(), FieldValidation::Strict).expect("good");
            assert_eq!(found.object, expected);
            let mut again = found.object.clone();
            let kinds = Catalogue::builtin();
            let checked =
                kinds.by_kind(api_version, kind).expect("built in").check_shape(&mut again, FieldValidation::Strict);
            assert_eq!((checked, again), (Ok(Vec::new()), found.object));
        };
        check(
            "v1",
            "Pod",
            json!({"metadata": {"name": "a", "creationTimestamp": null, "labels": {}, "annotations": {"a": null}},
                   "spec": {"containers": [{"name": "c", "command": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
                            "volumes": [{"name": "v", "emptyDir": {}}, null]}, "status": null}),
            json!({"metadata": {"name": "a", "annotations": {"a": ""}},
                   "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
                            "volumes": [{"name": "v", "emptyDir": {}}, {}]}}),
        );
        check(
            "v1",
            "Secret",
            json!({"data": {"a": "YQ=="}, "stringData": {"b": "c"}}),
            json!({"data": {"a": "YQ=="}, "stringData": {"b": "c"}}),
        );
        check(
            "coordination.k8s.io/v1",
            "Lease",
            json!({"metadata": {"creationTimestamp": "2024-01-02T03:04:05+01:00"}, "spec": {"renewTime": "2024-01-02T03:04:05.5Z"}}),
            json!({"metadata": {"creationTimestamp": "2024-01-02T02:04:05Z"}, "spec": {"renewTime": "2024-01-02T03:04:05.500000Z"}}),
        );
        // What is there by value and zero goes; what a pointer leads to stays.
        check(
            "v1",
            "Pod",
            json!({"metadata": {"name": "a", "generation": 0}, "spec": {"hostNetwork": false, "hostUsers": false,
                "nodeName": "", "priority": 0, "containers": [{"name": "", "tty": false, "env": [{"name": "A", "value": ""}],
                "livenessProbe": {"periodSeconds": 0, "terminationGracePeriodSeconds": 0}}]}}),
            json!({"metadata": {"name": "a"}, "spec": {"hostUsers": false, "priority": 0,
                "containers": [{"name": "", "env": [{"name": "A"}],
                "livenessProbe": {"terminationGracePeriodSeconds": 0}}]}}),
        );
        check(
            "v1",
            "Service",
            json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}]}}),
        );
        check(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "string", "default": null}}, "b": {"additionalProperties": true}}}}}]}}),
            json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "string"}}, "b": {"additionalProperties": true}}}}}]}}),
        );
    }

    #[test]
    fn bad_objects() {
        let check = |api_version: &str, kind: &str, body: &str, expected: &str| {
            let found = read(api_version, kind, body, FieldValidation::Strict).expect_err(body);
            assert_eq!(found, expected, "{body}");
        };
        let deployment =
            |message: &str| format!(r#"Deployment in version "v1" cannot be handled as a Deployment: {message}"#);
        check(
            "apps/v1",
            "Deployment",
            r#"{"spec":{"replicas":"3"}}"#,
            &deployment(
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
        );
        check(
            "apps/v1",
            "Deployment",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"a","value":1}]}]}}}}"#,
            &deployment(
                "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of \
                 type string",
            ),
        );
        check(
            "apps/v1",
            "Deployment",
            r#"{"metadata":{"labels":{"a":true}}}"#,
            &deployment("json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string"),
        );
        check(
            "apps/v1",
            "Deployment",
            r#"{"spec":{"replicas":1,"replicas":2,"foo":1,"template":{"spec":{"containers":[{"nam":"a"}]}}}}"#,
            &deployment(
                "strict decoding error: duplicate field \"spec.replicas\", unknown field \"spec.foo\", unknown field \
                 \"spec.template.spec.containers[0].nam\"",
            ),
        );
        check(
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
        check(
            "v1",
            "Pod",
            r#"{"apiVersion":"apps/v1"}"#,
            "the API version in the data (apps/v1) does not match the expected API version (v1)",
        );
        check(
            "v1",
            "Pod",
            r#"{"kind":"Service"}"#,
            "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown \
             conversion",
        );
        check(
            "v1",
            "Secret",
            r#"{"data":{"a":"b"}}"#,
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0",
        );
        assert!(read("v1", "Pod", "{", FieldValidation::Ignore).expect_err("no JSON").contains("json parse error"));
        assert!(read("v1", "Pod", "[]", FieldValidation::Ignore).is_err());
        assert!(read("v1", "Pod", "null", FieldValidation::Ignore).is_err());
        assert!(read("v1", "Pod", "{} x", FieldValidation::Ignore).is_err());
    }

    #[test]
    fn warns_or_ignores() {
        let body = r#"{"metadata":{"name":"a"},"data":{"x":"y","x":"z"},"dat":1}"#;
        let warned = read("v1", "ConfigMap", body, FieldValidation::Warn).expect("good");
        assert_eq!(warned.warnings, [r#"duplicate field "data.x""#, r#"unknown field "dat""#]);
        assert_eq!(warned.object["data"]["x"], "z");
        let ignored = read("v1", "ConfigMap", body, FieldValidation::Ignore).expect("good");
        assert_eq!((ignored.warnings.len(), ignored.object), (0, warned.object));
    }

    #[test]
    fn reads_yaml() {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind("v1", "Pod").expect("built in");
        let body = "metadata:\n  name: a\n  creationTimestamp: null\nspec:\n  containers:\n  - name: \"1\"\n    tty: true\n    ports:\n    - containerPort: 80\n";
        let read = kind.decode(body.as_bytes(), Media::Yaml, FieldValidation::Strict).expect("good");
        let expected = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "1", "tty": true, "ports": [{"containerPort": 80}], "resources": {}}]},
            "status": {}});
        assert_eq!(read.object, expected);
        let twice = "metadata:\n  name: a\n  name: b\n";
        assert!(kind.decode(twice.as_bytes(), Media::Yaml, FieldValidation::Strict).is_err());
        let lenient = kind.decode(twice.as_bytes(), Media::Yaml, FieldValidation::Ignore).expect("good");
        assert_eq!(lenient.object["metadata"]["name"], "b");
        assert!(kind.decode(b"a: [", Media::Yaml, FieldValidation::Ignore).is_err());
    }
}
