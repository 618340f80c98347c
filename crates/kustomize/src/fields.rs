//! Paths into objects, and the tables that say where transformers write.

use std::rc::Rc;
use std::sync::LazyLock;

use crate::error::{BuildError, refused};
use crate::id::Gvk;
use crate::node::{Map, Node, Scalar, Style, Tag};

/// A path into objects of some kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSpec {
    /// The objects it is for.
    pub gvk: Gvk,
    /// The fields, separated by slashes.
    pub path: String,
    /// Whether fields that are missing are made.
    pub create: bool,
}

/// Fields that hold the name of an object of another kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameReference {
    /// What is referred to.
    pub target: Gvk,
    /// Where it is referred to.
    pub fields: Vec<FieldSpec>,
}

/// Where each transformer writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldTable {
    pub(crate) name_prefix: Vec<FieldSpec>,
    pub(crate) name_suffix: Vec<FieldSpec>,
    pub(crate) namespace: Vec<FieldSpec>,
    pub(crate) common_labels: Vec<FieldSpec>,
    pub(crate) labels: Vec<FieldSpec>,
    pub(crate) template_labels: Vec<FieldSpec>,
    pub(crate) common_annotations: Vec<FieldSpec>,
    pub(crate) name_reference: Vec<NameReference>,
    pub(crate) var_reference: Vec<FieldSpec>,
    pub(crate) images: Vec<FieldSpec>,
    pub(crate) replicas: Vec<FieldSpec>,
}

/// The table that every kustomization starts from.
pub(crate) static BUILT_IN: LazyLock<FieldTable> = LazyLock::new(|| {
    let mut table = FieldTable::default();
    let mut section = "";
    for line in include_str!("../facts/fields.txt").lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            continue;
        }
        let mut words = line.split(' ');
        let path = words.next().unwrap_or_default().to_owned();
        let mut word = || words.next().filter(|word| *word != "-").unwrap_or_default().to_owned();
        let (kind, group, version) = (word(), word(), word());
        let spec = FieldSpec { gvk: Gvk { group, version, kind }, path, create: word() == "+" };
        if section == "nameReference" {
            match table.name_reference.last_mut() {
                Some(reference) if spec.path != ">" => reference.fields.push(spec),
                _ => table.name_reference.push(NameReference { target: spec.gvk, fields: Vec::new() }),
            }
        } else if let Some(list) = table.section(section) {
            list.push(spec);
        }
    }
    table.sort();
    table
});

impl FieldTable {
    /// The list of a section, by the name that configurations use.
    pub(crate) fn section(&mut self, name: &str) -> Option<&mut Vec<FieldSpec>> {
        Some(match name {
            "namePrefix" => &mut self.name_prefix,
            "nameSuffix" => &mut self.name_suffix,
            "namespace" => &mut self.namespace,
            "commonLabels" => &mut self.common_labels,
            "labels" => &mut self.labels,
            "templateLabels" => &mut self.template_labels,
            "commonAnnotations" => &mut self.common_annotations,
            "varReference" => &mut self.var_reference,
            "images" => &mut self.images,
            "replicas" => &mut self.replicas,
            _ => return None,
        })
    }

    /// The sections of plain fields.
    pub(crate) const SECTIONS: [&str; 10] = [
        "namePrefix",
        "nameSuffix",
        "namespace",
        "commonLabels",
        "labels",
        "templateLabels",
        "commonAnnotations",
        "varReference",
        "images",
        "replicas",
    ];

    pub(crate) fn sort(&mut self) {
        for section in Self::SECTIONS {
            if let Some(list) = self.section(section) {
                list.sort_by_cached_key(|spec| spec.gvk.order());
            }
        }
        self.name_reference.sort_by_cached_key(|reference| reference.target.order());
    }

    /// Adds another table; the error is a field that both have with and without leave to make it.
    pub(crate) fn merge(&mut self, mut other: FieldTable) -> Result<(), BuildError> {
        if other == FieldTable::default() {
            return Ok(());
        }
        for section in Self::SECTIONS {
            if let (Some(mine), Some(theirs)) = (self.section(section), other.section(section)) {
                merge_specs(mine, theirs)
                    .map_err(|error| error.within(format!("failed to merge {section} fieldSpec")))?;
            }
        }
        for reference in other.name_reference {
            match self.name_reference.iter_mut().find(|known| known.target == reference.target) {
                Some(known) => merge_specs(&mut known.fields, &reference.fields)
                    .map_err(|error| error.within("failed to merge nameReference fieldSpec"))?,
                None => self.name_reference.push(reference),
            }
        }
        self.sort();
        Ok(())
    }
}

/// Adds fields that are not there yet.
pub(crate) fn merge_specs(mine: &mut Vec<FieldSpec>, theirs: &[FieldSpec]) -> Result<(), BuildError> {
    for spec in theirs {
        let known = mine.iter().find(|known| known.path == spec.path && known.gvk.is_selected(&spec.gvk));
        match known {
            Some(known) if known.create != spec.create => {
                return Err(refused(format!("conflicting fieldspecs for {}", spec.path)));
            }
            Some(_) => {}
            None => mine.push(spec.clone()),
        }
    }
    Ok(())
}

