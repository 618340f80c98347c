//! A disk that is full, read-only or cannot sync: writes are refused, reads and watches go on, and when the disk is well
//! again so are writes, with nothing half done.

use std::collections::BTreeMap;

use kobune_store::{At, CommitError, Config, Facets, Key, Range, Revision, SqliteStore, Store, StoreError};

use crate::disk::{Disk, Fault};
use crate::life::write;
use crate::runtime;

/// More than a write and the checkpoint after it take.
const OPERATIONS: usize = 50;

/// Everything in the store.
async fn contents(store: &SqliteStore) -> BTreeMap<Key, (Revision, Vec<u8>)> {
    let range = Range::all("core/pods");
    let listing = store.list(&range, At::Latest).await.expect("reads go on");
    listing.iter().map(|record| (record.key.clone(), (record.revision, record.value.to_vec()))).collect()
}

/// Breaks the disk after so many operations of a write. Answers whether the write failed.
async fn check(fault: Fault, operations: usize) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = Disk::new(folder.path());
    // Checkpoints come with every write, so they meet the fault too.
    let config = Config { checkpoint_bytes: 1, ..Config::default() };
    let open = || SqliteStore::open(disk.database(), config.clone(), |_, _| Facets::default()).expect("opens");
    let store = open();
    let kept = Key::new("core/pods", "a", "kept");
    store.commit(write(&kept, None, "1", false)).await.expect("the disk is well");
    let mut watch = store.watch(&Range::all("core/pods"), store.revision()).expect("now");
    let before = contents(&store).await;

    disk.fail_after(fault, operations);
    let body = "x".repeat(9_000);
    let big = Key::new("core/pods", "a", "big");
    let answer = store.commit(write(&big, None, &body, false)).await;
    let refused = match (&answer, fault) {
        (Ok(_), _) => false,
        (Err(CommitError::Full { source: Some(_) }), Fault::Full) => true,
        (Err(CommitError::Io { .. }), Fault::Unwritable | Fault::Unsyncable) => true,
        (Err(error), _) => panic!("{fault:?}: {error:?}"),
    };
    if refused {
        assert_eq!(contents(&store).await, before, "{fault:?} after {operations}: what was refused is not shown");
        assert!(watch.try_next().expect("watches go on").is_none());
    }

    disk.mend();
    let current = store.get(&kept).await.expect("open");
    let again = store.commit(write(&kept, current.as_ref(), "2", false)).await.expect("the disk is well again");
    let shown = contents(&store).await;
    loop {
        let event = watch.next().await.expect("watches go on");
        if event.revision() == again.revision {
            break;
        }
        assert!(!refused, "{fault:?} after {operations}: a refused write was shown");
    }
    store.close().await;
    drop(store);
    let store = open();
    assert_eq!(contents(&store).await, shown, "{fault:?} after {operations}");
    assert!(store.revision() >= again.revision);
    store.close().await;
    refused
}

#[test]
fn a_failing_disk_refuses_writes_and_loses_nothing() {
    for fault in [Fault::Full, Fault::Unwritable, Fault::Unsyncable] {
        let refused: Vec<bool> =
            (0..OPERATIONS).map(|operations| runtime().block_on(check(fault, operations))).collect();
        assert!(refused[0], "{fault:?}: the first operation of a write matters");
        assert!(!refused[OPERATIONS - 1], "{fault:?}: later faults meet the write's checkpoint");
    }
}

#[test]
fn nothing_is_refused_for_reading_while_the_disk_is_full() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = Disk::new(folder.path());
        let store = SqliteStore::open(disk.database(), Config::default(), |_, _| Facets::default()).expect("opens");
        let key = Key::new("core/pods", "a", "x");
        let first = store.commit(write(&key, None, "1", false)).await.expect("the disk is well");
        disk.fail_after(Fault::Full, 0);
        for number in 0..20 {
            let other = Key::new("core/pods", "a", &number.to_string());
            let refused = store.commit(write(&other, None, "1", false)).await;
            assert!(matches!(refused, Err(CommitError::Full { .. })), "{refused:?}");
        }
        // Events and leases are held in memory.
        let event = Key::new("core/events", "a", "x");
        let held = store.commit(write(&event, None, "1", false)).await.expect("held in memory");
        assert!(held.revision > first.revision);
        let found = store.get(&key).await.expect("reads go on").expect("it is there");
        assert!(found.same(&first));
        let future = store.watch(&Range::all("core/pods"), Revision(store.revision().0 + 1));
        assert!(matches!(future, Err(StoreError::Future { .. })));
        disk.mend();
        let current = store.get(&key).await.expect("open");
        let record = store.commit(write(&key, current.as_ref(), "2", false)).await.expect("there is room again");
        assert!(record.revision > held.revision);
        store.close().await;
    });
}
