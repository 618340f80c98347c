//! Pods that extenders have a say about: decided in two steps, with the extenders' answers between them.
//!
//! ```text
//!   popped ──> parked ──nodes that fit, scores──> asking ──> still fits: bound
//!                ^  at most so many ask at a time    │ ───> fits nowhere: victims? ──> asking ──> waits
//!                └───────────────────────────────────┴ fails: backs off
//! ```
//!
//! Nothing is kept for a pod while its extenders think, so that a slow one holds up no pod but its own; what they leave is
//! looked at again before it is bound.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::Rng;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::Scheduler;
use crate::decide::{Decision, Search, fits, refuse, refused, search};
use crate::extender::call::Caller;
use crate::extender::consult::{self, ConsultError, Verdict};
use crate::filter::{Rejection, obstacle};
use crate::pod::{Constraints, PodInfo, Shown};
use crate::preempt::{self, Candidate};
use crate::score;

/// Pods that an extender is asked about at a time, as the first of those that care for them. Others wait, and only its own.
const ASKING: usize = 64;

/// Nodes that do not do, with the reasons.
type Rejections = Vec<(Arc<str>, Rejection)>;

/// What extenders have said about a pod.
pub(super) enum Asked {
    /// Where it may go.
    Placed { pod: Arc<PodInfo>, rejections: Rejections, result: Result<Verdict, ConsultError> },
    /// Who may go for it.
    Preempted { pod: Arc<PodInfo>, rejections: Rejections, result: Result<Vec<Candidate>, ConsultError> },
}

/// The pods that extenders have a say about; extenders by their place in the configuration.
#[derive(Default)]
pub(super) struct Asking {
    /// Pods that nobody is asked about yet, by the first extender that cares for them.
    parked: BTreeMap<usize, VecDeque<(Arc<PodInfo>, Shown)>>,
    tasks: JoinSet<Asked>,
    /// Which extender a task counts for.
    extender: HashMap<Id, usize>,
    /// How many tasks each has.
    counts: HashMap<usize, usize>,
    /// The task of each pod.
    of_pod: HashMap<Arc<str>, AbortHandle>,
}

impl Asking {
    /// The next answer; never when nobody is asked.
    pub(super) async fn next(&mut self) -> Result<Asked, JoinError> {
        let answer = match self.tasks.join_next_with_id().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        };
        let id = answer.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        if let Some(count) = self.extender.remove(&id).and_then(|extender| self.counts.get_mut(&extender)) {
            *count -= 1;
        }
        self.of_pod.retain(|_, handle| handle.id() != id);
        answer.map(|(_, asked)| asked)
    }

    fn park(&mut self, extender: usize, pod: Arc<PodInfo>, shown: Shown) {
        self.parked.entry(extender).or_default().push_back((pod, shown));
    }

    /// The next pod that somebody may be asked about.
    fn unpark(&mut self) -> Option<(usize, Arc<PodInfo>, Shown)> {
        let free = |extender: &usize| self.counts.get(extender).is_none_or(|count| *count < ASKING);
        let extender = self.parked.keys().copied().find(free)?;
        let waiting = self.parked.get_mut(&extender)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.parked.remove(&extender);
        }
        next.map(|(pod, shown)| (extender, pod, shown))
    }

    fn spawn(&mut self, extender: usize, uid: &Arc<str>, task: impl Future<Output = Asked> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.extender.insert(handle.id(), extender);
        *self.counts.entry(extender).or_default() += 1;
        self.of_pod.insert(uid.clone(), handle);
    }

    /// Asks no longer about a pod that is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        if let Some(handle) = self.of_pod.remove(uid) {
            handle.abort();
        }
    }
}

impl Scheduler {
    /// The first extender that has a say about a pod, apart from binding it.
    fn first_extender(&self, pod: &PodInfo) -> Option<usize> {
        let asks = |caller: &Caller| {
            let extender = &caller.extender;
            [&extender.filter_verb, &extender.prioritize_verb, &extender.preempt_verb]
                .iter()
                .any(|verb| !verb.is_empty())
        };
        self.extenders.iter().position(|caller| asks(caller) && caller.extender.cares_for(pod))
    }

    /// Puts a pod aside if an extender has a say about it. Whether that is so.
    pub(super) fn park(&mut self, pod: &Arc<PodInfo>, shown: &Shown) -> bool {
        let Some(extender) = self.first_extender(pod) else { return false };
        self.asking.park(extender, pod.clone(), shown.clone());
        true
    }

