//! Creation: one way for every kind, whether by POST, by PUT of something that is not there yet, or by apply.

use std::sync::Arc;

use kobune_kinds::{FieldError, Kind};
use kobune_store::{CommitError, Durability, Op, Write};
use rand::Rng;
use serde_json::{Map, Value};

use crate::{
    ApiServer,
    admit::Operation,
    call::{self, Call},
    encode,
    error::{Answer, ApiError},
    respond::{Made, Produced},
};

/// How often a new random name is tried when the last one was taken; upstream's number.
const NAME_ATTEMPTS: usize = 8;

/// The letters and digits of random suffixes: no vowels, so that no words appear.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The length of a random suffix.
const SUFFIX_LENGTH: usize = 5;

/// The longest part before the suffix: a name made of `generateName` must be usable as a label.
const LONGEST_BASE: usize = 63 - SUFFIX_LENGTH;

/// A name that begins with `base` and ends randomly.
pub(crate) fn generate_name(base: &str) -> String {
    let mut end = base.len().min(LONGEST_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())]));
    }
    name
}

/// Whether a power cut may lose the last seconds of a kind's writes.
pub(crate) fn durability(kind: &Kind) -> Durability {
    match &*kind.collection {
        "core/events" | "coordination.k8s.io/leases" => Durability::Relaxed,
        _ => Durability::Synced,
    }
}

/// The metadata of an object; made when it is missing.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let fields = object.as_object_mut().expect("it was just made an object");
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("it was just made an object")
}

/// A text of the metadata, empty when absent.
pub(crate) fn meta<'o>(object: &'o Value, field: &str) -> &'o str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Checks the namespace in the object against the path's and fills it in.
pub(crate) fn settle_namespace(kind: &Kind, object: &mut Value, namespace: &str) -> Answer<()> {
    let given = meta(object, "namespace");
    if !kind.namespaced {
        if !given.is_empty() {
            return Err(ApiError::bad_request("namespace is not allowed on this type"));
        }
        metadata(object).remove("namespace");
        return Ok(());
    }
    if given.is_empty() {
        metadata(object).insert("namespace".into(), namespace.into());
    } else if given != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given} != {namespace})"
        )));
    }
    Ok(())
}

/// How the fields of a new object get their owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// They belong to the manager as an update.
    Update,
    /// The object has come from apply with its managed fields.
    Applied,
}

impl ApiServer {
    /// POST of a body that was decoded.
    pub(crate) async fn create_object(&self, call: &Call, object: Value, ownership: Ownership) -> Answer<Made> {
        let kind = &call.kind;
        if kind.custom().is_some_and(|custom| custom.terminating) {
            return Err(ApiError::terminating("create"));
        }
        let generated = meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty();
        let attempts = if generated { NAME_ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            // Only a generated name makes a second attempt, so the copy is rare.
            let candidate = if attempt == attempts { None } else { Some(object.clone()) };
            let candidate = match candidate {
                Some(copy) => copy,
                None => return self.create_once(call, object, ownership).await,
            };
            match self.create_once(call, candidate, ownership).await {
                Err(error) if error.code() == 409 => {
                    tracing::debug!(kind = &*kind.kind, "a generated name was taken");
                }
                other => return other,
            }
        }
        Err(ApiError::internal_words("no free name was found"))
    }

    async fn create_once(&self, call: &Call, mut object: Value, ownership: Ownership) -> Answer<Made> {
        let kind = &call.kind;
        let namespace = call.namespace().to_owned();
        settle_namespace(kind, &mut object, &namespace)?;
        if meta(&object, "name").is_empty() {
            let base = meta(&object, "generateName").to_owned();
            if base.is_empty() {
                let error = FieldError::required("metadata.name", "name or generateName is required");
                return Err(ApiError::invalid(kind, "", &[error]));
            }
            metadata(&mut object).insert("name".into(), generate_name(&base).into());
        }
        let name = meta(&object, "name").to_owned();
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let mut warnings = self.admit(call, Operation::Create, &name, &mut object, None).await?;
        // A webhook may give the object another name, but not another namespace.
        settle_namespace(kind, &mut object, &namespace)?;
        let name = meta(&object, "name").to_owned();

        let fields = metadata(&mut object);
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
            fields.remove(field);
        }
        fields.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        fields.insert("creationTimestamp".into(), call::now_text().into());
        kind.prepare_create(&mut object);
        crate::hooks::prepare_create(kind, &mut object, Some(&call.user));
        let mut errors = kind.validate(&object);
        errors.extend(crate::hooks::validate(kind, &object));
        let judgement = self.rules.judge(kind, &object, None, &errors);
        errors.extend(judgement.errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, &name, &errors).with_warnings(warnings));
        }
        warnings.extend(kind.warnings(&object, None));
        warnings.extend(self.review(call, Operation::Create, &name, Some(&object), None).await?);
        let claim = self.claim(kind, &mut object, None, call.dry_run).await?;
        if ownership == Ownership::Update {
            crate::fields::track(None, &mut object, call)?;
        }
        crate::policy::stamp(kind, &mut object, &self.catalogue.load());
        let key = call::key(kind, &namespace, &name);
        if call.dry_run {
            if self.store.get(&key).await.map_err(|error| ApiError::from_store(&error))?.is_some() {
                return Err(ApiError::already_exists(kind, &name));
            }
            return Ok(Made::created(Produced::Object(object)).with_warnings(warnings));
        }
        let object = match self.for_storage(kind, object).await {
            Ok(object) => object,
            Err(error) => {
                claim.give_back().await;
                return Err(error);
            }
        };
        let draft = encode::draft(&self.storage_kind(kind), &object);
        let write = Write { key, op: Op::Create(draft), durability: durability(kind) };
        match self.store.commit(write).await {
            Ok(record) => {
                claim.keep().await;
                Ok(Made::created(Produced::Stored(record)).with_warnings(warnings))
            }
            Err(CommitError::Exists(existing)) => {
                claim.give_back().await;
                if is_dying(&existing.value) {
                    return Err(ApiError::being_deleted(kind, &name));
                }
                Err(ApiError::already_exists(kind, &name))
            }
            Err(error) => {
                claim.give_back().await;
                Err(ApiError::from_commit(kind, &name, &error))
            }
        }
    }

    /// The kind in which objects of a collection are stored.
    pub(crate) fn storage_kind(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        if kind.is_storage_version() || kind.custom().is_some() {
            return Arc::clone(kind);
        }
        let catalogue = self.catalogue.load();
        Arc::clone(catalogue.by_kind(&kind.storage_api_version(), &kind.kind).unwrap_or(kind))
    }
}

/// Whether stored bytes are of an object that is being deleted; read only for the words of an error.
fn is_dying(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok_and(|object| object.pointer("/metadata/deletionTimestamp").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate_name(&"x".repeat(80)).len(), 63);
    }
}
