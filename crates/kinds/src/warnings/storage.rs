//! PersistentVolume, PersistentVolumeClaim and StorageClass, and what else names labels of nodes.

use serde_json::Value;

use super::{Warnings, fractional, has_annotation, node_term, replaced_label};
use crate::path::{Path, entries, list, text};

const ANNOTATIONS: [(&str, &str); 2] = [
    ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];

const SOURCES: [(&str, &str); 6] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn annotations(object: &Value, known: &[(&str, &str)], warnings: &mut Warnings) {
    for (key, message) in known.iter().filter(|(key, _)| has_annotation(object, key)) {
        warnings.push(format!("metadata.annotations[{key}]: {message}"));
    }
}

pub(super) fn volume(volume: &Value, warnings: &mut Warnings) {
    annotations(volume, &ANNOTATIONS, warnings);
    let spec = &volume["spec"];
    let path = Path::new("spec");
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let place = path.child("nodeAffinity");
    let place = place.child("required");
    let terms = place.child("nodeSelectorTerms");
    for (index, term) in list(&spec["nodeAffinity"]["required"], "nodeSelectorTerms").iter().enumerate() {
        node_term(term, false, &terms.index(index), warnings);
    }
    for (field, message) in SOURCES.iter().filter(|(field, _)| !spec[*field].is_null()) {
        let shown = if *field == "storageos" { "storageOS" } else { field };
        warnings.push(format!("{}: {message}", path.child(shown)));
    }
    fractional(&spec["capacity"]["storage"], &path.child("capacity").key("storage"), warnings);
}

pub(super) fn claim(claim: &Value, warnings: &mut Warnings) {
    annotations(claim, &ANNOTATIONS[..1], warnings);
    claim_spec(&claim["spec"], &Path::new("spec"), warnings);
}

/// The spec of a claim, also in a template.
pub(super) fn claim_spec(spec: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child("resources");
    for field in ["requests", "limits"] {
        fractional(&spec["resources"][field]["storage"], &path.child(field).key("storage"), warnings);
    }
}

fn label(key: &str, path: &Path<'_>, warnings: &mut Warnings) {
    if let Some(message) = replaced_label(key) {
        warnings.push(format!("{path}: {key} is {message}"));
    }
}

/// The terms of a label selector over nodes.
pub(super) fn label_terms(selector: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    for (key, _) in entries(selector, "matchLabels") {
        label(key, &path.child("matchLabels").key(key), warnings);
    }
    let place = path.child("matchExpressions");
    for (index, term) in list(selector, "matchExpressions").iter().enumerate() {
        label(text(term, "key"), &place.index(index).child("key"), warnings);
    }
}

pub(super) fn class(class: &Value, warnings: &mut Warnings) {
    let place = Path::new("allowedTopologies");
    for (index, term) in list(class, "allowedTopologies").iter().enumerate() {
        let path = place.index(index);
        let place = path.child("matchLabelExpressions");
        for (index, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            label(text(expression, "key"), &place.index(index).child("key"), warnings);
        }
    }
}

pub(super) fn runtime_class(class: &Value, warnings: &mut Warnings) {
    let place = Path::new("scheduling.nodeSelector");
    for (key, _) in entries(class, "scheduling.nodeSelector") {
        label(key, &place.key(key), warnings);
    }
    let place = Path::new("overhead.podFixed");
    for (resource, amount) in entries(class, "overhead.podFixed").filter(|(resource, _)| *resource == "memory") {
        fractional(amount, &place.key(resource), warnings);
    }
}
