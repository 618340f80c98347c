//! Whether the servers behind this one can be asked, and what they serve: the condition `Available` of APIServices.
//!
//! A check is made when something changed that it depends on (the APIService, its Service, the endpoints of that), and
//! when a request could not be passed on. A server that fails is asked again with growing pauses, one that answers after
//! [`REFRESH`], since nobody else tells that it serves something new.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kobune_kinds::Catalogue;
use kobune_store::{At, CommitError, Durability, Key, Op, Range, Store, StoreError, Watch, WatchError, Write};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Aggregation, COLLECTION, Remote, Service,
    discovery::{self, Learned, OpenApiV2},
    headers,
    register::{self, DEFINITIONS, set_condition},
    service::condition,
};
use crate::{
    body::no_body,
    call::now_text,
    encode,
    outgoing::endpoints::{self, Port, ResolveError},
    security::User,
};

/// The pauses before a server that fails is asked again: the first, doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// How long what a server said of itself is good.
const REFRESH: Duration = Duration::from_secs(60);

/// How long a server may take to answer a check; upstream's.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read: the resources of a group, the index of its documents, or all its kinds in one.
const LONGEST: usize = 8 << 20;

/// How often a status is written again that somebody else wrote meanwhile.
const ATTEMPTS: usize = 5;

const SERVICES: &str = "core/services";
const SLICES: &str = "discovery.k8s.io/endpointslices";

/// What a check has found, as the condition says it.
#[derive(Debug)]
struct Finding {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn bad(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }
}

/// An answer of a server.
struct Got {
    code: StatusCode,
    /// The tag of what was sent; empty for none.
    tag: String,
    body: Bytes,
}

/// When an APIService is looked at next.
#[derive(Debug)]
struct Watched {
    spec: Value,
    remote: Remote,
    due: Instant,
    pause: Duration,
}

/// Follows APIServices and what they depend on.
struct Follower {
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    aggregation: Arc<Aggregation>,
    watched: BTreeMap<String, Watched>,
}

/// The changes of what is followed. Services and endpoints are followed only while an APIService needs them.
struct Watches {
    services: Watch,
    definitions: Watch,
    depends: Option<(Watch, Watch)>,
}

/// What woke the follower.
enum Woken {
    Service,
    Definition,
    Backend { namespace: String, name: String },
    Suspects,
    Due,
}

impl Aggregation {
    /// Keeps APIServices and their conditions current until `shutdown`. The built-in ones are there when it returns.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        store: Arc<dyn Store>,
        catalogue: Arc<Catalogue>,
        shutdown: CancellationToken,
    ) {
        let follower = Follower { store, catalogue, aggregation: Arc::clone(self), watched: BTreeMap::new() };
        follower.register(true).await;
        tokio::spawn(async move {
            tokio::select! {
                // Dropping the loop loses nothing: every start checks everything anew.
                () = shutdown.cancelled() => {}
                () = follower.run() => {}
            }
        });
    }
}

