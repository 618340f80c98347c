//! Tables for the decisions, and a binding that is cut short after each of its writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kobune_scheduler::volume_match::{best, claim_class};
use serde_json::{Value, json};

use super::claim::{self, ClaimPlan, View};
use super::names::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE};
use super::volume::{self, VolumePlan};
use super::write;

fn merge(into: &mut Value, from: &Value) {
    let (Value::Object(fields), Value::Object(changes)) = (&mut *into, from) else {
        *into = from.clone();
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

fn claim(change: Value) -> Value {
    let mut claim = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "cu"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "gold"},
        "status": {"phase": "Pending"},
    });
    merge(&mut claim, &change);
    claim
}

fn volume(change: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": "v", "uid": "vu"},
        "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "gold",
                 "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}},
        "status": {"phase": "Available"},
    });
    merge(&mut volume, &change);
    volume
}

fn read<K: serde::de::DeserializeOwned>(value: &Value) -> K {
    serde_json::from_value(value.clone()).expect("an object")
}

fn decide(object: &Value, class: Option<&Value>, volumes: &[Value]) -> ClaimPlan {
    let subject: PersistentVolumeClaim = read(object);
    let volumes: Vec<Arc<PersistentVolume>> = volumes.iter().map(|volume| Arc::new(read(volume))).collect();
    let class: Option<StorageClass> = class.map(read);
    let named = subject.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    claim::plan(View {
        claim: &subject,
        class: class.as_ref(),
        default_class: Some("standard".to_owned()),
        volume: named
            .and_then(|name| volumes.iter().find(|known| known.metadata.name.as_ref() == Some(&name)).cloned()),
        best: |delayed| {
            let class = claim_class(&subject).unwrap_or_default();
            let found = best(&subject, class, volumes.iter().map(|volume| &**volume), &BTreeSet::new(), None, delayed)?;
            volumes.iter().find(|known| known.metadata.name == found.metadata.name).cloned()
        },
    })
}

fn word(plan: &ClaimPlan) -> String {
    match plan {
        ClaimPlan::Nothing => "nothing".to_owned(),
        ClaimPlan::Pending(note) => format!("waits {}", note.as_ref().map(|note| note.reason).unwrap_or_default()),
        ClaimPlan::AssignClass(class) => format!("class {class}"),
        ClaimPlan::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap_or_default()),
        ClaimPlan::Provision { provisioner, .. } => format!("made by {provisioner}"),
        ClaimPlan::Lost(note) => format!("lost {}", note.reason),
    }
}

#[test]
fn claims() {
    let class = |mode: &str, provisioner: &str| json!({"metadata": {"name": "gold"}, "provisioner": provisioner, "volumeBindingMode": mode});
    let check = |change: Value, class: Option<&Value>, volumes: &[Value], expected: &str| {
        assert_eq!(word(&decide(&claim(change.clone()), class, volumes)), expected, "{change}");
    };
    let immediate = class("Immediate", "example.com/p");
    let delayed = class("WaitForFirstConsumer", "example.com/p");
    check(json!({}), None, &[volume(json!({}))], "bind v");
    check(json!({}), None, &[], "waits ProvisioningFailed");
    check(json!({}), Some(&immediate), &[], "made by example.com/p");
    check(json!({}), Some(&class("Immediate", "kubernetes.io/no-provisioner")), &[], "waits ProvisioningFailed");
    check(json!({}), Some(&delayed), &[volume(json!({}))], "waits WaitForFirstConsumer");
    check(json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}}), Some(&delayed), &[], "made by example.com/p");
    check(json!({"spec": {"storageClassName": null}}), None, &[], "class standard");
    check(json!({"spec": {"storageClassName": ""}}), None, &[], "waits FailedBinding");
    check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), None, &[volume(json!({}))], "nothing");

    let named = json!({"spec": {"volumeName": "v"}});
    check(named.clone(), None, &[], "waits ");
    check(named.clone(), None, &[volume(json!({}))], "bind v");
    check(named.clone(), None, &[volume(json!({"spec": {"capacity": {"storage": "1Mi"}}}))], "waits VolumeMismatch");
    check(named.clone(), None, &[volume(json!({"spec": {"volumeMode": "Block"}}))], "waits VolumeMismatch");
    let mine = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}});
    check(named.clone(), None, &[volume(mine)], "bind v");
    let others = json!({"spec": {"claimRef": {"namespace": "ns", "name": "d", "uid": "du"}}});
    check(named, None, &[volume(others.clone())], "waits FailedBinding");

    let done = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}});
    check(done.clone(), None, &[], "lost ClaimLost");
    check(done.clone(), None, &[volume(json!({}))], "bind v");
    check(done, None, &[volume(others)], "lost ClaimMisbound");
    check(json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}}), None, &[volume(json!({}))], "lost ClaimLost");
}

