//! Image archives: OCI layouts and what `docker save` writes, plain or compressed, read as a stream.
//!
//! Every file goes to a temporary blob while it passes; only when the archive has turned out to be whole do blobs get
//! their names. Symbolic and hard links between files are followed, as old `docker save` writes shared layers so.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::blobs::{Blobs, Pending};
use crate::digest;
use crate::images::ImageError;
use crate::manifest::{CONFIG, Descriptor, Document, LAYER, MANIFEST, choose, read_config, read_document};
use crate::reference::Reference;

/// One image of an archive, whose blobs are in the store.
pub(crate) struct Found {
    /// Digest of the manifest.
    pub(crate) manifest: String,
    /// Digest of the index that named it, if there was one with the same name.
    pub(crate) index: Option<String>,
    /// The names it is to have.
    pub(crate) names: Vec<Reference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The files of an archive: what each is called, and their bytes.
struct Contents {
    files: HashMap<PathBuf, Pending>,
    links: HashMap<PathBuf, PathBuf>,
}

/// How many links may lead from one to the next.
const LINK_DEPTH: usize = 8;
/// No archive has more files than this: it bounds what a hostile one can make the reader remember.
const MAX_FILES: usize = 100_000;

/// Reads an archive into the blob store. Nothing gets a name there unless everything is in order.
pub(crate) fn read(blobs: &Blobs, stream: impl Read) -> Result<Vec<Found>, ImageError> {
    let contents = receive(blobs, stream)?;
    let saved: Option<Vec<SavedImage>> = match contents.read("manifest.json")? {
        Some(bytes) => {
            Some(serde_json::from_slice(&bytes).map_err(|error| format!("manifest.json is malformed: {error}"))?)
        }
        None => None,
    };
    let index = match contents.read("index.json")? {
        Some(bytes) => Some(read_document(&bytes).map_err(|error| format!("index.json: {error}"))?),
        None => None,
    };
    match (index, saved) {
        (Some(index), saved) => from_layout(blobs, contents, &index, saved.unwrap_or_default()),
        (None, Some(saved)) => from_saved(blobs, contents, &saved),
        (None, None) => Err(ImageError::Archive("it has neither index.json nor manifest.json".to_owned())),
    }
}

fn receive(blobs: &Blobs, stream: impl Read) -> Result<Contents, ImageError> {
    let broken = |error: io::Error| ImageError::Archive(format!("the archive is broken: {error}"));
    let mut contents = Contents { files: HashMap::new(), links: HashMap::new() };
    let mut archive = tar::Archive::new(crate::blobs::decompress(stream).map_err(broken)?);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = tidy(&entry.path().map_err(broken)?);
        if contents.files.len() + contents.links.len() >= MAX_FILES {
            return Err(ImageError::Archive(format!("it has more than {MAX_FILES} files")));
        }
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let mut ingest = blobs.ingest().map_err(broken)?;
            let expected = entry.size();
            let copied = io::copy(&mut entry, &mut ingest).map_err(broken)?;
            if copied != expected {
                return Err(ImageError::Archive(format!("the archive is broken: it ends inside {}", path.display())));
            }
            contents.files.insert(path, ingest.finish(None).map_err(broken)?);
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
            let base =
                if kind.is_symlink() { path.parent().unwrap_or(Path::new("")).to_path_buf() } else { PathBuf::new() };
            contents.links.insert(path, tidy(&base.join(target)));
        }
    }
    Ok(contents)
}

impl Contents {
    fn resolve<'a>(&'a self, path: &'a Path) -> Option<&'a Path> {
        let mut path = path;
        for _ in 0..LINK_DEPTH {
            if self.files.contains_key(path) {
                return Some(path);
            }
            path = self.links.get(path)?;
        }
        None
    }

