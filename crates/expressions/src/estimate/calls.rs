//! What calls may cost, function by function.

use super::{Entries, Estimate, Place, Range};
use crate::check::Meaning;
use crate::meter::{self, LIST_BASE, REGEX_LENGTH, TRAVERSAL};
use crate::syntax::{Expression, Literal, NodeId};
use crate::types::{Opaque, Type};

/// What a call may cost, and the size of what it gives.
struct Call {
    cost: Range,
    size: Option<Range>,
}

impl Call {
    fn of(cost: Range) -> Call {
        Call { cost, size: None }
    }

    fn sized(cost: Range, size: Range) -> Call {
        Call { cost, size: Some(size) }
    }
}

impl<'s> Estimate<'s> {
    pub(super) fn call(&mut self, id: NodeId, name: &str, target: Option<NodeId>, arguments: &[NodeId]) -> Range {
        if name == "dyn"
            && let [argument] = arguments
        {
            let cost = self.cost(*argument);
            self.copy_sizes(id, *argument);
            return cost.plus(Range::fixed(1));
        }
        let costs: Vec<Range> = arguments.iter().map(|argument| self.cost(*argument)).collect();
        let sum = costs.iter().fold(Range::ZERO, |sum, cost| sum.plus(*cost));
        match name {
            "_&&_" | "_||_" => return Range { min: costs[0].min, max: sum.max },
            "_?_:_" => {
                let size = self.size_or_unknown(arguments[1]).union(self.size_or_unknown(arguments[2]));
                self.sizes.insert(id, size);
                if let Some(entries) = self.common_entries(arguments[1], arguments[2]) {
                    self.entries.insert(id, entries);
                }
                return costs[0].plus(costs[1].union(costs[2]));
            }
            _ => {}
        }
        let (function, fitting, target) = match &self.plan.checked.meanings[id as usize] {
            Meaning::Function(function, fitting) => (*function, fitting, target),
            Meaning::Namespaced(function, fitting) => (*function, fitting, None),
            _ => return Range::ZERO,
        };
        let target_cost = target.map_or(Range::ZERO, |target| self.cost(target));
        let mut cost: Option<Range> = None;
        let mut size: Option<Range> = None;
        for overload in fitting.iter().filter_map(|index| function.overloads.get(usize::from(*index))) {
            let call = self.overload(id, function.name, &overload.parameters, target, arguments);
            cost = Some(cost.map_or(call.cost, |before| before.union(call.cost)));
            if let Some(found) = call.size {
                size = Some(size.map_or(found, |before| before.union(found)));
            }
            if function.name == "_[_]" && matches!(overload.parameters.first(), Some(Type::List(_) | Type::Map(_))) {
                size = self.entries(arguments[0]).map(|entries| entries.value);
                self.places[id as usize] = self.places[arguments[0] as usize].items(self.root);
            }
            size = size.or_else(|| self.size(id));
        }
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        target_cost.plus(sum).plus(cost.unwrap_or(Range::ZERO))
    }

