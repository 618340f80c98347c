//! The image store: what is there, what it is called, how it gets in and out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::blobs::Blobs;
use crate::config::Config;
use crate::disk::{self, Durability};
use crate::reference::Reference;
use crate::snapshots::{Layer, Snapshots};
use crate::{archive, manifest, registry, selfimage};

/// How to prove to a registry who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password or access token.
        password: String,
    },
    /// A bearer token for the registry itself.
    Bearer(String),
}

/// What an image says about the process to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageConfig {
    /// `KEY=value`.
    pub env: Vec<String>,
    /// First words of the command.
    pub entrypoint: Vec<String>,
    /// The words after it.
    pub cmd: Vec<String>,
    /// Folder in which it starts.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: String,
    /// Folders that hold data.
    pub volumes: Vec<String>,
    /// The signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that it says it listens on.
    pub exposed_ports: Vec<String>,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Digest of its config: `sha256:...`.
    pub id: String,
    /// `repository:tag` names.
    pub tags: Vec<String>,
    /// `repository@sha256:...` names.
    pub digests: Vec<String>,
    /// Bytes of its layers as stored.
    pub size: u64,
    /// What it says about the process to run.
    pub config: ImageConfig,
    /// Never removed by garbage collection: loaded by hand or made by kobune.
    pub pinned: bool,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference is malformed.
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    /// The store has no such image.
    #[error("image {reference} not found")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The registry would not or could not give it.
    #[error("failed to pull image {reference}: {cause}")]
    Pull {
        /// What was asked for.
        reference: String,
        /// What the registry or the connection said.
        cause: String,
    },
    /// The archive is not a whole image archive.
    #[error("invalid image archive: {0}")]
    Archive(String),
    /// A layer cannot be unpacked.
    #[error("invalid layer {digest}: {cause}")]
    Layer {
        /// The layer.
        digest: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Stored content is not what its digest says, and there is no source to make it from again.
    #[error("image {reference} is damaged: {cause}")]
    Damaged {
        /// The image.
        reference: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The store of another program refused, failed or gave no sensible answer.
    #[error("{0}")]
    Remote(String),
    /// The store's own files cannot be used.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A manifest's worth of an image, as kept in memory.
#[derive(Clone, Debug)]
struct Stored {
    id: String,
    size: u64,
    config: ImageConfig,
    layers: Arc<Vec<Layer>>,
}

/// What a name stands for; the content of `tags.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Name {
    manifest: String,
    #[serde(default)]
    pinned: bool,
}

#[derive(Default)]
struct Index {
    names: BTreeMap<String, Name>,
    manifests: HashMap<String, Stored>,
}

/// The image store.
pub struct Images {
    blobs: Arc<Blobs>,
    snapshots: Snapshots,
    tags: PathBuf,
    executable: PathBuf,
    concurrency: usize,
    index: RwLock<Index>,
    /// Held while names are written or unused content is removed.
    change: Mutex<()>,
    /// Pulls under way: content that no name holds yet.
    busy: Mutex<usize>,
    /// Chain of snapshots that running containers stand on.
    used: Mutex<HashMap<String, usize>>,
}

/// The layers of an image as an overlay mount wants them.
#[derive(Clone, Debug)]
pub(crate) struct Lowers {
    /// The image they are of.
    pub(crate) image: Image,
    /// Names below the snapshots' folder, topmost first.
    pub(crate) names: Vec<String>,
}

fn io_error(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::Io { action, path, source }
}

impl Images {
    /// Opens the store. Names whose documents are damaged are dropped with a warning; they can be pulled or loaded again.
    pub(crate) fn open(config: &Config) -> Result<Self, ImageError> {
        let folder = config.data_dir.join("images");
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        let tags = folder.join("tags.json");
        let blobs = Blobs::open(&folder).map_err(io_error("open", &folder))?;
        let snapshots = Snapshots::open(&config.data_dir).map_err(io_error("open", &config.data_dir))?;
        let names: BTreeMap<String, Name> = match disk::read_json(&tags) {
            Ok(names) => names.unwrap_or_default(),
            Err(error)
                if error.kind() == std::io::ErrorKind::InvalidData
                    || error.kind() == std::io::ErrorKind::UnexpectedEof =>
            {
                tracing::error!(path = %tags.display(), %error, "the list of images is damaged; starting with none");
                BTreeMap::new()
            }
            Err(error) => return Err(io_error("read", &tags)(error)),
        };
        let images = Self {
            blobs: Arc::new(blobs),
            snapshots,
            tags,
            executable: config.executable.clone(),
            concurrency: config.pull_concurrency,
            index: RwLock::new(Index::default()),
            change: Mutex::new(()),
            busy: Mutex::new(0),
            used: Mutex::new(HashMap::new()),
        };
        let mut index = Index::default();
        for (key, name) in names {
            if !index.manifests.contains_key(&name.manifest) {
                match images.read_stored(&name.manifest) {
                    Ok(stored) => {
                        index.manifests.insert(name.manifest.clone(), stored);
                    }
                    Err(cause) => {
                        tracing::warn!(image = key, cause, "an image is damaged and has been dropped");
                        continue;
                    }
                }
            }
            index.names.insert(key, name);
        }
        *images.index.write() = index;
        images.collect_garbage();
        Ok(images)
    }

    fn read_stored(&self, manifest: &str) -> Result<Stored, String> {
        let document = manifest::read_document(
            &self.blobs.read(manifest).map_err(|error| format!("manifest {manifest}: {error}"))?,
        )?;
        let config = document.config.ok_or("its manifest has no config")?;
        let bytes = self.blobs.read(&config.digest).map_err(|error| format!("config {}: {error}", config.digest))?;
        let (image_config, layers) = manifest::read_config(&bytes, &document.layers)?;
        // A layer is needed in one of its two forms.
        if !self.snapshots.complete(&layers)
            && let Some(missing) = layers.iter().find(|layer| !self.blobs.has(&layer.digest, layer.size))
        {
            return Err(format!("layer {} is missing", missing.digest));
        }
        Ok(Stored {
            id: config.digest,
            size: layers.iter().map(|layer| layer.size).sum(),
            config: image_config,
            layers: Arc::new(layers),
        })
    }

    /// Fetches an image from its registry; layers that are already there are not fetched again.
    pub async fn pull(self: &Arc<Self>, reference: &str, auth: Option<Auth>) -> Result<Image, ImageError> {
        let reference = Reference::parse(reference)?;
        let _busy = Busy::new(self);
        let pulled = registry::pull(&self.blobs, &reference, auth, self.concurrency).await?;
        let images = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut names = vec![(format!("{}@{}", reference.name(), pulled.named), false)];
            if reference.digest().is_none() {
                names.push((reference.key(), false));
            }
            images.add(&pulled.manifest, names, &reference.to_string())
        });
        task.await.map_err(|error| ImageError::Archive(error.to_string()))?
    }

    /// Adds the images of an archive (OCI layout or `docker save`; plain, gzip or zstd) and pins them. Returns their names,
    /// or ids where the archive gives no name.
    ///
    /// Blocks: call it from a blocking thread.
    pub fn load(&self, reader: impl Read) -> Result<Vec<String>, ImageError> {
        let busy = Busy::new(self);
        let result = self.load_inner(reader);
        drop(busy);
        if result.is_err() {
            self.collect_garbage();
        }
        result
    }

    fn load_inner(&self, reader: impl Read) -> Result<Vec<String>, ImageError> {
        let found = archive::read(&self.blobs, reader)?;
        // Unpacked first, all of them: an archive with a bad layer adds nothing.
        for image in &found {
            let stored = self.read_stored(&image.manifest)?;
            self.snapshots.ensure(&self.blobs, &stored.layers)?;
        }
        let mut loaded = Vec::new();
        for image in found {
            let mut keys: Vec<(String, bool)> = image.names.iter().map(|name| (name.key(), true)).collect();
            if let (Some(index), Some(name)) = (&image.index, image.names.first()) {
                keys.push((format!("{}@{index}", name.name()), true));
            }
            let by_id = keys.is_empty();
            if by_id {
                keys.push((image.manifest.clone(), true));
            }
            let added = self.add(&image.manifest, keys, &image.manifest)?;
            if by_id {
                loaded.push(added.id);
            } else {
                loaded.extend(image.names.iter().map(ToString::to_string));
            }
        }
        Ok(loaded)
    }

    /// Unpacks an image whose blobs are there and gives it names.
    fn add(&self, manifest: &str, names: Vec<(String, bool)>, reference: &str) -> Result<Image, ImageError> {
        let stored = self
            .read_stored(manifest)
            .map_err(|cause| ImageError::Damaged { reference: reference.to_owned(), cause })?;
        self.snapshots.ensure(&self.blobs, &stored.layers)?;
        let _change = self.change.lock();
        let mut next = self.index.read().names.clone();
        for (key, pinned) in names {
            let pinned = pinned || next.get(&key).is_some_and(|old| old.pinned && old.manifest == manifest);
            next.insert(key, Name { manifest: manifest.to_owned(), pinned });
        }
        self.write_names(&next)?;
        let mut index = self.index.write();
        index.names = next;
        index.manifests.insert(manifest.to_owned(), stored);
        Ok(index.image(manifest).expect("it was put in above"))
    }

    fn write_names(&self, names: &BTreeMap<String, Name>) -> Result<(), ImageError> {
        if *names == self.index.read().names {
            return Ok(());
        }
        disk::write_json(&self.tags, names, Durability::Synced).map_err(io_error("write", &self.tags))
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        let index = self.index.read();
        let mut images: BTreeMap<String, Image> = BTreeMap::new();
        for manifest in index.manifests.keys() {
            if let Some(image) = index.image(manifest) {
                match images.get_mut(&image.id) {
                    Some(known) => known.merge(image),
                    None => {
                        images.insert(image.id.clone(), image);
                    }
                }
            }
        }
        images.into_values().collect()
    }

    /// The image that a reference, an id or the beginning of an id (12 digits or more) stands for.
    pub fn get(&self, reference: &str) -> Option<Image> {
        let index = self.index.read();
        index.find(reference).and_then(|manifest| index.image(&manifest))
    }

    /// Takes a name away, and with its last name the image; an id takes all names away. That it is not there is fine.
    /// Blocks while files are removed.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        {
            let _change = self.change.lock();
            let mut next = self.index.read().names.clone();
            let by_name =
                Reference::parse(reference).ok().map(|parsed| parsed.key()).filter(|key| next.contains_key(key));
            match by_name {
                Some(key) => {
                    let removed = next.remove(&key);
                    // The digest's name goes with the last tag of its repository.
                    if let (Some(removed), Some(repository)) =
                        (removed, key.rsplit_once(':').map(|(name, _)| name.to_owned()))
                    {
                        let other_tag =
                            next.iter().any(|(key, name)| name.manifest == removed.manifest && !key.contains('@'));
                        if !other_tag && !key.contains('@') {
                            next.retain(|key, name| {
                                name.manifest != removed.manifest || !key.starts_with(&format!("{repository}@"))
                            });
                        }
                    }
                }
                None => {
                    let index = self.index.read();
                    let Some(manifest) = index.find(reference) else { return Ok(()) };
                    let id = index.manifests.get(&manifest).map(|stored| stored.id.clone());
                    next.retain(|_, name| index.manifests.get(&name.manifest).map(|stored| &stored.id) != id.as_ref());
                }
            }
            self.write_names(&next)?;
            let mut index = self.index.write();
            index.names = next;
            let Index { names, manifests } = &mut *index;
            manifests.retain(|manifest, _| names.values().any(|name| name.manifest == *manifest));
        }
        self.collect_garbage();
        Ok(())
    }

    /// Removes blobs and snapshots that no name and no container needs. Does nothing while something is being fetched.
    pub(crate) fn collect_garbage(&self) {
        let _change = self.change.lock();
        let busy = self.busy.lock();
        if *busy > 0 {
            return;
        }
        let mut blobs = HashSet::new();
        let mut snapshots: HashSet<String> = self.used.lock().keys().cloned().collect();
        for (manifest, stored) in &self.index.read().manifests {
            blobs.insert(manifest.clone());
            blobs.insert(stored.id.clone());
            blobs.extend(stored.layers.iter().map(|layer| layer.digest.clone()));
            snapshots.extend(Snapshots::names(&stored.layers));
        }
        let result = self.blobs.all().and_then(|all| {
            for digest in all.iter().filter(|digest| !blobs.contains(*digest)) {
                self.blobs.remove(digest)?;
            }
            self.snapshots.keep_only(&snapshots)
        });
        if let Err(error) = result {
            tracing::warn!(%error, "failed to remove unused image content");
        }
    }

    /// The layers of an image, unpacked again from their blobs if they have been lost. Blocks then.
    pub(crate) fn lowers(&self, reference: &str) -> Result<Lowers, ImageError> {
        let (image, layers) = {
            let index = self.index.read();
            let manifest =
                index.find(reference).ok_or_else(|| ImageError::NotFound { reference: reference.to_owned() })?;
            let stored = index
                .manifests
                .get(&manifest)
                .ok_or_else(|| ImageError::NotFound { reference: reference.to_owned() })?;
            let image =
                index.image(&manifest).ok_or_else(|| ImageError::NotFound { reference: reference.to_owned() })?;
            (image, stored.layers.clone())
        };
        self.snapshots.ensure(&self.blobs, &layers)?;
        Ok(Lowers { names: Snapshots::names(&layers), image })
    }

    /// Keeps snapshots while a container stands on them.
    pub(crate) fn hold(&self, names: &[String]) {
        let mut used = self.used.lock();
        for name in names {
            *used.entry(name.clone()).or_default() += 1;
        }
    }

    /// Ends [`Images::hold`].
    pub(crate) fn release(&self, names: &[String]) {
        let mut used = self.used.lock();
        for name in names {
            if let Some(count) = used.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    used.remove(name);
                }
            }
        }
    }

    /// The folder of unpacked layers.
    pub(crate) fn snapshot_folder(&self) -> &std::path::Path {
        self.snapshots.folder()
    }

    /// Makes the image [`crate::SELF_IMAGE`] from the running executable, unless it is there already. Blocks.
    pub fn ensure_self(&self) -> Result<Image, ImageError> {
        let busy = Busy::new(self);
        let manifest = selfimage::ensure(&self.blobs, &self.snapshots, &self.executable)?;
        let image = self.add(&manifest, vec![(selfimage::SELF_IMAGE.to_owned(), true)], selfimage::SELF_IMAGE)?;
        {
            let mut index = self.index.write();
            let Index { names, manifests } = &mut *index;
            manifests.retain(|manifest, _| names.values().any(|name| name.manifest == *manifest));
        }
        drop(busy);
        self.collect_garbage();
        Ok(image)
    }
}

