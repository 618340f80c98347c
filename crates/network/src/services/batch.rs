//! Transactions of map elements, and of the chains that look endpoints up in them, straight to the kernel.
//!
//! `nft` asks the kernel for all its sets and chains before it does anything, which costs more than the change. Elements
//! are all that a usual change consists of, so those go without it. And `nft` 1.0.6 refuses rules with a map that has a
//! drawn number in its key, unless it makes the map in the same run. Message kinds and attributes: the kernel's
//! `include/uapi/linux/netfilter/nf_tables.h`.

use std::io;

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::SndBufForce};
use std::os::fd::AsRawFd;

use super::{
    elements::{Element, Spread, Value, endpoint_bytes},
    netfilter::{self, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, attribute, nested},
    plan::Family,
};

/// The subsystem of nftables, as it stands in kinds of messages and at both ends of a batch.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENTS: u16 = (NFTABLES << 8) | 12;
const DELETE_ELEMENTS: u16 = (NFTABLES << 8) | 14;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NEW_CHAIN: u16 = (NFTABLES << 8) | 3;
const NEW_RULE: u16 = (NFTABLES << 8) | 6;
const NLM_F_APPEND: u16 = 0x800;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const FIRST_REGISTER: u32 = 8;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const RANDOM: u32 = 1;
const DESTINATION_NAT: u32 = 1;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const GOTO: i32 = -4;
const DROP: i32 = 0;

/// Elements a message: at 200 bytes each, the names of their chains included, they stay below the 64 kB of an attribute.
const TOGETHER: usize = 256;

/// Puts the transaction into `table` in one piece, or nothing of it: first `gone` go, then `fresh` come.
pub fn apply(table: &str, gone: &[Element], fresh: &[(Element, Value)]) -> io::Result<()> {
    send(&encode(table, gone, fresh))
}

/// Makes chains that draw, in one transaction.
pub fn make(table: &str, spreads: &[Spread]) -> io::Result<()> {
    let mut pieces = Vec::new();
    for spread in spreads {
        let name = spread.chain();
        let mut chain = Vec::new();
        attribute(&mut chain, CHAIN_TABLE, &text(table));
        attribute(&mut chain, CHAIN_NAME, &text(&name));
        pieces.push((NEW_CHAIN, NLM_F_CREATE, chain));
        for count in spread.draws() {
            let mut rule = Vec::new();
            attribute(&mut rule, RULE_TABLE, &text(table));
            attribute(&mut rule, RULE_CHAIN, &text(&name));
            nested(&mut rule, RULE_EXPRESSIONS, |out| draw(out, spread, count));
            pieces.push((NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, rule));
        }
    }
    send(&batch(&pieces))
}

/// The expressions of a rule that draws one of `count` endpoints and sends the packet there: the key of the map in
/// registers of four bytes, one behind the other, and what it leads to in their place.
fn draw(out: &mut Vec<u8>, spread: &Spread, count: u32) {
    let words: u32 = match (spread.node, spread.family) {
        (true, _) => 0,
        (false, Family::V4) => 1,
        (false, Family::V6) => 4,
    };
    let (protocol, offset, map_words) = match spread.family {
        Family::V4 => (NFPROTO_IPV4, 16u32, 1),
        Family::V6 => (NFPROTO_IPV6, 24, 4),
    };
    let number = |out: &mut Vec<u8>, kind: u16, value: u32| attribute(out, kind, &value.to_be_bytes());
    expression(out, "meta", |out| {
        number(out, 1, FIRST_REGISTER);
        number(out, 2, META_NFPROTO);
    });
    expression(out, "cmp", |out| {
        number(out, 1, FIRST_REGISTER);
        number(out, 2, 0);
        nested(out, 3, |out| attribute(out, DATA_VALUE, &[protocol]));
    });
    if words > 0 {
        expression(out, "payload", |out| {
            number(out, 1, FIRST_REGISTER);
            number(out, 2, NETWORK_HEADER);
            number(out, 3, offset);
            number(out, 4, words * 4);
        });
    }
    expression(out, "meta", |out| {
        number(out, 1, FIRST_REGISTER + words);
        number(out, 2, META_L4PROTO);
    });
    expression(out, "payload", |out| {
        number(out, 1, FIRST_REGISTER + words + 1);
        number(out, 2, TRANSPORT_HEADER);
        number(out, 3, 2);
        number(out, 4, 2);
    });
    expression(out, "numgen", |out| {
        number(out, 1, FIRST_REGISTER + words + 2);
        number(out, 2, count);
        number(out, 3, RANDOM);
    });
    expression(out, "lookup", |out| {
        attribute(out, 1, &text(&spread.map()));
        number(out, 2, FIRST_REGISTER);
        number(out, 3, FIRST_REGISTER);
    });
    expression(out, "nat", |out| {
        number(out, 1, DESTINATION_NAT);
        number(out, 2, u32::from(protocol));
        number(out, 3, FIRST_REGISTER);
        number(out, 5, FIRST_REGISTER + map_words);
    });
}

