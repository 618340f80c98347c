//! The server that is killed: it checks what the last one has left, then drives itself until it dies.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use kobune_apiserver::{ApiServer, Config, InProcess, facets, security::User};
use kobune_kinds::Catalogue;
use kobune_store::{Range, Revision, SqliteStore, Store, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Objects that each writer has.
const OBJECTS: u64 = 3;
/// Writers of small objects, then the one who changes schemas, then writers of objects of those.
const WRITERS: u64 = 5;
const CUSTOM_WRITERS: u64 = 2;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SCHEMAS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Says a line at once.
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

/// Says what is wrong and ends, which the one who kills notices.
fn wrong(what: std::fmt::Arguments<'_>) -> ! {
    println!("wrong {what}");
    std::process::exit(3);
}

pub fn run(folder: &Path, seed: u64) -> ! {
    let mut expectations = String::new();
    std::io::stdin().read_to_string(&mut expectations).expect("standard input is readable");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let catalogue = Catalogue::builtin();
        let opened = SqliteStore::open(folder.join("state.db"), kobune_store::Config::default(), facets(&catalogue));
        let store = opened.unwrap_or_else(|error| wrong(format_args!("the store does not open: {error:?}")));
        check_revision(&*store, &expectations);
        let mut config = Config::new(folder.to_owned(), "192.0.2.1".parse().expect("an address"), 6443);
        config.service_cidrs = vec!["10.96.0.0/24".to_owned()];
        let built = ApiServer::build(config, store, catalogue).await;
        let server = built.unwrap_or_else(|error| wrong(format_args!("the server does not start: {error:?}")));
        let service = server.service_as(User::new("admin", &["system:masters"]));
        let client = Arc::new(Client { service });
        for line in expectations.lines().skip(1) {
            client.check(line).await;
        }
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..=WRITERS + CUSTOM_WRITERS {
            writers.spawn(write(client.clone(), writer, seed));
        }
        // They write until the process is killed; whichever ends, ends by a mistake.
        let ended = writers.join_next().await.expect("there are writers");
        wrong(format_args!("a writer ended: {ended:?}"));
    })
}

/// Revisions start at or above the newest that was told, and a watcher of it is complete or refused.
fn check_revision(store: &dyn Store, expectations: &str) {
    let first = expectations.lines().next().and_then(|line| line.strip_prefix("revision "));
    let newest = Revision(first.expect("the first line").parse().expect("a number"));
    if store.revision() < newest {
        wrong(format_args!("revisions start at {} and {newest} was told", store.revision()));
    }
    match store.watch(&Range::all("core/configmaps"), newest) {
        Ok(_) if newest == store.revision() => {}
        Err(StoreError::Expired { .. }) => {}
        other => wrong(format_args!("a watcher of {newest} gets {other:?}")),
    }
}

struct Client {
    service: InProcess,
}

impl Client {
    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.header("user-agent", "killed").body(Full::new(body)).expect("a request");
        let response = self.service.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        (parts.status, serde_json::from_slice(&bytes).expect("answers are JSON"))
    }

    /// The number of an object, `-` when it is not there.
    async fn number(&self, path: &str) -> String {
        match self.send("GET", path, "application/json", &Value::Null).await {
            (StatusCode::OK, object) => {
                object["metadata"]["annotations"]["number"].as_str().expect("writers give numbers").to_owned()
            }
            (StatusCode::NOT_FOUND, _) => "-".to_owned(),
            (status, answer) => wrong(format_args!("GET {path}: {status} {answer}")),
        }
    }

    /// Checks `PATH NUMBER [NUMBER]`.
    async fn check(&self, line: &str) {
        let mut words = line.split(' ');
        let path = words.next().expect("a path");
        let found = self.number(path).await;
        if !words.any(|allowed| allowed == found) {
            wrong(format_args!("found {found} where it should be: {line}"));
        }
        if found != "-" && path.starts_with(SCHEMAS) {
            self.check_schema(path).await;
        }
        say(format_args!("found {path} {found}"));
    }

    /// Checks that the kind of a definition is served with the definition's schema: every field that it has is a text.
    async fn check_schema(&self, path: &str) {
        let definition = self.established(path).await;
        let plural = definition["spec"]["names"]["plural"].as_str().expect("it is a definition");
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let fields = schema["properties"]["spec"]["properties"].as_object().expect("it has fields");
        let last = fields.keys().max_by_key(|name| name.len()).expect("a number has digits");
        let collection = custom_collection(plural);
        for (value, expected) in [(json!("x"), StatusCode::CREATED), (json!(7), StatusCode::UNPROCESSABLE_ENTITY)] {
            let mut body = custom_object(plural, "dry", "0");
            body["spec"] = json!({last: value});
            let path = format!("{collection}?dryRun=All");
            let (status, answer) = self.send("POST", &path, "application/json", &body).await;
            if status != expected {
                wrong(format_args!("{path} {body}: {status} where {expected} should be: {answer}"));
            }
        }
    }

    /// A definition, once it says that its kind is served: the write of one is acknowledged before that.
    async fn established(&self, path: &str) -> Value {
        loop {
            let (_, definition) = self.send("GET", path, "application/json", &Value::Null).await;
            let conditions = definition["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
            if conditions.iter().any(|it| it["type"] == "Established" && it["status"] == "True") {
                return definition;
            }
            // One that is never established keeps every writer of its objects silent, and the one who kills waiting.
            tokio::time::sleep(std::time::Duration::from_micros(100)).await;
        }
    }

    /// Does a write and says so.
    async fn write(&self, method: &str, path: &str, kind: &str, body: Value, object: &str, number: &str) {
        say(format_args!("try {object} {number}"));
        let (status, answer) = self.send(method, path, kind, &body).await;
        if !status.is_success() {
            wrong(format_args!("{method} {path} {body}: {status} {answer}"));
        }
        // A deletion is answered with a Status, which has no revision.
        let revision = answer["metadata"]["resourceVersion"].as_str().unwrap_or("1");
        say(format_args!("done {object} {number} {revision}"));
    }
}

