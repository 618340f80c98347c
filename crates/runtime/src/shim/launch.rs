//! Starts a container: in a forked child, mounts its root where nobody else sees it and lets libcontainer do the rest.
//!
//! The overlay is mounted in a mount namespace of the child's own, which the container's namespace is a copy of. When the
//! child has ended, only the container holds the mount: it goes with the container's last process, and nothing is left to
//! unmount, also after a crash.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::NotifySocket;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::external;
use super::program::Program;
use super::setup::{chain, default_signals};
use super::stage::Stage;
use crate::disk;
use crate::protocol::{self, ContainerPlan, ImagePlan, MAX_MESSAGE, Message};

/// A container that runs.
pub(super) struct Started {
    pub(super) pid: i32,
    /// Master side of its terminal.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) oom_score_refused: bool,
}

/// Starts a container with these standard streams (not used with a terminal). Blocks until its program runs or cannot.
/// `users` is the pod's own user namespace.
pub(super) fn start(
    plan: &ContainerPlan,
    folder: &Path,
    stdio: Option<[OwnedFd; 3]>,
    users: Option<&Path>,
) -> Result<Started, String> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|error| format!("failed to make a socket pair: {error}"))?;
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: the shim has one thread, so the child may do whatever the parent could.
    let child = match unsafe { fork() } {
        Err(error) => return Err(format!("failed to fork: {error}")),
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            drop(ours);
            let result = build(plan, folder, stdio, users, &theirs);
            let code = match result {
                Ok(()) => 0,
                Err(message) => i32::from(protocol::send(theirs.as_fd(), &Message::Failed(message), &[]).is_err()) + 1,
            };
            // Nothing of the shim's may be cleaned up by its copy.
            exit_now(code);
        }
    };
    drop(theirs);
    drop(stdio);
    let mut started = None;
    let mut failed = None;
    let mut buffer = vec![0; MAX_MESSAGE];
    // Ends when the child has ended and the program runs: then nobody holds the other side any more.
    loop {
        match protocol::receive::<Message>(ours.as_fd(), &mut buffer) {
            Ok(Some((Message::Started { pid, oom_score_refused }, descriptors))) => {
                started = Some(Started { pid, terminal: descriptors.into_iter().next(), oom_score_refused });
            }
            // The first message is the cause, later ones its consequences.
            Ok(Some((Message::Failed(message), _))) if failed.is_none() => failed = Some(message),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                failed.get_or_insert_with(|| format!("failed to hear from the container's start: {error}"));
                break;
            }
        }
    }
    if let Err(error) = waitpid(child, None) {
        eprintln!("failed to wait for a container's start: {error}");
    }
    match (started, failed) {
        (Some(started), None) => Ok(started),
        (_, Some(message)) => Err(message),
        (None, None) => Err("the container's start ended without a word".to_owned()),
    }
}

/// Ends a forked child without running what the parent would run at its end.
pub(super) fn exit_now(code: i32) -> ! {
    #[expect(unsafe_code, reason = "_exit has no safe wrapper")]
    // SAFETY: it does not return and touches no memory.
    unsafe {
        libc::_exit(code)
    }
}

fn build(
    plan: &ContainerPlan,
    folder: &Path,
    stdio: Option<[OwnedFd; 3]>,
    users: Option<&Path>,
    report: &OwnedFd,
) -> Result<(), String> {
    default_signals().map_err(|error| format!("failed to reset signals: {error}"))?;
    let oom_score_refused =
        plan.oom_score_adj.is_some_and(|score| std::fs::write("/proc/self/oom_score_adj", score.to_string()).is_err());
    mount_root(plan, folder, users)?;
    give_streams(stdio.as_ref(), plan.user)?;
    if let Some(runtime) = &plan.runtime {
        let (pid, terminal) = external::run(runtime, &plan.id, folder, stdio)?;
        let descriptors: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
        return protocol::send(report.as_fd(), &Message::Started { pid, oom_score_refused }, &descriptors)
            .map_err(|error| error.to_string());
    }
    let mut builder = ContainerBuilder::new(plan.id.clone(), SyscallType::default())
        .with_root_path(folder.join("oci"))
        .map_err(|error| chain(&error))?
        .with_executor(Program { report: report.as_raw_fd() });
    let mut console = None;
    match stdio {
        Some([stdin, stdout, stderr]) => builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
        None => {
            let open =
                std::fs::File::open(folder).map_err(|error| format!("failed to open {}: {error}", folder.display()))?;
            let listener = UnixListener::bind(disk::below(&open, "console.sock"))
                .map_err(|error| format!("failed to make the console's socket: {error}"))?;
            builder = builder.with_console_socket(Some(folder.join("console.sock")));
            console = Some(listener);
        }
    }
    let container =
        builder.as_init(folder).with_systemd(false).with_detach(true).build().map_err(|error| chain(&error))?;
    let pid = container.pid().ok_or("libcontainer gave no process")?.as_raw();
    let terminal = match &console {
        Some(listener) => Some(receive_terminal(listener)?),
        None => None,
    };
    NotifySocket::new(folder.join("oci").join(&plan.id).join("notify.sock"))
        .notify_container_start()
        .map_err(|error| chain(&error))?;
    let descriptors: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    protocol::send(report.as_fd(), &Message::Started { pid, oom_score_refused }, &descriptors)
        .map_err(|error| error.to_string())
}

