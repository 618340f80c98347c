//! The image that kobune makes of its own executable, so that a machine without a registry has something to run.
//!
//! Its one layer is never packed: the executable is linked (or cloned, or copied) into a snapshot, whose name comes from the
//! file's identity. What stands for the layer's digest is the digest of that identity.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::blobs::Blobs;
use crate::digest;
use crate::images::ImageError;
use crate::manifest::{CONFIG, Descriptor, Document, LAYER, MANIFEST, architecture};
use crate::snapshots::{Layer, Snapshots};

/// Its name.
pub const SELF_IMAGE: &str = "kobune.local/kobune:latest";

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
const LAYOUT: u32 = 2;

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

fn lay_out(root: &Path, executable: &Path) -> io::Result<()> {
    for (folder, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("root", 0o700),
        ("dev", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
    ] {
        fs::create_dir(root.join(folder))?;
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
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