    fn common_entries(&self, a: NodeId, b: NodeId) -> Option<Entries> {
        let (a, b) = (self.entries(a)?, self.entries(b)?);
        Some(Entries { of_list: a.of_list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }

    /// What is known of the items of a list: whether they are text, and their size.
    fn items(&self, list: NodeId) -> Option<(bool, Range)> {
        let Type::List(item) = self.kind(list) else { return None };
        let size = match self.places[list as usize] {
            Place::Unknown | Place::Lost => None,
            place => place.items(self.root).size(),
        };
        Some((matches!(**item, Type::String | Type::Bytes), size.unwrap_or(Range::UNKNOWN)))
    }

    fn overload(
        &mut self,
        id: NodeId,
        name: &str,
        parameters: &[Type],
        target: Option<NodeId>,
        arguments: &[NodeId],
    ) -> Call {
        let one = Call::of(Range::fixed(1));
        let size = |id: NodeId| self.size_or_unknown(id);
        let all: Vec<NodeId> = target.iter().chain(arguments).copied().collect();
        let text = parameters.first().is_some_and(|first| matches!(first, Type::String | Type::Bytes));
        let Some(first) = all.first().copied() else { return one };
        let own = size(first);
        match name {
            "check" => Call::of(Range::fixed(350_000)),
            "fieldSelector" | "labelSelector" => {
                let length = size(arguments[0]);
                Call::of(Range { min: meter::selector(length.min), max: meter::selector(length.max) })
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => match self.items(first) {
                Some((true, item)) => Call::of(own.times(Range::fixed(1).plus(item.scaled(TRAVERSAL)))),
                Some((false, _)) => Call::of(own),
                None if name == "includes" => Call::of(own),
                None => Call::of(own.scaled(TRAVERSAL)),
            },
            "url" | "jsonpatch.escapeKey" | "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                Call::sized(own.scaled(TRAVERSAL), own)
            }
            "replace" => {
                Call::sized(own.scaled(2.0 * TRAVERSAL), replaced(own, size(arguments[0]), size(arguments[1])))
            }
            "split" => {
                let most = match arguments.get(1).map(|limit| self.plan.checked.tree.expression(*limit)) {
                    Some(Expression::Literal(Literal::Int(limit))) => u64::try_from(*limit).unwrap_or(u64::MAX),
                    _ => own.max,
                };
                Call::sized(own.scaled(2.0 * TRAVERSAL), Range { min: 0, max: most })
            }
            "join" => {
                let mut joined = self.items(first).map_or(Range::ZERO, |(_, item)| own.times(item));
                if let Some(separator) = arguments.first() {
                    let gaps = Range { min: own.min.saturating_sub(1), max: own.max.saturating_sub(1) };
                    joined = joined.plus(size(*separator).times(gaps));
                }
                Call::sized(joined.scaled(TRAVERSAL), joined)
            }
            "matches" | "find" | "findAll" => {
                let text = own.plus(Range::fixed(1)).scaled(TRAVERSAL);
                let pattern = size(all[1]).scaled(REGEX_LENGTH);
                let found = (name != "matches").then_some(Range { min: 0, max: own.max });
                Call { cost: text.times(pattern), size: found }
            }
            "ip" if matches!(parameters[0], Type::Opaque(Opaque::Cidr)) => one,
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                Call::of(own.scaled(TRAVERSAL))
            }
            "ip.isCanonical" => Call::of(own.scaled(2.0 * TRAVERSAL)),
            "containsIP" | "containsCIDR" => {
                let address = Range { min: 4, max: 16 };
                let mut cost = address.plus(address).scaled(TRAVERSAL);
                if name == "containsCIDR" {
                    cost = cost.plus(address.scaled(TRAVERSAL)).plus(Range::fixed(1));
                }
                if matches!(parameters[1], Type::String) {
                    cost = cost.plus(size(arguments[0]).scaled(TRAVERSAL));
                }
                Call::of(cost)
            }
            "validate" => Call::of(size(arguments[0]).scaled(TRAVERSAL).scaled(128.0 * REGEX_LENGTH)),
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => self.comparison(name, parameters, arguments),
            "_+_" if text || matches!(parameters[0], Type::List(_)) => {
                let whole = own.plus(size(arguments[1]));
                if let Some(entries) = self.common_entries(arguments[0], arguments[1]) {
                    self.entries.insert(id, entries);
                }
                let cost = if text { whole.scaled(TRAVERSAL) } else { Range::fixed(1) };
                Call::sized(cost, whole)
            }
            "format" => Call::of(own.scaled(TRAVERSAL)),
            "bytes" if matches!(parameters[0], Type::String) => {
                Call::sized(own.scaled(TRAVERSAL), Range { min: own.min, max: own.max.saturating_mul(4) })
            }
            "string" if matches!(parameters[0], Type::Bytes) => {
                Call::sized(own.scaled(TRAVERSAL), Range { min: own.min / 4, max: own.max })
            }
            "strings.quote" => Call::sized(
                own.scaled(TRAVERSAL),
                Range { min: own.min.saturating_add(2), max: own.max.saturating_mul(2).saturating_add(2) },
            ),
            "startsWith" | "endsWith" => Call::of(size(arguments[0]).scaled(TRAVERSAL)),
            "contains" => Call::of(own.scaled(TRAVERSAL).times(size(arguments[0]).scaled(TRAVERSAL))),
            "@in" if matches!(parameters[1], Type::List(_)) => Call::of(size(arguments[1])),
            "sets.contains" | "sets.intersects" | "sets.equivalent" => {
                let pairs = own.times(size(arguments[1]));
                let pairs = if name == "sets.equivalent" { pairs.scaled(2.0) } else { pairs };
                Call::of(pairs.plus(Range::fixed(1)))
            }
            "slice" | "lists.range" | "reverse" | "flatten" | "distinct" | "sort" | "@sortByAssociatedKeys" => {
                self.list_call(name, parameters, own, arguments)
            }
            _ => one,
        }
    }

    fn comparison(&self, name: &str, parameters: &[Type], arguments: &[NodeId]) -> Call {
        let equality = matches!(name, "_==_" | "_!=_");
        if !equality && !matches!(parameters[0], Type::String | Type::Bytes) {
            return Call::of(Range::fixed(1));
        }
        let (a, b) = (self.kind(arguments[0]), self.kind(arguments[1]));
        if name == "_==_" && a.is_exactly(b) {
            match a {
                Type::Opaque(Opaque::Format) => return Call::of(Range { min: 1, max: 64 }.scaled(TRAVERSAL)),
                Type::Opaque(Opaque::Url) => {
                    let most = self.size(arguments[1]).map_or(1, |size| size.max);
                    return Call::of(Range { min: 1, max: most }.scaled(TRAVERSAL));
                }
                Type::Opaque(_) => return Call::of(Range::fixed(1)),
                _ => {}
            }
        }
        let most = self.size_or_unknown(arguments[0]).max.min(self.size_or_unknown(arguments[1]).max);
        Call::of(Range { min: u64::from(most > 0), max: most }.scaled(TRAVERSAL))
    }

    /// Functions that make a list of another one.
    fn list_call(&self, name: &str, parameters: &[Type], own: Range, arguments: &[NodeId]) -> Call {
        let number = |index: usize, otherwise: u64| match arguments
            .get(index)
            .map(|argument| self.plan.checked.tree.expression(*argument))
        {
            Some(Expression::Literal(Literal::Int(number))) => u64::try_from(*number).unwrap_or(0),
            _ => otherwise,
        };
        let (factor, size) = match name {
            "slice" => (1.0, Range::fixed(number(1, own.max).saturating_sub(number(0, 0)))),
            "lists.range" => (1.0, Range::fixed(number(0, u64::MAX))),
            "reverse" => (1.0, own),
            "flatten" => (if arguments.is_empty() { 1.0 } else { number(0, u64::MAX) as f64 }, own),
            _ => {
                let keys = match parameters.last() {
                    Some(Type::List(keys)) if name != "distinct" => matches!(**keys, Type::String | Type::Bytes),
                    _ => false,
                };
                let sorted = arguments.first().map_or(own, |keys| self.size_or_unknown(*keys));
                (if keys { 2.0 + TRAVERSAL } else { 2.0 }, sorted.times(sorted))
            }
        };
        Call::sized(size.scaled(factor).plus(Range::fixed(1 + LIST_BASE)), size)
    }
}

/// The size of a text in which one part is replaced by another.
fn replaced(text: Range, from: Range, to: Range) -> Range {
    let ceil = |text: u64, part: u64| (text as f64 / part as f64).ceil() as u64;
    let (most, kept_at_most) = if from.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if to.max <= from.min {
        (0, text.max)
    } else {
        (ceil(text.max, from.min), 0)
    };
    let (least, kept_at_least) = if from.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if from.max <= to.min {
        (0, text.min)
    } else {
        (ceil(text.min, from.max), 0)
    };
    Range { min: least, max: most }.times(to).plus(Range { min: kept_at_least, max: kept_at_most })
}
