//! An object on its way through a build, with what kustomize keeps in annotations of its own while it works.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::error::{BuildError, Source, refused};
use crate::id::{self, Gvk, Id};
use crate::node::{Map, Node, Scalar, Style, Tag};
use crate::schema::Schema;

/// The annotation that says where an object came from.
pub(crate) const ORIGIN: &str = "config.kubernetes.io/origin";
/// The annotation that says what changed an object.
pub(crate) const TRANSFORMATIONS: &str = "alpha.config.kubernetes.io/transformations";
/// The annotation that keeps an object out of the output.
pub(crate) const LOCAL: &str = "config.kubernetes.io/local-config";

/// What an object was called before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Former {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) kind: String,
}

/// What a generated object does to one that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// It must be new.
    #[default]
    Create,
    /// It takes the other's place.
    Replace,
    /// Its data is added to the other's.
    Merge,
}

/// An object.
#[derive(Clone, Debug)]
pub struct Resource {
    node: Node,
    id: OnceCell<Id>,
    /// Former ids, oldest first.
    pub(crate) former: Vec<Former>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) suffixes: Vec<String>,
    pub(crate) behavior: Behavior,
    pub(crate) needs_hash: bool,
    pub(crate) allows_name_change: bool,
    pub(crate) allows_kind_change: bool,
    /// Made by a generator of ConfigMaps or Secrets.
    pub(crate) is_generated: bool,
    /// Made by helm, which has set the namespace.
    pub(crate) from_helm: bool,
    /// Variables that take their value from it.
    pub(crate) variables: Vec<String>,
    /// What it was read from.
    pub(crate) source: Option<Arc<Source>>,
    schema: Schema,
}

impl Resource {
    pub(crate) fn new(node: Node, source: Option<Arc<Source>>, schema: &Schema) -> Resource {
        Resource {
            node,
            id: OnceCell::new(),
            former: Vec::new(),
            prefixes: Vec::new(),
            suffixes: Vec::new(),
            behavior: Behavior::Create,
            needs_hash: false,
            allows_name_change: false,
            allows_kind_change: false,
            is_generated: false,
            from_helm: false,
            variables: Vec::new(),
            source,
            schema: schema.clone(),
        }
    }

    /// The object itself.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The object itself, to change it.
    pub(crate) fn node_mut(&mut self) -> &mut Node {
        self.id.take();
        &mut self.node
    }

    pub(crate) fn api_version(&self) -> &str {
        self.node.get("apiVersion").map_or("", Node::text)
    }

    pub(crate) fn kind(&self) -> &str {
        self.node.get("kind").map_or("", Node::text)
    }

    fn metadata(&self, field: &str) -> &str {
        let value = self.node.get("metadata").and_then(|metadata| metadata.get(field));
        value.filter(|value| !value.is_empty()).map_or("", Node::text)
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata("name")
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    /// Who it is now.
    pub fn id(&self) -> &Id {
        self.id.get_or_init(|| self.make_id(self.kind(), self.name(), self.namespace()))
    }

    fn make_id(&self, kind: &str, name: &str, namespace: &str) -> Id {
        let gvk = Gvk::new(self.api_version(), kind);
        let cluster_scoped = id::is_cluster_scoped(&gvk) || self.schema.is_cluster_scoped(&gvk);
        Id { gvk, name: name.to_owned(), namespace: namespace.to_owned(), cluster_scoped }
    }

    /// Who it was, oldest first.
    pub(crate) fn former_ids(&self) -> impl DoubleEndedIterator<Item = Id> + '_ {
        self.former.iter().map(|former| self.make_id(&former.kind, &former.name, &former.namespace))
    }

    /// Who it was when it was read.
    pub(crate) fn first_id(&self) -> Id {
        self.former_ids().next().unwrap_or_else(|| self.id().clone())
    }

    /// Everything it was and is.
    pub(crate) fn all_ids(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.former_ids().collect();
        ids.push(self.id().clone());
        ids
    }

    /// Remembers who it is before that changes.
    pub(crate) fn remember(&mut self) {
        let id = self.id();
        // An empty text is not kept, which shifts what is; no object here has an empty name or kind.
        let former =
            Former { name: id.name.clone(), namespace: id.effective_namespace().to_owned(), kind: id.gvk.kind.clone() };
        self.former.push(former);
    }

    /// Whether kustomize would keep notes of its own in it by now.
    pub(crate) fn has_notes(&self) -> bool {
        !self.former.is_empty()
            || !self.prefixes.is_empty()
            || !self.suffixes.is_empty()
            || self.needs_hash
            || self.is_generated
    }

    fn metadata_mut(&mut self) -> Option<&mut Map> {
        self.node_mut().as_map_mut()?.map_at("metadata")
    }

    pub(crate) fn set_name(&mut self, name: &str) {
        if let Some(metadata) = self.metadata_mut() {
            metadata.set("name", Node::Scalar(Scalar::open(name)));
        }
    }

