//! What is in the files of ConfigMap, Secret, downward API and projected volumes. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use crate::env::{EnvError, Surroundings, field_value, resource_value};
use crate::pod;
use crate::references::{Content, Lookup};
use crate::volumes::atomic::{File, Payload};

/// Permission bits when a volume says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// Why a volume's files can't be made. The texts are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The ConfigMap does not exist.
    #[error("configmap \"{0}\" not found")]
    ConfigMapMissing(String),
    /// The Secret does not exist.
    #[error("secret \"{0}\" not found")]
    SecretMissing(String),
    /// A wanted key does not exist.
    #[error("references non-existent {kind} key: {key}")]
    KeyMissing {
        /// `config` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A downward API item can't be resolved.
    #[error(transparent)]
    Downward(#[from] EnvError),
    /// The object has not been read yet.
    #[error("{0}")]
    NotRead(String),
    /// A token that was not fetched before.
    #[error("failed to fetch token: {0}")]
    Token(String),
    /// A kind of projection this node does not have.
    #[error("unsupported projection {0}")]
    Unsupported(&'static str),
}

/// A token that a projected volume wants: audience and life in seconds.
pub type TokenKey = (Option<String>, i64);

/// What the files are made from.
pub struct Sources<'a> {
    /// ConfigMaps and Secrets.
    pub lookup: &'a dyn Lookup,
    /// What the downward API may mention.
    pub around: &'a Surroundings,
    /// Tokens fetched before.
    pub tokens: &'a HashMap<TokenKey, String>,
    /// Who shall own tokens.
    pub token_owner: Option<u32>,
    /// Whether the pod has an fsGroup.
    pub has_group: bool,
}

/// The tokens that a pod's volumes want.
pub fn wanted_tokens(owner: &Pod) -> Vec<TokenKey> {
    let mut wanted: Vec<TokenKey> = pod::spec(owner)
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| {
            (token.audience.clone().filter(|audience| !audience.is_empty()), token.expiration_seconds.unwrap_or(3600))
        })
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// The files of a volume, `None` for volumes of other kinds.
pub fn payload(owner: &Pod, volume: &Volume, sources: &Sources<'_>) -> Result<Option<Payload>, ContentError> {
    let namespace = pod::namespace(owner);
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let content = sources.lookup.config_map(namespace, &source.name).map_err(ContentError::NotRead)?;
        let optional = source.optional.unwrap_or(false);
        let content = present(content, optional, || ContentError::ConfigMapMissing(source.name.clone()))?;
        add_keys(&mut files, &content, source.items.as_deref(), mode, optional, "config")?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let content = sources.lookup.secret(namespace, name).map_err(ContentError::NotRead)?;
        let optional = source.optional.unwrap_or(false);
        let content = present(content, optional, || ContentError::SecretMissing(name.to_owned()))?;
        add_keys(&mut files, &content, source.items.as_deref(), mode, optional, "secret")?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        add_fields(&mut files, owner, source.items.as_deref(), mode, sources.around)?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for source in source.sources.iter().flatten() {
            if let Some(source) = &source.config_map {
                let optional = source.optional.unwrap_or(false);
                let content = sources.lookup.config_map(namespace, &source.name).map_err(ContentError::NotRead)?;
                let content = present(content, optional, || ContentError::ConfigMapMissing(source.name.clone()))?;
                add_keys(&mut files, &content, source.items.as_deref(), mode, optional, "config")?;
            } else if let Some(source) = &source.secret {
                let optional = source.optional.unwrap_or(false);
                let content = sources.lookup.secret(namespace, &source.name).map_err(ContentError::NotRead)?;
                let content = present(content, optional, || ContentError::SecretMissing(source.name.clone()))?;
                add_keys(&mut files, &content, source.items.as_deref(), mode, optional, "secret")?;
            } else if let Some(source) = &source.downward_api {
                add_fields(&mut files, owner, source.items.as_deref(), mode, sources.around)?;
            } else if let Some(token) = &source.service_account_token {
                let key = (
                    token.audience.clone().filter(|audience| !audience.is_empty()),
                    token.expiration_seconds.unwrap_or(3600),
                );
                let text = sources.tokens.get(&key).ok_or_else(|| ContentError::Token("not fetched".to_owned()))?;
                let mode = if sources.has_group || sources.token_owner.is_some() { 0o600 } else { mode };
                insert(&mut files, &token.path, Bytes::from(text.clone()), mode, sources.token_owner);
            } else if source.cluster_trust_bundle.is_some() {
                return Err(ContentError::Unsupported("clusterTrustBundle"));
            } else if source.pod_certificate.is_some() {
                return Err(ContentError::Unsupported("podCertificate"));
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn present(
    content: Option<Content>,
    optional: bool,
    missing: impl FnOnce() -> ContentError,
) -> Result<Content, ContentError> {
    match content {
        Some(content) => Ok(content),
        None if optional => Ok(Content::default()),
        None => Err(missing()),
    }
}

fn insert(files: &mut Payload, path: &str, content: Bytes, mode: i32, owner: Option<u32>) {
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    files.insert(path.join("/"), File { content, mode: mode.unsigned_abs() & 0o7777, owner });
}

fn add_keys(
    files: &mut Payload,
    content: &Content,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    kind: &'static str,
) -> Result<(), ContentError> {
    match items.filter(|items| !items.is_empty()) {
        None => {
            for (key, value) in content.entries() {
                insert(files, key, value.clone(), mode, None);
            }
        }
        Some(items) => {
            for item in items {
                match content.get(&item.key) {
                    Some(value) => insert(files, &item.path, value.clone(), item.mode.unwrap_or(mode), None),
                    None if optional => {}
                    None => return Err(ContentError::KeyMissing { kind, key: item.key.clone() }),
                }
            }
        }
    }
    Ok(())
}

fn add_fields(
    files: &mut Payload,
    owner: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    around: &Surroundings,
) -> Result<(), ContentError> {
    for item in items.unwrap_or_default() {
        let text = if let Some(field) = &item.field_ref {
            field_value(owner, field, around)?
        } else if let Some(field) = &item.resource_field_ref {
            resource_value(owner, None, field, around)?
        } else {
            continue;
        };
        insert(files, &item.path, Bytes::from(text), item.mode.unwrap_or(mode), None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::references::tests::Fixed;

    #[test]
    fn files_of_volumes() {
        let check = |volume: Value, expected: Result<&[(&str, &str, u32)], &str>| {
            let mut volume_json = volume.clone();
            volume_json["name"] = json!("v");
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "32Mi"}}}], "volumes": [volume_json]},
            }))
            .expect("a pod");
            let lookup = Fixed::new(&[("cm", "k1", "v1"), ("cm", "k2", "v2")], &[("s", "p", "x")]);
            let tokens = [((None, 3607), "token".to_owned())].into();
            let sources = Sources {
                lookup: &lookup,
                around: &Surroundings::default(),
                tokens: &tokens,
                token_owner: None,
                has_group: false,
            };
            let made = payload(&pod, &pod.spec.as_ref().expect("spec").volumes.as_ref().expect("volumes")[0], &sources);
            let made = made.map(|files| {
                let text = |file: &File| String::from_utf8_lossy(&file.content).into_owned();
                files
                    .expect("files")
                    .iter()
                    .map(|(path, file)| (path.clone(), text(file), file.mode))
                    .collect::<Vec<_>>()
            });
            let expected = expected.map(|files| {
                files
                    .iter()
                    .map(|(path, text, mode)| ((*path).to_owned(), (*text).to_owned(), *mode))
                    .collect::<Vec<_>>()
            });
            assert_eq!(made.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{volume}");
        };
        check(json!({"configMap": {"name": "cm"}}), Ok(&[("k1", "v1", 0o644), ("k2", "v2", 0o644)]));
        check(
            json!({"configMap": {"name": "cm", "defaultMode": 0o400, "items": [{"key": "k1", "path": "d/x"}, {"key": "k2", "path": "y", "mode": 0o600}]}}),
            Ok(&[("d/x", "v1", 0o400), ("y", "v2", 0o600)]),
        );
        check(json!({"configMap": {"name": "none"}}), Err("configmap \"none\" not found"));
        check(json!({"configMap": {"name": "none", "optional": true}}), Ok(&[]));
        check(
            json!({"configMap": {"name": "cm", "items": [{"key": "k3", "path": "x"}]}}),
            Err("references non-existent config key: k3"),
        );
        check(json!({"secret": {"secretName": "s"}}), Ok(&[("p", "x", 0o644)]));
        check(json!({"secret": {"secretName": "none"}}), Err("secret \"none\" not found"));
        check(
            json!({"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "mem", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}}]}}),
            Ok(&[("labels", "a=\"b\"", 0o644), ("mem", "32", 0o644)]),
        );
        check(
            json!({"projected": {"defaultMode": 0o444, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "cm", "items": [{"key": "k1", "path": "ca.crt"}]}}]}}),
            Ok(&[("ca.crt", "v1", 0o444), ("token", "token", 0o444)]),
        );
    }
}
