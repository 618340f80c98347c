//! Any sequence of writes, reads and restarts against a plain map that says what should be there.

use std::collections::BTreeMap;

use futures::FutureExt;
use kobune_store::{At, CommitError, Durability, EventKind, Key, Listing, Range, Record, Revision};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::ground::{Ground, on_each_store};
use crate::{body_of, contents, create, delete, update, version_of};

#[derive(Clone, Debug)]
enum Step {
    Create(usize, u8, bool),
    /// With the right expected revision, or with one that is off.
    Update(usize, u8, bool, bool),
    Delete(usize, bool, bool),
    /// Remember a listing, to be read again later.
    Keep(bool),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..8usize;
    let body = 0..3u8;
    prop::collection::vec(
        prop_oneof![
            4 => (key.clone(), body.clone(), any::<bool>()).prop_map(|(k, b, s)| Step::Create(k, b, s)),
            5 => (key.clone(), body, prop::bool::weighted(0.8), any::<bool>())
                .prop_map(|(k, b, right, s)| Step::Update(k, b, right, s)),
            3 => (key, prop::bool::weighted(0.8), any::<bool>()).prop_map(|(k, right, s)| Step::Delete(k, right, s)),
            1 => any::<bool>().prop_map(Step::Keep),
            1 => Just(Step::Reopen),
        ],
        1..40,
    )
}

fn key(index: usize) -> Key {
    Key::new(["core/pods", "core/leases"][index % 2], ["a", "b"][index / 2 % 2], ["x", "y"][index / 4])
}

fn durability(synced: bool) -> Durability {
    if synced { Durability::Synced } else { Durability::Relaxed }
}

type Model = BTreeMap<Key, (Revision, u8)>;

fn expected(model: &Model, range: &Range) -> Vec<(String, String)> {
    model
        .iter()
        .filter(|(key, _)| key.collection == range.collection)
        .filter(|(key, _)| range.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace))
        .map(|(key, (_, body))| (format!("{}/{}", key.namespace, key.name), body.to_string()))
        .collect()
}

fn ranges() -> Vec<Range> {
    ["core/pods", "core/leases"]
        .into_iter()
        .flat_map(|collection| {
            [Range::all(collection), Range::namespace(collection, "a"), Range::namespace(collection, "b")]
        })
        .collect()
}

fn bodies(listing: &Listing) -> Vec<(Key, u64)> {
    listing.iter().map(|record| (record.key.clone(), version_of(record))).collect()
}

/// Applies what a watch says to what a list said.
async fn replay(watch: &mut kobune_store::Watch, state: &mut BTreeMap<Key, Record>) {
    let mut last = Revision(0);
    while let Some(event) = watch.try_next().expect("the window is large enough") {
        assert!(event.revision() > last, "events are in order");
        last = event.revision();
        let before = match event.kind {
            EventKind::Created | EventKind::Updated => state.insert(event.record.key.clone(), event.record.clone()),
            EventKind::Deleted => state.remove(&event.record.key),
        };
        assert_eq!(before.map(|record| record.revision), event.previous.as_ref().map(|record| record.revision));
        assert_eq!(version_of(&event.record), last.0);
    }
    assert!(watch.next().now_or_never().is_none(), "nothing is pending");
}

