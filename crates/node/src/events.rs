//! Events about pods and the node, as `kubectl describe` shows them.
//!
//! One task writes them one after the other; repeated ones raise the count of the first. The queue is bounded: when the
//! server is away, the newest are dropped and counted, never the pods held up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::{self, Role};
use crate::status::time;

/// Events waiting to be written; one is about 500 bytes.
const QUEUE: usize = 256;
/// Written events that are remembered so that a repeated one only raises a count.
const REMEMBERED: usize = 256;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody may want to look.
    Warning,
}

struct Happening {
    about: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Takes events and returns at once.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Happening>,
    dropped: Arc<AtomicU64>,
}

/// The other end of a [`Recorder`].
pub struct Writer {
    queue: mpsc::Receiver<Happening>,
    dropped: Arc<AtomicU64>,
}

/// A recorder and its writer.
pub fn channel() -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    (Recorder { queue: sender, dropped: Arc::clone(&dropped) }, Writer { queue: receiver, dropped })
}

impl Recorder {
    /// Tells something about a pod.
    pub fn pod(&self, owner: &Pod, severity: Severity, reason: &str, message: impl Into<String>) {
        self.push(reference(owner, None), severity, reason, message.into());
    }

    /// Tells something about a container of a pod.
    pub fn container(
        &self,
        owner: &Pod,
        role: Role,
        name: &str,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.push(reference(owner, Some(pod::field_path(role, name))), severity, reason, message.into());
    }

    /// Tells something about the node.
    pub fn node(&self, name: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.push(about, severity, reason, message.into());
    }

    fn push(&self, about: ObjectReference, severity: Severity, reason: &str, message: String) {
        let happening = Happening { about, severity, reason: reason.to_owned(), message, at: Timestamp::now() };
        if self.queue.try_send(happening).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn reference(owner: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: owner.metadata.name.clone(),
        namespace: owner.metadata.namespace.clone(),
        uid: owner.metadata.uid.clone(),
        resource_version: owner.metadata.resource_version.clone(),
        field_path,
    }
}

struct Written {
    uid: Option<String>,
    field_path: Option<String>,
    reason: String,
    message: String,
    namespace: String,
    name: String,
    count: i32,
}

impl Writer {
    /// Writes until the token is cancelled.
    pub async fn run(mut self, client: kube::Client, node: String, token: CancellationToken) {
        let mut written: VecDeque<Written> = VecDeque::new();
        loop {
            // Dropping the receive loses nothing; a half-done write is only an event.
            let happening = tokio::select! {
                () = token.cancelled() => return,
                happening = self.queue.recv() => happening,
            };
            let Some(happening) = happening else { return };
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "events were dropped because writing them did not keep up");
            }
            if let Err(error) = write(&client, &node, &mut written, happening).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "an event was not written");
            }
        }
    }
}

async fn write(
    client: &kube::Client,
    node: &str,
    written: &mut VecDeque<Written>,
    happening: Happening,
) -> Result<(), kube::Error> {
    let namespace = happening.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let same = written.iter_mut().find(|known| {
        known.uid == happening.about.uid
            && known.field_path == happening.about.field_path
            && known.reason == happening.reason
            && known.message == happening.message
            && known.namespace == namespace
    });
    if let Some(known) = same {
        let patch = json!({"count": known.count + 1, "lastTimestamp": time(happening.at)});
        match api.patch(&known.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {
                known.count += 1;
                return Ok(());
            }
            // It has lived its time and was cleaned away: written anew below.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let name = known.name.clone();
                written.retain(|known| known.name != name);
            }
            Err(error) => return Err(error),
        }
    }
    let stamp = happening.at.as_nanosecond();
    let about_name = happening.about.name.clone().unwrap_or_default();
    let name = format!("{}.{stamp:x}", about_name.get(..200).unwrap_or(&about_name));
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..ObjectMeta::default() },
        involved_object: happening.about.clone(),
        reason: Some(happening.reason.clone()),
        message: Some(happening.message.get(..1024).unwrap_or(&happening.message).to_owned()),
        type_: Some(format!("{:?}", happening.severity)),
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) }),
        first_timestamp: Some(time(happening.at)),
        last_timestamp: Some(time(happening.at)),
        count: Some(1),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    };
    api.create(&PostParams::default(), &event).await?;
    if written.len() >= REMEMBERED {
        written.pop_front();
    }
    written.push_back(Written {
        uid: happening.about.uid,
        field_path: happening.about.field_path,
        reason: happening.reason,
        message: happening.message,
        namespace,
        name,
        count: 1,
    });
    Ok(())
}
