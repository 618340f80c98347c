//! The whole life of a small object of every served kind: what upstream's conformance specs of API operations do with
//! the kinds that they are about, done with all of them.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use kobune_kinds::{Catalogue, Kind, Verb};
use serde_json::{Value, json};

use crate::{Cluster, samples};

const NAMESPACE: &str = "default";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Where a kind's collection is, for one namespace and for all.
fn paths(kind: &Kind) -> (String, String) {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let all = format!("{root}/{}/{}", kind.version, kind.plural);
    if kind.namespaced {
        (format!("{root}/{}/namespaces/{NAMESPACE}/{}", kind.version, kind.plural), all)
    } else {
        (all.clone(), all)
    }
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// A sample made whole: type, name and a label to find it by.
fn whole(kind: &Kind, sample: &Value) -> Value {
    let mut object = sample.clone();
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = (&*kind.kind).into();
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = "life".into();
    }
    object["metadata"]["labels"]["life"] = (&*kind.plural).into();
    object
}

async fn live(cluster: &Cluster, kind: &Kind, sample: &Value) {
    let (collection, everywhere) = paths(kind);
    let object = whole(kind, sample);
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    let one = format!("{collection}/{name}");

    let dry = cluster.post(&format!("{collection}?dryRun=All"), &object.to_string()).await.expect(201);
    assert_eq!(dry["metadata"]["name"], name.as_str(), "{one}");
    cluster.get(&one).await.failure(404);
    let created = cluster.post(&collection, &object.to_string()).await.expect(201);
    assert_eq!((&created["kind"], &created["apiVersion"]), (&object["kind"], &object["apiVersion"]), "{one}");
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(created["metadata"][field].is_string(), "{one} has no {field}: {created}");
    }
    assert_eq!(cluster.post(&collection, &object.to_string()).await.failure(409).0, "AlreadyExists", "{one}");
    // The server writes a definition's status as soon as it is there: the rest is about what it looks like then.
    let defines = &*kind.plural == "customresourcedefinitions";
    let created = if defines { cluster.established(&name).await } else { created };
    assert_eq!(cluster.get(&one).await.expect(200), created, "{one}");

    let selector = format!("labelSelector=life%3D{}", kind.plural);
    let found = format!("{everywhere}?{selector}");
    let list = cluster.get(&found).await.expect(200);
    assert_eq!(list["kind"], &*kind.list_kind, "{found}");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{found}: {list}");
    let table = cluster.send("GET", &found, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await;
    let table = table.expect(200);
    let columns = table["columnDefinitions"].as_array().map(Vec::len);
    assert_eq!(table["rows"][0]["cells"].as_array().map(Vec::len), columns, "{found}: {table}");

    let from = format!("{found}&watch=1&resourceVersion={}", revision(&created));
    let mut events = cluster.watch(&from, JSON).await;
    let patched = cluster.patch(&one, MERGE, r#"{"metadata":{"annotations":{"merged":"yes"}}}"#).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["merged"], "yes", "{one}");
    assert_eq!(events.told().await, ("MODIFIED".to_owned(), name.clone()), "{from}");
    let patched =
        cluster.patch(&one, STRATEGIC, r#"{"metadata":{"annotations":{"strategic":"yes"}}}"#).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["strategic"], "yes", "{one}");
    let applied = json!({"apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": name, "annotations": {"applied": "yes"}}});
    let applied = cluster.patch(&format!("{one}?fieldManager=life"), APPLY, &applied.to_string()).await.expect(200);
    assert_eq!(applied["metadata"]["annotations"]["applied"], "yes", "{one}");
    assert_eq!(
        applied["metadata"]["generation"], created["metadata"]["generation"],
        "annotations are no content: {one}"
    );

    let mut replaced = applied.clone();
    replaced["metadata"]["annotations"]["updated"] = "yes".into();
    let replaced = cluster.put(&one, &replaced).await.expect(200);
    assert_eq!(replaced["metadata"]["annotations"]["updated"], "yes", "{one}");
    assert_eq!(cluster.put(&one, &applied).await.failure(409).0, "Conflict", "{one}");
    let again = cluster.put(&one, &replaced).await.expect(200);
    assert_eq!(revision(&again), revision(&replaced), "an update that changes nothing writes nothing: {one}");

    if kind.subresource("status").is_some() {
        status(cluster, kind, &one).await;
    }
    if kind.verbs.contains(&Verb::DeleteCollection) {
        let selected = format!("{collection}?{selector}&gracePeriodSeconds=0");
        cluster.delete(&selected, "").await.expect(200);
    } else {
        cluster.delete(&format!("{one}?gracePeriodSeconds=0"), "").await.expect(200);
    }
    end(cluster, kind, &one).await;
    loop {
        let (sort, told) = events.told().await;
        assert_eq!(told, name, "{one}");
        if sort == "DELETED" {
            break;
        }
        assert_eq!(sort, "MODIFIED", "{one}");
    }
}

/// What the status endpoint may write, and that nothing else does.
async fn status(cluster: &Cluster, kind: &Kind, one: &str) {
    let endpoint = format!("{one}/status");
    let before = cluster.get(&endpoint).await.expect(200);
    let patch = json!({"status": samples::status(kind)});
    let patched = cluster.patch(&endpoint, MERGE, &patch.to_string()).await.expect(200);
    for (field, value) in patch["status"].as_object().into_iter().flatten() {
        // Items have nulls where nothing was set, as upstream writes them.
        let mut found = patched["status"][field].clone();
        for item in found.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            item.retain(|_, value| !value.is_null());
        }
        assert_eq!(&found, value, "{endpoint} writes {field}");
    }
    assert_eq!(patched["spec"], before["spec"], "{endpoint} leaves the spec");
    assert_eq!(patched["metadata"]["generation"], before["metadata"]["generation"], "{endpoint} is no new content");
    // The server itself writes conditions of some kinds, so the object may move on in between.
    let replace = async |path: &str, change: &dyn Fn(&mut Value)| loop {
        let mut whole = cluster.get(path).await.expect(200);
        let before = whole["status"].clone();
        change(&mut whole);
        let reply = cluster.put(path, &whole).await;
        if reply.status != 409 {
            break (before, reply.expect(200)["status"].clone());
        }
    };
    let (before, after) =
        replace(&endpoint, &|whole| whole["metadata"]["annotations"]["by-status"] = "yes".into()).await;
    assert_eq!(after, before, "{endpoint}");
    let without = |whole: &mut Value| {
        if let Some(fields) = whole.as_object_mut() {
            fields.remove("status");
        }
    };
    let (before, after) = replace(one, &without).await;
    // A node's status is written together with the node, by its kubelet.
    assert_eq!(after, before, "{one} does not write the status");
}