#[test]
fn volumes() {
    let check = |change: Value, claim: Option<&Value>, expected: &str| {
        let subject: PersistentVolume = read(&volume(change.clone()));
        let claim: Option<PersistentVolumeClaim> = claim.map(read);
        let found = match volume::plan(&subject, claim.as_ref()) {
            VolumePlan::Nothing => "nothing".to_owned(),
            VolumePlan::WakeClaim(key) => format!("wake {key}"),
            VolumePlan::Refuse(note) => format!("refuse {}", note.reason),
            VolumePlan::Phase { phase, note, .. } => {
                format!("{phase} {}", note.map(|note| note.reason).unwrap_or_default())
            }
            VolumePlan::Unbind => "unbind".to_owned(),
        };
        assert_eq!(found, expected, "{change}");
    };
    let bound = |more: Value| {
        let mut change = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "cu"}}});
        merge(&mut change, &more);
        change
    };
    check(json!({}), None, "Available ");
    check(json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}}), None, "Available ");
    check(bound(json!({})), Some(&claim(json!({}))), "wake ns/c");
    check(bound(json!({})), Some(&claim(json!({"spec": {"volumeMode": "Block"}}))), "refuse VolumeMismatch");
    check(bound(json!({})), Some(&claim(json!({"spec": {"volumeName": "v"}}))), "Bound ");
    let elsewhere = claim(json!({"spec": {"volumeName": "w"}}));
    check(bound(json!({})), Some(&elsewhere), "unbind");
    let made = json!({"metadata": {"annotations": {PROVISIONED_BY: "p"}}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    check(bound(made.clone()), Some(&elsewhere), "Released ");
    check(bound(json!({})), None, "Released ");
    let released = |policy: &str| {
        bound(json!({"status": {"phase": "Released"}, "spec": {"persistentVolumeReclaimPolicy": policy}}))
    };
    check(released("Retain"), None, "nothing");
    check(released("Recycle"), None, "Failed VolumeFailedRecycle");
    check(released("Delete"), None, "Failed VolumeFailedDelete");
    let mut made = bound(made);
    made["status"]["phase"] = json!("Released");
    check(made, None, "nothing");
}

/// The next write of a binding, as the pass would do it; `None` when all is done.
fn step(subject: &mut Value, volumes: &mut [Value]) -> Option<()> {
    let ClaimPlan::Bind(chosen) = decide(subject, None, volumes) else { panic!("{subject} is not to be bound") };
    let held = volumes.iter_mut().find(|volume| volume["metadata"]["name"] == json!(chosen.metadata.name))?;
    let now = jiff::Timestamp::UNIX_EPOCH;
    let (read_claim, read_volume) = (read(subject), read(held));
    if let Some(change) = write::volume_to_claim(&read_volume, &read_claim) {
        merge(held, &change);
    } else if let Some(change) = write::volume_status(&read_volume, "Bound", "", now) {
        merge(held, &change);
    } else if let Some(change) = write::claim_to_volume(&read_claim, &read_volume) {
        merge(subject, &change);
    } else if let Some(change) = write::claim_status(&read_claim, "Bound", Some(&read_volume)) {
        merge(subject, &change);
    } else {
        return None;
    }
    Some(())
}

#[test]
fn a_binding_cut_short_goes_on_with_the_same_volume() {
    let smaller = json!({"metadata": {"name": "w", "uid": "wu"}, "spec": {"capacity": {"storage": "1Gi"}}});
    for cut in 0..=4 {
        let (mut subject, mut volumes) = (claim(json!({})), vec![volume(json!({}))]);
        for _ in 0..cut {
            step(&mut subject, &mut volumes).expect("a binding takes four writes");
        }
        // While nobody looks a better volume comes along: it must not be taken once the first one names the claim.
        volumes.push(volume(smaller.clone()));
        let mut writes = cut;
        while step(&mut subject, &mut volumes).is_some() {
            writes += 1;
        }
        let chosen = if cut == 0 { 1 } else { 0 };
        assert_eq!(writes, 4);
        assert_eq!(subject["spec"]["volumeName"], volumes[chosen]["metadata"]["name"], "cut after {cut}");
        assert_eq!(subject["status"]["capacity"], volumes[chosen]["spec"]["capacity"]);
        assert_eq!(
            (&subject["status"]["phase"], &volumes[chosen]["status"]["phase"]),
            (&json!("Bound"), &json!("Bound"))
        );
        assert_eq!(volumes[chosen]["spec"]["claimRef"]["uid"], "cu");
        assert_eq!(volumes[1 - chosen]["spec"].get("claimRef"), None);
    }
}

#[test]
fn an_unbound_volume_is_free_unless_somebody_keeps_it() {
    let reference = json!({"namespace": "ns", "name": "c", "uid": "cu", "resourceVersion": "7"});
    let mut chosen =
        volume(json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}, "spec": {"claimRef": reference}}));
    let change = write::unbound(&read(&chosen));
    merge(&mut chosen, &change);
    assert_eq!(chosen["spec"].get("claimRef"), None);
    let mut kept = volume(json!({"spec": {"claimRef": reference}}));
    let change = write::unbound(&read(&kept));
    merge(&mut kept, &change);
    assert_eq!(kept["spec"]["claimRef"], json!({"namespace": "ns", "name": "c"}));
}
