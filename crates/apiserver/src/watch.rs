//! Watches: the events of a range, as lines of JSON or frames of protobuf.
//!
//! An event's object is never encoded for a watcher: its stored bytes are joined with the line's frame, and its protobuf
//! form is made once for all watchers. All lines that are ready go out as one piece.

mod pace;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use kobune_kinds::{FieldError, Kind, protobuf};
use kobune_store::{At, Event, EventKind, Listing, Record, Revision, StoreError, Watch, WatchError};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiServer, Body, BodyError,
    accept::{Accept, Encoding, Form, Offer},
    call::Call,
    conversion::{self, Converter},
    error::{Answer, ApiError},
    list::{self, Selection},
    respond, table,
};
use pace::Pace;

/// A piece is sent before it grows longer than this, even if more lines are ready. With the head of its frame of HTTP/2
/// it fills one record of TLS: a byte more would cost a frame, two records and a system call more for every watcher. And
/// it is what a watcher that does not read keeps in memory, of whom there may be a thousand.
const PIECE: usize = (16 << 10) - 9;

/// The bytes of a line that are not its object's.
const LINE: usize = 40;

/// Watches without a timeout end after this and up to as much again: clients reconnect spread out.
const LEAST_LIFE: Duration = Duration::from_secs(30 * 60);

/// No watch lives longer, whatever its client asks for.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The time between bookmarks, as upstream's.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// A last bookmark is sent this long before a watch ends, so that the client resumes near the end.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// The word of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Added,
    Modified,
    Deleted,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl ApiServer {
    /// GET of a collection with `watch=true`.
    pub(crate) async fn watch(&self, call: &Call) -> Answer<Response<Body>> {
        if call.accept.encoding == Encoding::Yaml {
            return Err(ApiError::not_acceptable(Offer::default()));
        }
        let selection = Selection::read(call)?;
        let include = table::Include::of(&call.query)?;
        let asked = list::revision(&call.query)?;
        let timeout =
            call.query.integer("timeoutSeconds").map_err(ApiError::bad_request)?.filter(|seconds| *seconds > 0);
        let bookmarks = call.query.flag("allowWatchBookmarks");
        let initial = call.query.maybe_flag("sendInitialEvents");
        let matching = call.query.get("resourceVersionMatch");
        check_options(initial, matching, call.query.get("continue").is_some())?;
        // A watch from nowhere begins with what there is, and a client that takes bookmarks is told where that ends.
        let announces = bookmarks && initial.unwrap_or(asked.is_none());
        let range = list::range(call);
        let current = self.store.revision();
        let start = match (initial, asked) {
            (Some(true), Some(asked)) if asked > current.0 => {
                return Err(ApiError::revision_too_large(asked, current.0));
            }
            // Initial events: the state now, then what follows it.
            (Some(true), _) | (None, None) => {
                let listing =
                    self.store.list(&range, At::Latest).await.map_err(|error| ApiError::from_store(&error))?;
                let watch = self.store.watch(&range, listing.revision());
                Start { listing: Some(listing), watch }
            }
            (Some(false), None) => Start { listing: None, watch: self.store.watch(&range, current) },
            (_, Some(asked)) => Start { listing: None, watch: self.store.watch(&range, Revision(asked)) },
        };
        let life = timeout.and_then(|seconds| u64::try_from(seconds).ok()).map_or_else(
            || LEAST_LIFE + Duration::from_millis(rand::rng().random_range(0..LEAST_LIFE.as_millis() as u64)),
            |seconds| Duration::from_secs(seconds).min(LONGEST_LIFE),
        );
        // Metadata is shown as it is stored.
        let converts =
            conversion::converts(&call.kind) && (call.accept.form != Form::Partial || selection.is_deferred());
        let sent = self.metrics.watch_events.of(&call.kind);
        let lines = Lines { kind: Arc::clone(&call.kind), accept: call.accept, include, headed: false, sent };
        let now = Instant::now();
        let stream = WatchStream {
            lines,
            selection,
            converter: converts.then(|| Arc::clone(&self.converter)),
            state: match start.watch {
                Ok(watch) => State::Listing { listing: start.listing, place: None, announce: announces, watch },
                Err(error) => State::Failed(store_failure(&error)),
            },
            bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            last_bookmark: (life > LAST_BOOKMARK * 2).then(|| now + life - LAST_BOOKMARK),
            held: None,
            gathered: 0,
            pace: Pace::default(),
            end: now + life,
            shutdown: self.definitions.end_of(&call.kind).unwrap_or_else(|| self.shutdown.clone()),
        };
        let protobuf = call.accept.encoding == Encoding::Protobuf;
        let mut response = respond::json_body(StatusCode::OK, Body::stream(stream.into_stream()));
        if protobuf {
            response.headers_mut().insert(header::CONTENT_TYPE, PROTOBUF_STREAM);
        }
        Ok(response)
    }
}