/// Splits a path at a delimiter that no backslash stands before.
pub(crate) fn split_path(path: &str, delimiter: char) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let path = match path.strip_prefix(delimiter) {
        Some(rest) => rest,
        None => path,
    };
    for part in path.split(delimiter) {
        match parts.last_mut() {
            Some(last) if last.ends_with('\\') => {
                last.pop();
                last.push(delimiter);
                last.push_str(part);
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Splits a path at dots, but not between brackets.
pub(crate) fn split_dotted(path: &str) -> Vec<String> {
    let mut result = Vec::new();
    let mut parts = split_path(path, '.').into_iter();
    while let Some(part) = parts.next() {
        if !part.starts_with('[') || part.ends_with(']') {
            result.push(part);
            continue;
        }
        let mut joined = part;
        for part in parts.by_ref() {
            joined.push('.');
            joined.push_str(&part);
            if part.ends_with(']') {
                break;
            }
        }
        if joined.contains('=') {
            result.push(joined);
        } else {
            result.push(joined.trim_matches(['[', ']']).to_owned());
        }
    }
    result
}

/// What is made at the end of a path that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Create {
    /// Nothing.
    Never,
    /// A map.
    Map,
    /// A scalar with a type.
    Scalar(&'static Tag),
}

/// A field table's path, split once for many objects.
pub(crate) struct Visit {
    spec: FieldSpec,
    path: Rc<[String]>,
    create: Create,
}

impl Visit {
    pub(crate) fn new(spec: &FieldSpec, create: Create) -> Visit {
        let create = if spec.create { create } else { Create::Never };
        Visit { spec: spec.clone(), path: split_path(&spec.path, '/').into(), create }
    }

    /// Calls `set` on every value at the end of the path, if the object is one that the path is for.
    pub(crate) fn run(
        &self,
        node: &mut Node,
        set: &mut dyn FnMut(&mut Node) -> Result<(), String>,
    ) -> Result<(), BuildError> {
        let text = |field: &str| node.get(field).map_or("", Node::text);
        let gvk = &self.spec.gvk;
        if !gvk.kind.is_empty() && gvk.kind != text("kind") {
            return Ok(());
        }
        let api_version = text("apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if (!gvk.group.is_empty() && gvk.group != group) || (!gvk.version.is_empty() && gvk.version != version) {
            return Ok(());
        }
        visit(node, &self.path, self.create, set)
            .map_err(|problem| refused(format!("considering field '{}' of object: {problem}", self.spec.path)))
    }
}

fn visit(
    node: &mut Node,
    path: &[String],
    create: Create,
    set: &mut dyn FnMut(&mut Node) -> Result<(), String>,
) -> Result<(), String> {
    let Some((part, rest)) = path.split_first() else { return set(node) };
    if node.is_null() {
        return Ok(());
    }
    match node {
        Node::List(items) => items.iter_mut().try_for_each(|item| visit(item, path, create, set)),
        Node::Map(map) => {
            let (name, is_list) = match part.strip_suffix("[]") {
                Some(name) => (name, true),
                None => (part.as_str(), false),
            };
            if name.is_empty() {
                return Err("cannot set or create an empty field name".to_owned());
            }
            let makes = create != Create::Never && !is_list;
            let made = || match create {
                Create::Scalar(_) if rest.is_empty() => Node::Scalar(Scalar::open("")),
                _ => Node::Map(Map::default()),
            };
            if map.get(name).is_none() {
                if !makes {
                    return Ok(());
                }
                map.push(name, made());
            }
            let Some(field) = map.get_mut(name) else { return Ok(()) };
            if field.is_null() {
                if is_list {
                    *field = Node::List(Vec::new());
                } else if makes {
                    *field = match create {
                        Create::Scalar(tag) if rest.is_empty() => {
                            Node::Scalar(Scalar { tag: tag.clone(), text: field.text().to_owned(), ..Scalar::open("") })
                        }
                        _ => Node::Map(Map::default()),
                    };
                }
            }
            visit(field, rest, create, set)
        }
        Node::Scalar(_) => Err("expected sequence or mapping node".to_owned()),
    }
}

/// Sets an entry of a map as labels and annotations are set: always a string.
pub(crate) fn set_entry(node: &mut Node, key: &str, value: &str) -> Result<(), String> {
    if node.is_null() {
        return Ok(());
    }
    match node {
        Node::Map(map) => {
            map.set(key, Node::Scalar(Scalar { style: Style::Plain, ..Scalar::string(value) }));
            Ok(())
        }
        other => Err(format!("expected a map but found {}", other.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(split_path("a/b\\/c/d", '/'), ["a", "b/c", "d"]);
        assert_eq!(split_dotted("a.[name=x.y].b"), ["a", "[name=x.y]", "b"]);
        assert_eq!(split_dotted("metadata.annotations.[a.b/c]"), ["metadata", "annotations", "a.b/c"]);
        assert_eq!(split_dotted("a\\.b.c"), ["a.b", "c"]);
    }

    #[test]
    fn built_in_table() {
        assert_eq!(BUILT_IN.images.len(), 6);
        let secret = BUILT_IN.name_reference.iter().find(|reference| reference.target.kind == "Secret");
        assert!(secret.is_some_and(|reference| reference.fields.len() > 30));
        assert!(BUILT_IN.common_labels.iter().any(|spec| spec.path == "spec/selector" && spec.create));
    }
}
