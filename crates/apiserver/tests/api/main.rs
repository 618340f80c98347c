//! The whole road in one process, with a store on disk and no sockets: what clients send, and what they get.

mod aggregation;
mod authorization;
mod conversion;
mod custom;
mod errors;
mod flows;
mod identity;
mod kinds;
mod life;
mod lists;
mod operation;
mod policies;
mod protobuf;
mod proxies;
mod quotas;
mod samples;
mod services;
mod spans;
mod verbs;
mod watches;
mod webhook_server;
mod webhooks;

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use kobune_apiserver::{ApiServer, Body, Config, InProcess, facets, security::User};
use kobune_kinds::Catalogue;
use kobune_store::{
    At, CommitError, Draft, Durability, Facets, Key, Listing, Op, Range, Record, Revision, SqliteStore, Store,
    StoreError, Watch, Write,
};
use serde_json::{Value, json};
use tower::ServiceExt;

/// A server with a store of its own, which ends with it.
pub(crate) struct Cluster {
    service: InProcess,
    pub(crate) server: Arc<ApiServer>,
    store: Arc<SqliteStore>,
    folder: tempfile::TempDir,
}

/// A status, headers and a body.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }

    /// The body, if the status is the expected one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The reason and message of a `Status`.
    #[track_caller]
    pub(crate) fn failure(self, status: u16) -> (String, String) {
        let value = self.expect(status);
        assert_eq!(
            (&value["kind"], &value["status"], &value["code"]),
            (&"Status".into(), &"Failure".into(), &status.into()),
            "{value}"
        );
        (
            value["reason"].as_str().unwrap_or_default().to_owned(),
            value["message"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let cluster = Self::start_in(tempfile::tempdir().expect("a folder")).await;
        // Pods need the account that a controller makes elsewhere.
        cluster
            .post("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"default"}}"#)
            .await
            .expect(201);
        cluster
    }

    /// A server with other settings than usual.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Cluster {
        Self::start_changed(tempfile::tempdir().expect("a folder"), change).await
    }

    /// Stops the server and starts another one on the same folder.
    pub(crate) async fn restart(self) -> Cluster {
        self.server.stop();
        self.store.close().await;
        Self::start_in(self.folder).await
    }

    /// The same with other settings.
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Cluster {
        self.server.stop();
        self.store.close().await;
        Self::start_changed(self.folder, change).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Cluster {
        Self::start_changed(folder, |_| {}).await
    }

    async fn start_changed(folder: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Cluster {
        let catalogue = Catalogue::builtin();
        let store =
            SqliteStore::open(folder.path().join("state.db"), kobune_store::Config::default(), facets(&catalogue))
                .expect("a store");
        let mut config = Config::new(folder.path().to_owned(), "192.0.2.1".parse().expect("an address"), 6443);
        config.service_cidrs = vec!["10.96.0.0/24".to_owned()];
        change(&mut config);
        let server = ApiServer::build(config, store.clone(), catalogue).await.expect("a server");
        let service = server.service_as(User::new("admin", &["system:masters"]));
        Cluster { service, server, store, folder }
    }

    pub(crate) fn with_user(&self, name: &str, groups: &[&str]) -> InProcess {
        self.server.service_as(User::new(name, groups))
    }

    pub(crate) async fn stop(self) {
        self.server.stop();
        self.store.close().await;
    }

    /// Another server of the same cluster, on the same store and with the same configuration.
    pub(crate) async fn another_server(&self, change: impl FnOnce(&mut Config)) -> InProcess {
        self.another_server_on(self.store.clone(), change).await
    }

    /// Servers that know that they are not alone.
    pub(crate) async fn sharing_server(&self) -> InProcess {
        self.another_server_on(Arc::new(Shared(self.store.clone())), |_| {}).await
    }

    async fn another_server_on(&self, store: Arc<dyn Store>, change: impl FnOnce(&mut Config)) -> InProcess {
        let mut config = Config::new(self.folder.path().to_owned(), "192.0.2.1".parse().expect("an address"), 6443);
        config.service_cidrs = vec!["10.96.0.0/24".to_owned()];
        change(&mut config);
        let built = ApiServer::build(config, store, Catalogue::builtin()).await;
        built.expect("a server").service_as(User::new("admin", &["system:masters"]))
    }

    pub(crate) async fn send_as(
        &self,
        service: &InProcess,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        send(service, method, path, headers, body.as_bytes()).await
    }

    /// Sends a body that is no text.
    pub(crate) async fn send_bytes(
        &self,
        service: &InProcess,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        send(service, method, path, headers, body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send_as(&self.service, method, path, headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &str) -> Reply {
        self.send("PATCH", path, &[("content-type", kind), ("user-agent", "test/1")], body).await
    }

    pub(crate) async fn delete(&self, path: &str, body: &str) -> Reply {
        self.send("DELETE", path, &[("content-type", "application/json")], body).await
    }

    /// Gives a service of the default namespace an endpoint on this machine. It goes straight into the store: a client
    /// may not name a loopback address.
    pub(crate) async fn put_endpoint(&self, service: &str, port_name: &str, port: u16) {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{service}-1"), "namespace": "default", "resourceVersion": "",
                "labels": {"kubernetes.io/service-name": service},
            },
            "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        });
        let text = slice.to_string();
        let needle = "\"resourceVersion\":\"";
        let splice = text.find(needle).expect("the field is there") + needle.len();
        let facets = Facets::new([("kubernetes.io/service-name", service)], []);
        let draft = Draft { bytes: text.into_bytes(), splice, facets };
        let key = Key::new("discovery.k8s.io/endpointslices", "default", &format!("{service}-1"));
        let write = Write { key, op: Op::Create(draft), durability: Durability::Relaxed };
        self.store.commit(write).await.expect("a write");
    }

    /// The service of a user who may do everything.
    pub(crate) fn admin(&self) -> &InProcess {
        &self.service
    }

    /// Opens a watch; the events are read with [`Events::next`].
    pub(crate) async fn watch(&self, path: &str, accept: &str) -> Events {
        let request =
            Request::builder().uri(path).header("accept", accept).body(Full::new(Bytes::new())).expect("a request");
        let response = self.service.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: Vec::new() }
    }
}

/// A store that other servers may write to.
struct Shared(Arc<SqliteStore>);

impl Store for Shared {
    fn is_shared(&self) -> bool {
        true
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        self.0.get(key)
    }

    fn list<'a>(&'a self, range: &'a Range, at: At) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.0.list(range, at)
    }

    fn keep(&self, listing: &Listing) {
        self.0.keep(listing);
    }

    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Record, CommitError>> {
        Box::pin(async move {
            // Whoever else is at work gets on meanwhile: a decision and its write are never one step.
            if &*write.key.collection == "core/configmaps" {
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            }
            self.0.commit(write).await
        })
    }

    fn watch(&self, range: &Range, after: Revision) -> Result<Watch, StoreError> {
        Store::watch(&*self.0, range, after)
    }

    fn revision(&self) -> Revision {
        self.0.revision()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Store::close(&*self.0)
    }
}

/// Sends a request and takes the whole answer.
pub(crate) async fn send(
    service: &InProcess,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
    let response = service.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    Reply { status: parts.status, headers: parts.headers, bytes }
}

/// The events of a watch.
pub(crate) struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event, or `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line is one event"));
            }
            let mut stream = std::pin::pin!((&mut self.body).into_data_stream());
            match stream.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece.expect("a piece")),
                None => return None,
            }
        }
    }

    /// The next frame of a watch in protobuf: a `WatchEvent`.
    pub(crate) async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    self.buffer.drain(..4 + length);
                    return Some(frame);
                }
            }
            let mut stream = std::pin::pin!((&mut self.body).into_data_stream());
            self.buffer.extend_from_slice(&stream.next().await?.expect("a piece"));
        }
    }

    /// The next event's type and object name.
    pub(crate) async fn told(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

/// The body of a small pod.
pub(crate) fn pod(name: &str, labels: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{labels}}},"spec":{{"containers":[{{"name":"c","image":"example.com/app:v1"}}]}}}}"#
    )
}

/// The body of a small config map.
pub(crate) fn config_map(name: &str, data: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"{name}"}}}},"data":{data}}}"#
    )
}
