//! One transaction of map elements, straight to the kernel.
//!
//! `nft` asks the kernel for all its sets and chains before it does anything, which costs more than the change. Elements
//! are all that a usual change consists of, so those go without it. Message kinds and attributes: the kernel's
//! `include/uapi/linux/netfilter/nf_tables.h`.

use std::io;

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::SndBufForce};
use std::os::fd::AsRawFd;

use super::{
    elements::{Element, Value, endpoint_bytes},
    netfilter::{self, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, attribute, nested},
};

/// The subsystem of nftables, as it stands in kinds of messages and at both ends of a batch.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENTS: u16 = (NFTABLES << 8) | 12;
const DELETE_ELEMENTS: u16 = (NFTABLES << 8) | 14;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NFPROTO_INET: u8 = 1;

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
    let bytes = encode(table, gone, fresh);
    let socket = netfilter::open()?;
    // The kernel takes a transaction in one piece, which may be larger than the usual limit of a socket.
    setsockopt(&socket, SndBufForce, &(bytes.len() * 2).max(64 * 1024))?;
    let sent = socket.send(&bytes, 0)?;
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
    let mut out = Vec::with_capacity((gone.len() + fresh.len()) * 96 + 256);
    netfilter::message(&mut out, BATCH_BEGIN, NLM_F_REQUEST, 0, NFTABLES, &[]);
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
