//! Persistent volumes and claims.

use serde_json::{Value, json};

use super::{create, update};

fn claim() -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

fn volume() -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "x"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}})
}

#[test]
fn claims() {
    let spec = |change: Value, expected: &[&str]| create(&claim(), json!({"spec": change}), expected);
    spec(json!({}), &[]);
    spec(json!({"accessModes": []}), &["spec.accessModes: Required value: at least 1 access mode is required"]);
    spec(
        json!({"accessModes": ["Some"]}),
        &[
            "spec.accessModes: Unsupported value: \"Some\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
        ],
    );
    spec(
        json!({"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"]}),
        &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
    );
    spec(json!({"resources": {"requests": {"storage": null}}}), &["spec.resources[storage]: Required value"]);
    spec(
        json!({"resources": {"requests": {"storage": "0"}}}),
        &["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"],
    );
    spec(json!({"storageClassName": "A_B"}), &["spec.storageClassName: Invalid value: \"A_B\": a lowercase RFC 1123…"]);
    spec(
        json!({"volumeMode": "Disk"}),
        &["spec.volumeMode: Unsupported value: \"Disk\": supported values: \"Block\", \"Filesystem\""],
    );
    spec(
        json!({"dataSource": {"kind": "Pod", "name": "p"}}),
        &[
            "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        ],
    );
}

#[test]
fn claims_grow() {
    let mut bound = claim();
    bound["spec"]["volumeName"] = json!("v");
    bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let size = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let with = |phase: &Value, change: Value, expected: &[&str]| update(phase, change, None, expected);
    with(
        &bound,
        json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims…",
        ],
    );
    with(&claim(), json!({"spec": {"volumeName": "v"}}), &[]);
    with(
        &claim(),
        size("2Gi"),
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims…",
        ],
    );
}

#[test]
fn volumes() {
    let spec = |change: Value, expected: &[&str]| create(&volume(), json!({"spec": change}), expected);
    spec(json!({}), &[]);
    spec(json!({"hostPath": null}), &["spec: Required value: must specify a volume type"]);
    spec(
        json!({"nfs": {"server": "s", "path": "/p"}}),
        &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
    );
    spec(
        json!({"capacity": {"cpu": "1"}}),
        &["spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"1Gi\"}: supported values: \"storage\""],
    );
    spec(
        json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}),
        &["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"],
    );
    spec(
        json!({"local": {"path": "/x"}, "hostPath": null}),
        &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
    );
}

#[test]
fn volumes_stay() {
    update(
        &volume(),
        json!({"spec": {"hostPath": {"path": "/y"}}}),
        None,
        &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation…"],
    );
    update(
        &volume(),
        json!({"spec": {"volumeMode": "Block"}}),
        None,
        &["volumeMode: Invalid value: \"Block\": field is immutable"],
    );
    update(&volume(), json!({"spec": {"capacity": {"storage": "2Gi"}}}), None, &[]);
}
