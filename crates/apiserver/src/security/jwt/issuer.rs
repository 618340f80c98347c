//! An issuer of tokens: where it says what its keys are, and the keys that it has now.
//!
//! ```text
//! unknown ──first token──> discovered, keys read ──token of an unknown key──> keys read anew
//!    └── failed: not tried again for a while           (at most so often)
//! ```
//!
//! Nothing is asked before the first token comes, so an issuer may run on this very cluster, and one that nobody uses
//! costs nothing. Whoever needs what somebody else is asking for already waits for that answer.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use kobune_pki::{Algorithm, WebKeys, WebToken, WebTokenError};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use crate::outgoing::{
    fetch::{self, FetchError},
    trust::{Trust, TrustError},
};

/// How long the issuer may take for each document.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest document that is read.
const LONGEST: usize = 1 << 20;

/// How long a failure is remembered.
const PAUSE: Duration = Duration::from_secs(10);

/// How often the issuer is asked in a time at most: tokens of unknown keys are free to make.
const MOST_ASKED: usize = 5;
const ASKED_IN: Duration = Duration::from_secs(60);

/// How far ahead of this machine's the issuer's clock may be.
const LEEWAY_SECONDS: f64 = 300.0;

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerError {
    #[error("authenticator not initialized: {0}")]
    Discovery(String),
    #[error("issuer did not match the issuer returned by provider, expected {expected:?} got {found:?}")]
    OtherIssuer { expected: String, found: String },
    #[error("the provider names no jwks_uri")]
    NoKeys,
    #[error("fetching keys {0}")]
    Fetch(#[from] FetchError),
    #[error("what the provider has at jwks_uri is no key set")]
    KeySet,
    #[error("{0}")]
    Trust(#[from] TrustError),
    #[error("verify token: {0}")]
    Token(#[from] WebTokenError),
    #[error("verify token: {0}")]
    Claims(String),
}

/// What is known of the issuer.
#[derive(Default)]
struct Known {
    client: Option<Arc<ClientConfig>>,
    /// Where its keys are.
    address: Option<String>,
    keys: Arc<WebKeys>,
    /// When it was asked lately.
    asked: VecDeque<Instant>,
    /// What went wrong when it was asked last.
    problem: Option<String>,
}

impl Known {
    /// Whether it may be asked now.
    fn may_ask(&mut self, now: Instant) -> bool {
        while self.asked.pop_front_if(|asked| now.duration_since(*asked) >= ASKED_IN).is_some() {}
        let pausing = self.problem.is_some() && self.asked.back().is_some_and(|last| now.duration_since(*last) < PAUSE);
        !pausing && self.asked.len() < MOST_ASKED
    }
}

/// One issuer.
pub(super) struct Issuer {
    pub(super) url: String,
    /// Where its description is, if not below its own address.
    pub(super) discovery: Option<String>,
    pub(super) trust: Trust,
    pub(super) audiences: Vec<String>,
    pub(super) algorithms: Vec<Algorithm>,
    known: Mutex<Known>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Issuer {
    pub(super) fn new(
        url: String,
        discovery: Option<String>,
        trust: Trust,
        audiences: Vec<String>,
        algorithms: Vec<Algorithm>,
    ) -> Self {
        Self { url, discovery, trust, audiences, algorithms, known: Mutex::default() }
    }

    /// What a token claims, if the issuer has signed it, for one of the audiences, and it is good now (seconds since 1970).
    pub(super) async fn verify(&self, token: &str, now: i64) -> Result<Value, IssuerError> {
        let token = WebToken::parse(token)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(WebTokenError::Algorithm(token.algorithm.name().to_owned()).into());
        }
        let keys = self.keys(None).await?;
        let claims = match token.claims(&keys) {
            Ok(claims) => claims.clone(),
            // The issuer may have other keys by now.
            Err(_) => token.claims(&*self.keys(Some(&keys)).await?)?.clone(),
        };
        check(&claims, &self.url, &self.audiences, now).map_err(IssuerError::Claims)?;
        Ok(claims)
    }

    /// The issuer's keys; with `stale`, others than these if it has any.
    async fn keys(&self, stale: Option<&Arc<WebKeys>>) -> Result<Arc<WebKeys>, IssuerError> {
        let mut known = self.known.lock().await;
        if known.address.is_some() && stale.is_none_or(|stale| !Arc::ptr_eq(stale, &known.keys)) {
            return Ok(Arc::clone(&known.keys));
        }
        let now = Instant::now();
        if known.may_ask(now) {
            known.asked.push_back(now);
            known.problem = self.ask(&mut known).await.err().map(|error| error.to_string());
            if let Some(problem) = &known.problem {
                tracing::warn!(issuer = self.url, problem, "an issuer of tokens does not tell its keys");
            }
        }
        match &known.problem {
            // What was known before stays good.
            Some(problem) if known.address.is_none() => Err(IssuerError::Discovery(problem.clone())),
            _ => Ok(Arc::clone(&known.keys)),
        }
    }

    async fn ask(&self, known: &mut Known) -> Result<(), IssuerError> {
        let client = match &known.client {
            Some(client) => Arc::clone(client),
            None => Arc::clone(known.client.insert(Arc::new(self.trust.client(None)?))),
        };
        let address = match &known.address {
            Some(address) => address.clone(),
            None => {
                let below = || format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'));
                let place = self.discovery.clone().unwrap_or_else(below);
                let description = fetch::json(&place, &client, PATIENCE, LONGEST).await?;
                let text = |field: &str| description[field].as_str().unwrap_or_default().to_owned();
                if text("issuer") != self.url {
                    return Err(IssuerError::OtherIssuer { expected: self.url.clone(), found: text("issuer") });
                }
                match text("jwks_uri") {
                    address if address.is_empty() => return Err(IssuerError::NoKeys),
                    address => address,
                }
            }
        };
        let set = fetch::json(&address, &client, PATIENCE, LONGEST).await?;
        known.keys = Arc::new(WebKeys::read(&set).ok_or(IssuerError::KeySet)?);
        known.address = Some(address);
        Ok(())
    }
}

/// Whether verified claims are those of a token that is good here and now.
fn check(claims: &Value, issuer: &str, audiences: &[String], now: i64) -> Result<(), String> {
    let found = claims["iss"].as_str().unwrap_or_default();
    if found != issuer {
        return Err(format!("oidc: id token issued by a different provider, expected {issuer:?} got {found:?}"));
    }
    let given: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audiences.iter().any(|audience| given.contains(&audience.as_str())) {
        return Err(format!("oidc: expected audience in {audiences:?} got {given:?}"));
    }
    let now = now as f64;
    match claims["exp"].as_f64() {
        Some(end) if end > now => {}
        Some(_) => return Err("oidc: token is expired".to_owned()),
        None => return Err("oidc: the token never ends".to_owned()),
    }
    match claims["nbf"].as_f64() {
        Some(start) if start > now + LEEWAY_SECONDS => {
            Err("oidc: current time before the nbf (not before) time".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn issuers_are_not_asked_too_often() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut known = Known::default();
        for second in 0..5 {
            assert!(known.may_ask(at(second)));
            known.asked.push_back(at(second));
        }
        assert!(!known.may_ask(at(59)));
        assert!(known.may_ask(at(60)));
        let mut failing = Known { problem: Some("x".to_owned()), ..Known::default() };
        failing.asked.push_back(at(0));
        assert!(!failing.may_ask(at(9)));
        assert!(failing.may_ask(at(10)));
    }

    #[test]
    fn claims_are_for_here_and_now() {
        let check = |change: &dyn Fn(&mut Value), expected: Option<&str>| {
            let mut claims = json!({"iss": "https://i", "aud": ["x", "here"], "exp": 2000});
            change(&mut claims);
            let outcome = check(&claims, "https://i", &["here".to_owned(), "there".to_owned()], 1000);
            assert_eq!(outcome.err().as_deref(), expected, "{claims}");
        };
        check(&|_| {}, None);
        check(&|claims| claims["aud"] = "there".into(), None);
        check(&|claims| claims["nbf"] = 1299.into(), None);
        check(&|claims| claims["exp"] = 2000.5.into(), None);
        check(
            &|claims| claims["aud"] = "else".into(),
            Some(r#"oidc: expected audience in ["here", "there"] got ["else"]"#),
        );
        check(&|claims| claims["exp"] = 1000.into(), Some("oidc: token is expired"));
        check(&|claims| claims["exp"] = Value::Null, Some("oidc: the token never ends"));
        check(&|claims| claims["nbf"] = 1301.into(), Some("oidc: current time before the nbf (not before) time"));
        let words = r#"oidc: id token issued by a different provider, expected "https://i" got "https://j""#;
        check(&|claims| claims["iss"] = "https://j".into(), Some(words));
    }
}
