//! How the server is operated: health, metrics, limits, time, the audit trail.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use kobune_apiserver::{Auditor, LogOptions, WebhookOptions};
use serde_json::{Value, json};

use crate::{
    Cluster, config_map, pod,
    webhook_server::{Said, WebhookServer},
};

#[tokio::test]
async fn health_has_names() {
    let cluster = Cluster::start().await;
    let text = |reply: crate::Reply| String::from_utf8(reply.bytes.to_vec()).expect("text");
    for which in ["healthz", "livez", "readyz"] {
        assert_eq!(text(cluster.get(&format!("/{which}")).await), "ok");
        let report = text(cluster.get(&format!("/{which}?verbose=1")).await);
        for name in ["ping", "log", "etcd", "poststarthook/bootstrap-controller", "autoregister-completion"] {
            assert!(report.contains(&format!("[+]{name} ok\n")), "{report}");
        }
        assert!(report.ends_with(&format!("{which} check passed\n")), "{report}");
    }
    assert_eq!(text(cluster.get("/readyz/informer-sync").await), "ok");
    assert_eq!(cluster.get("/livez/moon").await.status, 404);
    let report = text(cluster.get("/livez?verbose&exclude=etcd&exclude=moon").await);
    assert!(report.contains("[+]etcd excluded: ok\n") && report.contains("no matches for \"moon\""), "{report}");
    cluster.server.stop();
    assert_eq!(cluster.get("/readyz").await.status, 500, "who is about to stop gets no new work");
    assert_eq!(cluster.get("/livez").await.status, 200);
    cluster.stop().await;
}

