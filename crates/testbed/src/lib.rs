//! What the end-to-end tests stand on: hosts in network namespaces of their own, whole clusters on them, real clients
//! and faults on demand.
//!
//! A [`Lan`] is an Ethernet link that leads nowhere else; a [`Host`] is a network namespace on it with an address and a
//! default route that ends at the link. A [`Cluster`] is `kobune up` on such a host with a data folder of its own; further
//! hosts join it with `kobune agent`.
//! Everything is taken away when the value is dropped, also when the test panics; then the logs are kept.

mod clock;
mod cluster;
mod host;
mod instance;
mod process;
mod wait;

pub use clock::Clock;
pub use cluster::{Cluster, ClusterBuilder};
pub use host::{Host, Lan};
pub use instance::Instance;
pub use process::{Finished, Running};
pub use wait::{Deadline, eventually};

use std::path::PathBuf;

/// The folder in which `make test` puts kubectl, helm and the Python client.
pub fn tools() -> PathBuf {
    std::env::var_os("KOBUNE_TEST_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME is set wherever tests run");
        PathBuf::from(home).join(".cache/kobune-tools")
    })
}
