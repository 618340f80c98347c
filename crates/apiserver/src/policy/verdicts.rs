//! What all validating policies together say about a request: refusals, warnings, notes.

use serde_json::{Value as Json, json};

use super::source::{Binding, Source};
use crate::{security::Refusal, webhook::Request};

/// The most failures that are noted of one request.
const MOST_NOTED: usize = 50;

/// What came of evaluating a policy once.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Why the request is to be refused: reason and message.
    pub(super) denials: Vec<Denial>,
    /// Annotations for the audit event.
    pub(super) annotations: Vec<(String, String)>,
    /// What is wrong with annotations, which refuses the request whatever the binding says.
    pub(super) failures: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Denial {
    pub(super) index: usize,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What all policies say about a request.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    pub(super) warnings: Vec<String>,
    /// The first refusal: reason and words.
    pub(super) refusal: Option<(&'static str, String)>,
    /// For the audit event.
    annotations: Vec<(String, String)>,
    noted: Vec<Json>,
}

impl Verdicts {
    fn refuse(&mut self, reason: &'static str, policy: &str, binding: Option<&str>, message: &str) {
        self.refusal.get_or_insert_with(|| {
            let binding = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
            (reason, format!("ValidatingAdmissionPolicy '{policy}'{binding} denied request: {message}"))
        });
    }

    /// Notes a mistake in a policy or binding, which refuses the request unless the policy ignores failures.
    pub(super) fn misconfigured(&mut self, source: &Source, binding: Option<&str>, problem: &str) {
        if source.spec["failurePolicy"] != "Ignore" {
            let what = if binding.is_some() { "binding" } else { "policy" };
            self.refuse("Invalid", &source.name, binding, &format!("failed to configure {what}: {problem}"));
        }
    }

    pub(super) fn take(&mut self, source: &Source, binding: &Binding, outcome: Outcome) {
        let actions: Vec<&str> =
            binding.spec["validationActions"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let (policy, name) = (&source.name, &binding.name);
        for denial in outcome.denials {
            for action in &actions {
                match *action {
                    "Deny" => self.refuse(denial.reason, policy, Some(name), &denial.message),
                    "Warn" => self.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {}",
                        denial.message
                    )),
                    "Audit" => self.noted.push(json!({
                        "message": denial.message,
                        "policy": policy,
                        "binding": name,
                        "expressionIndex": denial.index,
                        "validationActions": actions,
                    })),
                    _ => {}
                }
            }
        }
        for failure in outcome.failures {
            self.refuse("Invalid", policy, Some(name), &failure);
        }
        for (key, value) in outcome.annotations {
            let key = format!("{policy}/{key}");
            match self.annotations.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) if known.split(", ").any(|one| one == value) => {}
                Some((_, known)) => {
                    known.push_str(", ");
                    known.push_str(&value);
                }
                None => self.annotations.push((key, value)),
            }
        }
    }

    /// The annotations for the audit event.
    pub(super) fn annotations(&mut self) -> Vec<(String, String)> {
        let mut annotations = std::mem::take(&mut self.annotations);
        self.noted.truncate(MOST_NOTED);
        if !self.noted.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure".to_owned();
            annotations.push((key, Json::Array(std::mem::take(&mut self.noted)).to_string()));
        }
        annotations
    }
}

fn code(reason: &str) -> u16 {
    match reason {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    }
}

/// The `Status` of a refusal.
pub(super) fn refusal(request: &Request<'_>, reason: &'static str, words: &str) -> Refusal {
    let kind = request.kind;
    let mut refusal = Refusal::forbidden(&kind.group, &kind.plural, request.name, words);
    refusal.details["causes"] = json!([{"message": words}]);
    Refusal { code: code(reason), reason, ..refusal }
}
