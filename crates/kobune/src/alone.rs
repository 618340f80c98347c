//! `kobune controllers` and `kobune scheduler`: one part alone, as a client of an API server that is elsewhere and need not be
//! kobune's.
//!
//! Each works while it holds the lease that upstream's of the same name holds, so that several may stand by, and upstream's among
//! them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::election::Candidate;
use crate::scheduler_options::SchedulerOptions;
use crate::settings::texts;
use crate::user_agent;

/// The flags of `controllers`.
#[derive(Debug, Clone, Args)]
pub struct ControllersOptions {
    /// How the API server is reached, and in whose name
    #[arg(long, value_name = "FILE", env = "KOBUNE_KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// The addresses of pods: one range, or one of each family; each node gets a part of them
    #[arg(
        long,
        value_name = "CIDR",
        env = "KOBUNE_CLUSTER_CIDR",
        default_value = "10.244.0.0/16",
        value_delimiter = ','
    )]
    pub cluster_cidr: Vec<ipnet::IpNet>,
}

/// The flags of `scheduler`.
#[derive(Debug, Clone, Args)]
pub struct SchedulerAloneOptions {
    /// How the API server is reached, and in whose name
    #[arg(long, value_name = "FILE", env = "KOBUNE_KUBECONFIG")]
    pub kubeconfig: PathBuf,
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
}

/// A client of a part as the file says, and the authority that it trusts.
async fn client(path: &Path, part: &str) -> Result<(kube::Client, String)> {
    let kubeconfig = kube::config::Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .with_context(|| format!("use {}", path.display()))?;
    kobune_cli::settle_proxy(&mut config);
    config.headers.push((http::header::USER_AGENT, user_agent::of_part(part)));
    let root = config.root_cert.as_ref().and_then(|roots| roots.first());
    let authority = root.map(|root| kobune_pki::certificate_pem(root)).unwrap_or_default();
    Ok((kube::Client::try_from(config).context("make a client of the cluster")?, authority))
}

/// A candidate for a lease, named after this machine and process.
fn candidate(client: kube::Client, lease: &'static str) -> Result<Candidate> {
    let host = nix::unistd::gethostname().context("read the host name")?;
    let identity = format!("{}_{}", host.to_string_lossy(), uuid::Uuid::new_v4());
    Ok(Candidate::new(client, lease, identity, None))
}

/// Runs the controllers until `token` is cancelled. What needs the keys of the cluster stays undone: nobody signs
/// certificates and tokens here.
pub async fn controllers(options: ControllersOptions, token: CancellationToken) -> Result<()> {
    let (client, root_ca_pem) = client(&options.kubeconfig, "kube-controller-manager").await?;
    let config = kobune_controllers::Config {
        cluster_cidr: texts(&options.cluster_cidr),
        root_ca_pem,
        ..kobune_controllers::Config::default()
    };
    let candidate = candidate(client.clone(), "kube-controller-manager")?;
    let work = move |term| {
        let run = kobune_controllers::run(client.clone(), config.clone(), term);
        async { run.await.context("controllers") }
    };
    candidate.run(token, work).await
}

/// Runs the scheduler until `token` is cancelled.
pub async fn scheduler(options: SchedulerAloneOptions, token: CancellationToken) -> Result<()> {
    let config = options.scheduler.config()?;
    let (client, _) = client(&options.kubeconfig, "kube-scheduler").await?;
    let candidate = candidate(client.clone(), "kube-scheduler")?;
    let work = move |term| {
        let run = kobune_scheduler::run(client.clone(), config.clone(), term);
        async { run.await.context("scheduler") }
    };
    candidate.run(token, work).await
}
