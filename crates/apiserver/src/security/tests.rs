//! The whole of [`Security`] over a real store.

use std::sync::Arc;

use http::HeaderMap;
use kobune_pki::ServiceAccountTokens;
use kobune_store::{Draft, Durability, Facets, Key, Op, Record, SqliteStore, Store, Write};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::admission::{Operation, Request};
use super::{Attributes, Config, Credentials, Security, User, bootstrap};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct World {
    _folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    security: Arc<Security>,
    shutdown: CancellationToken,
}

/// Canonical JSON with the place of the revision, as the API server makes it.
fn draft(mut object: Value, node: &str) -> Draft {
    const MARK: &str = "\"resourceVersion\":\"";
    object["metadata"]["resourceVersion"] = "".into();
    let text = object.to_string();
    let splice = text.find(MARK).expect("it was just put in") + MARK.len();
    let fields = if node.is_empty() { vec![] } else { vec![("spec.nodeName", node)] };
    Draft { bytes: text.into_bytes(), splice, facets: Facets::new([], fields) }
}

impl World {
    async fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(folder.path().join("db"), kobune_store::Config::default(), |_, _| Facets::default());
        let store = store.unwrap();
        let config = bootstrap::Config {
            service_addresses: vec![[10, 96, 0, 1].into()],
            service_cidrs: vec!["10.96.0.0/16".into()],
            server_addresses: vec![[127, 0, 0, 1].into()],
            dns_addresses: Vec::new(),
            cluster_cidrs: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            port: 6443,
            client_authority: "pem".to_owned(),
            front_proxy_authority: "pem".to_owned(),
            today: "2026-01-01".to_owned(),
        };
        let mut world_store = Writer(store.clone());
        for one in bootstrap::objects(&config) {
            let group = if one.group.is_empty() { "core" } else { one.group };
            world_store.create(&format!("{group}/{}", one.resource), one.object).await;
        }
        let tokens = ServiceAccountTokens::load_or_create(&folder.path().join("pki"), ISSUER).unwrap();
        let shutdown = CancellationToken::new();
        let security =
            Security::start(Config::new(ISSUER), store.clone(), Arc::new(tokens), shutdown.clone()).await.unwrap();
        World { _folder: folder, store, security, shutdown }
    }

    async fn create(&self, collection: &str, object: Value) -> Record {
        Writer(self.store.clone()).create(collection, object).await
    }

    async fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let key = Key::new(collection, namespace, name);
        let record = self.store.get(&key).await.unwrap().unwrap();
        let last = draft(serde_json::from_slice(&record.value).unwrap(), "");
        let op = Op::Delete { expected: record.revision, last };
        self.store.commit(Write { key, op, durability: Durability::Synced }).await.unwrap();
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.store.close().await;
    }
}

struct Writer(Arc<SqliteStore>);

impl Writer {
    async fn create(&mut self, collection: &str, mut object: Value) -> Record {
        let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&object, "namespace"), text(&object, "name"));
        object["metadata"]["uid"] = format!("uid-of-{name}").into();
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let key = Key::new(collection, &namespace, &name);
        let op = Op::Create(draft(object, &node));
        self.0.commit(Write { key, op, durability: Durability::Synced }).await.unwrap()
    }
}

fn request<'a>(user: &'a User, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Request<'a> {
    Request {
        operation: Operation::Create,
        group,
        version: "v1",
        resource,
        subresource: "",
        kind: "",
        namespace,
        name,
        user,
        dry_run: false,
        trail: None,
    }
}

