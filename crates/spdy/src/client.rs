//! The side that opens streams.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::frame::{Decoder, FLAG_FIN, Frame, Headers};
use crate::{Closed, Outgoing, PIECE, QUEUE, Sender, Stream, writing};

type Open = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

/// A connection on which streams are opened. It is closed when this and all [`Sender`]s are gone and everything has been
/// written.
pub struct Connection {
    next: u32,
    open: Open,
    queue: mpsc::Sender<Outgoing>,
    /// Cancelled when the connection is over.
    pub over: CancellationToken,
}

impl Connection {
    /// Opens a stream.
    pub async fn open(&mut self, headers: Headers) -> Result<Stream, Closed> {
        let id = self.next;
        self.next += 2;
        let (sender, incoming) = mpsc::channel(QUEUE);
        self.open.lock().insert(id, sender);
        if self.over.is_cancelled() {
            self.open.lock().clear();
            return Err(Closed);
        }
        self.queue.send(Outgoing::Open(id, headers.clone())).await.map_err(|_| Closed)?;
        Ok(Stream { id, headers, incoming, outgoing: Sender { id, queue: self.queue.clone() } })
    }
}

/// Takes over a connection on which the other side expects streams to be opened.
pub fn connect<C>(connection: C) -> Connection
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (queue, outgoing) = mpsc::channel(QUEUE);
    let (open, over) = (Open::default(), CancellationToken::new());
    let (streams, guard) = (Arc::clone(&open), over.clone().drop_guard());
    tokio::spawn(async move {
        if let Err(error) = run(connection, &streams, outgoing).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection ended");
        }
        drop(guard);
        // Whoever reads a stream hears of the end.
        streams.lock().clear();
    });
    Connection { next: 1, open, queue, over }
}

async fn run<C>(connection: C, open: &Open, queue: mpsc::Receiver<Outgoing>) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(connection);
    let (answer, answers) = mpsc::channel(QUEUE);
    let write = writing::write(writer, answers, queue);
    let read = async move {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(PIECE));
        loop {
            while let Some(frame) = decoder.decode(&mut buffer).map_err(io::Error::other)? {
                match frame {
                    Frame::Data { id, flags, bytes } => {
                        let stream = open.lock().get(&id).cloned();
                        if let Some(stream) = stream
                            && !bytes.is_empty()
                            && stream.send(bytes).await.is_err()
                        {
                            open.lock().remove(&id);
                        }
                        if flags & FLAG_FIN != 0 {
                            open.lock().remove(&id);
                        }
                    }
                    Frame::Reset { id, .. } => drop(open.lock().remove(&id)),
                    Frame::SynReply { id, flags, .. } | Frame::Headers { id, flags, .. } if flags & FLAG_FIN != 0 => {
                        open.lock().remove(&id);
                    }
                    // Pings with odd numbers would be answers to our own, of which there are none.
                    Frame::Ping { id } if id % 2 == 0 => {
                        answer.send(Frame::Ping { id }).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                    }
                    _ => {}
                }
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let (mut read, mut write) = (std::pin::pin!(read), std::pin::pin!(write));
    // The other side's end is the end; ours leaves it the time to answer.
    tokio::select! {
        result = &mut read => result,
        result = &mut write => match result {
            Ok(()) => read.await,
            error => error,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn both_sides_understand_each_other() {
        let (ours, theirs) = tokio::io::duplex(1000);
        let mut server = crate::serve(theirs);
        let mut client = connect(ours);
        let mut stream = client.open(vec![("streamtype".into(), "stdin".into())]).await.expect("opened");
        let mut taken = server.opened.recv().await.expect("a stream");
        assert_eq!(taken.header("streamtype"), Some("stdin"));
        stream.outgoing.send(Bytes::from_static(b"up")).await.expect("sent");
        stream.outgoing.end().await.expect("ended");
        assert_eq!(taken.incoming.recv().await.as_deref(), Some(&b"up"[..]));
        assert_eq!(taken.incoming.recv().await, None, "half closed");
        taken.outgoing.send(Bytes::from_static(b"down")).await.expect("sent");
        taken.outgoing.end().await.expect("ended");
        assert_eq!(stream.incoming.recv().await.as_deref(), Some(&b"down"[..]));
        assert_eq!(stream.incoming.recv().await, None);
        drop((taken, server));
        client.over.cancelled().await;
        assert!(client.open(Vec::new()).await.is_err(), "the connection is over");
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut client = connect(ours);
        let mut stream = client.open(Vec::new()).await.expect("opened");
        theirs.write_all(&[0x80, 9, 0, 1, 0, 0, 0, 0]).await.expect("written");
        assert_eq!(stream.incoming.recv().await, None);
        client.over.cancelled().await;
    }
}
