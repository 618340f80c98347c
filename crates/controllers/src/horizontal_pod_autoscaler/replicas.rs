//! How many replicas a metric asks for, as pure functions of samples and pods. Amounts are in thousandths.
//!
//! Samples of pods that have just started say little, and pods without samples nothing: they are taken for idle when more
//! replicas seem to be needed, and for fully busy when fewer do. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/replica_calculator.go>.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use kobune_scheduler::quantity::milli_value;

/// How long after its start a pod's CPU samples are taken with care, as upstream.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that turned unready this soon after its start has never been ready, as upstream.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What one pod used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The amount in thousandths.
    pub value: i64,
    /// When it was taken.
    pub at: Timestamp,
    /// Over how long.
    pub window: SignedDuration,
}

/// Samples by the names of pods.
pub type Samples = BTreeMap<String, Sample>;

/// How far from its target a ratio may be without anything being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Above.
    pub up: f64,
    /// Below.
    pub down: f64,
}

impl Tolerances {
    fn within(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// So many replicas.
    pub replicas: i32,
    /// Use in percent of requests, where that is the target.
    pub utilization: Option<i32>,
    /// What a pod uses on average.
    pub average: i64,
}

/// What is missing when a metric says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// There is nothing to scale by.
    #[error("no pods returned by selector while calculating replica count")]
    Pods,
    /// No sample is of any use.
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    Samples,
    /// A share of nothing cannot be told.
    #[error("missing request for {resource} in container {container} of Pod {pod}")]
    Request {
        /// The resource.
        resource: String,
        /// The container.
        container: String,
        /// The pod.
        pod: String,
    },
    /// The metric is about a container that a pod does not have.
    #[error("container {container} not found in Pod {pod}")]
    Container {
        /// The container.
        container: String,
        /// The pod.
        pod: String,
    },
}

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Scene<'s> {
    /// Replicas that the target wants now.
    pub current: i32,
    /// Its pods.
    pub pods: &'s [Pod],
    /// How far off is near enough.
    pub tolerances: Tolerances,
    /// The time.
    pub now: Timestamp,
}

/// Pods by what their samples are worth.
#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether a sample of CPU is of a pod that is still starting.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let Some(status) = &pod.status else { return true };
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let (Some(ready), Some(started)) = (ready, &status.start_time) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(started.0, |time| time.0);
    if started.0.saturating_add(CPU_INITIALIZATION).is_ok_and(|end| end > now) {
        let settled = changed.saturating_add(sample.window).unwrap_or(changed);
        ready.status == "False" || sample.at < settled
    } else {
        ready.status == "False" && started.0.saturating_add(INITIAL_READINESS).is_ok_and(|end| end > changed)
    }
}

