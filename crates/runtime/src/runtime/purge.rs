//! Takes away everything that was ever started or written for a data folder.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::SockFlag;

use super::mounts::unmount_below;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::disk;
use crate::error::{Error, Result};
use crate::protocol::{self, Request};
use crate::shim_client;

pub(super) fn purge(config: &Config) -> Result<()> {
    let sockets = config.state_dir.join("shim");
    for name in disk::names(&sockets).map_err(Error::io("read", &sockets))? {
        let path = sockets.join(name);
        // A socket without a listener is what a killed shim leaves.
        let Ok(socket) = shim_client::open(&path, SockFlag::empty()) else { continue };
        if let Err(error) = protocol::send(socket.as_fd(), &Request::Shutdown, &[]) {
            tracing::warn!(path = %path.display(), %error, "a shim does not take its end");
            continue;
        }
        // The end of the conversation says that it is done; one that hangs is killed with its cgroup.
        let mut state = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if let Err(error) = poll(&mut state, PollTimeout::from(10_000_u16)) {
            tracing::warn!(path = %path.display(), %error, "a shim was not waited for");
        }
    }
    Cgroups::detect()?.remove(&config.cgroup_parent)?;
    for folder in [&config.data_dir, &config.state_dir] {
        if let Ok(real) = folder.canonicalize() {
            for part in ["containers", "sandboxes"] {
                unmount_below(&real.join(part))?;
            }
        }
    }
    for place in ["containers", "sandboxes", "snapshots", "images"] {
        let path = config.data_dir.join(place);
        disk::remove(&path).map_err(Error::io("remove", &path))?;
    }
    disk::remove(&sockets).map_err(Error::io("remove", &sockets))
}
