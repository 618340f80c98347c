//! Making the kernel forget UDP connections to endpoints that are gone.
//!
//! UDP has no end of connection: a client that keeps sending from one port keeps the kernel's entry alive, and with it
//! the translation to a pod that is no more. Those entries, and no others, are deleted by their exact tuple.

use std::{collections::HashMap, io, net::IpAddr};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::plan::UdpPath;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// The header of a netlink message and netfilter's own behind it.
const HEADERS: usize = 16 + 4;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

/// Deletes the UDP connections that follow one of `paths`, and answers how many there were.
pub fn forget(paths: &[UdpPath]) -> io::Result<usize> {
    let mut fronts: HashMap<(IpAddr, u16), Vec<&UdpPath>> = HashMap::new();
    for path in paths {
        fronts.entry(path.endpoint).or_default().push(path);
    }
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut doomed = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        dump(&socket, family, |entry, original, reply| {
            let follows = original.protocol == libc::IPPROTO_UDP as u8
                && fronts.get(&reply.source).is_some_and(|fronts| {
                    fronts.iter().any(|path| {
                        path.port == original.destination.1
                            && path.front.is_none_or(|front| front == original.destination.0)
                    })
                });
            if follows {
                doomed.push((family, entry.to_vec()));
            }
        })?;
    }
    for (family, tuple) in &doomed {
        let mut body = Vec::with_capacity(tuple.len() + 4);
        attribute(&mut body, CTA_TUPLE_ORIG | NESTED, tuple);
        socket.send(&message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, *family, &body), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        match error_code(&answer) {
            // It timed out by itself in between.
            0 | libc::ENOENT => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
    Ok(doomed.len())
}

/// Goes through every connection of a family: the bytes of its original tuple, and both tuples.
fn dump(socket: &Socket, family: u8, mut each: impl FnMut(&[u8], Tuple, Tuple)) -> io::Result<()> {
    socket.send(&message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, family, &[]), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while rest.len() >= 16 {
            let length = (u32_at(rest, 0) as usize).clamp(16, rest.len());
            match u16_at(rest, 4) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => match error_code(rest) {
                    0 => {}
                    code => return Err(io::Error::from_raw_os_error(code)),
                },
                _ if length >= HEADERS => {
                    let (mut original, mut reply) = (None, None);
                    for (kind, value) in attributes(&rest[HEADERS..length]) {
                        match kind {
                            CTA_TUPLE_ORIG => original = tuple(value).map(|tuple| (value, tuple)),
                            CTA_TUPLE_REPLY => reply = tuple(value),
                            _ => {}
                        }
                    }
                    if let (Some((bytes, original)), Some(reply)) = (original, reply) {
                        each(bytes, original, reply);
                    }
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

const NESTED: u16 = 0x8000;

fn message(kind: u16, flags: u16, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADERS + body.len());
    bytes.extend_from_slice(&((HEADERS + body.len()) as u32).to_ne_bytes());
    bytes.extend_from_slice(&((NFNL_SUBSYS_CTNETLINK << 8) | kind).to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, 0, 0, 0]);
    bytes.extend_from_slice(body);
    bytes
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
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

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination, mut protocol, mut from, mut to) = (None, None, 0, 0, 0);
    for (kind, value) in attributes(bytes) {
        match kind {
            CTA_TUPLE_IP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        CTA_IP_V4_SRC => source = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
                        CTA_IP_V4_DST => destination = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
                        CTA_IP_V6_SRC => source = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
                        CTA_IP_V6_DST => destination = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for (kind, value) in attributes(value) {
                    let port = || value.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
                    match kind {
                        CTA_PROTO_NUM => protocol = value.first().copied().unwrap_or_default(),
                        CTA_PROTO_SRC_PORT => from = port(),
                        CTA_PROTO_DST_PORT => to = port(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Tuple { source: (source?, from), destination: (destination?, to), protocol })
}

/// The errno in an error message; 0 for an acknowledgement.
fn error_code(bytes: &[u8]) -> i32 {
    bytes.get(16..20).and_then(|code| code.first_chunk::<4>()).map_or(0, |code| -i32::from_ne_bytes(*code))
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
    fn reads_back_the_tuple_it_is_given() {
        let mut addresses = Vec::new();
        attribute(&mut addresses, CTA_IP_V4_SRC, &[10, 244, 0, 2]);
        attribute(&mut addresses, CTA_IP_V4_DST, &[10, 96, 0, 7]);
        let mut transport = Vec::new();
        attribute(&mut transport, CTA_PROTO_NUM, &[17]);
        attribute(&mut transport, CTA_PROTO_SRC_PORT, &40_000u16.to_be_bytes());
        attribute(&mut transport, CTA_PROTO_DST_PORT, &53u16.to_be_bytes());
        let mut bytes = Vec::new();
        attribute(&mut bytes, CTA_TUPLE_IP | NESTED, &addresses);
        attribute(&mut bytes, CTA_TUPLE_PROTO | NESTED, &transport);
        let expected = Tuple {
            source: (IpAddr::from([10, 244, 0, 2]), 40_000),
            destination: (IpAddr::from([10, 96, 0, 7]), 53),
            protocol: 17,
        };
        assert_eq!(tuple(&bytes), Some(expected));
    }

    #[test]
    fn torn_messages_do_no_harm() {
        for length in 0..40 {
            let bytes = vec![0xff; length];
            assert_eq!(tuple(&bytes), None, "{length} bytes");
            assert_eq!(attributes(&bytes).count() > 0, length >= 4);
        }
    }
}