    /// Asks about pods that are parked, as long as not too many are asked about.
    pub(super) fn ask_extenders(&mut self) {
        while let Some((extender, pod, shown)) = self.asking.unpark() {
            // It may be gone or changed since; a changed one is tried again by the queue.
            if self.queue.get(&pod.uid).is_none() {
                continue;
            }
            let (fitting, rejections) = match search(&pod, &self.cluster, &mut self.next_node) {
                Search::Settled(Decision::Bind(node)) => (vec![(node, 0)], Vec::new()),
                Search::Settled(decision) => {
                    self.carry_out(pod, &shown, decision);
                    continue;
                }
                Search::Looked { fitting, rejections } => {
                    let none = Constraints::default();
                    let constraints = pod.constraints.as_deref().unwrap_or(&none);
                    let scores = score::totals(&pod, constraints, &self.cluster, &fitting);
                    let names = fitting.iter().map(|(name, ..)| (*name).clone());
                    (names.zip(scores).collect(), rejections)
                }
            };
            if fitting.is_empty() {
                self.make_room(extender, pod, &shown, rejections);
                continue;
            }
            let (callers, client) = (self.extenders.clone(), self.client.clone());
            self.asking.spawn(extender, &pod.uid.clone(), async move {
                let result = consult::place(&callers, &client, &pod, fitting).await;
                Asked::Placed { pod, rejections, result }
            });
        }
    }

    /// What is to happen with a pod that fits nowhere: victims, if its extenders agree.
    fn make_room(&mut self, extender: usize, pod: Arc<PodInfo>, shown: &Shown, rejections: Rejections) {
        if rejections.is_empty() || !self.extenders.iter().any(|caller| caller.preempts_for(&pod)) {
            let decision = refuse(&pod, &self.cluster, rejections);
            return self.carry_out(pod, shown, decision);
        }
        let none = Constraints::default();
        let constraints = pod.constraints.as_deref().unwrap_or(&none);
        let candidates = match preempt::candidates(&pod, constraints, &self.cluster, &rejections) {
            Ok(candidates) => candidates,
            Err(refusal) => return self.carry_out(pod, shown, refused(&rejections, Err(refusal))),
        };
        let of = |candidate: &Candidate| {
            let state = self.cluster.nodes.get(&candidate.node);
            let pods = state.into_iter().flat_map(|state| &state.pods).map(|(uid, pod)| (uid.clone(), pod.clone()));
            (candidate.node.clone(), pods.collect::<BTreeMap<_, _>>())
        };
        let there: BTreeMap<_, _> = candidates.iter().map(of).collect();
        let (callers, client) = (self.extenders.clone(), self.client.clone());
        self.asking.spawn(extender, &pod.uid.clone(), async move {
            let result = consult::preempt(&callers, &client, &pod, candidates, &there).await;
            Asked::Preempted { pod, rejections, result }
        });
    }

    /// Goes on with a pod whose extenders have answered.
    pub(super) fn extenders_said(&mut self, asked: Result<Asked, JoinError>) {
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "asking extenders panicked");
                return;
            }
        };
        let (Asked::Placed { pod, .. } | Asked::Preempted { pod, .. }) = &asked;
        let Some(shown) = self.queue.get(&pod.uid).map(|waiting| waiting.shown.clone()) else { return };
        match asked {
            Asked::Placed { pod, mut rejections, result: Ok(verdict) } => {
                rejections.extend(verdict.rejections);
                if verdict.fitting.is_empty() {
                    let extender = self.first_extender(&pod).unwrap_or(0);
                    return self.make_room(extender, pod, &shown, rejections);
                }
                match self.best_left(&pod, verdict.fitting) {
                    Some(node) => self.bind(pod, node),
                    // The cluster has changed meanwhile: it is asked about once more.
                    None => drop(self.park(&pod, &shown)),
                }
            }
            Asked::Preempted { pod, rejections, result: Ok(candidates) } => {
                let decision = refused(&rejections, preempt::cheapest(candidates, &rejections));
                self.carry_out(pod, &shown, decision);
            }
            Asked::Placed { pod, result: Err(error), .. } | Asked::Preempted { pod, result: Err(error), .. } => {
                if matches!(&error, ConsultError::Read(kube::Error::Api(status)) if status.is_not_found()) {
                    // The watch is about to say so too.
                    return self.queue.failed(&pod.uid, obstacle::BINDING, Instant::now());
                }
                self.unschedulable(&pod, &shown, obstacle::BINDING, "SchedulerError", error.to_string());
            }
        }
    }

    /// The node with the greatest score that still does.
    fn best_left(&self, pod: &PodInfo, mut fitting: Vec<(Arc<str>, i64)>) -> Option<Arc<str>> {
        while let Some(greatest) = fitting.iter().map(|(_, score)| *score).max() {
            let equal: Vec<usize> = (0..fitting.len()).filter(|at| fitting[*at].1 == greatest).collect();
            let (node, _) = fitting.swap_remove(equal[rand::rng().random_range(0..equal.len())]);
            if fits(pod, &self.cluster, &node) {
                return Some(node);
            }
        }
        None
    }
}
