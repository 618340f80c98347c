//! The objects that configure a policy: `paramKind` says of which kind they are, a binding's `paramRef` which ones.

use kobune_kinds::{Kind, selector::LabelSelector};
use kobune_store::{At, Range, Record};
use serde_json::Value;

use super::source::Binding;
use crate::{
    ApiServer, call,
    error::{Answer, ApiError},
    respond,
};

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn readable(kind: &Kind, record: &Record) -> Answer<Value> {
    let mut object = respond::parse(kind, record)?;
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = (*kind.kind).into();
    Ok(object)
}

impl ApiServer {
    /// The parameters with which a policy is evaluated for a binding: once without any when it has none, and not at all
    /// when there are none and that is allowed. The inner error is a mistake in the configuration.
    pub(super) async fn parameters(
        &self,
        policy: &Value,
        binding: &Binding,
        namespace: &str,
    ) -> Answer<Result<Vec<Option<Value>>, String>> {
        let (Some(kind), Some(reference)) = (policy.get("paramKind"), binding.spec.get("paramRef")) else {
            return Ok(Ok(vec![None]));
        };
        let (api_version, name) = (text(kind, "apiVersion"), text(kind, "kind"));
        let known = self.catalogue.load().by_kind(api_version, name).cloned();
        let Some(kind) = known.as_deref().filter(|kind| kind.stored) else {
            return Ok(Err(format!("paramKind kind `{api_version}, Kind={name}` not known")));
        };
        let given = text(reference, "namespace");
        let namespace = match (kind.namespaced, given.is_empty()) {
            (false, false) => {
                let words = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
                return Ok(Err(words.to_owned()));
            }
            (false, true) => "",
            (true, false) => given,
            (true, true) if namespace.is_empty() => {
                let words = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Ok(Err(words.to_owned()));
            }
            (true, true) => namespace,
        };
        let mut found = Vec::new();
        let name = text(reference, "name");
        if !name.is_empty() {
            if let Some(record) = self.read_as(kind, &call::key(kind, namespace, name)).await? {
                found.push(Some(readable(kind, &record)?));
            }
        } else if let Some(selector) = reference.get("selector") {
            let selector = match LabelSelector::from_object(selector) {
                Ok(selector) => selector,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let range = if kind.namespaced {
                Range::namespace(&kind.collection, namespace)
            } else {
                Range::all(&kind.collection)
            };
            let listing = self.store.list(&range, At::Latest).await.map_err(|error| ApiError::from_store(&error))?;
            for record in self.converter.records(kind, listing.iter().cloned().collect()).await? {
                let object = readable(kind, &record)?;
                if selector.matches_labels(&object["metadata"]["labels"]) {
                    found.push(Some(object));
                }
            }
        } else {
            return Ok(Err("one of name or selector must be provided".to_owned()));
        }
        if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
            return Ok(Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()));
        }
        Ok(Ok(found))
    }
}
