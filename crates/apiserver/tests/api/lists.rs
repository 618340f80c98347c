//! Lists: selectors, pages, forms.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{Cluster, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

async fn some_maps() -> Cluster {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.post(MAPS, &config_map(name, "{}")).await.expect(201);
    }
    cluster
}

#[tokio::test]
async fn selectors() {
    let cluster = some_maps().await;
    let check = async |query: &str, expected: &[&str]| {
        let list = cluster.get(&format!("{MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    };
    check("labelSelector=app%3Da", &["a"]).await;
    check("labelSelector=app+in+(a,c),app!%3Dc", &["a"]).await;
    check("labelSelector=!app", &[]).await;
    check("fieldSelector=metadata.name%3Dd", &["d"]).await;
    check("fieldSelector=metadata.name!%3Dd,metadata.namespace%3Ddefault&labelSelector=app", &["a", "b", "c", "e"])
        .await;
    cluster.post("/api/v1/namespaces/default/pods", &pod("p", "{}")).await.expect(201);
    let pending = cluster.get("/api/v1/pods?fieldSelector=spec.nodeName%3D,status.phase%3DPending").await.expect(200);
    assert_eq!(names(&pending), ["p"]);
    cluster.stop().await;
}

#[tokio::test]
async fn pages_show_one_state() {
    let cluster = some_maps().await;
    let first = cluster.get(&format!("{MAPS}?limit=2&labelSelector=app")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    let all = cluster.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(all["metadata"]["remainingItemCount"], 3);
    cluster.delete(&format!("{MAPS}/d"), "").await.expect(200);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = cluster.get(&format!("{MAPS}?limit=2&labelSelector=app&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c", "d"], "the page shows what was there at the first one");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = cluster.get(&format!("{MAPS}?limit=2&labelSelector=app&continue={token}")).await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert!(third["metadata"].get("continue").is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn a_lists_version_is_the_stores() {
    let cluster = some_maps().await;
    let list = cluster.get("/api/v1/nodes").await.expect(200);
    let newest = cluster.get(&format!("{MAPS}/e")).await.expect(200)["metadata"]["resourceVersion"].clone();
    assert_eq!(list["metadata"]["resourceVersion"], newest);
    assert_eq!(list["items"], serde_json::json!([]));
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"NodeList".into(), &"v1".into()));
    cluster.stop().await;
}

#[tokio::test]
async fn tables_and_metadata() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces/default/pods", &pod("p", r#"{"a":"b"}"#)).await.expect(201);
    let path = "/api/v1/namespaces/default/pods";
    let table = cluster.send("GET", path, &[("accept", TABLE)], "").await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "p");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let table =
        cluster.send("GET", &format!("{path}/p?includeObject=Object"), &[("accept", TABLE)], "").await.expect(200);
    assert_eq!(table["rows"][0]["object"]["kind"], "Pod");
    let partial = cluster.send("GET", path, &[("accept", PARTIAL)], "").await.expect(200);
    assert_eq!(
        (&partial["kind"], &partial["items"][0]["kind"]),
        (&"PartialObjectMetadataList".into(), &"PartialObjectMetadata".into())
    );
    assert_eq!(partial["items"][0]["metadata"]["labels"]["a"], "b");
    assert!(partial["items"][0].get("spec").is_none());
    let yaml = cluster.send("GET", &format!("{path}/p"), &[("accept", "application/yaml")], "").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: Pod"));
    cluster.stop().await;
}

#[tokio::test]
async fn long_lists_are_sent_in_pieces() {
    let cluster = Cluster::start().await;
    let filling = format!(r#"{{"k":"{}"}}"#, "x".repeat(60_000));
    for number in 0..8 {
        cluster.post(MAPS, &config_map(&format!("m{number}"), &filling)).await.expect(201);
    }
    let list = cluster.get(&format!("{MAPS}?labelSelector=app")).await.expect(200);
    assert_eq!(names(&list), ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"]);
    let zipped = cluster.send("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    assert!(zipped.bytes.len() < 20_000);
    cluster.stop().await;
}

#[tokio::test]
async fn old_pages_end_with_a_way_on() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d"] {
        cluster.post(MAPS, &config_map(name, "{}")).await.expect(201);
    }
    let page = async |token: &str| cluster.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = cluster.get(&format!("{MAPS}?limit=1")).await.expect(200);
    let version = text(&first, "/metadata/resourceVersion");
    // The same token as it looks when it was made long ago.
    let old = format!(r#"{{"v":"meta.k8s.io/v1","rv":{version},"start":"default/a","at":1}}"#);
    cluster.post(MAPS, &config_map("b2", "{}")).await.expect(201);
    let expired = page(&URL_SAFE_NO_PAD.encode(old)).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let second = page(&text(&expired, "/metadata/continue")).await.expect(200);
    assert_eq!(second["items"][0]["metadata"]["name"], "b");
    let newer = text(&second, "/metadata/resourceVersion");
    assert_ne!(newer, version);
    // From here on it is one list again: what comes now is not in it.
    cluster.post(MAPS, &config_map("b1", "{}")).await.expect(201);
    cluster.delete(&format!("{MAPS}/c"), "").await;
    let third = page(&text(&second, "/metadata/continue")).await.expect(200);
    assert_eq!(
        (text(&third, "/items/0/metadata/name"), text(&third, "/metadata/resourceVersion")),
        ("b2".into(), newer)
    );
    let fourth = page(&text(&third, "/metadata/continue")).await.expect(200);
    assert_eq!(fourth["items"][0]["metadata"]["name"], "c");
    cluster.stop().await;
}

#[tokio::test]
async fn options_that_do_not_go_together() {
    let cluster = Cluster::start().await;
    let check = async |query: &str, expected: &[&str]| {
        let status = cluster.get(&format!("{MAPS}?{query}")).await.expect(422);
        let causes: Vec<&str> = status["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|cause| cause["message"].as_str())
            .collect();
        assert_eq!(causes, expected, "{query}: {status}");
        assert_eq!(status["details"]["kind"], "ListOptions");
    };
    let unless = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
    let unsupported = "Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"";
    check("resourceVersionMatch=NotOlderThan", &[unless]).await;
    check("resourceVersionMatch=Newest", &[unless, unsupported]).await;
    check(
        "resourceVersionMatch=Exact&resourceVersion=0",
        &["Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""],
    )
    .await;
    check("sendInitialEvents=true", &["Forbidden: sendInitialEvents is forbidden for list"]).await;
    check(
        "watch=1&sendInitialEvents=true",
        &["Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"],
    )
    .await;
    check(
        "watch=1&resourceVersionMatch=NotOlderThan",
        &["Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"],
    )
    .await;
    let ahead = cluster.get(&format!("{MAPS}?resourceVersion=900000000000")).await.expect(504);
    assert_eq!(ahead["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let label = cluster.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.failure(400).1;
    assert_eq!(label, "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    cluster.stop().await;
}

#[tokio::test]
async fn events_are_selected_by_the_names_of_both_groups() {
    let cluster = Cluster::start().await;
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = serde_json::json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "r",
        "action": "Do", "note": "n", "type": "Normal", "reportingController": "example.com/c",
        "reportingInstance": "i", "eventTime": "2026-01-01T00:00:00.000000Z",
    });
    cluster.post(new, &event.to_string()).await.expect(201);
    let old = "/api/v1/namespaces/default/events";
    for (path, selector, count) in [
        (new, "reportingController%3Dexample.com/c", 1),
        (new, "reportingController%3Dother", 0),
        (new, "regarding.name%3Dp", 1),
        (old, "reportingComponent%3Dexample.com/c", 1),
        (old, "source%3Dexample.com/c", 1),
        (old, "involvedObject.name%3Dq", 0),
    ] {
        let list = cluster.get(&format!("{path}?fieldSelector={selector}")).await.expect(200);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(count), "{selector}");
    }
    cluster.get(&format!("{old}?fieldSelector=reportingController%3Dx")).await.failure(400);
    cluster.stop().await;
}
