//! The type checker: every node gets its type, every name its meaning.

mod aggregate;

use std::sync::Arc;

use crate::catalogue::{self, Function};
use crate::environment::Environment;
use crate::error::CompileError;
use crate::names;
use crate::syntax::{Expression, Literal, NodeId, Tree};
use crate::types::{Opaque, Type};
use crate::unify::Substitution;

/// What a node's name stands for.
#[derive(Clone, Debug, Default)]
pub(crate) enum Meaning {
    /// Nothing: the node has no name, or it is wrong.
    #[default]
    None,
    /// A variable of the environment.
    Variable(u16),
    /// A variable of a loop.
    Local(u16),
    /// A type.
    Type(Type),
    /// A function, and those of its overloads that fit.
    Function(&'static Function, Box<[u16]>),
    /// A function whose name contains the target.
    Namespaced(&'static Function, Box<[u16]>),
}

/// A tree whose types are known.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub tree: Tree,
    pub types: Vec<Type>,
    pub meanings: Vec<Meaning>,
}

/// Checks a tree.
pub(crate) fn check(source: &str, tree: Tree, environment: &Environment) -> Result<Checked, CompileError> {
    let count = tree.nodes.len();
    let mut checker = Checker {
        tree: &tree,
        environment,
        types: vec![Type::Dyn; count],
        meanings: vec![Meaning::None; count],
        known: Substitution::default(),
        locals: Vec::new(),
        errors: Vec::new(),
    };
    checker.node(tree.root);
    crate::check_literals::check(&tree, &checker.meanings, &mut checker.errors);
    let Checker { types, meanings, known, mut errors, .. } = checker;
    if !errors.is_empty() {
        // What a macro repeats is wrong only once.
        errors.dedup();
        return Err(CompileError::new(source, errors));
    }
    let types = types.iter().map(|found| known.apply(found, true)).collect();
    Ok(Checked { tree, types, meanings })
}

struct Checker<'c> {
    tree: &'c Tree,
    environment: &'c Environment,
    types: Vec<Type>,
    meanings: Vec<Meaning>,
    known: Substitution,
    locals: Vec<(Box<str>, Type)>,
    errors: Vec<(u32, String)>,
}

/// The types that expressions can name.
fn type_called(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "duration" | "google.protobuf.Duration" => Type::Duration,
        "dyn" => Type::Dyn,
        "int" => Type::Int,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "optional_type" => Type::optional(Type::Dyn),
        "string" => Type::String,
        "timestamp" | "google.protobuf.Timestamp" => Type::Timestamp,
        "type" => Type::Type(None),
        "uint" => Type::Uint,
        "kubernetes.URL" => Type::Opaque(Opaque::Url),
        "kubernetes.Quantity" => Type::Opaque(Opaque::Quantity),
        "kubernetes.Semver" => Type::Opaque(Opaque::Semver),
        "kubernetes.NamedFormat" => Type::Opaque(Opaque::Format),
        "net.IP" => Type::Opaque(Opaque::Ip),
        "net.CIDR" => Type::Opaque(Opaque::Cidr),
        _ => return None,
    })
}