#[tokio::test]
async fn tokens_live_and_die_with_what_they_are_bound_to() {
    let world = World::new().await;
    let security = &world.security;
    let admin = User::new("admin", &["system:masters"]);
    world.create("core/serviceaccounts", json!({ "metadata": { "namespace": "default", "name": "bot" } })).await;
    let pod = json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": { "serviceAccountName": "bot", "nodeName": "n1" },
    });
    world.create("core/pods", pod).await;
    let ask = json!({ "spec": {
        "expirationSeconds": 3607, "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "web" },
    } });
    let answer = security.request_token(&admin, "default", "bot", ask.clone()).await.unwrap();
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let login = |token: String| async move {
        let credentials = Credentials { connection: None, bearer: Some(&token), path: "" };
        security.authenticate(credentials).await.map(|found| found.user.name.clone()).map_err(|refusal| refusal.code)
    };
    assert_eq!(login(token.clone()).await, Ok("system:serviceaccount:default:bot".to_owned()));
    assert_eq!(login("nonsense".to_owned()).await, Err(401));

    let review = |audiences: Value| {
        let body = json!({ "spec": { "token": token, "audiences": audiences } });
        security.review(&admin, "tokenreviews", "", body)
    };
    let answer = review(json!([])).await.unwrap();
    assert_eq!(answer["status"]["authenticated"], true);
    assert_eq!(answer["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
    let answer = review(json!(["vault"])).await.unwrap();
    assert_eq!(answer["status"].get("authenticated"), None, "{answer}");

    world.delete("core/pods", "default", "web").await;
    assert_eq!(login(token).await, Err(401));
    let refused = security.request_token(&admin, "default", "bot", ask).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (404, "pods \"web\" not found"));
    world.end().await;
}

