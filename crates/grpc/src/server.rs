//! A server of unary calls on a socket: HTTP/2 with gRPC's frames around messages.
//!
//! Source of the wire format: `doc/PROTOCOL-HTTP2.md` of gRPC.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Longer requests are refused.
const LONGEST: usize = 1 << 20;
/// So many connections are served at a time.
const CONNECTIONS: usize = 32;
/// A flag and the message's length.
const PREFIX: usize = 5;

/// What is asked of a server.
pub trait Service: Send + Sync + 'static {
    /// Answers a call with a message's bytes. `method` is the whole path.
    fn call(&self, method: &str, message: Bytes) -> impl Future<Output = Result<Bytes, Status>> + Send;
}

/// A message as bytes.
pub fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A request's message.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Listens on a socket in place of an earlier one; only root may call.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the token is cancelled.
pub async fn serve<S: Service>(listener: UnixListener, service: Arc<S>, token: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        // Dropping the accept loses nothing: the connection stays in the kernel's queue.
        let accepted = tokio::select! {
            () = token.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a plugin's connection was not accepted");
                return;
            }
        };
        let (service, token) = (Arc::clone(&service), token.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let answer = hyper::service::service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(answer(&*service, request).await) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer);
            tokio::select! {
                () = token.cancelled() => {}
                // The other side goes away without a word when it is killed.
                _ended = connection => {}
            }
        });
    }
}

async fn answer<S: Service>(
    service: &S,
    request: Request<Incoming>,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<S>> {
    let method = request.uri().path().to_owned();
    let done = match Limited::new(request.into_body(), LONGEST).collect().await {
        Ok(body) => match unframe(body.to_bytes()) {
            Some(message) => service.call(&method, message).await,
            None => Err(Status::unimplemented("one uncompressed message is expected")),
        },
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    };
    let mut trailers = HeaderMap::new();
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    let code = match done {
        Ok(message) => {
            frames.push(Ok(Frame::data(frame(&message))));
            0
        }
        Err(status) => {
            let words = percent_encoding::utf8_percent_encode(status.message(), percent_encoding::NON_ALPHANUMERIC);
            if let Ok(words) = HeaderValue::from_str(&words.to_string()) {
                trailers.insert("grpc-message", words);
            }
            status.code() as i32
        }
    };
    trailers.insert("grpc-status", HeaderValue::from(code));
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + PREFIX);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The message of a frame that is whole, alone and not compressed.
fn unframe(body: Bytes) -> Option<Bytes> {
    let prefix: [u8; PREFIX] = body.get(..PREFIX)?.try_into().ok()?;
    let [flag, length @ ..] = prefix;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (flag == 0 && body.len() == length + PREFIX).then(|| body.slice(PREFIX..))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Client;

    #[derive(Clone, PartialEq, prost::Message)]
    struct PluginInfo {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[test]
    fn frames() {
        let framed = frame(b"abc");
        assert_eq!(unframe(framed.clone()).as_deref(), Some(&b"abc"[..]));
        assert_eq!(unframe(framed.slice(..7)), None, "it is cut short");
        assert_eq!(unframe(Bytes::from_static(&[1, 0, 0, 0, 0])), None, "it is compressed");
        assert_eq!(unframe(Bytes::new()), None);
    }

    struct Echo;

    impl Service for Echo {
        async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
            let asked: PluginInfo = decode(message)?;
            if asked.name.is_empty() { Err(Status::not_found(format!("nobody, {method}"))) } else { Ok(encode(&asked)) }
        }
    }

    #[tokio::test]
    async fn calls_are_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.sock");
        let token = CancellationToken::new();
        let server = tokio::spawn(serve(listen(&path).expect("a socket"), Arc::new(Echo), token.clone()));
        let client = Client::new(path);
        let ask = async |name: &str| {
            let info = PluginInfo { name: name.to_owned() };
            client.call::<_, PluginInfo>("/a.B/C", info, Duration::from_secs(30)).await
        };
        assert_eq!(ask("x").await.expect("an answer").name, "x");
        let failed = ask("").await.expect_err("nobody");
        assert_eq!((failed.code(), failed.message()), (tonic::Code::NotFound, "nobody, /a.B/C"));
        token.cancel();
        server.await.expect("it ends");
    }
}