impl Follower {
    /// Brings the APIServices of this server itself up to date.
    async fn register(&self, at_start: bool) {
        if let Err(error) =
            register::reconcile(&*self.store, &self.catalogue, &self.aggregation.guests(), at_start).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot keep APIServices current");
        }
    }

    async fn run(mut self) {
        loop {
            let ended = match self.watches().await {
                Ok(watches) => self.follow(watches).await,
                Err(error) => {
                    // Only a closed store fails a list of the latest state; then nothing is served any more.
                    tracing::debug!(%error, "APIServices are not followed any longer");
                    return;
                }
            };
            // A watch that has fallen behind begins anew.
            if matches!(ended, WatchError::Closed) {
                return;
            }
        }
    }

    /// Reads all APIServices and watches from there.
    async fn watches(&mut self) -> Result<Watches, StoreError> {
        let definitions = self.store.list(&Range::all(DEFINITIONS), At::Latest).await?.revision();
        let definitions = self.store.watch(&Range::all(DEFINITIONS), definitions)?;
        let revision = self.take_services().await?;
        let services = self.store.watch(&Range::all(COLLECTION), revision)?;
        Ok(Watches { services, definitions, depends: None })
    }

    /// Takes over the APIServices as they are; what is new or different is due at once.
    async fn take_services(&mut self) -> Result<kobune_store::Revision, StoreError> {
        let listing = self.store.list(&Range::all(COLLECTION), At::Latest).await?;
        let mut kept = BTreeMap::new();
        for record in listing.iter() {
            let Ok(object) = serde_json::from_slice::<Value>(&record.value) else { continue };
            let name = record.key.name.to_string();
            let Some(remote) = Service::of(&object).remote else { continue };
            let spec = object["spec"].clone();
            let known = self.watched.remove(&name).filter(|known| known.spec == spec && condition(&object).is_some());
            let fresh = || Watched { spec, remote, due: Instant::now(), pause: FIRST_PAUSE };
            kept.insert(name, known.unwrap_or_else(fresh));
        }
        self.aggregation.learned.lock().retain(|name, _| kept.contains_key(name));
        self.watched = kept;
        Ok(listing.revision())
    }

    async fn follow(&mut self, mut watches: Watches) -> WatchError {
        loop {
            if self.watched.is_empty() {
                watches.depends = None;
            } else if watches.depends.is_none() {
                let now = self.store.revision();
                let both = self
                    .store
                    .watch(&Range::all(SERVICES), now)
                    .and_then(|services| Ok((services, self.store.watch(&Range::all(SLICES), now)?)));
                match both {
                    Ok(both) => watches.depends = Some(both),
                    Err(_) => return WatchError::Closed,
                }
                // What changed before the watch began is seen by looking once more.
                self.watched.values_mut().for_each(|watched| watched.due = Instant::now());
            }
            match self.woken(&mut watches).await {
                Ok(Woken::Service) => {
                    self.register(false).await;
                    if self.take_services().await.is_err() {
                        return WatchError::Closed;
                    }
                }
                Ok(Woken::Definition) => self.register(false).await,
                Ok(Woken::Backend { namespace, name }) => {
                    for watched in self.watched.values_mut() {
                        if watched.remote.namespace == namespace && watched.remote.name == name {
                            watched.due = Instant::now();
                            watched.pause = FIRST_PAUSE;
                        }
                    }
                }
                Ok(Woken::Suspects) => {
                    for name in std::mem::take(&mut *self.aggregation.suspects.lock()) {
                        if let Some(watched) = self.watched.get_mut(&name) {
                            watched.due = watched.due.min(Instant::now() + FIRST_PAUSE);
                        }
                    }
                }
                Ok(Woken::Due) => self.check_due().await,
                Err(error) => return error,
            }
        }
    }

    /// Waits for the next thing to do.
    async fn woken(&self, watches: &mut Watches) -> Result<Woken, WatchError> {
        let Watches { services: api_services, definitions, depends } = watches;
        let due = self.watched.values().map(|watched| watched.due).min();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let depends = async {
            let Some((services, slices)) = depends else { return std::future::pending().await };
            // Each arm takes an event only when it is there, so dropping the other loses none.
            tokio::select! {
                event = services.next() => event.map(|event| {
                    let key = &event.record.key;
                    Woken::Backend { namespace: key.namespace.to_string(), name: key.name.to_string() }
                }),
                event = slices.next() => event.map(|event| {
                    let name = event.record.facets.label("kubernetes.io/service-name").unwrap_or_default().to_owned();
                    Woken::Backend { namespace: event.record.key.namespace.to_string(), name }
                }),
            }
        };
        // Each arm takes what it waits for only when it is there, so dropping the others loses nothing.
        tokio::select! {
            event = api_services.next() => event.map(|_| Woken::Service),
            event = definitions.next() => event.map(|_| Woken::Definition),
            woken = depends => woken,
            () = self.aggregation.suspected.notified() => Ok(Woken::Suspects),
            () = timer => Ok(Woken::Due),
        }
    }

    /// Checks all APIServices whose time has come, at the same time.
    async fn check_due(&mut self) {
        let now = Instant::now();
        let due: Vec<(String, Remote, Value)> = self
            .watched
            .iter()
            .filter(|(_, watched)| watched.due <= now)
            .map(|(name, watched)| (name.clone(), watched.remote.clone(), watched.spec.clone()))
            .collect();
        let found = join_all(due.iter().map(|(name, remote, spec)| self.check(name, remote, spec))).await;
        for ((name, _, _), (finding, learned)) in due.into_iter().zip(found) {
            if let Some(watched) = self.watched.get_mut(&name) {
                if finding.status == "True" {
                    watched.pause = FIRST_PAUSE;
                    watched.due = Instant::now() + REFRESH;
                } else {
                    watched.due = Instant::now() + watched.pause;
                    watched.pause = (watched.pause * 2).min(LAST_PAUSE);
                }
            }
            if let Some(learned) = learned {
                self.aggregation.learned.lock().insert(name.clone(), Arc::new(learned));
            }
            if let Err(error) = self.write(&name, &finding).await {
                tracing::warn!(name, error = &*error, "cannot write the condition of an APIService");
            }
        }
    }

    /// Looks at the Service, at its endpoints, and asks one of them.
    async fn check(&self, name: &str, remote: &Remote, spec: &Value) -> (Finding, Option<Learned>) {
        if let Some(finding) = self.check_service(remote).await {
            return (finding, None);
        }
        let text = |field: &str| spec[field].as_str().unwrap_or_default();
        let (group, version) = (text("group"), text("version"));
        let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match self.ask(remote, &path).await {
            Err(problem) => (Finding::bad("FailedDiscoveryCheck", problem), None),
            Ok(list) => {
                // Not every server publishes documents; one that does not is available all the same.
                let index = self.ask(remote, "/openapi/v3").await.unwrap_or_default();
                let learned = Learned {
                    resources: discovery::resources(&list, group, version),
                    open_api: discovery::open_api_entry(&index, group, version),
                    open_api_v2: self.open_api_v2(name, remote, group, version).await,
                };
                let message = "all checks passed".to_owned();
                (Finding { status: "True", reason: "Passed", message }, Some(learned))
            }
        }
    }

    /// What the server adds to `/openapi/v2`: what is known already unless it has changed.
    async fn open_api_v2(&self, name: &str, remote: &Remote, group: &str, version: &str) -> Option<Arc<OpenApiV2>> {
        let known = self.aggregation.learned(name).and_then(|learned| learned.open_api_v2.clone());
        let tag = known.as_ref().map(|known| known.tag.as_str()).filter(|tag| !tag.is_empty());
        match self.get(remote, "/openapi/v2", tag).await {
            Ok(Got { code: StatusCode::NOT_MODIFIED, .. }) => known,
            Ok(got) => match OpenApiV2::of(&got.body, got.tag, group, version) {
                Ok(fresh) => Some(Arc::new(fresh)),
                Err(problem) => {
                    tracing::warn!(name, problem, "an aggregated server's /openapi/v2 is no JSON");
                    known
                }
            },
            Err(problem) => {
                tracing::debug!(name, problem, "an aggregated server has no /openapi/v2");
                known
            }
        }
    }

    async fn check_service(&self, remote: &Remote) -> Option<Finding> {
        let (name, namespace, port) = (&remote.name, &remote.namespace, remote.port);
        let found = endpoints::all(&*self.store, namespace, name, Port::Number(port)).await;
        let finding = match found {
            Ok(found) if !found.is_empty() => return None,
            Ok(_) => Finding::bad(
                "MissingEndpoints",
                format!("endpointslices for service/{name} in {namespace:?} have no addresses with port {port}"),
            ),
            Err(ResolveError::NoService { .. }) => {
                Finding::bad("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"))
            }
            Err(ResolveError::NoPort { .. }) => Finding::bad(
                "ServicePortError",
                format!("service/{name} in {namespace:?} is not listening on port {port}"),
            ),
            Err(error) => Finding {
                status: "Unknown",
                reason: "ServiceAccessError",
                message: format!("service/{name} in {namespace:?} cannot be checked due to: {error}"),
            },
        };
        Some(finding)
    }

    /// GETs a document of a server; the error is the condition's message.
    async fn ask(&self, remote: &Remote, path: &str) -> Result<Value, String> {
        let got = self.get(remote, path, None).await?;
        serde_json::from_slice(&got.body).map_err(|error| {
            let address = format!("https://{}:{}{path}", remote.server_name(), remote.port);
            format!("failing or missing response from {address}: Get {address:?}: {error}")
        })
    }

    /// GETs what a server has at a path, unless it is what `tag` stands for.
    async fn get(&self, remote: &Remote, path: &str, tag: Option<&str>) -> Result<Got, String> {
        let address = format!("https://{}:{}{path}", remote.server_name(), remote.port);
        let failed = |problem: &dyn std::fmt::Display| {
            format!("failing or missing response from {address}: Get {address:?}: {problem}")
        };
        let exchange = async {
            let outbound = self.aggregation.reach(&*self.store, remote).await.map_err(|error| failed(&error))?;
            let mut request = Request::new(no_body());
            *request.uri_mut() = path.parse().map_err(|error| failed(&error))?;
            let user = User {
                name: "system:kube-aggregator".to_owned(),
                groups: vec!["system:masters".to_owned()],
                ..User::default()
            };
            headers::identify(request.headers_mut(), &user).map_err(|error| failed(&error))?;
            let host = format!("{}:{}", remote.server_name(), remote.port);
            request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host).map_err(|error| failed(&error))?);
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            if let Some(tag) = tag {
                let tag = HeaderValue::from_str(tag).map_err(|error| failed(&error))?;
                request.headers_mut().insert(header::IF_NONE_MATCH, tag);
            }
            let response = outbound.send(request).await.map_err(|error| failed(&error))?;
            let code = response.status();
            let unchanged = code == StatusCode::NOT_MODIFIED && tag.is_some();
            if !(code.is_success() || unchanged) {
                return Err(format!(
                    "failing or missing response from {address}: bad status from {address}: {}",
                    code.as_u16()
                ));
            }
            let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
            let tag = tag.unwrap_or_default().to_owned();
            let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(|error| failed(&error))?;
            Ok(Got { code, tag, body: body.to_bytes() })
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed(&"context deadline exceeded")),
        }
    }

    /// Writes a finding into the condition, unless it is there already.
    async fn write(&self, name: &str, finding: &Finding) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(kind) = self.catalogue.by_resource("apiregistration.k8s.io", "v1", "apiservices") else {
            return Ok(());
        };
        let key = Key::new(COLLECTION, "", name);
        for _ in 0..ATTEMPTS {
            let Some(record) = self.store.get(&key).await? else { return Ok(()) };
            let mut object: Value = serde_json::from_slice(&record.value)?;
            let Some(fresh) = changed(condition(&object), finding) else { return Ok(()) };
            tracing::info!(name, finding.status, finding.reason, finding.message, "an APIService changes");
            set_condition(&mut object, fresh);
            let op = Op::Update { expected: record.revision, draft: encode::draft(kind, &object) };
            let write = Write { key: key.clone(), op, durability: Durability::Relaxed };
            match self.store.commit(write).await {
                Err(CommitError::Conflict { .. }) => {}
                outcome => return outcome.map(|_| ()).map_err(Into::into),
            }
        }
        Ok(())
    }
}

