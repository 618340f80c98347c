//! The filling of Go templates (`text/template/exec.go`).

use serde_json::Value;

use super::{Command, DEEPEST, Datum, Mistake, Node, Pipe, Spot, Template, What, Word, functions, line_and_column};
use crate::verbs::go;

/// Writes an object's text.
pub fn fill(template: &Template, object: &Value, strict: bool, out: &mut String) -> Result<(), Mistake> {
    let root = Datum::Value(object.clone());
    let mut run = Run { template, strict, out, variables: vec![("$".to_owned(), root.clone())], depth: 0 };
    run.nodes(&template.body, &root).map(|_| ())
}

/// How the nodes of a loop's body came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'t, 'o> {
    template: &'t Template,
    strict: bool,
    out: &'o mut String,
    variables: Vec<(String, Datum)>,
    depth: usize,
}

impl Run<'_, '_> {
    fn wrong(&self, spot: &Spot, words: impl std::fmt::Display) -> Mistake {
        let (line, column) = line_and_column(&self.template.source, spot.at);
        // Go shortens what is long.
        let text: String = match spot.text.chars().count() {
            0..=20 => spot.text.clone(),
            _ => spot.text.chars().take(20).chain("...".chars()).collect(),
        };
        Mistake(format!("{line}:{column}: executing \"output\" at <{text}>: {words}"))
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Datum) -> Result<Flow, Mistake> {
        let known = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::On {
                break;
            }
        }
        self.variables.truncate(known);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Datum) -> Result<Flow, Mistake> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.out.push_str(&shown(&value));
                }
            }
            Node::If(pipe, body, other) | Node::With(pipe, body, other) => {
                let known = self.variables.len();
                let value = self.pipe(pipe, dot)?;
                let with = matches!(node, Node::With(..));
                let flow = match functions::truth(&value) {
                    true if with => self.nodes(body, &value),
                    true => self.nodes(body, dot),
                    false => self.nodes(other, dot),
                };
                self.variables.truncate(known);
                return flow;
            }
            Node::Range(pipe, body, other) => return self.range(pipe, body, other, dot),
            Node::Call(spot, name, pipe) => {
                let value = match pipe {
                    Some(pipe) => self.pipe(pipe, dot)?,
                    None => Datum::Nothing,
                };
                let Some(body) = self.template.named.get(name) else {
                    return Err(self.wrong(spot, format!("template {name:?} not defined")));
                };
                if self.depth == DEEPEST {
                    let line = line_and_column(&self.template.source, spot.at).0;
                    return Err(Mistake(format!("{line}: exceeded maximum template depth ({DEEPEST})")));
                }
                self.depth += 1;
                let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), value.clone())]);
                self.nodes(body, &value)?;
                self.variables = outer;
                self.depth -= 1;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], other: &[Node], dot: &Datum) -> Result<Flow, Mistake> {
        let known = self.variables.len();
        let commands = Pipe { variables: Vec::new(), assigns: false, commands: pipe.commands.clone() };
        let value = self.pipe(&commands, dot)?;
        let items: Vec<(Datum, Datum)> = match value {
            Datum::Nothing => Vec::new(),
            Datum::Value(Value::Array(items)) => {
                (0..).zip(items).map(|(index, item)| (Datum::Int(index), Datum::from(item))).collect()
            }
            Datum::Value(Value::Object(fields)) => {
                fields.into_iter().map(|(name, value)| (Datum::Value(name.into()), Datum::from(value))).collect()
            }
            other => {
                let spot = &pipe.commands.last().expect("a pipeline has commands").spot;
                return Err(self.wrong(spot, format!("range can't iterate over {}", shown(&other))));
            }
        };
        let empty = items.is_empty();
        for (key, item) in items {
            match pipe.variables.as_slice() {
                [] => {}
                [value] => self.set(value, item.clone(), pipe.assigns),
                [name, value, ..] => {
                    self.set(name, key, pipe.assigns);
                    self.set(value, item.clone(), pipe.assigns);
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        if empty { self.nodes(other, dot) } else { Ok(Flow::On) }
    }

    fn set(&mut self, name: &str, value: Datum, assigns: bool) {
        let known = self.variables.iter_mut().rev().find(|(known, _)| assigns && known == name);
        match known {
            Some((_, known)) => *known = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Datum) -> Result<Datum, Mistake> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or(Datum::Nothing);
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Datum, last: Option<Datum>) -> Result<Datum, Mistake> {
        let (first, arguments) = command.words.split_first().expect("a command has words");
        let What::Function(name) = &first.what else {
            if !arguments.is_empty() || last.is_some() {
                let words = match first.what {
                    What::Fields(_) | What::Variable(..) => {
                        format!("{} has arguments but cannot be invoked as function", first.spot.text)
                    }
                    _ => format!("can't give argument to non-function {}", first.spot.text),
                };
                return Err(self.wrong(&first.spot, words));
            }
            if matches!(first.what, What::Nil) {
                return Err(self.wrong(&first.spot, "nil is not a command"));
            }
            return self.word(first, dot);
        };
        // These look at no more than they need.
        if name == "and" || name == "or" {
            let mut value = None;
            for word in arguments {
                let next = self.word(word, dot)?;
                let stop = functions::truth(&next) == (name == "or");
                value = Some(next);
                if stop {
                    return Ok(value.unwrap_or(Datum::Nothing));
                }
            }
            return last.or(value).ok_or_else(|| {
                self.wrong(&command.spot, format!("wrong number of args for {name}: want at least 1 got 0"))
            });
        }
        let mut values = arguments.iter().map(|word| self.word(word, dot)).collect::<Result<Vec<_>, _>>()?;
        values.extend(last);
        functions::call(name, &values).map_err(|words| self.wrong(&command.spot, words))
    }

    fn word(&mut self, word: &Word, dot: &Datum) -> Result<Datum, Mistake> {
        match &word.what {
            What::Dot => Ok(dot.clone()),
            What::Nil => Ok(Datum::Nothing),
            What::Literal(value) => Ok(value.clone()),
            What::Function(name) => functions::call(name, &[]).map_err(|words| self.wrong(&word.spot, words)),
            What::Fields(fields) => self.fields(&word.spot, dot, fields),
            What::Variable(name, fields) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = known.map_or(&Datum::Nothing, |(_, value)| value);
                self.fields(&word.spot, value, fields)
            }
            What::Pipe(pipe, fields) => {
                let value = self.pipe(pipe, dot)?;
                self.fields(&word.spot, &value, fields)
            }
        }
    }

    fn fields(&self, spot: &Spot, value: &Datum, fields: &[String]) -> Result<Datum, Mistake> {
        if fields.is_empty() {
            return Ok(value.clone());
        }
        let mut here = match value {
            Datum::Value(value) => Some(value),
            Datum::Nothing => None,
            Datum::Int(_) => return Err(self.wrong(spot, format!("can't evaluate field {} in type int", fields[0]))),
        };
        for field in fields {
            here = match here {
                None | Some(Value::Null) if self.strict => {
                    return Err(self.wrong(spot, format!("nil data; no entry for key {field:?}")));
                }
                None | Some(Value::Null) => None,
                Some(Value::Object(map)) => match map.get(field) {
                    None if self.strict => {
                        return Err(self.wrong(spot, format!("map has no entry for key {field:?}")));
                    }
                    found => found,
                },
                Some(_) => {
                    return Err(self.wrong(spot, format!("can't evaluate field {field} in type interface {{}}")));
                }
            };
        }
        Ok(here.cloned().map_or(Datum::Nothing, Datum::from))
    }
}

/// A value as an action writes it.
pub fn shown(value: &Datum) -> String {
    match value {
        Datum::Nothing => "<no value>".to_owned(),
        Datum::Int(number) => number.to_string(),
        Datum::Value(value) => go::decoded(value),
    }
}

impl From<Value> for Datum {
    fn from(value: Value) -> Datum {
        if value.is_null() { Datum::Nothing } else { Datum::Value(value) }
    }
}
