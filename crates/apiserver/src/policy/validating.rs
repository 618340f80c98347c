//! ValidatingAdmissionPolicy: refuses, warns about, or notes requests.

use kobune_expressions::{PER_OBJECT, Type, Value};
use serde_json::Value as Json;

use super::{
    conditions::MatchConditions,
    environment::{Declared, environment},
    expression::{Composition, Expression},
    inputs::{Inputs, Rights, Subject},
    source::{Binding, Source},
    subjects::Subjects,
    verdicts::{Denial, Outcome, Verdicts, refusal},
};
use crate::{
    ApiServer,
    error::{Answer, ApiError},
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

/// The reasons that a policy may give.
fn reason(reason: &Json) -> &'static str {
    match reason.as_str() {
        Some("Unauthorized") => "Unauthorized",
        Some("Forbidden") => "Forbidden",
        Some("RequestEntityTooLarge") => "RequestEntityTooLarge",
        _ => "Invalid",
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
        if let Some(trail) = request.trail {
            verdicts.annotations().iter().for_each(|(key, value)| trail.annotate(key, value));
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