impl Checker<'_> {
    fn report(&mut self, at: NodeId, message: String) {
        self.errors.push((self.tree.node(at).offset, message));
    }

    fn set(&mut self, id: NodeId, found: Type) -> Type {
        self.types[id as usize] = found.clone();
        found
    }

    fn get(&self, id: NodeId) -> Type {
        self.types[id as usize].clone()
    }

    fn undeclared(&mut self, id: NodeId, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        self.set(id, Type::Error)
    }

    fn mismatch(&mut self, at: NodeId, expected: &Type, found: &Type) {
        let (expected, found) = (self.known.apply(expected, false), self.known.apply(found, false));
        self.report(at, format!("expected type '{expected}' but found '{found}'"));
    }

    fn node(&mut self, id: NodeId) -> Type {
        let tree = self.tree;
        match tree.expression(id) {
            Expression::Broken => self.set(id, Type::Error),
            Expression::Literal(literal) => self.set(id, literal_type(literal)),
            Expression::Name(name) => self.name(id, name),
            Expression::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Expression::Call { function, target, arguments } => self.call(id, function, *target, arguments),
            Expression::List { items } => self.list(id, items),
            Expression::Map { entries } => self.map(id, entries),
            Expression::Object { name, fields } => self.object(id, name, fields),
            Expression::Comprehension(inner) => self.comprehension(id, inner),
        }
    }

    fn name(&mut self, id: NodeId, name: &str) -> Type {
        if let Some(slot) = self.locals.iter().rposition(|(local, _)| &**local == name) {
            self.meanings[id as usize] = Meaning::Local(u16::try_from(slot).unwrap_or(u16::MAX));
            let found = self.locals[slot].1.clone();
            return self.set(id, found);
        }
        if let Some(place) = self.environment.position(name) {
            self.meanings[id as usize] = Meaning::Variable(u16::try_from(place).unwrap_or(u16::MAX));
            let found = self.environment.variables[place].declared.clone();
            return self.set(id, found);
        }
        if let Some(found) = type_called(name) {
            self.meanings[id as usize] = Meaning::Type(found.clone());
            return self.set(id, Type::Type(Some(Arc::new(found))));
        }
        self.undeclared(id, name)
    }

    /// `a.b.c`, where it is nothing but names and `a` is no variable.
    fn qualified(&self, id: NodeId) -> Option<String> {
        match self.tree.expression(id) {
            Expression::Name(name) => {
                let shadowed = self.locals.iter().any(|(local, _)| local == name);
                (!shadowed && self.environment.position(name).is_none()).then(|| name.to_string())
            }
            Expression::Select { operand, field, test: false } => {
                self.qualified(*operand).map(|prefix| format!("{prefix}.{field}"))
            }
            _ => None,
        }
    }

    /// `a.b`, where that as a whole is a variable of the environment.
    fn dotted_variable(&self, operand: NodeId, field: &str) -> Option<usize> {
        let Expression::Name(first) = self.tree.expression(operand) else { return None };
        if self.locals.iter().any(|(local, _)| local == first) {
            return None;
        }
        self.environment.position(&format!("{first}.{field}"))
    }

    fn select(&mut self, id: NodeId, operand: NodeId, field: &str, test: bool) -> Type {
        if !test && let Some(place) = self.dotted_variable(operand, field) {
            self.meanings[id as usize] = Meaning::Variable(u16::try_from(place).unwrap_or(u16::MAX));
            let found = self.environment.variables[place].declared.clone();
            return self.set(id, found);
        }
        if !test && let Some(found) = self.qualified(id).and_then(|name| type_called(&name)) {
            self.meanings[id as usize] = Meaning::Type(found.clone());
            return self.set(id, Type::Type(Some(Arc::new(found))));
        }
        let found = self.field(id, operand, field, false);
        self.set(id, if test { Type::Bool } else { found })
    }

    fn field(&mut self, id: NodeId, operand: NodeId, field: &str, optional: bool) -> Type {
        let operand = self.node(operand);
        let operand = self.known.apply(&operand, false);
        let (target, was_optional) = match &operand {
            Type::Optional(inner) => ((**inner).clone(), true),
            _ => (operand, false),
        };
        let found = match &target {
            Type::Map(pair) => pair.1.clone(),
            Type::Object(object) => match object.fields.get(field).or_else(|| object.fields.get(&*names::kept(field)?))
            {
                Some(found) => found.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Variable(_) => {
                self.known.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if optional || was_optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, id: NodeId, name: &str, target: Option<NodeId>, arguments: &[NodeId]) -> Type {
        if name == "_?._" {
            let Expression::Literal(Literal::String(field)) = self.tree.expression(arguments[1]) else {
                return self.set(id, Type::Error);
            };
            self.types[arguments[1] as usize] = Type::String;
            let found = self.field(id, arguments[0], field, true);
            if let Some(function) = catalogue::find(name) {
                self.meanings[id as usize] = Meaning::Function(function, Box::new([0]));
            }
            return self.set(id, found);
        }
        for argument in arguments {
            self.node(*argument);
        }
        let mut receiver = None;
        if let Some(target) = target {
            let namespaced = self.qualified(target).and_then(|prefix| catalogue::find(&format!("{prefix}.{name}")));
            if let Some(function) = namespaced {
                let (found, fitting) = self.resolve(id, function, None, arguments);
                self.meanings[id as usize] = Meaning::Namespaced(function, fitting);
                return self.set(id, found);
            }
            self.node(target);
            receiver = Some(target);
        }
        let Some(function) = catalogue::find(name) else { return self.undeclared(id, name) };
        let (found, fitting) = self.resolve(id, function, receiver, arguments);
        self.meanings[id as usize] = Meaning::Function(function, fitting);
        self.set(id, found)
    }

    /// The result of the overloads that fit.
    fn resolve(
        &mut self,
        id: NodeId,
        function: &'static Function,
        target: Option<NodeId>,
        arguments: &[NodeId],
    ) -> (Type, Box<[u16]>) {
        if matches!(function.name, "_&&_" | "_||_") {
            return self.logical(arguments);
        }
        let given: Vec<Type> = target.iter().chain(arguments).map(|part| self.get(*part)).collect();
        let mut result: Option<Type> = None;
        let mut fitting = Vec::new();
        for (index, overload) in function.overloads.iter().enumerate() {
            if overload.member != target.is_some() || overload.parameters.len() != given.len() {
                continue;
            }
            let first = self.known.reserve(overload.variables);
            let wanted: Vec<Type> =
                overload.parameters.iter().map(|wanted| Substitution::instantiate(wanted, first)).collect();
            if !self.known.all_assignable(&given, &wanted) {
                continue;
            }
            fitting.push(u16::try_from(index).unwrap_or(u16::MAX));
            let found = self.known.apply(&Substitution::instantiate(&overload.result, first), false);
            result = Some(match result {
                None => found,
                Some(before) if before.is_dyn() || found.is_exactly(&before) => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(found) => (found, fitting.into()),
            None => {
                let given: Vec<String> = given.iter().map(|found| self.known.apply(found, true).to_string()).collect();
                let signature = match given.split_first() {
                    Some((target_type, rest)) if target.is_some() => format!("{target_type}.({})", rest.join(", ")),
                    _ => format!("({})", given.join(", ")),
                };
                let name = function.name;
                self.report(id, format!("found no matching overload for '{name}' applied to '{signature}'"));
                (Type::Error, Box::default())
            }
        }
    }

    fn logical(&mut self, arguments: &[NodeId]) -> (Type, Box<[u16]>) {
        let mut result = Type::Bool;
        for argument in arguments {
            let found = self.get(*argument);
            if !self.known.assignable(&found, &Type::Bool) {
                self.mismatch(*argument, &Type::Bool, &found);
                result = Type::Error;
            }
        }
        (result, Box::new([0]))
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
