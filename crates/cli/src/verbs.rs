//! Everyday verbs with kubectl's flags, words and output.

mod api_resources;
mod auth;
mod autoscale;
mod certificate;
mod channels;
mod chosen;
mod completion;
mod cp;
mod create;
mod delete;
mod describe;
mod diff;
mod drain;
mod edit;
mod events;
mod exec;
mod explain;
mod expose;
mod follow;
mod formats;
mod get;
mod go;
mod go_template;
mod kubeconfig;
mod kyaml;
mod logs;
mod marks;
mod outcome;
mod patch;
mod pods;
mod port_forward;
mod print;
mod replace;
mod rollout;
mod run;
mod scale;
mod selection;
mod set;
mod tables;
mod taint;
mod terminal;
mod top;
mod version;
mod wait;
mod words;
mod yaml;

use clap::Args;

use crate::connect::{Cluster, ConnectOptions};

pub use api_resources::{ApiResourcesOptions, api_resources};
pub use auth::{AuthCommand, auth};
pub use autoscale::{AutoscaleOptions, autoscale};
pub use certificate::{CertificateCommand, certificate};
pub use completion::{CompletionOptions, complete, completion};
pub use cp::{CpOptions, cp};
pub use create::{CreateOptions, create};
pub use delete::{DeleteOptions, delete};
pub use describe::{DescribeOptions, describe};
pub use diff::{DiffOptions, diff};
pub use drain::{CordonOptions, DrainOptions, cordon, drain, uncordon};
pub use edit::{EditOptions, edit};
pub use events::{EventsOptions, events};
pub use exec::{AttachOptions, ExecOptions, attach, exec};
pub use explain::{ExplainOptions, explain};
pub use expose::{ExposeOptions, expose};
pub use get::{GetOptions, get};
pub use kubeconfig::{KubeconfigCommand, kubeconfig};
pub use logs::{LogsOptions, logs};
pub use marks::{MarkOptions, annotate, label};
pub use patch::{PatchOptions, patch};
pub use port_forward::{PortForwardOptions, port_forward};
pub use replace::{ReplaceOptions, replace};
pub use rollout::{RolloutCommand, rollout};
pub use run::{RunOptions, run};
pub use scale::{ScaleOptions, scale};
pub use set::{SetCommand, set};
pub use taint::{TaintOptions, taint};
pub use top::{TopCommand, top};
pub use version::{ApiVersionsOptions, ClusterInfoOptions, VersionOptions, api_versions, cluster_info, version};
pub use wait::{WaitOptions, wait};

/// Which cluster, and which namespace of it.
#[derive(Debug, Clone, Args)]
pub struct PlaceOptions {
    /// The namespace [default: that of the kubeconfig's context, or default]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

impl PlaceOptions {
    /// The namespace that is meant.
    fn namespace(&self, cluster: &Cluster) -> String {
        let named = self.namespace.clone().or_else(|| cluster.namespace.clone());
        named.unwrap_or_else(|| "default".to_owned())
    }
}

/// Flags where `--user` says who gets rights and not who the caller is, as with kubectl.
#[derive(Debug, Clone)]
pub struct SubjectFlags<T>(T);

impl<T: Args> clap::FromArgMatches for SubjectFlags<T> {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<SubjectFlags<T>, clap::Error> {
        T::from_arg_matches(matches).map(SubjectFlags)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<T: Args> Args for SubjectFlags<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        T::augment_args(command).mut_arg("user", |flag| flag.long("kubeconfig-user"))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        T::augment_args_for_update(command).mut_arg("user", |flag| flag.long("kubeconfig-user"))
    }
}

/// A failure of the server in kubectl's words.
fn from_server(error: crate::request::RequestError) -> anyhow::Error {
    match error.status() {
        Some(status) if !status.reason.is_empty() => {
            anyhow::anyhow!("Error from server ({}): {}", status.reason, status.message)
        }
        Some(status) => anyhow::anyhow!("Error from server: {}", status.message),
        None => anyhow::Error::new(error),
    }
}
