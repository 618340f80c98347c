//! Commands that are clients of the API like any other: they take any kubeconfig and know nothing of kobune's inside.

mod apply;
mod apply_set;
mod batch;
mod build;
mod connect;
mod discovery;
mod download;
mod duration;
mod fields;
mod history;
mod jsonpath;
mod manifests;
mod namespace;
mod object;
mod order;
mod plan;
mod proxy;
mod readiness;
mod request;
mod style;
mod sync;
mod table;
mod take_over;
mod targets;
mod token;
mod verbs;

use std::path::Path;

use anyhow::{Context, Result};

pub use apply::{ApplyOptions, apply};
pub use build::{BuildOptions, build};
pub use connect::ConnectOptions;
pub use history::{HistoryOptions, RollbackOptions, history, rollback};
pub use plan::{PlanOptions, plan};
pub use proxy::settle_proxy;
pub use sync::{Account, Connect, SyncOptions, SyncSettings, connect_in_process, run as run_sync, sync};
pub use token::{TokenCommand, token};
pub use verbs::{
    ApiResourcesOptions, ApiVersionsOptions, AuthCommand, ClusterInfoOptions, CompletionOptions, CreateOptions,
    DeleteOptions, DescribeOptions, ExplainOptions, GetOptions, KubeconfigCommand, LogsOptions, ScaleOptions,
    VersionOptions, api_resources, api_versions, auth, cluster_info, complete, completion, create, delete, describe,
    explain, get, kubeconfig, logs, scale, version,
};
pub use verbs::{AttachOptions, CpOptions, ExecOptions, PortForwardOptions, attach, cp, exec, port_forward};
pub use verbs::{
    AutoscaleOptions, CertificateCommand, ExposeOptions, ReplaceOptions, autoscale, certificate, expose, replace,
};
pub use verbs::{
    CordonOptions, DrainOptions, MarkOptions, PatchOptions, annotate, cordon, drain, label, patch, uncordon,
};
pub use verbs::{DiffOptions, EditOptions, diff, edit};
pub use verbs::{EventsOptions, TopCommand, events, top};
pub use verbs::{RolloutCommand, WaitOptions, rollout, wait};
pub use verbs::{RunOptions, SetCommand, TaintOptions, run, set, taint};

/// The settings of a kubeconfig, or of the place where kubectl would look.
async fn config(kubeconfig: Option<&Path>) -> Result<kube::Config> {
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig =
                kube::config::Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?
        }
        None => kube::Config::infer().await.context("find a kubeconfig: set KUBECONFIG or give --kubeconfig")?,
    };
    settle_proxy(&mut config);
    Ok(config)
}

/// A client of the cluster that a kubeconfig names.
async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client> {
    kube::Client::try_from(config(kubeconfig).await?).context("make a client of the cluster")
}
