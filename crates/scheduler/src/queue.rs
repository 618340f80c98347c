//! Pods that wait for a node.
//!
//! ```text
//!   new ──> active ──pop──> in flight ──bound──> gone
//!             ^                 │ does not fit or cannot be bound
//!             │ back-off over   v
//!          backing off <── unschedulable ── gated pods stay here until their gates are gone
//!                    an event that may help, or five minutes
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pod::{PodInfo, Shown};

/// After this long a pod is tried again although nothing happened, as upstream.
const GIVE_ANOTHER_TRY: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Reverse<i32>, u64),
    BackingOff(Instant, u64),
    /// Waits for an event, at the latest until then; `None` for a gated pod.
    Unschedulable(Option<(Instant, u64)>),
    InFlight,
}

/// A pod that waits, and how it has fared.
#[derive(Debug)]
pub struct Waiting {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// What its status shows of it.
    pub shown: Shown,
    attempts: u32,
    /// Until when it must not be tried again.
    not_before: Instant,
    obstacles: u16,
    /// Events that came while it was in flight.
    missed: u16,
    place: Place,
}

/// The queue. Time is an argument, so that tests need none.
#[derive(Debug)]
pub struct Queue {
    /// First wait after a failure; it doubles with each.
    first_backoff: Duration,
    /// Longest wait after a failure.
    longest_backoff: Duration,
    pods: HashMap<Arc<str>, Waiting>,
    active: BTreeMap<(Reverse<i32>, u64), Arc<str>>,
    backing_off: BTreeMap<(Instant, u64), Arc<str>>,
    resting: BTreeMap<(Instant, u64), Arc<str>>,
    serial: u64,
}

impl Queue {
    /// An empty queue with these waits after failures.
    pub fn new(first_backoff: Duration, longest_backoff: Duration) -> Self {
        Self {
            first_backoff,
            longest_backoff,
            pods: HashMap::new(),
            active: BTreeMap::new(),
            backing_off: BTreeMap::new(),
            resting: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Uids of all pods that wait.
    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.keys()
    }

    /// A pod that waits.
    pub fn get(&self, uid: &str) -> Option<&Waiting> {
        self.pods.get(uid)
    }

    fn leave(&mut self, uid: &str) {
        match self.pods.get(uid).map(|waiting| waiting.place) {
            Some(Place::Active(priority, serial)) => drop(self.active.remove(&(priority, serial))),
            Some(Place::BackingOff(at, serial)) => drop(self.backing_off.remove(&(at, serial))),
            Some(Place::Unschedulable(Some(at))) => drop(self.resting.remove(&at)),
            Some(Place::Unschedulable(None) | Place::InFlight) | None => {}
        }
    }

    fn activate(&mut self, uid: &Arc<str>, now: Instant) {
        self.leave(uid);
        self.serial += 1;
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        if waiting.not_before > now {
            waiting.place = Place::BackingOff(waiting.not_before, self.serial);
            self.backing_off.insert((waiting.not_before, self.serial), uid.clone());
        } else {
            waiting.place = Place::Active(Reverse(waiting.pod.priority), self.serial);
            self.active.insert((Reverse(waiting.pod.priority), self.serial), uid.clone());
        }
    }

    fn rest(&mut self, uid: &Arc<str>, until: Option<Instant>) {
        self.leave(uid);
        self.serial += 1;
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        let place = until.map(|until| (until, self.serial));
        waiting.place = Place::Unschedulable(place);
        if let Some(place) = place {
            self.resting.insert(place, uid.clone());
        }
    }

    /// Takes a pending pod as it is now. A change of its status alone wakes nothing.
    pub fn set(&mut self, pod: PodInfo, shown: Shown, now: Instant) {
        let uid = pod.uid.clone();
        let gated = pod.gated;
        match self.pods.get_mut(&uid) {
            Some(waiting) => {
                waiting.shown = shown;
                if *waiting.pod == pod {
                    return;
                }
                waiting.pod = Arc::new(pod);
                if waiting.place == Place::InFlight {
                    waiting.missed = u16::MAX;
                    return;
                }
                waiting.not_before = now;
            }
            None => {
                let waiting = Waiting {
                    pod: Arc::new(pod),
                    shown,
                    attempts: 0,
                    not_before: now,
                    obstacles: 0,
                    missed: 0,
                    place: Place::Unschedulable(None),
                };
                self.pods.insert(uid.clone(), waiting);
            }
        }
        if gated { self.rest(&uid, None) } else { self.activate(&uid, now) }
    }

    /// Forgets a pod that is bound, gone or not ours any more.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.leave(uid);
        self.pods.remove(uid).map(|waiting| waiting.pod)
    }

