//! Service variables (`KUBERNETES_SERVICE_HOST` and so on): one watch of the Services, only what the variables need is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::offline::Offline;

/// The record for a start without the API server.
const RECORD: &str = "services";

/// What of a Service becomes variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    address: String,
    ports: Vec<(Option<String>, i32, String)>,
}

impl Endpoint {
    /// `None` for services without an address of their own.
    pub fn of(service: &Service) -> Option<Endpoint> {
        let spec = service.spec.as_ref()?;
        let address = spec.cluster_ip.clone().filter(|address| !address.is_empty() && address != "None")?;
        let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
            (
                port.name.clone().filter(|name| !name.is_empty()),
                port.port,
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            )
        };
        Some(Endpoint { address, ports: spec.ports.iter().flatten().map(port).collect() })
    }
}

/// The Services known now, by namespace and name.
#[derive(Debug)]
pub struct Services {
    known: RwLock<BTreeMap<(String, String), Endpoint>>,
    synced: watch::Sender<bool>,
}

impl Default for Services {
    fn default() -> Self {
        Services { known: RwLock::default(), synced: watch::Sender::new(false) }
    }
}

impl Services {
    /// Keeps the table current until the token is cancelled.
    /// What is kept in `offline` stands in when the API server has not answered after `patience`.
    pub async fn run(&self, client: kube::Client, offline: &Offline, patience: Duration, token: CancellationToken) {
        let api: Api<Service> = Api::all(client);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut fresh = BTreeMap::new();
        let late = tokio::time::sleep(patience);
        let mut late = std::pin::pin!(late);
        let mut waits = offline.keeps();
        loop {
            // Dropping either future loses nothing: the stream keeps its place.
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = events.try_next() => event,
                () = &mut late, if waits => {
                    waits = false;
                    self.restore(offline);
                    continue;
                }
            };
            let changes = matches!(
                event,
                Ok(Some(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)))
            );
            match event {
                Ok(Some(watcher::Event::Init)) => fresh.clear(),
                Ok(Some(watcher::Event::InitApply(service))) => {
                    if let Some(endpoint) = Endpoint::of(&service) {
                        fresh.insert(key(&service), endpoint);
                    }
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    *self.known.write() = std::mem::take(&mut fresh);
                    self.synced.send_replace(true);
                }
                Ok(Some(watcher::Event::Apply(service))) => {
                    match Endpoint::of(&service) {
                        Some(endpoint) => self.known.write().insert(key(&service), endpoint),
                        None => self.known.write().remove(&key(&service)),
                    };
                }
                Ok(Some(watcher::Event::Delete(service))) => {
                    self.known.write().remove(&key(&service));
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "watching services failed, trying again")
                }
            }
            if changes && offline.keeps() {
                waits = false;
                let known: Vec<((String, String), Endpoint)> = self.known.read().clone().into_iter().collect();
                let offline = offline.clone();
                tokio::task::spawn_blocking(move || offline.write(RECORD, Some(&known)));
            }
        }
    }

    fn restore(&self, offline: &Offline) {
        if *self.synced.borrow() {
            return;
        }
        if let Some(kept) = offline.read::<Vec<((String, String), Endpoint)>>(RECORD) {
            tracing::info!(
                count = kept.len(),
                "the API server does not answer, going on with the services that were kept"
            );
            *self.known.write() = kept.into_iter().collect();
            self.synced.send_replace(true);
        }
    }

    /// Returns when the services have been read once.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in `self`, so waiting can't fail.
        if synced.wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The variables for a pod: those of its namespace when it wants them, and always those of `default/kubernetes`.
    pub fn variables(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        let known = self.known.read();
        let mut variables = BTreeMap::new();
        for ((owner, name), endpoint) in known.iter() {
            let master = owner == "default" && name == "kubernetes";
            if master || (links && owner == namespace) {
                add(&mut variables, name, endpoint);
            }
        }
        // A `kubernetes` service of the pod's own namespace wins over the API server's.
        if links && let Some(endpoint) = known.get(&(namespace.to_owned(), "kubernetes".to_owned())) {
            add(&mut variables, "kubernetes", endpoint);
        }
        variables
    }
}

fn key(service: &Service) -> (String, String) {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn add(variables: &mut BTreeMap<String, String>, name: &str, endpoint: &Endpoint) {
    let Some((_, first, first_protocol)) = endpoint.ports.first() else { return };
    let prefix = variable(name);
    let address = &endpoint.address;
    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    variables.insert(format!("{prefix}_SERVICE_HOST"), address.clone());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.to_string());
    variables.insert(format!("{prefix}_PORT"), format!("{}://{host}:{first}", first_protocol.to_lowercase()));
    for (port_name, port, protocol) in &endpoint.ports {
        if let Some(port_name) = port_name {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", variable(port_name)), port.to_string());
        }
        let link = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        variables.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{link}_PORT"), port.to_string());
        variables.insert(format!("{link}_ADDR"), address.clone());
        variables.insert(link, format!("{}://{host}:{port}", protocol.to_lowercase()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_of_services() {
        let services = Services::default();
        let insert = |namespace: &str, name: &str, spec: serde_json::Value| {
            let service: Service =
                serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}))
                    .expect("a service");
            if let Some(endpoint) = Endpoint::of(&service) {
                services.known.write().insert(key(&service), endpoint);
            }
        };
        insert(
            "default",
            "kubernetes",
            json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}),
        );
        insert("ns", "my-db", json!({"clusterIP": "10.96.0.7", "ports": [{"port": 53, "protocol": "UDP"}]}));
        insert("ns", "headless", json!({"clusterIP": "None", "ports": [{"port": 1}]}));
        let plain = services.variables("ns", false);
        assert_eq!(plain.get("KUBERNETES_SERVICE_PORT_HTTPS").map(String::as_str), Some("443"));
        assert_eq!(plain.get("KUBERNETES_PORT_443_TCP").map(String::as_str), Some("tcp://10.96.0.1:443"));
        assert_eq!(plain.len(), 8);
        let linked = services.variables("ns", true);
        assert_eq!(linked.get("MY_DB_PORT").map(String::as_str), Some("udp://10.96.0.7:53"));
        assert_eq!(linked.get("MY_DB_PORT_53_UDP_ADDR").map(String::as_str), Some("10.96.0.7"));
        assert!(!linked.contains_key("HEADLESS_SERVICE_HOST"));
    }
}
