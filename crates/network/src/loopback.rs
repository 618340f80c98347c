//! The loopback link of a namespace that somebody else may have put down.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::links;
use crate::netlink::Netlink;

/// Puts the loopback link of a network namespace up. Blocks.
///
/// On a thread of its own, which ends in that namespace.
pub fn raise_loopback(namespace: &Path) -> io::Result<()> {
    let namespace = File::open(namespace)?;
    let work = move || -> io::Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        links::set_up(&mut Netlink::open()?, links::index("lo")?)
    };
    let thread = thread::Builder::new().name("loopback".to_owned()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("putting the loopback link up panicked")))
}
