//! Sending requests on.
//!
//! Clients speak HTTP/1.1 or 2, with or without TLS; Services are spoken to by HTTP/1.1 over connections that are kept.
//! Bodies pass through as they come, and a connection that changes its protocol (WebSocket and the like) is joined to the
//! Service's.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use kobune_network::cluster::Cluster;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use crate::{follow::Table, routes};

/// Connections of one port at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// How long a client may take for its handshake or its headers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an endpoint may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Idle connections that are kept to one endpoint.
const KEPT: usize = 8;

/// Headers that are about one connection and not about the request. RFC 9110, section 7.6.1.
const OF_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
];

type Body = BoxBody<Bytes, hyper::Error>;

/// The proxy.
pub struct Proxy {
    table: Arc<Table>,
    cluster: Arc<Cluster>,
    client: Client<HttpConnector, Incoming>,
    turn: AtomicUsize,
}

impl Proxy {
    /// A proxy that works by `table` and knows endpoints from `cluster`.
    pub fn new(table: Arc<Table>, cluster: Arc<Cluster>) -> Arc<Proxy> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(KEPT)
            .build(connector);
        Arc::new(Proxy { table, cluster, client, turn: AtomicUsize::new(0) })
    }

    /// Serves connections for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: without a pause this would spin.
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (proxy, tls) = (Arc::clone(&self), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => proxy.converse(stream, peer, "http").await,
                    Some(acceptor) => match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => proxy.converse(stream, peer, "https").await,
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                    },
                }
                drop(place);
            });
        }
    }

    async fn converse<S>(self: Arc<Self>, stream: S, peer: SocketAddr, scheme: &'static str)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let proxy = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(proxy.answer(request, peer, scheme).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
            tracing::debug!(%peer, error, "a connection ended early");
        }
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr, scheme: &'static str) -> Response<Body> {
        let Some(host) = host_of(&request) else { return said(StatusCode::BAD_REQUEST, "the request names no host\n") };
        let routes = Arc::clone(&self.table.routes.read());
        let Some(backend) = routes.find(&host, request.uri().path()) else {
            return said(StatusCode::NOT_FOUND, "no Ingress is for this host and path\n");
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(endpoint) = self.cluster.read(|tables| routes::endpoint(tables, backend, turn)) else {
            return said(StatusCode::SERVICE_UNAVAILABLE, "the Service has no endpoint that is ready\n");
        };
        let upgrade = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let Some(request) = onwards(request, endpoint, &host, peer, scheme) else {
            return said(StatusCode::BAD_REQUEST, "the request's target is malformed\n");
        };
        match self.client.request(request).await {
            Ok(response) => back(response, upgrade),
            Err(error) => {
                tracing::debug!(%endpoint, error = &error as &dyn std::error::Error, "an endpoint did not answer");
                said(StatusCode::BAD_GATEWAY, "the endpoint did not answer\n")
            }
        }
    }
}

/// The host that a request is for: the authority of HTTP/2, or the header.
fn host_of(request: &Request<Incoming>) -> Option<String> {
    let header = || request.headers().get(header::HOST)?.to_str().ok().map(str::to_owned);
    request.uri().authority().map(|authority| authority.as_str().to_owned()).or_else(header)
}

/// Whether the client wants another protocol on this connection.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let wants = tokens.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    wants && headers.contains_key(header::UPGRADE)
}

/// Takes away what is about the connection, but for a change of protocol.
fn strip(headers: &mut HeaderMap) {
    let upgrade = is_upgrade(headers).then(|| headers.get(header::UPGRADE).cloned()).flatten();
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
}

/// The request as the endpoint gets it: to its address, with the host that the client named, and with who the client is.
/// What the client itself says of who it is gives way: nobody in front of this proxy is known.
fn onwards(
    mut request: Request<Incoming>,
    endpoint: SocketAddr,
    host: &str,
    peer: SocketAddr,
    scheme: &'static str,
) -> Option<Request<Incoming>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() =
        Uri::builder().scheme("http").authority(endpoint.to_string()).path_and_query(path).build().ok()?;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip(headers);
    let client = HeaderValue::from_str(&peer.ip().to_canonical().to_string()).ok()?;
    let host = HeaderValue::from_str(host).ok()?;
    headers.insert(header::HOST, host.clone());
    headers.insert("x-forwarded-for", client.clone());
    headers.insert("x-real-ip", client);
    headers.insert("x-forwarded-host", host);
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
    Some(request)
}

/// The answer as the client gets it. When both sides change the protocol their connections are joined.
fn back(mut response: Response<Incoming>, upgrade: Option<hyper::upgrade::OnUpgrade>) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = upgrade
    {
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (client, server) = match tokio::try_join!(client, server) {
                Ok(both) => both,
                Err(error) => return tracing::debug!(%error, "a change of protocol was not finished"),
            };
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                tracing::debug!(%error, "a joined connection ended early");
            }
        });
    }
    strip(response.headers_mut());
    response.map(BodyExt::boxed)
}

fn said(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
