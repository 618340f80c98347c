//! CSI drivers and nodes, attachments, capacities and attribute classes.

use serde_json::Value;

use super::cell::{UNSET, age, count, flag, list, name, text, texts};
use super::{AGE, Column, NAME, Table};

pub(super) const DRIVERS: Table = (
    &[
        NAME,
        Column::new(
            "AttachRequired",
            "boolean",
            "Whether volumes have to be attached to a node before they are mounted.",
        ),
        Column::new("PodInfoOnMount", "boolean", "Whether the driver is told about the pod when it mounts."),
        Column::new(
            "StorageCapacity",
            "boolean",
            "Whether the scheduler minds the capacities that the driver publishes.",
        ),
        Column::string("TokenRequests", "The audiences of the service account tokens that the driver gets."),
        Column::new(
            "RequiresRepublish",
            "boolean",
            "Whether volumes are published again and again to reflect changes.",
        ),
        Column::string("Modes", "What kinds of volumes the driver supports."),
        AGE,
    ],
    |object, now| {
        let audiences: Vec<&str> =
            list(object, "/spec/tokenRequests").iter().map(|request| text(request, "/audience")).collect();
        let audiences = if audiences.is_empty() { UNSET.to_owned() } else { audiences.join(",") };
        vec![
            name(object),
            flag(object, "/spec/attachRequired").into(),
            flag(object, "/spec/podInfoOnMount").into(),
            flag(object, "/spec/storageCapacity").into(),
            audiences.into(),
            flag(object, "/spec/requiresRepublish").into(),
            texts(object, "/spec/volumeLifecycleModes").join(",").into(),
            age(object, now),
        ]
    },
);

pub(super) const NODES: Table = (
    &[NAME, Column::integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), AGE],
    |object, now| vec![name(object), count(object, "/spec/drivers").into(), age(object, now)],
);

pub(super) const CAPACITIES: Table = (
    &[
        NAME,
        Column::string("StorageClassName", "The class whose capacity this is."),
        Column::string("Capacity", "How much storage is available."),
        AGE,
    ],
    |object, now| {
        let cell = |pointer| Value::from(text(object, pointer));
        vec![name(object), cell("/storageClassName"), cell("/capacity"), age(object, now)]
    },
);

const ATTACHER: Column =
    Column { format: "name", ..Column::string("Attacher", "The driver that attaches and detaches the volume.") };

pub(super) const ATTACHMENTS: Table = (
    &[
        NAME,
        ATTACHER,
        Column::string("PV", "The persistent volume that is attached."),
        Column::string("Node", "The node that it is attached to."),
        Column::new("Attached", "boolean", "Whether the volume is attached."),
        AGE,
    ],
    |object, now| {
        vec![
            name(object),
            text(object, "/spec/attacher").into(),
            text(object, "/spec/source/persistentVolumeName").into(),
            text(object, "/spec/nodeName").into(),
            flag(object, "/status/attached").into(),
            age(object, now),
        ]
    },
);

pub(super) const ATTRIBUTES_CLASSES: Table =
    (&[NAME, Column::string("DriverName", "The driver whose volumes the class is for."), AGE], |object, now| {
        vec![name(object), text(object, "/driverName").into(), age(object, now)]
    });
