//! Claims on devices: what pods get out of templates, who uses it, and what becomes of it when a device is tainted.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::machines::{Habits, change, delete};
use super::objects::{Objects, Write, Writer, active, controller, deleting, ended, text};
use super::server::{Faults, make};
use super::{Scenario, TROUBLE, die_at_each_step, simulate};
use crate::context::Context;
use crate::{device_taint_eviction, resource_claim};

type Verdict = Result<(), String>;

const DEVICES: usize = 4;

fn start(context: &Arc<Context>) {
    let claims = resource_claim::Claims::default();
    resource_claim::start(context, &claims);
    device_taint_eviction::start(context, &claims);
    resource_claim::follow(context, &claims);
}

fn begin(objects: &mut Objects, _: &mut SmallRng) {
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu"}});
    let spec = json!({"devices": {"requests": [request]}});
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "gpu"},
        "spec": {"spec": spec}});
    make(objects, template);
    let devices: Vec<Value> = (0..DEVICES).map(|number| json!({"name": format!("d{number}")})).collect();
    make(
        objects,
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "gpus"},
        "spec": {"driver": "gpu.example.com", "allNodes": true, "devices": devices,
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
    );
    (0..3).for_each(|_| make_a_user(objects));
}

fn make_a_user(objects: &mut Objects) {
    let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}]});
    make(objects, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "user-"}, "spec": spec}));
}

/// The claim that a pod is told of.
fn claim_of<'o>(objects: &'o Objects, pod: &'o Value) -> Option<&'o Arc<Value>> {
    let told = text(pod, "/status/resourceClaimStatuses/0/resourceClaimName");
    objects.named("resource.k8s.io/resourceclaims", told).filter(|claim| !deleting(claim))
}

