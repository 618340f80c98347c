//! SPDY/3.1 frames to and from bytes. Pure, but for the two compression states that a connection has.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::dictionary;

/// Larger frames are refused: clients send at most 16 MiB by the format, and 32 KiB in practice.
const FRAME_LIMIT: usize = 4 << 20;
/// A header block that grows beyond this is an attack.
const HEADERS_LIMIT: usize = 64 << 10;

/// The other side sends nothing more on this stream.
pub const FLAG_FIN: u8 = 1;

/// Headers in order.
pub type Headers = Vec<(String, String)>;

/// A frame. Its fields are those of the format: the stream's number, flags, headers, bytes.
#[expect(missing_docs, reason = "the format's own names say what they are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Begins a stream.
    SynStream { id: u32, flags: u8, headers: Headers },
    /// Agrees to a stream.
    SynReply { id: u32, flags: u8, headers: Headers },
    /// Ends a stream at once.
    Reset { id: u32, status: u32 },
    /// To be answered with the same.
    Ping { id: u32 },
    /// No new streams.
    GoAway { last: u32, status: u32 },
    /// More headers of a stream.
    Headers { id: u32, flags: u8, headers: Headers },
    /// Content of a stream.
    Data { id: u32, flags: u8, bytes: Bytes },
    /// Settings, window updates and what is not known: without effect here.
    Other,
}

/// Why a connection can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not SPDY/3.
    #[error("unsupported SPDY version {0}")]
    Version(u16),
    /// Longer than allowed.
    #[error("a frame of {0} bytes is too long")]
    Length(usize),
    /// Contents that do not fit the type.
    #[error("malformed frame")]
    Malformed,
    /// Headers that can't be decompressed.
    #[error("malformed header block")]
    Compression,
}

/// Turns bytes into frames.
pub struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { inflate: Decompress::new(true) }
    }
}

fn u31(bytes: &mut Bytes) -> Result<u32, FrameError> {
    bytes.try_get_u32().map(|value| value & 0x7fff_ffff).map_err(|_| FrameError::Malformed)
}

impl Decoder {
    /// Takes one frame from the front; `None` when it has not all arrived.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = buffer.get(..8) else { return Ok(None) };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > FRAME_LIMIT {
            return Err(FrameError::Length(length));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        let mut head = buffer.split_to(8);
        let mut body = buffer.split_to(length).freeze();
        let first = head.get_u32();
        let flags = head.get_u8();
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { id: first, flags, bytes: body }));
        }
        let version = (first >> 16 & 0x7fff) as u16;
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        let frame = match first & 0xffff {
            1 => {
                let id = u31(&mut body)?;
                u31(&mut body)?;
                if body.len() < 2 {
                    return Err(FrameError::Malformed);
                }
                body.advance(2);
                Frame::SynStream { id, flags, headers: self.headers(&body)? }
            }
            2 => Frame::SynReply { id: u31(&mut body)?, flags, headers: self.headers(&body)? },
            3 => Frame::Reset { id: u31(&mut body)?, status: body.try_get_u32().map_err(|_| FrameError::Malformed)? },
            6 => Frame::Ping { id: body.try_get_u32().map_err(|_| FrameError::Malformed)? },
            7 => Frame::GoAway { last: u31(&mut body)?, status: body.try_get_u32().unwrap_or(0) },
            8 => Frame::Headers { id: u31(&mut body)?, flags, headers: self.headers(&body)? },
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let mut plain: Vec<u8> = Vec::with_capacity(1024);
        let mut used = 0;
        loop {
            if plain.len() >= HEADERS_LIMIT {
                return Err(FrameError::Compression);
            }
            plain.reserve(1024);
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            let result = self.inflate.decompress_vec(&block[used..], &mut plain, FlushDecompress::Sync);
            used += usize::try_from(self.inflate.total_in() - before_in).map_err(|_| FrameError::Compression)?;
            match result {
                Ok(Status::Ok) if used < block.len() || plain.len() == plain.capacity() => {
                    if self.inflate.total_in() == before_in && plain.len() == before_out {
                        return Err(FrameError::Compression);
                    }
                }
                Ok(Status::Ok | Status::BufError) => break,
                Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(dictionary()).map_err(|_| FrameError::Compression)?;
                }
                Err(_) => return Err(FrameError::Compression),
            }
        }
        parse_headers(Bytes::from(plain))
    }
}

fn parse_headers(mut plain: Bytes) -> Result<Headers, FrameError> {
    let text = |plain: &mut Bytes| -> Result<String, FrameError> {
        let length = plain.try_get_u32().map_err(|_| FrameError::Malformed)? as usize;
        if length > plain.len() {
            return Err(FrameError::Malformed);
        }
        Ok(String::from_utf8_lossy(&plain.split_to(length)).into_owned())
    };
    let count = plain.try_get_u32().map_err(|_| FrameError::Malformed)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        let values = text(&mut plain)?;
        // Several values of one name are joined by NUL.
        headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    Ok(headers)
}

/// Turns frames into bytes.
pub struct Encoder {
    deflate: Compress,
    begun: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { deflate: Compress::new(Compression::fast(), true), begun: false }
    }
}

