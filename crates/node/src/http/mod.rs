//! The node's own HTTP API, as the API server and scrapers use it: logs, exec, attach, port-forward, pods, stats, metrics.
//!
//! The API server passes upgrades through byte for byte, so the streaming protocols of clients end here.

mod access;
mod csi;
mod local_volumes;
mod logs;
mod metrics;
mod port_forward;
mod query;
mod remote;
mod streaming;
mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerEventKind, ContainerState, ContainerStatus};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::log::reader::{Options, Reader};
use crate::plan::{latest, previous};
use crate::pod;
use crate::pods::Pods;
use query::Query;

/// The body of an answer.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// So many connections are served at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// A client that does not finish its TLS handshake within this time is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Blocks of a log on their way to a client.
const LOG_QUEUE: usize = 4;

/// The server.
pub struct Server {
    /// What all parts of the node share.
    pub context: Arc<Context>,
    /// The node's pods.
    pub pods: Arc<Pods>,
}

/// A request that can't be served, with the words for it.
pub struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(message: impl Into<String>) -> Refusal {
        Refusal(StatusCode::NOT_FOUND, message.into())
    }

    fn bad(message: impl Into<String>) -> Refusal {
        Refusal(StatusCode::BAD_REQUEST, message.into())
    }

    fn internal(message: impl Into<String>) -> Refusal {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, message.into())
    }
}

/// A body with this content.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn answer(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

impl Server {
    /// Serves until the token is cancelled.
    pub async fn run(self: Arc<Self>, listener: TcpListener, token: CancellationToken) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.context.config.tls));
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            // Dropping the accept loses nothing: the connection stays in the kernel's queue.
            let accepted = tokio::select! {
                () = token.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                    // Out of descriptors, most likely: give others time to close theirs.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, acceptor, token) = (Arc::clone(&self), acceptor.clone(), token.clone());
            tokio::spawn(async move {
                let _slot = slot;
                tokio::select! {
                    () = token.cancelled() => {}
                    () = server.serve(stream, peer, acceptor) => {}
                }
            });
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "small packets will be late");
        }
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let allowed = certificates.and_then(<[_]>::first).is_some_and(|certificate| access::allowed(certificate));
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.handle(request, allowed).await) }
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
            tracing::debug!(%peer, error = %error, "a connection ended");
        }
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, allowed: bool) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/healthz" || path == "/livez" {
            return answer(StatusCode::OK, "text/plain; charset=utf-8", "ok");
        }
        if !allowed {
            return answer(StatusCode::UNAUTHORIZED, "text/plain; charset=utf-8", "Unauthorized");
        }
        let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let result = match (request.method(), parts.as_slice()) {
            (&Method::GET, ["pods"] | ["runningpods"]) => Ok(self.list_pods()),
            (&Method::GET, ["stats", "summary"]) => metrics::summary(&self).await,
            (&Method::GET, ["metrics"]) => Ok(text(metrics::of_node(&self))),
            (&Method::GET, ["metrics", "resource"]) => metrics::resource(&self).await,
            (&Method::GET, ["metrics", "cadvisor"]) => metrics::cadvisor(&self).await,
            (&Method::GET, ["metrics", "probes"]) => Ok(text(metrics::probes(&self))),
            (&Method::GET, ["configz"]) => {
                Ok(answer(StatusCode::OK, "application/json", metrics::configz(&self).to_string()))
            }
            (&Method::GET, ["containerLogs", namespace, name, container]) => {
                self.logs(namespace, name, container, &query).await
            }
            (_, [verb @ ("exec" | "attach"), namespace, name, .., container]) if parts.len() >= 4 => {
                streaming::remote(&self, request, verb, namespace, name, container, &query).await
            }
            (&Method::GET, ["logs", below @ ..]) => logs::serve(Path::new("/var/log"), below).await,
            (&Method::GET, ["volumesInUse"]) => local_volumes::in_use(&self).await,
            (&Method::PUT | &Method::DELETE, ["localVolumes", name]) => {
                local_volumes::change(&self, request, name).await
            }
            (&Method::POST, ["csi", driver, service, call]) => csi::pass(&self, request, driver, service, call).await,
            (_, ["portForward", namespace, name, ..]) => {
                streaming::port_forward(&self, request, namespace, name, &query).await
            }
            _ => Err(Refusal::not_found("404 page not found")),
        };
        result.unwrap_or_else(|Refusal(status, message)| answer(status, "text/plain; charset=utf-8", message))
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        self.pods
            .find(namespace, name)
            .ok_or_else(|| Refusal::not_found(format!("pod \"{name}_{namespace}\" does not exist")))
    }

    fn containers(&self, owner: &Pod) -> Vec<ContainerStatus> {
        let containers = self.context.config.runtime.containers().into_iter();
        containers.filter(|container| container.pod_uid == pod::uid(owner)).collect()
    }

    /// The container of this name that runs now.
    fn running(&self, owner: &Pod, container: &str) -> Result<ContainerStatus, Refusal> {
        let containers = self.containers(owner);
        let found = latest(&containers, container).filter(|found| found.state == ContainerState::Running).cloned();
        found.ok_or_else(|| Refusal::not_found(format!("container not found (\"{container}\")")))
    }

    fn list_pods(&self) -> Response<Body> {
        let items: Vec<_> =
            self.pods.all().iter().map(|pod| serde_json::to_value(&**pod).unwrap_or_default()).collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        answer(StatusCode::OK, "application/json", list.to_string())
    }

    async fn logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let owner = self.find(namespace, name)?;
        let known = pod::members(pod::spec(&owner)).iter().any(|member| member.container.name == container);
        if !known {
            return Err(Refusal::not_found(format!("container \"{container}\" not found in pod \"{name}\"")));
        }
        let containers = self.containers(&owner);
        let newest = latest(&containers, container);
        let chosen = if query.is_true(&["previous"]) {
            // When the newest one has ended and will be started again, it is the previous one of what is about to be.
            let before = previous(&containers, container, newest.map(|newest| &newest.id));
            before.ok_or_else(|| {
                Refusal::bad(format!("previous terminated container \"{container}\" in pod \"{name}\" not found"))
            })?
        } else {
            // One that was made and never started says less than the one before it.
            let started = newest
                .filter(|newest| newest.state != ContainerState::Created)
                .or_else(|| previous(&containers, container, None));
            started.ok_or_else(|| {
                let reason = waiting_reason(&owner, container).unwrap_or_else(|| "ContainerCreating".to_owned());
                Refusal::bad(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"))
            })?
        };
        let options = log_options(query)?;
        let Some(path) = chosen.log_path.clone() else { return Ok(text(String::new())) };
        let reader = tokio::task::spawn_blocking(move || Reader::open(path, options)).await;
        let reader = reader
            .map_err(|error| Refusal::internal(error.to_string()))?
            .map_err(|error| Refusal::internal(format!("failed to try resolving symlinks in path: {error}")))?;
        let (sender, receiver) = mpsc::channel(LOG_QUEUE);
        let runtime = Arc::clone(&self.context.config.runtime);
        let id = chosen.id.clone();
        tokio::spawn(reader.run(sender, async move {
            let mut events = runtime.events();
            // Subscribed first, then looked: an end between the two is not missed.
            while runtime.container(&id).is_some_and(|container| container.state == ContainerState::Running) {
                loop {
                    match events.next().await {
                        Ok(Some(event)) if event.id != id || event.kind == ContainerEventKind::Started => {}
                        Ok(_) => break,
                        Err(_gone) => return,
                    }
                }
            }
        }));
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|item| (item, receiver))
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream.map(|item| item.map(Frame::data)))));
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

