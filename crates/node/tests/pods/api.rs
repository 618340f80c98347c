//! As much of the Kubernetes API as a node talks to: objects by path, lists, watches, merges of status, deletes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<String, Value>,
}

/// The objects and whoever watches them.
pub struct Api {
    state: Mutex<State>,
    /// It cannot be reached.
    down: std::sync::atomic::AtomicBool,
    changes: broadcast::Sender<(String, &'static str, Value)>,
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().expect("an object").remove(key);
        } else if key == "conditions" {
            let mut list = into[key].as_array().cloned().unwrap_or_default();
            for condition in value.as_array().into_iter().flatten() {
                if condition["$patch"] == "delete" {
                    list.retain(|known| known["type"] != condition["type"]);
                    continue;
                }
                match list.iter_mut().find(|known| known["type"] == condition["type"]) {
                    Some(known) => merge(known, condition),
                    None => list.push(condition.clone()),
                }
            }
            into[key] = list.into();
        } else {
            merge(&mut into[key], value);
        }
    }
}

impl Api {
    pub fn new() -> Arc<Api> {
        Arc::new(Api { state: Mutex::default(), down: Default::default(), changes: broadcast::channel(4096).0 })
    }

    pub fn client(self: &Arc<Self>) -> kube::Client {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Lets every request fail, or no longer.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Objects whose path has this part.
    pub fn all(&self, part: &str) -> Vec<Value> {
        self.state
            .lock()
            .objects
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn put(&self, path: &str, object: Value) -> Value {
        self.store(&mut self.state.lock(), path, object)
    }

    /// Changes what is there, with nobody else's change between the look and the write.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut state = self.state.lock();
        let mut object = state.objects.get(path)?.clone();
        change(&mut object);
        Some(self.store(&mut state, path, object))
    }

    fn store(&self, state: &mut State, path: &str, mut object: Value) -> Value {
        state.revision += 1;
        let known = state.objects.contains_key(path);
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
        }
        state.objects.insert(path.to_owned(), object.clone());
        // Nobody may watch.
        drop(self.changes.send((path.to_owned(), if known { "MODIFIED" } else { "ADDED" }, object.clone())));
        object
    }

    pub fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        if let Some(mut object) = state.objects.remove(path) {
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
            drop(self.changes.send((path.to_owned(), "DELETED", object)));
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return json_answer(
                503,
                &json!({"kind": "Status", "status": "Failure", "code": 503, "message": "away", "reason": "ServiceUnavailable"}),
            );
        }
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().replace("%3D", "=").replace("%2F", "/");
        let method = request.method().clone();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let object_path = path.trim_end_matches("/status").to_owned();
        match method {
            Method::GET if query.contains("watch=true") || query.contains("watch=1") => self.watch(&path, &query),
            Method::GET => match self.get(&path) {
                Some(object) => json_answer(200, &object),
                None if is_collection(&path) => self.list(&path, &query),
                None => not_found(),
            },
            Method::POST if path.ends_with("/token") => {
                let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
                let status = json!({"token": "a-token", "expirationTimestamp": expires.to_string()});
                json_answer(
                    201,
                    &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": {"audiences": []}, "status": status}),
                )
            }
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                json_answer(201, &self.put(&path, body))
            }
            Method::PATCH => {
                let mut meant = true;
                let changed = self.change(&object_path, |object| {
                    meant =
                        !body["metadata"]["uid"].is_string() || body["metadata"]["uid"] == object["metadata"]["uid"];
                    if meant {
                        merge(object, &body);
                    }
                });
                match changed {
                    Some(object) if meant => json_answer(200, &object),
                    Some(_) => json_answer(
                        409,
                        &json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": "uid"}),
                    ),
                    None => not_found(),
                }
            }
            Method::DELETE => {
                self.remove(&object_path);
                json_answer(200, &json!({"kind": "Status", "status": "Success"}))
            }
            _ => not_found(),
        }
    }

    fn list(&self, path: &str, query: &str) -> Answer {
        let state = self.state.lock();
        let wanted = selection(path, query);
        let items: Vec<&Value> =
            state.objects.iter().filter(|(path, object)| wanted(path, object)).map(|(_, object)| object).collect();
        json_answer(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.revision.to_string()}, "items": items}),
        )
    }

    fn watch(&self, path: &str, query: &str) -> Answer {
        let state = self.state.lock();
        let from: u64 =
            query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
        let wanted = selection(path, query);
        // What changed between the list and now comes first.
        let mut missed: Vec<Value> = state
            .objects
            .iter()
            .filter(|(path, object)| wanted(path, object) && revision(object) > from)
            .map(|(_, object)| json!({"type": "MODIFIED", "object": object}))
            .collect();
        missed.sort_by_key(|event| revision(&event["object"]));
        let changes = self.changes.subscribe();
        drop(state);
        let later = futures::stream::unfold(changes, |mut changes| async {
            changes.recv().await.ok().map(|change| (change, changes))
        });
        let later = later.filter_map(move |(path, kind, object)| {
            let event = wanted(&path, &object).then(|| json!({"type": kind, "object": object}));
            async move { event }
        });
        let events = futures::stream::iter(missed).chain(later);
        let body =
            StreamBody::new(events.map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n"))))));
        Response::new(BodyExt::boxed_unsync(body))
    }
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_collection(path: &str) -> bool {
    ["pods", "services", "configmaps", "secrets", "nodes"].iter().any(|plural| path.ends_with(&format!("/{plural}")))
}

/// Which objects a list or watch is about.
fn selection(path: &str, query: &str) -> impl Fn(&str, &Value) -> bool + Send + 'static {
    let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
    let folder = path.contains("/namespaces/").then(|| format!("{path}/"));
    let field = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=")).unwrap_or_default().to_owned();
    move |path, object| {
        let kind = path.rsplit('/').nth(1) == Some(&plural);
        let inside = folder.as_ref().is_none_or(|folder| path.starts_with(folder));
        let selected = match field.split_once('=') {
            None => true,
            Some((field, value)) => field.split('.').fold(object, |object, part| &object[part]) == value,
        };
        kind && inside && selected
    }
}

fn json_answer(code: u16, value: &Value) -> Answer {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = code.try_into().expect("a status code");
    response
}

fn not_found() -> Answer {
    json_answer(
        404,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}),
    )
}
