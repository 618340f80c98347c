//! `kobune port-forward`: ports of a pod as ports of this machine, with kubectl's flags and lines.
//!
//! kubectl carries all connections in one tunnel of SPDY streams; here each has a WebSocket of its own, in the older dialect that
//! every API server still speaks. What the tunnel tells kubectl, that the pod or the server has gone, a watch of the pod tells here.

mod ports;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use self::ports::{Address, Pair};
use super::follow::{News, follow};
use super::words::ending;
use super::{PlaceOptions, channels, pods};
use crate::request;

/// How many connections are carried at once; more of them wait.
const AT_ONCE: usize = 1_000;

/// How much is read at once.
const PIECE: usize = 32 << 10;

/// How long a pod may say nothing once the near end has said all. The dialect has no word for one direction's end, and of a peer
/// that closed its socket nobody can tell whether it still listens.
const LINGER: Duration = Duration::from_secs(15);

/// The flags of `port-forward`.
#[derive(Debug, Clone, Args)]
pub struct PortForwardOptions {
    /// A pod, or TYPE/NAME of what has pods, such as service/web; then ports: REMOTE, LOCAL:REMOTE, or :REMOTE for any free one
    #[arg(value_name = "POD|TYPE/NAME [LOCAL:]REMOTE...", required = true)]
    pub arguments: Vec<String>,
    /// The addresses to listen on; localhost is 127.0.0.1 and ::1, of which one is enough
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost")]
    pub address: Vec<String>,
    /// How long to wait for a pod to be there
    #[arg(long, value_name = "DURATION", default_value = "1m0s")]
    pub pod_running_timeout: String,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Forwards ports until it is interrupted or the pod has gone.
pub async fn port_forward(options: PortForwardOptions) -> Result<ExitCode> {
    ending(run(&options).await)
}

async fn run(options: &PortForwardOptions) -> Result<ExitCode> {
    let (target, wanted) = match options.arguments.as_slice() {
        [target, wanted @ ..] if !wanted.is_empty() => (target, wanted),
        _ => bail!(
            "TYPE/NAME and list of ports are required for port-forward\nSee 'kobune port-forward -h' for help and examples"
        ),
    };
    let limit = pods::timeout(&options.pod_running_timeout)?;
    let (kind, name) = pods::split(target)?;
    let cluster = options.place.connect.connect().await?;
    let namespace = options.place.namespace(&cluster);
    let meant = pods::find(&cluster, &namespace, kind, name, limit).await?;
    let pairs = ports::pairs(wanted, &meant.object, &meant.pod)?;
    let addresses = ports::addresses(&options.address)?;
    let phase = meant.pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        bail!("unable to forward port because pod is not running. Current status={phase}");
    }
    let pod = meant.pod["metadata"]["name"].as_str().unwrap_or_default();
    let listeners = listen(&addresses, &pairs).await?;
    let road = Arc::new(Road {
        client: cluster.client.clone(),
        path: format!("/api/v1/namespaces/{}/pods/{}/portforward", request::query(&namespace), request::query(pod)),
        free: Arc::new(Semaphore::new(AT_ONCE)),
        broken: Notify::new(),
    });
    let mut accepting = JoinSet::new();
    for (listener, pair) in listeners {
        accepting.spawn(accept(Arc::clone(&road), listener, pair));
    }
    tokio::select! {
        result = gone(&cluster.client, &namespace, pod) => Err(result),
        // As kubectl: a connection that the pod's side fails ends them all, so that whoever started this notices.
        () = road.broken.notified() => Err(anyhow!("lost connection to pod")),
        result = tokio::signal::ctrl_c() => Ok(result.map(|()| ExitCode::SUCCESS)?),
        Some(ended) = accepting.join_next() => match ended {
            Ok(error) => Err(error),
            Err(error) => Err(error.into()),
        },
    }
}

/// Ends when the pod has gone, or the server.
async fn gone(client: &kube::Client, namespace: &str, pod: &str) -> anyhow::Error {
    let folder = format!("/api/v1/namespaces/{}/pods", request::query(namespace));
    let query = format!("fieldSelector={}", request::query(&format!("metadata.name={pod}")));
    let ended = |pod: &serde_json::Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let watched = follow(client, &folder, &query, |news| {
        Ok(match news {
            News::Listed(pods) => pods.first().is_none_or(ended).then_some(()),
            News::Event(kind, pod) => (kind == "DELETED" || ended(&pod)).then_some(()),
        })
    });
    match watched.await {
        Ok(()) => anyhow!("lost connection to pod"),
        // Whoever may forward may not always watch. Then each connection fails by itself.
        Err(error) if error.to_string().contains("(Forbidden)") => std::future::pending().await,
        Err(error) => anyhow!("lost connection to pod: {error:#}"),
    }
}

