//! Writes Events about what a component did, gathering repetitions as upstream's `EventCorrelator` does.
//!
//! A caller never waits: notes go through a bounded channel to one writer task, and are dropped (and counted) when it is full.
//! An equal note raises `count` of the event written before; more than ten different notes of one reason about one object become
//! one "combined" event; and an object gets 25 events at once and one more every five minutes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

/// Notes that wait for the writer: a burst of pods fits, memory stays below a megabyte.
const WAITING: usize = 4096;
/// Different messages of one reason about one object before they are combined, as upstream.
const COMBINE_AFTER: usize = 10;
/// How long notes count as repetitions of each other, as upstream.
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// Events an object may get at once, as upstream.
const BURST: f64 = 25.0;
/// Events a second an object gets back, as upstream.
const REFILL: f64 = 1.0 / 300.0;
/// Remembered notes; upstream keeps 4096 too.
const REMEMBERED: usize = 4096;

/// Whether an event tells of ordinary work or of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Ordinary work.
    Normal,
    /// Something a person may have to look at.
    Warning,
}

#[derive(Clone, Debug)]
struct Note {
    component: &'static str,
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// A handle to write events with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    component: &'static str,
    send: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder for `component`, and the writer that has to run beside it.
    pub fn new(client: kube::Client, component: &'static str) -> (Self, impl Future<Output = ()> + Send) {
        let (send, receive) = mpsc::channel(WAITING);
        let recorder = Self { component, send, dropped: Arc::default() };
        (recorder, write_notes(client, receive))
    }

