//! Snapshots: taken while the store is written, restored into a new file or into etcd, with revisions above all before.

use kobune_store::{
    At, Config, Durability, EPOCH, EtcdConfig, EtcdStore, Facets, Key, OpenError, Range, Revision, Snapshot,
    SqliteStore, Store, StoreError, read_etcd, restore_etcd,
};

use crate::etcd_server::Etcd;
use crate::{contents, create, delete, open, runtime, update};

const PODS: &str = "core/pods";

/// A store with some history.
async fn filled(store: &dyn Store) {
    for number in 0..20 {
        let key = Key::new(PODS, "a", &format!("{number:02}"));
        let record = store.commit(create(&key, "1", Durability::Synced)).await.expect("created");
        match number % 4 {
            0 => {
                let write = update(&key, record.revision, &"two ".repeat(500), Durability::Synced);
                store.commit(write).await.expect("updated");
            }
            1 => drop(store.commit(delete(&key, record.revision, "gone", Durability::Synced)).await.expect("deleted")),
            _ => {}
        }
    }
}

/// Writes a snapshot to bytes and reads it again, as a file would.
fn through_a_file(snapshot: &Snapshot) -> Snapshot {
    let mut file = Vec::new();
    snapshot.write(&mut file, None).expect("memory takes it");
    Snapshot::read(&*file, None).expect("it is whole")
}

#[tokio::test]
async fn a_running_store_is_saved_and_restored_with_a_new_epoch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, Config::default());
    filled(&*store).await;
    let range = Range::all(PODS);
    let before = contents(&*store, &range).await;
    let saved = SqliteStore::read_file(&path, None).expect("readable beside the store");
    let seen = store.revision();
    // What is written later is not in it, and the store is none the worse for it.
    let late = Key::new(PODS, "a", "late");
    let lost = store.commit(create(&late, "1", Durability::Synced)).await.expect("created").revision;

    let other = folder.path().join("restored.db");
    let restored = SqliteStore::restore(&other, through_a_file(&saved), None).expect("there is room");
    assert!(restored.0 >= seen.0 + EPOCH);
    let again = open(&other, Config::default());
    assert_eq!(contents(&*again, &range).await, before);
    assert!(again.revision() >= restored);
    for revision in [Revision(1), seen, lost] {
        let watch = again.watch(&range, revision);
        assert!(matches!(watch, Err(StoreError::Expired { .. })), "{watch:?}");
    }
    let record = again.commit(create(&late, "2", Durability::Synced)).await.expect("created");
    assert!(record.revision > lost && record.revision > restored);
    assert!(!folder.path().join("restored.restoring").exists());
}

#[test]
fn sqlite_moves_to_etcd_and_back() {
    for version in ["3.4", "3.5"] {
        let Some(etcd) = Etcd::start(version, "snapshots::sqlite_moves_to_etcd_and_back", 1, None) else { continue };
        runtime().block_on(async {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("store.db");
            let store = open(&path, Config::default());
            filled(&*store).await;
            let range = Range::all(PODS);
            let before = contents(&*store, &range).await;
            let seen = store.revision();
            let saved = SqliteStore::read_file(&path, None).expect("readable");
            let reached = restore_etcd(etcd.config(), through_a_file(&saved)).await.expect("the cluster is empty");
            assert!(reached > saved.revision);

            let moved = crate::etcd::open(etcd.config()).await;
            assert_eq!(contents(&*moved, &range).await, before);
            for record in moved.list(&range, At::Latest).await.expect("open").iter() {
                assert!(record.revision > seen, "revisions are above all that were seen");
            }
            assert!(matches!(moved.watch(&range, seen), Err(StoreError::Expired { .. })));
            let again = restore_etcd(etcd.config(), through_a_file(&saved)).await;
            assert!(matches!(again, Err(OpenError::NotEmpty { .. })), "{again:?}");

            let saved = read_etcd(etcd.config()).await.expect("readable");
            assert_eq!(saved.records.len(), before.len());
            let back = folder.path().join("back.db");
            SqliteStore::restore(&back, through_a_file(&saved), None).expect("there is room");
            assert_eq!(contents(&*open(&back, Config::default()), &range).await, before);

            let mut half = etcd.config();
            half.prefix = "/half".to_owned();
            etcd.control(&["put", "/half/kobune/restoring", ""]);
            let refused = open_plain(half).await;
            assert!(matches!(refused, Err(OpenError::Unfinished)), "{refused:?}");
        });
    }
}

async fn open_plain(config: EtcdConfig) -> Result<(), OpenError> {
    EtcdStore::open(config, |_, _| Facets::default()).await.map(drop)
}
