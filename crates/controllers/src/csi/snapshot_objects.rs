//! VolumeSnapshots, their contents and classes: custom resources, which a cluster may have or not.
//!
//! Upstream: <https://github.com/kubernetes-csi/external-snapshotter/blob/master/client/apis/volumesnapshot/v1/types.go>.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::SecretReference;
use kobune_grpc::csi::controller::Snapshot;
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

/// The group.
pub const GROUP: &str = "snapshot.storage.k8s.io";
/// Keeps a snapshot until its content is gone.
pub const SNAPSHOT_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
/// Keeps a content until the driver has deleted the snapshot.
pub const CONTENT_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
/// On a content that was made here: the node that its driver was called through.
pub const NODE: &str = "csi.kobune.dev/node";
/// On a content: which secret deletes the snapshot.
const DELETION_SECRET: [&str; 2] =
    ["snapshot.storage.kubernetes.io/deletion-secret-name", "snapshot.storage.kubernetes.io/deletion-secret-namespace"];
/// On a class: the one for snapshots that name none.
const DEFAULT: &str = "snapshot.storage.kubernetes.io/is-default-class";

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", kind), plural)
}

/// The snapshots of a namespace.
pub fn snapshots(client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource("VolumeSnapshot", "volumesnapshots"))
}

/// What is behind them.
pub fn contents(client: &kube::Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("VolumeSnapshotContent", "volumesnapshotcontents"))
}

/// Their classes.
pub fn classes(client: &kube::Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("VolumeSnapshotClass", "volumesnapshotclasses"))
}

/// An annotation's value.
pub fn annotation<'o>(object: &'o DynamicObject, key: &str) -> Option<&'o str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class of a driver's snapshots: the named one, or the default of that driver.
pub fn class<'c>(all: &'c [DynamicObject], named: Option<&str>, driver: &str) -> Result<&'c DynamicObject, String> {
    let found = match named {
        Some(name) => all.iter().find(|class| class.metadata.name.as_deref() == Some(name)),
        None => all.iter().find(|class| annotation(class, DEFAULT) == Some("true") && class.data["driver"] == driver),
    };
    let found = found.ok_or_else(|| match named {
        Some(name) => format!("volumesnapshotclass \"{name}\" not found"),
        None => format!("no volume snapshot class is the default of driver {driver}"),
    })?;
    if found.data["driver"] != driver {
        return Err(format!("the class is of another driver than {driver}, which has the volume"));
    }
    Ok(found)
}

/// The secret that a driver gets for the snapshots of a class.
pub fn secret(class: &DynamicObject) -> Result<Option<SecretReference>, String> {
    let part = |part: &str| {
        let value = class.data["parameters"][format!("csi.storage.k8s.io/snapshotter-secret-{part}")].as_str()?;
        Some(value.to_owned())
    };
    match (part("name"), part("namespace")) {
        (None, None) => Ok(None),
        (Some(name), Some(namespace)) if !name.contains("${") && !namespace.contains("${") => {
            Ok(Some(SecretReference { name: Some(name), namespace: Some(namespace) }))
        }
        (Some(_), Some(_)) => Err("templates of snapshotter secrets are not supported".to_owned()),
        _ => Err("the class has to give both name and namespace of the snapshotter secret".to_owned()),
    }
}

/// The secret that deletes a snapshot.
pub fn deletion_secret(content: &DynamicObject) -> SecretReference {
    let [name, namespace] = DELETION_SECRET.map(|key| annotation(content, key).map(str::to_owned));
    SecretReference { name, namespace }
}

/// The content of a snapshot that is to be taken.
pub fn content(snapshot: &DynamicObject, class: &DynamicObject, handle: &str, mode: Option<&str>, node: &str) -> Value {
    let meta = &snapshot.metadata;
    let uid = meta.uid.as_deref().unwrap_or_default();
    let mut annotations = BTreeMap::from([(NODE, node.to_owned())]);
    if let Ok(Some(SecretReference { name: Some(name), namespace: Some(namespace) })) = secret(class) {
        annotations.extend(DELETION_SECRET.into_iter().zip([name, namespace]));
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "VolumeSnapshotContent",
        "metadata": {"name": content_name(snapshot), "finalizers": [CONTENT_FINALIZER], "annotations": annotations},
        "spec": {
            "deletionPolicy": class.data["deletionPolicy"],
            "driver": class.data["driver"],
            "source": {"volumeHandle": handle},
            "sourceVolumeMode": mode.unwrap_or("Filesystem"),
            "volumeSnapshotClassName": class.metadata.name,
            "volumeSnapshotRef": {
                "apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshot",
                "name": meta.name, "namespace": meta.namespace, "uid": uid},
        },
    })
}

