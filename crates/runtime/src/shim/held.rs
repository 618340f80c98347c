//! One container in the shim: its process, its streams, its log and the clients that listen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::cgroup::Cgroups;
use crate::disk::{self, Durability};
use crate::log::{self, Lines, Log};
use crate::protocol::{ContainerPlan, Exit, Message};
use crate::streams::set_nonblocking;

/// How much an attached client may leave unread before the container has to wait.
const SINK_LIMIT: usize = 256 << 10;
/// How much is read at a time: what a pipe gives at once without losing the turn of others.
const READ_SIZE: usize = 16 << 10;

/// What a container writes to.
pub(super) struct Output {
    source: OwnedFd,
    stream: &'static str,
    lines: Lines,
    ended: bool,
}

impl Output {
    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// A client that gets output.
pub(super) struct Sink {
    pub(super) target: OwnedFd,
    stream: &'static str,
    pub(super) pending: Vec<u8>,
    gone: bool,
}

/// A container and everything that the shim keeps of it.
pub(super) struct Held {
    pub(super) plan: ContainerPlan,
    pub(super) folder: PathBuf,
    pub(super) pid: Option<i32>,
    pub(super) exit: Option<Exit>,
    log: Option<Log>,
    pub(super) outputs: Vec<Output>,
    pub(super) sinks: Vec<Sink>,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    pub(super) oom_event: Option<OwnedFd>,
    oom_kills: u64,
}

impl Held {
    /// Opens log and pipes. Returns the container's ends, unless it gets a terminal.
    pub(super) fn prepare(plan: ContainerPlan, folder: PathBuf) -> io::Result<(Self, Option<[OwnedFd; 3]>)> {
        let log = plan.log.as_deref().map(Log::open).transpose()?;
        let mut held = Self {
            plan,
            folder,
            pid: None,
            exit: None,
            log,
            outputs: Vec::new(),
            sinks: Vec::new(),
            stdin: None,
            terminal: None,
            oom_event: None,
            oom_kills: 0,
        };
        if held.plan.tty {
            return Ok((held, None));
        }
        let stdin = if held.plan.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            held.stdin = Some(write);
            read
        } else {
            std::fs::File::open("/dev/null")?.into()
        };
        let mut output = |stream| -> io::Result<OwnedFd> {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(&read)?;
            held.outputs.push(Output { source: read, stream, lines: Lines::default(), ended: false });
            Ok(write)
        };
        let (stdout, stderr) = (output("stdout")?, output("stderr")?);
        Ok((held, Some([stdin, stdout, stderr])))
    }

    /// The container runs.
    pub(super) fn begin(&mut self, pid: i32, terminal: Option<OwnedFd>, cgroups: &Cgroups) -> io::Result<()> {
        self.pid = Some(pid);
        if let Some(terminal) = terminal {
            let source = terminal.try_clone()?;
            set_nonblocking(&source)?;
            self.outputs.push(Output { source, stream: "stdout", lines: Lines::default(), ended: false });
            self.terminal = Some(terminal);
        }
        self.oom_event = self.watch_oom(cgroups);
        Ok(())
    }

    /// Version 1 tells through an eventfd; without one, out-of-memory is noticed at the container's end.
    fn watch_oom(&self, cgroups: &Cgroups) -> Option<OwnedFd> {
        if cgroups.unified() {
            return None;
        }
        let folder = cgroups.folder("memory", &self.plan.group)?;
        let watch = || -> io::Result<OwnedFd> {
            use std::os::fd::AsRawFd;
            let event = event_descriptor()?;
            let control = std::fs::File::open(folder.join("memory.oom_control"))?;
            std::fs::write(
                folder.join("cgroup.event_control"),
                format!("{} {}", event.as_raw_fd(), control.as_raw_fd()),
            )?;
            Ok(event)
        };
        match watch() {
            Ok(event) => Some(event),
            Err(error) => {
                eprintln!("out-of-memory events of {} cannot be watched: {error}", self.plan.id);
                None
            }
        }
    }

    /// Reads the event. Says whether the kernel has really ended something since the last time.
    pub(super) fn oom(&mut self, cgroups: &Cgroups) -> bool {
        if let Some(event) = &self.oom_event {
            // Removing the group fires the event too.
            if nix::unistd::read(event, &mut [0; 8]).is_err() || self.pid.is_none() {
                self.oom_event = None;
            }
        }
        let kills = cgroups.oom_kills(&self.plan.group);
        let more = kills > self.oom_kills;
        self.oom_kills = kills.max(self.oom_kills);
        more
    }

