//! What is prepared of a checked tree before it is evaluated: prices, regular expressions, lists of constants.

use regex::Regex;

use crate::check::{Checked, Meaning};
use crate::library::pattern;
use crate::macros::ACCUMULATOR;
use crate::meter::{LIST_BASE, Price};
use crate::syntax::{Expression, Item, Literal, NodeId};
use crate::value::Value;

/// What is prepared of one call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub price: Price,
    /// The regular expression that stands in the source.
    pub pattern: Option<Regex>,
    /// The list of constants that `in` looks through.
    pub members: Option<NodeId>,
}

/// How a loop's step adds to its list or map.
#[derive(Debug)]
pub(crate) struct Growth {
    /// What decides whether the round adds anything.
    pub filter: Option<NodeId>,
    /// The item, the entry as a map, or key and value.
    pub parts: Vec<NodeId>,
    /// For a list, what the list around the item costs.
    pub list: Option<u64>,
}

/// A checked tree that is ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Plan {
    pub checked: Checked,
    pub calls: Vec<Call>,
    constant: Vec<bool>,
    growths: Vec<(NodeId, Growth)>,
}

impl Plan {
    pub(crate) fn new(checked: Checked) -> Plan {
        let tree = &checked.tree;
        let mut constant = Vec::with_capacity(tree.nodes.len());
        for node in &tree.nodes {
            let known = is_constant(&checked, &node.expression, &constant);
            constant.push(known);
        }
        let calls = (0..tree.nodes.len()).map(|id| prepare(&checked, id, &constant)).collect();
        let mut growths = Vec::new();
        for node in &tree.nodes {
            if let Expression::Comprehension(inner) = &node.expression
                && &*inner.accumulator == ACCUMULATOR
                && let Some(growth) = growth(&checked, inner.step, &constant)
            {
                growths.push((inner.step, growth));
            }
        }
        growths.sort_unstable_by_key(|(step, _)| *step);
        Plan { checked, calls, constant, growths }
    }

    /// Whether a list or map is of constants only.
    pub(crate) fn is_constant(&self, id: NodeId) -> bool {
        self.constant[id as usize]
    }

    /// The constants of a list.
    pub(crate) fn constants(&self, id: NodeId) -> impl Iterator<Item = Value<'_>> {
        let items = match self.checked.tree.expression(id) {
            Expression::List { items } => items.as_slice(),
            _ => &[],
        };
        items.iter().filter_map(|item| match self.checked.tree.expression(item.value) {
            Expression::Literal(literal) => Some(Value::literal(literal)),
            _ => None,
        })
    }

    pub(crate) fn growth(&self, step: NodeId) -> Option<&Growth> {
        let at = self.growths.binary_search_by_key(&step, |(step, _)| *step).ok()?;
        Some(&self.growths[at].1)
    }
}

/// Whether a list or map has constant parts only. Nodes come after their parts, which are judged already.
fn is_constant(checked: &Checked, expression: &Expression, judged: &[bool]) -> bool {
    let known = |part: NodeId| matches!(checked.tree.expression(part), Expression::Literal(_)) || judged[part as usize];
    match expression {
        Expression::List { items } => items.iter().all(|item| !item.optional && known(item.value)),
        Expression::Map { entries } => {
            entries.iter().all(|entry| !entry.optional && known(entry.key) && known(entry.value))
        }
        _ => false,
    }
}

fn prepare(checked: &Checked, id: usize, constant: &[bool]) -> Call {
    let mut call = Call { price: Price::Fixed(1), pattern: None, members: None };
    let Expression::Call { arguments, target, .. } = &checked.tree.nodes[id].expression else { return call };
    let (function, fitting) = match &checked.meanings[id] {
        Meaning::Function(function, fitting) | Meaning::Namespaced(function, fitting) => (*function, fitting),
        _ => return call,
    };
    let prices: Vec<Price> =
        fitting.iter().filter_map(|index| function.overloads.get(usize::from(*index))).map(|one| one.price).collect();
    // Where only the values decide what is called, upstream charges one, unless the name alone sets the price.
    call.price = match prices.as_slice() {
        [one] => *one,
        [first, rest @ ..] if rest.iter().all(|price| price == first) => *first,
        _ => Price::Fixed(1),
    };
    if matches!(function.name, "matches" | "find" | "findAll") {
        let argument = if target.is_some() { arguments.first() } else { arguments.get(1) };
        if let Some(Expression::Literal(Literal::String(text))) = argument.map(|id| checked.tree.expression(*id)) {
            // A pattern that is wrong fails where it is used.
            call.pattern = pattern::compile(text).ok();
        }
    }
    if function.name == "@in" && constant[arguments[1] as usize] {
        let flat = |items: &[Item]| {
            items.iter().all(|item| matches!(checked.tree.expression(item.value), Expression::Literal(_)))
        };
        let members = matches!(checked.tree.expression(arguments[1]), Expression::List { items } if flat(items));
        call.members = members.then_some(arguments[1]);
    }
    call
}

/// Recognizes the steps of `map`, `filter` and the `transform` macros.
fn growth(checked: &Checked, step: NodeId, constant: &[bool]) -> Option<Growth> {
    let tree = &checked.tree;
    let accumulator = |id: NodeId| matches!(tree.expression(id), Expression::Name(name) if &**name == ACCUMULATOR);
    let Expression::Call { function, target: None, arguments } = tree.expression(step) else { return None };
    match (&**function, arguments.as_slice()) {
        ("_?_:_", [filter, step, same]) if accumulator(*same) => {
            let inner = growth(checked, *step, constant).filter(|inner| inner.filter.is_none())?;
            Some(Growth { filter: Some(*filter), ..inner })
        }
        ("_+_", [so_far, list]) if accumulator(*so_far) => match tree.expression(*list) {
            Expression::List { items } if items.len() == 1 && !items[0].optional => {
                let base = if constant[*list as usize] { 0 } else { LIST_BASE };
                Some(Growth { filter: None, parts: vec![items[0].value], list: Some(base) })
            }
            _ => None,
        },
        ("cel.@mapInsert", [so_far, rest @ ..]) if accumulator(*so_far) => {
            Some(Growth { filter: None, parts: rest.to_vec(), list: None })
        }
        _ => None,
    }
}
