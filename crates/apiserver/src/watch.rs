//! Watches: the events of a range, as lines of JSON.
//!
//! An event's object is never encoded for a watcher: its stored bytes are joined with the line's frame. All lines that
//! are ready go out as one piece.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use http::{Response, StatusCode};
use kobune_kinds::Kind;
use kobune_store::{At, Event, EventKind, Listing, Record, Revision, StoreError, Watch, WatchError};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiServer, Body, BodyError,
    accept::{Encoding, Form},
    call::Call,
    error::{Answer, ApiError},
    list::{self, Selection},
    respond, table,
};

/// A piece is sent when it is this long even if more lines are ready.
const PIECE: usize = 64 << 10;

/// Watches without a timeout end after this and up to as much again: clients reconnect spread out.
const LEAST_LIFE: Duration = Duration::from_secs(30 * 60);

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
            return Err(ApiError::not_acceptable());
        }
        let selection = Selection::read(call)?;
        let include = table::Include::of(&call.query)?;
        let asked = list::revision(&call.query)?;
        let timeout =
            call.query.integer("timeoutSeconds").map_err(ApiError::bad_request)?.filter(|seconds| *seconds > 0);
        let bookmarks = call.query.flag("allowWatchBookmarks");
        let initial = call.query.maybe_flag("sendInitialEvents");
        let matching = call.query.get("resourceVersionMatch");
        match (initial, matching) {
            (Some(_), Some("NotOlderThan")) | (None, None) => {}
            (Some(_), _) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            (None, Some(_)) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
        }
        if initial == Some(true) && !bookmarks {
            return Err(invalid_options(
                "allowWatchBookmarks: Forbidden: sendInitialEvents requires allowWatchBookmarks to be true",
            ));
        }
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
            Duration::from_secs,
        );
        let lines = Lines { kind: Arc::clone(&call.kind), form: call.accept.form, include, headed: false };
        let now = Instant::now();
        let stream = WatchStream {
            lines,
            selection,
            state: match start.watch {
                Ok(watch) => {
                    State::Listing { listing: start.listing, place: None, announce: initial == Some(true), watch }
                }
                Err(error) => State::Failed(store_failure(&error)),
            },
            bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            last_bookmark: (life > LAST_BOOKMARK * 2).then(|| now + life - LAST_BOOKMARK),
            end: now + life,
            shutdown: self.shutdown.clone(),
        };
        Ok(respond::json_body(StatusCode::OK, Body::stream(stream.into_stream())))
    }
}

struct Start {
    listing: Option<Listing>,
    watch: Result<Watch, StoreError>,
}

