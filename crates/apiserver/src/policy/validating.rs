//! ValidatingAdmissionPolicy: refuses, warns about, or notes requests.

use std::sync::Arc;

use kobune_expressions::{PER_OBJECT, Type, Value};
use kobune_kinds::Kind;
use serde_json::{Value as Json, json};

use super::{
    conditions::MatchConditions,
    environment::{Declared, environment},
    expression::{Composition, Expression},
    inputs::{Inputs, Rights, Subject},
    source::{Binding, Source},
};
use crate::{
    ApiServer,
    error::{Answer, ApiError},
    security::Refusal,
    webhook::{Matcher, Request},
};

/// The longest message that an expression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;
/// The longest value of an audit annotation, in bytes.
const LONGEST_ANNOTATION: usize = 10 * 1024;

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: &'static str,
}

/// A compiled policy.
#[derive(Debug)]
pub(crate) struct Policy {
    conditions: MatchConditions,
    composition: Composition,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// What came of evaluating a policy once.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// Why the request is to be refused: reason and message.
    denials: Vec<Denial>,
    /// Annotations for the audit event.
    annotations: Vec<(String, String)>,
    /// What is wrong with annotations, which refuses the request whatever the binding says.
    failures: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct Denial {
    index: usize,
    reason: &'static str,
    message: String,
}

/// The reasons that a policy may give.
fn reason(reason: &Json) -> &'static str {
    match reason.as_str() {
        Some("Unauthorized") => "Unauthorized",
        Some("Forbidden") => "Forbidden",
        Some("RequestEntityTooLarge") => "RequestEntityTooLarge",
        _ => "Invalid",
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

impl Policy {
    pub(super) fn compile(source: &Source) -> Self {
        let spec = &source.spec;
        let params = spec.get("paramKind").is_some();
        let full = Declared { params, authorizer: true, patches: false };
        let composition = Composition::compile(&spec["variables"], full);
        let variables = composition.declared();
        let validating = environment(full, Some(variables.clone()));
        let telling = environment(Declared { params, ..Declared::default() }, Some(variables.clone()));
        let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
        let validations = list("validations")
            .iter()
            .map(|validation| Validation {
                expression: Expression::of(&validation["expression"], &validating, &[Type::Bool]),
                message: validation["message"].as_str().unwrap_or_default().trim().to_owned(),
                message_expression: validation["messageExpression"]
                    .as_str()
                    .filter(|source| !source.is_empty())
                    .map(|source| Expression::compile(source, &telling, &[Type::String])),
                reason: reason(&validation["reason"]),
            })
            .collect();
        let annotations = list("auditAnnotations")
            .iter()
            .map(|annotation| {
                let key = annotation["key"].as_str().unwrap_or_default().to_owned();
                let accepted = [Type::String, Type::Null];
                (key, Expression::of(&annotation["valueExpression"], &telling, &accepted))
            })
            .collect();
        let conditions = MatchConditions::compile(&spec["matchConditions"], full, Some(variables));
        Self { conditions, composition, validations, annotations }
    }

    fn evaluate(&self, subject: &Subject, params: Option<&Json>, rights: &Rights<'_>, ignores: bool) -> Outcome {
        let failed = |message: String| {
            let denials = if ignores { Vec::new() } else { vec![Denial { index: 0, reason: "Invalid", message }] };
            Outcome { denials, ..Outcome::default() }
        };
        match self.conditions.hold_with(subject, params, rights, &self.composition) {
            Ok(true) => {}
            Ok(false) => return Outcome::default(),
            Err(problem) => return failed(problem),
        }
        let inputs = Inputs::new(subject, params, rights, &self.composition);
        let mut left = PER_OBJECT;
        let mut denials = Vec::new();
        for (index, validation) in self.validations.iter().enumerate() {
            match inputs.evaluate(&validation.expression, &mut left) {
                Err(spent) => return failed(spent.to_string()),
                Ok(Err(problem)) if ignores => tracing::debug!(problem, "goes on without a validation"),
                Ok(Err(message)) => denials.push(Denial { index, reason: "Invalid", message }),
                Ok(Ok(Value::Bool(true))) => {}
                Ok(Ok(_)) => {
                    let message = validation.words(&inputs, &mut left);
                    denials.push(Denial { index, reason: validation.reason, message });
                }
            }
        }
        let mut outcome = Outcome { denials, ..Outcome::default() };
        self.annotate(&inputs, ignores, &mut outcome);
        outcome
    }

    fn annotate<'a>(&'a self, inputs: &Inputs<'a>, ignores: bool, outcome: &mut Outcome) {
        let mut left = PER_OBJECT;
        for (key, expression) in &self.annotations {
            let value = inputs.evaluate(expression, &mut left).unwrap_or_else(|spent| Err(spent.to_string()));
            match value {
                Ok(value) => {
                    let text = value.as_str().unwrap_or_default().trim();
                    if !text.is_empty() {
                        let end = text.floor_char_boundary(LONGEST_ANNOTATION);
                        outcome.annotations.push((key.clone(), text[..end].to_owned()));
                    }
                }
                Err(problem) if ignores => tracing::debug!(problem, "goes on without an annotation"),
                Err(problem) => outcome.failures.push(problem),
            }
        }
    }
}

impl Validation {
    /// The words of a refusal: what the message's expression makes, else the message, else the expression itself.
    fn words<'a>(&'a self, inputs: &Inputs<'a>, left: &mut u64) -> String {
        if let Some(expression) = &self.message_expression {
            match inputs.evaluate(expression, left) {
                Err(spent) => return format!("failed messageExpression: {spent}"),
                Ok(Err(problem)) => tracing::debug!(problem, "a message could not be made"),
                Ok(Ok(value)) => {
                    let text = value.as_str().unwrap_or_default().trim();
                    if !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n') {
                        return text.to_owned();
                    }
                }
            }
        }
        if self.message.is_empty() {
            format!("failed expression: {}", self.expression.source.trim())
        } else {
            self.message.clone()
        }
    }
}

