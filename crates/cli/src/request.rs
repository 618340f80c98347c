//! Single requests to an API server: JSON in, JSON out, with the server's warnings and its Status when it refuses.

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::Status;
use serde_json::Value;

/// The media type of server-side apply. Its body may be JSON, which is YAML.
pub const APPLY: &str = "application/apply-patch+yaml";

/// The media type of JSON patches.
pub const JSON_PATCH: &str = "application/json-patch+json";

/// The media type of merge patches.
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// A good answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its body.
    pub body: Value,
    /// What the server's `Warning` headers say.
    pub warnings: Vec<String>,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server refuses.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// There is no answer.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
    /// The answer is none of an API server.
    #[error("the answer of the API server cannot be read: {0}")]
    Unreadable(String),
}

impl RequestError {
    /// The Status, where the server refused.
    pub fn status(&self) -> Option<&Status> {
        match self {
            RequestError::Refused(status) => Some(status),
            RequestError::Unreachable(_) | RequestError::Unreadable(_) => None,
        }
    }

    /// Whether the server refused with this code.
    pub fn is(&self, code: u16) -> bool {
        self.status().is_some_and(|status| status.code == code)
    }
}

/// The innermost cause, which is what says something: the outer ones repeat it.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Sends a request and reads its answer.
pub async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    content: Option<(&str, Vec<u8>)>,
    accept: &str,
) -> Result<Answer, RequestError> {
    let (bytes, warnings) = raw(client, method, path, content, accept).await?;
    let body = serde_json::from_slice(&bytes).map_err(|error| RequestError::Unreadable(error.to_string()))?;
    Ok(Answer { body, warnings })
}

/// The same, where the body is not looked into.
pub async fn raw(
    client: &kube::Client,
    method: Method,
    path: &str,
    content: Option<(&str, Vec<u8>)>,
    accept: &str,
) -> Result<(Vec<u8>, Vec<String>), RequestError> {
    let mut request = Request::builder().method(method).uri(path).header(http::header::ACCEPT, accept);
    let body = match content {
        Some((media, bytes)) => {
            request = request.header(http::header::CONTENT_TYPE, media);
            Body::from(bytes)
        }
        None => Body::empty(),
    };
    let request = request.body(body).map_err(|error| RequestError::Unreadable(error.to_string()))?;
    let answer = client.send(request).await.map_err(|error| RequestError::Unreachable(root(&error)))?;
    let warnings = answer.headers().get_all(http::header::WARNING).iter();
    let warnings = warnings.filter_map(|value| warning(value.to_str().ok()?)).collect();
    let code = answer.status();
    let bytes = answer.into_body().collect().await.map_err(|error| RequestError::Unreachable(root(&error)))?.to_bytes();
    if code.is_client_error() || code.is_server_error() {
        let status = serde_json::from_slice::<Status>(&bytes).ok().filter(|status| !status.message.is_empty());
        let status = status.unwrap_or_else(|| Status {
            code: code.as_u16(),
            message: format!("the server answers {code} {}", String::from_utf8_lossy(&bytes)),
            ..Status::default()
        });
        return Err(RequestError::Refused(Box::new(Status { code: code.as_u16(), ..status })));
    }
    Ok((bytes.to_vec(), warnings))
}

/// The text of a `Warning` header: `299 - "text"`.
fn warning(header: &str) -> Option<String> {
    let text = header.strip_prefix("299 ")?.split_once(' ')?.1.trim();
    let text = text.strip_prefix('"')?.rsplit_once('"')?.0;
    Some(text.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Reads one object; `None` if it is not there.
pub async fn get(client: &kube::Client, path: &str) -> Result<Option<Value>, RequestError> {
    match send(client, Method::GET, path, None, "application/json").await {
        Ok(answer) => Ok(Some(answer.body)),
        Err(error) if error.is(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes an object.
pub async fn write(
    client: &kube::Client,
    method: Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<Answer, RequestError> {
    send(client, method, path, Some((media, body.to_string().into_bytes())), "application/json").await
}

/// Sends a DELETE with its options.
pub async fn delete(client: &kube::Client, path: &str, options: &Value) -> Result<Answer, RequestError> {
    write(client, Method::DELETE, path, "application/json", options).await
}

/// A text as it may stand in a query.
pub fn query(text: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    percent_encoding::utf8_percent_encode(text, KEPT).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn warnings() {
        let check = |header: &str, expected: Option<&str>| assert_eq!(super::warning(header).as_deref(), expected);
        check(r#"299 - "unknown field \"spec.x\"""#, Some("unknown field \"spec.x\""));
        check(r#"299 kube-apiserver/v1.36 "old""#, Some("old"));
        check("199 - x", None);
    }
}
