//! Managed fields: who owns which part of an object.

use kobune_merge::ApplyError;
use serde_json::Value;

use crate::{
    call::Call,
    create::meta,
    error::{Answer, ApiError},
    patch::now,
};

/// Notes what a create, update or patch has changed as the manager's.
pub(crate) fn track(old: Option<&Value>, new: &mut Value, call: &Call) -> Answer<()> {
    kobune_merge::track_update(
        old,
        new,
        call.kind.schema(),
        &call.manager,
        &call.kind.api_version(),
        call.subresource(),
        now(),
    );
    Ok(())
}

/// Server-side apply of a configuration to an object, or to nothing.
pub(crate) fn apply(
    live: Option<&Value>,
    configuration: &Value,
    named: &str,
    call: &Call,
    force: bool,
) -> Answer<Value> {
    kobune_merge::apply(live, configuration, call.kind.schema(), &call.manager, force, call.subresource(), now())
        .map_err(|error| refused(error, named))
}

/// Upstream knows no status for a configuration that does not fit its type, so that it is an internal error there.
pub(crate) fn refused(error: ApplyError, named: &str) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Conflicts { conflicts } => {
            let causes = conflicts.into_iter().map(|conflict| (conflict.field.clone(), conflict.cause())).collect();
            ApiError::apply_conflict(message, causes)
        }
        ApplyError::Untyped { .. } | ApplyError::Atomic { .. } => {
            untyped("failed to create typed patch object", named, &format!(": {message}"))
        }
    }
}

/// How errors name a configuration, by what it says itself: `namespace/name; group/version, Kind=kind`.
pub(crate) fn named(call: &Call, configuration: &Value) -> String {
    let (namespace, name) = (meta(configuration, "namespace"), meta(configuration, "name"));
    let (group, version, kind) = (&*call.kind.group, &*call.kind.version, &*call.kind.kind);
    format!("{namespace}/{name}; {group}/{version}, Kind={kind}")
}

/// An error about a configuration as a whole, in upstream's words.
pub(crate) fn untyped(what: &str, named: &str, problem: &str) -> ApiError {
    ApiError::new(500, "", format!("{what} ({named}){problem}"))
}
