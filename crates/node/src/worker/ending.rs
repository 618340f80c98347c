//! The end of a pod: its containers stop, its surroundings go, the API server hears of it; and the containers that have
//! ended before that and are of no use any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kobune_runtime::{ContainerState, ContainerStatus};

use super::{Progress, Stage, Worker, clean_up, forget, report, start};
use crate::plan::{self, latest};
use crate::pod;

impl Worker {
    pub(super) fn drive_stop(&mut self, containers: &[ContainerStatus]) {
        if self.starting > 0 || self.stopping > 0 {
            return;
        }
        let running = containers.iter().any(|container| container.state == ContainerState::Running);
        if !running && !self.sandboxes.busy && !self.volumes.busy {
            self.stage = Stage::Cleaning;
            self.probing.clear();
            self.drive_clean_up();
        } else if running && self.stop_retry.may_start() {
            self.spawn_stop(self.grace.unwrap_or_default());
        } else if let Some(at) = self.stop_retry.not_before {
            self.wake_at(at);
        }
    }

    pub(super) fn spawn_stop(&mut self, grace: Duration) {
        self.stopping += 1;
        let (stopper, members) = (self.stopper(), self.members.clone());
        self.spawn(async move { Progress::Stopped(stopper.stop_all(&members, grace).await) });
    }

    pub(super) fn drive_clean_up(&mut self) {
        if self.cleaning.may_start() {
            self.cleaning.begin();
            let (context, uid) = (Arc::clone(&self.context), pod::uid(&self.pod).to_owned());
            self.spawn(async move { Progress::CleanedUp(clean_up(&context, &uid).await) });
        } else if let Some(at) = self.cleaning.not_before.filter(|_| !self.cleaning.busy) {
            self.wake_at(at);
        }
    }

    /// `told`: the API server has the last status.
    pub(super) fn drive_ended(&mut self, told: bool) {
        if self.gone {
            if self.forgetting.may_start() {
                self.stage = Stage::Forgetting;
                self.forgetting.begin();
                let (context, uid) = (Arc::clone(&self.context), pod::uid(&self.pod).to_owned());
                let logs = self.context.log_dir(&self.pod);
                self.spawn(async move { Progress::Forgotten(forget(&context, &uid, Some(logs)).await) });
            } else if let Some(at) = self.forgetting.not_before.filter(|_| !self.forgetting.busy) {
                self.wake_at(at);
            }
        } else if self.pod.metadata.deletion_timestamp.is_some() && told && self.untold.is_none() {
            if self.deleting.may_start() {
                self.deleting.begin();
                let (client, owner) = (self.context.config.client.clone(), Arc::clone(&self.pod));
                self.spawn(async move { Progress::Deleted(report::delete(&client, &owner).await) });
            } else if let Some(at) = self.deleting.not_before.filter(|_| !self.deleting.busy) {
                self.wake_at(at);
            }
        }
    }

    /// Keeps one ended container a name beside the newest one; older ones go with their logs.
    pub(super) fn collect(&mut self, containers: &[ContainerStatus]) {
        if self.stage != Stage::Running {
            return;
        }
        let names: HashSet<&str> = containers.iter().map(|container| container.name.as_str()).collect();
        let mut remove = Vec::new();
        for name in names {
            let newest = latest(containers, name).map(|container| container.id.clone());
            let kept = plan::previous(containers, name, newest.as_ref()).map(|container| container.id.clone());
            remove.extend(containers.iter().filter(|container| {
                container.name == name && Some(&container.id) != newest.as_ref() && Some(&container.id) != kept.as_ref()
            }));
        }
        for container in remove {
            if !self.removing.insert(container.id.clone()) {
                continue;
            }
            let (context, container) = (Arc::clone(&self.context), container.clone());
            let termination =
                start::termination_file(&self.context.pod_dir(pod::uid(&self.pod)), &container.name, container.attempt);
            self.spawn(async move {
                if let Err(error) = context.config.runtime.remove_container(&container.id).await {
                    tracing::warn!(container = %container.id, error = &error as &dyn std::error::Error, "an ended container was not removed");
                }
                let files = tokio::task::spawn_blocking(move || {
                    let logs = container.log_path.iter().flat_map(|path| crate::log::files(path).unwrap_or_default());
                    for file in logs.chain([termination]) {
                        if let Err(error) = std::fs::remove_file(&file)
                            && error.kind() != std::io::ErrorKind::NotFound
                        {
                            tracing::warn!(file = %file.display(), error = &error as &dyn std::error::Error, "an old log was not removed");
                        }
                    }
                    container.id
                });
                match files.await {
                    Ok(id) => Progress::Removed(id),
                    Err(_panicked) => Progress::Stopped(true),
                }
            });
        }
    }
}
