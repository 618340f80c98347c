//! The static CPU policy: Guaranteed containers that ask for whole CPUs have some for themselves, all others share the rest.
//! Pure.
//!
//! Source of the rules and texts: `pkg/kubelet/cm/cpumanager/policy_static.go`, `pkg/kubelet/cm/admission`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::align::{Hint, Hints, subsets};
use super::cpu_set::CpuSet;
use super::take::{How, NotEnough, take};
use super::topology::Topology;
use crate::ledger::Rejection;
use crate::pod::{self, Member, Role};
use crate::quantity::Amount;
use crate::resources::{QosClass, qos_class};

/// `--cpu-manager-policy-options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Only whole cores are given away.
    pub full_pcpus_only: bool,
    /// What needs several memory nodes has as many CPUs on each.
    pub distribute_cpus_across_numa: bool,
    /// Several memory nodes of one socket are as good as one.
    pub align_by_socket: bool,
    /// The shared CPUs are without the reserved ones.
    pub strict_cpu_reservation: bool,
    /// What fits around one cache is kept there.
    pub prefer_align_cpus_by_uncorecache: bool,
}

/// An option that does not exist, or two that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuOptionsError {
    /// There is no such option.
    #[error("there is no CPU manager policy option {0:?}")]
    Unknown(String),
    /// The value is neither `true` nor `false`.
    #[error("bad value for option {option:?}: {value:?} is neither true nor false")]
    Value {
        /// The option.
        option: String,
        /// What was given.
        value: String,
    },
    /// Upstream excludes these two.
    #[error(
        "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time"
    )]
    CacheOrSpread,
}

impl CpuOptions {
    /// Reads `name=true` options.
    pub fn parse<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<CpuOptions, CpuOptionsError> {
        let mut options = CpuOptions::default();
        for (option, value) in given {
            let field = match option {
                "full-pcpus-only" => &mut options.full_pcpus_only,
                "distribute-cpus-across-numa" => &mut options.distribute_cpus_across_numa,
                "align-by-socket" => &mut options.align_by_socket,
                "strict-cpu-reservation" => &mut options.strict_cpu_reservation,
                "prefer-align-cpus-by-uncorecache" => &mut options.prefer_align_cpus_by_uncorecache,
                unknown => return Err(CpuOptionsError::Unknown(unknown.to_owned())),
            };
            let wrong = |_| CpuOptionsError::Value { option: option.to_owned(), value: value.to_owned() };
            *field = value.parse().map_err(wrong)?;
        }
        if options.prefer_align_cpus_by_uncorecache && options.distribute_cpus_across_numa {
            return Err(CpuOptionsError::CacheOrSpread);
        }
        Ok(options)
    }
}

/// Who has CPUs for itself: by pod and container.
pub type Owners = BTreeMap<String, BTreeMap<String, CpuSet>>;

/// Why a container can't have CPUs of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// Too few are free.
    #[error(transparent)]
    NotEnough(#[from] NotEnough),
    /// Only whole cores are given away, and that many CPUs are none.
    #[error("SMT Alignment Error: requested {wanted} cpus not multiple cpus per core = {threads}")]
    PartsOfCores {
        /// How many are wanted.
        wanted: usize,
        /// CPUs in a core.
        threads: usize,
    },
    /// Only whole cores are given away, and too few are whole.
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {wanted}, CPUs per core = {threads}"
    )]
    FewWholeCores {
        /// How many are wanted.
        wanted: usize,
        /// How many are in cores that are free.
        free: usize,
        /// CPUs in a core.
        threads: usize,
    },
}

impl From<CpuError> for Rejection {
    fn from(error: CpuError) -> Rejection {
        match error {
            CpuError::NotEnough(_) => Rejection {
                reason: "UnexpectedAdmissionError".to_owned(),
                message: format!("Allocate failed due to {error}, which is unexpected"),
            },
            CpuError::PartsOfCores { .. } | CpuError::FewWholeCores { .. } => {
                Rejection { reason: "SMTAlignmentError".to_owned(), message: error.to_string() }
            }
        }
    }
}

/// Whole CPUs that a container is to have for itself; 0 when it shares.
pub fn exclusive(owner: &Pod, container: &Container) -> usize {
    // Containers of a pod whose limits are those of the whole pod share, as upstream's do.
    if qos_class(owner) != QosClass::Guaranteed || pod::spec(owner).resources.is_some() {
        return 0;
    }
    let resources = container.resources.as_ref();
    let asked = resources.and_then(|own| {
        let requested = own.requests.as_ref().and_then(|requests| requests.get("cpu"));
        requested.or_else(|| own.limits.as_ref()?.get("cpu"))
    });
    let milli = asked.map_or(0, |asked| Amount::of(asked).milli());
    if milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 }
}

/// Whole CPUs that the containers of a pod are to have for themselves at any time.
pub fn exclusive_together(owner: &Pod, members: &[Member]) -> usize {
    let (mut most, mut sidecars, mut mains) = (0, 0, 0);
    for member in members {
        let own = exclusive(owner, &member.container);
        match member.role {
            Role::Init => most = most.max(sidecars + own),
            Role::Sidecar => sidecars += own,
            Role::Main => mains += own,
            Role::Ephemeral => {}
        }
    }
    most.max(sidecars + mains)
}

