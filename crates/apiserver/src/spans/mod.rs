//! Traces of requests: spans with the ids of W3C's trace context, sent to a collector by OTLP.
//!
//! A request has a span, and below it one for each thing that it waits for: the store ([`Traced`]) and webhooks. Which
//! request's span that is, the task knows ([`scope`]). Without a configuration nothing of this is made, and a request pays for
//! looking once whether there is one. Source of the settings: `TracingConfiguration` of component-base; of the form on the
//! wire: `opentelemetry-proto`, written down by hand in [`otlp`].

mod config;
mod otlp;
mod parent;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;

use crate::config_file::ConfigError;
use parent::Parent;
pub(crate) use store::Traced;

/// How many spans wait for the collector; further ones are dropped and counted. A span has some hundred bytes.
const QUEUE: usize = 4096;

/// The header that says of which trace a request is part.
const TRACEPARENT: &str = "traceparent";

/// Whose work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Answering somebody.
    Server,
    /// Asking somebody.
    Client,
    /// Neither.
    Internal,
}

/// What is known of a piece of work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    Text(String),
    Number(i64),
}

/// A span that has ended.
#[derive(Debug)]
struct Ended {
    trace: [u8; 16],
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    name: String,
    side: Side,
    began: SystemTime,
    end: SystemTime,
    facts: Vec<(&'static str, Fact)>,
    error: Option<String>,
}

/// Makes spans and sends them.
#[derive(Debug)]
pub struct Tracer {
    /// How many of a million requests are traced that are not part of a trace yet.
    per_million: u32,
    queue: mpsc::Sender<Ended>,
    dropped: AtomicU64,
}

impl Tracer {
    /// As a `TracingConfiguration` says (`--tracing-config-file`). There must be a runtime, in which spans are sent.
    pub fn load(path: &Path) -> Result<Arc<Tracer>, ConfigError> {
        let config = config::load(path)?;
        let (queue, spans) = mpsc::channel(QUEUE);
        tokio::spawn(otlp::send(config.collector, spans));
        Ok(Arc::new(Tracer { per_million: config.per_million, queue, dropped: AtomicU64::new(0) }))
    }

    /// How many spans were lost because the collector is not quick enough.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The span of a request, if it is to be traced: whoever sends it with a trace of its own decides, else chance.
    pub(crate) fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Option<Open> {
        let parent = headers.get(TRACEPARENT).and_then(|value| Parent::parse(value.as_bytes()));
        let (trace, parent) = match parent {
            Some(parent) if parent.sampled => (parent.trace, Some(parent.span)),
            Some(_) => return None,
            None if rand::random_range(0..1_000_000) < self.per_million => (rand::random(), None),
            None => return None,
        };
        Some(Open::new(self, trace, parent, String::new(), Side::Server))
    }
}

/// The span that a task works for.
#[derive(Clone)]
struct Current {
    tracer: Arc<Tracer>,
    trace: [u8; 16],
    span: [u8; 8],
}

tokio::task_local! {
    static CURRENT: Option<Current>;
}

/// Does the work of a span: what begins inside is part of it.
pub(crate) fn scope<F: Future>(span: Option<&Open>, work: F) -> impl Future<Output = F::Output> {
    let current = span.map(|open| {
        let Ended { trace, span, .. } = open.ended;
        Current { tracer: Arc::clone(&open.tracer), trace, span }
    });
    CURRENT.scope(current, work)
}

/// Begins a span below that of the task, if it has one.
pub(crate) fn begin(name: &str, side: Side) -> Option<Open> {
    let current = CURRENT.try_with(Clone::clone).ok().flatten()?;
    Some(Open::new(&current.tracer, current.trace, Some(current.span), name.to_owned(), side))
}

/// A span that has not ended; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    tracer: Arc<Tracer>,
    began: Instant,
    ended: Ended,
}

impl Open {
    fn new(tracer: &Arc<Tracer>, trace: [u8; 16], parent: Option<[u8; 8]>, name: String, side: Side) -> Open {
        let now = SystemTime::now();
        let (span, facts) = (rand::random(), Vec::new());
        let ended = Ended { trace, span, parent, name, side, began: now, end: now, facts, error: None };
        Open { tracer: Arc::clone(tracer), began: Instant::now(), ended }
    }

    /// Gives the span its name, where it was not known before.
    pub(crate) fn name(&mut self, name: String) {
        self.ended.name = name;
    }

    /// Adds what is known.
    pub(crate) fn fact(&mut self, key: &'static str, fact: Fact) {
        self.ended.facts.push((key, fact));
    }

    /// Says that the work has failed.
    pub(crate) fn failed(&mut self, error: impl std::fmt::Display) {
        self.ended.error = Some(error.to_string());
    }

    /// What others are told, so that their spans are below this one.
    pub(crate) fn header(&self) -> Option<(&'static str, HeaderValue)> {
        let text = Parent { trace: self.ended.trace, span: self.ended.span, sampled: true }.to_string();
        HeaderValue::from_str(&text).ok().map(|value| (TRACEPARENT, value))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let span = &mut self.ended;
        // The clock may have been set meanwhile; how long the work took has nothing to do with that.
        let ended = Ended {
            name: std::mem::take(&mut span.name),
            end: span.began + self.began.elapsed(),
            facts: std::mem::take(&mut span.facts),
            error: span.error.take(),
            ..*span
        };
        if self.tracer.queue.try_send(ended).is_err() {
            self.tracer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