    pub(crate) fn set_namespace(&mut self, namespace: &str) {
        if let Some(metadata) = self.metadata_mut() {
            if namespace.is_empty() {
                metadata.remove("namespace");
            } else {
                metadata.set("namespace", Node::Scalar(Scalar::open(namespace)));
            }
        }
    }

    pub(crate) fn set_kind(&mut self, kind: &str) {
        if let Some(map) = self.node_mut().as_map_mut() {
            map.set("kind", Node::Scalar(Scalar::open(kind)));
        }
    }

    pub(crate) fn set_api_version(&mut self, api_version: &str) {
        if let Some(map) = self.node_mut().as_map_mut() {
            map.set("apiVersion", Node::Scalar(Scalar::open(api_version)));
        }
    }

    /// Labels or annotations as texts.
    pub(crate) fn texts(&self, field: &str) -> Vec<(String, String)> {
        let values = self.node.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Node::as_map);
        let entries = values.map(|values| values.entries.as_slice()).unwrap_or_default();
        entries.iter().map(|(key, value)| (key.text.clone(), value.text().to_owned())).collect()
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.node.get("metadata")?.get("annotations")?;
        annotations.get(name).map(Node::text)
    }

    /// Sets all labels or annotations, each a string; none at all takes the field away.
    pub(crate) fn set_texts(&mut self, field: &str, mut values: Vec<(String, String)>) {
        let Some(metadata) = self.metadata_mut() else { return };
        metadata.remove(field);
        if values.is_empty() {
            return;
        }
        values.sort();
        let mut map = Map::default();
        for (key, value) in values {
            map.push(&key, Node::string(value));
        }
        metadata.push(field, Node::Map(map));
    }

    pub(crate) fn set_annotation(&mut self, name: &str, value: Option<&str>) {
        let mut annotations = self.texts("annotations");
        annotations.retain(|(key, _)| key != name);
        annotations.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self.set_texts("annotations", annotations);
    }

    /// Makes every annotation a string, as kustomize does when it takes its own away, and drops an empty map.
    pub(crate) fn finish_annotations(&mut self, drops: &[&str]) {
        let Some(annotations) = self.node.get("metadata").and_then(|metadata| metadata.get("annotations")) else {
            return;
        };
        let sound = annotations.as_map().is_some_and(|map| {
            !map.entries.is_empty()
                && map.entries.iter().all(|(key, value)| {
                    matches!(value, Node::Scalar(scalar) if scalar.tag == Tag::Str && scalar.style != Style::Folded)
                        && !drops.contains(&key.text.as_str())
                        && !INTERNAL.contains(&key.text.as_str())
                })
        });
        if sound {
            return;
        }
        let mut texts = self.texts("annotations");
        texts.retain(|(key, _)| !drops.contains(&key.as_str()) && !INTERNAL.contains(&key.as_str()));
        self.set_texts("annotations", texts);
    }

    /// Whether a selector of labels, on labels or annotations, takes it.
    pub(crate) fn matches(&self, field: &str, selector: &str) -> Result<bool, BuildError> {
        if selector.is_empty() {
            return Ok(true);
        }
        let parsed = kobune_kinds::selector::LabelSelector::parse(selector)
            .map_err(|error| refused(format!("selector {selector:?}: {error}")))?;
        let values = self.node.get("metadata").and_then(|metadata| metadata.get(field));
        Ok(parsed.matches(|key| values.and_then(|values| values.get(key)).map(Node::text)))
    }
}

/// Annotations that tools on kustomize's library leave behind and that never reach the output.
const INTERNAL: [&str; 9] = [
    "internal.config.kubernetes.io/path",
    "internal.config.kubernetes.io/index",
    "internal.config.kubernetes.io/seqindent",
    "internal.config.kubernetes.io/id",
    "internal.config.kubernetes.io/annotations-migration-resource-id",
    "config.kubernetes.io/path",
    "config.kubernetes.io/index",
    "config.k8s.io/id",
    "internal.config.kubernetes.io/helm-generated",
];

/// Checks that a document is an object with a kind and, lists aside, a name.
pub(crate) fn check(node: &Node, source: &Source) -> Result<(), BuildError> {
    let mistake = |message: &str, hint: &str| {
        Err(BuildError::Mistakes(vec![source.mistake(node.place(), message, Some(hint.to_owned()))]))
    };
    if node.as_map().is_none() {
        return mistake("this is no object", "an object is a map with apiVersion, kind and metadata");
    }
    let kind = node.get("kind").filter(|kind| !kind.is_empty()).map_or("", Node::text);
    if kind.is_empty() {
        return mistake("missing kind in object", "add a line such as \"kind: ConfigMap\"");
    }
    let name = node.at(&["metadata", "name"]).filter(|name| !name.is_empty()).map_or("", Node::text);
    if name.is_empty() && !kind.ends_with("List") {
        return mistake("missing metadata.name in object", "every object has a name");
    }
    Ok(())
}
