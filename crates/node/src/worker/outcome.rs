//! What a worker learns from its operations and probes, and what that changes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kobune_runtime::ContainerId;

use super::probing::Probing;
use super::report::Told;
use super::start::StartFailure;
use super::{CONFIG_RETRY, PULL_ERROR_SHOWN, Progress, Stage, Worker};
use crate::backoff::elapsed;
use crate::events::Severity;
use crate::pod::{self, Member, Role};
use crate::probes::{ProbeKind, Target};
use crate::static_pods;
use crate::status;

impl Worker {
    pub(super) fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Volumes(result) => {
                self.volumes.end(result.is_ok());
                // What became stale meanwhile is written once more before the first container sees it.
                self.volumes_ready |= result.is_ok() && !self.volumes_stale;
                self.volumes_stale |= result.is_err();
                if let Ok(tokens) = self.tokens.try_lock() {
                    self.tokens_due = tokens.next_renewal();
                }
            }
            Progress::Sandbox(result) => {
                self.sandboxes.end(result.is_ok());
                if let Ok((id, ips)) = result {
                    self.sandbox = Some(id);
                    self.volumes_stale |= self.pod_ips != ips && self.shows_address();
                    self.volumes_ready &= !self.volumes_stale;
                    self.pod_ips = ips;
                }
            }
            Progress::Attached(result) => {
                self.sandboxes.end(result.is_ok());
                match result {
                    Ok(ips) => self.pod_ips = ips,
                    Err(message) => {
                        tracing::warn!(
                            pod = pod::full_name(&self.pod),
                            message,
                            "a running pod's network was not found again"
                        );
                        let old = self.pod.status.as_ref().and_then(|status| status.pod_ip.clone());
                        self.pod_ips = old.into_iter().collect();
                    }
                }
            }
            Progress::Started { name, id, resources } => {
                let track = self.tracks.entry(name.clone()).or_default();
                track.id = Some(id);
                (track.waiting, track.started, track.ready, track.unhealthy) = (None, false, false, None);
                (track.outgrown, track.replaced) = (false, None);
                self.started_with(name, resources);
            }
            Progress::StartDone { name, result } => self.start_done(name, result),
            Progress::Killed { name } => self.tracks.entry(name).or_default().busy = false,
            Progress::Resized(result) => self.resized(result),
            Progress::Stopped(success) => {
                self.stopping = self.stopping.saturating_sub(1);
                self.stop_retry.end(success);
            }
            Progress::CleanedUp(result) => {
                self.cleaning.end(result.is_ok());
                match result {
                    Ok(()) => {
                        self.stage = Stage::Ended;
                        self.leave();
                    }
                    Err(message) => tracing::warn!(
                        pod = pod::full_name(&self.pod),
                        message,
                        "a pod was not cleaned up, trying again"
                    ),
                }
            }
            Progress::Told(told) => {
                self.telling.end(!matches!(told, Told::Failed));
                match told {
                    Told::Written(pod) => {
                        self.told.1 = pod.metadata.resource_version.clone();
                        let whole = if static_pods::is_static(&self.pod) {
                            static_pods::with_mirror(&self.pod, &pod)
                        } else {
                            *pod
                        };
                        self.accept(Arc::new(whole));
                    }
                    Told::Gone => self.untold = self.pod.metadata.resource_version.clone(),
                    Told::Failed => {}
                }
            }
            Progress::Deleted(told) => {
                self.deleting.end(!matches!(told, Told::Failed));
                if !matches!(told, Told::Failed) {
                    // Finalizers may keep the object; what is left is to wait until it is gone.
                    self.untold = self.pod.metadata.resource_version.clone();
                }
            }
            Progress::Forgotten(result) => {
                self.forgetting.end(result.is_ok());
                match result {
                    Ok(()) => {
                        self.stage = Stage::Forgotten;
                        self.context.probe_counts.forget(pod::uid(&self.pod));
                    }
                    Err(message) => {
                        self.stage = Stage::Ended;
                        tracing::warn!(
                            pod = pod::full_name(&self.pod),
                            message,
                            "a pod's files were not removed, trying again"
                        );
                    }
                }
            }
            Progress::Removed(id) => {
                self.removing.remove(&id);
                self.messages.remove(&id);
            }
            Progress::Probe { id, kind, success } => self.probed(&id, kind, success),
        }
    }

    fn start_done(&mut self, name: String, result: Result<ContainerId, StartFailure>) {
        self.starting = self.starting.saturating_sub(1);
        let now = Timestamp::now();
        let track = self.tracks.entry(name.clone()).or_default();
        track.busy = false;
        match result {
            Ok(id) => {
                self.pull_backoff.reset(&name);
                self.pull_failed.remove(&name);
                let started = self.context.config.runtime.container(&id).and_then(|container| container.started_at);
                self.begin_probing(&name, &id, started.unwrap_or(now), false);
            }
            Err(failure) if self.stage != Stage::Running => tracing::debug!(name, ?failure, "a start was given up"),
            Err(failure) if failure.pull => {
                self.pull_backoff.next(&name, now, now);
                let delay = self.pull_backoff.waiting(&name, now, now).map_or(CONFIG_RETRY, |(delay, _)| delay);
                track.not_before = later(now, delay);
                self.pull_failed.insert(name.clone(), (now, failure.message.clone()));
                track.waiting = Some((failure.reason.to_owned(), failure.message));
            }
            Err(failure) => {
                track.not_before = later(now, CONFIG_RETRY);
                track.waiting = Some((failure.reason.to_owned(), failure.message));
            }
        }
    }

    /// After a moment a failed pull shows that it backs off.
    pub(super) fn flip_pull_errors(&mut self, now: Timestamp) {
        let mut left = None;
        for (name, (at, cause)) in &self.pull_failed {
            let Some(track) = self.tracks.get_mut(name) else { continue };
            if track.busy || track.waiting.as_ref().is_none_or(|(reason, _)| reason != "ErrImagePull") {
                continue;
            }
            let shown = elapsed(*at, now);
            if shown < PULL_ERROR_SHOWN {
                left =
                    Some(left.map_or(PULL_ERROR_SHOWN - shown, |known: Duration| known.min(PULL_ERROR_SHOWN - shown)));
                continue;
            }
            let Some(member) = self.members.iter().find(|member| member.container.name == *name) else { continue };
            let image = member.container.image.as_deref().unwrap_or_default();
            let message = format!("Back-off pulling image \"{image}\"");
            let events = &self.context.events;
            events.container(&self.pod, member.role, name, Severity::Normal, "BackOff", message.clone());
            events.container(&self.pod, member.role, name, Severity::Warning, "Failed", "Error: ImagePullBackOff");
            track.waiting = Some(("ImagePullBackOff".to_owned(), format!("{message}: ErrImagePull: {cause}")));
        }
        if let Some(left) = left {
            self.wake_in(left + Duration::from_millis(1));
        }
    }

    /// Whether some volume shows the pod's address.
    fn shows_address(&self) -> bool {
        let volumes = pod::spec(&self.pod).volumes.iter().flatten();
        let direct = volumes
            .clone()
            .filter_map(|volume| volume.downward_api.as_ref())
            .flat_map(|source| source.items.iter().flatten());
        let projected = volumes
            .filter_map(|volume| volume.projected.as_ref())
            .flat_map(|projected| projected.sources.iter().flatten())
            .filter_map(|source| source.downward_api.as_ref())
            .flat_map(|source| source.items.iter().flatten());
        direct
            .chain(projected)
            .filter_map(|item| item.field_ref.as_ref())
            .any(|field| field.field_path.starts_with("status.podIP"))
    }

    pub(super) fn begin_probing(&mut self, name: &str, id: &ContainerId, started_at: Timestamp, adopted: bool) {
        let Some(member) = self.member(name).cloned() else { return };
        let before = self.pod.status.as_ref().and_then(|status| {
            let lists = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            let uri = status::container_uri(&self.context.runtime_name(), id);
            lists
                .into_iter()
                .find(|status| status.container_id.as_deref() == Some(&uri))
                .map(|status| (status.started == Some(true), status.ready))
        });
        let (was_started, was_ready) = before.filter(|_| adopted).unwrap_or_default();
        let track = self.tracks.entry(name.to_owned()).or_default();
        track.id = Some(id.clone());
        (track.waiting, track.unhealthy) = (None, None);
        let own = &member.container;
        let probed = matches!(member.role, Role::Main | Role::Sidecar);
        track.started = !probed || own.startup_probe.is_none() || was_started;
        track.ready = own.readiness_probe.is_none() || was_ready;
        let started = track.started;
        if !probed {
            return;
        }
        let target = self.target(&member, id);
        let mut probing = Probing::new(
            id.clone(),
            member,
            target,
            started_at,
            self.context.events.clone(),
            Arc::clone(&self.context.probe_counts),
            self.progress.0.clone(),
        );
        if started {
            probing.begin_running();
        } else {
            probing.begin_startup();
        }
        self.probing.insert(name.to_owned(), probing);
    }

    fn target(&self, member: &Member, id: &ContainerId) -> Target {
        Target {
            runtime: Arc::clone(&self.context.config.runtime),
            tls: Arc::clone(&self.context.probe_tls),
            pod: Arc::clone(&self.pod),
            container: Arc::new(member.container.clone()),
            id: id.clone(),
            ip: self.pod_ips.first().and_then(|ip| ip.parse().ok()),
        }
    }

    fn probed(&mut self, id: &ContainerId, kind: ProbeKind, success: bool) {
        let Some((name, probing)) = self.probing.iter_mut().find(|(_, probing)| probing.id == *id) else { return };
        let Some(track) = self.tracks.get_mut(name).filter(|track| track.is_about(id)) else { return };
        match (kind, success) {
            (ProbeKind::Readiness, success) => track.ready = success,
            (ProbeKind::Startup, true) => {
                track.started = true;
                probing.begin_running();
            }
            (ProbeKind::Startup, false) => {
                track.unhealthy = Some(format!("Container {name} failed startup probe, will be restarted"))
            }
            (ProbeKind::Liveness, false) => {
                track.unhealthy = Some(format!("Container {name} failed liveness probe, will be restarted"))
            }
            (ProbeKind::Liveness, true) => {}
        }
    }
}

fn later(now: Timestamp, delay: Duration) -> Option<Timestamp> {
    now.checked_add(delay).ok()
}
