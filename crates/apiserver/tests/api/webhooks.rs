//! Admission webhooks, after upstream's `test/e2e/apimachinery/webhook.go`.

use std::time::{Duration, Instant};

use kobune_apiserver::{Auditor, LogOptions};
use serde_json::{Value, json};

use super::webhook_server::{Said, WebhookServer, patched, reviewed};
use super::{Cluster, config_map, pod};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A webhook for these operations and resources of the core group.
fn hook(name: &str, client: Value, operations: &[&str], resources: &[&str]) -> Value {
    json!({
        "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"],
        "rules": [{"operations": operations, "apiGroups": [""], "apiVersions": ["v1"], "resources": resources}],
    })
}

/// Adds fields to a webhook.
fn with(mut hook: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("fields") {
        hook[key] = value.clone();
    }
    hook
}

impl Cluster {
    async fn register(&self, sort: &str, name: &str, hooks: &[Value]) {
        let kind = if sort == "validating" { "ValidatingWebhookConfiguration" } else { "MutatingWebhookConfiguration" };
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks,
        });
        self.post(&format!("{CONFIGURATIONS}/{sort}webhookconfigurations"), &body.to_string()).await.expect(201);
    }
}

/// Denies what carries the data `webhook-e2e-test: webhook-disallow`.
fn deny_data(question: &Value) -> Said {
    let object = &question["request"]["object"];
    if object["data"]["webhook-e2e-test"] == "webhook-disallow" {
        return reviewed(
            question,
            json!({"allowed": false, "status": {"reason": "the configmap contains unwanted key and value"}}),
        );
    }
    reviewed(question, json!({"allowed": true, "warnings": ["it was looked at"]}))
}

