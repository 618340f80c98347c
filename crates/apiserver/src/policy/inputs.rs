//! What expressions are evaluated with.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use kobune_expressions::{
    Authorize, Check, Evaluated, EvaluationError, Meter, PER_EXPRESSION, Record, Value, Verdict, authorizer,
    request_resource,
};
use serde_json::Value as Json;

use super::{
    environment as place,
    expression::{Composition, Expression},
};
use crate::security::{Attributes, Security, User};

/// A request and its objects as expressions see them.
#[derive(Debug)]
pub(crate) struct Subject {
    pub object: Json,
    pub old: Json,
    /// `AdmissionRequest` without the objects.
    pub request: Json,
    /// The request's namespace; null for what lives in none.
    pub namespace: Json,
}

/// Answers checks of rights for the user of the request.
pub(crate) struct Rights<'a> {
    pub(crate) security: &'a Security,
    pub(crate) user: &'a User,
}

impl std::fmt::Debug for Rights<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rights").field("user", self.user).finish_non_exhaustive()
    }
}

impl Authorize for Rights<'_> {
    fn check(&self, check: &Check) -> Verdict {
        let attributes = Attributes {
            verb: &check.verb,
            group: &check.group,
            version: if check.resource.is_empty() { "" } else { "*" },
            resource: &check.resource,
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            path: &check.path,
            ..Attributes::default()
        };
        let decision = match &check.service_account {
            Some((namespace, name)) => {
                self.security.authorize_now(&User::service_account(namespace, name, ""), &attributes)
            }
            None => self.security.authorize_now(self.user, &attributes),
        };
        Verdict { allowed: decision.allowed, reason: decision.reason, error: decision.error }
    }
}

/// The budget is spent: no further expression is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfBudget;

impl std::fmt::Display for OutOfBudget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .write_str("validation failed due to running out of cost budget, no further validation rules will be run")
    }
}

/// The values of all variables. One is made for each group of expressions, as upstream does: variables of a policy are
/// worked out once a group.
pub(super) struct Inputs<'a> {
    values: Vec<Value<'a>>,
    variables: Rc<Variables<'a>>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(
        subject: &'a Subject,
        params: Option<&'a Json>,
        rights: &'a Rights<'a>,
        composition: &'a Composition,
    ) -> Self {
        let text =
            |pointer: &str| subject.request.pointer(pointer).and_then(Json::as_str).unwrap_or_default().to_owned();
        let asked = Check {
            group: text("/resource/group"),
            resource: text("/resource/resource"),
            subresource: text("/subResource"),
            namespace: text("/namespace"),
            name: text("/name"),
            ..Check::default()
        };
        let mut values = vec![Value::Null; place::VARIABLES + 1];
        values[place::OBJECT] = Value::untyped(&subject.object);
        values[place::OLD_OBJECT] = Value::untyped(&subject.old);
        values[place::NAMESPACE] = Value::untyped(&subject.namespace);
        values[place::REQUEST] = Value::untyped(&subject.request);
        values[place::AUTHORIZER] = authorizer(rights);
        values[place::REQUEST_RESOURCE] = request_resource(rights, asked);
        values[place::PARAMS] = params.map_or(Value::Null, Value::untyped);
        let variables = Rc::new(Variables {
            composition,
            outer: values.clone(),
            found: RefCell::new(vec![None; composition.named.len()]),
            spent: Cell::new(0),
        });
        values[place::VARIABLES] = Value::Record(Rc::new(Composed(Rc::clone(&variables))));
        Self { values, variables }
    }

    /// Evaluates an expression within what is left of the budget.
    pub(super) fn evaluate(
        &self,
        expression: &'a Expression,
        left: &mut u64,
    ) -> Result<Result<Value<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(problem) => return Ok(Err(format!("compilation error: {problem}"))),
        };
        let mut meter = Meter::new(PER_EXPRESSION);
        let value = program.evaluate(&self.values, &mut meter);
        let spent = meter.spent().saturating_add(self.variables.spent.take());
        *left = left.checked_sub(spent).ok_or(OutOfBudget)?;
        Ok(value.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.source)))
    }
}

/// The `variables` of a policy, worked out when they are first used.
struct Variables<'a> {
    composition: &'a Composition,
    /// The values of everything else.
    outer: Vec<Value<'a>>,
    found: RefCell<Vec<Option<Evaluated<'a>>>>,
    /// What they have cost since somebody last asked. Each has a budget of its own, as any expression.
    spent: Cell<u64>,
}

/// A handle on [`Variables`]; they need themselves for variables that use others.
#[derive(Clone)]
struct Composed<'a>(Rc<Variables<'a>>);

impl std::fmt::Debug for Composed<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Variables").field(&self.0.composition.named.len()).finish()
    }
}

impl<'a> Record<'a> for Composed<'a> {
    fn field(&self, name: &str, _: &mut Meter) -> Option<Evaluated<'a>> {
        let own = &*self.0;
        let composition = own.composition;
        let index = composition.named.iter().position(|(own, _)| &**own == name)?;
        if let Some(found) = &own.found.borrow()[index] {
            return Some(found.clone());
        }
        let (_, expression) = &composition.named[index];
        let found = match &expression.program {
            Err(problem) => Err(format!("composited variable {name:?} fails to compile: {problem}")),
            Ok(program) => {
                let mut values = own.outer.clone();
                values[place::VARIABLES] = Value::Record(Rc::new(self.clone()));
                let mut meter = Meter::new(PER_EXPRESSION);
                let value = program.evaluate(&values, &mut meter);
                own.spent.set(own.spent.get().saturating_add(meter.spent()));
                value.map_err(|error| format!("composited variable {name:?} fails to evaluate: {error}"))
            }
        };
        let found = found.map_err(|words| EvaluationError::Failed(words.into()));
        own.found.borrow_mut()[index] = Some(found.clone());
        Some(found)
    }
}
