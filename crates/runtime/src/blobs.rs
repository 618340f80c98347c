//! Content by digest: manifests, configs and layers as they came.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::digest::{self, Hashing};
use crate::disk::{self, Durability};

/// The folder of blobs, each named by its digest.
pub(crate) struct Blobs {
    folder: PathBuf,
    ingest: PathBuf,
}

/// A blob that is being written; dropped without [`Blobs::commit`] it leaves nothing.
pub(crate) struct Ingest {
    sink: Hashing<tempfile::NamedTempFile>,
}

/// A blob whose bytes are all there, but not yet under its name.
pub(crate) struct Pending {
    pub(crate) digest: String,
    pub(crate) size: u64,
    file: tempfile::NamedTempFile,
}

/// Manifests and configs are text of some kilobytes; more is an attack or a mistake.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

impl Blobs {
    pub(crate) fn open(images: &Path) -> io::Result<Self> {
        let blobs = Self { folder: images.join("blobs/sha256"), ingest: images.join("ingest") };
        disk::remove(&blobs.ingest)?;
        fs::create_dir_all(&blobs.folder)?;
        fs::create_dir_all(&blobs.ingest)?;
        Ok(blobs)
    }

    pub(crate) fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(digest::hex(digest))
    }

    /// Whether the blob is there with this size. Its content was checked when it was written.
    pub(crate) fn has(&self, digest: &str, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|metadata| metadata.len() == size)
    }

    pub(crate) fn ingest(&self) -> io::Result<Ingest> {
        Ok(Ingest { sink: Hashing::new(tempfile::NamedTempFile::new_in(&self.ingest)?) })
    }

    /// Gives a blob its name.
    pub(crate) fn commit(&self, pending: Pending) -> io::Result<()> {
        pending.file.as_file().sync_data()?;
        pending.file.persist(self.path(&pending.digest)).map_err(|error| error.error)?;
        disk::sync_folder(&self.folder)
    }

    /// Stores a small blob.
    pub(crate) fn put(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = digest::of(bytes);
        if !self.has(&digest, bytes.len() as u64) {
            disk::write(&self.path(&digest), bytes, Durability::Synced)?;
        }
        Ok(digest)
    }

    /// A small blob, checked against its digest.
    pub(crate) fn read(&self, digest: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(digest))?.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        if digest::of(&bytes) != digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its content does not match its digest"));
        }
        Ok(bytes)
    }

    /// A blob as a stream.
    pub(crate) fn stream(&self, digest: &str) -> io::Result<File> {
        File::open(self.path(digest))
    }

    pub(crate) fn remove(&self, digest: &str) -> io::Result<()> {
        disk::remove(&self.path(digest))
    }

    /// The digests of all blobs.
    pub(crate) fn all(&self) -> io::Result<Vec<String>> {
        Ok(disk::names(&self.folder)?
            .into_iter()
            .filter(|name| name.len() == 64)
            .map(|hex| format!("sha256:{hex}"))
            .collect())
    }
}

impl Ingest {
    /// Closes the blob, whose digest must be `expected` if that is given.
    pub(crate) fn finish(self, expected: Option<&str>) -> io::Result<Pending> {
        let (digest, size, mut file) = self.sink.finish();
        file.flush()?;
        if let Some(expected) = expected
            && expected != digest
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("content has digest {digest} instead of {expected}"),
            ));
        }
        Ok(Pending { digest, size, file })
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Pending {
    /// The bytes, if they are few.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        if self.size > MAX_DOCUMENT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large for a manifest or config"));
        }
        fs::read(self.file.path())
    }
}

/// Undoes gzip and zstd, told by the first bytes: media types are often wrong.
pub(crate) fn decompress<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    // 64 KiB: one read of a pipe.
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let start = stream.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(stream))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(stream)?)
    } else {
        Box::new(stream)
    })
}
