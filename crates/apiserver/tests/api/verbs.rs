//! Create, get, update, the patches, delete.

use serde_json::{Value, json};

use crate::{Cluster, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a resource version")
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let cluster = Cluster::start().await;
    let made = cluster.post(MAPS, &config_map("a", r#"{"k":"1"}"#)).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    assert!(made["metadata"]["creationTimestamp"].is_string());
    let path = format!("{MAPS}/a");
    let got = cluster.get(&path).await.expect(200);
    assert_eq!(made, got);

    let mut changed = got.clone();
    changed["data"]["k"] = "2".into();
    let updated = cluster.put(&path, &changed).await.expect(200);
    assert!(version(&updated) > version(&got));
    let again = cluster.put(&path, &updated).await.expect(200);
    assert_eq!(version(&again), version(&updated), "nothing changed, so nothing is written");
    let (reason, message) = cluster.put(&path, &changed).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let gone = cluster.delete(&path, "").await.expect(200);
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&"Success".into(), &"configmaps".into()));
    let (reason, message) = cluster.get(&path).await.failure(404);
    assert_eq!((reason.as_str(), message.as_str()), ("NotFound", "configmaps \"a\" not found"));
    cluster.stop().await;
}

#[tokio::test]
async fn names_are_generated_and_taken() {
    let cluster = Cluster::start().await;
    let made = cluster.post(MAPS, r#"{"metadata":{"generateName":"x-"}}"#).await.expect(201);
    assert!(made["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("x-") && name.len() == 7), "{made}");
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let (reason, message) = cluster.post(MAPS, &config_map("a", "{}")).await.failure(409);
    assert_eq!((reason.as_str(), message.as_str()), ("AlreadyExists", "configmaps \"a\" already exists"));
    cluster.stop().await;
}

#[tokio::test]
async fn patches() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", r#"{"k":"1","l":"2"}"#)).await.expect(201);
    let path = format!("{MAPS}/a");
    let merged =
        cluster.patch(&path, "application/merge-patch+json", r#"{"data":{"k":null,"m":"3"}}"#).await.expect(200);
    assert_eq!(merged["data"], json!({"l": "2", "m": "3"}));
    let patched = cluster
        .patch(
            &path,
            "application/json-patch+json",
            r#"[{"op":"test","path":"/data/l","value":"2"},{"op":"replace","path":"/data/l","value":"4"}]"#,
        )
        .await
        .expect(200);
    assert_eq!(patched["data"], json!({"l": "4", "m": "3"}));
    cluster
        .patch(&path, "application/json-patch+json", r#"[{"op":"test","path":"/data/l","value":"9"}]"#)
        .await
        .failure(422);
    let stale = r#"{"metadata":{"resourceVersion":"1"},"data":{"k":"1"}}"#;
    assert_eq!(cluster.patch(&path, "application/merge-patch+json", stale).await.failure(409).0, "Conflict");
    let same = cluster.patch(&path, "application/merge-patch+json", r#"{"data":{"m":"3"}}"#).await.expect(200);
    assert_eq!(version(&same), version(&patched));

    cluster.post(PODS, &pod("p", r#"{"a":"b"}"#)).await.expect(201);
    let strategic =
        r#"{"metadata":{"labels":{"c":"d"}},"spec":{"containers":[{"name":"c","image":"example.com/app:v2"}]}}"#;
    let patched =
        cluster.patch(&format!("{PODS}/p"), "application/strategic-merge-patch+json", strategic).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"a": "b", "c": "d"}));
    assert_eq!(patched["spec"]["containers"][0]["image"], "example.com/app:v2");
    assert_eq!(patched["spec"]["containers"].as_array().map(Vec::len), Some(1));
    cluster.stop().await;
}

#[tokio::test]
async fn apply_creates_owns_and_conflicts() {
    let cluster = Cluster::start().await;
    let path = format!("{MAPS}/a?fieldManager=one");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: '1'\n";
    let made = cluster.patch(&path, "application/apply-patch+yaml", yaml).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = cluster.patch(&path, "application/apply-patch+yaml", yaml).await.expect(200);
    assert_eq!(version(&again), version(&made));
    let other = yaml.replace("'1'", "'2'");
    let (reason, message) =
        cluster.patch(&format!("{MAPS}/a?fieldManager=two"), "application/apply-patch+yaml", &other).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert!(message.starts_with("Apply failed with 1 conflict: conflict with \"one\""), "{message}");
    let forced = cluster
        .patch(&format!("{MAPS}/a?fieldManager=two&force=true"), "application/apply-patch+yaml", &other)
        .await
        .expect(200);
    assert_eq!(forced["data"]["k"], "2");
    cluster.patch(&format!("{MAPS}/a"), "application/apply-patch+yaml", yaml).await.failure(422);
    cluster.stop().await;
}

#[tokio::test]
async fn dry_runs_keep_nothing() {
    let cluster = Cluster::start().await;
    let made = cluster.post(&format!("{MAPS}?dryRun=All"), &config_map("a", "{}")).await.expect(201);
    assert!(made["metadata"]["uid"].is_string());
    cluster.get(&format!("{MAPS}/a")).await.failure(404);
    cluster.post(MAPS, &config_map("a", r#"{"k":"1"}"#)).await.expect(201);
    let patched = cluster
        .patch(&format!("{MAPS}/a?dryRun=All"), "application/merge-patch+json", r#"{"data":{"k":"2"}}"#)
        .await
        .expect(200);
    assert_eq!(patched["data"]["k"], "2");
    cluster.delete(&format!("{MAPS}/a?dryRun=All"), "").await.expect(200);
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.expect(200)["data"]["k"], "1");
    cluster.post(&format!("{MAPS}?dryRun=Some"), &config_map("b", "{}")).await.failure(422);
    cluster.stop().await;
}

#[tokio::test]
async fn finalizers_and_preconditions() {
    let cluster = Cluster::start().await;
    let body = r#"{"metadata":{"name":"a","finalizers":["example.com/wait"]}}"#;
    let made = cluster.post(MAPS, body).await.expect(201);
    let path = format!("{MAPS}/a");
    let wrong = r#"{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}"#;
    assert_eq!(cluster.delete(&path, wrong).await.failure(409).0, "Conflict");
    let dying = cluster.delete(&path, "").await.expect(200);
    assert!(dying["metadata"]["deletionTimestamp"].is_string(), "{dying}");
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"]}}).to_string();
    cluster.delete(&path, &right).await.expect(200);
    cluster.patch(&path, "application/merge-patch+json", r#"{"metadata":{"finalizers":null}}"#).await.expect(200);
    cluster.get(&path).await.failure(404);
    cluster.stop().await;
}

#[tokio::test]
async fn pods_wait_for_their_node() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("a", "{}")).await.expect(201);
    let binding =
        r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"a"},"target":{"kind":"Node","name":"n1"}}"#;
    cluster.post(&format!("{PODS}/a/binding"), binding).await.expect(201);
    let (_, message) = cluster.post(&format!("{PODS}/a/binding"), binding).await.failure(409);
    assert!(message.ends_with("pod a is already assigned to node \"n1\""), "{message}");
    let bound = cluster.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let dying = cluster.delete(&format!("{PODS}/a"), "").await.expect(200);
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 30);
    cluster.get(&format!("{PODS}/a")).await.expect(200);
    cluster.delete(&format!("{PODS}/a"), r#"{"gracePeriodSeconds":0}"#).await.expect(200);
    cluster.get(&format!("{PODS}/a")).await.failure(404);
    cluster.stop().await;
}

#[tokio::test]
async fn status_and_generation() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = r#"{"metadata":{"name":"web"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}},"status":{"replicas":9}}"#;
    let made = cluster.post(path, body).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(made["status"].get("replicas").is_none_or(|replicas| replicas == 0), "{made}");
    let one = format!("{path}/web");
    let status = cluster
        .patch(
            &format!("{one}/status"),
            "application/merge-patch+json",
            r#"{"spec":{"replicas":7},"status":{"replicas":2}}"#,
        )
        .await
        .expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"], &status["metadata"]["generation"]),
        (&2.into(), &2.into(), &1.into())
    );
    let scaled = cluster
        .patch(&format!("{one}/scale"), "application/merge-patch+json", r#"{"spec":{"replicas":5}}"#)
        .await
        .expect(200);
    assert_eq!(
        (&scaled["kind"], &scaled["spec"]["replicas"], &scaled["status"]["selector"]),
        (&"Scale".into(), &5.into(), &"a=b".into())
    );
    let after = cluster.get(&one).await.expect(200);
    assert_eq!(
        (&after["spec"]["replicas"], &after["status"]["replicas"], &after["metadata"]["generation"]),
        (&5.into(), &2.into(), &2.into())
    );
    cluster.stop().await;
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.post(MAPS, &config_map(name, "{}")).await.expect(201);
    }
    let gone = cluster.delete(&format!("{MAPS}?labelSelector=app+in+(a,b)"), "").await.expect(200);
    assert_eq!(gone["items"].as_array().map(Vec::len), Some(2));
    let left = cluster.get(&format!("{MAPS}?labelSelector=app")).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    cluster.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_over_a_restart() {
    let cluster = Cluster::start().await;
    let made = cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let cluster = cluster.restart().await;
    let again = cluster.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(made, again);
    let list = cluster.get(&format!("{MAPS}?labelSelector=app%3Da")).await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert!(version(&list) >= version(&made));
    let next = cluster.post(MAPS, &config_map("b", "{}")).await.expect(201);
    assert!(version(&next) > version(&list));
    cluster.stop().await;
}
