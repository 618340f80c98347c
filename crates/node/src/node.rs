//! The node: built from its configuration, then run until its token is cancelled.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::Context;
use crate::csi::drivers::{self, Drivers};
use crate::csi::local::{self as local_driver, LocalDriver};
use crate::devices::{self, Devices};
use crate::dra;
use crate::events;
use crate::eviction::{self, Pressure, Signal};
use crate::http::Server;
use crate::ledger::{Ledger, Totals};
use crate::machine::{Disk, Machine, read_machine};
use crate::offline::Offline;
use crate::placement::{self, Placement, PlacementError};
use crate::plugins;
use crate::pods::{self, Pods};
use crate::references::References;
use crate::services::Services;
use crate::usage::Disks;
use crate::user_namespaces::{UserRanges, UsersError};
use crate::volumes::local::LocalVolumes;
use crate::{probe_tls, register};

/// Why a node can't be built.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The HTTP API's address can't be bound.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The node's folder can't be made.
    #[error("failed to make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The TLS client for probes can't be made.
    #[error("failed to prepare TLS for probes")]
    ProbeTls {
        /// What rustls said.
        source: rustls::Error,
    },
    /// There are no users for pods with `hostUsers: false`.
    #[error("users for pods with hostUsers: false")]
    Users {
        /// The cause.
        source: UsersError,
    },
    /// Containers can't be placed as the node was told to.
    #[error("CPUs of containers")]
    Placement {
        /// The cause.
        source: PlacementError,
    },
    /// A part of the node panicked; the others went on until the end.
    #[error("{part} panicked")]
    Panicked {
        /// The part.
        part: &'static str,
        /// The panic.
        source: tokio::task::JoinError,
    },
}

/// A built node: its HTTP API's socket is bound, nothing runs yet.
pub struct Node {
    context: Arc<Context>,
    pods: Arc<Pods>,
    port: u16,
    /// Taken by the first run.
    parts: Mutex<Option<(TcpListener, events::Writer)>>,
}

impl Node {
    /// Binds the HTTP API's socket and makes the node's folder.
    pub async fn build(config: Config) -> Result<Arc<Node>, NodeError> {
        let listen = |source| NodeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        let folder = config.node_dir();
        // Volumes below it hold secrets: nobody else may look in.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| NodeError::Folder { path: folder, source })?;
        let probe_tls = probe_tls::client().map_err(|source| NodeError::ProbeTls { source })?;
        let (recorder, writer) = events::channel();
        let machine = read_machine();
        let disk = crate::machine::disk(&config.data_dir).unwrap_or_default();
        let kept = kept(&config, &machine, &disk);
        let capacity = Totals {
            cpu: machine.milli_cpus(kept.cpu),
            memory: machine.free_memory(kept.memory),
            storage: i64::try_from(disk.less(kept.storage)).unwrap_or(i64::MAX),
        };
        let placement = Placement::open(&config.placement, kept, &config.node_dir());
        let placement = placement.map_err(|source| NodeError::Placement { source })?;
        let offline = Offline::new(config.offline_records.then(|| config.node_dir().join("offline")));
        let locals = Arc::new(LocalVolumes::of(&config.data_dir));
        let local_driver = LocalDriver::new(Arc::clone(&locals), config.name.clone(), &config.node_dir());
        let context = Arc::new(Context {
            references: References::new(config.client.clone(), offline.clone(), config.offline_after),
            offline,
            services: Services::default(),
            events: recorder,
            ledger: Ledger::new(capacity, config.max_pods),
            pressure: Pressure::default(),
            disks: Disks::default(),
            probe_counts: Arc::default(),
            machine,
            probe_tls,
            locals,
            local_driver: Arc::new(local_driver),
            drivers: Drivers::default(),
            kept,
            placement,
            dra: Default::default(),
            users: UserRanges::open(&config.node_dir().join("pods"), config.max_pods)
                .map_err(|source| NodeError::Users { source })?,
            devices: Devices::open(config.node_dir().join("device-plugins.json")),
            config,
        });
        Ok(Arc::new(Node { context, pods: Arc::default(), port, parts: Mutex::new(Some((listener, writer))) }))
    }