/// The name of a snapshot's content.
pub fn content_name(snapshot: &DynamicObject) -> String {
    format!("snapcontent-{}", snapshot.metadata.uid.as_deref().unwrap_or_default())
}

/// The status of a content and of its snapshot, for what the driver has taken.
pub fn statuses(content: &str, taken: &Snapshot) -> (Value, Value) {
    let time = taken.creation_time.clone().unwrap_or_default();
    let at = Timestamp::new(time.seconds, time.nanos).unwrap_or_default();
    let nanoseconds = i64::try_from(at.as_nanosecond()).unwrap_or(0);
    let of_content = json!({"status": {
        "snapshotHandle": taken.snapshot_id, "creationTime": nanoseconds, "readyToUse": taken.ready_to_use,
        "restoreSize": taken.size_bytes, "error": null}});
    let at = Timestamp::from_second(time.seconds).unwrap_or_default();
    let of_snapshot = json!({"status": {
        "boundVolumeSnapshotContentName": content, "creationTime": at, "readyToUse": taken.ready_to_use,
        "restoreSize": taken.size_bytes.to_string(), "error": null}});
    (of_content, of_snapshot)
}

#[cfg(test)]
mod tests {
    use kobune_grpc::csi::controller::Timestamp as Time;

    use super::*;

    fn dynamic(object: Value) -> DynamicObject {
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn classes_are_of_the_volumes_driver() {
        let made = |name: &str, driver: &str, default: bool| {
            let annotations = if default { json!({DEFAULT: "true"}) } else { json!({}) };
            dynamic(
                json!({"apiVersion": "a/v1", "kind": "C", "metadata": {"name": name, "annotations": annotations}, "driver": driver}),
            )
        };
        let all = [made("one", "d", false), made("other", "e", true), made("usual", "d", true)];
        let check = |named: Option<&str>, driver: &str, expected: Option<&str>| {
            let found = class(&all, named, driver).ok().and_then(|class| class.metadata.name.as_deref());
            assert_eq!(found, expected, "{named:?} {driver}");
        };
        check(Some("one"), "d", Some("one"));
        check(Some("one"), "e", None);
        check(Some("none"), "d", None);
        check(None, "d", Some("usual"));
        check(None, "f", None);
    }

    #[test]
    fn secrets_are_whole_or_refused() {
        let check = |parameters: Value, expected: Option<Option<&str>>| {
            let class = dynamic(json!({"apiVersion": "a/v1", "kind": "C", "metadata": {}, "parameters": parameters}));
            let found = secret(&class).ok().map(|found| found.and_then(|found| found.name));
            assert_eq!(found.as_ref().map(Option::as_deref), expected, "{parameters}");
        };
        let (name, namespace) =
            ("csi.storage.k8s.io/snapshotter-secret-name", "csi.storage.k8s.io/snapshotter-secret-namespace");
        check(json!({}), Some(None));
        check(json!({name: "s", namespace: "ns"}), Some(Some("s")));
        check(json!({name: "s"}), None);
        check(json!({name: "${volumesnapshot.name}", namespace: "ns"}), None);
    }

    #[test]
    fn statuses_have_the_snapshots_time_and_size() {
        let taken = Snapshot {
            size_bytes: 1 << 20,
            snapshot_id: "h".to_owned(),
            source_volume_id: "v".to_owned(),
            creation_time: Some(Time { seconds: 1_700_000_000, nanos: 5 }),
            ready_to_use: true,
        };
        let (content, snapshot) = statuses("c", &taken);
        assert_eq!(content["status"]["creationTime"], 1_700_000_000_000_000_005_i64);
        assert_eq!(content["status"]["snapshotHandle"], "h");
        assert_eq!(snapshot["status"]["creationTime"], "2023-11-14T22:13:20Z");
        assert_eq!(snapshot["status"]["restoreSize"], "1048576");
    }
}
