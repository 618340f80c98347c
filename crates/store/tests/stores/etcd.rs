//! What is particular to etcd: several servers, foreign keys, compaction, a broken connection.

use std::sync::Arc;

use futures::future::join_all;
use kobune_store::{
    At, CommitError, Durability, EtcdConfig, EtcdStore, Facets, Key, OpenError, Range, Revision, Store, StoreError,
    WatchError,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::etcd_server::Etcd;
use crate::{body_of, contents, create, delete, facets, is_conflict, runtime, update, version_of};

/// Runs a test on both versions.
fn on_etcd<F: Future<Output = ()>>(test: &str, run: impl Fn(Arc<Etcd>) -> F) {
    for version in ["3.4", "3.5"] {
        if let Some(etcd) = Etcd::start(version, test, 1, None) {
            runtime().block_on(run(Arc::new(etcd)));
        }
    }
}

pub async fn open(config: EtcdConfig) -> Arc<EtcdStore> {
    EtcdStore::open(config, |_, value| facets(body_of(value))).await.expect("the cluster answers")
}

#[test]
fn what_one_server_acknowledges_another_one_reads() {
    on_etcd("etcd::what_one_server_acknowledges_another_one_reads", |etcd| async move {
        let servers = [open(etcd.config()).await, open(etcd.config()).await];
        let key = Key::new("core/pods", "a", "x");
        let mut revision = servers[0].commit(create(&key, "0", Durability::Synced)).await.expect("created").revision;
        for number in 1..200 {
            let (writer, reader) = (&servers[number % 2], &servers[(number + 1) % 2]);
            let body = number.to_string();
            let record = writer.commit(update(&key, revision, &body, Durability::Synced)).await.expect("updated");
            revision = record.revision;
            assert!(
                writer.get(&key).await.expect("open").expect("there").same(&record),
                "a server reads its own write"
            );
            reader.fresh().await.expect("the cluster answers");
            let found = reader.get(&key).await.expect("open").expect("there");
            assert_eq!((found.revision, version_of(&found), body_of(&found.value)), (revision, revision.0, &*body));
        }
        let mut watch = servers[1].watch(&Range::all("core/pods"), revision).expect("now");
        let gone = servers[0].commit(delete(&key, revision, "gone", Durability::Synced)).await.expect("deleted");
        let seen = watch.next().await.expect("in the window");
        assert_eq!((seen.revision(), version_of(&seen.record)), (gone.revision, gone.revision.0));
        servers[1].fresh().await.expect("the cluster answers");
        assert!(servers[1].get(&key).await.expect("open").is_none());
    });
}

#[test]
fn writers_on_two_servers_take_turns() {
    on_etcd("etcd::writers_on_two_servers_take_turns", |etcd| async move {
        let servers = [open(etcd.config()).await, open(etcd.config()).await];
        let key = Key::new("core/pods", "a", "counter");
        servers[0].commit(create(&key, "0", Durability::Synced)).await.expect("created");
        let add = |server: Arc<EtcdStore>, key: Key| async move {
            for _ in 0..25 {
                loop {
                    let current = server.get(&key).await.expect("open");
                    let Some(current) = current else {
                        server.fresh().await.expect("the cluster answers");
                        continue;
                    };
                    let next = body_of(&current.value).parse::<u32>().expect("a number") + 1;
                    let write = update(&key, current.revision, &next.to_string(), Durability::Synced);
                    match server.commit(write).await {
                        Ok(_) => break,
                        refused => assert!(is_conflict(&refused), "{refused:?}"),
                    }
                }
            }
        };
        join_all((0..8).map(|number| add(servers[number % 2].clone(), key.clone()))).await;
        servers[0].fresh().await.expect("the cluster answers");
        assert_eq!(body_of(&servers[0].get(&key).await.expect("open").expect("there").value), "200");

        // Of those who create the same name, one succeeds.
        let name = Key::new("core/pods", "a", "name");
        let made = join_all(
            (0..10).map(|number| servers[number % 2].commit(create(&name, &number.to_string(), Durability::Synced))),
        );
        let (ok, refused): (Vec<_>, Vec<_>) = made.await.into_iter().partition(Result::is_ok);
        assert_eq!(ok.len(), 1);
        let winner = ok[0].as_ref().expect("it is one of those").revision;
        for refused in refused {
            assert!(matches!(&refused, Err(CommitError::Exists(record)) if record.revision == winner), "{refused:?}");
        }
    });
}

#[test]
fn tools_read_what_is_stored_where_upstream_has_it() {
    on_etcd("etcd::tools_read_what_is_stored_where_upstream_has_it", |etcd| async move {
        let store = open(etcd.config()).await;
        for key in [
            Key::new("core/pods", "default", "web"),
            Key::new("core/services", "default", "web"),
            Key::new("core/nodes", "", "one"),
            Key::new("example.com/widgets", "default", "w"),
        ] {
            store.commit(create(&key, "1", Durability::Synced)).await.expect("created");
        }
        let keys = etcd.control(&["get", "--prefix", "/registry", "--keys-only"]);
        let keys: Vec<&str> = keys.split_whitespace().collect();
        let expected = [
            "/registry/example.com/widgets/default/w",
            "/registry/minions/one",
            "/registry/pods/default/web",
            "/registry/services/specs/default/web",
        ];
        assert_eq!(keys, expected);
        let value = etcd.control(&["get", "/registry/minions/one", "--print-value-only"]);
        assert_eq!(value.trim(), r#"{"metadata":{"resourceVersion":""},"body":"1"}"#);

        // What somebody writes with a tool is seen, and a key outside the prefix holds nobody up.
        let written = value.replace(r#""body":"1""#, r#""body":"2""#);
        etcd.control(&["put", "/registry/minions/one", written.trim()]);
        etcd.control(&["put", "/elsewhere", "x"]);
        store.fresh().await.expect("the cluster answers");
        assert_eq!(contents(&*store, &Range::all("core/nodes")).await, [("/one".to_owned(), "2".to_owned())]);

        etcd.control(&["put", "/registry/pods/default/theirs", "no object"]);
        store.fresh().await.expect("the cluster answers");
        let pods = contents(&*store, &Range::all("core/pods")).await;
        assert_eq!(pods, [("default/web".to_owned(), "1".to_owned())], "what is not kobune's is left out");
    });
}

#[test]
fn a_page_is_served_by_another_server_and_after_a_restart() {
    on_etcd("etcd::a_page_is_served_by_another_server_and_after_a_restart", |etcd| async move {
        let store = open(etcd.config()).await;
        let mut last = Revision(0);
        for number in 0..20 {
            let key = Key::new("core/pods", "a", &format!("{number:02}"));
            last = store.commit(create(&key, "1", Durability::Synced)).await.expect("created").revision;
        }
        let key = Key::new("core/pods", "a", "05");
        let current = store.get(&key).await.expect("open").expect("there");
        store.commit(delete(&key, current.revision, "gone", Durability::Synced)).await.expect("deleted");
        let other = open(etcd.config()).await;
        let range = Range::all("core/pods");
        assert_eq!(other.list(&range, At::Latest).await.expect("open").count(), 19);
        let then = other.list(&range, At::Exact(last)).await.expect("etcd remembers");
        assert_eq!((then.count(), then.revision()), (20, last));
        etcd.control(&["compact", &other.revision().to_string()]);
        let third = open(etcd.config()).await;
        let expired = third.list(&range, At::Exact(last)).await;
        assert!(matches!(expired, Err(StoreError::Expired { .. })), "{expired:?}");
        assert_eq!(other.list(&range, At::Exact(last)).await.expect("it was kept").count(), 20);
    });
}

/// A way to etcd that can be cut.
struct Wire {
    address: String,
    target: String,
    listener: Option<JoinSet<()>>,
}

impl Wire {
    async fn new(target: String) -> Wire {
        let mut wire = Wire { address: "127.0.0.1:0".to_owned(), target, listener: None };
        wire.join().await;
        wire
    }

    async fn join(&mut self) {
        let listener = TcpListener::bind(&self.address).await.expect("the address is free");
        self.address = listener.local_addr().expect("it is bound").to_string();
        let target = self.target.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    let mut to = TcpStream::connect(target).await.expect("etcd is there");
                    // Either side may end it.
                    tokio::io::copy_bidirectional(&mut from, &mut to).await.map(drop).unwrap_or_default();
                });
            }
        });
        self.listener = Some(tasks);
    }

    async fn cut(&mut self) {
        if let Some(mut tasks) = self.listener.take() {
            tasks.shutdown().await;
        }
    }
}

