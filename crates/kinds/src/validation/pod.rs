//! Pods and pod templates.
//!
//! Source: `ValidatePodSpec` and what it calls in `pkg/apis/core/validation/validation.go` of Kubernetes 1.36.

mod affinity;
mod annotations;
mod container;
pub(super) mod environment;
mod handler;
mod mounts;
pub(super) mod part;
mod placement;
mod resolver;
mod security;
pub(super) mod status;
pub(super) mod update;
pub(crate) mod whole;
mod windows;

use std::collections::BTreeSet;

use serde_json::Value;

use super::volume::{self, Volumes};
use super::{Errors, follows, invalid, metadata, one_of, required_one_of, resources};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, flag, list, text};

pub(super) use affinity::node_selector;
pub(super) use handler::port as port_number_or_name;
pub(super) use placement::taint_effect;

/// What the parts of a pod's spec have to know about the whole.
struct Context<'a> {
    volumes: Volumes<'a>,
    /// The names of `spec.resourceClaims`.
    claims: BTreeSet<&'a str>,
    restart_policy: &'a str,
    /// Whether the pod shares the users of its host.
    host_users: bool,
    grace_period: Option<i64>,
}

/// A pod that is to be created.
pub(super) fn create(pod: &Value, errors: &mut Errors) {
    metadata_and_spec(pod, errors);
    let path = Path::new("spec");
    let spec = &pod["spec"];
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(path.child("nodeName"), detail));
    }
    annotations::match_fields(&pod["metadata"], spec, &path, errors);
}

/// What holds for a pod at any time.
pub(super) fn metadata_and_spec(pod: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let spec = &pod["spec"];
    annotations::annotations(&pod["metadata"], spec, &path.child("annotations"), errors);
    let path = Path::new("spec");
    self::spec(spec, &pod["metadata"], &path, errors);
    if text(spec, "serviceAccountName").is_empty() {
        tokens_need_an_account(spec, &path, errors);
    }
    for field in ["containers", "initContainers"] {
        let containers = path.child(field);
        for (index, container) in list(spec, field).iter().enumerate() {
            container::trimmed_image(container, &containers.index(index), errors);
        }
    }
    let volumes = path.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        if !volume["image"].is_null() && text(&volume["image"], "reference").is_empty() {
            errors.push(FieldError::required(volumes.index(index).child("image").child("reference"), ""));
        }
    }
}

fn tokens_need_an_account(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let volumes = path.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let place = volumes.index(index);
        let place = place.child("projected");
        let place = place.child("sources");
        for (index, source) in list(&volume["projected"], "sources").iter().enumerate() {
            if !source["serviceAccountToken"].is_null() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(place.index(index).child("serviceAccountToken"), detail));
            }
        }
    }
}

/// A pod's template; `path` leads to it.
pub(super) fn template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    // Upstream leaves `metadata` out of these paths.
    metadata::labels(metadata, "labels", path, errors);
    metadata::annotations(metadata, path, errors);
    annotations::annotations(metadata, spec, &path.child("annotations"), errors);
    let place = path.child("spec");
    self::spec(spec, &Value::Null, &place, errors);
    annotations::match_fields(metadata, spec, &place, errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(place.child("ephemeralContainers"), detail));
    }
}

/// A template of which the set checks only the labels and annotations: upstream leaves its spec to the pods.
pub(super) fn loose_template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let metadata = &template["metadata"];
    metadata::labels(metadata, "labels", path, errors);
    metadata::annotations(metadata, path, errors);
    annotations::annotations(metadata, &template["spec"], &path.child("annotations"), errors);
}

/// A template of something that keeps pods running: they restart always, and have no deadline.
pub(super) fn always_restarts(template: &Value, of: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("spec");
    let spec = &template["spec"];
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported(path.child("restartPolicy"), policy, &["Always"]));
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {of} is not Supported");
        errors.push(FieldError::forbidden(path.child("activeDeadlineSeconds"), detail));
    }
}

