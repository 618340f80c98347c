//! gRPC to a plugin's socket, or to a server in the network.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
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

    /// Takes longer answers than the usual 4 MiB.
    pub fn reading_up_to(mut self, bytes: usize) -> Client {
        self.grpc = self.grpc.max_decoding_message_size(bytes);
        self
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

    /// One call whose messages are passed on as they are.
    pub async fn pass(&self, method: &str, message: Bytes, patience: Duration) -> Result<Bytes, Status> {
        let path = PathAndQuery::try_from(method);
        let path = path.map_err(|error| Status::invalid_argument(format!("{method:?} is no method: {error}")))?;
        within(patience, async { self.ready().await?.unary(Request::new(message), path, AsIs).await }).await
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

/// Leaves messages as they are.
struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = AsIs;
    type Decoder = AsIs;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> AsIs {
        AsIs
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(message);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::server::{Service, listen, serve};

    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }

    /// A server that is bad at it.
    struct Bad;

    impl Service for Bad {
        async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
            match method {
                "/bad/Hang" => std::future::pending().await,
                "/bad/Malformed" => Ok(Bytes::from_static(b"\x0a\xff\xff\xff")),
                "/bad/Echo" => Ok(message),
                _ => Err(Status::unimplemented(method.to_owned())),
            }
        }
    }

    fn start() -> (tempfile::TempDir, Client, CancellationToken) {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, token) = (folder.path().join("s.sock"), CancellationToken::new());
        tokio::spawn(serve(listen(&path).expect("a socket"), Arc::new(Bad), token.clone()));
        (folder, Client::new(path), token)
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_given_up() {
        let (_folder, client, _token) = start();
        let hung = client.call::<_, Named>("/bad/Hang", Named::default(), Duration::from_millis(50)).await;
        assert_eq!(hung.expect_err("it hangs").code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_message_is_an_error() {
        let (_folder, client, _token) = start();
        let patience = Duration::from_secs(60);
        assert!(client.call::<_, Named>("/bad/Malformed", Named::default(), patience).await.is_err());
        let passed = client.pass("/bad/Malformed", Bytes::new(), patience).await.expect("passed on as it is");
        assert_eq!(&passed[..], b"\x0a\xff\xff\xff");
        let echoed = client.pass("/bad/Echo", Bytes::from_static(b"\x0a\x01x"), patience).await.expect("passed on");
        assert_eq!(&echoed[..], b"\x0a\x01x");
    }

    #[tokio::test]
    async fn a_server_that_dies_in_a_call_ends_it() {
        let (_folder, client, token) = start();
        let call = client.call::<_, Named>("/bad/Hang", Named::default(), Duration::from_secs(60));
        let (died, ()) = tokio::join!(call, async {
            // The call is under way once a second one has been answered on the same connection.
            let second = client.pass("/bad/Echo", Bytes::new(), Duration::from_secs(60)).await;
            second.expect("an answer");
            token.cancel();
        });
        assert!(died.is_err());
        let after = client.pass("/bad/Echo", Bytes::new(), Duration::from_secs(60)).await;
        assert_eq!(after.expect_err("nobody is there").code(), tonic::Code::Unavailable);
    }
}
