//! `kobune controllers` and `kobune scheduler`: one part alone, as a client of an API server that is elsewhere and need not be
//! kobune's.
//!
//! Each works while it holds the lease that upstream's of the same name holds, so that several may stand by, and upstream's among
//! them. Flags have upstream's names and meanings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kobune_controllers::Selection;
use tokio_util::sync::CancellationToken;

use crate::api_options::at_least_one;
use crate::election::Candidate;
use crate::leader_options::LeaderOptions;
use crate::scheduler_options::SchedulerOptions;
use crate::settings::texts;
use crate::user_agent;

/// The flags of `controllers`.
#[derive(Debug, Clone, Args)]
#[command(after_help = controller_names())]
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
    /// The prefix length of each node's part of an IPv4 range
    #[arg(
        long,
        value_name = "LENGTH",
        env = "KOBUNE_NODE_CIDR_MASK_SIZE",
        default_value_t = 24,
        value_parser = clap::value_parser!(u8).range(1..=32)
    )]
    pub node_cidr_mask_size: u8,
    /// Which controllers run: * for all, NAME for one, -NAME for all but one; the names are below
    #[arg(
        long,
        value_name = "NAME",
        env = "KOBUNE_CONTROLLERS",
        default_value = "*",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub controllers: Vec<String>,
    #[command(flatten)]
    pub concurrent: ConcurrentOptions,
    #[command(flatten)]
    pub leader: LeaderOptions,
}

/// How many objects are looked at a time, where upstream has a flag for it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Objects that are looked at a time [default: 5 of each kind]")]
pub struct ConcurrentOptions {
    /// CronJobs
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_cron_job_syncs: Option<usize>,
    /// DaemonSets
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_daemonset_syncs: Option<usize>,
    /// Deployments
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_deployment_syncs: Option<usize>,
    /// Services, for Endpoints
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_endpoint_syncs: Option<usize>,
    /// Pods with ephemeral volumes
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_ephemeralvolume_syncs: Option<usize>,
    /// HorizontalPodAutoscalers
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_horizontal_pod_autoscaler_syncs: Option<usize>,
    /// Jobs
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_job_syncs: Option<usize>,
    /// Namespaces that end
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_namespace_syncs: Option<usize>,
    /// ReplicationControllers
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_rc_syncs: Option<usize>,
    /// ReplicaSets
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_replicaset_syncs: Option<usize>,
    /// ResourceQuotas
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_resource_quota_syncs: Option<usize>,
    /// Services, for EndpointSlices
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_service_endpoint_syncs: Option<usize>,
    /// Secrets with tokens of service accounts
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_serviceaccount_token_syncs: Option<usize>,
    /// StatefulSets
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_statefulset_syncs: Option<usize>,
    /// What has a time to live after it has finished
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub concurrent_ttl_after_finished_syncs: Option<usize>,
}

