//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, invalid, not_negative, one_of, volume};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};
use crate::quantity::Quantity;

pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let volumes = volume::volumes(spec, path, errors);
    let mut names = BTreeSet::new();
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(path.child("containers"), ""));
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        let containers = path.child(field);
        for (index, one) in list(spec, field).iter().enumerate() {
            let path = containers.index(index);
            container(one, &path, &volumes, errors);
            if !text(one, "name").is_empty() && !names.insert(text(one, "name")) {
                errors.push(FieldError::duplicate(path.child("name"), text(one, "name")));
            }
        }
    }
    one_of(errors, &path.child("restartPolicy"), &spec["restartPolicy"], &["Always", "Never", "OnFailure"]);
    one_of(
        errors,
        &path.child("dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    if text(spec, "dnsPolicy") == "None" && list(&spec["dnsConfig"], "nameservers").is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(path.child("dnsConfig").child("nameservers"), detail));
    }
    not_negative(errors, &path.child("terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"]);
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds < 1) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(
            path.child("activeDeadlineSeconds"),
            spec["activeDeadlineSeconds"].clone(),
            detail,
        ));
    }
    super::metadata::labels(spec, "nodeSelector", path, errors);
    for field in ["hostname", "subdomain"] {
        if !text(spec, field).is_empty() {
            invalid(errors, &path.child(field), &spec[field], name::dns1123_label(text(spec, field)));
        }
    }
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        if !text(spec, field).is_empty() {
            invalid(errors, &path.child(field), &spec[field], name::dns1123_subdomain(text(spec, field)));
        }
    }
    let tolerations = path.child("tolerations");
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = tolerations.index(index);
        one_of(errors, &path.child("operator"), &toleration["operator"], &["Equal", "Exists", "Gt", "Lt"]);
        one_of(
            errors,
            &path.child("effect"),
            &toleration["effect"],
            &["", "NoExecute", "NoSchedule", "PreferNoSchedule"],
        );
        if text(toleration, "operator") == "Exists" && !text(toleration, "value").is_empty() {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(path.child("operator"), toleration.clone(), detail));
        }
    }
    let aliases = path.child("hostAliases");
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        invalid(errors, &aliases.index(index).child("ip"), &alias["ip"], name::ip(text(alias, "ip")));
    }
}

fn container(container: &Value, path: &Path<'_>, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let name_of = text(container, "name");
    if name_of.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    } else {
        invalid(errors, &path.child("name"), &container["name"], name::dns1123_label(name_of));
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    one_of(errors, &path.child("imagePullPolicy"), &container["imagePullPolicy"], &["Always", "IfNotPresent", "Never"]);
    one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        &container["terminationMessagePolicy"],
        &["FallbackToLogsOnError", "File"],
    );
    ports(container, path, errors);
    environment(container, path, errors);
    resources(&container["resources"], &path.child("resources"), errors);
    let mounts = path.child("volumeMounts");
    let mut places = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = mounts.index(index);
        let volume = text(mount, "name");
        if volume.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else if !volumes.contains(volume) {
            errors.push(FieldError::not_found(path.child("name"), volume));
        }
        let place = text(mount, "mountPath");
        if place.is_empty() {
            errors.push(FieldError::required(path.child("mountPath"), ""));
        } else if !places.insert(place) {
            errors.push(FieldError::invalid(path.child("mountPath"), place, "must be unique"));
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            errors.push(FieldError::invalid(
                path.child("subPathExpr"),
                mount["subPathExpr"].clone(),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        if text(mount, "subPath").split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(path.child("subPath"), mount["subPath"].clone(), "must not contain '..'"));
        }
        one_of(
            errors,
            &path.child("mountPropagation"),
            &mount["mountPropagation"],
            &["Bidirectional", "HostToContainer", "None"],
        );
    }
    for probe_name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[probe_name].is_null() {
            probe(&container[probe_name], probe_name, &path.child(probe_name), errors);
        }
    }
    let security = &container["securityContext"];
    if security["privileged"] == true && security["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(path.child("securityContext"), security.clone(), detail));
    }
}