/// Lets go what holds a deleted object, as controllers do elsewhere.
async fn end(cluster: &Cluster, kind: &Kind, one: &str) {
    let reply = cluster.get(one).await;
    if reply.status == 404 {
        return;
    }
    let mut dying = reply.expect(200);
    assert!(dying["metadata"]["deletionTimestamp"].is_string(), "{one} is not deleted: {dying}");
    if &*kind.plural == "namespaces" {
        dying["spec"]["finalizers"] = json!([]);
        cluster.put(&format!("{one}/finalize"), &dying).await.expect(200);
    } else {
        assert!(dying["metadata"]["finalizers"].is_array(), "{one} is held by nothing: {dying}");
        let freed = cluster.patch(one, MERGE, r#"{"metadata":{"finalizers":null}}"#).await;
        // The server itself lets a definition go, when none of its objects are left.
        assert!(freed.status == 200 || freed.status == 404, "{one}: {}", freed.status);
    }
    cluster.get(one).await.failure(404);
}

#[tokio::test]
async fn every_stored_kind_lives_its_life() {
    let cluster = Cluster::start().await;
    let catalogue = Catalogue::builtin();
    let mut failed = Vec::new();
    for kind in catalogue.kinds().iter().filter(|kind| kind.stored) {
        // One kind that fails hides no other.
        if AssertUnwindSafe(live(&cluster, kind, &samples::object(kind))).catch_unwind().await.is_err() {
            failed.push(kind.group_resource());
        }
    }
    cluster.stop().await;
    assert!(failed.is_empty(), "these do not live their life: {failed:?}");
}

#[tokio::test]
async fn every_review_is_answered() {
    let cluster = Cluster::start().await;
    let catalogue = Catalogue::builtin();
    let reviews =
        |kind: &&std::sync::Arc<Kind>| !kind.stored && kind.verbs == [Verb::Create] && &*kind.kind != "Binding";
    for kind in catalogue.kinds().iter().filter(reviews) {
        let (collection, _) = paths(kind);
        let mut object = samples::object(kind);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = (&*kind.kind).into();
        let answer = cluster.post(&collection, &object.to_string()).await.expect(201);
        assert!(answer["status"].is_object(), "{collection}: {answer}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn components_are_listed() {
    let cluster = Cluster::start().await;
    let list = cluster.get("/api/v1/componentstatuses").await.expect(200);
    assert_eq!(list["kind"], "ComponentStatusList");
    let first = list["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let one = cluster.get(&format!("/api/v1/componentstatuses/{first}")).await.expect(200);
    assert_eq!(one["conditions"][0]["type"], "Healthy");
    cluster.get("/api/v1/componentstatuses/none").await.failure(404);
    cluster.stop().await;
}
