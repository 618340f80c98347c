//! Runs a command in a running container.
//!
//! Two forks: the first child joins the container's cgroups and namespaces, the second one (which is then in the process
//! namespace too) becomes the command. The first one ends at once, and the second becomes the shim's child.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::held::Held;
use super::launch::exit_now;
use super::program::become_program;
use super::setup::{chain, default_signals};
use crate::cgroup::Cgroups;
use crate::protocol::{self, MAX_MESSAGE, Message};

/// A command that runs.
pub(super) struct Started {
    pub(super) pid: i32,
    pub(super) terminal: Option<OwnedFd>,
}

/// Runs a command as the container's own user, with its variables, rights and limits.
pub(super) fn start(
    cgroups: &Cgroups,
    held: &Held,
    init: i32,
    command: Vec<String>,
    tty: bool,
    stdio: [Option<OwnedFd>; 3],
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
            if let Err(message) = join(cgroups, held, init, command, tty, stdio, &theirs) {
                exit_now(i32::from(protocol::send(theirs.as_fd(), &Message::Failed(message), &[]).is_err()) + 1);
            }
            exit_now(0);
        }
    };
    drop(theirs);
    drop(stdio);
    let (mut pid, mut terminal, mut failed) = (None, None, None);
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        match protocol::receive::<Message>(ours.as_fd(), &mut buffer) {
            Ok(Some((Message::Started { pid: started, .. }, _))) => pid = Some(started),
            Ok(Some((Message::Attached { .. }, descriptors))) => terminal = descriptors.into_iter().next(),
            Ok(Some((Message::Failed(message), _))) if failed.is_none() => failed = Some(message),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                failed.get_or_insert_with(|| format!("failed to hear from the command's start: {error}"));
                break;
            }
        }
    }
    if let Err(error) = waitpid(child, None) {
        eprintln!("failed to wait for a command's start: {error}");
    }
    match (pid, failed) {
        (Some(pid), None) => Ok(Started { pid, terminal }),
        (_, Some(message)) => Err(message),
        (None, None) => Err("the command's start ended without a word".to_owned()),
    }
}

/// The first child.
fn join(
    cgroups: &Cgroups,
    held: &Held,
    init: i32,
    command: Vec<String>,
    tty: bool,
    stdio: [Option<OwnedFd>; 3],
    report: &OwnedFd,
) -> Result<(), String> {
    default_signals().map_err(|error| format!("failed to reset signals: {error}"))?;
    let spec = Spec::load(held.folder.join("config.json")).map_err(|error| chain(&error))?;
    if let Some(score) = held.plan.oom_score_adj {
        // Lowering it may be refused; the container's own start has said so already.
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
            && error.kind() != io::ErrorKind::PermissionDenied
        {
            return Err(format!("failed to set the out-of-memory score: {error}"));
        }
    }
    let null = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
            .map_err(|error| format!("failed to open /dev/null: {error}"))
    };
    let [stdin, stdout, stderr] = stdio;
    let stdio = [stdin.map_or_else(null, Ok)?, stdout.map_or_else(null, Ok)?, stderr.map_or_else(null, Ok)?];
    super::launch::give_streams(Some(&stdio), held.plan.user)?;
    cgroups.join(&held.plan.group, Pid::this().as_raw()).map_err(|error| chain(&error))?;

    let mut kinds: Vec<LinuxNamespaceType> = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
        .map(|namespace| namespace.typ())
        .collect();
    // The host's users may enter all of them, the pod's not: their namespace comes last, so that nothing is missing before.
    kinds.sort_by_key(|kind| *kind == LinuxNamespaceType::User);
    let own_users = kinds.last() == Some(&LinuxNamespaceType::User);
    let mut namespaces = Vec::new();
    for kind in kinds {
        let (name, flag) = match kind {
            LinuxNamespaceType::Mount => ("mnt", CloneFlags::CLONE_NEWNS),
            LinuxNamespaceType::Pid => ("pid", CloneFlags::CLONE_NEWPID),
            LinuxNamespaceType::Network => ("net", CloneFlags::CLONE_NEWNET),
            LinuxNamespaceType::Ipc => ("ipc", CloneFlags::CLONE_NEWIPC),
            LinuxNamespaceType::Uts => ("uts", CloneFlags::CLONE_NEWUTS),
            LinuxNamespaceType::Cgroup => ("cgroup", CloneFlags::CLONE_NEWCGROUP),
            LinuxNamespaceType::User => ("user", CloneFlags::CLONE_NEWUSER),
            _ => continue,
        };
        let path = format!("/proc/{init}/ns/{name}");
        namespaces.push((File::open(&path).map_err(|error| format!("failed to open {path}: {error}"))?, flag, name));
    }
    for (file, flag, name) in namespaces {
        setns(file, flag).map_err(|error| format!("failed to enter the container's {name} namespace: {error}"))?;
    }
    if own_users {
        // The host's root is nobody there; what follows is for the container's.
        let (user, group) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
        nix::unistd::setgroups(&[])
            .and_then(|()| nix::unistd::setresgid(group, group, group))
            .and_then(|()| nix::unistd::setresuid(user, user, user))
            .map_err(|error| format!("failed to become the container's root: {}", error.desc()))?;
    }
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { fork() } {
        Err(error) => Err(format!("failed to fork: {error}")),
        Ok(ForkResult::Parent { child }) => {
            let message = Message::Started { pid: child.as_raw(), oom_score_refused: false };
            protocol::send(report.as_fd(), &message, &[]).map_err(|error| error.to_string())
        }
        Ok(ForkResult::Child) => {
            let Err(message) = run(&spec, &command, tty, stdio, report);
            exit_now(i32::from(protocol::send(report.as_fd(), &Message::Failed(message), &[]).is_err()) + 126);
        }
    }
}

