//! [`Kind`]: one kind of one group and version, and the questions that can be asked about its objects.

use std::sync::Arc;

use serde_json::Value;

use crate::columns::Column;
use crate::custom::Custom;
use crate::decode::{DecodeError, Decoded, FieldValidation, Media};
use crate::field_error::FieldError;
use crate::schema::SchemaRef;

/// What can be done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// POST.
    Create,
    /// DELETE of one object.
    Delete,
    /// DELETE of all objects that match.
    DeleteCollection,
    /// GET of one object.
    Get,
    /// GET of all objects that match.
    List,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
    /// GET with `watch=true`.
    Watch,
}

impl Verb {
    /// The verb as discovery and RBAC write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// Something below an object's own path, such as `status` or `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last part of the path.
    pub name: Box<str>,
    /// Group of the body; empty for core.
    pub group: Box<str>,
    /// Version of the body.
    pub version: Box<str>,
    /// Kind of the body.
    pub kind: Box<str>,
    /// What can be done with it.
    pub verbs: Vec<Verb>,
}

/// One kind as one group and version serves it.
#[derive(Debug)]
pub struct Kind {
    /// The API group; empty for core.
    pub group: Box<str>,
    /// The version within the group.
    pub version: Box<str>,
    /// The kind's name, such as `Pod`.
    pub kind: Box<str>,
    /// The kind of its lists, such as `PodList`.
    pub list_kind: Box<str>,
    /// The resource's name in paths, such as `pods`.
    pub plural: Box<str>,
    /// The resource's name for one object, such as `pod`.
    pub singular: Box<str>,
    /// Abbreviations that kubectl accepts.
    pub short_names: Vec<Box<str>>,
    /// Groups of resources that kubectl gets together, such as `all`.
    pub categories: Vec<Box<str>>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with the resource; empty when the kind exists only as a subresource's body.
    pub verbs: Vec<Verb>,
    /// What stands below an object's path.
    pub subresources: Vec<Subresource>,
    /// Where the objects are stored: `<group or core>/<plural>` of the storage version.
    pub collection: Arc<str>,
    /// Whether objects are stored at all (reviews are only answered).
    pub stored: bool,
    /// Group and version in which objects are stored, where those are others than `group` and `version`.
    pub(crate) storage: Option<(Box<str>, Box<str>)>,
    pub(crate) body: Body,
}

/// What the kind's objects are.
#[derive(Debug)]
pub(crate) enum Body {
    /// A type of Kubernetes itself.
    Builtin(SchemaRef<'static>),
    /// What a definition says.
    Custom(Box<Custom>),
}

impl Kind {
    /// Whether the deletion of an object answers with the object instead of a `Status`, as upstream's OpenAPI says it.
    pub fn deletion_answers_with_object(&self) -> bool {
        matches!(
            &*self.collection,
            "core/persistentvolumeclaims"
                | "core/persistentvolumes"
                | "core/pods"
                | "core/podtemplates"
                | "core/resourcequotas"
                | "core/serviceaccounts"
                | "core/services"
                | "resource.k8s.io/deviceclasses"
                | "resource.k8s.io/devicetaintrules"
                | "resource.k8s.io/resourceclaims"
                | "resource.k8s.io/resourceclaimtemplates"
                | "resource.k8s.io/resourceslices"
                | "storage.k8s.io/csidrivers"
                | "storage.k8s.io/csinodes"
                | "storage.k8s.io/storageclasses"
                | "storage.k8s.io/volumeattachments"
                | "storage.k8s.io/volumeattributesclasses"
        )
    }

    /// The `apiVersion` of objects: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }

    /// The `apiVersion` in which objects are stored. When it differs from [`Kind::api_version`], objects pass
    /// [`Kind::to_storage`] on their way in and [`Kind::from_storage`] on their way out. Where a definition names a
    /// webhook, that converts them before.
    pub fn storage_api_version(&self) -> String {
        let (group, version) = self.stored_as();
        join(group, version)
    }

    /// Whether objects are stored as this kind shows them.
    pub fn is_storage_version(&self) -> bool {
        self.storage.is_none()
    }