/// What the scheduler does: a device that is free and good for each claim without one, and a reservation for its pod.
fn give_devices(objects: &mut Objects) {
    let claims: Vec<_> = objects.all("resource.k8s.io/resourceclaims").cloned().collect();
    let taken = |claim: &Value| text(claim, "/status/allocation/devices/results/0/device").to_owned();
    let mut used: Vec<String> = claims.iter().map(|claim| taken(claim)).collect();
    for claim in claims.iter().filter(|claim| !deleting(claim) && taken(claim).is_empty()) {
        let told = |pod: &&Arc<Value>| claim_of(objects, pod).is_some_and(|told| told == claim);
        let Some(pod) = objects.with_uid(controller(claim)).filter(|pod| active(pod)).filter(told).cloned() else {
            continue;
        };
        let good = (0..DEVICES).map(|number| format!("d{number}"));
        let Some(device) = good.into_iter().find(|name| !used.contains(name) && !tainted(objects, name)) else {
            return;
        };
        used.push(device.clone());
        change(objects, claim, None, |claim| {
            claim["metadata"]["finalizers"] = json!(["resource.kubernetes.io/delete-protection"]);
        });
        let Some(claim) = objects.with_uid(text(claim, "/metadata/uid")).cloned() else { continue };
        change(objects, &claim, Some("status"), |claim| {
            claim["status"] = json!({
                "allocation": {"devices": {"results": [{"driver": "gpu.example.com", "pool": "p", "device": device, "request": "gpu"}]}},
                "reservedFor": [{"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}],
            });
        });
    }
}

fn tainted(objects: &Objects, device: &str) -> bool {
    let slice = objects.named("resource.k8s.io/resourceslices", "gpus").expect("it is there");
    let found = slice["spec"]["devices"].as_array().into_iter().flatten().find(|one| one["name"] == device);
    found.is_some_and(|device| device["taints"][0]["effect"] == "NoExecute")
}

fn disturb(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..6) {
        0 => make_a_user(objects),
        1 => {
            let pods: Vec<_> = objects.all("core/pods").filter(|pod| !deleting(pod)).cloned().collect();
            if let Some(pod) = pods.choose(random) {
                delete(objects, pod, "", None);
            }
        }
        2 | 3 => {
            let slice = objects.named("resource.k8s.io/resourceslices", "gpus").cloned().expect("it is there");
            let at = random.random_range(0..DEVICES);
            let taint = json!([{"key": "broken", "effect": "NoExecute", "timeAdded": crate::clock::now().to_string()}]);
            let taints = if random.random_bool(0.5) { taint } else { Value::Null };
            change(objects, &slice, None, |slice| slice["spec"]["devices"][at]["taints"] = taints);
        }
        _ => give_devices(objects),
    }
}

/// A pod gets one claim, keeps it while it needs it, and is evicted only for a device that is tainted.
fn claims_belong(objects: &Objects, write: &Write) -> Verdict {
    if write.writer != Writer::Controller {
        return Ok(());
    }
    let name = text(&write.object, "/metadata/name");
    if &*write.collection == "resource.k8s.io/resourceclaims" {
        let Some(pod) = objects.with_uid(controller(&write.object)) else { return Ok(()) };
        let given = |claim: Option<&Arc<Value>>| claim.is_some_and(|claim| claim["status"]["allocation"].is_object());
        if active(pod)
            && (write.condemned().is_some() || (given(write.before.as_ref()) && !given(write.after.as_ref())))
        {
            return Err(format!("{name} is taken from a pod that needs it"));
        }
    }
    // One that has ended meanwhile gives its device back.
    let evicted = write.condemned().filter(|pod| &*write.collection == "core/pods" && !ended(pod));
    let Some(pod) = evicted else { return Ok(()) };
    // What the controller knew may be some events old.
    let before = objects.log.len().saturating_sub(30);
    let was = |device: &str| {
        let slices = objects.log[before..].iter().filter(|past| &*past.collection == "resource.k8s.io/resourceslices");
        let mut states = slices.filter_map(|past| past.before.as_ref());
        states.any(|slice| {
            let found = slice["spec"]["devices"].as_array().into_iter().flatten().find(|one| one["name"] == device);
            found.is_some_and(|device| device["taints"][0]["effect"] == "NoExecute")
        })
    };
    let device = claim_of(objects, pod).map(|claim| text(claim, "/status/allocation/devices/results/0/device"));
    match device {
        Some(device) if tainted(objects, device) || was(device) => Ok(()),
        other => Err(format!("{name} is evicted although it uses {other:?}")),
    }
}

/// Without lost answers a pod never gets a second claim; with them it may, which it is not told of and which goes with it.
fn one_claim(objects: &Objects, write: &Write) -> Verdict {
    claims_belong(objects, write)?;
    let made = write.created().filter(|_| &*write.collection == "resource.k8s.io/resourceclaims");
    let Some(made) = made else { return Ok(()) };
    // For one that is about to be gone it may, as long as the watch has not said so.
    if objects.with_uid(controller(made)).is_none_or(|pod| !active(pod)) {
        return Ok(());
    }
    let own = objects.controlled("resource.k8s.io/resourceclaims", controller(made));
    let own = own.filter(|claim| !deleting(claim)).count();
    if own == 1 { Ok(()) } else { Err(format!("a pod has {own} claims")) }
}

fn all_have_good_ones(objects: &Objects) -> Verdict {
    for pod in objects.all("core/pods").filter(|pod| active(pod)) {
        let name = text(pod, "/metadata/name");
        let Some(claim) = claim_of(objects, pod) else { return Err(format!("{name} has no claim")) };
        let device = text(claim, "/status/allocation/devices/results/0/device");
        if tainted(objects, device) {
            return Err(format!("{name} still uses {device}"));
        }
    }
    for claim in objects.all("resource.k8s.io/resourceclaims") {
        let name = text(claim, "/metadata/name");
        if deleting(claim) || !objects.with_uid(controller(claim)).is_some_and(|pod| active(pod)) {
            return Err(format!("claim {name} is left: {}", claim["metadata"]));
        }
    }
    Ok(())
}

#[test]
fn device_claims_come_and_go_with_their_pods() {
    let scenario = Scenario {
        start: &[start, crate::garbage_collector::start],
        shown: &["core/pods", "resource.k8s.io/resourceclaims"],
        faults: TROUBLE,
        habits: Habits { crash: 20, waver: 0, fail: 0 },
        setup: begin,
        disturb,
        last: |objects| {
            give_devices(objects);
            let slice = objects.named("resource.k8s.io/resourceslices", "gpus").cloned().expect("it is there");
            let taint = json!([{"key": "broken", "effect": "NoExecute", "timeAdded": crate::clock::now().to_string()}]);
            change(objects, &slice, None, |slice| slice["spec"]["devices"][0]["taints"] = taint);
        },
        always: one_claim,
        finally: all_have_good_ones,
    };
    simulate(&scenario);
    simulate(&Scenario { faults: Faults { lost: 15, ..TROUBLE }, always: claims_belong, ..scenario });
    die_at_each_step(&scenario, 15);
}
