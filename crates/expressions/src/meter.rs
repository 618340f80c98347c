//! What evaluation costs, by upstream's prices: the same expression over the same object costs the same here.

use crate::error::EvaluationError;
use crate::value::{Map, Value};

/// The most that one expression may cost.
pub const PER_EXPRESSION: u64 = 1_000_000;
/// The most that all expressions for one object of a custom resource, or for one binding of a policy, may cost.
pub const PER_OBJECT: u64 = 10_000_000;
/// The most that the match conditions of one webhook or binding may cost.
pub const PER_MATCH_CONDITIONS: u64 = 2_500_000;

pub(crate) const TRAVERSAL: f64 = 0.1;
pub(crate) const REGEX_LENGTH: f64 = 0.25;
pub(crate) const LIST_BASE: u64 = 10;
pub(crate) const MAP_BASE: u64 = 30;
pub(crate) const OBJECT_BASE: u64 = 40;

/// Counts costs up to a limit.
#[derive(Clone, Debug)]
pub struct Meter {
    spent: u64,
    limit: u64,
}

impl Meter {
    /// A meter that stops evaluation above `limit`.
    pub fn new(limit: u64) -> Meter {
        Meter { spent: 0, limit }
    }

    /// What has been spent.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), EvaluationError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(EvaluationError::Budget) } else { Ok(()) }
    }
}

/// How the price of a call is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Price {
    Fixed(u64),
    /// The length of an argument times a factor.
    Length(usize, f64),
    /// The length of the result times a factor.
    Result(f64),
    /// Every part of the first argument once.
    Walk,
    /// The shorter of two.
    Shorter,
    /// Both together.
    Both,
    /// The length of the text times that of the pattern, which is the argument after it.
    Pattern,
    /// The product of both lengths.
    Search,
    /// A selector's text and requirements.
    Selector,
    /// The whole length of the second argument.
    Membership,
    /// The items of the result and the new list.
    Items,
    /// The list's items once for each level that is flattened, and the new list.
    Flatten,
    /// Every item with every other one twice, and the new list.
    Compared,
    /// Every item of one list with every item of the other, so many times.
    Pairs(u64),
    ContainsIp,
    ContainsCidr,
    /// A format's own expression over the second argument.
    Format,
}

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// The size as the language counts it: characters, bytes, items, entries; one for everything else.
pub(crate) fn size(value: &Value<'_>) -> u64 {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        Value::Optional(Some(inner)) => return size(inner),
        Value::Held(held) => held.size(),
        _ => 1,
    };
    size as u64
}

/// The cost of visiting every part.
fn walk(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.iter().map(|item| item.as_ref().map_or(1, walk)).fold(0, u64::saturating_add),
        Value::Map(map) => walk_map(map),
        _ => 1,
    }
}

fn walk_map(map: &Map<'_>) -> u64 {
    let entry =
        |key: &Value<'_>| walk(key).saturating_add(map.get(key).map_or(1, |found| found.as_ref().map_or(1, walk)));
    map.keys().iter().map(entry).fold(0, u64::saturating_add)
}

/// The cost of parsing a selector of a length, which is also its estimate.
pub(crate) fn selector(length: u64) -> u64 {
    let requirements = scaled(length, 0.5);
    LIST_BASE
        .saturating_add(scaled(length, TRAVERSAL))
        .saturating_add(scaled(requirements, (LIST_BASE + OBJECT_BASE) as f64))
}

impl Price {
    /// The price of a call with these arguments and this result; a call that failed has none.
    pub(crate) fn of(self, arguments: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let length = |index: usize| arguments.get(index).map_or(0, size);
        match self {
            Price::Fixed(cost) => cost,
            Price::Length(index, factor) => scaled(length(index), factor),
            Price::Result(factor) => scaled(result.map_or(1, size), factor),
            Price::Walk => arguments.first().map_or(0, walk),
            Price::Shorter => match arguments {
                [Value::Held(_) | Value::Authorization(_), _] => 1,
                _ => scaled(length(0).min(length(1)), TRAVERSAL),
            },
            Price::Both => scaled(length(0) + length(1), TRAVERSAL),
            Price::Pattern => ((1.0 + length(0) as f64) * TRAVERSAL).ceil() as u64 * scaled(length(1), REGEX_LENGTH),
            Price::Search => scaled(length(0), TRAVERSAL) * scaled(length(1), TRAVERSAL),
            Price::Selector => selector(length(1)),
            Price::Membership => length(1),
            Price::Items => 1 + LIST_BASE + result.map_or(0, size),
            Price::Flatten => {
                let depth = match arguments.get(1) {
                    Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or(0),
                    _ => 1,
                };
                // What the result holds was visited too; upstream charges for the list alone.
                (1 + LIST_BASE).saturating_add(length(0).saturating_mul(depth).max(result.map_or(0, size)))
            }
            Price::Compared => {
                let items = length(0);
                let first = match arguments.last() {
                    Some(Value::List(keys)) => keys.get(0),
                    _ => None,
                };
                let text = matches!(first, Some(Ok(Value::String(_) | Value::Bytes(_))));
                let each = if text { 2.0 + TRAVERSAL } else { 2.0 };
                ((items.saturating_mul(items) as f64 * each) as u64).saturating_add(1 + LIST_BASE)
            }
            Price::Pairs(times) => 1 + length(0).saturating_mul(length(1)).saturating_mul(times),
            Price::ContainsIp => scaled(2 * length(0), TRAVERSAL) + parsed(arguments.get(1)),
            Price::ContainsCidr => {
                scaled(2 * length(0), TRAVERSAL) + scaled(length(0), TRAVERSAL) + 1 + parsed(arguments.get(1))
            }
            Price::Format => {
                let pattern = match arguments.first() {
                    Some(Value::Held(held)) => held.pattern_length(),
                    _ => 1,
                };
                ((1.0 + length(1) as f64) * TRAVERSAL).ceil() as u64 * scaled(pattern, REGEX_LENGTH)
            }
        }
    }
}

/// What it costs to read an address that is given as text.
fn parsed(argument: Option<&Value<'_>>) -> u64 {
    match argument {
        Some(text @ Value::String(_)) => scaled(size(text), TRAVERSAL),
        _ => 0,
    }
}
