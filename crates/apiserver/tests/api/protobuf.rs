//! Objects, lists, watches and errors in protobuf, as client-go asks for them.

use kobune_kinds::{
    Catalogue,
    protobuf::{self, MEDIA},
    schema::Types,
};
use serde_json::{Value, json};

use crate::{Cluster, Reply, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What client-go sends.
const ACCEPT: &str = "application/vnd.kubernetes.protobuf,application/json";

fn decoded(bytes: &[u8], type_name: &str) -> Value {
    let schema = Types::builtin().named(type_name).expect("a type");
    protobuf::decode(bytes, schema).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
}

const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

#[track_caller]
fn expect(reply: &Reply, status: u16, type_name: &str) -> Value {
    assert_eq!(reply.status.as_u16(), status, "{}", String::from_utf8_lossy(&reply.bytes));
    assert_eq!(reply.headers["content-type"], MEDIA);
    decoded(&reply.bytes, type_name)
}

/// The length-delimited fields of a message.
fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some((&tag, rest)) = bytes.split_first() {
        assert_eq!(tag & 7, 2, "only such fields are looked at here");
        let (mut length, mut shift, mut rest) = (0usize, 0, rest);
        while let Some((&byte, more)) = rest.split_first() {
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            rest = more;
            if byte & 0x80 == 0 {
                break;
            }
        }
        found.push((tag >> 3, &rest[..length]));
        bytes = &rest[length..];
    }
    found
}

/// The items of a list, each as an object in an envelope of its own.
fn items(list: &[u8]) -> Vec<Vec<u8>> {
    let envelope = fields(list.strip_prefix(b"k8s\0").expect("the magic"));
    let raw = envelope.iter().find(|(number, _)| *number == 2).expect("the content").1;
    let wrap = |item: &[u8]| {
        let mut length = item.len();
        let mut out = b"k8s\0\x12".to_vec();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(item);
        out
    };
    fields(raw).into_iter().filter(|(number, _)| *number == 2).map(|(_, item)| wrap(item)).collect()
}

