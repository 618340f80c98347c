//! The types of what is made of parts: lists, maps, objects, and loops over them.

use super::Checker;
use crate::syntax::{Comprehension, Entry, FieldValue, Item, NodeId};
use crate::types::Type;
use crate::unify::less_specific;

/// The most parts that the type of one list or map may have: nested maps can double it with each step.
const LARGEST_TYPE: usize = 1_000;

impl Checker<'_> {
    /// The type of an optional part once its value is taken out.
    fn unwrap(&mut self, at: NodeId, found: Type, optional: bool) -> Type {
        if !optional {
            return found;
        }
        match found {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                self.mismatch(at, &Type::optional(other.clone()), &other);
                other
            }
        }
    }

    /// The common type of the parts of a list or map, which must be of one type.
    fn join(&mut self, at: NodeId, before: Option<Type>, found: Type) -> Type {
        let Some(before) = before else { return found };
        if self.known.assignable(&before, &found) {
            return if less_specific(&before, &found) { before } else { found };
        }
        self.mismatch(at, &before, &found);
        Type::Error
    }

    pub(super) fn list(&mut self, id: NodeId, items: &[Item]) -> Type {
        let mut common = None;
        for item in items {
            let found = self.node(item.value);
            let found = self.unwrap(item.value, found, item.optional);
            common = Some(self.join(item.value, common, found));
        }
        let item = common.unwrap_or_else(|| self.known.fresh());
        self.bounded(id, Type::list(item))
    }

    pub(super) fn map(&mut self, id: NodeId, entries: &[Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let found = self.node(entry.key);
            keys = Some(self.join(entry.key, keys, found));
            let found = self.node(entry.value);
            let found = self.unwrap(entry.value, found, entry.optional);
            values = Some(self.join(entry.value, values, found));
        }
        let key = keys.unwrap_or_else(|| self.known.fresh());
        let value = values.unwrap_or_else(|| self.known.fresh());
        self.bounded(id, Type::map(key, value))
    }

    fn bounded(&mut self, id: NodeId, made: Type) -> Type {
        let whole = self.known.apply(&made, false);
        if whole.weight(LARGEST_TYPE) >= LARGEST_TYPE {
            self.report(id, "type is too complex".to_owned());
            return self.set(id, Type::Error);
        }
        self.set(id, made)
    }

    pub(super) fn object(&mut self, id: NodeId, name: &str, fields: &[FieldValue]) -> Type {
        let Some(object) = self.environment.object_type(name) else {
            for field in fields {
                self.node(field.value);
            }
            return self.undeclared(id, name);
        };
        for field in fields {
            let found = self.node(field.value);
            let found = self.unwrap(field.value, found, field.optional);
            let declared = match object.fields.get(&field.name) {
                Some(declared) => declared.clone(),
                None if object.open => self.open_field(name, field, &found),
                None => {
                    self.errors.push((field.offset, format!("undefined field '{}'", field.name)));
                    continue;
                }
            };
            if !self.known.assignable(&declared, &found) {
                let found = self.known.apply(&found, false);
                let message =
                    format!("expected type of field '{}' is '{declared}' but provided type is '{found}'", field.name);
                self.errors.push((field.offset, message));
            }
        }
        self.set(id, Type::Object(object))
    }

    /// An object inside an open object must carry the name of its place.
    fn open_field(&self, name: &str, field: &FieldValue, found: &Type) -> Type {
        match found {
            Type::Object(inner) if inner.open => {
                let place = format!("{name}.{}", field.name);
                self.environment.object_type(&place).map_or(Type::Dyn, Type::Object)
            }
            _ => Type::Dyn,
        }
    }

    pub(super) fn comprehension(&mut self, id: NodeId, inner: &Comprehension) -> Type {
        self.node(inner.range);
        let accumulated = self.node(inner.start);
        let range = self.known.apply(&self.types[inner.range as usize], false);
        self.locals.push((inner.accumulator.clone(), accumulated.clone()));
        let two = inner.second.is_some();
        let (first, second) = match &range {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Variable(_) => {
                self.known.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(inner.range, message);
                (Type::Error, Type::Error)
            }
        };
        self.locals.push((inner.variable.clone(), first));
        if let Some(name) = &inner.second {
            self.locals.push((name.clone(), second));
        }
        let condition = self.node(inner.condition);
        if !self.known.assignable(&Type::Bool, &condition) {
            self.mismatch(inner.condition, &Type::Bool, &condition);
        }
        let step = self.node(inner.step);
        if !self.known.assignable(&accumulated, &step) {
            self.mismatch(inner.step, &accumulated, &step);
        }
        self.locals.truncate(self.locals.len() - if two { 2 } else { 1 });
        let result = self.node(inner.result);
        self.locals.pop();
        let result = self.known.apply(&result, false);
        self.set(id, result)
    }
}