/// What all policies say about a request.
#[derive(Debug, Default)]
struct Verdicts {
    warnings: Vec<String>,
    /// The first refusal: reason and words.
    refusal: Option<(&'static str, String)>,
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
    fn misconfigured(&mut self, source: &Source, binding: Option<&str>, problem: &str) {
        if source.spec["failurePolicy"] != "Ignore" {
            let what = if binding.is_some() { "binding" } else { "policy" };
            self.refuse("Invalid", &source.name, binding, &format!("failed to configure {what}: {problem}"));
        }
    }

    fn take(&mut self, source: &Source, binding: &Binding, outcome: Outcome) {
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
}

/// The most failures that are noted of one request.
const MOST_NOTED: usize = 50;

impl ApiServer {
    /// Lets validating admission policies refuse a request; gives warnings.
    pub(crate) async fn review_by_policies(
        &self,
        request: &Request<'_>,
        object: Option<&Json>,
        old: Option<&Json>,
    ) -> Answer<Vec<String>> {
        let policies = &self.policies.validating;
        let bound = policies.bound(&*self.store).await.map_err(|error| ApiError::from_store(&error))?;
        let Some((sources, bindings)) = bound.filter(|_| !request.is_exempt()) else { return Ok(Vec::new()) };
        let mut matcher = Matcher::new(self, request);
        let mut subjects = Subjects::new(self, request);
        let mut verdicts = Verdicts::default();
        for source in sources.iter() {
            let Some(bound) = bindings.get(&source.name) else { continue };
            let ignores = source.spec["failurePolicy"] == "Ignore";
            let Some(criteria) = &source.criteria else {
                verdicts.misconfigured(source, None, "policy contained no match constraints, a required field");
                continue;
            };
            let kind = match criteria.matches(&mut matcher, object, old).await? {
                Ok(Some(kind)) => kind,
                Ok(None) => continue,
                Err(problem) => {
                    verdicts.misconfigured(source, None, &problem);
                    continue;
                }
            };
            let policy = policies.compiled(source);
            for binding in bound {
                match binding.matches(&mut matcher, object, old).await? {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(problem) => {
                        verdicts.misconfigured(source, Some(&binding.name), &problem);
                        continue;
                    }
                }
                let parameters = match self.parameters(&source.spec, binding, subjects.namespace()).await? {
                    Ok(parameters) => parameters,
                    Err(problem) => {
                        verdicts.misconfigured(source, Some(&binding.name), &problem);
                        continue;
                    }
                };
                let subject = subjects.get(&kind, object, old).await?;
                let rights = Rights { security: &self.security, user: request.user };
                for parameter in &parameters {
                    let outcome = policy.evaluate(subject, parameter.as_ref(), &rights, ignores);
                    verdicts.take(source, binding, outcome);
                }
            }
        }
        verdicts.noted.truncate(MOST_NOTED);
        if !verdicts.noted.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure".to_owned();
            verdicts.annotations.push((key, Json::Array(verdicts.noted).to_string()));
        }
        for (key, value) in &verdicts.annotations {
            tracing::info!(target: "audit", key, value, "noted by an admission policy");
        }
        match verdicts.refusal {
            None => Ok(verdicts.warnings),
            Some((reason, words)) => {
                let refusal = refusal(request, reason, &words);
                Err(ApiError::from(refusal).with_warnings(verdicts.warnings))
            }
        }
    }
}

/// The `Status` of a refusal.
pub(super) fn refusal(request: &Request<'_>, reason: &'static str, words: &str) -> Refusal {
    let kind = request.kind;
    let mut refusal = Refusal::forbidden(&kind.group, &kind.plural, request.name, words);
    refusal.details["causes"] = json!([{"message": words}]);
    Refusal { code: code(reason), reason, ..refusal }
}

impl Binding {
    /// Whether the binding means the request, whose policy does.
    pub(super) async fn matches(
        &self,
        matcher: &mut Matcher<'_>,
        object: Option<&Json>,
        old: Option<&Json>,
    ) -> Answer<Result<bool, String>> {
        match &self.criteria {
            None => Ok(Ok(true)),
            Some(criteria) => Ok(criteria.matches(matcher, object, old).await?.map(|kind| kind.is_some())),
        }
    }
}

/// The request in each of the versions in which policies mean it, made when it is first needed.
pub(super) struct Subjects<'a> {
    server: &'a ApiServer,
    request: &'a Request<'a>,
    made: Vec<(Arc<Kind>, Subject)>,
}

