//! One life of a store: open what the last cut has left, check it, write, cut again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kobune_store::{
    Config, Draft, Durability, Facets, Key, Op, Range, Record, Revision, SqliteStore, Store, StoreError, Write,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::Disk;

const HEAD: &str = r#"{"metadata":{"resourceVersion":""#;

/// A state of a key that somebody was told of.
struct Told {
    revision: Revision,
    /// `None` for a deletion.
    body: Option<String>,
    /// How much the disk had been told when the answer was there.
    at: usize,
}

/// What was acknowledged, by key, in the order of revisions.
#[derive(Default)]
pub struct History {
    keys: BTreeMap<Key, Vec<Told>>,
    /// The highest revision that anybody has seen, with the length of the tape then.
    seen: Vec<(Revision, usize)>,
}

fn draft(body: &str) -> Draft {
    let bytes = format!(r#"{HEAD}"}},"body":"{body}"}}"#).into_bytes();
    Draft { bytes, splice: HEAD.len(), facets: Facets::default() }
}

fn value(revision: Revision, body: &str) -> String {
    format!(r#"{HEAD}{revision}"}},"body":"{body}"}}"#)
}

/// The write that leads from what is there to something else.
pub fn write(key: &Key, current: Option<&Record>, body: &str, delete: bool) -> Write {
    let op = match current {
        None => Op::Create(draft(body)),
        Some(current) if delete => Op::Delete { expected: current.revision, last: draft(body) },
        Some(current) => Op::Update { expected: current.revision, draft: draft(body) },
    };
    Write { key: key.clone(), op, durability: durability(key) }
}

fn durability(key: &Key) -> Durability {
    if &*key.collection == "core/events" { Durability::Relaxed } else { Durability::Synced }
}

fn config(random: &mut StdRng) -> Config {
    let pick = |random: &mut StdRng| Duration::from_secs(if random.random() { 0 } else { 3600 });
    Config {
        checkpoint_bytes: [16 << 10, 64 << 10, 4 << 20][random.random_range(0..3)],
        relaxed_delay: pick(random),
        renewal_delay: pick(random),
        ..Config::default()
    }
}

/// Lives one life with what `history` knows, and cuts the power at a random moment of it.
pub async fn live(disk: &Disk, seed: u64, history: &mut History) {
    let mut random = StdRng::seed_from_u64(seed);
    let store = SqliteStore::open(disk.database(), config(&mut random), |_, _| Facets::default())
        .unwrap_or_else(|error| panic!("seed {seed}: the store does not start: {error:?}"));
    check(&store, seed, history).await;
    history.seen.push((store.revision(), disk.operations()));
    for _ in 0..random.random_range(1..10) {
        let mut keys: Vec<Key> = Vec::new();
        for _ in 0..random.random_range(1..7) {
            let collection = if random.random_range(0..4) == 0 { "core/events" } else { "core/pods" };
            let key = Key::new(collection, "a", &random.random_range(0..12).to_string());
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let writes = keys.into_iter().map(|key| {
            let body = format!("{seed}-{}", "x".repeat(random.random_range(0..40usize).pow(2) * 6));
            let delete = random.random_range(0..4) == 0;
            let store = &store;
            async move {
                let current = store.get(&key).await.expect("open");
                let existed = current.is_some();
                let record = store.commit(write(&key, current.as_ref(), &body, delete)).await;
                let record = record.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
                let body = (!(delete && existed)).then_some(body);
                (key, Told { revision: record.revision, body, at: disk.operations() })
            }
        });
        for (key, told) in join_all(writes).await {
            history.seen.push((told.revision, told.at));
            history.keys.entry(key).or_default().push(told);
        }
    }
    store.close().await;
    drop(store);
    disk.replace(|tape| {
        let until = random.random_range(0..=tape.ops.len());
        history.forget_after(until);
        tape.cut(until, &mut random)
    });
}

impl History {
    /// What was answered later than the cut may or may not be there.
    fn forget_after(&mut self, cut: usize) {
        self.seen.retain(|(_, at)| *at <= cut);
        for told in self.keys.values_mut().flatten() {
            told.at = if told.at <= cut { 0 } else { usize::MAX };
        }
    }
}

/// Every acknowledged write is there, none is there that was not asked for, and revisions start above all that were seen.
async fn check(store: &SqliteStore, seed: u64, history: &mut History) {
    let now = store.revision();
    for (revision, _) in std::mem::take(&mut history.seen) {
        assert!(now >= revision, "seed {seed}: revisions start at {now}, and {revision} was seen");
        let watch = store.watch(&Range::all("core/pods"), revision);
        let resumes = matches!(watch, Err(StoreError::Expired { .. })) || (watch.is_ok() && revision == now);
        assert!(resumes, "seed {seed}: a watcher of {revision} is neither complete nor refused");
    }
    let mut found: BTreeMap<Key, Record> = BTreeMap::new();
    for collection in ["core/pods", "core/events"] {
        let range = Range::all(collection);
        let listing = store.list(&range, kobune_store::At::Latest).await.expect("open");
        for record in listing.iter() {
            assert!(record.revision <= now);
            found.insert(record.key.clone(), record.clone());
        }
    }
    for key in found.keys() {
        assert!(history.keys.contains_key(key), "seed {seed}: nobody wrote {key}");
    }
    for (key, told) in &mut history.keys {
        let firm = match durability(key) {
            Durability::Synced => told.iter().rposition(|told| told.at == 0),
            Durability::Relaxed => None,
        };
        let record = found.get(key);
        let is_state = |told: &Told| match (&told.body, record) {
            (Some(body), Some(record)) => {
                told.revision == record.revision && record.value == value(told.revision, body)
            }
            (body, record) => body.is_none() && record.is_none(),
        };
        // Without an acknowledged state, the key may be as if it had never been written.
        let allowed = told[firm.unwrap_or(0)..].iter().any(is_state) || (firm.is_none() && record.is_none());
        let states: Vec<_> = told.iter().map(|told| (told.revision, told.body.is_some(), told.at)).collect();
        assert!(allowed, "seed {seed}: {key} is {record:?}, told was {states:?}");
        // From here on, what was found counts as acknowledged: a checked store shows it.
        told.retain(is_state);
        told.truncate(1);
        for state in told {
            state.at = 0;
        }
    }
    history.keys.retain(|_, told| !told.is_empty());
}
