//! ConfigMap and Secret.

use serde_json::Value;

use super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, text};

/// All values together may have this many bytes.
const LIMIT: usize = 1 << 20;

pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        let path = Path::new(field);
        for (key, value) in entries(object, field) {
            let text = value.as_str().unwrap_or_default();
            size += key.len() + if field == "data" { text.len() } else { text.len() / 4 * 3 };
            invalid(errors, &path.key(key), &Value::from(key), name::config_map_key(key));
            if field == "binaryData" && !object["data"][key].is_null() {
                errors.push(FieldError::invalid(
                    Path::new("data").key(key),
                    key,
                    "duplicate of key present in binaryData",
                ));
            }
        }
    }
    if size > LIMIT {
        errors.push(FieldError::too_long("", LIMIT));
    }
}

pub(super) fn secret(object: &Value, errors: &mut Errors) {
    let data = Path::new("data");
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
        invalid(errors, &data.key(key), &Value::from(key), name::config_map_key(key));
    }
    if size > LIMIT {
        errors.push(FieldError::too_long(data, LIMIT));
    }
    let required: &[&str] = match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let field = "kubernetes.io/service-account.name";
            if object["metadata"]["annotations"][field].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(Path::new("metadata").child("annotations").key(field), ""));
            }
            &[]
        }
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in required {
        if object["data"][key].is_null() {
            errors.push(FieldError::required(data.key(key), ""));
        }
    }
    if text(object, "type") == "kubernetes.io/basic-auth"
        && object["data"]["username"].is_null()
        && object["data"]["password"].is_null()
    {
        errors.push(FieldError::required(data.key("username"), ""));
        errors.push(FieldError::required(data.key("password"), ""));
    }
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    if old["immutable"] == true {
        if object["immutable"] != true {
            errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
        }
        for field in ["data", "binaryData"] {
            if object[field] != old[field] {
                errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
    }
    if !old["type"].is_null() && object["type"] != old["type"] {
        errors.push(FieldError::invalid("type", object["type"].clone(), "field is immutable"));
    }
}