fn group(scene: &Scene<'_>, samples: &Samples, resource: Option<&str>) -> Groups {
    let mut groups = Groups::default();
    for pod in scene.pods {
        let name = name(pod);
        if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample) if resource == Some("cpu") && is_starting(pod, sample, scene.now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

fn requests(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, Silence> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let asked = |list: Option<&BTreeMap<String, _>>| list.and_then(|list| list.get(resource)).map(milli_value);
    if container.is_none()
        && let Some(whole) = asked(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    {
        return Ok(whole);
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let counted = |one: &&Container| container.is_none_or(|wanted| one.name == wanted);
    let (mut sum, mut any) = (0_i64, false);
    for one in spec.containers.iter().chain(sidecars).filter(counted) {
        any = true;
        let Some(amount) = asked(one.resources.as_ref().and_then(|resources| resources.requests.as_ref())) else {
            return Err(Silence::Request {
                resource: resource.to_owned(),
                container: one.name.clone(),
                pod: name(pod),
            });
        };
        sum = sum.saturating_add(amount);
    }
    match container {
        Some(container) if !any => Err(Silence::Container { container: container.to_owned(), pod: name(pod) }),
        _ => Ok(sum),
    }
}

fn rounded_up(number: f64) -> i32 {
    // A float becomes the nearest integer that there is.
    number.ceil() as i32
}

/// By how much the target is missed: the ratio, and what is told of it.
struct Measured {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

/// Proposes replicas from what single pods use. `measure` compares samples with the target; `full` is what a pod without a
/// sample is taken to use when fewer replicas seem enough.
fn by_pods(
    scene: &Scene<'_>,
    resource: Option<&str>,
    mut samples: Samples,
    measure: impl Fn(&Samples) -> Option<Measured>,
    full: impl Fn(&str) -> i64,
) -> Result<Proposal, Silence> {
    if scene.pods.is_empty() {
        return Err(Silence::Pods);
    }
    let groups = group(scene, &samples, resource);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    let first = measure(&samples).filter(|_| !samples.is_empty()).ok_or(Silence::Samples)?;
    let told = |replicas: i32| Proposal { replicas, utilization: first.utilization, average: first.average };
    let with_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        if scene.tolerances.within(first.ratio) {
            return Ok(told(scene.current));
        }
        return Ok(told(rounded_up(first.ratio * groups.ready as f64)));
    }
    let mut assume = |name: &str, value: i64| {
        samples.insert(name.to_owned(), Sample { value, at: scene.now, window: SignedDuration::ZERO });
    };
    for name in &groups.missing {
        if first.ratio < 1.0 {
            assume(name, full(name));
        } else if first.ratio > 1.0 {
            assume(name, 0);
        }
    }
    if with_unready {
        groups.unready.iter().for_each(|name| assume(name, 0));
    }
    let second = measure(&samples).ok_or(Silence::Samples)?.ratio;
    let turned = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if scene.tolerances.within(second) || turned {
        return Ok(told(scene.current));
    }
    let replicas = rounded_up(second * samples.len() as f64);
    // What was assumed must not lead the other way.
    let contrary = (second < 1.0 && replicas > scene.current) || (second > 1.0 && replicas < scene.current);
    Ok(told(if contrary { scene.current } else { replicas }))
}

/// Replicas by use in percent of what pods ask for.
pub fn by_utilization(
    scene: &Scene<'_>,
    resource: &str,
    container: Option<&str>,
    target: i32,
    samples: Samples,
) -> Result<Proposal, Silence> {
    if scene.pods.is_empty() {
        return Err(Silence::Pods);
    }
    let mut asked: BTreeMap<String, i64> = BTreeMap::new();
    for pod in scene.pods {
        asked.insert(name(pod), requests(pod, resource, container)?);
    }
    let measure = |samples: &Samples| {
        let known = samples.iter().filter_map(|(name, sample)| Some((sample.value, *asked.get(name)?)));
        let (used, total, number) = known.fold((0_i64, 0_i64, 0_i64), |(used, total, number), (value, request)| {
            (used.saturating_add(value), total.saturating_add(request), number + 1)
        });
        if total == 0 {
            return None;
        }
        let percent = i32::try_from(used.saturating_mul(100) / total).unwrap_or(i32::MAX);
        let ratio = f64::from(percent) / f64::from(target.max(1));
        Some(Measured { ratio, utilization: Some(percent), average: used / number.max(1) })
    };
    let full = |name: &str| asked.get(name).copied().unwrap_or(0).saturating_mul(i64::from(target.max(100))) / 100;
    by_pods(scene, Some(resource), samples, measure, full)
}

/// Replicas by what pods use on average.
pub fn by_average(
    scene: &Scene<'_>,
    resource: Option<&str>,
    target: i64,
    samples: Samples,
) -> Result<Proposal, Silence> {
    let measure = |samples: &Samples| {
        let number = i64::try_from(samples.len()).ok().filter(|number| *number > 0)?;
        let average = samples.values().fold(0_i64, |sum, sample| sum.saturating_add(sample.value)) / number;
        Some(Measured { ratio: average as f64 / target.max(1) as f64, utilization: None, average })
    };
    by_pods(scene, resource, samples, measure, |_| target)
}

/// Replicas by a value that is about something else than the pods.
pub fn by_value(scene: &Scene<'_>, usage: i64, target: i64) -> i32 {
    let ratio = usage as f64 / target.max(1) as f64;
    if scene.current == 0 {
        return rounded_up(ratio);
    }
    if scene.tolerances.within(ratio) {
        return scene.current;
    }
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        phase(pod) == "Running" && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    rounded_up(ratio * scene.pods.iter().filter(is_ready).count() as f64)
}

/// Replicas by a value that is shared out among `present` pods; also each pod's share.
pub fn by_share(present: i32, usage: i64, target: i64, tolerances: Tolerances) -> (i32, i64) {
    let per_pod = |replicas: i32| rounded_up_share(usage, i64::from(replicas.max(1)));
    let ratio = usage as f64 / (target.max(1) as f64 * f64::from(present));
    let replicas =
        if present > 0 && tolerances.within(ratio) { present } else { rounded_up(usage as f64 / target.max(1) as f64) };
    (replicas, per_pod(present))
}

fn rounded_up_share(usage: i64, parts: i64) -> i64 {
    (usage + parts - 1) / parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TOLERANCES: Tolerances = Tolerances { up: 0.1, down: 0.1 };

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    /// A pod: `+` runs for long, `-` is pending, `s` has just started, `x` has failed.
    fn pod(at: usize, kind: char) -> Pod {
        let (phase, started, ready) = match kind {
            '-' => ("Pending", "2026-01-01T00:59:00Z", "False"),
            's' => ("Running", "2026-01-01T00:59:50Z", "False"),
            'x' => ("Failed", "2026-01-01T00:00:00Z", "False"),
            _ => ("Running", "2026-01-01T00:00:00Z", "True"),
        };
        serde_json::from_value(json!({"metadata": {"name": format!("p{at}")},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": started,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": started}]}}))
        .expect("a pod")
    }

    fn samples(values: &[Option<i64>]) -> Samples {
        let window = SignedDuration::from_secs(15);
        let all = values.iter().enumerate();
        all.filter_map(|(at, value)| Some((format!("p{at}"), Sample { value: (*value)?, at: now(), window }))).collect()
    }

    fn scene(pods: &[Pod], current: i32) -> Scene<'_> {
        Scene { current, pods, tolerances: TOLERANCES, now: now() }
    }

    #[test]
    fn utilization() {
        let check = |kinds: &str, used: &[Option<i64>], target: i32, expected: Result<(i32, i32), Silence>| {
            let pods: Vec<Pod> = kinds.chars().enumerate().map(|(at, kind)| pod(at, kind)).collect();
            let current = i32::try_from(pods.len()).expect("few");
            let found = by_utilization(&scene(&pods, current), "cpu", None, target, samples(used));
            let found = found.map(|proposal| (proposal.replicas, proposal.utilization.expect("a share")));
            assert_eq!(found, expected, "{kinds} {used:?} {target}");
        };
        check("+++", &[Some(300), Some(500), Some(700)], 30, Ok((5, 50)));
        check("+++", &[Some(300), Some(500), Some(700)], 50, Ok((3, 50)));
        check("+++", &[Some(300), Some(500), Some(700)], 100, Ok((2, 50)));
        check("+++", &[Some(1020), Some(1010), Some(1030)], 100, Ok((3, 102)));
        // A pending pod is idle while scaling up, and no reason against scaling down.
        check("++-", &[Some(900), Some(900), None], 30, Ok((6, 90)));
        check("++-", &[Some(100), Some(100), None], 30, Ok((1, 10)));
        // One that starts counts as idle as well.
        check("+s", &[Some(900), Some(2000)], 60, Ok((2, 90)));
        // One without a sample is busy while scaling down, idle while scaling up.
        check("++", &[Some(100), None], 50, Ok((2, 10)));
        check("++", &[Some(1000), None], 40, Ok((3, 100)));
        check("+x", &[Some(1000), Some(9000)], 50, Ok((2, 100)));
        check("", &[], 50, Err(Silence::Pods));
        check("+", &[None], 50, Err(Silence::Samples));
    }

    #[test]
    fn requests_must_be_there() {
        let mut naked = pod(0, '+');
        naked.spec.as_mut().expect("a spec").containers[0].resources = None;
        let found = by_utilization(&scene(std::slice::from_ref(&naked), 1), "cpu", None, 50, samples(&[Some(1)]));
        assert_eq!(found.expect_err("no request").to_string(), "missing request for cpu in container c of Pod p0");
        let dressed = pod(0, '+');
        let found = by_utilization(&scene(&[dressed], 1), "cpu", Some("d"), 50, samples(&[Some(1)]));
        assert_eq!(found.expect_err("no container").to_string(), "container d not found in Pod p0");
    }

    #[test]
    fn values() {
        let pods: Vec<Pod> = "++-".chars().enumerate().map(|(at, kind)| pod(at, kind)).collect();
        assert_eq!(by_value(&scene(&pods, 3), 20_000, 10_000), 4, "twice the two that are ready");
        assert_eq!(by_value(&scene(&pods, 3), 10_500, 10_000), 3);
        assert_eq!(by_value(&scene(&[], 0), 20_000, 9_000), 3, "from nothing");
        assert_eq!(by_share(2, 30_000, 10_000, TOLERANCES), (3, 15_000));
        assert_eq!(by_share(3, 30_000, 10_000, TOLERANCES), (3, 10_000));
        assert_eq!(by_share(0, 30_000, 10_000, TOLERANCES), (3, 30_000));
        let found = by_average(&scene(&pods, 2), None, 100, samples(&[Some(300), Some(100)])).expect("a proposal");
        assert_eq!((found.replicas, found.average), (4, 200));
    }

    proptest! {
        /// What is above its target never leads to fewer replicas, what is below never to more.
        #[test]
        fn in_the_right_direction(used in prop::collection::vec(prop::option::of(0_i64..3000), 1..8), target in 1_i32..150) {
            let pods: Vec<Pod> = (0..used.len()).map(|at| pod(at, '+')).collect();
            let current = i32::try_from(pods.len()).expect("few");
            if let Ok(found) = by_utilization(&scene(&pods, current), "cpu", None, target, samples(&used)) {
                let share = found.utilization.expect("a share");
                prop_assert!(found.replicas >= current || share < target, "{} of {} {}%", found.replicas, current, share);
                prop_assert!(found.replicas <= current || share > target, "{} of {} {}%", found.replicas, current, share);
            }
        }
    }
}
