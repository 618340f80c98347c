//! What an expression may cost at most, found from the sizes that schemas allow, by upstream's rules: they decide which
//! rules a custom resource definition may carry.

mod calls;
mod range;

use std::collections::HashMap;

pub use range::CostRange;
pub(crate) use range::Range;

use crate::check::Meaning;
use crate::environment::Environment;
use crate::meter::{LIST_BASE, MAP_BASE, OBJECT_BASE};
use crate::plan::Plan;
use crate::schema::{Schema, Shape};
use crate::syntax::{Comprehension, Expression, Literal, NodeId};
use crate::types::Type;

/// Where in the variables a node's value comes from, as far as that is known.
#[derive(Clone, Copy, Debug)]
enum Place<'s> {
    /// From nowhere: made by the expression.
    Unknown,
    /// From somewhere in the variables that no schema describes.
    Lost,
    Schema(&'s Schema),
    /// A key of a map.
    Key,
}

impl<'s> Place<'s> {
    /// Where the items of a list or the values of a map come from. Upstream writes places as paths and takes their first
    /// step for the variable's name, so that below a value from nowhere (`a ? b : []`) the variable's own schema is found.
    /// Rules that are in use pass by that, so it is kept: `root` is that schema's place.
    fn items(self, root: Place<'s>) -> Place<'s> {
        match self {
            Place::Unknown => root,
            Place::Schema(schema) => match schema.shape() {
                Shape::List(items, _) | Shape::Map(items) => Place::Schema(items),
                _ => Place::Lost,
            },
            Place::Lost | Place::Key => Place::Lost,
        }
    }

    fn keys(self, root: Place<'s>) -> Place<'s> {
        match self {
            Place::Unknown => root,
            Place::Schema(schema) if matches!(schema.shape(), Shape::Map(_)) => Place::Key,
            _ => Place::Lost,
        }
    }

    fn field(self, name: &str, root: Place<'s>) -> Place<'s> {
        match self {
            Place::Unknown => root,
            Place::Schema(schema) => schema.field(name).map_or(Place::Lost, |field| Place::Schema(&field.schema)),
            Place::Lost | Place::Key => Place::Lost,
        }
    }

    /// The size of what is there. Values without a size of their own count as nothing, as upstream has it.
    fn size(self) -> Option<Range> {
        match self {
            Place::Unknown | Place::Lost => None,
            Place::Schema(schema) => Some(Range { min: 0, max: schema.largest().unwrap_or(0) }),
            Place::Key => Some(Range { min: 0, max: 0 }),
        }
    }
}

/// The sizes of what a list or map holds.
#[derive(Clone, Copy, Debug)]
struct Entries {
    of_list: bool,
    key: Range,
    value: Range,
}

#[derive(Clone, Copy, Debug)]
struct Local<'s> {
    place: Place<'s>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// One estimate.
pub(crate) struct Estimate<'s> {
    plan: &'s Plan,
    environment: &'s Environment,
    /// The place of the variable `self`.
    root: Place<'s>,
    places: Vec<Place<'s>>,
    sizes: HashMap<NodeId, Range>,
    entries: HashMap<NodeId, Entries>,
    locals: Vec<Local<'s>>,
}

impl<'s> Estimate<'s> {
    pub(crate) fn new(plan: &'s Plan, environment: &'s Environment) -> Estimate<'s> {
        let this = environment.variables.iter().find(|variable| &*variable.name == "self");
        let root = this.and_then(|variable| variable.schema.as_deref()).map_or(Place::Lost, Place::Schema);
        Estimate {
            plan,
            environment,
            root,
            places: vec![Place::Unknown; plan.checked.tree.nodes.len()],
            sizes: HashMap::new(),
            entries: HashMap::new(),
            locals: Vec::new(),
        }
    }

    pub(crate) fn cost(&mut self, id: NodeId) -> Range {
        let plan = self.plan;
        match plan.checked.tree.expression(id) {
            Expression::Broken | Expression::Literal(_) => Range::ZERO,
            Expression::Name(_) => self.name(id),
            Expression::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Expression::Call { function, target, arguments } => self.call(id, function, *target, arguments),
            Expression::List { items } => {
                let sum = items.iter().fold(Range::ZERO, |sum, item| sum.plus(self.cost(item.value)));
                let value = self.common(items.iter().map(|item| item.value));
                self.entries.insert(id, Entries { of_list: true, key: Range::fixed(1), value });
                sum.plus(Range::fixed(LIST_BASE))
            }
            Expression::Map { entries } => {
                let sum = entries
                    .iter()
                    .fold(Range::ZERO, |sum, entry| sum.plus(self.cost(entry.key)).plus(self.cost(entry.value)));
                let key = self.common(entries.iter().map(|entry| entry.key));
                let value = self.common(entries.iter().map(|entry| entry.value));
                self.entries.insert(id, Entries { of_list: false, key, value });
                sum.plus(Range::fixed(MAP_BASE))
            }
            Expression::Object { fields, .. } => fields
                .iter()
                .fold(Range::ZERO, |sum, field| sum.plus(self.cost(field.value)))
                .plus(Range::fixed(OBJECT_BASE)),
            Expression::Comprehension(inner) => self.comprehension(id, inner),
        }
    }

    /// The range of sizes of several nodes; nothing at all for none.
    fn common(&self, nodes: impl Iterator<Item = NodeId>) -> Range {
        nodes.map(|id| self.size_or_unknown(id)).reduce(Range::union).unwrap_or(Range::ZERO)
    }

    fn name(&mut self, id: NodeId) -> Range {
        self.places[id as usize] = match &self.plan.checked.meanings[id as usize] {
            Meaning::Local(slot) => self.locals.get(usize::from(*slot)).map_or(Place::Unknown, |local| local.place),
            Meaning::Variable(place) => {
                let variable = self.environment.variables.get(usize::from(*place));
                variable.and_then(|variable| variable.schema.as_deref()).map_or(Place::Lost, Place::Schema)
            }
            _ => Place::Unknown,
        };
        Range::fixed(1)
    }

    fn select(&mut self, id: NodeId, operand: NodeId, field: &str, test: bool) -> Range {
        if !matches!(self.plan.checked.meanings[id as usize], Meaning::None) {
            return self.name(id);
        }
        let cost = self.cost(operand);
        if test {
            return cost;
        }
        self.places[id as usize] = self.places[operand as usize].field(field, self.root);
        match self.kind(operand) {
            Type::Map(_) | Type::Object(_) => cost.plus(Range::fixed(1)),
            _ => cost,
        }
    }

    fn kind(&self, id: NodeId) -> &'s Type {
        &self.plan.checked.types[id as usize]
    }

