//! Everything that can go wrong with a request, and the `metav1.Status` that says so.

use std::borrow::Cow;

use http::{Response, StatusCode, header};
use kobune_kinds::{FieldError, Kind};
use kobune_store::{CommitError, StoreError};
use serde_json::{Map, Value, json};

use crate::{
    Body,
    accept::{self, Accept},
    respond,
};

/// An answer that is not what the client asked for.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    code: u16,
    /// One of upstream's, or what a webhook gives as its own; empty for none.
    reason: Cow<'static, str>,
    message: String,
    details: Map<String, Value>,
    /// The continue token of an expired list, which upstream puts into the list metadata.
    continuation: Option<String>,
    retry_after: Option<u32>,
    warnings: Vec<String>,
}

/// The result of a step on the road.
pub(crate) type Answer<T> = Result<T, ApiError>;

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

/// `deployments.apps`, or `pods` for the core.
pub(crate) fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn qualified_of(kind: &Kind) -> String {
    qualified(&kind.group, &kind.plural)
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            code,
            reason: reason.into(),
            message: message.into(),
            details: Map::new(),
            continuation: None,
            retry_after: None,
            warnings: Vec::new(),
        }))
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = &mut self.0.details;
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        if !kind.is_empty() {
            details.insert("kind".into(), kind.into());
        }
        self
    }

    /// The `details` as somebody else made them; anything but an object is none.
    pub(crate) fn with_details(mut self, details: Value) -> Self {
        if let Value::Object(details) = details {
            self.0.details = details;
        }
        self
    }

    fn causes(mut self, causes: Vec<Value>) -> Self {
        if !causes.is_empty() {
            self.0.details.insert("causes".into(), Value::Array(causes));
        }
        self
    }

    /// Seconds after which the client should try again, as a header and in the details.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after = Some(seconds);
        self.0.details.insert("retryAfterSeconds".into(), seconds.into());
        self
    }

    /// Warnings that are sent beside the error.
    /// Puts warnings before those that it has.
    pub(crate) fn with_warnings(mut self, mut warnings: Vec<String>) -> Self {
        warnings.append(&mut self.0.warnings);
        self.0.warnings = warnings;
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::not_found_named(&kind.group, &kind.plural, name)
    }

    pub(crate) fn not_found_named(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, resource)))
            .about(group, resource, name)
    }

    /// Nothing is served at this path.
    pub(crate) fn no_such_path() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error
            .0
            .details
            .insert("causes".into(), json!([{"reason": "UnexpectedServerResponse", "message": "404 page not found"}]));
        error
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// Nothing is created any more when the definition is on its way out.
    pub(crate) fn terminating(verb: &str) -> Self {
        let message = format!("{verb} not allowed while custom resource definition is terminating");
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(crate) fn not_acceptable(offer: accept::Offer) -> Self {
        let offered = offer.media_types();
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {offered}"))
    }

    pub(crate) fn unsupported_media_type(offered: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {offered}"),
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified_of(kind))).about(
            &kind.group,
            &kind.plural,
            name,
        )
    }

    /// The name is taken by an object that is on its way out.
    pub(crate) fn being_deleted(kind: &Kind, name: &str) -> Self {
        let mut error = Self::already_exists(kind, name);
        error.0.message = format!("object is being deleted: {}", error.0.message);
        error
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, message: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} \"{name}\": {message}", qualified_of(kind)),
        )
        .about(&kind.group, &kind.plural, name)
    }

    /// The write was made against a state that is no longer current.
    pub(crate) fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// An apply that would take fields from other managers; causes name the fields.
    pub(crate) fn apply_conflict(message: String, causes: Vec<(String, String)>) -> Self {
        let causes = causes
            .into_iter()
            .map(|(field, message)| json!({"reason": "FieldManagerConflict", "message": message, "field": field}))
            .collect();
        Self::new(409, "Conflict", message).causes(causes)
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// A list whose snapshot is gone; the token goes on from where it was, in the newest state.
    pub(crate) fn expired_list(continuation: Option<String>) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                       without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
                       results. Continuing with the provided token results in an inconsistent list - objects that were created, \
                       modified, or deleted between the time the first chunk was returned and now may show up in the list.";
        let mut error = Self::new(410, "Expired", message);
        error.0.continuation = continuation;
        error
    }

    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_kind(&kind.group, &kind.kind, name, errors)
    }

    pub(crate) fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut words: Vec<String> = Vec::with_capacity(errors.len());
        for error in errors {
            let text = error.to_string();
            if !words.contains(&text) {
                words.push(text);
            }
        }
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let list = if words.len() == 1 { words.remove(0) } else { format!("[{}]", words.join(", ")) };
        let causes = errors
            .iter()
            .map(|error| json!({"reason": error.kind.reason(), "message": error.body(), "field": error.field}))
            .collect();
        Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {list}"))
            .about(group, kind, name)
            .causes(causes)
    }

    /// The same where upstream knows no object to name: `"" is invalid: ...`.
    pub(crate) fn nameless(errors: &[FieldError]) -> Self {
        Self::invalid_kind("", "", "", errors)
    }

    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::internal_words(&text)
    }

    pub(crate) fn internal_words(text: &str) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {text}"))
            .causes(vec![json!({"message": text})])
    }

    pub(crate) fn too_many_requests() -> Self {
        Self::new(429, "TooManyRequests", "Too many requests, please try again later.").retry_after(1)
    }

    /// The request as a whole took too long.
    pub(crate) fn out_of_time() -> Self {
        Self::new(504, "Timeout", "Timeout: request did not complete within requested timeout")
    }

    pub(crate) fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The client asks for a revision that has not been reached.
    pub(crate) fn revision_too_large(asked: u64, current: u64) -> Self {
        Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"))
            .causes(vec![json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"})])
            .retry_after(1)
    }

    /// The cluster behind the store does not answer; it may in a moment.
    fn no_store(cause: &kobune_store::Cause) -> Self {
        Self::service_unavailable(format!("the store does not answer: {cause}")).retry_after(1)
    }

    /// A read of the store failed.
    pub(crate) fn from_store(error: &StoreError) -> Self {
        match error {
            StoreError::Expired { .. } => Self::expired_list(None),
            StoreError::Unavailable { source } => Self::no_store(source),
            other => Self::internal(other),
        }
    }

    /// A write that the store did not take, other than for a conflict that is tried again.
    pub(crate) fn from_commit(kind: &Kind, name: &str, error: &CommitError) -> Self {
        match error {
            CommitError::Exists(_) => Self::already_exists(kind, name),
            CommitError::Conflict { current: Some(_) } => Self::stale(kind, name),
            CommitError::Conflict { current: None } => Self::not_found(kind, name),
            CommitError::Closed => Self::service_unavailable("the server is shutting down"),
            CommitError::Unavailable { source } => Self::no_store(source),
            other => Self::internal(other),
        }
    }

    /// The HTTP status.
    pub(crate) fn code(&self) -> u16 {
        self.0.code
    }

    /// The `Status` object.
    pub(crate) fn to_status(&self) -> Value {
        let failure = &self.0;
        let mut metadata = Map::new();
        if let Some(token) = &failure.continuation {
            metadata.insert("continue".into(), token.as_str().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": failure.message, "code": failure.code,
        });
        if !failure.reason.is_empty() {
            status["reason"] = (*failure.reason).into();
        }
        if !failure.details.is_empty() {
            status["details"] = Value::Object(failure.details.clone());
        }
        status
    }

    /// The response that carries the `Status`, in the encoding that the client asked for.
    pub(crate) fn into_response(self, accept: Accept) -> Response<Body> {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let status = self.to_status();
        let mut response = respond::value(code, &status, accept).unwrap_or_else(|error| {
            tracing::error!(%error, "a status could not be written as the client asks");
            respond::json_body(code, Body::full(status.to_string()))
        });
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        respond::add_warnings(headers, &self.0.warnings);
        response
    }
}
