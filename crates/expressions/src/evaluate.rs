//! Evaluation: a walk over the checked tree that charges each step and looks into JSON only where it must.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::catalogue::Arguments;
use crate::check::Meaning;
use crate::error::EvaluationError;
use crate::library::{maps, optional};
use crate::meter::{LIST_BASE, MAP_BASE, Meter, OBJECT_BASE, Price};
use crate::plan::Plan;
use crate::syntax::{Comprehension, Entry, Expression, FieldValue, Item, NodeId};
use crate::value::{Evaluated, Items, Key, List, Map, Object, Text, Value};

/// The longest list that an expression may make.
pub(crate) const LONGEST_LIST: usize = 1 << 20;

/// One evaluation.
pub(crate) struct Evaluation<'e, 'a> {
    plan: &'a Plan,
    variables: &'e [Value<'a>],
    meter: &'e mut Meter,
    /// The variables of loops; an accumulator may hold an error that is forgiven later.
    locals: Vec<Evaluated<'a>>,
}

impl<'e, 'a> Evaluation<'e, 'a> {
    pub(crate) fn new(plan: &'a Plan, variables: &'e [Value<'a>], meter: &'e mut Meter) -> Evaluation<'e, 'a> {
        Evaluation { plan, variables, meter, locals: Vec::new() }
    }

    pub(crate) fn node(&mut self, id: NodeId) -> Evaluated<'a> {
        let plan = self.plan;
        match plan.checked.tree.expression(id) {
            Expression::Broken => Err(EvaluationError::failed("expression is broken")),
            Expression::Literal(literal) => Ok(Value::literal(literal)),
            Expression::Name(_) => self.name(id),
            Expression::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Expression::Call { function, target, arguments } => match &**function {
                "_&&_" => self.logical(arguments, false),
                "_||_" => self.logical(arguments, true),
                "_?_:_" => self.conditional(arguments),
                "_?._" => self.optional_select(arguments),
                "@not_strictly_false" => self.not_strictly_false(arguments[0]),
                _ => self.call(id, *target, arguments),
            },
            Expression::List { items } => self.list(id, items),
            Expression::Map { entries } => self.map(id, entries),
            Expression::Object { name, fields } => self.object(name, fields),
            Expression::Comprehension(inner) => self.comprehension(inner),
        }
    }