#[tokio::test]
async fn objects_go_both_ways() {
    let cluster = Cluster::start().await;
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("v1", "ConfigMap").expect("built in");
    let mut body = Vec::new();
    protobuf::object(&mut body, "v1", "ConfigMap", kind.schema(), config_map("a", r#"{"k":"v"}"#).as_bytes())
        .expect("a body");
    let headers = [("content-type", MEDIA), ("accept", ACCEPT)];
    let created = cluster.send_bytes(cluster.admin(), "POST", MAPS, &headers, &body).await;
    let created = expect(&created, 201, CONFIG_MAP);
    assert_eq!((&created["kind"], &created["data"]), (&"ConfigMap".into(), &json!({"k": "v"})));
    let got = cluster.send("GET", &format!("{MAPS}/a"), &[("accept", ACCEPT)], "").await;
    assert_eq!(expect(&got, 200, CONFIG_MAP), cluster.get(&format!("{MAPS}/a")).await.expect(200));
    let twice = cluster.send_bytes(cluster.admin(), "POST", MAPS, &headers, &body).await;
    let status = expect(&twice, 409, STATUS);
    assert_eq!((&status["kind"], &status["reason"]), (&"Status".into(), &"AlreadyExists".into()));
    let mut options = Vec::new();
    let wanted = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    protobuf::value(&mut options, &wanted).expect("a body");
    let path = format!("{MAPS}/a");
    let refused = cluster.send_bytes(cluster.admin(), "DELETE", &path, &headers, &options).await;
    assert_eq!(expect(&refused, 409, STATUS)["reason"], "Conflict");
    let deleted = cluster.send("DELETE", &path, &[("accept", ACCEPT)], "").await;
    assert_eq!(expect(&deleted, 200, STATUS)["status"], "Success");
    cluster.stop().await;
}

#[tokio::test]
async fn lists_of_any_length() {
    let cluster = Cluster::start().await;
    // More than is kept while the list is counted.
    let long = "x".repeat(100_000);
    for number in 0..60 {
        let body = config_map(&format!("m{number:02}"), &format!(r#"{{"k":"{long}"}}"#));
        cluster.post(MAPS, &body).await.expect(201);
    }
    let all = cluster.get(MAPS).await.expect(200);
    let wanted = all["items"].as_array().expect("items");
    let listed = cluster.send("GET", MAPS, &[("accept", ACCEPT)], "").await;
    assert_eq!(listed.headers["content-type"], MEDIA);
    let found = items(&listed.bytes);
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        let mut wanted = wanted.clone();
        let fields = wanted.as_object_mut().expect("an object");
        fields.remove("kind");
        fields.remove("apiVersion");
        assert!(decoded(found, CONFIG_MAP) == wanted);
    }
    let page =
        cluster.send("GET", &format!("{MAPS}?limit=2&labelSelector=app!%3Dm00"), &[("accept", ACCEPT)], "").await;
    let names: Vec<Value> =
        items(&page.bytes).iter().map(|item| decoded(item, CONFIG_MAP)["metadata"]["name"].take()).collect();
    assert_eq!(names, ["m01", "m02"]);
    let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let page = cluster.send("GET", &format!("{MAPS}?limit=1"), &[("accept", partial)], "").await;
    let item = decoded(&items(&page.bytes)[0], "io.k8s.api.core.v1.ConfigMap");
    assert_eq!((&item["metadata"]["name"], item.get("data")), (&"m00".into(), None));
    cluster.stop().await;
}

#[tokio::test]
async fn watches_send_frames() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let path =
        format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut both = [cluster.watch(&path, ACCEPT).await, cluster.watch(&path, ACCEPT).await];
    for events in &mut both {
        for (word, name) in [("ADDED", "a"), ("BOOKMARK", "")] {
            let frame = events.frame().await.expect("a frame");
            let parts = fields(&frame);
            assert_eq!(parts[0], (1, word.as_bytes()));
            let object = decoded(fields(parts[1].1)[0].1, CONFIG_MAP);
            assert_eq!(object["kind"], "ConfigMap");
            assert_eq!(object["metadata"]["name"].as_str().unwrap_or_default(), name);
        }
    }
    let created = cluster.post(MAPS, &config_map("b", r#"{"k":"v"}"#)).await.expect(201);
    for events in &mut both {
        let frame = events.frame().await.expect("a frame");
        let parts = fields(&frame);
        assert_eq!(parts[0].1, b"ADDED");
        assert_eq!(decoded(fields(parts[1].1)[0].1, CONFIG_MAP), created);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn what_has_no_such_form_is_not_acceptable() {
    let cluster = Cluster::start().await;
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    let refused = cluster.send("GET", MAPS, &[("accept", table)], "").await;
    let (reason, message) = refused.failure(406);
    assert_eq!(reason, "NotAcceptable");
    assert_eq!(
        message,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    let review = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}"#;
    let headers = [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    cluster.send("POST", path, &headers, review).await.failure(406);
    let answered = cluster.send("POST", path, &[headers[0], ("accept", ACCEPT)], review).await;
    let review = expect(&answered, 201, "io.k8s.api.authorization.v1.SelfSubjectAccessReview");
    assert_eq!(review["status"]["allowed"], true);
    let resources = cluster.send("GET", "/api/v1", &[("accept", ACCEPT)], "").await;
    let resources = expect(&resources, 200, "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList");
    assert_eq!(resources["groupVersion"], "v1");
    cluster.stop().await;
}

#[tokio::test]
async fn open_api_in_gnostic_form() {
    let cluster = Cluster::start().await;
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let reply = cluster.send("GET", "/openapi/v2", &[("accept", accept)], "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(reply.bytes.windows(5).any(|part| part == b"\x0a\x032.0"));
    let tag = reply.headers["etag"].to_str().expect("a tag").to_owned();
    let again = cluster.send("GET", "/openapi/v2", &[("accept", accept), ("if-none-match", &tag)], "").await;
    assert_eq!((again.status.as_u16(), again.bytes.len()), (304, 0));
    cluster.stop().await;
}
