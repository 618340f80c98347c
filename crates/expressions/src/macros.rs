//! Macros: calls that the parser turns into loops and presence tests, by upstream's expansions (costs depend on them).

use crate::parse::{Parser, Stop};
use crate::syntax::{Comprehension, Expression, Item, Literal, NodeId};

/// The accumulator's name, which no source can write.
pub(crate) const ACCUMULATOR: &str = "@result";
/// The name that the accumulator once had; nobody may use it for a variable.
const FORMER_ACCUMULATOR: &str = "__result__";
/// The variable of a loop that runs over nothing.
const UNUSED: &str = "#unused";

/// What `sortBy` calls the list that it sorts.
const SORTED: &str = "@__sortBy_input__";

/// What a macro repeats, and with which variables.
struct Loop {
    offset: u32,
    range: NodeId,
    variable: Box<str>,
    second: Option<Box<str>>,
}

impl Parser<'_> {
    /// A call without a target: `has`, or a function.
    pub(crate) fn function(&mut self, offset: u32, name: Box<str>, arguments: Vec<NodeId>) -> Result<NodeId, Stop> {
        if &*name != "has" || arguments.len() != 1 {
            return self.call(offset, &name, arguments);
        }
        match self.look(arguments[0]).expression.clone() {
            Expression::Select { operand, field, .. } => {
                self.add(offset, Expression::Select { operand, field, test: true })
            }
            _ => {
                let at = self.look(arguments[0]).offset;
                self.report(at, "invalid argument to has() macro");
                self.add(offset, Expression::Broken)
            }
        }
    }

    /// A call with a target: a macro, or a method.
    pub(crate) fn method(
        &mut self,
        offset: u32,
        target: NodeId,
        name: Box<str>,
        arguments: Vec<NodeId>,
    ) -> Result<NodeId, Stop> {
        let two = match (&*name, arguments.len()) {
            ("all" | "exists" | "existsOne" | "exists_one" | "filter", 2) | ("map", 2 | 3) => false,
            ("all" | "exists" | "existsOne" | "exists_one", 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => true,
            ("sortBy", 2) => return self.sort_by(offset, target, &arguments),
            ("optMap" | "optFlatMap", 2) => return self.optional_map(offset, target, &name, &arguments),
            _ => return self.call_on(offset, target, &name, arguments),
        };
        let words = match &*name {
            "map" | "filter" => "argument is not an identifier",
            _ => "argument must be a simple name",
        };
        let Some(variable) = self.variable(arguments[0], words) else { return self.add(offset, Expression::Broken) };
        let mut second = None;
        if two {
            second = self.variable(arguments[1], words);
            if second.is_none() {
                return self.add(offset, Expression::Broken);
            }
            if second.as_ref() == Some(&variable) {
                let at = self.look(arguments[1]).offset;
                self.report(at, format!("duplicate variable name: {variable}"));
                return self.add(offset, Expression::Broken);
            }
        }
        let body = &arguments[if two { 2 } else { 1 }..];
        let shape = Loop { offset, range: target, variable, second };
        match &*name {
            "all" => self.all(shape, body[0]),
            "exists" => self.exists(shape, body[0]),
            "existsOne" | "exists_one" => self.exists_one(shape, body[0]),
            "filter" => {
                let item = arguments[0];
                self.collect(shape, Some(body[0]), |parser| parser.append(offset, item))
            }
            "map" | "transformList" => {
                let (filter, item) = split(body);
                self.collect(shape, filter, |parser| parser.append(offset, item))
            }
            _ => self.transform_map(shape, body, &name),
        }
    }

    /// The variable that an argument names.
    fn variable(&mut self, argument: NodeId, words: &str) -> Option<Box<str>> {
        let node = self.look(argument);
        let (at, name) = (
            node.offset,
            match &node.expression {
                Expression::Name(name) => Some(name.clone()),
                _ => None,
            },
        );
        match name {
            None => self.report(at, words),
            Some(name) if &*name == FORMER_ACCUMULATOR => {
                self.report(at, "iteration variable overwrites accumulator variable");
            }
            found => return found,
        }
        None
    }

    fn result(&mut self, offset: u32) -> Result<NodeId, Stop> {
        self.add(offset, Expression::Name(ACCUMULATOR.into()))
    }

    fn value(&mut self, offset: u32, literal: Literal) -> Result<NodeId, Stop> {
        self.add(offset, Expression::Literal(literal))
    }

    fn fold(
        &mut self,
        shape: Loop,
        start: NodeId,
        condition: NodeId,
        step: NodeId,
        result: NodeId,
    ) -> Result<NodeId, Stop> {
        let Loop { offset, range, variable, second } = shape;
        let accumulator = ACCUMULATOR.into();
        let inner = Comprehension { range, variable, second, accumulator, start, condition, step, result };
        self.add(offset, Expression::Comprehension(Box::new(inner)))
    }

    fn all(&mut self, shape: Loop, predicate: NodeId) -> Result<NodeId, Stop> {
        let at = shape.offset;
        let start = self.value(at, Literal::Bool(true))?;
        let so_far = self.result(at)?;
        let condition = self.call(at, "@not_strictly_false", vec![so_far])?;
        let so_far = self.result(at)?;
        let step = self.call(at, "_&&_", vec![so_far, predicate])?;
        let result = self.result(at)?;
        self.fold(shape, start, condition, step, result)
    }

    fn exists(&mut self, shape: Loop, predicate: NodeId) -> Result<NodeId, Stop> {
        let at = shape.offset;
        let start = self.value(at, Literal::Bool(false))?;
        let so_far = self.result(at)?;
        let not = self.call(at, "!_", vec![so_far])?;
        let condition = self.call(at, "@not_strictly_false", vec![not])?;
        let so_far = self.result(at)?;
        let step = self.call(at, "_||_", vec![so_far, predicate])?;
        let result = self.result(at)?;
        self.fold(shape, start, condition, step, result)
    }

    fn exists_one(&mut self, shape: Loop, predicate: NodeId) -> Result<NodeId, Stop> {
        let at = shape.offset;
        let start = self.value(at, Literal::Int(0))?;
        let condition = self.value(at, Literal::Bool(true))?;
        let (so_far, one) = (self.result(at)?, self.value(at, Literal::Int(1))?);
        let more = self.call(at, "_+_", vec![so_far, one])?;
        let same = self.result(at)?;
        let step = self.call(at, "_?_:_", vec![predicate, more, same])?;
        let (so_far, one) = (self.result(at)?, self.value(at, Literal::Int(1))?);
        let result = self.call(at, "_==_", vec![so_far, one])?;
        self.fold(shape, start, condition, step, result)
    }

    /// `accumulator + [item]`.
    fn append(&mut self, at: u32, item: NodeId) -> Result<NodeId, Stop> {
        let so_far = self.result(at)?;
        let list = self.add(at, Expression::List { items: vec![Item { value: item, optional: false }] })?;
        self.call(at, "_+_", vec![so_far, list])
    }

    /// A loop that adds to a list with every item that passes the filter.
    fn collect(
        &mut self,
        shape: Loop,
        filter: Option<NodeId>,
        add: impl FnOnce(&mut Self) -> Result<NodeId, Stop>,
    ) -> Result<NodeId, Stop> {
        let start = self.add(shape.offset, Expression::List { items: Vec::new() })?;
        self.gather(shape, start, filter, add)
    }

    fn gather(
        &mut self,
        shape: Loop,
        start: NodeId,
        filter: Option<NodeId>,
        add: impl FnOnce(&mut Self) -> Result<NodeId, Stop>,
    ) -> Result<NodeId, Stop> {
        let at = shape.offset;
        let condition = self.value(at, Literal::Bool(true))?;
        let mut step = add(self)?;
        if let Some(filter) = filter {
            let same = self.result(at)?;
            step = self.call(at, "_?_:_", vec![filter, step, same])?;
        }
        let result = self.result(at)?;
        self.fold(shape, start, condition, step, result)
    }

    fn transform_map(&mut self, shape: Loop, body: &[NodeId], name: &str) -> Result<NodeId, Stop> {
        let at = shape.offset;
        let (filter, value) = split(body);
        let key = (name == "transformMap").then(|| shape.variable.clone());
        let start = self.add(at, Expression::Map { entries: Vec::new() })?;
        self.gather(shape, start, filter, |parser| {
            let mut arguments = vec![parser.result(at)?];
            if let Some(key) = key {
                arguments.push(parser.add(at, Expression::Name(key))?);
            }
            arguments.push(value);
            parser.call(at, "cel.@mapInsert", arguments)
        })
    }

    /// `target.sortBy(v, e)`: the target, in the order of what `e` makes of each item.
    fn sort_by(&mut self, at: u32, target: NodeId, arguments: &[NodeId]) -> Result<NodeId, Stop> {
        let Some(variable) = self.variable(arguments[0], "argument is not an identifier") else {
            return self.add(at, Expression::Broken);
        };
        let range = self.add(at, Expression::Name(SORTED.into()))?;
        let shape = Loop { offset: at, range, variable, second: None };
        let keys = self.collect(shape, None, |parser| parser.append(at, arguments[1]))?;
        let input = self.add(at, Expression::Name(SORTED.into()))?;
        let result = self.call_on(at, input, "@sortByAssociatedKeys", vec![keys])?;
        self.bind(at, SORTED.into(), target, result)
    }

    /// `result`, in which a name stands for a value: a loop over nothing.
    fn bind(&mut self, at: u32, name: Box<str>, value: NodeId, result: NodeId) -> Result<NodeId, Stop> {
        let range = self.add(at, Expression::List { items: Vec::new() })?;
        let condition = self.value(at, Literal::Bool(false))?;
        let step = self.add(at, Expression::Name(name.clone()))?;
        let inner = Comprehension {
            range,
            variable: UNUSED.into(),
            second: None,
            accumulator: name,
            start: value,
            condition,
            step,
            result,
        };
        self.add(at, Expression::Comprehension(Box::new(inner)))
    }

    /// `target.optMap(v, e)`: `target.hasValue() ? optional.of(e with v = target.value()) : optional.none()`.
    fn optional_map(&mut self, at: u32, target: NodeId, name: &str, arguments: &[NodeId]) -> Result<NodeId, Stop> {
        let words = format!("{name}() variable name must be a simple identifier");
        let Some(variable) = self.variable(arguments[0], &words) else { return self.add(at, Expression::Broken) };
        let present = self.call_on(at, target, "hasValue", Vec::new())?;
        let start = self.call_on(at, target, "value", Vec::new())?;
        let mut mapped = self.bind(at, variable, start, arguments[1])?;
        if name == "optMap" {
            mapped = self.call(at, "optional.of", vec![mapped])?;
        }
        let none = self.call(at, "optional.none", Vec::new())?;
        self.call(at, "_?_:_", vec![present, mapped, none])
    }
}

/// The filter, where there is one, and what is made of each item.
fn split(body: &[NodeId]) -> (Option<NodeId>, NodeId) {
    match body {
        [filter, item] => (Some(*filter), *item),
        _ => (None, body[0]),
    }
}
