//! The image that kobune makes of its own executable, so that a machine without a registry has something to run.
//!
//! Its one layer is never packed: the executable is linked (or cloned, or copied) into a snapshot, whose name comes from the
//! file's identity. What stands for the layer's digest is the digest of that identity.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::blobs::Blobs;
use crate::digest;
use crate::images::ImageError;
use crate::manifest::{CONFIG, Descriptor, Document, LAYER, MANIFEST, architecture};
use crate::snapshots::{Layer, Snapshots};

/// Its name.
pub const SELF_IMAGE: &str = "kobune.local/kobune:latest";
/// The same program, waiting: what other runtimes hold a pod's namespaces with, where they are told to.
pub const PAUSE_IMAGE: &str = "kobune.local/pause:latest";

/// Names under which the executable is found in `/bin`: it looks at what it was called by. The same as
/// `kobune_tools::NAMES`, which this crate does not see.
const TOOLS: &[&str] = &[
    "burn",
    "cat",
    "dns",
    "eat",
    "echo",
    "env",
    "exit",
    "false",
    "hostname",
    "http-echo",
    "http-get",
    "id",
    "ls",
    "mkdir",
    "mount-info",
    "pause",
    "ps",
    "rm",
    "sleep",
    "tar",
    "tcp-echo",
    "tcp-get",
    "tee",
    "test",
    "touch",
    "true",
    "udp-echo",
    "udp-get",
    "write-file",
];

/// Changes whenever what is laid out beside the executable changes.
const LAYOUT: u32 = 3;

/// Makes the image if the executable has changed. Returns its manifest's digest.
pub(crate) fn ensure(blobs: &Blobs, snapshots: &Snapshots, executable: &Path) -> Result<String, ImageError> {
    let fail = |source| ImageError::Io { action: "make an image of", path: executable.to_path_buf(), source };
    let metadata = fs::metadata(executable).map_err(fail)?;
    let identity = format!(
        "kobune {LAYOUT} {} {} {} {}",
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime_nsec() + metadata.mtime() * 1_000_000_000
    );
    let layer_digest = digest::of(identity.as_bytes());
    let config = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Entrypoint": ["/kobune", "tool"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    });
    let config_bytes = config.to_string().into_bytes();
    let config_digest = blobs.put(&config_bytes).map_err(fail)?;
    let document = Document {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        config: Some(Descriptor {
            media_type: CONFIG.to_owned(),
            digest: config_digest,
            size: config_bytes.len() as u64,
            ..Descriptor::default()
        }),
        layers: vec![Descriptor {
            media_type: LAYER.to_owned(),
            digest: layer_digest.clone(),
            size: metadata.size(),
            ..Descriptor::default()
        }],
        ..Document::default()
    };
    let bytes = serde_json::to_vec(&document).map_err(io::Error::from).map_err(fail)?;
    let layers = [Layer { digest: layer_digest.clone(), size: metadata.size(), diff_id: layer_digest }];
    if !snapshots.complete(&layers) {
        let place = snapshots.place().map_err(fail)?;
        lay_out(place.path(), executable).map_err(fail)?;
        snapshots.commit(place, &snapshots.folder().join(&Snapshots::names(&layers)[0]))?;
    }
    blobs.put(&bytes).map_err(fail)
}

/// Writes both images of an executable as one OCI archive, for a runtime that keeps its own images. Blocks.
pub fn archive(executable: &Path, target: &Path) -> Result<(), ImageError> {
    let fail = |source| ImageError::Io { action: "make an image of", path: executable.to_path_buf(), source };
    write_archive(executable, target).map_err(fail)
}

