//! The places of the server: how many each level has, who waits, and whose turn it is.
//!
//! A level may use its own share, and beyond it what others lend and do not need. Requests that find no place wait in
//! queues: a flow is dealt a hand of a few queues and takes the shortest, so that a flooding flow fills its own hand and
//! leaves others a queue. A place that becomes free goes to the queue that has been served least.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

/// The part of a level's places, in per cent, that one request may take, as upstream.
const MOST_OF_A_LEVEL: u64 = 15;

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LevelConfig {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    /// `None` for levels whose requests are never held up.
    limited: Option<Limited>,
}

#[derive(Clone, Debug, PartialEq)]
struct Limited {
    shares: u64,
    lent_percent: u64,
    /// `None` when requests beyond the limit are refused.
    queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queuing {
    queues: usize,
    hand: usize,
    length: usize,
}

impl LevelConfig {
    pub(super) fn of(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let limited = (spec["type"] == "Limited").then(|| {
            let limited = &spec["limited"];
            let response = &limited["limitResponse"];
            let number = |field: &str, or: u64| {
                usize::try_from(response["queuing"][field].as_u64().unwrap_or(or)).unwrap_or(usize::MAX)
            };
            // Validation bounds these; what is stored is believed only as far as memory goes.
            let queues = number("queues", 64).clamp(1, 1024);
            Limited {
                shares: limited["nominalConcurrencyShares"].as_u64().unwrap_or(30),
                lent_percent: limited["lendablePercent"].as_u64().unwrap_or(0).min(100),
                queuing: (response["type"] == "Queue").then(|| Queuing {
                    queues,
                    hand: number("handSize", 8).clamp(1, queues),
                    length: number("queueLengthLimit", 50).min(10_000),
                }),
            }
        });
        Some(Self {
            name: object["metadata"]["name"].as_str()?.to_owned(),
            uid: HeaderValue::from_str(object["metadata"]["uid"].as_str()?).ok()?,
            limited,
        })
    }
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All places are taken and nobody may wait.
    Limit = 0,
    /// All places are taken and too many wait.
    Full = 1,
    /// It waited as long as it may.
    Late = 2,
}

/// What a level has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) name: String,
    pub(super) nominal: u64,
    pub(super) used: u64,
    pub(super) waiting: u64,
    pub(super) dispatched: u64,
    pub(super) refused: [u64; 3],
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    seats: u64,
    tell: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// How much this queue has been served, counted from where the level stood when it last began to wait.
    served: u64,
}

#[derive(Debug, Default)]
struct Level {
    counts: Counts,
    exempt: bool,
    lent: u64,
    queuing: Option<Queuing>,
    queues: Vec<Queue>,
    /// How much the queue that was served last had been served.
    clock: u64,
}

#[derive(Debug, Default)]
struct State {
    levels: Vec<Level>,
    next: u64,
}

/// The places of a server.
#[derive(Debug)]
pub(super) struct Places {
    total: u64,
    state: Mutex<State>,
}

/// A place of one or more seats; they are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    level: Option<String>,
    seats: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(level) = &self.level {
            self.places.give_back(level, self.seats);
        }
    }
}

/// A request that waits. Dropped, it leaves its queue, or gives back the place that it was just given.
struct Waiting {
    places: Arc<Places>,
    level: String,
    number: u64,
    seats: u64,
    done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done && !self.places.leave(&self.level, self.number) {
            self.places.give_back(&self.level, self.seats);
        }
    }
}

impl Places {
    pub(super) fn new(total: usize) -> Self {
        Self { total: total as u64, state: Mutex::default() }
    }

    /// Takes over new levels. Who works or waits goes on: a level that stays keeps both.
    pub(super) fn configure(&self, configs: &[LevelConfig]) {
        let shares: u64 =
            configs.iter().filter_map(|config| config.limited.as_ref()).map(|limited| limited.shares).sum();
        let mut state = self.state.lock();
        let mut old = std::mem::take(&mut state.levels);
        for config in configs {
            let at = old.iter().position(|level| level.counts.name == config.name);
            let mut level = at.map(|at| old.swap_remove(at)).unwrap_or_default();
            level.counts.name.clone_from(&config.name);
            level.exempt = config.limited.is_none() || self.total == 0;
            if let Some(limited) = &config.limited {
                level.counts.nominal = (self.total * limited.shares).div_ceil(shares.max(1));
                level.lent = level.counts.nominal * limited.lent_percent / 100;
                if level.queuing != limited.queuing {
                    level.queuing = limited.queuing;
                    // Those who wait keep their order, in the first of the new queues.
                    let waiters = level.queues.drain(..).flat_map(|queue| queue.waiters).collect();
                    let count = limited.queuing.map_or(0, |queuing| queuing.queues);
                    level.queues.resize_with(count.max(1), Queue::default);
                    level.queues[0].waiters = waiters;
                }
            }
            state.levels.push(level);
        }
        // Levels that are gone, but not yet empty, end with their last request.
        old.retain(|level| level.counts.used + level.counts.waiting > 0);
        state.levels.extend(old);
        state.dispatch(self.total);
    }

