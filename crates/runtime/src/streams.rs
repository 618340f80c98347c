//! The ends of a process's standard streams that a caller holds.

use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// How a command is to be run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Gives it a terminal; stdout and stderr are then one stream.
    pub tty: bool,
    /// Opens its standard input.
    pub stdin: bool,
    /// Opens its standard output.
    pub stdout: bool,
    /// Opens its standard error; has no effect with `tty`.
    pub stderr: bool,
}

/// What a command answered.
#[derive(Clone, Debug, Default)]
pub struct ExecResult {
    /// Its exit code, 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// What it wrote to standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
}

/// Standard streams of a process in a container.
///
/// Dropping `stdin` closes it (the process reads its end). `stdout` and `stderr` end when the last process that
/// holds them has closed them.
pub struct Streams {
    /// To the process.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// From the process; with a terminal, everything that it shows.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// From the process; `None` with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Changes the terminal's size.
    pub control: StreamControl,
    /// Resolves with the exit code.
    pub exit: ExitHandle,
}

/// Resolves when the process has ended. For `exec` it is the command's code, for `attach` the container's.
pub type ExitHandle = BoxFuture<'static, Result<i32>>;

/// Changes the size of a process's terminal. Cheap to clone.
#[derive(Clone, Default)]
pub struct StreamControl {
    pub(crate) terminal: Option<Arc<OwnedFd>>,
    /// Who sets the size where the terminal is another program's.
    pub(crate) sizes: Option<mpsc::Sender<(u16, u16)>>,
}

impl StreamControl {
    /// Hands columns and rows to whoever has the terminal.
    pub fn through(sizes: mpsc::Sender<(u16, u16)>) -> Self {
        Self { terminal: None, sizes: Some(sizes) }
    }

    /// Sets the terminal's size in characters; nothing happens without a terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        if let Some(sizes) = &self.sizes
            && let Err(error) = sizes.try_send((columns, rows))
        {
            // The next size counts as much as this one.
            tracing::debug!(%error, "a size was dropped");
        }
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        #[expect(unsafe_code, reason = "TIOCSWINSZ has no safe wrapper")]
        // SAFETY: the descriptor is owned by `terminal` and open; the kernel reads one `winsize`, which lives until the call returns.
        let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if result < 0 {
            Err(Error::io("resize the terminal of", "the process")(std::io::Error::last_os_error()))
        } else {
            Ok(())
        }
    }
}

/// A pipe end or a terminal, read and written without blocking a thread.
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Takes a descriptor over; its open file becomes non-blocking.
    pub(crate) fn new(descriptor: OwnedFd) -> std::io::Result<Self> {
        set_nonblocking(&descriptor)?;
        Ok(Self(watch(descriptor)?))
    }
}

/// Lets tokio watch a descriptor that is non-blocking already.
pub(crate) fn watch(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "registering a descriptor asks for a promise about its life")]
    // SAFETY: an `OwnedFd` keeps one descriptor open until it is dropped, and nothing takes it out of the `AsyncFd` before.
    let watched = unsafe { AsyncFd::register(descriptor) };
    watched.map_err(std::io::Error::from)
}

/// Makes reads and writes of a descriptor return instead of waiting.
pub(crate) fn set_nonblocking(descriptor: &OwnedFd) -> std::io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl AsyncRead for Descriptor {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            match guard.try_io(|inner| Ok(nix::unistd::read(inner.get_ref(), buffer.initialize_unfilled())?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal's master side answers EIO once the last process has closed the other side: the end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|inner| Ok(nix::unistd::write(inner.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
