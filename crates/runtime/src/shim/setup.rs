//! Makes the shim a process of its own, with the pod's namespaces.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::{ForkResult, Pid, fork, pipe2, setsid};

use super::holder;
use crate::disk;
use crate::protocol::ShimConfig;

/// Which of the two processes this is after [`detach`].
pub(super) enum Side {
    /// The one that was started; it ends with this.
    Starter(Result<(), String>),
    /// The shim.
    Shim(Ready),
}

/// Tells the starter that the shim listens, or why it does not.
pub(super) struct Ready(fs::File);

impl Ready {
    pub(super) fn tell(mut self, result: Result<(), String>) {
        let text = match result {
            Ok(()) => "ready".to_owned(),
            Err(message) => message,
        };
        if let Err(error) = self.0.write_all(text.as_bytes()) {
            eprintln!("nobody waits for the shim: {error}");
        }
    }
}

/// Forks the shim and waits for its word.
pub(super) fn detach(folder: &Path) -> Result<Side, String> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("failed to make a pipe: {error}"))?;
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: `shim_main` is called before any thread is started, so the child may do whatever the parent could.
    match unsafe { fork() } {
        Err(error) => Err(format!("failed to fork: {error}")),
        Ok(ForkResult::Parent { .. }) => {
            drop(write);
            let mut text = String::new();
            fs::File::from(read)
                .read_to_string(&mut text)
                .map_err(|error| format!("failed to hear from the shim: {error}"))?;
            Ok(Side::Starter(match text.as_str() {
                "ready" => Ok(()),
                "" => Err(format!("the shim ended without a word; see {}", folder.join("shim.log").display())),
                message => Err(message.to_owned()),
            }))
        }
        Ok(ForkResult::Child) => {
            drop(read);
            Ok(Side::Shim(Ready(write.into())))
        }
    }
}

/// Leaves the starter's session and makes the pod's namespaces. Returns what the shim's loop needs.
pub(super) fn enter(folder: &Path) -> Result<(ShimConfig, OwnedFd, SignalFd, Option<i32>), String> {
    fn context<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
        result.map_err(|error| format!("failed to {what}: {error}"))
    }
    context("start a session", setsid())?;
    context("change the folder", std::env::set_current_dir("/"))?;
    redirect(folder)?;
    context("become a subreaper", nix::sys::prctl::set_child_subreaper(true))?;
    context("set the name", nix::sys::prctl::set_name(c"kobune-shim"))?;
    let config: ShimConfig =
        context("read shim.json", disk::read_json(&folder.join("shim.json")))?.ok_or("shim.json is missing")?;
    let pid = Pid::this().as_raw();
    context(
        "leave the service's cgroup",
        config.cgroups.set_apart(&config.own_group, pid).map_err(|error| chain(&error)),
    )?;

    let network = match &config.network_namespace {
        Some(path) => Some(context(&format!("open network namespace {}", path.display()), fs::File::open(path))?),
        None => None,
    };
    let holder = match &network {
        Some(network) if config.own_users => Some(holder::start(network, config.shared_pid, &config.sysctls)?),
        _ => None,
    };
    if let Some(holder) = holder {
        for (name, flag) in [("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)] {
            let path = format!("/proc/{holder}/ns/{name}");
            let namespace = context(&format!("open {path}"), fs::File::open(&path))?;
            context(&format!("enter the pod's {name} namespace"), setns(namespace, flag))?;
        }
    } else {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWIPC, config.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, config.hostname.is_some());
        context("make the pod's namespaces", unshare(flags))?;
    }
    if let Some(hostname) = &config.hostname {
        context("set the host name", nix::unistd::sethostname(hostname))?;
    }
    if let Some(network) = network {
        context("enter the network namespace", setns(network, CloneFlags::CLONE_NEWNET))?;
    }
    for (name, value) in config.sysctls.iter().filter(|(name, _)| holder.is_none() || !holder::sets(name)) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        context(&format!("set sysctl {name}"), fs::write(&path, value))?;
    }
    let signals = watch_signals()?;
    let pause = if config.shared_pid && holder.is_none() { Some(pause_process()?) } else { holder };
    let listener = context("listen", open_socket(&config.socket))?;
    Ok((config, listener, signals, pause))
}

/// Standard streams to nowhere, except errors: they go to a file beside the sandbox's record.
fn redirect(folder: &Path) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("failed to redirect streams: {error}");
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(fail)?;
    let log = fs::OpenOptions::new().append(true).create(true).open(folder.join("shim.log")).map_err(fail)?;
    nix::unistd::dup2_stdin(&null).map_err(|error| fail(error.into()))?;
    nix::unistd::dup2_stdout(&null).map_err(|error| fail(error.into()))?;
    nix::unistd::dup2_stderr(&log).map_err(|error| fail(error.into()))
}

fn watch_signals() -> Result<SignalFd, String> {
    let fail = |error: nix::Error| format!("failed to set up signals: {error}");
    let mut set = SigSet::empty();
    // A machine that shuts down signals everybody: containers hear for themselves, the shim stays to see how they end.
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(fail)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(fail)
}

/// Gives a forked child the signals that a new program expects.
pub(super) fn default_signals() -> nix::Result<()> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    #[expect(unsafe_code, reason = "changing a handler has no safe form")]
    // SAFETY: the default action installs no code of ours.
    // Rust's start-up ignores SIGPIPE, and what is ignored stays so through exec.
    unsafe {
        signal(Signal::SIGPIPE, SigHandler::SigDfl)?;
    }
    Ok(())
}

/// The first process of a shared process namespace: it does nothing but take in orphans.
fn pause_process() -> Result<i32, String> {
    #[expect(unsafe_code, reason = "fork with flags has no safe form")]
    // SAFETY: like fork, in a process with one thread; without a stack argument the child goes on with a copy of this one.
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWPID | libc::SIGCHLD, 0, 0, 0, 0) };
    if result < 0 {
        return Err(format!("failed to make the shared process namespace: {}", std::io::Error::last_os_error()));
    }
    if result > 0 {
        return i32::try_from(result).map_err(|error| error.to_string());
    }
    hold(c"pause")
}

/// Does nothing from here on but take in orphans, until the shim ends.
pub(super) fn hold(name: &std::ffi::CStr) -> ! {
    // Nothing of the shim's may stay open here: its starter waits for the end of a pipe.
    #[expect(unsafe_code, reason = "close_range has no safe wrapper")]
    // SAFETY: this process uses no descriptor any more and never drops the values that own them.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
    let prepared = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).and_then(|()| nix::sys::prctl::set_name(name));
    #[expect(unsafe_code, reason = "changing a handler has no safe form")]
    // SAFETY: ignoring installs no code of ours; the kernel then reaps orphans by itself.
    let ignored = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    if prepared.is_err() || ignored.is_err() {
        std::process::exit(1);
    }
    loop {
        nix::unistd::pause();
    }
}

/// Binds through the open folder: a socket's path may have 107 bytes at most.
fn open_socket(path: &Path) -> std::io::Result<OwnedFd> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let folder = fs::File::open(folder)?;
    let short = disk::below(&folder, name);
    disk::remove(&short)?;
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(&short)?)?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&short, fs::Permissions::from_mode(0o600))?;
    listen(&socket, Backlog::new(64)?)?;
    Ok(socket)
}

/// An error with its causes in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Gives freed memory back to the kernel: a shim lives for months and is one of hundreds.
pub(super) fn return_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
    // SAFETY: it only returns pages that the allocator does not use.
    unsafe {
        libc::malloc_trim(0);
    }
}
