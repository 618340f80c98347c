//! Passing a request on to another server, and its answer back: streams in both directions, and upgrades.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    dial::{self, DialError},
    endpoints::Endpoint,
};
use crate::{Body, body::RequestBody};

/// Headers that belong to one connection and are not passed on.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    HeaderName::from_static("keep-alive"),
];

/// Where a request is passed on to.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// The address.
    pub endpoint: Endpoint,
    /// For TLS: the name that the certificate must be for, and the client.
    pub tls: Option<(String, Arc<ClientConfig>)>,
}

/// Why a request was not passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Exchange(#[source] hyper::Error),
    #[error("the other side switched protocols unasked")]
    Unasked,
}

impl Outbound {
    /// Sends one request on a connection of its own.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<hyper::body::Incoming>, ForwardError> {
        match &self.tls {
            None => exchange(dial::tcp(&self.endpoint).await?, request).await,
            Some((name, config)) => exchange(dial::tls(&self.endpoint, name, Arc::clone(config)).await?, request).await,
        }
    }

    /// Passes a request on, with its upgrade if it asks for one. The address and headers are as the other side is to
    /// see them; of the answer, what belongs to the connection alone is taken away.
    pub(crate) async fn pass(&self, mut request: Request<RequestBody>) -> Result<Response<Body>, ForwardError> {
        let ours: Option<OnUpgrade> = asks_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let mut response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = response.into_parts();
            let mut answer = Response::new(Body::proxied(body));
            *answer.status_mut() = parts.status;
            copy_headers(&parts.headers, answer.headers_mut(), false);
            return Ok(answer);
        }
        let theirs = hyper::upgrade::on(&mut response);
        let ours = ours.ok_or(ForwardError::Unasked)?;
        tokio::spawn(async move {
            match tokio::try_join!(ours, theirs) {
                Ok((ours, theirs)) => {
                    let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                    if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
                        tracing::debug!(%error, "a stream through the server ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
            }
        });
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        copy_headers(response.headers(), answer.headers_mut(), true);
        Ok(answer)
    }
}

/// Speaks HTTP/1.1 on a fresh connection, which lives as long as the answer.
async fn exchange<S>(stream: S, request: Request<RequestBody>) -> Result<Response<hyper::body::Incoming>, ForwardError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ForwardError::Exchange)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection that the server had made ended");
        }
    });
    sender.send_request(request).await.map_err(ForwardError::Exchange)
}

/// Whether headers ask for another protocol on the connection.
pub(crate) fn asks_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// The headers of a request as another server may see them: the credentials and the wish to be somebody else were for
/// this server.
pub(crate) fn passed_headers(from: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from.len());
    copy_headers(from, &mut headers, asks_upgrade(from));
    headers.remove(header::AUTHORIZATION);
    remove_with_prefix(&mut headers, "impersonate-");
    headers
}

/// Removes all headers whose name begins so.
pub(crate) fn remove_with_prefix(headers: &mut HeaderMap, prefix: &str) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrade: bool) {
    for (name, value) in from {
        if HOP_BY_HOP.contains(name) || (name == header::UPGRADE && !upgrade) || name == header::HOST {
            continue;
        }
        to.append(name.clone(), value.clone());
    }
    if upgrade {
        to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("impersonate-user", "jane"),
            ("impersonate-extra-a", "b"),
            ("connection", "keep-alive"),
            ("host", "h"),
            ("accept", "*/*"),
        ] {
            from.insert(name, HeaderValue::from_static(value));
        }
        let passed = passed_headers(&from);
        assert_eq!(passed.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
        from.insert("upgrade", HeaderValue::from_static("websocket"));
        let passed = passed_headers(&from);
        assert_eq!(
            (&passed["connection"], &passed["upgrade"]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }
}
