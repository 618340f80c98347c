//! What the runtime is told when it is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the runtime keeps its things and how it starts a shim.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for images, snapshots, sandboxes and containers. It survives a reboot.
    pub data_dir: PathBuf,
    /// Folder for the shims' sockets (`<data-dir>/run`).
    pub state_dir: PathBuf,
    /// Absolute cgroup below each controller's mount, such as `/kobune-1a2b3c4d`; everything this runtime starts lives below it.
    pub cgroup_parent: String,
    /// The executable whose `shim` command is [`crate::shim_main`]; usually `/proc/self/exe`.
    pub executable: PathBuf,
    /// The arguments that reach it: `["shim"]` for kobune. The bundle folder is appended.
    pub shim_args: Vec<String>,
    /// How many layers are downloaded at a time.
    pub pull_concurrency: usize,
    /// OCI runtimes beside the linked-in one, by the handler's name that a RuntimeClass gives.
    pub handlers: BTreeMap<String, PathBuf>,
}

/// Handlers that mean the linked-in runtime (libcontainer).
pub const OWN_HANDLERS: [&str; 3] = ["", "kobune", "libcontainer"];

/// OCI runtimes that are taken when they are installed. Those that make machines or kernels of their own (`runsc`, `kata`)
/// are not: commands enter containers by their namespaces.
const KNOWN: [&str; 3] = ["runc", "crun", "youki"];
const PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The OCI runtimes that are installed in the usual places.
pub fn installed_handlers() -> BTreeMap<String, PathBuf> {
    let find = |name: &str| PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file());
    KNOWN.iter().filter_map(|name| Some(((*name).to_owned(), find(name)?))).collect()
}

impl Config {
    /// The usual arrangement for a data folder: this executable, `run` below the data folder.
    pub fn new(data_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        let data_dir = data_dir.into();
        Self {
            state_dir: data_dir.join("run"),
            data_dir,
            cgroup_parent: cgroup_parent.into(),
            executable: PathBuf::from("/proc/self/exe"),
            shim_args: vec!["shim".to_owned()],
            pull_concurrency: 2,
            handlers: installed_handlers(),
        }
    }
}
