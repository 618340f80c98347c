//! What is noted about a request on its way: for the metrics, for the audit trail, and so that it ends in time.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use kobune_kinds::Kind;
use serde_json::Value;

use crate::audit::{self, Level, Stage, Subject, Trail};
use crate::body::RequestBody;
use crate::call::Call;
use crate::error::{Answer, ApiError};
use crate::metrics::Series;
use crate::path::{Route, Target};
use crate::query::Query;
use crate::security::{Attributes, User};
use crate::{ApiServer, Body, BodyError, decode};

/// What is known about a request when it ends.
#[derive(Default)]
pub(crate) struct Told {
    /// What it counts as among those who wait for a place.
    pub(crate) flow: Option<crate::flow::Flow>,
    /// The verb, or the method of a path that is no resource.
    pub verb: &'static str,
    /// The kind of the resource.
    pub kind: Option<Arc<Kind>>,
    /// The path of what is no resource, where it is one that exists.
    pub path: &'static str,
    /// The subresource, where the kind has it.
    subresource: String,
    scope: &'static str,
    dry_run: bool,
    /// Whether it lives as long as the client likes.
    pub long_running: bool,
    /// Its audit trail.
    pub trail: Option<Arc<Trail>>,
    /// What the client is warned of because of its credentials.
    pub warning: Option<&'static str>,
}

impl Told {
    /// Notes what a request is about.
    pub(crate) fn about(&mut self, kind: &Arc<Kind>, target: &Target, query: &Query) {
        let subresource = target.subresource.as_deref().filter(|name| kind.subresource(name).is_some());
        subresource.unwrap_or_default().clone_into(&mut self.subresource);
        self.scope = match (&target.name, &target.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        self.dry_run = query.get("dryRun") == Some("All");
        self.kind = Some(Arc::clone(kind));
    }

    /// The resource for log lines.
    pub(crate) fn resource(&self) -> &str {
        self.kind.as_ref().map_or(self.path, |kind| &kind.plural)
    }

    fn series(&self) -> Series<'_> {
        let verb = match self.verb {
            _ if self.long_running && self.verb != "watch" => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        match &self.kind {
            None => Series { verb, subresource: self.path, ..Series::default() },
            Some(kind) => Series {
                verb,
                group: &kind.group,
                version: &kind.version,
                resource: &kind.plural,
                subresource: &self.subresource,
                scope: self.scope,
                dry_run: self.dry_run,
            },
        }
    }
}

/// The name under which a path that is no resource is counted; those that do not exist have none.
pub(crate) fn path_name(route: &Route) -> &'static str {
    match route {
        Route::Version => "/version",
        Route::Health { which, .. } => which,
        Route::Metrics => "/metrics",
        Route::HealthMetrics => "/metrics/slis",
        Route::OpenApiV2 => "/openapi/v2",
        Route::OpenApiV3Index | Route::OpenApiV3(_) => "/openapi/v3",
        Route::OpenIdConfiguration => "/.well-known/openid-configuration",
        Route::KeySet => "/openid/v1/jwks",
        Route::CoreVersions => "/api",
        Route::Groups | Route::Group(_) => "/apis",
        Route::Resources { .. } => "/apis/resources",
        Route::Index => "/",
        Route::Resource(_) | Route::Unknown => "",
    }
}

impl ApiServer {
    /// Begins the audit trail of a request, if there is one to be.
    pub(crate) fn begin_trail(
        &self,
        told: &mut Told,
        id: &HeaderValue,
        request: &mut Request<RequestBody>,
        peer: IpAddr,
        user: Option<&User>,
        route: &Route,
    ) {
        let Some(auditor) = &self.config.auditor else { return };
        let method = request.method().as_str().to_ascii_lowercase();
        let path = request.uri().path().to_owned();
        let (subject, version) = match route {
            Route::Resource(target) => (
                Subject {
                    verb: told.verb,
                    group: &target.group,
                    resource: &target.resource,
                    subresource: target.subresource.as_deref().unwrap_or_default(),
                    namespace: target.namespace.as_deref().unwrap_or_default(),
                    name: target.name.as_deref().unwrap_or_default(),
                    path: &path,
                },
                target.version.as_str(),
            ),
            _ => (Subject { verb: &method, path: &path, ..Subject::default() }, ""),
        };
        let Some(trail) = auditor.begin(id, request, peer, user, &subject, version) else { return };
        // The extension is how the verbs find it, far down the road.
        request.extensions_mut().insert(Arc::clone(&trail));
        told.trail = Some(trail);
    }

    /// Asks whether the user may do something, and writes the answer into the audit trail.
    pub(crate) async fn permit_attributes(&self, user: &User, attributes: &Attributes<'_>, told: &Told) -> Answer<()> {
        let Some(trail) = &told.trail else { return Ok(self.security.require(user, attributes).await?) };
        let decision = self.security.explain(user, attributes).await;
        match (decision.allowed, &decision.error) {
            (false, Some(_)) => trail.annotate("authorization.k8s.io/reason", "internal error"),
            (allowed, _) => {
                trail.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
                trail.annotate("authorization.k8s.io/reason", &decision.reason);
            }
        }
        if decision.allowed { Ok(()) } else { Err(attributes.refusal(user, &decision).into()) }
    }

    /// Counts a request that is answered, and writes or prepares the end of its trail.
    pub(crate) fn conclude(&self, told: Told, response: Response<Body>, took: Duration) -> Response<Body> {
        let code = response.status().as_u16();
        self.metrics.requests.count(&told.series(), code, took);
        match told.trail {
            Some(trail) => conclude_trail(&trail, told.long_running, told.kind, response),
            None => response,
        }
    }

