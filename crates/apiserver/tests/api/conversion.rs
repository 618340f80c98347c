//! Conversion webhooks, after upstream's `test/e2e/apimachinery/crd_conversion_webhook.go`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::webhook_server::{Said, WebhookServer, patched};
use super::{Cluster, Reply};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/berths";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/berths";
const MERGE: &str = "application/merge-patch+json";
const NAME: &str = "berths.stable.example.com";

/// A version with its own fields beside a status and a scale.
fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    let own = fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"})));
    let mut properties: serde_json::Map<String, Value> = own.collect();
    let replicas = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
    properties.insert("spec".to_owned(), replicas.clone());
    properties.insert("status".to_owned(), replicas);
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "selectableFields": [{"jsonPath": format!(".{}", fields[0])}],
        "additionalPrinterColumns": [{"name": "First", "type": "string", "jsonPath": format!(".{}", fields[0])}],
    })
}

/// Berths are `hostPort` in v1, `host` and `port` in v2; one of the two is stored.
fn definition(storage: &str, client: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "berths", "kind": "Berth"},
            "versions": [
                version("v1", storage == "v1", &["hostPort"]), version("v2", storage == "v2", &["host", "port"]),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1", "v1beta1"]}},
        },
    })
}

/// One object in the other version.
fn converted(object: &Value, desired: &Value) -> Value {
    let mut object = object.clone();
    let fields = object.as_object_mut().expect("an object");
    if desired == "stable.example.com/v2" {
        if let Some(Value::String(text)) = fields.remove("hostPort") {
            let (host, port) = text.split_once(':').expect("host:port");
            fields.insert("host".to_owned(), host.into());
            fields.insert("port".to_owned(), port.into());
        }
    } else if let (Some(Value::String(host)), Some(Value::String(port))) =
        (fields.remove("host"), fields.remove("port"))
    {
        fields.insert("hostPort".to_owned(), format!("{host}:{port}").into());
    }
    // What a conversion may change, and what is put back.
    object["metadata"]["annotations"] = json!({"seen-as": desired});
    object["metadata"]["generation"] = 99.into();
    object["apiVersion"] = desired.clone();
    object
}

/// What upstream's `agnhost crd-conversion-webhook` does.
fn convert(review: &Value) -> Said {
    let request = &review["request"];
    let desired = &request["desiredAPIVersion"];
    let objects = request["objects"].as_array().expect("a list");
    assert!(objects.iter().all(|object| object["apiVersion"] != *desired), "nothing to convert: {review}");
    let objects: Vec<Value> = objects.iter().map(|object| converted(object, desired)).collect();
    Said::Json(json!({
        "apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects},
    }))
}

fn berth(version: &str, name: &str, fields: Value) -> String {
    let mut object = json!({
        "apiVersion": format!("stable.example.com/{version}"), "kind": "Berth",
        "metadata": {"name": name, "labels": {"app": "berth"}},
    });
    for (field, value) in fields.as_object().expect("fields") {
        object[field] = value.clone();
    }
    object.to_string()
}

impl Cluster {
    async fn with_berths(server: &WebhookServer) -> Cluster {
        let cluster = Cluster::start().await;
        cluster.post(DEFINITIONS, &definition("v1", server.at("/crdconvert")).to_string()).await.expect(201);
        cluster.established(NAME).await;
        cluster
    }

    async fn store_as(&self, version: &str, server: &WebhookServer) {
        let spec = &definition(version, server.at("/crdconvert"))["spec"];
        self.patch(&format!("{DEFINITIONS}/{NAME}"), MERGE, &json!({"spec": spec}).to_string()).await.expect(200);
    }

    async fn apply_berth(&self, path: &str, manager: &str, body: &str) -> Reply {
        self.patch(&format!("{path}?fieldManager={manager}"), "application/apply-patch+yaml", body).await
    }
}

fn v1(object: &Value) -> (&Value, &Value, &Value) {
    (&object["apiVersion"], &object["hostPort"], &object["host"])
}

fn v2(object: &Value) -> (&Value, &Value, &Value, &Value) {
    (&object["apiVersion"], &object["hostPort"], &object["host"], &object["port"])
}

