//! Measures the store: creates by concurrent writers, reads, lists, memory.
//!
//! `cargo run --release -p kobune-store --example load -- [objects] [writers] [bytes]`

use std::sync::Arc;
use std::time::Instant;

use kobune_store::{At, Config, Draft, Durability, Facets, Key, Op, Range, Revision, SqliteStore, Store, Write};

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

fn write(number: usize, bytes: usize) -> Write {
    const HEAD: &str = r#"{"metadata":{"resourceVersion":""#;
    let name = format!("pod-{number}");
    Write {
        op: Op::Create(Draft {
            bytes: format!(r#"{HEAD}"}},"fill":"{}"}}"#, "x".repeat(bytes)).into_bytes(),
            splice: HEAD.len(),
            facets: Facets::new([("app", "load"), ("tier", "web")], [("spec.nodeName", "")]),
        }),
        key: Key::new("core/pods", "default", &name),
        durability: Durability::Synced,
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("arguments are numbers"));
    let objects = arguments.next().unwrap_or(10_000);
    let writers = arguments.next().unwrap_or(32);
    let bytes = arguments.next().unwrap_or(3_200);
    let folder = std::env::temp_dir().join(format!("kobune-store-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let path = folder.join("store.db");
    let open = || SqliteStore::open(&path, Config::default(), |_, _| Facets::default()).expect("the database opens");
    let store = open();
    let before = resident_kilobytes();
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store: Arc<SqliteStore> = store.clone();
            tokio::spawn(async move {
                for number in (writer..objects).step_by(writers) {
                    store.commit(write(number, bytes)).await.expect("created");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the writer has not panicked");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} creates/s", objects as f64 / seconds);
    let each = (resident_kilobytes() - before) * 1024 / objects as u64;
    println!("{each} bytes of memory an object of {bytes} bytes");

    let start = Instant::now();
    for number in 0..objects {
        let key = Key::new("core/pods", "default", &format!("pod-{number}"));
        assert!(store.get(&key).await.expect("open").is_some());
    }
    println!("{:.0} gets/s on one task", objects as f64 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let listing = store.list(&Range::all("core/pods"), At::Latest).await.expect("open");
    let total: usize = listing.iter().map(|record| record.value.len()).sum();
    println!("list of {total} bytes walked in {:?}", start.elapsed());
    let start = Instant::now();
    let mut watch = store.watch(&Range::all("core/pods"), Revision(0)).expect("in the window");
    let mut events = 0;
    while watch.try_next().expect("in the window").is_some() {
        events += 1;
    }
    println!("watch of {events} events in {:?}", start.elapsed());
    store.close().await;
    drop(store);
    let start = Instant::now();
    let store = open();
    println!("opened and verified in {:?}", start.elapsed());
    drop(store);
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}
