//! Nodes that are not there, whose pods run at once.
//!
//! Thousands of nodes register, renew their leases and answer for their pods as kubelets do, but start nothing: what they write is
//! all there is. Behind a real API server, scheduler and controllers they show how a cluster of that size behaves, and what a
//! manifest would do in one. To all others they are nodes like any other; the simulator is a client of the API like any other.
//!
//! ```text
//!   bound ──(ready-after)──> Running, ready ──(run-for: Jobs 1 s, others for ever)──> Succeeded | Failed
//!     └───────────── deletion: (stop-after) ──> gone
//! ```
//!
//! Annotations of a pod say otherwise: `simulator.kobune.dev/ready-after`, `run-for` and `stop-after` with seconds, `exit-code` with
//! a number. The same idea as <https://kwok.sigs.k8s.io/docs/user/configuration/>, whose defaults are these too.

mod addresses;
mod heartbeat;
mod lifecycle;
mod node;
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio_util::sync::CancellationToken;

pub use node::Size;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many nodes; they are called `simulated-0` and so on.
    pub nodes: u32,
    /// What each of them has.
    pub size: Size,
    /// Zones that the nodes are dealt out to, `zone-0` and so on.
    pub zones: u32,
    /// Labels of all nodes.
    pub labels: BTreeMap<String, String>,
    /// The version that they report.
    pub version: String,
}

/// What ends the simulation before it is asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node could not be registered.
    #[error("register node {name}")]
    Register {
        /// Its name.
        name: String,
        /// Why not.
        source: kube::Error,
    },
}

/// Registers the nodes and answers for their pods until `token` is cancelled.
pub async fn run(client: kube::Client, config: Config, token: CancellationToken) -> Result<(), Error> {
    let config = Arc::new(config);
    tokio::select! {
        // Nothing that is dropped here is half done: each request is whole, and the next start goes on from what there is.
        () = token.cancelled() => Ok(()),
        failed = work(client, config) => failed,
    }
}

async fn work(client: kube::Client, config: Arc<Config>) -> Result<(), Error> {
    let leases = register(&client, &config).await?;
    tracing::info!(nodes = config.nodes, "the simulated nodes are registered");
    tokio::join!(heartbeat::renew(client.clone(), leases), pods::answer(client, config));
    Ok(())
}

/// Makes the nodes that are not there yet; gives the names of all.
async fn register(client: &kube::Client, config: &Arc<Config>) -> Result<Vec<Arc<str>>, Error> {
    use futures::{StreamExt, TryStreamExt};
    let api = Api::<k8s_openapi::api::core::v1::Node>::all(client.clone());
    let made = futures::stream::iter(0..config.nodes).map(|number| {
        let (api, config) = (api.clone(), config.clone());
        async move {
            let node = node::object(&config, number, jiff::Timestamp::now());
            let name = node::name(number);
            let status = node.status.clone();
            let made = match api.create(&PostParams::default(), &node).await {
                Err(kube::Error::Api(answer)) if answer.is_already_exists() => api.get(&name).await,
                other => other,
            };
            let made = match made {
                // The status is written apart: creation drops it, and of a node that was there it says that it is back. Others
                // write to the node at the same time.
                Ok(_) => {
                    let change = serde_json::json!({"status": status});
                    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&change)).await
                }
                Err(error) => Err(error),
            };
            match made {
                Ok(_) => Ok(Arc::<str>::from(name)),
                Err(source) => Err(Error::Register { name, source }),
            }
        }
    });
    made.buffered(REGISTERING).try_collect().await
}

/// Nodes registered at a time.
const REGISTERING: usize = 16;
