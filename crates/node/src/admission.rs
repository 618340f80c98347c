//! Whether this node can run a new pod at all. Pure; room is the [`crate::ledger`]'s matter.
//!
//! Reasons and texts are those of upstream's kubelet (`pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl`).

use k8s_openapi::api::core::v1::Pod;

use crate::ledger::Rejection;
use crate::machine::Machine;
use crate::pod;
use crate::resources::{QosClass, qos_class};

/// Kernel parameters that a pod may set because they cannot harm another.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn reject(reason: &str, message: impl Into<String>) -> Rejection {
    Rejection { reason: reason.to_owned(), message: message.into() }
}

/// Whether a node that is short of something takes the pod in. Short of memory alone it takes what asks for some.
///
/// Source: `Admit` in `pkg/kubelet/eviction/eviction_manager.go`.
pub fn admit_under_pressure(owner: &Pod, conditions: &[&str]) -> Result<(), Rejection> {
    let critical = pod::is_critical(owner);
    let bearable = conditions == ["MemoryPressure"] && qos_class(owner) != QosClass::BestEffort;
    if conditions.is_empty() || critical || bearable {
        return Ok(());
    }
    Err(reject("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

/// Whether the node can run the pod; else why not.
pub fn admit(owner: &Pod, machine: &Machine) -> Result<(), Rejection> {
    let spec = pod::spec(owner);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(reject("PodOSNotSupported", message));
    }
    let selected = |key: &str| spec.node_selector.as_ref().and_then(|selector| selector.get(key));
    if selected("kubernetes.io/os").is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(reject("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if selected("kubernetes.io/arch").is_some_and(|arch| *arch != machine.architecture) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(reject("NodeAffinity", message));
    }
    sysctls(owner)
}

fn sysctls(owner: &Pod) -> Result<(), Rejection> {
    let spec = pod::spec(owner);
    let asked = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    for sysctl in asked {
        // Both spellings name the same file below `/proc/sys`.
        let name = sysctl.name.replace('/', ".");
        let shown = &sysctl.name;
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(reject("SysctlForbidden", format!("forbidden sysctl: \"{shown}\" not allowlisted")));
        }
        if name.starts_with("net.") && spec.host_network.unwrap_or(false) {
            let message = format!("forbidden sysctl: \"{shown}\" not allowed with host net enabled");
            return Err(reject("SysctlForbidden", message));
        }
        if name.starts_with("kernel.shm") && spec.host_ipc.unwrap_or(false) {
            let message = format!("forbidden sysctl: \"{shown}\" not allowed with host ipc enabled");
            return Err(reject("SysctlForbidden", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_node_under_pressure_is_choosy() {
        let check = |resources: Value, priority: i32, conditions: &[&str], expected: bool| {
            let pod: Pod = serde_json::from_value(json!({"spec": {"priority": priority,
                "containers": [{"name": "c", "resources": resources}]}}))
            .expect("a pod");
            assert_eq!(admit_under_pressure(&pod, conditions).is_ok(), expected, "{resources} {conditions:?}");
        };
        let asks = json!({"requests": {"memory": "1Mi"}});
        check(json!({}), 0, &[], true);
        check(json!({}), 0, &["MemoryPressure"], false);
        check(asks.clone(), 0, &["MemoryPressure"], true);
        check(asks, 0, &["DiskPressure", "MemoryPressure"], false);
        check(json!({}), 2_000_000_000, &["DiskPressure"], true);
    }

    #[test]
    fn admits() {
        let machine = Machine { architecture: "amd64".to_owned(), ..Machine::default() };
        let check = |spec: Value, expected: &str| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
            let reason = admit(&pod, &machine).err().map(|rejection| rejection.reason).unwrap_or_default();
            assert_eq!(reason, expected, "{pod:?}");
        };
        let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
        check(json!({"os": {"name": "linux"}}), "");
        check(json!({"os": {"name": "windows"}}), "PodOSNotSupported");
        check(json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), "PodOSSelectorNodeLabelDoesNotMatch");
        check(json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}), "NodeAffinity");
        check(json!({"securityContext": sysctl("kernel.shm_rmid_forced")}), "");
        check(json!({"securityContext": sysctl("kernel/shm_rmid_forced")}), "");
        check(json!({"securityContext": sysctl("kernel.msgmax")}), "SysctlForbidden");
        check(json!({"hostIPC": true, "securityContext": sysctl("kernel.shm_rmid_forced")}), "SysctlForbidden");
        check(json!({"hostNetwork": true, "securityContext": sysctl("net.ipv4.tcp_rmem")}), "SysctlForbidden");
    }
}
