//! The way of an HTTP/2 connection's bytes to the socket: what one turn of the connection writes goes out together.
//!
//! HTTP/2 writes a frame of at most 16 KiB at a time and flushes after each. Sent so, a list of megabytes or a burst of
//! events costs a system call, a pass through the kernel's network layers and a wake-up of the reader for every frame. Here
//! a flush only asks for another turn of the connection's task; the records of TLS that have been made by then leave
//! with one call. A connection polls for input at the begin of each turn, and that is where they leave.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection whose writes are gathered if it speaks HTTP/2. Others are passed on: nothing says that whoever writes to
/// them comes back to read.
pub(crate) struct Gathering {
    stream: TlsStream<TcpStream>,
    gathers: bool,
    /// Whether another turn has been asked for.
    asked: bool,
    /// Whether the socket has not taken everything. Until it has, nothing more is encrypted: what a client that does not
    /// read keeps in memory stays what one turn has gathered.
    blocked: bool,
}

impl Gathering {
    pub(crate) fn new(stream: TlsStream<TcpStream>) -> Self {
        let gathers = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Self { stream, gathers, asked: false, blocked: false }
    }

    /// Sends all that is encrypted.
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.blocked = self.stream.get_ref().1.wants_write();
        if self.blocked {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.blocked = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Gathering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.gathers {
            self.asked = false;
            // When the socket is full, its waker brings this task back; reading goes on meanwhile.
            if let Poll::Ready(sent) = self.send(context) {
                sent?;
            }
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.gathers {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        loop {
            if self.blocked {
                ready!(self.send(context))?;
            }
            // Takes nothing when its buffer of 64 KiB is full.
            let taken = io::Write::write_vectored(&mut self.stream.get_mut().1.writer(), slices)?;
            if taken > 0 || slices.iter().all(|slice| slice.is_empty()) {
                return Poll::Ready(Ok(taken));
            }
            ready!(self.send(context))?;
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathers {
            return Pin::new(&mut self.stream).poll_flush(context);
        }
        if !self.asked && self.stream.get_ref().1.wants_write() {
            self.asked = true;
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