    /// Takes what an output has, once, for log and clients.
    pub(super) fn pump(&mut self, index: usize) {
        let mut buffer = [0_u8; READ_SIZE];
        let Some(output) = self.outputs.get_mut(index) else { return };
        match nix::unistd::read(&output.source, &mut buffer) {
            Ok(0) => output.ended = true,
            Ok(count) => {
                let bytes = &buffer[..count];
                let stream = output.stream;
                if let Some(log) = &mut self.log {
                    let mut formatted = Vec::with_capacity(count + 64);
                    let time = jiff::Timestamp::now().to_string();
                    output
                        .lines
                        .push(bytes, |line, complete| log::format(&mut formatted, &time, stream, line, complete));
                    write_log(log, &formatted);
                }
                for sink in self.sinks.iter_mut().filter(|sink| sink.stream == stream) {
                    sink.offer(bytes);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // A terminal says EIO when its last process has gone.
            Err(_) => output.ended = true,
        }
        if self.outputs[index].ended {
            self.close_output(index);
        }
    }

    fn close_output(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        let stream = output.stream;
        if let Some(log) = &mut self.log {
            let mut formatted = Vec::new();
            let time = jiff::Timestamp::now().to_string();
            output.lines.finish(|line, complete| log::format(&mut formatted, &time, stream, line, complete));
            write_log(log, &formatted);
        }
    }

    /// Whether a client has left so much unread that the container must wait.
    pub(super) fn congested(&self) -> bool {
        self.sinks.iter().any(|sink| sink.pending.len() > SINK_LIMIT)
    }

    pub(super) fn flush_sink(&mut self, index: usize) {
        if let Some(sink) = self.sinks.get_mut(index) {
            sink.flush();
        }
    }

    /// Drops what has ended. Only between rounds: within one, positions must stay.
    pub(super) fn tidy(&mut self) {
        self.outputs.retain(|output| !output.ended);
        self.sinks.retain(|sink| !sink.gone);
    }

    /// Adds a client. Its descriptors are for stdout and, without a terminal, stderr. It gets the way in.
    pub(super) fn attach(&mut self, descriptors: Vec<OwnedFd>) -> Result<(Message, Option<OwnedFd>), String> {
        if self.pid.is_none() {
            return Err("container is not running".to_owned());
        }
        for (descriptor, stream) in descriptors.into_iter().zip(["stdout", "stderr"]) {
            set_nonblocking(&descriptor).map_err(|error| error.to_string())?;
            self.sinks.push(Sink { target: descriptor, stream, pending: Vec::new(), gone: false });
        }
        let input = match &self.terminal {
            Some(terminal) => Some(terminal.try_clone().map_err(|error| error.to_string())?),
            // The client gets the only way in: when it closes it, the container reads the end.
            None if self.plan.stdin_once => self.stdin.take(),
            None => self.stdin.as_ref().map(OwnedFd::try_clone).transpose().map_err(|error| error.to_string())?,
        };
        Ok((Message::Attached { input: input.is_some(), tty: self.plan.tty }, input))
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// The container's first process has ended: ends the rest, takes the last output, and puts it on record.
    pub(super) fn end(&mut self, code: i32, signal: Option<i32>, cgroups: &Cgroups) -> Exit {
        self.pid = None;
        cgroups.kill(&self.plan.group);
        for index in 0..self.outputs.len() {
            self.drain(index);
        }
        for sink in &mut self.sinks {
            // What is not taken now has no taker: the descriptor closes so that the client sees the end.
            sink.flush();
        }
        self.outputs.clear();
        self.sinks.clear();
        self.stdin = None;
        self.terminal = None;
        self.oom_event = None;
        self.log = None;
        let oom_killed = cgroups.oom_kills(&self.plan.group) > 0 && code != 0;
        let exit = Exit {
            code,
            signal,
            oom_killed,
            at: jiff::Timestamp::now(),
            reason: String::new(),
            message: String::new(),
        };
        if let Err(error) = disk::write_json(&self.folder.join("exit.json"), &exit, Durability::Synced) {
            eprintln!("the end of {} cannot be put on record: {error}", self.plan.id);
        }
        self.exit = Some(exit.clone());
        exit
    }

    fn drain(&mut self, index: usize) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        while !self.outputs[index].ended {
            let mut ready = [PollFd::new(self.outputs[index].source(), PollFlags::POLLIN)];
            // A process that has been killed may hold the pipe for another moment; one that cannot be killed must not hold us.
            match poll(&mut ready, PollTimeout::from(100_u8)) {
                Ok(0) => {
                    self.close_output(index);
                    return;
                }
                Ok(_) => self.pump(index),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl Sink {
    fn offer(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.gone && !self.pending.is_empty() {
            match nix::unistd::write(&self.target, &self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.gone = true,
            }
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
            // Asks whether the reader is still there; an idle container would never find out.
            self.gone |= reader_gone(self.target.as_fd());
        }
    }
}

fn event_descriptor() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    #[expect(unsafe_code, reason = "eventfd has no wrapper in the features of nix that are in use")]
    // SAFETY: the call takes two numbers; a descriptor that it returns is new and nobody else knows it.
    unsafe {
        let raw = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if raw < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(raw)) }
    }
}

fn reader_gone(target: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut state = [PollFd::new(target, PollFlags::empty())];
    poll(&mut state, PollTimeout::ZERO).is_ok()
        && state[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

fn write_log(log: &mut Log, formatted: &[u8]) {
    if formatted.is_empty() {
        return;
    }
    if let Err(error) = log.write(formatted) {
        eprintln!("lines of a log are lost: {error}");
    }
}
