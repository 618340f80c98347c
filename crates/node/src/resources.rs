//! From a pod's requests and limits to its QoS class, cgroup limits and `oom_score_adj`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kobune_runtime::Resources;

use crate::ledger::Totals;
use crate::pod::is_sidecar;
use crate::quantity::Amount;

/// One scheduling period of the CPU controller in microseconds, upstream's default.
const CPU_PERIOD: i64 = 100_000;
/// The kernel refuses shorter quotas.
const CPU_QUOTA_LEAST: i64 = 1000;
/// The kernel's bounds for CPU shares.
const CPU_SHARES: (i64, i64) = (2, 262_144);

/// A pod's quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Requests equal limits for CPU and memory of every container.
    Guaranteed,
    /// Some request or limit is set.
    Burstable,
    /// Nothing is set.
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    /// The folder between the instance's cgroup and the pod's.
    pub fn cgroup(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "",
            QosClass::Burstable => "burstable",
            QosClass::BestEffort => "besteffort",
        }
    }
}

fn amount(map: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    map.and_then(|map| map.get(name)).map(Amount::of)
}

fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<Amount> {
    let resources = resources?;
    amount(resources.requests.as_ref(), name).or_else(|| amount(resources.limits.as_ref(), name))
}

fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<Amount> {
    amount(resources?.limits.as_ref(), name).filter(|amount| !amount.is_zero())
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// The class of a pod; what the API server wrote wins.
pub fn qos_class(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return QosClass::Guaranteed,
        Some("Burstable") => return QosClass::Burstable,
        Some("BestEffort") => return QosClass::BestEffort,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let mut any = false;
    let mut guaranteed = true;
    let sets: Vec<Option<&ResourceRequirements>> = match spec.resources.as_ref() {
        Some(resources) if resources.requests.is_some() || resources.limits.is_some() => vec![Some(resources)],
        _ => all_containers(spec).map(|container| container.resources.as_ref()).collect(),
    };
    for resources in sets {
        for name in ["cpu", "memory"] {
            let asked = request(resources, name).filter(|amount| !amount.is_zero());
            let most = limit(resources, name);
            any |= asked.is_some() || most.is_some();
            guaranteed &= most.is_some() && asked == most;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

fn shares(milli: i64) -> u64 {
    let shares = (milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES.0, CPU_SHARES.1);
    u64::try_from(shares).unwrap_or(2)
}

fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(CPU_PERIOD) / 1000).max(CPU_QUOTA_LEAST)
}

/// The limits of one container's cgroup.
pub fn container_resources(pod: &Pod, container: &Container, memory_capacity: i64) -> Resources {
    let own = container.resources.as_ref();
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let cpu = request(own, "cpu").map_or(0, Amount::milli);
    let cpu_limit = limit(own, "cpu").or_else(|| limit(pod_level, "cpu"));
    let memory_limit = limit(own, "memory").or_else(|| limit(pod_level, "memory"));
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_quota: cpu_limit.map(|limit| quota(limit.milli())),
        cpu_period: cpu_limit.map(|_| CPU_PERIOD.unsigned_abs()),
        memory_limit: memory_limit.map(Amount::value),
        memory_swap_limit: memory_limit.map(Amount::value),
        oom_score_adj: Some(oom_score_adj(pod, container, memory_capacity)),
        hugepage_limits: hugepage_limits(own),
        ..Resources::default()
    }
}

/// Limits of huge pages, by the size as the kernel names it. A machine's other sizes are left alone.
fn hugepage_limits(own: Option<&ResourceRequirements>) -> BTreeMap<String, u64> {
    let limits = own.and_then(|own| own.limits.as_ref()).into_iter().flatten();
    limits
        .filter_map(|(name, amount)| {
            let size = Amount::parse(name.strip_prefix("hugepages-")?)?.value();
            let bytes = u64::try_from(Amount::of(amount).value()).ok()?;
            Some((kernel_size(u64::try_from(size).ok()?), bytes))
        })
        .collect()
}

/// A page's size as cgroup files have it: `64KB`, `2MB`, `1GB`.
fn kernel_size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    }
}

/// A request or a limit of one container.
type Pick<'a> = &'a dyn Fn(Option<&ResourceRequirements>) -> Option<Amount>;

