//! Commands in running containers, and clients of their streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::Runtime;
use super::records::Container;
use crate::container::ContainerState;
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::protocol::{Message, Request};
use crate::shim_client::ShimConnection;
use crate::streams::{Descriptor, ExecOptions, ExecResult, StreamControl, Streams};

/// No probe or hook needs more; what comes after is read and dropped.
const OUTPUT_LIMIT: usize = 16 << 20;
/// How long output is awaited after a command's end: something that it started may keep the pipe open.
const DRAIN: Duration = Duration::from_secs(2);

struct Pipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

fn pipe(we_read: bool) -> Result<Pipe> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| Error::io("make", "a pipe")(error.into()))?;
    Ok(if we_read { Pipe { ours: read, theirs: write } } else { Pipe { ours: write, theirs: read } })
}

fn stream(descriptor: OwnedFd) -> Result<Descriptor> {
    Descriptor::new(descriptor).map_err(Error::io("watch", "a stream"))
}

fn reader(descriptor: Option<OwnedFd>) -> Result<Option<Box<dyn AsyncRead + Send + Unpin>>> {
    descriptor.map(|descriptor| stream(descriptor).map(|stream| Box::new(stream) as _)).transpose()
}

/// A started command and the conversation that it belongs to.
struct Running {
    connection: Arc<ShimConnection>,
    streams: Streams,
}

impl Runtime {
    fn running(&self, id: &ContainerId) -> Result<Container> {
        let container =
            self.state.read().containers.get(id).cloned().ok_or_else(|| Error::ContainerNotFound(id.to_string()))?;
        match container.state() {
            ContainerState::Running => Ok(container),
            ContainerState::Created => {
                Err(Error::WrongState { id: id.to_string(), state: "created", wanted: "running" })
            }
            _ => Err(Error::WrongState { id: id.to_string(), state: "exited", wanted: "running" }),
        }
    }

