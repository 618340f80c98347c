//! Webhooks that decide what users may do, in order with the other authorizers.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kobune_apiserver::security::{
    Authorization,
    authorizer::{ModeOptions, SubjectAccessReviewVersion},
};
use serde_json::{Value, json};

use crate::{
    Cluster, config_map,
    webhook_server::{Said, WebhookServer},
};

fn said(status: Value) -> Said {
    Said::Json(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}))
}

fn kubeconfig(folder: &Path, server: &WebhookServer) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = format!(
        "current-context: hook\ncontexts: [{{name: hook, context: {{cluster: hook}}}}]\nclusters: [{{name: hook, cluster: \
         {{server: 'https://127.0.0.1:{}/authorize', certificate-authority-data: {}}}}}]\n",
        server.port,
        server.bundle()
    );
    std::fs::write(&path, text).expect("a file");
    path
}

/// A configuration with the webhook first and RBAC behind it.
fn configuration(folder: &Path, kubeconfig: &Path, policy: &str, timeout: &str, rest: &str) -> PathBuf {
    let path = folder.join("authorization.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {{type: Webhook, name: \
         hook.example.com, webhook: {{timeout: {timeout}, subjectAccessReviewVersion: v1, \
         matchConditionSubjectAccessReviewVersion: v1, failurePolicy: {policy}, connectionInfo: {{type: KubeConfigFile, \
         kubeConfigFile: {}}}{rest}}}}}\n- {{type: RBAC, name: rbac}}\n",
        kubeconfig.display()
    );
    std::fs::write(&path, text).expect("a file");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_decide() {
    let server = WebhookServer::start(|_, question| {
        let spec = &question["spec"];
        let attributes = &spec["resourceAttributes"];
        match (spec["user"].as_str().expect("a user"), attributes["verb"].as_str()) {
            ("jane", Some("delete")) => said(json!({"denied": true, "reason": "jane deletes nothing"})),
            ("jane", Some("get" | "list" | "create")) => {
                said(json!({"allowed": true, "reason": "the hook likes jane"}))
            }
            ("broken", _) => Said::Raw(200, b"<html>".to_vec()),
            _ => said(json!({"allowed": false, "reason": "never heard of that"})),
        }
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let conditions = ", matchConditions: [{expression: \"has(request.resourceAttributes)\"}, {expression: \
                      \"request.resourceAttributes.resource != 'secrets'\"}]";
    let path = configuration(folder.path(), &kubeconfig(folder.path(), &server), "Deny", "5s", conditions);
    let authorization = Arc::new(Authorization::load(path.clone()).expect("a configuration"));
    let cluster = Cluster::start_with(|config| config.authorization = Arc::clone(&authorization)).await;
    cluster.post("/api/v1/namespaces/default/configmaps", &config_map("a", "{}")).await.expect(201);
    assert_eq!(server.seen().len(), 0, "administrators need nobody's leave");

    let jane = cluster.with_user("jane", &["crew"]);
    let ask = async |user: &_, method: &str, path: &str| cluster.send_as(user, method, path, &[], "").await;
    let one = "/api/v1/namespaces/default/configmaps/a";
    ask(&jane, "GET", one).await.expect(200);
    ask(&jane, "GET", one).await.expect(200);
    assert_eq!(server.seen().len(), 1, "an answer is kept");
    let selected = "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Da&labelSelector=x%20in%20(y,z)";
    ask(&jane, "GET", selected).await.expect(200);
    let seen = server.seen();
    assert_eq!(seen[1]["path"], "/authorize");
    assert_eq!(
        seen[1]["body"]["spec"],
        json!({
            "resourceAttributes": {
                "namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps", "name": "a",
                "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]},
                "labelSelector": {"requirements": [{"key": "x", "operator": "In", "values": ["y", "z"]}]},
            },
            "user": "jane", "groups": ["crew", "system:authenticated"],
        })
    );
    let (reason, message) = ask(&jane, "DELETE", one).await.failure(403);
    assert_eq!(reason, "Forbidden");
    assert!(message.ends_with("in the namespace \"default\": jane deletes nothing"), "{message}");
    // Where the webhook has no opinion, the next one is asked; conditions keep questions from it.
    let (_, message) = ask(&jane, "PUT", one).await.failure(403);
    assert!(message.ends_with("never heard of that"), "{message}");
    let before = server.seen().len();
    ask(&jane, "GET", "/api/v1/namespaces/default/secrets/a").await.failure(403);
    ask(&jane, "GET", "/version").await.expect(200);
    assert_eq!(server.seen().len(), before);
    // An answer that is none leads to the failure policy, and is the server's failure.
    let broken = cluster.with_user("broken", &[]);
    let (reason, message) = ask(&broken, "GET", one).await.failure(500);
    assert_eq!(reason, "InternalError");
    assert!(message.contains("the answer is no JSON"), "{message}");

    // Reviews say what was said; selectors of reviews reach the webhook.
    let review = async |spec: Value| {
        let body = json!({"spec": spec}).to_string();
        cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body).await
    };
    let about = |verb: &str| json!({"verb": verb, "resource": "configmaps", "namespace": "default", "name": "a"});
    let status = review(json!({"user": "jane", "groups": ["crew"], "resourceAttributes": about("delete")})).await;
    assert_eq!(
        status.expect(201)["status"],
        json!({"allowed": false, "denied": true, "reason": "jane deletes nothing"})
    );
    let status = review(json!({"user": "broken", "resourceAttributes": about("get")})).await.expect(201);
    assert_eq!(status["status"]["denied"], true);
    assert!(status["status"]["evaluationError"].as_str().is_some_and(|words| words.contains("no JSON")), "{status}");
    let mut selected = about("list");
    selected["fieldSelector"] = json!({"rawSelector": "spec.nodeName=n1"});
    review(json!({"user": "jane", "resourceAttributes": selected})).await.expect(201);
    let seen = server.seen();
    assert_eq!(
        seen.last().expect("a question")["body"]["spec"]["resourceAttributes"]["fieldSelector"],
        json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]})
    );
    let mut wrong = about("list");
    wrong["labelSelector"] = json!({});
    let (reason, message) = review(json!({"user": "jane", "resourceAttributes": wrong})).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("spec.resourceAttributes.labelSelector.requirements: Required value"), "{message}");
    let body = json!({"spec": {"namespace": "default"}}).to_string();
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let status = cluster.send_as(&jane, "POST", rules, &[], &body).await.expect(201);
    assert_eq!(status["status"]["incomplete"], true, "{status}");

    // Expressions of policies ask it too.
    let policy = json!({
        "metadata": {"name": "asks"},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]},
            ]},
            "validations": [{"expression": "!authorizer.group('').resource('configmaps').namespace('x').check('delete').allowed() \
                              && authorizer.group('').resource('configmaps').namespace('x').check('get').allowed()"}],
        },
    });
    let binding = json!({"metadata": {"name": "asks"}, "spec": {"policyName": "asks", "validationActions": ["Deny"]}});
    let group = "/apis/admissionregistration.k8s.io/v1";
    cluster.post(&format!("{group}/validatingadmissionpolicies"), &policy.to_string()).await.expect(201);
    cluster.post(&format!("{group}/validatingadmissionpolicybindings"), &binding.to_string()).await.expect(201);
    let body = config_map("b", "{}");
    let made = cluster.send_as(&jane, "POST", "/api/v1/namespaces/default/configmaps", &[], &body).await;
    made.expect(201);
    let asked = |verb: &str| {
        server.seen().iter().any(|question| {
            let attributes = &question["body"]["spec"]["resourceAttributes"];
            attributes["verb"] == verb && attributes["namespace"] == "x"
        })
    };
    assert!(asked("delete") && asked("get"));

    let metrics = String::from_utf8(cluster.get("/metrics").await.bytes.to_vec()).expect("a text");
    for line in [
        r#"apiserver_authorization_webhook_evaluations_total{name="hook.example.com",result="success"} "#,
        r#"apiserver_authorization_decisions_total{decision="denied",name="hook.example.com",type="Webhook"} "#,
        r#"apiserver_authorization_match_condition_exclusions_total{name="hook.example.com",type="Webhook"} "#,
    ] {
        assert!(metrics.contains(line), "{line}");
    }

    // A changed file is taken over; one with mistakes changes nothing.
    std::fs::write(&path, "authorizers: []").expect("a file");
    authorization.reload().expect_err("the file has mistakes");
    ask(&jane, "DELETE", one).await.failure(403);
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
    std::fs::write(&path, format!("{head}authorizers: [{{type: AlwaysAllow, name: all}}]\n")).expect("a file");
    let error = authorization.reload().expect_err("RBAC is gone");
    assert!(error.to_string().contains("type RBAC is required"), "{error}");
    let both = "authorizers: [{type: AlwaysAllow, name: all}, {type: RBAC, name: rbac}]\n";
    std::fs::write(&path, format!("{head}{both}")).expect("a file");
    assert!(authorization.reload().expect("a configuration"));
    assert!(!authorization.reload().expect("a configuration"), "nothing is new");
    let before = server.seen().len();
    ask(&jane, "DELETE", one).await.expect(200);
    assert_eq!(server.seen().len(), before);
    let metrics = String::from_utf8(cluster.get("/metrics").await.bytes.to_vec()).expect("a text");
    for line in [
        r#"apiserver_authorization_config_controller_automatic_reloads_total{status="failure"} 2"#,
        r#"apiserver_authorization_config_controller_automatic_reloads_total{status="success"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn webhooks_that_hang_or_are_gone() {
    let failures = Arc::new(AtomicUsize::new(1));
    let server = WebhookServer::start({
        let failures = Arc::clone(&failures);
        move |_, question| {
            if question["spec"]["user"] == "jane" {
                return Said::Nothing;
            }
            match failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => Said::Raw(500, Vec::new()),
                Err(_) => said(json!({"allowed": true})),
            }
        }
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = kubeconfig(folder.path(), &server);
    let path = configuration(folder.path(), &kubeconfig, "NoOpinion", "200ms", "");
    let authorization = Arc::new(Authorization::load(path).expect("a configuration"));
    let cluster = Cluster::start_with(|config| config.authorization = Arc::clone(&authorization)).await;
    let ask = async |user: &str, path: &str| cluster.send_as(&cluster.with_user(user, &[]), "GET", path, &[], "").await;
    // Nobody is asked twice who took all the time there was; RBAC still allows what it allows.
    ask("jane", "/version").await.expect(200);
    let (reason, message) = ask("jane", "/api/v1/nodes").await.failure(500);
    assert_eq!(reason, "InternalError");
    assert!(message.ends_with("context deadline exceeded"), "{message}");
    assert_eq!(server.seen().len(), 2);
    // A failure of the webhook's own is tried again.
    ask("joe", "/api/v1/nodes").await.expect(200);
    assert_eq!(server.seen().len(), 4);
    let (gone, folder) = (WebhookServer::start(|_, _| Said::Nothing).await, tempfile::tempdir().expect("a folder"));
    let path = configuration(folder.path(), &self::kubeconfig(folder.path(), &gone), "NoOpinion", "5s", "");
    let authorization = Arc::new(Authorization::load(path).expect("a configuration"));
    drop(gone);
    let cluster = cluster.restart_with(|config| config.authorization = Arc::clone(&authorization)).await;
    let joe = cluster.with_user("joe", &[]);
    cluster.send_as(&joe, "GET", "/version", &[], "").await.expect(200);
    let (_, message) = cluster.send_as(&joe, "GET", "/api/v1/pods", &[], "").await.failure(500);
    assert!(message.contains("connection refused"), "{message}");
    cluster.stop().await;
}

#[tokio::test]
async fn modes_of_flags() {
    let server = WebhookServer::start(|_, question| {
        assert_eq!(question["apiVersion"], "authorization.k8s.io/v1beta1");
        said(json!({"allowed": question["spec"]["group"] == json!(["crew", "system:authenticated"])}))
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let options = ModeOptions {
        modes: ["RBAC", "Webhook"].map(str::to_owned).to_vec(),
        webhook_config_file: Some(kubeconfig(folder.path(), &server)),
        webhook_version: SubjectAccessReviewVersion::V1Beta1,
        webhook_keep_allowed: Duration::ZERO,
        webhook_keep_refused: Duration::from_secs(600),
    };
    let authorization = Authorization::of_modes(&options).expect("authorizers");
    let cluster = Cluster::start_with(|config| config.authorization = Arc::new(authorization)).await;
    let (crew, other) = (cluster.with_user("jane", &["crew"]), cluster.with_user("joe", &[]));
    for _ in 0..2 {
        cluster.send_as(&crew, "GET", "/api/v1/nodes", &[], "").await.expect(200);
        cluster.send_as(&other, "GET", "/api/v1/nodes", &[], "").await.failure(403);
        cluster.send_as(&other, "GET", "/version", &[], "").await.expect(200);
    }
    assert_eq!(server.seen().len(), 3, "only refusals are kept, and RBAC comes first");
    cluster.stop().await;
}