struct Start {
    listing: Option<Listing>,
    watch: Result<Watch, StoreError>,
}

/// Checks the parameters of a watch against each other.
fn check_options(initial: Option<bool>, matching: Option<&str>, goes_on: bool) -> Answer<()> {
    let mut errors = Vec::new();
    let mut forbidden = |detail: &str| errors.push(FieldError::forbidden("resourceVersionMatch", detail));
    if initial.is_some() && matching != Some("NotOlderThan") {
        forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if let Some(matching) = matching {
        if initial.is_none() {
            forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if goes_on {
            forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported("resourceVersionMatch", matching, &["NotOlderThan"]));
        }
    }
    list::invalid_options(&errors)
}

fn store_failure(error: &StoreError) -> ApiError {
    match error {
        StoreError::Expired { requested, oldest } => {
            ApiError::gone(format!("too old resource version: {requested} ({oldest})"))
        }
        StoreError::Future { requested, current } => ApiError::revision_too_large(requested.0, current.0),
        other => ApiError::internal(other),
    }
}

/// The type of a body of protobuf frames.
const PROTOBUF_STREAM: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");

/// An object on its way to a watcher.
struct Shown<'e> {
    word: Word,
    record: &'e Record,
    /// The revision to show instead of the record's own.
    version: Option<Revision>,
    /// The event whose record this is, which remembers the encoded form.
    event: Option<&'e Event>,
}

/// Writes events as lines or frames.
struct Lines {
    kind: Arc<Kind>,
    accept: Accept,
    include: table::Include,
    /// Whether a table's headings have been sent.
    headed: bool,
    /// Counts what is sent.
    sent: Arc<AtomicU64>,
}