    /// A place in a level for a request of a flow that takes so many seats. It gets no more than a level of this size gives
    /// to one request.
    pub(super) async fn take(
        self: &Arc<Self>,
        name: &str,
        flow: u64,
        seats: u64,
        longest: Duration,
    ) -> Result<Place, Refused> {
        let place =
            |level: Option<&str>, seats| Place { places: Arc::clone(self), level: level.map(str::to_owned), seats };
        let (number, seats, told) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let Some(at) = state.levels.iter().position(|level| level.counts.name == name) else {
                return Ok(place(None, 0));
            };
            if state.levels[at].exempt {
                state.levels[at].counts.dispatched += 1;
                return Ok(place(None, 0));
            }
            let seats = seats.min(state.levels[at].widest());
            if state.levels[at].counts.waiting == 0 && state.has_place(at, seats, self.total) {
                let counts = &mut state.levels[at].counts;
                counts.used += seats;
                counts.dispatched += 1;
                return Ok(place(Some(name), seats));
            }
            state.next += 1;
            let number = state.next;
            (number, seats, state.levels[at].wait(flow, number, seats)?)
        };
        let mut waiting = Waiting { places: Arc::clone(self), level: name.to_owned(), number, seats, done: false };
        match tokio::time::timeout(longest, told).await {
            Ok(Ok(())) => {
                waiting.done = true;
                Ok(place(Some(name), seats))
            }
            // The sender is dropped only with the level's queues, which then nobody serves.
            Ok(Err(_)) => {
                waiting.done = true;
                Err(Refused::Late)
            }
            Err(_) => {
                if !self.leave(name, number) {
                    // Its turn came at the last moment.
                    waiting.done = true;
                    return Ok(place(Some(name), seats));
                }
                waiting.done = true;
                if let Some(level) = self.state.lock().levels.iter_mut().find(|level| level.counts.name == name) {
                    level.counts.refused[Refused::Late as usize] += 1;
                }
                Err(Refused::Late)
            }
        }
    }

    /// Takes a waiter out of its queue; false when it is not there, because its turn has come.
    fn leave(&self, name: &str, number: u64) -> bool {
        let mut state = self.state.lock();
        let Some(level) = state.levels.iter_mut().find(|level| level.counts.name == name) else { return false };
        for queue in &mut level.queues {
            if let Some(at) = queue.waiters.iter().position(|waiter| waiter.number == number) {
                queue.waiters.remove(at);
                level.counts.waiting -= 1;
                return true;
            }
        }
        false
    }

    fn give_back(&self, name: &str, seats: u64) {
        let mut state = self.state.lock();
        if let Some(level) = state.levels.iter_mut().find(|level| level.counts.name == name) {
            level.counts.used = level.counts.used.saturating_sub(seats);
        }
        state.dispatch(self.total);
    }

    pub(super) fn counts(&self) -> Vec<Counts> {
        self.state.lock().levels.iter().map(|level| level.counts.clone()).collect()
    }
}

impl State {
    /// Whether a level may use so many more seats: of its own, or of those that others lend and have not in use.
    fn has_place(&self, at: usize, seats: u64, total: u64) -> bool {
        let own = &self.levels[at].counts;
        // A level without any share still gets one request after the other.
        if own.used == 0 || own.used + seats <= own.nominal {
            return true;
        }
        let used: u64 = self.levels.iter().map(|level| level.counts.used).sum();
        let reserved = |level: &Level| (level.counts.nominal - level.lent).saturating_sub(level.counts.used);
        let others = self.levels.iter().enumerate().filter(|(other, level)| *other != at && !level.exempt);
        let kept: u64 = others.map(|(_, level)| reserved(level)).sum();
        used + kept + seats <= total
    }

