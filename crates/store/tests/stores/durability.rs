//! What is on disk when, and what is not written at all.

use std::path::Path;
use std::time::Duration;

use kobune_store::{CommitError, Config, Durability, Key, Range, Revision, Store};

use crate::{contents, create, delete, is_conflict, open, update};

/// A configuration in which relaxed writes wait for as long as a test runs.
fn patient() -> Config {
    Config { relaxed_delay: Duration::from_secs(3600), renewal_delay: Duration::from_secs(3600), ..Config::default() }
}

/// The names on disk, as another process sees them.
fn on_disk(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).expect("readable beside the store");
    let mut statement = connection
        .prepare("SELECT name FROM objects WHERE json_valid(value) ORDER BY name")
        .expect("the table is plain");
    let names = statement.query_map([], |row| row.get(0)).expect("readable").collect::<Result<_, _>>();
    names.expect("names are text")
}

/// A number that changes with each transaction that reaches the file.
fn log_bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path.with_extension("db-wal")).expect("the log is there")
}

#[tokio::test]
async fn relaxed_writes_share_the_disk_with_the_next_synced_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, patient());
    let [first, relaxed, gone, synced] =
        ["first", "relaxed", "gone", "synced"].map(|name| Key::new("core/events", "a", name));
    // The first write of a process reserves revisions, so it is written at once.
    for key in [&first, &relaxed, &gone] {
        let write = create(key, "1", Durability::Relaxed);
        store.commit(write).await.expect("created");
    }
    let revision = store.get(&gone).await.expect("open").expect("there").revision;
    let write = delete(&gone, revision, "1", Durability::Relaxed);
    store.commit(write).await.expect("deleted");
    assert_eq!(on_disk(&path), ["first"]);
    assert_eq!(contents(&*store, &Range::all("core/events")).await.len(), 2);
    let write = create(&synced, "1", Durability::Synced);
    store.commit(write).await.expect("created");
    assert_eq!(on_disk(&path), ["first", "relaxed", "synced"]);
}

#[tokio::test]
async fn relaxed_writes_reach_the_disk_by_themselves_and_at_the_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, patient());
    for name in ["a", "b", "c"] {
        let key = Key::new("core/events", "a", name);
        let write = create(&key, "1", Durability::Relaxed);
        store.commit(write).await.expect("created");
    }
    let revision = store.revision();
    store.close().await;
    drop(store);
    assert_eq!(on_disk(&path), ["a", "b", "c"]);

    let eager = Config { relaxed_delay: Duration::ZERO, ..patient() };
    let store = open(&path, eager);
    assert_eq!(store.revision(), revision);
    for name in ["d", "e"] {
        let key = Key::new("core/events", "a", name);
        let write = create(&key, "1", Durability::Relaxed);
        store.commit(write).await.expect("created");
    }
    while on_disk(&path).len() < 5 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, patient());
    let key = Key::new("core/pods", "a", "x");
    let write = create(&key, "1", Durability::Synced);
    let record = store.commit(write).await.expect("created");
    let log = log_bytes(&path);
    let again = store.commit(update(&key, record.revision, "1", Durability::Synced)).await.expect("allowed");
    assert!(again.same(&record));
    let stale = update(&key, Revision(record.revision.0 + 7), "2", Durability::Synced);
    assert!(is_conflict(&store.commit(stale).await));
    let taken = create(&key, "2", Durability::Synced);
    assert!(matches!(store.commit(taken).await, Err(CommitError::Exists(_))));
    let lease = update(&key, record.revision, "2", Durability::Relaxed);
    store.commit(lease).await.expect("updated");
    assert_eq!(log, log_bytes(&path));
    assert_eq!(store.revision().0, record.revision.0 + 1);
}

#[tokio::test]
async fn opening_and_closing_leaves_the_file_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let store = open(&path, Config::default());
    let key = Key::new("core/pods", "a", "x");
    let write = create(&key, "1", Durability::Synced);
    store.commit(write).await.expect("created");
    store.close().await;
    drop(store);
    let before = std::fs::read(&path).expect("readable");
    let store = open(&path, Config::default());
    assert_eq!(contents(&*store, &Range::all("core/pods")).await.len(), 1);
    store.close().await;
    drop(store);
    assert!(before == std::fs::read(&path).expect("readable"));
    let result = open(&path, Config::default());
    result.close().await;
    let late = create(&key, "2", Durability::Synced);
    assert!(matches!(result.commit(late).await, Err(CommitError::Closed)));
}

#[tokio::test]
async fn the_log_stays_bounded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.db");
    let config = Config { checkpoint_bytes: 64 << 10, ..Config::default() };
    let store = open(&path, config);
    let key = Key::new("core/pods", "a", "x");
    let write = create(&key, "0", Durability::Synced);
    let mut revision = store.commit(write).await.expect("created").revision;
    let body = "x".repeat(20_000);
    for number in 0..400 {
        let write = update(&key, revision, &format!("{number}{body}"), Durability::Synced);
        revision = store.commit(write).await.expect("updated").revision;
    }
    // 400 writes of 24 kB are 10 MB; checkpoints begin at 64 kB.
    assert!(log_bytes(&path).len() < 3 << 20, "{}", log_bytes(&path).len());
}
