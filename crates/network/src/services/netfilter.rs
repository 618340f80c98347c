//! The words that netfilter's netlink sockets speak: messages, attributes, answers.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

/// Set in the kind of an attribute that holds attributes.
pub(super) const NESTED: u16 = 0x8000;

/// The header of a netlink message and netfilter's own behind it.
pub(super) const HEADERS: usize = 16 + 4;

/// A socket in the network namespace of the calling thread.
pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Without this an error repeats the whole request behind its code, which nobody here reads.
    socket.set_cap_ack(true)?;
    Ok(socket)
}

/// Appends a message. `family` and `resource` are the fields of netfilter's header; `kind` has the subsystem in its upper
/// byte.
pub(super) fn message(out: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
    out.extend_from_slice(&((HEADERS + body.len()) as u32).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[family, 0]);
    out.extend_from_slice(&resource.to_be_bytes());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends an attribute.
pub(super) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds what `fill` appends. It must stay below 64 kB.
pub(super) fn nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(kind | NESTED).to_ne_bytes());
    fill(out);
    let length = u16::try_from(out.len() - start).expect("whoever fills it keeps below 64 kB");
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// The attributes of a message or of a nested attribute; torn ones end early.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(rest, 0)).clamp(4, rest.len());
        let kind = u16_at(rest, 2) & 0x3fff;
        let value = &rest[4..length];
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The messages of a datagram, headers included; torn ones end early.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 16 {
            return None;
        }
        let length = (u32_at(rest, 0) as usize).clamp(16, rest.len());
        let message = &rest[..length];
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// What kind of message it is.
pub(crate) fn kind(message: &[u8]) -> u16 {
    u16_at(message, 4)
}

/// The errno in an error message; 0 for an acknowledgement.
pub(super) fn error_code(message: &[u8]) -> i32 {
    message.get(16..20).and_then(|code| code.first_chunk::<4>()).map_or(0, |code| -i32::from_ne_bytes(*code))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|found| found.first_chunk::<2>()).map_or(0, |found| u16::from_ne_bytes(*found))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|found| found.first_chunk::<4>()).map_or(0, |found| u32::from_ne_bytes(*found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_messages_do_no_harm() {
        for length in 0..40 {
            let bytes = vec![0xff; length];
            assert_eq!(attributes(&bytes).count() > 0, length >= 4, "{length} bytes");
            assert_eq!(messages(&bytes).count() > 0, length >= 16, "{length} bytes");
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        let mut body = Vec::new();
        attribute(&mut body, 1, b"abc");
        nested(&mut body, 2, |inner| attribute(inner, 3, &[7]));
        let mut bytes = Vec::new();
        message(&mut bytes, 0x0a0c, NLM_F_REQUEST, 1, 0, &body);
        message(&mut bytes, NLMSG_DONE, 0, 0, 0, &[]);
        let found: Vec<&[u8]> = messages(&bytes).collect();
        assert_eq!(found.iter().map(|message| kind(message)).collect::<Vec<_>>(), [0x0a0c, NLMSG_DONE]);
        let inner = attributes(&found[0][HEADERS..]).map(|(kind, value)| (kind, value.to_vec())).collect::<Vec<_>>();
        assert_eq!(inner[0], (1, b"abc".to_vec()));
        assert_eq!(
            attributes(&inner[1].1).map(|(kind, value)| (kind, value.to_vec())).collect::<Vec<_>>(),
            [(3, vec![7])]
        );
    }
}