    /// Group and version in which objects are stored.
    pub(crate) fn stored_as(&self) -> (&str, &str) {
        self.storage.as_ref().map_or((&self.group, &self.version), |(group, version)| (group, version))
    }

    /// Rewrites an object of this kind into the storage version.
    pub fn to_storage(&self, object: &mut Value) {
        if self.custom().is_some() {
            object["apiVersion"] = self.storage_api_version().into();
        } else if !self.is_storage_version() {
            crate::convert::to_storage(self, object);
        }
    }

    /// Rewrites a stored object into this kind's version.
    pub fn from_storage(&self, object: &mut Value) {
        if let Some(custom) = self.custom() {
            // What was stored before the schema changed is pruned and completed when it is read.
            object["apiVersion"] = self.api_version().into();
            crate::decode::prune_stored(object, custom.schema());
            crate::custom::defaults::set(object, custom.schema());
        } else if !self.is_storage_version() {
            crate::convert::from_storage(self, object);
        }
    }

    /// The resource as errors name it: `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The subresource called `name`.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| &*subresource.name == name)
    }

    /// The type of the kind's objects.
    pub fn schema(&self) -> SchemaRef<'_> {
        match &self.body {
            Body::Builtin(schema) => *schema,
            Body::Custom(custom) => SchemaRef::custom(custom.schema()),
        }
    }

    /// What the kind has of its CustomResourceDefinition, if it comes from one.
    pub fn custom(&self) -> Option<&Custom> {
        match &self.body {
            Body::Builtin(_) => None,
            Body::Custom(custom) => Some(custom),
        }
    }

    /// Whether an object that was written at a revision can be shown as it is stored: in this version, and not older than
    /// the schema, whose pruning and defaults it would still lack.
    pub fn shows_as_stored(&self, value: &[u8], revision: u64) -> bool {
        self.is_storage_version()
            && self.custom().is_none_or(|custom| revision >= custom.fresh_from && self.is_in_version(value))
    }

    /// Whether a webhook has to convert a stored object before [`Kind::from_storage`] can read it.
    pub fn needs_conversion(&self, value: &[u8]) -> bool {
        self.custom().is_some_and(|custom| custom.conversion.is_some()) && !self.is_in_version(value)
    }

    /// Whether a stored object says this kind's `apiVersion`.
    pub fn is_in_version(&self, value: &[u8]) -> bool {
        says_version(value, &self.group, &self.version)
    }

    /// Whether a stored object says the `apiVersion` that it would get if it were written now.
    pub fn is_in_storage_version(&self, value: &[u8]) -> bool {
        let (group, version) = self.stored_as();
        says_version(value, group, version)
    }

    /// The name of the kind's type in OpenAPI.
    pub fn type_name(&self) -> String {
        match &self.body {
            Body::Builtin(_) => crate::catalogue::type_name(&self.group, &self.version, &self.kind),
            Body::Custom(_) => {
                let reversed: Vec<&str> = self.group.split('.').rev().collect();
                format!("{}.{}.{}", reversed.join("."), self.version, self.kind)
            }
        }
    }

    /// Reads an object: checks its shape against the schema and its `apiVersion` and `kind` against this kind (absent
    /// ones are filled in), drops nulls and unknown fields.
    pub fn decode(&self, raw: &[u8], media: Media, mode: FieldValidation) -> Result<Decoded, DecodeError> {
        crate::decode::decode(self, raw, media, mode)
    }

    /// The same check on an object that is parsed already. Returns warnings.
    pub fn check_shape(&self, object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, DecodeError> {
        crate::decode::check_shape(self, object, mode)
    }

    /// [`Self::check_shape`] for a configuration of server-side apply, in which nulls stay.
    pub fn check_configuration(&self, object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, DecodeError> {
        crate::decode::check_configuration(self, object, mode)
    }

    /// Sets what upstream sets where a client says nothing.
    pub fn default(&self, object: &mut Value) {
        crate::defaults::set(self, object);
    }

    /// Makes an object ready for creation: status as at birth, generation 1.
    pub fn prepare_create(&self, object: &mut Value) {
        crate::strategy::prepare_create(self, object);
    }

    /// Makes an object ready to replace `old`: keeps what the endpoint must not change, counts the generation.
    pub fn prepare_update(&self, object: &mut Value, old: &Value, subresource: Option<&str>) {
        crate::strategy::prepare_update(self, object, old, subresource);
    }

    /// What is wrong with an object that is to be created.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        crate::validation::create(self, object)
    }

    /// What is wrong with an object that is to replace `old`.
    pub fn validate_update(&self, object: &Value, old: &Value, subresource: Option<&str>) -> Vec<FieldError> {
        crate::validation::update(self, object, old, subresource)
    }

    /// What a client should be told about a good object that it creates, or with which it replaces `old`.
    pub fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        crate::warnings::of(self, object, old)
    }

    /// What a client should be told that uses the kind at all.
    pub fn deprecation(&self) -> Option<&str> {
        match (&*self.group, &*self.kind) {
            _ if self.custom().is_some() => self.custom()?.deprecation.as_deref(),
            ("", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
            ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            _ => None,
        }
    }

    /// The fields that a field selector may name, with the object's values.
    pub fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        crate::selectable::fields(self, object)
    }

    /// The names that a field selector may use for this kind.
    pub fn selectable_names(&self) -> Vec<&str> {
        crate::selectable::names(self)
    }

    /// The value of one of a custom resource's selectable fields, as a selector compares it. Those of other kinds are
    /// taken out when an object is written.
    pub fn selected_value(&self, object: &Value, name: &str) -> Option<String> {
        let (_, path) = self.custom()?.selectable.iter().find(|(known, _)| &**known == name)?;
        Some(match path.first(object) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        })
    }

    /// The definitions of the kind's columns, as a Table has them.
    pub fn column_definitions(&self) -> Value {
        let plain = self.columns().iter().map(Column::definition).collect();
        match self.custom() {
            Some(custom) => crate::custom::cells::headings(custom, plain),
            None => plain,
        }
    }

    /// The columns of the kind's table.
    pub fn columns(&self) -> &'static [Column] {
        crate::columns::columns(self)
    }

    /// The object's cells, one for each of [`Kind::columns`].
    pub fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        crate::columns::row(self, object, now).cells
    }

    /// The object's cells with the conditions of its row (`Completed` for pods that have ended).
    pub fn full_row(&self, object: &Value, now: jiff::Timestamp) -> crate::columns::Row {
        crate::columns::row(self, object, now)
    }
}

