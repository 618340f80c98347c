//! ConfigMap and Secret.

use base64::Engine as _;
use serde_json::Value;

use super::{Errors, immutable, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, text};

/// All values together may have this many bytes.
const LIMIT: usize = 1 << 20;

const LOCKED: &str = "field is immutable when `immutable` is set";

/// The number of bytes that base64 text stands for.
fn decoded(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        let path = Path::new(field);
        for (key, value) in entries(object, field) {
            let text = value.as_str().unwrap_or_default();
            size += if field == "data" { text.len() } else { decoded(text) };
            invalid_key(key, &path, errors);
            if field == "data" && !object["binaryData"][key].is_null() {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(path.key(key), key, detail));
            }
        }
    }
    if size > LIMIT {
        errors.push(FieldError::too_long("", LIMIT));
    }
}

fn invalid_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = name::config_map_key(key);
    if !wrong.is_empty() {
        invalid(errors, &path.key(key), &Value::from(key), wrong);
    }
}

pub(super) fn secret(object: &Value, errors: &mut Errors) {
    let data = Path::new("data");
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        size += value.as_str().map_or(0, decoded);
        invalid_key(key, &data, errors);
    }
    if size > LIMIT {
        errors.push(FieldError::too_long(data, LIMIT));
    }
    let has = |key: &str| !object["data"][key].is_null();
    let mut needs = |key: &str| errors.push(FieldError::required(data.key(key), ""));
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let field = "kubernetes.io/service-account.name";
            if object["metadata"]["annotations"][field].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(Path::new("metadata").child("annotations").key(field), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(object, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker(object, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            needs("username");
            needs("password");
        }
        "kubernetes.io/ssh-auth" if object["data"]["ssh-privatekey"].as_str().unwrap_or_default().is_empty() => {
            needs("ssh-privatekey");
        }
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)).for_each(needs),
        _ => {}
    }
}

/// Credentials for registries have to be a JSON object.
fn docker(object: &Value, key: &str, errors: &mut Errors) {
    let path = Path::new("data");
    let Some(text) = object["data"][key].as_str() else {
        errors.push(FieldError::required(path.key(key), ""));
        return;
    };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let detail = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(_) => "json: cannot unmarshal value into Go value of type map[string]interface {}".to_owned(),
        Err(_) if bytes.is_empty() => "unexpected end of JSON input".to_owned(),
        Err(error) => error.to_string(),
    };
    errors.push(FieldError::invalid(path.key(key), "<secret contents redacted>", detail));
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    if old["immutable"] == true {
        if object["immutable"] != true {
            errors.push(FieldError::forbidden("immutable", LOCKED));
        }
        for field in ["data", "binaryData"] {
            if object[field] != old[field] {
                errors.push(FieldError::forbidden(field, LOCKED));
            }
        }
    }
}

/// The type of a secret stays what it was.
pub(super) fn secret_type(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(errors, "type", &object["type"], &old["type"]);
}