#[tokio::test]
async fn metrics_have_upstreams_names() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces/default/pods", &pod("web", "{}")).await.expect(201);
    cluster.get("/api/v1/namespaces/default/pods/none").await.expect(404);
    cluster.get("/api/v1/namespaces/default/pods/web/nonsense-of-a-client").await.expect(404);
    let reply = cluster.get("/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(reply.bytes.to_vec()).expect("text");
    for expected in [
        r#"apiserver_request_total{component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1",code="404"} 2"#,
        r#"verb="POST",version="v1",code="201"} 1"#,
        "apiserver_request_duration_seconds_bucket{",
        r#"apiserver_current_inflight_requests{request_kind="readOnly"} 1"#,
        r#"apiserver_storage_objects{resource="pods"} 1"#,
        r#"apiserver_resource_objects{group="",resource="namespaces"} 4"#,
        "process_resident_memory_bytes ",
        r#"kubernetes_build_info{"#,
        "apiserver_longrunning_requests ",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(!text.contains("nonsense-of-a-client"), "clients do not make series");
    let slis = String::from_utf8(cluster.get("/metrics/slis").await.bytes.to_vec()).expect("text");
    assert!(slis.contains("kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1"), "{slis}");
    cluster.stop().await;
}

#[tokio::test]
async fn requests_end_in_time() {
    let cluster = Cluster::start().await;
    let (reason, message) = cluster.get("/api/v1/pods?timeout=soon").await.failure(400);
    assert_eq!((reason.as_str(), message.as_str()), ("BadRequest", "invalid timeout specified in the request URL"));
    cluster.get("/api/v1/pods?timeout=32s").await.expect(200);

    // A body that never ends.
    let body = http_body_util::StreamBody::new(futures::stream::pending::<
        Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>,
    >());
    let request = http::Request::post("/api/v1/namespaces/default/pods?timeout=20ms").body(body).expect("a request");
    let response = tower::ServiceExt::oneshot(cluster.admin().clone(), request).await.expect("an answer");
    assert_eq!(response.status(), 504);
    cluster.stop().await;
}

#[tokio::test]
async fn the_audit_trail_tells_who_did_what() {
    let folder = tempfile::tempdir().expect("a folder");
    let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
    let rules = r"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, resources: [{group: '', resources: [serviceaccounts]}]}
- {level: Metadata, resources: [{group: '', resources: [secrets]}]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}
- {level: Request, verbs: [watch]}
- {level: Metadata, nonResourceURLs: [/version]}
";
    std::fs::write(&policy, rules).expect("written");
    let options = LogOptions { path: log.clone(), max_bytes: 1 << 20, max_backups: 1, max_age: Duration::ZERO };
    let auditor = Auditor::open(&policy, Some(options), None).expect("an auditor");
    let cluster = Cluster::start_with(|config| config.auditor = Some(auditor.clone())).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let reply = cluster.post(path, &config_map("a", r#"{"k":"v"}"#)).await;
    let id = reply.headers["audit-id"].to_str().expect("text").to_owned();
    reply.expect(201);
    cluster
        .send("GET", &format!("{path}/a"), &[("audit-id", "mine"), ("impersonate-user", "jane")], "")
        .await
        .expect(403);
    cluster
        .post("/api/v1/namespaces/default/secrets", r#"{"metadata":{"name":"s"},"stringData":{"p":"hunter2"}}"#)
        .await
        .expect(201);
    let watch = cluster.watch("/api/v1/namespaces/default/secrets?watch=1", "application/json").await;
    drop(watch);
    cluster.get("/version").await.expect(200);
    cluster.stop().await;
    auditor.close().await;

    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(!text.contains("hunter2"), "metadata has no bodies");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line is an event")).collect();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let word = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
            (word("/stage"), word("/level"), word("/verb"), word("/objectRef/name"), code)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("ResponseComplete", "RequestResponse", "create", "a", 201),
            ("ResponseComplete", "RequestResponse", "get", "a", 403),
            ("ResponseComplete", "Metadata", "create", "s", 201),
            ("ResponseStarted", "Metadata", "watch", "", 200),
            ("ResponseComplete", "Metadata", "watch", "", 200),
            ("ResponseComplete", "Metadata", "get", "", 200),
        ],
        "{text}"
    );
    let created = &events[0];
    assert_eq!(created["auditID"], id.as_str());
    assert_eq!(created["user"]["username"], "admin");
    assert_eq!(created["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(created["responseObject"]["data"], json!({"k": "v"}));
    assert!(created["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    let refused = &events[1];
    assert_eq!((&refused["auditID"], &refused["impersonatedUser"]["username"]), (&json!("mine"), &json!("jane")));
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
}

#[tokio::test]
async fn events_go_when_their_time_is_over() {
    let event = |name: &str| {
        json!({
            "metadata": {"name": name}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "reason": "r", "message": "m", "type": "Normal",
        })
    };
    let events = "/api/v1/namespaces/default/events";
    let cluster = Cluster::start().await;
    cluster.post(events, &event("old").to_string()).await.expect(201);
    let cluster = cluster.restart_with(|config| config.event_ttl = Duration::from_secs(1)).await;
    cluster.post(events, &event("new").to_string()).await.expect(201);
    let mut watch = cluster.watch(&format!("{events}?watch=1"), "application/json").await;
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let event = watch.next().await.expect("the watch goes on");
        if event["type"] == "DELETED" {
            assert_eq!(event["object"]["message"], "m", "watchers are shown the last state");
            gone.push(event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    gone.sort();
    assert_eq!(gone, ["new", "old"]);
    assert_eq!(cluster.get(events).await.expect(200)["items"], json!([]));
    cluster.stop().await;
}

#[tokio::test]
async fn the_audit_trail_goes_to_webhooks_too() {
    let failures = AtomicUsize::new(2);
    let (heard, mut batches) = tokio::sync::mpsc::unbounded_channel();
    let server = WebhookServer::start(move |path, list| {
        assert_eq!(
            (path, &list["kind"], &list["apiVersion"]),
            ("/audit", &json!("EventList"), &json!("audit.k8s.io/v1"))
        );
        if failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Said::Raw(403, Vec::new());
        }
        let names: Vec<_> =
            list["items"].as_array().expect("a list").iter().map(|e| e["objectRef"]["name"].clone()).collect();
        heard.send(names).expect("the test waits");
        Said::Raw(200, b"thanks".to_vec())
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let (policy, kubeconfig) = (folder.path().join("policy.yaml"), folder.path().join("kubeconfig"));
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: Metadata, verbs: [get], \
                 resources: [{group: '', resources: [configmaps]}]}\n";
    std::fs::write(&policy, rules).expect("written");
    let text = format!(
        "current-context: hook\ncontexts: [{{name: hook, context: {{cluster: hook}}}}]\nclusters: [{{name: hook, cluster: \
         {{server: 'https://127.0.0.1:{}/audit', certificate-authority-data: {}}}}}]\n",
        server.port,
        server.bundle()
    );
    std::fs::write(&kubeconfig, text).expect("written");
    let options = WebhookOptions {
        batch_max_size: 2,
        initial_backoff: Duration::from_millis(1),
        ..WebhookOptions::new(kubeconfig)
    };
    let auditor = Auditor::open(&policy, None, Some(options)).expect("an auditor");
    let cluster = Cluster::start_with(|config| config.auditor = Some(auditor.clone())).await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.get(&format!("/api/v1/namespaces/default/configmaps/{name}")).await.expect(404);
    }
    // Refusals are tried again, whatever their code, and the order stays.
    assert_eq!(batches.recv().await.expect("a batch"), [json!("a"), json!("b")]);
    assert_eq!(batches.recv().await.expect("a batch"), [json!("c"), json!("d")]);
    assert_eq!(server.seen().len(), 4);
    let metrics = String::from_utf8(cluster.get("/metrics").await.bytes.to_vec()).expect("text");
    assert!(metrics.contains("apiserver_audit_event_total 5\n"), "{metrics}");
    assert!(metrics.contains("apiserver_audit_error_total{plugin=\"webhook\"} 0\n"), "{metrics}");
    cluster.stop().await;
    // What waits for others is posted at the end.
    auditor.close().await;
    assert_eq!(batches.recv().await.expect("a batch"), [json!("e")]);
}

#[tokio::test]
async fn an_audit_webhook_that_hangs_holds_up_nobody() {
    let server = WebhookServer::start(|_, _| Said::Nothing).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (policy, kubeconfig) = (folder.path().join("policy.yaml"), folder.path().join("kubeconfig"));
    std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, verbs: [list]}]\n")
        .expect("written");
    let text = format!(
        "current-context: hook\ncontexts: [{{name: hook, context: {{cluster: hook}}}}]\nclusters: [{{name: hook, cluster: \
         {{server: 'https://127.0.0.1:{}', certificate-authority-data: {}}}}}]\n",
        server.port,
        server.bundle()
    );
    std::fs::write(&kubeconfig, text).expect("written");
    let options = WebhookOptions { buffer_size: 3, batch_max_size: 1, ..WebhookOptions::new(kubeconfig) };
    let auditor = Auditor::open(&policy, None, Some(options)).expect("an auditor");
    let cluster = Cluster::start_with(|config| config.auditor = Some(auditor)).await;
    for _ in 0..4 {
        cluster.get("/api/v1/namespaces/default/configmaps").await.expect(200);
    }
    // Two stages of each request; the queue has room for three events.
    let metrics = String::from_utf8(cluster.get("/metrics").await.bytes.to_vec()).expect("text");
    assert!(metrics.contains("apiserver_audit_event_total 8\n"), "{metrics}");
    assert!(metrics.contains("apiserver_audit_error_total{plugin=\"webhook\"} 5\n"), "{metrics}");
    cluster.stop().await;
}
