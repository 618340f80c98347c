//! Fields of objects and who owns them: paths, differences, and what `metadata.managedFields` says about a path.
//!
//! How lists are keyed is learned from the managed fields themselves: where a list is merged by keys, its owners are noted
//! with these keys. So no schema is needed, and custom resources are read as precisely as built-in kinds.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Element {
    /// A field or a key of a map.
    Field(String),
    /// The item of a list whose keys have these values.
    Item(Vec<(String, Value)>),
    /// The item of a set.
    Member(Value),
}

/// A place in an object.
pub type Path = [Element];

/// A path as people read it: `spec.template.spec.containers[web].image`, `metadata.labels[app.kubernetes.io/name]`.
pub fn show(path: &Path) -> String {
    let mut text = String::new();
    for element in path {
        match element {
            Element::Field(name) if name.contains(['.', '/', '[', ' ']) => text.push_str(&format!("[{name}]")),
            Element::Field(name) if text.is_empty() => text.push_str(name),
            Element::Field(name) => text.push_str(&format!(".{name}")),
            Element::Item(keys) => {
                let values: Vec<String> = match keys.as_slice() {
                    [(_, only)] => vec![plain(only)],
                    keys => keys.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect(),
                };
                text.push_str(&format!("[{}]", values.join(",")));
            }
            Element::Member(value) => text.push_str(&format!("[{}]", plain(value))),
        }
    }
    text
}

/// A path as server-side apply writes it in its conflicts: `.spec.containers[name="web"].image`.
pub fn show_as_conflict(path: &Path) -> String {
    let mut text = String::new();
    for element in path {
        match element {
            Element::Field(name) => text.push_str(&format!(".{name}")),
            Element::Item(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
            Element::Member(value) => text.push_str(&format!("[={value}]")),
        }
    }
    text
}

/// A scalar without quotes, anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The value at a path. Items are found by their keys, wherever they stand.
pub fn at<'v>(value: &'v Value, path: &Path) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, element| match element {
        Element::Field(name) => value.get(name),
        Element::Item(keys) => value.as_array()?.iter().find(|item| has_keys(item, keys)),
        Element::Member(member) => value.as_array()?.iter().find(|item| *item == member),
    })
}

fn has_keys(item: &Value, keys: &[(String, Value)]) -> bool {
    keys.iter().all(|(name, value)| match item.get(name) {
        Some(own) => own == value,
        // A key that an item does not say has its default: of all keys there are only the protocol of ports has one.
        None => value == "TCP",
    })
}

/// A field that differs: before and after, nothing where it is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Where.
    pub path: Vec<Element>,
    /// Before.
    pub old: Option<Value>,
    /// After.
    pub new: Option<Value>,
}

/// All fields in which two objects differ, in the order of the fields' names; what was added or went is one difference,
/// however much is in it. `fields` is a FieldsV1 that knows the lists' keys: see [`unite`].
pub fn differences(old: &Value, new: &Value, fields: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(Some(old), Some(new), Some(fields), &mut Vec::new(), &mut found);
    found
}

fn walk(
    old: Option<&Value>,
    new: Option<&Value>,
    fields: Option<&Value>,
    path: &mut Vec<Element>,
    found: &mut Vec<Difference>,
) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let mut names: Vec<&String> =
                left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))).collect();
            names.sort();
            for name in names {
                let below = fields.and_then(|fields| fields.get(format!("f:{name}")));
                path.push(Element::Field(name.clone()));
                walk(left.get(name), right.get(name), below, path, found);
                path.pop();
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            let Some(pairs) = pairs(left, right, fields) else {
                found.push(Difference { path: path.clone(), old: old.cloned(), new: new.cloned() });
                return;
            };
            let before = found.len();
            for (element, left, right) in pairs {
                let below = right.or(left).and_then(|item| child(fields?, &element, item));
                path.push(element);
                walk(left, right, below, path, found);
                path.pop();
            }
            // The same items in another order: that is a change where order counts.
            if found.len() == before {
                found.push(Difference { path: path.clone(), old: old.cloned(), new: new.cloned() });
            }
        }
        _ => found.push(Difference { path: path.clone(), old: old.cloned(), new: new.cloned() }),
    }
}

