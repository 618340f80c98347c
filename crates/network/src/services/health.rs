//! Health check node ports: what a load balancer in front of the nodes asks, to know which of them has an endpoint of a
//! Service with `externalTrafficPolicy: Local`.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/proxy/healthcheck/service_health.go>.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::cluster::{Key, Tables};

/// Requests of one port at a time; a balancer asks every few seconds.
const CONNECTIONS: usize = 16;
/// How long a request may take, which is one short line and its headers.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request that is read.
const LONGEST: usize = 8192;

/// What one port answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The Service.
    pub service: Key,
    /// How many of its endpoints on this node take connections.
    pub local_endpoints: usize,
}

/// The ports that are to answer, and what.
pub fn plan(tables: &Tables, node: &str) -> BTreeMap<u16, Health> {
    let served = tables.services().filter(|(_, service)| !service.served_elsewhere);
    let with_port = served.filter_map(|(key, service)| Some((key, service.health_check_port?)));
    with_port
        .map(|(key, port)| {
            let endpoints = tables.slices(key).flat_map(|slice| slice.endpoints.iter());
            let here: std::collections::BTreeSet<IpAddr> = endpoints
                .filter(|endpoint| endpoint.ready && endpoint.node.as_deref() == Some(node))
                .map(|endpoint| endpoint.address)
                .collect();
            (port, Health { service: key.clone(), local_endpoints: here.len() })
        })
        .collect()
}

/// The ports that answer now. Dropping this ends them.
#[derive(Default)]
pub struct Ports(BTreeMap<u16, Port>);

struct Port {
    health: watch::Sender<Health>,
    task: AbortHandle,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    /// Makes the ports and their answers what is wanted.
    pub async fn set(&mut self, wanted: BTreeMap<u16, Health>) {
        self.0.retain(|port, open| wanted.contains_key(port) && !open.task.is_finished());
        for (port, health) in wanted {
            if let Some(open) = self.0.get(&port) {
                open.health.send_if_modified(|known| {
                    *known != health && {
                        *known = health;
                        true
                    }
                });
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    let (sender, receiver) = watch::channel(health);
                    let task = tokio::spawn(serve(listener, receiver)).abort_handle();
                    self.0.insert(port, Port { health: sender, task });
                }
                Err(error) => {
                    let (namespace, name) = &health.service;
                    tracing::warn!(port, service = format!("{namespace}/{name}"), %error, "a health check node port cannot be opened");
                }
            }
        }
    }
}

/// Every address of both families, or of the fourth where the machine has no other.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

async fn serve(listener: TcpListener, health: watch::Receiver<Health>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this would spin.
                tracing::debug!(%error, "accepting a health check failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer(&health.borrow());
        tokio::spawn(async move {
            // A client that goes away early has no answer to miss.
            if let Ok(Err(error)) = timeout(PATIENCE, converse(stream, &answer)).await {
                tracing::debug!(%error, "a health check ended early");
            }
            drop(place);
        });
    }
}

/// Reads one request, whatever it asks, and answers it.
async fn converse(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(health: &Health) -> String {
    let (namespace, name) = &health.service;
    let body = serde_json::json!({
        "service": {"namespace": &**namespace, "name": &**name},
        "localEndpoints": health.local_endpoints,
        "serviceProxyHealthy": true,
    })
    .to_string();
    let status = if health.local_endpoints > 0 { "200 OK" } else { "503 Service Unavailable" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        health.local_endpoints,
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Endpoint, Hints, Service, Slice};

    fn key() -> Key {
        (Arc::from("shop"), Arc::from("web"))
    }

    #[test]
    fn endpoints_of_this_node_count() {
        let mut tables = Tables::default();
        let service = Service { health_check_port: Some(30100), ..Service::default() };
        tables.set_service(key(), Some(service));
        let endpoint = |last: u8, ready: bool, node: &str| Endpoint {
            address: IpAddr::from([10, 244, 0, last]),
            ready,
            serving: ready,
            terminating: false,
            hostname: None,
            node: Some(Arc::from(node)),
            hints: Hints::default(),
        };
        let endpoints = vec![endpoint(1, true, "here"), endpoint(2, false, "here"), endpoint(3, true, "there")];
        let slice = Slice { service: Arc::from("web"), ports: Vec::new(), endpoints };
        tables.set_slice(key(), Some(slice));
        let count = |node: &str| plan(&tables, node)[&30100].local_endpoints;
        assert_eq!((count("here"), count("there"), count("nowhere")), (1, 1, 0));
    }

    #[tokio::test]
    async fn ports_answer_until_they_are_not_wanted() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let ask = || async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let mut ports = Ports::default();
        let wanted = |local_endpoints| BTreeMap::from([(port, Health { service: key(), local_endpoints })]);
        ports.set(wanted(2)).await;
        let text = ask().await.expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains(r#""localEndpoints":2"#), "{text}");
        assert!(text.contains(r#"{"name":"web","namespace":"shop"}"#), "{text}");
        ports.set(wanted(0)).await;
        assert!(ask().await.expect("an answer").starts_with("HTTP/1.1 503 "));
        ports.set(BTreeMap::new()).await;
        // A connection that the old socket still took is reset; then there is nobody.
        let start = std::time::Instant::now();
        loop {
            match ask().await.map_err(|error| error.kind()) {
                Err(std::io::ErrorKind::ConnectionRefused) => break,
                other => assert!(start.elapsed() < PATIENCE, "it still answers: {other:?}"),
            }
        }
    }
}