    /// The port of the HTTP API.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs the node until the token is cancelled. Pods go on running. A second call returns at once.
    pub async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), NodeError> {
        let Some((listener, writer)) = self.parts.lock().take() else { return Ok(()) };
        let context = &self.context;
        let server = Arc::new(Server { context: Arc::clone(context), pods: Arc::clone(&self.pods) });
        let client = context.config.client.clone();
        let for_locals = Arc::clone(context);
        let deletions = tokio::task::spawn_blocking(move || {
            if let Err(error) = for_locals.locals.finish_deletions() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "local volumes that were being deleted are still there"
                );
            }
        });
        let (socket, driver) = (local_driver::socket(&context.config.node_dir()), Arc::clone(&context.local_driver));
        // Each has a task of its own: a slow one holds up no other, heartbeats least of all.
        let parts = [
            ("the heartbeat", tokio::spawn(register::keep_lease(Arc::clone(context), token.clone()))),
            ("the node's status", tokio::spawn(register::keep_status(Arc::clone(context), self.port, token.clone()))),
            ("the event writer", tokio::spawn(writer.run(client.clone(), context.config.name.clone(), token.clone()))),
            ("the watch of services", tokio::spawn(watch_services(Arc::clone(context), client, token.clone()))),
            ("the clean-up of local volumes", deletions),
            ("the driver of local volumes", tokio::spawn(local_driver::serve_in_node(socket, driver, token.clone()))),
            ("the registration of storage drivers", tokio::spawn(drivers::run(Arc::clone(context), token.clone()))),
            ("the sweep of resource slices", tokio::spawn(sweep_slices(Arc::clone(context), token.clone()))),
            ("the placement of containers", tokio::spawn(placement::run(Arc::clone(context), token.clone()))),
            ("network plug-ins", tokio::spawn(plugins::follow(Arc::clone(context), token.clone()))),
            ("device plugins", tokio::spawn(devices::plugin::run(Arc::clone(context), token.clone()))),
            (
                "the pod resources API",
                tokio::spawn(devices::pod_resources::run(Arc::clone(context), Arc::clone(&self.pods), token.clone())),
            ),
            ("the pods", tokio::spawn(pods::run(Arc::clone(context), Arc::clone(&self.pods), token.clone()))),
            ("eviction", tokio::spawn(eviction::run(Arc::clone(context), Arc::clone(&self.pods), token.clone()))),
            ("the HTTP API", tokio::spawn(server.run(listener, token.clone()))),
        ];
        let mut result = Ok(());
        for (part, task) in parts {
            if let Err(source) = task.await {
                result = Err(NodeError::Panicked { part, source });
            }
        }
        result
    }
}

/// What is kept from pods: what is reserved, and what is never to be used up. Source: `GetNodeAllocatableReservation` of
/// upstream's `pkg/kubelet/cm`.
fn kept(config: &Config, machine: &Machine, disk: &Disk) -> Totals {
    let mut kept = config.placement.reserved();
    for threshold in config.eviction.iter().filter(|threshold| threshold.grace.is_none()) {
        match threshold.signal {
            Signal::Memory => kept.memory += threshold.least(machine.memory),
            Signal::Disk => kept.storage += threshold.least(i64::try_from(disk.size).unwrap_or(i64::MAX)),
            Signal::Inodes | Signal::Pids => {}
        }
    }
    kept
}

async fn sweep_slices(context: Arc<Context>, token: CancellationToken) {
    dra::drivers::sweep(&context, None, &token).await;
}

async fn watch_services(context: Arc<Context>, client: kube::Client, token: CancellationToken) {
    context.services.run(client, &context.offline, context.config.offline_after, token).await;
}
