//! The file: `apiserver.config.k8s.io/v1 EncryptionConfiguration`.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;

use super::Rule;
use super::provider::{Cipher, Keyed, Provider};
use crate::config_file::{self, ConfigError, Problems};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    resources: Vec<ResourceConfiguration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceConfiguration {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderConfiguration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderConfiguration {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    /// Only so that its refusal can say why.
    kms: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<NamedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

pub(super) fn load(path: &Path) -> Result<Vec<Rule>, ConfigError> {
    let file: File = config_file::read(path, "EncryptionConfiguration", &["apiserver.config.k8s.io/v1"])?;
    let mut problems = Problems::default();
    if file.resources.is_empty() {
        problems.add("resources", "Required value: at least one resource configuration is needed");
    }
    let rules = file.resources.into_iter().enumerate().map(|(index, one)| rule(index, one, &mut problems)).collect();
    problems.into_result(path, rules)
}

fn rule(index: usize, configuration: ResourceConfiguration, problems: &mut Problems) -> Rule {
    let path = format!("resources[{index}]");
    if configuration.resources.is_empty() {
        problems.add(format_args!("{path}.resources"), "Required value");
    }
    let mut seen = BTreeSet::new();
    for (place, resource) in configuration.resources.iter().enumerate() {
        let field = format!("{path}.resources[{place}]");
        if !seen.insert(resource) {
            problems.add(field, format_args!("Duplicate value: {resource:?}"));
        } else if resource.is_empty() || resource == "*" || resource.contains('/') {
            let why = "expected <resource>.<group>, *.<group> or *.*";
            problems.add(field, format_args!("Invalid value: {resource:?}: {why}"));
        }
    }
    if configuration.providers.is_empty() {
        problems.add(format_args!("{path}.providers"), "Required value");
    }
    let mut providers = Vec::new();
    for (place, one) in configuration.providers.into_iter().enumerate() {
        providers.extend(provider(&format!("{path}.providers[{place}]"), one, problems));
    }
    Rule { resources: configuration.resources, providers }
}

fn provider(path: &str, configuration: ProviderConfiguration, problems: &mut Problems) -> Option<Provider> {
    let ProviderConfiguration { aesgcm, aescbc, secretbox, identity, kms } = configuration;
    if kms.is_some() {
        problems.add(format_args!("{path}.kms"), "key management services are not supported by kobune");
        return None;
    }
    let mut found = Vec::new();
    for (field, cipher, keys) in [
        ("aesgcm", Cipher::AesGcm, aesgcm),
        ("aescbc", Cipher::AesCbc, aescbc),
        ("secretbox", Cipher::SecretBox, secretbox),
    ] {
        if let Some(keys) = keys {
            found.push(Provider::Keyed(keyed(&format!("{path}.{field}.keys"), cipher, keys, problems)));
        }
    }
    if identity.is_some() {
        found.push(Provider::Identity);
    }
    match found.len() {
        0 => {
            problems.add(
                path,
                "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
            );
            None
        }
        1 => found.pop(),
        _ => {
            problems.add(
                path,
                "more than one provider specified in a single element, should split into different list elements",
            );
            None
        }
    }
}

fn keyed(path: &str, cipher: Cipher, keys: Keys, problems: &mut Problems) -> Keyed {
    let mut keyed = Keyed { cipher, keys: Vec::new() };
    if keys.keys.is_empty() {
        problems.add(path, "Required value: at least one key is needed");
    }
    let mut seen = BTreeSet::new();
    for (place, key) in keys.keys.into_iter().enumerate() {
        if key.name.is_empty() {
            problems.add(format_args!("{path}[{place}].name"), "Required value: key must have a name");
        } else if key.name.contains(':') {
            problems.add(format_args!("{path}[{place}].name"), "Invalid value: it must not contain a colon");
        } else if !seen.insert(key.name.clone()) {
            problems.add(format_args!("{path}[{place}].name"), format_args!("Duplicate value: {:?}", key.name));
        }
        let field = format!("{path}[{place}].secret");
        // The value is a secret: no message may show it.
        let Ok(secret) = base64::engine::general_purpose::STANDARD.decode(key.secret.trim()) else {
            problems.add(field, "secret must be base64 encoded");
            continue;
        };
        let lengths = cipher.key_lengths();
        if !lengths.contains(&secret.len()) {
            let got = secret.len();
            problems.add(
                field,
                format_args!("secret is not of the expected length, got {got}, expected one of {lengths:?}"),
            );
        }
        keyed.keys.push((key.name, secret));
    }
    keyed
}
