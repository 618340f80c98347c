//! Sets of fields: a tree of path elements in which each place may be a member.
//!
//! In FieldsV1 a member without children is `{}`, a member with children has a `.`.

use serde_json::{Map, Value};

use crate::element::{self, Element};

/// A set of fields below one place. No node below the root is without members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// Whether this place itself is a member.
    pub(crate) member: bool,
    /// Sorted by element.
    children: Vec<(Element, FieldSet)>,
}

impl FieldSet {
    /// The set of this place alone.
    pub(crate) fn leaf() -> FieldSet {
        FieldSet { member: true, children: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// What is below an element.
    pub(crate) fn get(&self, element: &str) -> Option<&FieldSet> {
        let index = self.find(element).ok()?;
        Some(&self.children[index].1)
    }

    fn find(&self, element: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(candidate, _)| (**candidate).cmp(element))
    }

    /// Adds everything of `set` below an element.
    pub(crate) fn add(&mut self, element: Element, set: FieldSet) {
        if set.is_empty() {
            return;
        }
        // Walks over objects come in order.
        if self.children.last().is_none_or(|(last, _)| *last < element) {
            self.children.push((element, set));
            return;
        }
        match self.find(&element) {
            Ok(index) => self.children[index].1.unite(set),
            Err(index) => self.children.insert(index, (element, set)),
        }
    }

    /// Adds everything of another set.
    pub(crate) fn unite(&mut self, other: FieldSet) {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        for (element, set) in other.children {
            self.add(element, set);
        }
    }

    /// Removes every member of another set.
    pub(crate) fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (element, set) in &other.children {
            if let Ok(index) = self.find(element) {
                self.children[index].1.subtract(set);
                if self.children[index].1.is_empty() {
                    self.children.remove(index);
                }
            }
        }
    }

    /// The members of both.
    pub(crate) fn intersect(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet { member: self.member && other.member, children: Vec::new() };
        for (element, set) in &other.children {
            if let Some(own) = self.get(element) {
                both.add(element.clone(), own.intersect(set));
            }
        }
        both
    }

    /// Removes an element of the root with everything below.
    pub(crate) fn cut(&mut self, element: &str) {
        if let Ok(index) = self.find(element) {
            self.children.remove(index);
        }
    }

    /// Removes the member at a path, but not those below it.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let Some((element, rest)) = path.split_first() else {
            self.member = false;
            return;
        };
        if let Ok(index) = self.find(element) {
            self.children[index].1.remove(rest);
            if self.children[index].1.is_empty() {
                self.children.remove(index);
            }
        }
    }

    /// Every member as conflicts show it: those of a place before those further below.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        let path_to = |element: &str| {
            let mut path = prefix.to_owned();
            element::show(element, &mut path);
            path
        };
        for (element, set) in &self.children {
            if set.member {
                paths.push(path_to(element));
            }
        }
        for (element, set) in &self.children {
            if !set.children.is_empty() {
                set.collect_paths(&path_to(element), paths);
            }
        }
    }

    /// The FieldsV1 of a set; the root is never a member.
    pub(crate) fn into_fields(self) -> Value {
        let fields = self.children.into_iter().map(|(element, set)| {
            let has_dot = set.member && !set.children.is_empty();
            let mut below = set.into_fields();
            if has_dot && let Value::Object(below) = &mut below {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.into_string(), below)
        });
        Value::Object(fields.collect())
    }

    /// The same of a set that is still needed.
    #[cfg(test)]
    pub(crate) fn to_fields(&self) -> Value {
        self.clone().into_fields()
    }

    /// Reads FieldsV1. Elements of unknown form are dropped, as upstream does.
    pub(crate) fn from_fields(fields: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::read(fields.as_object()?)?;
        set.member = false;
        Some(set)
    }

    fn read(fields: &Map<String, Value>) -> Option<FieldSet> {
        let mut set = FieldSet { member: fields.is_empty(), children: Vec::with_capacity(fields.len()) };
        for (written, below) in fields {
            if written == "." {
                set.member = true;
            } else if let Some(element) = element::read(written) {
                set.add(element, FieldSet::read(below.as_object()?)?);
            }
        }
        Some(set)
    }
}

/// Whether FieldsV1, not read yet, has a member in common with a set. Elements that a client has written in another than
/// canonical form are not recognised; the server itself writes none.
pub(crate) fn overlaps(fields: &Value, set: &FieldSet) -> bool {
    let Value::Object(fields) = fields else {
        return false;
    };
    set.children.iter().any(|(element, set)| {
        fields.get(&**element).is_some_and(|below| {
            let member = below.as_object().is_some_and(|below| below.is_empty() || below.contains_key("."));
            (set.member && member) || overlaps(below, set)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: Value) -> FieldSet {
        FieldSet::from_fields(&fields).expect("well formed")
    }

    #[test]
    fn algebra() {
        let left = || set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let right = || set(json!({"f:a": {"f:b": {}, "f:d": {}}}));
        let mut union = left();
        union.unite(right());
        assert_eq!(union.to_fields(), json!({"f:a": {".": {}, "f:b": {}, "f:d": {}}, "f:c": {}}));
        let mut difference = left();
        difference.subtract(&right());
        assert_eq!(difference.to_fields(), json!({"f:a": {}, "f:c": {}}));
        assert_eq!(left().intersect(&right()).to_fields(), json!({"f:a": {"f:b": {}}}));
        assert_eq!(left().paths(), [".a", ".c", ".a.b"]);
        assert!(overlaps(&left().to_fields(), &right()));
        assert!(!overlaps(&difference.to_fields(), &right()));
        let mut cut = left();
        cut.remove(&["f:a"]);
        assert_eq!(cut.to_fields(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
        cut.cut("f:a");
        assert_eq!(cut.to_fields(), json!({"f:c": {}}));
        cut.remove(&["f:c"]);
        assert!(cut.is_empty());
        assert!(FieldSet::from_fields(&json!({"f:a": 1})).is_none());
        assert!(FieldSet::from_fields(&json!(null)).is_none());
    }
}
