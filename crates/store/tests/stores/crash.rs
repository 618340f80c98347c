//! A crash is simulated by copying the files of a store that is being written, and opening the copy.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kobune_store::{Config, Durability, Key, Range, Revision, SqliteStore, Store};
use parking_lot::Mutex;

use crate::{body_of, create, delete, open, update};

/// Copies what a power cut would leave. A power cut is one moment for both files; here a reader sees to that, since while
/// it reads the log only grows at its end, and nothing newer than its start is moved into the database.
fn copy(from: &Path, to: &Path) {
    let reader = rusqlite::Connection::open(from.join("store.db")).expect("readable");
    reader.execute_batch("BEGIN; SELECT count(*) FROM numbers;").expect("a reader can start");
    for name in ["store.db", "store.db-wal"] {
        std::fs::copy(from.join(name), to.join(name)).expect("the file can be copied");
    }
}

/// What the writers have been told, by key: each acknowledged revision, and whether the object exists since.
type Acknowledged = Arc<Mutex<BTreeMap<Key, Vec<(Revision, bool)>>>>;

/// Writes to keys of its own until told to stop: creates, updates, deletes, in turn.
async fn write(
    store: Arc<SqliteStore>,
    writer: usize,
    durability: Durability,
    told: Acknowledged,
    stop: Arc<AtomicBool>,
) {
    let collection = match durability {
        Durability::Synced => "core/pods",
        Durability::Relaxed => "core/events",
    };
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = Key::new(collection, &format!("writer-{writer}"), &format!("object-{}", number % 7));
        let current = store.get(&key).await.expect("open");
        let text = format!("{number}-{}", "x".repeat(number % 900));
        let write = match current {
            None => create(&key, &text, durability),
            Some(current) if number % 5 == 0 => delete(&key, current.revision, "gone", durability),
            Some(current) => update(&key, current.revision, &text, durability),
        };
        let record = store.commit(write).await.expect("nobody else writes these keys");
        let exists = body_of(&record.value) != "gone";
        told.lock().entry(key).or_default().push((record.revision, exists));
        number += 1;
    }
}

/// Opens a crashed copy. Each key must be in a state that was acknowledged, not earlier than the last one before the copy.
async fn verify(
    folder: &Path,
    before: &BTreeMap<Key, usize>,
    told: &BTreeMap<Key, Vec<(Revision, bool)>>,
    handed_out: Revision,
) {
    let store = open(&folder.join("store.db"), Config::default());
    assert!(store.revision() >= handed_out, "revisions start above all that were handed out");
    for (key, count) in before {
        let allowed = &told[key][count - 1..];
        let found = store.get(key).await.expect("open");
        let known = match &found {
            Some(record) => allowed.contains(&(record.revision, true)),
            None => allowed.iter().any(|(_, exists)| !exists),
        };
        assert!(known, "{key} is {found:?}, allowed are {allowed:?}");
    }
    let key = Key::new("core/pods", "after", "crash");
    let record = store.commit(create(&key, "new", Durability::Synced)).await.expect("writable");
    assert!(record.revision > handed_out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_and_revisions_never_repeat() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config {
        // Small, so that checkpoints happen while the copies are made.
        checkpoint_bytes: 256 << 10,
        ..Config::default()
    };
    let store = open(&folder.path().join("store.db"), config);
    let synced = Acknowledged::default();
    let relaxed = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..6 {
        let (durability, told) =
            if writer < 4 { (Durability::Synced, synced.clone()) } else { (Durability::Relaxed, relaxed.clone()) };
        writers.push(tokio::spawn(write(store.clone(), writer, durability, told, stop.clone())));
    }
    let mut crashed = Vec::new();
    for round in 0..8u64 {
        let goal = Revision((round + 1) * 400);
        let mut watch = store.watch(&Range::all("core/pods"), store.revision()).expect("now");
        while store.revision() < goal {
            watch.next().await.expect("the window is large enough");
        }
        let copied = tempfile::tempdir().expect("a temporary folder");
        let before: BTreeMap<Key, usize> = synced.lock().iter().map(|(key, told)| (key.clone(), told.len())).collect();
        let handed_out = store.revision();
        copy(folder.path(), copied.path());
        crashed.push((copied, before, handed_out));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("the writer has not panicked");
    }
    let told = synced.lock().clone();
    for (copied, before, handed_out) in crashed {
        verify(copied.path(), &before, &told, handed_out).await;
    }
}
