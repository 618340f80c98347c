//! Stopping containers with their `preStop` hooks, and taking away what a pod leaves.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerId, ContainerState};
use tokio::time::Instant;

use crate::context::Context;
use crate::events::Severity;
use crate::pod::{self, Member, Role};
use crate::probes::Target;
use crate::{dra, hooks, volumes};

/// However little of the grace period the hook has left, a container gets this long to end by itself.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Stops containers.
pub struct Stopper {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub pod_ips: Vec<String>,
}

impl Stopper {
    /// Runs the hook, asks the container to end, ends it when the time is over. Returns when it has ended or can't be stopped.
    pub async fn stop(&self, member: &Member, id: &ContainerId, grace: Duration, message: &str) -> bool {
        let name = &member.container.name;
        self.context.events.container(&self.pod, member.role, name, Severity::Normal, "Killing", message);
        let deadline = Instant::now() + grace;
        let hook = member.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
            let target = Target {
                runtime: Arc::clone(&self.context.config.runtime),
                tls: Arc::clone(&self.context.probe_tls),
                pod: Arc::clone(&self.pod),
                container: Arc::new(member.container.clone()),
                id: id.clone(),
                ip: self.pod_ips.first().and_then(|ip| ip.parse().ok()),
            };
            match tokio::time::timeout_at(deadline, hooks::run(&target, hook)).await {
                Ok(Ok(())) => {}
                Ok(Err(message)) => self.hook_failed(member, &format!("PreStopHook failed: {message}")),
                Err(_) => self.hook_failed(member, "PreStopHook did not end within the grace period"),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = if hook.is_some() && !grace.is_zero() { left.max(LEAST_GRACE) } else { left };
        match self.context.config.runtime.stop_container(id, left).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    pod = pod::full_name(&self.pod),
                    container = name,
                    error = &error as &dyn std::error::Error,
                    "a container was not stopped"
                );
                false
            }
        }
    }

    fn hook_failed(&self, member: &Member, message: &str) {
        self.context.events.container(
            &self.pod,
            member.role,
            &member.container.name,
            Severity::Warning,
            "FailedPreStopHook",
            message,
        );
    }

    /// Stops all containers of the pod: first all but the sidecars, then the sidecars, the last one first.
    pub async fn stop_all(&self, members: &[Member], grace: Duration) -> bool {
        let running = |member: &Member| -> Vec<ContainerId> {
            let containers = self.context.config.runtime.containers().into_iter();
            containers
                .filter(|container| container.pod_uid == pod::uid(&self.pod) && container.name == member.container.name)
                .filter(|container| container.state == ContainerState::Running)
                .map(|container| container.id)
                .collect()
        };
        let deadline = Instant::now() + grace;
        let first = members.iter().filter(|member| member.role != Role::Sidecar).map(|member| async move {
            let message = format!("Stopping container {}", member.container.name);
            let mut all = true;
            for id in running(member) {
                all &= self.stop(member, &id, grace, &message).await;
            }
            all
        });
        let mut all = futures::future::join_all(first).await.into_iter().all(|stopped| stopped);
        for member in members.iter().rev().filter(|member| member.role == Role::Sidecar) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = if grace.is_zero() { left } else { left.max(LEAST_GRACE) };
            let message = format!("Stopping container {}", member.container.name);
            for id in running(member) {
                all &= self.stop(member, &id, left, &message).await;
            }
        }
        all
    }
}

/// Ends a pod's sandboxes, gives back its addresses and takes its volumes away. Idempotent.
pub async fn clean_up(context: &Context, uid: &str) -> Result<(), String> {
    let runtime = &context.config.runtime;
    for sandbox in runtime.pod_sandboxes().into_iter().filter(|sandbox| sandbox.config.uid == uid) {
        runtime.stop_pod_sandbox(&sandbox.id).await.map_err(|error| crate::errors::chain(&error))?;
    }
    context.config.network.detach(uid).await.map_err(|error| crate::errors::chain(&error))?;
    dra::unprepare(context, uid).await?;
    let pod_dir = context.pod_dir(uid);
    crate::csi::mount::tear_down(context, &pod_dir).await?;
    let torn = tokio::task::spawn_blocking(move || volumes::tear_down(&pod_dir)).await;
    torn.map_err(|error| error.to_string())?.map_err(|error| crate::errors::chain(&error))
}

/// Forgets everything about a pod: sandboxes with their containers, its folder, its logs. Comes after [`clean_up`].
pub async fn forget(context: &Context, uid: &str, log_dir: Option<std::path::PathBuf>) -> Result<(), String> {
    let runtime = &context.config.runtime;
    for sandbox in runtime.pod_sandboxes().into_iter().filter(|sandbox| sandbox.config.uid == uid) {
        runtime.remove_pod_sandbox(&sandbox.id).await.map_err(|error| crate::errors::chain(&error))?;
    }
    let folders = [Some(context.pod_dir(uid)), log_dir];
    let removed = tokio::task::spawn_blocking(move || {
        for folder in folders.into_iter().flatten() {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("failed to remove {}: {error}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(())
    });
    removed.await.map_err(|error| error.to_string())??;
    context.users.release(uid);
    Ok(())
}
