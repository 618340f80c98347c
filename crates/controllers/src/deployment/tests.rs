//! Whole rollouts, played through against ReplicaSets whose pods become available at once, later or never.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use proptest::prelude::*;
use serde_json::json;

use super::replica_sets::{REVISION, new_replica_set};
use super::{Action, plan, status};

/// A cluster of one deployment.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    now: Timestamp,
    log: Vec<String>,
}

impl World {
    fn new(spec: serde_json::Value) -> Self {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "replicas": 4, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}},
        });
        for (key, value) in spec.as_object().expect("fields") {
            object["spec"][key] = value.clone();
        }
        Self {
            deployment: serde_json::from_value(object).expect("a deployment"),
            sets: BTreeMap::new(),
            now: "2026-01-01T00:00:00Z".parse().expect("a time"),
            log: Vec::new(),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut k8s_openapi::api::apps::v1::DeploymentSpec)) {
        change(self.deployment.spec.as_mut().expect("spec"));
        *self.deployment.metadata.generation.get_or_insert_default() += 1;
    }

    fn image(&mut self, image: &str) {
        let image = Some(image.to_owned());
        self.change(|spec| spec.template.spec.as_mut().expect("spec").containers[0].image = image);
    }

    /// One pass; says whether anything changed.
    fn pass(&mut self) -> bool {
        self.now += SignedDuration::from_secs(1);
        let sets: Vec<Arc<ReplicaSet>> = self.sets.values().cloned().map(Arc::new).collect();
        let plan = plan(&self.deployment, &sets, false, self.now);
        let changed = !plan.actions.is_empty() || self.deployment.status.as_ref() != Some(&plan.status);
        for action in plan.actions {
            match action {
                Action::Create { replicas, revision } => {
                    let mut set = new_replica_set(&self.deployment, replicas, revision);
                    set.metadata.creation_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
                    self.log.push(format!("create {replicas}"));
                    self.sets.insert(set.metadata.name.clone().expect("a name"), set);
                }
                Action::Change { name, replicas, annotations, .. } => {
                    let set = self.sets.get_mut(&name).expect("a known set");
                    set.metadata.annotations.get_or_insert_default().extend(annotations);
                    if let Some((from, to)) = replicas {
                        self.log.push(format!("{from} to {to}"));
                        set.spec.as_mut().expect("spec").replicas = Some(to);
                    }
                }
                Action::Delete { name, .. } => {
                    self.log.push("delete".to_owned());
                    self.sets.remove(&name);
                }
            }
        }
        self.deployment.metadata.annotations.get_or_insert_default().extend(plan.annotations.into_iter().flatten());
        self.deployment.status = Some(plan.status);
        changed
    }

    /// Lets the pods follow the sets: those of `image` never become available.
    fn pods(&mut self, broken: &str) {
        for set in self.sets.values_mut() {
            let spec = set.spec.as_ref().expect("spec");
            let image =
                spec.template.as_ref().and_then(|t| t.spec.as_ref()).and_then(|s| s.containers[0].image.clone());
            let replicas = spec.replicas.unwrap_or(0);
            let serving = if image.as_deref() == Some(broken) { 0 } else { replicas };
            set.status = Some(ReplicaSetStatus {
                replicas,
                available_replicas: Some(serving),
                ready_replicas: Some(serving),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn settle(&mut self, broken: &str) {
        for _ in 0..100 {
            let changed = self.pass();
            self.pods(broken);
            if !changed {
                return;
            }
        }
        panic!("the rollout does not come to rest: {:?}", self.log);
    }

    fn sizes(&self) -> Vec<i32> {
        let mut sets: Vec<_> = self.sets.values().collect();
        sets.sort_by_key(|set| set.metadata.creation_timestamp.as_ref().map(|time| time.0));
        sets.iter().map(|set| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)).collect()
    }

    fn reason(&self, kind: &str) -> Option<String> {
        status::condition(self.deployment.status.as_ref()?, kind)?.reason.clone()
    }

    fn revision(&self) -> Option<&str> {
        self.deployment.metadata.annotations.as_ref()?.get(REVISION).map(String::as_str)
    }
}

#[test]
fn rollout_and_history() {
    let mut world = World::new(json!({}));
    world.settle("none");
    assert_eq!((world.sizes(), world.log.join(", ")), (vec![4], "create 4".to_owned()));
    assert_eq!(world.reason("Progressing").as_deref(), Some("NewReplicaSetAvailable"));
    assert_eq!(world.reason("Available").as_deref(), Some("MinimumReplicasAvailable"));
    world.image("two");
    world.settle("none");
    assert_eq!((world.sizes(), world.revision()), (vec![0, 4], Some("2")));
    world.image("three");
    world.settle("none");
    assert_eq!((world.sizes(), world.revision()), (vec![0, 4], Some("3")), "only one old set is kept");
    world.image("two");
    world.settle("none");
    assert_eq!((world.sizes(), world.revision()), (vec![4, 0], Some("4")), "a rollback takes the old set up again");
    let status = world.deployment.status.clone().expect("a status");
    assert_eq!((status.replicas, status.updated_replicas, status.unavailable_replicas), (Some(4), Some(4), None));
}

#[test]
fn a_broken_image_stops_the_rollout_and_times_out() {
    let mut world = World::new(json!({}));
    world.settle("bad");
    world.image("bad");
    world.settle("bad");
    assert_eq!(world.sizes(), [3, 2]);
    assert_eq!(world.reason("Progressing").as_deref(), Some("ReplicaSetUpdated"));
    world.now += SignedDuration::from_secs(700);
    world.settle("bad");
    assert_eq!(world.reason("Progressing").as_deref(), Some("ProgressDeadlineExceeded"));
    assert_eq!(world.reason("Available").as_deref(), Some("MinimumReplicasAvailable"));
}

#[test]
fn recreate() {
    let mut world = World::new(json!({"strategy": {"type": "Recreate"}}));
    world.settle("none");
    world.image("two");
    world.settle("none");
    assert_eq!((world.sizes(), world.log.join(", ")), (vec![0, 4], "create 4, 4 to 0, create 4".to_owned()));
}

#[test]
fn a_rollout_that_becomes_recreate_does_not_stand_still() {
    let mut world = World::new(json!({}));
    world.settle("bad");
    world.image("bad");
    world.settle("bad");
    assert_eq!(world.sizes(), [3, 2]);
    world.change(|spec| {
        spec.replicas = Some(6);
        spec.strategy = serde_json::from_value(json!({"type": "Recreate"})).expect("a strategy");
    });
    world.settle("bad");
    assert_eq!(world.sizes(), [0, 6]);
}

#[test]
fn pause_scales_in_proportion() {
    let mut world = World::new(
        json!({"replicas": 10, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}),
    );
    world.settle("bad");
    world.image("bad");
    world.settle("bad");
    assert_eq!(world.sizes(), [8, 5]);
    world.change(|spec| spec.replicas = Some(15));
    world.settle("bad");
    assert_eq!(world.sizes(), [11, 7], "upstream's own example");
    world.change(|spec| spec.paused = Some(true));
    world.settle("bad");
    assert_eq!(world.reason("Progressing").as_deref(), Some("DeploymentPaused"));
    world.image("good");
    world.settle("bad");
    assert_eq!(world.sizes(), [11, 7], "a paused deployment starts nothing");
}

#[test]
fn to_zero_and_back() {
    let mut world = World::new(json!({}));
    world.settle("none");
    world.change(|spec| spec.replicas = Some(0));
    world.settle("none");
    assert_eq!(world.sizes(), [0]);
    world.change(|spec| spec.replicas = Some(2));
    world.settle("none");
    assert_eq!(world.sizes(), [2]);
}

proptest! {
    #[test]
    fn a_rollout_keeps_its_bounds_and_ends(replicas in 0..12_i32, surge in 0..4_i32, unavailable in 0..4_i32) {
        let mut world = World::new(json!({"replicas": replicas, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}));
        world.settle("none");
        world.image("two");
        let (surge, missing) = if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) };
        for _ in 0..200 {
            let changed = world.pass();
            let total: i32 = world.sizes().iter().sum();
            prop_assert!(total <= replicas + surge, "{total} pods of {replicas}");
            let serving: i32 = world.sets.values().map(|set| {
                let serving = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
                serving.min(set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0))
            }).sum();
            prop_assert!(serving >= replicas - missing, "{serving} of {replicas} serve");
            world.pods("none");
            if !changed { break }
        }
        prop_assert_eq!(world.sizes(), vec![0, replicas]);
    }
}
