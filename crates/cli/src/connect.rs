//! Which cluster a command speaks to: kubectl's flags over the kubeconfig that kubectl would read.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::proxy::settle_proxy;

/// The flags that choose a cluster and a user, spelled as kubectl spells them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ConnectOptions {
    /// The kubeconfig to use [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster of the kubeconfig to use
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The user of the kubeconfig to use
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The address of the API server, in place of the kubeconfig's
    #[arg(short, long, value_name = "URL")]
    pub server: Option<String>,
    /// A bearer token, in place of the kubeconfig's user
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Act as this user
    #[arg(long = "as", value_name = "USER")]
    pub impersonate: Option<String>,
    /// Act as a member of these groups
    #[arg(long = "as-group", value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
}

/// A cluster that can be spoken to.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: kube::Client,
    /// The API server's address.
    pub url: String,
    /// The kubeconfig's context, where there is one.
    pub context: Option<String>,
    /// The namespace that the context names.
    pub namespace: Option<String>,
}

impl ConnectOptions {
    /// The settings and the context that these flags and the kubeconfig come to.
    pub async fn config(&self) -> Result<(kube::Config, Option<String>, Option<String>)> {
        let kubeconfig = match &self.kubeconfig {
            Some(path) => {
                Some(Kubeconfig::read_from(path).with_context(|| format!("read the kubeconfig {}", path.display()))?)
            }
            None => match Kubeconfig::read() {
                Ok(kubeconfig) => Some(kubeconfig),
                Err(KubeconfigError::FindPath) => None,
                Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error).context("read the kubeconfig"),
            },
        };
        let Some(mut kubeconfig) = kubeconfig else {
            let mut config = match &self.server {
                Some(server) => kube::Config::new(server.parse().with_context(|| format!("--server {server}"))?),
                None => kube::Config::incluster()
                    .map_err(|_| anyhow!("there is no kubeconfig: set KUBECONFIG or give --kubeconfig FILE"))?,
            };
            if let Some(token) = &self.token {
                config.auth_info.token = Some(token.clone().into());
            }
            return Ok((config, None, None));
        };
        let context = self.context.clone().or_else(|| kubeconfig.current_context.clone());
        let named = kubeconfig.contexts.iter_mut().find(|named| Some(&named.name) == context.as_ref());
        let namespace =
            named.and_then(|named| named.context.as_mut()?.namespace.clone()).filter(|name| !name.is_empty());
        if let Some(server) = &self.server {
            for named in &mut kubeconfig.clusters {
                if let Some(cluster) = &mut named.cluster {
                    cluster.server = Some(server.clone());
                }
            }
        }
        for named in &mut kubeconfig.auth_infos {
            let Some(user) = &mut named.auth_info else {
                continue;
            };
            if let Some(token) = &self.token {
                *user = kube::config::AuthInfo { token: Some(token.clone().into()), ..Default::default() };
            }
            if self.impersonate.is_some() {
                user.impersonate.clone_from(&self.impersonate);
            }
            if !self.impersonate_groups.is_empty() {
                user.impersonate_groups = Some(self.impersonate_groups.clone());
            }
        }
        let options =
            KubeConfigOptions { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context("use the kubeconfig")?;
        settle_proxy(&mut config);
        Ok((config, context, namespace))
    }

    /// A client of that cluster.
    pub async fn connect(&self) -> Result<Cluster> {
        self.connect_with(true).await
    }

    /// The same, which tries nothing again by itself: for whoever has to know of a refusal that may pass.
    pub async fn connect_once(&self) -> Result<Cluster> {
        self.connect_with(false).await
    }

    async fn connect_with(&self, again: bool) -> Result<Cluster> {
        let (mut config, context, namespace) = self.config().await?;
        config.default_retry = again;
        let url = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).context("make a client of the cluster")?;
        Ok(Cluster { client, url: url.trim_end_matches('/').to_owned(), context, namespace })
    }
}
