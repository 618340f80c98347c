//! Network namespaces that live under a path, and what is set inside a fresh one.

use std::{
    fs, io,
    ops::Range,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{Signal, kill},
        statfs::statfs,
        wait::waitpid,
    },
    unistd::Pid,
};

use crate::{
    links::{self, Target},
    netlink::Netlink,
    network::{NetworkError, Step},
};

/// What the namespace's link to the host looks like.
pub(crate) struct Pair {
    pub host_link: String,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
    pub mtu: u32,
    /// The pod's addresses, each with the gateway of its family.
    pub addresses: Vec<(std::net::IpAddr, std::net::IpAddr)>,
    /// The host's users that those of the pod, from 0 on, are; the namespace then belongs to a user namespace of its own.
    pub users: Option<Range<u32>>,
}

/// Makes a namespace at `path` that nothing leads to, with its loopback link up.
pub(crate) fn create_apart(path: &Path, users: Option<Range<u32>>) -> Result<(), NetworkError> {
    let path = path.to_owned();
    let work = move || -> Result<(), NetworkError> {
        enter_new(&path, users.as_ref())?;
        let mut inside = Netlink::open().map_err(Step::OpenNetlink.failed())?;
        let up = links::index("lo").and_then(|lo| links::set_up(&mut inside, lo));
        up.map_err(Step::ConfigurePod.failed())
    };
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(work)
        .map_err(Step::MakeNamespace.failed())?
        .join()
        .expect("the thread does not panic: it only makes system calls and returns their errors")
}

/// Moves the calling thread into a new network namespace that is found at `path`.
fn enter_new(path: &Path, users: Option<&Range<u32>>) -> Result<(), NetworkError> {
    match users {
        None => unshare(CloneFlags::CLONE_NEWNET).map_err(Step::MakeNamespace.failed())?,
        Some(users) => enter_owned(users).map_err(Step::MakeNamespace.failed())?,
    }
    pin(path).map_err(Step::MakeNamespace.failed())?;
    settings();
    Ok(())
}

/// Makes a namespace at `path` that is joined to the calling thread's by `pair`, ready for use.
///
/// Works on a thread of its own: `unshare` moves only the thread that calls it, and the thread ends afterwards, so no
/// other code ever runs in the wrong namespace.
pub(crate) fn create(path: &Path, pair: Pair) -> Result<(), NetworkError> {
    let path = path.to_owned();
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || create_here(&path, &pair))
        .map_err(Step::MakeNamespace.failed())?
        .join()
        .expect("the thread does not panic: it only makes system calls and returns their errors")
}

fn create_here(path: &Path, pair: &Pair) -> Result<(), NetworkError> {
    let mut host = Netlink::open().map_err(Step::OpenNetlink.failed())?;
    enter_new(path, pair.users.as_ref())?;
    let mut pod = Netlink::open().map_err(Step::OpenNetlink.failed())?;
    let namespace = fs::File::open(path).map_err(Step::MakeNamespace.failed())?;
    links::add_pair(&mut host, &pair.host_link, pair.host_mac, pair.pod_mac, pair.mtu, namespace.as_fd())
        .map_err(Step::MakeLink.failed())?;

    let mut inside = || -> io::Result<()> {
        links::set_up(&mut pod, links::index("lo")?)?;
        let eth0 = links::index("eth0")?;
        for &(address, _) in &pair.addresses {
            links::add_address(&mut pod, eth0, address)?;
        }
        links::set_up(&mut pod, eth0)?;
        for &(_, gateway) in &pair.addresses {
            links::add_neighbour(&mut pod, eth0, gateway, pair.host_mac)?;
            links::add_route(&mut pod, links::only(gateway), &Target::Link { index: eth0, source: None })?;
            links::add_route(&mut pod, links::everything(gateway), &Target::Gateway { index: eth0, gateway })?;
        }
        links::wait_until_live(&mut pod, eth0)
    };
    inside().map_err(Step::ConfigurePod.failed())?;
    let host_index = links::named(&mut host, &pair.host_link).map_err(Step::MakeLink.failed())?;
    links::wait_until_live(&mut host, host_index).map_err(Step::MakeLink.failed())
}

/// Moves the calling thread into a new network namespace that belongs to a new user namespace. Who shares the pod's network
/// then finds the user namespace by it (`NS_GET_USERNS`); what is pinned keeps both alive.
///
/// Only a process without other threads may enter a user namespace, so one is started that does nothing but be in it until
/// its users are known and the network namespace is open.
fn enter_owned(users: &Range<u32>) -> io::Result<()> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD;
    #[expect(unsafe_code, reason = "fork with flags has no safe form")]
    // SAFETY: like fork; the child calls nothing but system calls, so it does not matter what other threads were doing.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        #[expect(unsafe_code, reason = "these system calls are all that a copy of one thread of many may do")]
        // SAFETY: they touch no memory of the process.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    }
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    let enter = || -> io::Result<()> {
        let map = format!("0 {} {}", users.start, users.len());
        fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        fs::write(format!("/proc/{pid}/gid_map"), &map)?;
        setns(fs::File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    let entered = enter();
    kill(pid, Signal::SIGKILL)?;
    waitpid(pid, None)?;
    entered
}

/// Bind-mounts the calling thread's network namespace at `path`.
fn pin(path: &Path) -> io::Result<()> {
    fs::File::create(path)?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// What containerd sets in every pod: ports below 1024 and ping need no privilege, since the namespace is the pod's own.
/// Redirects are refused because only the gateway may say where the pod's traffic goes.
fn settings() {
    for (name, value) in [
        ("ipv4/ip_unprivileged_port_start", "0"),
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv4/conf/default/accept_redirects", "0"),
    ] {
        if let Err(error) = fs::write(format!("/proc/sys/net/{name}"), value) {
            // An old kernel or a read-only /proc lacks some; the pod works without them.
            tracing::debug!(name, %error, "a network setting of the pod stays at its default");
        }
    }
}

/// Whether a network namespace is mounted at `path`.
pub(crate) fn is_pinned(path: &Path) -> bool {
    // From linux/magic.h; a plain file left by a power cut has its file system's own number.
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    statfs(path).is_ok_and(|status| status.filesystem_type().0 == NSFS_MAGIC)
}

/// Unmounts and removes what is at `path`. Nothing there is fine. Processes inside keep the namespace alive.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The namespaces and leftovers under a folder, by file name.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}
