//! Kubernetes' controllers, each an ordinary client of the API.
//!
//! One file a controller. A controller decides in a pure function (`plan`) over what the shared caches (`informer`) hold, and a
//! thin pass carries the decision out. Events only put keys into a `queue`; a pass takes no hint.

mod attach_detach;
mod bootstrap_tokens;
mod certificates;
mod clock;
mod cluster_role_aggregation;
mod context;
mod cron_job;
mod csi;
mod csr_approving;
mod csr_cleaner;
mod csr_signing;
mod daemon_set;
mod deployment;
mod device_taint_eviction;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod garbage_collector;
mod hash;
mod horizontal_pod_autoscaler;
mod informer;
mod job;
mod legacy_token_cleaner;
mod local_provisioner;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod object;
mod ownership;
mod persistent_volume;
mod pod;
mod pod_control;
mod pod_garbage_collector;
mod queue;
mod replica_set;
mod resource_claim;
mod resource_quota;
mod revisions;
mod root_ca;
mod scale;
mod selection;
mod service_account;
mod service_account_tokens;
mod service_cidr;
mod service_endpoints;
mod service_load_balancer;
mod share;
#[cfg(test)]
mod simulation;
mod slice_packing;
mod stateful_set;
mod taint_eviction;
mod topology_hints;
mod ttl_after_finished;
mod volume_protection;
mod zone_disruption;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kobune_pki::{Authority, ServiceAccountTokens};
use kobune_scheduler::recorder::Recorder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Caches, Context, Touched};
pub use crate::selection::{Selection, Unknown};

/// What the controllers need to know about the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range that nodes get their `spec.podCIDR` from, for example `10.244.0.0/16`; several are separated by commas.
    pub cluster_cidr: String,
    /// The prefix length of one node's IPv4 pod range.
    pub node_cidr_mask_size: u8,
    /// The ranges of the node that runs in this process: nobody else gets them, also before that node is there.
    pub own_pod_cidrs: Vec<String>,
    /// The cluster's certificate authority, published as ConfigMap `kube-root-ca.crt` in each namespace.
    pub root_ca_pem: String,
    /// The authority that signs approved signing requests; without it nothing signs them here.
    pub authority: Option<Arc<Authority>>,
    /// How long a signed certificate is valid at most.
    pub cluster_signing_duration: Duration,
    /// A kubeconfig without credentials that leads to this cluster, published as ConfigMap `cluster-info`.
    pub cluster_info: Option<String>,
    /// Which controllers run.
    pub controllers: Selection,
    /// What signs the tokens in Secrets of type `kubernetes.io/service-account-token`; without it they stay empty.
    pub service_account_tokens: Option<Arc<ServiceAccountTokens>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: "10.244.0.0/16".to_owned(),
            node_cidr_mask_size: 24,
            own_pod_cidrs: Vec::new(),
            root_ca_pem: String::new(),
            authority: None,
            cluster_signing_duration: Duration::from_secs(365 * 24 * 60 * 60),
            cluster_info: None,
            controllers: Selection::default(),
            service_account_tokens: None,
        }
    }
}

/// What ends the controllers before they are asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured cluster range is not an address range.
    #[error("cluster CIDR {value:?} is not valid")]
    ClusterCidr {
        /// What was configured.
        value: String,
    },
}

/// Runs all controllers until `token` is cancelled.
pub async fn run(client: kube::Client, config: Config, token: CancellationToken) -> Result<(), Error> {
    let (recorder, writer) = Recorder::new(client.clone(), "kube-controller-manager");
    let context = Arc::new(Context {
        client,
        config,
        caches: Caches::default(),
        touched: Touched::default(),
        recorder,
        token: token.clone(),
        tasks: TaskTracker::new(),
    });
    context.spawn("events", writer);
    namespace::start(&context);
    service_account::start(&context);
    root_ca::start(&context);
    cluster_role_aggregation::start(&context);
    deployment::start(&context);
    replica_set::start(&context);
    stateful_set::start(&context);
    daemon_set::start(&context);
    job::start(&context);
    cron_job::start(&context);
    ttl_after_finished::start(&context);
    horizontal_pod_autoscaler::start(&context);
    disruption::start(&context);
    resource_quota::start(&context);
    endpoint_slice::start(&context);
    endpoints::start(&context);
    endpoint_slice_mirroring::start(&context);
    service_cidr::start(&context);
    service_load_balancer::start(&context);
    node_lifecycle::start(&context);
    node_ipam::start(&context)?;
    taint_eviction::start(&context);
    pod_garbage_collector::start(&context);
    persistent_volume::start(&context);
    volume_protection::start(&context);
    ephemeral_volume::start(&context);
    let device_claims = resource_claim::Claims::default();
    resource_claim::start(&context, &device_claims);
    device_taint_eviction::start(&context, &device_claims);
    resource_claim::follow(&context, &device_claims);
    local_provisioner::start(&context);
    attach_detach::start(&context);
    csi::start(&context);
    garbage_collector::start(&context);
    bootstrap_tokens::start(&context);
    let token_secrets = service_account_tokens::Known::default();
    if let Some(tokens) = &context.config.service_account_tokens {
        service_account_tokens::start(&context, &token_secrets, tokens.clone());
    }
    legacy_token_cleaner::start(&context, &token_secrets);
    token_secrets.follow(&context);
    let requests = Arc::<certificates::Requests>::default();
    csr_approving::start(&context, &requests);
    csr_cleaner::start(&context, &requests);
    if let Some(authority) = &context.config.authority {
        csr_signing::start(&context, &requests, authority.clone());
    }
    context.follow_some::<CertificateSigningRequest, _>(
        "certificatesigningrequests",
        kube::runtime::watcher::Config::default(),
        &requests,
    );
    context.follow_all();
    token.cancelled().await;
    context.tasks.close();
    context.tasks.wait().await;
    Ok(())
}
