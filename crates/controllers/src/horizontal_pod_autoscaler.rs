//! HorizontalPodAutoscalers: as many replicas as metrics ask for.
//!
//! ```text
//!   every 15 s:  scale ──> metrics ──> most of what they propose (`replicas`)
//!                      ──> bounds, stabilization, rates (`limits`) ──> scale, status
//! ```
//!
//! Metrics have no watch, so this controller is the one that asks regularly; without an autoscaler nothing is asked.
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/horizontal.go>.

mod limits;
mod metrics;
mod replicas;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod as ApiPod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kobune_scheduler::quantity::milli_value;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::Resource;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock;
use crate::context::Context;
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::pod_control::error_text;
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use crate::replica_set::seconds;
use crate::scale::Scales;

use limits::{Memory, Scope};
use metrics::{MetricError, Metrics};
use replicas::{Proposal, Scene, Silence, Tolerances, by_average, by_share, by_utilization, by_value};

/// How often metrics are asked for, as upstream.
const EVERY: Duration = Duration::from_secs(15);
/// How far a ratio may be off without anything being done, as upstream.
const TOLERANCE: f64 = 0.1;

type Autoscalers = Store<HorizontalPodAutoscaler>;
type Memories = Arc<Mutex<HashMap<ObjectKey, Memory>>>;

/// What passes work with.
struct Parts {
    context: Arc<Context>,
    autoscalers: Arc<Autoscalers>,
    scales: Scales,
    recorder: Recorder,
    memories: Memories,
    selected: Mutex<Selected>,
}

/// The uids of the pods that each autoscaler has selected last: a pod that two of them count is no measure for either.
type Selected = HashMap<ObjectKey, HashSet<String>>;

/// The other autoscalers of a namespace that count some of these pods, too; notes whom the pods belong to now.
fn rivals(selected: &mut Selected, key: &ObjectKey, pods: HashSet<String>) -> Vec<ObjectKey> {
    let others = selected.iter().filter(|(other, theirs)| {
        other.namespace == key.namespace && other.name != key.name && !theirs.is_disjoint(&pods)
    });
    let mut rivals: Vec<ObjectKey> = others.map(|(other, _)| other.clone()).collect();
    rivals.sort();
    selected.insert(key.clone(), pods);
    rivals
}

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let autoscalers = Arc::<Autoscalers>::default();
    let wake = queue.clone();
    autoscalers.on_change(move |before, after| {
        let generation =
            |one: Option<&Arc<HorizontalPodAutoscaler>>| one.map(|one| (one.uid().to_owned(), one.metadata.generation));
        // Our own status wakes nobody.
        if let Some(one) = after.or(before).filter(|_| generation(before) != generation(after)) {
            wake.add(one.key());
        }
    });
    let synced = autoscalers.clone();
    let ready = async move { synced.synced().await };
    let parts = Arc::new(Parts {
        context: context.clone(),
        autoscalers: autoscalers.clone(),
        scales: Scales::new(context.client.clone()),
        recorder: context.recorder.for_component("horizontal-pod-autoscaler"),
        memories: Memories::default(),
        selected: Mutex::default(),
    });
    context.run_controller("horizontal-pod-autoscaler", queue, ready, move |key| {
        let parts = parts.clone();
        async move { parts.pass(key).await }
    });
    context.follow_some::<HorizontalPodAutoscaler, _>(
        "horizontalpodautoscalers",
        watcher::Config::default(),
        &autoscalers,
    );
}

/// Why an autoscaler does nothing this time: reason of condition `ScalingActive` and of an event, and the message.
struct Inactive {
    reason: &'static str,
    message: String,
}

