//! Connections through the server: logs, exec, attach, port-forward and proxies, passed on byte for byte.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    ApiServer, Body,
    admit::Operation,
    body::{RequestBody, no_body},
    call::Call,
    error::{Answer, ApiError},
    outgoing::{
        endpoints::{self, Port, ResolveError},
        trust::Trust,
    },
    respond,
    road::asks_upgrade,
    security::Attributes,
    webhook::body_kind,
};

/// The port of a node's HTTP API when its status names none.
const NODE_PORT: u16 = 10250;

/// How long a node or pod may take to accept a connection.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// The longest error text of a node that is passed on.
const LONGEST_ERROR: usize = 64 << 10;

/// What has to be escaped in a query value.
const QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'&').add(b'+').add(b'=').add(b'%').add(b'?');

/// Headers that belong to one connection and are not passed on.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::TRAILER,
];

/// Where a request goes.
struct Destination {
    host: String,
    port: u16,
    tls: Tls,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    No,
    /// The API server shows its certificate and checks the node's.
    Node,
    /// Encrypted, but nobody says whose certificate would be the right one: a pod's, as upstream.
    Unverified,
}

impl Tls {
    /// By the scheme in front of a name that is proxied to.
    fn of(scheme: &str) -> Self {
        if scheme == "https" { Self::Unverified } else { Self::No }
    }
}

