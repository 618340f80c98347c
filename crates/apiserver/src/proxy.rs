//! The `proxy` subresources of pods, services and nodes: plain HTTP through the server, with every method.

mod rewrite;

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::Value;

use crate::{
    ApiServer, Body,
    body::RequestBody,
    call::{Call, header as text_header},
    error::{Answer, ApiError},
    outgoing::{
        endpoints::{self, Endpoint, Port, ResolveError},
        forward::{self, Outbound},
        trust::Trust,
    },
};
use rewrite::Rewriter;

/// `scheme:name:port` of a proxied object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named<'n> {
    tls: bool,
    name: &'n str,
    port: &'n str,
}

impl ApiServer {
    /// Serves `pods/proxy`, `services/proxy` and `nodes/proxy`.
    pub(crate) async fn proxy(&self, call: &Call, request: Request<RequestBody>) -> Answer<Response<Body>> {
        let resource = &*call.kind.plural;
        let singular = resource.strip_suffix('s').unwrap_or(resource);
        let named = Named::parse(call.name())
            .ok_or_else(|| ApiError::bad_request(format!("invalid {singular} request {:?}", call.name())))?;
        let outbound = match resource {
            "pods" => self.pod_behind_proxy(call, named).await?,
            "services" => self.service_behind_proxy(call, named).await?,
            "nodes" => self.node_behind_proxy(named).await?,
            _ => return Err(ApiError::method_not_allowed()),
        };
        let upgrade = forward::asks_upgrade(request.headers());
        let rest = &call.target.rest;
        if rest.is_empty() && !upgrade && matches!(*request.method(), Method::GET | Method::HEAD) {
            // A page's relative addresses need the slash.
            return Ok(to_the_slash(&request));
        }
        let path = request.uri().path();
        let prefix = path.strip_suffix(rest.as_str()).unwrap_or(path).to_owned();
        let asked_host = text_header(request.headers(), "host")
            .map(str::to_owned)
            .or_else(|| request.uri().authority().map(ToString::to_string))
            .unwrap_or_default();
        let rewriter = Rewriter { prefix, host: outbound.endpoint.authority(), asked_host };
        let (parts, body) = request.into_parts();
        let target = match parts.uri.query() {
            Some(query) => format!("{}?{query}", if rest.is_empty() { "/" } else { rest }),
            None => if rest.is_empty() { "/" } else { rest }.to_owned(),
        };
        let mut passed = Request::new(body);
        // The client's upgrade waits among these.
        *passed.extensions_mut() = parts.extensions;
        *passed.method_mut() = parts.method;
        *passed.uri_mut() =
            target.parse().map_err(|_| ApiError::bad_request(format!("the path {target:?} cannot be passed on")))?;
        *passed.headers_mut() = headers(&parts.headers, &rewriter, rest)?;
        let response = outbound
            .pass(passed)
            .await
            .map_err(|error| ApiError::service_unavailable(format!("error trying to reach service: {error}")))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Ok(rewriter.response(response))
    }

    async fn pod_behind_proxy(&self, call: &Call, named: Named<'_>) -> Answer<Outbound> {
        let pod = self.pod(call, named.name).await?;
        let host = pod["status"]["podIP"].as_str().unwrap_or_default();
        check_address(host)?;
        let port = match named.port.parse() {
            Ok(port) => port,
            Err(_) if named.port.is_empty() => first_port(&pod).unwrap_or(if named.tls { 443 } else { 80 }),
            Err(_) => return Err(ApiError::bad_request(format!("invalid port {:?}", named.port))),
        };
        outbound(Endpoint { host: host.to_owned(), port }, named.tls)
    }

    async fn service_behind_proxy(&self, call: &Call, named: Named<'_>) -> Answer<Outbound> {
        let endpoint = endpoints::resolve(&*self.store, call.namespace(), named.name, Port::Named(named.port))
            .await
            .map_err(|error| match error {
                ResolveError::NoService { .. } => ApiError::not_found(&call.kind, named.name),
                ResolveError::Read { .. } | ResolveError::Damaged { .. } => ApiError::internal(&error),
                error => ApiError::service_unavailable(error.to_string()),
            })?;
        outbound(endpoint, named.tls)
    }

    async fn node_behind_proxy(&self, named: Named<'_>) -> Answer<Outbound> {
        let agent = self.node(named.name).await?;
        match named.port.parse() {
            Ok(port) if port != agent.endpoint.port => {
                check_address(&agent.endpoint.host)?;
                outbound(Endpoint { port, ..agent.endpoint }, named.tls)
            }
            Err(_) if !named.port.is_empty() => Err(ApiError::bad_request(format!("invalid port {:?}", named.port))),
            _ => Ok(agent),
        }
    }
}

impl<'n> Named<'n> {
    /// `scheme:name:port`, `name:port` or `name`.
    fn parse(text: &'n str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Named { tls: scheme == "https", name, port })
    }
}

/// Nobody says whose certificate a pod should show, so any is good, as upstream.
fn outbound(endpoint: Endpoint, tls: bool) -> Answer<Outbound> {
    let tls = if tls {
        let client = Trust::Anybody.client(None).map_err(|error| ApiError::internal(&error))?;
        Some((endpoint.host.clone(), Arc::new(client)))
    } else {
        None
    };
    Ok(Outbound { endpoint, tls })
}

/// Refuses addresses that mean this machine or its link: who may write a pod's status may not reach those.
fn check_address(host: &str) -> Answer<()> {
    let Ok(address) = host.parse::<IpAddr>() else {
        return if host.is_empty() { Err(ApiError::bad_request("address not allowed")) } else { Ok(()) };
    };
    let barred = address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => {
                address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
            }
        };
    if barred { Err(ApiError::bad_request("address not allowed")) } else { Ok(()) }
}

fn first_port(pod: &Value) -> Option<u16> {
    pod["spec"]["containers"]
        .as_array()?
        .iter()
        .find_map(|container| container["ports"].get(0)?["containerPort"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
}

/// The redirect of a proxy's bare address to the one with a slash.
fn to_the_slash(request: &Request<RequestBody>) -> Response<Body> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", request.uri().path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The headers that the proxied server sees.
fn headers(from: &HeaderMap, rewriter: &Rewriter, rest: &str) -> Answer<HeaderMap> {
    let mut headers = forward::passed_headers(from);
    let invalid = |_| ApiError::bad_request("the request cannot be passed on");
    let host = if rewriter.asked_host.is_empty() { &rewriter.host } else { &rewriter.asked_host };
    headers.insert(header::HOST, HeaderValue::from_str(host).map_err(invalid)?);
    let uri = format!("{}{rest}", rewriter.prefix);
    headers.insert("x-forwarded-uri", HeaderValue::from_str(&uri).map_err(invalid)?);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, expected: Option<(bool, &str, &str)>| {
            let parsed = Named::parse(text).map(|named| (named.tls, named.name, named.port));
            assert_eq!(parsed, expected, "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("http:web:http", Some((false, "web", "http")));
        check("https:web:", Some((true, "web", "")));
        check(":web:", Some((false, "web", "")));
        check("ftp:web:1", None);
        check("http::1", None);
        check("a:b:c:d", None);
    }

    #[test]
    fn this_machine_is_out_of_reach() {
        let check = |host: &str, allowed: bool| assert_eq!(check_address(host).is_ok(), allowed, "{host}");
        check("10.0.0.1", true);
        check("fd00::1", true);
        check("node.example", true);
        for host in ["", "127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"] {
            check(host, false);
        }
    }
}
