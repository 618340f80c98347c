//! Keeps the copy of the runtime's state current: by what the runtime tells, and after every new connection by lists.
//!
//! ```text
//! connect -> subscribe (CRI's events, else containerd's own, else none) -> list -> follow -> lost -> connect
//! ```
//!
//! A runtime that tells nothing is listed once a second while anything of this instance runs, one that says that it is not
//! ready until it is, and others not at all.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use kobune_grpc::{Code, Status};
use kobune_runtime::{ContainerId, ContainerState, SandboxId, SandboxState};
use prost::Message;
use tokio::time::{Instant, sleep, sleep_until};

use crate::calls::Calls;
use crate::failure;
use crate::proto::container::{ContainerFilter, ListContainersRequest, state};
use crate::proto::events::TaskExit;
use crate::proto::sandbox::{ListPodSandboxRequest, PodSandboxFilter, READY};
use crate::proto::{ById, StatusRequest};
use crate::runtime::Inner;
use crate::sandbox_config::INSTANCE;
use crate::state as mirror;

/// Pauses between attempts to reach the runtime.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How often a runtime that tells nothing is asked; upstream's period.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// After the first list comes a second one: what ended before the subscription was in force is found then at the latest.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// An end is told before the runtime's own books say so: so often and so long is asked for it, 10 s in all.
const CHASES: u32 = 11;
const CHASE_PAUSE: Duration = Duration::from_millis(5);

/// Who tells what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// CRI's `GetContainerEvents`.
    Cri,
    /// containerd's events, which every version of it has.
    Containerd,
    /// Nobody.
    Lists,
}

impl Source {
    fn next(self) -> Source {
        match self {
            Source::Cri => Source::Containerd,
            Source::Containerd | Source::Lists => Source::Lists,
        }
    }

    /// The ids that something has happened to.
    fn stream(self, calls: Calls) -> BoxStream<'static, Result<String, Status>> {
        match self {
            Source::Cri => {
                async move { calls.events().await }.try_flatten_stream().map_ok(|event| event.container_id).boxed()
            }
            Source::Containerd => async move { calls.containerd_exits().await }
                .try_flatten_stream()
                .try_filter_map(|envelope| async move {
                    let exit = envelope.event.and_then(|event| TaskExit::decode(&*event.value).ok());
                    // Commands that were run in a container have names of their own.
                    Ok(exit.filter(|exit| exit.id == exit.container_id).map(|exit| exit.container_id))
                })
                .boxed(),
            Source::Lists => futures::stream::pending().boxed(),
        }
    }
}

/// Follows the runtime until nobody uses it any more.
pub(crate) async fn run(runtime: Weak<Inner>) {
    let mut pause = FIRST_PAUSE;
    let mut source = Source::Cri;
    loop {
        let Some(inner) = runtime.upgrade() else { return };
        let (calls, over) = (inner.calls.clone(), inner.over.clone());
        drop(inner);
        let begun = Instant::now();
        // Dropping the following loses nothing: the next one begins with a list.
        let ended = tokio::select! {
            () = over.cancelled() => return,
            ended = follow(&runtime, calls, source) => ended,
        };
        let Some(inner) = runtime.upgrade() else { return };
        match ended {
            Ok(()) => return,
            Err(status) if status.code() == Code::Unimplemented && source != Source::Lists => {
                source = source.next();
                tracing::debug!(?source, "the container runtime does not tell its events this way");
                continue;
            }
            Err(status) => {
                let text = format!("container runtime is down: {}", failure::text(&status));
                if inner.set_trouble(Some(text.clone())) {
                    tracing::warn!("{text}");
                }
            }
        }
        drop(inner);
        if begun.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
        }
        // It may be another version after it was started again.
        source = Source::Cri;
    }
}

