//! Budgets, quotas, and claims on volumes: what they say in the end is what there is, and no volume has two claims.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::machines::{Habits, change, delete};
use super::objects::{Objects, Write, active, deleting, number, ready, text};
use super::server::{Faults, make};
use super::{Scenario, TROUBLE, die_at_each_step, simulate};
use crate::{disruption, garbage_collector, persistent_volume, replica_set, resource_quota, volume_protection};

type Verdict = Result<(), String>;

fn require(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

// PodDisruptionBudget.

fn disturb_a_budget(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..3) {
        0 => {
            let set = objects.named("apps/replicasets", "web").cloned().expect("it is there");
            change(objects, &set, None, |set| set["spec"]["replicas"] = random.random_range(0..6).into());
        }
        1 => {
            let budget = objects.named("policy/poddisruptionbudgets", "web").cloned().expect("it is there");
            change(objects, &budget, None, |budget| {
                budget["spec"]["maxUnavailable"] = random.random_range(0..4).into()
            });
        }
        _ => {
            let pods: Vec<_> = objects.all("core/pods").filter(|pod| !deleting(pod)).cloned().collect();
            if let Some(pod) = pods.choose(random) {
                delete(objects, pod, "", None);
            }
        }
    }
}

fn the_budget_is_right(objects: &Objects) -> Verdict {
    let set = objects.named("apps/replicasets", "web").ok_or("the set is gone")?;
    let budget = objects.named("policy/poddisruptionbudgets", "web").ok_or("the budget is gone")?;
    let expected = number(set, "/spec/replicas");
    let healthy = objects.all("core/pods").filter(|pod| active(pod) && ready(pod)).count() as i64;
    let desired = (expected - number(budget, "/spec/maxUnavailable")).max(0);
    let allowed = if expected == 0 { 0 } else { (healthy - desired).max(0) };
    let wanted = [expected, healthy, desired, allowed];
    let fields = ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"];
    let told = fields.map(|field| number(budget, &format!("/status/{field}")));
    require(told == wanted, || format!("{fields:?} are {told:?} for {wanted:?}"))?;
    let seen = number(budget, "/status/observedGeneration");
    require(seen == number(budget, "/metadata/generation"), || format!("generation {seen} was seen"))
}

#[test]
fn a_budget_says_how_many_may_go() {
    let scenario = Scenario {
        start: &[disruption::start, replica_set::start],
        shown: &[],
        faults: Faults { lost: 15, ..TROUBLE },
        habits: Habits { crash: 10, waver: 10, fail: 0 },
        setup: |objects, _| {
            let template = json!({"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}});
            let selector = json!({"matchLabels": {"app": "web"}});
            make(
                objects,
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
                "spec": {"replicas": 4, "selector": selector, "template": template}}),
            );
            make(
                objects,
                json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
                "spec": {"maxUnavailable": 1, "selector": selector}}),
            );
        },
        disturb: disturb_a_budget,
        last: |_| (),
        always: |_, _| Ok(()),
        finally: the_budget_is_right,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 12);
}

// ResourceQuota.

fn disturb_a_quota(objects: &mut Objects, random: &mut SmallRng) {
    let all: Vec<_> = objects.all("core/configmaps").chain(objects.all("core/secrets")).cloned().collect();
    match random.random_range(0..4) {
        0 | 1 => {
            let kind = ["ConfigMap", "Secret"][random.random_range(0..2)];
            make(objects, json!({"apiVersion": "v1", "kind": kind, "metadata": {"generateName": "o-"}}));
        }
        2 => {
            let quota = objects.named("core/resourcequotas", "most").cloned().expect("it is there");
            change(objects, &quota, None, |quota| {
                quota["spec"]["hard"]["secrets"] = random.random_range(1..9).to_string().into()
            });
        }
        _ => {
            if let Some(object) = all.choose(random) {
                delete(objects, object, "", None);
            }
        }
    }
}

fn the_quota_is_right(objects: &Objects) -> Verdict {
    let quota = objects.named("core/resourcequotas", "most").ok_or("the quota is gone")?;
    require(quota["status"]["hard"] == quota["spec"]["hard"], || format!("hard is {}", quota["status"]["hard"]))?;
    for (name, collection) in [("configmaps", "core/configmaps"), ("secrets", "core/secrets")] {
        let there = objects.all(collection).count();
        let told = &quota["status"]["used"][name];
        require(told.as_str() == Some(&*there.to_string()), || format!("{told} {name} are used of {there}"))?;
    }
    Ok(())
}

#[test]
fn a_quota_counts_what_there_is() {
    let scenario = Scenario {
        start: &[resource_quota::start, garbage_collector::start],
        shown: &["core/configmaps", "core/secrets"],
        faults: Faults { lost: 15, ..TROUBLE },
        habits: Habits::default(),
        setup: |objects, _| {
            let hard = json!({"configmaps": "7", "secrets": "7"});
            make(
                objects,
                json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "most"}, "spec": {"hard": hard}}),
            );
        },
        disturb: disturb_a_quota,
        last: |_| (),
        always: |_, _| Ok(()),
        finally: the_quota_is_right,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 12);
}