fn invalid_options(problem: &str) -> ApiError {
    ApiError::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {problem}"))
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

/// Writes events as lines.
struct Lines {
    kind: Arc<Kind>,
    form: Form,
    include: table::Include,
    /// Whether a table's headings have been sent.
    headed: bool,
}

impl Lines {
    fn event(&mut self, out: &mut Vec<u8>, word: Word, record: &Record, version: Option<Revision>) -> Answer<()> {
        out.reserve(record.value.len() + 40);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(word.as_str().as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match (self.form, version) {
            (Form::Object | Form::AggregatedDiscovery, None) if self.kind.is_storage_version() => {
                out.extend_from_slice(&record.value)
            }
            (Form::Partial, None) => list::write_partial(out, record)?,
            (form, version) => {
                let mut object = respond::parse(&self.kind, record)?;
                if let Some(version) = version {
                    object["metadata"]["resourceVersion"] = version.to_string().into();
                }
                let object = match form {
                    Form::Table => {
                        let table = table::of_event(&self.kind, &object, self.include, !self.headed);
                        self.headed = true;
                        table
                    }
                    Form::Partial => respond::partial(&object),
                    Form::Object | Form::AggregatedDiscovery => object,
                };
                write_json(out, &object);
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn bookmark(&self, out: &mut Vec<u8>, revision: Revision, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": table::columns(&self.kind),
                "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}],
            }),
            Form::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Object | Form::AggregatedDiscovery => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
        };
        write_json(out, &json!({"type": "BOOKMARK", "object": object}));
        out.push(b'\n');
    }

    fn error(&self, out: &mut Vec<u8>, error: &ApiError) {
        write_json(out, &json!({"type": "ERROR", "object": error.to_status()}));
        out.push(b'\n');
    }
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
    state: State,
    bookmarks: bool,
    next_bookmark: Instant,
    last_bookmark: Option<Instant>,
    end: Instant,
    shutdown: CancellationToken,
}

/// What an event means for a selection: whether the object comes, changes or goes.
///
/// The revision is set where the object that is shown is not the one that the event carries.
fn transition<'e>(event: &'e Event, selection: &Selection) -> Option<(Word, &'e Record, Option<Revision>)> {
    if selection.is_everything() {
        let word = match event.kind {
            EventKind::Created => Word::Added,
            EventKind::Updated => Word::Modified,
            EventKind::Deleted => Word::Deleted,
        };
        return Some((word, &event.record, None));
    }
    let matched = event.previous.as_ref().is_some_and(|previous| selection.matches(previous));
    match event.kind {
        EventKind::Created => selection.matches(&event.record).then_some((Word::Added, &event.record, None)),
        EventKind::Deleted => {
            (matched || selection.matches(&event.record)).then_some((Word::Deleted, &event.record, None))
        }
        EventKind::Updated => match (matched, selection.matches(&event.record)) {
            (true, true) => Some((Word::Modified, &event.record, None)),
            (false, true) => Some((Word::Added, &event.record, None)),
            // The client is shown the last state that it knew, with the revision at which the object left.
            (true, false) => {
                event.previous.as_ref().map(|previous| (Word::Deleted, previous, Some(event.record.revision)))
            }
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
                    self.lines.error(&mut out, &error);
                    return Some(out);
                }
                State::Listing { listing: None, watch, .. } => self.state = State::Following(watch),
                State::Listing { listing: Some(listing), place, announce, watch } => {
                    let mut out = Vec::new();
                    match self.list_piece(&listing, place, &mut out) {
                        Ok(Some(place)) => {
                            self.state = State::Listing { listing: Some(listing), place: Some(place), announce, watch };
                            return Some(out);
                        }
                        Ok(None) => {
                            if announce {
                                self.lines.bookmark(&mut out, listing.revision(), true);
                            }
                            self.state = State::Following(watch);
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
                        return Some(out);
                    }
                }
            }
        }
    }

    /// Writes ADDED events until the piece is full; answers where to go on.
    fn list_piece(
        &mut self,
        listing: &Listing,
        place: Option<(Arc<str>, Arc<str>)>,
        out: &mut Vec<u8>,
    ) -> Answer<Option<(Arc<str>, Arc<str>)>> {
        let (namespace, name) = place.unwrap_or_else(|| (Arc::from(""), Arc::from("")));
        for record in listing.iter_after(&namespace, &name) {
            if self.selection.matches(record) {
                self.lines.event(out, Word::Added, record, None)?;
                if out.len() >= PIECE {
                    return Ok(Some((Arc::clone(&record.key.namespace), Arc::clone(&record.key.name))));
                }
            }
        }
        Ok(None)
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
        let first = tokio::select! {
            biased;
            // Dropping these waits loses nothing: a token stays cancelled, a time stays past, and `Watch::next` moves on
            // only when it answers.
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
                if self.bookmarks {
                    self.lines.bookmark(out, watch.progress(), false);
                }
                return Next::More;
            }
        };
        let mut next = first.map(Some);
        loop {
            match next {
                Ok(Some(event)) => {
                    if let Some((word, record, version)) = transition(&event, &self.selection)
                        && let Err(error) = self.lines.event(out, word, record, version)
                    {
                        return Next::Fail(error);
                    }
                }
                Ok(None) => return Next::More,
                Err(WatchError::Lagged { after }) => {
                    return Next::Fail(ApiError::gone(format!(
                        "too old resource version: {after} (the watcher fell behind)"
                    )));
                }
                Err(WatchError::Closed) => return Next::End,
            }
            if out.len() >= PIECE {
                return Next::More;
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
