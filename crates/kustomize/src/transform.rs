//! The transformers: each changes the objects of one kustomization in place.

use std::collections::HashSet;

use regex::Regex;

use crate::error::{BuildError, Source, refused};
use crate::fields::{Create, FieldSpec, Visit, set_entry};
use crate::id::{Gvk, Id};
use crate::json;
use crate::kustomization::{Image, Selector};
use crate::node::{Map, Node, Scalar, Tag};
use crate::parse;
use crate::resource::{self, Resource};
use crate::schema::Schema;
use crate::strategic::{self, NewItems};

const TEXT: &Tag = &Tag::Str;
const NUMBER: &Tag = &Tag::Int;

/// Adds labels or annotations.
pub(crate) fn add_texts(
    resources: &mut [Resource],
    pairs: &[(String, String)],
    specs: &[FieldSpec],
) -> Result<(), BuildError> {
    if pairs.is_empty() {
        return Ok(());
    }
    let visits: Vec<Visit> = specs.iter().map(|spec| Visit::new(spec, Create::Map)).collect();
    for resource in resources {
        for (key, value) in pairs {
            for visit in &visits {
                visit.run(resource.node_mut(), &mut |node| set_entry(node, key, value))?;
            }
        }
    }
    Ok(())
}

/// Puts a prefix before, or a suffix after, names.
pub(crate) fn affix(
    resources: &mut [Resource],
    text: &str,
    is_prefix: bool,
    specs: &[FieldSpec],
) -> Result<(), BuildError> {
    let skips = |id: &Id| match id.gvk.kind.as_str() {
        "CustomResourceDefinition" | "Namespace" => true,
        "APIService" => id.gvk.group == "apiregistration.k8s.io",
        _ => false,
    };
    let visits: Vec<(&FieldSpec, Visit)> =
        specs.iter().map(|spec| (spec, Visit::new(spec, Create::Scalar(TEXT)))).collect();
    for resource in resources {
        let id = resource.first_id();
        if skips(&id) {
            continue;
        }
        for (spec, visit) in &visits {
            if !id.gvk.is_selected(&spec.gvk) {
                continue;
            }
            if spec.path == "metadata/name" && !text.is_empty() {
                let list = if is_prefix { &mut resource.prefixes } else { &mut resource.suffixes };
                list.push(text.to_owned());
                resource.remember();
            }
            visit.run(resource.node_mut(), &mut |node| {
                let old = node.text();
                let new = if is_prefix { format!("{text}{old}") } else { format!("{old}{text}") };
                node.set_scalar(new, Tag::Open)
            })?;
        }
    }
    Ok(())
}

/// Which subjects of role bindings get the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Subjects {
    /// Those named `default`.
    #[default]
    Default,
    /// Every service account.
    ServiceAccounts,
    /// None.
    Nobody,
}

/// How a namespace is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace<'s> {
    pub(crate) name: &'s str,
    pub(crate) specs: &'s [FieldSpec],
    pub(crate) unset_only: bool,
    pub(crate) subjects: Subjects,
}

