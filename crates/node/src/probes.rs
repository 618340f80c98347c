//! Probes: when they run (one task a probe, while the container runs), what counts as success, and what they look at.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kobune_runtime::{ContainerId, ContainerRuntime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Of an answer's body no more is read: it only becomes part of a message.
const BODY_LIMIT: usize = 10 * 1024;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Holds the others back until it has succeeded once.
    Startup,
    /// Failing takes the pod out of services.
    Readiness,
    /// Failing restarts the container.
    Liveness,
}

impl ProbeKind {
    /// As events spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Success,
    /// All is well, but something is odd.
    Warning(String),
    /// It is not.
    Failure(String),
}

/// Counts results against the thresholds. Pure.
#[derive(Clone, Debug)]
pub struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    run: i32,
}

impl Counter {
    /// From a probe's thresholds.
    pub fn new(probe: &Probe) -> Counter {
        Counter {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            last: None,
            run: 0,
        }
    }

    /// Counts one result; the verdict when a threshold is reached.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

/// What a probe looks at.
#[derive(Clone)]
pub struct Target {
    /// For `exec`.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// For `httpGet` over TLS.
    pub tls: Arc<rustls::ClientConfig>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container as wanted.
    pub container: Arc<Container>,
    /// The container that runs.
    pub id: ContainerId,
    /// The pod's address.
    pub ip: Option<IpAddr>,
}

/// The number of a port that may be named.
pub fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .or_else(|| name.parse().ok()),
    }
}

/// Looks once.
pub async fn look(target: &Target, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match target.runtime.exec_sync(&target.id, command, timeout).await {
            Ok(result) if result.exit_code == 0 => Outcome::Success,
            Ok(result) => {
                let mut output = result.stdout;
                output.extend_from_slice(&result.stderr);
                output.truncate(BODY_LIMIT);
                Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
            }
            Err(error) => Outcome::Failure(format!("command failed: {}", chain(&error))),
        };
    }
    let network = async {
        if let Some(http) = &probe.http_get {
            http_get(target, http, "kube-probe/1.36").await
        } else if let Some(tcp) = &probe.tcp_socket {
            let Some(address) = address(target, tcp.host.as_deref(), port_number(&tcp.port, &target.container)) else {
                return Outcome::Failure("the probe's address can't be found".to_owned());
            };
            match TcpStream::connect(address).await {
                Ok(_) => Outcome::Success,
                Err(error) => Outcome::Failure(format!("dial tcp {address}: connect: {error}")),
            }
        } else if let Some(grpc) = &probe.grpc {
            match address(target, None, u16::try_from(grpc.port).ok()) {
                Some(address) => grpc_check(address, grpc.service.as_deref().unwrap_or_default()).await,
                None => Outcome::Failure("the probe's address can't be found".to_owned()),
            }
        } else {
            Outcome::Success
        }
    };
    match tokio::time::timeout(timeout, network).await {
        Ok(outcome) => outcome,
        Err(_) if probe.http_get.is_some() => Outcome::Failure(
            "Get: context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        ),
        Err(_) => Outcome::Failure(format!("timeout: no answer within {}s", timeout.as_secs())),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::errors::chain(error)
}

fn address(target: &Target, host: Option<&str>, port: Option<u16>) -> Option<SocketAddr> {
    let ip = match host.filter(|host| !host.is_empty()) {
        Some("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        Some(host) => host.parse().ok(),
        None => target.ip,
    };
    Some(SocketAddr::new(ip?, port?))
}

/// One GET, redirects on the same host followed, as upstream's prober and hooks do it.
pub async fn http_get(target: &Target, action: &HTTPGetAction, agent: &str) -> Outcome {
    let Some(port) = port_number(&action.port, &target.container) else {
        return Outcome::Failure("the probe's port can't be found".to_owned());
    };
    let host = action.host.as_deref().filter(|host| !host.is_empty()).map(str::to_owned);
    let Some(host) = host.or_else(|| target.ip.map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }))
    else {
        return Outcome::Failure("the pod has no address".to_owned());
    };
    let tls = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut url = format!("{}://{host}:{port}{path}", if tls { "https" } else { "http" });
    for _ in 0..=10 {
        let uri: http::Uri = match url.parse() {
            Ok(uri) => uri,
            Err(_) => return Outcome::Failure(format!("{url} is not a URL")),
        };
        let answer = match get_once(target, action, &uri, agent).await {
            Ok(answer) => answer,
            Err(message) => return Outcome::Failure(format!("Get \"{url}\": {message}")),
        };
        let (status, location, body) = answer;
        if (300..400).contains(&status)
            && let Some(location) = location
        {
            let next = join(&uri, &location);
            if next.host() != uri.host() {
                return Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"));
            }
            url = next.to_string();
            continue;
        }
        return if (200..400).contains(&status) {
            Outcome::Success
        } else {
            Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"))
        };
    }
    Outcome::Failure(format!("Get \"{url}\": stopped after 10 redirects"))
}