/// Whether an object's text says the `apiVersion` of a group that has a name. In canonical JSON nothing but fields of
/// unusual names comes before it, so a look at the first bytes is enough for nearly all.
fn says_version(value: &[u8], group: &str, version: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version<'v> {
        #[serde(borrow)]
        api_version: std::borrow::Cow<'v, str>,
    }
    match value.strip_prefix(b"{\"apiVersion\":\"") {
        Some(rest) => {
            let rest = rest.strip_prefix(group.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
            rest.and_then(|rest| rest.strip_prefix(version.as_bytes())).is_some_and(|rest| rest.starts_with(b"\""))
        }
        None => serde_json::from_slice::<Version<'_>>(value).is_ok_and(|it| it.api_version == join(group, version)),
    }
}

pub(crate) fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_their_version() {
        let check = |text: &str, expected: bool| {
            assert_eq!(says_version(text.as_bytes(), "x.io", "v1"), expected, "{text}");
        };
        check(r#"{"apiVersion":"x.io/v1","kind":"Boat"}"#, true);
        check(r#"{"apiVersion":"x.io/v11","kind":"Boat"}"#, false);
        check(r#"{"apiVersion":"x.io/v2"}"#, false);
        check(r#"{"Zoo":{"apiVersion":"x.io/v2"},"apiVersion":"x.io/v1"}"#, true);
        check(r#"{"Zoo":{"apiVersion":"x.io/v1"},"apiVersion":"x.io/v2"}"#, false);
        check("{}", false);
        check("", false);
    }
}
