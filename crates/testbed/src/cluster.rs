//! A whole cluster: `kobune up` on a host of its own, and the clients that speak to it.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, Lan};
use crate::process::{Finished, Running};
use crate::wait::Deadline;

/// How long a client's command may take.
const CLIENT_LIMIT: Duration = Duration::from_secs(120);

/// How long `kobune up` may take until its API server is ready; generous, for an unoptimised build on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// What a cluster is made of.
#[derive(Debug)]
pub struct ClusterBuilder {
    executable: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl ClusterBuilder {
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
        let lan = Lan::new()?;
        let host = lan.host()?;
        // Not under a temporary folder that may be a tmpfs: overlayfs wants a file system that can be an upper layer.
        let parent = std::env::var_os("KOBUNE_TEST_DATA").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let data_dir = tempfile::Builder::new().prefix("kobune-test-").tempdir_in(parent)?;
        let mut cluster = Cluster {
            builder: self,
            log: data_dir.path().with_extension("log"),
            data_dir: Some(data_dir),
            process: None,
            host,
            _lan: lan,
        };
        cluster.start_again()?;
        Ok(cluster)
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    builder: ClusterBuilder,
    process: Option<Child>,
    log: PathBuf,
    data_dir: Option<tempfile::TempDir>,
    host: Host,
    _lan: Lan,
}

impl Cluster {
    /// A cluster of the given executable.
    pub fn builder(executable: impl Into<PathBuf>) -> ClusterBuilder {
        ClusterBuilder { executable: executable.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// The machine that the cluster runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.as_ref().expect("the folder is there until the cluster is dropped").path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The API server's address.
    pub fn url(&self) -> String {
        format!("https://{}:6443", self.host.address())
    }

    /// The process id of `kobune up`.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("kobune runs").id()
    }

    /// What kobune has logged until now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    /// Starts `kobune up` on the data folder and waits until its API server is ready.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("kobune runs already");
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.host.command(&self.builder.executable);
        command.arg("up").arg("--data-dir").arg(self.data_dir()).args(&self.builder.arguments);
        command.envs(self.builder.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("start kobune")?);
        let deadline = Deadline::after(READY_LIMIT);
        loop {
            if let Some(status) =
                self.process.as_mut().and_then(|process| process.try_wait().transpose()).transpose()?
            {
                self.process = None;
                bail!("kobune up ended with {status}\n{}", self.log());
            }
            let ready = self.kubeconfig().exists() && self.kubectl(["get", "--raw", "/readyz"])?.status.success();
            if ready {
                return Ok(());
            }
            if deadline.is_over() {
                bail!("the API server is not ready after {READY_LIMIT:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Ends kobune as a power cut would: no handler runs. Its pods go on.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("kobune does not run")?;
        process.kill()?;
        let status = process.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("kobune ended with {status} before it was killed\n{}", self.log());
        }
        Ok(())
    }

    /// Asks kobune to end and waits for it. Its pods go on.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
        let deadline = Deadline::after(Duration::from_secs(30));
        loop {
            match process.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("kobune ended with {status}\n{}", self.log()),
                None if deadline.is_over() => {
                    process.kill()?;
                    process.wait()?;
                    bail!("kobune has not ended within 30 s of SIGTERM\n{}", self.log());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Runs `kobune` with the given arguments on the host.
    pub fn kobune<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
        let mut command = self.host.command(&self.builder.executable);
        command.args(arguments);
        Running::start(command, None)?.finish(CLIENT_LIMIT)
    }

    /// A client's command on the host, with the administrator's kubeconfig and a home folder of its own.
    pub fn client(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.host.command(program);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.data_dir().join("home"));
        command
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

    fn take_away(&mut self) -> Result<()> {
        let stopped = self.stop();
        let purged = self.kobune([
            OsStr::new("down"),
            OsStr::new("--purge"),
            OsStr::new("--data-dir"),
            self.data_dir().as_os_str(),
        ])?;
        stopped?;
        if !purged.status.success() {
            bail!("{}: {}{}", purged.command, purged.stdout, purged.stderr);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if let Err(error) = self.take_away() {
            eprintln!("testbed: the cluster could not be taken away: {error:#}");
        }
        if panicking {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("testbed: the end of {}, which is kept:", self.log.display());
            for line in tail.iter().rev() {
                eprintln!("  {line}");
            }
        } else if let Err(error) = std::fs::remove_file(&self.log) {
            eprintln!("testbed: {}: {error}", self.log.display());
        }
    }
}
