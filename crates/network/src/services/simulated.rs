//! A table as the kernel would have it, for tests: steps are put into data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    current::{Current, Step, from_nothing},
    elements::Element,
    plan::{self, Place, Plan},
    serve::{Objects, Surroundings},
    table::{Chain, Command, Set, Table},
};
use crate::{
    cluster::{Key, Tables},
    network::LocalPod,
};

/// Everything that the table has to have, made anew.
pub(super) fn whole(place: &Place, tables: &Tables, pods: &[LocalPod]) -> Plan {
    let mut plan = plan::plan(place, tables, pods);
    let mut changes: Vec<(Key, Objects)> =
        tables.services().map(|(key, _)| (key.clone(), tables.objects(key))).collect();
    changes.sort_by(|one, other| one.0.cmp(&other.0));
    let step = Current::default().step(place, &around(place, tables), from_nothing(changes), addresses(pods));
    put(&mut plan.table, &step).expect("the step is possible");
    plan
}

/// The surroundings of a moment.
pub(super) fn around(place: &Place, tables: &Tables) -> Surroundings {
    Surroundings { zone: tables.zone.clone(), ranges: plan::service_ranges(place, tables) }
}

/// The addresses of pods.
pub(super) fn addresses(pods: &[LocalPod]) -> BTreeSet<IpAddr> {
    pods.iter().flat_map(|pod| pod.ips.iter().copied()).collect()
}

/// Puts a step into a table, and checks each part as the kernel does: what is used is there, what goes is there and unused.
pub(super) fn put(table: &mut Table, step: &Step) -> Result<(), String> {
    let spreads: Vec<Command> = step.spreads.iter().flat_map(|spread| spread.commands()).collect();
    make(table, &spreads)?;
    make(table, &step.make)?;
    let missing = |what: &str| format!("{what} does not exist");
    let text = |element: &Element| {
        let mut text = String::new();
        element.text(&mut text);
        text
    };
    for element in &step.gone {
        let set = table.sets.get_mut(element.set()).ok_or_else(|| missing(element.set()))?;
        set.elements.remove(&text(element)).ok_or_else(|| missing(&text(element)))?;
    }
    for (element, value) in &step.fresh {
        let value = element.value_text(value);
        if let Some(target) = value.as_deref().and_then(|value| value.strip_prefix("goto ")) {
            table.chains.get(target).ok_or_else(|| missing(target))?;
        }
        let set = table.sets.get_mut(element.set()).ok_or_else(|| missing(element.set()))?;
        if set.elements.insert(text(element), value).is_some() {
            return Err(format!("{} is there already", text(element)));
        }
    }
    make(table, &step.clear)
}

fn make(table: &mut Table, commands: &[Command]) -> Result<(), String> {
    let missing = |what: &str| format!("{what} does not exist");
    for command in commands {
        match command {
            Command::AddSet(name, kind, definition) => {
                let set = Set { kind: *kind, definition: definition.clone(), elements: BTreeMap::new() };
                if table.sets.insert(name.clone(), set).is_some() {
                    return Err(format!("{name} is there already"));
                }
            }
            Command::AddChain(name, base) => {
                if table.chains.insert(name.clone(), Chain { base: base.clone(), rules: Vec::new() }).is_some() {
                    return Err(format!("{name} is there already"));
                }
            }
            Command::Flush(name) => table.chains.get_mut(name).ok_or_else(|| missing(name))?.rules.clear(),
            Command::AddRule(name, rule) => {
                for target in rule.split("goto ").skip(1).filter_map(|rest| rest.split([',', ' ']).next()) {
                    table.chains.get(target).ok_or_else(|| missing(target))?;
                }
                for set in rule.split('@').skip(1).filter_map(|rest| rest.split(' ').next()) {
                    table.sets.get(set).ok_or_else(|| missing(set))?;
                }
                table.chains.get_mut(name).ok_or_else(|| missing(name))?.rules.push(rule.clone());
            }
            Command::DeleteChain(name) => {
                let goto = format!("goto {name}");
                let leads = |text: &String| text.split(", ").any(|part| part.trim_end_matches(" }").ends_with(&goto));
                let in_rule = table.chains.values().flat_map(|chain| &chain.rules).any(leads);
                let in_map = table.sets.values().flat_map(|set| set.elements.values().flatten()).any(leads);
                if in_rule || in_map || table.chains.get(name).is_none_or(|chain| !chain.rules.is_empty()) {
                    return Err(format!("{name} is in use"));
                }
                table.chains.remove(name);
            }
            Command::DeleteSet(name, _) => {
                let used = format!("@{name} ");
                if table.chains.values().flat_map(|chain| &chain.rules).any(|rule| format!("{rule} ").contains(&used)) {
                    return Err(format!("{name} is in use"));
                }
                table.sets.remove(name).ok_or_else(|| missing(name))?;
            }
            Command::Replace | Command::DeleteElements(..) | Command::AddElements(..) => {
                return Err(format!("{command:?} is no part of a step"));
            }
        }
    }
    Ok(())
}

/// A node of two families.
pub(super) fn place() -> Place {
    let range = |text: &str| text.parse::<IpNet>().expect("a range");
    Place {
        table: "kobune".to_owned(),
        node: "here".to_owned(),
        pod_cidrs: vec![range("10.244.0.0/24"), range("fd00:244::/64")],
        cluster_cidrs: vec![range("10.244.0.0/16"), range("fd00:244::/56")],
        service_cidrs: vec![range("10.96.0.0/16"), range("fd00:96::/108")],
        dns_addresses: vec![ip("10.96.0.10")],
        gateways: vec![ip("10.244.0.1"), ip("fd00:244::1")],
        link_prefix: "kbabcde".to_owned(),
        plugins: false,
    }
}

/// An address.
pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What a plan says beyond the frame: `set key : value` and `chain: rule`, without the hashes in names.
pub(super) fn differences(plan: &Plan) -> Vec<String> {
    let frame = plan::plan(&place(), &Tables::default(), &[]);
    let mut lines = Vec::new();
    for (name, set) in &plan.table.sets {
        if !frame.table.sets.contains_key(name) {
            lines.push(format!("set {name} {}", set.definition));
        }
        for (key, value) in &set.elements {
            match value {
                Some(value) => lines.push(format!("{name} {key} : {value}")),
                None => lines.push(format!("{name} {key}")),
            }
        }
    }
    for (name, chain) in &plan.table.chains {
        if frame.table.chains.get(name) != Some(chain) {
            // Chains that draw are the same whoever needs them.
            let rules = chain.rules.iter().filter(|_| !name.contains("spread"));
            lines.extend(rules.map(|rule| format!("{name}: {rule}")));
        }
    }
    let is_hash = |part: &str| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    lines.iter().map(|line| line.split('-').filter(|part| !is_hash(part)).collect::<Vec<_>>().join("-")).collect()
}
