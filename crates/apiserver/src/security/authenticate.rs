//! From credentials to a user: client certificates, service account tokens, bootstrap tokens, or nothing at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use kobune_pki::{Claims, LegacyClaims, Reference, Subject, TokenError};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::Security;
use super::bootstrap_token;
use super::lookup::{Identity, Lookup};
use super::refusal::Refusal;
use super::secret_token::{self, SecretToken};
use super::user::User;

/// How many verified tokens are remembered. A machine with a few hundred pods has about as many tokens in use.
const VERIFIED_TOKENS: usize = 2048;
/// How long after its pod's deletion time a token stays good: the node may be finishing the pod.
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// What a request brings to prove who sends it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The user of the connection's client certificate ([`user_of_certificate`](Security::user_of_certificate)).
    pub connection: Option<&'a Arc<User>>,
    /// The token of the `Authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// The path of the request: some are open to everybody.
    pub path: &'a str,
}

/// Tokens whose signature has been verified, by their hash: a stolen memory image has no tokens in it, and verifying an
/// elliptic curve signature for every request would cost more than the request.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<HashMap<[u8; 32], Verified>>);

/// What a token whose signature was verified says.
#[derive(Clone)]
enum Verified {
    /// A token that was asked for.
    Bound(Arc<Claims>),
    /// A token that stands in a Secret; it has no end of its own.
    Legacy(Arc<LegacyClaims>),
}

impl Verified {
    fn end(&self) -> i64 {
        match self {
            Verified::Bound(claims) => claims.exp,
            Verified::Legacy(_) => i64::MAX,
        }
    }
}

impl VerifiedTokens {
    fn get(&self, hash: &[u8; 32], now: i64) -> Option<Verified> {
        let mut entries = self.0.lock();
        let verified = entries.get(hash)?;
        if verified.end() <= now {
            entries.remove(hash);
            return None;
        }
        Some(verified.clone())
    }

    fn insert(&self, hash: [u8; 32], claims: Verified, now: i64) {
        let mut entries = self.0.lock();
        if entries.len() >= VERIFIED_TOKENS {
            entries.retain(|_, verified| verified.end() > now);
            if entries.len() >= VERIFIED_TOKENS {
                entries.clear();
            }
        }
        entries.insert(hash, claims);
    }
}

/// Why a token does not make a user. Clients see only 401; reviews and the log see this.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenRefusal {
    /// The token itself is no good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It is for somebody else.
    #[error("token audiences {found:?} is invalid for the target audiences {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    /// Something that it is bound to is gone.
    #[error("{0}")]
    Unbound(String),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] Refusal),
}

/// A user with the audiences for which its token was accepted.
pub(super) struct TokenUser {
    pub(super) user: User,
    pub(super) audiences: Vec<String>,
    /// What is to be told of a token that stands in a Secret.
    pub(super) secret: Option<SecretToken>,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The user.
    pub user: Arc<User>,
    /// What is to be told of the token, where it stands in a Secret.
    pub secret: Option<SecretToken>,
}

impl From<Arc<User>> for Authenticated {
    fn from(user: Arc<User>) -> Self {
        Self { user, secret: None }
    }
}

impl Security {
    /// The user that a client certificate names. TLS has verified the chain; ask once a connection.
    pub fn user_of_certificate(&self, der: &[u8]) -> Result<Arc<User>, Refusal> {
        let subject = Subject::of_certificate(der).map_err(|error| {
            tracing::debug!(%error, "a client certificate is unreadable");
            Refusal::unauthorized()
        })?;
        if subject.common_name.is_empty() {
            return Err(Refusal::unauthorized());
        }
        let mut user = User { name: subject.common_name, groups: subject.organizations, ..User::default() };
        let hash = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={hash}")]);
        user.complete();
        Ok(Arc::new(user))
    }
}

pub(super) async fn authenticate(security: &Security, credentials: Credentials<'_>) -> Result<Authenticated, Refusal> {
    if let Some(user) = credentials.connection {
        return Ok(user.clone().into());
    }
    match credentials.bearer {
        Some(token) => match token_user(security, token, &security.config.api_audiences).await {
            Ok(found) => Ok(Authenticated { user: Arc::new(found.user), secret: found.secret }),
            Err(TokenRefusal::Store(refusal)) => Err(refusal),
            Err(error) => {
                tracing::debug!(%error, "a bearer token is refused");
                Err(Refusal::unauthorized())
            }
        },
        None => {
            let config = &security.config;
            match config.authentication.takes_anonymous(credentials.path).unwrap_or(config.anonymous) {
                true => Ok(Arc::new(User::anonymous()).into()),
                false => Err(Refusal::unauthorized()),
            }
        }
    }
}

/// The user of a token that is good for one of the wanted audiences.
pub(super) async fn token_user(security: &Security, token: &str, wanted: &[String]) -> Result<TokenUser, TokenRefusal> {
    let refusal = match known_user(security, token, wanted).await {
        Err(refusal) if !matches!(refusal, TokenRefusal::Store(_)) => refusal,
        outcome => return outcome,
    };
    let Some(webhook) = &security.config.token_webhook else { return Err(refusal) };
    match webhook.user(token, wanted).await {
        // A webhook that does not look at audiences speaks for this server alone.
        Ok((user, None)) => Ok(TokenUser { user, audiences: own_audiences(security, wanted)?, secret: None }),
        Ok((user, Some(audiences))) => Ok(TokenUser { user, audiences, secret: None }),
        Err(words) => Err(TokenRefusal::Unbound(match refusal {
            TokenRefusal::Token(_) => words,
            refusal => format!("{refusal}, {words}"),
        })),
    }
}

