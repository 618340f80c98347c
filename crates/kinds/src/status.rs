//! `metav1.Status`: the answers that are not objects, with upstream's reasons, codes and words.

use serde_json::{Map, Value, json};

use crate::field_error::FieldError;

/// A Status in the making: code, reason and words, and what belongs into `details`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine's word, such as `NotFound`; empty for none.
    pub reason: &'static str,
    /// The words for people.
    pub message: String,
    details: Map<String, Value>,
}

/// The HTTP status code and the Status object that go over the wire.
pub type Answer = (u16, Value);

impl Status {
    /// A failure with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: Map::new() }
    }

    /// Names the resource (or kind) and object that it is about; `group_resource` is `pods` or `deployments.apps`.
    pub fn about(mut self, group_resource: &str, name: &str) -> Status {
        let (resource, group) = group_resource.split_once('.').unwrap_or((group_resource, ""));
        for (key, value) in [("name", name), ("group", group), ("kind", resource)] {
            if !value.is_empty() {
                self.details.insert(key.to_owned(), Value::from(value));
            }
        }
        self
    }

    /// Adds one cause.
    pub fn cause(mut self, reason: &str, message: &str, field: &str) -> Status {
        let mut cause = Map::new();
        for (key, value) in [("reason", reason), ("message", message), ("field", field)] {
            if !value.is_empty() {
                cause.insert(key.to_owned(), Value::from(value));
            }
        }
        if let Value::Array(causes) = self.details.entry("causes").or_insert_with(|| Value::Array(Vec::new())) {
            causes.push(Value::Object(cause));
        }
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, seconds: u32) -> Status {
        self.details.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
        self
    }

    /// The code and the object.
    pub fn answer(self) -> Answer {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = Value::from(self.reason);
        }
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details);
        }
        (self.code, status)
    }
}

/// 404: `pods "a" not found`.
pub fn not_found(group_resource: &str, name: &str) -> Answer {
    let message = format!("{group_resource} {name:?} not found");
    Status::new(404, "NotFound", message).about(group_resource, name).answer()
}

/// 404 for a path that leads nowhere.
pub fn unknown_path() -> Answer {
    Status::new(404, "NotFound", "the server could not find the requested resource").answer()
}

/// 409: `pods "a" already exists`.
pub fn already_exists(group_resource: &str, name: &str) -> Answer {
    let message = format!("{group_resource} {name:?} already exists");
    Status::new(409, "AlreadyExists", message).about(group_resource, name).answer()
}

/// 409: an update of something that has changed, or that may not change now.
pub fn conflict(group_resource: &str, name: &str, why: &str) -> Answer {
    let message = format!("Operation cannot be fulfilled on {group_resource} {name:?}: {why}");
    Status::new(409, "Conflict", message).about(group_resource, name).answer()
}

/// 409: the update was made from an older state than the stored one.
pub fn modified(group_resource: &str, name: &str) -> Answer {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    conflict(group_resource, name, why)
}

/// 409: server-side apply met fields of other managers. Each conflict is the other manager, described as upstream does
/// (`"kubectl" using apps/v1`), and the field's path (`.spec.replicas`).
pub fn apply_conflict<'a>(conflicts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Answer {
    let conflicts: Vec<(&str, &str)> = conflicts.into_iter().collect();
    let message = match conflicts.as_slice() {
        [(manager, field)] => format!("Apply failed with 1 conflict: conflict with {manager}: {field}"),
        several => {
            let mut managers: Vec<&str> = several.iter().map(|(manager, _)| *manager).collect();
            managers.sort_unstable();
            managers.dedup();
            let mut lines = Vec::new();
            for manager in managers {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(
                    several.iter().filter(|(other, _)| *other == manager).map(|(_, field)| format!("- {field}")),
                );
            }
            format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    conflicts
        .into_iter()
        .fold(Status::new(409, "Conflict", message), |status, (manager, field)| {
            status.cause("FieldManagerConflict", &format!("conflict with {manager}"), field)
        })
        .answer()
}

/// 422: `Pod "a" is invalid: ...`; `group_kind` is `Pod` or `Deployment.apps`.
pub fn invalid(group_kind: &str, name: &str, errors: &[FieldError]) -> Answer {
    let mut said: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push(text);
        }
    }
    let words = match said.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let message = format!("{group_kind} {name:?} is invalid: {words}");
    errors
        .iter()
        .fold(Status::new(422, "Invalid", message).about(group_kind, name), |status, error| {
            status.cause(error.kind.reason(), &error.body(), &error.field)
        })
        .answer()
}