/// What the containers of a pod need together at any time; `None` when one of them says nothing.
///
/// Source: `PodRequests` and `PodLimits` of `k8s.io/component-helpers/resource`.
fn together(spec: &PodSpec, pick: Pick<'_>) -> Option<Amount> {
    let long_running =
        spec.init_containers.iter().flatten().filter(|container| is_sidecar(container)).chain(&spec.containers);
    let mut most = Amount::default();
    for container in long_running {
        most = most.plus(pick(container.resources.as_ref())?);
    }
    let mut sidecars = Amount::default();
    for container in spec.init_containers.iter().flatten() {
        let own = pick(container.resources.as_ref())?;
        if is_sidecar(container) {
            sidecars = sidecars.plus(own);
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars.plus(own));
        }
    }
    Some(most)
}

fn overhead(spec: &PodSpec, name: &str) -> Amount {
    amount(spec.overhead.as_ref(), name).unwrap_or_default()
}

/// What a pod takes of the node: its requests with its overhead.
pub fn requests(pod: &Pod) -> Totals {
    let Some(spec) = &pod.spec else { return Totals::default() };
    let total = |name: &str| {
        let whole = request(spec.resources.as_ref(), name);
        let whole = whole.or_else(|| together(spec, &|resources| Some(request(resources, name).unwrap_or_default())));
        whole.unwrap_or_default().plus(overhead(spec, name))
    };
    Totals { cpu: total("cpu").milli(), memory: total("memory").value(), storage: total("ephemeral-storage").value() }
}

/// The limits of the pod's cgroup: sums of its containers', or what the pod itself says.
pub fn pod_resources(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let total = |pick: Pick<'_>| together(spec, pick);
    let pod_level = spec.resources.as_ref();
    let cpu =
        request(pod_level, "cpu").or_else(|| total(&|resources| Some(request(resources, "cpu").unwrap_or_default())));
    let cpu_limit = limit(pod_level, "cpu").or_else(|| total(&|resources| limit(resources, "cpu")));
    let memory_limit = limit(pod_level, "memory").or_else(|| total(&|resources| limit(resources, "memory")));
    let plus = |base: Option<Amount>, name: &str| base.map(|base| base.plus(overhead(spec, name)));
    let (cpu, cpu_limit, memory_limit) = (plus(cpu, "cpu"), plus(cpu_limit, "cpu"), plus(memory_limit, "memory"));
    Resources {
        cpu_shares: Some(shares(cpu.map_or(0, Amount::milli))),
        cpu_quota: cpu_limit.map(|limit| quota(limit.milli())),
        cpu_period: cpu_limit.map(|_| CPU_PERIOD.unsigned_abs()),
        memory_limit: memory_limit.map(Amount::value),
        ..Resources::default()
    }
}

/// How early the kernel ends a container when the machine's memory runs out.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    let critical = crate::pod::is_critical(pod);
    match qos_class(pod) {
        _ if critical => -997,
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let asked = request(container.resources.as_ref(), "memory").map_or(0, Amount::value);
            let part = asked.saturating_mul(1000).checked_div(memory_capacity).unwrap_or(0);
            i32::try_from((1000 - part).clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).expect("a pod")
    }

    #[test]
    fn huge_pages_are_limited_by_the_kernels_names() {
        let limits = serde_json::json!({"limits": {"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi", "cpu": "1"}});
        let own: ResourceRequirements = serde_json::from_value(limits).expect("resources");
        let expected = [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 1 << 30)];
        assert_eq!(hugepage_limits(Some(&own)), expected.into());
    }

    #[test]
    fn classes() {
        let check = |containers: Value, expected: QosClass| {
            assert_eq!(qos_class(&pod(containers.clone())), expected, "{containers}");
        };
        check(json!([{"name": "a"}]), QosClass::BestEffort);
        check(json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]), QosClass::Burstable);
        check(json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]), QosClass::Guaranteed);
        check(
            json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}}]),
            QosClass::Burstable,
        );
        check(
            json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]),
            QosClass::Burstable,
        );
    }

    #[test]
    fn cgroup_limits() {
        let pod = pod(json!([
            {"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "5m", "memory": "64Mi"}}},
        ]));
        let containers = &pod.spec.as_ref().expect("spec").containers;
        let a = container_resources(&pod, &containers[0], 1 << 30);
        assert_eq!((a.cpu_shares, a.cpu_quota, a.memory_limit), (Some(256), Some(50_000), Some(64 << 20)));
        assert_eq!(a.oom_score_adj, Some(1000 - 31));
        let b = container_resources(&pod, &containers[1], 1 << 30);
        assert_eq!((b.cpu_shares, b.cpu_quota), (Some(5), Some(1000)));
        let whole = pod_resources(&pod);
        assert_eq!((whole.cpu_shares, whole.cpu_quota, whole.memory_limit), (Some(261), Some(50_500), Some(128 << 20)));
    }
}