/// The spec of a pod, whose metadata are null in a template.
fn spec(spec: &Value, pod: &Value, path: &Path<'_>, errors: &mut Errors) {
    if spec["terminationGracePeriodSeconds"].is_null() {
        errors.push(FieldError::required(path.child("terminationGracePeriodSeconds"), ""));
    }
    let claims = list(spec, "resourceClaims").iter().map(|claim| text(claim, "name"));
    let context = Context {
        volumes: volume::volumes(spec, pod, path, errors),
        claims: claims.filter(|name| !name.is_empty()).collect(),
        restart_policy: text(spec, "restartPolicy"),
        host_users: spec["hostUsers"] != false,
        grace_period: spec["terminationGracePeriodSeconds"].as_i64(),
    };
    placement::resource_claims(spec, path, errors);
    container::containers(spec, &context, path, errors);
    container::init_containers(spec, &context, path, errors);
    container::ephemeral_containers(spec, &context, path, errors);
    if !spec["resources"].is_null() {
        whole::resources(spec, &context.claims, &path.child("resources"), errors);
    }
    host_network(spec, !pod.is_null(), path, errors);
    required_one_of(errors, &path.child("restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    required_one_of(
        errors,
        &path.child("dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    metadata::labels(spec, "nodeSelector", path, errors);
    security::pod(spec, path, errors);
    affinity::affinity(&spec["affinity"], &path.child("affinity"), errors);
    resolver::resolver(spec, &path.child("dnsConfig"), errors);
    placement::gates(spec, path, errors);
    placement::spread(spec, path, errors);
    windows::host_process(spec, path, errors);
    host_users(spec, path, errors);
    names(spec, path, errors);
    placement::tolerations(spec, path, errors);
    placement::host_aliases(spec, path, errors);
    one_of(errors, &path.child("preemptionPolicy"), &spec["preemptionPolicy"], &["PreemptLowerPriority", "Never"]);
    let overhead = path.child("overhead");
    for (resource, value) in crate::path::entries(spec, "overhead") {
        let path = overhead.key(resource);
        resources::container_resource_name(resource, &path, errors);
        resources::amount(resource, value, &path, errors);
    }
    windows::system(spec, path, errors);
}

fn names(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    follows(errors, path, spec, "serviceAccountName", name::dns1123_subdomain);
    follows(errors, path, spec, "nodeName", name::dns1123_subdomain);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = name::inclusive_range(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(path.child("activeDeadlineSeconds"), seconds, detail));
    }
    follows(errors, path, spec, "hostname", name::dns1123_label);
    follows(errors, path, spec, "subdomain", name::dns1123_label);
    follows(errors, path, spec, "priorityClassName", name::dns1123_subdomain);
    if !spec["runtimeClassName"].is_null() {
        let path = path.child("runtimeClassName");
        invalid(errors, &path, &spec["runtimeClassName"], name::dns1123_subdomain(text(spec, "runtimeClassName")));
    }
    if !spec["hostnameOverride"].is_null() {
        let place = path.child("hostnameOverride");
        let given = text(spec, "hostnameOverride");
        invalid(errors, &place, &spec["hostnameOverride"], name::dns1123_subdomain(given));
        if given.len() > 64 {
            errors.push(FieldError::too_long(place, 64));
        }
        if flag(spec, "setHostnameAsFQDN") {
            let detail = "may not be set to true when `hostnameOverride` is set";
            errors.push(FieldError::forbidden(path.child("setHostnameAsFQDN"), detail));
        }
        if flag(spec, "hostNetwork") {
            let detail = "may not be set to true when `hostnameOverride` is set";
            errors.push(FieldError::forbidden(path.child("hostNetwork"), detail));
        }
    }
}

/// On the network of the host, a container's port is the host's.
fn host_network(spec: &Value, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    let containers = path.child("containers");
    for (index, container) in list(spec, "containers").iter().enumerate() {
        let ports = containers.index(index);
        let ports = ports.child("ports");
        for (index, port) in list(container, "ports").iter().enumerate() {
            let host = port["hostPort"].as_i64().unwrap_or(0);
            if (is_pod || host != 0) && host != port["containerPort"].as_i64().unwrap_or(0) {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(ports.index(index).child("hostPort"), host, detail));
            }
        }
    }
}

/// A pod with users of its own shares no other namespace with its host.
fn host_users(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if spec["hostUsers"] != false {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) {
            errors.push(FieldError::forbidden(path.child(shown), "when `hostUsers` is false"));
        }
    }
    for field in ["containers", "initContainers"] {
        let containers = path.child(field);
        for (index, container) in list(spec, field).iter().enumerate() {
            if !list(container, "volumeDevices").is_empty() {
                let detail = "when `hostUsers` is false";
                errors.push(FieldError::forbidden(containers.index(index).child("volumeDevices"), detail));
            }
        }
    }
}

/// Runs `visit` on every container with its path: init containers, containers, ephemeral ones.
fn each_container<'a>(spec: &'a Value, path: &Path<'_>, mut visit: impl FnMut(&'a Value, &Path<'_>)) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = path.child(field);
        for (index, container) in list(spec, field).iter().enumerate() {
            visit(container, &containers.index(index));
        }
    }
}