/// The policy.
#[derive(Clone, Debug, Default)]
pub struct StaticCpus {
    /// What nobody has for itself.
    pub reserved: CpuSet,
    /// How it gives.
    pub options: CpuOptions,
}

impl StaticCpus {
    /// What nobody has for itself.
    pub fn shared(&self, machine: &Topology, owners: &Owners) -> CpuSet {
        let owned = owned(owners, |_| true);
        let rest = machine.all().without(&owned);
        if !self.options.strict_cpu_reservation {
            return rest;
        }
        let rest = rest.without(&self.reserved);
        // A container has to run somewhere, and never on what another one has for itself.
        if rest.is_empty() { self.reserved.clone() } else { rest }
    }

    /// What can be given away.
    pub fn free(&self, machine: &Topology, owners: &Owners) -> CpuSet {
        machine.all().without(&owned(owners, |_| true)).without(&self.reserved)
    }

    /// Which memory nodes have enough CPUs of those that are free or can be had again.
    pub fn hints(&self, machine: &Topology, free: &CpuSet, wanted: usize, reusable: &CpuSet) -> Hints {
        if wanted == 0 {
            return None;
        }
        let nodes: CpuSet = machine.nodes.keys().copied().collect();
        let (all, candidates) = (machine.all(), free.plus(reusable));
        let able: Vec<CpuSet> =
            subsets(&nodes).into_iter().filter(|nodes| machine.on_nodes(&all, nodes).len() >= wanted).collect();
        let fewest = able.iter().map(CpuSet::len).min().unwrap_or(nodes.len());
        let could = able.into_iter().filter(|nodes| machine.on_nodes(&candidates, nodes).len() >= wanted);
        let sockets = machine.count(|cpu| cpu.socket).max(1);
        let nodes_of_socket = (nodes.len() / sockets).max(1);
        let hint = |nodes: CpuSet| {
            let spanned: CpuSet =
                machine.cpus.values().filter(|cpu| nodes.contains(cpu.node)).map(|cpu| cpu.socket).collect();
            let by_socket = spanned.len() == fewest.div_ceil(nodes_of_socket);
            let preferred = if self.options.align_by_socket { by_socket } else { nodes.len() == fewest };
            Hint { nodes, preferred }
        };
        Some(could.map(hint).collect())
    }

    /// Chooses CPUs: of those that earlier init containers of the pod had, then of those that nobody has, on `nodes` as far
    /// as they last.
    pub fn choose(
        &self,
        machine: &Topology,
        free: &CpuSet,
        wanted: usize,
        reusable: &CpuSet,
        nodes: Option<&CpuSet>,
    ) -> Result<CpuSet, CpuError> {
        let threads = machine.threads();
        let mut candidates = free.plus(reusable);
        if self.options.full_pcpus_only {
            if !wanted.is_multiple_of(threads) {
                return Err(CpuError::PartsOfCores { wanted, threads });
            }
            // The other threads of a core that is reserved in part are nobody's.
            let core = |number: u32| machine.cpus.get(&number).map(|cpu| cpu.core);
            let cut: Vec<Option<u32>> = self.reserved.iter().map(core).collect();
            candidates = candidates.filter(|number| !cut.contains(&core(number)));
            if candidates.len() < wanted {
                return Err(CpuError::FewWholeCores { wanted, free: candidates.len(), threads });
            }
        }
        let reusable = reusable.both(&candidates);
        if reusable.len() >= wanted {
            candidates = reusable;
        }
        let how = How {
            across_nodes: self.options.distribute_cpus_across_numa,
            by_cache: self.options.prefer_align_cpus_by_uncorecache,
            group: if self.options.full_pcpus_only { threads } else { 1 },
        };
        let aligned = nodes.map(|nodes| machine.on_nodes(&candidates, nodes)).unwrap_or_default();
        let first = take(machine, &aligned, wanted.min(aligned.len()), how)?;
        let rest = take(machine, &candidates.without(&first), wanted - first.len(), how)
            .map_err(|_| NotEnough { wanted, free: candidates.len() })?;
        Ok(first.plus(&rest))
    }
}