impl Encoder {
    /// Appends a frame.
    pub fn encode(&mut self, frame: &Frame, output: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::Data { id, flags, bytes } => {
                output.put_u32(id & 0x7fff_ffff);
                put_length(output, *flags, bytes.len());
                output.extend_from_slice(bytes);
            }
            Frame::SynStream { id, flags, headers } => {
                let block = self.headers(headers)?;
                control(output, 1, *flags, 10 + block.len());
                output.put_u32(id & 0x7fff_ffff);
                output.put_u32(0);
                output.put_u16(0);
                output.extend_from_slice(&block);
            }
            Frame::SynReply { id, flags, headers } => {
                let block = self.headers(headers)?;
                control(output, 2, *flags, 4 + block.len());
                output.put_u32(id & 0x7fff_ffff);
                output.extend_from_slice(&block);
            }
            Frame::Headers { id, flags, headers } => {
                let block = self.headers(headers)?;
                control(output, 8, *flags, 4 + block.len());
                output.put_u32(id & 0x7fff_ffff);
                output.extend_from_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(output, 3, 0, 8);
                output.put_u32(id & 0x7fff_ffff);
                output.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(output, 6, 0, 4);
                output.put_u32(*id);
            }
            Frame::GoAway { last, status } => {
                control(output, 7, 0, 8);
                output.put_u32(last & 0x7fff_ffff);
                output.put_u32(*status);
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn headers(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        if !self.begun {
            self.deflate.set_dictionary(dictionary()).map_err(|_| FrameError::Compression)?;
            self.begun = true;
        }
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            plain.put_u32(name.len() as u32);
            plain.extend_from_slice(name.as_bytes());
            plain.put_u32(value.len() as u32);
            plain.extend_from_slice(value.as_bytes());
        }
        let mut block: Vec<u8> = Vec::with_capacity(plain.len() + 256);
        let mut used = 0;
        loop {
            block.reserve(256);
            let before = self.deflate.total_in();
            self.deflate
                .compress_vec(&plain[used..], &mut block, FlushCompress::Sync)
                .map_err(|_| FrameError::Compression)?;
            used += usize::try_from(self.deflate.total_in() - before).map_err(|_| FrameError::Compression)?;
            if used == plain.len() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

fn control(output: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    output.put_u16(0x8003);
    output.put_u16(kind);
    put_length(output, flags, length);
}

fn put_length(output: &mut BytesMut, flags: u8, length: usize) {
    output.put_u32(u32::from(flags) << 24 | (length as u32 & 0x00ff_ffff));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(frames: &[Frame], step: usize) -> Vec<Frame> {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut bytes = BytesMut::new();
        for frame in frames {
            encoder.encode(frame, &mut bytes).expect("encoded");
        }
        let (mut arrived, mut read) = (BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(step) {
            arrived.extend_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut arrived).expect("decoded") {
                read.push(frame);
            }
        }
        read
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn frames_survive() {
        let frames = vec![
            Frame::SynStream { id: 1, flags: 0, headers: headers(&[("streamtype", "error")]) },
            Frame::SynStream { id: 3, flags: 0, headers: headers(&[("streamtype", "stdin"), ("port", "80")]) },
            Frame::SynReply { id: 1, flags: 0, headers: Vec::new() },
            Frame::Data { id: 3, flags: FLAG_FIN, bytes: Bytes::from_static(b"hello") },
            Frame::Ping { id: 7 },
            Frame::Reset { id: 3, status: 5 },
            Frame::GoAway { last: 3, status: 0 },
            Frame::Headers { id: 1, flags: 0, headers: headers(&[("a", "b")]) },
        ];
        for step in [1, 7, 4096] {
            assert_eq!(round_trip(&frames, step), frames);
        }
    }

    #[test]
    fn a_header_block_of_another_implementation_is_read() {
        // `SYN_STREAM` with the stream type `error`, as Go's compress/zlib writes it: the block names the dictionary first.
        let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
        encoder
            .encode(&Frame::SynStream { id: 1, flags: 0, headers: headers(&[("streamtype", "error")]) }, &mut bytes)
            .expect("encoded");
        assert_eq!(bytes[20..24], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |bytes: &[u8], expected: FrameError| {
            assert_eq!(Decoder::default().decode(&mut BytesMut::from(bytes)), Err(expected));
        };
        check(&[0x80, 2, 0, 1, 0, 0, 0, 0], FrameError::Version(2));
        check(&[0x80, 3, 0, 1, 0, 0, 0, 0], FrameError::Malformed);
        check(&[0, 0, 0, 1, 0, 0xff, 0, 0], FrameError::Length(0xff0000));
        check(&[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4], FrameError::Compression);
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }

        #[test]
        fn any_headers_survive(list in proptest::collection::vec(proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,200}"), 0..6), 1..6)) {
            let frames: Vec<Frame> = list.into_iter().map(|headers| Frame::SynReply { id: 1, flags: 0, headers }).collect();
            prop_assert_eq!(round_trip(&frames, 64), frames);
        }
    }
}
