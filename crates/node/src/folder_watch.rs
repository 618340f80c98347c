//! News about a folder from the kernel: something in it came, went or was written. No polling.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A folder that is watched.
pub struct FolderWatch(AsyncFd<Descriptor>);

impl FolderWatch {
    /// Makes the folder if it is not there and begins to watch it.
    pub fn new(folder: &Path) -> io::Result<FolderWatch> {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM;
        inotify.add_watch(folder, changes)?;
        #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor of another library")]
        // SAFETY: `Descriptor` owns the descriptor, never exchanges it, and closes it only when it is dropped itself.
        let watch = unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) };
        Ok(FolderWatch(watch.map_err(io::Error::from)?))
    }

    /// Returns when something has changed in the folder since the last time.
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        // Which file it was does not matter: the folder is looked at anew.
        while let Ok(events) = self.0.get_ref().0.read_events() {
            if events.is_empty() {
                break;
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
