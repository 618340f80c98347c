//! Changes of objects that exist: PUT, every kind of patch, and what specials such as binding do, all by one loop that
//! reads, changes, checks and writes against the revision that was read.

use std::collections::BTreeMap;

use kobune_kinds::Kind;
use kobune_store::{CommitError, Op, Record, Write};
use serde_json::Value;

use crate::{
    ApiServer,
    admit::Operation,
    call::Call,
    create::{Ownership, durability, meta, metadata, settle_namespace},
    delete, encode,
    error::{Answer, ApiError},
    reservations::Claim,
    respond::{self, Made, Produced, warned},
};

/// How often a change that names no revision is tried again after a conflict; upstream's number.
const ATTEMPTS: usize = 5;

/// What a change makes of the current object.
pub(crate) struct Changed {
    /// The new object.
    pub object: Value,
    /// How its fields get their owners.
    pub ownership: Ownership,
    /// What the client should be told.
    pub warnings: Vec<String>,
    /// By what rules the change is checked.
    pub rules: Rules,
}

/// By what rules a change is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Those of the path: the object's or its subresource's.
    Path,
    /// Those of the object itself, although the path is a subresource's: a scale changes the spec.
    Object,
    /// None: the server itself makes the change.
    Internal,
}

impl Changed {
    pub(crate) fn new(object: Value) -> Self {
        Self { object, ownership: Ownership::Update, warnings: Vec::new(), rules: Rules::Path }
    }

    /// A change of the object by way of a subresource.
    pub(crate) fn of_spec(object: Value) -> Self {
        Self { rules: Rules::Object, ..Self::new(object) }
    }

    /// A change that the server makes by itself.
    pub(crate) fn internal(object: Value) -> Self {
        Self { rules: Rules::Internal, ..Self::new(object) }
    }
}

/// The name that a conflict shows.
fn uid_conflict(kind: &Kind, name: &str, wanted: &str, found: &str) -> ApiError {
    ApiError::conflict(
        kind,
        name,
        &format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"),
    )
}

