//! What of the node is granted to which pod: admission of new pods, resizes of running ones, and who is next when room is freed.
//!
//! One lock over small numbers, no task: whoever frees room grants it on to the resizes that wait, in the order of
//! their rank, and wakes their workers. Reasons and texts are upstream's (`pkg/kubelet/lifecycle/predicate.go`,
//! `pkg/kubelet/allocation`).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::resources::QosClass;

/// Amounts that a node has and pods ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of ephemeral storage.
    pub storage: i64,
}

impl Totals {
    fn named(self) -> [(&'static str, i64); 3] {
        [("cpu", self.cpu), ("memory", self.memory), ("ephemeral-storage", self.storage)]
    }

    fn plus(self, other: Totals) -> Totals {
        Totals {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            storage: self.storage.saturating_add(other.storage),
        }
    }
}

/// A port of the host that a pod takes: address (empty for all), protocol, number.
pub type HostPort = (String, String, u16);

/// What a pod takes of the node.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Its requests.
    pub totals: Totals,
    /// Its ports on the host.
    pub ports: Vec<HostPort>,
}

/// Why a new pod may not run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// As `status.reason` shows it.
    pub reason: String,
    /// As `status.message` shows it.
    pub message: String,
}

/// Who is served first among resizes that wait: the higher priority, the better class, the longer wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    priority: Reverse<i32>,
    class: u8,
    since: Timestamp,
}

impl Rank {
    /// The rank of a pod whose resize waits since `since`.
    pub fn new(priority: i32, class: QosClass, since: Timestamp) -> Rank {
        let class = match class {
            QosClass::Guaranteed => 0,
            QosClass::Burstable => 1,
            QosClass::BestEffort => 2,
        };
        Rank { priority: Reverse(priority), class, since }
    }
}

/// What becomes of a resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The pod may have it.
    Granted,
    /// Not now.
    Deferred(String),
    /// Never on this node.
    Infeasible(String),
}

#[derive(Debug)]
struct Entry {
    claim: Claim,
    waiting: Option<(Rank, Totals)>,
    wake: Arc<Notify>,
}

/// The node's book of grants.
#[derive(Debug)]
pub struct Ledger {
    capacity: Totals,
    max_pods: usize,
    entries: Mutex<BTreeMap<String, Entry>>,
}

