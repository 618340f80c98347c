//! The flags of the API server that are spelled as upstream's kube-apiserver and kube-controller-manager spell them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kobune_apiserver::security::encryption::Encryption;
use kobune_store::Seal;

/// What the API server is told beyond where it listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API server")]
pub struct ApiOptions {
    /// How long a certificate signed for a CertificateSigningRequest is valid at most
    #[arg(long, value_name = "DURATION", env = "KOBUNE_CLUSTER_SIGNING_DURATION", default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// Encrypt Secrets on disk with a key of this machine, made at the first start in DIR/pki/encryption.yaml
    #[arg(long, env = "KOBUNE_ENCRYPT_SECRETS", conflicts_with = "encryption_provider_config")]
    pub encrypt_secrets: bool,
    /// Encrypt objects on disk as this EncryptionConfiguration says
    #[arg(long, value_name = "FILE", env = "KOBUNE_ENCRYPTION_PROVIDER_CONFIG")]
    pub encryption_provider_config: Option<PathBuf>,
}

impl ApiOptions {
    /// The lines that `kobune config show` prints.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cluster-signing-duration", format_duration(self.cluster_signing_duration)),
            ("encrypt-secrets", self.encrypt_secrets.to_string()),
            ("encryption-provider-config", file(self.encryption_provider_config.as_deref())),
        ]
    }

    /// What encrypts objects on disk, if anything is to.
    pub fn seal(&self, data_dir: &Path) -> Result<Option<Arc<dyn Seal>>> {
        let path = match &self.encryption_provider_config {
            Some(path) => path.clone(),
            None if self.encrypt_secrets => {
                let path = data_dir.join("pki").join("encryption.yaml");
                if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
                    kobune_pki::write_private(&path, Encryption::new_configuration().as_bytes())
                        .context("write the key that encrypts Secrets")?;
                }
                path
            }
            None => return Ok(None),
        };
        let encryption = Encryption::load(&path).context("read how objects are encrypted on disk")?;
        Ok(Some(encryption))
    }
}

fn file(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

/// A duration as upstream's flags take it: `1h30m`, `90s`, `250ms`.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    let refuse = || format!("{text:?} is not a duration such as 1h30m or 90s");
    let mut rest = text;
    let mut whole = Duration::ZERO;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(refuse)?;
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let unit_end =
            rest[digits..].find(|character: char| character.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let part = match &rest[digits..unit_end] {
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "s" => Some(Duration::from_secs(number)),
            "ms" => Some(Duration::from_millis(number)),
            _ => None,
        };
        whole = part.and_then(|part| whole.checked_add(part)).ok_or_else(refuse)?;
        rest = &rest[unit_end..];
    }
    Ok(whole)
}

fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, amount) in [("h", seconds / 3600), ("m", seconds / 60 % 60), ("s", seconds % 60)] {
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    let milliseconds = duration.subsec_millis();
    if milliseconds > 0 {
        text.push_str(&format!("{milliseconds}ms"));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(duration(text).ok().map(|duration| duration.as_millis() as u64), expected, "{text}");
        };
        check("8760h", Some(8760 * 3_600_000));
        check("8760h0m0s", Some(8760 * 3_600_000));
        check("1h30m", Some(5_400_000));
        check("250ms", Some(250));
        check("", None);
        check("5", None);
        check("h", None);
        check("1d", None);
        check("99999999999999999999h", None);
        check("18446744073709551615h", None);
        assert_eq!(format_duration(Duration::from_millis(5_401_250)), "1h30m1s250ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }
}
