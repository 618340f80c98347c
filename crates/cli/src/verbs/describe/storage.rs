//! PersistentVolumes, their claims, classes and drivers.

use jiff::Timestamp;
use serde_json::Value;

use super::read::{int, is_empty, items, labels, moment, quantity_text, since, text, texts, yes_or_unset};
use super::writer::Writer;
use super::{Related, metadata, volumes};
use crate::verbs::go;

/// `RWO,ROX`: access modes in short, always in the same order.
fn access_modes(modes: &Value) -> String {
    let modes = texts(modes);
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown: Vec<&str> =
        short.into_iter().filter(|(mode, _)| modes.iter().any(|known| known == mode)).map(|(_, short)| short).collect();
    shown.join(",")
}

fn phase(w: &mut Writer, object: &Value, now: Timestamp) {
    let deleted = &object["metadata"]["deletionTimestamp"];
    w.field(
        0,
        "Status",
        match deleted {
            Value::Null => text(&object["status"]["phase"]),
            time => format!("Terminating (lasts {})", since(time, now)),
        },
    );
}

/// A PersistentVolume.
pub fn persistent_volume(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let spec = &object["spec"];
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "Finalizers", go::list(&texts(&object["metadata"]["finalizers"])));
    w.field(0, "StorageClass", volumes::class(object));
    phase(w, object, now);
    let claim = &spec["claimRef"];
    let claim = match claim {
        Value::Null => String::new(),
        claim => format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])),
    };
    w.field(0, "Claim", claim);
    w.field(0, "Reclaim Policy", text(&spec["persistentVolumeReclaimPolicy"]));
    w.field(0, "Access Modes", access_modes(&spec["accessModes"]));
    if !spec["volumeMode"].is_null() {
        w.field(0, "VolumeMode", text(&spec["volumeMode"]));
    }
    w.field(0, "Capacity", quantity_text(&spec["capacity"]["storage"]));
    w.put(0, "Node Affinity:\t");
    let required = &spec["nodeAffinity"]["required"];
    if required.is_null() {
        w.end("<none>");
    } else {
        w.end("");
        w.put(1, "Required Terms:\t");
        let terms = items(&required["nodeSelectorTerms"]);
        w.end(if terms.is_empty() { "<none>" } else { "" });
        for (index, term) in terms.iter().enumerate() {
            let expressions = items(&term["matchExpressions"]).iter().map(|expression| {
                let words = format!("{} {}", text(&expression["key"]), text(&expression["operator"]).to_lowercase());
                (words, texts(&expression["values"]))
            });
            requirements(w, 2, &format!("Term {index}"), expressions.collect());
        }
    }
    w.field(0, "Message", text(&object["status"]["message"]));
    w.line(0, "Source:");
    volumes::of_persistent_volume(w, spec);
    metadata::events(w, related.events(), now);
}

/// The requirements of a term, one a line.
fn requirements(w: &mut Writer, level: usize, title: &str, requirements: Vec<(String, Vec<String>)>) {
    w.put(level, format!("{title}:\t"));
    if requirements.is_empty() {
        w.end("<none>");
    }
    for (index, (words, values)) in requirements.into_iter().enumerate() {
        if index > 0 {
            w.put(level, "\t");
        }
        w.line(0, if values.is_empty() { words } else { format!("{words} [{}]", values.join(", ")) });
    }
}

/// A PersistentVolumeClaim.
pub fn persistent_volume_claim(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    claim(w, object, Some(now));
    w.put(0, "Used By:\t");
    let mut users: Vec<String> =
        users(object, &related.pods).into_iter().map(|pod| text(&pod["metadata"]["name"])).collect();
    users.sort();
    if users.is_empty() {
        w.end("<none>");
    }
    for (index, user) in users.into_iter().enumerate() {
        if index > 0 {
            w.put(0, "\t");
        }
        w.line(0, user);
    }
    let conditions = items(&object["status"]["conditions"]);
    if !conditions.is_empty() {
        w.line(0, "Conditions:");
        w.line(1, "Type\tStatus\tLastProbeTime\tLastTransitionTime\tReason\tMessage");
        w.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    }
    for condition in conditions {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
        let [probed, changed] = ["lastProbeTime", "lastTransitionTime"].map(|field| moment(&condition[field]));
        w.line(1, format!("{kind} \t{status} \t{probed} \t{changed} \t{reason} \t{message}"));
    }
    metadata::events(w, related.events(), now);
}

/// The pods with the claim among their volumes, and those that own it.
fn users<'p>(claim: &Value, pods: &'p [Value]) -> Vec<&'p Value> {
    let name = &claim["metadata"]["name"];
    let mut users: Vec<&Value> = Vec::new();
    for pod in pods {
        let volumes = items(&pod["spec"]["volumes"]).iter();
        users.extend(
            volumes
                .filter(|volume| {
                    volume["persistentVolumeClaim"].is_object() && volume["persistentVolumeClaim"]["claimName"] == *name
                })
                .map(|_| pod),
        );
    }
    for owner in items(&claim["metadata"]["ownerReferences"]).iter().filter(|owner| owner["kind"] == "Pod") {
        let is_owner = |pod: &&Value| pod["metadata"]["uid"] == owner["uid"];
        if !users.iter().any(is_owner) {
            users.extend(pods.iter().find(is_owner));
        }
    }
    users
}