    async fn command(&self, id: &ContainerId, options: ExecOptions) -> Result<Running> {
        let container = self.running(id)?;
        if options.command.is_empty() {
            return Err(Error::Invalid("no command specified".to_owned()));
        }
        let gone = |source| Error::ShimGone { sandbox: container.record.sandbox.to_string(), source };
        let connection = Arc::new(ShimConnection::connect(&self.socket(&container.record.sandbox)).map_err(gone)?);
        let make =
            |wanted: bool, we_read: bool| if wanted && !options.tty { pipe(we_read).map(Some) } else { Ok(None) };
        let (stdin, stdout, stderr) =
            (make(options.stdin, false)?, make(options.stdout, true)?, make(options.stderr, true)?);
        let request = Request::Exec {
            id: id.to_string(),
            command: options.command,
            tty: options.tty,
            stdin: stdin.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let descriptors: Vec<BorrowedFd<'_>> =
            [&stdin, &stdout, &stderr].into_iter().flatten().map(|pipe| pipe.theirs.as_fd()).collect();
        connection.send(&request, &descriptors).await.map_err(gone)?;
        drop(descriptors);
        let ours = |pipe: Option<Pipe>| pipe.map(|pipe| pipe.ours);
        let (stdin, stdout, stderr) = (ours(stdin), ours(stdout), ours(stderr));
        let terminal = match connection.receive().await.map_err(gone)? {
            (Message::Started { .. }, descriptors) => descriptors.into_iter().next(),
            (Message::Failed(message), _) => return Err(Error::Shim(message)),
            _ => return Err(Error::Shim("the shim gave an unexpected answer".to_owned())),
        };
        let copy = |wanted: bool| match &terminal {
            Some(terminal) if wanted => terminal.try_clone().map(Some).map_err(Error::io("copy", "a terminal")),
            _ => Ok(None),
        };
        let (stdin, stdout) = if terminal.is_some() { (copy(options.stdin)?, copy(true)?) } else { (stdin, stdout) };
        let (listener, sandbox) = (connection.clone(), container.record.sandbox.to_string());
        let streams = Streams {
            stdin: stdin.map(|stdin| stream(stdin).map(|stream| Box::new(stream) as _)).transpose()?,
            stdout: reader(stdout)?,
            stderr: reader(stderr)?,
            control: StreamControl { terminal: terminal.map(Arc::new), sizes: None },
            exit: Box::pin(async move {
                loop {
                    match listener.receive().await {
                        Ok((Message::ExecExited { code }, _)) => return Ok(code),
                        Ok(_) => {}
                        Err(source) => return Err(Error::ShimGone { sandbox, source }),
                    }
                }
            }),
        };
        Ok(Running { connection, streams })
    }

    pub(super) async fn run_command(&self, id: &ContainerId, options: ExecOptions) -> Result<Streams> {
        Ok(self.command(id, options).await?.streams)
    }

    pub(super) async fn run_command_to_end(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<ExecResult> {
        let options = ExecOptions { command, stdout: true, stderr: true, ..ExecOptions::default() };
        let Running { connection, mut streams } = self.command(id, options).await?;
        let (mut stdout, mut stderr) =
            (Collector::start(streams.stdout.take()), Collector::start(streams.stderr.take()));
        let exit = if limit.is_zero() { Ok(streams.exit.await) } else { timeout(limit, streams.exit).await };
        let exit_code = match exit {
            Ok(code) => code?,
            Err(_elapsed) => {
                let gone = |source| Error::ShimGone { sandbox: id.to_string(), source };
                connection.send(&Request::KillExec, &[]).await.map_err(gone)?;
                return Err(Error::Timeout(limit));
            }
        };
        Ok(ExecResult { exit_code, stdout: stdout.finish().await, stderr: stderr.finish().await })
    }

    pub(super) async fn attach_client(&self, id: &ContainerId) -> Result<Streams> {
        let container = self.running(id)?;
        let tty = container.record.config.tty;
        let gone = |source| Error::ShimGone { sandbox: container.record.sandbox.to_string(), source };
        let connection = ShimConnection::connect(&self.socket(&container.record.sandbox)).map_err(gone)?;
        let stdout = pipe(true)?;
        let stderr = if tty { None } else { Some(pipe(true)?) };
        let descriptors: Vec<BorrowedFd<'_>> =
            [Some(&stdout), stderr.as_ref()].into_iter().flatten().map(|pipe| pipe.theirs.as_fd()).collect();
        connection.send(&Request::Attach { id: id.to_string() }, &descriptors).await.map_err(gone)?;
        let input = match connection.receive().await.map_err(gone)? {
            (Message::Attached { .. }, descriptors) => descriptors.into_iter().next(),
            (Message::Failed(message), _) => return Err(Error::Shim(message)),
            _ => return Err(Error::Shim("the shim gave an unexpected answer".to_owned())),
        };
        let terminal = match &input {
            Some(input) if tty => Some(Arc::new(input.try_clone().map_err(Error::io("copy", "a terminal"))?)),
            _ => None,
        };
        // A terminal always has a way in, but only a container that asked for standard input gets it from a client.
        let input = input.filter(|_| container.record.config.stdin);
        let mut exit = container.exit.subscribe();
        let name = id.to_string();
        Ok(Streams {
            stdin: input.map(|input| stream(input).map(|stream| Box::new(stream) as _)).transpose()?,
            stdout: reader(Some(stdout.ours))?,
            stderr: reader(stderr.map(|stderr| stderr.ours))?,
            control: StreamControl { terminal, sizes: None },
            exit: Box::pin(async move {
                let ended = exit.wait_for(Option::is_some).await.map_err(|_| Error::ContainerNotFound(name))?;
                Ok(ended.as_ref().map_or(255, |exit| exit.code))
            }),
        })
    }
}

/// Reads a stream beside the wait for its command's end.
struct Collector {
    bytes: Arc<parking_lot::Mutex<Vec<u8>>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Collector {
    fn start(stream: Option<Box<dyn AsyncRead + Send + Unpin>>) -> Self {
        let bytes = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let sink = bytes.clone();
        let task = stream.map(|mut stream| {
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let mut sink = sink.lock();
                    let room = OUTPUT_LIMIT.saturating_sub(sink.len()).min(count);
                    sink.extend_from_slice(&buffer[..room]);
                }
            })
        });
        Self { bytes, task }
    }

    async fn finish(&mut self) -> Vec<u8> {
        if let Some(mut task) = self.task.take()
            && timeout(DRAIN, &mut task).await.is_err()
        {
            task.abort();
        }
        std::mem::take(&mut *self.bytes.lock())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