/// The user of a token that this server can judge by itself.
async fn known_user(security: &Security, token: &str, wanted: &[String]) -> Result<TokenUser, TokenRefusal> {
    if let Some((id, secret)) = bootstrap_token::parse(token) {
        let audiences = own_audiences(security, wanted)?;
        let user = bootstrap_token::user(&security.lookup, id, secret).await?;
        let user = user.map_err(|problem| TokenRefusal::Unbound(problem.to_owned()))?;
        return Ok(TokenUser { user, audiences, secret: None });
    }
    let now = Timestamp::now().as_second();
    if let Some(authenticator) = security.config.authentication.of(token) {
        // Its own audiences are checked there; of ours such a token says nothing, so it is good for this server alone.
        let audiences = own_audiences(security, wanted)?;
        let user = authenticator.user(token, now).await.map_err(TokenRefusal::Unbound)?;
        return Ok(TokenUser { user, audiences, secret: None });
    }
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let verified = match security.verified.get(&hash, now) {
        Some(verified) => verified,
        None => {
            let verified = match security.tokens.verify(token, now) {
                Ok(claims) => Verified::Bound(Arc::new(claims)),
                Err(TokenError::Malformed) => Verified::Legacy(Arc::new(security.tokens.verify_legacy(token)?)),
                Err(error) => return Err(error.into()),
            };
            security.verified.insert(hash, verified.clone(), now);
            verified
        }
    };
    match verified {
        Verified::Bound(claims) => {
            let audiences: Vec<String> = wanted.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
            if audiences.is_empty() {
                return Err(TokenRefusal::Audience { found: claims.aud.clone(), wanted: wanted.to_vec() });
            }
            check_bindings(&security.lookup, &claims, now).await?;
            Ok(TokenUser { user: user_of(&claims), audiences, secret: None })
        }
        Verified::Legacy(claims) => {
            let audiences = own_audiences(security, wanted)?;
            let secret = secret_token::check(&security.lookup, &claims, token, now).await?;
            let user = User::service_account(&claims.namespace, &claims.account, &claims.account_uid);
            Ok(TokenUser { user, audiences, secret: Some(secret) })
        }
    }
}

/// The wanted audiences that are this server's own: what a token that names none is good for.
fn own_audiences(security: &Security, wanted: &[String]) -> Result<Vec<String>, TokenRefusal> {
    let own = &security.config.api_audiences;
    let audiences: Vec<String> = wanted.iter().filter(|one| own.contains(one)).cloned().collect();
    if audiences.is_empty() {
        return Err(TokenRefusal::Audience { found: own.clone(), wanted: wanted.to_vec() });
    }
    Ok(audiences)
}

/// The service account, and the pod, secret or node if any, must be the very objects for which the token was made.
async fn check_bindings(lookup: &Lookup, claims: &Claims, now: i64) -> Result<(), TokenRefusal> {
    let bound = &claims.bound;
    let namespace = bound.namespace.as_str();
    let account = &bound.serviceaccount;
    if claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
        return Err(TokenRefusal::Token(TokenError::Malformed));
    }
    check_object(lookup, "core/serviceaccounts", "service account", namespace, account, now).await?;
    if let Some(pod) = &bound.pod {
        check_object(lookup, "core/pods", "pod", namespace, pod, now).await?;
    } else if let Some(secret) = &bound.secret {
        check_object(lookup, "core/secrets", "secret", namespace, secret, now).await?;
    } else if let Some(node) = &bound.node {
        // The node beside a pod is only a note of where the pod ran.
        check_object(lookup, "core/nodes", "node", "", node, now).await?;
    }
    Ok(())
}

pub(super) async fn check_object(
    lookup: &Lookup,
    collection: &str,
    what: &str,
    namespace: &str,
    reference: &Reference,
    now: i64,
) -> Result<(), TokenRefusal> {
    let found = lookup.identity(collection, namespace, &reference.name).await?;
    match binding_problem(found.as_ref(), &reference.uid, now) {
        None => Ok(()),
        Some(problem) => Err(TokenRefusal::Unbound(format!("{what} {namespace}/{} {problem}", reference.name))),
    }
}

/// What is wrong with a bound object, if anything.
fn binding_problem(found: Option<&Identity>, uid: &str, now: i64) -> Option<&'static str> {
    let Some(found) = found else { return Some("has been deleted") };
    if found.uid != uid {
        return Some("is another one now");
    }
    found.deleted_at.is_some_and(|at| at + DELETION_LEEWAY_SECONDS < now).then_some("has been deleted")
}

/// The user of verified claims, with upstream's extra facts.
fn user_of(claims: &Claims) -> User {
    let bound = &claims.bound;
    let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
    let mut extra = BTreeMap::new();
    let mut note = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        note("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &bound.pod {
        note("pod-name", &pod.name);
        note("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        note("node-name", &node.name);
        note("node-uid", &node.uid);
    }
    user.extra = extra;
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_objects() {
        let check = |found: Option<(&str, Option<i64>)>, expected: Option<&str>| {
            let found = found.map(|(uid, deleted_at)| Identity { uid: uid.to_owned(), deleted_at });
            assert_eq!(binding_problem(found.as_ref(), "u1", 1000), expected, "{found:?}");
        };
        check(None, Some("has been deleted"));
        check(Some(("u1", None)), None);
        check(Some(("u2", None)), Some("is another one now"));
        check(Some(("u1", Some(990))), None);
        check(Some(("u1", Some(900))), Some("has been deleted"));
    }
}
