//! The entries of `metadata.managedFields`: reading, merging, bounding and writing them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::fieldset::{self, FieldSet};

/// How many managers that update an object are told apart. Those of long ago share one entry an API version.
const MOST_UPDATERS: usize = 10;

/// Who owns what those managers owned.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Apply => "Apply",
            Verb::Update => "Update",
        }
    }
}

/// What an entry owns. Most writes touch few entries, so the others stay as they were written.
#[derive(Clone, Debug)]
enum Fields {
    Written(Value),
    Read(FieldSet),
}

/// One manager's entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) verb: Verb,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Option<String>,
    fields: Fields,
}

impl Entry {
    pub(crate) fn new(verb: Verb, manager: &str, api_version: &str, subresource: Option<&str>) -> Entry {
        Entry {
            manager: manager.to_owned(),
            verb,
            api_version: api_version.to_owned(),
            subresource: subresource.unwrap_or_default().to_owned(),
            time: None,
            fields: Fields::Read(FieldSet::default()),
        }
    }

    /// Notes when the entry was written, in whole seconds.
    pub(crate) fn stamp(&mut self, now: Timestamp) {
        self.time = Some(Timestamp::from_second(now.as_second()).unwrap_or(now).to_string());
    }

    fn read(entry: Value) -> Option<Entry> {
        let Value::Object(mut entry) = entry else {
            return None;
        };
        let mut text = |name: &str| match entry.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let verb = match text("operation")?.as_str() {
            "Apply" => Verb::Apply,
            "Update" => Verb::Update,
            _ => return None,
        };
        let (manager, api_version, subresource) = (text("manager"), text("apiVersion"), text("subresource"));
        let time = text("time");
        let fields = match entry.remove("fieldsV1") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(fields) if fields.is_object() => fields,
            Some(_) => return None,
        };
        Some(Entry {
            manager: manager.unwrap_or_default(),
            verb,
            api_version: api_version.unwrap_or_default(),
            subresource: subresource.unwrap_or_default(),
            time,
            fields: Fields::Written(fields),
        })
    }

    fn write(self) -> Value {
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| entry.insert(name.to_owned(), value);
        put("manager", Value::String(self.manager));
        put("operation", Value::from(self.verb.name()));
        put("apiVersion", Value::String(self.api_version));
        put("fieldsType", Value::from("FieldsV1"));
        if let Some(time) = self.time {
            put("time", Value::String(time));
        }
        if !self.subresource.is_empty() {
            put("subresource", Value::String(self.subresource));
        }
        let fields = match self.fields {
            Fields::Written(fields) => fields,
            Fields::Read(set) => set.into_fields(),
        };
        put("fieldsV1", fields);
        Value::Object(entry)
    }

    /// Whether two entries are the same manager's. One that applies stays itself whatever API version it applies.
    pub(crate) fn same_owner(&self, other: &Entry) -> bool {
        self.verb == other.verb
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.verb == Verb::Apply || self.api_version == other.api_version)
    }

    /// Whether the entry owns any field of a set.
    pub(crate) fn owns_any(&self, set: &FieldSet) -> bool {
        match &self.fields {
            Fields::Written(fields) => fieldset::overlaps(fields, set),
            Fields::Read(own) => !own.intersect(set).is_empty(),
        }
    }

    /// Brings the fields into the form in which the server writes them; answers whether they could be read.
    fn normalize(&mut self) -> bool {
        if let Fields::Written(fields) = &self.fields {
            match FieldSet::from_fields(fields) {
                Some(set) => self.fields = Fields::Read(set),
                None => return false,
            }
        }
        true
    }

    /// The fields, to be changed.
    pub(crate) fn set(&mut self) -> &mut FieldSet {
        if let Fields::Written(fields) = &self.fields {
            self.fields = Fields::Read(FieldSet::from_fields(fields).unwrap_or_default());
        }
        match &mut self.fields {
            Fields::Read(set) => set,
            Fields::Written(_) => unreachable!("it was read above"),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Written(fields) => fields.as_object().is_none_or(Map::is_empty),
            Fields::Read(set) => set.is_empty(),
        }
    }
}

fn list(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

fn read_list(list: Value) -> Option<Vec<Entry>> {
    match list {
        Value::Array(list) => list.into_iter().map(Entry::read).collect(),
        _ => Some(Vec::new()),
    }
}

/// The entries of an object that is stored. What cannot be read counts as nothing, as upstream has it.
pub(crate) fn of(object: Option<&Value>) -> Vec<Entry> {
    object.and_then(list).and_then(|list| read_list(list.clone())).unwrap_or_default()
}

/// Takes the entries on which a write builds out of its new state: those that the client sent if it sent any, else those
/// of the stored object, so that clients which know nothing of managed fields do not remove them. An empty list or entry
/// resets them.
pub(crate) fn take(old: Option<&Value>, new: &mut Value, subresource: Option<&str>) -> Vec<Entry> {
    let metadata = new.get_mut("metadata").and_then(Value::as_object_mut);
    let given = metadata.and_then(|metadata| metadata.remove("managedFields")).filter(|given| !given.is_null());
    let Some(given) = given else {
        return of(old);
    };
    if Some(&given) == old.and_then(list) {
        return read_list(given).unwrap_or_default();
    }
    if subresource.is_some() {
        return of(old);
    }
    let is_reset = given.as_array().is_some_and(|list| match list.as_slice() {
        [] => true,
        [only] => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    });
    if is_reset {
        return Vec::new();
    }
    let mut entries = read_list(given).unwrap_or_default();
    // The client may have written elements in another form than ours, or none that can be read.
    if !entries.is_empty() && entries.iter_mut().all(Entry::normalize) { entries } else { of(old) }
}

/// Writes the entries into an object, in upstream's order.
pub(crate) fn put(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.is_empty());
    bound(&mut entries);
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| (entry.verb, entry.time.clone());
        key(a).cmp(&key(b)).then_with(|| {
            (&a.manager, &a.api_version, &a.subresource).cmp(&(&b.manager, &b.api_version, &b.subresource))
        })
    });
    let Value::Object(object) = object else {
        return;
    };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            let list = entries.into_iter().map(Entry::write).collect();
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }
}

/// Folds the oldest updates into one entry an API version while there are too many.
fn bound(entries: &mut Vec<Entry>) {
    let mut count = entries.iter().filter(|entry| entry.verb == Verb::Update).count();
    if count <= MOST_UPDATERS {
        return;
    }
    let (mut updaters, appliers): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|entry| entry.verb == Verb::Update);
    updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut kept: Vec<Entry> = appliers;
    // Where the first, oldest entry of each version stands in `kept`: a bucket as soon as a second one joins it.
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for mut entry in updaters {
        if count <= MOST_UPDATERS {
            kept.push(entry);
        } else if let Some(&index) = first.get(&entry.api_version) {
            let bucket = &mut kept[index];
            ANCIENT.clone_into(&mut bucket.manager);
            bucket.subresource.clear();
            let set = std::mem::take(entry.set());
            bucket.set().unite(set);
            bucket.time = entry.time;
            count -= 1;
        } else {
            first.insert(entry.api_version.clone(), kept.len());
            kept.push(entry);
        }
    }
    *entries = kept;
}