/// A resource of which there is not enough: its name, what is asked, what others have, what there is.
struct Short(&'static str, i64, i64, i64);

/// Whether `wanted` fits beside `used`; what is not asked for is not looked at.
fn fits(wanted: Totals, used: Totals, capacity: Totals) -> Result<(), Short> {
    let lists = wanted.named().into_iter().zip(used.named()).zip(capacity.named());
    for (((name, wanted), (_, used)), (_, capacity)) in lists {
        if wanted > 0 && wanted > capacity.saturating_sub(used) {
            return Err(Short(name, wanted, used, capacity));
        }
    }
    Ok(())
}

fn used_beside(entries: &BTreeMap<String, Entry>, uid: &str) -> Totals {
    let others = entries.iter().filter(|(other, _)| *other != uid);
    others.fold(Totals::default(), |sum, (_, entry)| sum.plus(entry.claim.totals))
}

fn not_enough(Short(name, wanted, used, capacity): Short) -> String {
    format!("Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}")
}

/// Grants freed room to those who wait, in order; one that is too large holds up nobody behind it.
fn serve_waiting(entries: &mut BTreeMap<String, Entry>, capacity: Totals) {
    let mut queue: Vec<(Rank, String, Totals)> = entries
        .iter()
        .filter_map(|(uid, entry)| entry.waiting.map(|(rank, wanted)| (rank, uid.clone(), wanted)))
        .collect();
    queue.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    for (_, uid, wanted) in queue {
        if fits(wanted, used_beside(entries, &uid), capacity).is_ok()
            && let Some(entry) = entries.get_mut(&uid)
        {
            entry.claim.totals = wanted;
            entry.waiting = None;
            entry.wake.notify_one();
        }
    }
}

fn same_port(one: &HostPort, other: &HostPort) -> bool {
    let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    one.1 == other.1 && one.2 == other.2 && (one.0 == other.0 || any(&one.0) || any(&other.0))
}

impl Ledger {
    /// A node on which nothing is granted yet.
    pub fn new(capacity: Totals, max_pods: u32) -> Ledger {
        Ledger { capacity, max_pods: usize::try_from(max_pods).unwrap_or(usize::MAX), entries: Mutex::default() }
    }

    /// Takes in a pod that is new here, if there is room. `wake` is notified when a resize of it is granted later.
    pub fn admit(&self, uid: &str, claim: Claim, wake: &Arc<Notify>) -> Result<(), Rejection> {
        let mut entries = self.entries.lock();
        let reject = |reason: &str, message: String| Rejection { reason: reason.to_owned(), message };
        if !entries.contains_key(uid) && entries.len() >= self.max_pods {
            let short = Short(
                "pods",
                1,
                i64::try_from(entries.len()).unwrap_or(i64::MAX),
                i64::try_from(self.max_pods).unwrap_or(i64::MAX),
            );
            return Err(reject("OutOfpods", not_enough(short)));
        }
        if let Err(short) = fits(claim.totals, used_beside(&entries, uid), self.capacity) {
            return Err(reject(&format!("OutOf{}", short.0), not_enough(short)));
        }
        let taken = |port: &HostPort| {
            let others = entries.iter().filter(|(other, _)| *other != uid);
            others.flat_map(|(_, entry)| &entry.claim.ports).any(|other| same_port(port, other))
        };
        if claim.ports.iter().any(taken) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(reject("NodePorts", message.to_owned()));
        }
        entries.insert(uid.to_owned(), Entry { claim, waiting: None, wake: Arc::clone(wake) });
        // It may have had more before, when its worker was started again.
        serve_waiting(&mut entries, self.capacity);
        Ok(())
    }

    /// Takes in a pod that was granted this before.
    pub fn adopt(&self, uid: &str, claim: Claim, wake: &Arc<Notify>) {
        self.entries.lock().insert(uid.to_owned(), Entry { claim, waiting: None, wake: Arc::clone(wake) });
    }

    /// Asks for other amounts for a pod. A deferred one is granted, and its worker woken, as soon as there is room.
    pub fn resize(&self, uid: &str, wanted: Totals, rank: Rank) -> Answer {
        let mut entries = self.entries.lock();
        let infeasible = fits(wanted, Totals::default(), self.capacity);
        let beside = fits(wanted, used_beside(&entries, uid), self.capacity);
        let Some(entry) = entries.get_mut(uid) else {
            return Answer::Deferred("the pod has not been admitted yet".to_owned());
        };
        // What asks for no more than it has is always given, also on a node that is too full.
        let had = entry.claim.totals.named();
        let less = wanted.named().into_iter().zip(had).all(|((_, wanted), (_, had))| wanted <= had);
        entry.waiting = None;
        match (infeasible, beside) {
            _ if less => {}
            (Err(Short(name, wanted, _, capacity)), _) => {
                let text =
                    format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}");
                return Answer::Infeasible(text);
            }
            (Ok(()), Err(short)) => {
                entry.waiting = Some((rank, wanted));
                return Answer::Deferred(not_enough(short));
            }
            (Ok(()), Ok(())) => {}
        }
        entry.claim.totals = wanted;
        serve_waiting(&mut entries, self.capacity);
        Answer::Granted
    }

    /// Has the workers of these pods look again.
    pub fn wake(&self, uids: &[String]) {
        let entries = self.entries.lock();
        for entry in uids.iter().filter_map(|uid| entries.get(uid)) {
            entry.wake.notify_one();
        }
    }

    /// The pod uses nothing any more.
    pub fn release(&self, uid: &str) {
        let mut entries = self.entries.lock();
        if entries.remove(uid).is_some() {
            serve_waiting(&mut entries, self.capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpu(cpu: i64) -> Totals {
        Totals { cpu, ..Totals::default() }
    }

    fn claim(amount: i64) -> Claim {
        Claim { totals: cpu(amount), ports: Vec::new() }
    }

    fn rank(priority: i32, second: i64) -> Rank {
        Rank::new(priority, QosClass::Burstable, Timestamp::from_second(second).expect("a time"))
    }

    fn granted(ledger: &Ledger, uid: &str) -> i64 {
        ledger.entries.lock()[uid].claim.totals.cpu
    }

    #[test]
    fn new_pods_need_room() {
        let ledger = Ledger::new(cpu(1000), 2);
        let wake = Arc::default();
        ledger.admit("a", claim(600), &wake).expect("there is room");
        let rejected = ledger.admit("b", claim(500), &wake).expect_err("there is no room");
        assert_eq!(rejected.reason, "OutOfcpu");
        assert_eq!(
            rejected.message,
            "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"
        );
        ledger.admit("c", claim(0), &wake).expect("it asks for nothing");
        assert_eq!(ledger.admit("d", claim(0), &wake).expect_err("too many").reason, "OutOfpods");
        ledger.release("a");
        ledger.admit("b", claim(500), &wake).expect("there is room now");
    }

    #[test]
    fn ports_are_taken_once() {
        let ledger = Ledger::new(cpu(1000), 9);
        let wake = Arc::default();
        let port = |ip: &str| Claim { ports: vec![(ip.to_owned(), "TCP".to_owned(), 80)], ..Claim::default() };
        ledger.admit("a", port("10.0.0.1"), &wake).expect("it is free");
        ledger.admit("b", port("10.0.0.2"), &wake).expect("another address");
        assert_eq!(ledger.admit("c", port(""), &wake).expect_err("it is taken").reason, "NodePorts");
    }

    #[test]
    fn freed_room_goes_to_the_highest_rank() {
        let ledger = Ledger::new(cpu(1000), 9);
        let wake = Arc::default();
        for uid in ["a", "low", "high", "old"] {
            ledger.admit(uid, claim(250), &wake).expect("there is room");
        }
        assert_eq!(
            ledger.resize("a", cpu(1001), rank(0, 1)),
            Answer::Infeasible("Node didn't have enough capacity: cpu, requested: 1001, capacity: 1000".to_owned())
        );
        for (uid, priority, since) in [("low", 0, 5), ("high", 10, 9), ("old", 0, 1)] {
            assert!(matches!(ledger.resize(uid, cpu(400), rank(priority, since)), Answer::Deferred(_)));
        }
        ledger.release("a");
        assert_eq!([granted(&ledger, "high"), granted(&ledger, "old"), granted(&ledger, "low")], [400, 250, 250]);
        // Asking for less frees room for the next one.
        assert_eq!(ledger.resize("high", cpu(300), rank(10, 9)), Answer::Granted);
        assert_eq!([granted(&ledger, "old"), granted(&ledger, "low")], [400, 250]);
        assert_eq!(ledger.resize("old", cpu(400), rank(0, 1)), Answer::Granted, "what was granted stays so");
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(steps in prop::collection::vec((0_usize..5, 0_i64..700, 0_u8..3), 0..60)) {
            let ledger = Ledger::new(cpu(1000), 4);
            let wake = Arc::default();
            for (pod, amount, step) in steps {
                let uid = pod.to_string();
                match step {
                    0 => drop(ledger.admit(&uid, claim(amount), &wake)),
                    1 => drop(ledger.resize(&uid, cpu(amount), rank(0, 0))),
                    _ => ledger.release(&uid),
                }
                let entries = ledger.entries.lock();
                prop_assert!(used_beside(&entries, "").cpu <= 1000 && entries.len() <= 4);
                // Nobody waits for room that is there.
                for (uid, entry) in entries.iter() {
                    if let Some((_, wanted)) = entry.waiting {
                        prop_assert!(fits(wanted, used_beside(&entries, uid), cpu(1000)).is_err());
                    }
                }
            }
        }
    }
}