impl ApiServer {
    /// Serves `log`, `exec`, `attach`, `portforward` and `proxy`.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        call: Call,
        verb: &str,
        request: Request<RequestBody>,
    ) -> Answer<Response<Body>> {
        let subresource = call.target.subresource.clone().unwrap_or_default();
        if (&*call.kind.plural, subresource.as_str(), verb) == ("pods", "log", "get") {
            return self.log(&call).await;
        }
        let streams = matches!(subresource.as_str(), "exec" | "attach" | "portforward");
        if streams && verb != "create" {
            // A WebSocket can only be opened by GET, but running something is more than reading.
            let attributes = Attributes {
                verb: "create",
                group: &call.kind.group,
                version: &call.kind.version,
                resource: &call.kind.plural,
                subresource: &subresource,
                namespace: call.namespace(),
                name: call.name(),
                path: "",
            };
            self.security.require(&call.user, &attributes)?;
        }
        let method = request.method().clone();
        if streams && !matches!(method, Method::GET | Method::POST) {
            return Err(ApiError::method_not_allowed());
        }
        let mut warnings = self.review_inside(&call, Operation::Connect, call.name(), None, None).await?;
        let mut options = connect_options(&call, &subresource);
        warnings.extend(self.admit_body(&call, Operation::Connect, &mut options, None).await?);
        let mut response = match (&*call.kind.plural, subresource.as_str()) {
            ("pods", "exec" | "attach" | "portforward") => self.stream(&call, &subresource, request).await,
            ("pods", "proxy") => self.proxy_to_pod(&call, request).await,
            ("services", "proxy") => self.proxy_to_service(&call, request).await,
            ("nodes", "proxy") => self.proxy_to_node(&call, request).await,
            _ => Err(ApiError::method_not_allowed()),
        }?;
        respond::add_warnings(response.headers_mut(), &warnings);
        Ok(response)
    }

    async fn pod(&self, call: &Call, name: &str) -> Answer<Value> {
        let key = crate::call::key(&call.kind, call.namespace(), name);
        let record = self.read(&key).await?.ok_or_else(|| ApiError::not_found(&call.kind, name))?;
        respond::parse(&call.kind, &record)
    }

    /// Where a node's HTTP API is.
    async fn node(&self, name: &str) -> Answer<Destination> {
        let nodes = self.catalogue.by_resource("", "v1", "nodes").ok_or_else(ApiError::no_such_path)?;
        let record =
            self.read(&crate::call::key(nodes, "", name)).await?.ok_or_else(|| ApiError::not_found(nodes, name))?;
        let node = respond::parse(nodes, &record)?;
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        // Addresses first: the server has no resolver of its own.
        let host = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"]
            .iter()
            .find_map(|kind| addresses.iter().find(|address| address["type"] == **kind))
            .and_then(|address| address["address"].as_str())
            .ok_or_else(|| {
                ApiError::internal_words(&format!("no preferred addresses found; known addresses: {addresses:?}"))
            })?;
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        Ok(Destination {
            host: host.to_owned(),
            port: port.filter(|port| *port != 0).unwrap_or(NODE_PORT),
            tls: Tls::Node,
        })
    }

    /// `pods/log`.
    async fn log(&self, call: &Call) -> Answer<Response<Body>> {
        let pod = self.pod(call, call.name()).await?;
        let container = container_of(call, &pod, call.query.get("container"))?;
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
            return Ok(plain_text(Body::empty()));
        };
        check_log_options(call)?;
        let mut query = String::new();
        for key in
            ["follow", "previous", "timestamps", "tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream"]
        {
            if let Some(value) = call.query.get(key) {
                push_parameter(&mut query, key, value);
            } else if call.query.flag(key) {
                push_parameter(&mut query, key, "true");
            }
        }
        let path = format!("/containerLogs/{}/{}/{container}", call.namespace(), call.name());
        let destination = self.node(node).await?;
        let request = Request::builder()
            .uri(uri(&path, &query)?)
            .header(header::HOST, destination.host.as_str())
            .body(no_body())
            .map_err(|error| ApiError::internal(&error))?;
        let response = self.send(&destination, request).await?;
        if !response.status().is_success() {
            return Err(node_failure(response).await);
        }
        Ok(plain_text(Body::proxied(response.into_body())))
    }

    /// `pods/exec`, `attach` and `portforward`: an upgrade that goes through to the node.
    async fn stream(
        self: &Arc<Self>,
        call: &Call,
        subresource: &str,
        request: Request<RequestBody>,
    ) -> Answer<Response<Body>> {
        let pod = self.pod(call, call.name()).await?;
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
            return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name())));
        };
        let mut query = String::new();
        let path = if subresource == "portforward" {
            for port in call.query.all("ports").chain(call.query.all("port")) {
                push_parameter(&mut query, "port", port);
            }
            format!("/portForward/{}/{}", call.namespace(), call.name())
        } else {
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            if matches!(phase, "Succeeded" | "Failed") && subresource == "exec" {
                return Err(ApiError::bad_request(format!(
                    "cannot exec into a container in a completed pod; current phase is {phase}"
                )));
            }
            let container = container_of(call, &pod, call.query.get("container"))?;
            let flags = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
            for (asked, passed) in flags {
                if call.query.flag(asked) {
                    push_parameter(&mut query, passed, "1");
                }
            }
            if subresource == "exec" {
                for word in call.query.all("command") {
                    push_parameter(&mut query, "command", word);
                }
                format!("/exec/{}/{}/{container}", call.namespace(), call.name())
            } else {
                format!("/attach/{}/{}/{container}", call.namespace(), call.name())
            }
        };
        let destination = self.node(node).await?;
        if !asks_upgrade(&request) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        self.pass(&destination, &path, &query, request).await
    }

    async fn proxy_to_node(self: &Arc<Self>, call: &Call, request: Request<RequestBody>) -> Answer<Response<Body>> {
        let name = call.name().split(':').next().unwrap_or_default();
        let destination = self.node(name).await?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.pass(&destination, proxied_path(call), &query, request).await
    }

    async fn proxy_to_pod(self: &Arc<Self>, call: &Call, request: Request<RequestBody>) -> Answer<Response<Body>> {
        let (scheme, name, port) = split_name(call.name())
            .ok_or_else(|| ApiError::bad_request(format!("invalid pod request \"{}\"", call.name())))?;
        let pod = self.pod(call, name).await?;
        let Some(host) = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty()) else {
            return Err(ApiError::service_unavailable("address not allowed"));
        };
        let port = match port.parse() {
            Ok(port) => port,
            Err(_) if port.is_empty() => first_port(&pod).unwrap_or(80),
            Err(_) => return Err(ApiError::bad_request(format!("invalid port \"{port}\""))),
        };
        let destination = Destination { host: host.to_owned(), port, tls: Tls::of(scheme) };
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.pass(&destination, proxied_path(call), &query, request).await
    }

    async fn proxy_to_service(self: &Arc<Self>, call: &Call, request: Request<RequestBody>) -> Answer<Response<Body>> {
        let (scheme, name, port) = split_name(call.name())
            .ok_or_else(|| ApiError::bad_request(format!("invalid service request \"{}\"", call.name())))?;
        let endpoint =
            endpoints::resolve(&*self.store, call.namespace(), name, Port::Named(port)).await.map_err(|error| {
                match error {
                    ResolveError::NoService { .. } => ApiError::not_found(&call.kind, name),
                    ResolveError::Read { .. } | ResolveError::Damaged { .. } => ApiError::internal(&error),
                    error => ApiError::service_unavailable(error.to_string()),
                }
            })?;
        let destination = Destination { host: endpoint.host, port: endpoint.port, tls: Tls::of(scheme) };
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.pass(&destination, proxied_path(call), &query, request).await
    }

    /// Passes a request on, with its upgrade if it asks for one.
    async fn pass(
        &self,
        destination: &Destination,
        path: &str,
        query: &str,
        mut request: Request<RequestBody>,
    ) -> Answer<Response<Body>> {
        let upgrade = asks_upgrade(&request);
        let ours: Option<OnUpgrade> = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut passed = Request::builder().method(parts.method).uri(uri(path, query)?);
        if let Some(headers) = passed.headers_mut() {
            copy_headers(&parts.headers, headers, upgrade);
            // The credentials are for this server; the node knows this server by its own certificate.
            headers.remove(header::AUTHORIZATION);
            headers.retain_no_impersonation();
            let host = if destination.host.contains(':') {
                format!("[{}]:{}", destination.host, destination.port)
            } else {
                format!("{}:{}", destination.host, destination.port)
            };
            if let Ok(value) = HeaderValue::from_str(&host) {
                headers.insert(header::HOST, value);
            }
        }
        let passed = passed.body(body).map_err(|error| ApiError::internal(&error))?;
        let mut response = self.send(destination, passed).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let theirs = hyper::upgrade::on(&mut response);
            let Some(ours) = ours else { return Err(ApiError::internal_words("the node switched protocols unasked")) };
            tokio::spawn(async move {
                match tokio::try_join!(ours, theirs) {
                    Ok((ours, theirs)) => {
                        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                        if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
                            tracing::debug!(%error, "a stream through the server ended");
                        }
                    }
                    Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
                }
            });
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            copy_headers(response.headers(), answer.headers_mut(), true);
            return Ok(answer);
        }
        if upgrade && !response.status().is_success() {
            return Err(node_failure(response).await);
        }
        let (parts, body) = response.into_parts();
        let mut answer = Response::new(Body::proxied(body));
        *answer.status_mut() = parts.status;
        copy_headers(&parts.headers, answer.headers_mut(), false);
        Ok(answer)
    }

    /// Sends one request on a connection of its own.
    async fn send(
        &self,
        destination: &Destination,
        request: Request<RequestBody>,
    ) -> Answer<Response<hyper::body::Incoming>> {
        let address = (destination.host.as_str(), destination.port);
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::internal_words(&format!(
                "error dialing backend: dial tcp {}:{}: {error}",
                destination.host, destination.port
            ))
        };
        let dial = async {
            match destination.host.parse::<IpAddr>() {
                Ok(ip) => TcpStream::connect((ip, destination.port)).await,
                Err(_) => TcpStream::connect(address).await,
            }
        };
        let stream = tokio::time::timeout(CONNECT, dial)
            .await
            .map_err(|_| failed(&"i/o timeout"))?
            .map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        if destination.tls == Tls::No {
            return exchange(stream, request).await.map_err(|error| failed(&error));
        }
        let name = ServerName::try_from(destination.host.clone()).map_err(|error| failed(&error))?;
        let config = match destination.tls {
            Tls::Unverified => Arc::new(Trust::Anybody.client(None).map_err(|error| ApiError::internal(&error))?),
            Tls::Node | Tls::No => Arc::clone(&self.node_client),
        };
        let connector = TlsConnector::from(config);
        let stream = tokio::time::timeout(CONNECT, connector.connect(name, stream))
            .await
            .map_err(|_| failed(&"TLS handshake timeout"))?
            .map_err(|error| failed(&error))?;
        exchange(stream, request).await.map_err(|error| failed(&error))
    }
}

