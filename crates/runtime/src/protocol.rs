//! The words between the runtime and a shim: one JSON message a datagram on a `SOCK_SEQPACKET` socket, with descriptors
//! beside it where streams are handed over.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::fd::{FromRawFd, RawFd};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;

/// What a shim is told when it is started: `shim.json` in the sandbox's folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    /// The sandbox.
    pub(crate) sandbox: String,
    /// Where to listen.
    pub(crate) socket: PathBuf,
    /// The pod's name in its UTS namespace; `None` keeps the host's.
    pub(crate) hostname: Option<String>,
    /// The pod's network namespace.
    pub(crate) network_namespace: Option<PathBuf>,
    /// Makes an IPC namespace.
    pub(crate) ipc: bool,
    /// Makes a process namespace that all containers share.
    pub(crate) shared_pid: bool,
    /// The pod's users are those of the user namespace that its network namespace belongs to.
    #[serde(default)]
    pub(crate) own_users: bool,
    /// Kernel parameters of the namespaces.
    pub(crate) sysctls: Vec<(String, String)>,
    /// The machine's trees.
    pub(crate) cgroups: Cgroups,
    /// The group in which the shim itself stays.
    pub(crate) own_group: String,
}

/// What a shim needs for one container: `shim.json` in the container's folder, beside `config.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerPlan {
    /// The container.
    pub(crate) id: String,
    /// Log file; no log without it.
    pub(crate) log: Option<PathBuf>,
    /// Has a terminal.
    pub(crate) tty: bool,
    /// Has an open standard input.
    pub(crate) stdin: bool,
    /// Closes it with the first client.
    pub(crate) stdin_once: bool,
    /// Folder of the unpacked layers.
    pub(crate) snapshots: PathBuf,
    /// Layers in it, topmost first.
    pub(crate) lowers: Vec<String>,
    /// The host's number of the user that the container's program runs as.
    #[serde(default)]
    pub(crate) user: u32,
    /// The container's group.
    pub(crate) group: String,
    /// Wanted score; refused by kernels where kobune lacks the right.
    pub(crate) oom_score_adj: Option<i32>,
    /// Some mount passes mounts out to the host.
    pub(crate) mounts_out: bool,
    /// The OCI runtime to call; the linked-in one without it.
    #[serde(default)]
    pub(crate) runtime: Option<PathBuf>,
    /// Images whose files it sees.
    #[serde(default)]
    pub(crate) images: Vec<ImagePlan>,
    /// What is different because its users are not the host's.
    #[serde(default)]
    pub(crate) mapped: Option<MappedPlan>,
}

/// How a container whose users are not the host's gets to its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MappedPlan {
    /// A folder that everybody can reach; in the mount namespace of the container's start everything is brought there.
    pub(crate) stage: PathBuf,
    /// What comes there under its number in this list.
    pub(crate) binds: Vec<MappedBind>,
}

/// Something of the host that such a container sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MappedBind {
    /// Where it is.
    pub(crate) source: PathBuf,
    /// Its owners have to be mapped; those of what comes out of layers are already.
    pub(crate) map: bool,
    /// Cannot be written; true also for mounts below it.
    pub(crate) read_only: Option<bool>,
}

/// An image to mount beside a container's root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImagePlan {
    /// Layers in the folder of unpacked layers, topmost first.
    pub(crate) lowers: Vec<String>,
    /// Folder in which it is mounted, at `root`; the part that is wanted is at `part`.
    pub(crate) place: PathBuf,
    /// That part, empty for all of it.
    pub(crate) sub_path: String,
}

impl ImagePlan {
    /// Where the wanted part can be bound from, once it is mounted.
    pub(crate) fn source(&self) -> PathBuf {
        self.place.join(if self.sub_path.is_empty() { "root" } else { "part" })
    }
}

/// How a container ended: `exit.json` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Exit code, 128 + signal when a signal ended it.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// The kernel ended a process of it for lack of memory.
    pub(crate) oom_killed: bool,
    /// When.
    pub(crate) at: jiff::Timestamp,
    /// Why, if it is not just that the process ended.
    #[serde(default)]
    pub(crate) reason: String,
    /// More about why.
    #[serde(default)]
    pub(crate) message: String,
}

/// What the runtime asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Tell what runs, and tell on this connection what happens from now on.
    Subscribe,
    /// Run the container whose folder this is.
    Start {
        /// The container's folder.
        folder: PathBuf,
    },
    /// Send a signal to a container's first process, or to everything in it.
    Signal {
        /// The container.
        id: String,
        /// Signal number.
        signal: i32,
        /// To everything.
        all: bool,
    },
    /// Run a command in a container; standard streams come as descriptors (those that are set, in this order) unless `tty`.
    Exec {
        /// The container.
        id: String,
        /// Program and arguments.
        command: Vec<String>,
        /// With a terminal: the answer brings its master side.
        tty: bool,
        /// A descriptor to read from comes along.
        stdin: bool,
        /// A descriptor to write to comes along.
        stdout: bool,
        /// Another one comes along.
        stderr: bool,
    },
    /// End the command that this connection started.
    KillExec,
    /// Copy output from now on to the descriptors that come along (stdout, then stderr unless tty); the answer brings standard
    /// input (or the terminal).
    Attach {
        /// The container.
        id: String,
    },
    /// Open the log anew.
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Forget an ended container.
    Forget {
        /// The container.
        id: String,
    },
    /// End all containers and then the shim.
    Shutdown,
}

/// What a shim answers, and what it tells by itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// It is done.
    Done,
    /// It could not be done.
    Failed(String),
    /// The process runs.
    Started {
        /// Its number on the host.
        pid: i32,
        /// The wanted out-of-memory score was refused.
        oom_score_refused: bool,
    },
    /// All containers that the shim knows.
    State {
        /// The shim's process.
        shim_pid: i32,
        /// The shared process namespace's first process.
        pause_pid: Option<i32>,
        /// Container and its first process, or how it ended.
        containers: Vec<(String, Option<i32>, Option<Exit>)>,
    },
    /// Standard input or the terminal comes along if `input` is set.
    Attached {
        /// A descriptor comes along.
        input: bool,
        /// It is a terminal.
        tty: bool,
    },
    /// A container has ended.
    Exited {
        /// The container.
        id: String,
        /// How.
        exit: Exit,
    },
    /// The kernel has ended a process of a container for lack of memory.
    Oom {
        /// The container.
        id: String,
    },
    /// The command of this connection has ended.
    ExecExited {
        /// Its code.
        code: i32,
    },
}

/// A message's greatest length: what a socket's default buffer takes. A command line longer than this is refused.
pub(crate) const MAX_MESSAGE: usize = 200 << 10;
/// Most descriptors that one message carries.
const MAX_DESCRIPTORS: usize = 3;

/// Sends one message. A full socket is `WouldBlock`.
pub(crate) fn send(socket: BorrowedFd<'_>, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the request is too long for the shim"));
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &control[..0] } else { &control[..] };
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message; `None` when the other side has gone.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for descriptor in raw {
                #[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
                // SAFETY: the kernel has just opened this descriptor for this process and nobody else knows its number.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    let (count, truncated) = (received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC));
    if truncated {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut"));
    }
    if count == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..count])?, descriptors)))
}

/// Receives one descriptor from somebody who speaks another protocol (libcontainer's console).
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut buffer = [0_u8; 64];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut found = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for descriptor in raw {
                #[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
                // SAFETY: the kernel has just opened this descriptor for this process and nobody else knows its number.
                let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
                found.get_or_insert(descriptor);
            }
        }
    }
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor came"))
}