/// The second child: takes on the container's rights and becomes the command.
fn run(
    spec: &Spec,
    command: &[String],
    tty: bool,
    stdio: [OwnedFd; 3],
    report: &OwnedFd,
) -> Result<std::convert::Infallible, String> {
    fn context<T>(what: &str, result: nix::Result<T>) -> Result<T, String> {
        result.map_err(|error| format!("failed to {what}: {}", error.desc()))
    }
    let process: &Process = spec.process().as_ref().ok_or("the container has no process")?;
    context("start a session", nix::unistd::setsid())?;
    let (uid, gid) = (process.user().uid(), process.user().gid());
    if tty {
        terminal(uid, report)?;
    } else {
        let [stdin, stdout, stderr] = &stdio;
        context("set standard input", nix::unistd::dup2_stdin(stdin))?;
        context("set standard output", nix::unistd::dup2_stdout(stdout))?;
        context("set standard error", nix::unistd::dup2_stderr(stderr))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if let Some(profile) = process.apparmor_profile() {
        libcontainer::apparmor::apply_profile(profile).map_err(|error| chain(&error))?;
    }
    if let Err(error) = nix::unistd::chdir(process.cwd()) {
        return Err(format!("chdir to cwd ({:?}) set in config.json failed: {}", process.cwd(), error.desc()));
    }
    let groups: Vec<nix::unistd::Gid> =
        process.user().additional_gids().iter().flatten().map(|gid| nix::unistd::Gid::from_raw(*gid)).collect();
    context("set groups", nix::unistd::setgroups(&groups))?;
    context("keep capabilities", nix::sys::prctl::set_keepcaps(true))?;
    let (gid, uid) = (nix::unistd::Gid::from_raw(gid), nix::unistd::Uid::from_raw(uid));
    context("set the group", nix::unistd::setresgid(gid, gid, gid))?;
    context("set the user", nix::unistd::setresuid(uid, uid, uid))?;
    context("drop capabilities", nix::sys::prctl::set_keepcaps(false))?;
    let syscall = create_syscall();
    libcontainer::capabilities::reset_effective(syscall.as_ref()).map_err(|error| chain(&error))?;
    // Without "no new privileges" a filter may only be loaded while the right to do so is still there.
    let bound = process.no_new_privileges() == Some(true);
    let filter = || match spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => libcontainer::seccomp::initialize_seccomp(profile).map(drop).map_err(|error| chain(&error)),
        None => Ok(()),
    };
    if bound {
        context("give up new privileges", nix::sys::prctl::set_no_new_privs())?;
    } else {
        filter()?;
    }
    if let Some(capabilities) = process.capabilities() {
        libcontainer::capabilities::drop_privileges(capabilities, syscall.as_ref()).map_err(|error| chain(&error))?;
    }
    if bound {
        filter()?;
    }
    let environment = process.env().clone().unwrap_or_default();
    become_program(command, &environment, process.cwd())
}

fn terminal(uid: u32, report: &OwnedFd) -> Result<(), String> {
    let fail = |error: nix::Error| format!("failed to make a terminal: {}", error.desc());
    let pair = nix::pty::openpty(None, None).map_err(fail)?;
    nix::unistd::fchown(&pair.slave, Some(nix::unistd::Uid::from_raw(uid)), None).map_err(fail)?;
    protocol::send(report.as_fd(), &Message::Attached { input: true, tty: true }, &[pair.master.as_fd()])
        .map_err(|error| error.to_string())?;
    #[expect(unsafe_code, reason = "TIOCSCTTY has no safe wrapper")]
    // SAFETY: the descriptor is open, and this request takes a number.
    if unsafe { libc::ioctl(pair.slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(fail(nix::Error::last()));
    }
    nix::unistd::dup2_stdin(&pair.slave).map_err(fail)?;
    nix::unistd::dup2_stdout(&pair.slave).map_err(fail)?;
    nix::unistd::dup2_stderr(&pair.slave).map_err(fail)?;
    // The numbers 0, 1 and 2 stay; dropping the pair closes the others, which must not reach the program.
    Ok(())
}