/// The near ends: as kubectl, a port that cannot be had is said, and only none at all is a failure.
async fn listen(addresses: &[Address], pairs: &[Pair]) -> Result<Vec<(TcpListener, Pair)>> {
    let mut listeners = Vec::new();
    let mut pairs = pairs.to_vec();
    let mut some = false;
    for pair in &mut pairs {
        let mut errors = Vec::new();
        let (mut fine, mut local, mut strict) = (false, 0, 0);
        for address in addresses {
            let place = SocketAddr::new(address.ip, pair.local);
            match TcpListener::bind(place).await {
                Ok(listener) => {
                    let bound = listener.local_addr()?;
                    // A free port that was found for the first address is the others' too.
                    pair.local = bound.port();
                    println!("Forwarding from {bound} -> {}", pair.remote);
                    listeners.push((listener, *pair));
                    fine |= address.localhost;
                }
                Err(error) => {
                    let family = if place.is_ipv4() { "tcp4" } else { "tcp6" };
                    errors.push(format!(
                        "unable to create listener: Error listen {family} {place}: bind: {}",
                        as_go(&error)
                    ));
                    if address.localhost { local += 1 } else { strict += 1 }
                }
            }
        }
        if (local > 0 && !fine) || strict > 0 {
            eprintln!(
                "Unable to listen on port {}: Listeners failed to create with the following errors: [{}]",
                pair.local,
                errors.join(" ")
            );
        } else {
            some = true;
        }
    }
    if !some {
        let pairs: Vec<String> = pairs.iter().map(|pair| format!("{{{} {}}}", pair.local, pair.remote)).collect();
        bail!("unable to listen on any of the requested ports: [{}]", pairs.join(" "));
    }
    Ok(listeners)
}

/// An error of the system in Go's words: `address already in use`.
fn as_go(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

/// The way to the pod.
struct Road {
    client: kube::Client,
    path: String,
    free: Arc<Semaphore>,
    broken: Notify,
}

/// Takes connections. Comes back only when that is no longer possible.
async fn accept(road: Arc<Road>, listener: TcpListener, pair: Pair) -> anyhow::Error {
    let mut carried = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&road.free).acquire_owned().await else {
            return anyhow!("nothing is forwarded any more");
        };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => return anyhow!("error accepting connection on port {}: {error}", pair.local),
        };
        println!("Handling connection for {}", pair.local);
        carried.spawn(handle(Arc::clone(&road), connection, pair, permit));
        while carried.try_join_next().is_some() {}
    }
}

async fn handle(road: Arc<Road>, connection: TcpStream, pair: Pair, _permit: OwnedSemaphorePermit) {
    if let Err(error) = carry(&road, connection, pair.remote).await {
        eprintln!("error: an error occurred forwarding {} -> {}: {error:#}", pair.local, pair.remote);
        road.broken.notify_one();
    }
}

/// Carries one connection. Channel 0 has its bytes, channel 1 what went wrong; each begins with the port's number.
async fn carry(road: &Road, connection: TcpStream, port: u16) -> Result<()> {
    let request = http::Request::get(format!("{}?ports={port}", road.path)).body(Vec::new())?;
    let upgraded = road.client.connect(request).await.map_err(channels::refusal)?;
    let (mut sink, mut source) = upgraded.into_stream().split();
    let (mut reader, mut writer) = connection.into_split();
    let ended = Notify::new();
    let up = async {
        let mut buffer = vec![0; PIECE + 1];
        loop {
            match reader.read(&mut buffer[1..]).await {
                Ok(count) if count > 0 => {
                    if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..=count]))).await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        ended.notify_one();
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut begun = [false; 2];
        let mut last = false;
        loop {
            let next = async {
                if last { tokio::time::timeout(LINGER, source.next()).await.ok() } else { Some(source.next().await) }
            };
            // Dropping the read of a frame in the middle loses nothing: what has come stays in the socket's buffer.
            let message = tokio::select! {
                message = next => message,
                () = ended.notified(), if !last => {
                    last = true;
                    continue;
                }
            };
            let bytes = match message {
                Some(Some(Ok(Message::Binary(bytes)))) => bytes,
                Some(Some(Ok(Message::Close(_))) | None) | None => return Ok(()),
                Some(Some(Ok(_))) => continue,
                Some(Some(Err(error))) => bail!("lost connection to pod: {error}"),
            };
            let Some(channel @ (0 | 1)) = bytes.first().map(|channel| usize::from(*channel)) else { continue };
            if !begun[channel] {
                begun[channel] = true;
                continue;
            }
            if channel == 1 {
                bail!("{}", String::from_utf8_lossy(&bytes[1..]).trim_end());
            }
            // A near end that has gone needs nothing more.
            if writer.write_all(&bytes[1..]).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        result = down => result,
        () = up => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_that_are_taken() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let addresses = ports::addresses(&["127.0.0.1".to_owned()]).unwrap();
        let pairs = [Pair { local: port, remote: 80 }];
        let error = listen(&addresses, &pairs).await.unwrap_err().to_string();
        assert_eq!(error, format!("unable to listen on any of the requested ports: [{{{port} 80}}]"));
        let pairs = [Pair { local: port, remote: 80 }, Pair { local: 0, remote: 81 }];
        let listeners = listen(&addresses, &pairs).await.unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].1.local, listeners[0].0.local_addr().unwrap().port());
        let error = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        assert_eq!(as_go(&error), "address already in use");
    }
}
