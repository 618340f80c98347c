//! Pods that use more local storage than they may. Pure. Source: `localStorageEviction` in
//! `pkg/kubelet/eviction/eviction_manager.go`.

use k8s_openapi::api::core::v1::Pod;

use crate::pod;
use crate::quantity::Amount;

/// What a pod has on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Containers: name and bytes of layer and log.
    pub containers: Vec<(String, u64)>,
    /// Volumes of kind `emptyDir`: name and bytes.
    pub volumes: Vec<(String, u64)>,
}

fn limit(container: &k8s_openapi::api::core::v1::Container) -> Option<Amount> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get("ephemeral-storage").map(Amount::of)
}

/// Whether the pod has a limit of local storage at all; others need not be looked at.
pub fn has_limits(owner: &Pod) -> bool {
    let spec = pod::spec(owner);
    let of_volume = spec.volumes.iter().flatten().filter_map(|volume| volume.empty_dir.as_ref());
    of_volume.clone().any(|volume| volume.size_limit.is_some() && volume.medium.as_deref() != Some("Memory"))
        || spec.containers.iter().any(|container| limit(container).is_some())
}

/// Why the pod has to go, if it does.
pub fn exceeded(owner: &Pod, used: &OnDisk) -> Option<String> {
    let spec = pod::spec(owner);
    let over = |used: u64, limit: Amount| i64::try_from(used).is_ok_and(|used| used > limit.value());
    for volume in spec.volumes.iter().flatten() {
        let limit = volume.empty_dir.as_ref().and_then(|volume| volume.size_limit.as_ref());
        let used = used.volumes.iter().find(|(name, _)| *name == volume.name);
        if let (Some(limit), Some((name, used))) = (limit, used)
            && over(*used, Amount::of(limit))
        {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", limit.0));
        }
    }
    let limits: Option<Vec<Amount>> = spec.containers.iter().map(limit).collect();
    let total: u64 = used.containers.iter().chain(&used.volumes).map(|(_, bytes)| bytes).sum();
    if let Some(whole) = limits.map(|limits| limits.into_iter().fold(Amount::default(), Amount::plus))
        && over(total, whole)
    {
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers";
        return Some(format!("{text} {}. ", whole.value()));
    }
    for container in &spec.containers {
        let used = used.containers.iter().find(|(name, _)| *name == container.name);
        if let (Some(limit), Some((name, used))) = (limit(container), used)
            && over(*used, limit)
        {
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{}\". ",
                limit.value()
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_too_much() {
        let limited = json!({"resources": {"limits": {"ephemeral-storage": "1Ki"}}});
        let pod = |two: &serde_json::Value| -> Pod {
            let (mut one, mut two) = (limited.clone(), two.clone());
            (one["name"], two["name"]) = (json!("a"), json!("b"));
            serde_json::from_value(json!({"spec": {"containers": [one, two],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "2Ki"}}, {"name": "w", "emptyDir": {}}]}}))
            .expect("a pod")
        };
        let check = |two: &serde_json::Value, sizes: [u64; 4], expected: &str| {
            let [a, b, v, w] = sizes;
            let used = OnDisk {
                containers: vec![("a".into(), a), ("b".into(), b)],
                volumes: vec![("v".into(), v), ("w".into(), w)],
            };
            assert_eq!(exceeded(&pod(two), &used).unwrap_or_default(), expected);
        };
        check(&limited, [1024, 1024, 0, 0], "");
        check(&limited, [0, 0, 2049, 0], "Usage of EmptyDir volume \"v\" exceeds the limit \"2Ki\". ");
        check(
            &limited,
            [1000, 1000, 0, 49],
            "Pod ephemeral local storage usage exceeds the total limit of containers 2048. ",
        );
        check(&limited, [1025, 0, 0, 0], "Container a exceeded its local ephemeral storage limit \"1024\". ");
        check(&json!({}), [1024, 9999, 1000, 9999], "");
        assert!(has_limits(&pod(&json!({}))));
        assert!(!has_limits(&Pod::default()));
    }
}
