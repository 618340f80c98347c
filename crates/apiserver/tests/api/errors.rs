//! Bad input gets a `Status` that says what is wrong.

use crate::{Cluster, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const APPLIED: &str = "/api/v1/namespaces/default/configmaps/a?fieldManager=me";
const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test]
async fn codes_and_reasons() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", "{}")).await.expect(201);
    let long = format!(r#"{{"metadata":{{"name":"big"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let json = "application/json";
    let cases: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("GET", "/nothing", "", "", 404, "NotFound"),
        ("GET", "/apis/none.example.com/v1/things", "", "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/configmaps/none", "", "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/configmaps/a/none", "", "", 404, "NotFound"),
        ("POST", "/api/v1/namespaces/default/configmaps/a", json, "{}", 405, "MethodNotAllowed"),
        ("PUT", "/api/v1/namespaces/default/configmaps", json, "{}", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/namespaces", json, "", 405, "MethodNotAllowed"),
        ("HEAD", MAPS, "", "", 405, "MethodNotAllowed"),
        ("HEAD", "/api/v1/namespaces/default/configmaps/a", "", "", 405, "MethodNotAllowed"),
        ("HEAD", "/apis/apps/v1", "", "", 405, "MethodNotAllowed"),
        ("POST", MAPS, "application/x-unknown", "{}", 415, "UnsupportedMediaType"),
        ("POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s", 400, "BadRequest"),
        ("PATCH", "/api/v1/namespaces/default/configmaps/a", json, "{}", 415, "UnsupportedMediaType"),
        ("POST", MAPS, json, "{", 400, "BadRequest"),
        ("POST", MAPS, json, "", 400, "BadRequest"),
        ("POST", MAPS, json, r#"{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"x"}}"#, 400, "BadRequest"),
        ("POST", MAPS, json, r#"{"metadata":{"name":"x","namespace":"other"}}"#, 400, "BadRequest"),
        ("POST", MAPS, json, r#"{"metadata":{"name":"x","resourceVersion":"5"}}"#, 400, "BadRequest"),
        ("POST", MAPS, json, r#"{"metadata":{}}"#, 422, "Invalid"),
        ("POST", MAPS, json, r#"{"metadata":{"name":"UPPER"}}"#, 422, "Invalid"),
        ("POST", MAPS, json, &long, 413, "RequestEntityTooLarge"),
        ("PUT", "/api/v1/namespaces/default/configmaps/a", json, r#"{"metadata":{"name":"b"}}"#, 400, "BadRequest"),
        ("PUT", "/api/v1/namespaces/default/configmaps/none", json, r#"{"metadata":{"name":"none"}}"#, 404, "NotFound"),
        ("GET", "/api/v1/pods?labelSelector=a+in", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?fieldSelector=spec.none%3Dx", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?limit=x", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?continue=x", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?resourceVersion=x", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?resourceVersion=999999999", "", "", 504, "Timeout"),
        ("GET", "/api/v1/pods?resourceVersionMatch=Exact", "", "", 422, "Invalid"),
        ("POST", "/api/v1/namespaces/default/configmaps?dryRun=Some", json, "{}", 422, "Invalid"),
        (
            "PATCH",
            "/api/v1/namespaces/default/configmaps/a?force=true",
            "application/merge-patch+json",
            "{}",
            422,
            "Invalid",
        ),
        ("PATCH", APPLIED, APPLY, r#"{"apiVersion":"v2","kind":"ConfigMap"}"#, 400, "BadRequest"),
        ("PATCH", APPLIED, APPLY, r#"{"apiVersion":"v1"}"#, 500, ""),
        (
            "DELETE",
            "/api/v1/namespaces/default/configmaps/a",
            json,
            r#"{"propagationPolicy":"Sideways"}"#,
            422,
            "Invalid",
        ),
    ];
    for (method, path, kind, body, code, reason) in cases {
        let headers: &[(&str, &str)] = if kind.is_empty() { &[] } else { &[("content-type", kind)] };
        let reply = cluster.send(method, path, headers, body).await;
        assert_eq!(
            reply.status.as_u16(),
            *code,
            "{method} {path} {}: {}",
            &body[..body.len().min(80)],
            String::from_utf8_lossy(&reply.bytes)
        );
        assert_eq!(reply.json()["reason"].as_str().unwrap_or_default(), *reason, "{method} {path}");
    }
    let reply = cluster.send("GET", "/api/v1/pods", &[("accept", "application/cbor")], "").await;
    assert_eq!(reply.failure(406).0, "NotAcceptable");
    cluster.stop().await;
}

#[tokio::test]
async fn errors_name_the_field() {
    let cluster = Cluster::start().await;
    let body = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}"#;
    let status = cluster.post("/api/v1/namespaces/default/pods", body).await.expect(422);
    assert_eq!(status["message"], "Pod \"p\" is invalid: spec.containers[0].image: Required value");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.containers[0].image");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
    cluster.stop().await;
}

#[tokio::test]
async fn unknown_fields_warn_or_fail() {
    let cluster = Cluster::start().await;
    let body = pod("p", "{}").replace("\"spec\":{", "\"spec\":{\"colour\":\"red\",");
    let path = "/api/v1/namespaces/default/pods";
    let (reason, message) = cluster.post(&format!("{path}?fieldValidation=Strict"), &body).await.failure(400);
    assert_eq!(reason, "BadRequest");
    assert!(message.contains("unknown field \"spec.colour\""), "{message}");
    let reply = cluster.post(path, &body).await;
    assert_eq!(
        reply.headers.get("warning").and_then(|value| value.to_str().ok()),
        Some("299 - \"unknown field \\\"spec.colour\\\"\"")
    );
    let made = reply.expect(201);
    assert!(made["spec"].get("colour").is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn rights_are_asked_for() {
    let cluster = Cluster::start().await;
    let jane = cluster.with_user("jane", &[]);
    let reply = cluster.send_as(&jane, "GET", "/api/v1/namespaces/default/pods", &[], "").await;
    let (reason, message) = reply.failure(403);
    assert_eq!(reason, "Forbidden");
    assert_eq!(
        message,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let reply = cluster.send("GET", "/api/v1/namespaces/default/pods", &[("impersonate-user", "jane")], "").await;
    assert_eq!(reply.failure(403).0, "Forbidden");
    cluster.stop().await;
}

/// After upstream's `test/e2e/apimachinery/field_validation.go`.
#[tokio::test]
async fn applied_yaml_is_checked() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/configmaps/a?fieldManager=m";
    let apply = "application/apply-patch+yaml";
    let twice = "\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  foo: foo1\n  foo: foo2\n";
    let strict = format!("{path}&fieldValidation=Strict");
    let (reason, words) = cluster.patch(&strict, apply, twice).await.failure(400);
    let problem = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 8: key \"foo\" already set in map";
    assert_eq!((reason.as_str(), words), ("BadRequest", format!("error strict decoding YAML: {problem}")));
    let made = cluster.patch(path, apply, twice).await;
    let warning = made.headers["warning"].to_str().expect("text").to_owned();
    assert_eq!(warning, format!("299 - \"{}\"", problem.replace('\n', " ").replace('"', "\\\"")));
    assert_eq!(made.expect(201)["data"]["foo"], "foo2");
    let ignoring = cluster.patch(&format!("{path}&fieldValidation=Ignore"), apply, twice).await;
    assert!(!ignoring.headers.contains_key("warning"));
    // Nobody could own a field that does not exist, so it is an error whatever the client asks for.
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, unknownMeta: x}\ndate: {}\n";
    for mode in ["Strict", "Warn", "Ignore"] {
        let reply = cluster.patch(&format!("{path}&fieldValidation={mode}"), apply, unknown).await;
        assert_eq!(
            reply.failure(500).1,
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): errors:\n  .date: field not declared in \
             schema\n  .metadata.unknownMeta: field not declared in schema"
        );
    }
    let (_, words) = cluster.patch(path, apply, "a: [").await.failure(400);
    assert!(words.starts_with("error decoding YAML: "), "{words}");
    let posted = cluster
        .send(
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            &[("content-type", "application/yaml")],
            twice,
        )
        .await;
    let words = posted.failure(400).1;
    let expected = "strict decoding error: yaml: unmarshal errors:\n  line 8: key \"foo\" already set in map";
    assert!(words.ends_with(expected), "{words}");
    cluster.stop().await;
}
