//! Upgrades: which protocol a client asks for, and who serves it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerId, ContainerRuntime, ExecOptions, Streams};
use kobune_spdy as spdy;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::query::Query;
use super::remote::{self, Client, Output};
use super::{Body, Refusal, Server, full, port_forward, websocket};
use crate::errors::chain;
use crate::pod;

const PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// How a client wants to talk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Protocol {
    /// A WebSocket with this subprotocol.
    WebSocket(String),
    /// SPDY/3.1 with this protocol on its streams.
    Spdy(String),
}

/// What the client asks for, the first of ours that it knows. Pure.
fn negotiate(headers: &HeaderMap, web_socket: &[&str], spdy: &[&str]) -> Result<Protocol, Refusal> {
    let words = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|word| word.trim().to_owned()).collect()
    };
    let upgrade = words("upgrade");
    let asks = |protocol: &str| upgrade.iter().any(|word| word.eq_ignore_ascii_case(protocol));
    let choose = |ours: &[&str], theirs: &[String]| {
        ours.iter().find(|own| theirs.iter().any(|word| word == *own)).map(|own| (*own).to_owned())
    };
    if asks("websocket") {
        let mut theirs = words("sec-websocket-protocol");
        if theirs.is_empty() {
            // A client that names none means the oldest.
            theirs.push(String::new());
        }
        let chosen = choose(web_socket, &theirs);
        return chosen
            .map(Protocol::WebSocket)
            .ok_or_else(|| Refusal::bad(format!("unsupported WebSocket subprotocols {theirs:?}")));
    }
    if asks("SPDY/3.1") {
        let theirs = words(PROTOCOL_HEADER);
        let chosen = choose(spdy, &theirs);
        return chosen.map(Protocol::Spdy).ok_or_else(|| {
            Refusal(
                StatusCode::FORBIDDEN,
                format!("unable to negotiate protocol: client supports {theirs:?}, server accepts {spdy:?}"),
            )
        });
    }
    Err(Refusal::bad("unable to upgrade: missing upgrade headers in request"))
}

fn switching(protocol: &Protocol, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| Refusal::bad(error.to_string()));
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match protocol {
        Protocol::WebSocket(chosen) => {
            let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Refusal::bad("missing Sec-WebSocket-Key"))?;
            answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
            answer.insert(SEC_WEBSOCKET_ACCEPT, value(&derive_accept_key(key.as_bytes()))?);
            if !chosen.is_empty() {
                answer.insert(SEC_WEBSOCKET_PROTOCOL, value(chosen)?);
            }
        }
        Protocol::Spdy(chosen) => {
            answer.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            answer.insert(PROTOCOL_HEADER, value(chosen)?);
        }
    }
    Ok(response)
}

async fn upgraded(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match upgrade.await {
        Ok(upgraded) => Some(TokioIo::new(upgraded)),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection was not upgraded");
            None
        }
    }
}

/// What is to be run or attached to.
#[derive(Clone)]
struct Wanted {
    attach: bool,
    id: ContainerId,
    options: ExecOptions,
}

async fn open(runtime: &Arc<dyn ContainerRuntime>, wanted: &Wanted) -> Result<Streams, String> {
    let opened = if wanted.attach {
        runtime.attach(&wanted.id, wanted.options.clone()).await
    } else {
        runtime.exec(&wanted.id, wanted.options.clone()).await
    };
    let mut streams = opened.map_err(|error| chain(&error))?;
    // What the client does not ask for it does not get.
    if !wanted.options.stdin {
        streams.stdin = None;
    }
    if !wanted.options.stdout {
        streams.stdout = None;
    }
    if !wanted.options.stderr {
        streams.stderr = None;
    }
    Ok(streams)
}

async fn talk(runtime: &Arc<dyn ContainerRuntime>, wanted: Wanted, client: Client) {
    match open(runtime, &wanted).await {
        Ok(streams) => remote::carry(client, streams).await,
        Err(message) => {
            let status = remote::failure_status(&message).to_string();
            // Without a receiver the client has gone.
            drop(client.output.send(Output::Status(Bytes::from(status))).await);
        }
    }
}

