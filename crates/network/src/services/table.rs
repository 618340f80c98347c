//! An nftables table as data, and the smallest transaction from one state of it to another. Pure.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use super::elements::{Element, Value};

/// A table of family `inet`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Which of the two.
    pub kind: SetKind,
    /// What stands between its braces: type, flags, timeout.
    pub definition: String,
    /// Its elements: a key and, in a map, what it leads to. Those that packets add are not here.
    pub elements: BTreeMap<String, Option<String>>,
}

/// Whether keys lead to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// They do not.
    Set,
    /// They do.
    Map,
}

/// A chain of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type ... hook ... priority ...; policy ...;`, when packets enter here.
    pub base: Option<String>,
    /// The rules in order.
    pub rules: Vec<String>,
}

/// One command of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the table anew, whatever was there.
    Replace,
    /// Make a set or map, empty.
    AddSet(String, SetKind, String),
    /// Make a chain, empty.
    AddChain(String, Option<String>),
    /// Take elements out.
    DeleteElements(String, Vec<String>),
    /// Empty a chain.
    Flush(String),
    /// Append a rule to a chain.
    AddRule(String, String),
    /// Put elements in.
    AddElements(String, Vec<(String, Option<String>)>),
    /// Remove an empty chain that nothing leads to.
    DeleteChain(String),
    /// Remove a set that no rule uses.
    DeleteSet(String, SetKind),
}

/// The commands that turn `old` into `new`; from nothing known, they make the table anew. Empty when nothing differs.
///
/// The kernel checks each command against what the ones before it left: what is used must exist, what is deleted must
/// be unused. Hence the order: make, cut old uses, write rules, make new uses, delete.
pub fn difference(old: Option<&Table>, new: &Table) -> Vec<Command> {
    let nothing = Table::default();
    let mut commands = Vec::new();
    if old.is_none() {
        commands.push(Command::Replace);
    }
    let old = old.unwrap_or(&nothing);
    for (name, set) in &new.sets {
        if !old.sets.contains_key(name) {
            commands.push(Command::AddSet(name.clone(), set.kind, set.definition.clone()));
        }
    }
    for (name, chain) in &new.chains {
        if !old.chains.contains_key(name) {
            commands.push(Command::AddChain(name.clone(), chain.base.clone()));
        }
    }
    for (name, set) in &old.sets {
        let Some(after) = new.sets.get(name) else { continue };
        let gone: Vec<String> = set
            .elements
            .iter()
            .filter(|(key, value)| after.elements.get(*key) != Some(value))
            .map(|(key, _)| key.clone())
            .collect();
        if !gone.is_empty() {
            commands.push(Command::DeleteElements(name.clone(), gone));
        }
    }
    for (name, chain) in &new.chains {
        let before = old.chains.get(name);
        if before.is_some_and(|before| before.rules == chain.rules) {
            continue;
        }
        if before.is_some_and(|before| !before.rules.is_empty()) {
            commands.push(Command::Flush(name.clone()));
        }
        commands.extend(chain.rules.iter().map(|rule| Command::AddRule(name.clone(), rule.clone())));
    }
    for (name, set) in &new.sets {
        let before = old.sets.get(name).map(|set| &set.elements);
        let fresh: Vec<(String, Option<String>)> = set
            .elements
            .iter()
            .filter(|(key, value)| before.and_then(|before| before.get(*key)) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !fresh.is_empty() {
            commands.push(Command::AddElements(name.clone(), fresh));
        }
    }
    let gone: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    commands.extend(gone.iter().map(|name| Command::Flush((*name).clone())));
    commands.extend(gone.iter().map(|name| Command::DeleteChain((*name).clone())));
    for (name, set) in &old.sets {
        if !new.sets.contains_key(name) {
            commands.push(Command::DeleteSet(name.clone(), set.kind));
        }
    }
    commands
}

/// The text that `nft -f` reads.
pub fn render(table: &str, commands: &[Command]) -> String {
    let mut text = String::new();
    for command in commands {
        write_command(&mut text, table, command).expect("writing to a string cannot fail");
    }
    text
}

/// Adds the commands that put these elements in. Elements of one set follow each other.
pub fn render_elements(text: &mut String, table: &str, elements: &[(Element, Value)]) {
    for same in elements.chunk_by(|one, other| one.0.set() == other.0.set()) {
        write!(text, "add element inet {table} {} {{ ", same[0].0.set()).expect("writing to a string cannot fail");
        for (position, (element, value)) in same.iter().enumerate() {
            if position > 0 {
                text.push_str(", ");
            }
            element.text(text);
            if let Some(value) = element.value_text(value) {
                text.push_str(" : ");
                text.push_str(&value);
            }
        }
        text.push_str(" }\n");
    }
}

fn write_command(out: &mut String, table: &str, command: &Command) -> fmt::Result {
    match command {
        Command::Replace => {
            // Adding first makes deleting right whether or not it exists.
            writeln!(out, "add table inet {table}\ndelete table inet {table}\nadd table inet {table}")
        }
        Command::AddSet(name, kind, definition) => {
            writeln!(out, "add {} inet {table} {name} {{ {definition} }}", kind.word())
        }
        Command::AddChain(name, None) => writeln!(out, "add chain inet {table} {name}"),
        Command::AddChain(name, Some(base)) => writeln!(out, "add chain inet {table} {name} {{ {base} }}"),
        Command::DeleteElements(set, keys) => {
            writeln!(out, "delete element inet {table} {set} {{ {} }}", keys.join(", "))
        }
        Command::Flush(chain) => writeln!(out, "flush chain inet {table} {chain}"),
        Command::AddRule(chain, rule) => writeln!(out, "add rule inet {table} {chain} {rule}"),
        Command::AddElements(set, elements) => {
            write!(out, "add element inet {table} {set} {{ ")?;
            for (position, (key, value)) in elements.iter().enumerate() {
                let comma = if position == 0 { "" } else { ", " };
                match value {
                    Some(value) => write!(out, "{comma}{key} : {value}")?,
                    None => write!(out, "{comma}{key}")?,
                }
            }
            writeln!(out, " }}")
        }
        Command::DeleteChain(name) => writeln!(out, "delete chain inet {table} {name}"),
        Command::DeleteSet(name, kind) => writeln!(out, "delete {} inet {table} {name}", kind.word()),
    }
}

impl SetKind {
    fn word(self) -> &'static str {
        match self {
            SetKind::Set => "set",
            SetKind::Map => "map",
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
