//! Whether what a container gets is to come from the same memory nodes. Pure.
//!
//! ```text
//!  CPUs, memory, each kind of devices ─▶ which memory nodes could serve ─▶ one choice for all ─▶ taken in or rejected
//! ```
//!
//! Source of the rules and texts: `pkg/kubelet/cm/topologymanager`.

use std::collections::BTreeSet;

use super::cpu_set::CpuSet;
use crate::ledger::Rejection;

/// Memory nodes that could serve something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Which.
    pub nodes: CpuSet,
    /// Whether it can't be done with fewer.
    pub preferred: bool,
}

/// What one resource says: `None` when it does not matter, nothing when no nodes can serve.
pub type Hints = Option<Vec<Hint>>;

/// `--topology-manager-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlignPolicy {
    /// Nodes do not matter.
    #[default]
    None,
    /// As good as can be.
    BestEffort,
    /// What is not as good as can be is rejected.
    Restricted,
    /// What needs more than one node is rejected.
    SingleNumaNode,
}

/// `--topology-manager-scope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlignScope {
    /// Each container for itself.
    #[default]
    Container,
    /// All containers of a pod on the same nodes.
    Pod,
}

/// All subsets of some nodes but the empty one.
pub fn subsets(nodes: &CpuSet) -> Vec<CpuSet> {
    let mut all = vec![CpuSet::default()];
    for node in nodes.iter() {
        let with: Vec<CpuSet> = all.iter().map(|set| set.plus(&[node].into_iter().collect())).collect();
        all.extend(with);
    }
    all.remove(0);
    all
}

/// For ordering: fewer nodes first, then lower ones.
pub fn narrowness(nodes: &CpuSet) -> (usize, Vec<u32>) {
    let mut numbers: Vec<u32> = nodes.iter().collect();
    numbers.reverse();
    (nodes.len(), numbers)
}

/// Marks as preferred what has as few nodes as can be.
pub fn prefer(hints: Vec<CpuSet>, fewest: usize) -> Vec<Hint> {
    hints.into_iter().map(|nodes| Hint { preferred: nodes.len() == fewest, nodes }).collect()
}

/// What is known after some resources: the nodes that serve all of them (`None`: any), and whether that is preferred.
type Merged = BTreeSet<(Option<CpuSet>, bool)>;

fn merge(hints: &[Vec<(Option<CpuSet>, bool)>]) -> Merged {
    let mut merged: Merged = [(None, true)].into();
    for own in hints {
        let mut next = Merged::new();
        for (nodes, preferred) in &merged {
            for (other, also) in own {
                next.insert(match (nodes, other) {
                    (nodes, None) => (nodes.clone(), *preferred && *also),
                    (None, other) => (other.clone(), *preferred && *also),
                    // Only what all resources agree about is preferred.
                    (Some(nodes), Some(other)) => (Some(nodes.both(other)), *preferred && *also && nodes == other),
                });
            }
        }
        merged = next;
    }
    merged
}

/// The better of two choices. `aim` is the least number of nodes that each resource alone needs: what is not preferred should
/// have no fewer.
fn better(best: Hint, next: Hint, aim: usize) -> Hint {
    let narrower = |best: Hint, next: Hint| if narrowness(&next.nodes) < narrowness(&best.nodes) { next } else { best };
    match (best.preferred, next.preferred) {
        (false, true) => return next,
        (true, false) => return best,
        (true, true) => return narrower(best, next),
        (false, false) => {}
    }
    let (had, has) = (best.nodes.len(), next.nodes.len());
    match had.cmp(&aim) {
        std::cmp::Ordering::Greater => narrower(best, next),
        std::cmp::Ordering::Equal if has == aim => narrower(best, next),
        std::cmp::Ordering::Equal => best,
        std::cmp::Ordering::Less if has > aim || has < had => best,
        std::cmp::Ordering::Less if has > had => next,
        std::cmp::Ordering::Less => narrower(best, next),
    }
}