/// Serves `exec` and `attach`.
pub async fn remote(
    server: &Server,
    mut request: Request<Incoming>,
    verb: &str,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let owner = server.find(namespace, name)?;
    let running = server.running(&owner, container)?;
    let member = pod::members(pod::spec(&owner)).into_iter().find(|member| member.container.name == container);
    let tty = match verb {
        "attach" => member.as_ref().is_some_and(|member| member.container.tty.unwrap_or(false)),
        _ => query.is_true(&["tty"]),
    };
    let options = ExecOptions {
        command: query.all("command"),
        tty,
        stdin: query.is_true(&["input", "stdin"]),
        stdout: query.is_true(&["output", "stdout"]),
        stderr: query.is_true(&["error", "stderr"]) && !tty,
    };
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if verb == "exec" && options.command.is_empty() {
        return Err(Refusal::bad("you must specify a command"));
    }
    let wanted = Wanted { attach: verb == "attach", id: running.id, options };
    let protocol = negotiate(request.headers(), &websocket::Dialect::NAMES, &["v4.channel.k8s.io"])?;
    let response = switching(&protocol, request.headers())?;
    let upgrade = hyper::upgrade::on(&mut request);
    let runtime = Arc::clone(&server.context.config.runtime);
    tokio::spawn(async move {
        let Some(connection) = upgraded(upgrade).await else { return };
        match protocol {
            Protocol::WebSocket(chosen) => {
                let socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
                let dialect = websocket::Dialect::named(&chosen);
                let client = websocket::remote(socket, dialect, wanted.options.stdout, wanted.options.stderr);
                talk(&runtime, wanted, client).await;
            }
            Protocol::Spdy(_) => over_spdy(&runtime, wanted, connection).await,
        }
    });
    Ok(response)
}

