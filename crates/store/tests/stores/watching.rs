//! Watches: who is woken, who falls behind, what is shared; and listings kept for their next pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use kobune_store::{At, Durability, Key, Limits, Memory, Range, Revision, StoreError, WatchError};

use crate::ground::{Ground, on_each_store};
use crate::{create, update};

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn only_watchers_of_the_collection_are_woken(ground: &Ground) {
    let place = ground.place();
    let store = place.open().await;
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut watch = store.watch(&Range::namespace("core/pods", "a"), store.revision()).expect("new");
    let mut next = Box::pin(watch.next());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let write = create(&Key::new("core/services", "a", "x"), "1", Durability::Synced);
    store.commit(write).await.expect("created");
    assert_eq!(bell.0.load(Ordering::Relaxed), 0);
    let write = create(&Key::new("core/pods", "b", "x"), "1", Durability::Synced);
    store.commit(write).await.expect("created");
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let write = create(&Key::new("core/pods", "a", "x"), "1", Durability::Synced);
    let record = store.commit(write).await.expect("created");
    assert!(bell.0.load(Ordering::Relaxed) >= 1);
    let Poll::Ready(Ok(event)) = next.as_mut().poll(&mut Context::from_waker(&waker)) else {
        panic!("the event is there");
    };
    assert!(event.record.same(&record), "the watcher shares the stored record");
    drop(next);
    assert_eq!(watch.progress(), record.revision);
}

async fn the_encoded_line_is_made_once(ground: &Ground) {
    let place = ground.place();
    let store = place.open().await;
    let range = Range::all("core/pods");
    let mut watches = [0; 3].map(|_| store.watch(&range, store.revision()).expect("new"));
    let write = create(&Key::new("core/pods", "a", "x"), "1", Durability::Synced);
    store.commit(write).await.expect("created");
    let mut made = 0;
    for watch in &mut watches {
        let event = watch.next().await.expect("in the window");
        let line = event.encoded(|event| {
            made += 1;
            event.record.value.clone()
        });
        assert_eq!(line, &event.record.value);
    }
    assert_eq!(made, 1);
}

async fn a_slow_watcher_lags_and_a_quiet_collection_stays_watchable(ground: &Ground) {
    let limits = Limits { window_bytes: 100_000, ..Limits::default() };
    let place = ground.place().with_limits(limits);
    let store = place.open().await;
    let start = store.revision();
    let (busy, quiet) = (Range::all("core/pods"), Range::all("core/nodes"));
    let mut slow = store.watch(&busy, store.revision()).expect("new");
    let write = create(&Key::new("core/nodes", "", "x"), "1", Durability::Synced);
    store.commit(write).await.expect("created");
    let key = Key::new("core/pods", "a", "x");
    let write = create(&key, "0", Durability::Relaxed);
    let mut revision = store.commit(write).await.expect("created").revision;
    assert_eq!(slow.next().await.expect("in time").revision(), revision);
    let seen = revision;
    for number in 0..200 {
        let body = format!("{number}{}", "x".repeat(1000));
        let write = update(&key, revision, &body, Durability::Relaxed);
        revision = store.commit(write).await.expect("updated").revision;
    }
    assert_eq!(slow.next().await.expect_err("too slow"), WatchError::Lagged { after: seen });
    let expired = store.watch(&busy, seen).expect_err("too old");
    let StoreError::Expired { oldest, .. } = expired else {
        panic!("{expired:?}");
    };
    let mut events = 0;
    let mut watch = store.watch(&busy, oldest).expect("the oldest is in reach");
    while watch.try_next().expect("in the window").is_some() {
        events += 1;
    }
    assert!((40..100).contains(&events), "{events} events of 1.4 kB are in 100 kB");
    let mut watch = store.watch(&quiet, start).expect("nothing has left");
    assert_eq!(&*watch.next().await.expect("there").record.key.collection, "core/nodes");
    assert_eq!(watch.progress(), revision);
}

async fn closing_ends_watches_after_their_events(ground: &Ground) {
    let place = ground.place();
    let store = place.open().await;
    let mut watch = store.watch(&Range::all("core/pods"), store.revision()).expect("new");
    let mut idle = store.watch(&Range::all("core/nodes"), store.revision()).expect("new");
    let write = create(&Key::new("core/pods", "a", "x"), "1", Durability::Synced);
    let (ended, ()) = tokio::join!(idle.next(), async {
        store.commit(write).await.expect("created");
        store.close().await;
    });
    assert_eq!(ended.expect_err("closed"), WatchError::Closed);
    assert!(watch.next().await.is_ok());
    assert_eq!(watch.next().await.expect_err("closed"), WatchError::Closed);
}

#[test]
fn listings_are_kept_by_number_and_age() {
    let check = |kept_listings, kept_for, found: [bool; 3]| {
        let memory = Memory::new(Limits { kept_listings, kept_for, ..Limits::default() }, Revision(1), []);
        let range = Range::all("core/pods");
        let mut revisions = Vec::new();
        for number in 2..5 {
            let listing = memory.list(&range, At::Latest).expect("open");
            memory.keep(&listing);
            revisions.push(listing.revision());
            let record = kobune_store::Record::new(
                Key::new("core/pods", "a", &number.to_string()),
                Revision(number),
                bytes::Bytes::new(),
                Arc::default(),
            );
            let event = memory.event(record, kobune_store::EventKind::Created, None);
            memory.publish(vec![event]);
        }
        let answers: Vec<bool> = revisions
            .into_iter()
            .enumerate()
            .map(|(count, revision)| match memory.list(&range, At::Exact(revision)) {
                Ok(listing) => {
                    assert_eq!(listing.count(), count);
                    true
                }
                Err(StoreError::Expired { .. }) => false,
                Err(error) => panic!("{error}"),
            })
            .collect();
        assert_eq!(answers, found);
    };
    check(3, Duration::from_secs(60), [true, true, true]);
    check(2, Duration::from_secs(60), [false, true, true]);
    check(3, Duration::ZERO, [false, false, false]);
}

async fn pages_follow_each_other(ground: &Ground) {
    let place = ground.place();
    let store = place.open().await;
    for namespace in ["a", "b", "c"] {
        for name in 0..5 {
            let key = Key::new("core/pods", namespace, &name.to_string());
            let write = create(&key, "1", Durability::Relaxed);
            store.commit(write).await.expect("created");
        }
    }
    for (range, total) in [(Range::all("core/pods"), 15), (Range::namespace("core/pods", "b"), 5)] {
        let listing = store.list(&range, At::Latest).await.expect("open");
        assert_eq!(listing.count(), total);
        let all: Vec<_> = listing.iter().map(|record| record.key.clone()).collect();
        let mut paged: Vec<Key> = Vec::new();
        loop {
            let (namespace, name) = paged.last().map_or(("", ""), |key| (&*key.namespace, &*key.name));
            let page: Vec<Key> = listing.iter_after(namespace, name).take(2).map(|record| record.key.clone()).collect();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all);
    }
    // A later write wakes nobody who has not asked.
    let mut watch = store.watch(&Range::all("core/pods"), store.revision()).expect("now");
    assert!(watch.next().now_or_never().is_none());
}

on_each_store!(
    only_watchers_of_the_collection_are_woken,
    the_encoded_line_is_made_once,
    a_slow_watcher_lags_and_a_quiet_collection_stays_watchable,
    closing_ends_watches_after_their_events,
    pages_follow_each_other,
);
