//! Noticing that somebody took the table away: `nft flush ruleset`, with which many a firewall's own configuration begins.
//!
//! The kernel tells of every change of rules, our own among them; only the coming and going of our table is looked at.

use std::io;

use futures::FutureExt;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};

use super::netfilter::{self, HEADERS, attributes};

/// The multicast group of nftables.
const NFNLGRP_NFTABLES: u32 = 7;
const NEW_TABLE: u16 = 10 << 8;
const DELETE_TABLE: u16 = (10 << 8) | 2;
const TABLE_NAME: u16 = 1;

/// Tells when a table goes.
pub(super) struct Lost {
    socket: TokioSocket,
    table: Vec<u8>,
    gone: bool,
}

impl Lost {
    /// Listens from now on.
    pub(super) fn open(table: &str) -> io::Result<Lost> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let inner = socket.socket_mut();
        inner.bind_auto()?;
        inner.add_membership(NFNLGRP_NFTABLES)?;
        // What does not fit is passed over: a table that goes is a few messages.
        inner.set_no_enobufs(true)?;
        Ok(Lost { socket, table: [table.as_bytes(), &[0]].concat(), gone: false })
    }

    /// Returns when something was heard. Dropping it before loses nothing.
    pub(super) async fn hear(&mut self) -> io::Result<()> {
        let (datagram, _) = self.socket.recv_from_full().await?;
        self.gone = self.after(self.gone, &datagram);
        Ok(())
    }

    /// Hears all that was said so far. True when the last word of the table is that it went.
    pub(super) fn is_gone(&mut self) -> bool {
        while let Some(Ok(())) = self.hear().now_or_never() {}
        std::mem::take(&mut self.gone)
    }

    fn after(&self, mut gone: bool, datagram: &[u8]) -> bool {
        for message in netfilter::messages(datagram) {
            let kind = netfilter::kind(message);
            if kind != NEW_TABLE && kind != DELETE_TABLE {
                continue;
            }
            let body = message.get(HEADERS..).unwrap_or_default();
            if attributes(body).any(|(kind, value)| kind == TABLE_NAME && value == self.table) {
                gone = kind == DELETE_TABLE;
            }
        }
        gone
    }
}