    /// The same recorder speaking for another component.
    pub fn for_component(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    /// Records that `reason` happened to `about`.
    pub fn event(&self, about: &ObjectReference, severity: Severity, reason: &'static str, message: impl Into<String>) {
        let note = Note { component: self.component, about: about.clone(), severity, reason, message: message.into() };
        if self.send.try_send(note).is_err() && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(component = self.component, "events are dropped because too many wait to be written");
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Similar {
    component: &'static str,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    severity: Severity,
    reason: &'static str,
}

#[derive(Debug)]
struct Group {
    last: Instant,
    messages: HashSet<String>,
    written: HashMap<Option<String>, Written>,
}

#[derive(Debug)]
struct Written {
    name: String,
    count: i32,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What is to be written for a note.
#[derive(Debug)]
enum Action {
    Create(Box<Event>),
    Repeat { namespace: String, name: String, event: Box<Event> },
}

/// Who and what events are about, as far as their rate is limited together.
type Source = (&'static str, Option<String>, Option<String>, Option<String>);

/// Remembers what was written, so that repetitions are counted and floods are cut.
#[derive(Debug, Default)]
struct Correlator {
    groups: HashMap<Similar, Group>,
    buckets: HashMap<Source, Bucket>,
    serial: u64,
}

impl Correlator {
    fn take(&mut self, note: Note, now: Timestamp, clock: Instant) -> Option<Action> {
        self.forget(clock);
        let about = &note.about;
        let bucket = self
            .buckets
            .entry((note.component, about.kind.clone(), about.namespace.clone(), about.name.clone()))
            .or_insert(Bucket { tokens: BURST, at: clock });
        bucket.tokens = (bucket.tokens + clock.duration_since(bucket.at).as_secs_f64() * REFILL).min(BURST);
        bucket.at = clock;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let similar = Similar {
            component: note.component,
            kind: about.kind.clone(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            severity: note.severity,
            reason: note.reason,
        };
        let group = self.groups.entry(similar).or_insert_with(|| Group {
            last: clock,
            messages: HashSet::new(),
            written: HashMap::new(),
        });
        if clock.duration_since(group.last) > SIMILAR_FOR {
            group.messages.clear();
        }
        group.last = clock;
        if group.messages.len() <= COMBINE_AFTER {
            group.messages.insert(note.message.clone());
        }
        let combined = group.messages.len() > COMBINE_AFTER;
        let key = (!combined).then(|| note.message.clone());
        let message =
            if combined { format!("(combined from similar events): {}", note.message) } else { note.message.clone() };
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        self.serial += 1;
        let fresh = u64::try_from(now.as_nanosecond()).unwrap_or(self.serial).wrapping_add(self.serial);
        let written = group.written.entry(key).or_insert_with(|| Written {
            name: format!("{}.{fresh:x}", about.name.as_deref().unwrap_or("unknown")),
            count: 0,
        });
        written.count += 1;
        let event = Event {
            metadata: ObjectMeta {
                name: Some(written.name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: note.about,
            reason: Some(note.reason.to_owned()),
            message: Some(message),
            type_: Some(format!("{:?}", note.severity)),
            source: Some(EventSource { component: Some(note.component.to_owned()), host: None }),
            reporting_component: Some(note.component.to_owned()),
            reporting_instance: Some(String::new()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(written.count),
            ..Event::default()
        };
        Some(if written.count == 1 {
            Action::Create(Box::new(event))
        } else {
            Action::Repeat { namespace, name: written.name.clone(), event: Box::new(event) }
        })
    }

    /// Keeps memory bounded: what was not repeated for long is no repetition any more.
    fn forget(&mut self, clock: Instant) {
        if self.groups.len() >= REMEMBERED {
            self.groups.retain(|_, group| clock.duration_since(group.last) < SIMILAR_FOR);
            if self.groups.len() >= REMEMBERED {
                self.groups.clear();
            }
        }
        if self.buckets.len() >= REMEMBERED {
            self.buckets.retain(|_, bucket| {
                bucket.tokens + clock.duration_since(bucket.at).as_secs_f64() * REFILL < BURST - 1.5
            });
            if self.buckets.len() >= REMEMBERED {
                self.buckets.clear();
            }
        }
    }
}

async fn write_notes(client: kube::Client, mut receive: mpsc::Receiver<Note>) {
    let mut correlator = Correlator::default();
    while let Some(note) = receive.recv().await {
        let Some(action) = correlator.take(note, Timestamp::now(), Instant::now()) else { continue };
        if let Err(error) = write(&client, action).await {
            // Upstream drops an event that is refused as well: an event is advice, not state.
            tracing::debug!(error = &error as &dyn std::error::Error, "an event could not be written");
        }
    }
}

async fn write(client: &kube::Client, action: Action) -> Result<(), kube::Error> {
    match action {
        Action::Create(event) => {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            Api::<Event>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &event).await?;
        }
        Action::Repeat { namespace, name, event } => {
            let api = Api::<Event>::namespaced(client.clone(), &namespace);
            let change = serde_json::json!({
                "count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message,
            });
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(&change)).await {
                // The event has expired in between; it starts anew.
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    api.create(&PostParams::default(), &event).await?;
                }
                other => {
                    other?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str, message: &str) -> Note {
        Note {
            component: "test",
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("default".into()),
                name: Some(name.into()),
                ..Default::default()
            },
            severity: Severity::Normal,
            reason: "Tested",
            message: message.to_owned(),
        }
    }

    #[test]
    fn repetitions_are_counted_combined_and_cut() {
        let mut correlator = Correlator::default();
        let (now, clock) = (Timestamp::UNIX_EPOCH, Instant::now());
        let Some(Action::Create(first)) = correlator.take(note("a", "one"), now, clock) else {
            panic!("the first is created")
        };
        assert_eq!((first.count, first.type_.as_deref()), (Some(1), Some("Normal")));
        let Some(Action::Repeat { event, name, .. }) = correlator.take(note("a", "one"), now, clock) else {
            panic!("the second repeats")
        };
        assert_eq!((event.count, Some(name)), (Some(2), first.metadata.name));
        for number in 0..9 {
            assert!(
                matches!(correlator.take(note("a", &format!("m{number}")), now, clock), Some(Action::Create(_))),
                "{number}"
            );
        }
        let Some(Action::Create(combined)) = correlator.take(note("a", "eleventh"), now, clock) else {
            panic!("combined is new")
        };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): eleventh"));
        assert!(matches!(correlator.take(note("a", "twelfth"), now, clock), Some(Action::Repeat { .. })));
        let more = (0..40).filter(|_| correlator.take(note("a", "one"), now, clock).is_some()).count();
        assert_eq!(more, 25 - 13);
        assert!(correlator.take(note("b", "one"), now, clock).is_some(), "another object has its own allowance");
    }
}
