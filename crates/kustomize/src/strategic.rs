//! Strategic merge patches as kustomize applies them.
//!
//! This is another merge than the API server's (`kobune-merge`): it keeps the tree's order, puts new items of a list in
//! front, merges by the lists' keys of Kubernetes 1.21, treats a kind that it does not know as lists to be replaced, and
//! resolves several keys of a list by what the items happen to say. kyaml's `merge2` and `walk` are what it imitates.

use crate::node::{Map, Node, Scalar, Tag, guarded};
use crate::schema::{Known, Schema};

/// Which end of a list new items are put at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewItems {
    /// In front, as patches do.
    Front,
    /// At the end, as merged values of charts do.
    End,
}

/// Merges a patch into a node; nothing is left when the patch deletes it.
pub fn merge(target: Option<Node>, patch: Node, schema: &Schema, items: NewItems) -> Result<Option<Node>, String> {
    let merger = Merger { schema, items };
    let merged = merger.walk(target, Some(patch), None)?;
    Ok(merged)
}

struct Merger<'s> {
    schema: &'s Schema,
    items: NewItems,
}

#[derive(PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

const DIRECTIVE: &str = "$patch";

impl Merger<'_> {
    /// What becomes of a value, with `None` for one that is not there.
    fn walk(&self, target: Option<Node>, patch: Option<Node>, known: Option<Known>) -> Result<Option<Node>, String> {
        let real = |node: &Option<Node>| node.as_ref().is_some_and(|node| !node.is_null());
        let known = known.or_else(|| self.by_kind(target.as_ref()).or_else(|| self.by_kind(patch.as_ref())));
        let shape = match (&target, &patch) {
            (Some(node), _) if real(&target) => node,
            (_, Some(node)) if real(&patch) => node,
            _ => return Ok(self.nothing(target, patch)),
        };
        let expected = shape.kind();
        if let (Some(one), Some(other)) = (&target, &patch)
            && real(&target)
            && real(&patch)
            && one.kind() != other.kind()
        {
            return Err(format!("wrong kind of value: expected {expected} but got {}", other.kind()));
        }
        match shape {
            Node::Scalar(_) => Ok(patch.or(target)),
            Node::Map(_) => self.map(target, patch, known.as_ref()),
            Node::List(_) if known.as_ref().is_some_and(Known::merges) => self.list(target, patch, known.as_ref()),
            Node::List(_) => Ok(patch.or(target)),
        }
    }

    /// Neither has a value, though one or both may say null.
    fn nothing(&self, target: Option<Node>, patch: Option<Node>) -> Option<Node> {
        match (target, patch) {
            // A null that nobody touches stays if it is written out.
            (Some(target), None) if !target.text().is_empty() => Some(target),
            _ => None,
        }
    }

    fn by_kind(&self, node: Option<&Node>) -> Option<Known> {
        let text = |field: &str| node?.get(field).filter(|value| !value.is_empty()).map(Node::text);
        self.schema.of(text("apiVersion")?, text("kind")?)
    }

    fn map(&self, target: Option<Node>, patch: Option<Node>, known: Option<&Known>) -> Result<Option<Node>, String> {
        match (target, patch) {
            (Some(Node::Map(target)), None) => self.fields(target, Map::default(), known).map(Some),
            (Some(Node::Map(target)), Some(Node::Map(mut patch))) => match directive(&mut patch)? {
                Directive::Delete => Ok(None),
                Directive::Replace => self.fresh_fields(patch, known).map(Some),
                Directive::Merge => self.fields(target, patch, known).map(Some),
            },
            // A null takes the map away.
            (Some(Node::Map(_)), Some(_)) => Ok(None),
            (_, Some(patch)) => self.fresh(patch, known.cloned()),
            (_, None) => Ok(None),
        }
    }

    /// A value of a patch that meets none: its directives are obeyed, its nulls are gone.
    fn fresh(&self, value: Node, known: Option<Known>) -> Result<Option<Node>, String> {
        let known = known.or_else(|| self.by_kind(Some(&value)));
        match value {
            value if value.is_null() => Ok(None),
            Node::Map(mut map) => match directive(&mut map)? {
                Directive::Delete => Ok(None),
                _ => self.fresh_fields(map, known.as_ref()).map(Some),
            },
            Node::List(items) if known.as_ref().is_some_and(Known::merges) => {
                self.items(items, None, known.as_ref()).map(|items| Some(Node::List(items)))
            }
            value => Ok(Some(value)),
        }
    }

    fn fresh_fields(&self, mut map: Map, known: Option<&Known>) -> Result<Node, String> {
        for (key, value) in std::mem::take(&mut map.entries) {
            let inner = known.and_then(|known| known.field(&key.text));
            if let Some(value) = self.fresh(value, inner)? {
                map.entries.push((key, value));
            }
        }
        Ok(Node::Map(map))
    }

    /// Merges field by field; new ones come in the order of their names.
    fn fields(&self, mut target: Map, mut patch: Map, known: Option<&Known>) -> Result<Node, String> {
        let mut entries = Vec::with_capacity(target.entries.len() + patch.entries.len());
        for (key, old) in std::mem::take(&mut target.entries) {
            let inner = known.and_then(|known| known.field(&key.text));
            let change = patch.remove(&key.text);
            if change.is_none() && matches!(old, Node::Scalar(_)) {
                // Most fields: nothing happens, except that a null which is not written out goes.
                if !(old.is_null() && old.text().is_empty()) {
                    entries.push((key, old));
                }
                continue;
            }
            let style = match &old {
                Node::Scalar(scalar) => Some(scalar.style),
                _ => None,
            };
            let is_changed = change.is_some();
            // A null of the patch takes the field away, one of the target stays.
            let value = self.walk(Some(old), change, inner)?.filter(|value| !(is_changed && value.is_null()));
            if let Some(value) = value {
                let mut value = guarded(value);
                if let (Node::Scalar(scalar), Some(style)) = (&mut value, style) {
                    scalar.style = style;
                    scalar.tagged = false;
                }
                entries.push((key, value));
            }
        }
        let mut new = patch.entries;
        new.sort_by(|(one, _), (other, _)| one.text.cmp(&other.text));
        for (key, value) in new {
            let inner = known.and_then(|known| known.field(&key.text));
            if let Some(value) = self.walk(None, Some(value), inner)? {
                // The key loses its type: one that was a number is looked at again.
                entries.push((Scalar { tag: Tag::Open, ..key }, guarded(value)));
            }
        }
        target.entries = entries;
        Ok(Node::Map(target))
    }

    fn list(&self, target: Option<Node>, patch: Option<Node>, known: Option<&Known>) -> Result<Option<Node>, String> {
        let (target, patch) = match (target, patch) {
            (Some(Node::List(target)), None) => (target, Some(Vec::new())),
            (Some(Node::List(target)), Some(Node::List(mut patch))) => match list_directive(&mut patch)? {
                Directive::Delete => return Ok(None),
                Directive::Replace => (patch, None),
                Directive::Merge => (target, Some(patch)),
            },
            (Some(Node::List(_)), Some(_)) => return Ok(None),
            (_, Some(Node::List(patch))) => (patch, None),
            (_, patch) => return Ok(patch),
        };
        self.items(target, patch, known).map(|items| Some(Node::List(items)))
    }

    /// Merges the items of lists; without a patch the list is one of a patch that meets none.
    fn items(&self, target: Vec<Node>, patch: Option<Vec<Node>>, known: Option<&Known>) -> Result<Vec<Node>, String> {
        let keys = known.map(|known| known.keys().to_vec()).unwrap_or_default();
        let inner = known.and_then(Known::items);
        if keys.is_empty() {
            return Ok(self.texts(&target, patch.as_deref().unwrap_or_default()));
        }
        self.keyed(target, patch, &keys, inner)
    }

    /// A list of texts: each once, the new ones where new items go.
    fn texts(&self, target: &[Node], patch: &[Node]) -> Vec<Node> {
        let (first, second) = match self.items {
            NewItems::Front => (patch, target),
            NewItems::End => (target, patch),
        };
        let mut items: Vec<Node> = Vec::new();
        for item in first.iter().chain(second).filter(|item| !item.is_empty()) {
            if !items.iter().any(|known| known.text() == item.text()) {
                items.push(item.clone());
            }
        }
        items
    }

    fn keyed(
        &self,
        mut target: Vec<Node>,
        patch: Option<Vec<Node>>,
        keys: &[String],
        known: Option<Known>,
    ) -> Result<Vec<Node>, String> {
        let is_fresh = patch.is_none();
        let patch = patch.unwrap_or_default();
        let (first, second) = match self.items {
            NewItems::Front => (&patch, &target),
            NewItems::End => (&target, &patch),
        };
        let mut wanted: Vec<Vec<String>> = Vec::new();
        for item in first.iter().chain(second) {
            let values = keys.iter().map(|key| field_text(item, key)).collect();
            if !wanted.contains(&values) {
                wanted.push(values);
            }
        }
        if keys.len() > 1 {
            join(&mut wanted);
        }
        // Keys that no item has do not count.
        let used: Vec<usize> =
            (0..keys.len()).filter(|at| wanted.iter().any(|values| !values[*at].is_empty())).collect();
        let used = if used.is_empty() { (0..keys.len()).collect() } else { used };
        let valid: Vec<&str> = used.iter().map(|at| keys[*at].as_str()).collect();
        let mut merged: Vec<Node> = Vec::new();
        for values in &wanted {
            let values: Vec<&str> = used.iter().map(|at| values[*at].as_str()).collect();
            // An item is looked for by the keys that have a value here.
            let pairs: Vec<(&str, &str)> =
                valid.iter().copied().zip(values.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
            let find = |items: &[Node]| -> Option<usize> {
                let pairs: Vec<(&str, &str)> = if pairs.is_empty() {
                    valid.iter().copied().zip(values.iter().copied()).collect()
                } else {
                    pairs.clone()
                };
                items.iter().position(|item| matches(item, &pairs))
            };
            let (at, change) = (find(&target), find(&patch));
            let item = at.map(|at| target[at].clone());
            let change = change.map(|at| patch[at].clone());
            // An item that a patch replaces as a whole is put back by what follows, as kustomize has it.
            let replaces =
                change.as_ref().is_some_and(|item| item.get(DIRECTIVE).is_some_and(|value| value.text() == "replace"));
            let value = match item {
                Some(item) if is_fresh => self.fresh(item, known.clone())?,
                item => self.walk(item, change, known.clone())?,
            };
            let Some(mut value) = value.filter(|value| !value.is_empty()) else {
                set_item(&mut target, None, &valid, &values);
                continue;
            };
            if let Node::Map(map) = &mut value {
                for (key, text) in valid.iter().zip(&values) {
                    if map.get(key).is_none() && !text.is_empty() {
                        map.set(key, Node::Scalar(Scalar::open(*text)));
                    }
                }
            }
            if let Some(at) = at.filter(|_| !replaces) {
                target[at] = value.clone();
            }
            set_item(&mut merged, Some(value), &valid, &values);
        }
        let (mut result, rest) = match self.items {
            NewItems::Front => (merged, target),
            NewItems::End => (target, merged),
        };
        for item in rest {
            let mut values = Vec::new();
            for key in &valid {
                match item.get(key) {
                    Some(value) => values.push(value.text().to_owned()),
                    None => result.push(item.clone()),
                }
            }
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            if valid.len() > 1 {
                // kustomize takes out what it is about to put in, so such items go to the end.
                set_item(&mut result, None, &valid, &values);
            }
            set_item(&mut result, Some(item), &valid, &values);
        }
        Ok(result)
    }
}