/// `Ok` when nobody uses the runtime any more.
async fn follow(runtime: &Weak<Inner>, calls: Calls, source: Source) -> Result<(), Status> {
    let mut events = source.stream(calls);
    let mut first = std::pin::pin!(
        async {
            match runtime.upgrade() {
                Some(inner) => inner.list_all().await.map(Some),
                None => Ok(None),
            }
        }
        .fuse()
    );
    let mut listed = false;
    let asked = source == Source::Lists;
    // When to list again.
    let mut next: Option<Instant> = None;
    loop {
        let Some(inner) = runtime.upgrade() else { return Ok(()) };
        let mut changed = inner.changed.subscribe();
        if listed && next.is_none() && inner.has_to_be_asked(asked) {
            next = Some(Instant::now() + ASK_EVERY);
        }
        drop(inner);
        // Dropping the receive loses nothing, the others begin anew.
        tokio::select! {
            done = &mut first, if !listed => {
                if done?.is_none() {
                    return Ok(());
                }
                listed = true;
                next = Some(Instant::now() + LIST_AGAIN);
            }
            event = events.next() => match event {
                Some(Ok(id)) => {
                    if let Some(inner) = runtime.upgrade() {
                        inner.something_happened(id);
                    }
                }
                Some(Err(status)) => return Err(status),
                None => return Err(Status::unavailable("the runtime tells its events no more")),
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let Some(inner) = runtime.upgrade() else { return Ok(()) };
                inner.list_all().await?;
                next = None;
            }
            // Something was started, and from now on somebody has to look when it ends.
            _ = changed.changed(), if asked && listed && next.is_none() => {}
        }
    }
}

impl Inner {
    /// Whether there will be news that nobody tells.
    fn has_to_be_asked(&self, tells_nothing: bool) -> bool {
        (tells_nothing && self.state.read().anything_runs()) || self.is_in_trouble()
    }