fn text(text: String) -> Response<Body> {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn waiting_reason(owner: &Pod, container: &str) -> Option<String> {
    let status = owner.status.as_ref()?;
    let mut all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    let found = all.find(|status| status.name == container)?;
    let waiting = found.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    // Upstream tells the message for errors of an image, the reason alone for the rest.
    match (&waiting.message, reason.as_str()) {
        (Some(message), "ErrImagePull" | "ImagePullBackOff" | "CreateContainerConfigError") => {
            Some(format!("{reason}: {message}"))
        }
        _ => Some(reason),
    }
}

/// What a log request asks for. Pure.
fn log_options(query: &Query) -> Result<Options, Refusal> {
    let number = |name: &str| -> Result<Option<u64>, Refusal> {
        match query.get(name) {
            None | Some("") => Ok(None),
            // A negative number of lines means all of them.
            Some(text) if text.starts_with('-') && name == "tailLines" => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Refusal::bad(format!("{name}: Invalid value: \"{text}\"")))
            }
        }
    };
    let since = match (query.get("sinceTime"), number("sinceSeconds")?) {
        (Some(time), _) if !time.is_empty() => {
            Some(time.parse().map_err(|_| Refusal::bad(format!("sinceTime: Invalid value: \"{time}\"")))?)
        }
        (_, Some(seconds)) => jiff::Timestamp::now().checked_sub(Duration::from_secs(seconds)).ok(),
        _ => None,
    };
    Ok(Options {
        follow: query.is_true(&["follow"]),
        tail: number("tailLines")?,
        since,
        timestamps: query.is_true(&["timestamps"]),
        limit: number("limitBytes")?,
        stderr: match query.get("stream") {
            Some("Stdout") => Some(false),
            Some("Stderr") => Some(true),
            _ => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_queries() {
        let check = |query: &str, expected: Option<Options>| {
            assert_eq!(log_options(&Query::parse(query)).ok(), expected, "{query}");
        };
        check("", Some(Options::default()));
        check("follow=true&tailLines=5", Some(Options { follow: true, tail: Some(5), ..Options::default() }));
        check("tailLines=-1&limitBytes=7", Some(Options { limit: Some(7), ..Options::default() }));
        check(
            "sinceTime=2026-01-01T00:00:00Z",
            Some(Options { since: "2026-01-01T00:00:00Z".parse().ok(), ..Options::default() }),
        );
        check(
            "stream=Stderr&timestamps=1",
            Some(Options { stderr: Some(true), timestamps: true, ..Options::default() }),
        );
        check("tailLines=x", None);
        check("sinceTime=x", None);
    }
}