    /// Gives free places to those who wait.
    fn dispatch(&mut self, total: u64) {
        for at in 0..self.levels.len() {
            while let Some((queue, seats)) = self.levels[at].turn() {
                // A wide request holds up those behind it, or it would never find its seats free together.
                if !self.levels[at].exempt && !self.has_place(at, seats, total) {
                    break;
                }
                let Some(waiter) = self.levels[at].next(queue) else { break };
                // One that has just gone away leaves the place to the next.
                if waiter.tell.send(()).is_ok() {
                    let counts = &mut self.levels[at].counts;
                    counts.used += seats;
                    counts.dispatched += 1;
                }
            }
        }
    }
}

impl Level {
    /// The most seats that one request gets: a level must be able to work on several.
    fn widest(&self) -> u64 {
        (self.counts.nominal * MOST_OF_A_LEVEL).div_ceil(100).max(1)
    }

    /// Lets a request wait in the shortest queue of its flow's hand.
    fn wait(&mut self, flow: u64, number: u64, seats: u64) -> Result<oneshot::Receiver<()>, Refused> {
        let refuse = |level: &mut Level, reason: Refused| {
            level.counts.refused[reason as usize] += 1;
            Err(reason)
        };
        let Some(queuing) = self.queuing else { return refuse(self, Refused::Limit) };
        let hand = deal(flow, queuing.queues, queuing.hand);
        let shortest = hand.into_iter().min_by_key(|index| self.queues[*index].waiters.len());
        let Some(index) = shortest.filter(|index| self.queues[*index].waiters.len() < queuing.length) else {
            return refuse(self, Refused::Full);
        };
        let clock = self.clock;
        let queue = &mut self.queues[index];
        if queue.waiters.is_empty() {
            // Having been idle gives no claim to more than one's turn.
            queue.served = queue.served.max(clock);
        }
        let (tell, told) = oneshot::channel();
        queue.waiters.push_back(Waiter { number, seats, tell });
        self.counts.waiting += 1;
        Ok(told)
    }

    /// Whose turn it is: the queue that has been served least, and the seats that its first request wants.
    fn turn(&self) -> Option<(usize, u64)> {
        let queues = self.queues.iter().enumerate();
        let waiting = queues.filter_map(|(at, queue)| Some((at, queue.served, queue.waiters.front()?.seats)));
        waiting.min_by_key(|(_, served, _)| *served).map(|(at, _, seats)| (at, seats))
    }

    /// The first of a queue; the queue has been served as much as the request is wide.
    fn next(&mut self, queue: usize) -> Option<Waiter> {
        let queue = self.queues.get_mut(queue)?;
        let waiter = queue.waiters.pop_front()?;
        self.clock = queue.served;
        queue.served += waiter.seats;
        self.counts.waiting -= 1;
        Some(waiter)
    }
}

