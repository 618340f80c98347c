//! What is written about one request, gathered while it walks its road.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::Outlets;
use super::policy::{Level, Stage, Verdict};
use crate::security::User;

/// The longest body that is written into an event; larger ones are left out with a note.
pub(crate) const LONGEST_BODY: usize = 1 << 20;

/// One request's trail. Every part of the road may add to it.
pub(crate) struct Trail {
    verdict: Verdict,
    outlets: Arc<Outlets>,
    /// What does not change from stage to stage.
    head: Map<String, Value>,
    more: Mutex<More>,
}

#[derive(Default)]
struct More {
    annotations: Map<String, Value>,
    object_ref: Map<String, Value>,
    impersonated: Option<Value>,
    request: Option<Value>,
    response: Option<Value>,
    status: Map<String, Value>,
    ended: bool,
}

impl std::fmt::Debug for Trail {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Trail").field("verdict", &self.verdict).finish_non_exhaustive()
    }
}

/// A user in the form of `authentication.k8s.io/v1 UserInfo`.
pub(super) fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Now, with the microseconds that events have.
pub(super) fn micro_time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Trail {
    pub(super) fn new(
        verdict: Verdict,
        outlets: Arc<Outlets>,
        head: Map<String, Value>,
        object_ref: Map<String, Value>,
    ) -> Self {
        let more = Mutex::new(More { object_ref, ..More::default() });
        Trail { verdict, outlets, head, more }
    }

    /// How much is written.
    pub(crate) fn level(&self) -> Level {
        self.verdict.level
    }

    /// Whether bodies of responses are wanted.
    pub(crate) fn wants_response(&self) -> bool {
        self.verdict.level >= Level::RequestResponse
    }

    /// Adds a note under a key of its own; the first one stays.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        self.more.lock().annotations.entry(key).or_insert_with(|| value.into());
    }

    /// Says in whose name the request goes on.
    pub(crate) fn impersonates(&self, user: &User) {
        self.more.lock().impersonated = Some(user_info(user));
    }

    /// Takes the object that was sent, which also tells the name of what is created.
    pub(crate) fn sent(&self, object: Value) {
        let mut more = self.more.lock();
        for (field, place) in [
            ("name", "/metadata/name"),
            ("namespace", "/metadata/namespace"),
            ("uid", "/metadata/uid"),
            ("resourceVersion", "/metadata/resourceVersion"),
        ] {
            if let Some(text) = object.pointer(place).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                more.object_ref.entry(field).or_insert_with(|| text.into());
            }
        }
        if self.verdict.level >= Level::Request {
            more.request = Some(self.stripped(object));
        }
    }

    /// Takes the object that is answered.
    pub(crate) fn answered(&self, object: Value) {
        if object["kind"] == "Status" && object["apiVersion"] == "v1" {
            let mut more = self.more.lock();
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = object.get(field) {
                    more.status.insert(field.to_owned(), value.clone());
                }
            }
        }
        if self.wants_response() {
            let object = self.stripped(object);
            self.more.lock().response = Some(object);
        }
    }

    fn stripped(&self, mut object: Value) -> Value {
        if self.verdict.omit_managed_fields {
            let strip = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            strip(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        }
        object
    }

    /// Writes the event of a stage, if the policy wants it.
    pub(crate) fn write(&self, stage: Stage, code: Option<u16>) {
        let mut more = self.more.lock();
        if matches!(stage, Stage::ResponseComplete | Stage::Panic) && std::mem::replace(&mut more.ended, true) {
            return;
        }
        if self.verdict.omit_stages.contains(&stage) {
            return;
        }
        let mut event = self.head.clone();
        event.insert("stage".into(), stage.name().into());
        event.insert("stageTimestamp".into(), micro_time().into());
        if let Some(user) = &more.impersonated {
            event.insert("impersonatedUser".into(), user.clone());
        }
        if !more.object_ref.is_empty() {
            event.insert("objectRef".into(), more.object_ref.clone().into());
        }
        if let Some(code) = code {
            let mut status = more.status.clone();
            status.insert("metadata".into(), json!({}));
            status.insert("code".into(), code.into());
            event.insert("responseStatus".into(), status.into());
        }
        if stage == Stage::ResponseComplete || stage == Stage::Panic {
            if let Some(object) = more.request.take() {
                event.insert("requestObject".into(), object);
            }
            if let Some(object) = more.response.take() {
                event.insert("responseObject".into(), object);
            }
        }
        if !more.annotations.is_empty() {
            event.insert("annotations".into(), more.annotations.clone().into());
        }
        drop(more);
        self.outlets.send(&Value::Object(event));
    }
}