fn expression(out: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nested(out, LIST_ELEMENT, |out| {
        attribute(out, 1, &text(name));
        nested(out, 2, fill);
    });
}

fn send(bytes: &[u8]) -> io::Result<()> {
    let socket = netfilter::open()?;
    // The kernel takes a transaction in one piece, which may be larger than the usual limit of a socket.
    setsockopt(&socket, SndBufForce, &(bytes.len() * 2).max(64 * 1024))?;
    let sent = socket.send(bytes, 0)?;
    if sent != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took only a part of a transaction"));
    }
    // The kernel has done everything when the call is back, and its answers wait.
    let mut buffer = vec![0; 8192];
    let mut acknowledged = false;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                for message in netfilter::messages(&buffer[..length]) {
                    match (netfilter::kind(message) == NLMSG_ERROR, netfilter::error_code(message)) {
                        (true, 0) => acknowledged = true,
                        (true, code) => return Err(io::Error::from_raw_os_error(code)),
                        (false, _) => {}
                    }
                }
            }
            Err(nix::errno::Errno::EAGAIN) if acknowledged => return Ok(()),
            Err(nix::errno::Errno::EAGAIN) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel did not answer a transaction"));
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn encode(table: &str, gone: &[Element], fresh: &[(Element, Value)]) -> Vec<u8> {
    let mut pieces: Vec<(u16, u16, Vec<u8>)> = Vec::new();
    for piece in gone.chunk_by(|one, other| one.set() == other.set()).flat_map(|same| same.chunks(TOGETHER)) {
        let body = list(table, piece[0].set(), |out| {
            for element in piece {
                nested(out, LIST_ELEMENT, |out| key(out, element));
            }
        });
        pieces.push((DELETE_ELEMENTS, 0, body));
    }
    for piece in fresh.chunk_by(|one, other| one.0.set() == other.0.set()).flat_map(|same| same.chunks(TOGETHER)) {
        let body = list(table, piece[0].0.set(), |out| {
            for (element, value) in piece {
                nested(out, LIST_ELEMENT, |out| {
                    key(out, element);
                    data(out, element, value);
                });
            }
        });
        pieces.push((NEW_ELEMENTS, NLM_F_CREATE | NLM_F_EXCL, body));
    }
    batch(&pieces)
}

/// Kind, flags and body of each message, as one transaction.
fn batch(pieces: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.iter().map(|(.., body)| body.len() + 24).sum::<usize>() + 64);
    netfilter::message(&mut out, BATCH_BEGIN, NLM_F_REQUEST, 0, NFTABLES, &[]);
    // Errors of any message are told; that all went well only once, by the last.
    let last = pieces.len().saturating_sub(1);
    for (position, (kind, flags, body)) in pieces.iter().enumerate() {
        let told = if position == last { NLM_F_ACK } else { 0 };
        netfilter::message(&mut out, *kind, NLM_F_REQUEST | flags | told, NFPROTO_INET, 0, body);
    }
    netfilter::message(&mut out, BATCH_END, NLM_F_REQUEST, 0, NFTABLES, &[]);
    out
}

fn list(table: &str, set: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    attribute(&mut body, LIST_TABLE, &text(table));
    attribute(&mut body, LIST_SET, &text(set));
    nested(&mut body, LIST_ELEMENTS, fill);
    body
}

fn key(out: &mut Vec<u8>, element: &Element) {
    let mut bytes = Vec::with_capacity(32);
    element.bytes(&mut bytes);
    nested(out, ELEMENT_KEY, |out| attribute(out, DATA_VALUE, &bytes));
}

fn data(out: &mut Vec<u8>, element: &Element, value: &Value) {
    match value {
        Value::None => {}
        Value::Endpoint(endpoint) => {
            let mut bytes = Vec::with_capacity(20);
            endpoint_bytes(endpoint, &mut bytes);
            nested(out, ELEMENT_DATA, |out| attribute(out, DATA_VALUE, &bytes));
        }
        Value::Verdict(verdict) => {
            let target = element.target(verdict);
            let code = if target.is_some() { GOTO } else { DROP };
            nested(out, ELEMENT_DATA, |out| {
                nested(out, DATA_VERDICT, |out| {
                    attribute(out, VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = target {
                        attribute(out, VERDICT_CHAIN, &text(&chain));
                    }
                });
            });
        }
    }
}

/// Names end with a zero.
fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}
