//! Unpacks one layer's tar stream into a folder of its own, in the form that overlayfs reads.
//!
//! Layers come from strangers: no entry may reach outside the folder, whatever `..`, absolute names or symbolic links it
//! brings. Every parent folder is opened with `openat2(RESOLVE_IN_ROOT)`, so links are followed as the container would
//! follow them, and the last component is never followed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use tar::{Archive, Entry, EntryType};

use crate::disk::below;

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The stream itself is broken.
    #[error("the archive is broken: {0}")]
    Archive(io::Error),
    /// An entry would leave the layer or contradicts itself.
    #[error("entry {path:?}: {reason}")]
    Entry { path: PathBuf, reason: String },
}

/// Prefix of names that say "this is not there".
const WHITEOUT: &[u8] = b".wh.";
/// Name that says "nothing of the layers below is here".
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How deep links may lead while folders that only lower layers have are made.
const LINK_DEPTH: usize = 16;

/// Unpacks `stream` into `target` (which exists and is empty). `lower` are the unpacked layers below, topmost first.
pub(crate) fn unpack(stream: impl Read, target: &Path, lower: &[PathBuf]) -> Result<(), UnpackError> {
    let root = File::open(target).map_err(|error| entry_error(Path::new("/"), error))?;
    let layer = Layer { root, lower };
    let mut archive = Archive::new(stream);
    let mut folder_times = Vec::new();
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        let path = entry.path().map_err(UnpackError::Archive)?.into_owned();
        if let Some(time) = layer.add(&mut entry, &path).map_err(|error| entry_error(&path, error))? {
            folder_times.push((path, time));
        }
    }
    // Folders last: adding a file changes its folder's time.
    for (path, time) in folder_times.into_iter().rev() {
        if let Some((parent, name)) = layer.locate(&path, false).map_err(|error| entry_error(&path, error))? {
            set_time(&below(&parent, name), time).map_err(|error| entry_error(&path, error))?;
        }
    }
    Ok(())
}

fn entry_error(path: &Path, error: io::Error) -> UnpackError {
    UnpackError::Entry { path: path.to_path_buf(), reason: error.to_string() }
}

fn refuse(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

struct Layer<'a> {
    root: File,
    lower: &'a [PathBuf],
}