impl Namespace<'_> {
    fn set(&self, node: &mut Node) -> Result<(), String> {
        if self.unset_only && !node.is_null() && !node.text().is_empty() {
            return Ok(());
        }
        node.set_scalar(self.name, Tag::Str)
    }

    /// Sets the namespace of objects, and where they name it.
    pub(crate) fn run(&self, resources: &mut [Resource]) -> Result<(), BuildError> {
        if self.name.is_empty() {
            return Ok(());
        }
        for resource in resources.iter_mut().filter(|resource| !resource.node().is_empty() && !resource.from_helm) {
            resource.remember();
            self.one(resource)?;
        }
        let mut seen = HashSet::with_capacity(resources.len());
        match resources.iter().find(|resource| !seen.insert(resource.id().key())) {
            Some(twice) => Err(refused(format!("namespace transformation produces ID conflict: {}", twice.id()))),
            None => Ok(()),
        }
    }

    /// Sets the namespace of one object.
    pub(crate) fn one(&self, resource: &mut Resource) -> Result<(), BuildError> {
        let is_core = resource.api_version() == "v1";
        let is_binding = matches!(resource.kind(), "RoleBinding" | "ClusterRoleBinding");
        if !resource.id().cluster_scoped {
            let spec = FieldSpec { path: "metadata/namespace".to_owned(), create: true, ..FieldSpec::default() };
            Visit::new(&spec, Create::Scalar(&Tag::Open)).run(resource.node_mut(), &mut |node| self.set(node))?;
        }
        if is_binding {
            self.bind(resource.node_mut()).map_err(refused)?;
        }
        for spec in self.specs {
            let is_subject = spec.path == "subjects/namespace"
                && matches!(spec.gvk.kind.as_str(), "RoleBinding" | "ClusterRoleBinding");
            let skips = spec.path == "metadata/namespace"
                || (!is_core && spec.path == "metadata/name")
                || (is_binding && is_subject);
            if !skips {
                Visit::new(spec, Create::Scalar(TEXT)).run(resource.node_mut(), &mut |node| self.set(node))?;
            }
        }
        Ok(())
    }

    fn bind(&self, node: &mut Node) -> Result<(), String> {
        let Some(subjects) = node.as_map_mut().and_then(|map| map.get_mut("subjects")) else { return Ok(()) };
        if subjects.is_null() || self.subjects == Subjects::Nobody {
            return Ok(());
        }
        let Node::List(subjects) = subjects else { return Err("subjects must be a list".to_owned()) };
        for subject in subjects {
            let meant = match self.subjects {
                Subjects::Default => subject.get("name").is_some_and(|name| name.text() == "default"),
                _ => subject.get("kind").is_some_and(|kind| kind.text() == "ServiceAccount"),
            };
            let Some(map) = subject.as_map_mut().filter(|_| meant) else { continue };
            if map.get("namespace").is_none() {
                map.push("namespace", Node::Scalar(Scalar::open("")));
            }
            if let Some(namespace) = map.get_mut("namespace") {
                self.set(namespace)?;
            }
        }
        Ok(())
    }
}

/// Gives images another name, tag or digest.
pub(crate) fn set_image(resources: &mut [Resource], image: &Image, specs: &[FieldSpec]) -> Result<(), BuildError> {
    // The name is a pattern, as it is in kustomize.
    let pattern = format!("^{}(:[a-zA-Z0-9_.{{}}-]*)?(@sha256:[a-zA-Z0-9_.{{}}-]*)?$", image.name);
    let pattern = Regex::new(&pattern).map_err(|error| refused(format!("image {:?}: {error}", image.name)))?;
    let mut set = |node: &mut Node| set_image_text(node, image, &pattern);
    let visits: Vec<Visit> = specs.iter().map(|spec| Visit::new(spec, Create::Never)).collect();
    for resource in resources.iter_mut().filter(|resource| resource.kind() != "CustomResourceDefinition") {
        walk_containers(resource.node_mut(), &mut set).map_err(refused)?;
        for visit in &visits {
            visit.run(resource.node_mut(), &mut set)?;
        }
    }
    Ok(())
}

fn walk_containers(node: &mut Node, set: &mut dyn FnMut(&mut Node) -> Result<(), String>) -> Result<(), String> {
    match node {
        Node::List(items) => items.iter_mut().try_for_each(|item| walk_containers(item, set)),
        Node::Map(map) => {
            for (key, value) in &mut map.entries {
                walk_containers(value, set)?;
                let Node::List(items) = value else { continue };
                if !matches!(key.text.as_str(), "containers" | "initContainers") {
                    continue;
                }
                for item in items.iter_mut().filter(|item| !item.is_null()) {
                    let Node::Map(item) = item else { return Err(format!("{} must hold maps", key.text)) };
                    if let Some(image) = item.get_mut("image") {
                        set(image)?;
                    }
                }
            }
            Ok(())
        }
        Node::Scalar(_) => Ok(()),
    }
}

fn set_image_text(node: &mut Node, image: &Image, pattern: &Regex) -> Result<(), String> {
    if node.is_null() {
        return Ok(());
    }
    let Node::Scalar(scalar) = node else { return Err("an image must be a text".to_owned()) };
    if !pattern.is_match(&scalar.text) {
        return Ok(());
    }
    let (mut name, mut tag, mut digest) = split_image(&scalar.text);
    if !image.new_name.is_empty() {
        name.clone_from(&image.new_name);
    }
    match (image.new_tag.is_empty(), image.digest.is_empty()) {
        (false, false) => (tag, digest) = (image.new_tag.clone(), image.digest.clone()),
        (false, true) => (tag, digest) = (image.new_tag.clone(), String::new()),
        (true, false) => (tag, digest) = (String::new(), image.digest.clone()),
        (true, true) if !image.tag_suffix.is_empty() => {
            tag.push_str(&image.tag_suffix);
            digest.clear();
        }
        (true, true) => {}
    }
    if !tag.is_empty() {
        name = format!("{name}:{tag}");
    }
    if !digest.is_empty() {
        name = format!("{name}@{digest}");
    }
    node.set_scalar(name, Tag::Open)
}