    fn is_loop_variable(&self, id: NodeId) -> Option<&Local<'s>> {
        match &self.plan.checked.meanings[id as usize] {
            Meaning::Local(slot) => self.locals.get(usize::from(*slot)),
            _ => None,
        }
    }

    /// The size of a node's value, as far as something is known.
    fn size(&self, id: NodeId) -> Option<Range> {
        if let Some(size) = self.sizes.get(&id) {
            return Some(*size);
        }
        let exactly = |size: usize| Some(Range::fixed(size as u64));
        match self.plan.checked.tree.expression(id) {
            Expression::Literal(Literal::String(text)) => return exactly(text.chars().count()),
            Expression::Literal(Literal::Bytes(bytes)) => return exactly(bytes.len()),
            Expression::Literal(_) => return exactly(1),
            Expression::List { items } => return exactly(items.len()),
            Expression::Map { entries } => return exactly(entries.len()),
            _ => {}
        }
        if let Some(size) = self.places[id as usize].size() {
            return Some(size);
        }
        if self.kind(id).is_scalar() {
            return exactly(1);
        }
        self.is_loop_variable(id).and_then(|local| local.size)
    }

    fn size_or_unknown(&self, id: NodeId) -> Range {
        self.size(id).unwrap_or(Range::UNKNOWN)
    }

    fn entries(&self, id: NodeId) -> Option<Entries> {
        self.entries.get(&id).copied().or_else(|| self.is_loop_variable(id).and_then(|local| local.entries))
    }

    fn copy_sizes(&mut self, to: NodeId, from: NodeId) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(to, size);
        }
        if let Some(entries) = self.entries(from) {
            self.entries.insert(to, entries);
        }
    }

    fn comprehension(&mut self, id: NodeId, inner: &Comprehension) -> Range {
        let mut sum = self.cost(inner.range).plus(self.cost(inner.start));
        let start = Local {
            place: self.places[inner.start as usize],
            size: self.size(inner.start),
            entries: self.entries(inner.start),
        };
        self.locals.push(start);
        if &*inner.accumulator != crate::macros::ACCUMULATOR {
            // A binding: the loop runs over nothing.
            sum = sum.plus(self.cost(inner.result));
            self.copy_sizes(id, inner.result);
            self.locals.pop();
            return sum;
        }
        // Sizes found in one loop's body hold in that loop only where its variables are concerned.
        let range = self.places[inner.range as usize];
        let entries = self.entries(inner.range);
        let of_list = entries.map_or(matches!(self.kind(inner.range), Type::List(_)), |entries| entries.of_list);
        let key = Local {
            place: if of_list { Place::Lost } else { range.keys(self.root) },
            size: entries.map(|entries| entries.key),
            entries: None,
        };
        let value = Local { place: range.items(self.root), size: entries.map(|entries| entries.value), entries: None };
        if inner.second.is_some() {
            self.locals.extend([key, value]);
        } else {
            self.locals.push(if of_list { value } else { key });
        }
        let condition = self.cost(inner.condition);
        let step = self.cost(inner.step);
        self.locals.truncate(self.locals.len() - if inner.second.is_some() { 2 } else { 1 });
        sum = sum.plus(self.cost(inner.result));
        self.locals.pop();
        let count = self.size_or_unknown(inner.range);
        match self.plan.checked.tree.expression(inner.start) {
            Expression::Literal(_) => {
                if let Some(size) = self.size(inner.start) {
                    self.sizes.insert(id, size);
                }
            }
            Expression::List { .. } | Expression::Map { .. } => {
                self.sizes.insert(id, count);
                if let Some(entries) = self.entries(inner.step) {
                    self.entries.insert(id, entries);
                }
            }
            _ => {}
        }
        sum.plus(count.times(step.plus(condition)))
    }
}
