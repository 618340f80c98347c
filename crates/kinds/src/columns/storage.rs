//! Volumes, claims and storage classes.

use serde_json::Value;

use super::cell::{UNSET, age, flag, name, text, text_or, texts};
use super::{AGE, Column, NAME, Table};

const VOLUME_MODE: Column = Column::string("VolumeMode", "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.").wide();
const ATTRIBUTES: Column = Column::string(
    "VolumeAttributesClass",
    "Name of VolumeAttributesClass to which this volume belongs. Empty value is not allowed.",
);
const CLASS: Column = Column::string("StorageClass", "StorageClass of the volume");

/// Access modes by their abbreviations, in a fixed order.
fn access_modes(object: &Value, pointer: &str) -> String {
    let modes = texts(object, pointer);
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    short.iter().filter(|(mode, _)| modes.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn phase(object: &Value) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return "Terminating".into();
    }
    text(object, "/status/phase").into()
}

/// The class of a volume or claim; an annotation named it before there was a field.
fn class(object: &Value) -> Value {
    let old = text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    if old.is_empty() { text(object, "/spec/storageClassName").into() } else { old.into() }
}

pub(super) const VOLUMES: Table = (
    &[
        NAME,
        Column::string("Capacity", "capacity is the description of the persistent volume's resources and capacity."),
        Column::string("Access Modes", "accessModes contains all ways the volume can be mounted."),
        Column::string(
            "Reclaim Policy",
            "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim.",
        ),
        Column::string("Status", "phase indicates if a volume is available, bound to a claim, or released by a claim."),
        Column::string(
            "Claim",
            "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound.",
        ),
        CLASS,
        ATTRIBUTES,
        Column::string(
            "Reason",
            "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
        ),
        AGE,
        VOLUME_MODE,
    ],
    |object, now| {
        let claim = match object.pointer("/spec/claimRef") {
            Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
            None => String::new(),
        };
        vec![
            name(object),
            text(object, "/spec/capacity/storage").into(),
            access_modes(object, "/spec/accessModes").into(),
            text(object, "/spec/persistentVolumeReclaimPolicy").into(),
            phase(object),
            claim.into(),
            class(object),
            text_or(object, "/spec/volumeAttributesClassName", UNSET).into(),
            text(object, "/status/reason").into(),
            age(object, now),
            text_or(object, "/spec/volumeMode", UNSET).into(),
        ]
    },
);

pub(super) const CLAIMS: Table = (
    &[
        NAME,
        Column::string("Status", "phase represents the current phase of PersistentVolumeClaim."),
        Column::string("Volume", "volumeName is the binding reference to the PersistentVolume backing this claim."),
        Column::string("Capacity", "capacity represents the actual resources of the underlying volume."),
        Column::string("Access Modes", "accessModes contains the actual access modes the volume backing the PVC has."),
        Column::string("StorageClass", "StorageClass of the pvc"),
        ATTRIBUTES,
        AGE,
        VOLUME_MODE,
    ],
    |object, now| {
        // What is there is shown only once the claim is bound.
        let bound = !text(object, "/spec/volumeName").is_empty();
        let (modes, capacity) = if bound {
            (access_modes(object, "/status/accessModes"), text(object, "/status/capacity/storage"))
        } else {
            (String::new(), "")
        };
        vec![
            name(object),
            phase(object),
            text(object, "/spec/volumeName").into(),
            capacity.into(),
            modes.into(),
            class(object),
            text_or(object, "/spec/volumeAttributesClassName", UNSET).into(),
            age(object, now),
            text_or(object, "/spec/volumeMode", UNSET).into(),
        ]
    },
);

pub(super) const CLASSES: Table = (
    &[
        NAME,
        Column::string("Provisioner", "provisioner indicates the type of the provisioner."),
        Column::string(
            "ReclaimPolicy",
            "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
        ),
        Column::string(
            "VolumeBindingMode",
            "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound. When unset, VolumeBindingImmediate is used.",
        ),
        Column::new(
            "AllowVolumeExpansion",
            "boolean",
            "allowVolumeExpansion shows whether the storage class allow volume expand.",
        ),
        AGE,
    ],
    |object, now| {
        let default =
            ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"]
                .iter()
                .any(|key| text(object, &format!("/metadata/annotations/{key}")) == "true");
        let suffix = if default { " (default)" } else { "" };
        vec![
            format!("{}{suffix}", text(object, "/metadata/name")).into(),
            text(object, "/provisioner").into(),
            text_or(object, "/reclaimPolicy", "Delete").into(),
            text_or(object, "/volumeBindingMode", "Immediate").into(),
            flag(object, "/allowVolumeExpansion").into(),
            age(object, now),
        ]
    },
);
