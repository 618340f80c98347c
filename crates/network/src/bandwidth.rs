//! What a pod may send and receive: a token bucket on each end of its link.
//!
//! What goes to the pod waits at the host's end, what comes from it at the pod's own: no further link is needed for that,
//! but a pod with `CAP_NET_ADMIN` can lift the limit of what it sends. Attributes: the kernel's
//! `include/uapi/linux/pkt_sched.h`.

use std::{fs, io, path::Path, thread};

use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    packet_core::DefaultNla,
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcMessage, TcOption},
    },
};

use crate::{
    links,
    netlink::{Existing, Netlink},
};

/// Bytes a second, where there is a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What the pod receives: the annotation `kubernetes.io/ingress-bandwidth`.
    pub to_pod: Option<u64>,
    /// What the pod sends: the annotation `kubernetes.io/egress-bandwidth`.
    pub from_pod: Option<u64>,
}

/// The largest packet that a link of pods hands on at once; a bucket that holds less would cut each of them.
const LARGEST_PACKET: u64 = 64 * 1024;

/// How long a packet waits before it is dropped, in parts of a second: upstream's plug-in has 25 ms.
const PATIENCE: u64 = 40;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Limits both directions of a pod's link. Limits that are there already are exchanged.
pub(crate) fn limit(netns: &Path, host_link: &str, bandwidth: Bandwidth) -> io::Result<()> {
    if let Some(rate) = bandwidth.to_pod {
        bucket(host_link, rate)?;
    }
    let Some(rate) = bandwidth.from_pod else { return Ok(()) };
    let namespace = fs::File::open(netns)?;
    // On a thread of its own, which ends afterwards: no other code runs in the pod's namespace.
    let inside = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        bucket("eth0", rate)
    })?;
    inside.join().expect("the thread does not panic: it only makes system calls and returns their errors")
}

/// Puts a token bucket where packets leave by a link.
fn bucket(link: &str, rate: u64) -> io::Result<()> {
    // A tenth of a second's worth at once lets the rate be reached on a machine whose timers are coarse.
    let burst = (rate / 10).clamp(LARGEST_PACKET, u64::from(u32::MAX));
    let waiting = (burst + rate / PATIENCE).min(u64::from(u32::MAX));
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes();
    let mut parameters = Vec::with_capacity(36);
    // The rate; then that of peaks, of which there is none; then bytes that may wait, a bucket in ticks and a packet's
    // size for peaks, which the attribute of the burst stands for.
    parameters.extend_from_slice(&[0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parameters.extend_from_slice(&small(rate));
    parameters.extend_from_slice(&[0; 12]);
    parameters.extend_from_slice(&small(waiting));
    parameters.extend_from_slice(&[0; 8]);
    let option = |kind: u16, bytes: Vec<u8>| TcOption::Other(DefaultNla::new(kind, bytes));
    let mut options = vec![option(TCA_TBF_PARMS, parameters), option(TCA_TBF_BURST, small(burst).to_vec())];
    if rate > u64::from(u32::MAX) {
        options.push(option(TCA_TBF_RATE64, rate.to_ne_bytes().to_vec()));
    }
    let index = links::index(link)?;
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).map_err(io::Error::other)?;
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
    Netlink::open()?.create(RouteNetlinkMessage::NewQueueDiscipline(message), Existing::Replace)
}
