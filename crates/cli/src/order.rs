//! In which order objects are applied: what others need comes first, what may keep others out comes last. Objects of one
//! phase do not need each other and go side by side; they are deleted in the opposite order.

/// A phase, in the order of application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Namespaces.
    Namespaces,
    /// Definitions of kinds; the next phase waits until they are established.
    Definitions,
    /// Classes and priorities that others name.
    Classes,
    /// Who may do what.
    Identity,
    /// Bindings of roles, which name them.
    Bindings,
    /// Limits, policies and data that pods read or are held to.
    Configuration,
    /// Services: pods learn of them when they start.
    Services,
    /// What runs, and custom resources.
    Workloads,
    /// What watches over workloads and leads to them.
    Traffic,
    /// What is asked about every later request: were it there before what answers, it would keep everything out.
    Gates,
}

/// The phase of a kind.
pub fn phase(group: &str, kind: &str) -> Phase {
    match (group, kind) {
        ("", "Namespace") => Phase::Namespaces,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Phase::Definitions,
        ("scheduling.k8s.io" | "node.k8s.io" | "storage.k8s.io", _) => Phase::Classes,
        ("networking.k8s.io", "IngressClass") | ("gateway.networking.k8s.io", "GatewayClass") => Phase::Classes,
        ("", "ServiceAccount") | ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => Phase::Identity,
        ("rbac.authorization.k8s.io", _) => Phase::Bindings,
        (
            "",
            "ConfigMap" | "Secret" | "LimitRange" | "ResourceQuota" | "PersistentVolume" | "PersistentVolumeClaim",
        )
        | ("networking.k8s.io", "NetworkPolicy")
        | ("resource.k8s.io", _) => Phase::Configuration,
        ("", "Service" | "Endpoints") | ("discovery.k8s.io", _) => Phase::Services,
        ("networking.k8s.io" | "gateway.networking.k8s.io" | "autoscaling" | "policy", _) => Phase::Traffic,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io", _) => Phase::Gates,
        _ => Phase::Workloads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let order = [
            ("", "Namespace"),
            ("apiextensions.k8s.io", "CustomResourceDefinition"),
            ("scheduling.k8s.io", "PriorityClass"),
            ("", "ServiceAccount"),
            ("rbac.authorization.k8s.io", "RoleBinding"),
            ("", "ConfigMap"),
            ("", "Service"),
            ("apps", "Deployment"),
            ("networking.k8s.io", "Ingress"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ];
        let phases: Vec<Phase> = order.iter().map(|(group, kind)| phase(group, kind)).collect();
        assert!(phases.is_sorted_by(|left, right| left < right), "{phases:?}");
        assert_eq!(phase("boats.example.com", "Boat"), Phase::Workloads);
        assert_eq!(phase("rbac.authorization.k8s.io", "ClusterRole"), Phase::Identity);
    }
}
