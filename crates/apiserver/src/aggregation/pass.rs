//! Passing requests on to the servers behind this one.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Uri, header};

use super::{Aggregation, Remote, Service, headers};
use crate::{
    ApiServer, Body,
    body::RequestBody,
    error::{Answer, ApiError},
    outgoing::{
        endpoints::{self, Port},
        forward::{self, Outbound},
    },
    security::User,
};

/// Why a server behind this one cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReachError {
    #[error(transparent)]
    Resolve(#[from] endpoints::ResolveError),
    #[error(transparent)]
    Trust(#[from] crate::outgoing::trust::TrustError),
    #[error("the caBundle cannot be read: {0}")]
    Bundle(String),
}

impl Aggregation {
    /// A way to a server: one of its endpoints, over TLS.
    pub(super) async fn reach(&self, store: &dyn kobune_store::Store, remote: &Remote) -> Result<Outbound, ReachError> {
        let endpoint = endpoints::resolve(store, &remote.namespace, &remote.name, Port::Number(remote.port)).await?;
        let trust = remote.trust.as_ref().map_err(|problem| ReachError::Bundle(problem.clone()))?;
        Ok(Outbound { endpoint, tls: Some((remote.server_name(), self.client(trust)?)) })
    }
}

impl ApiServer {
    /// Answers a request for a group and version that another server serves. The user is permitted to ask.
    pub(crate) async fn pass_to_aggregated(
        &self,
        user: &User,
        service: &Service,
        request: Request<RequestBody>,
    ) -> Answer<Response<Body>> {
        if service.guest {
            return self.ask_guest(service, request).await;
        }
        let Some(remote) = service.remote.as_ref().filter(|_| service.available) else {
            return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"));
        };
        let outbound = match self.aggregation.reach(&*self.store, remote).await {
            Ok(outbound) => outbound,
            Err(error) => {
                tracing::warn!(name = service.name, %error, "cannot reach an aggregated server");
                self.aggregation.suspect(&service.name);
                return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"));
            }
        };
        let (parts, body) = request.into_parts();
        let mut passed = Request::new(body);
        // The client's upgrade waits among these.
        *passed.extensions_mut() = parts.extensions;
        *passed.method_mut() = parts.method;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        *passed.uri_mut() = target.parse::<Uri>().map_err(|error| ApiError::internal(&error))?;
        let mut headers = forward::passed_headers(&parts.headers);
        headers::identify(&mut headers, user).map_err(|error| ApiError::internal(&error))?;
        let host = format!("{}:{}", remote.server_name(), remote.port);
        headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(|error| ApiError::internal(&error))?);
        *passed.headers_mut() = headers;
        let response = match outbound.pass(passed).await {
            Ok(response) => response,
            Err(error) => {
                self.aggregation.suspect(&service.name);
                let text = format!("error trying to reach service: {error}");
                return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, &text));
            }
        };
        if response.status().is_redirection() && response.headers().contains_key(header::LOCATION) {
            // It would send the client, with its credentials, to where that server likes.
            let text = "the backend attempted to redirect this request, which is not permitted";
            return Ok(plain(StatusCode::BAD_GATEWAY, text));
        }
        Ok(response)
    }

    /// All APIServices as they are now.
    pub(crate) async fn aggregated(&self) -> Answer<Arc<super::Registry>> {
        self.aggregation.registry(&*self.store).await.map_err(|error| ApiError::from_store(&error))
    }
}

/// A refusal as upstream's proxy words it: plain text, of which clients make a `Status` themselves.
fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("{text}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
