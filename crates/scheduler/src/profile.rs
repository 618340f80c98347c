//! Profiles: which plug-ins a pod is judged by, and how much each counts; read from upstream's KubeSchedulerConfiguration.
//!
//! What is configured here and does not exist in kobune (plug-ins of others) is a mistake that is reported, never
//! passed over. Upstream: <https://kubernetes.io/docs/reference/scheduling/config/>.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde_json::Value;

use crate::extender::{self, Extender, WrittenExtender};

/// Plug-ins that may be named, with the weight that their score has by default; those without keep or order pods only.
const PLUGINS: [(&str, i64); 22] = [
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("NodeResourcesFit", 1),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("NodePorts", 0),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("DynamicResources", 0),
    ("DefaultPreemption", 0),
    ("PrioritySort", 0),
    ("SchedulingGates", 0),
    ("DefaultBinder", 0),
    ("EBSLimits", 0),
    ("GCEPDLimits", 0),
    ("AzureDiskLimits", 0),
];
/// Plug-ins that scheduling cannot do without here.
const INDISPENSABLE: [&str; 4] = ["PrioritySort", "SchedulingGates", "DefaultBinder", "VolumeBinding"];
/// The highest weight and the highest score in a shape, as upstream.
const MOST: i64 = 100;

/// How free or full nodes are liked.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// The emptier, the better.
    LeastAllocated,
    /// The fuller, the better.
    MostAllocated,
    /// Between points of utilization (0 to 100) and score (0 to 100), in order.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// How pods spread that do not say.
#[derive(Clone, Debug, PartialEq)]
pub enum SpreadDefaults {
    /// Over nodes and zones, softly.
    System,
    /// By these constraints, which have no selectors of their own.
    List(Vec<TopologySpreadConstraint>),
}

/// What pods of one `schedulerName` are judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Pods whose `spec.schedulerName` is this.
    pub name: String,
    /// Plug-ins whose filters are off.
    pub unfiltered: BTreeSet<String>,
    /// Weights of scores by plug-in; 0 is off.
    weights: Vec<(&'static str, i64)>,
    /// How `NodeResourcesFit` scores.
    pub strategy: Strategy,
    /// What it looks at, with weights.
    pub resources: Vec<(String, i64)>,
    /// What it does not look at when it filters: names, and groups of extended resources.
    pub ignored_resources: BTreeSet<String>,
    /// How much the required affinity of a running pod counts for others.
    pub hard_pod_affinity_weight: i64,
    /// How many of a hundred nodes are looked for, of those that fit; 0 leaves it to the number of nodes.
    pub share_of_nodes: i64,
    /// How pods spread that do not say.
    pub spread: SpreadDefaults,
    /// What every pod asks of its node besides.
    pub added_affinity: Option<NodeAffinity>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: "default-scheduler".to_owned(),
            unfiltered: BTreeSet::new(),
            weights: PLUGINS.into_iter().filter(|(_, weight)| *weight > 0).collect(),
            strategy: Strategy::LeastAllocated,
            resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
            ignored_resources: BTreeSet::new(),
            hard_pod_affinity_weight: 1,
            share_of_nodes: 0,
            spread: SpreadDefaults::System,
            added_affinity: None,
        }
    }
}

impl Profile {
    /// How much a plug-in's score counts.
    pub fn weight(&self, plugin: &str) -> i64 {
        self.weights.iter().find(|(name, _)| *name == plugin).map_or(0, |(_, weight)| *weight)
    }

    /// Whether a plug-in keeps pods off nodes.
    pub fn filters(&self, plugin: &str) -> bool {
        !self.unfiltered.contains(plugin)
    }

    /// Whether a resource is left out when it is asked whether a pod fits.
    pub fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        self.ignored_resources.contains(resource) || (!group.is_empty() && self.ignored_resources.contains(group))
    }

    fn set_weight(&mut self, plugin: &'static str, weight: i64) {
        self.weights.retain(|(name, _)| *name != plugin);
        self.weights.push((plugin, weight));
    }
}

/// How the scheduler behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What pods are judged by, by their `schedulerName`. There is at least one.
    pub profiles: Vec<Profile>,
    /// The first wait of a pod that failed; it doubles.
    pub first_backoff: Duration,
    /// The longest.
    pub longest_backoff: Duration,
    /// Who else has a say.
    pub extenders: Vec<Extender>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(10),
            extenders: Vec::new(),
        }
    }
}

