//! `fsGroup`: makes the files of a volume belong to the pod's group.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/volume/volume_linux.go> (`SetVolumeOwnership`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// What the group may do with files, and besides with folders.
const FILE_BITS: u32 = 0o660;
const FOLDER_BITS: u32 = 0o2770;

/// Gives a volume's folder and all below it to the group, as upstream's mask has it. `on_mismatch`: only when the folder
/// itself is not as it should be, which spares volumes with many files the walk.
pub fn give_to_group(root: &Path, group: u32, on_mismatch: bool) -> io::Result<()> {
    let meta = fs::metadata(root)?;
    let fits = meta.gid() == group && meta.mode() & FOLDER_BITS == FOLDER_BITS;
    if on_mismatch && fits {
        return Ok(());
    }
    below(root, group)?;
    // The root comes last: when this is cut short, the next try sees that it has to begin anew.
    change(root, &meta, group)
}

fn below(folder: &Path, group: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = match fs::symlink_metadata(&path) {
            // Somebody else uses the volume too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() {
            below(&path, group)?;
        }
        change(&path, &meta, group)?;
    }
    Ok(())
}

fn change(path: &Path, meta: &fs::Metadata, group: u32) -> io::Result<()> {
    if meta.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let bits = if meta.is_dir() { FOLDER_BITS } else { FILE_BITS };
    let mode = meta.mode() & 0o7777;
    if mode | bits != mode || meta.gid() != group {
        // Changing the group takes set-id bits away, so the mode is written after it.
        fs::set_permissions(path, fs::Permissions::from_mode(mode | bits))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_changes_hands_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir(root.join("d")).expect("made");
        fs::write(root.join("d/f"), "").expect("written");
        fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600)).expect("set");
        std::os::unix::fs::symlink("/nowhere", root.join("l")).expect("linked");
        let group = fs::metadata(root).expect("a folder").gid();
        give_to_group(root, group, false).expect("given");
        let mode = |path: &str| fs::metadata(root.join(path)).expect("there").mode() & 0o7777;
        assert_eq!((mode("d/f"), mode("d") & FOLDER_BITS), (0o660, FOLDER_BITS));
        fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600)).expect("set");
        give_to_group(root, group, true).expect("looked at");
        assert_eq!(mode("d/f"), 0o600, "the root fits, so nothing below it is touched");
        give_to_group(root, group, false).expect("given");
        assert_eq!(mode("d/f"), 0o660);
    }
}