/// What the pods have that `which` holds for.
pub fn owned(owners: &Owners, which: impl Fn(&str) -> bool) -> CpuSet {
    let pods = owners.iter().filter(|(uid, _)| which(uid));
    pods.flat_map(|(_, own)| own.values()).flat_map(CpuSet::iter).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::topology::tests::machine;
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a set")
    }

    #[test]
    fn whole_cpus_of_guaranteed_pods_are_exclusive() {
        let check = |resources: Value, whole: Value, expected: usize| {
            let owner: Pod = serde_json::from_value(json!({"spec": {"resources": whole,
                "containers": [{"name": "c", "resources": resources}]}}))
            .expect("a pod");
            assert_eq!(exclusive(&owner, &pod::spec(&owner).containers[0]), expected, "{resources}");
        };
        let limits = |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "1Gi"}});
        check(limits("2"), Value::Null, 2);
        check(limits("2000m"), Value::Null, 2);
        check(limits("1500m"), Value::Null, 0);
        check(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}), Value::Null, 0);
        check(json!({"limits": {"cpu": "2"}}), Value::Null, 0);
        check(limits("1"), limits("2"), 0);
    }

    #[test]
    fn cpus_are_chosen() {
        let check =
            |options: &[(&str, &str)], reserved: &str, free: &str, wanted: usize, reusable: &str, expected: &str| {
                let machine = machine(2, 1, 2, 2);
                let options = CpuOptions::parse(options.iter().copied()).expect("options");
                let policy = StaticCpus { reserved: set(reserved), options };
                let got = policy.choose(&machine, &set(free), wanted, &set(reusable), None);
                let got = got.map_or_else(|error| error.to_string(), |chosen| chosen.to_string());
                assert_eq!(got, expected, "{wanted} of {free}, {reusable} again");
            };
        // Cores are 0+4, 1+5 on the first socket and 2+6, 3+7 on the second.
        let whole = [("full-pcpus-only", "true")];
        check(&[], "0", "1-7", 2, "", "1,5");
        check(&[], "0", "1-3", 2, "4,5", "4-5");
        check(&[], "0", "1-3", 3, "4,5", "1,4-5");
        check(&[], "0", "1", 3, "4", "not enough cpus available to satisfy request: requested=3, available=2");
        check(&whole, "0", "1-7", 1, "", "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2");
        check(&whole, "0", "1-7", 6, "", "1-3,5-7");
        check(
            &whole,
            "0-1",
            "2-7",
            6,
            "",
            "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 4, requested CPUs = 6, CPUs per core = 2",
        );
    }

    #[test]
    fn nodes_are_asked_first() {
        let machine = machine(2, 1, 2, 2);
        let policy = StaticCpus { reserved: set("0"), options: CpuOptions::default() };
        let check = |wanted: usize, nodes: &str, expected: &str| {
            let free = policy.free(&machine, &Owners::new());
            let got = policy.choose(&machine, &free, wanted, &set(""), Some(&set(nodes))).expect("there are enough");
            assert_eq!(got.to_string(), expected);
        };
        check(2, "1", "2,6");
        check(1, "0", "4");
        check(5, "1", "2-4,6-7");
    }

    #[test]
    fn nodes_that_could_serve() {
        let check = |machine: &Topology, by_socket: &str, free: &str, wanted: usize, expected: &str| {
            let options = CpuOptions::parse([("align-by-socket", by_socket)]).expect("options");
            let policy = StaticCpus { reserved: CpuSet::default(), options };
            let hints = policy.hints(machine, &set(free), wanted, &CpuSet::default());
            let word = |hint: &Hint| format!("{}{}", hint.nodes, if hint.preferred { "!" } else { "" });
            let got = hints.map(|hints| hints.iter().map(word).collect::<Vec<_>>().join(" "));
            assert_eq!(got.unwrap_or_else(|| "any".to_owned()), expected, "{wanted} of {free}");
        };
        let two = machine(2, 1, 4, 1);
        check(&two, "false", "0-7", 0, "any");
        check(&two, "false", "0-7", 3, "0! 1! 0-1");
        check(&two, "false", "2-7", 3, "1! 0-1");
        check(&two, "false", "0-7", 5, "0-1!");
        check(&two, "false", "0-2,5-7", 4, "0-1");
        check(&two, "false", "0-1", 3, "");
        let four = machine(2, 2, 2, 1);
        check(&four, "true", "1,3-7", 2, "0-1! 2! 0,2 1-2 0-2 3! 0,3 1,3 0-1,3 2-3! 0,2-3 1-3 0-3");
    }

    #[test]
    fn the_rest_is_shared() {
        let machine = machine(1, 1, 4, 1);
        let check = |strict: &str, owns: &str, expected: &str| {
            let options = CpuOptions::parse([("strict-cpu-reservation", strict)]).expect("options");
            let policy = StaticCpus { reserved: set("0"), options };
            let owners = [("p".to_owned(), [("c".to_owned(), set(owns))].into())].into();
            assert_eq!(policy.shared(&machine, &owners).to_string(), expected);
        };
        check("false", "2-3", "0-1");
        check("true", "2-3", "1");
        check("true", "1-3", "0");
    }

    #[test]
    fn options_are_read() {
        let check = |given: &[(&str, &str)], expected: &str| {
            let read = CpuOptions::parse(given.iter().copied());
            assert_eq!(read.map_or_else(|error| error.to_string(), |_| String::new()), expected);
        };
        check(&[("full-pcpus-only", "true"), ("align-by-socket", "false")], "");
        check(&[("fast", "true")], "there is no CPU manager policy option \"fast\"");
        check(
            &[("full-pcpus-only", "yes")],
            "bad value for option \"full-pcpus-only\": \"yes\" is neither true nor false",
        );
        check(
            &[("prefer-align-cpus-by-uncorecache", "true"), ("distribute-cpus-across-numa", "true")],
            "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
        );
    }
}
