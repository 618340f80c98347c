//! A cluster of three members with TLS, of which one is killed during load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kobune_store::{Durability, EtcdStore, Facets, Key, OpenError, Range, Revision, Store};
use tokio::task::JoinSet;

use crate::etcd::open;
use crate::etcd_server::{Etcd, Tls};
use crate::{body_of, create, update};

/// Writes to a key of its own until told to stop; answers what it was told last.
async fn write(
    store: Arc<EtcdStore>,
    key: Key,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> (Key, Revision, String) {
    let mut body = "0".to_owned();
    let mut revision = store.commit(create(&key, &body, Durability::Synced)).await.expect("created").revision;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        body = number.to_string();
        let write = update(&key, revision, &body, Durability::Synced);
        let record = store.commit(write).await.expect("one member of three may fail");
        assert!(record.revision > revision);
        revision = record.revision;
        count.fetch_add(1, Ordering::Relaxed);
    }
    (key, revision, body)
}

#[test]
fn one_of_three_members_may_be_killed_during_load() {
    for version in ["3.4", "3.5"] {
        let test = "members::one_of_three_members_may_be_killed_during_load";
        let Some(mut etcd) = Etcd::start(version, test, 3, Some(Tls::new())) else { continue };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime starts").block_on(async {
            let servers = [open(etcd.config()).await, open(etcd.config()).await];
            let stop = Arc::new(AtomicBool::new(false));
            let count = Arc::new(AtomicUsize::new(0));
            let mut watch = servers[0].watch(&Range::all("core/pods"), servers[0].revision()).expect("now");
            let mut writers = JoinSet::new();
            for number in 0..8 {
                let key = Key::new("core/pods", "a", &number.to_string());
                writers.spawn(write(servers[number % 2].clone(), key, stop.clone(), count.clone()));
            }
            let mut seen: BTreeMap<Key, (Revision, String)> = BTreeMap::new();
            let mut last = Revision(0);
            // Each member goes once, so the leader is among them.
            for member in 0..3 {
                let goal = count.load(Ordering::Relaxed) + 100;
                etcd.kill(member);
                while count.load(Ordering::Relaxed) < goal {
                    let event = watch.next().await.expect("the watch goes on");
                    assert!(event.revision() > last, "events are in order and come once");
                    last = event.revision();
                    let body = body_of(&event.record.value).to_owned();
                    seen.insert(event.record.key.clone(), (event.revision(), body));
                }
                etcd.revive(member);
            }
            stop.store(true, Ordering::Relaxed);
            let told = writers.join_all().await;
            for server in &servers {
                server.fresh().await.expect("the cluster answers");
            }
            while let Some(event) = watch.try_next().expect("the watch goes on") {
                seen.insert(event.record.key.clone(), (event.revision(), body_of(&event.record.value).to_owned()));
            }
            for (key, revision, body) in told {
                for server in &servers {
                    let found = server.get(&key).await.expect("open").expect("there");
                    assert_eq!((found.revision, body_of(&found.value)), (revision, &*body), "{key}");
                }
                assert_eq!(seen[&key], (revision, body), "{key}");
            }
        });
    }
}

#[test]
fn a_cluster_with_certificates_wants_one() {
    // One version is enough, since it takes the patience of the client twice.
    for version in ["3.5"] {
        let test = "members::a_cluster_with_certificates_wants_one";
        let Some(etcd) = Etcd::start(version, test, 1, Some(Tls::new())) else { continue };
        crate::runtime().block_on(async {
            // It is up.
            drop(open(etcd.config()).await);
            let mut config = etcd.config();
            config.identity_pem = None;
            let refused = EtcdStore::open(config, |_, _| Facets::default()).await.map(drop);
            assert!(matches!(refused, Err(OpenError::Etcd { .. })), "{refused:?}");
        });
    }
}
