//! Making the kernel forget UDP connections to endpoints that are gone.
//!
//! UDP has no end of connection: a client that keeps sending from one port keeps the kernel's entry alive, and with it
//! the translation to a pod that is no more. Those entries, and no others, are deleted by their exact tuple.

use std::{collections::HashMap, io, net::IpAddr};

use rtnetlink::sys::Socket;

use super::{
    netfilter::{
        self, HEADERS, NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attribute, attributes,
        error_code,
    },
    plan::UdpPath,
};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const GET: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | 1;
const DELETE: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | 2;

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
    let socket = netfilter::open()?;
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
        let mut question = Vec::new();
        netfilter::message(&mut question, DELETE, NLM_F_REQUEST | NLM_F_ACK, *family, 0, &body);
        socket.send(&question, 0)?;
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
    let mut question = Vec::new();
    netfilter::message(&mut question, GET, NLM_F_REQUEST | NLM_F_DUMP, family, 0, &[]);
    socket.send(&question, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in netfilter::messages(&datagram) {
            match netfilter::kind(message) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => match error_code(message) {
                    0 => {}
                    code => return Err(io::Error::from_raw_os_error(code)),
                },
                _ => {
                    let (mut original, mut reply) = (None, None);
                    for (kind, value) in attributes(message.get(HEADERS..).unwrap_or_default()) {
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
            }
        }
    }
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
    fn torn_tuples_do_no_harm() {
        for length in 0..40 {
            assert_eq!(tuple(&vec![0xff; length]), None, "{length} bytes");
        }
    }
}
