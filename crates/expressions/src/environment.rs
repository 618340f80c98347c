//! What an expression may name besides functions.

use std::sync::Arc;

use crate::schema::Schema;
use crate::types::{ObjectType, Type};

/// A variable that is bound when the expression is evaluated.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: Box<str>,
    pub declared: Type,
    /// What is known of sizes.
    pub schema: Option<Arc<Schema>>,
}

/// The variables of an expression, in the order in which their values are given, and the types of objects that it may
/// make.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub(crate) variables: Vec<Variable>,
    pub(crate) objects: Vec<Arc<ObjectType>>,
    /// Types `Object`, `Object.spec` and so on, of which every field may be set.
    pub(crate) open_objects: bool,
}

impl Environment {
    /// No variables.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// Adds a variable of a type.
    #[must_use]
    pub fn variable(mut self, name: &str, declared: Type) -> Environment {
        self.variables.push(Variable { name: name.into(), declared, schema: None });
        self
    }

    /// Adds a variable whose values have a schema.
    #[must_use]
    pub fn value(mut self, name: &str, schema: &Arc<Schema>) -> Environment {
        self.variables.push(Variable {
            name: name.into(),
            declared: schema.declared().clone(),
            schema: Some(Arc::clone(schema)),
        });
        self
    }

    /// Changes the type of a variable that was added; other variables keep their places.
    pub fn redeclare(&mut self, name: &str, declared: Type) {
        if let Some(variable) = self.variables.iter_mut().find(|variable| &*variable.name == name) {
            variable.declared = declared;
        }
    }

    /// Allows expressions to make objects of this type: `Name{field: value}`.
    #[must_use]
    pub fn object(mut self, object: ObjectType) -> Environment {
        self.objects.push(Arc::new(object));
        self
    }

    /// Allows expressions to make `Object{...}`, `Object.spec{...}` and so on with any fields.
    #[must_use]
    pub fn open_objects(mut self) -> Environment {
        self.open_objects = true;
        self
    }

    /// The place of a variable among the values.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|variable| &*variable.name == name)
    }

    /// The type of objects called so.
    pub(crate) fn object_type(&self, name: &str) -> Option<Arc<ObjectType>> {
        if self.open_objects && (name == "Object" || name.starts_with("Object.")) {
            return Some(Arc::new(ObjectType { name: name.into(), open: true, ..ObjectType::default() }));
        }
        self.objects.iter().find(|object| &*object.name == name).cloned()
    }
}
