//! When a node is short of something. Pure: observations and the time are arguments.
//!
//! The words are the kubelet's: `memory.available<100Mi`, `nodefs.available<5%`, `nodefs.inodesFree<5%`,
//! `pid.available<5%`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::quantity::Amount;

/// A condition stays this long after the last time that its threshold was met; upstream's
/// `eviction-pressure-transition-period`.
const TRANSITION: Duration = Duration::from_secs(300);

/// What can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that could be given to pods.
    Memory,
    /// Space on the file system of the data folder.
    Disk,
    /// Inodes of that file system.
    Inodes,
    /// Numbers for processes and threads.
    Pids,
}

impl Signal {
    /// As thresholds name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::Disk => "nodefs.available",
            Signal::Inodes => "nodefs.inodesFree",
            Signal::Pids => "pid.available",
        }
    }

    /// As messages of evicted pods name what was short.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::Disk => "ephemeral-storage",
            Signal::Inodes => "inodes",
            Signal::Pids => "pids",
        }
    }

    /// The condition of the node.
    pub fn condition(self) -> &'static str {
        match self {
            Signal::Memory => "MemoryPressure",
            Signal::Disk | Signal::Inodes => "DiskPressure",
            Signal::Pids => "PIDPressure",
        }
    }
}

/// The least that must be there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    Amount(i64),
    Percent(f64),
}

/// One threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// What it is about.
    pub signal: Signal,
    least: Least,
    /// A soft one must be met for so long.
    pub grace: Option<Duration>,
}

/// Why thresholds can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// It has no `<`.
    #[error("{0:?} is not a threshold like memory.available<100Mi")]
    Shape(String),
    /// Nobody knows the signal.
    #[error("{0:?} is not a signal; there are memory.available, nodefs.available, nodefs.inodesFree and pid.available")]
    Signal(String),
    /// The amount is none.
    #[error("{0:?} is neither a quantity nor a percentage below 100")]
    Amount(String),
}

impl Threshold {
    /// Reads one threshold.
    pub fn parse(text: &str, grace: Option<Duration>) -> Result<Threshold, ThresholdError> {
        let (name, amount) = text.split_once('<').ok_or_else(|| ThresholdError::Shape(text.to_owned()))?;
        let all = [Signal::Memory, Signal::Disk, Signal::Inodes, Signal::Pids];
        let signal = all
            .into_iter()
            .find(|signal| signal.as_str() == name)
            .ok_or_else(|| ThresholdError::Signal(name.to_owned()))?;
        let wrong = || ThresholdError::Amount(amount.to_owned());
        let least = match amount.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse::<f64>().ok().filter(|percent| (0.0..100.0).contains(percent));
                Least::Percent(percent.ok_or_else(wrong)?)
            }
            None => {
                Least::Amount(Amount::parse(amount).map(Amount::value).filter(|least| *least >= 0).ok_or_else(wrong)?)
            }
        };
        Ok(Threshold { signal, least, grace })
    }

    /// The least amount for this capacity.
    pub fn least(&self, capacity: i64) -> i64 {
        match self.least {
            Least::Amount(amount) => amount,
            // Far below 2^53, and a byte more or less does not matter.
            Least::Percent(percent) => (capacity as f64 * percent / 100.0) as i64,
        }
    }

    fn is_met(&self, seen: &Observation) -> bool {
        seen.capacity > 0 && seen.available < self.least(seen.capacity)
    }
}

impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.least {
            Least::Amount(amount) => write!(f, "{}<{amount}", self.signal.as_str())?,
            Least::Percent(percent) => write!(f, "{}<{percent}%", self.signal.as_str())?,
        }
        match self.grace {
            Some(grace) => write!(f, " for {} s", grace.as_secs()),
            None => Ok(()),
        }
    }
}

/// The hard thresholds where nothing is said: upstream's for memory; the disk's are lower than upstream's, because small
/// machines have small disks.
pub fn defaults() -> Vec<Threshold> {
    let one = |signal, least| Threshold { signal, least, grace: None };
    vec![
        one(Signal::Memory, Least::Amount(100 << 20)),
        one(Signal::Disk, Least::Percent(5.0)),
        one(Signal::Inodes, Least::Percent(5.0)),
        one(Signal::Pids, Least::Percent(5.0)),
    ]
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Free.
    pub available: i64,
    /// In all; 0 when it is not counted.
    pub capacity: i64,
}

