//! Exchanging documents of JSON with another server, within a time and a size.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header, request::Builder};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use rustls::ClientConfig;
use serde_json::Value;

use super::{
    endpoints::Endpoint,
    forward::{ForwardError, Outbound},
};
use crate::body::{RequestBody, no_body, request_body};

/// Why there is no document. The words are those of Go's client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("parse {url:?}: it is no https URL")]
    Url { url: String },
    #[error("{method} {url:?}: {source}")]
    Send { method: &'static str, url: String, source: ForwardError },
    #[error("{method} {url:?}: context deadline exceeded")]
    Slow { method: &'static str, url: String },
    #[error("{method} {url:?}: {problem}")]
    Read { method: &'static str, url: String, problem: String },
    #[error("{method} {url:?}: the answer is longer than {limit} bytes")]
    TooLong { method: &'static str, url: String, limit: usize },
    #[error("{code} from {url:?}")]
    Status { url: String, code: u16 },
    #[error("failed to decode what {url:?} answered: {source}")]
    Decode { url: String, source: serde_json::Error },
}

impl FetchError {
    /// Whether asking again may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Send { .. } | Self::Slow { .. } | Self::Read { .. } => true,
            Self::Status { code, .. } => *code == 429 || *code >= 500,
            Self::Url { .. } | Self::TooLong { .. } | Self::Decode { .. } => false,
        }
    }
}

/// Gets a document from an `https` address.
pub(crate) async fn json(
    url: &str,
    client: &Arc<ClientConfig>,
    patience: Duration,
    longest: usize,
) -> Result<Value, FetchError> {
    exchange(("Get", url), client, Request::get("/"), no_body(), patience, longest).await
}

/// Posts a document to an `https` address, and reads what comes back.
pub(crate) async fn post(
    url: &str,
    client: &Arc<ClientConfig>,
    bearer: Option<&str>,
    body: String,
    patience: Duration,
    longest: usize,
) -> Result<Value, FetchError> {
    let mut request = Request::post("/").header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    exchange(("Post", url), client, request, request_body(Full::new(Bytes::from(body))), patience, longest).await
}

/// Does what a verb, as Go's client calls it, does at an address.
async fn exchange(
    (method, url): (&'static str, &str),
    client: &Arc<ClientConfig>,
    request: Builder,
    body: RequestBody,
    patience: Duration,
    longest: usize,
) -> Result<Value, FetchError> {
    let failed = || FetchError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| failed())?;
    if uri.scheme_str() != Some("https") {
        return Err(failed());
    }
    let host = uri.host().ok_or_else(failed)?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let authority = HeaderValue::from_str(uri.authority().ok_or_else(failed)?.as_str()).map_err(|_| failed())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = request
        .uri(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(body)
        .map_err(|_| failed())?;
    let outbound = Outbound {
        endpoint: Endpoint { host: host.clone(), port: uri.port_u16().unwrap_or(443) },
        tls: Some((host, Arc::clone(client))),
    };
    let answer = async {
        let response =
            outbound.send(request).await.map_err(|source| FetchError::Send { method, url: url.to_owned(), source })?;
        if !response.status().is_success() {
            return Err(FetchError::Status { url: url.to_owned(), code: response.status().as_u16() });
        }
        let body = Limited::new(response.into_body(), longest).collect().await.map_err(|error| match error
            .is::<LengthLimitError>(
        ) {
            true => FetchError::TooLong { method, url: url.to_owned(), limit: longest },
            false => FetchError::Read { method, url: url.to_owned(), problem: error.to_string() },
        })?;
        serde_json::from_slice(&body.to_bytes()).map_err(|source| FetchError::Decode { url: url.to_owned(), source })
    };
    match tokio::time::timeout(patience, answer).await {
        Ok(outcome) => outcome,
        Err(_) => Err(FetchError::Slow { method, url: url.to_owned() }),
    }
}
