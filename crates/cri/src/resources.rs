//! Limits in CRI's terms. Pure.

use kobune_runtime::Resources;

use crate::proto::container::{HugepageLimit, LinuxContainerResources};

/// Limits as messages have them; zero leaves a limit as it is.
pub(crate) fn limits(resources: &Resources) -> LinuxContainerResources {
    let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: signed(resources.cpu_period),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(size, bytes)| HugepageLimit { page_size: size.clone(), limit: *bytes })
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit.unwrap_or(0),
    }
}

/// New limits over those before: what was limited and is no longer asked for has to be taken away by name.
pub(crate) fn replacing(before: &Resources, mut after: Resources) -> Resources {
    if before.cpu_quota.is_some_and(|quota| quota > 0) && after.cpu_quota.is_none() {
        after.cpu_quota = Some(-1);
    }
    if before.memory_limit.is_some_and(|memory| memory > 0) && after.memory_limit.is_none() {
        after.memory_limit = Some(-1);
    }
    after
}

/// The wider of two limits each, for a pod's group while those of its containers change.
pub(crate) fn wider(before: &Resources, after: &Resources) -> Resources {
    let wide = |one: Option<i64>, other: Option<i64>| match (one, other) {
        (Some(one), Some(other)) if one > 0 && other > 0 => Some(one.max(other)),
        (None, None) => None,
        _ => Some(-1),
    };
    Resources {
        cpu_quota: wide(before.cpu_quota, after.cpu_quota),
        cpu_period: after.cpu_period.or(before.cpu_period),
        memory_limit: wide(before.memory_limit, after.memory_limit),
        ..Resources::default()
    }
}

/// The limits in force once these have been set.
pub(crate) fn merged(before: &Resources, after: &Resources) -> Resources {
    Resources {
        cpu_shares: after.cpu_shares.or(before.cpu_shares),
        cpu_quota: after.cpu_quota.or(before.cpu_quota),
        cpu_period: after.cpu_period.or(before.cpu_period),
        cpuset_cpus: after.cpuset_cpus.clone().or_else(|| before.cpuset_cpus.clone()),
        cpuset_mems: after.cpuset_mems.clone().or_else(|| before.cpuset_mems.clone()),
        memory_limit: after.memory_limit.or(before.memory_limit),
        memory_swap_limit: after.memory_swap_limit.or(before.memory_swap_limit),
        pids_limit: after.pids_limit.or(before.pids_limit),
        oom_score_adj: before.oom_score_adj,
        hugepage_limits: before.hugepage_limits.iter().chain(&after.hugepage_limits).map(pair).collect(),
        unified: before.unified.iter().chain(&after.unified).map(pair).collect(),
    }
}

fn pair<A: Clone, B: Clone>((one, other): (&A, &B)) -> (A, B) {
    (one.clone(), other.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cpu: Option<i64>, memory: Option<i64>) -> Resources {
        Resources { cpu_quota: cpu, memory_limit: memory, ..Resources::default() }
    }

    #[test]
    fn limits_change() {
        assert_eq!(replacing(&of(Some(5), Some(7)), of(None, Some(9))), of(Some(-1), Some(9)));
        assert_eq!(replacing(&of(None, None), of(None, None)), of(None, None));
        assert_eq!(wider(&of(Some(5), Some(7)), &of(Some(9), Some(3))), of(Some(9), Some(7)));
        assert_eq!(wider(&of(Some(5), None), &of(Some(-1), None)), of(Some(-1), None));
        assert_eq!(merged(&of(Some(5), Some(7)), &of(None, Some(3))), of(Some(5), Some(3)));
    }
}
