//! Filters, scores and binds pods to nodes.
//!
//! One task owns everything the scheduler knows (`scheduler`): nodes with what runs on them (`cluster`), the pods that wait
//! (`queue`) and the decision itself (`filter`, `score`, `preempt`), which is pure. Only bindings, conditions, events and what
//! extenders say run beside it, so a pod that cannot be bound holds up no other pod.
//!
//! `node_match`, `device_match`, `quantity`, `labels`, `claims`, `volume_match` and `recorder` are public because the controllers above need the same rules.

pub mod claims;
pub mod device_match;
pub mod labels;
pub mod node_match;
pub mod quantity;
pub mod recorder;
pub mod volume_match;

mod cluster;
mod decide;
mod devices;
mod extender;
mod filter;
mod pod;
mod pod_affinity;
mod preempt;
mod profile;
mod queue;
mod resources;
mod scheduler;
mod score;
mod spread;
mod volumes;

use tokio_util::sync::CancellationToken;

pub use extender::{Extender, ExtenderTls};
pub use profile::{Config, Mistakes, Profile, SpreadDefaults, Strategy};

/// What ends the scheduler before it is asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A watch stream ended although watches restart by themselves.
    #[error("the watch of {kind} ended")]
    WatchEnded {
        /// The plural name of what was watched.
        kind: &'static str,
    },
    /// An extender cannot be spoken to as it is configured.
    #[error("extender {url} cannot be used")]
    Extender {
        /// Its address.
        url: String,
        /// What is wrong, usually with a certificate or key.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Runs the scheduler until `token` is cancelled.
pub async fn run(client: kube::Client, config: Config, token: CancellationToken) -> Result<(), Error> {
    scheduler::run(client, config, token).await
}
