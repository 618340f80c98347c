//! Measures the processor time of a request on its road alone: no socket, no TLS, no watcher, and the store's own thread
//! apart. The best of several rounds is what a busy machine changes least. The kernel counts in milliseconds, so a round
//! should take many of them.
//!
//! `cargo run --release -p kobune-apiserver --example road -- [pods] [rounds]`

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use kobune_apiserver::{ApiServer, Config, InProcess, facets, security::User};
use kobune_kinds::Catalogue;
use kobune_store::SqliteStore;
use serde_json::json;
use tower::ServiceExt;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod as `apibench` makes it.
fn pod(number: usize) -> String {
    let env: Vec<_> =
        (0..10).map(|k| json!({"name": format!("VAR_{k}"), "value": format!("value-{number}-{k}")})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("bench-{number:06}"),
            "labels": {"app": "bench", "shard": format!("s{}", number % 100)},
            "annotations": {"example.com/note": "x".repeat(200)}},
        "spec": {"nodeName": "no-such-node", "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "registry.example/app:v1", "env": env,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
                "ports": [{"containerPort": 8080}]}]}
    })
    .to_string()
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a thread has its times");
    let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first number is nanoseconds"))
}

async fn send(service: &InProcess, method: &str, path: &str, media: &str, body: String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .header("accept", "application/json")
        .body(Full::new(body.into()))
        .expect("a request");
    let answer = service.clone().oneshot(request).await.expect("the road answers always");
    let status = answer.status();
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&bytes));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("arguments are numbers"));
    let pods = arguments.next().unwrap_or(2000);
    let rounds = arguments.next().unwrap_or(5);
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = Catalogue::builtin();
    let store = SqliteStore::open(folder.path().join("state.db"), kobune_store::Config::default(), facets(&catalogue))
        .expect("a store");
    let mut config = Config::new(folder.path().to_owned(), "192.0.2.1".parse().expect("an address"), 6443);
    config.service_cidrs = vec!["10.96.0.0/24".to_owned()];
    let server = ApiServer::build(config, store.clone(), catalogue).await.expect("a server");
    let service = server.service_as(User::new("admin", &["system:masters"]));
    let account = json!({"metadata": {"name": "default"}}).to_string();
    send(&service, "POST", "/api/v1/namespaces/default/serviceaccounts", "application/json", account).await;

    let mut best = [
        ("create", Duration::MAX),
        ("get", Duration::MAX),
        ("merge patch", Duration::MAX),
        ("apply", Duration::MAX),
        ("delete", Duration::MAX),
    ];
    for round in 0..rounds {
        for (verb, time) in &mut best {
            let requests: Vec<_> = (0..pods)
                .map(|number| {
                    let path = format!("{PODS}/bench-{number:06}");
                    match *verb {
                        "create" => ("POST", PODS.to_owned(), "application/json", pod(number)),
                        "get" => ("GET", path, "application/json", String::new()),
                        "merge patch" => {
                            let patch = json!({"metadata": {"labels": {"round": format!("r{number}-{round}")}}});
                            ("PATCH", path, "application/merge-patch+json", patch.to_string())
                        }
                        "apply" => {
                            let name = format!("cm-{}", number % 100);
                            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": format!("{number}-{round}")}});
                            let path = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=bench&force=true");
                            ("PATCH", path, "application/apply-patch+yaml", map.to_string())
                        }
                        _ => ("DELETE", format!("{path}?gracePeriodSeconds=0"), "application/json", String::new()),
                    }
                })
                .collect();
            let start = processor_time();
            // As many at once as a client would send, so that they share the disk.
            for some in requests.chunks(32) {
                let sent = some.iter().cloned().map(|(method, path, media, body)| {
                    let service = &service;
                    async move { send(service, method, &path, media, body).await }
                });
                futures::future::join_all(sent).await;
            }
            *time = (*time).min(processor_time() - start);
        }
    }
    for (verb, time) in best {
        println!("{verb}: {:.1} µs", time.as_secs_f64() * 1e6 / pods as f64);
    }
    server.stop();
    Arc::clone(&store).close().await;
}
