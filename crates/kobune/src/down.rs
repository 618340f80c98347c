//! `kobune down`: ends the kobune of a data folder and its pods; with `--purge` takes away everything it made.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kobune_network::Network;
use kobune_node::LocalVolumes;
use kobune_runtime::{Runtime, unmount_below};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::DownOptions;
use crate::instance::{self, Instance};
use crate::process;
use crate::settings::Names;

/// How long the running kobune may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries out the command.
pub fn run(options: &DownOptions) -> Result<()> {
    let names = Names::of(&options.instance.data_dir)?;
    if !names.data_dir.exists() {
        println!("nothing to do: {} is not there", names.data_dir.display());
        return Ok(());
    }
    // A folder of somebody else's is never emptied.
    if !instance::is_kobunes(&names.data_dir) {
        let empty = std::fs::read_dir(&names.data_dir)
            .with_context(|| format!("read {}", names.data_dir.display()))?
            .next()
            .is_none();
        if empty {
            println!("nothing to do: {} is empty", names.data_dir.display());
            return Ok(());
        }
        bail!("{} is not a data folder of kobune: it has no kobune.lock", names.data_dir.display());
    }
    let _instance = stop_running(&names)?;
    process::offline(async {
        end_elsewhere(&names).await?;
        if options.purge {
            Runtime::purge(&names.runtime()).context("remove the containers")?;
            LocalVolumes::of(&names.data_dir).detach_all().context("detach the devices of local volumes")?;
            Network::purge(&names.network()).await.context("remove the network")
        } else {
            stop_pods(&names).await
        }
    })?;
    if options.purge {
        empty(&names)?;
        println!("removed everything of {}", names.data_dir.display());
    } else {
        println!("stopped; the data is kept in {}", names.data_dir.display());
    }
    Ok(())
}

/// Ends and removes pods that another container runtime runs.
async fn end_elsewhere(names: &Names) -> Result<()> {
    let Some(socket) = kobune_cri::left_behind(&names.data_dir)? else { return Ok(()) };
    let ended = kobune_cri::end_all(&names.cri(&socket)).await;
    ended.with_context(|| format!("end the pods in the container runtime at {}", socket.display()))
}

/// Stops the pods of the runtime built in.
async fn stop_pods(names: &Names) -> Result<()> {
    let runtime = Runtime::open(names.runtime()).await.context("open the container runtime")?;
    for sandbox in runtime.pod_sandboxes() {
        let stopped = runtime.stop_pod_sandbox(&sandbox.id).await;
        stopped.with_context(|| format!("stop pod sandbox {}", sandbox.id))?;
    }
    Ok(())
}

/// Ends the process that has the folder, if one has, and takes the folder.
fn stop_running(names: &Names) -> Result<Instance> {
    let start = Instant::now();
    let mut told = None;
    loop {
        let holder = match instance::try_take(&names.data_dir)? {
            Ok(instance) => return Ok(instance),
            Err(Some(holder)) => Pid::from_raw(holder),
            Err(None) => bail!("{} is in use by a process that does not say who it is", names.data_dir.display()),
        };
        if told != Some(holder) {
            println!("stopping kobune, process {holder}");
            signal(holder, Signal::SIGTERM)?;
            told = Some(holder);
        } else if start.elapsed() > PATIENCE {
            println!("it has not ended within {} s: killing it", PATIENCE.as_secs());
            signal(holder, Signal::SIGKILL)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(process: Pid, signal: Signal) -> Result<()> {
    match kill(process, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("send {signal} to process {process}")),
    }
}

/// Removes the folder's content, the lock last, and the folder itself where it is not a mount.
fn empty(names: &Names) -> Result<()> {
    let attempt = |path: &Path| format!("remove {}", path.display());
    let lock = names.data_dir.join("kobune.lock");
    for entry in std::fs::read_dir(&names.data_dir).with_context(|| attempt(&names.data_dir))? {
        let path = entry.with_context(|| attempt(&names.data_dir))?.path();
        if path == lock {
            continue;
        }
        // Volumes in memory are mounts; the data folder itself may be somebody's disk and stays mounted.
        unmount_below(&path).with_context(|| attempt(&path))?;
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| attempt(&path))?;
    }
    std::fs::remove_file(&lock).with_context(|| attempt(&lock))?;
    match std::fs::remove_dir(&names.data_dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
        Err(error) => Err(error).with_context(|| attempt(&names.data_dir)),
    }
}
