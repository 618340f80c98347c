//! The Common Expression Language (CEL) as Kubernetes 1.36 uses it: rules of custom resources, admission policies, match
//! conditions, claim mappings. Pure: sources and values in, values and errors out.
//!
//! The way of an expression:
//!
//! 1. an [`Environment`] says which variables there are; their types come from [`Schema`]s or are [`Type`]s;
//! 2. [`Program::compile`] parses, expands macros, checks types, and prepares what evaluation needs;
//! 3. [`Program::estimate`] gives the range of costs that the schemas' sizes allow;
//! 4. [`Program::evaluate`] gives a [`Value`], charging a [`Meter`] by upstream's prices.
//!
//! Sources may be hostile: their length, nesting, types and results are bounded, and evaluation ends when its budget is
//! spent. Values are looked into lazily; objects are not copied.

mod catalogue;
mod check;
mod check_literals;
mod environment;
mod error;
mod estimate;
mod evaluate;
mod json;
mod library;
mod literal;
mod macros;
mod meter;
mod names;
mod parse;
mod plan;
pub mod rules;
pub mod schema;
mod syntax;
mod token;
mod types;
mod unify;
mod value;

pub use environment::Environment;
pub use error::{CompileError, EvaluationError, Issue};
pub use estimate::CostRange;
pub use library::authorizer::{Authorization, Authorize, Check, Verdict, authorizer, request_resource};
pub use library::format::Format;
pub use library::opaque::Held;
pub use library::url::Url;
pub use meter::{Meter, PER_EXPRESSION, PER_MATCH_CONDITIONS, PER_OBJECT};
pub use names::{escape, unescape};
pub use schema::Schema;
pub use types::{ObjectType, Opaque, Type};
pub use value::{Evaluated, Key, List, Map, Object, Record, Text, Value};

use std::collections::BTreeSet;

use check::Meaning;
use plan::Plan;

/// An expression that is ready to be evaluated.
#[derive(Debug)]
pub struct Program {
    plan: Plan,
    environment: Environment,
}

impl Program {
    /// Parses and checks a source.
    pub fn compile(source: &str, environment: &Environment) -> Result<Program, CompileError> {
        let tree = parse::parse(source)?;
        let checked = check::check(source, tree, environment)?;
        Ok(Program { plan: Plan::new(checked), environment: environment.clone() })
    }

    /// The type of what the expression gives.
    pub fn result(&self) -> &Type {
        &self.plan.checked.types[self.plan.checked.tree.root as usize]
    }

    /// The names of the environment's variables that the expression uses.
    pub fn uses(&self) -> BTreeSet<&str> {
        let places = self.plan.checked.meanings.iter().filter_map(|meaning| match meaning {
            Meaning::Variable(place) => self.environment.variables.get(usize::from(*place)),
            _ => None,
        });
        places.map(|variable| &*variable.name).collect()
    }

    /// Whether the expression looks at a field of a variable by its name: `variable.field`, `has(variable.field)`,
    /// `variable.?field`.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        use syntax::{Expression, Literal};
        let tree = &self.plan.checked.tree;
        let is_variable = |id| matches!(tree.expression(id), Expression::Name(name) if &**name == variable);
        tree.nodes.iter().any(|node| match &node.expression {
            Expression::Select { operand, field: found, .. } => &**found == field && is_variable(*operand),
            Expression::Call { function, target: None, arguments } if &**function == "_?._" => {
                let named =
                    |id| matches!(tree.expression(id), Expression::Literal(Literal::String(text)) if &**text == field);
                matches!(arguments.as_slice(), [operand, found] if is_variable(*operand) && named(*found))
            }
            _ => false,
        })
    }

    /// The range of costs that the sizes in the variables' schemas allow.
    pub fn estimate(&self) -> CostRange {
        estimate::Estimate::new(&self.plan, &self.environment).cost(self.plan.checked.tree.root)
    }

    /// Evaluates the expression. `variables` are the values of the environment's variables, in its order; the cost is
    /// charged to the meter, and evaluation ends with [`EvaluationError::Budget`] where the meter does.
    pub fn evaluate<'a>(&'a self, variables: &[Value<'a>], meter: &mut Meter) -> Evaluated<'a> {
        evaluate::Evaluation::new(&self.plan, variables, meter).node(self.plan.checked.tree.root)
    }
}
