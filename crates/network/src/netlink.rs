//! A small blocking rtnetlink client.
//!
//! A socket belongs to the network namespace it was made in, for good. Attaching a pod needs two namespaces, one after
//! the other, on a thread of its own that ends right afterwards; a blocking socket in each is the plainest way, and a
//! request answered by the kernel never waits for anything but the kernel's own lock.

use std::io;

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// What to do when the thing to make is already there.
#[derive(Clone, Copy)]
pub(crate) enum Existing {
    /// Fail with `EEXIST`.
    Refuse,
    /// Put the new one in its place.
    Replace,
}

/// A connection to the kernel's routing tables and links, in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without this an error repeats the whole request behind its code, which nobody here reads.
        socket.set_cap_ack(true)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Makes something: a link, an address, a route, a neighbour.
    pub(crate) fn create(&mut self, message: RouteNetlinkMessage, existing: Existing) -> io::Result<()> {
        let how = match existing {
            Existing::Refuse => NLM_F_EXCL,
            Existing::Replace => NLM_F_REPLACE,
        };
        self.request(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | how).map(drop)
    }

    /// Changes or deletes something that exists, as the message says.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.request(message, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Everything of one sort.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while let Some(answer) = next_message(&mut rest)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// One thing, as the message names it.
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let found = self.request(message, NLM_F_REQUEST | NLM_F_ACK)?;
        found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel acknowledged without an answer"))
    }

    /// Sends and waits for the acknowledgement. Answers what came before it, if anything.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        let sequence = self.send(message, flags)?;
        let mut found = None;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while let Some(answer) = next_message(&mut rest)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(found),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => found = Some(inner),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }
}

/// Takes the next message off a datagram that may hold several.
fn next_message(rest: &mut &[u8]) -> io::Result<Option<NetlinkMessage<RouteNetlinkMessage>>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    // Messages start at multiples of four bytes.
    let length = (message.header.length as usize).next_multiple_of(4).max(16);
    *rest = rest.get(length..).unwrap_or_default();
    Ok(Some(message))
}
