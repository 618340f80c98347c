//! Logs and streams of pods: read from the node that runs them, passed on byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    ApiServer, Body,
    admit::Operation,
    body::{RequestBody, no_body},
    call::Call,
    error::{Answer, ApiError},
    outgoing::{
        endpoints::Endpoint,
        forward::{self, ForwardError, Outbound},
    },
    respond,
    security::Attributes,
    webhook::body_kind,
};

/// The port of a node's HTTP API when its status names none.
const NODE_PORT: u16 = 10250;

/// The longest error text of a node that is passed on.
const LONGEST_ERROR: usize = 64 << 10;

/// What has to be escaped in a query value.
const QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'&').add(b'+').add(b'=').add(b'%').add(b'?');

impl ApiServer {
    /// Serves `log`, `exec`, `attach`, `portforward` and `proxy`.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        call: Call,
        verb: &str,
        request: Request<RequestBody>,
    ) -> Answer<Response<Body>> {
        let subresource = call.target.subresource.clone().unwrap_or_default();
        if subresource == "log" {
            return if verb == "get" { self.log(&call).await } else { Err(ApiError::method_not_allowed()) };
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
                ..Attributes::default()
            };
            self.security.require(&call.user, &attributes).await?;
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
            (_, "proxy") => self.proxy(&call, request).await,
            _ => Err(ApiError::method_not_allowed()),
        }?;
        respond::add_warnings(response.headers_mut(), &warnings);
        Ok(response)
    }

    pub(crate) async fn pod(&self, call: &Call, name: &str) -> Answer<Value> {
        let key = crate::call::key(&call.kind, call.namespace(), name);
        let record = self.read(&key).await?.ok_or_else(|| ApiError::not_found(&call.kind, name))?;
        respond::parse(&call.kind, &record)
    }

    /// Where a node's HTTP API is.
    pub(crate) async fn node(&self, name: &str) -> Answer<Outbound> {
        let nodes = self.catalogue.load().by_resource("", "v1", "nodes").cloned().ok_or_else(ApiError::no_such_path)?;
        let record =
            self.read(&crate::call::key(&nodes, "", name)).await?.ok_or_else(|| ApiError::not_found(&nodes, name))?;
        let node = respond::parse(&nodes, &record)?;
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
        let port = port.filter(|port| *port != 0).unwrap_or(NODE_PORT);
        Ok(Outbound {
            endpoint: Endpoint { host: host.to_owned(), port },
            tls: Some((host.to_owned(), Arc::clone(&self.node_client))),
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
            .header(header::HOST, destination.endpoint.authority())
            .body(no_body())
            .map_err(|error| ApiError::internal(&error))?;
        let response = destination.send(request).await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(node_failure(response.map(Body::proxied)).await);
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
        if !forward::asks_upgrade(request.headers()) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let (parts, body) = request.into_parts();
        let mut passed = Request::new(body);
        // The client's upgrade waits among these.
        *passed.extensions_mut() = parts.extensions;
        *passed.method_mut() = parts.method;
        *passed.uri_mut() = uri(&path, &query)?;
        *passed.headers_mut() = forward::passed_headers(&parts.headers);
        let host = HeaderValue::from_str(&destination.endpoint.authority());
        passed.headers_mut().insert(header::HOST, host.map_err(|error| ApiError::internal(&error))?);
        let response = destination.pass(passed).await.map_err(unreachable)?;
        let code = response.status();
        if code == StatusCode::SWITCHING_PROTOCOLS || code.is_success() {
            return Ok(response);
        }
        Err(node_failure(response).await)
    }
}

/// A node that cannot be reached.
fn unreachable(error: ForwardError) -> ApiError {
    ApiError::internal_words(&format!("error dialing backend: {error}"))
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
async fn node_failure(response: Response<Body>) -> ApiError {
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
    fn parameters_are_escaped() {
        let mut query = String::new();
        push_parameter(&mut query, "command", "echo a&b=c");
        push_parameter(&mut query, "command", "%");
        assert_eq!(query, "command=echo%20a%26b%3Dc&command=%25");
    }
}
