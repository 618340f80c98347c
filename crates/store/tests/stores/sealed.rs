//! Values that are encrypted on disk: never plain in any file, plain again for readers, written anew when the seal changes.

use std::borrow::Cow;

use kobune_store::{OpenError, Opened, SEALED_PREFIX, Seal, SealError};

use super::*;

/// Turns every bit over; enough to see whether plain text reaches the disk.
#[derive(Debug)]
struct Flip {
    number: u8,
}

impl Seal for Flip {
    fn seal<'v>(&self, key: &Key, value: &'v [u8]) -> Result<Cow<'v, [u8]>, SealError> {
        if &*key.collection != "core/secrets" {
            return Ok(Cow::Borrowed(value));
        }
        let mut sealed = SEALED_PREFIX.to_vec();
        sealed.push(self.number);
        sealed.extend(value.iter().map(|byte| !byte));
        Ok(Cow::Owned(sealed))
    }

    fn open<'v>(&self, key: &Key, stored: &'v [u8]) -> Result<Opened<'v>, SealError> {
        let Some(rest) = stored.strip_prefix(SEALED_PREFIX) else {
            return Ok(Opened { value: Cow::Borrowed(stored), stale: &*key.collection == "core/secrets" });
        };
        if rest[0] > self.number {
            return Err(SealError { problem: "unknown key".to_owned() });
        }
        Ok(Opened { value: rest[1..].iter().map(|byte| !byte).collect(), stale: rest[0] != self.number })
    }
}

fn sealed(number: u8) -> Config {
    Config { seal: Some(Arc::new(Flip { number })), ..Config::default() }
}

/// Whether a text stands in any file of the folder.
fn stands(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).expect("the folder is there").any(|entry| {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file is readable");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn plain_text_is_never_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    runtime().block_on(async {
        let store = open(&path, sealed(1));
        let key = Key::new("core/secrets", "a", "s");
        let record = store.commit(create(&key, "hunter2-first", Durability::Synced)).await.expect("written");
        assert_eq!(body_of(&record.value), "hunter2-first");
        store.commit(update(&key, record.revision, "hunter2-then", Durability::Synced)).await.expect("written");
        let open_map = Key::new("core/configmaps", "a", "m");
        store.commit(create(&open_map, "everybody", Durability::Synced)).await.expect("written");
        assert!(!stands(folder.path(), "hunter2"), "while it runs");
        assert!(stands(folder.path(), "everybody"), "the search finds what is there");
        store.close().await;
    });
    assert!(!stands(folder.path(), "hunter2"), "when it is closed");
    runtime().block_on(async {
        let store = open(&path, sealed(1));
        assert_eq!(
            contents(&*store, &Range::all("core/secrets")).await,
            [("a/s".to_owned(), "hunter2-then".to_owned())]
        );
        store.close().await;
    });
    match SqliteStore::open(&path, Config::default(), |_, _| Facets::default()) {
        Err(OpenError::Sealed { key, .. }) => assert_eq!(key, "core/secrets/a/s"),
        other => panic!("opened without the key: {other:?}", other = other.map(|_| ())),
    }
}

#[test]
fn what_was_plain_is_sealed_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    runtime().block_on(async {
        let store = open(&path, Config::default());
        let (kept, gone) = (Key::new("core/secrets", "a", "kept"), Key::new("core/secrets", "a", "gone"));
        store.commit(create(&kept, "hunter2-kept", Durability::Synced)).await.expect("written");
        let record = store.commit(create(&gone, "hunter2-gone", Durability::Synced)).await.expect("written");
        store.commit(delete(&gone, record.revision, "hunter2-gone", Durability::Synced)).await.expect("deleted");
        store.close().await;
    });
    assert!(stands(folder.path(), "hunter2"), "it was plain before");
    for number in [1, 2, 2] {
        runtime().block_on(async {
            let store = open(&path, sealed(number));
            assert!(!stands(folder.path(), "hunter2"), "with key {number}");
            let found = contents(&*store, &Range::all("core/secrets")).await;
            assert_eq!(found, [("a/kept".to_owned(), "hunter2-kept".to_owned())]);
            store.close().await;
        });
    }
    assert!(
        SqliteStore::open(&path, sealed(1), |_, _| Facets::default()).is_err(),
        "nothing is left under the old key"
    );
}

#[test]
fn etcd_has_no_plain_text_either() {
    for version in ["3.4", "3.5"] {
        let test = "sealed::etcd_has_no_plain_text_either";
        let Some(etcd) = etcd_server::Etcd::start(version, test, 1, None) else { continue };
        runtime().block_on(async {
            let with = |number: Option<u8>| {
                let mut config = etcd.config();
                config.paths.push(("core/secrets".to_owned(), "secrets".to_owned()));
                config.seal = number.map(|number| Arc::new(Flip { number }) as Arc<dyn Seal>);
                etcd::open(config)
            };
            let raw = || etcd.control(&["get", "/registry/secrets/a/s", "--print-value-only", "--hex"]);
            let key = Key::new("core/secrets", "a", "s");
            let plain = with(None).await;
            plain.commit(create(&key, "word", Durability::Synced)).await.expect("created");
            let before = raw();
            drop(plain);
            // What was plain is sealed at the next start, and again when the key changes.
            let store = with(Some(1)).await;
            let first = raw();
            assert_ne!(before, first);
            drop(store);
            let store = with(Some(2)).await;
            assert_ne!(raw(), first);
            let found = store.get(&key).await.expect("open").expect("there");
            assert_eq!(body_of(&found.value), "word");
            store.fresh().await.expect("the cluster answers");
            let found = store.get(&key).await.expect("open").expect("there");
            store.commit(update(&key, found.revision, "other", Durability::Synced)).await.expect("updated");
            drop(store);
            let store = with(Some(2)).await;
            let found = store.get(&key).await.expect("open").expect("there");
            assert_eq!(body_of(&found.value), "other");
            drop(store);
            let mut config = etcd.config();
            config.paths.push(("core/secrets".to_owned(), "secrets".to_owned()));
            let refused = kobune_store::EtcdStore::open(config, |_, _| Facets::default()).await.map(drop);
            assert!(matches!(refused, Err(OpenError::Etcd { .. })), "without the key it cannot be read: {refused:?}");
        });
    }
}
