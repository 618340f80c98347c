//! The client that calls webhooks: JSON out, JSON back, over TLS, within a time and a size.
//!
//! Connections are kept for each endpoint of each distinct `clientConfig` and used again. A webhook that hangs or floods
//! costs its own callers their time, and the server no more than [`AT_ONCE`] connections and the size that is asked for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use kobune_store::Store;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::destination::{Destination, Place};
use crate::{
    outgoing::{
        endpoints::{self, Endpoint, Port, ResolveError},
        pool::{Pool, pool, problem},
        trust::{Identity, TrustError},
    },
    spans::{self, Fact, Open, Side},
};

/// How many distinct client configurations keep connections; more begin anew. Clusters have some tens.
const CLIENTS: usize = 256;

/// How many calls one webhook may have open. More wait, within their own time.
const AT_ONCE: usize = 256;

/// How much of an error's text is passed on.
const LONGEST_ERROR: usize = 4 << 10;

/// Why a call has no answer. The words are those of upstream's client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("Post {url:?}: {source}")]
    Resolve { url: String, source: ResolveError },
    #[error("{0}")]
    Trust(#[source] TrustError),
    #[error("Post {url:?}: {problem}")]
    Send { url: String, problem: String },
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    #[error("Post {url:?}: the answer is longer than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("{}", status_words(*code, text))]
    Status { code: u16, text: String },
    #[error("{url:?} is no address")]
    Address { url: String },
}

impl CallError {
    /// The HTTP code that stands for the failure: the webhook's own where it gave one.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Status { code, .. } => *code,
            _ => 503,
        }
    }
}

/// What a client says of an answer that is no success and no `Status`.
fn status_words(code: u16, text: &str) -> String {
    match code {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => text.to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned()
        }
        500.. => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    }
}

/// A duration as Go writes whole seconds: `10s`, `1m30s`.
pub(super) fn go_seconds(timeout: Duration) -> String {
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    if seconds >= 60 { format!("{}m{}s", seconds / 60, seconds % 60) } else { format!("{seconds}s") }
}

/// Calls webhooks.
pub(crate) struct WebhookClient {
    store: Arc<dyn Store>,
    identity: Option<Identity>,
    /// By where and whom to trust; the path makes no difference.
    clients: Mutex<HashMap<Destination, Arc<Connections>>>,
}

/// The connections to one destination.
struct Connections {
    client: Pool,
    places: Semaphore,
}

impl WebhookClient {
    /// `identity` is the certificate that is shown to webhooks that ask for one.
    pub(crate) fn new(store: Arc<dyn Store>, identity: Option<Identity>) -> Self {
        Self { store, identity, clients: Mutex::default() }
    }

    /// Posts a JSON body and gives the bytes of the answer, at most `longest` of them. The query is empty or begins with its
    /// question mark.
    pub(crate) async fn post(
        &self,
        destination: &Destination,
        query: &str,
        body: Bytes,
        timeout: Duration,
        longest: usize,
    ) -> Result<Bytes, CallError> {
        let url = format!("https://{}{}{query}", destination.authority(), destination.path);
        let mut span = spans::begin("call webhook", Side::Client);
        let call = self.exchange(destination, query, &url, body, longest, span.as_ref().and_then(Open::header));
        let outcome = match tokio::time::timeout(timeout, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Timeout { url: url.clone() }),
        };
        if let Some(span) = &mut span {
            span.fact("url.full", Fact::Text(url));
            if let Err(error) = &outcome {
                span.failed(error);
            }
        }
        outcome
    }

    async fn exchange(
        &self,
        destination: &Destination,
        query: &str,
        url: &str,
        body: Bytes,
        longest: usize,
        trace: Option<(&'static str, HeaderValue)>,
    ) -> Result<Bytes, CallError> {
        let connections = self.connections(destination)?;
        // The semaphore is never closed, so waiting for it ends with a place.
        let _place = connections.places.acquire().await;
        let endpoint = match &destination.place {
            Place::Service { namespace, name, port } => {
                endpoints::resolve(&*self.store, namespace, name, Port::Number(*port))
                    .await
                    .map_err(|source| CallError::Resolve { url: url.to_owned(), source })?
            }
            Place::Host { host, port } => Endpoint { host: host.clone(), port: *port },
        };
        let address = || CallError::Address { url: url.to_owned() };
        let uri: Uri =
            format!("https://{}{}{query}", endpoint.authority(), destination.path).parse().map_err(|_| address())?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::HOST, HeaderValue::from_str(&destination.authority()).map_err(|_| address())?)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver-admission");
        if let Some((name, value)) = trace {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|_| address())?;
        let response = connections
            .client
            .request(request)
            .await
            .map_err(|error| CallError::Send { url: url.to_owned(), problem: problem(&error) })?;
        let code = response.status();
        let limit = if code.is_success() { longest } else { LONGEST_ERROR };
        let answer = Limited::new(response.into_body(), limit).collect().await;
        match answer {
            Ok(answer) if code.is_success() => Ok(answer.to_bytes()),
            Ok(answer) => Err(refused(code, &answer.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(if code.is_success() {
                CallError::TooLong { url: url.to_owned(), limit }
            } else {
                refused(code, b"")
            }),
            Err(error) => Err(CallError::Send { url: url.to_owned(), problem: error.to_string() }),
        }
    }

    fn connections(&self, destination: &Destination) -> Result<Arc<Connections>, CallError> {
        let key = Destination { path: String::new(), ..destination.clone() };
        if let Some(found) = self.clients.lock().get(&key) {
            return Ok(Arc::clone(found));
        }
        let config = destination.trust.client(self.identity.as_ref()).map_err(CallError::Trust)?;
        let client = pool(Some((destination.server_name().into(), Arc::new(config))));
        let made = Arc::new(Connections { client, places: Semaphore::new(AT_ONCE) });
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS {
            // Those in use come back with the next calls.
            clients.clear();
        }
        Ok(Arc::clone(clients.entry(key).or_insert(made)))
    }
}

/// An answer that is no success: a `Status` speaks for itself.
fn refused(code: StatusCode, body: &[u8]) -> CallError {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(status) if status["kind"] == "Status" => status["message"].as_str().unwrap_or_default().to_owned(),
        _ => String::from_utf8_lossy(body).trim().to_owned(),
    };
    CallError::Status { code: code.as_u16(), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_go_writes_them() {
        assert_eq!(go_seconds(Duration::from_secs(10)), "10s");
        assert_eq!(go_seconds(Duration::from_millis(9001)), "10s");
        assert_eq!(go_seconds(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn refusals_in_upstreams_words() {
        let check = |code: u16, body: &str, expected: &str| {
            let error = refused(StatusCode::from_u16(code).expect("a code"), body.as_bytes());
            assert_eq!((error.code(), error.to_string().as_str()), (code, expected));
        };
        check(404, "404 page not found\n", "the server could not find the requested resource");
        check(500, "boom\n", "an error on the server (\"boom\") has prevented the request from succeeding");
        check(403, r#"{"kind":"Status","message":"no entry"}"#, "no entry");
    }
}
