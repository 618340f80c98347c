//! Changes the limits of a running pod: all of them or none.
//!
//! ```text
//! compare with what is in use ─▶ widen the pod's group ─▶ its containers' groups ─▶ narrow the pod's group
//! ```
//!
//! The pod's group is widened first and narrowed last because version 1 of cgroups refuses a child that may use more CPU
//! than its parent. What fails half-way is taken back. Source of the order: KEP-1287, "Atomic Resizes".

use super::Runtime;
use super::adopt::blocking;
use super::records::Container;
use crate::cgroup::Cgroups;
use crate::container::Resources;
use crate::disk::{self, Durability};
use crate::error::{Error, Result};
use crate::id::{ContainerId, SandboxId};

/// New limits for a pod and for containers of it.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// Limits of the whole pod; `None` leaves them.
    pub pod: Option<Resources>,
    /// Limits of running containers.
    pub containers: Vec<(ContainerId, Resources)>,
}

/// Why limits stay as they were.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// More memory is in use than would be allowed. The words are upstream's.
    #[error("attempting to set {what} memory limit ({limit}) below current usage ({usage})")]
    BelowUsage {
        /// `pod`, or `container` with its name.
        what: String,
        /// The new limit in bytes.
        limit: i64,
        /// Bytes in use, without caches that the kernel can drop.
        usage: u64,
    },
    /// The kernel refused, or what was to be resized is gone.
    #[error(transparent)]
    Runtime(#[from] Error),
}

/// One group's limits before and after.
struct Change {
    what: String,
    group: String,
    before: Resources,
    after: Resources,
}

impl Change {
    /// A limit that was there and is no longer asked for has to be taken away by name.
    fn new(what: String, group: String, before: Resources, mut after: Resources) -> Self {
        unlimited_where_gone(&mut after, &before);
        Self { what, group, before, after }
    }

    /// What has to be written to come back to where it began.
    fn undone(&self) -> Resources {
        let mut before = self.before.clone();
        unlimited_where_gone(&mut before, &self.after);
        before
    }

    /// The limits that grow, which must do so before the groups inside can.
    fn widened(&self) -> Resources {
        let grows = |before: Option<i64>, after: Option<i64>| after.filter(|after| order(Some(*after)) > order(before));
        let cpu_quota = grows(self.before.cpu_quota, self.after.cpu_quota);
        Resources {
            cpu_quota,
            cpu_period: self.after.cpu_period.filter(|_| cpu_quota.is_some()),
            memory_limit: grows(self.before.memory_limit, self.after.memory_limit),
            ..Resources::default()
        }
    }

    fn check_use(&self, cgroups: &Cgroups) -> Result<(), ResizeError> {
        let Some(limit) = self.after.memory_limit.filter(|limit| order(Some(*limit)) < order(self.before.memory_limit))
        else {
            return Ok(());
        };
        let usage = cgroups.stats(&self.group).map_err(Error::from)?.memory_working_set;
        if u64::try_from(limit).is_ok_and(|limit| usage > limit) {
            return Err(ResizeError::BelowUsage { what: self.what.clone(), limit, usage });
        }
        Ok(())
    }
}

/// No limit is more than any.
fn order(limit: Option<i64>) -> i64 {
    limit.filter(|limit| *limit >= 0).unwrap_or(i64::MAX)
}

fn unlimited_where_gone(wanted: &mut Resources, other: &Resources) {
    let gone = |wanted: &mut Option<i64>, other: Option<i64>| {
        if wanted.is_none() && other.is_some() {
            *wanted = Some(-1);
        }
    };
    gone(&mut wanted.cpu_quota, other.cpu_quota);
    gone(&mut wanted.memory_limit, other.memory_limit);
}

/// Takes the CPU limits of ended containers away: version 1 would not let the pod's group have less than they had.
fn loosen_ended(cgroups: &Cgroups, ended: &[String]) {
    for group in ended {
        if let Err(error) = cgroups.apply(group, &Resources { cpu_quota: Some(-1), ..Resources::default() }) {
            tracing::debug!(group, error = %Error::from(error), "an ended container has no group any more");
        }
    }
}

/// Changes everything, or nothing. Blocks for a few small writes.
fn apply(cgroups: &Cgroups, pod: Option<&Change>, containers: &[Change], ended: &[String]) -> Result<(), ResizeError> {
    for change in containers.iter().chain(pod) {
        change.check_use(cgroups)?;
    }
    let mut touched = Vec::new();
    let mut write = || -> Result<()> {
        if let Some(pod) = pod {
            cgroups.apply(&pod.group, &pod.widened())?;
        }
        for change in containers {
            touched.push(change);
            cgroups.apply(&change.group, &change.after)?;
        }
        if let Some(pod) = pod {
            loosen_ended(cgroups, ended);
            cgroups.apply(&pod.group, &pod.after)?;
        }
        Ok(())
    };
    let Err(error) = write() else { return Ok(()) };
    for change in touched.into_iter().rev().chain(pod) {
        if let Err(second) = cgroups.apply(&change.group, &change.undone()) {
            tracing::warn!(group = change.group, error = %Error::from(second), "a failed resize was not taken back");
        }
    }
    Err(error.into())
}