impl Lines {
    fn event(&mut self, out: &mut Vec<u8>, shown: &Shown<'_>) -> Answer<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if self.accept.encoding == Encoding::Protobuf {
            return self.frame(out, shown);
        }
        let &Shown { word, record, version, .. } = shown;
        let meta_version = self.accept.meta_version;
        make_room(out, record.value.len() + LINE);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(word.as_str().as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match (self.accept.form, version) {
            (Form::Object | Form::AggregatedDiscovery, None)
                if self.kind.shows_as_stored(&record.value, record.revision.0) =>
            {
                out.extend_from_slice(&record.value)
            }
            (Form::Partial, None) => list::write_partial(out, record, meta_version)?,
            (form, version) => {
                let mut object = respond::parse(&self.kind, record)?;
                if let Some(version) = version {
                    object["metadata"]["resourceVersion"] = version.to_string().into();
                }
                let object = match form {
                    Form::Table => {
                        let table = table::of_event(&self.kind, &object, self.include, meta_version, !self.headed);
                        self.headed = true;
                        table
                    }
                    Form::Partial => respond::partial(&object, meta_version),
                    Form::Object | Form::AggregatedDiscovery => object,
                };
                write_json(out, &object);
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// Writes an event as a frame of protobuf.
    fn frame(&self, out: &mut Vec<u8>, shown: &Shown<'_>) -> Answer<()> {
        let &Shown { word, record, version, event } = shown;
        if let Some(version) = version {
            let mut object = respond::parse(&self.kind, record)?;
            object["metadata"]["resourceVersion"] = version.to_string().into();
            if self.accept.form == Form::Partial {
                object = respond::partial(&object, self.accept.meta_version);
            }
            return write_frame(out, word.as_str(), &object);
        }
        // The one form that is remembered is that of whole objects in the version in which they are stored.
        if let Some(event) = event
            && self.accept.form == Form::Object
            && self.kind.shows_as_stored(&event.record.value, event.record.revision.0)
        {
            let mut failure = None;
            let encoded = event.encoded(|event| {
                let mut object = Vec::with_capacity(event.record.value.len());
                failure = respond::write_protobuf(&mut object, &self.kind, self.accept, &event.record).err();
                Bytes::from(if failure.is_none() { object } else { Vec::new() })
            });
            // Whoever finds it empty finds out why by trying again.
            if !encoded.is_empty() {
                protobuf::watch_frame(out, word.as_str(), encoded);
                return Ok(());
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        let mut object = Vec::with_capacity(record.value.len());
        respond::write_protobuf(&mut object, &self.kind, self.accept, record)?;
        protobuf::watch_frame(out, word.as_str(), &object);
        Ok(())
    }

    fn bookmark(&self, out: &mut Vec<u8>, revision: Revision, initial_end: bool) -> Answer<()> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let meta_version = self.accept.meta_version;
        let object = match self.accept.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": meta_version, "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": table::columns(&self.kind),
                "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": meta_version, "metadata": metadata}}],
            }),
            Form::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": meta_version, "metadata": metadata})
            }
            Form::Object | Form::AggregatedDiscovery => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
        };
        self.line(out, "BOOKMARK", &object)
    }

    fn error(&self, out: &mut Vec<u8>, error: &ApiError) -> Answer<()> {
        self.line(out, "ERROR", &error.to_status())
    }

    /// Writes what is no stored object.
    fn line(&self, out: &mut Vec<u8>, word: &str, object: &Value) -> Answer<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if self.accept.encoding == Encoding::Protobuf {
            return write_frame(out, word, object);
        }
        write_json(out, &json!({"type": word, "object": object}));
        out.push(b'\n');
        Ok(())
    }
}

/// Makes room for a line. A first one gets as much as it takes, since most pieces have but one; with the second the whole
/// piece's room is made at once, so that many lines are not moved again and again while the piece grows.
fn make_room(out: &mut Vec<u8>, line: usize) {
    if out.is_empty() {
        out.reserve_exact(line);
    } else if out.capacity() - out.len() < line {
        out.reserve_exact(line.max(PIECE.saturating_sub(out.len())));
    }
}

fn write_frame(out: &mut Vec<u8>, word: &str, object: &Value) -> Answer<()> {
    let mut encoded = Vec::new();
    protobuf::value(&mut encoded, object).map_err(|error| ApiError::internal(&error))?;
    protobuf::watch_frame(out, word, &encoded);
    Ok(())
}

fn write_json(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value is always writable to memory");
}

/// Where a watch is.
///
/// ```text
/// Listing --> Following --> Ended
///    \___________\________> Failed --> Ended
/// ```
enum State {
    /// The state at the start is being sent as ADDED events.
    Listing { listing: Option<Listing>, place: Option<(Arc<str>, Arc<str>)>, announce: bool, watch: Watch },
    /// Events are sent as they come.
    Following(Watch),
    /// An ERROR event is still to be sent.
    Failed(ApiError),
    /// Nothing more comes.
    Ended,
}

struct WatchStream {
    lines: Lines,
    selection: Selection,
    /// What converts the objects, where that may be needed.
    converter: Option<Arc<Converter>>,
    state: State,
    bookmarks: bool,
    next_bookmark: Instant,
    last_bookmark: Option<Instant>,
    /// An event that did not fit into the piece before.
    held: Option<Arc<Event>>,
    /// The events in the piece that is being put together.
    gathered: usize,
    pace: Pace,
    end: Instant,
    shutdown: CancellationToken,
}

/// What happened to an object, as a watcher can read it.
struct Seen<'e> {
    kind: EventKind,
    record: &'e Record,
    previous: Option<&'e Record>,
    /// The event, where its own record is shown.
    event: Option<&'e Event>,
}