type Pair<'v> = (Element, Option<&'v Value>, Option<&'v Value>);

/// Which item of one list belongs to which of the other; nothing where the lists must be compared as wholes.
fn pairs<'v>(left: &'v [Value], right: &'v [Value], fields: Option<&Value>) -> Option<Vec<Pair<'v>>> {
    let children = fields.and_then(Value::as_object);
    let is_set = children.is_some_and(|children| children.keys().any(|key| key.starts_with("v:")));
    if is_set {
        let gone = left
            .iter()
            .filter(|item| !right.contains(item))
            .map(|item| (Element::Member(item.clone()), Some(item), None));
        let come = right
            .iter()
            .filter(|item| !left.contains(item))
            .map(|item| (Element::Member(item.clone()), None, Some(item)));
        return Some(gone.chain(come).collect());
    }
    let names = children.and_then(|children| children.keys().find_map(|key| key_names(key)));
    let names = names.or_else(|| guess(left, right))?;
    let key = |item: &Value| -> Vec<(String, Value)> {
        let value = |name: &String| match item.get(name) {
            None if name == "protocol" => Some(Value::from("TCP")),
            other => other.cloned(),
        };
        names.iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
    };
    let of = |items: &'v [Value]| -> Vec<(Vec<(String, Value)>, &'v Value)> {
        items.iter().map(|item| (key(item), item)).collect()
    };
    let (left, right) = (of(left), of(right));
    let mut all: Vec<Pair<'v>> = Vec::with_capacity(right.len());
    for (key, item) in &left {
        let other = right.iter().find(|(other, _)| other == key).map(|(_, item)| *item);
        all.push((Element::Item(key.clone()), Some(item), other));
    }
    for (key, item) in &right {
        if !left.iter().any(|(other, _)| other == key) {
            all.push((Element::Item(key.clone()), None, Some(item)));
        }
    }
    Some(all)
}

fn key_names(element: &str) -> Option<Vec<String>> {
    let keys: Map<String, Value> = serde_json::from_str(element.strip_prefix("k:")?).ok()?;
    Some(keys.keys().cloned().collect())
}

/// What tells the items of a list apart that nobody merges by keys; only to show less.
fn guess(left: &[Value], right: &[Value]) -> Option<Vec<String>> {
    let tells_apart = |items: &[Value], name: &str| {
        let mut seen = Vec::new();
        items.iter().all(|item| match item.get(name) {
            Some(value @ Value::String(_)) if !seen.contains(&value) => {
                seen.push(value);
                true
            }
            _ => false,
        })
    };
    if left.is_empty() || right.is_empty() || left.len() + right.len() > 1000 {
        return None;
    }
    let known = ["name", "key", "type", "path", "host", "mountPath", "ip"].into_iter();
    let mut usable = known.filter(|name| tells_apart(left, name) && tells_apart(right, name));
    usable.next().map(|name| vec![name.to_owned()])
}

/// What a FieldsV1 has below an element; `item` is the value there, which tells the keys of list items.
fn child<'f>(fields: &'f Value, element: &Element, item: &Value) -> Option<&'f Value> {
    let children = fields.as_object()?;
    match element {
        Element::Field(name) => children.get(&format!("f:{name}")),
        Element::Member(member) => children.iter().find_map(|(key, below)| {
            let value: Value = serde_json::from_str(key.strip_prefix("v:")?).ok()?;
            (value == *member).then_some(below)
        }),
        Element::Item(_) => children.iter().find_map(|(key, below)| {
            let keys: Map<String, Value> = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
            let keys: Vec<(String, Value)> = keys.into_iter().collect();
            has_keys(item, &keys).then_some(below)
        }),
    }
}