#[tokio::test]
async fn objects_are_read_and_written_in_both_versions() {
    let server = WebhookServer::start(|_, review| convert(review)).await;
    let cluster = Cluster::with_berths(&server).await;
    let is_v1 = (&json!("stable.example.com/v1"), &json!("localhost:8080"), &Value::Null);
    let is_v2 = (&json!("stable.example.com/v2"), &Value::Null, &json!("localhost"), &json!("8080"));

    let made = cluster.post(V1, &berth("v1", "a", json!({"hostPort": "localhost:8080"}))).await.expect(201);
    assert_eq!(v1(&made), is_v1);
    assert_eq!(v1(&cluster.get(&format!("{V1}/a")).await.expect(200)), is_v1);
    assert_eq!(server.seen().len(), 0, "the stored version needs no webhook");
    let read = cluster.get(&format!("{V2}/a")).await.expect(200);
    assert_eq!(v2(&read), is_v2);
    let metadata = &read["metadata"];
    assert_eq!(
        (&metadata["generation"], &metadata["annotations"]["seen-as"]),
        (&1.into(), &"stable.example.com/v2".into())
    );
    assert_eq!(
        (&metadata["uid"], &metadata["resourceVersion"]),
        (&made["metadata"]["uid"], &made["metadata"]["resourceVersion"])
    );

    // What is written in the other version is checked in it, stored in the first, and shown in the other again.
    let made =
        cluster.post(V2, &berth("v2", "b", json!({"host": "localhost", "port": "8080", "x": 1}))).await.expect(201);
    assert_eq!((v2(&made), made.get("x")), (is_v2, None));
    assert_eq!(v1(&cluster.get(&format!("{V1}/b")).await.expect(200)), is_v1);
    let path = format!("{V2}/a");
    let patched = cluster.patch(&path, MERGE, r#"{"port":"9"}"#).await.expect(200);
    assert_eq!((&patched["port"], &patched["metadata"]["generation"]), (&"9".into(), &2.into()));
    assert_eq!(cluster.get(&format!("{V1}/a")).await.expect(200)["hostPort"], "localhost:9");
    let json_patch =
        r#"[{"op":"test","path":"/host","value":"localhost"},{"op":"replace","path":"/port","value":"8080"}]"#;
    cluster.patch(&path, "application/json-patch+json", json_patch).await.expect(200);
    let mut whole = cluster.get(&path).await.expect(200);
    whole["host"] = "other".into();
    assert_eq!(cluster.put(&path, &whole).await.expect(200)["host"], "other");
    let applied = cluster.apply_berth(&path, "m", &berth("v2", "a", json!({"port": "1"}))).await.failure(409);
    assert_eq!(applied.0, "Conflict");
    let forced = format!("{path}?fieldManager=m&force=true");
    let body = berth("v2", "a", json!({"host": "localhost", "port": "8080"}));
    assert_eq!(v2(&cluster.patch(&forced, "application/apply-patch+yaml", &body).await.expect(200)), is_v2);
    let new = cluster.apply_berth(&format!("{V2}/c"), "m", &berth("v2", "c", json!({"host": "h", "port": "1"}))).await;
    assert_eq!(new.expect(201)["host"], "h");

    let status =
        cluster.patch(&format!("{path}/status"), MERGE, r#"{"status":{"replicas":4},"port":"0"}"#).await.expect(200);
    assert_eq!((&status["status"]["replicas"], &status["port"]), (&4.into(), &"8080".into()));
    let scale = cluster.patch(&format!("{path}/scale"), MERGE, r#"{"spec":{"replicas":3}}"#).await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["replicas"]),
        (&"Scale".into(), &3.into(), &4.into())
    );
    let dry = cluster.patch(&format!("{path}?dryRun=All"), MERGE, r#"{"port":"7"}"#).await.expect(200);
    assert_eq!((&dry["port"], &dry["apiVersion"]), (&"7".into(), &"stable.example.com/v2".into()));
    let metadata = [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
    let before = server.seen().len();
    let partial = cluster.send("GET", &path, &metadata, "").await.expect(200);
    assert_eq!((&partial["kind"], &partial["metadata"]["name"]), (&"PartialObjectMetadata".into(), &"a".into()));
    assert_eq!(server.seen().len(), before, "metadata is shown as it is stored");
    let gone = cluster.delete(&path, "").await.expect(200);
    assert_eq!(gone["status"], "Success");

    let review = &server.seen()[0];
    assert_eq!(review["path"], "/crdconvert");
    assert_eq!(
        (&review["body"]["kind"], &review["body"]["apiVersion"]),
        (&"ConversionReview".into(), &"apiextensions.k8s.io/v1".into())
    );
    let metrics = cluster.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(text.contains(r#"apiserver_conversion_webhook_request_total{failure_type="",result="success"}"#), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn lists_of_mixed_versions() {
    let server = WebhookServer::start(|_, review| convert(review)).await;
    let cluster = Cluster::with_berths(&server).await;
    for at in 0..3 {
        let object = berth("v1", &format!("a{at}"), json!({"hostPort": format!("h{at}:8080")}));
        cluster.post(V1, &object).await.expect(201);
    }
    let mut old = cluster.watch(&format!("{V1}?watch=1"), "application/json").await;
    for _ in 0..3 {
        old.told().await;
    }
    cluster.store_as("v2", &server).await;
    assert_eq!(old.next().await, None, "watches begin anew with the new storage version");
    let stored = cluster.get(&format!("{DEFINITIONS}/{NAME}")).await.expect(200);
    assert_eq!(stored["status"]["storedVersions"], json!(["v1", "v2"]));
    cluster.post(V1, &berth("v1", "b", json!({"hostPort": "h9:8080"}))).await.expect(201);

    let before = server.seen().len();
    let list = cluster.get(V2).await.expect(200);
    assert_eq!(list["apiVersion"], "stable.example.com/v2");
    let hosts = |list: &Value, field: &str| -> Vec<String> {
        let items = list["items"].as_array().expect("a list").iter();
        items.map(|item| item[field].as_str().unwrap_or("none").to_owned()).collect()
    };
    assert_eq!(hosts(&list, "host"), ["h0", "h1", "h2", "h9"]);
    assert_eq!(server.seen().len(), before + 1, "one question for all that are stored in the other version");
    assert_eq!(server.seen()[before]["body"]["request"]["objects"].as_array().map(Vec::len), Some(3));
    let list = cluster.get(V1).await.expect(200);
    assert_eq!(hosts(&list, "hostPort"), ["h0:8080", "h1:8080", "h2:8080", "h9:8080"]);
    let page = cluster.get(&format!("{V1}?limit=3")).await.expect(200);
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    let token = page["metadata"]["continue"].as_str().expect("a token");
    assert_eq!(
        hosts(&cluster.get(&format!("{V1}?limit=3&continue={token}")).await.expect(200), "hostPort"),
        ["h9:8080"]
    );
    // Fields are selected in the version that is asked for.
    let chosen = cluster.get(&format!("{V2}?fieldSelector=host%3Dh1")).await.expect(200);
    assert_eq!(hosts(&chosen, "port"), ["8080"]);
    let chosen = cluster.get(&format!("{V1}?limit=1&fieldSelector=hostPort%3Dh9:8080")).await.expect(200);
    assert_eq!(hosts(&chosen, "hostPort"), ["h9:8080"]);
    assert_eq!(chosen["metadata"].get("continue"), None);
    let named = cluster.get(&format!("{V1}?fieldSelector=metadata.name%3Da1")).await.expect(200);
    assert_eq!(hosts(&named, "hostPort"), ["h1:8080"]);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.send("GET", V2, &table, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["a0", "h0"]));

    // A write that changes nothing moves the object into the storage version; the next one is none.
    let path = format!("{V2}/a0");
    let object = cluster.get(&path).await.expect(200);
    let moved = cluster.put(&path, &object).await.expect(200);
    assert_ne!(moved["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    let before = server.seen().len();
    let again = cluster.put(&path, &moved).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"]);
    assert_eq!(server.seen().len(), before, "it is stored as it is read now");

    let gone = cluster.delete(&format!("{V1}?fieldSelector=hostPort%3Dh1:8080"), "").await.expect(200);
    assert_eq!(hosts(&gone, "hostPort"), ["h1:8080"]);
    assert_eq!(hosts(&cluster.get(V2).await.expect(200), "host"), ["h0", "h2", "h9"]);
    cluster.stop().await;
}

#[tokio::test]
async fn watchers_see_their_version() {
    let server = WebhookServer::start(|_, review| convert(review)).await;
    let cluster = Cluster::with_berths(&server).await;
    cluster.post(V1, &berth("v1", "a", json!({"hostPort": "h1:1"}))).await.expect(201);
    let mut all = cluster.watch(&format!("{V2}?watch=1"), "application/json").await;
    let mut chosen = cluster.watch(&format!("{V2}?watch=1&fieldSelector=host%3Dh1"), "application/json").await;
    for events in [&mut all, &mut chosen] {
        let event = events.next().await.expect("an event");
        assert_eq!((&event["type"], &event["object"]["host"]), (&"ADDED".into(), &"h1".into()));
    }
    let path = format!("{V1}/a");
    cluster.patch(&path, MERGE, r#"{"hostPort":"h1:2"}"#).await.expect(200);
    for events in [&mut all, &mut chosen] {
        let event = events.next().await.expect("an event");
        assert_eq!((&event["type"], &event["object"]["port"]), (&"MODIFIED".into(), &"2".into()));
    }
    cluster.patch(&path, MERGE, r#"{"hostPort":"h2:2"}"#).await.expect(200);
    let event = all.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["host"]), (&"MODIFIED".into(), &"h2".into()));
    let event = chosen.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["host"]), (&"DELETED".into(), &"h1".into()));
    assert_eq!(event["object"]["apiVersion"], "stable.example.com/v2");
    cluster.delete(&path, "").await.expect(200);
    assert_eq!(all.next().await.expect("an event")["type"], "DELETED");
    let text = String::from_utf8_lossy(&cluster.get("/metrics").await.bytes).into_owned();
    let line = r#"apiserver_watch_events_total{group="stable.example.com",resource="berths",version="v2"} 7"#;
    assert!(text.lines().any(|found| found == line), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn failures_are_told_and_stop_nobody_else() {
    let works = Arc::new(AtomicBool::new(false));
    let server = WebhookServer::start({
        let works = Arc::clone(&works);
        move |_, review| match works.load(Ordering::SeqCst) {
            true => convert(review),
            false => {
                let uid = &review["request"]["uid"];
                let result = json!({"status": "Failed", "message": "out of order"});
                Said::Json(json!({
                    "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                    "response": {"uid": uid, "result": result},
                }))
            }
        }
    })
    .await;
    let cluster = Cluster::with_berths(&server).await;
    cluster.post(V1, &berth("v1", "a", json!({"hostPort": "h:1"}))).await.expect(201);
    let words = "conversion webhook for stable.example.com/v1, Kind=Berth failed: out of order";
    let path = format!("{V2}/a");
    for reply in [cluster.get(&path).await, cluster.get(V2).await, cluster.patch(&path, MERGE, "{}").await] {
        assert_eq!(reply.failure(500).1, words);
    }
    let refused = cluster.post(V2, &berth("v2", "b", json!({"host": "h"}))).await.failure(500);
    assert_eq!(refused.1, words.replace("v1", "v2"));
    cluster.get(&format!("{V1}/b")).await.failure(404);
    let mut events = cluster.watch(&format!("{V2}?watch=1"), "application/json").await;
    let event = events.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["message"]), (&"ERROR".into(), &words.into()));
    assert_eq!(events.next().await, None);
    cluster.patch(&format!("{V1}/a"), MERGE, r#"{"hostPort":"h:2"}"#).await.expect(200);
    // Those who look after metadata alone go on.
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = cluster.send("GET", V2, &[("accept", metadata)], "").await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    works.store(true, Ordering::SeqCst);
    assert_eq!(cluster.get(&path).await.expect(200)["port"], "2");
    // A definition can be deleted although nothing can be converted any more.
    works.store(false, Ordering::SeqCst);
    cluster.store_as("v2", &server).await;
    let mut definitions = cluster.watch(&format!("{DEFINITIONS}?watch=1"), "application/json").await;
    cluster.delete(&format!("{DEFINITIONS}/{NAME}"), "").await.expect(200);
    while definitions.next().await.expect("the watch goes on")["type"] != "DELETED" {}
    cluster.stop().await;
}

#[tokio::test]
async fn webhooks_of_admission_see_the_version_of_their_rules() {
    let server = WebhookServer::start(|path, question| match path {
        "/crdconvert" => convert(question),
        _ => {
            assert_eq!(question["request"]["object"]["hostPort"], "h:1");
            assert_eq!(question["request"]["kind"]["version"], "v1");
            assert_eq!(question["request"]["requestKind"]["version"], "v2");
            patched(question, &json!([{"op": "replace", "path": "/hostPort", "value": "changed:2"}]))
        }
    })
    .await;
    let cluster = Cluster::with_berths(&server).await;
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "m"},
        "webhooks": [{
            "name": "berths.example.com", "clientConfig": server.at("/mutate"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["CREATE"], "apiGroups": ["stable.example.com"], "apiVersions": ["v1"], "resources": ["berths"]}],
        }],
    });
    let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    cluster.post(configurations, &hook.to_string()).await.expect(201);
    let made = cluster.post(V2, &berth("v2", "a", json!({"host": "h", "port": "1"}))).await.expect(201);
    assert_eq!((&made["host"], &made["port"]), (&"changed".into(), &"2".into()));
    cluster.stop().await;
}
