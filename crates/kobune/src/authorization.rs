//! Who may do what: the flags of kube-apiserver about authorizers, and the watch over their file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kobune_apiserver::{
    format_duration,
    security::{
        Authorization,
        authorizer::{ModeOptions, SubjectAccessReviewVersion},
    },
};
use kobune_node::FolderWatch;
use tokio_util::sync::CancellationToken;

use crate::api_options::duration;

/// The authorizers and their order.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authorization")]
pub struct AuthorizationOptions {
    /// Let the authorizers of this AuthorizationConfiguration decide, in its order; changes of the file are taken over
    #[arg(
        long,
        value_name = "FILE",
        env = "KOBUNE_AUTHORIZATION_CONFIG",
        conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"]
    )]
    pub authorization_config: Option<PathBuf>,
    /// The authorizers in their order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, value_name = "MODE", env = "KOBUNE_AUTHORIZATION_MODE", value_delimiter = ',', default_values = ["Node", "RBAC"])]
    pub authorization_mode: Vec<String>,
    /// The kubeconfig that leads to the webhook of the mode Webhook
    #[arg(long, value_name = "FILE", env = "KOBUNE_AUTHORIZATION_WEBHOOK_CONFIG_FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of the SubjectAccessReview that is posted to the webhook: v1 or v1beta1
    #[arg(
        long,
        value_name = "VERSION",
        env = "KOBUNE_AUTHORIZATION_WEBHOOK_VERSION",
        default_value = "v1beta1",
        value_parser = ["v1", "v1beta1"]
    )]
    pub authorization_webhook_version: String,
    /// How long the webhook's yes is good
    #[arg(
        long,
        value_name = "DURATION",
        env = "KOBUNE_AUTHORIZATION_WEBHOOK_CACHE_AUTHORIZED_TTL",
        default_value = "5m",
        value_parser = duration
    )]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long the webhook's no is good
    #[arg(
        long,
        value_name = "DURATION",
        env = "KOBUNE_AUTHORIZATION_WEBHOOK_CACHE_UNAUTHORIZED_TTL",
        default_value = "30s",
        value_parser = duration
    )]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

impl AuthorizationOptions {
    /// The lines that `kobune config show` prints.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let file = |value: &Option<PathBuf>| {
            value.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
        };
        let (allowed, refused) =
            (self.authorization_webhook_cache_authorized_ttl, self.authorization_webhook_cache_unauthorized_ttl);
        vec![
            ("authorization-config", file(&self.authorization_config)),
            ("authorization-mode", format!("[{}]", self.authorization_mode.join(", "))),
            ("authorization-webhook-config-file", file(&self.authorization_webhook_config_file)),
            ("authorization-webhook-version", self.authorization_webhook_version.clone()),
            ("authorization-webhook-cache-authorized-ttl", format_duration(allowed)),
            ("authorization-webhook-cache-unauthorized-ttl", format_duration(refused)),
        ]
    }

    /// The authorizers.
    pub fn load(&self) -> Result<Arc<Authorization>> {
        let authorization = match &self.authorization_config {
            Some(path) => Authorization::load(path.clone()).context("use the authorizers of the configuration")?,
            None => {
                let version = SubjectAccessReviewVersion::parse(&self.authorization_webhook_version);
                Authorization::of_modes(&ModeOptions {
                    modes: self.authorization_mode.clone(),
                    webhook_config_file: self.authorization_webhook_config_file.clone(),
                    webhook_version: version.context("--authorization-webhook-version is neither v1 nor v1beta1")?,
                    webhook_keep_allowed: self.authorization_webhook_cache_authorized_ttl,
                    webhook_keep_refused: self.authorization_webhook_cache_unauthorized_ttl,
                })?
            }
        };
        Ok(Arc::new(authorization))
    }
}

/// Takes over what changes in the file of the authorizers, until the end; returns at once where there is no file.
pub async fn follow(authorization: Arc<Authorization>, token: CancellationToken) -> Result<()> {
    let Some(file) = authorization.file() else { return Ok(()) };
    // The folder and not the file: editors and mounted ConfigMaps put a new file in its place.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| ".".as_ref());
    let watch = FolderWatch::new(folder).with_context(|| format!("watch {}", folder.display()))?;
    loop {
        let again = Arc::clone(&authorization);
        // Reading small files takes no time, but a folder may lie on a network.
        match tokio::task::spawn_blocking(move || again.reload()).await.context("read the authorizers again")? {
            Ok(true) => tracing::info!(file = %file.display(), "other authorizers decide from now on"),
            Ok(false) => {}
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!(error = format!("{error:#}"), "the authorizers stay as they were");
            }
        }
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            // Dropping the wait loses nothing: the file is read anew after the next change, whatever it was.
            changed = watch.changed() => changed.context("watch the authorizers")?,
        }
    }
}
