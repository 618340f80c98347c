//! Exchanging documents of JSON with another server, within a time and a size.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rustls::ClientConfig;
use serde_json::Value;

use super::{
    endpoints::Endpoint,
    forward::{ForwardError, Outbound},
};
use crate::body::no_body;

/// Why there is no document. The words are those of Go's client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("parse {url:?}: it is no https URL")]
    Url { url: String },
    #[error("Get {url:?}: {source}")]
    Send { url: String, source: ForwardError },
    #[error("Get {url:?}: context deadline exceeded")]
    Slow { url: String },
    #[error("Get {url:?}: {problem}")]
    Read { url: String, problem: String },
    #[error("Get {url:?}: the answer is longer than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("{code} from {url:?}")]
    Status { url: String, code: u16 },
    #[error("failed to decode what {url:?} answered: {source}")]
    Decode { url: String, source: serde_json::Error },
}

/// Gets a document from an `https` address.
pub(crate) async fn json(
    url: &str,
    client: &Arc<ClientConfig>,
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
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(no_body())
        .map_err(|_| failed())?;
    let outbound = Outbound {
        endpoint: Endpoint { host: host.clone(), port: uri.port_u16().unwrap_or(443) },
        tls: Some((host, Arc::clone(client))),
    };
    let answer = async {
        let response =
            outbound.send(request).await.map_err(|source| FetchError::Send { url: url.to_owned(), source })?;
        if !response.status().is_success() {
            return Err(FetchError::Status { url: url.to_owned(), code: response.status().as_u16() });
        }
        let body = Limited::new(response.into_body(), longest).collect().await.map_err(|error| match error
            .is::<LengthLimitError>(
        ) {
            true => FetchError::TooLong { url: url.to_owned(), limit: longest },
            false => FetchError::Read { url: url.to_owned(), problem: error.to_string() },
        })?;
        serde_json::from_slice(&body.to_bytes()).map_err(|source| FetchError::Decode { url: url.to_owned(), source })
    };
    match tokio::time::timeout(patience, answer).await {
        Ok(outcome) => outcome,
        Err(_) => Err(FetchError::Slow { url: url.to_owned() }),
    }
}