/// Whether a FieldsV1 has the place at a path, something below it, or all of something above it.
fn covers(fields: &Value, path: &Path, object: &Value) -> bool {
    let Some((element, rest)) = path.split_first() else {
        return true;
    };
    // The item may be in the other state of the object only; then the path's own keys tell it.
    let by_keys;
    let item = match at(object, std::slice::from_ref(element)) {
        Some(item) => item,
        None => {
            by_keys = match element {
                Element::Item(keys) => Value::Object(keys.iter().cloned().collect()),
                _ => Value::Null,
            };
            &by_keys
        }
    };
    match child(fields, element, item) {
        Some(below) => (rest.is_empty()) || is_leaf(below) || covers(below, rest, item),
        None => false,
    }
}

fn is_leaf(fields: &Value) -> bool {
    fields.as_object().is_some_and(Map::is_empty)
}

/// Who owns a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The manager's name.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// The subresource through which it wrote, if any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    /// When it last wrote.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub time: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " through {}", self.subresource)?;
        }
        Ok(())
    }
}

/// The owner that an entry of `managedFields` is about.
pub fn owner(entry: &Value) -> Owner {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    Owner {
        manager: text("manager"),
        operation: text("operation"),
        subresource: text("subresource"),
        time: text("time"),
    }
}

/// The entries of an object's managed fields.
pub fn managed(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten()
}

/// Who owns the place at a path, something below it, or all of something above it.
pub fn owners(object: &Value, path: &Path) -> Vec<Owner> {
    managed(object).filter(|entry| covers(&entry["fieldsV1"], path, object)).map(owner).collect()
}

/// What a manager owns by apply.
pub fn applied_by<'o>(object: &'o Value, manager: &str) -> Option<&'o Value> {
    let entry = managed(object).find(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    })?;
    Some(&entry["fieldsV1"])
}

/// Whether a FieldsV1 has something of a path; see [`owners`].
pub fn has(fields: &Value, path: &Path, object: &Value) -> bool {
    covers(fields, path, object)
}

/// Everything that two FieldsV1 have. In FieldsV1 a member without children is `{}`, one with children has a `.`.
pub fn unite(left: &mut Value, right: &Value) {
    let (Value::Object(into), Value::Object(from)) = (left, right) else {
        return;
    };
    if into.is_empty() != from.is_empty() && !(into.contains_key(".") || from.contains_key(".")) {
        into.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for (name, below) in from {
        match into.get_mut(name) {
            Some(own) => unite(own, below),
            None => {
                into.insert(name.clone(), below.clone());
            }
        }
    }
}

/// Everything that anybody owns of some objects, which knows how their lists are keyed.
pub fn all_fields<'o>(objects: impl IntoIterator<Item = &'o Value>) -> Value {
    let mut all = Value::Object(Map::new());
    for object in objects {
        for entry in managed(object) {
            unite(&mut all, &entry["fieldsV1"]);
        }
    }
    all
}

/// What a manifest comes to on top of a live object where the server cannot be asked: its fields replace those of the
/// object, lists merge by the keys that `fields` knows.
pub fn overlay(live: &Value, manifest: &Value, fields: Option<&Value>) -> Value {
    match (live, manifest) {
        (Value::Object(left), Value::Object(right)) => {
            let mut merged = left.clone();
            for (name, value) in right {
                let below = fields.and_then(|fields| fields.get(format!("f:{name}")));
                let value = match left.get(name) {
                    Some(own) => overlay(own, value, below),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(left), Value::Array(right)) => {
            let keyed = fields
                .and_then(Value::as_object)
                .is_some_and(|children| children.keys().any(|key| key.starts_with("k:")));
            match pairs(left, right, fields).filter(|_| keyed) {
                Some(pairs) => pairs
                    .into_iter()
                    .filter_map(|(element, own, new)| match (own, new) {
                        (Some(own), Some(new)) => Some(overlay(own, new, child(fields?, &element, own))),
                        (one, other) => other.or(one).cloned(),
                    })
                    .collect(),
                None => manifest.clone(),
            }
        }
        _ => manifest.clone(),
    }
}

#[cfg(test)]
mod tests;