    fn get(&self, path: &str) -> Option<&Pending> {
        self.files.get(self.resolve(Path::new(path))?)
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match self.get(path) {
            Some(pending) => Ok(Some(pending.read().map_err(|error| format!("{path}: {error}"))?)),
            None => Ok(None),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<&Pending, ImageError> {
        let path = format!("blobs/sha256/{}", digest::hex(&descriptor.digest));
        let pending = self.get(&path).ok_or_else(|| format!("it has no blob {}", descriptor.digest))?;
        if pending.digest != descriptor.digest {
            return Err(ImageError::Archive(format!("blob {} has digest {}", descriptor.digest, pending.digest)));
        }
        if descriptor.size != 0 && descriptor.size != pending.size {
            return Err(ImageError::Archive(format!(
                "blob {} has {} bytes instead of {}",
                descriptor.digest, pending.size, descriptor.size
            )));
        }
        Ok(pending)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Document, ImageError> {
        let bytes = self.blob(descriptor)?.read().map_err(|error| error.to_string())?;
        Ok(read_document(&bytes)?)
    }
}

fn from_layout(
    blobs: &Blobs,
    contents: Contents,
    index: &Document,
    saved: Vec<SavedImage>,
) -> Result<Vec<Found>, ImageError> {
    let mut found = Vec::new();
    let mut needed = BTreeMap::new();
    for entry in &index.manifests {
        if entry.annotations.contains_key("vnd.docker.reference.type") {
            continue;
        }
        let document = contents.document(entry)?;
        let (manifest, document, list) = if document.manifests.is_empty() {
            (entry.clone(), document, None)
        } else {
            let chosen = choose(&document.manifests).ok_or_else(|| {
                format!("index {} has no manifest for linux/{}", entry.digest, crate::manifest::architecture())
            })?;
            (chosen.clone(), contents.document(chosen)?, Some(entry.digest.clone()))
        };
        let config = document.config.as_ref().ok_or_else(|| format!("manifest {} has no config", manifest.digest))?;
        let config_bytes = contents.blob(config)?.read().map_err(|error| error.to_string())?;
        read_config(&config_bytes, &document.layers).map_err(|cause| format!("image {}: {cause}", manifest.digest))?;
        for descriptor in document.layers.iter().chain([config, &manifest]) {
            contents.blob(descriptor)?;
            needed.insert(descriptor.digest.clone(), ());
        }
        let names = layout_names(entry, index.manifests.len(), &saved)?;
        found.push(Found { manifest: manifest.digest, index: list, names });
    }
    if found.is_empty() {
        return Err(ImageError::Archive("index.json names no image".to_owned()));
    }
    for pending in contents.files.into_values() {
        if needed.remove(&pending.digest).is_some() {
            commit(blobs, pending)?;
        }
    }
    Ok(found)
}

/// containerd's annotation has the whole name; OCI's has a name or only a tag; `docker save` also lists names in manifest.json.
fn layout_names(entry: &Descriptor, count: usize, saved: &[SavedImage]) -> Result<Vec<Reference>, ImageError> {
    let annotation = |key: &str| entry.annotations.get(key).filter(|text| !text.is_empty());
    if let Some(name) = annotation("io.containerd.image.name") {
        return Ok(vec![Reference::parse(name)?]);
    }
    if let (1, [image]) = (count, saved)
        && let Some(tags) = image.repo_tags.as_ref().filter(|tags| !tags.is_empty())
    {
        return tags.iter().map(|tag| Ok(Reference::parse(tag)?)).collect();
    }
    match annotation("org.opencontainers.image.ref.name") {
        // A bare tag such as `latest` or `1.36` names no repository.
        Some(name) if name.contains(['/', ':']) => Ok(vec![Reference::parse(name)?]),
        _ => Ok(Vec::new()),
    }
}

fn from_saved(blobs: &Blobs, contents: Contents, saved: &[SavedImage]) -> Result<Vec<Found>, ImageError> {
    let mut found = Vec::new();
    let mut manifests = Vec::new();
    let mut needed = BTreeMap::new();
    for image in saved {
        let config = contents.get(&image.config).ok_or_else(|| format!("it has no config {}", image.config))?;
        let mut document = Document {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            config: Some(Descriptor {
                media_type: CONFIG.to_owned(),
                digest: config.digest.clone(),
                size: config.size,
                ..Descriptor::default()
            }),
            ..Document::default()
        };
        needed.insert(config.digest.clone(), ());
        for path in &image.layers {
            let layer = contents.get(path).ok_or_else(|| format!("it has no layer {path}"))?;
            needed.insert(layer.digest.clone(), ());
            document.layers.push(Descriptor {
                media_type: LAYER.to_owned(),
                digest: layer.digest.clone(),
                size: layer.size,
                ..Descriptor::default()
            });
        }
        let bytes = config.read().map_err(|error| format!("config {}: {error}", image.config))?;
        read_config(&bytes, &document.layers).map_err(|cause| format!("image {}: {cause}", image.config))?;
        let names = image
            .repo_tags
            .iter()
            .flatten()
            .map(|tag| Ok(Reference::parse(tag)?))
            .collect::<Result<_, ImageError>>()?;
        let bytes = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
        found.push(Found { manifest: digest::of(&bytes), index: None, names });
        manifests.push(bytes);
    }
    if found.is_empty() {
        return Err(ImageError::Archive("manifest.json names no image".to_owned()));
    }
    for pending in contents.files.into_values() {
        if needed.remove(&pending.digest).is_some() {
            commit(blobs, pending)?;
        }
    }
    for bytes in manifests {
        blobs.put(&bytes).map_err(|source| ImageError::Io { action: "write to", path: blobs.path(""), source })?;
    }
    Ok(found)
}

fn commit(blobs: &Blobs, pending: Pending) -> Result<(), ImageError> {
    let path = blobs.path(&pending.digest);
    blobs.commit(pending).map_err(|source| ImageError::Io { action: "write", path, source })
}

fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => tidy.push(name),
            Component::ParentDir => {
                tidy.pop();
            }
            _ => {}
        }
    }
    tidy
}
