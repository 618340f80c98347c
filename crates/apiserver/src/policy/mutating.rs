//! MutatingAdmissionPolicy: changes objects before they are validated.

use std::{collections::HashSet, sync::Arc};

use kobune_expressions::{ObjectType, PER_OBJECT, Type};
use kobune_kinds::Kind;
use serde_json::Value as Json;

use super::{
    conditions::MatchConditions,
    environment::{Declared, environment},
    expression::{Composition, Expression},
    inputs::{Inputs, Rights, Subject},
    patch::{self, PatchType},
    source::Source,
    subjects::Subjects,
    verdicts::refusal,
};
use crate::{
    ApiServer,
    error::{Answer, ApiError},
    security::Refusal,
    webhook::{Matcher, Request},
};

#[derive(Debug)]
struct Mutation {
    sort: PatchType,
    expression: Expression,
}

/// A compiled policy.
#[derive(Debug)]
pub(crate) struct Policy {
    conditions: MatchConditions,
    composition: Composition,
    mutations: Vec<Mutation>,
    /// Whether it is asked again after others have changed the object.
    again: bool,
}

fn object_type(name: &str) -> Type {
    Type::Object(Arc::new(ObjectType { name: name.into(), ..ObjectType::default() }))
}

impl Policy {
    pub(super) fn compile(source: &Source) -> Self {
        let spec = &source.spec;
        let declared = Declared { params: spec.get("paramKind").is_some(), authorizer: true, patches: false };
        let composition = Composition::compile(&spec["variables"], declared);
        let variables = composition.declared();
        let patching = environment(Declared { patches: true, ..declared }, Some(variables.clone()));
        let mutations = spec["mutations"].as_array().into_iter().flatten();
        let mutations = mutations
            .filter_map(|mutation| {
                let (sort, place, accepted) = match mutation["patchType"].as_str()? {
                    "ApplyConfiguration" => {
                        (PatchType::ApplyConfiguration, "applyConfiguration", object_type("Object"))
                    }
                    _ => (PatchType::JsonPatch, "jsonPatch", Type::list(object_type("JSONPatch"))),
                };
                let source = mutation[place]["expression"].as_str()?;
                Some(Mutation { sort, expression: Expression::compile(source, &patching, &[accepted]) })
            })
            .collect();
        let conditions = MatchConditions::compile(&spec["matchConditions"], declared, Some(variables));
        Self { conditions, composition, mutations, again: spec["reinvocationPolicy"] == "IfNeeded" }
    }

    /// Whether the policy means the request.
    fn means(&self, subject: &Subject, params: Option<&Json>, rights: &Rights<'_>) -> Result<bool, String> {
        self.conditions.hold_with(subject, params, rights, &self.composition)
    }

    /// What a mutation makes of the subject's object.
    fn mutate(
        &self,
        mutation: &Mutation,
        subject: &Subject,
        params: Option<&Json>,
        rights: &Rights<'_>,
        kind: &Kind,
    ) -> Result<Json, String> {
        if let Err(problem) = &mutation.expression.program {
            return Err(problem.clone());
        }
        let inputs = Inputs::new(subject, params, rights, &self.composition);
        let mut left = PER_OBJECT;
        let value = inputs.evaluate(&mutation.expression, &mut left).map_err(|spent| spent.to_string())??;
        let mut changed = patch::apply(mutation.sort, &value, &subject.object, kind)?;
        kind.check_shape(&mut changed, kobune_kinds::FieldValidation::Strict).map_err(|error| error.to_string())?;
        kind.default(&mut changed);
        Ok(changed)
    }
}

/// What mutating policies remember from the first round to the second.
#[derive(Debug, Default)]
pub(crate) struct PolicyRounds {
    /// Whether this is the second round.
    again: bool,
    /// The policies, bindings and parameters that have been asked and want to be asked again after later changes.
    invoked: HashSet<String>,
    /// Those to be asked again.
    wanted: HashSet<String>,
    /// The object as the policies of the first round left it.
    left: Option<Json>,
}