fn ports(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ports");
    let mut names = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(index);
        let name_of = text(port, "name");
        if !name_of.is_empty() {
            invalid(errors, &path.child("name"), &port["name"], name::port_name(name_of));
            if !names.insert(name_of) {
                errors.push(FieldError::duplicate(path.child("name"), name_of));
            }
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.push(FieldError::required(path.child("containerPort"), "")),
            Some(number) => {
                invalid(errors, &path.child("containerPort"), &port["containerPort"], name::port_number(number))
            }
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
            invalid(errors, &path.child("hostPort"), &port["hostPort"], name::port_number(number));
        }
        one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

fn environment(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = path.index(index);
        let name_of = text(variable, "name");
        if name_of.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid(errors, &path.child("name"), &variable["name"], name::env_var_name(name_of));
        }
        let from = &variable["valueFrom"];
        if !from.is_null() {
            let path = path.child("valueFrom");
            if !text(variable, "value").is_empty() {
                errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
            }
            match from.as_object().map_or(0, serde_json::Map::len) {
                0 => errors.push(FieldError::invalid(
                    path,
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                )),
                1 => {}
                _ => errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time")),
            }
            for source in ["configMapKeyRef", "secretKeyRef"] {
                if !from[source].is_null() && text(&from[source], "key").is_empty() {
                    errors.push(FieldError::required(path.child(source).child("key"), ""));
                }
            }
        }
    }
}

fn resources(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    let quantity = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    for field in ["limits", "requests"] {
        let path = path.child(field);
        for (resource, value) in entries(resources, field) {
            if quantity(value).is_some_and(Quantity::is_negative) {
                errors.push(FieldError::invalid(
                    path.key(resource),
                    value.clone(),
                    "must be greater than or equal to 0",
                ));
            }
        }
    }
    for (resource, request) in entries(resources, "requests") {
        let limit = &resources["limits"][resource];
        if let (Some(asked), Some(most)) = (quantity(request), quantity(limit))
            && asked > most
        {
            let detail =
                format!("must be less than or equal to {resource} limit of {}", limit.as_str().unwrap_or_default());
            errors.push(FieldError::invalid(path.child("requests"), request.clone(), detail));
        }
    }
}

fn probe(probe: &Value, name_of: &str, path: &Path<'_>, errors: &mut Errors) {
    let handlers =
        ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|handler| !probe[**handler].is_null()).count();
    match handlers {
        0 => errors.push(FieldError::required(path, "must specify a handler type")),
        1 => {}
        _ => errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type")),
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(errors, &path.child(field), &probe[field]);
    }
    if name_of != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|count| count != 1) {
        errors.push(FieldError::invalid(
            path.child("successThreshold"),
            probe["successThreshold"].clone(),
            "must be 1",
        ));
    }
}

/// A template's spec, with the restart policies that its kind allows.
pub(super) fn template(template: &Value, path: &Path<'_>, policies: &[&str], errors: &mut Errors) {
    super::metadata::labels(&template["metadata"], "labels", &path.child("metadata"), errors);
    let path = path.child("spec");
    spec(&template["spec"], &path, errors);
    one_of(errors, &path.child("restartPolicy"), &template["spec"]["restartPolicy"], policies);
}

/// After creation only a few fields of a pod's spec change.
pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let strip = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["containers", "initContainers"] {
            for container in spec[field].as_array_mut().into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.remove("image");
                }
            }
        }
        if let Some(spec) = spec.as_object_mut() {
            for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates", "terminationGracePeriodSeconds"] {
                spec.remove(field);
            }
            // Gated pods may narrow where they can go.
            if !list(&old["spec"], "schedulingGates").is_empty() {
                spec.remove("nodeSelector");
                spec.remove("affinity");
            }
        }
        spec
    };
    if strip(object) != strip(old) {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
    let before = list(&old["spec"], "tolerations");
    let now = list(&object["spec"], "tolerations");
    if !before.iter().all(|toleration| now.iter().any(|other| same_toleration(toleration, other))) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

fn same_toleration(one: &Value, other: &Value) -> bool {
    ["key", "operator", "value", "effect"].iter().all(|field| one[*field] == other[*field])
}
