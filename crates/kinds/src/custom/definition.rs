//! A CustomResourceDefinition as its readers need it.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use sha2::Digest as _;

use super::{Custom, JsonPath, ScalePaths, WebhookConversion, cells::Heading};
use crate::kind::{Body, Kind, Subresource, Verb};

/// The names of a kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    /// The resource in paths.
    pub plural: String,
    /// The resource for one object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub singular: String,
    /// Abbreviations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<String>,
    /// The kind.
    pub kind: String,
    /// The kind of lists.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub list_kind: String,
    /// Groups of resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

/// A condition of the status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// When the status last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// Words for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The definition's generation that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// A word for machines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Vec<Condition>,
    accepted_names: Names,
    stored_versions: Vec<String>,
}

/// One version of a definition.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionPart {
    /// Its name.
    pub name: String,
    /// Whether it is served.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
    /// Whether its users are warned.
    pub deprecated: bool,
    /// With which words.
    pub deprecation_warning: Option<String>,
    schema: Value,
    subresources: Value,
    additional_printer_columns: Vec<Value>,
    selectable_fields: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    group: String,
    scope: String,
    names: Names,
    versions: Vec<VersionPart>,
    conversion: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    generation: Option<i64>,
    deletion_timestamp: Option<String>,
    finalizers: Vec<String>,
    creation_timestamp: Option<String>,
}

/// A definition, read from its stored text.
#[derive(Debug, Deserialize)]
pub struct Definition {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

/// The finalizer under which a definition waits for its objects.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

fn boxed(list: &[String]) -> Vec<Box<str>> {
    list.iter().map(|text| text.as_str().into()).collect()
}

impl Definition {
    /// Reads a stored definition.
    pub fn read(bytes: &[u8]) -> Result<Definition, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The definition's name: `<plural>.<group>`.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.spec.group
    }

    /// The names that are wanted.
    pub fn names(&self) -> &Names {
        &self.spec.names
    }

    /// The names that were given.
    pub fn accepted_names(&self) -> &Names {
        &self.status.accepted_names
    }

    /// The versions.
    pub fn versions(&self) -> &[VersionPart] {
        &self.spec.versions
    }

    /// The versions in which objects may still be stored.
    pub fn stored_versions(&self) -> &[String] {
        &self.status.stored_versions
    }

    /// The conditions of the status.
    pub fn conditions(&self) -> &[Condition] {
        &self.status.conditions
    }

