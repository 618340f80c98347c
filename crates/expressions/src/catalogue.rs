//! All functions with their overloads, read once from the tables of the libraries.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::library;
use crate::meter::Price;
use crate::types::{Opaque, Type};
use crate::value::{Evaluated, Value};

/// What a function is called with.
#[derive(Debug)]
pub(crate) struct Arguments<'c, 'a> {
    /// The values, the target first.
    pub values: &'c [Value<'a>],
    /// The regular expression, where it stood in the source as a literal.
    pub pattern: Option<&'c Regex>,
}

/// The work of a function. It is told apart by values, not by overloads: dynamic arguments are known only then.
pub(crate) type Native = for<'c, 'a> fn(&Arguments<'c, 'a>) -> Evaluated<'a>;

/// The rows of a library: a function's name, its work, its overloads with their prices.
///
/// An overload is written `(string, int) bool`, or `string.(int) bool` for a method. `A`, `B` and `C` stand for any type.
pub(crate) type Rows = &'static [(&'static str, Native, &'static [(&'static str, Price)])];

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub run: Native,
    pub overloads: Vec<Overload>,
}

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub member: bool,
    /// The types of the arguments, the target first.
    pub parameters: Vec<Type>,
    pub result: Type,
    /// How many type variables the signature has.
    pub variables: u32,
    pub price: Price,
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut functions = HashMap::new();
    for rows in library::ALL {
        for (name, run, overloads) in *rows {
            let function =
                functions.entry(*name).or_insert_with(|| Function { name, run: *run, overloads: Vec::new() });
            function.overloads.extend(overloads.iter().map(|(signature, price)| overload(signature, *price)));
        }
    }
    functions
});

/// The function called so.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

fn overload(signature: &str, price: Price) -> Overload {
    let open = signature.rfind(".(").map_or_else(|| signature.find('('), |dot| Some(dot + 1));
    let open = open.expect("a signature has parameters");
    let close = open + matching(&signature[open..]);
    let mut parameters = Vec::new();
    let target = signature[..open].strip_suffix('.');
    parameters.extend(target.map(read));
    parameters.extend(split(&signature[open + 1..close]).map(read));
    let result = read(signature[close + 1..].trim());
    let variables = parameters.iter().chain([&result]).map(greatest).max().unwrap_or(0);
    Overload { member: target.is_some(), parameters, result, variables, price }
}

/// The position of the bracket that closes the one at the beginning.
fn matching(text: &str) -> usize {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    text.len()
}

/// The parts between commas that are in no brackets.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn greatest(found: &Type) -> u32 {
    match found {
        Type::Variable(number) => number + 1,
        Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => greatest(inner),
        Type::Map(pair) => greatest(&pair.0).max(greatest(&pair.1)),
        _ => 0,
    }
}

fn read(text: &str) -> Type {
    if let Some((outer, inner)) = text.split_once('(') {
        let mut parts = split(inner.strip_suffix(')').expect("brackets are closed")).map(read);
        let mut next = || parts.next().expect("a type has its parts");
        return match outer {
            "list" => Type::list(next()),
            "map" => {
                let key = next();
                Type::map(key, next())
            }
            "optional" => Type::optional(next()),
            _ => Type::Type(Some(next().into())),
        };
    }
    match text {
        "A" => Type::Variable(0),
        "B" => Type::Variable(1),
        "C" => Type::Variable(2),
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        other => Type::Opaque(Opaque::named(other).expect("the tables name known types only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_read() {
        assert!(FUNCTIONS.len() > 120, "{}", FUNCTIONS.len());
        let split = find("split").expect("it is in the tables");
        assert_eq!(split.overloads.len(), 2);
        assert!(split.overloads[1].member && split.overloads[1].parameters.len() == 3);
        let index = find("_[_]").expect("it is in the tables");
        assert_eq!(index.overloads[1].variables, 2);
        assert_eq!(index.overloads[1].parameters[0].to_string(), "map(_var0, _var1)");
    }
}
