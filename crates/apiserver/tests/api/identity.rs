//! Users of other issuers: OpenID Connect, with an issuer of the test's own.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use kobune_apiserver::security::{
    TokenWebhook,
    jwt::{Authentication, OidcOptions},
};
use kobune_pki::{Bound, Claims, Reference, ServiceAccountTokens};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Cluster;
use super::webhook_server::{Said, WebhookServer};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// An issuer whose keys can be exchanged.
struct Provider {
    server: WebhookServer,
    signer: Arc<Mutex<ServiceAccountTokens>>,
    url: String,
}

/// A fresh key for tokens of an issuer.
fn signer(url: &str) -> ServiceAccountTokens {
    let folder = tempfile::tempdir().expect("a folder");
    ServiceAccountTokens::load_or_create(folder.path(), url).expect("a key")
}

impl Provider {
    async fn start() -> Provider {
        let url: Arc<OnceLock<String>> = Arc::default();
        let keys = Arc::new(Mutex::new(signer("")));
        let server = WebhookServer::start({
            let (url, keys) = (Arc::clone(&url), Arc::clone(&keys));
            move |path, _| {
                let url = url.get().expect("nobody asks before the test");
                match path {
                    "/realm/.well-known/openid-configuration" => {
                        Said::Json(json!({"issuer": format!("{url}/realm"), "jwks_uri": format!("{url}/keys")}))
                    }
                    "/keys" => Said::Json(keys.lock().jwks()),
                    _ => Said::Raw(404, Vec::new()),
                }
            }
        })
        .await;
        let address = format!("https://127.0.0.1:{}", server.port);
        url.set(address.clone()).expect("set once");
        let url = format!("{address}/realm");
        *keys.lock() = signer(&url);
        Provider { server, signer: keys, url }
    }

    /// The claims of a token for `jane`, with a team where service accounts have their namespace.
    fn claims(&self) -> Claims {
        let now = Timestamp::now().as_second();
        Claims {
            aud: vec!["kubernetes".to_owned()],
            exp: now + 600,
            iat: now,
            iss: self.url.clone(),
            jti: "id-1".to_owned(),
            bound: Bound { namespace: "crew".to_owned(), serviceaccount: Reference::default(), ..Bound::default() },
            nbf: now,
            sub: "jane".to_owned(),
        }
    }

    fn token(&self) -> String {
        self.signer.lock().sign(&self.claims()).expect("a token")
    }

    fn asked(&self, path: &str) -> usize {
        self.server.seen().iter().filter(|request| request["path"] == path).count()
    }

    fn authority(&self) -> String {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(self.server.bundle()).expect("base64");
        String::from_utf8(bytes).expect("PEM")
    }
}

fn configuration(folder: &Path, provider: &Provider, rest: &str) -> Arc<Authentication> {
    let path = folder.join("authentication.yaml");
    let authority = provider.authority().replace('\n', "\n        ");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    \
         audiences: [kubernetes]\n    certificateAuthority: |\n        {authority}\n{rest}",
        provider.url
    );
    std::fs::write(&path, text).expect("a file");
    Authentication::load(&path, "https://kubernetes.default.svc.cluster.local").expect("a configuration")
}

impl Cluster {
    async fn review(&self, token: &str) -> Value {
        let body = json!({"spec": {"token": token}});
        self.post(REVIEWS, &body.to_string()).await.expect(201)["status"].clone()
    }
}

