//! Groups and versions that another part of the same process answers for, such as `metrics.k8s.io`.
//!
//! A guest has an APIService without a Service, marked by a label. Somebody who installs a server of their own for the
//! same group gives that APIService a Service, and is asked from then on.

use std::{fmt::Debug, sync::Arc};

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;

use super::{
    Aggregation, Service,
    discovery::{self, Learned},
};
use crate::{
    ApiServer, Body,
    accept::Offer,
    body::RequestBody,
    document::negotiate,
    error::{Answer, ApiError},
    respond,
};

/// The label of an APIService that a guest answers for.
pub(super) const GUEST: &str = "kobune.io/guest";

/// What a guest answers.
#[derive(Clone, Debug)]
pub struct GuestAnswer {
    /// The HTTP status.
    pub code: StatusCode,
    /// The object, the list or the `Status`.
    pub body: Value,
}

/// A part of the same process that answers for one group and version. It only reads.
pub trait Guest: Debug + Send + Sync {
    /// The group.
    fn group(&self) -> &str;
    /// Its version.
    fn version(&self) -> &str;
    /// Its `APIResourceList`.
    fn resources(&self) -> Value;
    /// Answers a GET; the user is permitted to ask.
    fn answer(&self, path: String, query: String) -> BoxFuture<'static, GuestAnswer>;
}

/// The name of a guest's APIService.
pub(super) fn name_of(guest: &dyn Guest) -> String {
    format!("{}.{}", guest.version(), guest.group())
}

impl Aggregation {
    /// All guests.
    pub(super) fn guests(&self) -> Vec<Arc<dyn Guest>> {
        self.guests.values().map(|(guest, _)| Arc::clone(guest)).collect()
    }
}

/// What a guest serves.
pub(super) fn learned(guest: &dyn Guest) -> Learned {
    let resources = discovery::resources(&guest.resources(), guest.group(), guest.version());
    Learned { resources, open_api: None, open_api_v2: None }
}

impl ApiServer {
    /// Answers a request for a guest's group and version. The user is permitted to ask.
    pub(super) async fn ask_guest(&self, service: &Service, request: Request<RequestBody>) -> Answer<Response<Body>> {
        let (guest, _) = self.aggregation.guests.get(&service.name).ok_or_else(ApiError::no_such_path)?;
        if *request.method() != Method::GET {
            return Err(ApiError::method_not_allowed());
        }
        // Guests' kinds are not in the catalogue, so only JSON of them can be made.
        let accept = negotiate(&request, Offer { protobuf: false, ..Offer::DOCUMENT })?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let GuestAnswer { code, body } = guest.answer(request.uri().path().to_owned(), query).await;
        respond::value(code, &body, accept)
    }
}