async fn run(ground: &Ground, steps: Vec<Step>) {
    let place = ground.place();
    let mut store = place.open().await;
    let mut model = Model::new();
    let mut newest = store.revision();
    let mut kept: Vec<(Listing, Vec<(Key, u64)>)> = Vec::new();
    let mut watches = Vec::new();
    for range in ranges() {
        watches.push((store.watch(&range, newest).expect("a new store"), BTreeMap::new(), range));
    }
    for step in steps {
        let write = match step {
            Step::Create(index, body, synced) => create(&key(index), &body.to_string(), durability(synced)),
            Step::Update(index, body, right, synced) => {
                let known = model.get(&key(index)).map_or(Revision(1), |(revision, _)| *revision);
                let expected = Revision(known.0 + u64::from(!right));
                update(&key(index), expected, &body.to_string(), durability(synced))
            }
            Step::Delete(index, right, synced) => {
                let known = model.get(&key(index)).map_or(Revision(1), |(revision, _)| *revision);
                let expected = Revision(known.0 + u64::from(!right));
                delete(&key(index), expected, "gone", durability(synced))
            }
            Step::Keep(pods) => {
                let range = Range::all(if pods { "core/pods" } else { "core/leases" });
                let listing = store.list(&range, At::Latest).await.expect("open");
                store.keep(&listing);
                let bodies = bodies(&listing);
                kept.push((listing, bodies));
                continue;
            }
            Step::Reopen => {
                store.close().await;
                drop(store);
                store = place.open().await;
                assert_eq!(store.revision(), newest, "a clean stop leaves no gap");
                kept.clear();
                watches.clear();
                for range in ranges() {
                    let listing = store.list(&range, At::Latest).await.expect("open");
                    let state = listing.iter().map(|record| (record.key.clone(), record.clone())).collect();
                    watches.push((store.watch(&range, listing.revision()).expect("now"), state, range));
                }
                continue;
            }
        };
        let known = model.get(&write.key).copied();
        let result = store.commit(write.clone()).await;
        use kobune_store::Op;
        match (&write.op, known) {
            (Op::Create(_), Some((revision, _))) => {
                assert!(matches!(&result, Err(CommitError::Exists(record)) if record.revision == revision));
            }
            (Op::Update { expected, .. } | Op::Delete { expected, .. }, known)
                if known.map(|(revision, _)| revision) != Some(*expected) =>
            {
                assert!(matches!(&result, Err(CommitError::Conflict { current })
                    if current.as_ref().map(|record| record.revision) == known.map(|(revision, _)| revision)));
            }
            (op, known) => {
                let record = result.expect("the write is allowed");
                let body: Option<u8> = body_of(&record.value).parse().ok();
                if matches!(op, Op::Update { .. }) && known.map(|(_, body)| body) == body {
                    assert_eq!(Some(record.revision), known.map(|(revision, _)| revision), "nothing changed");
                } else {
                    assert_eq!(record.revision.0, newest.0 + 1, "revisions rise by one");
                    newest = record.revision;
                }
                match body {
                    Some(body) => model.insert(record.key.clone(), (record.revision, body)),
                    None => model.remove(&record.key),
                };
                let found = store.get(&record.key).await.expect("open");
                assert_eq!(found.is_some(), model.contains_key(&record.key));
            }
        }
        assert_eq!(store.revision(), newest);
    }
    for range in ranges() {
        assert_eq!(contents(&*store, &range).await, expected(&model, &range));
    }
    for (listing, bodies_then) in kept {
        let again = store.list(listing.range(), At::Exact(listing.revision())).await.expect("kept");
        assert_eq!(again.revision(), listing.revision());
        assert_eq!(bodies(&again), bodies_then);
    }
    for (mut watch, mut state, range) in watches {
        replay(&mut watch, &mut state).await;
        assert_eq!(watch.progress(), newest);
        let listing = store.list(&range, At::Latest).await.expect("open");
        let now: BTreeMap<Key, u64> = bodies(&listing).into_iter().collect();
        let replayed: BTreeMap<Key, u64> = state.into_iter().map(|(key, record)| (key, record.revision.0)).collect();
        assert_eq!(replayed, now);
    }
}

/// How many sequences are tried.
const CASES: u32 = 96;

async fn the_store_is_a_map_with_revisions(ground: &Ground) {
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    for _ in 0..CASES {
        // Not shrunk: a case runs in the runtime of the test.
        let steps = steps().new_tree(&mut runner).expect("steps can be made").current();
        println!("{steps:?}");
        run(ground, steps).await;
    }
}

on_each_store!(the_store_is_a_map_with_revisions);
