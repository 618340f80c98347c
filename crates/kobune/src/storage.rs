//! Where the cluster's objects are kept: SQLite in the data folder, or an etcd cluster that several servers share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use kobune_kinds::Catalogue;
use kobune_store::{EtcdConfig, EtcdStore, OpenError, Seal, SqliteStore, Store};

/// The flags that name an etcd cluster, spelled as kube-apiserver spells them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Storage")]
pub struct StorageOptions {
    /// The members of an etcd cluster to keep all objects in, so that several servers can share them [default: SQLite in
    /// the data folder]
    #[arg(long, value_name = "URL", env = "KOBUNE_ETCD_SERVERS", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// The certificate authority of etcd's members
    #[arg(long, value_name = "FILE", env = "KOBUNE_ETCD_CAFILE", requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// The client certificate to show to etcd's members
    #[arg(long, value_name = "FILE", env = "KOBUNE_ETCD_CERTFILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// The key of the client certificate
    #[arg(long, value_name = "FILE", env = "KOBUNE_ETCD_KEYFILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with
    #[arg(long, value_name = "PREFIX", env = "KOBUNE_ETCD_PREFIX", default_value = "/registry")]
    pub etcd_prefix: String,
}

impl StorageOptions {
    /// Whether other servers may share the store.
    pub fn is_shared(&self) -> bool {
        !self.etcd_servers.is_empty()
    }

    /// The lines that `kobune config show` prints.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let file =
            |path: &Option<PathBuf>| path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        vec![
            ("etcd-servers", format!("[{}]", self.etcd_servers.join(", "))),
            ("etcd-cafile", file(&self.etcd_cafile)),
            ("etcd-certfile", file(&self.etcd_certfile)),
            ("etcd-keyfile", file(&self.etcd_keyfile)),
            ("etcd-prefix", self.etcd_prefix.clone()),
        ]
    }

    /// Opens the store.
    pub async fn open(
        &self,
        data_dir: &Path,
        catalogue: &Catalogue,
        seal: Option<Arc<dyn Seal>>,
    ) -> Result<Arc<dyn Store>> {
        let facets = kobune_apiserver::facets(catalogue);
        if !self.is_shared() {
            let path = sqlite_path(data_dir);
            let config = kobune_store::Config { seal, ..kobune_store::Config::default() };
            let opened = tokio::task::spawn_blocking(move || SqliteStore::open(path, config, facets));
            return match opened.await.context("open the store")? {
                Ok(store) => Ok(store),
                Err(error) => Err(explain(error)),
            };
        }
        Ok(EtcdStore::open(self.etcd(catalogue, seal)?, facets).await.context("open the store")?)
    }

    /// How the etcd cluster is found.
    pub fn etcd(&self, catalogue: &Catalogue, seal: Option<Arc<dyn Seal>>) -> Result<EtcdConfig> {
        let mut config = EtcdConfig::new(self.etcd_servers.clone());
        config.prefix.clone_from(&self.etcd_prefix);
        config.paths = kobune_apiserver::etcd_paths(catalogue);
        config.seal = seal;
        config.ca_pem = self.etcd_cafile.as_deref().map(read).transpose()?;
        config.identity_pem = match (&self.etcd_certfile, &self.etcd_keyfile) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        Ok(config)
    }
}

/// The database in a data folder.
pub fn sqlite_path(data_dir: &Path) -> PathBuf {
    data_dir.join("store.sqlite")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// What to do about a database that does not open. It is never thrown away by itself.
fn explain(error: OpenError) -> anyhow::Error {
    let hint = match &error {
        OpenError::Corrupt { path, .. } => Some(format!(
            "nothing was changed; copy {0} and {0}-wal away, then put a copy of an earlier day in their place, or try \
             `sqlite3 {0} .recover`",
            path.display()
        )),
        OpenError::Format { found, known, .. } if found > known => {
            Some("a newer kobune has written it: run that one, or put back the copy from before it".to_owned())
        }
        _ => None,
    };
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => error.context(format!("open the store ({hint})")),
        None => error.context("open the store"),
    }
}