/// The text of a field, empty when it is not there.
fn field_text(item: &Node, key: &str) -> String {
    item.get(key).filter(|value| !value.is_empty()).map_or("", Node::text).to_owned()
}

fn matches(item: &Node, pairs: &[(&str, &str)]) -> bool {
    item.as_map()
        .is_some_and(|map| pairs.iter().all(|(key, text)| map.get(key).is_some_and(|value| value.text() == *text)))
}

/// Puts an item in the place of those that have its keys, or at the end; without an item takes those out.
///
/// The quirks are kustomize's: items that are nothing go in passing; values are compared with keys by their position, and
/// where there are fewer values than keys the rest of the keys is not looked at; without any value nothing is kept.
fn set_item(items: &mut Vec<Node>, item: Option<Node>, keys: &[&str], values: &[&str]) {
    let mut found = false;
    let mut kept = Vec::with_capacity(items.len() + 1);
    for known in items.drain(..) {
        let Node::Map(map) = &known else {
            if !known.is_null() {
                kept.push(known);
            }
            continue;
        };
        if map.entries.is_empty() {
            continue;
        }
        let is_meant = !values.is_empty()
            && keys
                .iter()
                .zip(values)
                .all(|(key, text)| map.get(key).is_some_and(|value| text.is_empty() || value.text() == *text));
        if is_meant {
            found = true;
            kept.extend(item.clone());
        } else if !values.is_empty() {
            kept.push(known);
        }
    }
    *items = kept;
    if !found {
        items.extend(item);
    }
}

