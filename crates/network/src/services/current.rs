//! What of the table services have, and the step that brings it from one state to the next. Pure.
//!
//! Nothing is kept about a service that has no chains of its own and shares no front with others: what the kernel has of it
//! follows from the objects that were there before the change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{
    elements::{Element, Front, Spread, Value, Way},
    plan::{Place, UdpPath},
    serve::{Objects, Served, Surroundings, serve},
    table::{Command, Table, difference},
};
use crate::cluster::Key;

/// One service that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The service.
    pub key: Key,
    /// What the kernel's state was made from.
    pub before: Objects,
    /// What it is to be made from.
    pub after: Objects,
}

/// What services have in the kernel, as far as it does not follow from the objects themselves.
#[derive(Debug, Default)]
pub struct Current {
    /// Who claims a front that several may claim. The first of them has it.
    claims: BTreeMap<Front, BTreeMap<Key, Way>>,
    /// The chains and sets of services that have some.
    own: BTreeMap<Key, Table>,
    /// The chains that draw an endpoint. They are few and stay.
    spreads: BTreeSet<Spread>,
    /// The pods of this node.
    hairpins: BTreeSet<IpAddr>,
}

/// How to get to the next state. The parts follow each other: what comes before the elements makes what they lead to, and
/// what comes behind clears what they lead to no more. Neither changes anything for a packet, but for rules that are
/// exchanged, each service's at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Chains that draw, to make.
    pub spreads: Vec<Spread>,
    /// Chains and sets to make, rules to exchange.
    pub make: Vec<Command>,
    /// Elements to take out.
    pub gone: Vec<Element>,
    /// Elements to put in.
    pub fresh: Vec<(Element, Value)>,
    /// Chains and sets that nothing leads to any more.
    pub clear: Vec<Command>,
    /// The paths that are no more.
    pub udp_gone: Vec<UdpPath>,
}

impl Current {
    /// Takes the next state in and says how the kernel gets there.
    pub fn step(
        &mut self,
        place: &Place,
        around: &Surroundings,
        changes: impl IntoIterator<Item = Change>,
        pods: BTreeSet<IpAddr>,
    ) -> Step {
        let mut step = Step::default();
        let mut old: BTreeMap<Front, Way> = BTreeMap::new();
        let mut new: BTreeMap<Front, Way> = BTreeMap::new();
        let mut touched: BTreeMap<Front, Option<Way>> = BTreeMap::new();
        for Change { key, before, after } in changes {
            let was = serve(place, around, &key, &before);
            let is = serve(place, around, &key, &after);
            self.chains(&key, &is, &mut step);
            old.extend(was.own);
            new.extend(is.own);
            for front in was.shared.keys().chain(is.shared.keys()) {
                touched.entry(*front).or_insert_with(|| self.holder(front).cloned());
                let claims = self.claims.entry(*front).or_default();
                claims.remove(&key);
                if let Some(way) = is.shared.get(front) {
                    claims.insert(key.clone(), way.clone());
                }
                if claims.is_empty() {
                    self.claims.remove(front);
                }
            }
        }
        for (front, before) in touched {
            new.extend(self.holder(&front).map(|way| (front, way.clone())));
            old.extend(before.map(|way| (front, way)));
        }

        let spreads: BTreeSet<Spread> = new.iter().filter_map(|(front, way)| way.spread(front)).collect();
        for spread in spreads {
            self.spread(spread, &mut step.spreads);
        }
        let (mut had, mut wanted) = (BTreeMap::new(), BTreeMap::new());
        for (front, way) in &old {
            if new.get(front) != Some(way) {
                way.elements(*front, &mut had);
            }
        }
        for (front, way) in &new {
            if old.get(front) != Some(way) {
                way.elements(*front, &mut wanted);
            }
        }
        had.extend(self.hairpins.difference(&pods).map(|pod| (Element::Hairpin(*pod), Value::None)));
        wanted.extend(pods.difference(&self.hairpins).map(|pod| (Element::Hairpin(*pod), Value::None)));
        self.hairpins = pods;
        step.gone = had.iter().filter(|(key, value)| wanted.get(*key) != Some(value)).map(|(key, _)| *key).collect();
        let is_fresh = |(key, value): &(Element, Value)| had.get(key) != Some(value);
        let paths: BTreeSet<UdpPath> = Served::udp_paths(new.iter()).collect();
        step.udp_gone = Served::udp_paths(old.iter()).filter(|path| !paths.contains(path)).collect();
        step.fresh = wanted.into_iter().filter(is_fresh).collect();
        // Makes have been gathered service by service: what is made must be there before any rule leads to it.
        step.make.sort_by_key(|command| match command {
            Command::AddSet(..) => 0,
            Command::AddChain(..) => 1,
            _ => 2,
        });
        step.clear.sort_by_key(|command| match command {
            Command::Flush(_) => 0,
            Command::DeleteChain(_) => 1,
            _ => 2,
        });
        step
    }

    /// Who has a front.
    fn holder(&self, front: &Front) -> Option<&Way> {
        self.claims.get(front).and_then(|claims| claims.values().next())
    }

    /// The chains and sets of one service.
    fn chains(&mut self, key: &Key, is: &Served, step: &mut Step) {
        if is.chains.is_empty() && is.sets.is_empty() && !self.own.contains_key(key) {
            return;
        }
        let after = Table { name: String::new(), sets: is.sets.clone(), chains: is.chains.clone() };
        // A guard leads to a chain that draws, which other services may not have needed yet.
        for (front, way) in is.own.iter().chain(&is.shared) {
            if let Some(spread) = way.spread(front) {
                self.spread(spread, &mut step.spreads);
            }
        }
        let before = self.own.get(key).cloned().unwrap_or_default();
        let (make, clear): (Vec<Command>, Vec<Command>) =
            difference(Some(&before), &after).into_iter().partition(|command| match command {
                Command::DeleteChain(_) | Command::DeleteSet(..) => false,
                Command::Flush(chain) => after.chains.contains_key(chain),
                _ => true,
            });
        step.make.extend(make);
        step.clear.extend(clear);
        if after.chains.is_empty() && after.sets.is_empty() {
            self.own.remove(key);
        } else {
            self.own.insert(key.clone(), after);
        }
    }

    fn spread(&mut self, spread: Spread, make: &mut Vec<Spread>) {
        if self.spreads.insert(spread) {
            make.push(spread);
        }
    }
}

impl Spread {
    /// What makes the chain, in the words of rules.
    pub fn commands(&self) -> Vec<Command> {
        let name = self.chain();
        let rules = self.rules().into_iter().map(|rule| Command::AddRule(name.clone(), rule));
        std::iter::once(Command::AddChain(name.clone(), None)).chain(rules).collect()
    }
}

/// Everything that is there, as changes from nothing.
pub fn from_nothing(all: Vec<(Key, Objects)>) -> impl Iterator<Item = Change> {
    all.into_iter().map(|(key, after)| Change { key, before: (None, Vec::new()), after })
}

#[cfg(test)]
#[path = "current_tests.rs"]
mod tests;