#[test]
fn a_watch_goes_on_after_a_cut_and_ends_when_events_are_gone() {
    on_etcd("etcd::a_watch_goes_on_after_a_cut_and_ends_when_events_are_gone", |etcd| async move {
        let mut wire = Wire::new(etcd.address(0)).await;
        let mut config = etcd.config();
        config.servers = vec![format!("http://{}", wire.address)];
        let (cut_off, direct) = (open(config).await, open(etcd.config()).await);
        let range = Range::all("core/pods");
        let mut watch = cut_off.watch(&range, cut_off.revision()).expect("now");
        let [first, second, third] = ["1", "2", "3"].map(|name| Key::new("core/pods", "a", name));

        wire.cut().await;
        let made = direct.commit(create(&first, "1", Durability::Synced)).await.expect("created");
        assert!(watch.try_next().expect("the watch is there").is_none());
        assert!(cut_off.get(&first).await.expect("reads go on").is_none());
        wire.join().await;
        assert_eq!(watch.next().await.expect("it goes on").revision(), made.revision);

        wire.cut().await;
        let made = direct.commit(create(&second, "1", Durability::Synced)).await.expect("created");
        direct.commit(delete(&first, watch.progress(), "gone", Durability::Synced)).await.expect("deleted");
        let last = direct.commit(create(&third, "1", Durability::Synced)).await.expect("created");
        etcd.control(&["compact", &last.revision.to_string()]);
        wire.join().await;
        assert!(matches!(watch.next().await, Err(WatchError::Lagged { .. })), "what was missed cannot be told");
        let names: Vec<String> = contents(&*cut_off, &range).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a/2", "a/3"]);
        let again = cut_off.watch(&range, made.revision);
        assert!(matches!(again, Err(StoreError::Expired { .. })), "{again:?}");
        assert!(cut_off.watch(&range, last.revision).is_ok());
        // It follows again.
        let current = cut_off.get(&second).await.expect("open").expect("there");
        let write = update(&second, current.revision, "2", Durability::Synced);
        direct.commit(write).await.expect("updated");
        cut_off.fresh().await.expect("the cluster answers");
        assert_eq!(body_of(&cut_off.get(&second).await.expect("open").expect("there").value), "2");
    });
}

