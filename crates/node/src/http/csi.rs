//! Calls of the cluster's controllers to storage drivers of this node, for drivers that have no sidecars.
//!
//! `POST /csi/<driver>/Controller/<call>` with a message of CSI gives the answer's message, with `grpc-status` and
//! `grpc-message` as headers where the driver refuses. `Node/NodeExpandVolume` needs no paths: the node knows where it has the
//! volume. Nothing else of a driver's node service can be called from outside.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use kobune_grpc::client::{Client, WORK};
use kobune_grpc::csi::node::NodeExpandVolumeRequest;
use kobune_grpc::server::{Service, decode, encode};
use kobune_grpc::{Code, Status};

use super::{Body, Refusal, Server, full};
use crate::csi::local::Called;
use crate::volumes::{claims, local};

/// Secrets and contexts are small.
const LONGEST_BODY: usize = 1 << 20;

/// Passes a call on.
pub(super) async fn pass(
    server: &Server,
    request: Request<Incoming>,
    driver: &str,
    service: &str,
    call: &str,
) -> Result<Response<Body>, Refusal> {
    let expands = (service, call) == ("Node", "NodeExpandVolume");
    if !(service == "Controller" || expands) || !call.chars().all(|letter| letter.is_ascii_alphabetic()) {
        return Err(Refusal::not_found(format!("{service}/{call} is not for others to call")));
    }
    let body = Limited::new(request.into_body(), LONGEST_BODY).collect().await;
    let message = body.map_err(|error| Refusal::bad(format!("the body can't be read: {error}")))?.to_bytes();
    let method = format!("/csi.v1.{service}/{call}");
    let done = if driver == local::DRIVER {
        Called(Arc::clone(&server.context.local_driver)).call(&method, message).await
    } else {
        match known(server, driver, expands)? {
            Some(client) if expands => expand(server, driver, &client, message).await,
            Some(client) => client.pass(&method, message, WORK).await,
            None => Err(Status::unavailable("the driver's sidecars call its controller")),
        }
    };
    let mut response = Response::new(full(Bytes::new()));
    match done {
        Ok(message) => *response.body_mut() = full(message),
        Err(status) => {
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
            let words = percent_encoding::utf8_percent_encode(status.message(), percent_encoding::NON_ALPHANUMERIC);
            if let Ok(words) = HeaderValue::from_str(&words.to_string()) {
                headers.insert("grpc-message", words);
            }
        }
    }
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// The driver's socket, if it may be called: on nodes any may.
fn known(server: &Server, driver: &str, expands: bool) -> Result<Option<Client>, Refusal> {
    let missing = || Refusal::not_found(format!("driver {driver} is not registered on this node"));
    let driver = server.context.drivers.get(driver).ok_or_else(missing)?;
    Ok((expands || driver.controller.is_some()).then(|| driver.client.clone()))
}

/// Lets a volume grow wherever pods of this node have it.
async fn expand(server: &Server, driver: &str, client: &Client, message: Bytes) -> Result<Bytes, Status> {
    let request: NodeExpandVolumeRequest = decode(message)?;
    let context = Arc::clone(&server.context);
    let (driver, handle) = (driver.to_owned(), request.volume_id.clone());
    let found = tokio::task::spawn_blocking(move || {
        let mut places: Vec<(PathBuf, PathBuf)> = Vec::new();
        claims::any_pod_has(&context.config.node_dir().join("pods"), None, |found| {
            if let claims::Source::Csi(volume) = &found.source
                && volume.driver == driver
                && volume.handle == handle
                && found.path.exists()
            {
                places.push((found.path.clone(), volume.staging(&context)));
            }
            false
        });
        places
    });
    let places = found.await.map_err(|error| Status::internal(error.to_string()))?;
    // All pods of a node have the same volume: growing it once is enough.
    let (path, staging) = places.into_iter().next().ok_or_else(|| {
        Status::new(Code::NotFound, format!("volume {:?} is not mounted on this node", request.volume_id))
    })?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let staging_target_path = if staging.exists() { text(staging) } else { String::new() };
    let request = NodeExpandVolumeRequest { volume_path: text(path), staging_target_path, ..request };
    client.pass("/csi.v1.Node/NodeExpandVolume", encode(&request), WORK).await
}
