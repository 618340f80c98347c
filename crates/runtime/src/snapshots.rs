//! Unpacked layers. Each has a folder named by its chain id (the layer and all below it), which appears by one rename
//! after everything in it is on disk; what is there is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::blobs::{Blobs, decompress};
use crate::digest::{self, Hashing};
use crate::disk;
use crate::images::ImageError;
use crate::unpack::unpack;

/// Length of a snapshot's name in hexadecimal digits. The kernel takes 4096 bytes of mount options in all, so the names of
/// a hundred layers must be short; 128 bits of the chain id are enough that nobody can make two that are the same.
const NAME_LENGTH: usize = 32;

/// A layer as a manifest and its config describe it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    /// Digest of the blob.
    pub(crate) digest: String,
    /// Size of the blob.
    pub(crate) size: u64,
    /// Digest of the tar stream in it.
    pub(crate) diff_id: String,
}

/// The folder of unpacked layers.
pub(crate) struct Snapshots {
    folder: PathBuf,
    /// Held while a layer is unpacked: two images often share layers, and two cores gain nothing from more.
    work: Mutex<()>,
}

impl Snapshots {
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let folder = data_dir.join("snapshots");
        fs::create_dir_all(&folder)?;
        for name in disk::names(&folder)? {
            if name.starts_with('.') {
                disk::remove(&folder.join(name))?;
            }
        }
        Ok(Self { folder, work: Mutex::new(()) })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The snapshots' names of an image, topmost first.
    pub(crate) fn names(layers: &[Layer]) -> Vec<String> {
        let mut names = Vec::with_capacity(layers.len());
        let mut chain = String::new();
        for layer in layers {
            chain = if chain.is_empty() {
                layer.diff_id.clone()
            } else {
                digest::of(format!("{chain} {}", layer.diff_id).as_bytes())
            };
            names.push(digest::hex(&chain)[..NAME_LENGTH].to_owned());
        }
        names.reverse();
        names
    }

    /// Whether all of an image is unpacked.
    pub(crate) fn complete(&self, layers: &[Layer]) -> bool {
        Self::names(layers).iter().all(|name| self.folder.join(name).is_dir())
    }

    /// Unpacks what is missing, lowest first.
    pub(crate) fn ensure(&self, blobs: &Blobs, layers: &[Layer]) -> Result<(), ImageError> {
        if self.complete(layers) {
            return Ok(());
        }
        let _work = self.work.lock();
        let mut lower: Vec<PathBuf> = Vec::new();
        for (name, layer) in Self::names(layers).iter().rev().zip(layers) {
            let target = self.folder.join(name);
            if !target.is_dir() {
                self.unpack_one(blobs, layer, &target, &lower)?;
            }
            lower.insert(0, target);
        }
        Ok(())
    }

    fn unpack_one(&self, blobs: &Blobs, layer: &Layer, target: &Path, lower: &[PathBuf]) -> Result<(), ImageError> {
        let fail = |cause: String| ImageError::Layer { digest: layer.digest.clone(), cause };
        let stream = blobs.stream(&layer.digest).map_err(|error| fail(format!("its blob cannot be read: {error}")))?;
        let place = tempfile::Builder::new()
            .prefix(".unpack-")
            .tempdir_in(&self.folder)
            .map_err(|source| ImageError::Io { action: "make a folder in", path: self.folder.clone(), source })?;
        set_mode(place.path(), 0o755).map_err(|error| fail(error.to_string()))?;
        let mut compressed = Hashing::new(stream);
        let mut plain = Hashing::new(decompress(&mut compressed).map_err(|error| fail(error.to_string()))?);
        let result = unpack(&mut plain, place.path(), lower);
        // The padding after the last entry belongs to the digests too.
        let drained = io::copy(&mut plain, &mut io::sink());
        let (diff_id, _, rest) = plain.finish();
        drop(rest);
        let trailing = io::copy(&mut compressed, &mut io::sink());
        let (blob_digest, _, _) = compressed.finish();
        if blob_digest != layer.digest && drained.is_ok() && trailing.is_ok() {
            // The disk has changed what was written; without the blob the next pull fetches it again.
            blobs.remove(&layer.digest).map_err(|error| fail(error.to_string()))?;
            return Err(fail("its blob does not match its digest any more".to_owned()));
        }
        result.map_err(|error| fail(error.to_string()))?;
        drained.and(trailing).map_err(|error| fail(error.to_string()))?;
        if diff_id != layer.diff_id {
            return Err(fail(format!(
                "its content has digest {diff_id}, but the image's config says {}",
                layer.diff_id
            )));
        }
        self.commit(place, target)
    }

    /// Makes a finished folder a snapshot.
    pub(crate) fn commit(&self, place: tempfile::TempDir, target: &Path) -> Result<(), ImageError> {
        let fail = |source| ImageError::Io { action: "commit", path: target.to_path_buf(), source };
        disk::sync_file_system(place.path()).map_err(fail)?;
        let place = place.keep();
        if let Err(error) = fs::rename(&place, target) {
            disk::remove(&place).map_err(fail)?;
            return Err(fail(error));
        }
        disk::sync_folder(&self.folder).map_err(fail)
    }

    /// Removes snapshots that no image needs.
    pub(crate) fn keep_only(&self, needed: &std::collections::HashSet<String>) -> io::Result<()> {
        let _work = self.work.lock();
        for name in disk::names(&self.folder)? {
            if !needed.contains(&name) && !name.starts_with('.') {
                // Renamed first, so that an interrupted removal leaves no half snapshot under a good name.
                let doomed = self.folder.join(format!(".gone-{name}"));
                fs::rename(self.folder.join(&name), &doomed)?;
                disk::remove(&doomed)?;
            }
        }
        Ok(())
    }

    /// A new folder for a snapshot that is made by other means than unpacking.
    pub(crate) fn place(&self) -> io::Result<tempfile::TempDir> {
        let place = tempfile::Builder::new().prefix(".make-").tempdir_in(&self.folder)?;
        set_mode(place.path(), 0o755)?;
        Ok(place)
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
