//! Why a request is not served, in the form that clients see: a `Status`.

use serde_json::{Value, json};

/// A request that is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP code.
    pub code: u16,
    /// The `Status` reason, like `Forbidden`.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    /// The `Status` details, or null.
    pub details: Value,
}

impl Refusal {
    /// 401: the credentials are no good.
    pub fn unauthorized() -> Refusal {
        Refusal { code: 401, reason: "Unauthorized", message: "Unauthorized".to_owned(), details: Value::Null }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal { code: 400, reason: "BadRequest", message: message.into(), details: Value::Null }
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Refusal {
        Refusal {
            code: 500,
            reason: "InternalError",
            message: format!("Internal error occurred: {message}"),
            details: json!({ "causes": [{ "message": message.to_string() }] }),
        }
    }

    /// 403 on an object, or on a kind of objects when `name` is empty: `pods "a" is forbidden: <why>`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl std::fmt::Display) -> Refusal {
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", qualified(group, resource)),
            (false, false) => format!("{} {name:?} is forbidden: {why}", qualified(group, resource)),
        };
        Refusal { code: 403, reason: "Forbidden", message, details: details(group, resource, name) }
    }

    /// 404 on an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Refusal {
        Refusal {
            code: 404,
            reason: "NotFound",
            message: format!("{} {name:?} not found", qualified(group, resource)),
            details: details(group, resource, name),
        }
    }

    /// 422 on an object of a kind, for one field.
    pub fn invalid(group: &str, kind: &str, name: &str, field: &str, reason: &str, problem: &str) -> Refusal {
        let qualified_kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut details = details(group, kind, name);
        details["causes"] = json!([{ "reason": reason, "message": problem, "field": field }]);
        Refusal {
            code: 422,
            reason: "Invalid",
            message: format!("{qualified_kind} {name:?} is invalid: {field}: {problem}"),
            details,
        }
    }

    /// Adds a machine-readable cause.
    pub(crate) fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Refusal {
        let mut cause = json!({ "reason": reason, "message": message });
        if !field.is_empty() {
            cause["field"] = Value::from(field);
        }
        if !self.details.is_object() {
            self.details = json!({});
        }
        match self.details.get_mut("causes").and_then(Value::as_array_mut) {
            Some(causes) => causes.push(cause),
            None => self.details["causes"] = json!([cause]),
        }
        self
    }

    /// The `metav1.Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({});
    for (key, value) in [("group", group), ("kind", kind), ("name", name)] {
        if !value.is_empty() {
            details[key] = Value::from(value);
        }
    }
    details
}
