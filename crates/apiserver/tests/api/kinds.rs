//! What single kinds do beyond the common road, and what is not about objects.

use serde_json::{Value, json};

use crate::{Cluster, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let cluster = Cluster::start().await;
    let first =
        cluster.post(SERVICES, &service("a", &json!({"type": "NodePort", "ports": [{"port": 80}]}))).await.expect(201);
    let address = first["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("10.96.0."), "{address}");
    assert_eq!(first["spec"]["clusterIPs"], json!([address]));
    assert_eq!(
        (&first["spec"]["ipFamilies"], &first["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &"SingleStack".into())
    );
    let port = first["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    assert!((30000..=32767).contains(&port));
    let taken = json!({"clusterIP": address, "ports": [{"port": 80}]});
    let (reason, message) = cluster.post(SERVICES, &service("b", &taken)).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("provided IP is already allocated"), "{message}");
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let (_, message) = cluster.post(SERVICES, &service("b", &taken)).await.failure(422);
    assert_eq!(
        message,
        format!(
            "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"
        )
    );
    let headless = cluster
        .post(SERVICES, &service("h", &json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]})))
        .await
        .expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    cluster.delete(&format!("{SERVICES}/a"), "").await.expect(200);
    cluster.post(SERVICES, &service("c", &json!({"clusterIP": address, "ports": [{"port": 80}]}))).await.expect(201);
    cluster.stop().await;
}

#[tokio::test]
async fn every_cluster_has_its_first_objects() {
    let cluster = Cluster::start().await;
    for path in [
        "/api/v1/namespaces/kube-system",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
    ] {
        cluster.get(path).await.expect(200);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn namespaces_end_when_they_are_finalized() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces", r#"{"metadata":{"name":"x"}}"#).await.expect(201);
    let dying = cluster.delete("/api/v1/namespaces/x", "").await.expect(200);
    assert_eq!(dying["status"]["phase"], "Terminating");
    let mut finalized = cluster.get("/api/v1/namespaces/x").await.expect(200);
    finalized["spec"]["finalizers"] = json!([]);
    cluster.put("/api/v1/namespaces/x/finalize", &finalized).await.expect(200);
    cluster.get("/api/v1/namespaces/x").await.failure(404);
    cluster.stop().await;
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    cluster.post(pods, &pod("a", r#"{"app":"web"}"#)).await.expect(201);
    let ready = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    cluster.patch(&format!("{pods}/a/status"), "application/strategic-merge-patch+json", ready).await.expect(200);
    cluster
        .post(
            budgets,
            r#"{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"web"}}}}"#,
        )
        .await
        .expect(201);
    let eviction = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"a"}}"#;
    cluster.post(&format!("{pods}/a/eviction"), eviction).await.failure(429);
    let allowed = r#"{"status":{"disruptionsAllowed":1,"currentHealthy":2,"desiredHealthy":1,"expectedPods":2,"observedGeneration":1}}"#;
    cluster.patch(&format!("{budgets}/b/status"), "application/merge-patch+json", allowed).await.expect(200);
    cluster.post(&format!("{pods}/a/eviction"), eviction).await.expect(201);
    cluster.get(&format!("{pods}/a")).await.failure(404);
    let budget = cluster.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    cluster.stop().await;
}

#[tokio::test]
async fn reviews_and_tokens() {
    let cluster = Cluster::start().await;
    let body = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#;
    let review = cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body).await.expect(201);
    assert_eq!(review["status"]["allowed"], true);
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}"#;
    let token = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", body).await.expect(201);
    assert!(token["status"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3), "{token}");
    cluster.stop().await;
}

#[tokio::test]
async fn documents() {
    let cluster = Cluster::start().await;
    let check = async |path: &str, pointer: &str, expected: Value| {
        let value = cluster.get(path).await.expect(200);
        assert_eq!(value.pointer(pointer), Some(&expected), "{path}");
    };
    check("/version", "/minor", "36".into()).await;
    check("/api", "/versions/0", "v1".into()).await;
    check("/api/v1", "/kind", "APIResourceList".into()).await;
    check("/apis", "/kind", "APIGroupList".into()).await;
    check("/apis/apps", "/preferredVersion/version", "v1".into()).await;
    check("/apis/apps/v1", "/groupVersion", "apps/v1".into()).await;
    check("/openid/v1/jwks", "/keys/0/kty", "EC".into()).await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = cluster.send("GET", "/apis", &[("accept", accept)], "").await;
    assert!(aggregated.headers["content-type"].to_str().is_ok_and(|kind| kind.contains("as=APIGroupDiscoveryList")));
    assert_eq!(aggregated.json()["kind"], "APIGroupDiscoveryList");
    let tag = aggregated.headers["etag"].to_str().expect("text").to_owned();
    let same = cluster.send("GET", "/apis", &[("accept", accept), ("if-none-match", &tag)], "").await;
    assert_eq!(same.status, 304);
    assert_eq!(cluster.get("/healthz").await.bytes, "ok");
    assert!(String::from_utf8_lossy(&cluster.get("/readyz?verbose").await.bytes).ends_with("readyz check passed\n"));
    assert_eq!(cluster.get("/livez/none").await.status, 404);
    assert!(
        String::from_utf8_lossy(&cluster.get("/metrics").await.bytes)
            .contains("apiserver_request_total{component=\"apiserver\"")
    );
    cluster.get("/openapi/v3").await.expect(200);
    let gnostic = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(cluster.send("GET", "/openapi/v2", &[("accept", gnostic)], "").await.status, 200);
    let strange = "application/com.github.proto-openapi.spec.v2.v9.9+protobuf";
    assert_eq!(cluster.send("GET", "/openapi/v2", &[("accept", strange)], "").await.status, 406);
    cluster.stop().await;
}
