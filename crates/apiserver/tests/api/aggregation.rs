//! APIServices, after upstream's `test/e2e/apimachinery/aggregator.go`.

use http::StatusCode;
use serde_json::{Value, json};

use super::Cluster;
use super::webhook_server::{Said, WebhookServer};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
const NAME: &str = "v1alpha1.wardle.example.com";

/// Serves `flunders` in `wardle.example.com/v1alpha1`.
fn wardle(path: &str, _: &Value) -> Said {
    match path {
        "/apis/wardle.example.com/v1alpha1" => Said::Json(json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}],
        })),
        "/openapi/v3" => Said::Json(json!({"paths": {
            "apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"},
            "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=2"},
        }})),
        "/openapi/v2" => Said::Json(json!({
            "swagger": "2.0", "paths": {
                "/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders": {"get": {"responses": {"200": {
                    "description": "OK", "schema": {"$ref": "#/definitions/com.example.wardle.v1alpha1.Flunder"},
                }}}},
                "/version/": {"get": {}},
            },
            "definitions": {
                "com.example.wardle.v1alpha1.Flunder": {
                    "type": "object", "description": "A flunder.",
                    "properties": {"metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}},
                    "x-kubernetes-group-version-kind": [
                        {"group": "wardle.example.com", "kind": "Flunder", "version": "v1alpha1"},
                    ],
                },
                "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "An older one."},
            },
        })),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => Said::Json(json!({"openapi": "3.0.0"})),
        FLUNDERS => {
            Said::Json(json!({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1", "items": []}))
        }
        "/apis/wardle.example.com/v1alpha1/broken" => Said::Raw(500, b"as it is".to_vec()),
        _ => Said::Raw(404, b"404 page not found".to_vec()),
    }
}

impl Cluster {
    /// A server that knows this cluster's front proxy.
    async fn behind(&self) -> WebhookServer {
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let config = self.get(path).await.expect(200);
        assert_eq!(config["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
        assert_ne!(config["data"]["client-ca-file"], config["data"]["requestheader-client-ca-file"]);
        let authority = config["data"]["requestheader-client-ca-file"].as_str().expect("a certificate");
        WebhookServer::trusting(Some(authority), wardle).await
    }

    async fn register_service(&self, bundle: &str) {
        let service = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME},
            "spec": {
                "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000,
                "versionPriority": 200, "caBundle": bundle,
                "service": {"namespace": "default", "name": "hook", "port": 7443},
            },
        });
        self.post(SERVICES, &service.to_string()).await.expect(201);
    }

    async fn put_service(&self) {
        let service = r#"{"metadata":{"name":"hook"},"spec":{"ports":[{"port":7443}]}}"#;
        self.post("/api/v1/namespaces/default/services", service).await.expect(201);
    }

    /// Waits until the condition has this reason; gives the condition.
    async fn until(&self, reason: &str) -> Value {
        let path = format!("{SERVICES}?watch=1&fieldSelector=metadata.name={NAME}");
        let mut events = self.watch(&path, "application/json").await;
        loop {
            let event = events.next().await.expect("the watch goes on");
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if let Some(found) = conditions.into_iter().find(|condition| condition["reason"] == reason) {
                return found;
            }
        }
    }
}

#[tokio::test]
async fn every_group_has_its_service() {
    let cluster = Cluster::start().await;
    let list = cluster.get(SERVICES).await.expect(200);
    let items = list["items"].as_array().expect("items");
    let apps = items.iter().find(|item| item["metadata"]["name"] == "v1.apps").expect("v1.apps");
    assert_eq!(apps["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(
        apps["spec"],
        json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})
    );
    assert_eq!(apps["status"]["conditions"][0]["reason"], "Local");
    assert!(items.iter().all(|item| item["metadata"]["name"] != "v1.apiregistration.k8s.io"));
    // What is removed comes back with the next start, and nothing else is written then.
    cluster.delete(&format!("{SERVICES}/v1.apps"), "").await.expect(200);
    let cluster = cluster.restart().await;
    cluster.get(&format!("{SERVICES}/v1.apps")).await.expect(200);
    let revisions = async |cluster: &Cluster| -> Vec<Value> {
        let list = cluster.get(SERVICES).await.expect(200);
        let items = list["items"].as_array().expect("items");
        items.iter().map(|item| item["metadata"]["resourceVersion"].clone()).collect()
    };
    let before = revisions(&cluster).await;
    let cluster = cluster.restart().await;
    assert_eq!(revisions(&cluster).await, before);
    cluster.stop().await;
}