    /// Whether a condition holds.
    pub fn holds(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|known| known.kind == condition && known.status == "True")
    }

    /// Whether it is being deleted.
    pub fn is_dying(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it waits for its objects.
    pub fn waits(&self) -> bool {
        self.metadata.finalizers.iter().any(|finalizer| finalizer == CLEANUP)
    }

    /// When it was made; the older of two definitions keeps a name that both want.
    pub fn created(&self) -> &str {
        self.metadata.creation_timestamp.as_deref().unwrap_or_default()
    }

    /// How often its spec has changed.
    pub fn generation(&self) -> Option<i64> {
        self.metadata.generation
    }

    /// The store's collection of its objects.
    pub fn collection(&self) -> String {
        format!("{}/{}", self.spec.group, self.spec.names.plural)
    }

    pub(super) fn kinds(&self, source: &Bytes, revision: u64) -> Vec<Kind> {
        let Some(storage) = self.spec.versions.iter().find(|version| version.storage) else { return Vec::new() };
        let mut order: Vec<usize> = (0..self.spec.versions.len()).filter(|at| self.spec.versions[*at].served).collect();
        order.sort_by(|a, b| compare_versions(&self.spec.versions[*b].name, &self.spec.versions[*a].name));
        let conversion = WebhookConversion::of(&self.spec.conversion);
        let kind = |at| {
            let mut kind = self.kind(at, &storage.name, source, revision);
            if let Body::Custom(custom) = &mut kind.body {
                custom.conversion.clone_from(&conversion);
            }
            kind
        };
        order.into_iter().map(kind).collect()
    }

    fn kind(&self, at: usize, storage: &str, source: &Bytes, revision: u64) -> Kind {
        let version = &self.spec.versions[at];
        let names =
            if self.status.accepted_names.plural.is_empty() { &self.spec.names } else { &self.status.accepted_names };
        let mut subresources = Vec::new();
        let verbs = || vec![Verb::Get, Verb::Patch, Verb::Update];
        if version.subresources["status"].is_object() {
            subresources.push(Subresource {
                name: "status".into(),
                group: self.spec.group.as_str().into(),
                version: version.name.as_str().into(),
                kind: names.kind.as_str().into(),
                verbs: verbs(),
            });
        }
        let scale = scale_paths(&version.subresources["scale"]);
        if scale.is_some() {
            subresources.push(Subresource {
                name: "scale".into(),
                group: "autoscaling".into(),
                version: "v1".into(),
                kind: "Scale".into(),
                verbs: verbs(),
            });
        }
        let mut digest = sha2::Sha256::new();
        digest.update(version.schema.to_string());
        digest.update(format!("/{storage}/{}", version.name));
        let warning = || {
            let (group, kind) = (&self.spec.group, &names.kind);
            let newer = self.spec.versions.iter().filter(|other| {
                other.served && !other.deprecated && compare_versions(&other.name, &version.name).is_gt()
            });
            let instead = newer.max_by(|a, b| compare_versions(&a.name, &b.name));
            let instead = instead.map(|other| format!("; use {group}/{} {kind}", other.name)).unwrap_or_default();
            format!("{group}/{} {kind} is deprecated{instead}", version.name)
        };
        let selectable = version.selectable_fields.iter().filter_map(|field| {
            let path = field["jsonPath"].as_str()?;
            Some((path.trim_start_matches('.').into(), JsonPath::parse(path)?))
        });
        let custom = Custom {
            source: source.clone(),
            definition: self.metadata.name.as_str().into(),
            version: at,
            schema: std::sync::OnceLock::new(),
            columns: version.additional_printer_columns.iter().map(Heading::read).collect(),
            selectable: selectable.collect(),
            scale,
            terminating: self.is_dying(),
            deprecation: version.deprecated.then(|| version.deprecation_warning.clone().unwrap_or_else(warning)),
            fresh_from: revision,
            fingerprint: digest.finalize().into(),
            conversion: None,
        };
        Kind {
            group: self.spec.group.as_str().into(),
            version: version.name.as_str().into(),
            kind: names.kind.as_str().into(),
            list_kind: names.list_kind.as_str().into(),
            plural: names.plural.as_str().into(),
            singular: names.singular.as_str().into(),
            short_names: boxed(&names.short_names),
            categories: boxed(&names.categories),
            namespaced: self.spec.scope == "Namespaced",
            verbs: vec![
                Verb::Create,
                Verb::Delete,
                Verb::DeleteCollection,
                Verb::Get,
                Verb::List,
                Verb::Patch,
                Verb::Update,
                Verb::Watch,
            ],
            subresources,
            collection: self.collection().into(),
            stored: true,
            storage: (*version.name != *storage).then(|| (self.spec.group.as_str().into(), storage.into())),
            body: Body::Custom(Box::new(custom)),
        }
    }

    /// The names that are wanted and that somebody else in the group has; with the words for each.
    pub fn conflicts(&self, taken: &Taken) -> Vec<(&'static str, String)> {
        let names = &self.spec.names;
        let mut found = Vec::new();
        let resource = |name: &str| {
            (!name.is_empty() && taken.resources.contains(name)).then(|| format!("{name:?} is already in use"))
        };
        let kind = |name: &str| {
            (!name.is_empty() && taken.kinds.contains(name)).then(|| format!("{name:?} is already in use"))
        };
        found.extend(resource(&names.plural).map(|words| ("PluralConflict", words)));
        found.extend(resource(&names.singular).map(|words| ("SingularConflict", words)));
        let short: Vec<String> = names.short_names.iter().filter_map(|name| resource(name)).collect();
        if !short.is_empty() {
            let words = if short.len() == 1 { short[0].clone() } else { format!("[{}]", short.join(", ")) };
            found.push(("ShortNamesConflict", words));
        }
        found.extend(kind(&names.kind).map(|words| ("KindConflict", words)));
        found.extend(kind(&names.list_kind).map(|words| ("ListKindConflict", words)));
        found
    }
}

/// The names that a group's other kinds have.
#[derive(Debug, Default)]
pub struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    /// Adds names that were given.
    pub fn add(&mut self, names: &Names) {
        self.resources.extend([&names.plural, &names.singular].into_iter().chain(&names.short_names).cloned());
        self.kinds.extend([&names.kind, &names.list_kind].into_iter().cloned());
    }

    /// Adds a kind of Kubernetes itself.
    pub fn add_kind(&mut self, kind: &Kind) {
        self.resources
            .extend([&kind.plural, &kind.singular].into_iter().chain(&kind.short_names).map(|name| name.to_string()));
        self.kinds.extend([&kind.kind, &kind.list_kind].into_iter().map(|name| name.to_string()));
    }
}

fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    let fields = |key: &str| JsonPath::parse(scale[key].as_str()?).and_then(|path| path.fields());
    Some(ScalePaths {
        spec: fields("specReplicasPath")?,
        status: fields("statusReplicasPath")?,
        selector: fields("labelSelectorPath").filter(|path| !path.is_empty()),
    })
}

/// Orders versions as discovery does: `v2` before `v1` before `v1beta2` before `v1alpha1` before all else by name.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    fn rank(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major: u64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((3, major, 0));
        }
        if let Some(minor) = tail.strip_prefix("beta") {
            return Some((2, major, minor.parse().ok()?));
        }
        Some((1, major, tail.strip_prefix("alpha")?.parse().ok()?))
    }
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => std::cmp::Ordering::Greater,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let mut versions = vec!["foo1", "v1alpha1", "v11", "v2", "v10beta3", "foo10", "v1", "v3beta1", "v11alpha2"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(versions, ["v11", "v2", "v1", "v10beta3", "v3beta1", "v11alpha2", "v1alpha1", "foo1", "foo10"]);
    }
}