impl ConcurrentOptions {
    /// Each number with the controller that it is for.
    fn each(&self) -> [(&'static str, Option<usize>); 15] {
        [
            ("cronjob-controller", self.concurrent_cron_job_syncs),
            ("daemonset-controller", self.concurrent_daemonset_syncs),
            ("deployment-controller", self.concurrent_deployment_syncs),
            ("endpoints-controller", self.concurrent_endpoint_syncs),
            ("ephemeral-volume-controller", self.concurrent_ephemeralvolume_syncs),
            ("horizontal-pod-autoscaler-controller", self.concurrent_horizontal_pod_autoscaler_syncs),
            ("job-controller", self.concurrent_job_syncs),
            ("namespace-controller", self.concurrent_namespace_syncs),
            ("replicationcontroller-controller", self.concurrent_rc_syncs),
            ("replicaset-controller", self.concurrent_replicaset_syncs),
            ("resourcequota-controller", self.concurrent_resource_quota_syncs),
            ("endpointslice-controller", self.concurrent_service_endpoint_syncs),
            ("serviceaccount-token-controller", self.concurrent_serviceaccount_token_syncs),
            ("statefulset-controller", self.concurrent_statefulset_syncs),
            ("ttl-after-finished-controller", self.concurrent_ttl_after_finished_syncs),
        ]
    }
}

impl ControllersOptions {
    /// Which controllers run, and how many objects each looks at a time.
    fn selection(&self) -> Result<Selection> {
        let mut selection = Selection::parse(self.controllers.iter().map(String::as_str)).context("--controllers")?;
        for (controller, number) in self.concurrent.each() {
            if let Some(number) = number {
                selection.set_workers(controller, number).context("how many objects are looked at a time")?;
            }
        }
        Ok(selection)
    }
}

/// The names that `--controllers` takes, for the help.
pub fn controller_names() -> String {
    format!("Controllers: {}", Selection::names().collect::<Vec<_>>().join(", "))
}

/// The flags of `scheduler`.
#[derive(Debug, Clone, Args)]
pub struct SchedulerAloneOptions {
    /// How the API server is reached, and in whose name
    #[arg(long, value_name = "FILE", env = "KOBUNE_KUBECONFIG")]
    pub kubeconfig: PathBuf,
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    #[command(flatten)]
    pub leader: LeaderOptions,
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

/// Does the work while the lease is held by this machine and process, or at once where nobody is to be elected.
async fn lead<F>(
    client: kube::Client,
    options: &LeaderOptions,
    lease: &str,
    token: CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let terms = options.terms(lease)?;
    if !options.leader_elect {
        return work(token).await;
    }
    let host = nix::unistd::gethostname().context("read the host name")?;
    let identity = format!("{}_{}", host.to_string_lossy(), uuid::Uuid::new_v4());
    Candidate::new(client, terms, identity, None).run(token, work).await
}

/// Runs the controllers until `token` is cancelled. What needs the keys of the cluster stays undone: nobody signs
/// certificates and tokens here.
pub async fn controllers(options: ControllersOptions, token: CancellationToken) -> Result<()> {
    let controllers = options.selection()?;
    let (client, root_ca_pem) = client(&options.kubeconfig, "kube-controller-manager").await?;
    let config = kobune_controllers::Config {
        cluster_cidr: texts(&options.cluster_cidr),
        node_cidr_mask_size: options.node_cidr_mask_size,
        controllers,
        root_ca_pem,
        ..kobune_controllers::Config::default()
    };
    let own = client.clone();
    let work = move |term| {
        let run = kobune_controllers::run(client.clone(), config.clone(), term);
        async { run.await.context("controllers") }
    };
    lead(own, &options.leader, "kube-controller-manager", token, work).await
}

/// Runs the scheduler until `token` is cancelled.
pub async fn scheduler(options: SchedulerAloneOptions, token: CancellationToken) -> Result<()> {
    let config = options.scheduler.config()?;
    let (client, _) = client(&options.kubeconfig, "kube-scheduler").await?;
    let own = client.clone();
    let work = move |term| {
        let run = kobune_scheduler::run(client.clone(), config.clone(), term);
        async { run.await.context("scheduler") }
    };
    lead(own, &options.leader, "kube-scheduler", token, work).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: ControllersOptions,
    }

    #[test]
    fn flags_of_controllers() {
        let check = |words: &[&str], expected: Result<(), &str>| {
            let line = ["x", "--kubeconfig=f"].iter().chain(words).copied();
            let found = match Line::try_parse_from(line) {
                Ok(line) => line.options.selection().map(drop).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.to_string()),
            };
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(found), Err(part)) if found.contains(part) => {}
                _ => panic!("{words:?}: {found:?}"),
            }
        };
        check(&[], Ok(()));
        check(&["--controllers=*,-nodeipam,-node-lifecycle-controller"], Ok(()));
        check(&["--controllers", "-nodeipam,*"], Ok(()));
        check(&["--controllers=*,-nobody"], Err("\"nobody\" is not in the list of known controllers"));
        check(&["--concurrent-deployment-syncs=0"], Err("expected a whole number above 0"));
        check(&["--node-cidr-mask-size=33"], Err("33 is not in 1..=32"));
        let line = Line::parse_from(["x", "--kubeconfig=f", "--concurrent-job-syncs=12"]);
        let mut expected = Selection::default();
        expected.set_workers("job-controller", 12).expect("a name");
        assert_eq!(line.options.selection().expect("a selection"), expected);
        // Every flag is about a controller that there is.
        for (controller, _) in line.options.concurrent.each() {
            Selection::default().set_workers(controller, 1).expect("a name");
        }
    }
}
