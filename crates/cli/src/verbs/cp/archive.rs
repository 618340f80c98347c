//! The tar streams of `cp`: what is read here and sent, and what comes and is written here. Blocking, for threads of their own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tar::{Archive, Builder, EntryType, Header};

use super::paths;

/// Writes a file or a folder as an archive in which it has this name.
pub fn pack(path: &str, name: &str, writer: impl Write) -> Result<()> {
    let mut builder = Builder::new(io::BufWriter::with_capacity(32 << 10, writer));
    add(&mut builder, Path::new(path), Path::new(name))?;
    builder.into_inner().and_then(|mut writer| writer.flush()).context("send the archive")
}

fn add(builder: &mut Builder<impl Write>, path: &Path, name: &Path) -> Result<()> {
    let shown = || path.display().to_string();
    let metadata = fs::symlink_metadata(path).with_context(shown)?;
    let kind = metadata.file_type();
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    if kind.is_dir() {
        let mut entries =
            fs::read_dir(path).with_context(shown)?.collect::<io::Result<Vec<_>>>().with_context(shown)?;
        if entries.is_empty() {
            return builder.append_data(&mut header, name, io::empty()).with_context(shown);
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            add(builder, &entry.path(), &name.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).with_context(shown)?;
        header.set_size(0);
        return builder.append_link(&mut header, name, target).with_context(shown);
    }
    if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
        eprintln!("warning: skipping {:?}: it is no file, folder or symlink", shown());
        return Ok(());
    }
    let file = Exactly { file: File::open(path).with_context(shown)?, left: metadata.len() };
    builder.append_data(&mut header, name, file).with_context(shown)
}

/// As many bytes as the header says: the length of a file that somebody writes to may change.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        self.left -= u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

/// Writes what an archive holds below `prefix` to `destination`, and nothing anywhere else: links are not followed out of the
/// archive but left out, with the words how to get them (`manual`).
pub fn unpack(reader: impl Read, prefix: &str, destination: &str, manual: &str) -> Result<()> {
    let mut archive = Archive::new(reader);
    let mut told = false;
    for entry in archive.entries()? {
        let mut entry = entry.context("read the archive")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(path) = paths::target(&name, prefix, destination)? else {
            eprintln!("warning: file {:?} is outside target destination, skipping", paths::join(destination, &name));
            continue;
        };
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory {
            fs::create_dir_all(&path).with_context(|| format!("mkdir {path}"))?;
            continue;
        }
        let folder = paths::folder(&path);
        fs::create_dir_all(&folder).with_context(|| format!("mkdir {folder}"))?;
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default();
        match kind {
            EntryType::Symlink => {
                let hint = if told { String::new() } else { format!(" (consider using \"{manual}\")") };
                eprintln!("warning: skipping symlink: {path:?} -> {link:?}{hint}");
                told = true;
            }
            // Another name of a file that came before it.
            EntryType::Link => match paths::target(&link, prefix, destination) {
                Ok(Some(first)) if fs::symlink_metadata(&first).is_ok_and(|found| found.is_file()) => {
                    fs::copy(&first, &path).with_context(|| format!("open {path}"))?;
                }
                _ => eprintln!("warning: skipping {path:?}: it is a link to {link:?}, which was not copied"),
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = create(&path)?;
                let count = io::copy(&mut entry, &mut file).with_context(|| format!("write {path}"))?;
                if count != entry.size() {
                    bail!("unexpected EOF");
                }
            }
            _ => eprintln!("warning: skipping {path:?}: it is no file, folder or symlink"),
        }
    }
    Ok(())
}

fn create(path: &str) -> Result<File> {
    File::create(path).map_err(|error| {
        let text = error.to_string();
        let words = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        anyhow::anyhow!("open {path}: {words}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            header.set_size(if link { 0 } else { u64::try_from(content.len()).unwrap() });
            // The builder itself refuses names that leave the archive.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            if link {
                header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, if link { &[] } else { content.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("inner/empty")).unwrap();
        fs::write(source.join("a"), "one").unwrap();
        fs::write(source.join("inner/b"), "two").unwrap();
        let long = "n".repeat(200);
        fs::write(source.join("inner").join(&long), "three").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", source.join("link")).unwrap();
        let mut bytes = Vec::new();
        pack(source.to_str().unwrap(), "there", &mut bytes).unwrap();
        let out = folder.path().join("out");
        unpack(bytes.as_slice(), "there", out.to_str().unwrap(), "").unwrap();
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one");
        assert_eq!(fs::read_to_string(out.join("inner/b")).unwrap(), "two");
        assert_eq!(fs::read_to_string(out.join("inner").join(long)).unwrap(), "three");
        assert!(out.join("inner/empty").is_dir());
        assert!(fs::symlink_metadata(out.join("link")).is_err());
        assert!(unpack(&bytes[..700], "there", out.to_str().unwrap(), "").is_err());
    }

    #[test]
    fn hostile_archives_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let text = out.to_str().unwrap();
        let before = fs::read_dir(folder.path()).unwrap().count();
        let bytes = archive(&[
            ("x/../../up", EntryType::Regular, "no"),
            ("x/dir", EntryType::Symlink, folder.path().to_str().unwrap()),
            ("x/dir/through", EntryType::Regular, "a file"),
            ("x/first", EntryType::Regular, "same"),
            ("x/second", EntryType::Link, "x/first"),
            ("x/third", EntryType::Link, "/etc/passwd"),
            ("x/device", EntryType::Block, ""),
        ]);
        unpack(bytes.as_slice(), "x", text, "").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before + 1);
        assert_eq!(fs::read_to_string(out.join("dir/through")).unwrap(), "a file");
        assert_eq!(fs::read_to_string(out.join("second")).unwrap(), "same");
        assert!(!out.join("third").exists() && !out.join("device").exists());
        let foreign = archive(&[("etc/passwd", EntryType::Regular, "no")]);
        assert_eq!(unpack(foreign.as_slice(), "x", text, "").unwrap_err().to_string(), "tar contents corrupted");
        let file = archive(&[("x", EntryType::Regular, "no")]);
        assert_eq!(
            unpack(file.as_slice(), "x", text, "").unwrap_err().to_string(),
            format!("open {text}: is a directory")
        );
    }
}
