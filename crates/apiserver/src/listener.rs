//! HTTPS: accepts connections, speaks HTTP/1.1 and HTTP/2, and drains them at the end.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{Request, Response, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ApiServer, Body, body::request_body, gather::Gathering, server::Caller};

/// HTTP/2 windows as upstream's: smaller ones stall watches.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 25 << 20;

/// Streams that one connection may have open: an informer needs one for every kind it watches.
const STREAMS: u32 = 1000;

/// The longest path, query and headers of a request, as upstream takes them: selectors can be long.
const HEADERS_LENGTH: u32 = 1 << 20;

/// A client that does not finish its handshake, or the headers of a request, holds a connection no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);

/// How long a silent HTTP/2 peer may be gone before its watches are given up.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// How long requests in flight may take once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a failing `accept` waits: it fails for want of file descriptors, which others give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener failed for good.
    #[error("cannot accept connections")]
    Accept(#[source] std::io::Error),
}

impl ApiServer {
    /// Answers on a listener until `shutdown` is cancelled; then watches end, requests in flight are finished within ten
    /// seconds, and the call returns.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADERS_LENGTH)
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER);
        loop {
            let accepted = tokio::select! {
                // Neither loses anything when dropped: a token stays cancelled, a connection stays in the backlog.
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&self);
                    let (acceptor, builder, shutdown) = (acceptor.clone(), builder.clone(), shutdown.clone());
                    connections.spawn(async move {
                        if let Err(error) =
                            server.serve_connection((stream, peer.ip()), acceptor, builder, shutdown).await
                        {
                            tracing::debug!(%peer, error, "a connection ended");
                        }
                    });
                }
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => return Err(ServeError::Accept(error)),
            }
        }
        self.stop();
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::info!(connections = connections.len(), "gives up waiting for requests in flight");
        }
        if let Some(auditor) = &self.config.auditor {
            auditor.close().await;
        }
        Ok(())
    }

    async fn serve_connection(
        self: Arc<Self>,
        (stream, peer): (TcpStream, IpAddr),
        acceptor: TlsAcceptor,
        builder: auto::Builder<TokioExecutor>,
        shutdown: CancellationToken,
    ) -> Result<(), String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
            .await
            .map_err(|_| "the TLS handshake took too long".to_owned())
            .and_then(|shaken| shaken.map_err(|error| error.to_string()))
            .inspect_err(|_| {
                self.metrics.attempts.tls_errors.fetch_add(1, Ordering::Relaxed);
            })?;
        // The certificate was verified in the handshake; who it names is found once a connection.
        let certificate = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
            Some(certificate) => {
                Some(self.security.user_of_certificate(certificate).map_err(|refusal| refusal.to_string())?)
            }
            None => None,
        };
        let caller = Caller::Connection { certificate, peer };
        let service = service_fn(move |request: Request<Incoming>| {
            let server = Arc::clone(&self);
            let caller = caller.clone();
            async move {
                let version = request.version();
                let response = server.answer(caller, request.map(request_body)).await;
                Ok::<_, Infallible>(for_version(response, version))
            }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(Gathering::new(stream)), service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        outcome.map_err(|error| error.to_string())
    }
}

/// HTTP/2 has no `Connection` header; a client must treat one as an error.
fn for_version(mut response: Response<Body>, version: Version) -> Response<Body> {
    if version == Version::HTTP_2 {
        for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
            response.headers_mut().remove(name);
        }
    }
    response
}

/// Whether a failure to accept concerns one connection or a shortage, and not the listener.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, OutOfMemory, WouldBlock};
    // Linux: too many open files in the process (EMFILE) or the system (ENFILE), no buffers (ENOBUFS).
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | OutOfMemory | WouldBlock)
        || matches!(error.raw_os_error(), Some(23 | 24 | 105))
}
