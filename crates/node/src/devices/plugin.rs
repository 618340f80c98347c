//! Device plugins come, tell of their devices, and go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::proto::{DeviceList, PluginOptions, RegisterRequest, SOCKET, VERSION};
use crate::context::Context;
use kobune_grpc::client::{Client, QUESTION, words};
use kobune_grpc::csi::Nothing;
use kobune_grpc::server::{self, Service};

/// A plugin that has gone may come again within this time before its devices are no longer counted; upstream's.
const GONE_FOR_GOOD: Duration = Duration::from_secs(300);

struct Registration {
    context: Arc<Context>,
    folder: PathBuf,
    token: CancellationToken,
}

impl Service for Registration {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        if method != "/v1beta1.Registration/Register" {
            return Err(Status::unimplemented(format!("{method} is not known")));
        }
        let asked: RegisterRequest = server::decode(message)?;
        if asked.version != VERSION {
            return Err(Status::invalid_argument(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is {VERSION:?}",
                asked.version
            )));
        }
        let plain = !asked.endpoint.is_empty() && !asked.endpoint.contains('/') && asked.endpoint != "..";
        if !plain {
            return Err(Status::invalid_argument(format!("{:?} is not a socket of this folder", asked.endpoint)));
        }
        let options = asked.options.unwrap_or_default();
        let socket = self.folder.join(&asked.endpoint);
        begin(&self.context, &asked.resource_name, socket, options, &self.token).map_err(Status::invalid_argument)?;
        Ok(server::encode(&Nothing {}))
    }
}

/// Lets plugins register until the token is cancelled.
pub async fn run(context: Arc<Context>, token: CancellationToken) {
    let folder = context.config.node_dir().join("device-plugins");
    let listener = match server::listen(&folder.join(SOCKET)) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(
                folder = %folder.display(),
                error = &error as &dyn std::error::Error,
                "device plugins can't register: their socket can't be made"
            );
            return;
        }
    };
    let service = Registration { context, folder, token: token.clone() };
    server::serve(listener, Arc::new(service), token).await;
}

/// A plugin that was found in the plugins' registry.
pub async fn meet(
    context: &Arc<Context>,
    name: &str,
    socket: &Path,
    versions: &[String],
    token: &CancellationToken,
) -> Result<(), String> {
    if !versions.iter().any(|version| version == VERSION) {
        return Err(format!("none of the versions {versions:?} is supported"));
    }
    let client = Client::new(socket.to_owned());
    let options: PluginOptions = client
        .call("/v1beta1.DevicePlugin/GetDevicePluginOptions", Nothing {}, QUESTION)
        .await
        .map_err(|status| format!("GetDevicePluginOptions failed: {}", words(&status)))?;
    begin(context, name, socket.to_owned(), options, token)
}

/// Whether a name can be that of an extended resource: with a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    let Some((domain, own)) = name.split_once('/') else { return false };
    let word = |text: &str| {
        let edge = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        text.chars().all(plain) && edge(text.chars().next()) && edge(text.chars().last())
    };
    let foreign = domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io") && !domain.starts_with("requests.");
    foreign && domain.len() <= 253 && own.len() <= 63 && word(domain) && word(own)
}

fn begin(
    context: &Arc<Context>,
    resource: &str,
    socket: PathBuf,
    options: PluginOptions,
    token: &CancellationToken,
) -> Result<(), String> {
    if !is_extended(resource) {
        return Err(format!("the ResourceName {resource:?} is invalid"));
    }
    let client = Client::new(socket);
    let turn = context.devices.register(resource, client.clone(), options);
    tracing::info!(resource, "a device plugin has registered");
    let (context, resource, token) = (Arc::clone(context), resource.to_owned(), token.clone());
    tokio::spawn(async move {
        // Dropping the stream ends it; nothing else is to be undone.
        tokio::select! {
            () = token.cancelled() => return,
            () = follow(&context, &resource, turn, &client) => {}
        }
        context.devices.lose(&resource, turn, false);
        context.ledger.wake(&context.devices.holders(&resource));
        tokio::select! {
            () = token.cancelled() => {}
            () = tokio::time::sleep(GONE_FOR_GOOD) => {
                context.devices.lose(&resource, turn, true);
                context.ledger.wake(&context.devices.holders(&resource));
            }
        }
    });
    Ok(())
}

/// Takes what a plugin tells of its devices until it goes.
async fn follow(context: &Context, resource: &str, turn: u64, client: &Client) {
    let stream = client.stream::<_, DeviceList>("/v1beta1.DevicePlugin/ListAndWatch", Nothing {}, QUESTION).await;
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(status) => {
            tracing::warn!(resource, message = words(&status), "a device plugin does not tell of its devices");
            return;
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(list)) => {
                if !context.devices.tell(resource, turn, list) {
                    return;
                }
                // Their status says how their devices are.
                context.ledger.wake(&context.devices.holders(resource));
            }
            Ok(None) => {
                tracing::info!(resource, "a device plugin has gone");
                return;
            }
            Err(status) => {
                tracing::info!(resource, message = words(&status), "a device plugin has gone");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_resources() {
        for (name, expected) in [
            ("example.com/gpu", true),
            ("nvidia.com/gpu.shared", true),
            ("gpu", false),
            ("kubernetes.io/gpu", false),
            ("x.kubernetes.io/gpu", false),
            ("requests.example.com/gpu", false),
            ("example.com/", false),
            ("example.com/a/b", false),
            ("../x", false),
        ] {
            assert_eq!(is_extended(name), expected, "{name}");
        }
    }
}