#[tokio::test]
async fn secrets_hold_tokens_too() {
    use base64::Engine as _;
    let text = |value: &str| Value::from(base64::engine::general_purpose::STANDARD.encode(value));
    let world = World::new().await;
    let security = &world.security;
    let login = |token: &str| {
        let token = token.to_owned();
        async move {
            let credentials = Credentials { connection: None, bearer: Some(&token), path: "" };
            security
                .authenticate(credentials)
                .await
                .map(|found| found.user.name.clone())
                .map_err(|refusal| refusal.code)
        }
    };
    let bootstrap = json!({
        "metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {
            "token-id": text("abcdef"), "token-secret": text("0123456789abcdef"),
            "usage-bootstrap-authentication": text("true"),
        },
    });
    world.create("core/secrets", bootstrap).await;
    assert_eq!(login("abcdef.0123456789abcdef").await, Ok("system:bootstrap:abcdef".to_owned()));
    assert_eq!(login("abcdef.0123456789abcdee").await, Err(401));
    assert_eq!(login("abcdeg.0123456789abcdef").await, Err(401));
    world.delete("core/secrets", "kube-system", "bootstrap-token-abcdef").await;
    assert_eq!(login("abcdef.0123456789abcdef").await, Err(401));

    world.create("core/serviceaccounts", json!({"metadata": {"namespace": "a", "name": "bot"}})).await;
    let claims = kobune_pki::LegacyClaims {
        iss: kobune_pki::LegacyClaims::ISSUER.to_owned(),
        namespace: "a".to_owned(),
        secret: "bot-token".to_owned(),
        account: "bot".to_owned(),
        account_uid: "uid-of-bot".to_owned(),
        sub: "system:serviceaccount:a:bot".to_owned(),
    };
    let token = security.tokens.sign_legacy(&claims).unwrap();
    assert_eq!(login(&token).await, Err(401), "no Secret holds it");
    let secret = json!({"metadata": {"namespace": "a", "name": "bot-token"}, "data": {"token": text(&token)}});
    world.create("core/secrets", secret).await;
    assert_eq!(login(&token).await, Ok("system:serviceaccount:a:bot".to_owned()));
    let noted = || async {
        let record = world.store.get(&Key::new("core/secrets", "a", "bot-token")).await.unwrap().unwrap();
        let secret: Value = serde_json::from_slice(&record.value).unwrap();
        (record.revision, secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].clone())
    };
    let (revision, day) = noted().await;
    assert_eq!(day, json!(super::secret_token::day(jiff::Timestamp::now().as_second()).to_string()));
    assert_eq!(login(&token).await, Ok("system:serviceaccount:a:bot".to_owned()));
    assert_eq!(noted().await.0, revision, "one note a day");
    let credentials = Credentials { connection: None, bearer: Some(&token), path: "" };
    let told = security.authenticate(credentials).await.unwrap().secret.unwrap();
    assert_eq!(told.audit_annotation(), ("authentication.k8s.io/legacy-token-manual-secret", "bot-token"));
    assert_eq!(told.warning(), None);

    world.delete("core/secrets", "a", "bot-token").await;
    assert_eq!(login(&token).await, Err(401));
    let marked = json!({
        "metadata": {"namespace": "a", "name": "bot-token",
            "labels": {"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}},
        "data": {"token": text(&token)},
    });
    world.create("core/secrets", marked).await;
    assert_eq!(login(&token).await, Err(401), "it has been marked invalid");
    assert!(noted().await.1.is_string(), "that it was tried is noted all the same");
    let review = json!({ "spec": { "token": token } });
    let admin = User::new("admin", &["system:masters"]);
    let answer = security.review(&admin, "tokenreviews", "", review).await.unwrap();
    let words = answer["status"]["error"].as_str().unwrap();
    assert!(
        words.contains("the token in secret a/bot-token for service account a/bot has been marked invalid"),
        "{words}"
    );

    // One that the service account lists was made without being asked for: its user is warned.
    world.delete("core/serviceaccounts", "a", "bot").await;
    let lists = json!({"metadata": {"namespace": "a", "name": "bot"}, "secrets": [{"name": "old-token"}]});
    world.create("core/serviceaccounts", lists).await;
    let claims = kobune_pki::LegacyClaims { secret: "old-token".to_owned(), ..claims };
    let token = security.tokens.sign_legacy(&claims).unwrap();
    let secret = json!({"metadata": {"namespace": "a", "name": "old-token"}, "data": {"token": text(&token)}});
    world.create("core/secrets", secret).await;
    let credentials = Credentials { connection: None, bearer: Some(&token), path: "" };
    let told = security.authenticate(credentials).await.unwrap().secret.unwrap();
    assert_eq!(told.audit_annotation().0, "authentication.k8s.io/legacy-token-autogenerated-secret");
    assert!(told.warning().is_some_and(|warning| warning.starts_with("Use tokens from the TokenRequest API")));
    world.end().await;
}

#[tokio::test]
async fn rights_follow_the_store() {
    let world = World::new().await;
    let jane = User::new("jane", &[]);
    let attributes =
        Attributes { verb: "list", version: "v1", resource: "pods", namespace: "default", ..Attributes::default() };
    let refusal = world.security.require(&jane, &attributes).await.unwrap_err();
    assert_eq!(
        refusal.message,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let binding = json!({
        "metadata": { "namespace": "default", "name": "jane" },
        "roleRef": { "kind": "ClusterRole", "name": "view" }, "subjects": [{ "kind": "User", "name": "jane" }],
    });
    let refused = world
        .security
        .validate(&request(&jane, "rbac.authorization.k8s.io", "rolebindings", "default", "jane"), Some(&binding), None)
        .await;
    assert_eq!(refused.unwrap_err().code, 403, "nobody makes itself a reader");
    world.create("rbac.authorization.k8s.io/rolebindings", binding).await;
    let allowed = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while !world.security.authorize(&jane, &attributes).await.allowed {
            tokio::task::yield_now().await;
        }
    });
    allowed.await.expect("the binding counts soon");

    let mut headers = HeaderMap::new();
    headers.insert("impersonate-user", "jane".parse().unwrap());
    assert!(world.security.impersonate(&jane, &headers).await.is_err());
    let admin = User::new("admin", &["system:masters"]);
    assert_eq!(world.security.impersonate(&admin, &headers).await.unwrap().unwrap().name, "jane");

    let body =
        json!({ "spec": { "resourceAttributes": { "verb": "list", "resource": "pods", "namespace": "default" } } });
    let answer = world.security.review(&jane, "selfsubjectaccessreviews", "", body).await.unwrap();
    let reason = "RBAC: allowed by RoleBinding \"jane/default\" of ClusterRole \"view\" to User \"jane\"";
    assert_eq!(answer["status"], json!({ "allowed": true, "reason": reason }));
    let rules =
        world.security.review(&jane, "selfsubjectrulesreviews", "", json!({ "spec": { "namespace": "default" } }));
    assert_eq!(rules.await.unwrap()["status"]["incomplete"], false);
    world.end().await;
}

