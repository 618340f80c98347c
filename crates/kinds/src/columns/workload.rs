//! What keeps pods running: deployments, replica sets, stateful sets, daemon sets.

use serde_json::Value;

use super::cell::{age, containers, int, labels, list, name, selector, text};
use super::{AGE, Column, NAME, Table};

pub(super) const CONTAINERS: Column = Column::string("Containers", "Names of each container in the template.").wide();
pub(super) const IMAGES: Column =
    Column::string("Images", "Images referenced by each container in the template.").wide();
pub(super) const SELECTOR: Column = Column::string(
    "Selector",
    "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment.",
)
.wide();
const DESIRED: Column = Column::integer("Desired", "Replicas is the number of desired replicas.");
const CURRENT: Column = Column::integer("Current", "Replicas is the most recently observed number of replicas.");
const READY: Column = Column::integer("Ready", "The number of ready replicas.");
const REPLICAS: &[Column] = &[NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

/// Desired, current and ready replicas.
fn replicas(object: &Value) -> [Value; 3] {
    ["/spec/replicas", "/status/replicas", "/status/readyReplicas"].map(|pointer| int(object, pointer).into())
}

fn ready(object: &Value) -> Value {
    format!("{}/{}", int(object, "/status/readyReplicas"), int(object, "/spec/replicas")).into()
}

pub(super) const POD_TEMPLATES: Table = (
    &[
        NAME,
        Column::string("Containers", "Names of each container in the template."),
        Column::string("Images", "Images referenced by each container in the template."),
        Column::string("Pod Labels", "The labels for the pod template."),
    ],
    |object, _| {
        let [names, images] = containers(object, "/template/spec");
        vec![name(object), names, images, labels(object.pointer("/template/metadata/labels")).into()]
    },
);

pub(super) const REPLICATION_CONTROLLERS: Table = (REPLICAS, |object, now| {
    let ([desired, current, ready], [names, images]) = (replicas(object), containers(object, "/spec/template/spec"));
    let selected = labels(object.pointer("/spec/selector")).into();
    vec![name(object), desired, current, ready, age(object, now), names, images, selected]
});

pub(super) const REPLICA_SETS: Table = (REPLICAS, |object, now| {
    let ([desired, current, ready], [names, images]) = (replicas(object), containers(object, "/spec/template/spec"));
    let selected = selector(object.pointer("/spec/selector")).into();
    vec![name(object), desired, current, ready, age(object, now), names, images, selected]
});

pub(super) const DEPLOYMENTS: Table = (
    &[
        NAME,
        Column::string("Ready", "Number of the pod with ready state"),
        Column::integer(
            "Up-to-date",
            "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
        ),
        Column::integer(
            "Available",
            "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |object, now| {
        let [names, images] = containers(object, "/spec/template/spec");
        vec![
            name(object),
            ready(object),
            int(object, "/status/updatedReplicas").into(),
            int(object, "/status/availableReplicas").into(),
            age(object, now),
            names,
            images,
            selector(object.pointer("/spec/selector")).into(),
        ]
    },
);

pub(super) const STATEFUL_SETS: Table =
    (&[NAME, Column::string("Ready", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES], |object, now| {
        let [names, images] = containers(object, "/spec/template/spec");
        vec![name(object), ready(object), age(object, now), names, images]
    });

pub(super) const DAEMON_SETS: Table = (
    &[
        NAME,
        Column::integer(
            "Desired",
            "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod).",
        ),
        Column::integer(
            "Current",
            "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod.",
        ),
        Column::integer(
            "Ready",
            "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
        ),
        Column::integer("Up-to-date", "The total number of nodes that are running updated daemon pod"),
        Column::integer(
            "Available",
            "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
        ),
        Column::string(
            "Node Selector",
            "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |object, now| {
        let [names, images] = containers(object, "/spec/template/spec");
        let mut cells = vec![name(object)];
        for field in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ] {
            cells.push(int(object, &format!("/status/{field}")).into());
        }
        cells.push(labels(object.pointer("/spec/template/spec/nodeSelector")).into());
        cells.extend([age(object, now), names, images, selector(object.pointer("/spec/selector")).into()]);
        cells
    },
);

pub(super) const CONTROLLER_REVISIONS: Table = (
    &[
        NAME,
        Column::string("Controller", "Controller of the object"),
        Column::integer("Revision", "Revision indicates the revision of the state represented by Data."),
        AGE,
    ],
    |object, now| {
        let controller = list(object, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == true);
        let controller = controller.map_or_else(
            || super::cell::NONE.to_owned(),
            |owner| {
                let (group, kind) = (text(owner, "/apiVersion"), text(owner, "/kind").to_lowercase());
                let group = group.rsplit_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
                format!("{kind}{group}/{}", text(owner, "/name"))
            },
        );
        vec![name(object), controller.into(), int(object, "/revision").into(), age(object, now)]
    },
);
