//! Copies of folders and files with all that belongs to them: shared blocks where the file system can (`FICLONE`: btrfs, xfs),
//! otherwise what is written is copied and holes stay holes.
//!
//! What is copied may be changed by a pod meanwhile. Folders are opened without following links and everything below is reached
//! through the open folder, so that a pod that exchanges a folder for a link leads the copy nowhere else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Whence;

mod attributes;

/// Deeper folders are refused: each level holds a file descriptor.
const DEEPEST: usize = 256;
/// So many names of files that have several are remembered; further ones become files of their own.
const MOST_LINKS: usize = 1 << 20;

mod calls {
    #![expect(unsafe_code, reason = "ioctl has no safe form")]

    /// `FICLONE`.
    pub(super) fn clone(to: i32, from: i32) -> bool {
        // SAFETY: both are descriptors by value, which the kernel checks.
        unsafe { libc::ioctl(to, libc::FICLONE as _, from) == 0 }
    }
}

/// Copies what is in a folder into another, which is empty, and gives that the first one's owner, mode and attributes. Blocks.
pub fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let folder = open_folder(from)?;
    let device = folder.metadata()?.dev();
    Copy { device, links: HashMap::new() }.folder(&folder, to, 0)
}

/// Makes a file with what is in another. Blocks.
pub fn file(from: &Path, to: &Path) -> io::Result<()> {
    let source = open(from, 0)?;
    let target = File::create_new(to)?;
    content(&source, &target)
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    // Without O_NONBLOCK a pipe that was put in a file's place would wait for a writer.
    let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn open_folder(path: &Path) -> io::Result<File> {
    open(path, libc::O_DIRECTORY)
}

/// Where the kernel shows what is in an open folder.
fn inside(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

struct Copy {
    /// Other file systems that are mounted below are left out.
    device: u64,
    /// The first copy of files with several names.
    links: HashMap<u64, PathBuf>,
}

impl Copy {
    fn folder(&mut self, from: &File, to: &Path, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("folders are more than {DEEPEST} deep")));
        }
        let names = inside(from);
        for entry in fs::read_dir(&names)? {
            let name = entry?.file_name();
            match self.entry(&names, &name, &to.join(&name), depth) {
                // It went away since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !exists(&names.join(&name)) => {}
                done => done?,
            }
        }
        let about = from.metadata()?;
        adopt(&names, to, &about)?;
        File::open(to)?.set_times(times(&about)?)
    }

    fn entry(&mut self, names: &Path, name: &OsStr, to: &Path, depth: usize) -> io::Result<()> {
        let from = names.join(name);
        let about = fs::symlink_metadata(&from)?;
        let kind = about.file_type();
        if kind.is_dir() {
            fs::create_dir(to)?;
            if about.dev() != self.device {
                return Ok(());
            }
            return self.folder(&open_folder(&from)?, to, depth + 1);
        }
        if about.nlink() > 1 && !kind.is_symlink() {
            if let Some(first) = self.links.get(&about.ino()) {
                return fs::hard_link(first, to);
            }
            if self.links.len() < MOST_LINKS {
                self.links.insert(about.ino(), to.to_owned());
            }
        }
        if kind.is_file() {
            let source = open(&from, 0)?;
            let target = File::create_new(to)?;
            content(&source, &target)?;
            let about = source.metadata()?;
            adopt(&inside(&source), to, &about)?;
            return target.set_times(times(&about)?);
        }
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, to)?;
            return lchown(to, Some(about.uid()), Some(about.gid()));
        }
        // A socket is nothing without the process that listens on it.
        if kind.is_socket() {
            return Ok(());
        }
        nix::sys::stat::mknod(
            to,
            nix::sys::stat::SFlag::from_bits_truncate(about.mode() & libc::S_IFMT),
            nix::sys::stat::Mode::from_bits_truncate(about.mode() & 0o7777),
            about.rdev(),
        )?;
        lchown(to, Some(about.uid()), Some(about.gid()))?;
        fs::set_permissions(to, Permissions::from_mode(about.mode() & 0o7777))
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Owner first: the kernel takes set-user-id and capabilities off a file whose owner changes.
fn adopt(from: &Path, to: &Path, about: &Metadata) -> io::Result<()> {
    lchown(to, Some(about.uid()), Some(about.gid()))?;
    fs::set_permissions(to, Permissions::from_mode(about.mode() & 0o7777))?;
    attributes::copy(from, to)
}

