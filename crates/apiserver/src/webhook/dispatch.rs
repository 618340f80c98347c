//! Asking webhooks: the mutating ones one after the other, the validating ones all at once.
//!
//! A mutating webhook that changes the object makes the whole of mutating admission run once more; in that second round
//! only those webhooks are asked again that want to be ([`Rounds`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use kobune_kinds::FieldValidation;
use serde_json::{Value, json};

use super::{
    client::go_seconds,
    hook::Hook,
    metrics::Asked,
    request::{Invocation, Matcher, Request},
    review::{self, GroupVersionKind, Verdict},
    rule::operation_name,
};
use crate::{
    ApiServer,
    error::{Answer, ApiError},
};

/// The beginning of the audit notes about changes.
const MUTATION: &str = "mutation.webhook.admission.k8s.io/";

/// The longest answer that is read: a patch of the largest object, in base64 and JSON.
const LONGEST_ANSWER: usize = 8 << 20;

/// What a webhook's failure means for the request.
#[derive(Debug)]
enum HookError {
    /// It could not be asked, or its answer is none: the failure policy decides.
    Calling { reason: String, code: u16 },
    /// It said no.
    Rejected(ApiError),
    /// The request cannot be done with this webhook, whatever its policy.
    Internal(ApiError),
}

/// What mutating webhooks remember from the first round to the second.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The number of the round, from 0.
    pub round: u8,
    /// Whether a webhook has changed the object in this round.
    pub changed: bool,
    /// The webhooks that have been asked and want to be asked again after later changes.
    invoked: HashSet<String>,
    /// The webhooks to be asked again.
    wanted: HashSet<String>,
    /// The object as the webhooks of the first round left it.
    left: Option<Value>,
}

impl Rounds {
    /// Somebody has changed the object: whoever wants to see that is asked again.
    fn ask_again(&mut self) {
        self.wanted.extend(self.invoked.drain());
    }

    /// Ends a round; whether another one follows.
    pub(crate) fn next(&mut self) -> bool {
        let again = self.round == 0 && self.changed;
        self.round += 1;
        self.changed = false;
        again
    }
}

impl ApiServer {
    /// Asks the mutating webhooks, which may change the object. `object` is `None` where there is nothing to change.
    pub(crate) async fn ask_mutating(
        &self,
        hooks: &[Hook],
        request: &Request<'_>,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
        rounds: &mut Rounds,
        warnings: &mut Vec<String>,
    ) -> Answer<()> {
        if request.is_exempt() {
            return Ok(());
        }
        if rounds.round > 0 && rounds.left.as_ref() != object.as_deref() {
            rounds.ask_again();
        }
        let mut matcher = Matcher::new(self, request);
        for (index, hook) in hooks.iter().enumerate() {
            let Some(invocation) = matcher.invocation(hook, object.as_deref(), old).await? else { continue };
            // A webhook that was not asked in the first round is not asked in the second either.
            if rounds.round > 0 && !rounds.wanted.contains(&hook.id) {
                continue;
            }
            let asked = asked(hook, "admit", request);
            let started = Instant::now();
            let outcome = self.mutate_by(request, &invocation, object.as_deref_mut(), old, warnings).await;
            let (changed, failure) = match outcome {
                Ok(changed) => (changed, None),
                Err(error) => (false, Some(error)),
            };
            let place = format!("round_{}_index_{index}", rounds.round);
            note_mutation(request, hook, &place, changed);
            note_failed_open(request, hook, &format!("failed-open.{MUTATION}{place}"), failure.as_ref());
            let refusal = self.settle(hook, &asked, started, failure);
            if changed {
                rounds.ask_again();
                rounds.changed = true;
            }
            if hook.again {
                rounds.invoked.insert(hook.id.clone());
            }
            refusal?;
            if Instant::now() >= request.deadline {
                return Err(ApiError::out_of_time());
            }
        }
        rounds.left = object.cloned();
        Ok(())
    }

    /// Asks the validating webhooks, all at once.
    pub(crate) async fn ask_validating(
        &self,
        hooks: &[Hook],
        request: &Request<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        if request.is_exempt() {
            return Ok(Vec::new());
        }
        let mut matcher = Matcher::new(self, request);
        let mut invocations = Vec::new();
        let mut texts: HashMap<GroupVersionKind, Arc<(String, String)>> = HashMap::new();
        for hook in hooks {
            let Some(invocation) = matcher.invocation(hook, object, old).await? else { continue };
            let texts = match texts.get(&invocation.body) {
                Some(texts) => Arc::clone(texts),
                None => {
                    let made = Arc::new((
                        self.text_for(request, &invocation, object).await?,
                        self.text_for(request, &invocation, old).await?,
                    ));
                    texts.insert(invocation.body.clone(), Arc::clone(&made));
                    made
                }
            };
            invocations.push((invocation, texts));
        }
        if invocations.is_empty() {
            return Ok(Vec::new());
        }
        let calls = invocations.iter().enumerate().map(|(index, (invocation, texts))| async move {
            let asked = asked(invocation.hook, "validating", request);
            let started = Instant::now();
            let outcome = self.ask(request, invocation, &texts.0, &texts.1, false).await;
            let (warnings, failure) = match outcome {
                Ok(verdict) => {
                    let denial = denial(&invocation.hook.name, &verdict);
                    (verdict.warnings, denial)
                }
                Err(error) => (Vec::new(), Some(error)),
            };
            let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
            note_failed_open(request, invocation.hook, &key, failure.as_ref());
            (warnings, self.settle(invocation.hook, &asked, started, failure))
        });
        let mut warnings = Vec::new();
        let mut refusal = Ok(());
        for (more, outcome) in join_all(calls).await {
            warnings.extend(more);
            refusal = refusal.and(outcome);
        }
        let warnings = review::bounded(warnings);
        match refusal {
            Ok(()) => Ok(warnings),
            Err(error) => Err(error.with_warnings(warnings)),
        }
    }

