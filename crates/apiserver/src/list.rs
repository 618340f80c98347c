//! Lists: a snapshot of the store, joined from stored bytes while it is sent.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use kobune_kinds::{
    FieldError, Kind,
    continue_token::{ContinueToken, PageState},
    selector::{FieldSelector, LabelSelector, Operator, Requirement},
};
use kobune_store::{At, LabelMask, Listing, Range, Record, Revision, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    ApiServer, Body, BodyError,
    accept::{Accept, Encoding, Form},
    call::Call,
    compress::Compressible,
    conversion::{self, Converter},
    error::{Answer, ApiError},
    protobuf_list::protobuf_list,
    query::Query,
    respond, table,
};

/// The size of the pieces of a list that is sent while it is joined.
pub(crate) const CHUNK: usize = 128 << 10;

/// What a list or watch is limited to.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Bits that every selected object has.
    mask: LabelMask,
    labels: LabelSelector,
    fields: FieldSelector,
    name: Option<Box<str>>,
    /// The kind of custom resources that are selected by fields of their own, which are read from the objects.
    own: Option<(Arc<Kind>, FieldSelector)>,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`, and the name of an old watch path.
    pub(crate) fn read(call: &Call) -> Answer<Self> {
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or_default())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or_default())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let known = call.kind.selectable_names();
        for term in fields.terms() {
            if !known.contains(&&*term.field) {
                let only_metadata = known.iter().all(|name| name.starts_with("metadata."));
                return Err(ApiError::bad_request(if only_metadata {
                    let names: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
                    format!("\"{}\" is not a known field selector: only {}", term.field, names.join(", "))
                } else {
                    format!("field label not supported: {}", term.field)
                }));
            }
        }
        let mask = labels.requirements().iter().fold(LabelMask::default(), mask_with);
        let (fields, own) = match call.kind.custom() {
            Some(_) => fields.partition(|field| field.starts_with("metadata.")),
            None => (fields, FieldSelector::default()),
        };
        let own = (!own.is_everything()).then(|| (Arc::clone(&call.kind), own));
        Ok(Self { mask, labels, fields, name: call.target.name.as_deref().map(Box::from), own })
    }

    /// Whether everything is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything() && self.name.is_none() && self.own.is_none()
    }

    /// Whether it can be decided only when objects have been converted by a webhook: [`Selection::of`] then gives all that
    /// may be selected, and [`Selection::keep_own`] is the other half.
    pub(crate) fn is_deferred(&self) -> bool {
        self.own.as_ref().is_some_and(|(kind, _)| conversion::converts(kind))
    }

    /// Whether an object is selected, that is converted already.
    pub(crate) fn matches(&self, record: &Record) -> bool {
        self.matches_facets(record) && self.matches_own(record)
    }

    /// Takes away the converted objects that are not selected by their own fields.
    pub(crate) fn keep_own(&self, records: &mut Vec<Record>) {
        if self.own.is_some() {
            records.retain(|record| self.matches_own(record));
        }
    }

    /// Looks only at what was taken out when the object was written.
    fn matches_facets(&self, record: &Record) -> bool {
        let key = &record.key;
        let facets = &record.facets;
        self.name.as_deref().is_none_or(|name| name == &*key.name)
            && (self.fields.is_everything()
                || self.fields.matches(|field| match field {
                    "metadata.name" | "name" => Some(&*key.name),
                    "metadata.namespace" => Some(&*key.namespace),
                    // Events are stored as core's, whose names for the same fields are the older ones.
                    other => match other.strip_prefix("regarding.") {
                        Some(rest) => facets.field(&format!("involvedObject.{rest}")),
                        None if other == "reportingController" => facets.field("reportingComponent"),
                        None => facets.field(other),
                    },
                }))
            && (self.labels.is_everything() || self.labels.matches(|label| facets.label(label)))
    }

    /// The selected objects of a listing after a namespace and name.
    pub(crate) fn of<'a>(
        &'a self,
        listing: &'a Listing,
        namespace: &str,
        name: &str,
    ) -> impl Iterator<Item = &'a Record> + use<'a> {
        let everything = self.is_everything();
        let deferred = self.is_deferred();
        listing
            .iter_labelled(namespace, name, self.mask)
            .filter(move |record| everything || (self.matches_facets(record) && (deferred || self.matches_own(record))))
    }

    /// Whether a custom resource's own fields match. An object that cannot be read has none.
    fn matches_own(&self, record: &Record) -> bool {
        let Some((kind, fields)) = &self.own else { return true };
        let object = respond::parse(kind, record).ok();
        let value = |field: &str| object.as_ref().and_then(|object| kind.selected_value(object, field));
        let values: Vec<(&str, String)> =
            fields.terms().iter().filter_map(|term| Some((term.field.as_str(), value(&term.field)?))).collect();
        fields.matches(|field| values.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str()))
    }

    /// The only name that can match, if there is one: such a list needs no walk.
    fn only_name(&self) -> Option<&str> {
        self.name.as_deref().or_else(|| self.fields.exact("metadata.name"))
    }
}

/// Adds what a requirement says that objects have.
fn mask_with(mask: LabelMask, requirement: &Requirement) -> LabelMask {
    match (requirement.operator, requirement.values.as_slice()) {
        (Operator::In, [value]) => mask.with(&requirement.key).with_pair(&requirement.key, value),
        (Operator::In | Operator::Exists | Operator::GreaterThan | Operator::LessThan, _) => {
            mask.with(&requirement.key)
        }
        (Operator::NotIn | Operator::DoesNotExist, _) => mask,
    }
}

/// The range that a path names.
pub(crate) fn range(call: &Call) -> Range {
    Range {
        collection: Arc::clone(&call.kind.collection),
        namespace: match &call.target.namespace {
            Some(namespace) if call.kind.namespaced => Some(kobune_store::intern(namespace)),
            _ => None,
        },
    }
}

/// A revision parameter: absent and `0` are `None`.
pub(crate) fn revision(query: &Query) -> Answer<Option<u64>> {
    match query.get("resourceVersion") {
        None | Some("0") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        }),
    }
}

/// Parameters of a list or watch that do not go together.
pub(crate) fn invalid_options(errors: &[FieldError]) -> Answer<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", errors)) }
}

/// Checks the parameters of a list against each other.
fn check_options(query: &Query) -> Answer<()> {
    let mut errors = Vec::new();
    if let Some(matching) = query.get("resourceVersionMatch") {
        let mut forbidden = |detail: &str| errors.push(FieldError::forbidden("resourceVersionMatch", detail));
        if query.get("resourceVersion").is_none() {
            forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if query.get("continue").is_some() {
            forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == "Exact" && query.get("resourceVersion") == Some("0") {
            forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let allowed = ["Exact", "NotOlderThan", ""];
            errors.push(FieldError::not_supported("resourceVersionMatch", matching, &allowed));
        }
    }
    if query.maybe_flag("sendInitialEvents").is_some() {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    invalid_options(&errors)
}

/// What a list shows, decided before anything is written.
struct Page {
    listing: Listing,
    after: Option<(String, String)>,
    limit: usize,
    /// The revision that the list carries.
    revision: Revision,
    /// When the first page was made, in seconds since 1970.
    started: i64,
}

impl ApiServer {
    /// GET of a collection.
    pub(crate) async fn list(&self, call: &Call) -> Answer<Response<Body>> {
        let selection = Selection::read(call)?;
        let page = self.page(call).await?;
        let include = table::Include::of(&call.query)?;
        let writer = Writer { kind: Arc::clone(&call.kind), accept: call.accept, include };
        // Metadata is shown as it is stored.
        let converts =
            conversion::converts(&call.kind) && (call.accept.form != Form::Partial || selection.is_deferred());
        let converter = converts.then(|| Arc::clone(&self.converter));
        if converter.is_none() && call.accept.encoding == Encoding::Protobuf && page.limit == 0 && page.after.is_none()
        {
            let chosen = selection.of(&page.listing, "", "").cloned().collect();
            return protobuf_list(writer, chosen, list_meta(page.revision, None, None)).await;
        }
        if page.limit == 0 && page.after.is_none() {
            if let Some(name) = selection.only_name() {
                let found = match &*page.listing.range().namespace.clone().unwrap_or_default() {
                    "" if call.kind.namespaced => selection.of(&page.listing, "", "").cloned().collect(),
                    namespace => {
                        let key = crate::call::key(&call.kind, namespace, name);
                        let found = self.read(&key).await?.into_iter();
                        found.filter(|record| selection.matches_facets(record)).collect::<Vec<_>>()
                    }
                };
                let found = self.selected(call, &selection, found).await?;
                return writer.finish(found, page.revision, None, None).await;
            }
            return writer.streamed(page.listing, selection, page.revision, converter).await;
        }
        let (mut namespace, mut name) = page.after.clone().unwrap_or_default();
        let mut chosen: Vec<Record> = Vec::new();
        let mut more = false;
        loop {
            // One more than there may be says whether there are more.
            let wanted = if page.limit > 0 { page.limit + 1 - chosen.len() } else { usize::MAX };
            let found: Vec<Record> = selection.of(&page.listing, &namespace, &name).take(wanted).cloned().collect();
            let ended = found.len() < wanted;
            if let Some(last) = found.last() {
                (namespace, name) = (last.key.namespace.to_string(), last.key.name.to_string());
            }
            chosen.extend(self.selected(call, &selection, found).await?);
            if page.limit > 0 && chosen.len() > page.limit {
                chosen.truncate(page.limit);
                more = true;
                break;
            }
            if ended {
                break;
            }
        }
        let mut token = None;
        let mut remaining = None;
        if more && let Some(last) = chosen.last() {
            let (namespace, name) = (&last.key.namespace, &last.key.name);
            token = Some(ContinueToken::new(page.revision.0, page.started, namespace, name).encode());
            self.store.keep(&page.listing);
            if selection.is_everything() {
                remaining = Some(page.listing.iter_after(&last.key.namespace, &last.key.name).count());
            }
        }
        writer.finish(chosen, page.revision, token, remaining).await
    }

    /// The objects that are selected, of those that may be, as the call's kind can read them.
    pub(crate) async fn selected(
        &self,
        call: &Call,
        selection: &Selection,
        records: Vec<Record>,
    ) -> Answer<Vec<Record>> {
        if call.accept.form == Form::Partial && !selection.is_deferred() {
            return Ok(records);
        }
        let mut records = self.converter.records(&call.kind, records).await?;
        selection.keep_own(&mut records);
        Ok(records)
    }

    /// Decides on the state to show by `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`.
    async fn page(&self, call: &Call) -> Answer<Page> {
        let query = &call.query;
        check_options(query)?;
        // As upstream takes it, a negative limit is none.
        let limit = query.integer("limit").map_err(ApiError::bad_request)?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        let range = range(call);
        let matching = query.get("resourceVersionMatch");
        let asked = query.get("resourceVersion");
        let now = Timestamp::now().as_second();
        if let Some(text) = query.get("continue") {
            if asked.is_some_and(|asked| asked != "0") {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token =
                ContinueToken::decode(text).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
            let (namespace, name) = token.place();
            let after = Some((namespace.to_owned(), name.to_owned()));
            let made = token.made();
            let state = token.state(now);
            let go_on = || Err(ApiError::expired_list(Some(token.inconsistent().encode())));
            // A list that has gone on in another state is one list from there on.
            let (at, started) = match state {
                Some(PageState::Exact(revision)) => (At::Exact(Revision(revision)), made),
                Some(PageState::Latest) => (At::Latest, now),
                None => return go_on(),
            };
            return match self.store.list(&range, at).await {
                Ok(listing) => {
                    let revision = listing.revision();
                    Ok(Page { listing, after, limit, revision, started })
                }
                Err(StoreError::Expired { .. } | StoreError::Future { .. }) => go_on(),
                Err(error) => Err(ApiError::from_store(&error)),
            };
        }
        let at = match (matching, asked) {
            (_, None) => At::Latest,
            (Some("Exact"), Some(_)) => revision(query)?.map_or(At::Latest, |revision| At::Exact(Revision(revision))),
            (_, Some(_)) => {
                let asked = revision(query)?.unwrap_or(0);
                let current = self.store.revision();
                if asked > current.0 {
                    return Err(ApiError::revision_too_large(asked, current.0));
                }
                // With a limit and no match, upstream shows exactly the revision that is asked for.
                if matching.is_none() && limit > 0 && asked > 0 { At::Exact(Revision(asked)) } else { At::Latest }
            }
        };
        let listing = match self.store.list(&range, at).await {
            Ok(listing) => listing,
            Err(StoreError::Expired { .. }) => {
                return Err(ApiError::gone("The resourceVersion for the provided list is too old."));
            }
            Err(StoreError::Future { requested, current }) => {
                return Err(ApiError::revision_too_large(requested.0, current.0));
            }
            Err(error) => return Err(ApiError::from_store(&error)),
        };
        let revision = listing.revision();
        Ok(Page { listing, after: None, limit, revision, started: now })
    }

    /// The list of given records, as a deletion of a collection answers it.
    pub(crate) async fn list_of(
        &self,
        call: &Call,
        records: Vec<Record>,
        revision: Revision,
    ) -> Answer<Response<Body>> {
        let include = table::Include::of(&call.query)?;
        let writer = Writer { kind: Arc::clone(&call.kind), accept: call.accept, include };
        writer.finish(records, revision, None, None).await
    }
}

/// The metadata of a list.
fn list_meta(revision: Revision, token: Option<String>, remaining: Option<usize>) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some(token) = token {
        metadata["continue"] = token.into();
    }
    if let Some(remaining) = remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// Writes lists in one form.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) kind: Arc<Kind>,
    pub(crate) accept: Accept,
    include: table::Include,
}

impl Writer {
    /// Everything up to the first item.
    fn head(&self, revision: Revision, token: Option<String>, remaining: Option<usize>) -> Vec<u8> {
        let metadata = list_meta(revision, token, remaining);
        let meta_version = self.accept.meta_version;
        match self.accept.form {
            Form::Table => format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"{meta_version}\",\"metadata\":{metadata},\"columnDefinitions\":{},\"rows\":[",
                table::columns(&self.kind)
            ),
            Form::Partial => format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{meta_version}\",\"metadata\":{metadata},\"items\":["
            ),
            Form::Object | Form::AggregatedDiscovery => format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                self.kind.list_kind,
                self.kind.api_version()
            ),
        }
        .into_bytes()
    }

    fn item(&self, out: &mut Vec<u8>, record: &Record) -> Answer<()> {
        match self.accept.form {
            Form::Table => {
                let object = respond::parse(&self.kind, record)?;
                write_json(out, &table::row(&self.kind, &object, self.include, self.accept.meta_version));
            }
            Form::Partial => write_partial(out, record, self.accept.meta_version)?,
            Form::Object | Form::AggregatedDiscovery if self.kind.shows_as_stored(&record.value, record.revision.0) => {
                out.extend_from_slice(&record.value)
            }
            Form::Object | Form::AggregatedDiscovery => write_json(out, &respond::parse(&self.kind, record)?),
        }
        Ok(())
    }

    /// A list that is small or has to be known before it is sent.
    fn whole(
        &self,
        records: &[Record],
        revision: Revision,
        token: Option<String>,
        remaining: Option<usize>,
    ) -> Answer<Bytes> {
        let mut out = self.head(revision, token, remaining);
        if self.accept.form == Form::Object {
            out.reserve(records.iter().map(|record| record.value.len() + 1).sum::<usize>() + 2);
        }
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.item(&mut out, record)?;
        }
        out.extend_from_slice(b"]}");
        Ok(Bytes::from(out))
    }

    /// The response that lists these records.
    async fn finish(
        self,
        records: Vec<Record>,
        revision: Revision,
        token: Option<String>,
        remaining: Option<usize>,
    ) -> Answer<Response<Body>> {
        if self.accept.encoding == Encoding::Protobuf {
            return protobuf_list(self, records, list_meta(revision, token, remaining)).await;
        }
        finish(self.accept, self.whole(&records, revision, token, remaining)?)
    }

    /// A list of any length: pieces are made as the connection takes them, so it needs the memory of one piece.
    async fn streamed(
        self,
        listing: Listing,
        selection: Selection,
        revision: Revision,
        converter: Option<Arc<Converter>>,
    ) -> Answer<Response<Body>> {
        let accept = self.accept;
        let head = self.head(revision, None, None);
        let mut joiner = Joiner { writer: self, listing, selection, converter, place: None, first: true, done: false };
        let mut first = joiner.next(head).await?;
        if joiner.done || accept.encoding != Encoding::Json || accept.pretty {
            while !joiner.done {
                let more = joiner.next(Vec::new()).await?;
                first.extend_from_slice(&more);
            }
            return finish(accept, Bytes::from(first));
        }
        let rest = futures::stream::try_unfold(joiner, |mut joiner| async move {
            if joiner.done {
                return Ok(None);
            }
            let piece = joiner.next(Vec::with_capacity(CHUNK + 8192)).await.map_err(BodyError::new)?;
            Ok(Some((Bytes::from(piece), joiner)))
        });
        let head = futures::stream::once(async move { Ok(Bytes::from(first)) });
        let mut response = respond::json_body(StatusCode::OK, Body::stream(futures::StreamExt::chain(head, rest)));
        response.extensions_mut().insert(Compressible);
        Ok(response)
    }
}

/// A list on its way: where it is in the snapshot.
struct Joiner {
    writer: Writer,
    listing: Listing,
    selection: Selection,
    /// What converts the objects, where that may be needed.
    converter: Option<Arc<Converter>>,
    place: Option<(Arc<str>, Arc<str>)>,
    first: bool,
    done: bool,
}

impl Joiner {
    /// Joins the next objects to what is already there until the piece is full.
    async fn next(&mut self, out: Vec<u8>) -> Answer<Vec<u8>> {
        match self.converter.clone() {
            None => self.join(out),
            Some(converter) => self.join_converted(out, &converter).await,
        }
    }

    /// The same for objects that have to be converted: a piece is what one question holds.
    async fn join_converted(&mut self, mut out: Vec<u8>, converter: &Converter) -> Answer<Vec<u8>> {
        let (namespace, name) = self.place.take().unwrap_or_else(|| (Arc::from(""), Arc::from("")));
        let found: Vec<Record> =
            self.selection.of(&self.listing, &namespace, &name).take(conversion::MOST_OBJECTS).cloned().collect();
        self.done = found.len() < conversion::MOST_OBJECTS;
        self.place = found.last().map(|last| (Arc::clone(&last.key.namespace), Arc::clone(&last.key.name)));
        let mut records = converter.records(&self.writer.kind, found).await?;
        self.selection.keep_own(&mut records);
        for record in &records {
            if !self.first {
                out.push(b',');
            }
            self.first = false;
            self.writer.item(&mut out, record)?;
        }
        if self.done {
            out.extend_from_slice(b"]}");
        }
        Ok(out)
    }

    fn join(&mut self, mut out: Vec<u8>) -> Answer<Vec<u8>> {
        let (namespace, name) = self.place.take().unwrap_or_else(|| (Arc::from(""), Arc::from("")));
        for record in self.selection.of(&self.listing, &namespace, &name) {
            if !self.first {
                out.push(b',');
            }
            self.first = false;
            self.writer.item(&mut out, record)?;
            if out.len() >= CHUNK {
                self.place = Some((Arc::clone(&record.key.namespace), Arc::clone(&record.key.name)));
                return Ok(out);
            }
        }
        self.done = true;
        out.extend_from_slice(b"]}");
        Ok(out)
    }
}

fn write_json(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value is always writable to memory");
}

/// Only the metadata of stored bytes; the rest is skipped, not built.
#[derive(Deserialize)]
pub(crate) struct OnlyMetadata {
    #[serde(default)]
    pub(crate) metadata: Value,
}

/// Writes a `PartialObjectMetadata` of a stored object.
pub(crate) fn write_partial(out: &mut Vec<u8>, record: &Record, meta_version: &str) -> Answer<()> {
    let object: OnlyMetadata = serde_json::from_slice(&record.value)
        .map_err(|error| ApiError::internal_words(&format!("the stored object {} is damaged: {error}", record.key)))?;
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(meta_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    write_json(out, &object.metadata);
    out.push(b'}');
    Ok(())
}

/// The response of a list that is complete in memory.
fn finish(accept: Accept, bytes: Bytes) -> Answer<Response<Body>> {
    if accept.encoding == Encoding::Json && !accept.pretty {
        return Ok(respond::json_body(StatusCode::OK, Body::full(bytes)));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| ApiError::internal(&error))?;
    respond::value(StatusCode::OK, &value, accept)
}
