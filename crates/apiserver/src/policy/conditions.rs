//! `matchConditions` of policies and webhooks: expressions that must all hold for a request to be meant.

use kobune_expressions::{PER_MATCH_CONDITIONS, Type};
use serde_json::Value;

use super::{
    environment::{Declared, environment},
    expression::{Composition, Expression},
    inputs::{Inputs, Rights, Subject},
};

/// Compiled match conditions.
#[derive(Debug, Default)]
pub(crate) struct MatchConditions {
    conditions: Vec<Expression>,
}

impl MatchConditions {
    /// The conditions of a webhook.
    pub(crate) fn of_webhook(list: &Value) -> Self {
        Self::compile(list, Declared { authorizer: true, ..Declared::default() }, None)
    }

    pub(super) fn compile(list: &Value, declared: Declared, variables: Option<Type>) -> Self {
        let environment = environment(declared, variables);
        let list = list.as_array().into_iter().flatten();
        let conditions = list.map(|one| Expression::of(&one["expression"], &environment, &[Type::Bool])).collect();
        Self { conditions }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a webhook's conditions hold. One that does not hold decides, whatever is wrong with the others.
    pub(crate) fn hold(&self, subject: &Subject, rights: &Rights<'_>) -> Result<bool, String> {
        self.hold_with(subject, None, rights, &Composition::default())
    }

    pub(super) fn hold_with(
        &self,
        subject: &Subject,
        params: Option<&Value>,
        rights: &Rights<'_>,
        composition: &Composition,
    ) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let inputs = Inputs::new(subject, params, rights, composition);
        let mut left = PER_MATCH_CONDITIONS;
        let mut problems: Vec<String> = Vec::new();
        let mut holds = true;
        for condition in &self.conditions {
            match inputs.evaluate(condition, &mut left).map_err(|spent| spent.to_string())? {
                Ok(value) => holds &= value.as_bool() == Some(true),
                Err(problem) if !problems.contains(&problem) => problems.push(problem),
                Err(_) => {}
            }
        }
        match problems.as_slice() {
            _ if !holds => Ok(false),
            [] => Ok(true),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}
