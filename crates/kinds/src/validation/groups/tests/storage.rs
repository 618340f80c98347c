//! storage.k8s.io.

use serde_json::{Value, json};

use super::{change, create};

const STORAGE: &str = "storage.k8s.io/v1";

#[test]
fn classes() {
    let check = |object: Value, expected: &[&str]| create(STORAGE, "StorageClass", object, expected);
    check(json!({"provisioner": "Example.com/P"}), &[]);
    check(
        json!({"provisioner": "", "reclaimPolicy": "Recycle", "volumeBindingMode": "Later"}),
        &[
            "provisioner: Required value",
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
        ],
    );
    let term = json!({"matchLabelExpressions": [{"key": "z", "values": ["a"]}]});
    check(
        json!({"provisioner": "p", "allowedTopologies": [term, term]}),
        &["allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""],
    );
    change(
        STORAGE,
        "StorageClass",
        None,
        json!({"provisioner": "p", "parameters": {"a": "b"}}),
        json!({"provisioner": "q", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}),
        &[
            "parameters: Forbidden: updates to parameters are forbidden.",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ],
    );
    create(
        STORAGE,
        "VolumeAttributesClass",
        json!({"driverName": "d"}),
        &["parameters: Required value: must contain at least one key/value pair"],
    );
    change(
        STORAGE,
        "VolumeAttributesClass",
        None,
        json!({"driverName": "d", "parameters": {"a": "b"}}),
        json!({"driverName": "d", "parameters": {"a": "c"}}),
        &["parameters: Forbidden: updates to parameters are forbidden."],
    );
}

#[test]
fn attachments() {
    let attachment = |spec: Value| json!({"spec": spec});
    let check = |spec: Value, expected: &[&str]| create(STORAGE, "VolumeAttachment", attachment(spec), expected);
    let good = json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}});
    check(good.clone(), &[]);
    check(
        json!({"nodeName": "n", "source": {}}),
        &[
            "spec.attacher: Required value",
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ],
    );
    let mut moved = good.clone();
    moved["nodeName"] = "m".into();
    change(
        STORAGE,
        "VolumeAttachment",
        None,
        attachment(good),
        attachment(moved),
        &[
            "spec: Invalid value: {\"attacher\":\"d\",\"nodeName\":\"m\",\"source\":{\"persistentVolumeName\":\"v\"}}: field is immutable",
        ],
    );
}

#[test]
fn drivers() {
    let driver = |spec: Value| json!({"spec": spec});
    let check = |spec: Value, expected: &[&str]| create(STORAGE, "CSIDriver", driver(spec), expected);
    check(json!({}), &[]);
    check(
        json!({"fsGroupPolicy": "X", "volumeLifecycleModes": ["Y"], "nodeAllocatableUpdatePeriodSeconds": 9,
            "tokenRequests": [{"audience": "a"}, {"audience": "a"}, {"audience": "b", "expirationSeconds": 1}]}),
        &[
            "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
            "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            "spec.tokenRequests[2].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            "spec.volumeLifecycleModes: Unsupported value: \"Y\": supported values: \"Persistent\", \"Ephemeral\"",
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
        ],
    );
    change(
        STORAGE,
        "CSIDriver",
        None,
        driver(json!({"attachRequired": true})),
        driver(json!({"attachRequired": false})),
        &["spec.attachedRequired: Invalid value: false: field is immutable"],
    );
    let node = |drivers: Value| json!({"spec": {"drivers": drivers}});
    create(
        STORAGE,
        "CSINode",
        node(json!([{"name": "d", "nodeID": "n"}, {"name": "d", "topologyKeys": ["a b"], "nodeID": ""}])),
        &[
            "spec.drivers[1].nodeID: Required value",
            "spec.drivers[1].name: Duplicate value: \"d\"",
            "spec.drivers[1]: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or \
             '.', and must start and end with an alphanumeric character (e.g. 'MyName' or 'my.name' or '123-abc', \
             regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
    change(
        STORAGE,
        "CSINode",
        None,
        node(json!([{"name": "d", "nodeID": "n"}])),
        node(json!([{"name": "d", "nodeID": "n", "allocatable": {"count": 3}}])),
        &[],
    );
    create(
        STORAGE,
        "CSIStorageCapacity",
        json!({"storageClassName": "c", "capacity": "-1"}),
        &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
    change(
        STORAGE,
        "CSIStorageCapacity",
        None,
        json!({"storageClassName": "c"}),
        json!({"storageClassName": "d"}),
        &["storageClassName: Invalid value: \"d\": field is immutable"],
    );
}
