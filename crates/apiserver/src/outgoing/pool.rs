//! Connections that are kept and used again, each pool for servers of one name.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Uri;
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

use super::{
    dial::{self, DialError},
    endpoints::Endpoint,
};

/// How long an unused connection is kept, and how many to one endpoint.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: usize = 8;

/// A client with its connections.
pub(crate) type Pool = Client<Connector, Full<Bytes>>;

/// A client of servers that must show a certificate of this name, or of such that are spoken to in the clear.
pub(crate) fn pool(tls: Option<(Arc<str>, Arc<ClientConfig>)>) -> Pool {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .set_host(false)
        .build(Connector { tls })
}

/// The innermost cause that says something.
pub(crate) fn problem(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        if let Some(dial) = source.downcast_ref::<DialError>() {
            return dial.to_string();
        }
        cause = source;
    }
    cause.to_string()
}

/// Connects to the endpoint that stands in the address; whose certificate it must show is fixed.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: Option<(Arc<str>, Arc<ClientConfig>)>,
}

impl Service<Uri> for Connector {
    type Response = Kept;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Kept, DialError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = if self.tls.is_some() { 443 } else { 80 };
        let endpoint = Endpoint { host, port: uri.port_u16().unwrap_or(port) };
        let tls = self.tls.clone();
        Box::pin(async move {
            let stream = match tls {
                Some((name, config)) => Either::Left(dial::tls(&endpoint, &name, config).await?),
                None => Either::Right(dial::tcp(&endpoint).await?),
            };
            Ok(Kept(TokioIo::new(stream)))
        })
    }
}

/// A connection as hyper's pool wants it.
pub(crate) struct Kept(TokioIo<Either<TlsStream<TcpStream>, TcpStream>>);

impl Connection for Kept {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Kept {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
