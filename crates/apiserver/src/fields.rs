//! Managed fields: who owns which part of an object.

use kobune_merge::ApplyError;
use serde_json::Value;

use crate::{
    call::Call,
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
pub(crate) fn apply(live: Option<&Value>, configuration: &Value, call: &Call, force: bool) -> Answer<Value> {
    kobune_merge::apply(live, configuration, call.kind.schema(), &call.manager, force, call.subresource(), now())
        .map_err(refused)
}

fn refused(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Conflicts { conflicts } => {
            let causes = conflicts.into_iter().map(|conflict| (conflict.field.clone(), conflict.cause())).collect();
            ApiError::apply_conflict(message, causes)
        }
        ApplyError::Invalid { .. } => ApiError::bad_request(message),
    }
}