#[test]
fn old_revisions_are_forgotten_by_one_of_the_servers() {
    on_etcd("etcd::old_revisions_are_forgotten_by_one_of_the_servers", |etcd| async move {
        let mut config = etcd.config();
        config.compaction = std::time::Duration::from_millis(20);
        let servers = [open(config.clone()).await, open(config).await];
        let key = Key::new("core/pods", "a", "x");
        let first = servers[0].commit(create(&key, "0", Durability::Synced)).await.expect("created").revision;
        let mut revision = first;
        // As long as it takes: with each write there is something new to forget.
        let past = loop {
            let body = format!("{}", revision.0);
            let write = update(&key, revision, &body, Durability::Synced);
            revision = servers[0].commit(write).await.expect("updated").revision;
            let third = open(etcd.config()).await;
            if let Err(error) = third.list(&Range::all("core/pods"), At::Exact(first)).await {
                break error;
            }
        };
        assert!(matches!(past, StoreError::Expired { .. }), "{past:?}");
        // Following the cluster takes a while on a busy machine.
        servers[1].fresh().await.expect("the cluster answers");
        let found = servers[1].watch(&Range::all("core/pods"), first);
        assert!(found.is_ok(), "servers know what they have seen: {found:?}");
    });
}

#[test]
fn a_cluster_that_is_not_there_or_not_ours_is_named() {
    on_etcd("etcd::a_cluster_that_is_not_there_or_not_ours_is_named", |etcd| async move {
        let open = async |config| EtcdStore::open(config, |_, _| Facets::default()).await.map(drop);
        let refused = open(EtcdConfig::new(Vec::new())).await;
        assert!(matches!(refused, Err(OpenError::NoEtcd)), "{refused:?}");
        let refused = open(EtcdConfig::new(vec!["not a url".to_owned()])).await;
        assert!(matches!(refused, Err(OpenError::EtcdAddress { .. })), "{refused:?}");
        etcd.put_bytes("/registry/pods/default/theirs", b"k8s\0\n\x04v1");
        let refused = open(etcd.config()).await;
        let Err(OpenError::Foreign { key }) = refused else { panic!("{refused:?}") };
        assert_eq!(key, "/registry/pods/default/theirs");
    });
}

#[test]
fn too_much_for_the_cluster_is_refused() {
    on_etcd("etcd::too_much_for_the_cluster_is_refused", |etcd| async move {
        let store = open(etcd.config()).await;
        let key = Key::new("core/pods", "a", "large");
        let large = store.commit(create(&key, &"x".repeat(2 << 20), Durability::Synced)).await;
        assert!(matches!(large, Err(CommitError::Refused { .. })), "{large:?}");
        assert!(store.get(&key).await.expect("open").is_none());
        store.commit(create(&key, "1", Durability::Synced)).await.expect("a smaller one fits");
        Store::close(&*store).await;
        let late = store.commit(create(&Key::new("core/pods", "a", "late"), "1", Durability::Synced)).await;
        assert!(matches!(late, Err(CommitError::Closed)), "{late:?}");
    });
}
