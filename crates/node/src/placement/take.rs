//! Which CPUs to take when some are wanted: those that belong together. Pure.
//!
//! Source of the rules: `pkg/kubelet/cm/cpumanager/cpu_assignment.go`, KEP-2902 (spread over memory nodes) and KEP-4800
//! (kept within caches).

use super::cpu_set::CpuSet;
use super::topology::{Cpu, Topology};

/// How CPUs are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// What needs more than one memory node gets as many CPUs on each of them.
    pub across_nodes: bool,
    /// What fits around one cache is kept there.
    pub by_cache: bool,
    /// CPUs that are handed out together when they are spread: the threads of a core, or one.
    pub group: usize,
}

/// Too few are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not enough cpus available to satisfy request: requested={wanted}, available={free}")]
pub struct NotEnough {
    /// How many are wanted.
    pub wanted: usize,
    /// How many there are.
    pub free: usize,
}

/// On machines with more memory nodes than this nothing is spread: the choices grow too many.
const MOST_NODES: usize = 12;

/// What a CPU is part of.
type Part = fn(&Cpu) -> u32;

const NODE: Part = |cpu| cpu.node;
const SOCKET: Part = |cpu| cpu.socket;
const CACHE: Part = |cpu| cpu.cache;
const CORE: Part = |cpu| cpu.core;

/// CPUs of `set` by what they are part of: the part with the fewest first, then by number.
fn parts(machine: &Topology, set: &CpuSet, part: Part) -> Vec<(u32, CpuSet)> {
    let of = |number: u32| machine.cpus.get(&number).map(part);
    let ids: CpuSet = set.iter().filter_map(of).collect();
    let mut list: Vec<(u32, CpuSet)> = ids.iter().map(|id| (id, set.filter(|number| of(number) == Some(id)))).collect();
    list.sort_by_key(|(id, members)| (members.len(), *id));
    list
}

/// What is free of each part of the last level, those of the same outer part together.
fn nested(machine: &Topology, set: &CpuSet, levels: &[Part]) -> Vec<(u32, CpuSet)> {
    let Some((outer, inner)) = levels.split_first() else { return Vec::new() };
    let list = parts(machine, set, *outer);
    if inner.is_empty() {
        return list;
    }
    list.iter().flat_map(|(_, members)| nested(machine, members, inner)).collect()
}

struct Taking<'a> {
    machine: &'a Topology,
    free: CpuSet,
    taken: CpuSet,
    wanted: usize,
    /// From the widest part to the narrowest, without cores.
    levels: [Part; 2],
}

impl Taking<'_> {
    fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.taken.len())
    }

    fn take(&mut self, set: &CpuSet) {
        self.taken = self.taken.plus(set);
        self.free = self.free.without(set);
    }

    /// Takes parts of which everything is free, as long as all of one is wanted.
    fn take_whole(&mut self, levels: &[Part]) {
        let Some(part) = levels.last().copied() else { return };
        let all = self.machine.all();
        for (id, members) in nested(self.machine, &self.free, levels) {
            let whole = all.filter(|number| self.machine.cpus.get(&number).map(part) == Some(id));
            if members == whole && members.len() <= self.missing() {
                self.take(&members);
            }
        }
    }

    /// Takes what is left to take around one cache, if one has enough.
    fn take_around_cache(&mut self) {
        let [outer, inner] = self.levels;
        let caches = nested(self.machine, &self.free, &[outer, inner, CACHE]);
        if let Some((_, members)) = caches.into_iter().find(|(_, members)| members.len() >= self.missing())
            && let Ok(chosen) = packed(self.machine, &members, self.missing(), false)
        {
            self.take(&chosen);
        }
    }

    fn take_singly(&mut self) {
        let [outer, inner] = self.levels;
        let cores = nested(self.machine, &self.free, &[outer, inner, CORE]);
        let missing = self.missing();
        let chosen: Vec<u32> = cores.iter().flat_map(|(_, members)| members.iter()).take(missing).collect();
        self.take(&chosen.into_iter().collect());
    }
}

