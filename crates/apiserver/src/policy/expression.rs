//! Compiled expressions, and the variables that expressions of one policy share.

use kobune_expressions::{Environment, Program, Type};
use serde_json::Value;

use super::environment::{Declared, environment, variables};

/// An expression, or what is wrong with it.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    pub(super) program: Result<Program, String>,
}

impl Expression {
    /// Compiles a source; `accepted` are the types that it may give, none for any.
    pub(super) fn compile(source: &str, environment: &Environment, accepted: &[Type]) -> Self {
        let program = Program::compile(source, environment)
            .map_err(|error| format!("compilation failed: {error}"))
            .and_then(|program| {
                if accepted.is_empty() || accepted.iter().any(|accepted| program.result().is_exactly(accepted)) {
                    return Ok(program);
                }
                let found = program.result();
                Err(match accepted {
                    [one] => format!("must evaluate to {one} but got {found}"),
                    several => {
                        let several: Vec<String> = several.iter().map(Type::to_string).collect();
                        format!("must evaluate to one of [{}] but got {found}", several.join(" "))
                    }
                })
            });
        Self { source: source.to_owned(), program }
    }

    pub(super) fn of(source: &Value, environment: &Environment, accepted: &[Type]) -> Self {
        Self::compile(source.as_str().unwrap_or_default(), environment, accepted)
    }
}

/// The `variables` of a policy: each may use those before it.
#[derive(Debug, Default)]
pub(super) struct Composition {
    pub(super) named: Vec<(Box<str>, Expression)>,
}

impl Composition {
    pub(super) fn compile(list: &Value, declared: Declared) -> Self {
        let mut composition = Self::default();
        for variable in list.as_array().into_iter().flatten() {
            let environment = environment(declared, Some(composition.declared()));
            let expression = Expression::of(&variable["expression"], &environment, &[]);
            composition.named.push((variable["name"].as_str().unwrap_or_default().into(), expression));
        }
        composition
    }

    /// The type of `variables`. A variable that does not compile may be anything: its use fails.
    pub(super) fn declared(&self) -> Type {
        variables(self.named.iter().map(|(name, expression)| {
            let found = expression.program.as_ref().map_or(Type::Dyn, |program| program.result().clone());
            (name.clone(), found)
        }))
    }
}
