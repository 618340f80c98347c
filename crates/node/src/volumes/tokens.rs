//! Service account tokens of a pod: fetched by TokenRequest, fetched again before they end.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use crate::pod;
use crate::volumes::content::{TokenKey, wanted_tokens};

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// No token is used longer than this, whatever its life (upstream's bound).
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

struct Token {
    text: String,
    /// Local time without steps: the wall clock is not trusted.
    renew_at: Instant,
    usable_until: Instant,
}

/// The tokens of one pod.
#[derive(Default)]
pub struct Tokens {
    tokens: HashMap<TokenKey, Token>,
}

/// After which part of its life a token is fetched again: four fifths, at most a day.
pub fn renew_after(life: Duration) -> Duration {
    (life / 5 * 4).min(LONGEST_USE)
}

impl Tokens {
    /// Fetches what is missing or due. An old token that still counts is kept when the server does not answer.
    ///
    /// `lenient`: an API server that cannot be reached holds up no pod; its token is empty until then.
    pub async fn refresh(&mut self, client: &kube::Client, owner: &Pod, lenient: bool) -> Result<(), String> {
        let wanted = wanted_tokens(owner);
        self.tokens.retain(|key, _| wanted.contains(key));
        let now = Instant::now();
        for key in wanted {
            let known = self.tokens.get(&key);
            if known.is_some_and(|token| token.renew_at > now) {
                continue;
            }
            let answer = tokio::time::timeout(PATIENCE, fetch(client, owner, &key)).await;
            let answer = answer.unwrap_or_else(|_| Err(kube::Error::Service("the API server does not answer".into())));
            match answer {
                Ok((text, life)) => {
                    let token = Token { text, renew_at: now + renew_after(life), usable_until: now + life };
                    self.tokens.insert(key, token);
                }
                Err(error) if known.is_some_and(|token| token.usable_until > now) => {
                    tracing::warn!(
                        pod = pod::full_name(owner),
                        error = &error as &dyn std::error::Error,
                        "a token was not renewed, trying again"
                    );
                    if let Some(token) = self.tokens.get_mut(&key) {
                        token.renew_at = now + Duration::from_secs(30);
                    }
                }
                Err(error) if lenient && is_unreachable(&error) => {
                    let renew_at = now + Duration::from_secs(30);
                    self.tokens.insert(key, Token { text: String::new(), renew_at, usable_until: now });
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// The tokens' texts.
    pub fn texts(&self) -> HashMap<TokenKey, String> {
        self.tokens.iter().map(|(key, token)| (key.clone(), token.text.clone())).collect()
    }

    /// When the next one is due.
    pub fn next_renewal(&self) -> Option<Instant> {
        self.tokens.values().map(|token| token.renew_at).min()
    }
}

/// Whether nobody has judged the request.
fn is_unreachable(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500,
        _ => true,
    }
}

async fn fetch(
    client: &kube::Client,
    owner: &Pod,
    (audience, life): &TokenKey,
) -> Result<(String, Duration), kube::Error> {
    let account = pod::spec(owner)
        .service_account_name
        .clone()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(*life),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: owner.metadata.name.clone(),
                uid: owner.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), pod::namespace(owner));
    let answer: TokenRequest = api.create_token_request(&account, &PostParams::default(), &request).await?;
    let status = answer.status.unwrap_or_default();
    let expires = status.expiration_timestamp.map(|time| time.0);
    let granted = expires.map_or(Duration::ZERO, |expires| crate::backoff::elapsed(Timestamp::now(), expires));
    let asked = Duration::from_secs(life.unsigned_abs());
    // Both ends of the granted life are the server's clock; when it disagrees with ours, what was asked for is the safer bound.
    let life = if granted.is_zero() { asked } else { granted.min(asked.max(Duration::from_secs(600))) };
    Ok((status.token.unwrap_or_default(), life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_the_end() {
        let check = |life: u64, expected: u64| {
            assert_eq!(renew_after(Duration::from_secs(life)), Duration::from_secs(expected));
        };
        check(3600, 2880);
        check(600, 480);
        check(31_536_000, 86_400);
    }
}