impl ApiServer {
    /// PUT of a body that was decoded.
    pub(crate) async fn replace(&self, call: &Call, body: Value, warnings: Vec<String>) -> Answer<Made> {
        let kind = &call.kind;
        let name = call.name();
        let given = meta(&body, "name");
        if given.is_empty() && call.subresource().is_none() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ( based on URL) was undeterminable: name must be provided, expected {name}"
            )));
        }
        if !given.is_empty() && given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let mut body = body;
        metadata(&mut body).insert("name".into(), name.into());
        settle_namespace(kind, &mut body, call.namespace())?;
        if self.read(&call.key()).await?.is_none() && may_create_on_update(kind) && call.subresource().is_none() {
            if !meta(&body, "resourceVersion").is_empty() {
                return Err(ApiError::stale(kind, name));
            }
            self.allowed_to_create(call).await?;
            return warned(self.create_object(call, body, Ownership::Update).await, warnings);
        }
        let unconditional = meta(&body, "resourceVersion").is_empty();
        if unconditional && needs_version(kind) {
            let error =
                kobune_kinds::FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(ApiError::invalid(kind, name, &[error]));
        }
        let mut body = Some(body);
        let changed = self
            .change(call, |_, _| {
                // Only an unconditional update is tried again; the others need no copy.
                let object = if unconditional { body.clone() } else { body.take() };
                object.map(Changed::new).ok_or_else(|| ApiError::stale(&call.kind, call.name()))
            })
            .await;
        warned(changed, warnings)
    }

    /// The stored object at a key.
    pub(crate) async fn read(&self, key: &kobune_store::Key) -> Answer<Option<Record>> {
        self.store.get(key).await.map_err(|error| ApiError::from_store(&error))
    }

    /// Reads the object of the path, changes it and writes it; tries again when somebody else was faster and the
    /// change does not insist on a revision.
    pub(crate) async fn change(
        &self,
        call: &Call,
        mut change: impl FnMut(&Value, &Record) -> Answer<Changed> + Send,
    ) -> Answer<Made> {
        let kind = &call.kind;
        let key = call.key();
        for attempt in 1..=ATTEMPTS {
            let Some(stored) = self.read(&key).await? else { return Err(ApiError::not_found(kind, call.name())) };
            // What is stored in another version than new writes are is written anew, also where nothing changes.
            let settled = kind.custom().is_none() || kind.is_in_storage_version(&stored.value);
            let record = self.converter.record(kind, stored).await?;
            let old = respond::parse(kind, &record)?;
            let changed = change(&old, &record)?;
            let given = meta(&changed.object, "resourceVersion");
            if !given.is_empty() && given != meta(&old, "resourceVersion") {
                return Err(ApiError::stale(kind, call.name()));
            }
            match self.write_change(call, &record, old, changed, settled).await {
                // A change that names a revision finds another one when it is tried again, and ends above.
                Err(WriteError::Raced) if attempt < ATTEMPTS => {}
                Err(WriteError::Raced) => return Err(ApiError::stale(kind, call.name())),
                Err(WriteError::Api(error)) => return Err(error),
                Ok(made) => return Ok(made),
            }
        }
        Err(ApiError::stale(kind, call.name()))
    }

    async fn write_change(
        &self,
        call: &Call,
        record: &Record,
        old: Value,
        changed: Changed,
        settled: bool,
    ) -> Result<Made, WriteError> {
        let kind = &call.kind;
        let name = call.name();
        let Changed { mut object, ownership, mut warnings, rules } = changed;
        let subresource = if rules == Rules::Path { call.subresource() } else { None };
        let given = meta(&object, "uid");
        if !given.is_empty() && given != meta(&old, "uid") {
            return Err(uid_conflict(kind, name, given, meta(&old, "uid")).into());
        }
        if meta(&object, "name") != name {
            let problem = match meta(&object, "name") {
                "" => format!("the name of the object ({name} based on URL) was undeterminable: name must be provided"),
                other => format!("the name of the object ({other}) does not match the name on the URL ({name})"),
            };
            return Err(ApiError::bad_request(problem).into());
        }
        settle_namespace(kind, &mut object, call.namespace())?;
        keep_system_fields(&mut object, &old);
        let mut claim = Claim::default();
        if rules != Rules::Internal {
            crate::hooks::fill_from_old(kind, &mut object, &old, subresource);
            if rules == Rules::Path {
                warnings.extend(self.admit(call, Operation::Update, name, &mut object, Some(&old)).await?);
                settle_namespace(kind, &mut object, call.namespace())?;
                keep_system_fields(&mut object, &old);
            } else {
                warnings.extend(self.admit_inside(call, Operation::Update, name, &mut object, Some(&old)).await?);
            }
            kind.prepare_update(&mut object, &old, subresource);
            crate::hooks::prepare_update(kind, &mut object, &old);
            let mut errors = kind.validate_update(&object, &old, subresource);
            errors.extend(crate::hooks::validate(kind, &object));
            let judgement = self.rules.judge(kind, &object, Some(&old), &errors);
            errors.extend(judgement.errors);
            warnings.extend(judgement.warnings);
            if !errors.is_empty() {
                return Err(ApiError::invalid(kind, name, &errors).with_warnings(warnings).into());
            }
            warnings.extend(if rules == Rules::Path {
                self.review(call, Operation::Update, name, Some(&object), Some(&old)).await?
            } else {
                self.review_inside(call, Operation::Update, name, Some(&object), Some(&old)).await?
            });
            claim = self.claim(kind, &mut object, Some(&old), call.dry_run).await?;
            if ownership == Ownership::Update {
                crate::fields::track(Some(&old), &mut object, call)?;
            }
            if subresource.is_none() {
                crate::policy::stamp(kind, &mut object, &self.catalogue.load());
            }
        }
        metadata(&mut object).insert("resourceVersion".into(), meta(&old, "resourceVersion").into());
        if delete::is_complete(kind, &object, &old) {
            return self.finish_deletion(call, record, object, claim).await.map(|made| made.with_warnings(warnings));
        }
        if settled && same_but_times(&object, &old) {
            claim.give_back().await;
            return Ok(Made::ok(Produced::Stored(record.clone())).with_warnings(warnings));
        }
        if call.dry_run {
            return Ok(Made::ok(Produced::Object(object)).with_warnings(warnings));
        }
        let object = match self.for_storage(kind, object).await {
            Ok(object) => object,
            Err(error) => {
                claim.give_back().await;
                return Err(error.into());
            }
        };
        let draft = encode::draft(&self.storage_kind(kind), &object);
        let op = Op::Update { expected: record.revision, draft };
        match self.store.commit(Write { key: record.key.clone(), op, durability: durability(kind) }).await {
            Ok(written) => {
                claim.keep().await;
                Ok(Made::ok(Produced::Stored(written)).with_warnings(warnings))
            }
            Err(error) => {
                // Given back before the next try, which may want the same.
                claim.give_back().await;
                match error {
                    CommitError::Conflict { current: Some(_) } => Err(WriteError::Raced),
                    error => Err(ApiError::from_commit(kind, name, &error).into()),
                }
            }
        }
    }

    /// The last finalizer of a dying object has gone: the change removes it.
    async fn finish_deletion(
        &self,
        call: &Call,
        record: &Record,
        object: Value,
        claim: Claim,
    ) -> Result<Made, WriteError> {
        let kind = &call.kind;
        if call.dry_run {
            return Ok(Made::ok(Produced::Object(object)));
        }
        let object = match self.for_storage(kind, object).await {
            Ok(object) => object,
            Err(error) => {
                claim.give_back().await;
                return Err(error.into());
            }
        };
        let last = encode::draft(&self.storage_kind(kind), &object);
        let op = Op::Delete { expected: record.revision, last };
        match self.store.commit(Write { key: record.key.clone(), op, durability: durability(kind) }).await {
            Ok(deleted) => {
                claim.give_back().await;
                self.deleted(kind, &deleted).await;
                Ok(Made::ok(Produced::Stored(deleted)))
            }
            Err(error) => {
                claim.give_back().await;
                match error {
                    CommitError::Conflict { .. } => Err(WriteError::Raced),
                    error => Err(ApiError::from_commit(kind, call.name(), &error).into()),
                }
            }
        }
    }
}