fn packed(machine: &Topology, free: &CpuSet, wanted: usize, by_cache: bool) -> Result<CpuSet, NotEnough> {
    if free.len() < wanted {
        return Err(NotEnough { wanted, free: free.len() });
    }
    let levels = if machine.count(SOCKET) >= machine.nodes.len() { [NODE, SOCKET] } else { [SOCKET, NODE] };
    let mut taking = Taking { machine, free: free.clone(), taken: CpuSet::default(), wanted, levels };
    let [outer, inner] = levels;
    taking.take_whole(&[outer]);
    taking.take_whole(&[outer, inner]);
    if by_cache {
        taking.take_whole(&[outer, inner, CACHE]);
        taking.take_around_cache();
    }
    taking.take_whole(&[outer, inner, CORE]);
    taking.take_singly();
    Ok(taking.taken)
}

/// All choices of `count` from a list, in order.
fn combinations(list: &[u32], count: usize) -> Vec<Vec<u32>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in list.iter().enumerate() {
        for mut rest in combinations(&list[index + 1..], count - 1) {
            rest.insert(0, *first);
            all.push(rest);
        }
    }
    all
}

/// How uneven numbers are: the square of their deviation times their count squared, which orders as the deviation does.
fn unevenness(numbers: &[usize]) -> usize {
    let (count, sum): (usize, usize) = (numbers.len(), numbers.iter().sum());
    let squares: usize = numbers.iter().map(|number| number * number).sum();
    (count * squares).saturating_sub(sum * sum)
}

/// How many groups each node gives; the lowest unevenness of what is left.
struct Spread {
    unevenness: usize,
    gives: Vec<(u32, usize)>,
}

/// Spreads `groups` over the nodes of `chosen`. `free` has the free CPUs of all nodes.
fn spread_over(chosen: &[u32], free: &[(u32, usize)], groups: usize, group: usize) -> Option<Spread> {
    let each = groups / chosen.len();
    let of = |node: u32| free.iter().find(|(own, _)| *own == node).map_or(0, |(_, count)| *count);
    if chosen.iter().any(|node| of(*node) < each * group) {
        return None;
    }
    let rest = groups - each * chosen.len();
    // Those that can give one group more; as many of them as possible do.
    let willing: Vec<u32> = chosen.iter().copied().filter(|node| of(*node) >= (each + 1) * group).collect();
    let mut best: Option<Spread> = None;
    for extra in combinations(&willing, rest) {
        let gives: Vec<(u32, usize)> =
            chosen.iter().map(|node| (*node, (each + usize::from(extra.contains(node))) * group)).collect();
        let given = |node: u32| gives.iter().find(|(own, _)| *own == node).map_or(0, |(_, count)| *count);
        let left: Vec<usize> = free.iter().map(|(node, count)| count - given(*node)).collect();
        let unevenness = unevenness(&left);
        if best.as_ref().is_none_or(|best| unevenness < best.unevenness) {
            best = Some(Spread { unevenness, gives });
        }
    }
    best
}

fn spread(machine: &Topology, free: &CpuSet, wanted: usize, how: How) -> Result<CpuSet, NotEnough> {
    let group = how.group.max(1);
    if !wanted.is_multiple_of(group) || machine.nodes.len() > MOST_NODES {
        return packed(machine, free, wanted, how.by_cache);
    }
    let by_node = parts(machine, free, NODE);
    let counts: Vec<(u32, usize)> = by_node.iter().map(|(node, members)| (*node, members.len())).collect();
    let nodes: Vec<u32> = by_node.iter().map(|(node, _)| *node).collect();
    let groups = wanted / group;
    for count in 1..=nodes.len().min(groups) {
        let mut best: Option<Spread> = None;
        for chosen in combinations(&nodes, count) {
            let Some(spread) = spread_over(&chosen, &counts, groups, group) else { continue };
            if best.as_ref().is_none_or(|best| spread.unevenness < best.unevenness) {
                best = Some(spread);
            }
        }
        let Some(best) = best else { continue };
        let mut taken = CpuSet::default();
        for (node, count) in best.gives {
            let own = by_node.iter().find(|(own, _)| *own == node).map(|(_, members)| members.clone());
            taken = taken.plus(&packed(machine, &own.unwrap_or_default(), count, how.by_cache)?);
        }
        return Ok(taken);
    }
    packed(machine, free, wanted, how.by_cache)
}

