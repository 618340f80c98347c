//! Fetches images from registries (the distribution protocol, version 2).

use std::io::Write;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;

use crate::blobs::Blobs;
use crate::images::{Auth, ImageError};
use crate::manifest::{ACCEPTED, Descriptor, architecture, choose, read_config, read_document};
use crate::reference::Reference;

/// What a pull has put into the blob store.
pub(crate) struct Pulled {
    /// Digest of the manifest for this machine.
    pub(crate) manifest: String,
    /// Digest of what the name stands for in the registry: the index, or the manifest itself.
    pub(crate) named: String,
}

/// Fetches manifest, config and layers; blobs that are there already are not fetched again.
pub(crate) async fn pull(
    blobs: &Arc<Blobs>,
    reference: &Reference,
    auth: Option<Auth>,
    concurrency: usize,
) -> Result<Pulled, ImageError> {
    let fail = |cause: String| ImageError::Pull { reference: reference.to_string(), cause };
    // Another part of the program may have chosen a provider already; any will do.
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("a TLS provider was installed meanwhile");
    }
    let client = client(reference).map_err(|error| fail(explain(&error)))?;
    let auth = match auth {
        None => RegistryAuth::Anonymous,
        Some(Auth::Basic { username, password }) => RegistryAuth::Basic(username, password),
        Some(Auth::Bearer(token)) => RegistryAuth::Bearer(token),
    };
    let source = source(reference);
    let (bytes, named) =
        client.pull_manifest_raw(&source, &auth, &ACCEPTED).await.map_err(|error| fail(explain(&error)))?;
    let mut document = read_document(&bytes).map_err(&fail)?;
    let mut manifest = crate::digest::of(&bytes);
    if manifest != named {
        return Err(fail(format!("the registry sent a manifest with digest {manifest} as {named}")));
    }
    let mut manifest_bytes = bytes;
    if !document.manifests.is_empty() {
        let chosen = choose(&document.manifests)
            .ok_or_else(|| fail(format!("no match for platform linux/{} in its index", architecture())))?;
        let place = source.clone_with_digest(chosen.digest.clone());
        let (bytes, digest) =
            client.pull_manifest_raw(&place, &auth, &ACCEPTED).await.map_err(|error| fail(explain(&error)))?;
        if digest != chosen.digest {
            return Err(fail(format!("the registry sent manifest {digest} for {}", chosen.digest)));
        }
        document = read_document(&bytes).map_err(&fail)?;
        manifest = digest;
        manifest_bytes = bytes;
    }
    let config = document.config.clone().ok_or_else(|| fail("its manifest has no config".to_owned()))?;
    if config.size > crate::blobs::MAX_DOCUMENT {
        return Err(fail("its config is too large".to_owned()));
    }
    fetch(&client, &source, blobs, &config).await.map_err(&fail)?;
    let config_bytes = blobs.read(&config.digest).map_err(|error| fail(error.to_string()))?;
    read_config(&config_bytes, &document.layers).map_err(&fail)?;
    // Made before the stream: a closure over borrowed layers would keep the whole pull from being `Send`.
    let fetches: Vec<_> = document.layers.iter().map(|layer| fetch(&client, &source, blobs, layer)).collect();
    futures::stream::iter(fetches)
        .buffer_unordered(concurrency.max(1))
        .try_collect::<Vec<()>>()
        .await
        .map_err(&fail)?;
    blobs.put(&manifest_bytes).map_err(|source| ImageError::Io {
        action: "write",
        path: blobs.path(&manifest),
        source,
    })?;
    Ok(Pulled { manifest, named })
}

fn client(reference: &Reference) -> Result<Client, OciDistributionError> {
    let registry = reference.registry();
    let protocol =
        if is_local(registry) { ClientProtocol::HttpsExcept(vec![registry.to_owned()]) } else { ClientProtocol::Https };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(std::time::Duration::from_secs(30)),
        // No byte for this long means that the connection is dead, not slow.
        read_timeout: Some(std::time::Duration::from_secs(60)),
        user_agent: concat!("kobune/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config)
}

/// Registries on this machine are spoken to without TLS, as other runtimes do.
fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn source(reference: &Reference) -> oci_client::Reference {
    let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => oci_client::Reference::with_digest(registry, repository, digest.to_owned()),
        (None, tag) => oci_client::Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_owned()),
    }
}

async fn fetch(
    client: &Client,
    source: &oci_client::Reference,
    blobs: &Arc<Blobs>,
    descriptor: &Descriptor,
) -> Result<(), String> {
    if !crate::reference::is_digest(&descriptor.digest) {
        return Err(format!("{:?} is not a sha256 digest", descriptor.digest));
    }
    if blobs.has(&descriptor.digest, descriptor.size) {
        return Ok(());
    }
    let mut stream =
        client.pull_blob_stream(source, descriptor.digest.as_str()).await.map_err(|error| explain(&error))?;
    let mut ingest = blobs.ingest().map_err(|error| error.to_string())?;
    let mut received: u64 = 0;
    while let Some(chunk) = stream.stream.try_next().await.map_err(|error| explain(&error))? {
        received += chunk.len() as u64;
        if received > descriptor.size {
            return Err(format!("layer {} is longer than its manifest says", descriptor.digest));
        }
        // A chunk is some kilobytes into the page cache: not worth a thread switch.
        ingest.write_all(&chunk).map_err(|error| error.to_string())?;
    }
    let (blobs, expected) = (blobs.clone(), descriptor.digest.clone());
    let committed =
        tokio::task::spawn_blocking(move || ingest.finish(Some(&expected)).and_then(|pending| blobs.commit(pending)))
            .await;
    committed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// An error with everything that led to it, in one line.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("docker.io", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(is_local(registry), expected, "{registry}");
        }
    }
}
