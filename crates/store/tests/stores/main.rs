//! What the stores promise, tested from outside through the [`Store`] trait: `model` and `watching` on every store,
//! `crash`, `durability`, `refusals`, `sealed` and `snapshots` on SQLite, `etcd` and `members` on etcd.

mod crash;
mod durability;
mod etcd;
mod etcd_server;
mod ground;
mod members;
mod model;
mod refusals;
mod sealed;
mod snapshots;
mod watching;

use std::path::Path;
use std::sync::Arc;

use kobune_store::{
    At, CommitError, Config, Draft, Durability, Facets, Key, Op, Range, Record, Revision, SqliteStore, Store, Write,
};

/// Opens the store of a test. Facets are a label taken from the value, so that reading them back can be checked.
fn open(path: &Path, config: Config) -> Arc<SqliteStore> {
    SqliteStore::open(path, config, |_, value| facets(body_of(value))).expect("the test's database opens")
}

fn facets(body: &str) -> Facets {
    Facets::new([("body", body)], [("metadata.name", "x")])
}

const HEAD: &str = r#"{"metadata":{"resourceVersion":""#;

fn draft(body: &str) -> Draft {
    Draft { bytes: format!(r#"{HEAD}"}},"body":"{body}"}}"#).into_bytes(), splice: HEAD.len(), facets: facets(body) }
}

/// The body that [`draft`] put into a value.
fn body_of(value: &[u8]) -> &str {
    let text = std::str::from_utf8(value).expect("values are JSON");
    let (_, rest) = text.split_once(r#""body":""#).expect("values have a body");
    rest.strip_suffix(r#""}"#).expect("the body ends the value")
}

/// The resourceVersion in a value.
fn version_of(record: &Record) -> u64 {
    let text = std::str::from_utf8(&record.value).expect("values are JSON");
    let (digits, _) = text[HEAD.len()..].split_once('"').expect("the version is quoted");
    digits.parse().expect("the version is a number")
}

fn create(key: &Key, body: &str, durability: Durability) -> Write {
    Write { key: key.clone(), op: Op::Create(draft(body)), durability }
}

fn update(key: &Key, expected: Revision, body: &str, durability: Durability) -> Write {
    Write { key: key.clone(), op: Op::Update { expected, draft: draft(body) }, durability }
}

fn delete(key: &Key, expected: Revision, body: &str, durability: Durability) -> Write {
    Write { key: key.clone(), op: Op::Delete { expected, last: draft(body) }, durability }
}

/// The names and bodies of a range, in the order of the list.
async fn contents(store: &dyn Store, range: &Range) -> Vec<(String, String)> {
    let listing = store.list(range, At::Latest).await.expect("the store is open");
    listing
        .iter()
        .map(|record| {
            assert_eq!(version_of(record), record.revision.0);
            assert_eq!(record.facets.label("body"), Some(body_of(&record.value)));
            (format!("{}/{}", record.key.namespace, record.key.name), body_of(&record.value).to_owned())
        })
        .collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

fn is_conflict(result: &Result<Record, CommitError>) -> bool {
    matches!(result, Err(CommitError::Conflict { .. }))
}
