//! Credentials of programs (upstream's image credential providers): clouds give keys of their registries to those who ask on
//! the machine.
//!
//! Source: `pkg/credentialprovider/plugin/plugin.go`, `k8s.io/kubelet/pkg/apis/credentialprovider/v1`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kobune_runtime::Auth;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::image::{matches, registry};

/// How long a program may take, as upstream.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer has no more bytes than this.
const LONGEST: u64 = 1 << 20;
/// So many answers are kept.
const KEPT: usize = 256;
/// The only version of the conversation.
const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// Why the programs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The configuration can't be read.
    #[error("failed to read the credential providers' configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The configuration makes no sense.
    #[error("the credential providers' configuration {}: {what}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

#[derive(Deserialize)]
struct File {
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Pair>,
}

#[derive(Clone, Debug, Deserialize)]
struct Pair {
    username: String,
    password: String,
}

type Cache = BTreeMap<(usize, String), (Instant, BTreeMap<String, Pair>)>;

/// The programs that are configured.
#[derive(Default)]
pub struct CredentialProviders {
    providers: Vec<Provider>,
    programs: PathBuf,
    cache: Mutex<Cache>,
}

/// A duration as Go writes it: `12h`, `1h30m`, `10s`, `0`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut sum, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let amount: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|letter: char| letter.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let seconds = match &rest[digits..unit] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            "ms" => {
                sum += Duration::from_millis(amount);
                rest = &rest[unit..];
                continue;
            }
            _ => return None,
        };
        sum += Duration::from_secs(amount.checked_mul(seconds)?);
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

