//! What a test of the trait stands on: a store of either kind that can be closed and opened again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kobune_store::{Config, EtcdStore, Limits, SqliteStore, Store};

use crate::etcd_server::Etcd;
use crate::{body_of, facets};

/// Where the objects are kept.
pub enum Ground {
    Sqlite,
    Etcd(Box<Etcd>),
}

/// The objects of one test.
pub struct Place<'g> {
    ground: &'g Ground,
    folder: tempfile::TempDir,
    prefix: String,
    limits: Limits,
}

impl Ground {
    /// SQLite, or the etcd of this version; `None` when that is not installed.
    pub fn of(kind: &str, test: &str) -> Option<Ground> {
        match kind {
            "sqlite" => Some(Ground::Sqlite),
            version => Etcd::start(version, test, 1, None).map(Box::new).map(Ground::Etcd),
        }
    }

    /// An empty place.
    pub fn place(&self) -> Place<'_> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().expect("a temporary folder");
        Place { ground: self, folder, prefix: format!("/test-{number}"), limits: Limits::default() }
    }
}

impl Place<'_> {
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens the store.
    pub async fn open(&self) -> Arc<dyn Store> {
        let facets = |_: &kobune_store::Key, value: &[u8]| facets(body_of(value));
        match self.ground {
            Ground::Sqlite => {
                let config = Config { limits: self.limits.clone(), ..Config::default() };
                SqliteStore::open(self.folder.path().join("store.db"), config, facets).expect("the database opens")
            }
            Ground::Etcd(etcd) => {
                let mut config = etcd.config();
                config.prefix.clone_from(&self.prefix);
                config.limits = self.limits.clone();
                EtcdStore::open(config, facets).await.expect("the cluster answers")
            }
        }
    }
}

/// Makes a test of an `async fn(&Ground)` for each store.
macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        mod sqlite { $(crate::ground::on_each_store!(@one $name "sqlite");)* }
        mod etcd_3_4 { $(crate::ground::on_each_store!(@one $name "3.4");)* }
        mod etcd_3_5 { $(crate::ground::on_each_store!(@one $name "3.5");)* }
    };
    (@one $name:ident $kind:literal) => {
        #[test]
        fn $name() {
            let test = concat!(module_path!(), "::", stringify!($name));
            if let Some(ground) = crate::ground::Ground::of($kind, test) {
                crate::runtime().block_on(super::$name(&ground));
            }
        }
    };
}
pub(crate) use on_each_store;
