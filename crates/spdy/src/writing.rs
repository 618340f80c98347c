//! The writing half of a connection, which is the same on both sides.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;

use crate::Outgoing;
use crate::frame::{Encoder, FLAG_FIN, Frame};

/// Writes the reader's own answers first, then what streams send, until nobody can send any more. Then it closes its half.
pub(crate) async fn write<C: AsyncWrite>(
    mut writer: WriteHalf<C>,
    mut answers: mpsc::Receiver<Frame>,
    mut queue: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let (mut encoder, mut buffer) = (Encoder::default(), BytesMut::new());
    loop {
        // Both receives keep their messages when they are dropped.
        let frame = tokio::select! {
            biased;
            Some(frame) = answers.recv() => frame,
            message = queue.recv() => match message {
                Some(Outgoing::Open(id, headers)) => Frame::SynStream { id, flags: 0, headers },
                Some(Outgoing::Data(id, bytes)) => Frame::Data { id, flags: 0, bytes },
                Some(Outgoing::End(id)) => Frame::Data { id, flags: FLAG_FIN, bytes: Bytes::new() },
                Some(Outgoing::Reset(id)) => Frame::Reset { id, status: 5 },
                None => break,
            },
        };
        encoder.encode(&frame, &mut buffer).map_err(io::Error::other)?;
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        buffer.clear();
    }
    writer.shutdown().await
}