/// Keeps unnamed content while it is being put together.
struct Busy<'a>(&'a Images);

impl<'a> Busy<'a> {
    fn new(images: &'a Images) -> Self {
        *images.busy.lock() += 1;
        Self(images)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.busy.lock() -= 1;
    }
}

impl Index {
    fn find(&self, reference: &str) -> Option<String> {
        if let Some(name) = self.names.get(reference) {
            return Some(name.manifest.clone());
        }
        let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
        if hex.len() >= 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let mut found = self.manifests.iter().filter(|(_, stored)| crate::digest::hex(&stored.id).starts_with(hex));
            if let Some((manifest, stored)) = found.next()
                && found.all(|(_, other)| other.id == stored.id)
            {
                return Some(manifest.clone());
            }
        }
        let parsed = Reference::parse(reference).ok()?;
        if let Some(name) = self.names.get(&parsed.key()) {
            return Some(name.manifest.clone());
        }
        // A manifest's own digest also names the image, whatever was pulled by.
        let digest = parsed.digest()?;
        let known = self.manifests.contains_key(digest);
        let repository = parsed.name();
        let here = self.names.iter().any(|(key, name)| name.manifest == digest && key.starts_with(&repository));
        (known && here).then(|| digest.to_owned())
    }

    fn image(&self, manifest: &str) -> Option<Image> {
        let stored = self.manifests.get(manifest)?;
        let mut image = Image {
            id: stored.id.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            size: stored.size,
            config: stored.config.clone(),
            pinned: false,
        };
        for (key, name) in self.names.iter().filter(|(_, name)| name.manifest == manifest) {
            image.pinned |= name.pinned;
            if key.contains('@') {
                image.digests.push(key.clone());
            } else if !key.starts_with("sha256:") {
                image.tags.push(key.clone());
            }
        }
        Some(image)
    }
}

impl Image {
    fn merge(&mut self, other: Image) {
        self.tags.extend(other.tags);
        self.digests.extend(other.digests);
        self.pinned |= other.pinned;
        self.tags.sort();
        self.digests.sort();
        self.tags.dedup();
        self.digests.dedup();
    }
}