impl<'a> Subjects<'a> {
    pub(super) fn new(server: &'a ApiServer, request: &'a Request<'a>) -> Self {
        Self { server, request, made: Vec::new() }
    }

    /// The namespace of the request's object.
    pub(super) fn namespace(&self) -> &'a str {
        if self.request.kind.namespaced { self.request.namespace } else { "" }
    }

    /// The request as policies see it that mean `kind`.
    pub(super) async fn get(
        &mut self,
        kind: &Arc<Kind>,
        object: Option<&Json>,
        old: Option<&Json>,
    ) -> Answer<&mut Subject> {
        let known = self.made.iter().position(|(known, _)| Arc::ptr_eq(known, kind));
        let index = match known {
            Some(index) => index,
            None => {
                let subject = self.make(kind, object, old).await?;
                self.made.push((Arc::clone(kind), subject));
                self.made.len() - 1
            }
        };
        Ok(&mut self.made[index].1)
    }

    async fn make(&self, kind: &Arc<Kind>, object: Option<&Json>, old: Option<&Json>) -> Answer<Subject> {
        let namespace = match self.namespace() {
            "" => Json::Null,
            name => {
                let key = kobune_store::Key::new("core/namespaces", "", name);
                let record = self.server.read(&key).await?;
                let record = record.ok_or_else(|| ApiError::not_found_named("", "namespaces", name))?;
                serde_json::from_slice(&record.value).map_err(|error| ApiError::internal(&error))?
            }
        };
        Ok(Subject { namespace, ..self.request.subject(kind, object, old) })
    }
}