#[tokio::test]
async fn pods_are_completed_and_counted() {
    let world = World::new().await;
    let admin = User::new("admin", &["system:masters"]);
    let pod = |name: &str| json!({ "metadata": { "namespace": "default", "name": name }, "spec": { "containers": [{ "name": "a" }] } });
    let (in_default, nowhere) =
        (request(&admin, "", "pods", "default", "web"), request(&admin, "", "pods", "nowhere", "web"));
    let refused = world.security.mutate(&nowhere, &mut pod("web"), None).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    let mut named = pod("web");
    named["spec"]["serviceAccountName"] = "ghost".into();
    let refused = world.security.mutate(&in_default, &mut named, None).await.unwrap_err();
    assert_eq!(
        refused.message,
        "pods \"web\" is forbidden: error looking up service account default/ghost: serviceaccount \"ghost\" not found"
    );

    // The default account appears while the pod waits for it.
    let mut web = pod("web");
    let account = json!({ "metadata": { "namespace": "default", "name": "default" } });
    let (admitted, _) =
        tokio::join!(world.security.mutate(&in_default, &mut web, None), world.create("core/serviceaccounts", account));
    admitted.unwrap();
    let spec = &web["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);

    let quota = json!({ "metadata": { "namespace": "default", "name": "few" }, "spec": { "hard": { "pods": "2" } } });
    world.create("core/resourcequotas", quota).await;
    let admit = |name: &'static str| {
        let world = &world;
        let admin = &admin;
        async move {
            let pod = pod(name);
            world.security.charge(&request(admin, "", "pods", "default", name), Some(&pod), None).await
        }
    };
    let answers = tokio::join!(admit("a"), admit("b"), admit("c"));
    let admitted = [&answers.0, &answers.1, &answers.2].iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(admitted, 2, "a burst does not slip past");
    world.create("core/pods", pod("a")).await;
    world.create("core/pods", pod("b")).await;
    assert_eq!(
        admit("d").await.unwrap_err().message,
        "pods \"d\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2"
    );
    world.delete("core/pods", "default", "b").await;
    let freed = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while admit("d").await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    freed.await.expect("the share is free again");
    world.end().await;
}

#[tokio::test]
async fn namespaces_guard_their_content() {
    let world = World::new().await;
    let admin = User::new("admin", &["system:masters"]);
    let mut delete = request(&admin, "", "namespaces", "", "kube-system");
    delete.operation = Operation::Delete;
    let refused = world.security.validate(&delete, None, Some(&json!({}))).await.unwrap_err();
    assert_eq!(refused.message, "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");

    let ending = json!({ "metadata": { "name": "old" }, "status": { "phase": "Terminating" } });
    world.create("core/namespaces", ending).await;
    let mut map = json!({ "metadata": { "name": "x", "namespace": "old" } });
    let refused =
        world.security.mutate(&request(&admin, "", "configmaps", "old", "x"), &mut map, None).await.unwrap_err();
    assert_eq!(
        refused.message,
        "configmaps \"x\" is forbidden: unable to create new content in namespace old because it is being terminated"
    );
    assert_eq!(refused.details["causes"][0]["reason"], "NamespaceTerminating");

    let strict = json!({ "metadata": {
        "name": "strict", "labels": { "pod-security.kubernetes.io/enforce": "baseline" },
    } });
    world.create("core/namespaces", strict).await;
    let pod = json!({
        "metadata": { "name": "root", "namespace": "strict" },
        "spec": { "hostNetwork": true, "containers": [{ "name": "a" }] },
    });
    let refused = world.security.validate(&request(&admin, "", "pods", "strict", "root"), Some(&pod), None).await;
    assert_eq!(
        refused.unwrap_err().message,
        "pods \"root\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    world.end().await;
}
