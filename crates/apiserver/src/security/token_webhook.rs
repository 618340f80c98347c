//! Asking somebody else who a token belongs to: `--authentication-token-webhook-config-file`.
//!
//! It is asked last, about tokens that nothing here knows. What it says is kept for a while, a refusal too; a failure is
//! not, and is tried again at once, with growing pauses.
//!
//! Source: `plugin/pkg/authenticator/token/webhook` and `pkg/authentication/token/cache` of apiserver, Kubernetes 1.36.

use std::{collections::HashMap, path::Path, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::User;
use crate::outgoing::{
    kubeconfig::{KubeconfigError, Remote},
    poster::Poster,
};

/// How long the webhook may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked about one token, and the pause after the first failure, which grows by half each time.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest answer that is read.
const LONGEST: usize = 1 << 20;

/// How many answers are kept.
const MOST: usize = 4096;

/// What was said of a token.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// Whose it is, and for whom it is good; nothing when the webhook does not look at that.
    User(Box<User>, Vec<String>),
    /// Nobody's, as far as the webhook knows, with its words.
    Nobody(String),
}

/// A token and the audiences that were asked for, as a hash: a stolen memory image has no tokens in it.
type Asked = [u8; 32];

/// The webhook and its answers.
pub struct TokenWebhook {
    poster: Poster,
    keep: Duration,
    answers: Mutex<HashMap<Asked, (Instant, Verdict)>>,
}

impl std::fmt::Debug for TokenWebhook {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TokenWebhook").field("poster", &self.poster).finish_non_exhaustive()
    }
}

impl TokenWebhook {
    /// The webhook that a kubeconfig leads to, whose answers are good for a time.
    pub fn load(path: &Path, keep: Duration) -> Result<TokenWebhook, KubeconfigError> {
        Ok(TokenWebhook { poster: Poster::new(Remote::load(path)?), keep, answers: Mutex::default() })
    }

    /// Whose token it is, and for which of the wanted audiences it is good; all when the webhook does not look at
    /// audiences. The error is for logs and reviews.
    pub(super) async fn user(&self, token: &str, wanted: &[String]) -> Result<(User, Option<Vec<String>>), String> {
        let mut hash = Sha256::new();
        for part in std::iter::once(token).chain(wanted.iter().map(String::as_str)) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let asked: Asked = hash.finalize().into();
        let now = Instant::now();
        let known = self.answers.lock().get(&asked).filter(|(end, _)| *end > now).map(|(_, verdict)| verdict.clone());
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let verdict = self.ask(token, wanted).await?;
                let mut answers = self.answers.lock();
                if answers.len() >= MOST {
                    answers.retain(|_, (end, _)| *end > now);
                    if answers.len() >= MOST {
                        answers.clear();
                    }
                }
                answers.insert(asked, (Instant::now() + self.keep, verdict.clone()));
                verdict
            }
        };
        match verdict {
            Verdict::Nobody(words) => Err(words),
            Verdict::User(user, given) if given.is_empty() => Ok((*user, None)),
            Verdict::User(user, given) => {
                let audiences: Vec<String> = wanted.iter().filter(|one| given.contains(one)).cloned().collect();
                match audiences.is_empty() {
                    true => Err(format!("webhook: the token is for {given:?}, not for {wanted:?}")),
                    false => Ok((*user, Some(audiences))),
                }
            }
        }
    }

    async fn ask(&self, token: &str, wanted: &[String]) -> Result<Verdict, String> {
        let review = json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {}, "spec": {"token": token, "audiences": wanted}, "status": {"user": {}},
        });
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.poster.post(review.to_string().into(), PATIENCE, LONGEST).await {
                Ok(answer) => {
                    let answer = serde_json::from_slice(&answer);
                    return read(&answer.map_err(|error| format!("webhook: the answer is no JSON: {error}"))?);
                }
                Err(error) if attempt < ATTEMPTS && error.may_pass() => {
                    tracing::debug!(%error, attempt, "the webhook of tokens does not answer");
                    tokio::time::sleep(pause).await;
                    pause = pause * 3 / 2;
                }
                Err(error) => {
                    tracing::warn!(%error, "the webhook of tokens cannot be asked");
                    return Err(format!("webhook: {error}"));
                }
            }
        }
        unreachable!("the last attempt answers")
    }
}

/// Reads a review that was answered.
fn read(review: &Value) -> Result<Verdict, String> {
    if review["kind"] != "TokenReview" {
        return Err("webhook: the answer is no TokenReview".to_owned());
    }
    let status = &review["status"];
    if status["authenticated"] != true {
        let words = status["error"].as_str().filter(|words| !words.is_empty());
        return Ok(Verdict::Nobody(words.unwrap_or("webhook: the token is nobody's").to_owned()));
    }
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let found = &status["user"];
    let mut user = User {
        name: found["username"].as_str().unwrap_or_default().to_owned(),
        uid: found["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&found["groups"]),
        ..User::default()
    };
    if user.name.is_empty() {
        return Err("webhook: the user has no name".to_owned());
    }
    for (key, values) in found["extra"].as_object().into_iter().flatten() {
        user.extra.insert(key.clone(), texts(values));
    }
    user.complete();
    Ok(Verdict::User(Box::new(user), texts(&status["audiences"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_users() {
        let of = |status: Value| read(&json!({"kind": "TokenReview", "status": status}));
        let answer = of(json!({
            "authenticated": true, "audiences": ["a"],
            "user": {"username": "jane", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}},
        }));
        let Ok(Verdict::User(user, audiences)) = answer else { panic!("{answer:?}") };
        assert_eq!((user.name.as_str(), user.uid.as_str(), audiences), ("jane", "7", vec!["a".to_owned()]));
        assert_eq!(user.groups, ["g", "system:authenticated"]);
        assert_eq!(user.extra["k"], ["v"]);
        assert_eq!(of(json!({"authenticated": false, "error": "no"})), Ok(Verdict::Nobody("no".to_owned())));
        assert!(matches!(of(json!({})), Ok(Verdict::Nobody(_))));
        assert!(of(json!({"authenticated": true, "user": {}})).is_err());
        assert!(read(&json!({"kind": "Status"})).is_err());
    }
}
