//! The file: `apiserver.config.k8s.io/v1 EncryptionConfiguration`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::Rule;
use super::kms::Kms;
use super::provider::{Cipher, Keyed, Provider};
use crate::config_file::{self, ConfigError, Problems};
use crate::duration::parse_duration;

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
    kms: Option<KmsConfiguration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
#[derive(Default)]
struct KmsConfiguration {
    api_version: String,
    name: String,
    endpoint: String,
    timeout: Option<String>,
    /// Only so that its refusal can say why.
    cachesize: Option<i64>,
}

/// How long a service may take where the file does not say; upstream's.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

/// A service that is to be asked once the whole file is known to be good.
struct KmsPart {
    name: String,
    socket: PathBuf,
    timeout: Duration,
}

/// A provider as far as the file tells.
enum Part {
    Ready(Provider),
    Kms(KmsPart),
}

fn kms(path: &str, configuration: KmsConfiguration, problems: &mut Problems) -> KmsPart {
    let KmsConfiguration { api_version, name, endpoint, timeout, cachesize } = configuration;
    if api_version != "v2" {
        // Version 1 is the default of the file, and is switched off in Kubernetes since 1.29.
        problems.add(
            format_args!("{path}.apiVersion"),
            format_args!("Unsupported value: {api_version:?}: supported values: \"v2\""),
        );
    }
    if name.is_empty() {
        problems.add(format_args!("{path}.name"), "Required value");
    } else if name.contains(':') {
        problems.add(format_args!("{path}.name"), format_args!("Invalid value: {name:?}: it must not contain a colon"));
    }
    let socket = endpoint.strip_prefix("unix://").filter(|socket| socket.starts_with('/'));
    if endpoint.is_empty() {
        problems.add(format_args!("{path}.endpoint"), "Required value");
    } else if socket.is_none() {
        let why = "expected unix:// and an absolute path";
        problems.add(format_args!("{path}.endpoint"), format_args!("Invalid value: {endpoint:?}: {why}"));
    }
    let parsed = timeout.as_deref().map_or(Some(KMS_TIMEOUT), parse_duration).filter(|timeout| !timeout.is_zero());
    if parsed.is_none() {
        let text = timeout.unwrap_or_default();
        problems.add(
            format_args!("{path}.timeout"),
            format_args!("Invalid value: {text:?}: it must be a duration above zero"),
        );
    }
    if let Some(cachesize) = cachesize {
        problems.add(
            format_args!("{path}.cachesize"),
            format_args!("Invalid value: {cachesize}: cachesize is not supported in v2"),
        );
    }
    KmsPart { name, socket: PathBuf::from(socket.unwrap_or_default()), timeout: parsed.unwrap_or(KMS_TIMEOUT) }
}

/// Begins to ask the services.
fn start(path: &Path, rules: Vec<(Vec<String>, Vec<Part>)>) -> Result<Vec<Rule>, ConfigError> {
    let ready = |part| match part {
        Part::Ready(provider) => Ok(provider),
        Part::Kms(KmsPart { name, socket, timeout }) => Kms::start(&name, socket, timeout)
            .map(Provider::Kms)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source }),
    };
    let rule = |(resources, parts): (Vec<String>, Vec<Part>)| {
        Ok(Rule { resources, providers: parts.into_iter().map(ready).collect::<Result<_, _>>()? })
    };
    rules.into_iter().map(rule).collect()
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
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for (index, one) in file.resources.into_iter().enumerate() {
        rules.push(rule(index, one, &mut names, &mut problems));
    }
    start(path, problems.into_result(path, rules)?)
}

fn rule(
    index: usize,
    configuration: ResourceConfiguration,
    names: &mut BTreeSet<String>,
    problems: &mut Problems,
) -> (Vec<String>, Vec<Part>) {
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
        let field = format!("{path}.providers[{place}]");
        let found = provider(&field, one, problems);
        if let Some(Part::Kms(kms)) = &found
            && !names.insert(kms.name.clone())
        {
            problems.add(format_args!("{field}.kms.name"), format_args!("Duplicate value: {:?}", kms.name));
        }
        providers.extend(found);
    }
    (configuration.resources, providers)
}

fn provider(path: &str, configuration: ProviderConfiguration, problems: &mut Problems) -> Option<Part> {
    let ProviderConfiguration { aesgcm, aescbc, secretbox, identity, kms } = configuration;
    let mut found = Vec::new();
    for (field, cipher, keys) in [
        ("aesgcm", Cipher::AesGcm, aesgcm),
        ("aescbc", Cipher::AesCbc, aescbc),
        ("secretbox", Cipher::SecretBox, secretbox),
    ] {
        if let Some(keys) = keys {
            found.push(Part::Ready(Provider::Keyed(keyed(&format!("{path}.{field}.keys"), cipher, keys, problems))));
        }
    }
    if identity.is_some() {
        found.push(Part::Ready(Provider::Identity));
    }
    if let Some(configuration) = kms {
        found.push(Part::Kms(self::kms(&format!("{path}.kms"), configuration, problems)));
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
