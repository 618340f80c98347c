//! Pods on machines of many shapes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::policy::{allocatable_memory, reserved};
use super::topology::Topology;
use super::topology::tests::machine;
use super::*;
use crate::ledger::Rejection;

fn open(machine: Topology, reserved: &str, folder: &Path) -> Placement {
    let reserved_cpus = reserved.parse().expect("a set");
    open_with(
        PlacementSettings { cpus: Some(CpuOptions::default()), reserved_cpus, ..Default::default() },
        machine,
        folder,
    )
}

fn open_with(settings: PlacementSettings, machine: Topology, folder: &Path) -> Placement {
    let policy = Policy::of(&settings, Totals { memory: 1 << 30, ..Totals::default() }, machine).expect("a policy");
    let given = policy.recall(folder);
    Placement { policy: Some(policy), given: Mutex::new(given), changed: Notify::new(), folder: folder.to_path_buf() }
}

fn enter(placement: &Placement, owner: &Pod) -> Result<(), Rejection> {
    let devices = Devices::open(PathBuf::from("/nowhere/plugins.json"));
    placement.enter(owner, Path::new("/nowhere"), &devices, true)
}

fn pod(uid: &str, init: &[u32], main: &[u32]) -> Pod {
    let of = |prefix: &str, list: &[u32]| -> Vec<Value> {
        let container = |(index, cpus): (usize, &u32)| {
            json!({"name": format!("{prefix}{index}"),
                "resources": {"limits": {"cpu": cpus.to_string(), "memory": "1Mi"}}})
        };
        list.iter().enumerate().map(container).collect()
    };
    let spec = json!({"initContainers": of("i", init), "containers": of("c", main)});
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).expect("a pod")
}

#[tokio::test]
async fn cpus_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let placement = open(machine(1, 1, 4, 1), "0", folder);
    let cpus = |placement: &Placement, uid: &str, name: &str| placement.cpus(uid, name).expect("a policy");
    enter(&placement, &pod("a", &[2], &[1, 1])).expect("there is room");
    assert_eq!((cpus(&placement, "a", "c0"), cpus(&placement, "a", "c1")), ("1".to_owned(), "2".to_owned()));
    assert_eq!((cpus(&placement, "a", "i0"), cpus(&placement, "b", "x")), ("1-2".to_owned(), "0,3".to_owned()));
    let rejected = enter(&placement, &pod("b", &[], &[2])).expect_err("no room");
    assert_eq!(
        (rejected.reason.as_str(), rejected.message.as_str()),
        (
            "UnexpectedAdmissionError",
            "Allocate failed due to not enough cpus available to satisfy request: requested=2, available=1, which is unexpected"
        )
    );
    enter(&placement, &pod("b", &[], &[1])).expect("there is room");
    assert_eq!((cpus(&placement, "b", "c0"), cpus(&placement, "d", "x")), ("3".to_owned(), "0".to_owned()));
    placement.save().await;
    placement.leave("a");
    assert_eq!(cpus(&placement, "d", "x"), "0-2");
    // A start later all is as it was kept; where a CPU is reserved meanwhile, its pod gets another one.
    let again = open(machine(1, 1, 4, 1), "0", folder);
    enter(&again, &pod("a", &[2], &[1, 1])).expect("it has them");
    assert_eq!((cpus(&again, "a", "c1"), cpus(&again, "b", "c0")), ("2".to_owned(), "3".to_owned()));
    again.keep_only(&["b".to_owned()].into());
    assert_eq!(cpus(&again, "d", "x"), "0-2");
    let narrower = open(machine(1, 1, 4, 1), "0,3", folder);
    enter(&narrower, &pod("b", &[], &[1])).expect_err("the other pod has the rest");
    narrower.leave("a");
    enter(&narrower, &pod("b", &[], &[1])).expect("there is room");
    assert_eq!(cpus(&narrower, "b", "c0"), "1");
}

/// Two nodes with four CPUs and 8 GiB each; CPU 0 and 1 GiB on the first node are reserved.
fn aligned(align: AlignPolicy, scope: AlignScope, folder: &Path) -> Placement {
    let settings = PlacementSettings {
        cpus: Some(CpuOptions::default()),
        reserved_cpus: "0".parse().expect("a set"),
        memory: Some("0:memory=1Gi".parse().expect("a reservation")),
        align,
        scope,
        ..Default::default()
    };
    open_with(settings, machine(2, 1, 4, 1), folder)
}

fn pod_of(uid: &str, containers: &[(u32, &str)]) -> Pod {
    let container = |(index, (cpus, memory)): (usize, &(u32, &str))| json!({"name": format!("c{index}"), "resources": {"limits": {"cpu": cpus.to_string(), "memory": memory}}});
    let list: Vec<Value> = containers.iter().enumerate().map(container).collect();
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"containers": list}})).expect("a pod")
}