/// Chooses `wanted` of the CPUs that are `free`.
pub fn take(machine: &Topology, free: &CpuSet, wanted: usize, how: How) -> Result<CpuSet, NotEnough> {
    if free.len() < wanted {
        return Err(NotEnough { wanted, free: free.len() });
    }
    if wanted > 0 && how.across_nodes {
        return spread(machine, free, wanted, how);
    }
    packed(machine, free, wanted, how.by_cache)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::topology::tests::machine;
    use super::*;

    fn check(machine: &Topology, free: &str, wanted: usize, how: How, expected: &str) {
        let free = if free == "all" { machine.all() } else { free.parse().expect("a set") };
        let got = take(machine, &free, wanted, how).map_or_else(|error| error.to_string(), |set| set.to_string());
        assert_eq!(got, expected, "{wanted} of {free} {how:?}");
    }

    #[test]
    fn cpus_are_packed() {
        let packed = How::default();
        let flat = machine(1, 1, 4, 1);
        check(&flat, "all", 2, packed, "0-1");
        check(&flat, "1-3", 0, packed, "");
        check(&flat, "1-3", 4, packed, "not enough cpus available to satisfy request: requested=4, available=3");
        // One socket of four cores with two threads each: cores are 0+4, 1+5, 2+6, 3+7.
        let threads = machine(1, 1, 4, 2);
        check(&threads, "all", 2, packed, "0,4");
        check(&threads, "all", 3, packed, "0-1,4");
        check(&threads, "1-7", 1, packed, "4");
        check(&threads, "1-7", 2, packed, "1,5");
        check(&threads, "1-3", 2, packed, "1-2");
        // Two sockets of three cores with two threads each: cores are 0+6, 1+7, 2+8 and 3+9, 4+10, 5+11.
        let sockets = machine(2, 1, 3, 2);
        check(&sockets, "all", 6, packed, "0-2,6-8");
        check(&sockets, "1-11", 6, packed, "3-5,9-11");
        check(&sockets, "1-11", 2, packed, "1,7");
        check(&sockets, "all", 8, packed, "0-3,6-9");
    }

    #[test]
    fn cpus_are_spread_over_nodes() {
        let spread = How { across_nodes: true, group: 1, ..How::default() };
        let two = machine(2, 1, 4, 1);
        check(&two, "all", 4, spread, "0-3");
        check(&two, "all", 6, spread, "0-2,4-6");
        check(&two, "all", 7, spread, "0-6");
        check(&two, "1-7", 6, spread, "1-6");
        check(&two, "3-7", 5, spread, "3-7");
        let threads = machine(2, 2, 2, 2);
        let cores = How { group: 2, ..spread };
        check(&threads, "all", 6, cores, "0-2,8-10");
        check(&threads, "all", 3, cores, "0-1,8");
    }

    #[test]
    fn cpus_are_kept_around_a_cache() {
        let by_cache = How { by_cache: true, ..How::default() };
        // One node; cores 0-1, 2-3, 4-5, 6-7 share caches.
        let mut caches = machine(1, 1, 8, 1);
        for (number, cpu) in &mut caches.cpus {
            cpu.cache = number / 2 * 2;
        }
        check(&caches, "1-7", 2, How::default(), "1-2");
        check(&caches, "1-7", 2, by_cache, "2-3");
        check(&caches, "1-7", 1, by_cache, "1");
        check(&caches, "1-7", 3, by_cache, "1-3");
        check(&caches, "1,3,5", 2, by_cache, "1,3");
    }

    proptest! {
        #[test]
        fn as_many_as_wanted_of_what_is_free(
            shape in (1_u32..3, 1_u32..3, 1_u32..4, 1_u32..3),
            busy in prop::collection::btree_set(0_u32..32, 0..12),
            wanted in 0_usize..20,
            across_nodes: bool,
            by_cache: bool,
        ) {
            let machine = machine(shape.0, shape.1, shape.2, shape.3);
            let free = machine.all().filter(|number| !busy.contains(&number));
            let how = How { across_nodes, by_cache, group: machine.threads() };
            match take(&machine, &free, wanted, how) {
                Ok(taken) => {
                    prop_assert_eq!(taken.len(), wanted);
                    prop_assert!(taken.is_within(&free));
                }
                Err(error) => prop_assert_eq!(error, NotEnough { wanted, free: free.len() }),
            }
        }
    }
}
