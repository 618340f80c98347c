//! `kobune snapshot save|restore`: all objects of a cluster in one file, while it runs; and the way from SQLite to etcd.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kobune_kinds::Catalogue;
use kobune_store::{Seal, Snapshot, SqliteStore};

use crate::api_options::EncryptionOptions;
use crate::cli::InstanceOptions;
use crate::instance;
use crate::storage::{StorageOptions, sqlite_path};

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write all objects to a file, checksummed; the cluster may run meanwhile
    Save(SnapshotOptions),
    /// Read a file into an empty data folder, or with --etcd-servers into etcd; revisions go on above all earlier ones
    Restore(SnapshotOptions),
}

/// The flags of `snapshot save` and `snapshot restore`.
#[derive(Debug, Args)]
pub struct SnapshotOptions {
    /// The snapshot
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub instance: InstanceOptions,
    #[command(flatten)]
    pub storage: StorageOptions,
    #[command(flatten)]
    pub encryption: EncryptionOptions,
}

impl SnapshotOptions {
    fn seal(&self) -> Result<Option<Arc<dyn Seal>>> {
        let encryption = self.encryption.load(&self.instance.data_dir)?;
        Ok(encryption.map(|encryption| encryption as Arc<dyn Seal>))
    }
}

/// Does what is asked.
pub async fn run(command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Save(options) => save(&options).await,
        SnapshotCommand::Restore(options) => restore(&options).await,
    }
}

async fn save(options: &SnapshotOptions) -> Result<()> {
    let seal = options.seal()?;
    let snapshot = if options.storage.is_shared() {
        let config = options.storage.etcd(&Catalogue::builtin(), seal.clone())?;
        kobune_store::read_etcd(config).await.context("read from etcd")?
    } else {
        let path = sqlite_path(&options.instance.data_dir);
        SqliteStore::read_file(&path, seal.clone()).with_context(|| format!("read {}", path.display()))?
    };
    write(&options.file, &snapshot, seal.as_deref()).with_context(|| format!("write {}", options.file.display()))?;
    println!("{}: {} objects at revision {}", options.file.display(), snapshot.records.len(), snapshot.revision);
    Ok(())
}

/// Writes the file under another name first, so that an earlier snapshot is replaced as a whole or not at all.
fn write(path: &Path, snapshot: &Snapshot, seal: Option<&dyn Seal>) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    // Secrets are in it.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut file = BufWriter::new(file);
    snapshot.write(&mut file, seal)?;
    file.flush()?;
    file.into_inner().context("write the last bytes")?.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(())
}

async fn restore(options: &SnapshotOptions) -> Result<()> {
    let seal = options.seal()?;
    let file = File::open(&options.file).with_context(|| format!("open {}", options.file.display()))?;
    let snapshot = Snapshot::read(BufReader::new(file), seal.as_deref())
        .with_context(|| format!("read {}; nothing was restored", options.file.display()))?;
    let count = snapshot.records.len();
    if options.storage.is_shared() {
        let config = options.storage.etcd(&Catalogue::builtin(), seal)?;
        let prefix = &options.storage.etcd_prefix;
        let revision = kobune_store::restore_etcd(config, snapshot).await.context("restore into etcd")?;
        println!("restored {count} objects below {prefix}; the revision is {revision}");
        return Ok(());
    }
    let data_dir = &options.instance.data_dir;
    let _instance = instance::take(data_dir)?;
    let path = sqlite_path(data_dir);
    if path.exists() {
        bail!("{} is there already: restore into an empty data folder (the keys in pki may be there)", path.display());
    }
    let revision = SqliteStore::restore(&path, snapshot, seal).with_context(|| format!("write {}", path.display()))?;
    println!("restored {count} objects into {}; revisions go on from {revision}", data_dir.display());
    Ok(())
}