#[tokio::test]
async fn cpus_and_memory_come_from_the_same_node() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |align, scope, before: &[(u32, &str)], wanted: &[(u32, &str)], expected: &str| {
        let placement = aligned(align, scope, folder.path());
        for (index, container) in before.iter().enumerate() {
            enter(&placement, &pod_of(&format!("before{index}"), &[*container])).expect("there is room");
        }
        let got = match enter(&placement, &pod_of("p", wanted)) {
            Err(rejection) => rejection.reason,
            Ok(()) => {
                let word = |index: usize| {
                    let name = format!("c{index}");
                    format!(
                        "{}@{}",
                        placement.own_cpus("p", &name),
                        placement.memory_nodes("p", &name).unwrap_or_default()
                    )
                };
                (0..wanted.len()).map(word).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(got, expected, "{align:?} {scope:?} {before:?} {wanted:?}");
    };
    use AlignPolicy::{BestEffort, None, Restricted, SingleNumaNode};
    use AlignScope::{Container, Pod};
    check(None, Container, &[], &[(2, "2Gi")], "1-2@0");
    // The first node's memory is gone: without alignment CPUs and memory are apart.
    check(None, Container, &[(1, "6Gi")], &[(2, "2Gi")], "2-3@1");
    for policy in [BestEffort, Restricted, SingleNumaNode] {
        check(policy, Container, &[(1, "6Gi")], &[(2, "2Gi")], "4-5@1");
    }
    check(SingleNumaNode, Container, &[], &[(5, "2Gi")], "TopologyAffinityError");
    check(Restricted, Container, &[], &[(5, "10Gi")], "1,4-7@0-1");
    check(Restricted, Container, &[], &[(5, "2Gi")], "TopologyAffinityError");
    // Two containers on two nodes, unless the whole pod is to be on one.
    check(SingleNumaNode, Container, &[], &[(3, "2Gi"), (3, "2Gi")], "1-3@0 4-6@1");
    check(SingleNumaNode, Pod, &[], &[(3, "2Gi"), (3, "2Gi")], "TopologyAffinityError");
    check(SingleNumaNode, Pod, &[], &[(2, "2Gi"), (2, "2Gi")], "4-5@1 6-7@1");
    check(None, Container, &[], &[(1, "16Gi")], "UnexpectedAdmissionError");
    // Pods that ask for nothing special are let in.
    check(SingleNumaNode, Container, &[], &[(0, "2Gi")], "@");

    let placement = aligned(Restricted, Container, folder.path());
    enter(&placement, &pod_of("p", &[(2, "7Gi")])).expect("there is room");
    placement.save().await;
    let again = aligned(Restricted, Container, folder.path());
    assert_eq!(again.own_memory("p", "c0"), placement.own_memory("p", "c0"));
    assert_eq!(enter(&again, &pod_of("q", &[(1, "9Gi")])).expect_err("not there").reason, "TopologyAffinityError");
    again.leave("p");
    enter(&again, &pod_of("q", &[(8, "9Gi")])).expect_err("a CPU is reserved");
}

#[test]
fn memory_is_reserved_by_node() {
    let check = |text: &str, kept: i64, expected: &str| {
        let reserved = text.parse().expect("a reservation");
        let got = allocatable_memory(&reserved, kept << 30, &machine(2, 1, 1, 1));
        let words = |own: &Bytes| (own["memory"] >> 30).to_string();
        let got = got.map(|nodes| nodes.values().map(words).collect::<Vec<_>>().join(" "));
        assert_eq!(got.unwrap_or_else(|error| error.to_string().chars().take(40).collect()), expected);
    };
    check("0:memory=1Gi;1:memory=2Gi", 3, "7 6");
    check("0:memory=1Gi", 3, "the total amount 1073741824 of type \"mem");
    check("2:memory=1Gi", 1, "1073741824 bytes of memory can't be rese");
    check("0:hugepages-2Mi=2Mi,memory=1Gi", 1, "2097152 bytes of hugepages-2Mi can't be ");
}

#[test]
fn reserved_cpus_are_found() {
    let check = |named: &str, milli: i64, expected: &str| {
        let settings = PlacementSettings {
            reserved_cpus: named.parse().expect("a set"),
            reserved: Reserved { cpu: milli, ..Reserved::default() },
            ..PlacementSettings::default()
        };
        let got = reserved(&settings, &machine(1, 1, 4, 2));
        assert_eq!(got.map_or_else(|error| error.to_string(), |set| set.to_string()), expected);
    };
    check("", 1500, "0,4");
    check("1-2", 0, "1-2");
    check("7-8", 0, "reserved CPUs 7-8 are not all among the CPUs of this machine, 0-7");
    check("", 0, "the static policy requires --reserved-cpus, or CPUs in --system-reserved or --kube-reserved");
    check("", 9000, "unable to reserve the required amount of CPUs: 9 of 0-7");
}

proptest! {
    #[test]
    fn nobody_shares_what_is_given_away(
        steps in prop::collection::vec((0_u32..6, 0_u32..4, prop::collection::vec(0_u32..4, 1..3), any::<bool>()), 1..40),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let placement = open(machine(2, 1, 3, 2), "0,6", folder.path());
        let reserved: CpuSet = "0,6".parse().expect("a set");
        for (number, init, main, leaves) in steps {
            let uid = number.to_string();
            if leaves {
                placement.leave(&uid);
            } else {
                drop(enter(&placement, &pod(&uid, &[init], &main)));
            }
            let owners = placement.given.lock().cpus.clone();
            let mut seen = CpuSet::default();
            for own in owners.values() {
                let mains = own.iter().filter(|(name, _)| name.starts_with('c')).map(|(_, cpus)| cpus);
                let count: usize = mains.clone().map(CpuSet::len).sum();
                let main: CpuSet = mains.flat_map(CpuSet::iter).collect();
                prop_assert_eq!(count, main.len(), "two containers of a pod have one CPU");
                let all: CpuSet = own.values().flat_map(CpuSet::iter).collect();
                prop_assert!(all.both(&seen).is_empty(), "two pods have one CPU");
                seen = seen.plus(&all);
            }
            prop_assert!(seen.both(&reserved).is_empty(), "what is reserved was given away");
            let shared: CpuSet = placement.cpus("nobody", "x").expect("a policy").parse().expect("a set");
            prop_assert!(shared.both(&seen).is_empty() && reserved.is_within(&shared));
        }
    }
}