    /// Counts a call, and turns its failure into what it means for the request.
    fn settle(&self, hook: &Hook, asked: &Asked, started: Instant, failure: Option<HookError>) -> Answer<()> {
        let metrics = &self.webhooks.metrics;
        let took = started.elapsed();
        match failure {
            None => {
                metrics.asked(asked, took, false, 200);
                Ok(())
            }
            Some(HookError::Calling { reason, code }) => {
                metrics.asked(asked, took, !hook.ignores_failures, code);
                let problem = format!("failed calling webhook {:?}: {reason}", hook.name);
                if hook.ignores_failures {
                    tracing::warn!(problem, "goes on without a webhook");
                    metrics.failed_open(asked);
                    return Ok(());
                }
                metrics.rejected(asked, "calling_webhook_error", code);
                Err(ApiError::internal_words(&problem))
            }
            Some(HookError::Rejected(error)) => {
                metrics.asked(asked, took, true, error.code());
                metrics.rejected(asked, "no_error", error.code());
                Err(error)
            }
            Some(HookError::Internal(error)) => {
                metrics.asked(asked, took, true, 0);
                metrics.rejected(asked, "apiserver_internal_error", 0);
                Err(error)
            }
        }
    }

    /// Asks one webhook and reads its answer.
    async fn ask(
        &self,
        request: &Request<'_>,
        invocation: &Invocation<'_>,
        object: &str,
        old: &str,
        mutating: bool,
    ) -> Result<Verdict, HookError> {
        let hook = invocation.hook;
        let calling = |reason: String, code| HookError::Calling { reason, code };
        if request.dry_run {
            match hook.harmless {
                None => return Err(calling("Webhook SideEffects is nil".to_owned(), 400)),
                Some(false) => {
                    let words = format!("admission webhook {:?} does not support dry run", hook.name);
                    return Err(HookError::Internal(ApiError::bad_request(words)));
                }
                Some(true) => {}
            }
        }
        let Some(version) = hook.review else {
            let words = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(calling(words.to_owned(), 400));
        };
        let destination = hook
            .destination
            .as_ref()
            .map_err(|problem| calling(format!("could not get REST client: {problem}"), 500))?;
        let left = request.deadline.saturating_duration_since(Instant::now());
        let timeout = hook.timeout.min(left).max(Duration::from_millis(1));
        let uid = uuid::Uuid::new_v4().to_string();
        let question = review::question(version, &request.question(&uid, invocation), object, old);
        let answer = self
            .webhooks
            .client()
            .post(
                destination,
                &format!("?timeout={}", go_seconds(timeout)),
                Bytes::from(question),
                timeout,
                LONGEST_ANSWER,
            )
            .await
            .map_err(|error| calling(format!("failed to call webhook: {error}"), error.code()))?;
        let verdict = review::answer(version, &uid, mutating, &answer)
            .map_err(|problem| calling(format!("received invalid webhook response: {problem}"), 503))?;
        if let Some(trail) = request.trail {
            for (key, value) in &verdict.annotations {
                trail.annotate(&format!("{}/{key}", hook.name), value);
            }
        }
        Ok(verdict)
    }

    /// Asks one mutating webhook and applies its patch; whether that changed the object.
    async fn mutate_by(
        &self,
        request: &Request<'_>,
        invocation: &Invocation<'_>,
        object: Option<&mut Value>,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<bool, HookError> {
        let internal = HookError::Internal;
        let object_text = self.text_for(request, invocation, object.as_deref()).await.map_err(internal)?;
        let old_text = self.text_for(request, invocation, old).await.map_err(internal)?;
        let mut verdict = self.ask(request, invocation, &object_text, &old_text, true).await?;
        warnings.extend(review::bounded(std::mem::take(&mut verdict.warnings)));
        if let Some(denial) = denial(&invocation.hook.name, &verdict) {
            return Err(denial);
        }
        if verdict.patch.is_empty() {
            return Ok(false);
        }
        let patch: Value = serde_json::from_slice(&verdict.patch).map_err(|error| HookError::Calling {
            reason: format!("received undecodable patch in webhook response: {error}"),
            code: 503,
        })?;
        if patch.as_array().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        let Some(object) = object else {
            return Err(internal(ApiError::internal_words(&format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                invocation.hook.name
            ))));
        };
        let mut shown = object.clone();
        self.convert(request.kind, &invocation.kind, request.subresource, &mut shown).await.map_err(internal)?;
        let mut patched = kobune_merge::json_patch(&shown, &patch)
            .map_err(|error| internal(ApiError::internal_words(&error.to_string())))?;
        self.check_patched(&invocation.body, &mut patched).map_err(internal)?;
        self.convert(&invocation.kind, request.kind, request.subresource, &mut patched).await.map_err(internal)?;
        let changed = patched != *object;
        *object = patched;
        Ok(changed)
    }