/// Why a change was not written.
enum WriteError {
    /// Somebody else wrote first.
    Raced,
    /// The client's answer.
    Api(ApiError),
}

impl From<ApiError> for WriteError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// What only the server writes stays as it is.
fn keep_system_fields(object: &mut Value, old: &Value) {
    let old = old.get("metadata").and_then(Value::as_object);
    let new = metadata(object);
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"]
    {
        match old.and_then(|old| old.get(field)) {
            Some(value) => {
                new.insert(field.into(), value.clone());
            }
            None => {
                new.remove(field);
            }
        }
    }
    // A client that does not know managed fields sends none; an empty list is the way to drop them.
    if !new.contains_key("managedFields")
        && let Some(managed) = old.and_then(|old| old.get("managedFields"))
    {
        new.insert("managedFields".into(), managed.clone());
    }
}

/// Kinds that a PUT may create.
fn may_create_on_update(kind: &Kind) -> bool {
    matches!(
        &*kind.collection,
        "core/events"
            | "core/endpoints"
            | "core/limitranges"
            | "core/services"
            | "core/podtemplates"
            | "coordination.k8s.io/leases"
            | "rbac.authorization.k8s.io/roles"
            | "rbac.authorization.k8s.io/rolebindings"
            | "rbac.authorization.k8s.io/clusterroles"
            | "rbac.authorization.k8s.io/clusterrolebindings"
    )
}

/// Kinds whose update has to name a revision.
fn needs_version(kind: &Kind) -> bool {
    kind.custom().is_some()
        || matches!(
            &*kind.collection,
            "coordination.k8s.io/leases"
                | "policy/poddisruptionbudgets"
                | "apiextensions.k8s.io/customresourcedefinitions"
                | "apiregistration.k8s.io/apiservices"
                | "storage.k8s.io/volumeattachments"
        )
}

/// Whether two objects differ in nothing but the times of managed fields: such a change is not written.
fn same_but_times(new: &Value, old: &Value) -> bool {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return false };
    let ignored = |key: &str| key == "metadata";
    if new.iter().filter(|(key, _)| !ignored(key)).ne(old.iter().filter(|(key, _)| !ignored(key))) {
        return false;
    }
    match (new.get("metadata"), old.get("metadata")) {
        (Some(Value::Object(new)), Some(Value::Object(old))) => {
            let ignored = |key: &str| key == "managedFields";
            new.iter().filter(|(key, _)| !ignored(key)).eq(old.iter().filter(|(key, _)| !ignored(key)))
                && untimed(new.get("managedFields")) == untimed(old.get("managedFields"))
        }
        (new, old) => new == old,
    }
}

/// A manager's entry without its time.
type Untimed<'o> = (BTreeMap<&'o str, &'o Value>, Option<&'o Value>);

/// Managed fields without their times, in an order that does not depend on them.
fn untimed(managed: Option<&Value>) -> Vec<Untimed<'_>> {
    let Some(Value::Array(entries)) = managed else { return Vec::new() };
    let mut entries: Vec<Untimed<'_>> = entries
        .iter()
        .filter_map(Value::as_object)
        .map(|entry| {
            let parts = entry.iter().filter(|(key, _)| !matches!(key.as_str(), "time" | "fieldsV1"));
            (parts.map(|(key, value)| (key.as_str(), value)).collect(), entry.get("fieldsV1"))
        })
        .collect();
    entries.sort_by_cached_key(|(parts, _)| {
        parts.iter().map(|(key, value)| format!("{key}={value};")).collect::<String>()
    });
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_alone_are_no_change() {
        let object = |time: &str, label: &str| json!({"metadata": {"labels": {"a": label}, "managedFields": [{"manager": "m", "operation": "Update", "time": time, "fieldsV1": {"f:a": {}}}]}, "spec": {}});
        assert!(same_but_times(&object("1", "x"), &object("2", "x")));
        assert!(!same_but_times(&object("1", "x"), &object("1", "y")));
        let other = json!({"metadata": {"labels": {"a": "x"}}, "spec": {"b": 1}});
        assert!(!same_but_times(&object("1", "x"), &other));
    }

    #[test]
    fn the_server_keeps_its_fields() {
        let mut new = json!({"metadata": {"name": "a", "uid": "forged", "generation": 9, "deletionTimestamp": "x"}});
        keep_system_fields(&mut new, &json!({"metadata": {"uid": "u", "generation": 2, "managedFields": [1]}}));
        assert_eq!(new, json!({"metadata": {"name": "a", "uid": "u", "generation": 2, "managedFields": [1]}}));
    }
}