// Claims and volumes.

fn make_a_volume(objects: &mut Objects, size: u32) {
    let spec = json!({"capacity": {"storage": format!("{size}Gi")}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "manual", "hostPath": {"path": "/tmp/x"}});
    make(
        objects,
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"generateName": "v-"}, "spec": spec}),
    );
}

fn make_a_claim(objects: &mut Objects, size: u32) {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "resources": {"requests": {"storage": format!("{size}Gi")}}});
    let metadata = json!({"generateName": "c-"});
    make(objects, json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}));
}

fn disturb_claims(objects: &mut Objects, random: &mut SmallRng) {
    let size = random.random_range(1..4);
    match random.random_range(0..6) {
        0 | 1 => make_a_volume(objects, size),
        2 | 3 => make_a_claim(objects, size),
        which => {
            let collection = ["core/persistentvolumes", "core/persistentvolumeclaims"][which - 4];
            let all: Vec<_> = objects.all(collection).filter(|object| !deleting(object)).cloned().collect();
            if let Some(object) = all.choose(random) {
                delete(objects, object, "", None);
            }
        }
    }
}

/// No volume has two claims, and none that is bound changes hands.
fn one_claim_a_volume(objects: &Objects, write: &Write) -> Verdict {
    let volume = text(&write.object, "/spec/volumeName");
    if &*write.collection == "core/persistentvolumeclaims" && !volume.is_empty() && write.after.is_some() {
        let claims = objects.all("core/persistentvolumeclaims");
        let count = claims.filter(|claim| text(claim, "/spec/volumeName") == volume).count();
        require(count == 1, || format!("{count} claims have {volume}"))?;
    }
    if &*write.collection == "core/persistentvolumes"
        && let (Some(before), Some(after)) = (&write.before, &write.after)
    {
        let (had, has) = (text(before, "/spec/claimRef/uid"), text(after, "/spec/claimRef/uid"));
        let name = text(after, "/metadata/name");
        // A claim that took another volume before this one could be its own lets it go.
        let owns = objects.with_uid(had).is_some_and(|claim| text(claim, "/spec/volumeName") == name);
        require(had == has || !owns, || format!("{name} is taken from its claim"))?;
    }
    Ok(())
}

fn size(object: &Value, place: &str) -> i64 {
    text(object, place).trim_end_matches("Gi").parse().unwrap_or(0)
}

fn all_that_can_be_are_bound(objects: &Objects) -> Verdict {
    let volumes: Vec<_> = objects.all("core/persistentvolumes").collect();
    for claim in objects.all("core/persistentvolumeclaims") {
        let name = text(claim, "/metadata/name");
        require(!deleting(claim), || format!("{name} does not end"))?;
        let (volume, phase) = (text(claim, "/spec/volumeName"), text(claim, "/status/phase"));
        if volume.is_empty() {
            let wanted = size(claim, "/spec/resources/requests/storage");
            let suits = volumes.iter().find(|volume| {
                !deleting(volume)
                    && volume["spec"]["claimRef"].is_null()
                    && size(volume, "/spec/capacity/storage") >= wanted
            });
            require(phase == "Pending", || format!("{name} is {phase}"))?;
            require(suits.is_none(), || {
                format!("{name} waits although {} is free", text(suits.expect("one"), "/metadata/name"))
            })?;
            continue;
        }
        let volume =
            volumes.iter().find(|object| text(object, "/metadata/name") == volume).ok_or("a volume is gone")?;
        let same = volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"];
        let phases = (phase, text(volume, "/status/phase"));
        require(same && phases == ("Bound", "Bound"), || format!("{name} and its volume are {phases:?}"))?;
    }
    for volume in volumes {
        let name = text(volume, "/metadata/name");
        let owner = objects.with_uid(text(volume, "/spec/claimRef/uid"));
        let wanted = match (volume["spec"]["claimRef"].is_null(), owner) {
            (true, _) => "Available",
            (false, None) => "Released",
            (false, Some(_)) => "Bound",
        };
        let phase = text(volume, "/status/phase");
        require(phase == wanted, || format!("{name} is {phase} instead of {wanted}"))?;
        require(!deleting(volume) || wanted == "Bound", || format!("{name} does not end"))?;
    }
    Ok(())
}

#[test]
fn each_claim_gets_a_volume_of_its_own() {
    let scenario = Scenario {
        start: &[persistent_volume::start, volume_protection::start],
        shown: &[],
        faults: Faults { lost: 15, ..TROUBLE },
        habits: Habits::default(),
        setup: |objects, _| {
            for size in [1, 2, 3] {
                make_a_volume(objects, size);
                make_a_claim(objects, size);
            }
        },
        disturb: disturb_claims,
        last: |_| (),
        always: one_claim_a_volume,
        finally: all_that_can_be_are_bound,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 20);
}