#[tokio::test]
async fn requests_reach_the_server_behind() {
    let cluster = Cluster::start().await;
    let server = cluster.behind().await;
    cluster.put_service().await;
    cluster.put_endpoint("hook", "", server.port).await;
    cluster.register_service(&server.bundle()).await;
    let passed = cluster.until("Passed").await;
    assert_eq!((&passed["status"], &passed["message"]), (&"True".into(), &"all checks passed".into()));

    let headers = [("authorization", "Bearer t"), ("x-remote-group", "system:masters"), ("x-remote-user", "forged")];
    let list = cluster.send("GET", &format!("{FLUNDERS}?limit=500"), &headers, "").await.expect(200);
    assert_eq!(list["kind"], "FlunderList");
    let seen = server.seen();
    let seen = seen.last().expect("a request");
    assert_eq!(
        (&seen["path"], &seen["client"]),
        (&format!("{FLUNDERS}?limit=500").into(), &"front-proxy-client".into())
    );
    assert_eq!((&seen["host"], &seen["headers"]["x-remote-user"]), (&"hook.default.svc:7443".into(), &"admin".into()));
    assert_eq!(seen["headers"].get("authorization"), None);

    // Rights are asked for here.
    let before = server.seen().len();
    let jane = cluster.with_user("jane", &[]);
    let (_, message) = cluster.send_as(&jane, "GET", FLUNDERS, &[], "").await.failure(403);
    assert_eq!(
        message,
        "flunders.wardle.example.com is forbidden: User \"jane\" cannot list resource \"flunders\" in API group \"wardle.example.com\" in the namespace \"default\""
    );
    assert_eq!(server.seen().len(), before);

    // Discovery and documents, the old and the new.
    let groups = cluster.get("/apis").await.expect(200);
    let names: Vec<&Value> = groups["groups"].as_array().expect("groups").iter().map(|group| &group["name"]).collect();
    assert!(names.contains(&&"wardle.example.com".into()), "{names:?}");
    let group = cluster.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    cluster.get("/apis/wardle.example.com/v1alpha1").await.expect(200);
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let list = cluster.send("GET", "/apis", &accept, "").await.expect(200);
    let item =
        list["items"].as_array().expect("items").iter().find(|item| item["metadata"]["name"] == "wardle.example.com");
    let version = &item.expect("the group")["versions"][0];
    assert_eq!((&version["freshness"], &version["resources"][0]["resource"]), (&"Current".into(), &"flunders".into()));
    let index = cluster.get("/openapi/v3").await.expect(200);
    assert_eq!(
        index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"],
        "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"
    );
    cluster.get("/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1").await.expect(200);
    let document = cluster.get("/openapi/v2").await.expect(200);
    let flunder = &document["definitions"]["com.example.wardle.v1alpha1.Flunder"];
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(
        flunder["properties"]["metadata"]["$ref"],
        format!("#/definitions/{meta}_v2"),
        "what differs from this server's has a name of its own"
    );
    assert_eq!(document["definitions"][format!("{meta}_v2")]["description"], "An older one.");
    assert_ne!(document["definitions"][meta]["description"], "An older one.");
    let path = "/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders";
    assert!(document["paths"][path].is_object());
    let gnostic = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let bytes = cluster.send("GET", "/openapi/v2", &gnostic, "").await.bytes;
    let name = b"com.example.wardle.v1alpha1.Flunder";
    assert!(bytes.windows(name.len()).any(|window| window == name), "gnostic's form has it too");
    let broken = cluster.get("/apis/wardle.example.com/v1alpha1/broken").await;
    assert_eq!((broken.status, &*broken.bytes), (StatusCode::INTERNAL_SERVER_ERROR, &b"as it is"[..]));

    // The status is open to others, and they keep what they write there.
    let status = json!({"status": {"conditions": [
        {"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "Set by the test"}, passed,
    ]}});
    let path = format!("{SERVICES}/{NAME}/status");
    cluster.patch(&path, "application/merge-patch+json", &status.to_string()).await.expect(200);
    cluster.delete("/api/v1/namespaces/default/services/hook", "").await.expect(200);
    let gone = cluster.until("ServiceNotFound").await;
    assert_eq!(gone["message"], "service/hook in \"default\" is not present");
    let object = cluster.get(&format!("{SERVICES}/{NAME}")).await.expect(200);
    assert_eq!(object["status"]["conditions"].as_array().map(Vec::len), Some(2));

    // Gone: clients are told so, and what was there stays in discovery, marked.
    let reply = cluster.get(FLUNDERS).await;
    assert_eq!((reply.status.as_u16(), &*reply.bytes), (503, &b"service unavailable\n"[..]));
    let list = cluster.send("GET", "/apis", &accept, "").await.expect(200);
    let item =
        list["items"].as_array().expect("items").iter().find(|item| item["metadata"]["name"] == "wardle.example.com");
    let version = &item.expect("the group")["versions"][0];
    assert_eq!((&version["freshness"], &version["resources"][0]["resource"]), (&"Stale".into(), &"flunders".into()));
    cluster.delete(&format!("{SERVICES}/{NAME}"), "").await.expect(200);
    cluster.get(FLUNDERS).await.failure(404);
    let document = cluster.get("/openapi/v2").await.expect(200);
    assert!(document["definitions"].get("com.example.wardle.v1alpha1.Flunder").is_none());
    assert!(document["definitions"].get(format!("{meta}_v2")).is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let cluster = Cluster::start().await;
    let server = cluster.behind().await;
    let stranger = WebhookServer::start(|_, _| Said::Nothing).await;
    cluster.register_service(&stranger.bundle()).await;
    cluster.until("ServiceNotFound").await;
    cluster.put_service().await;
    let missing = cluster.until("MissingEndpoints").await;
    assert_eq!((&missing["status"], missing["lastTransitionTime"].is_string()), (&"False".into(), true));
    cluster.put_endpoint("hook", "", server.port).await;
    let failed = cluster.until("FailedDiscoveryCheck").await;
    assert_eq!(
        failed["message"],
        "failing or missing response from https://hook.default.svc:7443/apis/wardle.example.com/v1alpha1: Get \"https://hook.default.svc:7443/apis/wardle.example.com/v1alpha1\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
    );
    let patch = json!({"spec": {"caBundle": server.bundle()}}).to_string();
    cluster.patch(&format!("{SERVICES}/{NAME}"), "application/merge-patch+json", &patch).await.expect(200);
    cluster.until("Passed").await;
    // A server that vanishes without a word is noticed by the first request that it does not answer.
    cluster.get(FLUNDERS).await.expect(200);
    drop(server);
    let reply = cluster.get(FLUNDERS).await;
    let text = String::from_utf8_lossy(&reply.bytes).into_owned();
    assert!(reply.status == 503 && text.starts_with("error trying to reach service: dial tcp 127.0.0.1:"), "{text}");
    cluster.until("FailedDiscoveryCheck").await;
    cluster.stop().await;
}