/// Where the objects of a definition are.
fn custom_collection(plural: &str) -> String {
    format!("/apis/killed.example.com/v1/namespaces/default/{plural}")
}

/// An object of a definition.
fn custom_object(plural: &str, name: &str, number: &str) -> Value {
    let metadata = json!({"name": name, "annotations": {"number": number}});
    // The first field is in every schema.
    let spec = json!({"field0": "x".repeat(500)});
    json!({"apiVersion": "killed.example.com/v1", "kind": format!("K{plural}"), "metadata": metadata, "spec": spec})
}

/// A configuration of about a kilobyte, or a definition of a resource whose schema changes with the number.
fn object(collection: &str, name: &str, number: &str) -> Value {
    let metadata = json!({"name": name, "annotations": {"number": number}, "labels": {"app": "killed"}});
    if collection == CONFIG_MAPS {
        return json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": "x".repeat(900)}});
    }
    let plural = name.split('.').next().expect("a name");
    // The fields come and go with the length of the number, and objects are stored now in one version, now in the other.
    let fields = number.len() % 5 + 1;
    let properties: serde_json::Map<String, Value> =
        (0..fields).map(|field| (format!("field{field}"), json!({"type": "string", "description": number}))).collect();
    let schema = json!({"openAPIV3Schema": {
        "type": "object", "properties": {"spec": {"type": "object", "properties": properties}},
    }});
    let second = number.ends_with(['1', '3', '5', '7', '9']);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
        "spec": {
            "group": "killed.example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": format!("one-{plural}"), "kind": format!("K{plural}"), "listKind": format!("K{plural}List")},
            "versions": [
                {"name": "v1", "served": true, "storage": !second, "schema": schema},
                {"name": "v2", "served": true, "storage": second, "schema": schema},
            ],
        },
    })
}

async fn write(client: Arc<Client>, writer: u64, seed: u64) {
    if writer > WRITERS {
        return write_custom(client, writer, seed).await;
    }
    let collection = if writer == WRITERS { SCHEMAS } else { CONFIG_MAPS };
    let mut random = StdRng::seed_from_u64(seed * 100 + writer);
    for count in 0u64.. {
        let name = match collection {
            SCHEMAS => format!("w{}.killed.example.com", count % OBJECTS),
            _ => format!("w{writer}-{}", count % OBJECTS),
        };
        let path = format!("{collection}/{name}");
        let number = format!("{seed}-{writer}-{count}");
        let body = object(collection, &name, &number);
        let json = "application/json";
        if client.number(&path).await == "-" {
            client.write("POST", collection, json, body, &path, &number).await;
            continue;
        }
        match random.random_range(0..4) {
            0 => client.write("PUT", &path, json, with_version(&client, &path, body).await, &path, &number).await,
            // A definition goes in the background, after its objects: the answer does not say that it is gone.
            1 if collection != SCHEMAS => client.write("DELETE", &path, json, Value::Null, &path, "-").await,
            2 => {
                let patch = json!({"metadata": {"annotations": {"number": number}}});
                client.write("PATCH", &path, "application/merge-patch+json", patch, &path, &number).await;
            }
            _ => {
                let path_of_apply = format!("{path}?fieldManager=killed&force=true");
                client.write("PATCH", &path_of_apply, "application/apply-patch+yaml", body, &path, &number).await;
            }
        }
    }
}

/// The body with the resourceVersion that the object has, which some kinds insist on.
async fn with_version(client: &Client, path: &str, mut body: Value) -> Value {
    let (_, current) = client.send("GET", path, "application/json", &Value::Null).await;
    body["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
    body
}

/// Writes objects of the definitions while those change.
async fn write_custom(client: Arc<Client>, writer: u64, seed: u64) {
    let json = "application/json";
    let mut random = StdRng::seed_from_u64(seed * 100 + writer);
    for count in 0u64.. {
        let plural = format!("w{}", random.random_range(0..OBJECTS));
        let definition = format!("{SCHEMAS}/{plural}.killed.example.com");
        if client.number(&definition).await == "-" {
            // Only in the first life: nobody deletes definitions.
            tokio::task::yield_now().await;
            continue;
        }
        client.established(&definition).await;
        let name = format!("c{writer}-{}", count % OBJECTS);
        let collection = custom_collection(&plural);
        let path = format!("{collection}/{name}");
        let number = format!("{seed}-{writer}-{count}");
        let body = custom_object(&plural, &name, &number);
        if client.number(&path).await == "-" {
            client.write("POST", &collection, json, body, &path, &number).await;
            continue;
        }
        match random.random_range(0..4) {
            0 => client.write("PUT", &path, json, with_version(&client, &path, body).await, &path, &number).await,
            1 => client.write("DELETE", &path, json, Value::Null, &path, "-").await,
            2 => {
                let patch = json!({"metadata": {"annotations": {"number": number}}});
                client.write("PATCH", &path, "application/merge-patch+json", patch, &path, &number).await;
            }
            _ => {
                let apply = format!("{path}?fieldManager=killed&force=true");
                client.write("PATCH", &apply, "application/apply-patch+yaml", body, &path, &number).await;
            }
        }
    }
}