    /// The next pod to decide about: the most important one, of equals the one that waits longest.
    pub fn pop(&mut self, now: Instant) -> Option<(Arc<PodInfo>, Shown)> {
        self.wake(now);
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid)?;
        waiting.place = Place::InFlight;
        waiting.missed = 0;
        Some((waiting.pod.clone(), waiting.shown.clone()))
    }

    /// Moves what has waited long enough.
    fn wake(&mut self, now: Instant) {
        while let Some((&(at, _), uid)) = self.backing_off.first_key_value() {
            if at > now {
                break;
            }
            let uid = uid.clone();
            self.activate(&uid, now);
        }
        while let Some((&(at, _), uid)) = self.resting.first_key_value() {
            if at > now {
                break;
            }
            let uid = uid.clone();
            self.activate(&uid, now);
        }
    }

    /// When `pop` has something to give again by the clock alone.
    pub fn next_wake(&self) -> Option<Instant> {
        let first = |map: &BTreeMap<(Instant, u64), Arc<str>>| map.first_key_value().map(|(&(at, _), _)| at);
        first(&self.backing_off).into_iter().chain(first(&self.resting)).min()
    }

    /// Puts back a pod that was popped and did not get a node.
    pub fn failed(&mut self, uid: &Arc<str>, obstacles: u16, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.attempts += 1;
        waiting.obstacles = obstacles;
        let factor = 1_u32 << (waiting.attempts - 1).min(16);
        waiting.not_before = now + self.first_backoff.saturating_mul(factor).min(self.longest_backoff);
        let helped = waiting.missed & obstacles != 0;
        let gated = waiting.pod.gated;
        if gated {
            self.rest(uid, None);
        } else if helped || obstacles & crate::filter::obstacle::BINDING != 0 {
            self.activate(uid, now);
        } else {
            self.rest(uid, Some(now + GIVE_ANOTHER_TRY));
        }
    }

    /// Has a pod that rests tried again.
    pub fn retry(&mut self, uid: &Arc<str>, now: Instant) {
        if matches!(self.pods.get(uid).map(|waiting| waiting.place), Some(Place::Unschedulable(Some(_)))) {
            self.activate(uid, now);
        }
    }

    /// Wakes the pods that were kept back by one of `obstacles`.
    pub fn helped(&mut self, obstacles: u16, now: Instant) {
        let obstacles = obstacles | crate::filter::obstacle::EXTENDERS;
        let mut woken: Vec<Arc<str>> = Vec::new();
        for (uid, waiting) in &mut self.pods {
            match waiting.place {
                Place::Unschedulable(Some(_)) if waiting.obstacles & obstacles != 0 => woken.push(uid.clone()),
                Place::InFlight => waiting.missed |= obstacles,
                _ => {}
            }
        }
        for uid in woken {
            self.activate(&uid, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::filter::obstacle;
    use crate::pod::tests::pod;

    const FIRST_BACKOFF: Duration = Duration::from_secs(1);
    const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

    fn waiting(queue: &mut Queue, name: &str, priority: i32, now: Instant) {
        queue.set(pod(name, json!({"priority": priority})), Shown::default(), now);
    }

    fn popped(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|(pod, _)| pod.name.to_string())
    }

    #[test]
    fn order_and_back_off() {
        let (mut queue, start) = (Queue::new(FIRST_BACKOFF, LONGEST_BACKOFF), Instant::now());
        for (name, priority) in [("a", 0), ("b", 0), ("c", 5)] {
            waiting(&mut queue, name, priority, start);
        }
        assert_eq!(popped(&mut queue, start).as_deref(), Some("c"));
        assert_eq!(popped(&mut queue, start).as_deref(), Some("a"));
        queue.failed(&"a".into(), obstacle::RESOURCES, start);
        assert_eq!(popped(&mut queue, start).as_deref(), Some("b"));
        queue.remove("b");
        queue.helped(obstacle::NODE, start);
        assert_eq!(queue.next_wake(), Some(start + GIVE_ANOTHER_TRY));
        queue.helped(obstacle::RESOURCES, start);
        assert_eq!(popped(&mut queue, start), None, "it backs off for a second");
        assert_eq!(queue.next_wake(), Some(start + FIRST_BACKOFF));
        assert_eq!(popped(&mut queue, start + FIRST_BACKOFF).as_deref(), Some("a"));
    }

    #[test]
    fn events_in_flight_are_not_lost() {
        let (mut queue, start) = (Queue::new(FIRST_BACKOFF, LONGEST_BACKOFF), Instant::now());
        waiting(&mut queue, "a", 0, start);
        assert!(popped(&mut queue, start).is_some());
        queue.helped(obstacle::NODE, start);
        queue.failed(&"a".into(), obstacle::NODE, start);
        assert_eq!(queue.next_wake(), Some(start + FIRST_BACKOFF));
    }

    #[test]
    fn gates_hold_and_let_go() {
        let (mut queue, start) = (Queue::new(FIRST_BACKOFF, LONGEST_BACKOFF), Instant::now());
        queue.set(pod("g", json!({"schedulingGates": [{"name": "x"}]})), Shown::default(), start);
        queue.helped(u16::MAX, start);
        assert_eq!((popped(&mut queue, start), queue.next_wake()), (None, None));
        queue.set(pod("g", json!({})), Shown::default(), start);
        assert_eq!(popped(&mut queue, start).as_deref(), Some("g"));
    }

    #[test]
    fn a_status_change_wakes_nothing() {
        let (mut queue, start) = (Queue::new(FIRST_BACKOFF, LONGEST_BACKOFF), Instant::now());
        waiting(&mut queue, "a", 0, start);
        assert!(popped(&mut queue, start).is_some());
        queue.failed(&"a".into(), obstacle::RESOURCES, start);
        waiting(&mut queue, "a", 0, start + LONGEST_BACKOFF);
        assert_eq!(popped(&mut queue, start + LONGEST_BACKOFF), None);
        waiting(&mut queue, "a", 1, start + LONGEST_BACKOFF);
        assert!(popped(&mut queue, start + LONGEST_BACKOFF).is_some());
    }
}