fn times(about: &Metadata) -> io::Result<FileTimes> {
    Ok(FileTimes::new().set_accessed(about.accessed()?).set_modified(about.modified()?))
}

/// What is in a file, up to where it ended at the beginning.
fn content(from: &File, to: &File) -> io::Result<()> {
    if calls::clone(to.as_raw_fd(), from.as_raw_fd()) {
        return Ok(());
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match seek(from, at, Whence::SeekData) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::ENXIO) => break,
            // A file system that does not tell holes from data: all is data.
            Err(Errno::EINVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(from, start, Whence::SeekHole) {
            Ok(end) => end.min(length),
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) => length,
            Err(error) => return Err(error.into()),
        };
        let (mut source, mut target) = (from, to);
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        // The kernel copies between files by itself (`copy_file_range`).
        io::copy(&mut source.take(end.saturating_sub(start)), &mut target)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn seek(file: &File, at: u64, whence: Whence) -> nix::Result<u64> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    nix::unistd::lseek(file, at, whence).map(|found| u64::try_from(found).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_as_the_original() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("below/deeper")).expect("folders");
        fs::write(from.join("below/file"), "text").expect("written");
        fs::set_permissions(from.join("below/file"), Permissions::from_mode(0o4751)).expect("a mode");
        fs::hard_link(from.join("below/file"), from.join("same")).expect("a link");
        symlink("/etc/passwd", from.join("link")).expect("a link");
        nix::unistd::mkfifo(&from.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let sparse = File::create(from.join("sparse")).expect("a file");
        sparse.set_len(64 << 20).expect("longer");
        {
            use std::os::unix::fs::FileExt;
            sparse.write_all_at(b"middle", 32 << 20).expect("written");
        }
        fs::set_permissions(&from, Permissions::from_mode(0o2775)).expect("a mode");
        fs::create_dir(&to).expect("a folder");
        tree(&from, &to).expect("copied");
        let about = |path: &str| fs::symlink_metadata(to.join(path)).expect("there");
        assert_eq!(fs::metadata(&to).expect("there").mode() & 0o7777, 0o2775);
        assert_eq!(fs::read_to_string(to.join("below/file")).expect("read"), "text");
        assert_eq!(about("below/file").mode() & 0o7777, 0o4751);
        assert_eq!(about("below/file").ino(), about("same").ino(), "one file of two names");
        assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("/etc/passwd"));
        assert!(about("pipe").file_type().is_fifo() && about("below/deeper").is_dir());
        assert_eq!(about("sparse").len(), 64 << 20);
        assert!(about("sparse").blocks() * 512 < 1 << 20, "holes stay holes: {} blocks", about("sparse").blocks());
        let mut middle = [0; 6];
        let mut sparse = File::open(to.join("sparse")).expect("open");
        sparse.seek(SeekFrom::Start(32 << 20)).expect("there");
        sparse.read_exact(&mut middle).expect("read");
        assert_eq!(&middle, b"middle");
        let modified = |path: &Path| fs::metadata(path).expect("there").modified().expect("a time");
        assert_eq!(modified(&from.join("below")), modified(&to.join("below")));
    }

    #[test]
    fn links_are_not_followed_and_depth_has_an_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).expect("a folder");
        symlink(&outside, folder.path().join("link")).expect("a link");
        let to = folder.path().join("to");
        fs::create_dir(&to).expect("a folder");
        assert!(tree(&folder.path().join("link"), &to).is_err(), "the volume itself is never a link");
        let mut deep = folder.path().join("deep");
        for _ in 0..DEEPEST + 2 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).expect("folders");
        let failed = tree(&folder.path().join("deep"), &to).expect_err("too deep");
        assert!(failed.to_string().contains("deep"), "{failed}");
    }
}
