//! PersistentVolume.

use serde_json::Value;

use super::pod::node_selector;
use super::volume::{Check, remote};
use super::{Errors, claim, follows, immutable, one_of, required, required_follows, resources, same, volume};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, size, text};

/// The sources in the order in which upstream looks for them: the first counts, others are too many.
const SOURCES: [(&str, Check); 21] = [
    ("hostPath", volume::host_path),
    ("gcePersistentDisk", remote::gce_persistent_disk),
    ("awsElasticBlockStore", remote::aws_elastic_block_store),
    ("glusterfs", remote::glusterfs),
    ("flocker", remote::flocker),
    ("nfs", remote::nfs),
    ("rbd", remote::rbd),
    ("quobyte", remote::quobyte),
    ("cephfs", remote::cephfs),
    ("iscsi", remote::iscsi),
    ("cinder", remote::cinder),
    ("fc", remote::fibre_channel),
    ("flexVolume", remote::flex_volume),
    ("azureFile", remote::azure_file),
    ("vsphereVolume", remote::vsphere_volume),
    ("photonPersistentDisk", remote::photon_persistent_disk),
    ("portworxVolume", remote::portworx_volume),
    ("azureDisk", remote::azure_disk),
    ("scaleIO", remote::scale_io),
    ("local", remote::local),
    ("storageos", remote::storage_os),
];

/// What holds for a volume at any time.
pub(super) fn volume(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = &object["spec"];
    if size(spec, "accessModes") == 0 {
        errors.push(FieldError::required(path.child("accessModes"), ""));
    }
    claim::access_modes(spec, &path, errors);
    capacity(spec, &path, errors);
    one_of(
        errors,
        &path.child("persistentVolumeReclaimPolicy"),
        &spec["persistentVolumeReclaimPolicy"],
        &["Delete", "Recycle", "Retain"],
    );
    let affinity = &spec["nodeAffinity"];
    let place = path.child("nodeAffinity");
    if !affinity.is_null() {
        if affinity["required"].is_null() {
            errors.push(FieldError::required(place.child("required"), "must specify required node constraints"));
        } else {
            node_selector(&affinity["required"], &place.child("required"), errors);
        }
    }
    sources(object, &path, errors);
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" && is_root(text(&spec["hostPath"], "path")) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(path.child("persistentVolumeReclaimPolicy"), detail));
    }
    follows(errors, &path, spec, "storageClassName", name::dns1123_subdomain);
    one_of(errors, &path.child("volumeMode"), &spec["volumeMode"], &["Block", "Filesystem"]);
    if !spec["volumeAttributesClassName"].is_null() {
        if text(spec, "volumeAttributesClassName").is_empty() {
            let detail = "an empty string is disallowed";
            errors.push(FieldError::required(path.child("volumeAttributesClassName"), detail));
        }
        follows(errors, &path, spec, "volumeAttributesClassName", name::dns1123_subdomain);
        if spec["csi"].is_null() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(path.child("csi"), detail));
        }
    }
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

fn capacity(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("capacity");
    if size(spec, "capacity") == 0 {
        errors.push(FieldError::required(path, ""));
    }
    if spec["capacity"]["storage"].is_null() || size(spec, "capacity") > 1 {
        errors.push(FieldError::not_supported(path, spec["capacity"].clone(), &["storage"]));
    }
    for (resource, value) in entries(spec, "capacity") {
        let path = path.key(resource);
        resources::basic(value, &path, errors);
        resources::positive(value, &path, errors);
    }
}

fn sources(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let spec = &object["spec"];
    let mut count = 0;
    for (field, check) in SOURCES.into_iter().chain([("csi", csi as Check)]) {
        let source = &spec[field];
        if source.is_null() {
            continue;
        }
        let place = path.child(field);
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(place, "may not specify more than 1 volume type"));
            continue;
        }
        check(source, &place, errors);
        // Unlike a pod's, the secret of these lives in a namespace that has to be named.
        if matches!(field, "cinder" | "storageos") && !source["secretRef"].is_null() {
            required(errors, &place.child("secretRef"), &source["secretRef"], "namespace");
        }
        if field == "iscsi" && !source["secretRef"].is_null() {
            required(errors, &place.child("secretRef"), &source["secretRef"], "name");
        }
        if field == "local" && spec["nodeAffinity"].is_null() {
            let detail = "Local volume requires node affinity";
            errors.push(FieldError::required(path.child("nodeAffinity"), detail));
        }
        let portal = text(source, "targetPortal");
        let named = text(&object["metadata"], "name");
        if field == "iscsi" && !source["initiatorName"].is_null() && named.len() + 1 + portal.len() > 64 {
            let place = place.child("targetportal");
            errors.push(FieldError::invalid(place, portal, remote::PORTAL_TOO_LONG));
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn csi(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    remote::driver_name(source, path, errors);
    required(errors, path, source, "volumeHandle");
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        if !source[field].is_null() {
            let path = path.child(field);
            required_follows(errors, &path, &source[field], "name", name::dns1123_subdomain);
            required_follows(errors, &path, &source[field], "namespace", name::dns1123_label);
        }
    }
}

/// A volume that is to replace `old`.
pub(super) fn update(now: &Value, old: &Value, errors: &mut Errors) {
    volume(now, errors);
    let (spec, before) = (&now["spec"], &old["spec"]);
    let secret = "controllerExpandSecretRef";
    let sources = SOURCES.iter().map(|(field, _)| *field).chain(["csi"]);
    let changed = sources.into_iter().any(|field| {
        let mut source = spec[field].clone();
        // A driver's secret for growing may come later.
        if field == "csi"
            && before["csi"][secret].is_null()
            && !before["csi"].is_null()
            && let Some(fields) = source.as_object_mut()
        {
            fields.remove(secret);
        }
        !same(&source, &before[field])
    });
    let path = Path::new("spec");
    if changed {
        let detail = "spec.persistentvolumesource is immutable after creation\n";
        errors.push(FieldError::forbidden(path.child("persistentvolumesource"), detail));
    }
    immutable(errors, "volumeMode", &spec["volumeMode"], &before["volumeMode"]);
    let (affinity, old_affinity) = (&spec["nodeAffinity"], &before["nodeAffinity"]);
    if !old_affinity.is_null() && renamed(old_affinity) != renamed(affinity) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.push(FieldError::invalid("nodeAffinity", affinity.clone(), detail));
    }
    if spec["volumeAttributesClassName"].is_null() && !before["volumeAttributesClassName"].is_null() {
        let detail = "update from non-nil value to nil is forbidden";
        errors.push(FieldError::forbidden(path.child("volumeAttributesClassName"), detail));
    }
}

/// The affinity with the old names of labels replaced by those that took their place.
fn renamed(affinity: &Value) -> Value {
    let mut affinity = affinity.clone();
    let terms = affinity.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for term in terms.into_iter().flatten() {
        for requirement in term["matchExpressions"].as_array_mut().into_iter().flatten() {
            let new = match text(requirement, "key") {
                "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
                "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
                "beta.kubernetes.io/os" => "kubernetes.io/os",
                "beta.kubernetes.io/arch" => "kubernetes.io/arch",
                "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type",
                _ => continue,
            };
            requirement["key"] = Value::from(new);
        }
    }
    affinity
}
