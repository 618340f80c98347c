//! Which pod goes first when something is short. Pure. Source: `pkg/kubelet/eviction/helpers.go`.

use std::cmp::{Ordering, Reverse};

use super::threshold::Signal;

/// What one container uses of what is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Bytes of memory in use.
    pub memory: u64,
    /// Bytes of memory asked for.
    pub memory_request: u64,
    /// Bytes on disk.
    pub disk: u64,
    /// Bytes of disk asked for.
    pub disk_request: u64,
    /// Inodes.
    pub inodes: u64,
}

/// A pod that might go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// Its containers.
    pub parts: Vec<Part>,
    /// Processes and threads.
    pub processes: u64,
}

impl Candidate {
    fn sum(&self, pick: fn(&Part) -> u64) -> u64 {
        self.parts.iter().map(pick).sum()
    }

    /// What it uses and what it has asked for.
    fn amounts(&self, signal: Signal) -> (u64, u64) {
        match signal {
            Signal::Memory => (self.sum(|part| part.memory), self.sum(|part| part.memory_request)),
            Signal::Disk => (self.sum(|part| part.disk), self.sum(|part| part.disk_request)),
            Signal::Inodes => (self.sum(|part| part.inodes), 0),
            Signal::Pids => (self.processes, 0),
        }
    }
}

/// The order in which pods go: those over their request, then lower priority, then who uses most beyond its request.
fn compare(signal: Signal, one: &Candidate, other: &Candidate) -> Ordering {
    let key = |candidate: &Candidate| {
        let (used, asked) = candidate.amounts(signal);
        let exceeds = signal == Signal::Pids || used > asked;
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        (Reverse(exceeds), candidate.priority, Reverse(signed(used).saturating_sub(signed(asked))))
    };
    key(one).cmp(&key(other)).then_with(|| one.uid.cmp(&other.uid))
}

/// The pod that goes first.
pub fn first(signal: Signal, candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(|one, other| compare(signal, one, other))
}

/// What the pod's status says. The words are upstream's.
pub fn message(signal: Signal, least: i64, available: i64, evicted: &Candidate) -> String {
    let resource = signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        shown(signal, least),
        shown(signal, available)
    );
    for part in &evicted.parts {
        let (used, asked) = match signal {
            Signal::Memory => (part.memory, part.memory_request),
            Signal::Disk => (part.disk, part.disk_request),
            // Processes and inodes are not asked for.
            Signal::Inodes | Signal::Pids => continue,
        };
        if used > asked {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                part.name,
                kibibytes(used),
                if asked == 0 { "0".to_owned() } else { kibibytes(asked) },
            ));
        }
    }
    text
}

fn kibibytes(bytes: u64) -> String {
    format!("{}Ki", bytes / 1024)
}

fn shown(signal: Signal, amount: i64) -> String {
    match signal {
        Signal::Memory | Signal::Disk => format!("{}Ki", amount / 1024),
        Signal::Inodes | Signal::Pids => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32, memory: u64, request: u64, processes: u64) -> Candidate {
        let part = Part { name: "c".into(), memory, memory_request: request, disk: memory, ..Part::default() };
        Candidate { uid: uid.into(), priority, parts: vec![part], processes }
    }

    #[test]
    fn who_goes_first() {
        let check = |signal: Signal, pods: &[Candidate], expected: &str| {
            assert_eq!(first(signal, pods.to_vec()).map(|pod| pod.uid).as_deref(), Some(expected), "{pods:?}");
        };
        let within = pod("within", 0, 500, 1000, 1);
        let over = pod("over", 100, 300, 200, 5);
        let more = pod("more", 100, 400, 200, 2);
        let low = pod("low", -1, 10, 5, 3);
        check(Signal::Memory, &[within.clone(), over.clone()], "over");
        check(Signal::Memory, &[over.clone(), more.clone()], "more");
        check(Signal::Memory, &[over.clone(), low.clone(), more.clone()], "low");
        check(Signal::Disk, &[within.clone(), over.clone()], "within");
        check(Signal::Pids, &[over.clone(), more.clone()], "over");
        check(Signal::Pids, &[over, low, within], "low");
        assert_eq!(first(Signal::Memory, Vec::new()), None);
        let text = message(Signal::Memory, 100 << 20, 50 << 20, &pod("p", 0, 2 << 20, 0, 0));
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 102400Ki, available: 51200Ki. \
             Container c was using 2048Ki, request is 0, has larger consumption of memory. "
        );
    }
}
