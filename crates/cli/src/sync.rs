//! `kobune sync`: keeps objects of a cluster as git repositories have them, with the engine of `kobune apply`.
//!
//! A [`Sync`](spec::Spec) names a repository, a branch, a tag or a commit, and a folder. The controller looks at both ends now and
//! then, and at once when it is told to; it compares, applies, waits and prunes as `kobune apply --applyset sync-NAME
//! --prune` does, so `kobune plan`, `history` and `rollback` work on the same set. What it finds stands in the Sync's
//! conditions and in events. It runs in the server (`kobune up --sync`) or alone against any cluster.

mod controller;
mod credentials;
mod members;
mod pass;
mod render;
mod repository;
mod spec;
mod status;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use http::Method;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connect::{Cluster, ConnectOptions};
use crate::request;

pub use pass::{Account, Connect};

/// How many repositories are fetched and compared at once: one uses the processor while another waits for the network.
const AT_ONCE: usize = 2;

/// What a controller may do, wherever it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Syncs")]
pub struct SyncSettings {
    /// Refuse Syncs that name no service account, so that nothing is done with the controller's own rights
    #[arg(long, env = "KOBUNE_SYNC_REQUIRE_SERVICE_ACCOUNT")]
    pub sync_require_service_account: bool,
    /// Let kustomizations fetch bases from other places than the repository itself
    #[arg(long, env = "KOBUNE_SYNC_ALLOW_REMOTE_BASES")]
    pub sync_allow_remote_bases: bool,
    /// Allow repositories in folders of this machine (file://) and such without encryption (http://)
    #[arg(long, env = "KOBUNE_SYNC_ALLOW_LOCAL_REPOSITORIES")]
    pub sync_allow_local_repositories: bool,
    /// The most that a repository may have, in MB
    #[arg(long, value_name = "MB", env = "KOBUNE_SYNC_LARGEST_REPOSITORY", default_value_t = 512)]
    pub sync_largest_repository: u64,
}

/// The flags of `sync`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:

  apiVersion: kobune.dev/v1alpha1
  kind: Sync
  metadata: {name: shop, namespace: shop}
  spec:
    source: {url: https://git.example.com/shop/deploy, branch: main, path: overlays/production}
    serviceAccountName: deployer

`kobune get syncs -A` shows how they are; `kobune history sync-shop -n shop` lists what was applied.")]
pub struct SyncOptions {
    /// Tend only the Syncs of this namespace
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Where copies of repositories are kept [default: kobune-sync below XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Print the definition of the kind Sync and end; otherwise it is applied at the start
    #[arg(long)]
    pub print_definition: bool,
    /// What it may do.
    #[command(flatten)]
    pub settings: SyncSettings,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

/// Tends Syncs until the token is cancelled.
pub async fn sync(options: SyncOptions, token: CancellationToken) -> Result<()> {
    if options.print_definition {
        print!("{}", spec::DEFINITION);
        return Ok(());
    }
    let (config, context, _) = options.connect.config().await?;
    let connect: Connect = Arc::new(move |account| {
        let mut config = config.clone();
        if let Some((namespace, name)) = account {
            config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{name}"));
            config.auth_info.impersonate_groups = Some(groups(namespace));
        }
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = kube::Client::try_from(config).context("make a client of the cluster")?;
        Ok(Cluster { client, url, context: context.clone(), namespace: None })
    });
    let cache = match options.cache_dir {
        Some(folder) => folder,
        None => default_cache()?,
    };
    run(connect, &options.settings, &cache, options.namespace, token).await
}

/// Clients of a server in the same process: `client_as` makes one for a user and its groups.
pub fn connect_in_process(
    url: String,
    own: kube::Client,
    client_as: impl Fn(&str, &[&str]) -> kube::Client + Send + Sync + 'static,
) -> Connect {
    Arc::new(move |account| {
        let client = match account {
            Some((namespace, name)) => {
                let groups = groups(namespace);
                let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                client_as(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
            }
            None => own.clone(),
        };
        Ok(Cluster { client, url: url.clone(), context: None, namespace: None })
    })
}

/// The groups of a namespace's service accounts.
fn groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ]
}

fn default_cache() -> Result<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = given.or_else(home).context("there is no home folder: give --cache-dir")?;
    Ok(folder.join("kobune-sync"))
}

/// Tends Syncs: all, or those of a namespace.
pub async fn run(
    connect: Connect,
    settings: &SyncSettings,
    cache: &Path,
    namespace: Option<String>,
    token: CancellationToken,
) -> Result<()> {
    let own = connect(None)?.client;
    let protocols = if settings.sync_allow_local_repositories { "https:ssh:http:file" } else { "https:ssh" };
    let context = pass::Context {
        connect,
        own: own.clone(),
        cache: cache.to_owned(),
        bounds: repository::Bounds {
            largest: settings.sync_largest_repository.max(1) << 20,
            protocols: protocols.to_owned(),
        },
        remote_bases: settings.sync_allow_remote_bases,
        account_required: settings.sync_require_service_account,
        at_once: Semaphore::new(AT_ONCE),
    };
    // One thread for all Syncs: they wait most of the time, and what computes runs elsewhere.
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let tend = async {
            tokio::select! {
                defined = define(&own) => defined?,
                () = token.cancelled() => return Ok(()),
            }
            controller::run(Arc::new(context), namespace, token).await;
            Ok(())
        };
        runtime.block_on(tokio::task::LocalSet::new().run_until(tend))
    });
    work.await.context("the thread of Syncs")?
}

/// Puts the definition of the kind into the cluster, or brings it up to date. A server that does not answer is waited for.
async fn define(client: &kube::Client) -> Result<()> {
    let definition = crate::manifests::parse("definition.yaml", spec::DEFINITION)?;
    let definition: &Value = &definition.first().context("there is a definition")?.value;
    let path = format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/syncs.{}?fieldManager={}&force=true",
        spec::GROUP,
        spec::MANAGER
    );
    let mut failures = 0;
    loop {
        match request::write(client, Method::PATCH, &path, request::APPLY, definition).await {
            Ok(_) => return Ok(()),
            Err(error)
                if error.status().is_some_and(|status| (400..500).contains(&status.code) && status.code != 429) =>
            {
                return Err(error).context("define the kind Sync");
            }
            Err(error) => {
                failures += 1;
                tracing::warn!("the kind Sync cannot be defined yet: {error}");
                tokio::time::sleep(pass::patience(failures, std::time::Duration::from_secs(60))).await;
            }
        }
    }
}

/// The path of a Sync.
fn path_of(sync: &Value) -> String {
    let text = |field: &str| request::query(sync["metadata"][field].as_str().unwrap_or_default());
    format!("/apis/{}/{}/namespaces/{}/syncs/{}", spec::GROUP, spec::VERSION, text("namespace"), text("name"))
}
