//! One call of a driver, through a node.

use http_body_util::BodyExt;
use kobune_grpc::Code;
use kobune_grpc::Status;
use kobune_grpc::client::words;
use kube::client::Body;
use prost::Message;

use super::Csi;
use super::tended::Controller;
use crate::queue::PassError;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The driver said no.
    #[error("{}", words(.0))]
    Refused(Status),
    /// No node could be asked.
    #[error("the driver can't be reached")]
    Unreachable(#[source] kube::Error),
}

impl CallError {
    /// CSI's code, where the driver gave one.
    pub fn code(&self) -> Code {
        match self {
            CallError::Refused(status) => status.code(),
            CallError::Unreachable(_) => Code::Unavailable,
        }
    }

    /// In the words of events.
    pub fn words(&self) -> String {
        match self {
            CallError::Refused(status) => words(status),
            CallError::Unreachable(error) => format!("{self}: {error}"),
        }
    }

    /// The failure of a pass, which comes again with growing delays.
    pub fn of(self, doing: &'static str) -> PassError {
        match self {
            CallError::Refused(status) => PassError::Object { what: format!("{doing} failed: {}", words(&status)) },
            CallError::Unreachable(source) => PassError::Request { doing, source },
        }
    }
}

impl Csi {
    /// Calls a driver's controller. A node that can't be reached is left for the next one that has the driver.
    pub(super) async fn call<A>(
        &self,
        controller: &Controller,
        driver: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError>
    where
        A: Message + Default,
    {
        let message = request.encode_to_vec();
        let mut last = None;
        for node in &controller.nodes {
            match ask(&self.context.client, node, driver, &format!("Controller/{method}"), message.clone()).await {
                Err(CallError::Unreachable(error)) => last = Some(error),
                answer => return answer,
            }
        }
        Err(last
            .map_or_else(|| CallError::Refused(Status::unavailable("no node has the driver")), CallError::Unreachable))
    }
}

/// Calls a driver on a node.
pub async fn ask<A>(
    client: &kube::Client,
    node: &str,
    driver: &str,
    call: &str,
    message: Vec<u8>,
) -> Result<A, CallError>
where
    A: Message + Default,
{
    let path = format!("/api/v1/nodes/{node}/proxy/csi/{driver}/{call}");
    let request = http::Request::post(path).header("content-type", "application/octet-stream");
    let request =
        request.body(Body::from(message)).map_err(|error| CallError::Unreachable(kube::Error::HttpError(error)))?;
    let response = client.send(request).await.map_err(CallError::Unreachable)?;
    let (parts, body) = response.into_parts();
    let broken = |words: String| CallError::Refused(Status::unavailable(words));
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(code) = text("grpc-status").and_then(|code| code.parse::<i32>().ok()) {
        let message = text("grpc-message").unwrap_or_default();
        let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned();
        return Err(CallError::Refused(Status::new(Code::from(code), message)));
    }
    let bytes = body.collect().await.map_err(|error| broken(format!("the answer broke off: {error}")))?.to_bytes();
    if !parts.status.is_success() {
        let said = String::from_utf8_lossy(&bytes).into_owned();
        return Err(broken(format!("node {node} answered {}: {said}", parts.status)));
    }
    A::decode(bytes)
        .map_err(|error| CallError::Refused(Status::internal(format!("the driver's answer is no message: {error}"))))
}
