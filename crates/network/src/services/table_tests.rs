//! Whatever two states a table has, the difference leads from one to the other, and no command of it is refused.

use proptest::{collection, prelude::*};

use super::*;

/// What the kernel does with a command, as far as order matters.
fn apply(table: &mut Table, command: &Command) -> Result<(), String> {
    let missing = |name: &str| format!("{name} does not exist");
    match command {
        Command::Replace => *table = Table { name: table.name.clone(), ..Table::default() },
        Command::AddSet(name, kind, definition) => {
            let set = Set { kind: *kind, definition: definition.clone(), elements: BTreeMap::new() };
            if table.sets.insert(name.clone(), set).is_some() {
                return Err(format!("{name} exists"));
            }
        }
        Command::AddChain(name, base) => {
            if table.chains.insert(name.clone(), Chain { base: base.clone(), rules: Vec::new() }).is_some() {
                return Err(format!("{name} exists"));
            }
        }
        Command::DeleteElements(name, keys) => {
            let set = table.sets.get_mut(name).ok_or_else(|| missing(name))?;
            for key in keys {
                set.elements.remove(key).ok_or_else(|| missing(key))?;
            }
        }
        Command::Flush(name) => table.chains.get_mut(name).ok_or_else(|| missing(name))?.rules.clear(),
        Command::AddRule(name, rule) => {
            for word in rule.split(' ') {
                if let Some(set) = word.strip_prefix('@') {
                    table.sets.get(set).ok_or_else(|| missing(set))?;
                }
            }
            if let Some((_, target)) = rule.split_once("goto ") {
                table.chains.get(target).ok_or_else(|| missing(target))?;
            }
            table.chains.get_mut(name).ok_or_else(|| missing(name))?.rules.push(rule.clone());
        }
        Command::AddElements(name, elements) => {
            for (key, value) in elements {
                if let Some(target) = value.as_deref().and_then(|value| value.strip_prefix("goto ")) {
                    table.chains.get(target).ok_or_else(|| missing(target))?;
                }
                let set = table.sets.get_mut(name).ok_or_else(|| missing(name))?;
                if set.elements.insert(key.clone(), value.clone()).is_some() {
                    return Err(format!("{key} exists"));
                }
            }
        }
        Command::DeleteChain(name) => {
            let goto = format!("goto {name}");
            let in_rule = table.chains.values().any(|chain| chain.rules.iter().any(|rule| rule.ends_with(&goto)));
            let in_map =
                table.sets.values().any(|set| set.elements.values().any(|value| value.as_ref() == Some(&goto)));
            if in_rule || in_map || table.chains.get(name).is_none_or(|chain| !chain.rules.is_empty()) {
                return Err(format!("{name} is in use"));
            }
            table.chains.remove(name);
        }
        Command::DeleteSet(name, _) => {
            let used = format!("@{name}");
            if table.chains.values().any(|chain| chain.rules.iter().any(|rule| rule.contains(&used))) {
                return Err(format!("{name} is in use"));
            }
            table.sets.remove(name).ok_or_else(|| missing(name))?;
        }
    }
    Ok(())
}

prop_compose! {
    /// A table in which map elements and rules lead to chains that exist.
    fn tables()(
        chains in collection::btree_map(0..8u8, collection::vec((0..8u8, any::<bool>()), 0..4), 1..8),
        elements in collection::btree_map(0..12u8, 0..8u8, 0..12),
        extra in collection::btree_set(0..4u8, 0..4),
    ) -> Table {
        let mut table = Table { name: "t".to_owned(), ..Table::default() };
        for set in &extra {
            let set_name = format!("extra{set}");
            let set = Set { kind: SetKind::Set, definition: "type ipv4_addr".to_owned(), elements: BTreeMap::new() };
            table.sets.insert(set_name, set);
        }
        for (name, rules) in &chains {
            let rules = rules
                .iter()
                .map(|(target, set)| match (set, extra.contains(target), chains.contains_key(target)) {
                    (true, true, _) => format!("ip saddr @extra{target} accept"),
                    (_, _, true) => format!("meta mark {target} goto c{target}"),
                    _ => format!("meta mark {target} drop"),
                })
                .collect();
            table.chains.insert(format!("c{name}"), Chain { base: None, rules });
        }
        let elements = elements
            .iter()
            .map(|(key, target)| {
                let verdict = if chains.contains_key(target) { format!("goto c{target}") } else { "drop".to_owned() };
                (format!("k{key}"), Some(verdict))
            })
            .collect();
        let map = Set { kind: SetKind::Map, definition: "type mark : verdict".to_owned(), elements };
        table.sets.insert("map".to_owned(), map);
        table
    }
}

proptest! {
    #[test]
    fn applying_the_difference_gives_the_new_table(old in tables(), new in tables()) {
        let mut table = old.clone();
        for command in difference(Some(&old), &new) {
            apply(&mut table, &command).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&table, &new);
        prop_assert_eq!(difference(Some(&new), &new), Vec::new());
    }

    #[test]
    fn from_nothing_known_the_table_is_made_anew(left in tables(), new in tables()) {
        let mut table = left;
        for command in difference(None, &new) {
            apply(&mut table, &command).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&table, &new);
    }
}

#[test]
fn renders_what_nft_reads() {
    let mut old = Table { name: "kobune".to_owned(), ..Table::default() };
    let verdicts = |elements: &[(&str, &str)]| Set {
        kind: SetKind::Map,
        definition: "type inet_proto . inet_service : verdict".to_owned(),
        elements: elements.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect(),
    };
    let chain = |rule: &str| Chain { base: None, rules: vec![rule.to_owned()] };
    old.sets.insert("ports".to_owned(), verdicts(&[("tcp . 1", "goto one"), ("tcp . 2", "drop")]));
    old.chains.insert("one".to_owned(), chain("accept"));
    let mut new = old.clone();
    new.sets.insert("ports".to_owned(), verdicts(&[("tcp . 1", "goto two"), ("tcp . 2", "drop")]));
    new.chains.clear();
    new.chains.insert("two".to_owned(), chain("accept"));
    let text = render("kobune", &difference(Some(&old), &new));
    let expected = "\
add chain inet kobune two
delete element inet kobune ports { tcp . 1 }
add rule inet kobune two accept
add element inet kobune ports { tcp . 1 : goto two }
flush chain inet kobune one
delete chain inet kobune one
";
    assert_eq!(text, expected);
}
