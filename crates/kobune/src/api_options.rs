//! The flags of the API server that are spelled as upstream's kube-apiserver and kube-controller-manager spell them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kobune_apiserver::security::encryption::Encryption;
use kobune_apiserver::{Auditor, LogOptions, Tracer, WebhookOptions, format_duration};

use crate::authentication::AuthenticationOptions;
use crate::authorization::AuthorizationOptions;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How objects are encrypted on disk.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Encryption")]
pub struct EncryptionOptions {
    /// Encrypt Secrets on disk with a key of this machine, made at the first start in DIR/pki/encryption.yaml
    #[arg(long, env = "KOBUNE_ENCRYPT_SECRETS", conflicts_with = "encryption_provider_config")]
    pub encrypt_secrets: bool,
    /// Encrypt objects on disk as this EncryptionConfiguration says
    #[arg(long, value_name = "FILE", env = "KOBUNE_ENCRYPTION_PROVIDER_CONFIG")]
    pub encryption_provider_config: Option<PathBuf>,
}

impl EncryptionOptions {
    /// What encrypts objects on disk, if anything is to.
    pub fn load(&self, data_dir: &Path) -> Result<Option<Arc<Encryption>>> {
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

/// What the API server is told beyond where it listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API server")]
pub struct ApiOptions {
    /// How long a certificate signed for a CertificateSigningRequest is valid at most
    #[arg(long, value_name = "DURATION", env = "KOBUNE_CLUSTER_SIGNING_DURATION", default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    #[command(flatten)]
    pub encryption: EncryptionOptions,
    #[command(flatten)]
    pub authentication: AuthenticationOptions,
    #[command(flatten)]
    pub authorization: AuthorizationOptions,
    /// Write an audit trail by this Policy (needs --audit-log-path or --audit-webhook-config-file)
    #[arg(long, value_name = "FILE", env = "KOBUNE_AUDIT_POLICY_FILE", requires = "audit_outlets")]
    pub audit_policy_file: Option<PathBuf>,
    /// The audit log, lines of JSON; - for standard output (needs --audit-policy-file)
    #[arg(
        long,
        value_name = "FILE",
        env = "KOBUNE_AUDIT_LOG_PATH",
        requires = "audit_policy_file",
        group = "audit_outlets"
    )]
    pub audit_log_path: Option<PathBuf>,
    /// The size in megabytes at which a new audit log begins
    #[arg(long, value_name = "MEGABYTES", env = "KOBUNE_AUDIT_LOG_MAXSIZE", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_log_maxsize: u32,
    /// How many old audit logs stay, 0 for all
    #[arg(long, value_name = "COUNT", env = "KOBUNE_AUDIT_LOG_MAXBACKUP", default_value_t = 10)]
    pub audit_log_maxbackup: usize,
    /// How many days old audit logs stay, 0 for ever
    #[arg(long, value_name = "DAYS", env = "KOBUNE_AUDIT_LOG_MAXAGE", default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// Post the audit trail to the webhook that this kubeconfig leads to (needs --audit-policy-file)
    #[arg(
        long,
        value_name = "FILE",
        env = "KOBUNE_AUDIT_WEBHOOK_CONFIG_FILE",
        requires = "audit_policy_file",
        group = "audit_outlets"
    )]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// How many events of the audit trail may wait for the webhook; further ones are dropped
    #[arg(long, value_name = "COUNT", env = "KOBUNE_AUDIT_WEBHOOK_BATCH_BUFFER_SIZE", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// How many events are posted to the webhook at once
    #[arg(long, value_name = "COUNT", env = "KOBUNE_AUDIT_WEBHOOK_BATCH_MAX_SIZE", default_value_t = 400, value_parser = at_least_one)]
    pub audit_webhook_batch_max_size: usize,
    /// How long an event waits for others to be posted with
    #[arg(long, value_name = "DURATION", env = "KOBUNE_AUDIT_WEBHOOK_BATCH_MAX_WAIT", default_value = "30s", value_parser = duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// The pause before what the webhook did not take is posted again, which grows from time to time
    #[arg(long, value_name = "DURATION", env = "KOBUNE_AUDIT_WEBHOOK_INITIAL_BACKOFF", default_value = "10s", value_parser = duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// Send traces of requests to the collector of this TracingConfiguration, by OTLP
    #[arg(long, value_name = "FILE", env = "KOBUNE_TRACING_CONFIG_FILE")]
    pub tracing_config_file: Option<PathBuf>,
    /// How many reading requests are worked on at once, 0 for no limit
    #[arg(long, value_name = "COUNT", env = "KOBUNE_MAX_REQUESTS_INFLIGHT", default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// How many writing requests are worked on at once, 0 for no limit
    #[arg(long, value_name = "COUNT", env = "KOBUNE_MAX_MUTATING_REQUESTS_INFLIGHT", default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// How long events live after they were last written, 0s for ever
    #[arg(long, value_name = "DURATION", env = "KOBUNE_EVENT_TTL", default_value = "1h", value_parser = duration)]
    pub event_ttl: Duration,
    /// How long a request may take, watches and streams aside
    #[arg(long, value_name = "DURATION", env = "KOBUNE_REQUEST_TIMEOUT", default_value = "1m", value_parser = duration)]
    pub request_timeout: Duration,
}

