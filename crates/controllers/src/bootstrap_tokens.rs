//! Bootstrap tokens: ConfigMap `cluster-info` in `kube-public`, signed with each token so that a machine can believe it, and
//! the end of tokens whose time is over.
//!
//! `cluster-info` holds a kubeconfig with the API server's address and the authority, and nothing secret; whoever knows a
//! token can check with it that nobody changed them on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::watcher;

use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_conflict, is_not_found};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";
/// On a `cluster-info` that this controller made: it follows the server's address. Without it the content is somebody else's.
const FOLLOWS: &str = "kobune.io/follows-server";

type Tokens = Store<Secret>;

/// Starts the controllers.
pub fn start(context: &Arc<Context>) {
    let tokens = Arc::<Tokens>::default();
    let maps = Arc::<Store<ConfigMap>>::default();
    let signing = Arc::<Queue>::default();
    let cleaning = Arc::<Queue>::default();
    let key = ObjectKey::new(NAMESPACE, NAME);
    signing.add(key.clone());
    let (wake, whole) = (signing.clone(), key.clone());
    tokens.on_change(move |_, _| wake.add(whole.clone()));
    enqueue_changes(&*maps, &signing);
    enqueue_changes(&*tokens, &cleaning);
    let (known_tokens, known_maps) = (tokens.clone(), maps.clone());
    let ready = async move {
        known_tokens.synced().await;
        known_maps.synced().await;
    };
    let (own, all, infos) = (context.clone(), tokens.clone(), maps.clone());
    context.run_controller("bootstrap-signer", signing, ready, move |_| sign(own.clone(), all.clone(), infos.clone()));
    let (own, all, known) = (context.clone(), tokens.clone(), tokens.clone());
    let ready = async move { known.synced().await };
    context.run_controller("token-cleaner", cleaning, ready, move |key| clean(own.clone(), all.clone(), key));
    let selected = watcher::Config::default().fields("type=bootstrap.kubernetes.io/token");
    context.follow_some::<Secret, _>("bootstrap-tokens", selected, &tokens);
    context.follow_some::<ConfigMap, _>(
        "cluster-info",
        watcher::Config::default().fields("metadata.namespace=kube-public,metadata.name=cluster-info"),
        &maps,
    );
}

fn field<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}

/// When a token ends; `None` for never. An unreadable time has passed.
fn end(secret: &Secret) -> Option<Timestamp> {
    let text = field(secret, "expiration");
    if text.is_empty() { None } else { Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH)) }
}

/// The tokens that sign, by id.
fn signers(tokens: &[Arc<Secret>], now: Timestamp) -> BTreeMap<&str, &str> {
    let usable = |secret: &&Arc<Secret>| {
        let (id, name) = (field(secret, "token-id"), secret.metadata.name.as_deref().unwrap_or_default());
        secret.metadata.namespace.as_deref() == Some("kube-system")
            && name.strip_prefix("bootstrap-token-") == Some(id)
            && !field(secret, "token-secret").is_empty()
            && field(secret, "usage-bootstrap-signing") == "true"
            && end(secret).is_none_or(|end| end > now)
            && !secret.deleting()
    };
    tokens.iter().filter(usable).map(|secret| (field(secret, "token-id"), field(secret, "token-secret"))).collect()
}

/// What is to be written, if anything. `kubeconfig` is the content where it follows this server.
fn plan(present: Option<&ConfigMap>, kubeconfig: Option<&str>, signers: &BTreeMap<&str, &str>) -> Option<ConfigMap> {
    let mut map = match present {
        Some(map) => map.clone(),
        None => {
            kubeconfig?;
            let annotations = BTreeMap::from([(FOLLOWS.to_owned(), "true".to_owned())]);
            ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(NAMESPACE.to_owned()),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                },
                ..ConfigMap::default()
            }
        }
    };
    let follows = map.metadata.annotations.as_ref().is_some_and(|all| all.get(FOLLOWS).is_some_and(|v| v == "true"));
    let data = map.data.get_or_insert_default();
    if let Some(kubeconfig) = kubeconfig.filter(|_| follows) {
        data.insert(KUBECONFIG.to_owned(), kubeconfig.to_owned());
    }
    let content = data.get(KUBECONFIG).cloned();
    data.retain(|key, _| !key.starts_with(SIGNATURE));
    if let Some(content) = content {
        for (id, secret) in signers {
            data.insert(format!("{SIGNATURE}{id}"), kobune_pki::detached_signature(content.as_bytes(), id, secret));
        }
    }
    (Some(&map) != present).then_some(map)
}

