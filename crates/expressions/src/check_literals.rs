//! Literal arguments that can be judged before evaluation: durations, times and regular expressions.

use crate::check::Meaning;
use crate::library::{pattern, time};
use crate::syntax::{Expression, Literal, NodeId, Tree};

/// Reports literals that their functions would refuse each time.
pub(crate) fn check(tree: &Tree, meanings: &[Meaning], errors: &mut Vec<(u32, String)>) {
    for (node, meaning) in tree.nodes.iter().zip(meanings) {
        let Expression::Call { target, arguments, .. } = &node.expression else { continue };
        let Meaning::Function(function, _) = meaning else { continue };
        let literal = |id: Option<&NodeId>| match id.map(|id| (tree.node(*id).offset, tree.expression(*id))) {
            Some((offset, Expression::Literal(Literal::String(text)))) => Some((offset, &**text)),
            _ => None,
        };
        let argument = match (function.name, target) {
            ("matches", None) => literal(arguments.get(1)),
            _ => literal(arguments.first()),
        };
        let Some((offset, text)) = argument else { continue };
        let valid = match function.name {
            "duration" => time::parse_duration(text).is_ok(),
            "timestamp" => time::parse_timestamp(text).is_ok(),
            "matches" => pattern::compile(text).is_ok(),
            _ => true,
        };
        if !valid {
            errors.push((offset, format!("invalid {} argument", function.name)));
        }
    }
}
