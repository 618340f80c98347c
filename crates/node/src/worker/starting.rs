//! What a plan asks for: volumes, the sandbox, containers to stop for a restart and to start.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use kobune_runtime::SandboxId;
use tokio::time::Instant;

use super::start::Starter;
use super::stop::Stopper;
use super::{Progress, REPLACED_WITHIN, Worker, sandbox};
use crate::events::Severity;
use crate::plan::{Kill, Plan, Start};
use crate::pod;

impl Worker {
    pub(super) fn drive_volumes(&mut self) {
        if let Some(due) = self.tokens_due {
            if due <= Instant::now() {
                self.volumes_stale = true;
                self.tokens_due = None;
            } else {
                self.wake_at(due);
            }
        }
        if !self.volumes_stale {
            return;
        }
        // Volumes of the downward API may show the pod's address, which the sandbox brings; the first round waits for nothing else.
        if self.volumes.may_start() {
            self.volumes.begin();
            self.volumes_stale = false;
            let (context, owner, held) = (Arc::clone(&self.context), Arc::clone(&self.granted), self.held.clone());
            let (ips, tokens) = (self.pod_ips.clone(), Arc::clone(&self.tokens));
            self.spawn(async move {
                Progress::Volumes(sandbox::set_up_volumes(&context, &owner, &ips, &held, &tokens).await)
            });
        } else if let Some(at) = self.volumes.not_before.filter(|_| !self.volumes.busy) {
            self.wake_at(at);
        }
    }

    pub(super) fn spawn_sandbox(&mut self) {
        let uid = pod::uid(&self.pod);
        let known = self.context.config.runtime.pod_sandboxes().into_iter().filter(|sandbox| sandbox.config.uid == uid);
        let attempt = known.map(|sandbox| sandbox.config.attempt + 1).max().unwrap_or(0);
        if attempt > 0 && self.sandboxes.delay.is_zero() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.context.events.pod(&self.pod, Severity::Normal, "SandboxChanged", message);
        }
        self.sandboxes.begin();
        let (context, owner) = (Arc::clone(&self.context), Arc::clone(&self.granted));
        let token = self.start_token.clone();
        self.spawn(async move { Progress::Sandbox(sandbox::run_sandbox(&context, &owner, attempt, &token).await) });
    }

    pub(super) fn act(&mut self, plan: Plan, now: Timestamp) {
        for (name, reason, message) in plan.waiting {
            let track = self.tracks.entry(name.clone()).or_default();
            let first = track.waiting.as_ref().is_none_or(|(known, _)| *known != reason);
            track.waiting = Some((reason, message));
            if first && let Some(member) = self.member(&name) {
                let text = format!("Back-off restarting failed container {name} in pod {}", pod::full_name(&self.pod));
                self.context.events.container(&self.pod, member.role, &name, Severity::Warning, "BackOff", text);
            }
        }
        for kill in plan.kill {
            self.spawn_kill(kill);
        }
        let Some(sandbox) = self.sandbox.clone() else { return };
        if plan.start.is_empty() || !self.volumes_ready || self.pod_ips.is_empty() {
            return;
        }
        self.spawn_start(sandbox, plan.start, now);
    }

    fn spawn_kill(&mut self, kill: Kill) {
        let member = self.members[kill.member].clone();
        let name = member.container.name.clone();
        let unhealthy = self.tracks.get(&name).is_some_and(|track| track.unhealthy.is_some());
        let own = [&member.container.liveness_probe, &member.container.startup_probe];
        let own =
            own.into_iter().flatten().find_map(|probe| probe.termination_grace_period_seconds).filter(|_| unhealthy);
        let usual = own.or(pod::spec(&self.pod).termination_grace_period_seconds).unwrap_or(30).max(0).unsigned_abs();
        let seconds = if kill.abruptly { 0 } else { usual };
        let track = self.tracks.entry(name.clone()).or_default();
        track.busy = true;
        track.replaced = kill.replace.then(|| kill.id.clone());
        if kill.redefined {
            self.replaced_by = Some(Instant::now() + REPLACED_WITHIN);
        }
        if track.outgrown {
            // It did not crash: another one follows at once.
            self.backoff.reset(&name);
        }
        let stopper = self.stopper();
        self.spawn(async move {
            stopper.stop(&member, &kill.id, Duration::from_secs(seconds), &kill.message).await;
            Progress::Killed { name }
        });
    }

    fn spawn_start(&mut self, sandbox: SandboxId, starts: Vec<Start>, now: Timestamp) {
        let mut list = Vec::new();
        for start in starts {
            let member = self.members[start.member].clone();
            let name = member.container.name.clone();
            if let Some(since) = start.after {
                self.backoff.next(&name, since, now);
            }
            let track = self.tracks.entry(name).or_default();
            track.busy = true;
            track.not_before = None;
            list.push((member, start.attempt, start.round));
        }
        let starter = Starter {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.granted),
            sandbox,
            pod_ips: self.pod_ips.clone(),
            held: self.held.clone(),
            token: self.start_token.clone(),
        };
        self.starting += list.len();
        let sender = self.progress.0.clone();
        self.operations.spawn(async move {
            // Service variables of a pod that starts before the services are known would be missing for its whole life.
            tokio::select! {
                () = starter.context.services.synced() => {}
                () = starter.token.cancelled() => {}
            }
            for (member, attempt, round) in list {
                let name = member.container.name.clone();
                let result = match starter.start(&member, attempt, round).boxed().await {
                    Ok(id) => {
                        let resources = member.container.resources.clone().unwrap_or_default();
                        drop(sender.send(Progress::Started { name: name.clone(), id: id.clone(), resources }).await);
                        starter.post_start(&member, &id).boxed().await.map(|()| id)
                    }
                    Err(failure) => Err(failure),
                };
                // Without a receiver the worker is gone, and nobody wants to know.
                drop(sender.send(Progress::StartDone { name, result }).await);
            }
        });
    }

    pub(super) fn stopper(&self) -> Stopper {
        Stopper { context: Arc::clone(&self.context), pod: Arc::clone(&self.pod), pod_ips: self.pod_ips.clone() }
    }
}