impl ApiServer {
    /// Lets mutating admission policies change an object; whether one did.
    pub(crate) async fn mutate_by_policies(
        &self,
        request: &Request<'_>,
        object: &mut Json,
        old: Option<&Json>,
        rounds: &mut PolicyRounds,
    ) -> Answer<bool> {
        let policies = &self.policies.mutating;
        let bound = policies.bound(&*self.store).await.map_err(|error| ApiError::from_store(&error))?;
        let Some((sources, bindings)) = bound.filter(|_| !request.is_exempt()) else { return Ok(false) };
        if rounds.again && rounds.left.as_ref() != Some(&*object) {
            rounds.wanted.extend(rounds.invoked.drain());
        }
        let rights = Rights { security: &self.security, user: request.user };
        let mut matcher = Matcher::new(self, request);
        let mut changed = false;
        let mut problems = Vec::new();
        for source in sources.iter() {
            let Some(bound) = bindings.get(&source.name) else { continue };
            let mut misconfigured = |binding: Option<&str>, problem: String| {
                if source.spec["failurePolicy"] != "Ignore" {
                    problems.push(words(&source.name, binding, &problem));
                }
            };
            let Some(criteria) = &source.criteria else {
                let problem = "failed to configure policy: policy contained no match constraints, a required field";
                misconfigured(None, problem.to_owned());
                continue;
            };
            let kind = match criteria.matches(&mut matcher, Some(object), old).await? {
                Ok(Some(kind)) => kind,
                Ok(None) => continue,
                Err(problem) => {
                    misconfigured(None, format!("failed to configure policy: {problem}"));
                    continue;
                }
            };
            let policy = policies.compiled(source);
            for binding in bound {
                let configured = |problem: String| format!("failed to configure binding: {problem}");
                match binding.matches(&mut matcher, Some(object), old).await?.map_err(configured) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(problem) => {
                        misconfigured(Some(&binding.name), problem);
                        continue;
                    }
                }
                let mut subjects = Subjects::new(self, request);
                let parameters = self.parameters(&source.spec, binding, subjects.namespace()).await?;
                let parameters = match parameters.map_err(configured) {
                    Ok(parameters) => parameters,
                    Err(problem) => {
                        misconfigured(Some(&binding.name), problem);
                        continue;
                    }
                };
                let subject = subjects.get(&kind, Some(object), old).await?;
                let before = subject.object.clone();
                for parameter in &parameters {
                    let parameter = parameter.as_ref();
                    match policy.means(subject, parameter, &rights) {
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(problem) => {
                            misconfigured(Some(&binding.name), problem);
                            continue;
                        }
                    }
                    let key = key(&source.name, &binding.name, parameter);
                    if rounds.again && !rounds.wanted.contains(&key) {
                        continue;
                    }
                    let start = subject.object.clone();
                    for mutation in &policy.mutations {
                        match policy.mutate(mutation, subject, parameter, &rights, &kind) {
                            Ok(object) => subject.object = object,
                            Err(problem) => misconfigured(Some(&binding.name), problem),
                        }
                    }
                    if subject.object != start {
                        rounds.wanted.extend(rounds.invoked.drain());
                    }
                    if policy.again {
                        rounds.invoked.insert(key);
                    }
                }
                if subject.object != before {
                    changed = true;
                    *object = std::mem::take(&mut subject.object);
                    self.convert(&kind, request.kind, request.subresource, object).await?;
                }
            }
        }
        rounds.again = true;
        rounds.left = Some(object.clone());
        match problems.first() {
            None => Ok(changed),
            Some(first) => {
                // As upstream's: the code of a refusal with the reason of a mistake.
                let mut refusal = Refusal { code: 403, ..refusal(request, "Invalid", first) };
                refusal.message.clone_from(first);
                let causes = problems.iter().map(|problem| serde_json::json!({"message": problem}));
                refusal.details["causes"] = causes.collect();
                Err(refusal.into())
            }
        }
    }
}

/// Upstream's words for a policy that could not do its work.
fn words(policy: &str, binding: Option<&str>, problem: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{policy}' with binding '{binding}' denied request: {problem}"),
        None => format!("policy {policy:?} denied request: {problem}"),
    }
}

fn key(policy: &str, binding: &str, parameter: Option<&Json>) -> String {
    let text = |field: &str| parameter.and_then(|parameter| parameter["metadata"][field].as_str()).unwrap_or_default();
    format!("{policy}/{binding}/{}/{}", text("namespace"), text("name"))
}