    /// An object's text as a webhook reads it.
    async fn text_for(
        &self,
        request: &Request<'_>,
        invocation: &Invocation<'_>,
        object: Option<&Value>,
    ) -> Answer<String> {
        let Some(object) = object else { return Ok("null".to_owned()) };
        let typed = object.get("apiVersion").is_some() && object.get("kind").is_some();
        if typed && Arc::ptr_eq(request.kind, &invocation.kind) {
            return Ok(object.to_string());
        }
        let mut object = object.clone();
        if !object.is_object() {
            return Err(ApiError::internal_words("the object to be admitted is no object"));
        }
        self.convert(request.kind, &invocation.kind, request.subresource, &mut object).await?;
        object["apiVersion"] = api_version(&invocation.body).into();
        object["kind"] = invocation.body.kind.as_str().into();
        Ok(object.to_string())
    }

    /// What a patch has made is read as a body would be: fields that do not exist go, and defaults come.
    fn check_patched(&self, body: &GroupVersionKind, object: &mut Value) -> Answer<()> {
        let api_version = api_version(body);
        let Some(kind) = self.catalogue.load().by_kind(&api_version, &body.kind).cloned() else { return Ok(()) };
        kind.check_shape(object, FieldValidation::Ignore)
            .map_err(|error| ApiError::internal_words(&error.to_string()))?;
        kind.default(object);
        Ok(())
    }
}

/// Notes in the audit trail whether a webhook has changed the object.
fn note_mutation(request: &Request<'_>, hook: &Hook, place: &str, mutated: bool) {
    if let Some(trail) = request.trail {
        let value = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": mutated});
        trail.annotate(&format!("{MUTATION}{place}"), &value.to_string());
    }
}

/// Notes in the audit trail that a request goes on without a webhook's answer.
fn note_failed_open(request: &Request<'_>, hook: &Hook, key: &str, failure: Option<&HookError>) {
    if let (Some(trail), Some(HookError::Calling { .. })) = (request.trail, failure)
        && hook.ignores_failures
    {
        trail.annotate(key, &hook.name);
    }
}

fn asked(hook: &Hook, sort: &'static str, request: &Request<'_>) -> Asked {
    Asked { name: hook.name.clone(), sort, operation: operation_name(request.operation) }
}

fn api_version(body: &GroupVersionKind) -> String {
    if body.group.is_empty() { body.version.clone() } else { format!("{}/{}", body.group, body.version) }
}

/// The refusal of a webhook that said no.
fn denial(name: &str, verdict: &Verdict) -> Option<HookError> {
    if verdict.allowed {
        return None;
    }
    let text = |field: &str| verdict.status[field].as_str().unwrap_or_default();
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = verdict.status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0).max(400);
    let error = ApiError::new(code, text("reason").to_owned(), message).with_details(verdict.status["details"].clone());
    Some(HookError::Rejected(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials() {
        let check = |status: Value, code: u16, reason: &str, message: &str| {
            let verdict =
                Verdict { allowed: false, patch: Vec::new(), status, warnings: Vec::new(), annotations: Vec::new() };
            let Some(HookError::Rejected(error)) = denial("a.b.c", &verdict) else { panic!("it is denied") };
            let status = error.to_status();
            assert_eq!(
                (error.code(), status["reason"].as_str().unwrap_or_default(), status["message"].as_str()),
                (code, reason, Some(message))
            );
        };
        let denied = "admission webhook \"a.b.c\" denied the request";
        check(Value::Null, 400, "", &format!("{denied} without explanation"));
        check(json!({"code": 200, "message": "no"}), 400, "", &format!("{denied}: no"));
        check(json!({"code": 403, "reason": "Forbidden"}), 403, "Forbidden", &format!("{denied}: Forbidden"));
        check(json!({"code": 70000, "reason": "Mine", "message": "m"}), 400, "Mine", &format!("{denied}: m"));
    }

    #[test]
    fn rounds() {
        let mut rounds = Rounds::default();
        assert!(!rounds.next(), "nothing was changed");
        let mut rounds = Rounds { changed: true, ..Rounds::default() };
        rounds.invoked.insert("a".to_owned());
        rounds.ask_again();
        assert!(rounds.wanted.contains("a") && rounds.invoked.is_empty());
        assert!(rounds.next());
        rounds.changed = true;
        assert!(!rounds.next(), "there are two rounds and no more");
    }
}