#[tokio::test]
async fn denies_creation_and_changes() {
    let server = WebhookServer::start(|path, question| match path {
        "/configmaps" => deny_data(question),
        _ => reviewed(
            question,
            json!({"allowed": false, "status": {"message": "no pods", "code": 403, "reason": "Mine"}}),
        ),
    })
    .await;
    let cluster = Cluster::start().await;
    cluster
        .register(
            "validating",
            "deny",
            &[
                hook("deny-configmaps.k8s.io", server.at("/configmaps"), &["CREATE", "UPDATE"], &["configmaps"]),
                hook("deny-pods.k8s.io", server.at("/pods"), &["CREATE"], &["pods"]),
            ],
        )
        .await;
    let denied = "admission webhook \"deny-configmaps.k8s.io\" denied the request: the configmap contains unwanted key and value";
    let bad = r#"{"webhook-e2e-test":"webhook-disallow"}"#;
    let (reason, message) = cluster.post(CONFIG_MAPS, &config_map("a", bad)).await.failure(400);
    assert_eq!((reason.as_str(), message.as_str()), ("the configmap contains unwanted key and value", denied));
    let reply = cluster.post(CONFIG_MAPS, &config_map("a", r#"{"x":"y"}"#)).await;
    assert_eq!(reply.headers["warning"], "299 - \"it was looked at\"");
    let mut object = reply.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    object["data"]["webhook-e2e-test"] = "webhook-disallow".into();
    assert_eq!(cluster.put(&path, &object).await.failure(400).1, denied);
    let patch = json!({"data": {"webhook-e2e-test": "webhook-disallow"}}).to_string();
    assert_eq!(cluster.patch(&path, "application/merge-patch+json", &patch).await.failure(400).1, denied);
    let (reason, message) = cluster.post(PODS, &pod("p", "{}")).await.failure(403);
    assert_eq!(reason, "Mine");
    assert_eq!(message, "admission webhook \"deny-pods.k8s.io\" denied the request: no pods");
    assert_eq!(server.connections(), 1, "the connection is used again");

    let questions = server.seen();
    let request = &questions[2]["body"]["request"];
    assert_eq!(questions[2]["path"], "/configmaps?timeout=10s");
    assert_eq!(questions[2]["host"], format!("127.0.0.1:{}", server.port));
    assert_eq!(request["operation"], "UPDATE");
    assert_eq!(request["userInfo"], json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]}));
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(
        (&request["name"], &request["namespace"], &request["dryRun"]),
        (&"a".into(), &"default".into(), &false.into())
    );
    assert_eq!(request["oldObject"]["data"], json!({"x": "y"}));
    assert_eq!(request["object"]["kind"], "ConfigMap");
    assert_eq!(request["options"]["kind"], "UpdateOptions");
    let metrics = cluster.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let line = r#"apiserver_admission_webhook_rejection_count{error_type="no_error",name="deny-pods.k8s.io",operation="CREATE",rejection_code="403",type="validating"} 1"#;
    assert!(text.contains(line), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn changes_objects_in_turn_and_defaults_follow() {
    let server = WebhookServer::start(|path, question| {
        let data = &question["request"]["object"]["data"];
        match path {
            "/one" => patched(question, &json!([{"op": "add", "path": "/data/stage-1", "value": "yes"}])),
            "/two" if data["stage-1"] == "yes" => {
                patched(question, &json!([{"op": "add", "path": "/data/stage-2", "value": "yes"}]))
            }
            "/pods" => patched(
                question,
                &json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "added", "image": "i", "resources": {}}]}]),
            ),
            _ => reviewed(question, json!({"allowed": true})),
        }
    })
    .await;
    let cluster = Cluster::start().await;
    cluster
        .register(
            "mutating",
            "change",
            &[
                hook("one.k8s.io", server.at("/one"), &["CREATE"], &["configmaps"]),
                hook("two.k8s.io", server.at("/two"), &["CREATE"], &["configmaps"]),
                hook("pods.k8s.io", server.at("/pods"), &["CREATE"], &["pods"]),
            ],
        )
        .await;
    let made = cluster.post(CONFIG_MAPS, &config_map("a", r#"{"start":"yes"}"#)).await.expect(201);
    assert_eq!(made["data"], json!({"start": "yes", "stage-1": "yes", "stage-2": "yes"}));
    let made = cluster.post(PODS, &pod("p", "{}")).await.expect(201);
    let added = &made["spec"]["initContainers"][0];
    assert_eq!(added["name"], "added");
    assert_eq!(added["terminationMessagePolicy"], "File", "defaults come after webhooks: {added}");
    // What is made by apply passes the same way.
    let path = format!("{CONFIG_MAPS}/b?fieldManager=m");
    let applied =
        cluster.patch(&path, "application/apply-patch+yaml", &config_map("b", r#"{"start":"yes"}"#)).await.expect(201);
    assert_eq!(applied["data"]["stage-2"], "yes");
    cluster.stop().await;
}

#[tokio::test]
async fn asks_again_when_later_webhooks_changed_something() {
    let server = WebhookServer::start(|path, question| {
        let labels = question["request"]["object"]["metadata"]["labels"].as_object().map_or(0, serde_json::Map::len);
        match path {
            // Counts the labels that it has seen, each time it is asked.
            "/count" => patched(question, &json!([{"op": "add", "path": "/data/count", "value": labels.to_string()}])),
            _ => patched(question, &json!([{"op": "add", "path": "/metadata/labels/more", "value": "yes"}])),
        }
    })
    .await;
    let cluster = Cluster::start().await;
    let count = hook("count.k8s.io", server.at("/count"), &["CREATE"], &["configmaps"]);
    cluster
        .register(
            "mutating",
            "a-counts",
            &[
                with(count.clone(), json!({"reinvocationPolicy": "IfNeeded"})),
                with(count, json!({"name": "once.k8s.io", "clientConfig": server.at("/once")})),
            ],
        )
        .await;
    let made = cluster.post(CONFIG_MAPS, &config_map("a", r#"{"x":"y"}"#)).await.expect(201);
    assert_eq!(made["data"]["count"], "2", "{made}");
    let paths: Vec<Value> = server.seen().into_iter().map(|seen| seen["path"].clone()).collect();
    assert_eq!(paths, ["/count?timeout=10s", "/once?timeout=10s", "/count?timeout=10s"]);
    cluster.stop().await;
}

#[tokio::test]
async fn failures_follow_the_policy() {
    let server = WebhookServer::start(|path, question| match path {
        "/hang" => Said::Nothing,
        "/html" => Said::Raw(200, b"<html>".to_vec()),
        "/flood" => Said::Raw(200, vec![b' '; 9 << 20]),
        "/error" => Said::Raw(500, b"boom".to_vec()),
        "/uid" => Said::Json(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "other", "allowed": true},
        })),
        "/patch" => reviewed(question, json!({"allowed": true, "patchType": "JSONPatch", "patch": "e30="})),
        _ => patched(question, &json!([{"op": "remove", "path": "/nothing/there"}])),
    })
    .await;
    let cluster = Cluster::start().await;
    let config = |path: &str| {
        with(
            hook("fails.k8s.io", server.at(path), &["CREATE"], &["configmaps"]),
            json!({"timeoutSeconds": 1, "failurePolicy": "Fail"}),
        )
    };
    let address = format!("https://127.0.0.1:{}", server.port);
    let expected: [(&str, Value, String); 8] = [
        (
            "validating",
            config("/hang"),
            format!("failed to call webhook: Post \"{address}/hang?timeout=1s\": context deadline exceeded"),
        ),
        (
            "validating",
            config("/html"),
            "received invalid webhook response: couldn't get version/kind; json parse error: ".to_owned(),
        ),
        (
            "validating",
            config("/flood"),
            format!(
                "failed to call webhook: Post \"{address}/flood?timeout=1s\": the answer is longer than 8388608 bytes"
            ),
        ),
        (
            "validating",
            config("/error"),
            "failed to call webhook: an error on the server (\"boom\") has prevented the request from succeeding"
                .to_owned(),
        ),
        ("validating", config("/uid"), "received invalid webhook response: expected response.uid=".to_owned()),
        ("mutating", config("/patch"), String::new()),
        (
            "validating",
            with(
                config("/x"),
                json!({"clientConfig": {"url": format!("{address}/x"), "caBundle": WebhookServer::start(|_, _| Said::Nothing).await.bundle()}}),
            ),
            format!(
                "failed to call webhook: Post \"{address}/x?timeout=1s\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
            ),
        ),
        (
            "validating",
            with(
                config("/x"),
                json!({"clientConfig": {"service": {"namespace": "default", "name": "gone"}, "caBundle": server.bundle()}}),
            ),
            "failed to call webhook: Post \"https://gone.default.svc:443/?timeout=1s\": service \"gone\" not found"
                .to_owned(),
        ),
    ];
    for (sort, failing, words) in expected {
        cluster.register(sort, "failing", std::slice::from_ref(&failing)).await;
        let began = Instant::now();
        let (reason, message) = cluster.post(CONFIG_MAPS, &config_map("a", "{}")).await.failure(500);
        assert_eq!(reason, "InternalError");
        let start = if words.is_empty() {
            "Internal error occurred: ".to_owned()
        } else {
            format!("Internal error occurred: failed calling webhook \"fails.k8s.io\": {words}")
        };
        assert!(message.starts_with(&start), "{message}\n{start}");
        assert!(began.elapsed() < Duration::from_secs(4), "nobody waits longer than asked");
        let path = format!("{CONFIGURATIONS}/{sort}webhookconfigurations/failing");
        cluster.delete(&path, "").await.expect(200);
        if words.is_empty() {
            // The patch is wrong, not the call: no policy helps.
            continue;
        }
        let open = with(failing, json!({"failurePolicy": "Ignore"}));
        cluster.register(sort, "failing", &[open]).await;
        cluster.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", "{}")).await.expect(201);
        cluster.delete(&path, "").await.expect(200);
    }
    let text = cluster.get("/metrics").await;
    let text = String::from_utf8_lossy(&text.bytes).into_owned();
    assert!(
        text.contains(r#"apiserver_admission_webhook_fail_open_count{name="fails.k8s.io",type="validating"} "#),
        "{text}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn selectors_decide_who_is_asked() {
    let server = WebhookServer::start(|_, question| reviewed(question, json!({"allowed": false}))).await;
    let cluster = Cluster::start().await;
    for (name, labels) in [("watched", r#"{"fail-closed-webhook":"yes"}"#), ("free", "{}")] {
        let body = format!(r#"{{"metadata":{{"name":"{name}","labels":{labels}}}}}"#);
        cluster.post("/api/v1/namespaces", &body).await.expect(201);
    }
    let closed = hook("closed.k8s.io", server.at("/"), &["CREATE", "DELETE"], &["configmaps", "namespaces"]);
    cluster
        .register(
            "validating",
            "by-namespace",
            &[with(closed.clone(), json!({"namespaceSelector": {"matchLabels": {"fail-closed-webhook": "yes"}}}))],
        )
        .await;
    cluster.post("/api/v1/namespaces/watched/configmaps", &config_map("a", "{}")).await.failure(400);
    cluster.post("/api/v1/namespaces/free/configmaps", &config_map("a", "{}")).await.expect(201);
    cluster.delete("/api/v1/namespaces/watched", "").await.failure(400);
    let body = r#"{"metadata":{"name":"other","labels":{"fail-closed-webhook":"yes"}}}"#;
    let (_, message) = cluster.post("/api/v1/namespaces", body).await.failure(400);
    assert_eq!(message, "admission webhook \"closed.k8s.io\" denied the request without explanation");
    let path = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/by-namespace");
    cluster.delete(&path, "").await.expect(200);

    cluster
        .register("validating", "by-object", &[with(closed, json!({"objectSelector": {"matchLabels": {"app": "b"}}}))])
        .await;
    cluster.post("/api/v1/namespaces/free/configmaps", &config_map("b", "{}")).await.failure(400);
    cluster.post("/api/v1/namespaces/free/configmaps", &config_map("c", "{}")).await.expect(201);
    cluster.stop().await;
}

#[tokio::test]
async fn deletions_show_what_goes() {
    let server = WebhookServer::start(|_, question| {
        let keep = question["request"]["oldObject"]["data"]["keep"] == "yes";
        reviewed(question, json!({"allowed": !keep, "status": {"message": "it is to be kept"}}))
    })
    .await;
    let cluster = Cluster::start().await;
    for (name, data) in [("a", r#"{"keep":"yes"}"#), ("b", "{}"), ("c", "{}")] {
        cluster.post(CONFIG_MAPS, &config_map(name, data)).await.expect(201);
    }
    let watching = hook("keeps.k8s.io", server.at("/"), &["DELETE"], &["configmaps"]);
    cluster.register("mutating", "keeps", std::slice::from_ref(&watching)).await;
    let (_, message) = cluster.delete(&format!("{CONFIG_MAPS}/a"), "").await.failure(400);
    assert_eq!(message, "admission webhook \"keeps.k8s.io\" denied the request: it is to be kept");
    let options = r#"{"gracePeriodSeconds":5,"dryRun":["All"]}"#;
    cluster.delete(&format!("{CONFIG_MAPS}/b"), options).await.expect(200);
    let seen = server.seen();
    let request = &seen[1]["body"]["request"];
    assert_eq!((&request["object"], &request["operation"]), (&Value::Null, &"DELETE".into()));
    assert_eq!((&request["dryRun"], &request["options"]["gracePeriodSeconds"]), (&true.into(), &5.into()));
    // Each object of a collection is asked about.
    cluster.delete(&format!("{CONFIG_MAPS}?labelSelector=app!=a"), "").await.expect(200);
    assert_eq!(server.seen().len(), 4);
    cluster.get(&format!("{CONFIG_MAPS}/b")).await.failure(404);
    cluster.stop().await;
}

#[tokio::test]
async fn dry_runs_ask_only_the_harmless() {
    let server = WebhookServer::start(|_, question| reviewed(question, json!({"allowed": true}))).await;
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let plain = hook("dry.k8s.io", server.at("/"), &["CREATE"], &["configmaps"]);
    cluster.register("validating", "dry", &[with(plain, json!({"sideEffects": "NoneOnDryRun"}))]).await;
    cluster.post(&path, &config_map("a", "{}")).await.expect(201);
    assert_eq!(server.seen()[0]["body"]["request"]["dryRun"], true);
    cluster.stop().await;
}

#[tokio::test]
async fn the_audit_trail_tells_what_webhooks_did() {
    let server = WebhookServer::start(|path, question| match path {
        "/change" => patched(question, &json!([{"op": "add", "path": "/data/x", "value": "y"}])),
        "/note" => reviewed(question, json!({"allowed": true, "auditAnnotations": {"seen": "yes"}})),
        _ => Said::Raw(500, Vec::new()),
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{group: '', resources: [configmaps]}]}, {level: None}]";
    std::fs::write(&policy, rules).expect("a policy");
    let options = LogOptions { path: log.clone(), max_bytes: 1 << 20, max_backups: 1, max_age: Duration::ZERO };
    let auditor = Auditor::open(&policy, Some(options), None).expect("an auditor");
    let cluster = Cluster::start_with(|config| config.auditor = Some(auditor.clone())).await;
    let of = |name: &str, path: &str| hook(name, server.at(path), &["CREATE"], &["configmaps"]);
    cluster.register("mutating", "first", &[of("change.k8s.io", "/change")]).await;
    let open = with(of("open.k8s.io", "/broken"), json!({"failurePolicy": "Ignore"}));
    cluster.register("validating", "second", &[of("note.k8s.io", "/note"), open]).await;
    cluster.post(CONFIG_MAPS, &config_map("a", r#"{"k":"v"}"#)).await.expect(201);
    cluster.stop().await;
    auditor.close().await;
    let text = std::fs::read_to_string(&log).expect("a log");
    let event: Value = serde_json::from_str(text.lines().next().expect("an event")).expect("JSON");
    let notes = &event["annotations"];
    assert_eq!(notes["note.k8s.io/seen"], "yes", "{text}");
    assert_eq!(
        notes["mutation.webhook.admission.k8s.io/round_0_index_0"],
        r#"{"configuration":"first","mutated":true,"webhook":"change.k8s.io"}"#
    );
    assert_eq!(notes["failed-open.validating.webhook.admission.k8s.io/round_0_index_1"], "open.k8s.io");
}

#[tokio::test]
async fn configurations_are_out_of_reach() {
    let server = WebhookServer::start(|_, question| reviewed(question, json!({"allowed": false}))).await;
    let cluster = Cluster::start().await;
    let all = with(
        hook("all.k8s.io", server.at("/"), &["*"], &["*/*"]),
        json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]}),
    );
    cluster.register("validating", "all", std::slice::from_ref(&all)).await;
    cluster.register("mutating", "all", std::slice::from_ref(&all)).await;
    assert!(server.seen().is_empty());
    cluster.post(CONFIG_MAPS, &config_map("a", "{}")).await.failure(400);
    // Questions about rights do not wait for webhooks either.
    let review = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#;
    cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await.expect(201);
    for sort in ["mutating", "validating"] {
        cluster.delete(&format!("{CONFIGURATIONS}/{sort}webhookconfigurations/all"), "").await.expect(200);
    }
    cluster.post(CONFIG_MAPS, &config_map("a", "{}")).await.expect(201);
    cluster.stop().await;
}

#[tokio::test]
async fn subresources_and_other_versions() {
    let server = WebhookServer::start(|path, question| match path {
        "/scale" => patched(question, &json!([{"op": "replace", "path": "/spec/replicas", "value": 2}])),
        "/attach" if question["request"]["object"]["container"] == "c" => {
            reviewed(question, json!({"allowed": false, "status": {"message": "attaching to pod is not allowed"}}))
        }
        _ => reviewed(question, json!({"allowed": true})),
    })
    .await;
    let cluster = Cluster::start().await;
    let in_apps = |name: &str, path: &str, resource: &str| {
        with(
            hook(name, server.at(path), &["*"], &[]),
            json!({"rules": [{"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": [resource]}]}),
        )
    };
    let of_events = with(
        hook("events.k8s.io", server.at("/events"), &["CREATE"], &[]),
        json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "resources": ["events"]}]}),
    );
    cluster
        .register(
            "mutating",
            "parts",
            &[
                in_apps("scale.k8s.io", "/scale", "deployments/scale"),
                hook("attach.k8s.io", server.at("/attach"), &["CONNECT"], &["pods/attach"]),
                hook("bind.k8s.io", server.at("/bind"), &["CREATE"], &["pods/binding", "pods/eviction"]),
                of_events,
            ],
        )
        .await;
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    cluster.post(deployments, &deployment.to_string()).await.expect(201);
    let scale = cluster
        .patch(&format!("{deployments}/d/scale"), "application/merge-patch+json", r#"{"spec":{"replicas":7}}"#)
        .await
        .expect(200);
    assert_eq!(scale["spec"]["replicas"], 2);
    let asked = &server.seen()[0]["body"]["request"];
    assert_eq!(asked["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&asked["subResource"], &asked["oldObject"]["spec"]["replicas"]), (&"scale".into(), &1.into()));

    cluster.post(PODS, &pod("p", "{}")).await.expect(201);
    let attach = cluster.send("POST", &format!("{PODS}/p/attach?container=c&stdin=true"), &[], "").await;
    assert_eq!(
        attach.failure(400).1,
        "admission webhook \"attach.k8s.io\" denied the request: attaching to pod is not allowed"
    );
    let asked = &server.seen()[1]["body"]["request"];
    assert_eq!(
        asked["object"],
        json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"})
    );
    assert_eq!((&asked["operation"], &asked["name"]), (&"CONNECT".into(), &"p".into()));
    let binding = r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#;
    cluster.post(&format!("{PODS}/p/binding"), binding).await.expect(201);
    assert_eq!(server.seen()[2]["body"]["request"]["object"]["target"]["name"], "n");

    let event = r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"message":"hello","reason":"r","type":"Normal"}"#;
    cluster.post("/api/v1/namespaces/default/events", event).await.expect(201);
    let asked = &server.seen()[3]["body"]["request"];
    assert_eq!(asked["kind"], json!({"group": "events.k8s.io", "version": "v1", "kind": "Event"}));
    assert_eq!(asked["requestKind"], json!({"group": "", "version": "v1", "kind": "Event"}));
    assert_eq!(
        (&asked["object"]["note"], &asked["object"]["apiVersion"]),
        (&"hello".into(), &"events.k8s.io/v1".into())
    );
    cluster.stop().await;
}

#[tokio::test]
async fn services_are_asked_at_their_endpoints() {
    let server = WebhookServer::start(|_, question| reviewed(question, json!({"allowed": false}))).await;
    let cluster = Cluster::start().await;
    let service = r#"{"metadata":{"name":"hook"},"spec":{"clusterIP":"None","ports":[{"name":"https","port":8443,"targetPort":1}]}}"#;
    cluster.post("/api/v1/namespaces/default/services", service).await.expect(201);
    let config = json!({
        "service": {"namespace": "default", "name": "hook", "port": 8443, "path": "/deny"}, "caBundle": server.bundle(),
    });
    cluster.register("validating", "deny", &[hook("by-service.k8s.io", config, &["CREATE"], &["configmaps"])]).await;
    let (_, message) = cluster.post(CONFIG_MAPS, &config_map("a", "{}")).await.failure(500);
    assert_eq!(
        message,
        "Internal error occurred: failed calling webhook \"by-service.k8s.io\": failed to call webhook: Post \"https://hook.default.svc:8443/deny?timeout=10s\": no endpoints available for service \"hook\""
    );
    cluster.put_endpoint("hook", "https", server.port).await;
    let (_, message) = cluster.post(CONFIG_MAPS, &config_map("a", "{}")).await.failure(400);
    assert_eq!(message, "admission webhook \"by-service.k8s.io\" denied the request without explanation");
    let seen = &server.seen()[0];
    assert_eq!((&seen["path"], &seen["host"]), (&"/deny?timeout=10s".into(), &"hook.default.svc:8443".into()));
    cluster.stop().await;
}