/// An image's name, tag and digest; a colon before the first slash is a port.
fn split_image(image: &str) -> (String, String, String) {
    let start = image.find('/').unwrap_or(0);
    let digest_at = image[start..].find('@').map(|at| at + start);
    let tag_at = image[start..].find(':').map(|at| at + start).filter(|at| digest_at.is_none_or(|digest| *at < digest));
    let end = digest_at.unwrap_or(image.len());
    let digest = digest_at.map_or("", |at| &image[at + 1..]);
    let (name, tag) = match tag_at {
        Some(at) => (&image[..at], &image[at + 1..end]),
        None => (&image[..end], ""),
    };
    (name.to_owned(), tag.to_owned(), digest.to_owned())
}

/// Sets the number of replicas of what has a name.
pub(crate) fn set_replicas(
    resources: &mut [Resource],
    name: &str,
    count: i64,
    specs: &[FieldSpec],
) -> Result<(), BuildError> {
    let mut found = false;
    for spec in specs {
        let visit = Visit::new(spec, Create::Scalar(NUMBER));
        for resource in &mut *resources {
            let meant = resource.all_ids().iter().any(|id| id.name == name && id.gvk.is_selected(&spec.gvk));
            if !meant {
                continue;
            }
            found = true;
            visit.run(resource.node_mut(), &mut |node| node.set_scalar(count.to_string(), Tag::Int))?;
        }
    }
    if found {
        return Ok(());
    }
    let kinds: Vec<String> = specs.iter().map(|spec| spec.gvk.to_string()).collect();
    Err(refused(format!("resource with name {name} does not match a config with the following GVK {kinds:?}")))
}

/// A selector whose parts are patterns.
pub(crate) struct Pattern {
    group: Option<Regex>,
    version: Option<Regex>,
    kind: Option<Regex>,
    name: Option<Regex>,
    namespace: Option<Regex>,
    labels: String,
    annotations: String,
}

impl Pattern {
    pub(crate) fn new(selector: &Selector) -> Result<Pattern, BuildError> {
        let pattern = |text: &str| match text {
            "" => Ok(None),
            text => Regex::new(&format!("^(?:{text})$"))
                .map(Some)
                .map_err(|error| refused(format!("selector {text:?}: {error}"))),
        };
        Ok(Pattern {
            group: pattern(&selector.gvk.group)?,
            version: pattern(&selector.gvk.version)?,
            kind: pattern(&selector.gvk.kind)?,
            name: pattern(&selector.name)?,
            namespace: pattern(&selector.namespace)?,
            labels: selector.labels.clone(),
            annotations: selector.annotations.clone(),
        })
    }

    pub(crate) fn takes_gvk(&self, gvk: &Gvk) -> bool {
        fits(&self.group, &gvk.group) && fits(&self.version, &gvk.version) && fits(&self.kind, &gvk.kind)
    }

    /// Whether it takes an id as it stands.
    pub(crate) fn takes_id(&self, id: &Id) -> bool {
        self.takes_gvk(&id.gvk) && fits(&self.name, &id.name) && fits(&self.namespace, &id.namespace)
    }

    /// Whether it takes an object by its labels and annotations.
    pub(crate) fn takes_marks(&self, resource: &Resource) -> Result<bool, BuildError> {
        Ok(resource.matches("labels", &self.labels)? && resource.matches("annotations", &self.annotations)?)
    }

    /// Whether it says nothing about labels and annotations.
    pub(crate) fn has_no_marks(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }

    /// Whether it says nothing about ids.
    pub(crate) fn has_no_id(&self) -> bool {
        [&self.group, &self.version, &self.kind, &self.name, &self.namespace].iter().all(|part| part.is_none())
    }

