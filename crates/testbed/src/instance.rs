//! One kobune process with a host and a data folder of its own, which may end and start again many times.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::Clock;
use crate::host::Host;
use crate::process::{Finished, Running};
use crate::wait::Deadline;

/// How long `kobune down` and the like may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// `kobune up`, `server` or `agent` on a host.
#[derive(Debug)]
pub struct Instance {
    executable: PathBuf,
    command: &'static str,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    process: Option<Child>,
    /// How far ahead its clock is at the next start, where it has one of its own.
    pub(crate) shift: Option<i64>,
    clock: Option<Clock>,
    log: PathBuf,
    data_dir: tempfile::TempDir,
    host: Host,
}

impl Instance {
    /// An instance that does not run yet.
    pub(crate) fn new(executable: PathBuf, command: &'static str, host: Host) -> Result<Self> {
        // Not under a temporary folder that may be a tmpfs: overlayfs wants a file system that can be an upper layer.
        let parent = std::env::var_os("KOBUNE_TEST_DATA").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let data_dir = tempfile::Builder::new().prefix("kobune-test-").tempdir_in(parent)?;
        let log = data_dir.path().with_extension("log");
        let (arguments, environment) = (Vec::new(), Vec::new());
        Ok(Self {
            executable,
            command,
            arguments,
            environment,
            process: None,
            shift: None,
            clock: None,
            log,
            data_dir,
            host,
        })
    }

    /// The machine that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// The executable.
    pub(crate) fn executable(&self) -> &Path {
        &self.executable
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("kobune runs").id()
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    /// Starts the process on the data folder.
    pub fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("kobune {} runs already", self.command);
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.host.command(&self.executable);
        command.arg(self.command).arg("--data-dir").arg(self.data_dir()).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let what = || format!("start kobune {}", self.command);
        self.process = Some(match self.shift {
            Some(shift) => {
                // The first program is the one that enters the host's network namespace.
                let (process, clock) = Clock::start(&mut command, 2, shift).with_context(what)?;
                self.clock = Some(clock);
                process
            }
            None => command.spawn().with_context(what)?,
        });
        Ok(())
    }

    /// Sets the clock of the process so many seconds ahead of the machine's, now and at later starts. One that has had no clock of
    /// its own gets it at its next start.
    pub fn set_clock(&mut self, shift: i64) -> Result<()> {
        self.shift = Some(shift);
        match &self.clock {
            Some(clock) if self.process.is_some() => clock.set(shift),
            _ => Ok(()),
        }
    }

    /// Waits until `condition` holds; fails when the process ends before.
    pub(crate) fn ready(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Deadline::after(limit);
        loop {
            let process = self.process.as_mut().context("kobune does not run")?;
            if let Some(status) = process.try_wait()? {
                self.process = None;
                bail!("kobune {} ended with {status}\n{}", self.command, self.log());
            }
            if condition(self)? {
                return Ok(());
            }
            if deadline.is_over() {
                bail!("{what} is not ready after {limit:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Ends the process as a power cut would: no handler runs. Its pods go on.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("kobune does not run")?;
        process.kill()?;
        let status = process.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("kobune ended with {status} before it was killed\n{}", self.log());
        }
        Ok(())
    }

    /// Asks the process to end and waits for it. Its pods go on.
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
        let mut command = self.host.command(&self.executable);
        command.args(arguments);
        Running::start(command, None)?.finish(COMMAND_LIMIT)
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

impl Drop for Instance {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if let Err(error) = self.take_away() {
            eprintln!("testbed: kobune {} could not be taken away: {error:#}", self.command);
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
