//! The road of every request: who asks, for what, may they, and then to the verb.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use kobune_kinds::{
    Kind, Verb,
    name::path_segment,
    selector::{FieldSelector, LabelSelector},
};
use kobune_store::{At, Range};

use crate::{
    ApiServer, Body,
    accept::{self, Accept, Offer},
    audit,
    body::RequestBody,
    call::{Call, header as text_header},
    compress, decode,
    delete::Options,
    error::{Answer, ApiError},
    flow::{Asked, Place, Refused, list_seats},
    observe::{Slot, Told, path_name},
    path::{self, Route, Target},
    query::Query,
    respond,
    security::{Attributes, Authenticated, Credentials, User},
    server::Caller,
    spans::{self, Fact, Open},
    specials, table, websocket,
};

/// Subresources that are connections to a node and live as long as the client likes.
fn is_connection(subresource: Option<&str>) -> bool {
    matches!(subresource, Some("log" | "exec" | "attach" | "portforward" | "proxy"))
}

/// What a request asks for, as authorization and metrics name it.
fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_none() => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD if target.watch => "watch",
        Method::GET | Method::HEAD if target.name.is_some() => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        _ => "",
    }
}

/// The method of a request for a path that is no resource, where there is a use for it.
fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

impl ApiServer {
    /// Answers one request. Nothing that goes wrong inside gets out other than as a `Status`.
    pub(crate) fn answer(
        self: Arc<Self>,
        caller: Caller,
        mut request: Request<RequestBody>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let started = Instant::now();
            let mut span = self.config.tracer.as_ref().and_then(|tracer| tracer.begin(request.headers()));
            let method = span.as_ref().map(|_| request.method().clone());
            let zips = compress::is_accepted(request.headers());
            let accepted = request.headers().get(header::ACCEPT).cloned();
            let pretty = pretty(&request);
            let audit_id = audit::identity(request.headers());
            let mut told = Told::default();
            let asked = websocket::take_token(&mut request).and_then(|()| websocket::asked(&mut request));
            let (socket, walk) = match asked {
                Ok(socket) => (socket, Ok(request)),
                Err(error) => (None, Err(error)),
            };
            let work = async {
                match walk {
                    Ok(request) => self.walk(caller, request, &audit_id, &mut told).await,
                    Err(error) => Err(error),
                }
            };
            let outcome = spans::scope(span.as_ref(), AssertUnwindSafe(work).catch_unwind()).await;
            let mut response = match outcome {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    if error.code() >= 500 {
                        tracing::warn!(verb = told.verb, resource = told.resource(), %error, "a request failed");
                    }
                    if let Some(trail) = &told.trail {
                        trail.answered(error.to_status());
                    }
                    error.into_response(accept::for_error(accepted.as_ref(), pretty))
                }
                Err(_) => {
                    tracing::error!(verb = told.verb, resource = told.resource(), "a request panicked");
                    if let Some(trail) = &told.trail {
                        trail.write(audit::Stage::Panic, Some(500));
                    }
                    ApiError::internal_words("the request could not be completed")
                        .into_response(accept::for_error(accepted.as_ref(), pretty))
                }
            };
            if let Some(warning) = told.kind.as_ref().and_then(|kind| kind.deprecation()) {
                respond::begin_warnings(response.headers_mut(), warning);
            }
            if let Some(warning) = told.warning {
                respond::begin_warnings(response.headers_mut(), warning);
            }
            response.headers_mut().insert(audit::AUDIT_ID, audit_id);
            if let Some(flow) = &told.flow {
                flow.mark(response.headers_mut());
            }
            if let Some(span) = &mut span {
                describe(span, &told, method, response.status());
            }
            let response = self.conclude(told, response, started.elapsed());
            match socket {
                Some(socket) => socket.carry(response),
                None if zips => compress::compress(response),
                None => response,
            }
        })
    }

    async fn walk(
        self: &Arc<Self>,
        caller: Caller,
        mut request: Request<RequestBody>,
        audit_id: &HeaderValue,
        told: &mut Told,
    ) -> Answer<Response<Body>> {
        let route = path::parse(request.uri().path());
        let query = Query::parse(request.uri().query());
        told.verb = match &route {
            Route::Resource(target) => verb(request.method(), target, &query),
            other => {
                told.path = path_name(other);
                method_verb(request.method())
            }
        };
        if matches!(route, Route::Resource(_)) {
            self.catch_up(told.verb, &query).await?;
        }
        let peer = caller.peer();
        let Authenticated { user: authenticated, secret } =
            match self.identify(&caller, request.uri().path(), request.headers()).await {
                Ok(found) => found,
                Err(error) => {
                    self.begin_trail(told, audit_id, &mut request, peer, None, &route);
                    return Err(error);
                }
            };
        self.begin_trail(told, audit_id, &mut request, peer, Some(&authenticated), &route);
        if let Some(secret) = &secret {
            told.warning = secret.warning();
            if let Some(trail) = &told.trail {
                let (key, value) = secret.audit_annotation();
                trail.annotate(key, value);
            }
        }
        let user = match self.security.impersonate(&authenticated, request.headers()).await? {
            Some(user) => {
                if let Some(trail) = &told.trail {
                    trail.impersonates(&user);
                }
                user
            }
            None => authenticated,
        };
        let registry = self.aggregated().await?;
        let foreign = route.group_version().and_then(|(group, version)| registry.remote(group, version));
        let target = match route {
            Route::Resource(target) => target,
            route => {
                let verb = request.method().as_str().to_ascii_lowercase();
                let attributes = Attributes { verb: &verb, path: request.uri().path(), ..Attributes::default() };
                self.permit_attributes(&user, &attributes, told).await?;
                let asked = Asked { verb: &verb, path: request.uri().path(), ..Asked::default() };
                let _place = self.place(&caller, &user, &asked, 1, told).await?;
                let _slot = self.slot(&caller, &user, "get", told)?;
                if let Some(service) = foreign {
                    return self.pass_to_aggregated(&user, service, request).await;
                }
                if told.verb == "get" {
                    let limit = self.config.request_timeout;
                    if let Some(response) = self.in_time(limit, self.telemetry(&route, &query)).await? {
                        return Ok(response);
                    }
                }
                return self.document(&route, &query, &request, &registry);
            }
        };
        if let Some(service) = foreign {
            self.permit(&user, &target, &query, told).await?;
            // Whether a request lives long is known only to its server; those to subresources may.
            let lives_long = told.verb == "watch" || target.subresource.is_some();
            told.long_running = lives_long;
            let _place = self.place(&caller, &user, &asked_for(told.verb, &target), 1, told).await?;
            let _slot = if lives_long { None } else { Some(self.slot(&caller, &user, told.verb, told)?) };
            return self.pass_to_aggregated(&user, service, request).await;
        }
        let known = self.catalogue.load().by_resource(&target.group, &target.version, &target.resource).cloned();
        let Some(kind) = known else {
            self.permit(&user, &target, &query, told).await?;
            return Err(ApiError::no_such_path());
        };
        told.about(&kind, &target, &query);
        self.permit(&user, &target, &query, told).await?;
        // Upstream counts HEAD as reading, and then knows no such method but for proxies.
        if *request.method() == Method::HEAD && target.subresource.as_deref() != Some("proxy") {
            return Err(ApiError::method_not_allowed());
        }
        let verb = told.verb;
        // A proxy takes OPTIONS too, for which there is no verb.
        let proxied = *request.method() == Method::OPTIONS && target.subresource.as_deref() == Some("proxy");
        if verb.is_empty() && !proxied {
            return Err(ApiError::method_not_allowed());
        }
        told.long_running = verb == "watch" || is_connection(target.subresource.as_deref());
        let seats = if verb == "list" { self.list_seats(&kind, &target, &query).await? } else { 1 };
        let _place = self.place(&caller, &user, &asked_for(verb, &target), seats, told).await?;
        if told.long_running {
            return self.serve_kind(user, kind, target, query, verb, request).await;
        }
        let _slot = self.slot(&caller, &user, verb, told)?;
        let limit = self.time_limit(&query)?;
        self.in_time(limit, self.serve_kind(user, kind, target, query, verb, request)).await
    }

    /// Waits until the state that the request meets is as new as what any server of the cluster has acknowledged, unless
    /// the client says that an older one will do.
    async fn catch_up(&self, verb: &str, query: &Query) -> Answer<()> {
        let asked = query.get("resourceVersion").unwrap_or_default();
        let content = match (verb, asked) {
            ("get" | "list" | "watch", "") => false,
            // A revision that another server has given out may not have arrived here yet.
            ("get" | "list" | "watch", asked) => {
                asked.parse::<u64>().is_ok_and(|asked| asked <= self.store.revision().0)
            }
            _ => false,
        };
        if content {
            return Ok(());
        }
        self.store.fresh().await.map_err(|error| ApiError::from_store(&error))
    }

    /// Takes a place among the requests that are worked on. Parts of the same process and administrators are never turned
    /// away: they are who can help.
    fn slot(&self, caller: &Caller, user: &User, verb: &str, told: &Told) -> Answer<Slot<'_>> {
        let flight = &self.metrics.requests.in_flight;
        let (counter, dropped, most) = if matches!(verb, "get" | "list") {
            (&flight.read_only, &flight.dropped_read_only, self.config.max_requests_in_flight)
        } else {
            (&flight.mutating, &flight.dropped_mutating, self.config.max_mutating_requests_in_flight)
        };
        let (slot, before) = Slot::take(counter);
        // Where priority and fairness has a say, it has said it.
        let bounded =
            matches!(caller, Caller::Connection { .. }) && !user.is_in("system:masters") && told.flow.is_none();
        if bounded && most > 0 && before >= most {
            dropped.fetch_add(1, Ordering::Relaxed);
            return Err(ApiError::too_many_requests());
        }
        Ok(slot)
    }

    /// Sorts a request into its flow and waits for its turn. Connections and watches take no place: they live as long as
    /// their client likes. Parts of the same process are never held up.
    async fn place(
        &self,
        caller: &Caller,
        user: &User,
        asked: &Asked<'_>,
        seats: u64,
        told: &mut Told,
    ) -> Answer<Option<Place>> {
        told.flow =
            self.flows.classify(&*self.store, user, asked).await.map_err(|error| ApiError::from_store(&error))?;
        let Some(flow) = told.flow.as_ref().filter(|_| !told.long_running) else { return Ok(None) };
        if !matches!(caller, Caller::Connection { .. }) {
            return Ok(None);
        }
        match self.flows.place(flow, seats).await {
            Ok(place) => Ok(Some(place)),
            Err(Refused::Limit | Refused::Full | Refused::Late) => Err(ApiError::too_many_requests()),
        }
    }

    /// How many seats a list takes: by the objects that it looks at, which are those of the page unless a selector has to
    /// choose among all.
    async fn list_seats(&self, kind: &Kind, target: &Target, query: &Query) -> Answer<u64> {
        if !kind.stored || target.subresource.is_some() {
            return Ok(1);
        }
        let range = Range::all(&kind.collection);
        let all = self.store.list(&range, At::Latest).await.map_err(|error| ApiError::from_store(&error))?.count();
        let selects =
            ["labelSelector", "fieldSelector"].iter().any(|name| query.get(name).is_some_and(|s| !s.is_empty()));
        let page = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0 && !selects);
        Ok(list_seats(page.map_or(all, |page: usize| page.min(all))))
    }

    /// Who sends the request.
    async fn identify(&self, caller: &Caller, path: &str, headers: &HeaderMap) -> Answer<Authenticated> {
        let certificate = match caller {
            Caller::Known(user) => return Ok(Arc::clone(user).into()),
            Caller::Connection { certificate, .. } => certificate,
        };
        let bearer = text_header(headers, "authorization").and_then(bearer);
        let attempts = &self.metrics.attempts;
        let answer = self.security.authenticate(Credentials { connection: certificate.as_ref(), bearer, path }).await;
        let counter = match &answer {
            Ok(_) if certificate.is_none() && bearer.is_none() => &attempts.anonymous,
            Ok(_) => &attempts.success,
            Err(_) => &attempts.failure,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(answer?)
    }

    async fn permit(&self, user: &User, target: &Target, query: &Query, told: &Told) -> Answer<()> {
        let verb = told.verb;
        let selector = |name: &str| match verb {
            "list" | "watch" | "deletecollection" => query.get(name).unwrap_or_default(),
            _ => "",
        };
        // A selector with mistakes narrows nothing here; the verb refuses it in a moment.
        let fields = FieldSelector::parse(selector("fieldSelector")).unwrap_or_default();
        let labels = LabelSelector::parse(selector("labelSelector")).unwrap_or_default();
        // A list or watch of one name is about that object, so that a role can name it.
        let selected = fields.exact("metadata.name").filter(|name| path_segment(name).is_empty());
        let attributes = Attributes {
            verb,
            group: &target.group,
            version: &target.version,
            resource: &target.resource,
            subresource: target.subresource.as_deref().unwrap_or_default(),
            namespace: target.namespace.as_deref().unwrap_or_default(),
            name: target.name.as_deref().or(selected).unwrap_or_default(),
            field_selector: fields.terms(),
            label_selector: labels.requirements(),
            ..Attributes::default()
        };
        self.permit_attributes(user, &attributes, told).await
    }

    async fn serve_kind(
        self: &Arc<Self>,
        user: Arc<User>,
        kind: Arc<Kind>,
        target: Target,
        query: Query,
        verb: &'static str,
        request: Request<RequestBody>,
    ) -> Answer<Response<Body>> {
        if let Some(name) = target.subresource.as_deref() {
            let Some(subresource) = kind.subresource(name) else {
                // Which subresources a custom resource has is for its definition to say, not for the path.
                return Err(match (&kind.custom(), &target.name) {
                    (Some(_), Some(name)) => ApiError::not_found(&kind, name),
                    _ => ApiError::no_such_path(),
                });
            };
            if !is_connection(Some(name)) && !subresource.verbs.iter().any(|known| known.as_str() == verb) {
                return Err(ApiError::method_not_allowed());
            }
        } else {
            if !kind.verbs.iter().any(|known| known.as_str() == verb) {
                return Err(ApiError::method_not_allowed());
            }
            // Collections are posted to and listed; everything else needs the name of one object.
            let of_one = matches!(verb, "get" | "update" | "patch" | "delete");
            if of_one != target.name.is_some() && !(verb == "watch" && target.watch) {
                return Err(ApiError::method_not_allowed());
            }
            // Namespaced objects are created, and single ones found, only with their namespace.
            let needs_namespace = kind.namespaced && target.namespace.is_none();
            if needs_namespace && !matches!(verb, "list" | "watch") && (verb != "create" || kind.stored) {
                return Err(if verb == "create" || verb == "deletecollection" {
                    ApiError::method_not_allowed()
                } else {
                    ApiError::no_such_path()
                });
            }
            if !kind.namespaced && target.namespace.is_some() && &*kind.plural != "namespaces" {
                return Err(ApiError::no_such_path());
            }
        }
        if is_connection(target.subresource.as_deref()) {
            let accept = Accept::JSON;
            let mut call = Call::read(user, target, kind, query, accept, request.headers(), None)?;
            call.trail = request.extensions().get().cloned();
            return self.connect(call, verb, request).await;
        }
        let offer = offer(&kind, target.subresource.as_deref());
        let Some(mut accept) = accept::negotiate(text_header(request.headers(), "accept"), offer) else {
            return Err(ApiError::not_acceptable(offer));
        };
        accept.pretty = pretty(&request);
        let writes = !matches!(verb, "get" | "list" | "watch");
        let mut call = Call::read(user, target, kind, query, accept, request.headers(), writes.then_some(verb))?;
        call.trail = request.extensions().get().cloned();
        let body = if writes { decode::collect(request.into_body()).await? } else { bytes::Bytes::new() };
        call.show_body(&body, verb);
        if call.target.subresource.is_some() || !call.kind.stored {
            return self.special(call, verb, &body).await;
        }
        self.standard(&call, verb, &body).await
    }

    /// The verbs that every stored kind has.
    async fn standard(&self, call: &Call, verb: &str, body: &[u8]) -> Answer<Response<Body>> {
        let include = table::Include::of(&call.query)?;
        let made = match verb {
            "get" => self.get(call).await?,
            "list" => return self.list(call).await,
            "watch" => return self.watch(call).await,
            "create" => {
                let decoded = decode::object(&call.kind, call, body)?;
                let created = self.create_object(call, decoded.object, crate::create::Ownership::Update).await;
                respond::warned(created, decoded.warnings)?
            }
            "update" => {
                let decoded = decode::object(&call.kind, call, body)?;
                self.replace(call, decoded.object, decoded.warnings).await?
            }
            "patch" => self.patch(call, body).await?,
            "delete" => self.delete(call, &Options::read(body, &call.content_type, &call.query)?).await?,
            "deletecollection" => {
                return self.delete_collection(call, &Options::read(body, &call.content_type, &call.query)?).await;
            }
            _ => return Err(ApiError::method_not_allowed()),
        };
        self.settle_definition(call, &made).await;
        let made = self.showable(&call.kind, call.accept.form, made).await?;
        respond::made(&call.kind, made, call.accept, include)
    }

    /// GET of one object: the stored bytes as they are.
    async fn get(&self, call: &Call) -> Answer<respond::Made> {
        if let Some(asked) = crate::list::revision(&call.query)? {
            let current = self.store.revision();
            if asked > current.0 {
                return Err(ApiError::revision_too_large(asked, current.0));
            }
        }
        let record = self.read(&call.key()).await?.ok_or_else(|| ApiError::not_found(&call.kind, call.name()))?;
        Ok(respond::Made::ok(respond::Produced::Stored(record)))
    }

    async fn special(self: &Arc<Self>, call: Call, verb: &str, body: &bytes::Bytes) -> Answer<Response<Body>> {
        specials::serve(self, call, verb, body).await
    }
}

