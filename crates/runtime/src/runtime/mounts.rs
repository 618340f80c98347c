//! The few mounts that the runtime makes in the host's own mount namespace.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Result};

fn table() -> Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))
}

/// Mount points in the table, oldest first, and whether each is shared.
fn points(table: &str) -> impl Iterator<Item = (PathBuf, bool)> + '_ {
    table.lines().filter_map(|line| {
        let fields = line.split(" - ").next()?;
        let path = unescape(fields.split(' ').nth(4)?);
        Some((path, fields.split(' ').skip(6).any(|field| field.starts_with("shared:"))))
    })
}

/// The table writes blank, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut plain = text.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, character);
    }
    plain.into()
}

/// Sees to it that mounts below a folder do not spread to other namespaces, where they would outlive their container.
pub(super) fn keep_private(folder: &Path) -> Result<()> {
    let table = table()?;
    let holder = points(&table)
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.components().count());
    let Some((point, true)) = holder else { return Ok(()) };
    let none = None::<&str>;
    if point != folder {
        mount(Some(folder), folder, none, MsFlags::MS_BIND, none)
            .map_err(std::io::Error::from)
            .map_err(Error::io("mount", folder))?;
    }
    mount(none, folder, none, MsFlags::MS_PRIVATE, none)
        .map_err(std::io::Error::from)
        .map_err(Error::io("make private", folder))
}

/// A pod's `/dev/shm`: 64 MiB, as containerd gives it.
pub(super) fn mount_shm(folder: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), folder, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))
        .map_err(std::io::Error::from)
        .map_err(Error::io("mount", folder))
}

/// Takes away every mount at or below a folder, newest first.
pub fn unmount_below(folder: &Path) -> Result<()> {
    let table = table()?;
    let mut found: Vec<PathBuf> =
        points(&table).map(|(point, _)| point).filter(|point| point.starts_with(folder)).collect();
    found.reverse();
    for point in found {
        match umount2(&point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(Error::io("unmount", &point)(error.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read() {
        let table = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n30 27 0:2 / /a\\040b rw - tmpfs x rw\n";
        let found: Vec<_> = points(table).collect();
        assert_eq!(found, [("/".into(), true), ("/a b".into(), false)]);
    }
}