    /// Lets a request end in time. `limit` is what the client asks for, within the server's own.
    pub(crate) async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = Answer<T>> + Send) -> Answer<T> {
        // Dropping the work is safe at every wait: a write that was begun is done or not done as a whole by the store.
        match tokio::time::timeout(limit, work).await {
            Ok(answer) => answer,
            Err(_) => {
                self.metrics.requests.in_flight.timed_out.fetch_add(1, Ordering::Relaxed);
                Err(ApiError::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout"))
            }
        }
    }

    /// How long a request may take.
    pub(crate) fn time_limit(&self, query: &Query) -> Answer<Duration> {
        let most = self.config.request_timeout;
        match query.get("timeout").filter(|text| !text.is_empty()) {
            None => Ok(most),
            Some(text) => match crate::duration::parse_duration(text) {
                None => Err(ApiError::bad_request("invalid timeout specified in the request URL")),
                Some(Duration::ZERO) => Ok(most),
                Some(asked) => Ok(asked.min(most)),
            },
        }
    }
}

fn conclude_trail(
    trail: &Arc<Trail>,
    long_running: bool,
    kind: Option<Arc<Kind>>,
    mut response: Response<Body>,
) -> Response<Body> {
    let code = response.status().as_u16();
    if long_running {
        trail.write(Stage::ResponseStarted, Some(code));
    }
    // What a watch, a log or an exec sends is no object.
    let wanted = trail.wants_response() && !long_running && code < 400;
    let protobuf = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/vnd.kubernetes.protobuf"));
    let body = std::mem::replace(response.body_mut(), Body::empty());
    let trail = Arc::clone(trail);
    *response.body_mut() = Body::proxied(Tail {
        body,
        collected: wanted.then(Vec::new),
        end: Some(Box::new(move |collected: Option<Vec<u8>>| {
            if let Some(bytes) = collected {
                answered(&trail, &bytes, protobuf, kind.as_deref());
            }
            trail.write(Stage::ResponseComplete, Some(code));
        })),
    });
    response
}

/// Gives the trail what was sent to the client.
fn answered(trail: &Trail, bytes: &[u8], protobuf: bool, kind: Option<&Kind>) {
    let object: Result<Value, String> = match (protobuf, kind) {
        (false, _) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        (true, Some(kind)) if protobuf_kind(bytes) == Some(kind.kind.as_bytes()) => {
            kobune_kinds::protobuf::decode(bytes, kind.schema()).map_err(|error| error.to_string())
        }
        (true, _) => Err("a list in protobuf".to_owned()),
    };
    match object {
        Ok(object) => trail.answered(object),
        // YAML for people and lists in protobuf are not taken apart; the trail says that there was something.
        Err(problem) => trail.annotate("kobune.io/response-object", &problem),
    }
}

/// The kind that the envelope of a protobuf body names: four bytes, then field 1 with the fields 1 and 2 in it.
fn protobuf_kind(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.get(4..)?.strip_prefix(&[0x0a])?;
    let rest = rest.get(1..)?.strip_prefix(&[0x0a])?;
    let (length, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(*length)..)?.strip_prefix(&[0x12])?;
    let (length, rest) = rest.split_first()?;
    rest.get(..usize::from(*length))
}

impl Call {
    /// Shows the audit trail the body that was sent.
    pub(crate) fn show_body(&self, body: &Bytes, verb: &str) {
        let Some(trail) = &self.trail else { return };
        let wanted = trail.level() >= Level::Request || (verb == "create" && self.target.name.is_none());
        if !wanted || body.is_empty() {
            return;
        }
        // Bodies that do not decode are refused a moment later, with an answer that says why.
        let object = match verb {
            "create" | "update" => decode::object(&self.kind, self, body).map(|decoded| decoded.object),
            _ => serde_json::from_slice(body).map_err(|error| ApiError::bad_request(error.to_string())),
        };
        if body.len() > audit::LONGEST_BODY {
            trail.annotate("kobune.io/request-object", "too large for the audit log");
        } else if let Ok(object) = object {
            trail.sent(object);
        }
    }
}

/// Called with what was collected when a body ends.
type End = Box<dyn FnOnce(Option<Vec<u8>>) + Send>;

/// A body that tells when it ends, also when the client goes away before.
struct Tail {
    body: Body,
    /// The bytes so far; `None` when nobody wants them or they are too many.
    collected: Option<Vec<u8>>,
    end: Option<End>,
}

impl Tail {
    fn finish(&mut self) {
        if let Some(end) = self.end.take() {
            end(self.collected.take());
        }
    }
}

impl HttpBody for Tail {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(collected), Some(data)) = (&mut self.collected, frame.data_ref()) {
                    collected.extend_from_slice(data);
                    if collected.len() > audit::LONGEST_BODY {
                        self.collected = None;
                    }
                }
            }
            Poll::Ready(None | Some(Err(_))) => self.finish(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.finish();
    }
}

/// One of the requests that are worked on; dropped, it makes room.
pub(crate) struct Slot<'s>(&'s AtomicUsize);

impl<'s> Slot<'s> {
    /// Counts one more, and answers how many there were before.
    pub(crate) fn take(counter: &'s AtomicUsize) -> (Slot<'s>, usize) {
        let before = counter.fetch_add(1, Ordering::Relaxed);
        (Slot(counter), before)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_name_their_kind() {
        let check = |bytes: &[u8], expected: Option<&[u8]>| assert_eq!(protobuf_kind(bytes), expected, "{bytes:?}");
        check(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00", Some(b"Pod"));
        check(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Po", None);
        check(b"k8s\0", None);
        check(b"", None);
    }
}
