//! News of links and addresses from the kernel. A link that goes down, or that loses its address, takes all routes by way of it
//! along, and the kernel does not put them back.

use std::{io, time::Duration};

use futures::FutureExt;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE};

use crate::services::netfilter;

/// Links, addresses of both families, routes of both families: `RTNLGRP_LINK` and so on.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];

/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_NEWADDR`, `RTM_DELADDR` and `RTM_DELROUTE`. New routes are passed over: they are what
/// follows from the news.
const KINDS: [u16; 5] = [16, 17, 20, 21, 25];

/// What comes together is looked at once: a link's change is a dozen messages.
const GATHER: Duration = Duration::from_millis(200);

/// Tells when something about links, addresses or routes has changed.
pub(crate) struct LinkNews {
    socket: TokioSocket,
    /// Something was heard that nobody has been told of.
    untold: bool,
}

impl LinkNews {
    /// Listens from now on.
    pub fn open() -> io::Result<LinkNews> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        inner.bind_auto()?;
        for group in GROUPS {
            inner.add_membership(group)?;
        }
        // What does not fit is passed over: any message of many is enough.
        inner.set_no_enobufs(true)?;
        Ok(LinkNews { socket, untold: false })
    }

    /// Returns a moment after something has changed, with all of it heard. Dropping it before loses nothing.
    pub async fn changed(&mut self) -> io::Result<()> {
        while !self.untold {
            let (datagram, _) = self.socket.recv_from_full().await?;
            self.untold = matters(&datagram);
        }
        tokio::time::sleep(GATHER).await;
        while let Some(heard) = self.socket.recv_from_full().now_or_never() {
            heard?;
        }
        self.untold = false;
        Ok(())
    }
}

fn matters(datagram: &[u8]) -> bool {
    netfilter::messages(datagram).any(|message| KINDS.contains(&netfilter::kind(message)))
}
