//! An API server in memory, reached through an ordinary client, that is slow, forgetful and sometimes dead, as a seed says.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kobune_kinds::status::{self, Answer, Status};
use kobune_kinds::{Catalogue, Kind, Verb};
use kobune_merge::{merge_patch, strategic_merge_patch};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::autoscaling;
use super::objects::{Deletion, Objects, Write, Writer, kind_of, text};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What goes wrong, each as one in so many times; 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A request is refused before it does anything.
    pub refused: u32,
    /// A request does what it should, and the answer is lost.
    pub lost: u32,
    /// The process dies at a request, before or after it was carried out.
    pub death: u32,
    /// A watch ends after an event.
    pub broken: u32,
    /// A watch is told that its version is too old.
    pub expired: u32,
    /// An event comes twice.
    pub twice: u32,
    /// The longest that a request or an event is on its way, in milliseconds.
    pub slow: u64,
    /// The process dies at its request of this number, so that each step can be the last.
    pub dies_at: Option<u64>,
}

type Check = Box<dyn Fn(&Objects, &Write) -> Result<(), String> + Send>;

struct State {
    objects: Objects,
    faults: Faults,
    random: SmallRng,
    /// The process that is alive; what earlier ones wait for never comes.
    generation: u64,
    /// Requests but watches and events.
    requests: u64,
    /// Those of them that nothing has to be the reason of.
    asked: u64,
    /// Reads that saw and writes that did what.
    said: Vec<String>,
    check: Check,
    broken: Option<String>,
}

/// The server; cheap to clone.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    newest: watch::Sender<u64>,
    death: Arc<Notify>,
    /// The collections that discovery shows.
    shown: Arc<HashSet<&'static str>>,
}

/// What a request is about.
struct Target {
    kind: Arc<Kind>,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, plural, more @ ..] if !["status", "finalize"].contains(plural) => {
            (Some((*namespace).to_owned()), [&[*plural], more].concat())
        }
        _ => (None, rest),
    };
    let mut rest = rest.into_iter().map(str::to_owned);
    let kind = Catalogue::builtin().by_resource(group, version, &rest.next()?)?.clone();
    Some(Target { kind, namespace, name: rest.next(), subresource: rest.next() })
}

fn answered(code: u16, body: &Value) -> http::Response<Body> {
    let body = serde_json::to_vec(body).expect("JSON can be written");
    let response = http::Response::builder().status(code).header("content-type", "application/json");
    response.body(Full::new(Bytes::from(body)).boxed_unsync()).expect("a response")
}

fn busy() -> Answer {
    Status::new(500, "InternalError", "the simulated server has a bad day").answer()
}

