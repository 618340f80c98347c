//! The process that holds the namespaces of a pod with users of its own.
//!
//! The shim itself stays among the host's users. The user namespace is the one that the pod's network namespace belongs to;
//! the holder enters it and makes the others there, so that they belong to it too, and containers join them by way of the
//! holder: `/proc/<holder>/ns` is open to them, the shim's is not.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, fork, pipe2, setgroups, setresgid, setresuid};

use super::launch::exit_now;
use super::setup::hold;

/// `_IO(0xb7, 1)` of `linux/nsfs.h`: the user namespace that a namespace belongs to.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Whether only the root of a pod's own users may set a kernel parameter: those of the IPC namespace.
pub(super) fn sets(sysctl: &str) -> bool {
    ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|prefix| sysctl.starts_with(prefix))
}

/// Starts the holder; its process number. `network` is the pod's network namespace; of the kernel parameters those are set
/// that nobody else may set.
pub(super) fn start(network: &File, shared_pid: bool, sysctls: &[(String, String)]) -> Result<i32, String> {
    #[expect(unsafe_code, reason = "NS_GET_USERNS has no safe wrapper")]
    // SAFETY: the descriptor is open and the request takes no argument.
    let users = unsafe { libc::ioctl(network.as_raw_fd(), NS_GET_USERNS) };
    if users < 0 {
        return Err(format!("failed to find the pod's user namespace: {}", std::io::Error::last_os_error()));
    }
    #[expect(unsafe_code, reason = "the kernel gives the descriptor as a number")]
    // SAFETY: the kernel has just opened this descriptor for this process and nobody else knows its number.
    let users = unsafe { OwnedFd::from_raw_fd(users) };
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("failed to make a pipe: {error}"))?;
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: the shim has one thread, so the child may do whatever the parent could.
    let child = match unsafe { fork() } {
        Err(error) => return Err(format!("failed to fork: {error}")),
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            drop(read);
            let text = match enter(network, users, shared_pid, sysctls) {
                Ok(pid) => pid.to_string(),
                Err(message) => message,
            };
            exit_now(i32::from(File::from(write).write_all(text.as_bytes()).is_err()));
        }
    };
    drop(write);
    let mut text = String::new();
    let heard = File::from(read).read_to_string(&mut text);
    waitpid(child, None).map_err(|error| format!("failed to wait for the start of the holder: {error}"))?;
    heard.map_err(|error| format!("failed to hear from the start of the holder: {error}"))?;
    text.parse().map_err(|_| text)
}

/// Enters and makes the namespaces and starts the holder in them, as a child of the shim.
fn enter(network: &File, users: OwnedFd, shared_pid: bool, sysctls: &[(String, String)]) -> Result<i64, String> {
    fn context<T>(what: &str, result: nix::Result<T>) -> Result<T, String> {
        result.map_err(|error| format!("failed to {what}: {error}"))
    }
    let parameters = File::open("/proc/sys").map_err(|error| format!("failed to open /proc/sys: {error}"))?;
    // Containers may join the holder; what they could see of the host through it, its root folder, it gives up first.
    context("leave the host's root", nix::unistd::chroot(Path::new("/proc/self/fdinfo")))?;
    context("enter the root", nix::unistd::chdir("/"))?;
    context("enter the network namespace", setns(network, CloneFlags::CLONE_NEWNET))?;
    context("enter the pod's user namespace", setns(users, CloneFlags::CLONE_NEWUSER))?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    context("leave the host's groups", setgroups(&[]))?;
    context("become the pod's root group", setresgid(group, group, group))?;
    context("become the pod's root", setresuid(user, user, user))?;
    let flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    context("make the pod's namespaces", unshare(flags))?;
    for (name, value) in sysctls.iter().filter(|(name, _)| sets(name)) {
        let fail = |error: std::io::Error| format!("failed to set sysctl {name}: {error}");
        let file =
            openat(&parameters, name.replace('.', "/").as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
        File::from(file.map_err(|error| fail(error.into()))?).write_all(value.as_bytes()).map_err(fail)?;
    }
    let pid_flag = if shared_pid { libc::CLONE_NEWPID } else { 0 };
    #[expect(unsafe_code, reason = "fork with flags has no safe form")]
    // SAFETY: like fork, in a process with one thread; without a stack argument the child goes on with a copy of this one.
    let pid = unsafe { libc::syscall(libc::SYS_clone, pid_flag | libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(format!("failed to start the holder: {}", std::io::Error::last_os_error()));
    }
    if pid == 0 {
        // A change of users closes a process to others, and containers must be able to join this one.
        if nix::sys::prctl::set_dumpable(true).is_err() {
            exit_now(1);
        }
        hold(c"pause");
    }
    Ok(pid)
}
