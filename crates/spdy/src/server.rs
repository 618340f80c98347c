//! The side that streams are opened on.

use std::collections::HashMap;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::frame::{Decoder, FLAG_FIN, Frame};
use crate::{Outgoing, PIECE, QUEUE, Sender, Stream, writing};

/// The streams that a client opens.
///
/// The connection is closed when this and all [`Sender`]s are gone and everything has been written.
pub struct Streams {
    /// New streams.
    pub opened: mpsc::Receiver<Stream>,
    _open: mpsc::Sender<Outgoing>,
    /// Cancelled when the connection is over.
    pub over: CancellationToken,
}

/// Serves a connection: starts its task and returns the streams that the client opens.
pub fn serve<C>(connection: C) -> Streams
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (opened, streams) = mpsc::channel(QUEUE);
    let over = CancellationToken::new();
    let guard = over.clone().drop_guard();
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let weak = outgoing.downgrade();
    tokio::spawn(async move {
        if let Err(error) = run(connection, opened, weak, queue).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection ended");
        }
        drop(guard);
    });
    Streams { opened: streams, _open: outgoing, over }
}

async fn run<C>(
    connection: C,
    opened: mpsc::Sender<Stream>,
    outgoing: mpsc::WeakSender<Outgoing>,
    queue: mpsc::Receiver<Outgoing>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(connection);
    let (control, controls) = mpsc::channel(QUEUE);
    let write = writing::write(writer, controls, queue);
    let read = async move {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::with_capacity(PIECE);
        let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
        let mut no_more = false;
        loop {
            while let Some(frame) = decoder.decode(&mut buffer).map_err(io::Error::other)? {
                match frame {
                    Frame::SynStream { id, flags, headers } => {
                        let Some(queue) = outgoing.upgrade() else { return Ok(()) };
                        if no_more {
                            continue;
                        }
                        let (sender, incoming) = mpsc::channel(QUEUE);
                        if flags & FLAG_FIN == 0 {
                            streams.insert(id, sender);
                        }
                        let reply = Frame::SynReply { id, flags: 0, headers: Vec::new() };
                        if control.send(reply).await.is_err() {
                            return Ok(());
                        }
                        let stream = Stream { id, headers, incoming, outgoing: Sender { id, queue } };
                        let sender_id = stream.id;
                        if opened.send(stream).await.is_err() {
                            // Nobody takes new streams any more.
                            streams.remove(&sender_id);
                        }
                    }
                    Frame::Data { id, flags, bytes } => {
                        if let Some(stream) = streams.get(&id)
                            && !bytes.is_empty()
                            && stream.send(bytes).await.is_err()
                        {
                            streams.remove(&id);
                        }
                        if flags & FLAG_FIN != 0 {
                            streams.remove(&id);
                        }
                    }
                    Frame::Reset { id, .. } => {
                        streams.remove(&id);
                    }
                    Frame::Headers { id, flags, .. } if flags & FLAG_FIN != 0 => {
                        streams.remove(&id);
                    }
                    Frame::Ping { id } => {
                        control.send(Frame::Ping { id }).await.map_err(|_| io::ErrorKind::BrokenPipe)?
                    }
                    Frame::GoAway { .. } => no_more = true,
                    _ => {}
                }
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let mut read = std::pin::pin!(read);
    let mut write = std::pin::pin!(write);
    // Whichever ends first ends the connection: the client is gone, or everything has been said.
    tokio::select! {
        result = &mut read => result,
        result = &mut write => result,
    }
}