    /// Whether it takes an object by what it was called first or is called now.
    pub(crate) fn takes(&self, resource: &Resource) -> Result<bool, BuildError> {
        let (first, now) = (resource.first_id(), resource.id());
        let either = |part: &Option<Regex>, one: &str, other: &str| fits(part, one) || fits(part, other);
        Ok(either(&self.namespace, first.effective_namespace(), now.effective_namespace())
            && either(&self.name, &first.name, &now.name)
            && self.takes_gvk(&now.gvk)
            && self.takes_marks(resource)?)
    }
}

fn fits(part: &Option<Regex>, text: &str) -> bool {
    part.as_ref().is_none_or(|part| part.is_match(text))
}

/// A patch that was read.
pub(crate) enum PatchText {
    /// Objects to be merged.
    Strategic(Vec<Resource>),
    /// Operations of RFC 6902.
    Json(serde_json::Value),
}

/// Finds out what kind of patch a text is.
pub(crate) fn read_patch(source: &Source, schema: &Schema) -> Result<PatchText, BuildError> {
    let strategic = objects(source, schema);
    let json = read_json_patch(source);
    match (strategic, json) {
        (Ok(patches), Ok(_)) if !patches.is_empty() => {
            Err(refused(format!("{}: illegally qualifies as both an SM and JSON patch", source.file)))
        }
        (Ok(patches), _) => Ok(PatchText::Strategic(patches)),
        (Err(_), Ok(operations)) => Ok(PatchText::Json(operations)),
        // The first error says more where the text is no YAML; an object without a name is no list of operations either.
        (Err(error), Err(_)) => Err(error.within("unable to parse SM or JSON patch")),
    }
}

/// Operations of a JSON patch, in JSON or in YAML.
pub(crate) fn read_json_patch(source: &Source) -> Result<serde_json::Value, BuildError> {
    let value = if source.text.starts_with('[') {
        serde_json::from_str(&source.text).map_err(|error| refused(format!("{}: {error}", source.file)))?
    } else {
        let node = parse::first(source)?.unwrap_or_else(Node::null);
        json::value_1_1(&node)
            .map_err(|(place, problem)| BuildError::Mistakes(vec![source.mistake(place, problem, None)]))?
    };
    let is_patch = value.is_null()
        || value.as_array().is_some_and(|operations| operations.iter().all(serde_json::Value::is_object));
    if is_patch { Ok(value) } else { Err(refused(format!("{}: a JSON patch is a list of operations", source.file))) }
}

/// The objects of a text, with lists taken apart.
pub(crate) fn objects(source: &Source, schema: &Schema) -> Result<Vec<Resource>, BuildError> {
    let mut pending: std::collections::VecDeque<Node> = parse::documents(source)?.into();
    if let [Node::Map(_)] = pending.make_contiguous()
        && let Some(node) = pending.front()
        && matches!(node.get("kind").map_or("", Node::text), "List" | "ResourceList")
        && let Some(Node::List(items)) = node.get("items")
    {
        pending = items.iter().cloned().collect();
    }
    let mut found = Vec::new();
    let mut mistakes = Vec::new();
    let shared = std::sync::Arc::new(source.clone());
    pending.retain(|node| !node.is_empty());
    for node in &pending {
        match resource::check(node, source) {
            Err(BuildError::Mistakes(more)) => mistakes.extend(more),
            other => other?,
        }
    }
    if !mistakes.is_empty() {
        return Err(BuildError::Mistakes(mistakes));
    }
    while let Some(node) = pending.pop_front() {
        let is_list = node.get("kind").is_some_and(|kind| kind.text().ends_with("List"));
        match node.get("items").filter(|_| is_list) {
            Some(Node::List(items)) => {
                for item in items.iter().filter(|item| !item.is_empty()) {
                    resource::check(item, source)?;
                    pending.push_back(item.clone());
                }
            }
            Some(items) if items.is_null() => {}
            Some(items) => {
                return Err(refused(format!("{}: expected a list in items, but found {}", source.file, items.kind())));
            }
            None => found.push(Resource::new(node, Some(shared.clone()), schema)),
        }
    }
    Ok(found)
}

/// Applies operations to an object.
pub(crate) fn patch_json(resource: &mut Resource, operations: &serde_json::Value) -> Result<(), BuildError> {
    if operations.is_null() {
        return Ok(());
    }
    let id = resource.id().to_string();
    // kustomize keeps its own notes among the annotations, so that a patch finds them there.
    if resource.has_notes()
        && let Some(metadata) = resource.node_mut().as_map_mut().and_then(|map| map.map_at("metadata"))
    {
        metadata.map_at("annotations");
    }
    let object = json::value(resource.node()).map_err(|(_, problem)| refused(format!("{id}: {problem}")))?;
    let patched = kobune_merge::json_patch(&object, operations).map_err(|error| refused(format!("{id}: {error}")))?;
    *resource.node_mut() = json::node(&patched);
    let annotations = resource.texts("annotations");
    resource.set_texts("annotations", annotations);
    Ok(())
}

