//! Defaults of volumes, claims and drivers.

use serde_json::{Value, json};

use super::{always, put, put_text, within};

/// What the sources of volumes have in common between pods and persistent volumes.
pub(super) fn sources(volume: &mut Value) {
    within(volume, "hostPath", |path| put(path, "type", ""));
    within(volume, "iscsi", |iscsi| put_text(iscsi, "iscsiInterface", "default"));
    within(volume, "rbd", |rbd| {
        put_text(rbd, "pool", "rbd");
        put_text(rbd, "user", "admin");
        put_text(rbd, "keyring", "/etc/ceph/keyring");
    });
    within(volume, "azureDisk", |disk| {
        put(disk, "cachingMode", "ReadWrite");
        put(disk, "kind", "Shared");
        put(disk, "fsType", "ext4");
        put(disk, "readOnly", false);
    });
    within(volume, "scaleIO", |scale| {
        put_text(scale, "storageMode", "ThinProvisioned");
        put_text(scale, "fsType", "xfs");
    });
}

pub(super) fn volume(object: &mut Value) {
    always(object, "status", |status| put_text(status, "phase", "Pending"));
    within(object, "spec", |spec| {
        put_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        put(spec, "volumeMode", "Filesystem");
        within(spec, "claimRef", |claim| {
            put_text(claim, "kind", "PersistentVolumeClaim");
            put_text(claim, "apiVersion", "v1");
        });
        sources(spec);
    });
}

pub(super) fn claim(object: &mut Value) {
    always(object, "status", |status| put_text(status, "phase", "Pending"));
    always(object, "spec", |spec| {
        put(spec, "volumeMode", "Filesystem");
        put(spec, "resources", json!({}));
    });
}

pub(super) fn csi_driver(spec: &mut Value) {
    put(spec, "attachRequired", true);
    put(spec, "podInfoOnMount", false);
    put(spec, "storageCapacity", false);
    put(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    put(spec, "volumeLifecycleModes", json!(["Persistent"]));
    put(spec, "requiresRepublish", false);
    put(spec, "seLinuxMount", false);
}