/// All that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Mistakes(Vec<String>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[derive(Default)]
struct Written {
    api_version: String,
    kind: String,
    profiles: Vec<WrittenProfile>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    extenders: Option<Vec<WrittenExtender>>,
    percentage_of_nodes_to_score: Option<i64>,
    // What follows has no counterpart: one task decides, and its client and election are kobune's.
    parallelism: Option<i64>,
    leader_election: Option<Value>,
    client_connection: Option<Value>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    delay_cache_until_active: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WrittenProfile {
    scheduler_name: Option<String>,
    plugins: std::collections::BTreeMap<String, WrittenPlugins>,
    plugin_config: Vec<WrittenArguments>,
    percentage_of_nodes_to_score: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WrittenPlugins {
    enabled: Vec<WrittenPlugin>,
    disabled: Vec<WrittenPlugin>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WrittenPlugin {
    name: String,
    weight: i64,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WrittenArguments {
    name: String,
    args: Value,
}

impl Config {
    /// Reads a KubeSchedulerConfiguration.
    pub fn from_value(value: Value) -> Result<Self, Mistakes> {
        let written: Written = serde_json::from_value(value).map_err(|error| Mistakes(vec![error.to_string()]))?;
        let mut mistakes = Vec::new();
        if written.kind != "KubeSchedulerConfiguration" || written.api_version != "kubescheduler.config.k8s.io/v1" {
            let found = format!("{} {}", written.api_version, written.kind);
            mistakes.push(format!("it is {found:?}, not a kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration"));
        }
        let mut config = Self::default();
        let mut left_to_extenders = BTreeSet::new();
        config.extenders = extender::read(written.extenders.unwrap_or_default(), &mut left_to_extenders, &mut mistakes);
        if let Some(seconds) = written.pod_initial_backoff_seconds {
            config.first_backoff = Duration::from_secs(seconds);
        }
        if let Some(seconds) = written.pod_max_backoff_seconds {
            config.longest_backoff = Duration::from_secs(seconds);
        }
        if config.first_backoff.is_zero() || config.longest_backoff < config.first_backoff {
            mistakes.push(
                "podMaxBackoffSeconds: must be at least podInitialBackoffSeconds, which must be above 0".to_owned(),
            );
        }
        if !written.profiles.is_empty() {
            let each = written.profiles.into_iter().enumerate();
            config.profiles = each.map(|(at, profile)| read_profile(at, profile, &mut mistakes)).collect();
        }
        for profile in &mut config.profiles {
            profile.ignored_resources.extend(left_to_extenders.iter().cloned());
        }
        // A profile's own share comes before that of all.
        let share = written.percentage_of_nodes_to_score.unwrap_or(0);
        for profile in config.profiles.iter_mut().filter(|profile| profile.share_of_nodes == 0) {
            profile.share_of_nodes = share;
        }
        if config.profiles.iter().any(|profile| !(0..=100).contains(&profile.share_of_nodes)) {
            mistakes.push("percentageOfNodesToScore: must be from 0 to 100".to_owned());
        }
        let names: BTreeSet<&str> = config.profiles.iter().map(|profile| profile.name.as_str()).collect();
        if names.len() < config.profiles.len() {
            mistakes.push("profiles: two have the same schedulerName".to_owned());
        }
        if config.profiles.len() > usize::from(u8::MAX) {
            mistakes.push("profiles: too many".to_owned());
        }
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
    }
}

fn read_profile(at: usize, written: WrittenProfile, mistakes: &mut Vec<String>) -> Profile {
    let mut profile = Profile::default();
    if let Some(name) = written.scheduler_name.filter(|name| !name.is_empty()) {
        profile.name = name;
    }
    profile.share_of_nodes = written.percentage_of_nodes_to_score.unwrap_or(0);
    // What is said of one point counts after what is said of all.
    let mut points: Vec<_> = written.plugins.into_iter().collect();
    points.sort_by_key(|(point, _)| point != "multiPoint");
    for (point, plugins) in points {
        let place = format!("profiles[{at}].plugins.{point}");
        let (scores, filters) = match point.as_str() {
            "multiPoint" => (true, true),
            "score" | "preScore" => (true, false),
            "filter" | "preFilter" => (false, true),
            "queueSort" | "preEnqueue" | "postFilter" | "reserve" | "permit" | "preBind" | "bind" | "postBind" => {
                (false, false)
            }
            _ => {
                mistakes.push(format!("{place}: there is no such point"));
                continue;
            }
        };
        let mut known = |name: &str| {
            let found = PLUGINS.into_iter().find(|(plugin, _)| *plugin == name);
            if found.is_none() {
                mistakes.push(format!("{place}: there is no plug-in {name:?}"));
            }
            found
        };
        let mut off: Vec<(&'static str, i64)> = Vec::new();
        for plugin in &plugins.disabled {
            match plugin.name.as_str() {
                "*" => off.extend(PLUGINS.into_iter().filter(|(name, _)| !INDISPENSABLE.contains(name))),
                name => off.extend(known(name)),
            }
        }
        let on: Vec<_> =
            plugins.enabled.iter().filter_map(|plugin| Some((known(&plugin.name)?, plugin.weight))).collect();
        for (name, _) in off {
            if INDISPENSABLE.contains(&name) && (filters || !scores) {
                mistakes.push(format!("{place}: {name} cannot be disabled"));
            }
            if scores {
                profile.set_weight(name, 0);
            }
            if filters {
                profile.unfiltered.insert(name.to_owned());
            }
        }
        for ((name, usual), weight) in on {
            if !(0..=MOST).contains(&weight) {
                mistakes.push(format!("{place}: the weight of {name} must be from 0 to {MOST}"));
            }
            if scores && usual > 0 {
                profile.set_weight(name, if weight == 0 { usual } else { weight });
            }
            if filters {
                profile.unfiltered.remove(name);
            }
        }
    }
    for arguments in written.plugin_config {
        let place = format!("profiles[{at}].pluginConfig[{}]", arguments.name);
        if let Err(mistake) = read_arguments(&arguments.name, arguments.args, &mut profile) {
            mistakes.push(format!("{place}: {mistake}"));
        }
    }
    profile
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct FitArguments {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<WrittenStrategy>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WrittenStrategy {
    r#type: String,
    resources: Vec<WrittenResource>,
    requested_to_capacity_ratio: Option<WrittenShape>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WrittenResource {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WrittenShape {
    shape: Vec<WrittenPoint>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WrittenPoint {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AffinityArguments {
    hard_pod_affinity_weight: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SpreadArguments {
    defaulting_type: Option<String>,
    default_constraints: Vec<TopologySpreadConstraint>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeArguments {
    added_affinity: Option<NodeAffinity>,
}

fn read_arguments(plugin: &str, arguments: Value, profile: &mut Profile) -> Result<(), String> {
    fn read<T: for<'d> Deserialize<'d>>(arguments: Value) -> Result<T, String> {
        serde_json::from_value(arguments).map_err(|error| error.to_string())
    }
    match plugin {
        "NodeResourcesFit" => {
            let read: FitArguments = read(arguments)?;
            profile.ignored_resources =
                read.ignored_resources.into_iter().chain(read.ignored_resource_groups).collect();
            let Some(strategy) = read.scoring_strategy else { return Ok(()) };
            profile.strategy = match strategy.r#type.as_str() {
                "" | "LeastAllocated" => Strategy::LeastAllocated,
                "MostAllocated" => Strategy::MostAllocated,
                "RequestedToCapacityRatio" => read_shape(strategy.requested_to_capacity_ratio.unwrap_or_default())?,
                other => return Err(format!("there is no scoring strategy {other:?}")),
            };
            if !strategy.resources.is_empty() {
                let weighed = strategy.resources.into_iter().map(|one| (one.name, one.weight.unwrap_or(1)));
                profile.resources = weighed.collect();
            }
            match profile.resources.iter().find(|(_, weight)| !(1..=MOST).contains(weight)) {
                Some((name, _)) => Err(format!("the weight of {name} must be from 1 to {MOST}")),
                None => Ok(()),
            }
        }
        "InterPodAffinity" => {
            let read: AffinityArguments = read(arguments)?;
            let weight = read.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=MOST).contains(&weight) {
                return Err(format!("hardPodAffinityWeight must be from 0 to {MOST}"));
            }
            profile.hard_pod_affinity_weight = weight;
            Ok(())
        }
        "PodTopologySpread" => {
            let read: SpreadArguments = read(arguments)?;
            profile.spread = match read.defaulting_type.as_deref() {
                Some("List") => SpreadDefaults::List(read.default_constraints),
                None | Some("" | "System") if read.default_constraints.is_empty() => SpreadDefaults::System,
                None | Some("" | "System") => return Err("defaultConstraints need defaultingType List".to_owned()),
                Some(other) => return Err(format!("there is no defaultingType {other:?}")),
            };
            match &profile.spread {
                SpreadDefaults::List(list) if list.iter().any(|one| one.label_selector.is_some()) => {
                    Err("defaultConstraints must not have selectors".to_owned())
                }
                _ => Ok(()),
            }
        }
        "NodeAffinity" => {
            profile.added_affinity = read::<NodeArguments>(arguments)?.added_affinity;
            Ok(())
        }
        // Their arguments are about times and samples that do not exist here.
        "DefaultPreemption" | "VolumeBinding" | "NodeResourcesBalancedAllocation" => Ok(()),
        _ => Err("it takes no arguments".to_owned()),
    }
}

fn read_shape(written: WrittenShape) -> Result<Strategy, String> {
    let points: Vec<(i64, i64)> = written.shape.iter().map(|point| (point.utilization, point.score * 10)).collect();
    let in_range = points.iter().all(|(at, score)| (0..=100).contains(at) && (0..=100).contains(score));
    if points.is_empty() || !in_range || !points.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return Err("shape must rise in utilization (0 to 100) and have scores from 0 to 10".to_owned());
    }
    Ok(Strategy::RequestedToCapacityRatio(points))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut value: Value) -> Result<Config, String> {
        value["apiVersion"] = "kubescheduler.config.k8s.io/v1".into();
        value["kind"] = "KubeSchedulerConfiguration".into();
        Config::from_value(value).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn configurations() {
        assert_eq!(read(json!({})), Ok(Config::default()));
        let config = read(json!({
            "podInitialBackoffSeconds": 2,
            "leaderElection": {"leaderElect": false},
            "profiles": [
                {"schedulerName": "packer", "pluginConfig": [
                    {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated",
                        "resources": [{"name": "cpu", "weight": 3}, {"name": "example.com/x", "weight": 5}]}}},
                    {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 7}}]},
                {"plugins": {
                    "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "ImageLocality", "weight": 9}]},
                    "filter": {"disabled": [{"name": "TaintToleration"}]}}}]}))
        .expect("a configuration");
        let [packer, usual] = config.profiles.as_slice() else { panic!("two profiles") };
        assert_eq!((packer.name.as_str(), usual.name.as_str()), ("packer", "default-scheduler"));
        assert_eq!((packer.hard_pod_affinity_weight, &packer.strategy), (7, &Strategy::MostAllocated));
        assert_eq!(packer.resources[1], ("example.com/x".to_owned(), 5));
        assert_eq!((packer.weight("TaintToleration"), usual.weight("TaintToleration")), (3, 0));
        assert_eq!(usual.weight("ImageLocality"), 9);
        assert!(packer.filters("TaintToleration") && !usual.filters("TaintToleration"));
        assert_eq!(config.first_backoff, Duration::from_secs(2));
    }

    #[test]
    fn mistakes_are_reported_together() {
        let found = read(
            json!({"extenders": [{"prioritizeVerb": "p", "bindVerb": "b"}, {"urlPrefix": "http://e/", "httpTimeout": "soon",
            "bindVerb": "b", "managedResources": [{"name": "cpu"}, {"name": "cpu"}]}], "podInitialBackoffSeconds": 20, "profiles": [
            {"plugins": {"score": {"enabled": [{"name": "Mine"}, {"name": "ImageLocality", "weight": 200}]},
                "bind": {"disabled": [{"name": "DefaultBinder"}]}, "somewhere": {}}},
            {"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "RequestedToCapacityRatio",
                "requestedToCapacityRatio": {"shape": [{"utilization": 50, "score": 11}]}}}}]}]}),
        );
        let text = found.expect_err("mistakes");
        for part in [
            "extenders[0].urlPrefix: must begin with",
            "extenders[0].weight: must be above 0",
            "extenders[1].httpTimeout: must be a duration",
            "extenders[1].managedResources: \"cpu\" is no extended resource",
            "extenders[1].managedResources: \"cpu\" has another extender",
            "only one can have a bindVerb",
            "podMaxBackoffSeconds",
            "no plug-in \"Mine\"",
            "the weight of ImageLocality",
            "DefaultBinder cannot be disabled",
            "plugins.somewhere: there is no such point",
            "shape must rise",
            "two have the same schedulerName",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(Config::from_value(json!({"kind": "Pod"})).is_err());
        assert!(read(json!({"unknown": 1})).is_err());
    }
}