/// Items that say only some of the keys are the items that say the rest too.
fn join(wanted: &mut [Vec<String>]) {
    for one in 0..wanted.len() {
        for other in 0..wanted.len() {
            let pairs = wanted[one].iter().zip(&wanted[other]);
            let common = pairs.clone().any(|(a, b)| a == b);
            let fits = pairs.clone().all(|(a, b)| a == b || a.is_empty() || b.is_empty());
            if common && fits {
                let whole: Vec<String> = pairs.map(|(a, b)| if a.is_empty() { b.clone() } else { a.clone() }).collect();
                wanted[one].clone_from(&whole);
                wanted[other] = whole;
            }
        }
    }
}

fn word(text: &str) -> Result<Directive, String> {
    match text {
        "merge" => Ok(Directive::Merge),
        "replace" => Ok(Directive::Replace),
        "delete" => Ok(Directive::Delete),
        other => Err(format!("unknown patch strategy '{other}'")),
    }
}

fn directive(patch: &mut Map) -> Result<Directive, String> {
    let Some(value) = patch.get(DIRECTIVE) else { return Ok(Directive::Merge) };
    let directive = word(value.text())?;
    patch.remove(DIRECTIVE);
    Ok(directive)
}

fn list_directive(patch: &mut Vec<Node>) -> Result<Directive, String> {
    let found = patch.iter().find_map(|item| item.as_map().filter(|map| map.get(DIRECTIVE).is_some()));
    let Some(map) = found.filter(|map| map.entries.len() == 1) else { return Ok(Directive::Merge) };
    let text = map.get(DIRECTIVE).map(|value| value.text().to_owned()).unwrap_or_default();
    let directive = word(&text)?;
    patch.retain(|item| item.get(DIRECTIVE).is_none_or(|value| value.text() != text));
    Ok(directive)
}
