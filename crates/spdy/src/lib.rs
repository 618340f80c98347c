//! SPDY/3.1 as the streaming protocols of Kubernetes use it: one side opens streams, both send data on them.
//!
//! One task owns a connection. Data for a stream goes through a bounded queue to whoever serves it; what they write comes
//! back through one bounded queue, so that a slow connection slows them down. Like the implementation that clients use, there
//! are no per-stream windows. The node serves it to the API server and its clients, and speaks it to container runtimes.

pub mod client;
mod dictionary;
pub mod frame;
mod server;
mod writing;

use bytes::Bytes;
use tokio::sync::mpsc;

use frame::Headers;
pub use server::{Streams, serve};

/// Messages waiting for the connection, and pieces waiting for one stream.
const QUEUE: usize = 16;
/// Data is sent in pieces of this size.
pub const PIECE: usize = 32 << 10;

/// What is sent on a stream.
enum Outgoing {
    /// Begins the stream; for the side that opens streams.
    Open(u32, Headers),
    Data(u32, Bytes),
    /// Nothing more comes on this stream.
    End(u32),
    /// The stream is over in both directions.
    Reset(u32),
}

/// A stream.
pub struct Stream {
    id: u32,
    /// The headers it was opened with.
    pub headers: Headers,
    /// What the other side sends; ends when it ends its side.
    pub incoming: mpsc::Receiver<Bytes>,
    /// The way back.
    pub outgoing: Sender,
}

impl Stream {
    /// A header of the stream.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends on one stream.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    queue: mpsc::Sender<Outgoing>,
}

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Closed;

impl Sender {
    /// Sends data; waits while the connection is slow.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Closed> {
        self.queue.send(Outgoing::Data(self.id, bytes)).await.map_err(|_| Closed)
    }

    /// Ends this side of the stream.
    pub async fn end(&self) -> Result<(), Closed> {
        self.queue.send(Outgoing::End(self.id)).await.map_err(|_| Closed)
    }

    /// Ends the stream in both directions.
    pub async fn reset(&self) -> Result<(), Closed> {
        self.queue.send(Outgoing::Reset(self.id)).await.map_err(|_| Closed)
    }
}
