//! A plugin as the kubelet's plugin APIs want it, in a few lines: gRPC over a socket by hand.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Answers calls: the method's whole path and the message, to a message or an error's words.
pub type Answers = Arc<dyn Fn(&str, &[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// A plugin; it goes when it is dropped.
pub struct Plugin {
    task: JoinHandle<()>,
    socket: PathBuf,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
        // The folder may be gone already.
        drop(std::fs::remove_file(&self.socket));
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a short message"));
    framed.put_slice(message);
    framed.freeze()
}

impl Plugin {
    /// Listens. `streamed` is what `ListAndWatch` tells, anew whenever it changes.
    pub fn start(socket: &Path, answers: Answers, streamed: Option<watch::Receiver<Vec<u8>>>) -> Result<Plugin> {
        drop(std::fs::remove_file(socket));
        let listener = tokio::net::UnixListener::bind(socket)?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, streamed) = (Arc::clone(&answers), streamed.clone());
                let service =
                    hyper::service::service_fn(move |request| answer(request, Arc::clone(&answers), streamed.clone()));
                connections.spawn(async move {
                    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // The other side goes away without a word when it is stopped.
                    drop(served.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Ok(Plugin { task, socket: socket.to_owned() })
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    streamed: Option<watch::Receiver<Vec<u8>>>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let method = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    let frames = match streamed.filter(|_| method.ends_with("/ListAndWatch")) {
        Some(lists) => futures::stream::unfold((lists, true), |(mut lists, first)| async move {
            if !first {
                lists.changed().await.ok()?;
            }
            let list = lists.borrow_and_update().clone();
            Some((Frame::data(frame(&list)), (lists, false)))
        })
        .boxed(),
        None => {
            let mut frames = Vec::new();
            match answers(&method, body.get(5..).unwrap_or_default()) {
                Ok(message) => {
                    frames.push(Frame::data(frame(&message)));
                    trailers.insert("grpc-status", "0".parse().expect("a number"));
                }
                Err(words) => {
                    trailers.insert("grpc-status", "13".parse().expect("a number"));
                    trailers.insert("grpc-message", words.parse().expect("plain words"));
                }
            }
            futures::stream::iter(frames).boxed()
        }
    };
    let end = futures::stream::iter(Some(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(frames.chain(end).map(Ok)));
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a type"));
    Ok(response)
}

/// One call to a socket.
pub async fn call<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let path = socket.to_owned();
    let connect = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector(connect).await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = http::uri::PathAndQuery::from_static(method);
    Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
}

/// A map in a message's field.
pub type Map = HashMap<String, String>;
