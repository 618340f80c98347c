//! The documents of an image: index, manifest and config, as OCI and Docker write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::images::{ImageConfig, ImageError};
use crate::snapshots::Layer;

/// A pointer to a blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// For what machine a manifest is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An index (many manifests) or a manifest (one config, some layers).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Document {
    pub(crate) schema_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<Descriptor>,
}

/// Media types asked from a registry.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// The media type of manifests that kobune writes itself.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of configs that kobune writes itself.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of layers whose compression is not known.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigDocument {
    architecture: String,
    os: String,
    config: Option<Process>,
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The architecture's name as images write it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The manifest for this machine.
pub(crate) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let suits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
            && !descriptor.annotations.contains_key("vnd.docker.reference.type")
    };
    // One that says it is for this machine comes before one that says nothing.
    manifests
        .iter()
        .find(|descriptor| descriptor.platform.is_some() && suits(descriptor))
        .or_else(|| manifests.iter().find(suits))
}

/// Reads a config and joins its layers with the manifest's.
pub(crate) fn read_config(bytes: &[u8], layers: &[Descriptor]) -> Result<(ImageConfig, Vec<Layer>), String> {
    let document: ConfigDocument =
        serde_json::from_slice(bytes).map_err(|error| format!("its config is malformed: {error}"))?;
    if !document.os.is_empty() && document.os != "linux" {
        return Err(format!("it is for {}, not for linux", document.os));
    }
    if !document.architecture.is_empty() && document.architecture != architecture() {
        return Err(format!("it is for {}, not for {}", document.architecture, architecture()));
    }
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(format!("its config names {} layers, its manifest {}", diff_ids.len(), layers.len()));
    }
    if let Some(bad) =
        diff_ids.iter().chain(layers.iter().map(|layer| &layer.digest)).find(|text| !crate::reference::is_digest(text))
    {
        return Err(format!("{bad:?} is not a sha256 digest"));
    }
    let layers = layers
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| Layer { digest: layer.digest.clone(), size: layer.size, diff_id })
        .collect();
    let process = document.config.unwrap_or_default();
    let config = ImageConfig {
        env: process.env.unwrap_or_default(),
        entrypoint: process.entrypoint.unwrap_or_default(),
        cmd: process.cmd.unwrap_or_default(),
        working_dir: process.working_dir.unwrap_or_default(),
        user: process.user.unwrap_or_default(),
        volumes: process.volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: process.stop_signal.filter(|signal| !signal.is_empty()),
        labels: process.labels.unwrap_or_default(),
        exposed_ports: process.exposed_ports.unwrap_or_default().into_keys().collect(),
    };
    Ok((config, layers))
}

/// Reads an index or a manifest.
pub(crate) fn read_document(bytes: &[u8]) -> Result<Document, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("its manifest is malformed: {error}"))
}

impl From<String> for ImageError {
    fn from(cause: String) -> Self {
        ImageError::Archive(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_this_machine_is_chosen() {
        let entry = |os: &str, architecture: &str, digest: &str| Descriptor {
            digest: digest.to_owned(),
            platform: Some(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: None }),
            ..Descriptor::default()
        };
        let manifests = [
            entry("windows", architecture(), "w"),
            entry("linux", "mips", "m"),
            entry("linux", architecture(), "here"),
        ];
        assert_eq!(choose(&manifests).map(|found| found.digest.as_str()), Some("here"));
        assert!(choose(&manifests[..2]).is_none());
    }

    #[test]
    fn null_fields_of_a_config_are_empty() {
        let bytes = br#"{"architecture":"","config":{"Env":null,"Cmd":["a"],"User":null},"rootfs":{"diff_ids":[]}}"#;
        let (config, layers) = read_config(bytes, &[]).expect("it is well-formed");
        assert_eq!((config.cmd, config.env, layers.len()), (vec!["a".to_owned()], Vec::new(), 0));
    }

    #[test]
    fn layers_must_agree() {
        let error = read_config(br#"{"rootfs":{"diff_ids":["sha256:x"]}}"#, &[]).expect_err("it must be refused");
        assert_eq!(error, "its config names 1 layers, its manifest 0");
    }
}
