//! Secrets of type `kubernetes.io/service-account-token`: filled in with a token of their service account, and removed with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kobune_pki::{LegacyClaims, ServiceAccountTokens};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher;

use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// The annotation with the name of the service account that a token is of.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// The annotation with its uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The Secrets that hold tokens, and the service accounts that they are of.
#[derive(Clone, Default)]
pub struct Known {
    /// Secrets of type `kubernetes.io/service-account-token`.
    pub secrets: Arc<Store<Secret>>,
    /// All service accounts.
    pub accounts: Arc<Store<ServiceAccount>>,
}

impl Known {
    /// Starts the watches; handlers have to be in place before.
    pub fn follow(&self, context: &Context) {
        let selected = watcher::Config::default().fields("type=kubernetes.io/service-account-token");
        context.follow_some::<Secret, _>("token-secrets", selected, &self.secrets);
        context.follow_some::<ServiceAccount, _>("all-serviceaccounts", watcher::Config::default(), &self.accounts);
    }

    /// Waits until all of them are known.
    pub async fn synced(self) {
        self.secrets.synced().await;
        self.accounts.synced().await;
    }

    /// The Secrets of a service account.
    pub fn secrets_of(&self, account: &ObjectKey) -> impl Iterator<Item = Arc<Secret>> {
        let name = account.name.clone();
        let all = self.secrets.in_namespace(&account.namespace).into_iter();
        all.filter(move |secret| annotation(secret, ACCOUNT_NAME) == &*name)
    }
}

/// Starts the controller.
pub fn start(context: &Arc<Context>, known: &Known, tokens: Arc<ServiceAccountTokens>) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&*known.secrets, &queue);
    let (wake, all) = (queue.clone(), known.clone());
    known.accounts.on_change(move |before, after| {
        let Some(account) = after.or(before) else { return };
        all.secrets_of(&account.key()).for_each(|secret| wake.add(secret.key()));
    });
    let (own, known) = (context.clone(), known.clone());
    let ready = known.clone().synced();
    context.run_controller("serviceaccount-token", queue, ready, move |key| {
        pass(own.clone(), tokens.clone(), known.clone(), key)
    });
}

/// An annotation of a Secret; empty for none.
pub fn annotation<'s>(secret: &'s Secret, key: &str) -> &'s str {
    secret.metadata.annotations.as_ref().and_then(|all| all.get(key)).map_or("", String::as_str)
}

/// What is to be done about a Secret.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    /// Its account is gone.
    Remove,
    /// It lacks something.
    Write(Box<Secret>),
}

fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    root_ca_pem: &str,
    sign: impl FnOnce(&LegacyClaims) -> Result<String, PassError>,
) -> Result<Plan, PassError> {
    let uid = annotation(secret, ACCOUNT_UID);
    let account_uid = account.and_then(|account| account.metadata.uid.as_deref()).unwrap_or_default();
    if account.is_none_or(Cached::deleting) || (!uid.is_empty() && uid != account_uid) {
        return Ok(Plan::Remove);
    }
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let name = annotation(secret, ACCOUNT_NAME);
    let mut data = secret.data.clone().unwrap_or_default();
    let mut want = |key: &str, value: &str| data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    want("ca.crt", root_ca_pem);
    want("namespace", namespace);
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        let claims = LegacyClaims {
            iss: LegacyClaims::ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.metadata.name.clone().unwrap_or_default(),
            account: name.to_owned(),
            account_uid: account_uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        data.insert("token".to_owned(), ByteString(sign(&claims)?.into_bytes()));
    }
    let mut wanted = secret.clone();
    wanted.data = Some(data);
    wanted
        .metadata
        .annotations
        .get_or_insert_with(BTreeMap::new)
        .insert(ACCOUNT_UID.to_owned(), account_uid.to_owned());
    Ok(if wanted == *secret { Plan::Nothing } else { Plan::Write(Box::new(wanted)) })
}

async fn pass(
    context: Arc<Context>,
    tokens: Arc<ServiceAccountTokens>,
    known: Known,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let Known { secrets, accounts } = known;
    let Some(secret) = secrets.get(&key).filter(|secret| !secret.deleting()) else { return Ok(None) };
    let account_key = ObjectKey::new(&key.namespace, annotation(&secret, ACCOUNT_NAME));
    let mut account = accounts.get(&account_key).map(|account| (*account).clone());
    if account.is_none() && !account_key.name.is_empty() {
        // Before something is removed the account is looked for where it really is: the Secret may be ahead of the watch.
        let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &key.namespace);
        account = api.get_opt(&account_key.name).await.doing("looking for a service account")?;
    }
    let sign = |claims: &LegacyClaims| {
        tokens.sign_legacy(claims).map_err(|error| PassError::Object { what: format!("cannot sign a token: {error}") })
    };
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    match plan(&secret, account.as_ref(), &context.config.root_ca_pem, sign)? {
        Plan::Nothing => {}
        Plan::Remove => {
            let preconditions = Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
            };
            let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match api.delete(&key.name, &options).await {
                Ok(_) => secrets.removed(&key, secret.uid()),
                // The watch tells of what is there now.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => return Err(error).doing("removing the token of a vanished service account"),
            }
        }
        Plan::Write(wanted) => match api.replace(&key.name, &PostParams::default(), &wanted).await {
            Ok(written) => secrets.wrote(written),
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error).doing("filling in a token Secret"),
        },
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_filled_once() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "bot-token", "namespace": "a", "annotations": {ACCOUNT_NAME: "bot"}},
            "type": "kubernetes.io/service-account-token",
        }))
        .expect("a secret");
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "bot", "namespace": "a", "uid": "u1"}}))
                .expect("an account");
        let sign = |claims: &LegacyClaims| Ok(format!("signed for {} of {}", claims.sub, claims.secret));
        let Plan::Write(filled) = plan(&secret, Some(&account), "pem", sign).expect("a plan") else {
            panic!("not filled")
        };
        let data = filled.data.clone().expect("data");
        let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("text");
        assert_eq!(text("token"), "signed for system:serviceaccount:a:bot of bot-token");
        assert_eq!((text("ca.crt"), text("namespace")), ("pem".to_owned(), "a".to_owned()));
        assert_eq!(annotation(&filled, ACCOUNT_UID), "u1");
        assert_eq!(plan(&filled, Some(&account), "pem", sign).expect("a plan"), Plan::Nothing);
        assert_eq!(plan(&secret, None, "pem", sign).expect("a plan"), Plan::Remove);
        let mut another = account;
        another.metadata.uid = Some("u2".to_owned());
        assert_eq!(plan(&filled, Some(&another), "pem", sign).expect("a plan"), Plan::Remove);
    }
}
