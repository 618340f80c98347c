//! Asking somebody else whether a request is allowed.
//!
//! What it says is kept for a while. A webhook that hangs costs a request its timeout once; one that is not there costs it
//! nothing but the attempt; either way the failure policy says what becomes of the request. No more than [`AT_ONCE`]
//! questions are open at once, further ones wait within their own time.
//!
//! Source: `plugin/pkg/authorizer/webhook/webhook.go` of apiserver, Kubernetes 1.36.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    conditions::{self, Condition},
    config::SubjectAccessReviewVersion,
    metrics::{Metrics, Outcome},
    review,
};
use crate::{
    outgoing::poster::{PostError, Poster},
    security::{Attributes, Decision, User},
};

/// How many questions may be open at once.
const AT_ONCE: usize = 256;

/// How often it is asked about one request, and the pause after the first failure, which grows by half each time.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest answer that is read.
const LONGEST: usize = 1 << 20;

/// How many answers are kept, and for how long a question at most: upstream's bound on what clients choose themselves.
const MOST: usize = 4096;
const LONGEST_KEPT_QUESTION: usize = 10_000;

/// What becomes of a request about which the webhook cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailurePolicy {
    /// Others may still allow it.
    NoOpinion,
    /// It is refused.
    Deny,
}

/// What is configured of a webhook.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) version: SubjectAccessReviewVersion,
    pub(super) timeout: Duration,
    /// How long a yes is kept; not at all for `None`.
    pub(super) keep_allowed: Option<Duration>,
    /// How long a no is kept.
    pub(super) keep_refused: Option<Duration>,
    pub(super) failure_policy: FailurePolicy,
    pub(super) conditions: Vec<Condition>,
}

/// The webhook and its answers.
#[derive(Debug)]
pub(crate) struct Webhook {
    settings: Settings,
    poster: Poster,
    places: Semaphore,
    /// By the question's hash.
    answers: Mutex<HashMap<[u8; 32], (Instant, Decision)>>,
    metrics: Arc<Metrics>,
}

impl Webhook {
    pub(super) fn new(settings: Settings, poster: Poster, metrics: Arc<Metrics>) -> Self {
        Self { settings, poster, places: Semaphore::new(AT_ONCE), answers: Mutex::default(), metrics }
    }

    /// Whether the user may do this.
    pub(crate) async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let name = &self.settings.name;
        let spec = review::spec(user, attributes);
        match conditions::hold(&self.settings.conditions, &spec) {
            Ok(true) => {}
            Ok(false) => {
                self.metrics.excluded(name);
                return Decision::default();
            }
            Err(problem) => {
                self.metrics.condition_failed(name);
                return self.failed(problem);
            }
        }
        let text = spec.to_string();
        let short = text.len() <= LONGEST_KEPT_QUESTION;
        let asked: [u8; 32] = Sha256::digest(&text).into();
        if short
            && let Some((end, decision)) = self.answers.lock().get(&asked)
            && *end > Instant::now()
        {
            return decision.clone();
        }
        let decision = match self.ask(spec).await {
            Ok(decision) => decision,
            Err(problem) => {
                tracing::warn!(webhook = name, error = problem, "an authorization webhook cannot be asked");
                if self.settings.failure_policy == FailurePolicy::NoOpinion {
                    self.metrics.failed_open(name);
                }
                return self.failed(problem);
            }
        };
        let keep = if decision.allowed { self.settings.keep_allowed } else { self.settings.keep_refused };
        if let Some(keep) = keep.filter(|_| short && decision.error.is_none()) {
            let now = Instant::now();
            let mut answers = self.answers.lock();
            if answers.len() >= MOST {
                answers.retain(|_, (end, _)| *end > now);
                if answers.len() >= MOST {
                    answers.clear();
                }
            }
            answers.insert(asked, (now + keep, decision.clone()));
        }
        decision
    }

    /// What becomes of a request without an answer.
    fn failed(&self, problem: String) -> Decision {
        let denied = self.settings.failure_policy == FailurePolicy::Deny;
        Decision { denied, error: Some(problem), ..Decision::default() }
    }

    async fn ask(&self, spec: Value) -> Result<Decision, String> {
        let body = bytes::Bytes::from(review::question(self.settings.version, spec).to_string());
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let began = Instant::now();
            let outcome = self.post(body.clone()).await;
            let counted = match &outcome {
                Ok(_) => Outcome::Success,
                Err(PostError::Slow { .. }) => Outcome::Timeout,
                Err(_) => Outcome::Error,
            };
            self.metrics.asked(&self.settings.name, counted, began.elapsed());
            match outcome {
                Ok(answer) => return review::answer(&answer),
                Err(error) if attempt < ATTEMPTS && error.may_pass() => {
                    tracing::debug!(%error, attempt, "an authorization webhook does not answer");
                    tokio::time::sleep(pause).await;
                    pause = pause * 3 / 2;
                    attempt += 1;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Waits for a place and asks, both within the webhook's time.
    async fn post(&self, body: bytes::Bytes) -> Result<bytes::Bytes, PostError> {
        let end = Instant::now() + self.settings.timeout;
        // The semaphore is never closed: waiting for it ends with a place, or with the time.
        let Ok(_place) = tokio::time::timeout_at(end, self.places.acquire()).await else {
            return Err(PostError::Slow { url: self.poster.url().to_owned() });
        };
        self.poster.post(body, end.saturating_duration_since(Instant::now()), LONGEST).await
    }
}
