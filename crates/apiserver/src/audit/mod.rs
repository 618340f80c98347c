//! The audit trail: who asked for what and how it ended, by upstream's policy, as `audit.k8s.io/v1 Event`s: lines of a file,
//! batches for a webhook, or both.
//!
//! Without a policy nothing here is touched but the `Audit-Id` that every response has.

mod log_file;
mod policy;
mod sink;
mod trail;
mod webhook;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use serde_json::{Map, Value, json};

use crate::config_file::ConfigError;
use crate::outgoing::{kubeconfig::KubeconfigError, kubeconfig::Remote, poster::Poster};
use crate::security::User;

pub use log_file::LogOptions;
pub(crate) use policy::{Level, Stage, Subject};
pub(crate) use trail::{LONGEST_BODY, Trail};
pub use webhook::WebhookOptions;

use log_file::LogFile;
use policy::Policy;
use sink::Sink;
use webhook::WebhookSink;

/// The header that names a request in the audit log.
pub(crate) const AUDIT_ID: &str = "audit-id";

/// The longest identity that a client may give its request.
const LONGEST_ID: usize = 64;

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The policy cannot be used.
    #[error("cannot use the audit policy")]
    Policy(#[from] ConfigError),
    /// The log cannot be written.
    #[error("cannot write the audit log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The webhook cannot be used.
    #[error("cannot use the audit webhook")]
    Webhook(#[from] KubeconfigError),
}

/// Where events go.
pub(crate) struct Outlets {
    log: Option<Sink>,
    webhook: Option<WebhookSink>,
    events: AtomicU64,
}

impl Outlets {
    fn send(&self, event: &Value) {
        self.events.fetch_add(1, Ordering::Relaxed);
        let mut line = event.to_string();
        line.push('\n');
        let line = Bytes::from(line);
        if let Some(webhook) = &self.webhook {
            webhook.send(line.slice(..line.len() - 1));
        }
        if let Some(log) = &self.log {
            log.send(line);
        }
    }
}

/// Writes the audit trail of an API server.
pub struct Auditor {
    policy: Policy,
    outlets: Arc<Outlets>,
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Auditor").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Auditor {
    /// Reads the policy, opens the log and prepares to call the webhook. A webhook needs a runtime at this place.
    pub fn open(
        policy: &Path,
        log: Option<LogOptions>,
        webhook: Option<WebhookOptions>,
    ) -> Result<Arc<Auditor>, AuditError> {
        let policy = Policy::load(policy)?;
        let log = match log {
            None => None,
            Some(log) => {
                let path = log.path.clone();
                let file = LogFile::open(log).map_err(|source| AuditError::Log { path: path.clone(), source })?;
                Some(Sink::start(file, &path)?)
            }
        };
        let webhook = match webhook {
            None => None,
            Some(options) => {
                let poster = Poster::new(Remote::load(&options.config_file)?);
                Some(WebhookSink::start(options, poster))
            }
        };
        Ok(Arc::new(Auditor { policy, outlets: Arc::new(Outlets { log, webhook, events: AtomicU64::new(0) }) }))
    }

    /// Begins the trail of a request, if the policy wants one. A request without a user failed to say who sends it.
    pub(crate) fn begin<B>(
        &self,
        id: &HeaderValue,
        request: &Request<B>,
        peer: IpAddr,
        user: Option<&User>,
        subject: &Subject<'_>,
        version: &str,
    ) -> Option<Arc<Trail>> {
        let mut verdict = self.policy.judge(user, subject);
        if verdict.level == Level::None {
            return None;
        }
        if user.is_none() {
            // Nothing that a stranger sends is believed, and so none of it is kept.
            verdict.level = Level::Metadata;
        }
        let mut head = Map::new();
        let mut put = |key: &str, value: Value| head.insert(key.to_owned(), value);
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", verdict.level.name().into());
        put("auditID", text(id).into());
        put("requestURI", request.uri().path_and_query().map_or("/", |target| target.as_str()).into());
        put("verb", subject.verb.into());
        put("user", user.map_or_else(|| json!({}), trail::user_info));
        put("sourceIPs", source_addresses(request.headers(), peer).into());
        if let Some(agent) = request.headers().get("user-agent") {
            put("userAgent", text(agent).into());
        }
        put("requestReceivedTimestamp", trail::micro_time().into());
        let mut object_ref = Map::new();
        if !subject.resource.is_empty() {
            for (key, value) in [
                ("resource", subject.resource),
                ("namespace", subject.namespace),
                ("name", subject.name),
                ("apiGroup", subject.group),
                ("apiVersion", version),
                ("subresource", subject.subresource),
            ] {
                if !value.is_empty() {
                    object_ref.insert(key.to_owned(), value.into());
                }
            }
        }
        let trail = Trail::new(verdict, self.outlets.clone(), head, object_ref);
        trail.write(Stage::RequestReceived, None);
        Some(Arc::new(trail))
    }

    /// How many events there were.
    pub(crate) fn events(&self) -> u64 {
        self.outlets.events.load(Ordering::Relaxed)
    }

    /// How many events each way out has lost.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let log = self.outlets.log.as_ref().map(|log| ("log", log.dropped()));
        let webhook = self.outlets.webhook.as_ref().map(|webhook| ("webhook", webhook.dropped()));
        log.into_iter().chain(webhook)
    }

    /// Writes and posts what waits and ends; later events are lost.
    pub async fn close(&self) {
        if let Some(webhook) = &self.outlets.webhook {
            webhook.close().await;
        }
        let outlets = Arc::clone(&self.outlets);
        let closed = tokio::task::spawn_blocking(move || outlets.log.as_ref().map(Sink::close)).await;
        if let Err(error) = closed {
            tracing::error!(%error, "the audit log was not closed");
        }
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The identity of a request: the client's own, if it is usable, or a new one.
pub(crate) fn identity(headers: &HeaderMap) -> HeaderValue {
    if let Some(given) = headers.get(AUDIT_ID).filter(|given| !given.is_empty() && given.len() <= LONGEST_ID) {
        return given.clone();
    }
    // The thread's generator, not the operating system's: a system call for every request would be felt.
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut buffer = uuid::Uuid::encode_buffer();
    let id = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(id).expect("digits and hyphens are a header's value")
}

/// Where a request comes from: what proxies say, then the peer itself.
fn source_addresses(headers: &HeaderMap, peer: IpAddr) -> Vec<String> {
    let mut found: Vec<IpAddr> = Vec::new();
    let forwarded = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    found.extend(
        forwarded.into_iter().flat_map(|list| list.split(',')).filter_map(|one| one.trim().parse::<IpAddr>().ok()),
    );
    if found.is_empty() {
        let real = headers.get("x-real-ip").and_then(|value| value.to_str().ok());
        found.extend(real.and_then(|one| one.trim().parse::<IpAddr>().ok()));
    }
    let peer = peer.to_canonical();
    if found.last() != Some(&peer) {
        found.push(peer);
    }
    found.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let check = |headers: &[(&'static str, &str)], expected: &[&str]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            assert_eq!(source_addresses(&map, "::ffff:10.0.0.9".parse().unwrap()), expected);
        };
        check(&[], &["10.0.0.9"]);
        check(&[("x-forwarded-for", "1.2.3.4, 10.0.0.1")], &["1.2.3.4", "10.0.0.1", "10.0.0.9"]);
        check(&[("x-forwarded-for", "nonsense"), ("x-real-ip", "1.2.3.4")], &["1.2.3.4", "10.0.0.9"]);
        check(&[("x-real-ip", "10.0.0.9")], &["10.0.0.9"]);
    }

    #[test]
    fn identities() {
        let mut headers = HeaderMap::new();
        assert_eq!(identity(&headers).len(), 36);
        headers.insert(AUDIT_ID, "mine".parse().unwrap());
        assert_eq!(identity(&headers), "mine");
        headers.insert(AUDIT_ID, "x".repeat(65).parse().unwrap());
        assert_eq!(identity(&headers).len(), 36);
    }

    #[tokio::test]
    async fn events_read_as_upstreams() {
        let folder = tempfile::tempdir().unwrap();
        let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules:\n- level: RequestResponse\n  omitStages: [RequestReceived]\n";
        std::fs::write(&policy, text).unwrap();
        let options =
            LogOptions { path: log.clone(), max_bytes: 1 << 20, max_backups: 0, max_age: std::time::Duration::ZERO };
        let auditor = Auditor::open(&policy, Some(options), None).unwrap();
        let request =
            Request::builder().uri("/api/v1/namespaces/a/pods?x=y").header("user-agent", "test/1").body(()).unwrap();
        let subject = Subject { verb: "create", resource: "pods", namespace: "a", ..Subject::default() };
        let jane = User::new("jane", &["dev"]);
        let id = HeaderValue::from_static("id-1");
        let peer = IpAddr::from([10, 0, 0, 1]);
        let trail = auditor.begin(&id, &request, peer, Some(&jane), &subject, "v1").unwrap();
        trail.annotate("authorization.k8s.io/decision", "allow");
        trail.impersonates(&User::new("joe", &[]));
        trail.sent(json!({"metadata": {"name": "web", "managedFields": [1]}}));
        trail.answered(json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "message": "no"}));
        trail.write(Stage::ResponseComplete, Some(409));
        trail.write(Stage::ResponseComplete, Some(409));
        drop(trail);
        auditor.close().await;
        let lines = std::fs::read_to_string(&log).unwrap();
        assert_eq!(lines.lines().count(), 1, "a request ends once: {lines}");
        let mut event: Value = serde_json::from_str(&lines).unwrap();
        for field in ["requestReceivedTimestamp", "stageTimestamp"] {
            let time = event[field].take();
            assert_eq!(time.as_str().map(str::len), Some(27), "{time}");
            event.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(
            event,
            json!({
                "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "id-1",
                "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/a/pods?x=y", "verb": "create",
                "user": {"username": "jane", "groups": ["dev", "system:authenticated"]},
                "impersonatedUser": {"username": "joe", "groups": ["system:authenticated"]},
                "sourceIPs": ["10.0.0.1"], "userAgent": "test/1",
                "objectRef": {"resource": "pods", "namespace": "a", "name": "web", "apiVersion": "v1"},
                "responseStatus": {"metadata": {}, "code": 409, "status": "Failure", "reason": "AlreadyExists", "message": "no"},
                "requestObject": {"metadata": {"name": "web"}},
                "responseObject": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "message": "no"},
                "annotations": {"authorization.k8s.io/decision": "allow"},
            })
        );
        assert_eq!((auditor.events(), auditor.lost().collect::<Vec<_>>()), (1, vec![("log", 0)]));
    }
}
