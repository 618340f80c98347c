//! Events for somebody else: a bounded queue before a task that posts them in batches.
//!
//! Nothing that the webhook does or does not do holds up a request. Batches go one after the other, so that they arrive in
//! order and no more than the queue is held; what does not fit is dropped and counted, as is a batch that was not taken in
//! [`ATTEMPTS`] attempts. Upstream's `plugin/pkg/audit/webhook` and `plugin/pkg/audit/buffered`, in its mode `batch`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::outgoing::poster::{PostError, Poster};

/// The bytes of events that may wait, those of the batch that is on its way among them.
const QUEUE_BYTES: usize = 8 << 20;

/// The bytes after which a batch takes no further event.
const BATCH_BYTES: usize = 1 << 20;

/// How long one attempt may take, and how many there are; every failure is tried again, whatever its code.
const PATIENCE: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 5;

/// The longest answer that is read. Nothing of it is used.
const LONGEST: usize = 64 << 10;

/// How long the events that wait have at the end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where events go, and in what portions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookOptions {
    /// The kubeconfig of the webhook (`--audit-webhook-config-file`).
    pub config_file: PathBuf,
    /// How many events may wait (`--audit-webhook-batch-buffer-size`).
    pub buffer_size: usize,
    /// How many events a batch has at most (`--audit-webhook-batch-max-size`).
    pub batch_max_size: usize,
    /// How long an event waits for others (`--audit-webhook-batch-max-wait`).
    pub batch_max_wait: Duration,
    /// The pause before the second attempt, which grows by half each time (`--audit-webhook-initial-backoff`).
    pub initial_backoff: Duration,
}

impl WebhookOptions {
    /// Upstream's defaults.
    #[must_use]
    pub fn new(config_file: PathBuf) -> WebhookOptions {
        WebhookOptions {
            config_file,
            buffer_size: 10_000,
            batch_max_size: 400,
            batch_max_wait: Duration::from_secs(30),
            initial_backoff: Duration::from_secs(10),
        }
    }
}

/// What waits, and what was lost.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicUsize,
    events: AtomicUsize,
    dropped: AtomicU64,
}

/// The way to the webhook.
pub(super) struct WebhookSink {
    queue: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    buffer_size: usize,
    counts: Arc<Counts>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl WebhookSink {
    /// Starts the task that posts; there must be a runtime.
    pub(super) fn start(options: WebhookOptions, poster: Poster) -> WebhookSink {
        let (queue, events) = mpsc::unbounded_channel();
        let counts = Arc::new(Counts::default());
        let buffer_size = options.buffer_size;
        let task = tokio::spawn(run(options, poster, events, Arc::clone(&counts)));
        WebhookSink { queue: Mutex::new(Some(queue)), buffer_size, counts, task: Mutex::new(Some(task)) }
    }

    /// Puts an event into the queue.
    pub(super) fn send(&self, event: Bytes) {
        let length = event.len();
        let bytes = self.counts.bytes.fetch_add(length, Ordering::Relaxed);
        let events = self.counts.events.fetch_add(1, Ordering::Relaxed);
        let fits = bytes + length <= QUEUE_BYTES && events < self.buffer_size;
        if fits && self.queue.lock().as_ref().is_some_and(|queue| queue.send(event).is_ok()) {
            return;
        }
        self.counts.bytes.fetch_sub(length, Ordering::Relaxed);
        self.counts.events.fetch_sub(1, Ordering::Relaxed);
        if self.counts.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("the audit webhook cannot keep up: events are dropped");
        }
    }

    /// How many events were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Posts what waits, as far as there is time, and ends.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().take());
        let Some(mut task) = self.task.lock().take() else { return };
        match tokio::time::timeout(LAST_WORDS, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the task of the audit webhook has failed"),
            Err(_) => {
                task.abort();
                let lost = self.counts.events.load(Ordering::Relaxed);
                self.counts.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                tracing::error!(lost, "the audit webhook did not take the last events in time");
            }
        }
    }
}

async fn run(options: WebhookOptions, poster: Poster, mut events: mpsc::UnboundedReceiver<Bytes>, counts: Arc<Counts>) {
    let mut failing = false;
    while let Some(first) = events.recv().await {
        let end = Instant::now() + options.batch_max_wait;
        let mut bytes = first.len();
        let mut batch = vec![first];
        while batch.len() < options.batch_max_size && bytes < BATCH_BYTES {
            // Dropping the wait loses nothing: an event stays in the queue until it is taken.
            match tokio::time::timeout_at(end, events.recv()).await {
                Ok(Some(event)) => {
                    bytes += event.len();
                    batch.push(event);
                }
                // Nothing more comes, or not in time.
                Ok(None) | Err(_) => break,
            }
        }
        let outcome = deliver(&options, &poster, list(&batch, bytes)).await;
        counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
        counts.events.fetch_sub(batch.len(), Ordering::Relaxed);
        match outcome {
            Ok(()) => failing = false,
            Err(error) => {
                counts.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, lost = batch.len(), "the audit webhook takes no events");
                }
            }
        }
    }
}

/// An `EventList` of events that are JSON already.
fn list(batch: &[Bytes], bytes: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(bytes + batch.len() + 96);
    body.extend_from_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for (index, event) in batch.iter().enumerate() {
        if index > 0 {
            body.extend_from_slice(b",");
        }
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    body.freeze()
}

async fn deliver(options: &WebhookOptions, poster: &Poster, body: Bytes) -> Result<(), PostError> {
    let mut pause = options.initial_backoff;
    let mut attempt = 1;
    loop {
        match poster.post(body.clone(), PATIENCE, LONGEST).await {
            // The events have arrived; how much the webhook has to say about that does not matter.
            Ok(_) | Err(PostError::TooLong { .. }) => return Ok(()),
            Err(error) if attempt < ATTEMPTS => {
                tracing::debug!(%error, attempt, "the audit webhook does not answer");
                tokio::time::sleep(pause).await;
                pause = pause * 3 / 2;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
