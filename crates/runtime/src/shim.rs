//! The process that holds one pod's containers.
//!
//! It is the same executable, started as `kobune shim <sandbox folder>`: one thread, no async runtime, so that it may fork
//! at any time and stays small. It leaves its starter's session, reaps everything that its containers leave behind, and
//! waits in `poll` for requests on its socket, output of containers and the end of processes. What ends is first written
//! to disk and then told; a kobune that was away reads it when it comes back.
//!
//! Everything that needs libcontainer happens in a forked child ([`launch`], [`exec`]): it changes the process it runs in
//! (folder, rights to be dumped, memory) and the shim must stay as it is for months.

mod exec;
mod external;
mod held;
mod holder;
mod launch;
mod program;
mod setup;
mod stage;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::disk;
use crate::protocol::{self, ContainerPlan, Message, Request, ShimConfig};
use held::Held;

/// Entry of `kobune shim <sandbox folder>`; `arguments` are those after `shim`. Call it before anything starts a thread.
///
/// Returns 0 as soon as the shim listens; by then it has become a process of its own.
pub fn shim_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: kobune shim <sandbox folder>; kobune starts this by itself");
        return ExitCode::from(2);
    };
    match setup::detach(Path::new(&folder)) {
        Ok(setup::Side::Starter(Ok(()))) => ExitCode::SUCCESS,
        Ok(setup::Side::Starter(Err(message))) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
        Ok(setup::Side::Shim(ready)) => {
            let result = setup::enter(Path::new(&folder));
            let mut shim = match result {
                Ok((config, listener, signals, pause)) => Shim {
                    config,
                    listener,
                    signals,
                    pause,
                    connections: Vec::new(),
                    containers: BTreeMap::new(),
                    done: false,
                },
                Err(message) => {
                    ready.tell(Err(message));
                    return ExitCode::FAILURE;
                }
            };
            ready.tell(Ok(()));
            setup::return_memory();
            match shim.run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("the shim has failed: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// One conversation with kobune.
struct Connection {
    socket: OwnedFd,
    /// Wants to know what happens.
    subscribed: bool,
    /// The command that was started over it.
    exec: Option<i32>,
    gone: bool,
}

struct Shim {
    config: ShimConfig,
    listener: OwnedFd,
    signals: SignalFd,
    /// First process of the shared process namespace.
    pause: Option<i32>,
    connections: Vec<Connection>,
    containers: BTreeMap<String, Held>,
    done: bool,
}

/// What a ready descriptor belongs to.
enum Source {
    Listener,
    Signals,
    Connection(usize),
    Output(String, usize),
    Sink(String, usize),
    Oom(String),
}

impl Shim {
    fn run(&mut self) -> io::Result<()> {
        while !self.done {
            let ready = self.wait()?;
            for source in ready {
                match source {
                    Source::Listener => self.accept()?,
                    Source::Signals => {
                        while self.signals.read_signal()?.is_some() {}
                        self.reap();
                    }
                    Source::Connection(index) => self.serve(index),
                    Source::Output(id, index) => {
                        if let Some(held) = self.containers.get_mut(&id) {
                            held.pump(index);
                        }
                    }
                    Source::Sink(id, index) => {
                        if let Some(held) = self.containers.get_mut(&id) {
                            held.flush_sink(index);
                        }
                    }
                    Source::Oom(id) => self.oom(&id),
                }
            }
            self.connections.retain(|connection| !connection.gone);
            for held in self.containers.values_mut() {
                held.tidy();
            }
        }
        Ok(())
    }

    /// Waits until something is ready.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut descriptors = vec![
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        for (index, connection) in self.connections.iter().enumerate() {
            sources.push(Source::Connection(index));
            descriptors.push(PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN));
        }
        for (id, held) in &self.containers {
            // A client that reads slowly slows the container down, as a terminal would; nothing piles up here.
            if !held.congested() {
                for (index, output) in held.outputs.iter().enumerate() {
                    sources.push(Source::Output(id.clone(), index));
                    descriptors.push(PollFd::new(output.source(), PollFlags::POLLIN));
                }
            }
            for (index, sink) in held.sinks.iter().enumerate() {
                // Without pending bytes only its end is of interest.
                sources.push(Source::Sink(id.clone(), index));
                let flags = if sink.pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
                descriptors.push(PollFd::new(sink.target.as_fd(), flags));
            }
            if let Some(oom) = &held.oom_event {
                sources.push(Source::Oom(id.clone()));
                descriptors.push(PollFd::new(oom.as_fd(), PollFlags::POLLIN));
            }
        }
        loop {
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ready: Vec<bool> = descriptors
            .iter()
            .map(|descriptor| descriptor.revents().is_some_and(|events| !events.is_empty()))
            .collect();
        Ok(sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }

    fn accept(&mut self) -> io::Result<()> {
        use std::os::fd::{AsRawFd, FromRawFd};
        let raw = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            Ok(raw) => raw,
            Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        #[expect(unsafe_code, reason = "accept4 hands the descriptor over as a number")]
        // SAFETY: the kernel has just opened this descriptor for this process and nobody else knows its number.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        self.connections.push(Connection { socket, subscribed: false, exec: None, gone: false });
        Ok(())
    }

    fn serve(&mut self, index: usize) {
        // Allocated for each message: 200 KiB that nobody touches cost nothing, kept they would be the shim's largest piece.
        let mut buffer = vec![0; protocol::MAX_MESSAGE];
        let received = protocol::receive::<Request>(self.connections[index].socket.as_fd(), &mut buffer);
        drop(buffer);
        let (request, descriptors) = match received {
            Ok(Some(received)) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.answer(index, &Message::Failed(error.to_string()), &[]);
                return;
            }
            Ok(None) | Err(_) => {
                self.connections[index].gone = true;
                return;
            }
        };
        let answer = self.handle(index, request, descriptors);
        match answer {
            Ok((message, descriptor)) => {
                let descriptors: Vec<BorrowedFd<'_>> = descriptor.iter().map(AsFd::as_fd).collect();
                self.answer(index, &message, &descriptors);
            }
            Err(message) => self.answer(index, &Message::Failed(message), &[]),
        }
        // Starting and running commands may have left pages behind.
        setup::return_memory();
    }

    fn answer(&mut self, index: usize, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        let connection = &mut self.connections[index];
        if let Err(error) = protocol::send(connection.socket.as_fd(), message, descriptors) {
            eprintln!("a client does not take its answer: {error}");
            connection.gone = true;
        }
    }

    fn handle(
        &mut self,
        index: usize,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Message, Option<OwnedFd>), String> {
        match request {
            Request::Subscribe => {
                self.connections[index].subscribed = true;
                let containers =
                    self.containers.values().map(|held| (held.plan.id.clone(), held.pid, held.exit.clone())).collect();
                Ok((Message::State { shim_pid: Pid::this().as_raw(), pause_pid: self.pause, containers }, None))
            }
            Request::Start { folder } => self.start(folder).map(|message| (message, None)),
            Request::Signal { id, signal, all } => {
                let held = self.containers.get(&id).ok_or("no such container")?;
                let Some(pid) = held.pid else { return Ok((Message::Done, None)) };
                if all {
                    self.config.cgroups.kill(&held.plan.group);
                }
                let signal = Signal::try_from(signal).map_err(|_| format!("{signal} is not a signal"))?;
                match kill(Pid::from_raw(pid), signal) {
                    Ok(()) | Err(Errno::ESRCH) => Ok((Message::Done, None)),
                    Err(error) => Err(error.to_string()),
                }
            }
            Request::Exec { id, command, tty, stdin, stdout, stderr } => {
                let held = self.containers.get(&id).ok_or("no such container")?;
                let pid = held.pid.ok_or("container is not running")?;
                let mut descriptors = descriptors.into_iter();
                let mut take = |wanted: bool| -> Result<Option<OwnedFd>, String> {
                    if wanted && !tty {
                        descriptors.next().map(Some).ok_or_else(|| "a descriptor is missing".to_owned())
                    } else {
                        Ok(None)
                    }
                };
                let stdio = [take(stdin)?, take(stdout)?, take(stderr)?];
                let started = exec::start(&self.config.cgroups, held, pid, command, tty, stdio)?;
                self.connections[index].exec = Some(started.pid);
                Ok((Message::Started { pid: started.pid, oom_score_refused: false }, started.terminal))
            }
            Request::KillExec => {
                if let Some(pid) = self.connections[index].exec {
                    // It leads a session of its own; what it started goes with it.
                    for target in [-pid, pid] {
                        match kill(Pid::from_raw(target), Signal::SIGKILL) {
                            Ok(()) | Err(Errno::ESRCH) => {}
                            Err(error) => return Err(error.to_string()),
                        }
                    }
                }
                Ok((Message::Done, None))
            }
            Request::Attach { id } => {
                let held = self.containers.get_mut(&id).ok_or("no such container")?;
                held.attach(descriptors)
            }
            Request::ReopenLog { id } => {
                let held = self.containers.get_mut(&id).ok_or("no such container")?;
                held.reopen_log().map_err(|error| format!("failed to open the log: {error}"))?;
                Ok((Message::Done, None))
            }
            Request::Forget { id } => {
                if self.containers.get(&id).is_some_and(|held| held.pid.is_some()) {
                    return Err("container is running".to_owned());
                }
                self.containers.remove(&id);
                Ok((Message::Done, None))
            }
            Request::Shutdown => {
                self.shut_down();
                Ok((Message::Done, None))
            }
        }
    }

    fn start(&mut self, folder: PathBuf) -> Result<Message, String> {
        let plan: ContainerPlan = disk::read_json(&folder.join("shim.json"))
            .and_then(|plan| plan.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|error| format!("failed to read {}: {error}", folder.display()))?;
        if self.containers.contains_key(&plan.id) {
            return Err("container was started before".to_owned());
        }
        let (mut held, stdio) = Held::prepare(plan, folder)
            .map_err(|error| format!("failed to prepare the container's streams: {error}"))?;
        let users = self.config.own_users.then_some(self.pause).flatten();
        let users = users.map(|holder| PathBuf::from(format!("/proc/{holder}/ns/user")));
        let started = launch::start(&held.plan, &held.folder, stdio, users.as_deref())?;
        held.begin(started.pid, started.terminal, &self.config.cgroups)
            .map_err(|error| format!("failed to watch the container: {error}"))?;
        self.containers.insert(held.plan.id.clone(), held);
        Ok(Message::Started { pid: started.pid, oom_score_refused: started.oom_score_refused })
    }

    /// Collects every process that has ended: containers, commands, and whatever they left behind.
    fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32, Some(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    eprintln!("failed to wait for processes: {error}");
                    return;
                }
            };
            self.ended(pid, code, signal);
        }
    }

    fn ended(&mut self, pid: i32, code: i32, signal: Option<i32>) {
        if let Some(index) = self.connections.iter().position(|connection| connection.exec == Some(pid)) {
            self.connections[index].exec = None;
            self.answer(index, &Message::ExecExited { code }, &[]);
            return;
        }
        let Some(held) = self.containers.values_mut().find(|held| held.pid == Some(pid)) else { return };
        let exit = held.end(code, signal, &self.config.cgroups);
        let message = Message::Exited { id: held.plan.id.clone(), exit };
        self.tell(&message);
    }

    fn oom(&mut self, id: &str) {
        let Some(held) = self.containers.get_mut(id) else { return };
        if held.oom(&self.config.cgroups) {
            self.tell(&Message::Oom { id: id.to_owned() });
        }
    }

    fn tell(&mut self, message: &Message) {
        for index in 0..self.connections.len() {
            if self.connections[index].subscribed {
                self.answer(index, message, &[]);
            }
        }
    }

    fn shut_down(&mut self) {
        let running: Vec<(i32, String)> =
            self.containers.values().filter_map(|held| Some((held.pid?, held.plan.group.clone()))).collect();
        for (pid, group) in &running {
            self.config.cgroups.kill(group);
            if let Err(error) = kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                eprintln!("container process {pid} was gone before it was ended: {error}");
            }
        }
        for (pid, _) in running {
            let (code, signal) = match waitpid(Pid::from_raw(pid), None) {
                Ok(WaitStatus::Exited(_, code)) => (code, None),
                Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, Some(signal as i32)),
                _ => (137, Some(9)),
            };
            self.ended(pid, code, signal);
        }
        if let Err(error) = std::fs::remove_file(&self.config.socket) {
            eprintln!("failed to remove the socket: {error}");
        }
        self.done = true;
    }
}