impl CredentialProviders {
    /// Reads the configuration; `programs` is the folder of the programs. Blocks.
    pub fn read(path: &Path, programs: &Path) -> Result<CredentialProviders, ProviderError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ProviderError::Read { path: path.to_owned(), source })?;
        let wrong = |what: String| ProviderError::Wrong { path: path.to_owned(), what };
        let file: File = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.kind != "CredentialProviderConfig" {
            return Err(wrong(format!("it is a {:?}", file.kind)));
        }
        for provider in &file.providers {
            let name = &provider.name;
            if name.is_empty() || name.contains('/') || name == "." || name == ".." {
                return Err(wrong(format!("{name:?} is not a program's name")));
            }
            if provider.api_version != VERSION {
                return Err(wrong(format!("{name} speaks {:?}, not {VERSION}", provider.api_version)));
            }
            if duration(&provider.default_cache_duration).is_none() {
                return Err(wrong(format!("{:?} is not a duration", provider.default_cache_duration)));
            }
            if provider.match_images.is_empty() {
                return Err(wrong(format!("{name} matches no images")));
            }
            if !programs.join(name).is_file() {
                return Err(wrong(format!("there is no {}", programs.join(name).display())));
            }
        }
        Ok(CredentialProviders { providers: file.providers, programs: programs.to_owned(), cache: Mutex::default() })
    }

    /// The credentials for an image, best match first. A program that fails is told and holds up no other.
    pub async fn credentials(&self, image: &str) -> Vec<Auth> {
        let mut found: Vec<(usize, Auth)> = Vec::new();
        for (index, provider) in self.providers.iter().enumerate() {
            if !provider.match_images.iter().any(|pattern| matches(pattern, image).is_some()) {
                continue;
            }
            match self.ask(index, provider, image).await {
                Ok(auths) => found.extend(auths.into_iter().filter_map(|(pattern, pair)| {
                    let length = matches(&pattern, image)?;
                    Some((length, Auth::Basic { username: pair.username, password: pair.password }))
                })),
                Err(message) => tracing::warn!(provider = provider.name, message, "a credential provider failed"),
            }
        }
        found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        found.into_iter().map(|(_, auth)| auth).collect()
    }

    async fn ask(&self, index: usize, provider: &Provider, image: &str) -> Result<BTreeMap<String, Pair>, String> {
        let keys = [image.to_owned(), registry(image).0.to_owned(), String::new()];
        {
            let mut cache = self.cache.lock();
            let now = Instant::now();
            cache.retain(|_, (until, _)| *until > now);
            if let Some((_, auths)) = keys.iter().find_map(|key| cache.get(&(index, key.clone()))) {
                return Ok(auths.clone());
            }
        }
        let answer = tokio::time::timeout(PATIENCE, self.run(provider, image)).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))??;
        if answer.api_version != VERSION {
            return Err(format!("it answers in {:?}", answer.api_version));
        }
        let said = answer.cache_duration.as_deref().unwrap_or(&provider.default_cache_duration);
        let lasts = duration(said).ok_or_else(|| format!("{said:?} is not a duration"))?;
        let [of_image, of_registry, of_all] = keys;
        let key = match answer.cache_key_type.as_str() {
            "Image" => of_image,
            "Registry" => of_registry,
            "Global" => of_all,
            other => return Err(format!("{other:?} is not a cacheKeyType")),
        };
        if !lasts.is_zero() {
            let mut cache = self.cache.lock();
            if cache.len() >= KEPT {
                cache.pop_first();
            }
            cache.insert((index, key), (Instant::now() + lasts, answer.auth.clone()));
        }
        Ok(answer.auth)
    }

    async fn run(&self, provider: &Provider, image: &str) -> Result<Answer, String> {
        let request = json!({"apiVersion": VERSION, "kind": "CredentialProviderRequest", "image": image}).to_string();
        let variables = provider.env.iter().map(|variable| (&variable.name, &variable.value));
        let mut child = tokio::process::Command::new(self.programs.join(&provider.name))
            .args(&provider.args)
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("it can't be started: {error}"))?;
        if let Some(mut stdin) = child.stdin.take()
            && let Err(error) = stdin.write_all(request.as_bytes()).await
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(format!("it can't be asked: {error}"));
        }
        let mut text = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(LONGEST).read_to_end(&mut text).await;
            read.map_err(|error| format!("its answer can't be read: {error}"))?;
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("it ended with {status}"));
        }
        serde_json::from_slice(&text).map_err(|error| format!("its answer makes no sense: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("12h", Some(43200)),
            ("1h30m", Some(5400)),
            ("10s", Some(10)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("h", None),
            ("1d", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[tokio::test]
    async fn programs_are_asked_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("give");
        let script = r#"#!/bin/sh
read -r request
echo x >> "$COUNT"
case "$request" in *broken*) exit 3;; esac
echo '{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
  "auth": {"*.example.org": {"username": "u", "password": "p"}, "other.example.com": {"username": "no", "password": "no"}}}'
"#;
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("runnable");
        let count = folder.path().join("count");
        let config = format!(
            "{{kind: CredentialProviderConfig, apiVersion: kubelet.config.k8s.io/v1, providers: [{{name: give, apiVersion: {VERSION},
              matchImages: ['*.example.org'], defaultCacheDuration: 1h, env: [{{name: COUNT, value: '{}'}}]}}]}}",
            count.display()
        );
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, &config).expect("written");
        let providers = CredentialProviders::read(&path, folder.path()).expect("it makes sense");
        let names = async |image: &str| -> Vec<String> {
            let found = providers.credentials(image).await;
            found
                .into_iter()
                .map(|auth| if let Auth::Basic { username, .. } = auth { username } else { String::new() })
                .collect()
        };
        assert_eq!(names("r.example.org/a:1").await, ["u"]);
        assert_eq!(names("r.example.org/b:1").await, ["u"]);
        assert_eq!(names("quay.io/a").await, [""; 0]);
        assert_eq!(std::fs::read_to_string(&count).expect("counted").lines().count(), 1, "the answer was kept");
        assert_eq!(names("s.example.org/broken").await, [""; 0]);
        for wrong in [
            config.replace("name: give", "name: ../give"),
            config.replace("name: give", "name: none"),
            config.replace("1h", "soon"),
            config.replace(VERSION, "v0"),
        ] {
            std::fs::write(&path, wrong).expect("written");
            assert!(CredentialProviders::read(&path, folder.path()).is_err());
        }
    }
}
