//! Containers of all sorts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::volume::pull_policy;
use super::super::{Errors, invalid, required, required_follows, required_one_of, resources};
use super::{Context, environment, handler, mounts, security};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// The containers proper.
pub(super) fn containers(spec: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("containers");
    let all = list(spec, "containers");
    if all.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for (index, container) in all.iter().enumerate() {
        let path = path.index(index);
        common(container, context, &path, errors);
        unique_name(container, &mut names, &path, errors);
        handler::handlers(container, context, &path, errors);
        restart_rules(container, &path, errors);
        host_ports(container, &mut ports, &path, errors);
    }
}

/// Containers that run before the others, and those that run beside them.
pub(super) fn init_containers(spec: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("initContainers");
    let mut names: BTreeSet<&str> = list(spec, "containers").iter().map(|container| text(container, "name")).collect();
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let path = path.index(index);
        common(container, context, &path, errors);
        restart_rules(container, &path, errors);
        unique_name(container, &mut names, &path, errors);
        // Init containers run one by one: only the ports of one can be in each other's way.
        host_ports(container, &mut BTreeSet::new(), &path, errors);
        if text(container, "restartPolicy") == "Always" {
            handler::handlers(container, context, &path, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !container[field].is_null() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
        }
    }
}

/// What a container for debugging may have.
const EPHEMERAL_FIELDS: [&str; 18] = [
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "name",
    "securityContext",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
    // It is an empty struct unless somebody sets it, which is looked at apart.
    "resources",
];

/// Containers for debugging.
pub(super) fn ephemeral_containers(spec: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let all = list(spec, "ephemeralContainers");
    if all.is_empty() {
        return;
    }
    let path = path.child("ephemeralContainers");
    let others = ["containers", "initContainers"].into_iter().flat_map(|field| list(spec, field));
    let others: BTreeSet<&str> = others.map(|container| text(container, "name")).collect();
    let mut names = others.clone();
    for (index, container) in all.iter().enumerate() {
        let path = path.index(index);
        common(container, context, &path, errors);
        trimmed_image(container, &path, errors);
        unique_name(container, &mut names, &path, errors);
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(path.child("targetContainerName"), target));
        }
        let detail = "cannot be set for an Ephemeral Container";
        for (field, value) in container.as_object().into_iter().flatten() {
            let asks = field == "resources" && value.as_object().is_some_and(|fields| !fields.is_empty());
            if asks || !EPHEMERAL_FIELDS.contains(&field.as_str()) {
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
        }
        let mounts = path.child("volumeMounts");
        for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    errors.push(FieldError::forbidden(mounts.index(index).child(field), detail));
                }
            }
        }
    }
}

/// What all containers have in common.
fn common(container: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    required_follows(errors, path, container, "name", name::dns1123_label);
    required(errors, path, container, "image");
    required_one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        &container["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    ports(container, path, errors);
    environment::variables(container, context, path, errors);
    environment::sources(container, path, errors);
    mounts::mounts(container, context, path, errors);
    mounts::devices(container, context, path, errors);
    pull_policy(&container["imagePullPolicy"], &path.child("imagePullPolicy"), errors);
    resources::requirements(
        &container["resources"],
        resources::container_resource_name,
        &context.claims,
        &path.child("resources"),
        errors,
    );
    resize_policy(container, context, &path.child("resizePolicy"), errors);
    let security = path.child("securityContext");
    security::container(&container["securityContext"], context.host_users, &security, errors);
}

/// An image's name with spaces around it is taken in templates, where something may replace it, but not in pods.
pub(super) fn trimmed_image(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let image = text(container, "image");
    if image.trim() != image {
        errors.push(FieldError::invalid(path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

fn unique_name<'a>(container: &'a Value, names: &mut BTreeSet<&'a str>, path: &Path<'_>, errors: &mut Errors) {
    let name_of = text(container, "name");
    if !names.insert(name_of) && !name_of.is_empty() {
        errors.push(FieldError::duplicate(path.child("name"), name_of));
    }
}

fn ports(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ports");
    let mut names = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(index);
        let name_of = text(port, "name");
        if !name_of.is_empty() {
            let wrong = name::port_name(name_of);
            if !wrong.is_empty() {
                invalid(errors, &path.child("name"), &port["name"], wrong);
            } else if !names.insert(name_of) {
                errors.push(FieldError::duplicate(path.child("name"), name_of));
            }
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(FieldError::required(path.child("containerPort"), "")),
            number => {
                let wrong = name::port_number(number);
                invalid(errors, &path.child("containerPort"), &port["containerPort"], wrong);
            }
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
            invalid(errors, &path.child("hostPort"), &port["hostPort"], name::port_number(number));
        }
        required_one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

/// The same port of the host must not be asked for twice.
fn host_ports<'a>(
    container: &'a Value,
    seen: &mut BTreeSet<(&'a str, &'a str, i64)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("ports");
    for (index, port) in list(container, "ports").iter().enumerate() {
        let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else { continue };
        let (protocol, address) = (text(port, "protocol"), text(port, "hostIP"));
        if !seen.insert((protocol, address, number)) {
            let shown = format!("{protocol}/{address}/{number}");
            errors.push(FieldError::duplicate(path.index(index).child("hostPort"), shown));
        }
    }
}

fn resize_policy(container: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(path.index(index), resource));
        }
        required_one_of(errors, path, &policy["resourceName"], &["cpu", "memory"]);
        required_one_of(errors, path, &policy["restartPolicy"], &["NotRequired", "RestartContainer"]);
        if context.restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
}

/// A container's own restart policy, and the exits that make exceptions from it.
fn restart_rules(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rules = list(container, "restartPolicyRules");
    let policy = &container["restartPolicy"];
    super::one_of(errors, &path.child("restartPolicy"), policy, &RESTART_POLICIES);
    if rules.is_empty() {
        return;
    }
    if policy.is_null() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(path.child("restartPolicy"), detail));
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(path, rules.len(), 20));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let action = text(rule, "action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.push(FieldError::not_supported(path.child("action"), action, &["Restart", "RestartAllContainers"]));
        }
        let codes = &rule["exitCodes"];
        let path = path.child("exitCodes");
        if codes.is_null() {
            errors.push(FieldError::required(path, "must be specified"));
            continue;
        }
        let operator = text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(FieldError::not_supported(path.child("operator"), operator, &["In", "NotIn"]));
        }
        let count = list(codes, "values").len();
        if count > 255 {
            errors.push(FieldError::too_many(path.child("values"), count, 255));
        }
    }
}
