//! Who else may say who users are: the flags of kube-apiserver about other issuers of tokens.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kobune_apiserver::{
    format_duration,
    security::{
        TokenWebhook,
        jwt::{Authentication, OidcOptions},
    },
};

use crate::api_options::duration;

/// The issuers of tokens beside the cluster itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authentication")]
pub struct AuthenticationOptions {
    /// Let the issuers of tokens that this AuthenticationConfiguration describes say who users are
    #[arg(long, value_name = "FILE", env = "KOBUNE_AUTHENTICATION_CONFIG", conflicts_with = "oidc_issuer_url")]
    pub authentication_config: Option<PathBuf>,
    /// Let this OpenID Connect issuer say who users are
    #[arg(long, value_name = "URL", env = "KOBUNE_OIDC_ISSUER_URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// For whom the issuer's tokens must be
    #[arg(long, value_name = "AUDIENCE", env = "KOBUNE_OIDC_CLIENT_ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// The certificate authority of the issuer's own server [default: those that the machine knows]
    #[arg(long, value_name = "FILE", env = "KOBUNE_OIDC_CA_FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,
    /// The claim that is the user's name
    #[arg(long, value_name = "CLAIM", env = "KOBUNE_OIDC_USERNAME_CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// What stands before the name, - for nothing [default: the issuer and #, nothing before addresses]
    #[arg(long, value_name = "PREFIX", env = "KOBUNE_OIDC_USERNAME_PREFIX", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// The claim that lists the user's groups
    #[arg(long, value_name = "CLAIM", env = "KOBUNE_OIDC_GROUPS_CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// What stands before the groups
    #[arg(long, value_name = "PREFIX", env = "KOBUNE_OIDC_GROUPS_PREFIX")]
    pub oidc_groups_prefix: Option<String>,
    /// A claim that tokens must have with this value; may be given several times
    #[arg(long, value_name = "CLAIM=VALUE", env = "KOBUNE_OIDC_REQUIRED_CLAIM", value_delimiter = ',', value_parser = claim)]
    pub oidc_required_claim: Vec<(String, String)>,
    /// How the issuer's tokens may be signed
    #[arg(
        long,
        value_name = "ALGORITHM",
        env = "KOBUNE_OIDC_SIGNING_ALGS",
        value_delimiter = ',',
        default_value = "RS256"
    )]
    pub oidc_signing_algs: Vec<String>,
    /// Ask the webhook that this kubeconfig leads to about tokens that nobody else knows
    #[arg(long, value_name = "FILE", env = "KOBUNE_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long what the webhook says of a token is good
    #[arg(
        long,
        value_name = "DURATION",
        env = "KOBUNE_AUTHENTICATION_TOKEN_WEBHOOK_CACHE_TTL",
        default_value = "2m",
        value_parser = duration
    )]
    pub authentication_token_webhook_cache_ttl: Duration,
}

impl AuthenticationOptions {
    /// The lines that `kobune config show` prints.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let file = |value: &Option<PathBuf>| {
            value.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
        };
        let required: Vec<String> =
            self.oidc_required_claim.iter().map(|(claim, value)| format!("{claim}={value}")).collect();
        vec![
            ("authentication-config", file(&self.authentication_config)),
            ("oidc-issuer-url", text(&self.oidc_issuer_url)),
            ("oidc-client-id", text(&self.oidc_client_id)),
            ("oidc-ca-file", file(&self.oidc_ca_file)),
            ("oidc-username-claim", self.oidc_username_claim.clone()),
            ("oidc-username-prefix", text(&self.oidc_username_prefix)),
            ("oidc-groups-claim", text(&self.oidc_groups_claim)),
            ("oidc-groups-prefix", text(&self.oidc_groups_prefix)),
            ("oidc-required-claim", format!("[{}]", required.join(", "))),
            ("oidc-signing-algs", format!("[{}]", self.oidc_signing_algs.join(", "))),
            ("authentication-token-webhook-config-file", file(&self.authentication_token_webhook_config_file)),
            ("authentication-token-webhook-cache-ttl", format_duration(self.authentication_token_webhook_cache_ttl)),
        ]
    }

    /// Who is asked about tokens that nobody else knows, if anybody is.
    pub fn token_webhook(&self) -> Result<Option<Arc<TokenWebhook>>> {
        let Some(path) = &self.authentication_token_webhook_config_file else { return Ok(None) };
        let webhook = TokenWebhook::load(path, self.authentication_token_webhook_cache_ttl);
        Ok(Some(Arc::new(webhook.context("use the webhook of tokens")?)))
    }

    /// The issuers, if there are any. `own` is the issuer of this cluster's own tokens.
    pub fn load(&self, own: &str) -> Result<Option<Arc<Authentication>>> {
        if let Some(path) = &self.authentication_config {
            return Ok(Some(Authentication::load(path, own)?));
        }
        let (Some(issuer_url), Some(client_id)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            return Ok(None);
        };
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        let options = OidcOptions {
            issuer_url: issuer_url.clone(),
            client_id: client_id.clone(),
            certificate_authority: self.oidc_ca_file.as_ref().map(read).transpose()?,
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims: self.oidc_required_claim.clone(),
            signing_algs: self.oidc_signing_algs.clone(),
        };
        Ok(Some(Authentication::of_flags(&options, own).context("use the OpenID Connect issuer")?))
    }
}

fn claim(text: &str) -> std::result::Result<(String, String), String> {
    let (claim, value) = text.split_once('=').ok_or("expected CLAIM=VALUE")?;
    Ok((claim.to_owned(), value.to_owned()))
}
