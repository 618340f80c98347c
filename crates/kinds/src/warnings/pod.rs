//! Pods and their templates.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Warnings, fractional, node_term, paths, replaced_label, storage};
use crate::path::{Path, entries, list, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Metadata and spec of a pod or template; `path` leads to it.
pub(super) fn pod(pod: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let place = path.child("spec");
    placement(spec, &place, warnings);
    let annotations = path.child("metadata");
    let annotations = annotations.child("annotations");
    for (key, message) in ANNOTATIONS {
        if !metadata["annotations"][key].is_null() {
            warnings.push(format!("{}: {message}", annotations.key(key)));
        }
    }
    volumes(spec, &place, warnings);
    paths::overlapping(list(spec, "volumes"), warnings);
    repeated(spec, "hostAliases", "ip", &place, warnings);
    repeated(spec, "imagePullSecrets", "name", &place, warnings);
    let secrets = place.child("imagePullSecrets");
    for (index, _) in list(spec, "imagePullSecrets").iter().enumerate().filter(|(_, one)| text(one, "name").is_empty())
    {
        warnings.push(format!("{}: invalid empty name \"\"", secrets.index(index).child("name")));
    }
    let overhead = place.child("overhead");
    for resource in ["memory", "ephemeral-storage"] {
        fractional(&spec["overhead"][resource], &overhead.key(resource), warnings);
    }
    if spec["securityContext"]["seccompProfile"].is_null() && !metadata["annotations"][SECCOMP_POD].is_null() {
        warnings.push(format!(
            "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            annotations.key(SECCOMP_POD)
        ));
    }
    let mut ports = Ports::new();
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = place.child(field);
        for (index, one) in list(spec, field).iter().enumerate() {
            let place = containers.index(index);
            profiles(one, pod, &annotations, warnings);
            container(one, &place, warnings);
            repeated_ports(one, &mut ports, &place, warnings);
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let place = place.child("terminationGracePeriodSeconds");
        warnings.push(format!("{place}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    pod_affinity(spec, &place, warnings);
}

fn placement(spec: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let selector = path.child("nodeSelector");
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(message) = replaced_label(key) {
            warnings.push(format!("{}: {message}", selector.key(key)));
        }
    }
    let nodes = &spec["affinity"]["nodeAffinity"];
    let place = path.child("affinity");
    let place = place.child("nodeAffinity");
    let required = place.child(REQUIRED);
    let terms = required.child("nodeSelectorTerms");
    for (index, term) in list(&nodes[REQUIRED], "nodeSelectorTerms").iter().enumerate() {
        node_term(term, false, &terms.index(index), warnings);
    }
    let preferred = place.child(PREFERRED);
    for (index, term) in list(nodes, PREFERRED).iter().enumerate() {
        node_term(&term["preference"], true, &preferred.index(index).child("preference"), warnings);
    }
    let spread = path.child("topologySpreadConstraints");
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = spread.index(index);
        let key = text(constraint, "topologyKey");
        if let Some(message) = replaced_label(key) {
            warnings.push(format!("{}: {key} is {message}", path.child("topologyKey")));
        }
        no_selector(constraint, &path, warnings);
    }
}

fn no_selector(holder: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    if holder["labelSelector"].is_null() {
        let place = path.child("labelSelector");
        warnings.push(format!("{place}: a null labelSelector results in matching no pod"));
    }
}

fn pod_affinity(spec: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let path = path.child(kind);
        let affinity = &spec["affinity"][kind];
        let required = path.child(REQUIRED);
        for (index, term) in list(affinity, REQUIRED).iter().enumerate() {
            no_selector(term, &required.index(index), warnings);
        }
        let preferred = path.child(PREFERRED);
        for (index, term) in list(affinity, PREFERRED).iter().enumerate() {
            no_selector(&term["podAffinityTerm"], &preferred.index(index).child("podAffinityTerm"), warnings);
        }
    }
}

fn volumes(spec: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.index(index);
        for (field, message) in VOLUMES.iter().filter(|(field, _)| !volume[*field].is_null()) {
            let shown = if *field == "storageos" { "storageOS" } else { field };
            warnings.push(format!("{}: {message}", path.child(shown)));
        }
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        if !template.is_null() {
            let place = path.child("ephemeral");
            let place = place.child("volumeClaimTemplate");
            storage::claim_spec(&template["spec"], &place.child("spec"), warnings);
        }
    }
}

/// Values that should each be there once.
fn repeated(spec: &Value, field: &str, key: &str, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child(field);
    let mut seen = BTreeSet::new();
    for (index, item) in list(spec, field).iter().enumerate() {
        let value = text(item, key);
        if !seen.insert(value) {
            warnings.push(format!("{}: duplicate {key} {value:?}", path.index(index).child(key)));
        }
    }
}

fn profiles(container: &Value, pod: &Value, annotations: &Path<'_>, warnings: &mut Warnings) {
    let given = &pod["metadata"]["annotations"];
    if given.is_null() {
        return;
    }
    let named = text(container, "name");
    let key = format!("{SECCOMP_CONTAINER}{named}");
    if container["securityContext"]["seccompProfile"].is_null() && !given[&key].is_null() {
        warnings.push(format!(
            "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            annotations.key(&key)
        ));
    }
    let key = format!("{APP_ARMOR}{named}");
    let by_field = [container, &pod["spec"]].iter().any(|one| !one["securityContext"]["appArmorProfile"].is_null());
    if !by_field && !given[&key].is_null() {
        warnings.push(format!(
            "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            annotations.key(&key)
        ));
    }
}

fn container(container: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let place = path.child("resources");
    for resource in ["memory", "ephemeral-storage"] {
        for field in ["limits", "requests"] {
            fractional(&container["resources"][field][resource], &place.child(field).key(resource), warnings);
        }
    }
    let variables = path.child("env");
    let mut seen = BTreeSet::new();
    for (index, variable) in list(container, "env").iter().enumerate() {
        let named = text(variable, "name");
        if seen.insert(named) {
            continue;
        }
        // To add to what was there before is the one good reason to name a variable again.
        let value = text(variable, "value");
        let before = format!("$({named})");
        if !variable["valueFrom"].is_null() || value == before || !value.contains(&before) {
            warnings.push(format!(
                "{}: hides previous definition of {named:?}, which may be dropped when using apply",
                variables.index(index)
            ));
        }
    }
}

/// Ports by number and protocol, with the places where they were found.
type Ports<'a> = BTreeMap<(i64, &'a str), Vec<(String, &'a Value)>>;

fn repeated_ports<'a>(container: &'a Value, seen: &mut Ports<'a>, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child("ports");
    let host = |port: &'_ Value| port["hostPort"].as_i64().unwrap_or(0);
    for (index, port) in list(container, "ports").iter().enumerate() {
        let place = path.index(index);
        let (number, protocol) = (port["containerPort"].as_i64().unwrap_or(0), text(port, "protocol"));
        let address = text(port, "hostIP");
        if !address.is_empty() && host(port) == 0 {
            warnings.push(format!(
                "{place}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{number} \
                 Protocol:{protocol} HostIP:{address}}}",
                text(port, "name")
            ));
        }
        let others = seen.entry((number, protocol)).or_default();
        for (other_place, other) in others.iter() {
            let other_address = text(other, "hostIP");
            let same_host = host(port) == host(other);
            let what = if same_host && address == other_address {
                "duplicate"
            } else if host(port) == 0 || host(other) == 0 {
                "overlapping"
            } else if same_host && address.is_empty() != other_address.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            warnings.push(format!("{place}: {what} port definition with {other_place}"));
        }
        others.push((place.to_string(), port));
    }
}