/// The object that admission sees of a connection: `PodExecOptions` and its like.
fn connect_options(call: &Call, subresource: &str) -> Value {
    let body = body_kind(&call.kind, subresource);
    let mut options = json!({"kind": body.kind, "apiVersion": body.version});
    if subresource == "proxy" {
        options["path"] = proxied_path(call).into();
        return options;
    }
    if subresource == "portforward" {
        let ports: Vec<i64> =
            call.query.all("ports").chain(call.query.all("port")).filter_map(|port| port.parse().ok()).collect();
        if !ports.is_empty() {
            options["ports"] = ports.into();
        }
        return options;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = container.into();
    }
    if subresource == "exec" {
        options["command"] = call.query.all("command").collect();
    }
    options
}

/// Speaks HTTP/1.1 on a fresh connection, which lives as long as the answer.
async fn exchange<S>(stream: S, request: Request<RequestBody>) -> Result<Response<hyper::body::Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a node or pod ended");
        }
    });
    sender.send_request(request).await
}

/// Drops `Impersonate-*`: they have been obeyed here.
trait WithoutImpersonation {
    fn retain_no_impersonation(&mut self);
}

impl WithoutImpersonation for HeaderMap {
    fn retain_no_impersonation(&mut self) {
        let names: Vec<HeaderName> =
            self.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
        for name in names {
            self.remove(name);
        }
    }
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrade: bool) {
    for (name, value) in from {
        if HOP_BY_HOP.contains(name) || (name == header::UPGRADE && !upgrade) || name == header::HOST {
            continue;
        }
        to.append(name.clone(), value.clone());
    }
    if upgrade {
        to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

fn uri(path: &str, query: &str) -> Answer<Uri> {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    text.parse().map_err(|_| ApiError::bad_request(format!("the path {path:?} cannot be passed on")))
}

fn push_parameter(query: &mut String, key: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(key);
    query.push('=');
    query.extend(utf8_percent_encode(value, QUERY));
}

fn plain_text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// The path behind a proxy, `/` when there is none.
fn proxied_path(call: &Call) -> &str {
    if call.target.rest.is_empty() { "/" } else { &call.target.rest }
}

/// `scheme:name:port`, `name:port` or `name`.
fn split_name(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [name] => Some(("", name, "")),
        [name, port] => Some(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((scheme, name, port)),
        _ => None,
    }
}

fn first_port(pod: &Value) -> Option<u16> {
    pod["spec"]["containers"]
        .as_array()?
        .iter()
        .find_map(|container| container["ports"].get(0)?["containerPort"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
}

fn names<'p>(pod: &'p Value, field: &str) -> Vec<&'p str> {
    pod["spec"][field].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

/// The container that a request is for: the one it names, or the only one, or the annotated default.
fn container_of(call: &Call, pod: &Value, asked: Option<&str>) -> Answer<String> {
    let containers = names(pod, "containers");
    let init = names(pod, "initContainers");
    let ephemeral = names(pod, "ephemeralContainers");
    let name = call.name();
    if let Some(asked) = asked {
        if containers.contains(&asked) || init.contains(&asked) || ephemeral.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    if let [only] = containers[..] {
        return Ok(only.to_owned());
    }
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    if let Some(default) = default.filter(|default| containers.contains(default)) {
        return Ok(default.to_owned());
    }
    let mut text =
        format!("a container name must be specified for pod {name}, choose one of: [{}]", containers.join(" "));
    if !init.is_empty() {
        text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    if !ephemeral.is_empty() {
        text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
    }
    Err(ApiError::bad_request(text))
}

fn check_log_options(call: &Call) -> Answer<()> {
    let invalid = |problem: String| {
        ApiError::new(422, "Invalid", format!("PodLogOptions \"{}\" is invalid: {problem}", call.name()))
    };
    let number = |key: &str| call.query.integer(key).map_err(ApiError::bad_request);
    if number("tailLines")?.is_some_and(|lines| lines < 0) {
        return Err(invalid("tailLines: Invalid value: must be greater than or equal to 0".to_owned()));
    }
    if number("limitBytes")?.is_some_and(|bytes| bytes < 1) {
        return Err(invalid("limitBytes: Invalid value: must be greater than 0".to_owned()));
    }
    if number("sinceSeconds")?.is_some_and(|seconds| seconds < 1) {
        return Err(invalid("sinceSeconds: Invalid value: must be greater than 0".to_owned()));
    }
    if call.query.get("sinceSeconds").is_some() && call.query.get("sinceTime").is_some() {
        return Err(invalid(
            "sinceSeconds: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
        ));
    }
    Ok(())
}

/// A node's error as a `Status`.
async fn node_failure(response: Response<hyper::body::Incoming>) -> ApiError {
    let code = response.status().as_u16();
    let bytes = match Limited::new(response.into_body(), LONGEST_ERROR).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => Bytes::from(error.to_string()),
    };
    if let Ok(status) = serde_json::from_slice::<Value>(&bytes)
        && status["kind"] == "Status"
    {
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        return ApiError::new(code, reason(code), message);
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match code {
        500 => ApiError::internal_words(&text),
        _ => ApiError::new(code, reason(code), text),
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_behind_a_proxy() {
        assert_eq!(split_name("web"), Some(("", "web", "")));
        assert_eq!(split_name("web:80"), Some(("", "web", "80")));
        assert_eq!(split_name("http:web:http"), Some(("http", "web", "http")));
        assert_eq!(split_name(":web:"), Some(("", "web", "")));
        assert_eq!(split_name("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(split_name("ftp:web:1"), None);
    }

    #[test]
    fn parameters_are_escaped() {
        let mut query = String::new();
        push_parameter(&mut query, "command", "echo a&b=c");
        push_parameter(&mut query, "command", "%");
        assert_eq!(query, "command=echo%20a%26b%3Dc&command=%25");
    }
}
