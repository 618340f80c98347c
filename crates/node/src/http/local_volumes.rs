//! Volumes on the node's own disk, as the provisioner `local.kobune.dev` grows and deletes them; and which volumes of drivers
//! pods still have, for whoever wants to detach one.
//!
//! `PUT /localVolumes/<name>` with `{"capacity": bytes, "block": bool}` makes or grows one, `DELETE` takes it away; `409` says
//! that a pod still has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::{Body, Refusal, Server, answer};
use crate::errors::chain;
use crate::volumes::claims;
use crate::volumes::local::LocalError;

/// More than what is asked for needs by far.
const LONGEST_BODY: usize = 4096;

#[derive(Deserialize)]
struct Wanted {
    capacity: u64,
    #[serde(default)]
    block: bool,
}

/// The volumes of drivers that pods have, from before they are mounted until they are unmounted, as `volumesInUse` of a
/// node's status names them.
pub(super) async fn in_use(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods_dir = server.context.config.node_dir().join("pods");
    let listed = tokio::task::spawn_blocking(move || {
        let mut names = BTreeSet::new();
        claims::any_pod_has(&pods_dir, None, |found| {
            if let claims::Source::Csi(volume) = &found.source {
                names.insert(format!("kubernetes.io/csi/{}^{}", volume.driver, volume.handle));
            }
            false
        });
        names
    });
    let names = listed.await.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(answer(StatusCode::OK, "application/json", json!(names).to_string()))
}

/// Makes, grows or deletes a volume.
pub(super) async fn change(server: &Server, request: Request<Incoming>, name: &str) -> Result<Response<Body>, Refusal> {
    let deletes = request.method() == Method::DELETE;
    let wanted = if deletes {
        None
    } else {
        let body = Limited::new(request.into_body(), LONGEST_BODY).collect().await;
        let body = body.map_err(|error| Refusal::bad(format!("the body can't be read: {error}")))?.to_bytes();
        let wanted: Wanted = serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad(format!("the body is not what was expected: {error}")))?;
        Some(wanted)
    };
    let (context, name) = (Arc::clone(&server.context), name.to_owned());
    let done = tokio::task::spawn_blocking(move || match wanted {
        Some(Wanted { capacity, block }) => {
            context.locals.ensure(&name, capacity, block).map(|made| json!({"enforced": made.enforced}))
        }
        None => {
            let pods_dir = context.config.node_dir().join("pods");
            let is_it =
                |found: &claims::Found| matches!(&found.source, claims::Source::Own { name: own, .. } if *own == name);
            if claims::any_pod_has(&pods_dir, None, is_it) {
                return Err(LocalError::InUse);
            }
            context.locals.delete(&name).map(|()| json!({}))
        }
    });
    match done.await.map_err(|error| Refusal::internal(error.to_string()))? {
        Ok(value) => Ok(answer(StatusCode::OK, "application/json", value.to_string())),
        Err(error @ LocalError::Name(_)) => Err(Refusal::bad(error.to_string())),
        Err(error @ (LocalError::InUse | LocalError::Busy(_))) => Err(Refusal(StatusCode::CONFLICT, error.to_string())),
        Err(error @ LocalError::Missing(_)) => Err(Refusal::not_found(error.to_string())),
        Err(error @ LocalError::Io { .. }) => Err(Refusal::internal(chain(&error))),
    }
}