    fn meaning(&self, id: NodeId) -> &'a Meaning {
        &self.plan.checked.meanings[id as usize]
    }

    fn name(&mut self, id: NodeId) -> Evaluated<'a> {
        self.meter.charge(1)?;
        match self.meaning(id) {
            Meaning::Variable(place) => match self.variables.get(usize::from(*place)) {
                Some(value) => Ok(value.clone()),
                None => Err(EvaluationError::failed("no such attribute(s)")),
            },
            Meaning::Local(slot) => self.locals[usize::from(*slot)].clone(),
            Meaning::Type(found) => Ok(Value::Type(found.clone())),
            _ => Err(EvaluationError::failed("no such attribute(s)")),
        }
    }

    fn select(&mut self, id: NodeId, operand: NodeId, field: &'a str, test: bool) -> Evaluated<'a> {
        if !matches!(self.meaning(id), Meaning::None) {
            // `a.b` as a whole is a name.
            return self.name(id);
        }
        let operand = self.node(operand)?;
        if test {
            return self.has(&operand, field).map(Value::Bool);
        }
        self.meter.charge(1)?;
        self.field(&operand, field)
    }

    fn field(&mut self, operand: &Value<'a>, field: &str) -> Evaluated<'a> {
        match operand {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => {
                let found = self.find(inner, field)?.transpose()?;
                Ok(Value::Optional(found.map(Rc::new)))
            }
            _ => self
                .find(operand, field)?
                .unwrap_or_else(|| Err(EvaluationError::failed(format!("no such key: {field}")))),
        }
    }

    /// The value of a field, if it is there; an error where fields cannot be asked for.
    fn find(&mut self, operand: &Value<'a>, field: &str) -> Result<Option<Evaluated<'a>>, EvaluationError> {
        match operand {
            Value::Map(map) => Ok(map.field(field)),
            Value::Record(record) => Ok(record.field(field, self.meter)),
            Value::Object(object) => {
                Ok(object.fields.iter().find(|(name, _)| &**name == field).map(|(_, value)| Ok(value.clone())))
            }
            _ => Err(EvaluationError::no_such_overload()),
        }
    }

    fn has(&mut self, operand: &Value<'a>, field: &str) -> Result<bool, EvaluationError> {
        match operand {
            Value::Optional(None) => Ok(false),
            Value::Optional(Some(inner)) => Ok(self.find(inner, field)?.is_some()),
            Value::Map(map) => Ok(map.has(field)),
            _ => Ok(self.find(operand, field)?.is_some()),
        }
    }

    fn optional_select(&mut self, arguments: &[NodeId]) -> Evaluated<'a> {
        let operand = self.node(arguments[0])?;
        self.meter.charge(1)?;
        let Value::String(field) = self.node(arguments[1])? else { return Err(EvaluationError::no_such_overload()) };
        let target = match &operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => inner,
            other => other,
        };
        let found = self.find(target, &field)?.transpose()?;
        Ok(Value::Optional(found.map(Rc::new)))
    }

    /// `&&` and `||`: either side alone may decide, and then an error on the other does not matter.
    fn logical(&mut self, arguments: &[NodeId], decisive: bool) -> Evaluated<'a> {
        let mut error = None;
        for argument in arguments {
            match self.node(*argument) {
                Ok(Value::Bool(truth)) if truth == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => {
                    error.get_or_insert_with(EvaluationError::no_such_overload);
                }
                Err(EvaluationError::Budget) => return Err(EvaluationError::Budget),
                Err(failed) => {
                    error.get_or_insert(failed);
                }
            }
        }
        error.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn conditional(&mut self, arguments: &[NodeId]) -> Evaluated<'a> {
        match self.node(arguments[0])? {
            Value::Bool(true) => self.node(arguments[1]),
            Value::Bool(false) => self.node(arguments[2]),
            _ => Err(EvaluationError::no_such_overload()),
        }
    }

    fn not_strictly_false(&mut self, argument: NodeId) -> Evaluated<'a> {
        let value = self.node(argument);
        if value == Err(EvaluationError::Budget) {
            return value;
        }
        self.meter.charge(1)?;
        Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
    }

    fn call(&mut self, id: NodeId, target: Option<NodeId>, arguments: &[NodeId]) -> Evaluated<'a> {
        let plan = self.plan;
        let (function, target) = match self.meaning(id) {
            Meaning::Function(function, _) => (*function, target),
            Meaning::Namespaced(function, _) => (*function, None),
            _ => return Err(EvaluationError::no_such_overload()),
        };
        let call = &plan.calls[id as usize];
        if let Some(constants) = call.members {
            // `in` over a list that stands in the source: nothing is made, and by upstream's prices it is free.
            let wanted = self.node(arguments[0])?;
            return Ok(Value::Bool(plan.constants(constants).any(|constant| constant.equals(&wanted))));
        }
        // Calls have few arguments; an array on the stack spares the allocation.
        let mut values: [Value<'a>; 4] = [Value::Null, Value::Null, Value::Null, Value::Null];
        let mut count = 0;
        for part in target.iter().chain(arguments) {
            let slot = values.get_mut(count).ok_or_else(EvaluationError::no_such_overload)?;
            *slot = self.node(*part)?;
            count += 1;
        }
        let values = &values[..count];
        let result = (function.run)(&Arguments { values, pattern: call.pattern.as_ref() });
        if call.price == Price::Fixed(1) {
            self.meter.charge(1)?;
        } else {
            self.meter.charge(call.price.of(values, result.as_ref().ok()))?;
        }
        result
    }

    fn list(&mut self, id: NodeId, items: &[Item]) -> Evaluated<'a> {
        let mut made = Vec::with_capacity(items.len());
        for item in items {
            let value = self.node(item.value)?;
            if item.optional {
                made.extend(optional::take(value)?);
            } else {
                made.push(value);
            }
        }
        if !self.plan.is_constant(id) {
            self.meter.charge(LIST_BASE)?;
        }
        Ok(Value::list(made))
    }

    fn map(&mut self, id: NodeId, entries: &[Entry]) -> Evaluated<'a> {
        let mut made = BTreeMap::new();
        for entry in entries {
            let key = self.node(entry.key)?;
            let mut value = Some(self.node(entry.value)?);
            if entry.optional {
                value = value.map(optional::take).transpose()?.flatten();
            }
            let Some(value) = value else { continue };
            let place = Key::of(&key).ok_or_else(|| EvaluationError::failed("unsupported key type"))?;
            if made.contains_key(&place) {
                return Err(maps::duplicate(&key));
            }
            made.insert(place, (key, value));
        }
        if !self.plan.is_constant(id) {
            self.meter.charge(MAP_BASE)?;
        }
        Ok(Value::Map(Map::Owned(Rc::new(made))))
    }

    fn object(&mut self, name: &str, fields: &[FieldValue]) -> Evaluated<'a> {
        let mut made = Vec::with_capacity(fields.len());
        for field in fields {
            let value = self.node(field.value)?;
            let value = if field.optional { optional::take(value)? } else { Some(value) };
            made.extend(value.map(|value| (field.name.clone(), value)));
        }
        self.meter.charge(OBJECT_BASE)?;
        Ok(Value::Object(Rc::new(Object { name: name.into(), fields: made })))
    }

    fn comprehension(&mut self, inner: &'a Comprehension) -> Evaluated<'a> {
        let range = self.node(inner.range)?;
        let start = self.node(inner.start)?;
        let base = self.locals.len();
        self.locals.push(Ok(start));
        let done = self.repeat(inner, &range, base);
        let result = done.and_then(|()| {
            self.locals.truncate(base + 1);
            self.node(inner.result)
        });
        self.locals.truncate(base);
        result
    }

    fn repeat(&mut self, inner: &'a Comprehension, range: &Value<'a>, base: usize) -> Result<(), EvaluationError> {
        let two = inner.second.is_some();
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let item = list.get(index).unwrap_or(Err(EvaluationError::no_such_overload()));
                    let position = Ok(Value::Int(i64::try_from(index).unwrap_or(i64::MAX)));
                    let (first, second) = if two { (position, Some(item)) } else { (item, None) };
                    if !self.step(inner, base, first, second)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let second = two.then(|| map.get(&key).unwrap_or(Err(EvaluationError::no_such_overload())));
                    if !self.step(inner, base, Ok(key), second)? {
                        break;
                    }
                }
                Ok(())
            }
            _ => Err(EvaluationError::no_such_overload()),
        }
    }

    /// One round; whether there may be more.
    fn step(
        &mut self,
        inner: &'a Comprehension,
        base: usize,
        first: Evaluated<'a>,
        second: Option<Evaluated<'a>>,
    ) -> Result<bool, EvaluationError> {
        self.locals.truncate(base + 1);
        self.locals.push(first);
        self.locals.extend(second);
        match self.node(inner.condition)? {
            Value::Bool(true) => {}
            _ => return Ok(false),
        }
        let next = self.advance(inner.step, base);
        if next == Err(EvaluationError::Budget) {
            return Err(EvaluationError::Budget);
        }
        self.locals[base] = next;
        Ok(true)
    }

    /// The accumulator's next value. Adding to a list or map is done in place: a copy each round would be quadratic.
    fn advance(&mut self, step: NodeId, base: usize) -> Evaluated<'a> {
        let plan = self.plan;
        let Some(growth) = plan.growth(step) else { return self.node(step) };
        if let Some(filter) = growth.filter {
            match self.node(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => {
                    self.meter.charge(1)?;
                    return std::mem::replace(&mut self.locals[base], Ok(Value::Null));
                }
                _ => return Err(EvaluationError::no_such_overload()),
            }
        }
        self.meter.charge(1)?;
        let mut added = [Value::Null, Value::Null];
        for (place, part) in added.iter_mut().zip(&growth.parts) {
            *place = self.node(*part)?;
        }
        let accumulator = std::mem::replace(&mut self.locals[base], Ok(Value::Null))?;
        let [first, second] = added;
        match (accumulator, growth.parts.len()) {
            (Value::List(list), _) if growth.list.is_some() => {
                self.meter.charge(growth.list.unwrap_or(0) + 1)?;
                push(list, first)
            }
            (Value::Map(Map::Owned(entries)), parts) if growth.list.is_none() => {
                self.meter.charge(1)?;
                if parts == 2 { maps::insert(entries, first, second) } else { maps::insert_all(entries, &first) }
            }
            _ => Err(EvaluationError::no_such_overload()),
        }
    }
}

fn push<'a>(list: List<'a>, item: Value<'a>) -> Evaluated<'a> {
    if list.len() >= LONGEST_LIST {
        return Err(EvaluationError::failed("list is too long"));
    }
    let mut items = match list.items {
        Items::Owned(items) => items,
        Items::Json(_) => Rc::new(list.iter().collect::<Result<_, _>>()?),
    };
    Rc::make_mut(&mut items).push(item);
    Ok(Value::List(List { items: Items::Owned(items), schema: None }))
}

impl Map<'_> {
    /// Whether a field is there, without looking at its value.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Map::Json(entries, Some(schema)) => match schema.field(name) {
                Some(field) => entries.contains_key(&*field.name),
                None => matches!(schema.shape(), crate::schema::Shape::Map(_)) && entries.contains_key(name),
            },
            Map::Json(entries, None) => entries.contains_key(name),
            Map::Owned(entries) => entries.contains_key(&Key::String(name.into())),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::String(Text::Borrowed(text))
    }
}