/// The nodes for a container or a pod, `None` for any; or why it is rejected. `all` are the machine's nodes.
pub fn align(policy: AlignPolicy, all: &CpuSet, hints: &[Hints]) -> Result<Option<Hint>, Rejection> {
    if policy == AlignPolicy::None {
        return Ok(None);
    }
    let mut lists: Vec<Vec<(Option<CpuSet>, bool)>> = hints
        .iter()
        .map(|own| match own {
            None => vec![(None, true)],
            Some(own) if own.is_empty() => vec![(None, false)],
            Some(own) => own.iter().map(|hint| (Some(hint.nodes.clone()), hint.preferred)).collect(),
        })
        .collect();
    if policy == AlignPolicy::SingleNumaNode {
        for list in &mut lists {
            list.retain(|(nodes, preferred)| *preferred && nodes.as_ref().is_none_or(|nodes| nodes.len() == 1));
        }
    }
    let fewest =
        |list: &Vec<(Option<CpuSet>, bool)>| list.iter().filter_map(|(nodes, _)| nodes.as_ref()).map(CpuSet::len).min();
    let aim = lists.iter().filter_map(fewest).max().unwrap_or(all.len());
    let whole = Hint { nodes: all.clone(), preferred: false };
    let mut best: Option<Hint> = None;
    for (nodes, preferred) in merge(&lists) {
        let next = Hint { nodes: nodes.map_or_else(|| all.clone(), |nodes| nodes.both(all)), preferred };
        if next.nodes.is_empty() {
            continue;
        }
        best = Some(match best {
            Some(best) => better(best, next, aim),
            None => next,
        });
    }
    let best = best.unwrap_or(whole);
    if !best.preferred && policy != AlignPolicy::BestEffort {
        return Err(Rejection {
            reason: "TopologyAffinityError".to_owned(),
            message: "Resources cannot be allocated with Topology locality".to_owned(),
        });
    }
    // Any node will do: what is taken chooses for itself.
    let any = policy == AlignPolicy::SingleNumaNode && best.nodes == *all && all.len() > 1;
    Ok((!any).then_some(best))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a set")
    }

    /// `"0! 1! 0-1"`: preferred ones have a mark; `"any"` and `"none"`.
    fn hints(text: &str) -> Hints {
        match text {
            "any" => None,
            "none" => Some(Vec::new()),
            text => Some(
                text.split(' ')
                    .map(|word| Hint { nodes: set(word.trim_end_matches('!')), preferred: word.ends_with('!') })
                    .collect(),
            ),
        }
    }

    fn check(lists: &[&str], best_effort: &str, restricted: &str, single: &str) {
        let lists: Vec<Hints> = lists.iter().map(|text| hints(text)).collect();
        let run = |policy| match align(policy, &set("0-1"), &lists) {
            Ok(Some(hint)) => format!("{}{}", hint.nodes, if hint.preferred { "!" } else { "" }),
            Ok(None) => "any".to_owned(),
            Err(rejection) => rejection.reason.replace("TopologyAffinityError", "no"),
        };
        let got = [AlignPolicy::BestEffort, AlignPolicy::Restricted, AlignPolicy::SingleNumaNode].map(run);
        assert_eq!(got, [best_effort, restricted, single], "{lists:?}");
        assert_eq!(align(AlignPolicy::None, &set("0-1"), &lists), Ok(None));
    }

    #[test]
    fn one_choice_for_all() {
        check(&[], "0-1!", "0-1!", "any");
        check(&["any"], "0-1!", "0-1!", "any");
        check(&["none"], "0-1", "no", "no");
        check(&["any", "none"], "0-1", "no", "no");
        check(&["0! 1! 0-1"], "0!", "0!", "0!");
        check(&["1! 0-1"], "1!", "1!", "1!");
        check(&["0-1!"], "0-1!", "0-1!", "no");
        check(&["0! 1! 0-1", "1! 0-1"], "1!", "1!", "1!");
        check(&["0!", "1!"], "0-1", "no", "no");
        check(&["0! 0-1", "1! 0-1"], "0", "no", "no");
        check(&["0-1!", "1! 0-1"], "0-1", "no", "no");
        check(&["0-1!", "0-1"], "0-1", "no", "no");
        check(&["0! 1! 0-1", "any"], "0!", "0!", "0!");
        check(&["0! 1! 0-1", "none"], "0", "no", "no");
    }

    proptest! {
        #[test]
        fn a_preferred_choice_serves_all(
            lists in prop::collection::vec(prop::collection::vec((prop::collection::btree_set(0_u32..4, 1..5), any::<bool>()), 0..6), 0..4),
        ) {
            let all = set("0-3");
            let lists: Vec<Hints> = lists.into_iter().map(|list| {
                Some(list.into_iter().map(|(nodes, preferred)| Hint { nodes: nodes.into_iter().collect(), preferred }).collect())
            }).collect();
            for policy in [AlignPolicy::BestEffort, AlignPolicy::Restricted, AlignPolicy::SingleNumaNode] {
                let Ok(Some(chosen)) = align(policy, &all, &lists) else {
                    prop_assert!(policy != AlignPolicy::BestEffort, "it rejects nothing");
                    continue;
                };
                prop_assert!(!chosen.nodes.is_empty() && chosen.nodes.is_within(&all));
                if chosen.preferred && !lists.is_empty() {
                    prop_assert!(lists.iter().flatten().all(|own| own.iter().any(|hint| hint.preferred && hint.nodes == chosen.nodes)));
                }
            }
        }
    }
}