/// The condition that says what was found; `None` when the old one says it.
fn changed(old: Option<&Value>, finding: &Finding) -> Option<Value> {
    let text = |field: &str| old.and_then(|old| old[field].as_str());
    let same_status = text("status") == Some(finding.status);
    if same_status && text("reason") == Some(finding.reason) && text("message") == Some(&finding.message) {
        return None;
    }
    let since = match text("lastTransitionTime").filter(|_| same_status) {
        Some(since) => since.to_owned(),
        None => now_text(),
    };
    Some(json!({
        "type": "Available", "status": finding.status, "lastTransitionTime": since, "reason": finding.reason,
        "message": finding.message,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_their_time() {
        let finding = |status, reason| Finding { status, reason, message: "m".to_owned() };
        let old =
            json!({"type": "Available", "status": "False", "lastTransitionTime": "t", "reason": "A", "message": "m"});
        assert_eq!(changed(Some(&old), &finding("False", "A")), None);
        let other = changed(Some(&old), &finding("False", "B")).expect("another reason");
        assert_eq!((&other["lastTransitionTime"], &other["reason"]), (&"t".into(), &"B".into()));
        let good = changed(Some(&old), &finding("True", "Passed")).expect("another status");
        assert_ne!(good["lastTransitionTime"], "t");
        assert!(changed(None, &finding("True", "Passed")).is_some());
    }
}