/// A claim, or without a time what a pod makes one from.
pub fn claim(w: &mut Writer, object: &Value, whole: Option<Timestamp>) {
    let (spec, status) = (&object["spec"], &object["status"]);
    if whole.is_some() {
        metadata::name_and_namespace(w, object);
    }
    w.field(0, "StorageClass", volumes::class(object));
    if let Some(now) = whole {
        phase(w, object, now);
    }
    let volume = text(&spec["volumeName"]);
    w.field(0, "Volume", &volume);
    metadata::labels_and_annotations(w, object);
    if whole.is_some() {
        w.field(0, "Finalizers", go::list(&texts(&object["metadata"]["finalizers"])));
    }
    let bound = !volume.is_empty();
    w.field(0, "Capacity", if bound { quantity_text(&status["capacity"]["storage"]) } else { String::new() });
    w.field(0, "Access Modes", if bound { access_modes(&status["accessModes"]) } else { String::new() });
    if !spec["volumeMode"].is_null() {
        w.field(0, "VolumeMode", text(&spec["volumeMode"]));
    }
    let source = &spec["dataSource"];
    if !source.is_null() {
        w.line(0, "DataSource:");
        if !source["apiGroup"].is_null() {
            w.field(1, "APIGroup", text(&source["apiGroup"]));
        }
        w.field(1, "Kind", text(&source["kind"]));
        w.field(1, "Name", text(&source["name"]));
    }
}

/// A StorageClass.
pub fn storage_class(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let annotations = &object["metadata"]["annotations"];
    metadata::name(w, object);
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|name| annotations[*name] == "true");
    w.field(0, "IsDefaultClass", if default { "Yes" } else { "No" });
    w.field(0, "Annotations", labels(annotations));
    w.field(0, "Provisioner", text(&object["provisioner"]));
    w.field(0, "Parameters", labels(&object["parameters"]));
    w.field(0, "AllowVolumeExpansion", yes_or_unset(&object["allowVolumeExpansion"]));
    let options = texts(&object["mountOptions"]);
    w.line(0, if options.is_empty() { "MountOptions:\t<none>" } else { "MountOptions:" });
    for option in options {
        w.line(1, option);
    }
    for (title, field) in [("ReclaimPolicy", "reclaimPolicy"), ("VolumeBindingMode", "volumeBindingMode")] {
        if !object[field].is_null() {
            w.field(0, title, text(&object[field]));
        }
    }
    if !object["allowedTopologies"].is_null() {
        w.put(0, "AllowedTopologies:\t");
        let terms = items(&object["allowedTopologies"]);
        w.end(if terms.is_empty() { "<none>" } else { "" });
        for (index, term) in terms.iter().enumerate() {
            let expressions = items(&term["matchLabelExpressions"]).iter();
            let expressions = expressions
                .map(|expression| (format!("{} in", text(&expression["key"])), texts(&expression["values"])));
            requirements(w, 1, &format!("Term {index}"), expressions.collect());
        }
    }
    metadata::events(w, related.events(), now);
}

/// A VolumeAttributesClass.
pub fn volume_attributes_class(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    w.field(0, "Annotations", labels(&object["metadata"]["annotations"]));
    w.field(0, "DriverName", text(&object["driverName"]));
    w.field(0, "Parameters", labels(&object["parameters"]));
    metadata::events(w, related.events(), now);
}

/// The drivers of a node.
pub fn csi_node(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    metadata::creation(w, object);
    w.line(0, "Spec:");
    let drivers = &object["spec"]["drivers"];
    if !drivers.is_null() {
        w.line(1, "Drivers:");
    }
    for driver in items(drivers) {
        w.line(2, format!("{}:", text(&driver["name"])));
        w.field(3, "Node ID", text(&driver["nodeID"]));
        let count = &driver["allocatable"]["count"];
        if !count.is_null() {
            w.line(3, "Allocatables:");
            w.field(4, "Count", int(count).to_string());
        }
        if !driver["topologyKeys"].is_null() {
            w.field(3, "Topology Keys", go::list(&texts(&driver["topologyKeys"])));
        }
    }
    metadata::events(w, related.events(), now);
}

/// A PriorityClass.
pub fn priority_class(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    w.field(0, "Value", int(&object["value"]).to_string());
    w.field(0, "GlobalDefault", super::read::is(&object["globalDefault"]).to_string());
    w.field(0, "PreemptionPolicy", text(&object["preemptionPolicy"]));
    w.field(0, "Description", text(&object["description"]));
    let annotations = &object["metadata"]["annotations"];
    w.field(0, "Annotations", if is_empty(annotations) { "<none>".to_owned() } else { labels(annotations) });
    metadata::events(w, related.events(), now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_uses_a_claim() {
        let pods = [
            json!({"metadata": {"name": "a", "uid": "1"}, "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "c"}}]}}),
            json!({"metadata": {"name": "b", "uid": "2"}}),
            json!({"metadata": {"name": "x", "uid": "3"}, "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "d"}}]}}),
        ];
        let claim = json!({"metadata": {"name": "c", "ownerReferences": [{"kind": "Pod", "uid": "2"}, {"kind": "Pod", "uid": "1"}]}});
        let names: Vec<&Value> = users(&claim, &pods).into_iter().map(|pod| &pod["metadata"]["name"]).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(access_modes(&json!(["ReadWriteMany", "ReadWriteOnce", "ReadWriteOnce"])), "RWO,RWX");
    }
}
