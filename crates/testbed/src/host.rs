//! Network namespaces as hosts on a link that leads nowhere else.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs a command of `iproute2` and fails with what it said.
fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip, of the package iproute2")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// An Ethernet link with a router address that forwards nothing: packets to anywhere else end here.
#[derive(Debug)]
pub struct Lan {
    namespace: String,
    hosts: AtomicU32,
}

impl Lan {
    /// Makes the link: a bridge in a network namespace of its own, `172.31.0.1/24`.
    pub fn new() -> Result<Self> {
        let namespace = format!("kbt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &namespace])?;
        let lan = Self { namespace, hosts: AtomicU32::new(0) };
        ip(&["-n", &lan.namespace, "link", "set", "lo", "up"])?;
        lan.bridge("lan", &["172.31.0.1/24"])?;
        Ok(lan)
    }

    /// Puts a further host on the link: `172.31.0.10`, `.11`, and so on.
    pub fn host(&self) -> Result<Host> {
        self.place("lan", |index| (format!("172.31.0.{}", 10 + index), 24), "172.31.0.1")
    }

    /// Puts a host on a second link, `172.31.1.0/24`, from which packets are routed to the first one.
    pub fn far_host(&self) -> Result<Host> {
        self.bridge("far", &["172.31.1.1/24"])?;
        ip(&["netns", "exec", &self.namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        self.place("far", |index| (format!("172.31.1.{}", 10 + index), 24), "172.31.1.1")
    }

    /// Puts a host on the link that has no IPv4 address and no route to one: `fd31::a`, and so on.
    pub fn v6_host(&self) -> Result<Host> {
        self.bridge("lan", &["fd31::1/64"])?;
        self.place("lan", |index| (format!("fd31::{:x}", 10 + index), 64), "fd31::1")
    }

    /// Makes a bridge with these addresses, or gives one that is there those that it lacks.
    fn bridge(&self, name: &str, addresses: &[&str]) -> Result<()> {
        if ip(&["-n", &self.namespace, "link", "show", name]).is_err() {
            ip(&["-n", &self.namespace, "link", "add", name, "type", "bridge"])?;
            ip(&["-n", &self.namespace, "link", "set", name, "up"])?;
        }
        for address in addresses {
            ip(&["-n", &self.namespace, "address", "replace", address, "dev", name, "nodad"])?;
        }
        Ok(())
    }

    fn place(&self, bridge: &str, address: impl Fn(u32) -> (String, u8), gateway: &str) -> Result<Host> {
        let index = self.hosts.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{}h{index}", self.namespace);
        ip(&["netns", "add", &namespace])?;
        let (address, prefix) = address(index);
        let host = Host { namespace, address, gateway: gateway.to_owned() };
        let port = format!("h{index}");
        ip(&[
            "-n",
            &self.namespace,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &host.namespace,
        ])?;
        ip(&["-n", &self.namespace, "link", "set", &port, "master", bridge, "up"])?;
        ip(&["-n", &host.namespace, "link", "set", "lo", "up"])?;
        // Looking for duplicates would keep an address of the sixth family from use for a second.
        ip(&["-n", &host.namespace, "address", "add", &format!("{}/{prefix}", host.address), "dev", "eth0", "nodad"])?;
        ip(&["-n", &host.namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &host.namespace, "route", "add", "default", "via", gateway])?;
        Ok(host)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.namespace]) {
            eprintln!("testbed: {error:#}");
        }
    }
}

/// A network namespace that plays a machine.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    address: String,
    gateway: String,
}

impl Host {
    /// The host's address on its link.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the network namespace can be opened.
    pub fn namespace_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace)
    }

    /// A command that will run on this host: in its network namespace, and else in this process's surroundings.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace_path().display())).arg("--").arg(program);
        command
    }

    /// Runs `body` on a thread of its own that is on this host: sockets that it opens belong there.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = std::fs::File::open(self.namespace_path()).context("open the host's network namespace")?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter the host's network namespace")?;
                Ok(body())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Cuts the host off from its link, or connects it again.
    pub fn set_connected(&self, connected: bool) -> Result<()> {
        ip(&["-n", &self.namespace, "link", "set", "eth0", if connected { "up" } else { "down" }])?;
        if connected {
            ip(&["-n", &self.namespace, "route", "replace", "default", "via", &self.gateway])?;
        }
        Ok(())
    }

    /// The names of the links that the host has beside the two that the testbed gave it.
    pub fn foreign_links(&self) -> Result<Vec<String>> {
        let output = Command::new("ip").args(["-n", &self.namespace, "-o", "link", "show"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names =
            text.lines().filter_map(|line| line.split(": ").nth(1)).map(|name| name.split('@').next().unwrap_or(name));
        Ok(names.filter(|name| !["lo", "eth0"].contains(name)).map(str::to_owned).collect())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.namespace]) {
            eprintln!("testbed: {error:#}");
        }
    }
}