/// A hand of different queues, the same for the same flow: a deck is dealt by the digits of a number.
fn deal(mut flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for taken in 0..hand.min(queues) {
        let left = queues - taken;
        let mut card = usize::try_from(flow % left as u64).unwrap_or(0);
        flow /= left as u64;
        // The card's number among those that are left becomes its number in the whole deck.
        let mut earlier = dealt.clone();
        earlier.sort_unstable();
        for other in earlier {
            if card >= other {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn level(name: &str, shares: u64, lent: u64, queues: u64) -> LevelConfig {
        let response = if queues == 0 {
            json!({"type": "Reject"})
        } else {
            json!({"type": "Queue", "queuing": {"queues": queues, "handSize": 1, "queueLengthLimit": 3}})
        };
        LevelConfig::of(&json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lent, "limitResponse": response,
            }},
        }))
        .expect("a level")
    }

    fn places(total: usize, levels: &[LevelConfig]) -> Arc<Places> {
        let places = Arc::new(Places::new(total));
        places.configure(levels);
        places
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn places_are_given_back() {
        let places = places(2, &[level("a", 1, 0, 0)]);
        let one = places.take("a", 1, 1, LONG).await.expect("a place");
        let two = places.take("a", 1, 1, LONG).await.expect("a place");
        assert_eq!(places.take("a", 1, 1, LONG).await.map(|_| ()), Err(Refused::Limit));
        drop((one, two));
        places.take("a", 1, 1, LONG).await.expect("a place again");
        assert!(places.take("nobody", 1, 1, LONG).await.is_ok(), "a level that is not there holds up nobody");
        let counts = &places.counts()[0];
        assert_eq!((counts.used, counts.dispatched, counts.refused), (0, 3, [1, 0, 0]));
    }

    #[tokio::test]
    async fn a_flood_waits_by_itself() {
        let places = places(1, &[level("a", 1, 0, 2)]);
        let working = places.take("a", 0, 1, LONG).await.expect("a place");
        // Flow 0 floods its queue, flow 1 comes last and has one of its own.
        let mut flood: Vec<_> = (0..3).map(|_| Box::pin(places.take("a", 0, 1, LONG))).collect();
        for request in &mut flood {
            assert!(request.as_mut().now_or_never().is_none());
        }
        assert_eq!(places.take("a", 0, 1, LONG).await.map(|_| ()), Err(Refused::Full));
        let mut other = Box::pin(places.take("a", 1, 1, LONG));
        assert!(other.as_mut().now_or_never().is_none());
        drop(working);
        let first = flood.remove(0).now_or_never().expect("the first has waited longest").expect("a place");
        drop(first);
        let second = other.now_or_never().expect("then the other flow has its turn").expect("a place");
        assert!(flood[0].as_mut().now_or_never().is_none());
        // Who goes away makes room for the next.
        drop(flood.remove(0));
        drop(second);
        flood.remove(0).now_or_never().expect("the last").expect("a place");
        assert_eq!((places.counts()[0].used, places.counts()[0].waiting), (0, 0));
    }

    #[tokio::test]
    async fn what_is_lent_can_be_used() {
        let places = places(10, &[level("a", 1, 100, 0), level("b", 1, 0, 0)]);
        let mut of_b = Vec::new();
        while let Ok(place) = places.take("b", 1, 1, LONG).await {
            of_b.push(place);
        }
        assert_eq!(of_b.len(), 10, "its own five and what the other lends");
        let of_a = places.take("a", 1, 1, LONG).await;
        assert!(of_a.is_ok(), "the lender still has its own");
        drop((of_a, of_b));
        let mut of_a = Vec::new();
        while let Ok(place) = places.take("a", 1, 1, LONG).await {
            of_a.push(place);
        }
        assert_eq!(of_a.len(), 5, "b lends nothing");
    }

    #[tokio::test]
    async fn wide_requests_take_their_seats() {
        // Of twenty places one request gets three.
        let places = places(20, &[level("a", 1, 0, 2)]);
        let mut wide: Vec<Place> = Vec::new();
        for _ in 0..6 {
            wide.push(places.take("a", 0, 10, LONG).await.expect("a place"));
        }
        assert_eq!(places.counts()[0].used, 18);
        let mut seventh = Box::pin(places.take("a", 0, 10, LONG));
        assert!(seventh.as_mut().now_or_never().is_none(), "three seats are not free");
        let mut narrow = Box::pin(places.take("a", 1, 1, LONG));
        assert!(narrow.as_mut().now_or_never().is_none(), "who comes later waits behind");
        wide.pop();
        let seventh = seventh.now_or_never().expect("its turn").expect("a place");
        let narrow = narrow.now_or_never().expect("two seats are left").expect("a place");
        assert_eq!(places.counts()[0].used, 19);
        drop((wide, seventh, narrow));
        assert_eq!(places.counts()[0].used, 0);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let places = places(1, &[level("a", 1, 0, 1)]);
        let _working = places.take("a", 0, 1, LONG).await.expect("a place");
        let outcome = places.take("a", 0, 1, Duration::from_millis(5)).await.map(|_| ());
        assert_eq!((outcome, places.counts()[0].waiting), (Err(Refused::Late), 0));
    }

    #[tokio::test]
    async fn levels_change_under_way() {
        let places = places(1, &[level("a", 1, 0, 2)]);
        let working = places.take("a", 0, 1, LONG).await.expect("a place");
        let mut waiting = Box::pin(places.take("a", 1, 1, LONG));
        assert!(waiting.as_mut().now_or_never().is_none());
        places.configure(&[level("a", 1, 0, 4)]);
        assert!(waiting.as_mut().now_or_never().is_none());
        places.configure(&[]);
        drop(working);
        waiting.now_or_never().expect("who waits is served though the level is gone").expect("a place");
        places.configure(&[]);
        assert!(places.counts().is_empty());
    }

    proptest! {
        #[test]
        fn hands_have_different_queues(flow: u64, queues in 1_usize..200, hand in 1_usize..10) {
            let dealt = deal(flow, queues, hand);
            prop_assert_eq!(dealt.len(), hand.min(queues));
            prop_assert!(dealt.iter().all(|card| *card < queues));
            let distinct: std::collections::BTreeSet<_> = dealt.iter().collect();
            prop_assert_eq!(distinct.len(), dealt.len());
        }
    }
}
