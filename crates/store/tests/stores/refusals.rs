//! What is refused: a full disk, a damaged file, a second opener, a wrong draft.

use kobune_store::{
    At, CommitError, Config, Draft, Durability, Facets, Key, Op, OpenError, Range, Revision, SqliteStore, Store,
    StoreError, Write,
};

use crate::{contents, create, delete, open, update};

fn try_open(path: &std::path::Path) -> Result<std::sync::Arc<SqliteStore>, OpenError> {
    SqliteStore::open(path, Config::default(), |_, _| Facets::default())
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let config = Config { max_bytes: Some(256 << 10), relaxed_bytes: 10_000, ..Config::default() };
    let store = open(&path, config.clone());
    let body = "x".repeat(10_000);
    let mut made = Vec::new();
    let refused = loop {
        let key = Key::new("core/pods", "a", &format!("{:03}", made.len()));
        match store.commit(create(&key, &body, Durability::Synced)).await {
            Ok(record) => made.push(record),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CommitError::Full { source: Some(_) }), "{refused:?}");
    assert!(made.len() > 10);
    let revision = store.revision();
    assert_eq!(contents(&*store, &Range::all("core/pods")).await.len(), made.len());

    // Heartbeats go on in memory, up to their limit.
    let lease = Key::new("core/leases", "a", "node");
    let beat = store.commit(create(&lease, &body, Durability::Relaxed)).await.expect("held in memory");
    assert!(beat.revision > revision);
    let other = Key::new("core/leases", "a", "other");
    let refused = store.commit(create(&other, "1", Durability::Relaxed)).await;
    assert!(matches!(refused, Err(CommitError::Full { source: None })), "{refused:?}");

    // One that does not fit takes none of its batch with it.
    let small = Key::new("core/pods", "a", "000");
    let large = Key::new("core/pods", "a", "large");
    let (small, large) = tokio::join!(
        store.commit(update(&small, made[0].revision, "small", Durability::Synced)),
        store.commit(create(&large, &body.repeat(9), Durability::Synced)),
    );
    let small = small.expect("a smaller value fits");
    assert!(matches!(large, Err(CommitError::Full { .. })), "{large:?}");

    for record in &made[1..5] {
        let write = delete(&record.key, record.revision, "gone", Durability::Synced);
        store.commit(write).await.expect("a deletion makes room");
    }
    let key = Key::new("core/pods", "a", "again");
    let record = store.commit(create(&key, &body, Durability::Synced)).await.expect("there is room again");
    assert!(record.revision > small.revision);
    store.commit(create(&other, "1", Durability::Relaxed)).await.expect("there is room again");
    let before = contents(&*store, &Range::all("core/pods")).await;
    store.close().await;
    drop(store);
    let store = open(&path, config);
    assert_eq!(contents(&*store, &Range::all("core/pods")).await, before);
    assert!(store.get(&lease).await.expect("open").is_some());
}

#[tokio::test]
async fn a_database_has_one_opener() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, Config::default());
    assert!(matches!(try_open(&path), Err(OpenError::InUse { .. })));
    store.close().await;
    assert!(try_open(&path).is_ok());
}

/// Makes a database, damages it, and answers how opening it fails.
async fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> OpenError {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, Config::default());
    for number in 0..200 {
        let key = Key::new("core/pods", "a", &format!("{number:03}"));
        let write = create(&key, &"x".repeat(700), Durability::Relaxed);
        store.commit(write).await.expect("created");
    }
    store.close().await;
    drop(store);
    let mut bytes = std::fs::read(&path).expect("readable");
    damage(&mut bytes);
    std::fs::write(&path, bytes).expect("writable");
    match try_open(&path) {
        Ok(_) => panic!("the damage is not noticed"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn damage_is_named() {
    let error = damaged(|bytes| bytes[..100].fill(b'?')).await;
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("store.db is corrupt: "), "{error}");
    let error = damaged(|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8192].fill(0xff);
    })
    .await;
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    let error = damaged(|bytes| bytes.truncate(bytes.len() / 2)).await;
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    // The header field of user_version.
    let error = damaged(|bytes| bytes[60..64].copy_from_slice(&9u32.to_be_bytes())).await;
    assert!(matches!(error, OpenError::Format { found: 9, .. }), "{error:?}");
}

#[tokio::test]
async fn a_draft_without_its_splice_is_a_mistake() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open(&folder.path().join("store.db"), Config::default());
    for splice in [0, 1, 7, 100, usize::MAX] {
        let write = Write {
            key: Key::new("core/pods", "a", "x"),
            op: Op::Create(Draft { bytes: br#"{"a":"b"}"#.to_vec(), splice, facets: Facets::default() }),
            durability: Durability::Synced,
        };
        let result = store.commit(write).await;
        assert!(matches!(result, Err(CommitError::Splice { .. })), "{result:?}");
    }
}

#[tokio::test]
async fn revisions_out_of_reach_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, Config::default());
    let range = Range::all("core/pods");
    for name in ["x", "y"] {
        let write = create(&Key::new("core/pods", "a", name), "1", Durability::Synced);
        store.commit(write).await.expect("created");
    }
    let now = store.revision();
    let future = Revision(now.0 + 1);
    assert!(matches!(store.watch(&range, future), Err(StoreError::Future { .. })));
    let listed = store.list(&range, At::Exact(future)).await;
    assert!(matches!(listed, Err(StoreError::Future { .. })));
    let listed = store.list(&range, At::Exact(Revision(1))).await;
    assert!(matches!(listed, Err(StoreError::Expired { .. })));
    store.close().await;
    drop(store);
    // What happened before the start is not known any more.
    let store = open(&path, Config::default());
    assert!(matches!(store.watch(&range, Revision(now.0 - 1)), Err(StoreError::Expired { .. })));
    assert!(store.watch(&range, now).is_ok());
}