impl Layer<'_> {
    /// Adds one entry. For a folder the time to set at the end is returned.
    fn add(&self, entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<Option<u64>> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(None);
        }
        let relative = clean(path)?;
        let Some(name) = relative.file_name() else {
            // The root itself: its rights and owner count, its name does not.
            let root = below(&self.root, ".");
            owner_and_mode(&root, entry)?;
            return Ok(None);
        };
        let (parent, _) = self.locate(&relative, true)?.ok_or_else(|| refuse("its folder cannot be made"))?;
        if name.as_bytes() == OPAQUE {
            if !self.lower.is_empty() {
                set_attribute(&below(&parent, "."), "trusted.overlay.opaque", b"y")?;
            }
            return Ok(None);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(WHITEOUT) {
                return Err(refuse("not a name that a whiteout can have"));
            }
            let place = below(&parent, std::ffi::OsStr::from_bytes(hidden));
            if !self.lower.is_empty() && fs::symlink_metadata(&place).is_err() {
                mknod(&place, SFlag::S_IFCHR, Mode::empty(), 0)?;
            }
            return Ok(None);
        }
        let place = below(&parent, name);
        let replaced_whiteout = self.clear(&place, kind)?;
        match kind {
            EntryType::Directory => {
                if let Err(error) = fs::create_dir(&place)
                    && error.kind() != io::ErrorKind::AlreadyExists
                {
                    return Err(error);
                }
                if replaced_whiteout {
                    set_attribute(&place, "trusted.overlay.opaque", b"y")?;
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .custom_flags(libc::O_NOFOLLOW)
                    .mode(0o600)
                    .open(&place)?;
                let size = entry.size();
                let copied = io::copy(entry, &mut file)?;
                if copied != size {
                    return Err(refuse("the archive ends inside it"));
                }
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| refuse("a symbolic link without a target"))?;
                std::os::unix::fs::symlink(target, &place)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| refuse("a hard link without a target"))?;
                let target = clean(&target)?;
                let (folder, file) = self
                    .locate(&target, false)?
                    .ok_or_else(|| refuse("a hard link to something that is not in the layer"))?;
                fs::hard_link(below(&folder, &file), &place).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => refuse("a hard link to something that is not in the layer"),
                    _ => error,
                })?;
                // A hard link has its target's rights, owner and times.
                return Ok(None);
            }
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                // Both newer formats have the two numbers at these places.
                let fields = header.as_bytes();
                let major = number(header.device_major(), &fields[329..337])?.unwrap_or(0);
                let minor = number(header.device_minor(), &fields[337..345])?.unwrap_or(0);
                if kind == EntryType::Char && major == 0 && minor == 0 {
                    return Err(refuse("a device 0:0 would be taken for a whiteout"));
                }
                let flag = if kind == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                mknod(&place, flag, Mode::S_IRUSR, nix::sys::stat::makedev(major.into(), minor.into()))?;
            }
            EntryType::Fifo => mknod(&place, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?,
            other => return Err(refuse(&format!("entries of type {other:?} are not known"))),
        }
        owner_and_mode(&place, entry)?;
        extended_attributes(&place, entry)?;
        let header = entry.header();
        let time = number(header.mtime(), &header.as_old().mtime)?;
        if kind == EntryType::Directory {
            return Ok(Some(time));
        }
        set_time(&place, time)?;
        Ok(None)
    }

    /// Makes room for an entry. A folder stays when a folder comes. Says whether a whiteout was there.
    fn clear(&self, place: &Path, kind: EntryType) -> io::Result<bool> {
        let metadata = match fs::symlink_metadata(place) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_whiteout = metadata.mode() & libc::S_IFMT == libc::S_IFCHR && metadata.rdev() == 0;
        if metadata.is_dir() {
            if kind != EntryType::Directory {
                fs::remove_dir_all(place)?;
            }
        } else {
            fs::remove_file(place)?;
        }
        Ok(is_whiteout)
    }

    /// The open folder that holds `path` and the last component of `path`. `None` when it does not exist and `make` is not set.
    fn locate(&self, path: &Path, make: bool) -> io::Result<Option<(OwnedFd, PathBuf)>> {
        let path = clean(path)?;
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.open_folder(parent) {
            Ok(folder) => return Ok(Some((folder, name.into()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        self.make_folders(parent, LINK_DEPTH)?;
        Ok(Some((self.open_folder(parent)?, name.into())))
    }

    fn open_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.root, path, how)?)
    }

    /// Makes folders that the archive does not mention, as the layers below have them.
    fn make_folders(&self, path: &Path, depth: usize) -> io::Result<()> {
        let mut done = PathBuf::new();
        for component in path.components() {
            let parent = self.open_folder(&done)?;
            let place = below(&parent, component);
            done.push(component);
            match fs::symlink_metadata(&place) {
                Ok(metadata) if metadata.is_symlink() => {
                    if self.open_folder(&done).is_err() {
                        self.follow(&place, &done, depth)?;
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => match self.in_lower(&done) {
                    Some((found, metadata)) if metadata.is_symlink() => {
                        std::os::unix::fs::symlink(fs::read_link(&found)?, &place)?;
                        self.follow(&place, &done, depth)?;
                    }
                    Some((_, metadata)) if metadata.is_dir() => {
                        fs::create_dir(&place)?;
                        std::os::unix::fs::lchown(&place, Some(metadata.uid()), Some(metadata.gid()))?;
                        fs::set_permissions(&place, Permissions::from_mode(metadata.mode() & 0o7777))?;
                    }
                    _ => {
                        fs::create_dir(&place)?;
                        fs::set_permissions(&place, Permissions::from_mode(0o755))?;
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the folder that a link leads to.
    fn follow(&self, link: &Path, at: &Path, depth: usize) -> io::Result<()> {
        if depth == 0 {
            return Err(refuse("its folder is behind too many links"));
        }
        let target = fs::read_link(link)?;
        let base = if target.is_absolute() { Path::new("") } else { at.parent().unwrap_or(Path::new("")) };
        self.make_folders(&normalise(&base.join(target.strip_prefix("/").unwrap_or(&target))), depth - 1)
    }

    fn in_lower(&self, path: &Path) -> Option<(PathBuf, fs::Metadata)> {
        self.lower.iter().find_map(|layer| {
            let place = layer.join(path);
            fs::symlink_metadata(&place).ok().map(|metadata| (place, metadata))
        })
    }
}

/// A relative path without `.` and leading `/`; `..` is refused.
fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir => return Err(refuse("the name has .. in it")),
            Component::Prefix(_) => return Err(refuse("the name has a prefix")),
        }
    }
    Ok(clean)
}

/// Takes `..` out of a link's target, stopping at the root.
fn normalise(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}

/// A number of the header; left blank it is zero, as other readers take it.
fn number<T: Default>(parsed: io::Result<T>, field: &[u8]) -> io::Result<T> {
    match parsed {
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        other => other,
    }
}

fn owner_and_mode(place: &Path, entry: &Entry<'_, impl Read>) -> io::Result<()> {
    let header = entry.header();
    let old = header.as_old();
    let id = |value: u64| u32::try_from(value).map_err(|_| refuse("an owner beyond 32 bits"));
    std::os::unix::fs::lchown(
        place,
        Some(id(number(header.uid(), &old.uid)?)?),
        Some(id(number(header.gid(), &old.gid)?)?),
    )?;
    if !header.entry_type().is_symlink() {
        // After the owner: changing the owner clears set-user-id.
        fs::set_permissions(place, Permissions::from_mode(number(header.mode(), &old.mode)? & 0o7777))?;
    }
    Ok(())
}

fn extended_attributes(place: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
        let Ok(name) = std::str::from_utf8(name) else { return Err(refuse("an attribute's name is not text")) };
        // Overlay's own attributes would let a layer play tricks with the layers below; labels belong to the host.
        if name == "security.capability" || name.starts_with("user.") {
            set_attribute(place, name, extension.value_bytes())?;
        }
    }
    Ok(())
}

fn set_attribute(place: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = std::ffi::CString::new(place.as_os_str().as_bytes())?;
    let attribute = std::ffi::CString::new(name)?;
    #[expect(unsafe_code, reason = "lsetxattr has no safe wrapper")]
    // SAFETY: both strings are zero-terminated and live until the call returns; `value` is read for exactly its length.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 {
        let error = io::Error::last_os_error();
        // A file system without user attributes is no reason to refuse an image.
        if error.raw_os_error() == Some(libc::EOPNOTSUPP) && name.starts_with("user.") {
            return Ok(());
        }
        return Err(error);
    }
    Ok(())
}

fn set_time(place: &Path, seconds: u64) -> io::Result<()> {
    let time = nix::sys::time::TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0);
    let flag = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    Ok(nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, place, &time, &time, flag)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Builder(tar::Builder<Vec<u8>>);

    impl Builder {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn entry(mut self, path: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            // Written by hand: the builder would refuse the hostile names that these tests are about.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o4711 });
            header.set_uid(nix::unistd::getuid().as_raw().into());
            header.set_gid(nix::unistd::getgid().as_raw().into());
            header.set_mtime(86_400);
            header.set_size(content.len() as u64);
            header.set_cksum();
            self.0.append(&header, content).expect("writing to memory cannot fail");
            self
        }

        fn file(self, path: &str, content: &str) -> Self {
            self.entry(path, EntryType::Regular, "", content.as_bytes())
        }

        fn done(self) -> Vec<u8> {
            self.0.into_inner().expect("writing to memory cannot fail")
        }
    }

    fn unpack_to(bytes: &[u8], lower: &[PathBuf]) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let target = folder.path().join("fs");
        fs::create_dir(&target).expect("it can be made");
        let result = unpack(bytes, &target, lower);
        (folder, result)
    }

    #[track_caller]
    fn check_refused(builder: Builder, expected: &str) {
        let (folder, result) = unpack_to(&builder.done(), &[]);
        let error = result.expect_err("it must be refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!folder.path().join("escaped").exists());
    }

    #[test]
    fn names_that_lead_outside_are_refused() {
        check_refused(Builder::new().file("../escaped", "x"), ".. in it");
        check_refused(Builder::new().file("a/../../escaped", "x"), ".. in it");
        check_refused(Builder::new().entry("l", EntryType::Link, "../escaped", b""), ".. in it");
        check_refused(Builder::new().entry("l", EntryType::Link, "nothing", b""), "not in the layer");
        check_refused(Builder::new().entry("d", EntryType::Char, "", b""), "whiteout");
        check_refused(Builder::new().file(".wh...", "x"), "whiteout");
    }

    #[test]
    fn links_lead_to_places_inside() {
        let bytes = Builder::new()
            .entry("up", EntryType::Symlink, "../../..", b"")
            .file("up/escaped", "x")
            .entry("abs", EntryType::Symlink, "/inner/deep", b"")
            .file("abs/file", "y")
            .done();
        let (folder, result) = unpack_to(&bytes, &[]);
        result.expect("it is well-formed");
        assert!(!folder.path().join("escaped").exists());
        assert_eq!(fs::read_to_string(folder.path().join("fs/escaped")).expect("it is inside"), "x");
        assert_eq!(fs::read_to_string(folder.path().join("fs/inner/deep/file")).expect("it is inside"), "y");
    }

    #[test]
    fn a_link_is_replaced_not_followed() {
        let bytes = Builder::new().entry("f", EntryType::Symlink, "/etc/target", b"").file("f", "new").done();
        let (folder, result) = unpack_to(&bytes, &[]);
        result.expect("it is well-formed");
        assert_eq!(fs::read_to_string(folder.path().join("fs/f")).expect("it is a file"), "new");
        assert!(!folder.path().join("fs/etc").exists());
    }

    #[test]
    fn rights_links_and_times_are_kept() {
        let bytes = Builder::new().file("bin/tool", "#!").entry("bin/same", EntryType::Link, "bin/tool", b"").done();
        let (folder, result) = unpack_to(&bytes, &[]);
        result.expect("it is well-formed");
        let metadata = fs::metadata(folder.path().join("fs/bin/same")).expect("it is there");
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink(), metadata.mtime()), (0o4711, 2, 86_400));
    }

    #[test]
    fn an_archive_that_ends_early_is_refused() {
        let mut bytes = Builder::new().file("a", &"x".repeat(5000)).done();
        bytes.truncate(2000);
        let (_folder, result) = unpack_to(&bytes, &[]);
        result.expect_err("it must be refused");
    }

    #[test]
    fn whiteouts_and_folders_of_lower_layers() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: whiteouts_and_folders_of_lower_layers needs root");
            return;
        }
        let (lower, result) = unpack_to(
            &Builder::new()
                .entry("lib", EntryType::Symlink, "usr/lib", b"")
                .entry("usr/lib/", EntryType::Directory, "", b"")
                .done(),
            &[],
        );
        result.expect("it is well-formed");
        let bytes = Builder::new().file("lib/.wh.gone", "").file("usr/.wh..wh..opq", "").file("lib/new", "n").done();
        let (folder, result) = unpack_to(&bytes, &[lower.path().join("fs")]);
        result.expect("it is well-formed");
        let gone = fs::symlink_metadata(folder.path().join("fs/usr/lib/gone")).expect("there is a whiteout");
        assert_eq!((gone.mode() & libc::S_IFMT, gone.rdev()), (libc::S_IFCHR, 0));
        assert!(folder.path().join("fs/lib").is_symlink());
        assert_eq!(fs::read_to_string(folder.path().join("fs/usr/lib/new")).expect("it is there"), "n");
    }
}
