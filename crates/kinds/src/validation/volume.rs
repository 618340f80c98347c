//! A pod's volumes.

mod local;
mod projected;
pub(super) use local::host_path;
pub(super) mod remote;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Errors, claim, follows, invalid, metadata, one_of, required, required_one_of, resources};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

/// The volumes of a pod by name; only those without mistakes.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Checks the volumes of a pod (whose metadata are null for a template) and gives those that are good.
pub(super) fn volumes<'a>(spec: &'a Value, pod: &Value, path: &Path<'_>, errors: &mut Errors) -> Volumes<'a> {
    let path = path.child("volumes");
    let mut good = Volumes::new();
    let owner = text(pod, "name");
    let all = list(spec, "volumes");
    let made: BTreeSet<String> = match owner {
        "" => BTreeSet::new(),
        _ => {
            let ephemeral = all.iter().filter(|volume| !volume["ephemeral"].is_null());
            ephemeral.map(|volume| format!("{owner}-{}", text(volume, "name"))).collect()
        }
    };
    for (index, volume) in all.iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        source(volume, owner, &path, errors);
        let named = text(volume, "name");
        super::required_follows(errors, &path, volume, "name", name::dns1123_label);
        if good.contains_key(named) {
            errors.push(FieldError::duplicate(path.child("name"), named));
        }
        if errors.len() == before {
            good.insert(named, volume);
        }
        let claimed = text(&volume["persistentVolumeClaim"], "claimName");
        if made.contains(claimed) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(path.child("persistentVolumeClaim").child("claimName"), claimed, detail));
        }
    }
    good
}

/// The order in which upstream looks for sources: the first one counts, the others are too many.
const SOURCES: [(&str, Check); 30] = [
    ("emptyDir", local::empty_dir),
    ("hostPath", host_path),
    ("gitRepo", local::git_repo),
    ("gcePersistentDisk", remote::gce_persistent_disk),
    ("awsElasticBlockStore", remote::aws_elastic_block_store),
    ("secret", local::secret),
    ("nfs", remote::nfs),
    ("iscsi", remote::iscsi),
    ("glusterfs", remote::glusterfs),
    ("flocker", remote::flocker),
    ("persistentVolumeClaim", local::persistent_volume_claim),
    ("rbd", remote::rbd),
    ("cinder", remote::cinder),
    ("cephfs", remote::cephfs),
    ("quobyte", remote::quobyte),
    ("downwardAPI", local::downward_api),
    ("fc", remote::fibre_channel),
    ("flexVolume", remote::flex_volume),
    ("configMap", local::config_map),
    ("azureFile", remote::azure_file),
    ("vsphereVolume", remote::vsphere_volume),
    ("photonPersistentDisk", remote::photon_persistent_disk),
    ("portworxVolume", remote::portworx_volume),
    ("azureDisk", remote::azure_disk),
    ("storageos", remote::storage_os),
    ("projected", projected::projected),
    ("scaleIO", remote::scale_io),
    ("csi", remote::csi),
    ("ephemeral", ephemeral),
    ("image", local::image),
];

/// Checks one source; the path is its own.
pub(super) type Check = fn(&Value, &Path<'_>, &mut Errors);

fn source(volume: &Value, owner: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for (field, check) in SOURCES {
        let source = &volume[field];
        if source.is_null() {
            continue;
        }
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(path.child(field), "may not specify more than 1 volume type"));
        } else {
            check(source, &path.child(field), errors);
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    let named = text(volume, "name");
    let portal = text(&volume["iscsi"], "targetPortal");
    if !volume["iscsi"]["initiatorName"].is_null() && named.len() + 1 + portal.len() > 64 {
        errors.push(FieldError::invalid(path.child("name"), named, remote::PORTAL_TOO_LONG));
    }
    if !volume["ephemeral"].is_null() && !owner.is_empty() && !named.is_empty() {
        let claim = format!("{owner}-{named}");
        for message in name::dns1123_subdomain(&claim) {
            let detail = format!("PVC name {claim:?}: {message}");
            errors.push(FieldError::invalid(path.child("name"), named, detail));
        }
    }
}

fn ephemeral(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let template = &source["volumeClaimTemplate"];
    let path = path.child("volumeClaimTemplate");
    if template.is_null() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    template_metadata(&template["metadata"], &path.child("metadata"), errors);
    claim::spec(&template["spec"], &path.child("spec"), errors);
}

/// Metadata of which only labels and annotations mean anything.
pub(super) fn template_metadata(given: &Value, path: &Path<'_>, errors: &mut Errors) {
    metadata::annotations(given, path, errors);
    metadata::labels(given, "labels", path, errors);
    for field in given.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if !matches!(field.as_str(), "annotations" | "labels") {
            errors.push(FieldError::forbidden(path.child(field), "cannot be set"));
        }
    }
}

/// The bits of a file's mode.
fn mode(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if value.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
}

/// A path without a step upwards.
pub(super) fn no_backsteps(given: &str, path: &Path<'_>, errors: &mut Errors) {
    if given.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, given, "must not contain '..'"));
    }
}

/// A path that leads downwards from where it starts.
pub(super) fn descending(given: &str, path: &Path<'_>, errors: &mut Errors) {
    if given.starts_with('/') {
        errors.push(FieldError::invalid(path, given, "must be a relative path"));
    }
    no_backsteps(given, path, errors);
}

/// A descending path that does not begin with two dots either.
pub(super) fn not_reserved(given: &str, path: &Path<'_>, errors: &mut Errors) {
    descending(given, path, errors);
    if given.starts_with("..") && !given.starts_with("../") {
        errors.push(FieldError::invalid(path, given, "must not start with '..'"));
    }
}

/// One key of a config map or secret, and the file that it becomes.
fn key_to_path(item: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, item, "key");
    required(errors, path, item, "path");
    not_reserved(text(item, "path"), &path.child("path"), errors);
    mode(&item["mode"], &path.child("mode"), errors);
}

/// The items of a config map or secret.
fn items(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        key_to_path(item, &path.index(index), errors);
    }
}

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// When an image is fetched.
pub(super) fn pull_policy(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    required_one_of(errors, path, value, &PULL_POLICIES);
}