#[tokio::test]
async fn tokens_of_other_issuers_are_users() {
    let provider = Provider::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let rest = "  claimMappings:\n    username: {expression: '\"oidc:\" + claims.sub'}\n    groups: {expression: \
                'claims[\"kubernetes.io\"].namespace'}\n    extra:\n    - {key: example.com/from, valueExpression: \
                claims.iss}\n  claimValidationRules:\n  - {expression: 'claims.exp - claims.iat <= 600', message: too \
                long}\n  userValidationRules:\n  - {expression: \"!user.username.startsWith('oidc:system:')\"}\n";
    let authentication = configuration(folder.path(), &provider, rest);
    let cluster = Cluster::start_with(|config| config.authentication = authentication).await;
    assert_eq!(provider.server.seen().len(), 0, "nobody is asked before there is a token");
    let status = cluster.review(&provider.token()).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(
        status["user"],
        json!({
            "username": "oidc:jane", "groups": ["crew", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/credential-id": ["JTI=id-1"], "example.com/from": [provider.url],
            },
        })
    );
    cluster.review(&provider.token()).await;
    assert_eq!((provider.asked("/keys"), provider.server.seen().len()), (1, 2), "keys are kept");

    let refused = |claims: Claims| {
        let token = provider.signer.lock().sign(&claims).expect("a token");
        let cluster = &cluster;
        async move {
            let status = cluster.review(&token).await;
            assert!(status.get("authenticated").is_none(), "{status}");
            status["error"].as_str().unwrap_or_default().to_owned()
        }
    };
    let now = Timestamp::now().as_second();
    let late = refused(Claims { exp: now - 1, ..provider.claims() }).await;
    assert_eq!(late, "[invalid bearer token, oidc: verify token: oidc: token is expired]");
    let other = refused(Claims { aud: vec!["other".to_owned()], ..provider.claims() }).await;
    assert!(other.ends_with(r#"oidc: expected audience in ["kubernetes"] got ["other"]]"#), "{other}");
    let long = refused(Claims { exp: now + 6000, ..provider.claims() }).await;
    assert!(long.ends_with("failed: too long]"), "{long}");
    let system = refused(Claims { sub: "system:admin".to_owned(), ..provider.claims() }).await;
    assert!(system.contains("error evaluating user info validation rule"), "{system}");
    // A key that the issuer does not know, under its name.
    let forged = signer(&provider.url).sign(&provider.claims()).expect("a token");
    let status = cluster.review(&forged).await;
    assert!(status["error"].as_str().is_some_and(|error| error.contains("failed to verify signature")), "{status}");
    // This cluster's own tokens are what they were.
    let own = cluster.post("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"robot"}}"#).await;
    own.expect(201);
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let token = cluster.post(path, r#"{"spec":{}}"#).await.expect(201)["status"]["token"].clone();
    let status = cluster.review(token.as_str().expect("a token")).await;
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    cluster.stop().await;
}

#[tokio::test]
async fn keys_of_issuers_are_exchanged() {
    let provider = Provider::start().await;
    let authority = provider.authority();
    let options = OidcOptions {
        issuer_url: provider.url.clone(),
        client_id: "kubernetes".to_owned(),
        certificate_authority: Some(authority),
        username_claim: "sub".to_owned(),
        username_prefix: None,
        groups_claim: None,
        groups_prefix: None,
        required_claims: vec![("jti".to_owned(), "id-1".to_owned())],
        signing_algs: vec!["ES256".to_owned()],
    };
    let authentication = Authentication::of_flags(&options, "https://own.example").expect("an issuer");
    let cluster = Cluster::start_with(|config| config.authentication = authentication).await;
    let name = format!("{}#jane", provider.url);
    assert_eq!(cluster.review(&provider.token()).await["user"]["username"], name.as_str());
    let old = provider.token();
    *provider.signer.lock() = signer(&provider.url);
    assert_eq!(cluster.review(&old).await["authenticated"], true, "nobody has said that the old key is gone");
    assert_eq!(cluster.review(&provider.token()).await["user"]["username"], name.as_str());
    assert_eq!(provider.asked("/keys"), 2, "a new key is found by its first token");
    assert_ne!(cluster.review(&old).await["authenticated"], true, "the old key is gone");
    // Tokens of unknown keys are free to make: the issuer is not asked for each of them.
    for _ in 0..20 {
        let forged = signer(&provider.url).sign(&provider.claims()).expect("a token");
        assert_ne!(cluster.review(&forged).await["authenticated"], true);
    }
    assert_eq!(provider.asked("/keys"), 5);
    cluster.stop().await;
}

#[tokio::test]
async fn issuers_that_do_not_answer() {
    let provider = Provider::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    // The description is elsewhere, where nobody has it.
    let rest = format!(
        "    discoveryURL: {}/nowhere\n  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n",
        provider.url
    );
    let authentication = configuration(folder.path(), &provider, &rest);
    let cluster = Cluster::start_with(|config| config.authentication = authentication).await;
    for _ in 0..3 {
        let status = cluster.review(&provider.token()).await;
        let error = status["error"].as_str().expect("an error");
        assert!(error.contains("oidc: authenticator not initialized: fetching keys 404 from"), "{error}");
    }
    assert_eq!(provider.server.seen().len(), 1, "a failure is remembered for a while");
    cluster.stop().await;
}

#[tokio::test]
async fn webhooks_know_tokens() {
    let failures = Arc::new(AtomicUsize::new(1));
    let server = WebhookServer::start({
        let failures = Arc::clone(&failures);
        move |_, question| {
            if failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Said::Raw(500, Vec::new());
            }
            let status = match question["spec"]["token"].as_str().expect("a token") {
                "jane" => json!({"authenticated": true, "user": {"username": "jane", "groups": ["crew"]}}),
                "elsewhere" => json!({"authenticated": true, "audiences": ["x"], "user": {"username": "jane"}}),
                "broken" => return Said::Raw(400, Vec::new()),
                _ => json!({"authenticated": false, "error": "never heard of it"}),
            };
            let api = "authentication.k8s.io/v1";
            Said::Json(json!({"apiVersion": api, "kind": "TokenReview", "status": status}))
        }
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("webhook.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: hook\ncontexts: [{{name: hook, context: {{cluster: hook, user: \
         api}}}}]\nclusters: [{{name: hook, cluster: {{server: 'https://127.0.0.1:{}/who?x=y', \
         certificate-authority-data: {}}}}}]\nusers: [{{name: api, user: {{token: secret}}}}]\n",
        server.port,
        server.bundle()
    );
    std::fs::write(&path, text).expect("a file");
    let webhook = TokenWebhook::load(&path, Duration::from_secs(600)).expect("a webhook");
    let cluster = Cluster::start_with(|config| config.token_webhook = Some(Arc::new(webhook))).await;
    let status = cluster.review("jane").await;
    assert_eq!(status["user"], json!({"username": "jane", "groups": ["crew", "system:authenticated"]}), "{status}");
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    cluster.review("jane").await;
    let seen = server.seen();
    assert_eq!(seen.len(), 2, "a failure is tried again, an answer is kept");
    assert_eq!((&seen[1]["path"], &seen[1]["headers"]["authorization"]), (&json!("/who?x=y"), &json!("Bearer secret")));
    assert_eq!(seen[1]["body"]["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(
        seen[1]["body"]["spec"],
        json!({"token": "jane", "audiences": ["https://kubernetes.default.svc.cluster.local"]})
    );

    let refused = |token: &'static str| {
        let cluster = &cluster;
        async move {
            let status = cluster.review(token).await;
            assert!(status.get("authenticated").is_none(), "{status}");
            status["error"].as_str().unwrap_or_default().to_owned()
        }
    };
    assert_eq!(refused("nobody").await, "[invalid bearer token, never heard of it]");
    refused("nobody").await;
    assert_eq!(server.seen().len(), 3, "refusals are kept too");
    let elsewhere = refused("elsewhere").await;
    assert!(elsewhere.contains(r#"the token is for ["x"]"#), "{elsewhere}");
    for _ in 0..2 {
        let broken = refused("broken").await;
        assert!(broken.contains("400 from"), "{broken}");
    }
    assert_eq!(server.seen().len(), 6, "failures are not");
    // This cluster's own tokens need nobody else.
    cluster.post("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"robot"}}"#).await.expect(201);
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let token = cluster.post(path, r#"{"spec":{}}"#).await.expect(201)["status"]["token"].clone();
    let status = cluster.review(token.as_str().expect("a token")).await;
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(server.seen().len(), 6);
    cluster.stop().await;
}