/// 403: `pods "a" is forbidden: why`.
pub fn forbidden(group_resource: &str, name: &str, why: &str) -> Answer {
    let message = match (group_resource, name) {
        ("", "") => format!("forbidden: {why}"),
        (_, "") => format!("{group_resource} is forbidden: {why}"),
        _ => format!("{group_resource} {name:?} is forbidden: {why}"),
    };
    Status::new(403, "Forbidden", message).about(group_resource, name).answer()
}

/// 400.
pub fn bad_request(message: impl Into<String>) -> Answer {
    Status::new(400, "BadRequest", message).answer()
}

/// 401.
pub fn unauthorized() -> Answer {
    Status::new(401, "Unauthorized", "Unauthorized").answer()
}

/// 405.
pub fn method_not_supported(group_resource: &str, action: &str) -> Answer {
    let message = format!("{action} is not supported on resources of kind {group_resource:?}");
    Status::new(405, "MethodNotAllowed", message).about(group_resource, "").answer()
}

/// 405 for a path that exists but not with this HTTP method.
pub fn method_not_allowed() -> Answer {
    Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").answer()
}

/// 406: none of the media types that the client accepts can be written.
pub fn not_acceptable(supported: &[&str]) -> Answer {
    let message = format!("only the following media types are accepted: {}", supported.join(", "));
    Status::new(406, "NotAcceptable", message).answer()
}

/// 410: the revision is older than what is kept.
pub fn expired(message: impl Into<String>) -> Answer {
    Status::new(410, "Expired", message).answer()
}

/// 413.
pub fn too_large(message: impl Into<String>) -> Answer {
    Status::new(413, "RequestEntityTooLarge", message).answer()
}

/// 415: the body is of a media type that is not understood.
pub fn unsupported_media_type(supported: &[&str]) -> Answer {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        supported.join(", ")
    );
    Status::new(415, "UnsupportedMediaType", message).answer()
}

/// 429, also for evictions that a disruption budget refuses.
pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Answer {
    let status = Status::new(429, "TooManyRequests", message);
    if retry_after_seconds == 0 { status.answer() } else { status.retry_after(retry_after_seconds).answer() }
}

/// 500.
pub fn internal_error(message: impl std::fmt::Display) -> Answer {
    let text = message.to_string();
    Status::new(500, "InternalError", format!("Internal error occurred: {text}")).cause("", &text, "").answer()
}

/// 503.
pub fn service_unavailable(message: impl Into<String>) -> Answer {
    Status::new(503, "ServiceUnavailable", message).answer()
}

/// 504: `Timeout: message`.
pub fn timeout(message: impl std::fmt::Display, retry_after_seconds: u32) -> Answer {
    Status::new(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_after_seconds).answer()
}

/// 200 after a deletion that left nothing behind.
pub fn deleted(group_resource: &str, name: &str, uid: &str) -> Answer {
    let (resource, group) = group_resource.split_once('.').unwrap_or((group_resource, ""));
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", resource), ("uid", uid)] {
        if !value.is_empty() {
            details.insert(key.to_owned(), Value::from(value));
        }
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    (200, status)
}

/// A success without an object, such as the answer to a binding or an eviction (201).
pub fn success(code: u16) -> Answer {
    (code, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_upstream() {
        let check = |answer: Answer, code: u16, reason: &str, message: &str| {
            assert_eq!((answer.0, answer.1["code"].as_u64()), (code, Some(u64::from(code))));
            assert_eq!(answer.1["reason"], reason);
            assert_eq!(answer.1["message"], message);
        };
        check(not_found("pods", "a"), 404, "NotFound", r#"pods "a" not found"#);
        check(already_exists("deployments.apps", "a"), 409, "AlreadyExists", r#"deployments.apps "a" already exists"#);
        check(
            modified("pods", "a"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; \
             please apply your changes to the latest version and try again",
        );
        let errors = [FieldError::required("spec.a", ""), FieldError::invalid("spec.b", 1, "too small")];
        check(
            invalid("Deployment.apps", "a", &errors),
            422,
            "Invalid",
            r#"Deployment.apps "a" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: too small]"#,
        );
        check(forbidden("pods", "", "no"), 403, "Forbidden", "pods is forbidden: no");
    }

    #[test]
    fn details_name_the_object() {
        let (_, status) = invalid("Deployment.apps", "a", &[FieldError::required("spec.a", "")]);
        let causes = json!([{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"}]);
        assert_eq!(status["details"], json!({"name": "a", "group": "apps", "kind": "Deployment", "causes": causes}));
    }
}