/// Merges a patch into an object; the name and the kind stay unless the patch may change them.
pub(crate) fn patch_strategic(resource: &mut Resource, patch: &Resource, schema: &Schema) -> Result<(), BuildError> {
    let (name, namespace, kind) =
        (resource.name().to_owned(), resource.namespace().to_owned(), resource.kind().to_owned());
    if patch.allows_name_change || patch.allows_kind_change {
        resource.remember();
    }
    let id = resource.id().to_string();
    let node = std::mem::replace(resource.node_mut(), Node::null());
    let merged = strategic::merge(Some(node), patch.node().clone(), schema, NewItems::Front)
        .map_err(|problem| refused(format!("{id}: {problem}")))?;
    let Some(merged) = merged.filter(|merged| !merged.is_empty()) else { return Ok(()) };
    *resource.node_mut() = merged;
    if !patch.allows_kind_change {
        resource.set_kind(&kind);
    }
    if !patch.allows_name_change {
        resource.set_name(&name);
    }
    resource.set_namespace(&namespace);
    Ok(())
}

/// A patch made fit for an object that a selector found: it takes the object's version, and its labels and annotations
/// are texts, nulls among them.
pub(crate) fn fit_patch(patch: &Resource, resource: &Resource) -> Resource {
    let mut fitted = patch.clone();
    for field in ["labels", "annotations"] {
        let texts = fitted.texts(field);
        let has_metadata = fitted.node().get("metadata").is_some_and(|metadata| metadata.as_map().is_some());
        if has_metadata {
            fitted.set_texts(field, texts);
        }
    }
    let (name, namespace) = (patch.name().to_owned(), patch.namespace().to_owned());
    fitted.set_name(&name);
    fitted.set_namespace(&namespace);
    fitted.set_api_version(resource.api_version());
    fitted.set_kind(patch.kind());
    fitted
}

/// Adds a text into a path of folders, or puts it in a field's place.
pub(crate) fn add_value(resource: &mut Resource, path: &str, value: &str, position: i64) -> Result<(), BuildError> {
    let mut node = resource.node_mut();
    for part in crate::fields::split_path(path, '/') {
        let Node::Map(map) = node else { return Err(refused(format!("{path}: {part} is in {}", node.kind()))) };
        if map.get(&part).is_none() {
            let is_last = path.ends_with(&part);
            map.push(&part, if is_last { Node::Scalar(Scalar::open("")) } else { Node::Map(Map::default()) });
        }
        node = map.get_mut(&part).ok_or_else(|| refused(format!("{path}: no field {part}")))?;
    }
    let text = if position > 0 { insert_part(node.text(), position, value) } else { value.to_owned() };
    node.set_scalar(text, Tag::Open).map_err(|problem| refused(format!("{path}: {problem}")))
}

fn insert_part(path: &str, position: i64, value: &str) -> String {
    let (root, rest) = match path.strip_prefix('/') {
        Some(rest) => ("/", rest),
        None => ("", path),
    };
    let mut parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let at = usize::try_from(position - 1).unwrap_or(0).min(parts.len());
    parts.insert(at, value);
    format!("{root}{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        for (image, name, tag, digest) in [
            ("nginx", "nginx", "", ""),
            ("nginx:1", "nginx", "1", ""),
            ("host:5000/nginx", "host:5000/nginx", "", ""),
            ("host:5000/nginx:1@sha256:a", "host:5000/nginx", "1", "sha256:a"),
            ("nginx@sha256:a", "nginx", "", "sha256:a"),
        ] {
            assert_eq!(split_image(image), (name.into(), tag.into(), digest.into()), "{image}");
        }
    }

    #[test]
    fn parts_of_paths() {
        for (path, position, expected) in
            [("", 1, "x"), ("/", 1, "/x"), ("pie", 1, "x/pie"), ("/a/b", 9, "/a/b/x"), ("a/b", 2, "a/x/b")]
        {
            assert_eq!(insert_part(path, position, "x"), expected, "{path}");
        }
    }
}
