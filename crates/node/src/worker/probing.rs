//! The probes of one running container: a task each, which ends when this is dropped.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;
use kobune_runtime::ContainerId;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::Progress;
use crate::backoff::elapsed;
use crate::events::{Recorder, Severity};
use crate::pod::{self, Member};
use crate::probe_counts::ProbeCounts;
use crate::probes::{Counter, Outcome, ProbeKind, Target, look};

/// The probes of one running container.
pub struct Probing {
    /// Which container.
    pub id: ContainerId,
    member: Arc<Member>,
    target: Target,
    started_at: Timestamp,
    events: Recorder,
    counts: Arc<ProbeCounts>,
    progress: mpsc::Sender<Progress>,
    tasks: JoinSet<()>,
    /// Those that ask for restarts.
    restarting: Vec<AbortHandle>,
}

impl Probing {
    pub fn new(
        id: ContainerId,
        member: Member,
        target: Target,
        started_at: Timestamp,
        events: Recorder,
        counts: Arc<ProbeCounts>,
        progress: mpsc::Sender<Progress>,
    ) -> Probing {
        Probing {
            id,
            member: Arc::new(member),
            target,
            started_at,
            events,
            counts,
            progress,
            tasks: JoinSet::new(),
            restarting: Vec::new(),
        }
    }

    /// Begins the startup probe alone.
    pub fn begin_startup(&mut self) {
        if let Some(probe) = self.member.container.startup_probe.clone() {
            self.begin(ProbeKind::Startup, probe);
        }
    }

    /// Begins the probes of a started container.
    pub fn begin_running(&mut self) {
        if let Some(probe) = self.member.container.readiness_probe.clone() {
            self.begin(ProbeKind::Readiness, probe);
        }
        if let Some(probe) = self.member.container.liveness_probe.clone() {
            self.begin(ProbeKind::Liveness, probe);
        }
    }

    fn begin(&mut self, kind: ProbeKind, probe: Probe) {
        let task = Task {
            kind,
            probe,
            member: Arc::clone(&self.member),
            target: self.target.clone(),
            started_at: self.started_at,
            events: self.events.clone(),
            counts: Arc::clone(&self.counts),
            progress: self.progress.clone(),
        };
        let handle = self.tasks.spawn(task.run());
        if kind != ProbeKind::Readiness {
            self.restarting.push(handle);
        }
    }

    /// Ends the probes that ask for restarts: of a pod that is to end nothing is restarted. Whether it is ready goes on
    /// to be asked, for those who still send it traffic.
    pub fn end_restarting(&mut self) {
        self.restarting.drain(..).for_each(|task| task.abort());
    }
}

struct Task {
    kind: ProbeKind,
    probe: Probe,
    member: Arc<Member>,
    target: Target,
    started_at: Timestamp,
    events: Recorder,
    counts: Arc<ProbeCounts>,
    progress: mpsc::Sender<Progress>,
}

impl Task {
    async fn run(self) {
        let seconds = |value: Option<i32>, least: i32| {
            Duration::from_secs(value.unwrap_or(least).max(least).unsigned_abs().into())
        };
        let initial = seconds(self.probe.initial_delay_seconds, 0);
        let period = Duration::from_secs(
            self.probe.period_seconds.filter(|period| *period > 0).unwrap_or(10).unsigned_abs().into(),
        );
        tokio::time::sleep(initial.saturating_sub(elapsed(self.started_at, Timestamp::now()))).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counter = Counter::new(&self.probe);
        let mut last = None;
        loop {
            ticks.tick().await;
            let success = match look(&self.target, &self.probe).await {
                Outcome::Success => true,
                Outcome::Warning(message) => {
                    self.event("ProbeWarning", format!("{} probe warning: {message}", self.kind.as_str()));
                    true
                }
                Outcome::Failure(message) => {
                    self.event("Unhealthy", format!("{} probe failed: {message}", self.kind.as_str()));
                    false
                }
            };
            self.counts.count(pod::uid(&self.target.pod), &self.member.container.name, self.kind, success);
            let Some(verdict) = counter.count(success) else { continue };
            if last == Some(verdict) {
                continue;
            }
            last = Some(verdict);
            let progress = Progress::Probe { id: self.target.id.clone(), kind: self.kind, success: verdict };
            if self.progress.send(progress).await.is_err() {
                return;
            }
            // A container that is to be restarted, or has started, needs no more of this probe.
            let over = match self.kind {
                ProbeKind::Startup => true,
                ProbeKind::Liveness => !verdict,
                ProbeKind::Readiness => false,
            };
            if over {
                return;
            }
        }
    }

    fn event(&self, reason: &str, message: String) {
        let member = &self.member;
        self.events.container(
            &self.target.pod,
            member.role,
            &member.container.name,
            Severity::Warning,
            reason,
            message,
        );
    }
}
