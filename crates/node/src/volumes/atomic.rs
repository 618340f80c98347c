//! Writes the files of a volume so that a reader sees all old ones or all new ones: the `..data` link of upstream's AtomicWriter.
//!
//! ```text
//! <volume>/..2026_11_23_09_15_00.123456789/path/to/file
//! <volume>/..data -> ..2026_11_23_09_15_00.123456789      replaced by one rename
//! <volume>/path   -> ..data/path
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What is in it.
    pub content: Bytes,
    /// Its permission bits.
    pub mode: u32,
    /// Who owns it; root unless said.
    pub owner: Option<u32>,
}

/// The files of a volume by their path below it.
pub type Payload = BTreeMap<String, File>;

/// Whether a path stays below the folder it is joined to.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with("..")
        && Path::new(path).components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Brings the folder to the payload; whether anything was written. `group` becomes the group of everything.
pub fn write(folder: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    if let Some(path) = payload.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path}")));
    }
    let data = folder.join(DATA);
    let old = match fs::read_link(&data) {
        Ok(link) => Some(folder.join(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old
        && same(old, payload)?
    {
        return Ok(false);
    }
    let (stamp, fresh) = make_folder(folder)?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    if let Some(group) = group {
        own_folder(&fresh, group)?;
        own_folder(folder, group)?;
    }
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| first_part(path)).collect();
    for name in &wanted {
        let link = folder.join(name);
        let target = Path::new(DATA).join(name);
        match fs::read_link(&link) {
            Ok(known) if known == target => continue,
            Ok(_) => fs::remove_file(&link)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        symlink(target, link)?;
    }
    let next = folder.join(DATA_NEW);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_symlink() && name != DATA && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        } else if entry.file_type()?.is_dir() && name.starts_with("..2") && name != stamp {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

fn first_part(path: &str) -> Option<&str> {
    path.split('/').find(|part| !part.is_empty() && *part != ".")
}

fn make_folder(folder: &Path) -> io::Result<(String, PathBuf)> {
    let now = Timestamp::now();
    for attempt in 0..1000 {
        let nanosecond = (now.subsec_nanosecond() + attempt).rem_euclid(1_000_000_000);
        let stamp = format!("..{}.{nanosecond:09}", now.strftime("%Y_%m_%d_%H_%M_%S"));
        let fresh = folder.join(&stamp);
        match fs::DirBuilder::new().mode(0o755).create(&fresh) {
            Ok(()) => {
                fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
                return Ok((stamp, fresh));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for the new files"))
}

fn own_folder(folder: &Path, group: u32) -> io::Result<()> {
    chown(folder, None, Some(group))?;
    let mode = fs::metadata(folder)?.mode() & 0o7777;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o2550))
}

fn write_file(root: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    use std::io::Write as _;
    let full = root.join(path);
    if let Some(parent) = full.parent() {
        let mut made = root.to_path_buf();
        for part in parent.strip_prefix(root).map_err(io::Error::other)?.components() {
            made.push(part);
            match fs::DirBuilder::new().mode(0o755).create(&made) {
                Ok(()) => {
                    fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
                    if let Some(group) = group {
                        own_folder(&made, group)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut handle = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&full)?;
    handle.write_all(&file.content)?;
    if file.owner.is_some() || group.is_some() {
        chown(&full, file.owner, group)?;
    }
    // The group may read what the owner may: upstream's mask for read-only volumes.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    handle.set_permissions(fs::Permissions::from_mode(mode & 0o7777))
}

fn same(root: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    collect(root, root, &mut found)?;
    if found.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        let clean: PathBuf = Path::new(path).components().collect();
        let full = root.join(&clean);
        if !found.contains(&full) || fs::read(&full)? != file.content {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder == root => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), found)?;
        } else {
            found.insert(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File { content: Bytes::from(content.to_owned()), mode: 0o640, owner: None };
        files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    fn visible(folder: &Path) -> Vec<(String, String)> {
        fn walk(folder: &Path, prefix: &str, found: &mut Vec<(String, String)>) {
            let mut names: Vec<String> = fs::read_dir(folder)
                .expect("a folder")
                .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            for name in names.iter().filter(|name| !name.starts_with("..")) {
                let path = folder.join(name);
                if path.is_dir() {
                    walk(&path, &format!("{prefix}{name}/"), found);
                } else {
                    found.push((format!("{prefix}{name}"), fs::read_to_string(&path).expect("a file")));
                }
            }
        }
        let mut found = Vec::new();
        walk(folder, "", &mut found);
        found
    }

    #[test]
    fn files_appear_change_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = |files: &[(&str, &str)], written: bool| {
            assert_eq!(write(folder.path(), &payload(files), None).expect("written"), written, "{files:?}");
            let expected: Vec<_> =
                files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
            assert_eq!(visible(folder.path()), expected);
        };
        check(&[("a", "1"), ("d/b", "2"), ("d/e/c", "3")], true);
        check(&[("a", "1"), ("d/b", "2"), ("d/e/c", "3")], false);
        check(&[("a", "x")], true);
        check(&[], true);
        let mode = |path: &str| fs::metadata(folder.path().join(path)).expect("a file").mode() & 0o7777;
        check(&[("d/b", "1")], true);
        assert_eq!((mode("d/b"), mode("d")), (0o640, 0o755));
        let hidden = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(hidden, 3, "the link, one folder and what it shows");
    }

    #[test]
    fn paths_stay_inside() {
        let check = |path: &str, expected: bool| assert_eq!(is_inside(path), expected, "{path}");
        check("a/b", true);
        check("..data", false);
        check("../a", false);
        check("a/../b", false);
        check("/a", false);
        check("", false);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_sequence_shows_the_last_payload(rounds in proptest::collection::vec(proptest::collection::btree_map("[ab]{1,2}", "[xy]{0,3}", 0..4), 1..5)) {
            let folder = tempfile::tempdir().expect("a folder");
            for round in rounds {
                let files: Vec<(&str, &str)> = round.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
                write(folder.path(), &payload(&files), None).expect("written");
                let expected: Vec<_> = round.into_iter().collect();
                prop_assert_eq!(visible(folder.path()), expected);
            }
        }
    }
}
