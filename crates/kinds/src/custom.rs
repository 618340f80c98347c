//! Custom resources: what a CustomResourceDefinition says, made into the same [`Kind`] that built-in kinds are.
//!
//! A definition's text stays what the store holds; of it only names, versions and columns are taken out at once. A
//! version's schema is compiled when the first request needs it, into a tree that decoding, defaulting, validation and
//! merging walk. Prose is never kept: OpenAPI is rendered from the text.

pub(crate) mod cells;
pub(crate) mod defaults;
mod definition;
mod formats;
mod json_path;
pub(crate) mod prune;
mod schema;
pub(crate) mod strategy;
pub(crate) mod validate;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

pub use definition::{CLEANUP, Condition, Definition, Names, Taken, VersionPart, compare_versions};
pub use json_path::JsonPath;
pub use schema::{Additional, Rule, Schema, ValueType};

/// What a kind that comes from a definition has beside what every kind has.
#[derive(Debug)]
pub struct Custom {
    /// The definition's stored text, shared with the store.
    source: Bytes,
    /// The definition's name.
    pub definition: Box<str>,
    /// The position of the version in the definition.
    version: usize,
    schema: OnceLock<Arc<Schema>>,
    pub(crate) columns: Vec<cells::Heading>,
    /// What `selectableFields` names, as field selectors write it, with the way there.
    pub(crate) selectable: Vec<(Box<str>, JsonPath)>,
    /// What the scale subresource reads and writes.
    pub scale: Option<ScalePaths>,
    /// Whether the definition is being deleted: then nothing is created any more.
    pub terminating: bool,
    /// Why the version is deprecated; a warning for whoever uses it.
    pub deprecation: Option<String>,
    /// Objects written at this revision or later are pruned and have their defaults already.
    pub fresh_from: u64,
    /// Says by its value whether two kinds have the same schema.
    pub(crate) fingerprint: [u8; 32],
    /// The webhook that converts between versions; without one they differ by nothing but `apiVersion`.
    pub conversion: Option<Arc<WebhookConversion>>,
}

/// How a webhook converts the objects of a definition, as `spec.conversion.webhook` has it.
#[derive(Debug, PartialEq)]
pub struct WebhookConversion {
    /// `clientConfig`: where the webhook is, and whom to trust there.
    pub client: Value,
    /// The versions of `ConversionReview` that it reads, the preferred one first.
    pub review_versions: Vec<String>,
}

impl WebhookConversion {
    /// Reads `spec.conversion`; `None` for any other strategy.
    fn of(conversion: &Value) -> Option<Arc<Self>> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let review_versions = versions.filter_map(|version| version.as_str().map(str::to_owned)).collect();
        Some(Arc::new(Self { client: webhook["clientConfig"].clone(), review_versions }))
    }
}

/// Where the replicas of an object stand.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePaths {
    /// The wanted number.
    pub spec: Vec<Box<str>>,
    /// The number that there is.
    pub status: Vec<Box<str>>,
    /// The selector as text.
    pub selector: Option<Vec<Box<str>>>,
}

impl Custom {
    /// The compiled schema.
    pub fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| {
            let text = self.schema_text();
            Arc::new(Schema::root(text.as_ref().unwrap_or(&Value::Null)))
        })
    }

    /// Whether the other kind's objects are read alike.
    pub fn reads_like(&self, other: &Custom) -> bool {
        self.fingerprint == other.fingerprint && self.conversion == other.conversion
    }

    /// The schema as the definition has it, with its prose; parsed anew each time.
    pub fn schema_text(&self) -> Option<Value> {
        let mut definition: Value = serde_json::from_slice(&self.source).ok()?;
        let schema = definition.pointer_mut(&format!("/spec/versions/{}/schema/openAPIV3Schema", self.version))?;
        Some(schema.take())
    }
}

/// What is wrong with the labels and annotations that a conversion has given to an object.
pub fn check_converted(metadata: &Value) -> Vec<crate::FieldError> {
    crate::validation::metadata::labels_and_annotations(metadata)
}

/// The value at a path of fields.
pub fn at<'v>(value: &'v Value, path: &[Box<str>]) -> Option<&'v Value> {
    path.iter().try_fold(value, |here, step| here.get(&**step))
}

/// Puts a value at a path of fields; what is missing on the way is made, and what is no object in the way is left alone.
pub fn put(object: &mut Value, path: &[Box<str>], value: Value) {
    let Some((last, way)) = path.split_last() else { return };
    let mut here = object;
    for step in way {
        let Some(fields) = here.as_object_mut() else { return };
        here = fields.entry(&**step).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    if let Some(fields) = here.as_object_mut() {
        fields.insert(last.to_string(), value);
    }
}

/// The kinds that a definition serves, one a version. `before` are those that it served until now: where the schema is the
/// same, what was compiled stays, and so does the revision from which on objects follow it.
pub fn kinds(
    definition: &Definition,
    source: &Bytes,
    revision: u64,
    before: &[Arc<crate::Kind>],
) -> Vec<Arc<crate::Kind>> {
    let mut kinds = definition.kinds(source, revision);
    for kind in &mut kinds {
        let same = before.iter().find(|other| other.version == kind.version).and_then(|other| other.custom());
        if let crate::kind::Body::Custom(custom) = &mut kind.body
            && let Some(same) = same.filter(|same| same.fingerprint == custom.fingerprint)
        {
            custom.fresh_from = same.fresh_from;
            custom.schema = same.schema.clone();
        }
    }
    kinds.into_iter().map(Arc::new).collect()
}
