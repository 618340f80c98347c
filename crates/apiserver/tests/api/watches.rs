//! Watches: what they begin with, how selectors turn changes into comings and goings, and how they end.

use serde_json::json;

use crate::{Cluster, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

fn told(word: &str, name: &str) -> (String, String) {
    (word.to_owned(), name.to_owned())
}

#[tokio::test]
async fn events_come_in_order() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let mut all = cluster.watch(&format!("{MAPS}?watch=1"), JSON).await;
    assert_eq!(all.told().await, told("ADDED", "a"));
    let version =
        cluster.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut since = cluster.watch(&format!("{MAPS}?watch=true&resourceVersion={version}"), JSON).await;
    cluster.post(MAPS, &config_map("b", "{}")).await.expect(201);
    cluster.patch(&format!("{MAPS}/a"), "application/merge-patch+json", r#"{"data":{"k":"1"}}"#).await.expect(200);
    let gone = cluster.delete(&format!("{MAPS}/b"), "").await;
    assert_eq!(gone.status, 200);
    for events in [&mut all, &mut since] {
        assert_eq!(events.told().await, told("ADDED", "b"));
        assert_eq!(events.told().await, told("MODIFIED", "a"));
        let deleted = events.next().await.expect("an event");
        assert_eq!(deleted["type"], "DELETED");
        let deleting: u64 = deleted["object"]["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a version");
        assert!(deleting > version.parse().expect("a number"));
    }
    cluster.stop().await;
    assert_eq!(all.next().await, None, "a watch ends with the server");
}

#[tokio::test]
async fn selectors_turn_changes_into_comings_and_goings() {
    let cluster = Cluster::start().await;
    let version =
        cluster.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut events =
        cluster.watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dx&resourceVersion={version}"), JSON).await;
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let label = async |value: &str| {
        let body = json!({"metadata": {"labels": {"app": value}}}).to_string();
        cluster.patch(&format!("{MAPS}/a"), "application/merge-patch+json", &body).await.expect(200)
    };
    label("x").await;
    assert_eq!(events.told().await, told("ADDED", "a"));
    cluster.patch(&format!("{MAPS}/a"), "application/merge-patch+json", r#"{"data":{"k":"1"}}"#).await.expect(200);
    assert_eq!(events.told().await, told("MODIFIED", "a"));
    let left = label("y").await;
    let event = events.next().await.expect("an event");
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "x", "the last state that matched");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    cluster.stop().await;
}

#[tokio::test]
async fn lists_by_watch_end_with_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app"
    );
    let mut events = cluster.watch(&path, JSON).await;
    assert_eq!(events.told().await, told("ADDED", "a"));
    let bookmark = events.next().await.expect("an event");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.post(MAPS, &config_map("b", "{}")).await.expect(201);
    assert_eq!(events.told().await, told("ADDED", "b"));
    cluster.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.failure(422);
    cluster.stop().await;
}

#[tokio::test]
async fn old_versions_get_an_error_event() {
    // A store that starts again does not remember past events.
    let cluster = Cluster::start().await.restart().await;
    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion=1"), JSON).await;
    let event = events.next().await.expect("an event");
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&410.into(), &"Expired".into()));
    assert_eq!(events.next().await, None);
    cluster.stop().await;
}

#[tokio::test]
async fn tables_are_watched_too() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut events = cluster.watch(&format!("{pods}?watch=1"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    cluster.post(pods, &pod("a", "{}")).await.expect(201);
    cluster.post(pods, &pod("b", "{}")).await.expect(201);
    let first = events.next().await.expect("an event");
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&"Table".into(), &"a".into()));
    assert!(first["object"]["columnDefinitions"].is_array());
    let second = events.next().await.expect("an event");
    assert!(second["object"]["columnDefinitions"].is_null());
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_from_nowhere_says_where_the_beginning_ends() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let longest = i64::MAX;
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion=0&timeoutSeconds={longest}");
    let old_table = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    let mut events = cluster.watch(&path, old_table).await;
    let first = events.next().await.expect("an event");
    assert_eq!((&first["type"], &first["object"]["apiVersion"]), (&"ADDED".into(), &"meta.k8s.io/v1beta1".into()));
    let end = events.next().await.expect("an event");
    assert_eq!(end["type"], "BOOKMARK");
    let metadata = &end["object"]["rows"][0]["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.stop().await;
}