fn join(base: &http::Uri, location: &str) -> http::Uri {
    if let Ok(whole) = location.parse::<http::Uri>()
        && whole.scheme().is_some()
    {
        return whole;
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{location}")
    };
    let mut parts = base.clone().into_parts();
    if let Ok(path) = path.parse() {
        parts.path_and_query = Some(path);
    }
    http::Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

type Answer = (u16, Option<String>, String);

async fn get_once(target: &Target, action: &HTTPGetAction, uri: &http::Uri, agent: &str) -> Result<Answer, String> {
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or("no host")?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let ip: IpAddr = match host.trim_matches(['[', ']']) {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        text => text.parse().map_err(|_| format!("lookup {host}: no such host"))?,
    };
    let address = SocketAddr::new(ip, port);
    let mut request = http::Request::get(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str));
    let own = |name: &str| action.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case(name));
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    if !own("host") {
        request = request.header("Host", format!("{host}:{port}"));
    }
    if !own("user-agent") {
        request = request.header("User-Agent", agent);
    }
    if !own("accept") {
        request = request.header("Accept", "*/*");
    }
    let request =
        request.header("Connection", "close").body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| format!("dial tcp {address}: connect: {error}"))?;
    if tls {
        let name = rustls::pki_types::ServerName::from(ip);
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&target.tls))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let conversation = async {
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let status = response.status().as_u16();
        let location =
            response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = match Limited::new(response.into_body(), BODY_LIMIT).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(_) => String::new(),
        };
        Ok((status, location, body))
    };
    let mut connection = std::pin::pin!(connection);
    let mut conversation = std::pin::pin!(conversation);
    tokio::select! {
        answer = &mut conversation => answer,
        // The connection may end before the answer has been read out of it.
        _ended = &mut connection => conversation.await,
    }
}

async fn grpc_check(address: SocketAddr, service: &str) -> Outcome {
    let failed = |what: String| Outcome::Failure(format!("error: {what}"));
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Failure(format!("timeout: failed to connect service \"{address}\": {error}")),
    };
    let (mut sender, connection) =
        match hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await {
            Ok(pair) => pair,
            Err(error) => return failed(chain(&error)),
        };
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(health_request(service)));
    let request = match request {
        Ok(request) => request,
        Err(error) => return failed(error.to_string()),
    };
    let conversation = async {
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        if let Some(status) = response.headers().get("grpc-status").filter(|status| status.as_bytes() != b"0") {
            return Err(format!("grpc-status {}", status.to_str().unwrap_or("?")));
        }
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(|error| error.to_string())?;
        if let Some(status) =
            body.trailers().and_then(|trailers| trailers.get("grpc-status")).filter(|status| status.as_bytes() != b"0")
        {
            return Err(format!("grpc-status {}", status.to_str().unwrap_or("?")));
        }
        Ok(health_answer(&body.to_bytes()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut conversation = std::pin::pin!(conversation);
    let answer = tokio::select! {
        answer = &mut conversation => answer,
        _ended = &mut connection => conversation.await,
    };
    match answer {
        Ok(1) => Outcome::Success,
        Ok(status) => {
            let name =
                ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(usize::from(status)).unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
        Err(error) => failed(error),
    }
}

/// A gRPC frame with a `HealthCheckRequest`: field 1 is the service's name.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    Bytes::from(frame)
}

/// The status in a frame with a `HealthCheckResponse`: field 1, a small number.
fn health_answer(frame: &[u8]) -> u8 {
    match frame.get(5..) {
        Some([0x08, status, ..]) => *status,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let check = |success: i32, failure: i32, results: &str, expected: &str| {
            let probe =
                Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
            let mut counter = Counter::new(&probe);
            let verdicts: String = results
                .chars()
                .map(|result| match counter.count(result == '+') {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                })
                .collect();
            assert_eq!(verdicts, expected, "{results}");
        };
        check(1, 3, "+--+---", "+..+..-");
        check(2, 1, "++-+-++", ".+-.-.+");
        check(1, 3, "----", "..--");
    }

    #[test]
    fn redirects_are_joined() {
        let check = |base: &str, location: &str, expected: &str| {
            assert_eq!(join(&base.parse().expect("a uri"), location).to_string(), expected);
        };
        check("http://a:1/x/y", "/z?q=1", "http://a:1/z?q=1");
        check("http://a:1/x/y", "z", "http://a:1/x/z");
        check("http://a:1/x", "http://b/", "http://b/");
    }

    #[test]
    fn health_frames() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(health_answer(&[0, 0, 0, 0, 2, 8, 1]), 1);
        assert_eq!(health_answer(&[0, 0, 0, 0, 0]), 0);
    }

    #[test]
    fn named_ports() {
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}),
        )
        .expect("a container");
        assert_eq!(port_number(&IntOrString::String("http".into()), &container), Some(8080));
        assert_eq!(port_number(&IntOrString::Int(80), &container), Some(80));
        assert_eq!(port_number(&IntOrString::String("x".into()), &container), None);
    }
}