fn write_archive(executable: &Path, target: &Path) -> io::Result<()> {
    let mut layer = tar::Builder::new(digest::Hashing::new(tempfile::tempfile()?));
    let entry = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header
    };
    for (folder, mode) in FOLDERS {
        layer.append_data(&mut entry(tar::EntryType::Directory, mode, 0), folder, io::empty())?;
    }
    for (name, text) in FILES {
        layer.append_data(&mut entry(tar::EntryType::Regular, 0o644, text.len() as u64), name, text.as_bytes())?;
    }
    let program = File::open(executable)?;
    let size = program.metadata()?.len();
    layer.append_data(&mut entry(tar::EntryType::Regular, 0o755, size), "kobune", program)?;
    for tool in TOOLS.iter().copied().chain(["kobune"]) {
        layer.append_link(&mut entry(tar::EntryType::Symlink, 0o777, 0), format!("bin/{tool}"), "/kobune")?;
    }
    let (layer_digest, layer_size, mut layer) = layer.into_inner()?.finish();
    layer.rewind()?;
    let mut archive = tar::Builder::new(File::create(target)?);
    let mut add = |name: String, size: u64, content: &mut dyn io::Read| {
        archive.append_data(&mut entry(tar::EntryType::Regular, 0o644, size), name, content)
    };
    let blob = |digest: &str| format!("blobs/sha256/{}", digest::hex(digest));
    add(blob(&layer_digest), layer_size, &mut layer)?;
    let mut manifests = Vec::new();
    for (name, command) in [(SELF_IMAGE, &[] as &[&str]), (PAUSE_IMAGE, &["pause"])] {
        let config = serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/kobune", "tool"], "Cmd": command, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        });
        let config = config.to_string().into_bytes();
        add(blob(&digest::of(&config)), config.len() as u64, &mut &*config)?;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest::of(&config), "size": config.len()},
            "layers": [{"mediaType": UNPACKED_LAYER, "digest": layer_digest, "size": layer_size}],
        });
        let manifest = manifest.to_string().into_bytes();
        add(blob(&digest::of(&manifest)), manifest.len() as u64, &mut &*manifest)?;
        manifests.push(serde_json::json!({
            "mediaType": MANIFEST,
            "digest": digest::of(&manifest),
            "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
        }));
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    add("index.json".to_owned(), index.len() as u64, &mut index.as_bytes())?;
    let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
    add("oci-layout".to_owned(), layout.len() as u64, &mut layout.as_bytes())?;
    archive.into_inner()?.sync_all()
}

const UNPACKED_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const FOLDERS: [(&str, u32); 7] =
    [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("dev", 0o755), ("proc", 0o755), ("sys", 0o755)];
const FILES: [(&str, &str); 2] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

fn lay_out(root: &Path, executable: &Path) -> io::Result<()> {
    for (folder, mode) in FOLDERS {
        fs::create_dir(root.join(folder))?;
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text)?;
    }
    for tool in TOOLS {
        symlink("/kobune", root.join("bin").join(tool))?;
    }
    symlink("/kobune", root.join("bin/kobune"))?;
    place_executable(executable, &root.join("kobune"))
}

/// A hard link costs nothing; a clone shares blocks; a copy is the last way.
fn place_executable(executable: &Path, target: &Path) -> io::Result<()> {
    let source = fs::canonicalize(executable).unwrap_or_else(|_| executable.to_path_buf());
    let original = fs::metadata(executable)?;
    // The file under that name may have been replaced since this process started; then a link would be another program.
    let linked = fs::metadata(&source)
        .is_ok_and(|found| (found.dev(), found.ino()) == (original.dev(), original.ino()))
        && original.mode() & 0o111 == 0o111
        && fs::hard_link(&source, target).is_ok();
    if linked {
        return Ok(());
    }
    let from = File::open(executable)?;
    let to = File::create_new(target)?;
    #[expect(unsafe_code, reason = "FICLONE has no safe wrapper")]
    // SAFETY: both descriptors are open files that live until the call returns, and the argument is a descriptor by value.
    let cloned = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&to), libc::FICLONE as _, std::os::fd::AsRawFd::as_raw_fd(&from))
    } == 0;
    if !cloned {
        io::copy(&mut &from, &mut &to)?;
    }
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))
}
