//! A whole cluster: `kobune up` on a host of its own, the machines that join it, and the clients that speak to it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::host::{Host, Lan};
use crate::instance::Instance;
use crate::process::{Finished, Running};

/// How long a client's command may take.
const CLIENT_LIMIT: Duration = Duration::from_secs(120);

/// How long `kobune up` may take until its API server is ready; generous, for an unoptimised build on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// What a cluster is made of.
#[derive(Debug)]
pub struct ClusterBuilder {
    executable: PathBuf,
    command: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    only_v6: bool,
    shift: Option<i64>,
}

impl ClusterBuilder {
    /// The machines have IPv6 addresses and routes, and none of IPv4.
    pub fn only_v6(mut self) -> Self {
        self.only_v6 = true;
        self
    }

    /// The clock of `kobune up` is so many seconds ahead of the machine's.
    pub fn clock(mut self, shift: i64) -> Self {
        self.shift = Some(shift);
        self
    }

    /// Runs `kobune server`, which has no node, in place of `kobune up`.
    pub fn server_only(mut self) -> Self {
        self.command = "server";
        self
    }

    /// Runs `kobune simulate` with so many nodes, in place of `kobune up`.
    pub fn simulated(mut self, nodes: u32) -> Self {
        self.command = "simulate";
        self.argument(format!("--nodes={nodes}"))
    }

    /// Adds an argument of `kobune up`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable of `kobune up`.
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Makes the link, the host and the data folder, starts kobune and waits until its API server is ready.
    pub fn start(self) -> Result<Cluster> {
        self.start_beside(|_| Ok(())).map(|((), cluster)| cluster)
    }

    /// As [`ClusterBuilder::start`], with something on the host before kobune. It comes first in the answer, so that it goes
    /// last.
    pub fn start_beside<T>(self, begin: impl FnOnce(&Host) -> Result<T>) -> Result<(T, Cluster)> {
        let lan = Lan::new()?;
        let host = if self.only_v6 { lan.v6_host()? } else { lan.host()? };
        let beside = begin(&host)?;
        let mut first = Instance::new(self.executable, self.command, host)?;
        first.arguments.extend(self.arguments);
        first.environment.extend(self.environment);
        first.shift = self.shift;
        let mut cluster = Cluster { agents: Vec::new(), first, lan };
        cluster.start_again()?;
        Ok((beside, cluster))
    }
}

/// A running cluster. What was started last is taken away first.
#[derive(Debug)]
pub struct Cluster {
    agents: Vec<Instance>,
    first: Instance,
    lan: Lan,
}

impl Cluster {
    /// A cluster of the given executable.
    pub fn builder(executable: impl Into<PathBuf>) -> ClusterBuilder {
        let executable = executable.into();
        ClusterBuilder {
            executable,
            command: "up",
            arguments: Vec::new(),
            environment: Vec::new(),
            only_v6: false,
            shift: None,
        }
    }

    /// The machine that the cluster's server runs on.
    pub fn host(&self) -> &Host {
        self.first.host()
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        self.first.data_dir()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig_of(&self.first)
    }

    /// The API server's address.
    pub fn url(&self) -> String {
        match self.host().address() {
            v6 if v6.contains(':') => format!("https://[{v6}]:6443"),
            v4 => format!("https://{v4}:6443"),
        }
    }

    /// The process id of `kobune up`.
    pub fn process_id(&self) -> u32 {
        self.first.process_id()
    }

    /// What kobune has logged until now.
    pub fn log(&self) -> String {
        self.first.log()
    }

    /// Starts `kobune up` on the data folder and waits until its API server is ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.first.start()?;
        self.first.ready("the API server", READY_LIMIT, |first| {
            let mut probe = client_on(first, crate::tools().join("kubectl"));
            probe.args(["get", "--raw", "/readyz"]);
            Ok(kubeconfig_of(first).exists() && Running::start(probe, None)?.finish(CLIENT_LIMIT)?.status.success())
        })
    }

    /// Starts `kobune agent` with the given arguments on a further host of the link.
    pub fn join<A: Into<String>>(&mut self, arguments: impl IntoIterator<Item = A>) -> Result<&mut Instance> {
        let host = self.lan.host()?;
        self.join_on(host, arguments)
    }

    /// Starts `kobune agent` on a host of another link, from which packets are routed to this one.
    pub fn join_far<A: Into<String>>(&mut self, arguments: impl IntoIterator<Item = A>) -> Result<&mut Instance> {
        let host = self.lan.far_host()?;
        self.join_on(host, arguments)
    }

    fn join_on<A: Into<String>>(
        &mut self,
        host: Host,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<&mut Instance> {
        let mut agent = Instance::new(self.first.executable().to_owned(), "agent", host)?;
        agent.arguments.extend(arguments.into_iter().map(Into::into));
        agent.start()?;
        self.agents.push(agent);
        Ok(self.agents.last_mut().expect("it was just added"))
    }

    /// The agents, in the order in which they joined.
    pub fn agents(&mut self) -> &mut [Instance] {
        &mut self.agents
    }

    /// Sets the clock of a cluster that has one of its own, now and for later starts.
    pub fn set_clock(&mut self, shift: i64) -> Result<()> {
        self.first.set_clock(shift)
    }

    /// Ends kobune as a power cut would: no handler runs. Its pods go on.
    pub fn kill(&mut self) -> Result<()> {
        self.first.kill()
    }

    /// Asks kobune to end and waits for it. Its pods go on.
    pub fn stop(&mut self) -> Result<()> {
        self.first.stop()
    }

    /// Runs `kobune` with the given arguments on the host.
    pub fn kobune<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
        self.first.kobune(arguments)
    }

    /// A client's command on the host, with the administrator's kubeconfig and a home folder of its own.
    pub fn client(&self, program: impl AsRef<OsStr>) -> Command {
        client_on(&self.first, program)
    }

    /// Runs kubectl to its end.
    pub fn kubectl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
        self.kubectl_with(arguments, None)
    }

    /// Runs kubectl to its end with an input.
    pub fn kubectl_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: Option<&str>,
    ) -> Result<Finished> {
        let mut command = self.client(crate::tools().join("kubectl"));
        command.args(arguments);
        Running::start(command, input)?.finish(CLIENT_LIMIT)
    }

    /// Starts kubectl beside the test.
    pub fn kubectl_beside<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Running> {
        let mut command = self.client(crate::tools().join("kubectl"));
        command.args(arguments);
        Running::start(command, None)
    }

    /// Applies manifests that must be right.
    #[track_caller]
    pub fn apply(&self, manifests: &str) -> String {
        self.kubectl_with(["apply", "-f", "-"], Some(manifests)).expect("kubectl runs").ok()
    }

    /// Runs helm to its end.
    pub fn helm<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
        let mut command = self.client(crate::tools().join("helm"));
        command.args(arguments);
        Running::start(command, None)?.finish(CLIENT_LIMIT)
    }

    /// Runs a Python program that uses the `kubernetes` package.
    pub fn python(&self, program: &str) -> Result<Finished> {
        let mut command = self.client(crate::tools().join("python/bin/python"));
        command.arg("-");
        Running::start(command, Some(program))?.finish(CLIENT_LIMIT)
    }
}

fn kubeconfig_of(server: &Instance) -> PathBuf {
    server.data_dir().join("admin.kubeconfig")
}

fn client_on(server: &Instance, program: impl AsRef<OsStr>) -> Command {
    let mut command = server.host().command(program);
    command.env("KUBECONFIG", kubeconfig_of(server)).env("HOME", server.data_dir().join("home"));
    command
}