/// The SPDY form: one stream each for errors, input, output and the terminal's size, opened by the client before anything runs.
async fn over_spdy(runtime: &Arc<dyn ContainerRuntime>, wanted: Wanted, connection: TokioIo<Upgraded>) {
    let mut connection = spdy::serve(connection);
    let mut expected =
        1 + usize::from(wanted.options.stdin) + usize::from(wanted.options.stdout) + usize::from(wanted.options.stderr);
    expected += usize::from(wanted.options.tty);
    let (mut error, mut stdout, mut stderr) = (None, None, None);
    let (closed, mut stdin) = mpsc::channel::<Bytes>(1);
    drop(closed);
    let (sizes, resize) = mpsc::channel(4);
    let mut others = Vec::new();
    let opening = async {
        while expected > 0 {
            let Some(mut stream) = connection.opened.recv().await else { return false };
            match stream.header("streamtype") {
                Some("error") => error = Some(stream.outgoing),
                Some("stdin") => {
                    stdin = stream.incoming;
                    others.push(stream.outgoing);
                }
                Some("stdout") => stdout = Some(stream.outgoing),
                Some("stderr") => stderr = Some(stream.outgoing),
                Some("resize") => {
                    let sizes = sizes.clone();
                    others.push(stream.outgoing);
                    tokio::spawn(async move {
                        while let Some(bytes) = stream.incoming.recv().await {
                            // A client may send several sizes at once, one JSON object after the other: the last one counts.
                            let last = bytes.split(|byte| *byte == b'\n').rev().find_map(remote::parse_size);
                            if let Some(size) = last
                                && sizes.send(size).await.is_err()
                            {
                                return;
                            }
                        }
                    });
                }
                _ => continue,
            }
            expected -= 1;
        }
        true
    };
    // Upstream's patience with clients that do not open their streams.
    match tokio::time::timeout(std::time::Duration::from_secs(30), opening).await {
        Ok(true) => {}
        _ => return,
    }
    let (output, mut outputs) = mpsc::channel(16);
    let client = Client { stdin, resize, output, gone: connection.over.clone() };
    let write = async {
        while let Some(message) = outputs.recv().await {
            let (to, bytes) = match message {
                Output::Stdout(bytes) => (&stdout, bytes),
                Output::Stderr(bytes) => (&stderr, bytes),
                Output::Status(bytes) => (&error, bytes),
            };
            if let Some(to) = to
                && to.send(bytes).await.is_err()
            {
                return;
            }
        }
        for stream in [&stdout, &stderr, &error].into_iter().flatten().chain(&others) {
            if stream.end().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(talk(runtime, wanted, client), write);
}

/// Serves port forwarding.
pub async fn port_forward(
    server: &Server,
    mut request: Request<Incoming>,
    namespace: &str,
    name: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let owner = server.find(namespace, name)?;
    let netns = network_namespace(server, &owner)?;
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    let web_socket: Vec<_> = [tunnel].into_iter().chain(websocket::PORT_NAMES).collect();
    let protocol = negotiate(request.headers(), &web_socket, &["portforward.k8s.io"])?;
    let mut ports = Vec::new();
    for text in query.all("ports").iter().chain(&query.all("port")).flat_map(|list| list.split(',')) {
        ports.push(text.parse::<u16>().map_err(|_| Refusal::bad(format!("unable to parse \"{text}\" as a port")))?);
    }
    let in_request = matches!(&protocol, Protocol::WebSocket(chosen) if chosen != tunnel);
    if in_request && (ports.is_empty() || ports.len() > 100) {
        return Err(Refusal::bad("query parameter \"port\" is required"));
    }
    let response = switching(&protocol, request.headers())?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Some(connection) = upgraded(upgrade).await else { return };
        match protocol {
            Protocol::Spdy(_) => port_forward::over_spdy(connection, netns).await,
            Protocol::WebSocket(chosen) => {
                let socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
                if chosen == tunnel {
                    port_forward::over_spdy(websocket::tunnel(socket), netns).await;
                } else {
                    port_forward::over_websocket(socket, websocket::Dialect::named(&chosen), &ports, netns).await;
                }
            }
        }
    });
    Ok(response)
}

/// The network namespace of a running pod; `None` is the host's.
fn network_namespace(server: &Server, owner: &Pod) -> Result<Option<PathBuf>, Refusal> {
    if pod::spec(owner).host_network.unwrap_or(false) {
        return Ok(None);
    }
    let sandboxes = server.context.config.runtime.pod_sandboxes().into_iter();
    let ready = sandboxes.filter(|sandbox| {
        sandbox.config.uid == pod::uid(owner) && sandbox.state == kobune_runtime::SandboxState::Ready
    });
    let newest = ready.max_by_key(|sandbox| sandbox.config.attempt).and_then(|sandbox| sandbox.network_namespace);
    newest.map(Some).ok_or_else(|| {
        Refusal::internal(format!("unable to forward port because pod is not running: \"{}\"", pod::full_name(owner)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiations() {
        let check = |headers: &[(&'static str, &str)], expected: Option<Protocol>| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().expect("a value"));
            }
            assert_eq!(negotiate(&map, &["v5", "v4"], &["v4"]).ok(), expected, "{headers:?}");
        };
        let socket = |name: &str| Some(Protocol::WebSocket(name.to_owned()));
        check(&[("upgrade", "websocket"), ("sec-websocket-protocol", "v4, v5")], socket("v5"));
        check(&[("upgrade", "WebSocket"), ("sec-websocket-protocol", "v4")], socket("v4"));
        check(&[("upgrade", "websocket"), ("sec-websocket-protocol", "v1")], None);
        check(&[("upgrade", "websocket")], None);
        check(
            &[("upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, "v5"), (PROTOCOL_HEADER, "v4")],
            Some(Protocol::Spdy("v4".to_owned())),
        );
        check(&[("upgrade", "SPDY/3.1")], None);
        check(&[], None);
    }
}