async fn sign(context: Arc<Context>, tokens: Arc<Tokens>, maps: Arc<Store<ConfigMap>>) -> Result<Revisit, PassError> {
    let present = maps.get(&ObjectKey::new(NAMESPACE, NAME));
    let all = tokens.all();
    let now = clock::now();
    let signers = signers(&all, now);
    let next = all.iter().filter_map(|secret| end(secret)).filter(|end| *end > now).min();
    let revisit = next.map(|end| end.duration_since(now).unsigned_abs() + Duration::from_secs(1));
    let Some(wanted) = plan(present.as_deref(), context.config.cluster_info.as_deref(), &signers) else {
        return Ok(revisit);
    };
    let api = Api::namespaced(context.client.clone(), NAMESPACE);
    let result = match present {
        None => api.create(&PostParams::default(), &wanted).await,
        Some(_) => api.replace(NAME, &PostParams::default(), &wanted).await,
    };
    match result {
        Ok(written) => maps.wrote(written),
        // The watch tells of what is there now.
        Err(error) if is_already_exists(&error) || is_not_found(&error) || is_conflict(&error) => {}
        Err(error) => return Err(error).doing("signing cluster-info"),
    }
    Ok(revisit)
}

async fn clean(context: Arc<Context>, tokens: Arc<Tokens>, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(secret) = tokens.get(&key).filter(|secret| !secret.deleting()) else { return Ok(None) };
    let Some(end) = end(&secret).filter(|_| &*key.namespace == "kube-system") else { return Ok(None) };
    let now = clock::now();
    if end > now {
        return Ok(Some(end.duration_since(now).unsigned_abs()));
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let preconditions =
        Preconditions { uid: secret.metadata.uid.clone(), resource_version: secret.metadata.resource_version.clone() };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&key.name, &options).await {
        Ok(_) => tokens.removed(&key, secret.uid()),
        // The watch tells of what is there now.
        Err(error) if is_not_found(&error) || is_conflict(&error) => {}
        Err(error) => return Err(error).doing("removing an expired bootstrap token"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(id: &str, expiration: &str, signing: &str) -> Arc<Secret> {
        let text = |value: &str| k8s_openapi::ByteString(value.as_bytes().to_vec());
        let data = [
            ("token-id", id),
            ("token-secret", "0123456789abcdef"),
            ("expiration", expiration),
            ("usage-bootstrap-signing", signing),
        ];
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        }))
        .expect("a secret");
        secret.data = Some(data.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect());
        Arc::new(secret)
    }

    #[test]
    fn tokens_sign_while_they_may() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().expect("a time");
        let tokens = [
            token("aaaaaa", "", "true"),
            token("bbbbbb", "2026-06-02T00:00:00Z", "true"),
            token("cccccc", "2026-05-01T00:00:00Z", "true"),
            token("dddddd", "", "false"),
            token("eeeeee", "nonsense", "true"),
        ];
        assert_eq!(signers(&tokens, now).into_keys().collect::<Vec<_>>(), ["aaaaaa", "bbbbbb"]);
    }

    #[test]
    fn plans() {
        let one = BTreeMap::from([("aaaaaa", "0123456789abcdef")]);
        let made = plan(None, Some("kubeconfig-1"), &one).expect("a map");
        let data = made.data.clone().expect("data");
        assert_eq!(data["kubeconfig"], "kubeconfig-1");
        assert!(data["jws-kubeconfig-aaaaaa"].contains(".."), "{data:?}");
        assert_eq!(plan(Some(&made), Some("kubeconfig-1"), &one), None, "nothing changes");
        let moved = plan(Some(&made), Some("kubeconfig-2"), &one).and_then(|map| map.data).expect("data");
        assert_ne!(moved["jws-kubeconfig-aaaaaa"], data["jws-kubeconfig-aaaaaa"]);
        let unsigned =
            plan(Some(&made), Some("kubeconfig-1"), &BTreeMap::new()).and_then(|map| map.data).expect("data");
        assert_eq!(unsigned.len(), 1);
        let mut foreign = made.clone();
        foreign.metadata.annotations = None;
        assert_eq!(plan(Some(&foreign), Some("kubeconfig-2"), &one), None, "what somebody else wrote stays");
        assert_eq!(plan(None, None, &one), None);
    }
}
