//! `x-kubernetes-validations`: the rules that a custom resource definition's schema carries.
//!
//! [`check`] says what is wrong with the rules of a schema when its definition is written; [`Rules::compile`] makes them
//! ready, once for each version of a definition, and [`Rules::validate`] judges objects by them.

mod compile;
mod field_path;
mod judge;
mod structural;

use std::sync::Arc;

use kobune_kinds::FieldError;
use serde_json::Value as Json;

use crate::{Program, Schema};

/// The rules of a schema.
#[derive(Debug, Default)]
pub struct Rules {
    root: Option<Node>,
}

/// What rules say about an object.
#[derive(Debug, Default, PartialEq)]
pub struct Judgement {
    /// What is wrong.
    pub errors: Vec<FieldError>,
    /// What is wrong but was so before, and is not what the update changes.
    pub warnings: Vec<String>,
}

/// A place in the schema at or below which there are rules.
#[derive(Debug)]
struct Node {
    /// OpenAPI's `type`.
    kind: Box<str>,
    schema: Option<Arc<Schema>>,
    rules: Vec<Rule>,
    all_of: Vec<Node>,
    properties: Vec<(Box<str>, Node)>,
    additional: Option<Box<Node>>,
    items: Option<Box<Node>>,
    /// The fields by which a list's items are told apart; empty where they cannot be.
    keys: Vec<Box<str>>,
    /// Whether a list's items are told apart by their value.
    is_set: bool,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    source: String,
    program: Result<Program, String>,
    message: String,
    making: Option<Program>,
    reason: Box<str>,
    /// Where failures are reported, below the place of the rule.
    field: Option<String>,
    uses_old: bool,
    optional_old: bool,
}

/// What is wrong with the rules of a schema that stands at `path` in its definition.
pub fn check(schema: &Json, path: &str) -> Vec<FieldError> {
    compile::Compiler::run(schema, path).1
}

impl Rules {
    /// The rules of a schema. Those that are wrong fail for each object, as upstream's do.
    pub fn compile(schema: &Json) -> Rules {
        Rules { root: compile::Compiler::run(schema, "").0 }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Judges an object; `old` is what it replaces.
    pub fn validate(&self, object: &Json, old: Option<&Json>) -> Judgement {
        judge::run(self.root.as_ref(), object, old)
    }
}
