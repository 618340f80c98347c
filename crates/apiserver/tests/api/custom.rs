//! Custom resources: from a definition to objects, and both ways back.

use serde_json::{Value, json};

use crate::{Cluster, Reply};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOATS: &str = "/apis/harbour.example.com/v1/namespaces/default/boats";
const MERGE: &str = "application/merge-patch+json";

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.harbour.example.com"},
        "spec": {
            "group": "harbour.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bt"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema.clone()},
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.crew", "statusReplicasPath": ".status.crew", "labelSelectorPath": ".status.selector"}},
                 "selectableFields": [{"jsonPath": ".spec.colour"}],
                 "additionalPrinterColumns": [{"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"}, {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]},
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": schema}},
                {"name": "v0", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
            ],
        },
    })
}

fn schema() -> Value {
    json!({
        "type": "object", "description": "A boat.",
        "properties": {
            "spec": {"type": "object", "required": ["colour"], "properties": {
                "colour": {"type": "string", "enum": ["red", "blue"], "description": "Its colour."},
                "crew": {"type": "integer", "minimum": 0, "default": 1},
                "masts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "height": {"type": "integer"}}}},
                "flags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }},
            "status": {"type": "object", "properties": {"crew": {"type": "integer"}, "selector": {"type": "string"}}},
        },
    })
}

fn boat(name: &str, spec: Value) -> String {
    json!({"apiVersion": "harbour.example.com/v1", "kind": "Boat", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

impl Cluster {
    /// Waits until a definition is established.
    pub(crate) async fn established(&self, name: &str) -> Value {
        let path = format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name%3D{name}");
        let mut events = self.watch(&path, "application/json").await;
        loop {
            let event = events.next().await.expect("the watch goes on");
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True") {
                return event["object"].clone();
            }
        }
    }

    /// A cluster in whose harbour boats are known.
    async fn with_boats() -> Cluster {
        let cluster = Cluster::start().await;
        cluster.post(DEFINITIONS, &definition(schema()).to_string()).await.expect(201);
        cluster.established("boats.harbour.example.com").await;
        cluster
    }

    async fn apply(&self, path: &str, manager: &str, body: &Value) -> Reply {
        self.patch(&format!("{path}?fieldManager={manager}"), "application/apply-patch+yaml", &body.to_string()).await
    }
}

#[tokio::test]
async fn objects_live_by_their_schema() {
    let cluster = Cluster::with_boats().await;
    let made = cluster.post(BOATS, &boat("a", json!({"colour": "red", "sails": 2, "extra": {"any": [1]}}))).await;
    let warning = made.headers.get("warning").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    assert!(warning.contains(r#"unknown field \"spec.sails\""#), "{warning}");
    let made = made.expect(201);
    assert_eq!(made["spec"], json!({"colour": "red", "crew": 1, "extra": {"any": [1]}}));
    assert_eq!(made["metadata"]["generation"], 1);

    let strict = format!("{BOATS}?fieldValidation=Strict");
    let (_, words) = cluster.post(&strict, &boat("b", json!({"colour": "red", "sails": 2}))).await.failure(400);
    assert!(words.ends_with(r#"strict decoding error: unknown field "spec.sails""#), "{words}");
    let (reason, words) = cluster.post(BOATS, &boat("b", json!({"colour": "green", "crew": -1}))).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert_eq!(
        words,
        "Boat.harbour.example.com \"b\" is invalid: [spec.colour: Unsupported value: \"green\": supported values: \
         \"red\", \"blue\", spec.crew: Invalid value: -1: spec.crew in body should be greater than or equal to 0]"
    );

    let path = format!("{BOATS}/a");
    let patched = cluster.patch(&path, MERGE, r#"{"spec":{"crew":3},"status":{"crew":9}}"#).await.expect(200);
    assert_eq!((&patched["metadata"]["generation"], &patched["status"]), (&2.into(), &Value::Null));
    let status = cluster
        .patch(&format!("{path}/status"), MERGE, r#"{"spec":{"crew":7},"status":{"crew":2,"selector":"a=b"}}"#)
        .await
        .expect(200);
    assert_eq!((&status["spec"]["crew"], &status["status"]["crew"]), (&3.into(), &2.into()));
    assert_eq!(status["metadata"]["generation"], 2);
    let scale = cluster.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 3}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    cluster.patch(&format!("{path}/scale"), MERGE, r#"{"spec":{"replicas":5}}"#).await.expect(200);
    assert_eq!(cluster.get(&path).await.expect(200)["spec"]["crew"], 5);
    let strategic = cluster.patch(&path, "application/strategic-merge-patch+json", "{}").await.failure(415);
    assert_eq!(strategic.0, "UnsupportedMediaType");
    let patch = r#"[{"op":"replace","path":"/spec/colour","value":"blue"}]"#;
    assert_eq!(cluster.patch(&path, "application/json-patch+json", patch).await.expect(200)["spec"]["colour"], "blue");
    cluster.put(&path, &json!({"metadata": {"name": "a"}, "spec": {"colour": "red"}})).await.failure(422);
    cluster.stop().await;
}

#[tokio::test]
async fn versions_lists_tables_and_selectors() {
    let cluster = Cluster::with_boats().await;
    cluster.post(BOATS, &boat("a", json!({"colour": "red"}))).await.expect(201);
    cluster.post(BOATS, &boat("b", json!({"colour": "blue", "crew": 4}))).await.expect(201);
    let beta = BOATS.replace("v1", "v1beta1");
    assert_eq!(cluster.get(&format!("{beta}/a")).await.expect(200)["apiVersion"], "harbour.example.com/v1beta1");
    let list = cluster.get(&beta).await.expect(200);
    assert_eq!(
        (&list["kind"], &list["items"][1]["apiVersion"]),
        (&"BoatList".into(), &"harbour.example.com/v1beta1".into())
    );
    cluster.get(&BOATS.replace("v1", "v0")).await.failure(404);
    let blue = cluster.get(&format!("{BOATS}?fieldSelector=spec.colour%3Dblue")).await.expect(200);
    assert_eq!(blue["items"].as_array().map(Vec::len), Some(1));
    cluster.get(&format!("{BOATS}?fieldSelector=spec.crew%3D4")).await.failure(400);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.send("GET", BOATS, &table, "").await.expect(200);
    let names: Vec<&Value> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|column| &column["name"]).collect();
    assert_eq!(names, ["Name", "Crew", "Age"]);
    assert_eq!(table["rows"][1]["cells"][1], 4);

    let resources = cluster.get("/apis/harbour.example.com/v1").await.expect(200);
    let named: Vec<&Value> =
        resources["resources"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(named, ["boats", "boats/status", "boats/scale"]);
    let group = cluster.get("/apis/harbour.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    cluster.stop().await;
}

#[tokio::test]
async fn appliers_share_lists() {
    let cluster = Cluster::with_boats().await;
    let path = format!("{BOATS}/a");
    let with = |spec: Value| json!({"apiVersion": "harbour.example.com/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": spec});
    cluster
        .apply(&path, "one", &with(json!({"colour": "red", "masts": [{"name": "fore"}], "flags": ["x"]})))
        .await
        .expect(201);
    let both = cluster
        .apply(&path, "two", &with(json!({"masts": [{"name": "main", "height": 9}], "flags": ["y"]})))
        .await
        .expect(200);
    assert_eq!(both["spec"]["masts"], json!([{"name": "fore"}, {"name": "main", "height": 9}]));
    assert_eq!(both["spec"]["flags"], json!(["x", "y"]));
    let (reason, _) = cluster.apply(&path, "two", &with(json!({"colour": "blue"}))).await.failure(409);
    assert_eq!(reason, "Conflict");
    let (_, words) = cluster.apply(&path, "one", &with(json!({"colour": "red", "sails": 1}))).await.failure(500);
    assert!(words.contains(".spec.sails: field not declared in schema"), "{words}");
    cluster.stop().await;
}

#[tokio::test]
async fn schemas_change_in_use() {
    let cluster = Cluster::with_boats().await;
    cluster.post(BOATS, &boat("a", json!({"colour": "red", "flags": ["x"]}))).await.expect(201);
    let mut events = cluster.watch(&format!("{BOATS}?watch=1"), "application/json").await;
    events.told().await;
    let mut changed = schema();
    changed["properties"]["spec"]["properties"]["speed"] = json!({"type": "integer", "default": 10});
    changed["properties"]["spec"]["properties"]["colour"]["enum"] = json!(["green"]);
    changed["properties"]["spec"]["properties"].as_object_mut().expect("a map").remove("flags");
    let patch = json!({"spec": definition(changed)["spec"]}).to_string();
    cluster.patch(&format!("{DEFINITIONS}/boats.harbour.example.com"), MERGE, &patch).await.expect(200);
    assert_eq!(events.next().await, None, "watches begin anew with the new schema");
    let read = cluster.get(&format!("{BOATS}/a")).await.expect(200);
    assert_eq!(
        read["spec"],
        json!({"colour": "red", "crew": 1, "speed": 10}),
        "old objects are read by the new schema"
    );
    let kept = cluster.patch(&format!("{BOATS}/a"), MERGE, r#"{"spec":{"crew":2}}"#).await.expect(200);
    assert_eq!(kept["spec"]["colour"], "red", "what was invalid already may stay");
    cluster.patch(&format!("{BOATS}/a"), MERGE, r#"{"spec":{"colour":"blue"}}"#).await.failure(422);
    let cluster = cluster.restart().await;
    assert_eq!(
        cluster.get(&format!("{BOATS}/a")).await.expect(200)["spec"]["crew"],
        2,
        "known before the first request"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn definitions_take_their_objects_along() {
    let cluster = Cluster::with_boats().await;
    cluster.post(BOATS, &boat("a", json!({"colour": "red"}))).await.expect(201);
    let held = json!({"metadata": {"name": "b", "finalizers": ["example.com/anchor"]}, "spec": {"colour": "red"}});
    cluster.post(BOATS, &held.to_string()).await.expect(201);
    let mut boats = cluster.watch(&format!("{BOATS}?watch=1"), "application/json").await;
    let mut definitions = cluster.watch(&format!("{DEFINITIONS}?watch=1"), "application/json").await;
    let path = format!("{DEFINITIONS}/boats.harbour.example.com");
    let dying = cluster.delete(&path, "").await.expect(200);
    assert_eq!(dying["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let (_, words) = cluster.post(BOATS, &boat("c", json!({"colour": "red"}))).await.failure(405);
    assert_eq!(words, "create not allowed while custom resource definition is terminating");
    loop {
        let event = boats.next().await.expect("the watch goes on");
        if event["type"] == "MODIFIED" {
            assert!(event["object"]["metadata"]["deletionTimestamp"].is_string());
            break;
        }
    }
    cluster.get(&format!("{BOATS}/a")).await.failure(404);
    cluster.patch(&format!("{BOATS}/b"), MERGE, r#"{"metadata":{"finalizers":null}}"#).await.expect(200);
    while definitions.next().await.expect("the watch goes on")["type"] != "DELETED" {}
    while boats.next().await.is_some() {}
    cluster.get(BOATS).await.failure(404);
    cluster.get("/apis/harbour.example.com").await.failure(404);
    cluster.post(DEFINITIONS, &definition(schema()).to_string()).await.expect(201);
    cluster.established("boats.harbour.example.com").await;
    assert_eq!(cluster.get(BOATS).await.expect(200)["items"], json!([]));
    cluster.stop().await;
}

#[tokio::test]
async fn names_belong_to_the_first() {
    let cluster = Cluster::with_boats().await;
    let mut second = definition(schema());
    second["metadata"]["name"] = "vessels.harbour.example.com".into();
    second["spec"]["names"] =
        json!({"plural": "vessels", "kind": "Boat", "listKind": "VesselList", "singular": "vessel"});
    cluster.post(DEFINITIONS, &second.to_string()).await.expect(201);
    let path = format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name%3Dvessels.harbour.example.com");
    let mut events = cluster.watch(&path, "application/json").await;
    let refused = loop {
        let event = events.next().await.expect("the watch goes on");
        if let Some(condition) = event["object"]["status"]["conditions"].as_array().and_then(|list| list.first()) {
            break condition.clone();
        }
    };
    assert_eq!((&refused["reason"], &refused["status"]), (&"KindConflict".into(), &"False".into()));
    cluster.delete(&format!("{DEFINITIONS}/boats.harbour.example.com"), "").await.expect(200);
    cluster.established("vessels.harbour.example.com").await;
    cluster.stop().await;
}

#[tokio::test]
async fn openapi_and_discovery_follow() {
    let cluster = Cluster::start().await;
    let v2 = cluster.get("/openapi/v2").await.expect(200);
    assert!(v2["definitions"].get("com.example.harbour.v1.Boat").is_none());
    cluster.post(DEFINITIONS, &definition(schema()).to_string()).await.expect(201);
    cluster.established("boats.harbour.example.com").await;
    let v2 = cluster.get("/openapi/v2").await.expect(200);
    let boat = &v2["definitions"]["com.example.harbour.v1.Boat"];
    assert_eq!((&boat["description"], &boat["type"]), (&"A boat.".into(), &"object".into()));
    assert_eq!(
        boat["properties"]["spec"]["properties"]["extra"],
        json!({"x-kubernetes-preserve-unknown-fields": true})
    );
    assert_eq!(boat["properties"]["metadata"]["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert_eq!(boat["x-kubernetes-group-version-kind"][0]["kind"], "Boat");
    let index = cluster.get("/openapi/v3").await.expect(200);
    let address =
        index["paths"]["apis/harbour.example.com/v1"]["serverRelativeURL"].as_str().expect("an address").to_owned();
    let v3 = cluster.get(&address).await.expect(200);
    let boat = &v3["components"]["schemas"]["com.example.harbour.v1.Boat"];
    assert_eq!(boat["properties"]["spec"]["properties"]["colour"]["description"], "Its colour.");
    assert!(v3["components"]["schemas"].get("com.example.harbour.v1.BoatList").is_some());
    let patch = &v3["paths"]["/apis/harbour.example.com/v1/namespaces/{namespace}/boats/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    let path = format!("{DEFINITIONS}/boats.harbour.example.com");
    let mut changed = schema();
    changed["description"] = "A ship.".into();
    let patch = json!({"spec": definition(changed)["spec"]}).to_string();
    cluster.patch(&path, MERGE, &patch).await.expect(200);
    let v2 = cluster.get("/openapi/v2").await.expect(200);
    assert_eq!(v2["definitions"]["com.example.harbour.v1.Boat"]["description"], "A ship.");
    let again = cluster.get("/openapi/v3").await.expect(200);
    assert_ne!(again["paths"]["apis/harbour.example.com/v1"]["serverRelativeURL"], address.as_str());
    let mut boats = cluster.watch(&format!("{BOATS}?watch=1"), "application/json").await;
    cluster.delete(&path, "").await.expect(200);
    while boats.next().await.is_some() {}
    let v2 = cluster.get("/openapi/v2").await.expect(200);
    assert!(v2["definitions"].get("com.example.harbour.v1.Boat").is_none());
    cluster.get(&address).await.failure(404);
    cluster.stop().await;
}

#[tokio::test]
async fn rules_judge_definitions_and_objects() {
    let cluster = Cluster::start().await;
    let with = |rule: &str| {
        let mut schema = schema();
        schema["properties"]["spec"]["x-kubernetes-validations"] =
            json!([{"rule": rule}, {"rule": "self.colour == oldSelf.colour", "message": "paint is for ever"}]);
        definition(schema)
    };
    let (reason, message) = cluster.post(DEFINITIONS, &with("self.sails > 1").to_string()).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("x-kubernetes-validations[0].rule: Invalid value"), "{message}");
    assert!(message.contains("undefined field 'sails'"), "{message}");
    cluster.post(DEFINITIONS, &with("self.crew < 5").to_string()).await.expect(201);
    cluster.established("boats.harbour.example.com").await;
    let (_, message) = cluster.post(BOATS, &boat("a", json!({"colour": "red", "crew": 9}))).await.failure(422);
    assert!(message.contains("spec: Invalid value: failed rule: self.crew < 5"), "{message}");
    cluster.post(BOATS, &boat("a", json!({"colour": "red", "crew": 4}))).await.expect(201);
    let path = format!("{BOATS}/a");
    let (_, message) = cluster.patch(&path, MERGE, r#"{"spec":{"colour":"blue"}}"#).await.failure(422);
    assert!(message.contains("spec: Invalid value: paint is for ever"), "{message}");
    cluster.patch(&path, MERGE, r#"{"spec":{"crew":1}}"#).await.expect(200);
    cluster.stop().await;
}

#[tokio::test]
async fn definitions_are_judged() {
    let cluster = Cluster::start().await;
    let mut untyped = schema();
    untyped["properties"]["spec"].as_object_mut().expect("a map").remove("type");
    let (_, words) = cluster.post(DEFINITIONS, &definition(untyped).to_string()).await.failure(422);
    let wanted = "properties[spec].type: Required value: must not be empty for specified object fields";
    assert!(words.contains(wanted), "{words}");
    cluster.post(DEFINITIONS, &definition(schema()).to_string()).await.expect(201);
    cluster.established("boats.harbour.example.com").await;
    let path = format!("{DEFINITIONS}/boats.harbour.example.com");
    let gone = r#"[{"op":"remove","path":"/spec/versions/0"},{"op":"replace","path":"/spec/versions/0/storage","value":true}]"#;
    let (_, words) = cluster.patch(&path, "application/json-patch+json", gone).await.failure(422);
    assert!(words.contains("status.storedVersions[0]: Invalid value: \"v1\": must appear in spec.versions"), "{words}");
    cluster.stop().await;
}

#[tokio::test]
async fn large_definitions_are_taken() {
    let cluster = Cluster::start().await;
    // As large as the largest that operators bring: thousands of fields with long descriptions.
    let words = "What this field is for, told at length as generated schemas tell it. ".repeat(3);
    let leaf = json!({"type": "object", "description": words, "properties": (0..20).map(|at| (format!("field{at}"), json!({"type": "string", "description": words, "maxLength": 63}))).collect::<serde_json::Map<_, _>>()});
    let branch = json!({"type": "object", "properties": (0..10).map(|at| (format!("leaf{at}"), leaf.clone())).collect::<serde_json::Map<_, _>>()});
    let large = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": (0..10).map(|at| (format!("branch{at}"), branch.clone())).collect::<serde_json::Map<_, _>>()}}});
    let body = definition(large).to_string();
    assert!(body.len() > 900_000, "{}", body.len());
    let mut object: Value = serde_json::from_str(&body).expect("JSON");
    for version in object["spec"]["versions"].as_array_mut().expect("a list") {
        for field in ["subresources", "selectableFields", "additionalPrinterColumns"] {
            version.as_object_mut().expect("a map").remove(field);
        }
    }
    cluster.post(DEFINITIONS, &object.to_string()).await.expect(201);
    cluster.established("boats.harbour.example.com").await;
    let made =
        cluster.post(BOATS, &boat("a", json!({"branch3": {"leaf4": {"field5": "x", "other": 1}}}))).await.expect(201);
    assert_eq!(made["spec"], json!({"branch3": {"leaf4": {"field5": "x"}}}));
    let long = "x".repeat(64);
    let (_, words) =
        cluster.post(BOATS, &boat("b", json!({"branch9": {"leaf9": {"field19": long}}}))).await.failure(422);
    assert!(words.ends_with("spec.branch9.leaf9.field19: Too long: may not be more than 63 bytes"), "{words}");
    cluster.stop().await;
}
