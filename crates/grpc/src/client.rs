//! gRPC to a plugin's socket, or to a server in the network.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// How long a question may take, as upstream.
pub const QUESTION: Duration = Duration::from_secs(15);
/// How long work on a volume may take, as upstream: formatting takes its time.
pub const WORK: Duration = Duration::from_secs(120);

/// A plugin behind a socket, or a server. Connects when first used, and again after the plugin was started anew.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the plugin behind this socket; nothing is sent.
    pub fn new(socket: PathBuf) -> Client {
        // The address names nothing: all connections go to the socket.
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Client { grpc: Grpc::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)) }
    }

    /// A client of a server in the network, spoken to in the clear; nothing is sent.
    pub fn at(address: Uri) -> Client {
        Client { grpc: Grpc::new(Endpoint::from(address).connect_lazy()) }
    }

    /// One call.
    pub async fn call<Q, A>(&self, method: &'static str, request: Q, patience: Duration) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        within(patience, async {
            let path = PathAndQuery::from_static(method);
            self.ready().await?.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await
        })
        .await
    }

    /// One call whose answers come one after the other. Only the call itself is timed.
    pub async fn stream<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        patience: Duration,
    ) -> Result<tonic::Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        within(patience, async {
            let path = PathAndQuery::from_static(method);
            self.ready().await?.server_streaming(Request::new(request), path, ProstCodec::<Q, A>::default()).await
        })
        .await
    }

    /// A connection that takes a call.
    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(grpc)
    }
}

/// What a call gives, if it does so in time.
async fn within<A>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<A>, Status>>,
) -> Result<A, Status> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", patience.as_secs()))),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// A failed call in the words of events: `rpc error: code = Internal desc = ...`.
pub fn words(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
