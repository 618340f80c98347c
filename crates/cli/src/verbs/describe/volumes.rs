//! Volumes of pods and sources of PersistentVolumes: each sort is a line of words and a row of fields.

use serde_json::Value;

use super::metadata::LONGEST;
use super::read::{int, is, items, pairs, quantity, quantity_text, shortened, text, text_or, texts};
use super::storage;
use super::writer::Writer;
use crate::verbs::go;

/// What a field of a source is.
#[derive(Clone, Copy)]
enum Shown {
    /// A text.
    Text,
    /// A text, or these words.
    Or(&'static str),
    /// A number.
    Int,
    /// A truth value.
    Bool,
    /// A list of texts.
    List,
    /// A list of texts with commas between.
    Joined,
    /// A reference to a Secret by its name.
    Secret,
    /// A map of texts.
    Map,
}

struct Source {
    field: &'static str,
    words: &'static str,
    fields: &'static [(&'static str, &'static str, Shown)],
}

use Shown::{Bool, Int, Joined, List, Map, Or, Secret, Text};

const ISCSI: &str =
    "ISCSI (an ISCSI Disk resource that is attached to a kubelet's host machine and then exposed to the pod)";

/// The sorts in the order in which kubectl looks for them.
const SOURCES: &[Source] = &[
    Source {
        field: "hostPath",
        words: "HostPath (bare host directory volume)",
        fields: &[("Path:", "path", Text), ("HostPathType:", "type", Or("<none>"))],
    },
    Source {
        field: "gcePersistentDisk",
        words: "GCEPersistentDisk (a Persistent Disk resource in Google Compute Engine)",
        fields: &[
            ("PDName:", "pdName", Text),
            ("FSType:", "fsType", Text),
            ("Partition:", "partition", Int),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "awsElasticBlockStore",
        words: "AWSElasticBlockStore (a Persistent Disk resource in AWS)",
        fields: &[
            ("VolumeID:", "volumeID", Text),
            ("FSType:", "fsType", Text),
            ("Partition:", "partition", Int),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "gitRepo",
        words: "GitRepo (a volume that is pulled from git when the pod is created)",
        fields: &[("Repository:", "repository", Text), ("Revision:", "revision", Text)],
    },
    Source {
        field: "secret",
        words: "Secret (a volume populated by a Secret)",
        fields: &[("SecretName:", "secretName", Text), ("Optional:", "optional", Bool)],
    },
    Source {
        field: "configMap",
        words: "ConfigMap (a volume populated by a ConfigMap)",
        fields: &[("Name:", "name", Text), ("Optional:", "optional", Bool)],
    },
    Source {
        field: "nfs",
        words: "NFS (an NFS mount that lasts the lifetime of a pod)",
        fields: &[("Server:", "server", Text), ("Path:", "path", Text), ("ReadOnly:", "readOnly", Bool)],
    },
    Source {
        field: "iscsi",
        words: ISCSI,
        fields: &[
            ("TargetPortal:", "targetPortal", Text),
            ("IQN:", "iqn", Text),
            ("Lun:", "lun", Int),
            ("ISCSIInterface", "iscsiInterface", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Bool),
            ("Portals:", "portals", List),
            ("DiscoveryCHAPAuth:", "chapAuthDiscovery", Bool),
            ("SessionCHAPAuth:", "chapAuthSession", Bool),
            ("SecretRef:", "secretRef", Secret),
            ("InitiatorName:", "initiatorName", Or("<none>")),
        ],
    },
    Source {
        field: "glusterfs",
        words: "Glusterfs (a Glusterfs mount on the host that shares a pod's lifetime)",
        fields: &[("EndpointsName:", "endpoints", Text), ("Path:", "path", Text), ("ReadOnly:", "readOnly", Bool)],
    },
    Source {
        field: "persistentVolumeClaim",
        words: "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        fields: &[("ClaimName:", "claimName", Text), ("ReadOnly:", "readOnly", Bool)],
    },
    Source {
        field: "rbd",
        words: "RBD (a Rados Block Device mount on the host that shares a pod's lifetime)",
        fields: &[
            ("CephMonitors:", "monitors", List),
            ("RBDImage:", "image", Text),
            ("FSType:", "fsType", Text),
            ("RBDPool:", "pool", Text),
            ("RadosUser:", "user", Text),
            ("Keyring:", "keyring", Text),
            ("SecretRef:", "secretRef", Secret),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "quobyte",
        words: "Quobyte (a Quobyte mount on the host that shares a pod's lifetime)",
        fields: &[("Registry:", "registry", Text), ("Volume:", "volume", Text), ("ReadOnly:", "readOnly", Bool)],
    },
    Source {
        field: "azureDisk",
        words: "AzureDisk (an Azure Data Disk mount on the host and bind mount to the pod)",
        fields: &[
            ("DiskName:", "diskName", Text),
            ("DiskURI:", "diskURI", Text),
            ("Kind: ", "kind", Text),
            ("FSType:", "fsType", Text),
            ("CachingMode:", "cachingMode", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "vsphereVolume",
        words: "vSphereVolume (a Persistent Disk resource in vSphere)",
        fields: &[
            ("VolumePath:", "volumePath", Text),
            ("FSType:", "fsType", Text),
            ("StoragePolicyName:", "storagePolicyName", Text),
        ],
    },
    Source {
        field: "cinder",
        words: "Cinder (a Persistent Disk resource in OpenStack)",
        fields: &[
            ("VolumeID:", "volumeID", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Bool),
            ("SecretRef:", "secretRef", Secret),
        ],
    },
    Source {
        field: "photonPersistentDisk",
        words: "PhotonPersistentDisk (a Persistent Disk resource in photon platform)",
        fields: &[("PdID:", "pdID", Text), ("FSType:", "fsType", Text)],
    },
    Source {
        field: "portworxVolume",
        words: "PortworxVolume (a Portworx Volume resource)",
        fields: &[("VolumeID:", "volumeID", Text)],
    },
    Source {
        field: "scaleIO",
        words: "ScaleIO (a persistent volume backed by a block device in ScaleIO)",
        fields: &[
            ("Gateway:", "gateway", Text),
            ("System:", "system", Text),
            ("Protection Domain:", "protectionDomain", Text),
            ("Storage Pool:", "storagePool", Text),
            ("Storage Mode:", "storageMode", Text),
            ("VolumeName:", "volumeName", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "local",
        words: "LocalVolume (a persistent volume backed by local storage on a node)",
        fields: &[("Path:", "path", Text)],
    },
    Source {
        field: "cephfs",
        words: "CephFS (a CephFS mount on the host that shares a pod's lifetime)",
        fields: &[
            ("Monitors:", "monitors", List),
            ("Path:", "path", Text),
            ("User:", "user", Text),
            ("SecretFile:", "secretFile", Text),
            ("SecretRef:", "secretRef", Secret),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "storageos",
        words: "StorageOS (a StorageOS Persistent Disk resource)",
        fields: &[
            ("VolumeName:", "volumeName", Text),
            ("VolumeNamespace:", "volumeNamespace", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "fc",
        words: "FC (a Fibre Channel disk)",
        fields: &[
            ("TargetWWNs:", "targetWWNs", Joined),
            ("LUN:", "lun", Or("<none>")),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "azureFile",
        words: "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        fields: &[
            ("SecretName:", "secretName", Text),
            ("ShareName:", "shareName", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "flexVolume",
        words: "FlexVolume (a generic volume resource that is provisioned/attached using an exec based plugin)",
        fields: &[
            ("Driver:", "driver", Text),
            ("FSType:", "fsType", Text),
            ("SecretRef:", "secretRef", Secret),
            ("ReadOnly:", "readOnly", Bool),
            ("Options:", "options", Map),
        ],
    },
    Source {
        field: "flocker",
        words: "Flocker (a Flocker volume mounted by the Flocker agent)",
        fields: &[("DatasetName:", "datasetName", Text), ("DatasetUUID:", "datasetUUID", Text)],
    },
    Source {
        field: "image",
        words: "Image (a container image or OCI artifact)",
        fields: &[("Reference:", "reference", Text), ("PullPolicy:", "pullPolicy", Text)],
    },
];

/// Where a PersistentVolume says more than a pod's volume does.
const PERSISTENT: &[Source] = &[
    Source {
        field: "glusterfs",
        words: "Glusterfs (a Glusterfs mount on the host that shares a pod's lifetime)",
        fields: &[
            ("EndpointsName:", "endpoints", Text),
            ("EndpointsNamespace:", "endpointsNamespace", Or("<unset>")),
            ("Path:", "path", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "scaleIO",
        words: "ScaleIO (a persistent volume backed by a block device in ScaleIO)",
        fields: &[
            ("Gateway:", "gateway", Text),
            ("System:", "system", Text),
            ("Protection Domain:", "protectionDomain", Text),
            ("Storage Pool:", "storagePool", Text),
            ("Storage Mode:", "storageMode", Text),
            ("VolumeName:", "volumeName", Text),
            ("SecretName:", "/secretRef/name", Text),
            ("SecretNamespace:", "/secretRef/namespace", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "azureFile",
        words: "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        fields: &[
            ("SecretName:", "secretName", Text),
            ("SecretNamespace:", "secretNamespace", Text),
            ("ShareName:", "shareName", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
    Source {
        field: "csi",
        words: "CSI (a Container Storage Interface (CSI) volume source)",
        fields: &[
            ("Driver:", "driver", Text),
            ("FSType:", "fsType", Text),
            ("VolumeHandle:", "volumeHandle", Text),
            ("ReadOnly:", "readOnly", Bool),
        ],
    },
];

/// The volumes of a pod, or of a pod's template where `space` is not empty.
pub fn volumes(w: &mut Writer, volumes: &Value, space: &str) {
    let volumes = items(volumes);
    if volumes.is_empty() {
        w.line(0, format!("{space}Volumes:\t<none>"));
        return;
    }
    w.line(0, format!("{space}Volumes:"));
    let indent = if space.is_empty() { "" } else { " " };
    for volume in volumes {
        w.line(1, format!("{indent}{}:", text(&volume["name"])));
        of_pod(w, volume);
    }
}

fn of_pod(w: &mut Writer, volume: &Value) {
    let set = |field: &str| volume.get(field).filter(|source| !source.is_null());
    if let Some(source) = SOURCES.iter().find(|source| source.field != "local" && set(source.field).is_some()) {
        table(w, source, &volume[source.field], false);
        return;
    }
    if let Some(directory) = set("emptyDir") {
        let limit = &directory["sizeLimit"];
        let limit = match quantity(limit) {
            found if found.is_zero() || found.is_negative() => "<unset>".to_owned(),
            _ => quantity_text(limit),
        };
        w.line(
            2,
            format!(
                "Type:\tEmptyDir (a temporary directory that shares a pod's lifetime)\n    Medium:\t{}\n    SizeLimit:\t{limit}",
                text(&directory["medium"])
            ),
        );
    } else if let Some(ephemeral) = set("ephemeral") {
        w.line(
            2,
            "Type:\tEphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)",
        );
        let template = &ephemeral["volumeClaimTemplate"];
        if template.is_object() {
            w.nested(2, |w| storage::claim(w, template, None));
        }
    } else if let Some(downward) = set("downwardAPI") {
        w.line(2, "Type:\tDownwardAPI (a volume populated by information about the pod)\n    Items:");
        for item in items(&downward["items"]) {
            let path = text(&item["path"]);
            for (reference, field) in [("fieldRef", "fieldPath"), ("resourceFieldRef", "resource")] {
                if item[reference].is_object() {
                    w.line(3, format!("{} -> {path}", text(&item[reference][field])));
                }
            }
        }
    } else if let Some(projected) = set("projected") {
        projection(w, projected);
    } else if let Some(csi) = set("csi") {
        w.line(
            2,
            format!(
                "Type:\tCSI (a Container Storage Interface (CSI) volume source)\n    Driver:\t{}\n    FSType:\t{}\n    ReadOnly:\t{}",
                text(&csi["driver"]),
                text(&csi["fsType"]),
                is(&csi["readOnly"])
            ),
        );
        attributes(w, &csi["volumeAttributes"]);
    } else {
        w.line(1, "<unknown>");
    }
}

fn projection(w: &mut Writer, projected: &Value) {
    w.line(2, "Type:\tProjected (a volume that contains injected data from multiple sources)");
    for source in items(&projected["sources"]) {
        let named = |w: &mut Writer, title: &str, from: &Value| {
            w.line(2, format!("{title}:\t{}\n    Optional:\t{}", text(&from["name"]), is(&from["optional"])));
        };
        if source["secret"].is_object() {
            named(w, "SecretName", &source["secret"]);
        } else if source["downwardAPI"].is_object() {
            w.line(2, "DownwardAPI:\ttrue");
        } else if source["configMap"].is_object() {
            named(w, "ConfigMapName", &source["configMap"]);
        } else if source["serviceAccountToken"].is_object() {
            let seconds = int(&source["serviceAccountToken"]["expirationSeconds"]);
            w.field(2, "TokenExpirationSeconds", seconds.to_string());
        }
    }
}

/// The source of a PersistentVolume.
pub fn of_persistent_volume(w: &mut Writer, spec: &Value) {
    let set = |source: &&Source| spec.get(source.field).is_some_and(|found| !found.is_null());
    match PERSISTENT.iter().find(set).or_else(|| SOURCES.iter().find(set)) {
        Some(source) => {
            table(w, source, &spec[source.field], true);
            if source.field == "csi" {
                attributes(w, &spec["csi"]["volumeAttributes"]);
            }
        }
        None => w.line(1, "<unknown>"),
    }
}

fn table(w: &mut Writer, source: &Source, value: &Value, persistent: bool) {
    let mut lines = format!("Type:\t{}", source.words);
    for (title, field, shown) in source.fields {
        let value = if field.starts_with('/') { value.pointer(field).unwrap_or(&Value::Null) } else { &value[*field] };
        let shown = match shown {
            Text => text(value),
            Or(none) => match value {
                Value::Null => (*none).to_owned(),
                value => text(value),
            },
            Int => int(value).to_string(),
            Bool => is(value).to_string(),
            List => go::list(&texts(value)),
            Joined => texts(value).join(", "),
            Secret if value.is_null() => "nil".to_owned(),
            Secret if !persistent => format!("&LocalObjectReference{{Name:{},}}", text(&value["name"])),
            Secret => {
                format!("&SecretReference{{Name:{},Namespace:{},}}", text(&value["name"]), text(&value["namespace"]))
            }
            Map => go::map(pairs(value)),
        };
        lines.push_str(&format!("\n    {title}\t{shown}"));
    }
    w.line(2, lines);
}

/// What a CSI driver was told.
fn attributes(w: &mut Writer, attributes: &Value) {
    w.put(2, "VolumeAttributes:\t");
    let pairs = pairs(attributes);
    if pairs.is_empty() {
        w.end("<none>");
        return;
    }
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        if index > 0 {
            w.put(2, "");
            w.put(2, "\t");
        }
        w.line(2, shortened(&format!("{name}={value}"), LONGEST));
    }
}

/// The name of a StorageClass: an old annotation comes before the field.
pub fn class(object: &Value) -> String {
    match object["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class") {
        Some(class) => text(class),
        None => text_or(&object["spec"]["storageClassName"], ""),
    }
}