/// Says in its span what became of a request.
fn describe(span: &mut Open, told: &Told, method: Option<Method>, status: http::StatusCode) {
    let about = if told.kind.is_some() { told.resource() } else { told.path };
    span.name(format!("{} {about}", told.verb));
    if let Some(method) = method {
        span.fact("http.request.method", Fact::Text(method.to_string()));
    }
    span.fact("http.response.status_code", Fact::Number(status.as_u16().into()));
    if status.is_server_error() {
        span.failed(status);
    }
}

/// What a request for objects asks for, as flows see it.
fn asked_for<'t>(verb: &'t str, target: &'t Target) -> Asked<'t> {
    Asked {
        verb,
        group: &target.group,
        resource: &target.resource,
        subresource: target.subresource.as_deref().unwrap_or_default(),
        namespace: target.namespace.as_deref().unwrap_or_default(),
        path: "",
    }
}

/// Whether the client wants to read the answer itself.
fn pretty(request: &Request<RequestBody>) -> bool {
    let asked = request.uri().query().filter(|query| query.contains("pretty"));
    let flag = asked.and_then(|query| Query::parse(Some(query)).maybe_flag("pretty"));
    accept::wants_pretty(flag, text_header(request.headers(), "user-agent"))
}

/// In what forms the objects of a path can be shown: there are columns only for objects themselves, and the kinds of
/// subresources are all built in.
fn offer(kind: &Kind, subresource: Option<&str>) -> Offer {
    let shows_itself = subresource.is_none_or(|name| kind.subresource(name).is_some_and(|sub| sub.kind == kind.kind));
    Offer {
        protobuf: kind.schema().has_numbers() || !shows_itself,
        partial: true,
        table: shows_itself && kind.verbs.contains(&Verb::Get),
        discovery: false,
    }
}

/// The token of an `Authorization` header.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs() {
        let check = |method: Method, path: &str, query: &str, expected: &str| {
            let Route::Resource(target) = path::parse(path) else { panic!("{path}") };
            assert_eq!(verb(&method, &target, &Query::parse(Some(query))), expected, "{method} {path}?{query}");
        };
        check(Method::GET, "/api/v1/pods", "", "list");
        check(Method::GET, "/api/v1/pods", "watch=1", "watch");
        check(Method::GET, "/api/v1/pods", "watch=false", "list");
        check(Method::GET, "/api/v1/watch/pods", "", "watch");
        check(Method::GET, "/api/v1/namespaces/a/pods/b", "watch=1", "get");
        check(Method::DELETE, "/api/v1/namespaces/a/pods", "", "deletecollection");
        check(Method::DELETE, "/api/v1/namespaces/a/pods/b", "", "delete");
        check(Method::PUT, "/api/v1/namespaces/a/pods/b", "", "update");
        check(Method::OPTIONS, "/api/v1/pods", "", "");
    }

    #[test]
    fn bearer_tokens() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
    }
}