    /// Asks for the state of what an event is about, until it has changed.
    pub(crate) fn something_happened(self: &Arc<Self>, id: String) {
        let (container, sandbox) = (ContainerId::from(id.as_str()), SandboxId::from(id.as_str()));
        let known = {
            let known = self.state.read();
            known.containers.contains_key(&container) || known.sandboxes.contains_key(&sandbox)
        };
        if !known {
            // Somebody else's, or one whose making is not done: that looks for itself when it is.
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let mut pause = CHASE_PAUSE;
            for _ in 0..CHASES {
                if inner.is_settled(&container, &sandbox).await {
                    return;
                }
                sleep(pause).await;
                pause *= 2;
            }
        });
    }

    /// Brings a container or sandbox up to date; whether it is in a state that it stays in.
    async fn is_settled(&self, container: &ContainerId, sandbox: &SandboxId) -> bool {
        let is_container = self.state.read().containers.contains_key(container);
        let looked =
            if is_container { self.look_at_container(container).await } else { self.look_at_sandbox(sandbox).await };
        if let Err(error) = looked {
            tracing::debug!(error = &error as &dyn std::error::Error, "a container was not looked at");
            return false;
        }
        let known = self.state.read();
        match (known.containers.get(container), known.sandboxes.get(sandbox)) {
            (Some(container), _) => matches!(container.state, ContainerState::Exited | ContainerState::Unknown),
            (None, Some(sandbox)) => sandbox.state == SandboxState::NotReady,
            (None, None) => true,
        }
    }

    /// Compares all that the runtime has of this instance with what is known, and looks at what differs.
    pub(crate) async fn list_all(&self) -> Result<(), Status> {
        let label_selector: std::collections::HashMap<_, _> =
            [(INSTANCE.to_owned(), self.config.instance.clone())].into();
        let (sandboxes_before, containers_before): (HashSet<SandboxId>, HashSet<ContainerId>) = {
            let known = self.state.read();
            (known.sandboxes.keys().cloned().collect(), known.containers.keys().cloned().collect())
        };
        let filter = Some(PodSandboxFilter { label_selector: label_selector.clone() });
        let sandboxes = self.calls.list_pod_sandbox(ListPodSandboxRequest { filter }).await?.items;
        let filter = Some(ContainerFilter { label_selector });
        let containers = self.calls.list_containers(ListContainersRequest { filter }).await?.containers;
        // Filters are asked for; what comes is looked at all the same.
        let own = |labels: &std::collections::HashMap<String, String>| {
            labels.get(INSTANCE).is_some_and(|instance| *instance == self.config.instance)
        };
        let mut seen = HashSet::new();
        for sandbox in sandboxes.into_iter().filter(|sandbox| own(&sandbox.labels)) {
            let id = SandboxId::from(sandbox.id);
            let ready = sandbox.state == READY;
            let known = self.state.read().sandboxes.get(&id).map(|known| known.state == SandboxState::Ready);
            if known != Some(ready) {
                self.told(self.look_at_sandbox(&id).await);
            }
            seen.insert(id);
        }
        let mut seen_containers = HashSet::new();
        for container in containers.into_iter().filter(|container| own(&container.labels)) {
            let id = ContainerId::from(container.id);
            let now = match container.state {
                state::CREATED => ContainerState::Created,
                state::RUNNING => ContainerState::Running,
                state::EXITED => ContainerState::Exited,
                _ => ContainerState::Unknown,
            };
            let known = self.state.read().containers.get(&id).map(|known| known.state);
            if known != Some(now) {
                self.told(self.adopt_container(&id, &SandboxId::from(container.pod_sandbox_id)).await);
            }
            seen_containers.insert(id);
        }
        // Only what was known before the question: what was made meanwhile need not be in the answer.
        let events: Vec<_> = {
            let mut known = self.state.write();
            let containers = containers_before.iter().filter(|id| !seen_containers.contains(*id));
            let mut events: Vec<_> = containers.filter_map(|id| known.forget_container(id)).collect();
            let sandboxes = sandboxes_before.iter().filter(|id| !seen.contains(*id));
            events.extend(sandboxes.filter_map(|id| known.forget_sandbox(id)));
            events
        };
        self.tell(events);
        self.look_at_health().await
    }

    /// One that can't be looked at is looked at with the next list.
    fn told(&self, looked: kobune_runtime::Result<()>) {
        if let Err(error) = looked {
            tracing::warn!(error = &error as &dyn std::error::Error, "the container runtime does not say what it has");
        }
    }

    /// Whether the runtime itself says that it is ready.
    async fn look_at_health(&self) -> Result<(), Status> {
        let status = self.calls.status(StatusRequest { verbose: false }).await?;
        let conditions = status.status.unwrap_or_default().conditions;
        let bad = conditions
            .iter()
            .find(|condition| !condition.status && matches!(condition.kind.as_str(), "RuntimeReady" | "NetworkReady"));
        let trouble =
            bad.map(|bad| format!("container runtime is not ready: {}: {}: {}", bad.kind, bad.reason, bad.message));
        let text = trouble.clone();
        if self.set_trouble(trouble) {
            match text {
                Some(text) => tracing::warn!("{text}"),
                None => tracing::info!("the container runtime is ready"),
            }
        }
        Ok(())
    }

    /// Asks for a sandbox and takes note of the answer.
    pub(crate) async fn look_at_sandbox(&self, id: &SandboxId) -> kobune_runtime::Result<()> {
        match self.calls.pod_sandbox_status(ById { id: id.to_string(), verbose: true }).await {
            Ok(answer) => {
                let Some(status) = mirror::sandbox(&answer).filter(|status| status.id == *id) else {
                    return Err(kobune_runtime::Error::Remote(format!(
                        "the container runtime does not say what it was asked of sandbox {id}"
                    )));
                };
                let event = self.state.write().note_sandbox(status);
                self.tell(event);
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => {
                let event = self.state.write().forget_sandbox(id);
                self.tell(event);
                Ok(())
            }
            Err(status) => Err(failure::of(&status)),
        }
    }

    /// Asks for a known container and takes note of the answer.
    pub(crate) async fn look_at_container(&self, id: &ContainerId) -> kobune_runtime::Result<()> {
        let sandbox = self.state.read().containers.get(id).map(|known| known.sandbox.clone());
        match sandbox {
            Some(sandbox) => self.adopt_container(id, &sandbox).await,
            None => Ok(()),
        }
    }

    /// Asks for a container of a known sandbox and takes note of the answer.
    pub(crate) async fn adopt_container(&self, id: &ContainerId, sandbox: &SandboxId) -> kobune_runtime::Result<()> {
        match self.calls.container_status(ById { id: id.to_string(), verbose: false }).await {
            Ok(answer) => {
                let Some(status) = answer.status.filter(|status| status.id == id.as_str()) else {
                    return Err(kobune_runtime::Error::Remote(format!(
                        "the container runtime does not say what it was asked of container {id}"
                    )));
                };
                let events = {
                    let mut known = self.state.write();
                    // Without its sandbox it is nobody's, and goes with it.
                    let Some(sandbox) = known.sandboxes.get(sandbox) else { return Ok(()) };
                    let status = mirror::container(&status, sandbox);
                    known.note_container(status)
                };
                self.tell(events);
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => {
                let event = self.state.write().forget_container(id);
                self.tell(event);
                Ok(())
            }
            Err(status) => Err(failure::of(&status)),
        }
    }
}
