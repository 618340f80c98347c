//! Posting documents of JSON to the one server that a kubeconfig leads to, over connections that are kept.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use super::{
    kubeconfig::Remote,
    pool::{Pool, pool, problem},
};

/// Why a document was not taken. The words are those of Go's client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("Post {url:?}: {problem}")]
    Send { url: String, problem: String, connects: bool },
    #[error("Post {url:?}: context deadline exceeded")]
    Slow { url: String },
    #[error("Post {url:?}: the answer is longer than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("{code} from {url:?}")]
    Status { url: String, code: u16 },
}

impl PostError {
    /// Whether asking again at once may help, as upstream's webhooks see it (`webhook.DefaultShouldRetry`): a server that
    /// cannot be reached, or that took all the time there was, is not asked again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Send { connects, .. } => !connects,
            Self::Status { code, .. } => matches!(code, 429 | 500 | 504),
            Self::Slow { .. } | Self::TooLong { .. } => false,
        }
    }
}

/// A server that takes documents.
pub(crate) struct Poster {
    remote: Remote,
    pool: Pool,
}

impl std::fmt::Debug for Poster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Poster").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Poster {
    /// A client of the server.
    pub(crate) fn new(remote: Remote) -> Poster {
        let host = remote.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let tls = (remote.uri.scheme_str() == Some("https")).then(|| (Arc::from(host), Arc::clone(&remote.client)));
        let pool = pool(tls);
        Poster { remote, pool }
    }

    /// Where documents are posted.
    pub(crate) fn url(&self) -> &str {
        &self.remote.url
    }

    /// Posts a document and gives the bytes of the answer, at most `longest` of them.
    pub(crate) async fn post(&self, body: Bytes, patience: Duration, longest: usize) -> Result<Bytes, PostError> {
        let url = || self.remote.url.clone();
        // Dropping the exchange closes its connection; the server has then taken the document or not.
        match tokio::time::timeout(patience, self.exchange(body, longest)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PostError::Slow { url: url() }),
        }
    }

    async fn exchange(&self, body: Bytes, longest: usize) -> Result<Bytes, PostError> {
        let url = || self.remote.url.clone();
        let failed = |problem: String, connects| PostError::Send { url: url(), problem, connects };
        let mut request = Request::post(self.remote.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json");
        if let Some(authority) = self.remote.uri.authority() {
            request = request.header(header::HOST, authority.as_str());
        }
        if let Some(token) = &self.remote.bearer {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| failed(error.to_string(), true))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(error.to_string(), true))?;
        let response = self.pool.request(request).await.map_err(|error| failed(problem(&error), error.is_connect()))?;
        if !response.status().is_success() {
            return Err(PostError::Status { url: url(), code: response.status().as_u16() });
        }
        let body = Limited::new(response.into_body(), longest).collect().await.map_err(|error| match error
            .is::<LengthLimitError>(
        ) {
            true => PostError::TooLong { url: url(), limit: longest },
            false => failed(error.to_string(), false),
        })?;
        Ok(body.to_bytes())
    }
}