/// What was seen.
pub type Seen = BTreeMap<Signal, Observation>;

/// Remembers since when thresholds are met.
#[derive(Debug)]
pub struct Tracker {
    thresholds: Vec<Threshold>,
    met_since: Vec<Option<Instant>>,
    last_met: BTreeMap<Signal, Instant>,
}

impl Tracker {
    /// Nothing is met yet.
    pub fn new(thresholds: Vec<Threshold>) -> Tracker {
        Tracker { met_since: vec![None; thresholds.len()], thresholds, last_met: BTreeMap::new() }
    }

    /// Takes an observation; the threshold that something has to be done about, hard ones first, memory before the rest.
    pub fn observe(&mut self, seen: &Seen, now: Instant) -> Option<Threshold> {
        let mut due: Vec<&Threshold> = Vec::new();
        for (threshold, since) in self.thresholds.iter().zip(&mut self.met_since) {
            let met = seen.get(&threshold.signal).is_some_and(|seen| threshold.is_met(seen));
            *since = if met { Some(since.unwrap_or(now)) } else { None };
            let Some(since) = since else { continue };
            self.last_met.insert(threshold.signal, now);
            if threshold.grace.is_none_or(|grace| now - *since >= grace) {
                due.push(threshold);
            }
        }
        due.sort_by_key(|threshold| (threshold.grace.is_some(), threshold.signal));
        due.first().map(|threshold| (*threshold).clone())
    }

    /// The conditions of the node that hold.
    pub fn conditions(&self, now: Instant) -> BTreeSet<&'static str> {
        let recent = self.last_met.iter().filter(|(_, at)| now - **at < TRANSITION);
        recent.map(|(signal, _)| signal.condition()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        let check = |text: &str, capacity: i64, expected: Result<i64, &str>| {
            let least = Threshold::parse(text, None).map(|threshold| threshold.least(capacity));
            assert_eq!(
                least.map_err(|error| error.to_string().chars().take(20).collect::<String>()),
                expected.map_err(str::to_owned),
                "{text}"
            );
        };
        check("memory.available<100Mi", 0, Ok(100 << 20));
        check("nodefs.available<10%", 2000, Ok(200));
        check("pid.available<0.5%", 1000, Ok(5));
        check("memory.available", 0, Err("\"memory.available\" i"));
        check("cpu.available<1", 0, Err("\"cpu.available\" is n"));
        check("memory.available<many", 0, Err("\"many\" is neither a "));
        check("memory.available<100%", 0, Err("\"100%\" is neither a "));
    }

    #[test]
    fn soft_ones_wait_and_conditions_stay() {
        let hard = Threshold::parse("memory.available<100", None).expect("a threshold");
        let soft = Threshold::parse("memory.available<200", Some(Duration::from_secs(30))).expect("a threshold");
        let disk = Threshold::parse("nodefs.available<10%", None).expect("a threshold");
        let mut tracker = Tracker::new(vec![soft.clone(), disk.clone(), hard.clone()]);
        let begin = Instant::now();
        let mut check = |second: u64, memory: i64, free: i64, due: Option<&Threshold>, conditions: &[&str]| {
            let now = begin + Duration::from_secs(second);
            let seen = [
                (Signal::Memory, Observation { available: memory, capacity: 1000 }),
                (Signal::Disk, Observation { available: free, capacity: 100 }),
            ];
            assert_eq!(tracker.observe(&seen.into(), now).as_ref(), due, "{second}");
            assert_eq!(tracker.conditions(now).into_iter().collect::<Vec<_>>(), conditions, "{second}");
        };
        check(0, 500, 50, None, &[]);
        check(10, 150, 50, None, &["MemoryPressure"]);
        check(20, 250, 50, None, &["MemoryPressure"]);
        check(30, 150, 50, None, &["MemoryPressure"]);
        check(60, 150, 50, Some(&soft), &["MemoryPressure"]);
        check(61, 150, 5, Some(&disk), &["DiskPressure", "MemoryPressure"]);
        check(62, 50, 5, Some(&hard), &["DiskPressure", "MemoryPressure"]);
        check(361, 500, 50, None, &["DiskPressure", "MemoryPressure"]);
        check(362, 500, 50, None, &[]);
    }
}