/// Programs open their own streams again by `/dev/stdout`, as those do that log to a file; made by root, the pipes are root's.
/// Source: `fixStdioPermissions` of runc.
pub(super) fn give_streams(stdio: Option<&[OwnedFd; 3]>, owner: u32) -> Result<(), String> {
    let owner = nix::unistd::Uid::from_raw(owner);
    for stream in stdio.into_iter().flatten() {
        let kind = nix::sys::stat::fstat(stream).map_err(|error| format!("failed to look at a stream: {error}"))?;
        // Where nothing is read from, it is the host's `/dev/null`.
        if kind.st_mode & libc::S_IFMT == libc::S_IFIFO {
            nix::unistd::fchown(stream, Some(owner), None)
                .map_err(|error| format!("failed to give a stream to the container's user: {error}"))?;
        }
    }
    Ok(())
}

/// Mounts layers and the container's own layer at `<folder>/root`, or on the stage of a container with users of its own.
fn mount_root(plan: &ContainerPlan, folder: &Path, users: Option<&Path>) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("failed to make a mount namespace: {error}"))?;
    if !plan.mounts_out {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .map_err(|error| format!("failed to detach mounts: {error}"))?;
    }
    let stage = match (&plan.mapped, users) {
        (Some(mapped), Some(users)) => Some(Stage::open(mapped, users)?),
        (None, None) => None,
        _ => return Err("the pod's user namespace and the container's do not agree".to_owned()),
    };
    if let Some(stage) = &stage {
        stage.set_up(&plan.snapshots)?;
    }
    let on_stage = |name: &str| plan.mapped.as_ref().map(|mapped| mapped.stage.join(name));
    let snapshots = on_stage("layers").unwrap_or_else(|| plan.snapshots.clone());
    // Short relative names: all options together may have 4095 bytes.
    std::env::set_current_dir(&snapshots)
        .map_err(|error| format!("failed to enter {}: {error}", snapshots.display()))?;
    let empty = folder.join("empty");
    let lowers = if plan.lowers.is_empty() { empty.to_string_lossy().into_owned() } else { plan.lowers.join(":") };
    let root = on_stage("root").unwrap_or_else(|| folder.join("root"));
    let base = format!(
        "lowerdir={lowers},upperdir={},workdir={}",
        folder.join("upper").display(),
        folder.join("work").display()
    );
    if base.len() > 4000 {
        return Err(format!("the image has too many layers ({})", plan.lowers.len()));
    }
    // The layer dies with the container, so nothing in it needs to be forced to disk; older kernels do not know the option.
    let overlay = |options: &str| mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options));
    let result = match overlay(&format!("{base},volatile")) {
        Err(nix::Error::EINVAL) => overlay(&base),
        other => other,
    };
    result.map_err(|error| match error {
        nix::Error::EINVAL => format!(
            "failed to mount the container's root: the file system of {} cannot hold an overlay's upper layer",
            folder.display()
        ),
        nix::Error::ENODEV => "failed to mount the container's root: the kernel has no overlayfs".to_owned(),
        other => format!("failed to mount the container's root: {other}"),
    })?;
    for image in &plan.images {
        mount_image(image, &empty)?;
    }
    if let Some(stage) = &stage {
        stage.set_up_images()?;
    }
    std::env::set_current_dir("/").map_err(|error| format!("failed to leave the snapshots: {error}"))
}

/// Mounts an image's layers, read-only, and the part of it that is wanted. The working folder is that of the layers.
fn mount_image(image: &ImagePlan, empty: &Path) -> Result<(), String> {
    let root = image.place.join("root");
    // Without an upper layer the kernel wants two lower ones at least.
    let options = format!("lowerdir={}:{}", image.lowers.join(":"), empty.display());
    if options.len() > 4000 {
        return Err(format!("the image of a volume has too many layers ({})", image.lowers.len()));
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some("overlay"), &root, Some("overlay"), flags, Some(options.as_str()))
        .map_err(|error| format!("failed to mount the image of a volume: {error}"))?;
    if image.sub_path.is_empty() {
        return Ok(());
    }
    // Nobody can change what is mounted here, so what a link leads to now is what will be bound.
    let root = root.canonicalize().map_err(|error| format!("failed to look at {}: {error}", root.display()))?;
    let wanted = root.join(image.sub_path.trim_start_matches('/'));
    let found = wanted.canonicalize().map_err(|error| format!("subPath {:?} of the image: {error}", image.sub_path))?;
    if !found.starts_with(&root) {
        return Err(format!("subPath {:?} leads out of the image", image.sub_path));
    }
    let part = image.source();
    let made = if found.is_dir() { std::fs::create_dir_all(&part) } else { std::fs::write(&part, "") };
    made.map_err(|error| format!("failed to make {}: {error}", part.display()))?;
    mount(Some(&found), &part, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| format!("failed to mount subPath {:?} of the image: {error}", image.sub_path))
}

pub(super) fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd, String> {
    let (stream, _) = listener.accept().map_err(|error| format!("failed to receive the terminal: {error}"))?;
    protocol::receive_descriptor(stream.as_fd()).map_err(|error| format!("failed to receive the terminal: {error}"))
}