/// Why a metric proposes nothing.
#[derive(Debug, thiserror::Error)]
enum NoProposal {
    #[error(transparent)]
    Metric(#[from] MetricError),
    #[error(transparent)]
    Silence(#[from] Silence),
    #[error("{0}")]
    Target(&'static str),
    #[error("unable to map the described object: {0}")]
    Described(String),
}

/// What one metric came to.
struct Judged {
    replicas: i32,
    /// How events call it.
    name: String,
    status: MetricStatus,
}

/// A status that is being written.
struct Draft {
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Draft {
    fn say(&mut self, kind: &str, value: bool, reason: &str, message: &str) {
        let status = if value { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let time = Some(Time(seconds(self.now)));
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(there) => {
                if there.status != status {
                    there.last_transition_time = time;
                    there.status = status.to_owned();
                }
                (there.reason, there.message) = (Some(reason.to_owned()), Some(message.to_owned()));
            }
            None => conditions.push(HorizontalPodAutoscalerCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: time,
            }),
        }
    }
}

fn milli_quantity(milli: i64) -> Quantity {
    Quantity(kobune_kinds::quantity::Quantity::from_milli(milli).to_string())
}

impl Parts {
    async fn pass(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let Some(autoscaler) = self.autoscalers.get(&key).filter(|one| !one.deleting()) else {
            self.memories.lock().remove(&key);
            self.selected.lock().remove(&key);
            return Ok(None);
        };
        let spec = autoscaler.spec.clone();
        let about = autoscaler.object_ref(&());
        let mut draft = Draft { status: autoscaler.status.clone().unwrap_or_default(), now: clock::now() };
        draft.status.observed_generation = autoscaler.metadata.generation;
        self.reconcile(&key, &spec, &about, &mut draft).await;
        if autoscaler.status.as_ref() != Some(&draft.status) {
            let newest = self.autoscalers.get(&key).unwrap_or(autoscaler);
            let mut changed = (*newest).clone();
            changed.status = Some(draft.status);
            let api = Api::<HorizontalPodAutoscaler>::namespaced(self.context.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Ok(written) => self.autoscalers.wrote(written),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) => return Err(error).doing("writing the status of an autoscaler"),
            }
        }
        Ok(Some(EVERY))
    }

    /// One look. Whatever does not work is said in the status and in an event, and tried again at the next.
    async fn reconcile(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        about: &ObjectReference,
        draft: &mut Draft,
    ) {
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("v1");
        let got = self.scales.get(&key.namespace, version, &target.kind, &target.name).await;
        let scale = match got {
            Ok(Some(scale)) => scale,
            other => {
                let text = match other {
                    Err(error) => error_text(&error),
                    _ => format!("{} {version}/{:?} was not found, or does not scale", target.kind, target.name),
                };
                let message = format!("the HPA controller was unable to get the target's current scale: {text}");
                draft.say("AbleToScale", false, "FailedGetScale", &message);
                self.recorder.event(about, Severity::Warning, "FailedGetScale", text);
                return;
            }
        };
        draft.say(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        self.memories.lock().entry(key.clone()).or_default().begin(current, Instant::now());
        let (desired, why) = if current == 0 && min != 0 {
            draft.say(
                "ScalingActive",
                false,
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            (0, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            match self.propose(key, spec, &scale, draft, about).await {
                Err(Inactive { reason, message }) => {
                    draft.say("ScalingActive", false, reason, &message);
                    self.recorder.event(about, Severity::Warning, reason, message);
                    draft.status.current_replicas = Some(current).filter(|current| *current != 0);
                    return;
                }
                Ok((proposed, name)) => {
                    let scope = Scope { current, proposed, min, max, now: Instant::now() };
                    let settled =
                        self.memories.lock().entry(key.clone()).or_default().settle(spec.behavior.as_ref(), scope);
                    draft.say("AbleToScale", true, settled.able.0, settled.able.1);
                    let (limited, told) = settled.limited;
                    draft.say("ScalingLimited", limited, told.0, told.1);
                    let why = match settled.replicas > current {
                        true if proposed > current => format!("{name} above target"),
                        _ => "All metrics below target".to_owned(),
                    };
                    (settled.replicas, why)
                }
            }
        };
        draft.status.current_replicas = Some(current).filter(|current| *current != 0);
        draft.status.desired_replicas = desired;
        if desired != current {
            self.rescale(key, spec, scale, (current, desired), &why, about, draft).await;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the one write that this is about")]
    async fn rescale(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        mut scale: Scale,
        (from, to): (i32, i32),
        why: &str,
        about: &ObjectReference,
        draft: &mut Draft,
    ) {
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("v1");
        scale.spec.get_or_insert_default().replicas = Some(to);
        let written = self.scales.replace(&key.namespace, version, &target.kind, &target.name, &scale).await;
        match written {
            Ok(Some(_)) => {
                let message = format!("the HPA controller was able to update the target scale to {to}");
                draft.say("AbleToScale", true, "SucceededRescale", &message);
                let message = format!("New size: {to}; reason: {why}");
                self.recorder.event(about, Severity::Normal, "SuccessfulRescale", message);
                draft.status.last_scale_time = Some(Time(seconds(draft.now)));
                let mut memories = self.memories.lock();
                memories.entry(key.clone()).or_default().scaled(spec.behavior.as_ref(), from, to, Instant::now());
            }
            other => {
                let text = match other {
                    Err(error) => error_text(&error),
                    _ => "the target is gone".to_owned(),
                };
                let message = format!("the HPA controller was unable to update the target scale: {text}");
                draft.say("AbleToScale", false, "FailedUpdateScale", &message);
                draft.status.desired_replicas = from;
                if !text.contains("the object has been modified") {
                    let message = format!("New size: {to}; reason: {why}; error: {text}");
                    self.recorder.event(about, Severity::Warning, "FailedRescale", message);
                }
            }
        }
    }

    /// The most that the metrics propose, and the name of the one that does.
    async fn propose(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        draft: &mut Draft,
        about: &ObjectReference,
    ) -> Result<(i32, String), Inactive> {
        let selector = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        if selector.is_empty() {
            return Err(Inactive {
                reason: "InvalidSelector",
                message: "the HPA target's scale is missing a selector".to_owned(),
            });
        }
        let inactive = |reason, text: String| Inactive {
            reason,
            message: format!("the HPA was unable to compute the replica count: {text}"),
        };
        let pods = Api::<ApiPod>::namespaced(self.context.client.clone(), &key.namespace);
        let pods = pods.list(&ListParams::default().labels(&selector)).await;
        let pods = pods.map_err(|error| inactive("FailedComputeMetricsReplicas", error_text(&error)))?.items;
        let uids = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let rivals = rivals(&mut self.selected.lock(), key, uids);
        if !rivals.is_empty() {
            let mut all: Vec<String> = std::iter::once(key).chain(&rivals).map(ToString::to_string).collect();
            all.sort();
            let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", all.join(" "));
            self.recorder.event(about, Severity::Warning, "FailedComputeMetricsReplicas", message.clone());
            return Err(Inactive { reason: "AmbiguousSelector", message });
        }
        let tolerance = |rules: Option<&Option<Quantity>>| {
            rules.and_then(Option::as_ref).map_or(TOLERANCE, |quantity| milli_value(quantity) as f64 / 1000.0)
        };
        let behavior = spec.behavior.as_ref();
        let tolerances = Tolerances {
            up: tolerance(behavior.and_then(|b| b.scale_up.as_ref()).map(|rules| &rules.tolerance)),
            down: tolerance(behavior.and_then(|b| b.scale_down.as_ref()).map(|rules| &rules.tolerance)),
        };
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let present = scale.status.as_ref().map_or(0, |status| status.replicas);
        let scene = Scene { current, pods: &pods, tolerances, now: draft.now };
        let metrics = Metrics { client: &self.context.client, namespace: &key.namespace };
        let asked = spec.metrics.as_deref().unwrap_or_default();
        let (mut best, mut statuses, mut broken) = (None::<Judged>, Vec::new(), Vec::new());
        for metric in asked {
            match self.judge(metric, &scene, present, &metrics, &selector).await {
                Ok(judged) => {
                    statuses.push(judged.status.clone());
                    if best.as_ref().is_none_or(|best| judged.replicas > best.replicas) {
                        best = Some(judged);
                    }
                }
                Err((reason, text)) => broken.push((reason, text)),
            }
        }
        draft.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
        let total = asked.len();
        let first = broken.first().cloned();
        let enough = best.filter(|best| broken.is_empty() || best.replicas >= current);
        match (enough, first) {
            (Some(best), first) => {
                if let Some((reason, text)) = first {
                    self.recorder.event(about, Severity::Warning, reason, text);
                }
                let message = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
                draft.say("ScalingActive", true, "ValidMetricFound", &message);
                Ok((best.replicas, best.name))
            }
            // What is not known might ask for more: then nothing is taken away.
            (None, Some((reason, text))) => {
                let message =
                    format!("invalid metrics ({} invalid out of {total}), first error is: {text}", broken.len());
                self.recorder.event(about, Severity::Warning, "FailedComputeMetricsReplicas", message);
                Err(inactive(reason, text))
            }
            (None, None) => Err(inactive("InvalidMetricSourceType", "there are no metrics".to_owned())),
        }
    }

    /// What one metric proposes; an error comes with upstream's reason.
    async fn judge(
        &self,
        metric: &MetricSpec,
        scene: &Scene<'_>,
        present: i32,
        metrics: &Metrics<'_>,
        selector: &str,
    ) -> Result<Judged, (&'static str, String)> {
        let failed = |reason, what: String| move |error: NoProposal| (reason, format!("failed to get {what}: {error}"));
        let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
        if let Some(source) = &metric.resource {
            let (name, judged) = (source.name.as_str(), &source.target);
            let what = kind_of_target(judged, name);
            let found = resource(metrics, scene, name, None, judged, selector).await;
            let found = found.map_err(failed("FailedGetResourceMetric", what.clone()))?;
            status.resource = Some(ResourceMetricStatus { name: name.to_owned(), current: shown(&found) });
            let name = named_resource(judged, &format!("{name} resource"));
            return Ok(Judged { replicas: found.replicas, name, status });
        }
        if let Some(source) = &metric.container_resource {
            let (name, container, target) = (source.name.as_str(), source.container.as_str(), &source.target);
            let what = kind_of_target(target, name);
            let found = resource(metrics, scene, name, Some(container), target, selector).await;
            let found = found.map_err(failed("FailedGetContainerResourceMetric", what))?;
            status.container_resource = Some(ContainerResourceMetricStatus {
                name: name.to_owned(),
                container: container.to_owned(),
                current: shown(&found),
            });
            let name = named_resource(target, &format!("{name} container resource"));
            return Ok(Judged { replicas: found.replicas, name, status });
        }
        if let Some(source) = &metric.pods {
            let fail = failed("FailedGetPodsMetric", "pods metric value".to_owned());
            let found = async {
                let target = average(&source.target)?;
                let samples = metrics.pods(&source.metric, selector).await?;
                Ok(by_average(scene, None, target, samples)?)
            };
            let found = found.await.map_err(fail)?;
            status.pods = Some(PodsMetricStatus { metric: source.metric.clone(), current: shown(&found) });
            return Ok(Judged {
                replicas: found.replicas,
                name: format!("pods metric {}", source.metric.name),
                status,
            });
        }
        if let Some(source) = &metric.object {
            let fail = failed("FailedGetObjectMetric", "object metric value".to_owned());
            let described = &source.described_object;
            let found = async {
                let version = described.api_version.as_deref().unwrap_or("v1");
                let mapping = self.scales.mapping(version, &described.kind).await;
                let mapping = mapping.map_err(|error| NoProposal::Described(error_text(&error)))?;
                let mapping = mapping.ok_or_else(|| NoProposal::Described(format!("no kind {:?}", described.kind)))?;
                let group = version.split_once('/').map_or("", |(group, _)| group);
                let plural =
                    if group.is_empty() { mapping.plural.clone() } else { format!("{}.{group}", mapping.plural) };
                let place = (described.kind != "Namespace").then_some((plural.as_str(), mapping.namespaced));
                let usage = metrics.object(&source.metric, place, &described.name).await?;
                value_or_share(scene, present, usage, &source.target)
            };
            let (replicas, current) = found.await.map_err(fail)?;
            status.object = Some(ObjectMetricStatus {
                metric: source.metric.clone(),
                described_object: described.clone(),
                current,
            });
            return Ok(Judged { replicas, name: format!("{} metric {}", described.kind, source.metric.name), status });
        }
        if let Some(source) = &metric.external {
            let name = &source.metric.name;
            let fail = failed("FailedGetExternalMetric", format!("{name} external metric value"));
            let found = async {
                let usage = metrics.external(&source.metric).await?;
                value_or_share(scene, present, usage, &source.target)
            };
            let (replicas, current) = found.await.map_err(fail)?;
            status.external = Some(ExternalMetricStatus { metric: source.metric.clone(), current });
            return Ok(Judged { replicas, name: format!("external metric {name}"), status });
        }
        Err(("InvalidMetricSourceType", format!("unknown metric source type {:?}", metric.type_)))
    }
}

async fn resource(
    metrics: &Metrics<'_>,
    scene: &Scene<'_>,
    name: &str,
    container: Option<&str>,
    target: &MetricTarget,
    selector: &str,
) -> Result<Proposal, NoProposal> {
    let samples = metrics.resource(name, container, selector).await?;
    if target.average_value.is_some() {
        return Ok(by_average(scene, Some(name), average(target)?, samples)?);
    }
    let percent = target.average_utilization.ok_or(NoProposal::Target(
        "invalid resource metric source: neither an average utilization target nor an average value target was set",
    ))?;
    Ok(by_utilization(scene, name, container, percent, samples)?)
}

fn average(target: &MetricTarget) -> Result<i64, NoProposal> {
    target.average_value.as_ref().map(milli_value).ok_or(NoProposal::Target("no average value target was set"))
}

/// Replicas by a metric of something else: by its value, or by each pod's share of it.
fn value_or_share(
    scene: &Scene<'_>,
    present: i32,
    usage: i64,
    target: &MetricTarget,
) -> Result<(i32, MetricValueStatus), NoProposal> {
    if let Some(value) = &target.value {
        let current = MetricValueStatus { value: Some(milli_quantity(usage)), ..MetricValueStatus::default() };
        return Ok((by_value(scene, usage, milli_value(value)), current));
    }
    let (replicas, share) = by_share(present, usage, average(target)?, scene.tolerances);
    let current = MetricValueStatus { average_value: Some(milli_quantity(share)), ..MetricValueStatus::default() };
    Ok((replicas, current))
}

fn shown(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(milli_quantity(proposal.average)),
        value: None,
    }
}

fn kind_of_target(target: &MetricTarget, name: &str) -> String {
    if target.average_value.is_some() { format!("{name} resource metric value") } else { format!("{name} utilization") }
}

fn named_resource(target: &MetricTarget, what: &str) -> String {
    if target.average_value.is_some() { what.to_owned() } else { format!("{what} utilization (percentage of request)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_one_autoscaler() {
        let mut selected = Selected::default();
        let mut check = |namespace: &str, name: &str, pods: &[&str], expected: &[&str]| {
            let pods = pods.iter().map(|uid| (*uid).to_owned()).collect();
            let found = rivals(&mut selected, &ObjectKey::new(namespace, name), pods);
            assert_eq!(found.iter().map(|key| &*key.name).collect::<Vec<_>>(), expected, "{namespace}/{name}");
        };
        check("a", "one", &["p", "q"], &[]);
        check("a", "one", &["p", "q"], &[]);
        check("a", "other", &["r"], &[]);
        check("b", "far", &["p"], &[]);
        check("a", "two", &["q"], &["one"]);
        check("a", "one", &["p", "q", "r"], &["other", "two"]);
        check("a", "one", &["p"], &[]);
    }
}