impl Server {
    /// A server that a seed rules and that `check` looks at after every write.
    pub fn new(
        seed: u64,
        faults: Faults,
        shown: &[&'static str],
        check: impl Fn(&Objects, &Write) -> Result<(), String> + Send + 'static,
    ) -> Self {
        let state = State {
            objects: Objects::default(),
            faults,
            random: SmallRng::seed_from_u64(seed),
            generation: 0,
            requests: 0,
            asked: 0,
            said: Vec::new(),
            check: Box::new(check),
            broken: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            newest: watch::Sender::new(0),
            death: Arc::default(),
            shown: Arc::new(shown.iter().copied().collect()),
        }
    }

    /// Reads or changes the objects as somebody other than a controller, and has what was written checked.
    pub fn with<T>(&self, body: impl FnOnce(&mut Objects) -> T) -> T {
        let mut state = self.state.lock();
        let state = &mut *state;
        let from = state.objects.log.len();
        let result = body(&mut state.objects);
        self.look_at(state, from);
        result
    }

    fn look_at(&self, state: &mut State, from: usize) {
        for at in from..state.objects.log.len() {
            let write = state.objects.log[at].clone();
            let verb = match (&write.before, &write.after) {
                (None, _) => "made",
                (_, None) => "gone",
                _ => "changed",
            };
            let name = text(&write.object, "/metadata/name");
            state.said.push(format!("{:>5} {:?} {verb} {} {name}", write.revision, write.writer, write.collection));
            if let (Err(what), None) = ((state.check)(&state.objects, &write), &state.broken) {
                state.broken = Some(format!("at revision {}: {what}", write.revision));
            }
        }
        let newest = state.objects.revision();
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }

    /// Tells of each new revision.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What the check found wrong.
    pub fn broken(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    /// The last things that happened and what is there, for whoever looks for a mistake.
    pub fn story(&self) -> String {
        let state = self.state.lock();
        let mut story = state.said[state.said.len().saturating_sub(60)..].join("\n");
        for (place, object) in state.objects.everything().filter(|(place, _)| &*place.0 != "core/nodes") {
            let mut short = (**object).clone();
            short["spec"]["template"] = Value::Null;
            let (collection, name) = (&place.0, &place.2);
            story += &format!("\n{collection} {name} {} {} {}", short["metadata"], short["spec"], short["status"]);
        }
        story
    }

    /// How many requests there were, watches, events and what autoscalers ask regularly apart.
    pub fn requests(&self) -> u64 {
        let state = self.state.lock();
        state.requests - state.asked
    }

    /// Nothing goes wrong any more.
    pub fn calm(&self) {
        self.state.lock().faults = Faults { slow: 20, ..Faults::default() };
    }

    /// Waits until the process dies at a request of its own.
    pub async fn death(&self) {
        self.death.notified().await;
    }

    /// A client for a new process; all earlier ones get no answers any more.
    pub fn client(&self) -> kube::Client {
        let generation = {
            let mut state = self.state.lock();
            state.generation += 1;
            state.said.push("      a process is started".to_owned());
            state.generation
        };
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(generation, request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// One in so many times.
    fn chance(&self, which: impl FnOnce(&Faults) -> u32) -> bool {
        let mut state = self.state.lock();
        let odds = which(&state.faults);
        odds > 0 && state.random.random_ratio(1, odds)
    }

    async fn pause(&self, generation: u64) {
        let slow = {
            let mut state = self.state.lock();
            let most = state.faults.slow;
            state.random.random_range(0..=most)
        };
        tokio::time::sleep(Duration::from_millis(slow)).await;
        if self.state.lock().generation != generation {
            std::future::pending::<()>().await;
        }
    }

    async fn die(&self) {
        self.state.lock().said.push("      the process dies".to_owned());
        self.death.notify_one();
        std::future::pending::<()>().await;
    }

    async fn answer(&self, generation: u64, request: http::Request<kube::client::Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: std::collections::HashMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=")))
            .collect();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        self.pause(generation).await;
        if query.get("watch").is_some_and(|value| value == "true") {
            let target = target(&path).unwrap_or_else(|| panic!("{path} leads somewhere"));
            return self.watch(generation, &target, query.get("resourceVersion").map_or("", String::as_str));
        }
        // Events are told and forgotten.
        if path.contains("/events") {
            return answered(201, &serde_json::from_slice(&body).unwrap_or_default());
        }
        let counted = {
            let mut state = self.state.lock();
            state.requests += 1;
            // An autoscaler asks without end, since metrics tell nobody when they change.
            state.asked += u64::from(autoscaling::asks(&parts.method, &path, &query));
            state.requests
        };
        let step = self.state.lock().faults.dies_at.is_some_and(|at| at / 2 == counted);
        let dies = step || self.chance(|faults| faults.death);
        let late = if step { self.state.lock().faults.dies_at.is_some_and(|at| at % 2 == 1) } else { counted % 2 == 0 };
        if dies && !late {
            self.die().await;
        }
        if self.chance(|faults| faults.refused) {
            self.state.lock().said.push(format!("      {} {path} is refused", parts.method));
            let (code, body) = busy();
            return answered(code, &body);
        }
        let media = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let answer = self.act(&parts.method, &path, &query, media, &body);
        if dies {
            self.die().await;
        }
        if self.chance(|faults| faults.lost) {
            self.state.lock().said.push(format!("      the answer to {} {path} is lost", parts.method));
            let (code, body) = busy();
            return answered(code, &body);
        }
        self.pause(generation).await;
        match answer {
            Ok((code, object)) => answered(code, &object),
            Err((code, object)) => answered(code, &object),
        }
    }

    fn act(
        &self,
        method: &http::Method,
        path: &str,
        query: &std::collections::HashMap<String, String>,
        media: &str,
        body: &[u8],
    ) -> Result<(u16, Value), Answer> {
        if let Some(found) = self.discovery(path) {
            return Ok((200, found));
        }
        if autoscaling::is_metrics(path) {
            return Ok((200, autoscaling::metrics(&self.state.lock().objects)));
        }
        let Some(Target { kind, namespace, name, subresource }) = target(path) else {
            return Err(status::unknown_path());
        };
        let namespace = namespace.unwrap_or_default();
        let sent: Value =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(body).expect("JSON is sent") };
        let mut state = self.state.lock();
        let state = &mut *state;
        let from = state.objects.log.len();
        let objects = &mut state.objects;
        let result = match (method.as_str(), name.as_deref()) {
            ("GET", None) => {
                let all = objects.all(&kind.collection);
                let all = all.filter(|object| namespace.is_empty() || text(object, "/metadata/namespace") == namespace);
                let items: Vec<&Value> = all.map(|object| &**object).collect();
                Ok((
                    200,
                    json!({"kind": &*kind.list_kind, "apiVersion": kind.api_version(),
                    "metadata": {"resourceVersion": objects.revision().to_string()}, "items": items}),
                ))
            }
            ("GET", Some(name)) if subresource.as_deref() == Some("scale") => {
                match objects.get(&kind, &namespace, name) {
                    Some(object) => Ok((200, autoscaling::scale(object))),
                    None => Err(status::not_found(&kind.group_resource(), name)),
                }
            }
            ("PUT", Some(name)) if subresource.as_deref() == Some("scale") => {
                let change = |old: &Value| Ok(autoscaling::scaled(old, &sent));
                let written = objects.update(&kind, Writer::Controller, (&namespace, name), None, change);
                written.map(|written| (200, autoscaling::scale(&written)))
            }
            ("GET", Some(name)) => match objects.get(&kind, &namespace, name) {
                Some(object) => Ok((200, (**object).clone())),
                None => Err(status::not_found(&kind.group_resource(), name)),
            },
            ("POST", Some(name)) if subresource.as_deref() == Some("binding") => {
                objects.bind(&kind, (&namespace, name), text(&sent, "/target/name"));
                Ok((201, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
            }
            ("POST", None) => {
                objects.create(&kind, Writer::Controller, &namespace, sent).map(|made| (201, (*made).clone()))
            }
            ("PUT" | "PATCH", Some(name)) => {
                let place = (&*namespace, name);
                let change = |old: &Value| match media {
                    _ if method == http::Method::PUT => Ok(sent),
                    "application/merge-patch+json" => {
                        let mut object = old.clone();
                        merge_patch(&mut object, &sent);
                        Ok(object)
                    }
                    "application/strategic-merge-patch+json" => {
                        Ok(strategic_merge_patch(old, &sent, kind.schema()).expect("a patch that can be applied"))
                    }
                    other => panic!("{other} is not simulated"),
                };
                let written = objects.update(&kind, Writer::Controller, place, subresource.as_deref(), change);
                written.map(|written| (200, (*written).clone()))
            }
            ("DELETE", None) => {
                let here = |object: &&Arc<Value>| text(object, "/metadata/namespace") == namespace;
                let names: Vec<String> = objects
                    .all(&kind.collection)
                    .filter(here)
                    .map(|one| text(one, "/metadata/name").to_owned())
                    .collect();
                let how = Deletion { propagation: text(&sent, "/propagationPolicy").to_owned(), ..Deletion::default() };
                let deleted = names
                    .iter()
                    .try_for_each(|name| objects.delete(&kind, Writer::Controller, (&namespace, name), &how).map(drop));
                deleted.map(|()| (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
            }
            ("DELETE", Some(name)) => {
                let how = Deletion {
                    propagation: text(&sent, "/propagationPolicy").to_owned(),
                    grace: sent["gracePeriodSeconds"].as_i64(),
                    uid: sent.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned),
                    version: sent.pointer("/preconditions/resourceVersion").and_then(Value::as_str).map(str::to_owned),
                };
                let deleted = objects.delete(&kind, Writer::Controller, (&namespace, name), &how);
                deleted.map(|last| (200, (*last).clone()))
            }
            (method, _) => panic!("{method} {path}?{query:?} is not simulated"),
        };
        if let Err((code, object)) = &result {
            state.said.push(format!("      {method} {path}: {code} {}", text(object, "/message")));
        }
        self.look_at(state, from);
        result
    }

    fn discovery(&self, path: &str) -> Option<Value> {
        let catalogue = Catalogue::builtin();
        let kinds = || catalogue.kinds().iter().filter(|kind| self.shown.contains(&*kind.collection));
        let resources = |group: &str, version: &str| {
            let verbs = |kind: &Kind| kind.verbs.iter().map(|verb: &Verb| verb.as_str()).collect::<Vec<_>>();
            let of = kinds().filter(|kind| &*kind.group == group && &*kind.version == version);
            let of = of.map(|kind| {
                json!({"name": &*kind.plural, "kind": &*kind.kind, "singularName": &*kind.singular,
                    "namespaced": kind.namespaced, "verbs": verbs(kind)})
            });
            let scales = kinds().filter(|kind| &*kind.group == group && &*kind.collection == "apps/deployments");
            let scales = scales.map(|_| autoscaling::scale_of_deployments());
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
                "resources": of.chain(scales).collect::<Vec<_>>()})
        };
        match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["api", "v1"] => Some(resources("", "v1")),
            ["apis"] => {
                let mut groups: Vec<Value> = Vec::new();
                for kind in kinds().filter(|kind| !kind.group.is_empty()) {
                    let version = json!({"groupVersion": kind.api_version(), "version": &*kind.version});
                    let group = json!({"name": &*kind.group, "versions": [version], "preferredVersion": version});
                    if !groups.contains(&group) {
                        groups.push(group);
                    }
                }
                Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            ["apis", group, version] => Some(resources(group, version)),
            _ => None,
        }
    }

    /// Streams what happens to a collection after a version.
    fn watch(&self, generation: u64, target: &Target, version: &str) -> http::Response<Body> {
        let since: u64 = version.parse().unwrap_or(0);
        let (server, collection) = (self.clone(), target.kind.collection.clone());
        let newest = self.newest.subscribe();
        let lines = stream::unfold((Some(since), newest), move |(since, mut newest)| {
            let (server, collection) = (server.clone(), collection.clone());
            async move {
                let since = since?;
                if server.chance(|faults| faults.expired) {
                    let gone = Status::new(410, "Expired", "too old resource version").answer().1;
                    return Some((line("ERROR", &gone), (None, newest)));
                }
                let write = loop {
                    if let Some(write) = server.next(&collection, since) {
                        break write;
                    }
                    newest.changed().await.ok()?;
                };
                server.pause(generation).await;
                let kind = match (&write.before, &write.after) {
                    (None, _) => "ADDED",
                    (_, None) => "DELETED",
                    _ => "MODIFIED",
                };
                let mut told = line(kind, &write.object);
                if server.chance(|faults| faults.twice) {
                    told.extend(line(kind, &write.object));
                }
                let next = (!server.chance(|faults| faults.broken)).then_some(write.revision);
                Some((told, (next, newest)))
            }
        });
        let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
        http::Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn next(&self, collection: &str, since: u64) -> Option<Write> {
        self.state.lock().objects.after(collection, since).cloned()
    }
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = serde_json::to_vec(&json!({"type": kind, "object": object})).expect("JSON can be written");
    line.push(b'\n');
    line
}

/// Makes an object as somebody other than a controller.
pub fn make(objects: &mut Objects, object: Value) -> Arc<Value> {
    let kind = kind_of(&object);
    let namespace = if kind.namespaced { "default" } else { "" };
    let made = objects.create(&kind, Writer::World, namespace, object);
    made.unwrap_or_else(|(_, error)| panic!("it can be made: {error}"))
}
