//! The runtime's side of the conversation with a shim.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::io::unix::AsyncFd;

use crate::disk;
use crate::protocol::{self, MAX_MESSAGE, Message, Request};
use crate::streams::watch;

/// One connection to a shim.
pub(crate) struct ShimConnection(AsyncFd<OwnedFd>);

/// Connects through the open folder: a socket's path may have 107 bytes at most.
pub(crate) fn open(path: &Path, flags: SockFlag) -> io::Result<OwnedFd> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&disk::below(&folder, name))?)?;
    Ok(socket)
}

impl ShimConnection {
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self(watch(open(path, SockFlag::SOCK_NONBLOCK)?)?))
    }

    pub(crate) async fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|inner| protocol::send(inner.get_ref().as_fd(), request, descriptors)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// The next message; an error when the shim has gone.
    pub(crate) async fn receive(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        loop {
            let mut guard = self.0.readable().await?;
            // The buffer lives only while there is something to read: hundreds of idle connections keep none.
            let attempt = guard.try_io(|inner| protocol::receive(inner.get_ref().as_fd(), &mut vec![0; MAX_MESSAGE]));
            match attempt {
                Ok(result) => return result?.ok_or_else(|| io::ErrorKind::ConnectionReset.into()),
                Err(_would_block) => {}
            }
        }
    }
}