impl Runtime {
    /// Changes limits of a running pod. When this fails everything is as before.
    pub async fn resize(&self, id: &SandboxId, wanted: Resize) -> Result<(), ResizeError> {
        let sandbox =
            self.state.read().sandboxes.get(id).cloned().ok_or_else(|| Error::SandboxNotFound(id.to_string()))?;
        let pod = wanted.pod.map(|after| {
            let config = &sandbox.record.config;
            Change::new("pod".to_owned(), self.pod_group(config), config.resources.clone(), after)
        });
        let mut containers = Vec::new();
        for (container, after) in wanted.containers {
            let record = self.find(&container)?.record;
            let what = format!("container \"{}\"", record.config.name);
            containers.push((container, Change::new(what, record.group, record.config.resources, after)));
        }
        let of_pod = |container: &&Container| container.record.sandbox == *id && container.exit.borrow().is_some();
        let ended: Vec<String> = self
            .state
            .read()
            .containers
            .values()
            .filter(of_pod)
            .map(|container| container.record.group.clone())
            .collect();
        let cgroups = self.cgroups.clone();
        let (ids, changes): (Vec<ContainerId>, Vec<Change>) = containers.into_iter().unzip();
        let (pod, changes) = blocking(move || {
            let result = apply(&cgroups, pod.as_ref(), &changes, &ended);
            Ok(result.map(|()| (pod, changes)))
        })
        .await??;
        self.note_resize(id, pod, ids.into_iter().zip(changes))?;
        Ok(())
    }

    /// Has a container run on these CPUs, and its memory come from these nodes, from now on.
    pub async fn confine(&self, id: &ContainerId, cpus: Option<String>, nodes: Option<String>) -> Result<()> {
        let group = self.find(id)?.record.group;
        let (cgroups, wanted) =
            (self.cgroups.clone(), Resources { cpuset_cpus: cpus, cpuset_mems: nodes, ..Resources::default() });
        let limits = wanted.clone();
        blocking(move || Ok(cgroups.apply(&group, &limits)?)).await?;
        let record = {
            let mut state = self.state.write();
            let Some(known) = state.containers.get_mut(id) else { return Ok(()) };
            known.record.config.resources.merge(wanted);
            known.record.clone()
        };
        // After a power cut there is neither the pod nor what is written here.
        let path = self.container_folder(&record.id).join("container.json");
        disk::write_json(&path, &record, Durability::Relaxed).map_err(Error::io("write", &path))
    }

    /// Puts the new limits on record.
    fn note_resize(
        &self,
        id: &SandboxId,
        pod: Option<Change>,
        containers: impl Iterator<Item = (ContainerId, Change)>,
    ) -> Result<()> {
        let (mut sandbox, mut records) = (None, Vec::new());
        {
            let mut state = self.state.write();
            if let Some((pod, known)) = pod.zip(state.sandboxes.get_mut(id)) {
                known.record.config.resources.merge(pod.after);
                sandbox = Some(known.record.clone());
            }
            for (container, change) in containers {
                if let Some(known) = state.containers.get_mut(&container) {
                    known.record.config.resources.merge(change.after);
                    records.push(known.record.clone());
                }
            }
        }
        // After a power cut there is neither the pod nor what is written here.
        if let Some(record) = sandbox {
            let path = self.sandbox_folder(id).join("sandbox.json");
            disk::write_json(&path, &record, Durability::Relaxed).map_err(Error::io("write", &path))?;
        }
        for record in records {
            let path = self.container_folder(&record.id).join("container.json");
            disk::write_json(&path, &record, Durability::Relaxed).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(cpu: Option<i64>, memory: Option<i64>) -> Resources {
        Resources { cpu_quota: cpu, memory_limit: memory, cpu_period: cpu.map(|_| 100_000), ..Resources::default() }
    }

    #[test]
    fn the_pods_group_is_widened_first() {
        let check = |before: (Option<i64>, Option<i64>),
                     after: (Option<i64>, Option<i64>),
                     expected: (Option<i64>, Option<i64>)| {
            let change = Change::new("pod".into(), "/p".into(), limits(before.0, before.1), limits(after.0, after.1));
            let widened = change.widened();
            assert_eq!((widened.cpu_quota, widened.memory_limit), expected, "{before:?} {after:?}");
        };
        check((Some(10), Some(10)), (Some(20), Some(5)), (Some(20), None));
        check((Some(10), Some(10)), (None, Some(20)), (Some(-1), Some(20)));
        check((None, None), (Some(10), Some(10)), (None, None));
        check((Some(10), None), (Some(10), None), (None, None));
    }

    #[test]
    fn what_was_unlimited_becomes_so_again() {
        let change = Change::new("pod".into(), "/p".into(), limits(None, Some(7)), limits(Some(10), None));
        assert_eq!((change.after.cpu_quota, change.after.memory_limit), (Some(10), Some(-1)));
        assert_eq!((change.undone().cpu_quota, change.undone().memory_limit), (Some(-1), Some(7)));
    }
}