/// What an event means for a selection: whether the object comes, changes or goes.
fn transition<'e>(seen: Seen<'e>, selection: &Selection) -> Option<Shown<'e>> {
    let own = |word| Shown { word, record: seen.record, version: None, event: seen.event };
    if selection.is_everything() {
        let word = match seen.kind {
            EventKind::Created => Word::Added,
            EventKind::Updated => Word::Modified,
            EventKind::Deleted => Word::Deleted,
        };
        return Some(own(word));
    }
    let matched = seen.previous.is_some_and(|previous| selection.matches(previous));
    match seen.kind {
        EventKind::Created => selection.matches(seen.record).then(|| own(Word::Added)),
        EventKind::Deleted => (matched || selection.matches(seen.record)).then(|| own(Word::Deleted)),
        EventKind::Updated => match (matched, selection.matches(seen.record)) {
            (true, true) => Some(own(Word::Modified)),
            (false, true) => Some(own(Word::Added)),
            // The client is shown the last state that it knew, with the revision at which the object left.
            (true, false) => seen.previous.map(|record| Shown {
                word: Word::Deleted,
                record,
                version: Some(seen.record.revision),
                event: None,
            }),
            (false, false) => None,
        },
    }
}

impl WatchStream {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
        futures::stream::unfold(self, |mut stream| async move {
            let piece = stream.next_piece().await?;
            Some((Ok(Bytes::from(piece)), stream))
        })
    }

    /// The next lines; `None` when the watch is over.
    async fn next_piece(&mut self) -> Option<Vec<u8>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return None,
                State::Failed(error) => {
                    let mut out = Vec::new();
                    if let Err(error) = self.lines.error(&mut out, &error) {
                        tracing::error!(%error, "a watch ends without saying why");
                    }
                    return Some(out);
                }
                State::Listing { listing: None, watch, .. } => self.state = State::Following(watch),
                State::Listing { listing: Some(listing), place, announce, watch } => {
                    let mut out = Vec::new();
                    match self.list_piece(&listing, place, &mut out).await {
                        Ok(Some(place)) => {
                            self.state = State::Listing { listing: Some(listing), place: Some(place), announce, watch };
                            if !out.is_empty() {
                                return Some(out);
                            }
                        }
                        Ok(None) => {
                            let told = match announce {
                                true => self.lines.bookmark(&mut out, listing.revision(), true),
                                false => Ok(()),
                            };
                            self.state = match told {
                                Ok(()) => State::Following(watch),
                                Err(error) => State::Failed(error),
                            };
                            if !out.is_empty() {
                                return Some(out);
                            }
                        }
                        Err(error) => self.state = State::Failed(error),
                    }
                }
                State::Following(mut watch) => {
                    let mut out = Vec::new();
                    let next = self.follow(&mut watch, &mut out).await;
                    self.state = match next {
                        Next::More => State::Following(watch),
                        Next::End => State::Ended,
                        Next::Fail(error) => State::Failed(error),
                    };
                    if !out.is_empty() {
                        self.pace.sent(Instant::now(), std::mem::take(&mut self.gathered));
                        return Some(out);
                    }
                }
            }
        }
    }

    /// Writes ADDED events until the piece is full; answers where to go on.
    async fn list_piece(
        &mut self,
        listing: &Listing,
        place: Option<(Arc<str>, Arc<str>)>,
        out: &mut Vec<u8>,
    ) -> Answer<Option<(Arc<str>, Arc<str>)>> {
        let (namespace, name) = place.unwrap_or_else(|| (Arc::from(""), Arc::from("")));
        if let Some(converter) = self.converter.clone() {
            let most = conversion::MOST_OBJECTS;
            let found: Vec<Record> = self.selection.of(listing, &namespace, &name).take(most).cloned().collect();
            let last = found.last().map(|last| (Arc::clone(&last.key.namespace), Arc::clone(&last.key.name)));
            let ended = found.len() < most;
            let mut records = converter.records(&self.lines.kind, found).await?;
            self.selection.keep_own(&mut records);
            for record in &records {
                self.lines.event(out, &Shown { word: Word::Added, record, version: None, event: None })?;
            }
            return Ok(last.filter(|_| !ended));
        }
        for record in self.selection.of(listing, &namespace, &name) {
            self.lines.event(out, &Shown { word: Word::Added, record, version: None, event: None })?;
            if out.len() >= PIECE {
                return Ok(Some((Arc::clone(&record.key.namespace), Arc::clone(&record.key.name))));
            }
        }
        Ok(None)
    }

    /// Writes what an event means for this watcher, if anything.
    async fn show(&mut self, event: &Event, out: &mut Vec<u8>) -> Answer<()> {
        let previous = event.previous.as_ref();
        let Some(converter) = self.converter.clone() else {
            let seen = Seen { kind: event.kind, record: &event.record, previous, event: Some(event) };
            return transition(seen, &self.selection).map_or(Ok(()), |shown| self.lines.event(out, &shown));
        };
        let kind = Arc::clone(&self.lines.kind);
        let mut states = vec![event.record.clone()];
        states.extend(previous.cloned());
        if self.selection.is_deferred() {
            states = converter.records(&kind, states).await?;
        }
        let [record, previous @ ..] = states.as_slice() else { return Ok(()) };
        let seen = Seen { kind: event.kind, record, previous: previous.first(), event: None };
        let Some(shown) = transition(seen, &self.selection) else { return Ok(()) };
        let record = converter.record(&kind, shown.record.clone()).await?;
        self.lines.event(out, &Shown { record: &record, ..shown })
    }

    /// Waits for something to send and writes it.
    async fn follow(&mut self, watch: &mut Watch, out: &mut Vec<u8>) -> Next {
        let mut wake = self.end;
        if self.bookmarks {
            wake = wake.min(self.next_bookmark);
            if let Some(last) = self.last_bookmark {
                wake = wake.min(last);
            }
        }
        if self.held.is_none()
            && let Some(rested) = self.pace.rest()
        {
            tokio::select! {
                biased;
                // Dropping these waits loses nothing: a token stays cancelled, a time stays past.
                () = self.shutdown.cancelled() => return Next::End,
                () = sleep_until(rested.min(self.end)) => {}
            }
        }
        let first = match self.held.take() {
            // Events that come without a pause must not keep a watch alive.
            Some(_) if self.shutdown.is_cancelled() || Instant::now() >= self.end => return Next::End,
            Some(held) => Ok(held),
            None => tokio::select! {
                biased;
                // Dropping these waits loses nothing: a token stays cancelled, a time stays past, and `Watch::next` moves
                // on only when it answers.
                () = self.shutdown.cancelled() => return Next::End,
                event = watch.next() => event,
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if now >= self.end {
                        return Next::End;
                    }
                    if self.last_bookmark.is_some_and(|last| now >= last) {
                        self.last_bookmark = None;
                    }
                    self.next_bookmark = now + BOOKMARK_EVERY;
                    if self.bookmarks
                        && let Err(error) = self.lines.bookmark(out, watch.progress(), false)
                    {
                        return Next::Fail(error);
                    }
                    return Next::More;
                }
            },
        };
        let mut next = first.map(Some);
        loop {
            match next {
                Ok(Some(event)) => {
                    if !out.is_empty() && out.len() + event.record.value.len() + LINE > PIECE {
                        self.held = Some(event);
                        return Next::More;
                    }
                    let before = out.len();
                    if let Err(error) = self.show(&event, out).await {
                        return Next::Fail(error);
                    }
                    self.gathered += usize::from(out.len() > before);
                }
                Ok(None) => return Next::More,
                Err(WatchError::Lagged { after }) => {
                    return Next::Fail(ApiError::gone(format!(
                        "too old resource version: {after} (the watcher fell behind)"
                    )));
                }
                Err(WatchError::Closed) => return Next::End,
            }
            next = watch.try_next();
        }
    }
}

enum Next {
    More,
    End,
    Fail(ApiError),
}
