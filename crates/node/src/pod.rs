//! Small questions about a pod that several subjects ask.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// The pod's uid, empty when it has none (never so for a pod from the API).
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The pod's specification.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

/// The pod as messages name it: `name_namespace(uid)`.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// An init container that goes on running beside the containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the containers start.
    Init,
    /// An init container that goes on running.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added for debugging; never restarted.
    Ephemeral,
}

/// A container of a pod with its role; ephemeral ones in the shape of ordinary ones.
#[derive(Clone, Debug)]
pub struct Member {
    /// What part it plays.
    pub role: Role,
    /// The container as the pod's author wrote it.
    pub container: Container,
}

/// All containers of a pod: init containers, containers, ephemeral containers, each in order.
pub fn members(spec: &PodSpec) -> Vec<Member> {
    let init = spec.init_containers.iter().flatten().map(|container| Member {
        role: if is_sidecar(container) { Role::Sidecar } else { Role::Init },
        container: container.clone(),
    });
    let main = spec.containers.iter().map(|container| Member { role: Role::Main, container: container.clone() });
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| Member { role: Role::Ephemeral, container: from_ephemeral(container) });
    init.chain(main).chain(ephemeral).collect()
}

fn from_ephemeral(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        name: container.name,
        resources: container.resources,
        security_context: container.security_context,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_devices: container.volume_devices,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
        ..Container::default()
    }
}

/// The path of a container inside the pod, as events' `involvedObject.fieldPath` has it.
pub fn field_path(role: Role, container: &str) -> String {
    let list = match role {
        Role::Init | Role::Sidecar => "initContainers",
        Role::Main => "containers",
        Role::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{container}}}")
}

/// Whether the node is to keep the pod whatever it is short of.
///
/// Source: `IsCriticalPod` in `pkg/kubelet/types/pod_update.go`.
pub fn is_critical(pod: &Pod) -> bool {
    crate::static_pods::is_static(pod) || spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000)
}

/// Whether the pod's phase is final.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