impl ApiOptions {
    /// The lines that `kobune config show` prints.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("cluster-signing-duration", format_duration(self.cluster_signing_duration)),
            ("encrypt-secrets", self.encryption.encrypt_secrets.to_string()),
            ("encryption-provider-config", file(self.encryption.encryption_provider_config.as_deref())),
            ("audit-policy-file", file(self.audit_policy_file.as_deref())),
            ("audit-log-path", file(self.audit_log_path.as_deref())),
            ("audit-log-maxsize", self.audit_log_maxsize.to_string()),
            ("audit-log-maxbackup", self.audit_log_maxbackup.to_string()),
            ("audit-log-maxage", self.audit_log_maxage.to_string()),
            ("audit-webhook-config-file", file(self.audit_webhook_config_file.as_deref())),
            ("audit-webhook-batch-buffer-size", self.audit_webhook_batch_buffer_size.to_string()),
            ("audit-webhook-batch-max-size", self.audit_webhook_batch_max_size.to_string()),
            ("audit-webhook-batch-max-wait", format_duration(self.audit_webhook_batch_max_wait)),
            ("audit-webhook-initial-backoff", format_duration(self.audit_webhook_initial_backoff)),
            ("tracing-config-file", file(self.tracing_config_file.as_deref())),
            ("max-requests-inflight", self.max_requests_inflight.to_string()),
            ("max-mutating-requests-inflight", self.max_mutating_requests_inflight.to_string()),
            ("event-ttl", format_duration(self.event_ttl)),
            ("request-timeout", format_duration(self.request_timeout)),
        ];
        lines.extend(self.authentication.show());
        lines.extend(self.authorization.show());
        lines
    }

    /// Puts what was asked for into the API server's configuration.
    pub fn configure(&self, config: &mut kobune_apiserver::Config) -> Result<()> {
        config.max_requests_in_flight = self.max_requests_inflight;
        config.max_mutating_requests_in_flight = self.max_mutating_requests_inflight;
        config.request_timeout = self.request_timeout;
        config.event_ttl = self.event_ttl;
        if let Some(authentication) = self.authentication.load(&config.service_account_issuer)? {
            config.authentication = authentication;
        }
        config.token_webhook = self.authentication.token_webhook()?;
        config.authorization = self.authorization.load()?;
        config.tracer = self.tracing_config_file.as_deref().map(Tracer::load).transpose()?;
        if let Some(policy) = &self.audit_policy_file {
            let log = self.audit_log_path.clone().map(|path| LogOptions {
                path,
                max_bytes: u64::from(self.audit_log_maxsize) << 20,
                max_backups: self.audit_log_maxbackup,
                max_age: DAY * self.audit_log_maxage,
            });
            let webhook = self.audit_webhook_config_file.clone().map(|config_file| WebhookOptions {
                config_file,
                buffer_size: self.audit_webhook_batch_buffer_size,
                batch_max_size: self.audit_webhook_batch_max_size,
                batch_max_wait: self.audit_webhook_batch_max_wait,
                initial_backoff: self.audit_webhook_initial_backoff,
            });
            config.auditor = Some(Auditor::open(policy, log, webhook)?);
        }
        Ok(())
    }
}

fn file(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

/// A duration as Go writes it.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    kobune_apiserver::parse_duration(text).ok_or_else(|| "expected a duration such as 1h30m or 90s".to_owned())
}

pub(crate) fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}
