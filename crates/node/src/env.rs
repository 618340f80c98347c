//! A container's environment: `env`, `envFrom`, `$(NAME)` references, the downward API and service variables.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector};

use crate::pod;
use crate::quantity::Amount;
use crate::references::{Content, Lookup};

/// Why an environment can't be made. The texts are upstream's: they become the container's waiting message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap that is not optional does not exist.
    #[error("configmap \"{name}\" not found")]
    ConfigMapMissing {
        /// Its name.
        name: String,
    },
    /// A Secret that is not optional does not exist.
    #[error("secret \"{name}\" not found")]
    SecretMissing {
        /// Its name.
        name: String,
    },
    /// A key that is not optional is missing.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyMissing {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field reference names nothing.
    #[error("unsupported fieldPath: {path}")]
    Field {
        /// The path.
        path: String,
    },
    /// A resource reference names nothing.
    #[error("unsupported container resource: {resource}")]
    Resource {
        /// The resource.
        resource: String,
    },
    /// The object has not been read yet.
    #[error("{0}")]
    NotRead(String),
}

/// What of the world around the pod its environment may mention.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// What limits default to, by resource.
    pub allocatable: BTreeMap<String, Amount>,
    /// Service variables for the pod's namespace.
    pub services: BTreeMap<String, String>,
}

/// Replaces `$(NAME)` by the variable's value; `$$` stands for `$`, and unknown names stay as they are.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match lookup(name) {
                Some(value) => output.push_str(&value),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            rest = after;
        } else {
            output.push('$');
        }
    }
    output.push_str(rest);
    output
}

/// Names and values of variables.
pub type Variables = Vec<(String, String)>;

/// The variables of a container, later ones replace earlier ones of the same name; and the keys of `envFrom` that can't be names.
pub fn environment(
    owner: &Pod,
    container: &Container,
    around: &Surroundings,
    lookup: &dyn Lookup,
) -> Result<(Variables, Vec<String>), EnvError> {
    let namespace = pod::namespace(owner);
    let mut values: Vec<(String, String)> = Vec::new();
    let mut skipped = Vec::new();
    let set = |values: &mut Vec<(String, String)>, name: String, value: String| {
        values.retain(|(known, _)| *known != name);
        values.push((name, value));
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let content = if let Some(reference) = &source.config_map_ref {
            config_map(lookup, namespace, &reference.name, reference.optional.unwrap_or(false))?
        } else if let Some(reference) = &source.secret_ref {
            secret(lookup, namespace, &reference.name, reference.optional.unwrap_or(false))?
        } else {
            None
        };
        for (key, value) in content.iter().flat_map(|content| content.text()) {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                set(&mut values, name, value);
            } else {
                skipped.push(name);
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let raw = variable.value.as_deref().unwrap_or_default();
                Some(expand(raw, |name| {
                    let own = values.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
                    own.or_else(|| around.services.get(name).cloned())
                }))
            }
            Some(source) => referenced(owner, container, source, around, lookup)?,
        };
        if let Some(value) = value {
            set(&mut values, variable.name.clone(), value);
        }
    }
    for (name, value) in &around.services {
        if !values.iter().any(|(known, _)| known == name) {
            values.push((name.clone(), value.clone()));
        }
    }
    Ok((values, skipped))
}

fn referenced(
    owner: &Pod,
    container: &Container,
    source: &EnvVarSource,
    around: &Surroundings,
    lookup: &dyn Lookup,
) -> Result<Option<String>, EnvError> {
    let namespace = pod::namespace(owner);
    if let Some(field) = &source.field_ref {
        return field_value(owner, field, around).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(owner, Some(container), field, around).map(Some);
    }
    let (kind, name, key, optional, content) = if let Some(wanted) = &source.config_map_key_ref {
        let optional = wanted.optional.unwrap_or(false);
        ("ConfigMap", &wanted.name, &wanted.key, optional, config_map(lookup, namespace, &wanted.name, optional)?)
    } else if let Some(wanted) = &source.secret_key_ref {
        let optional = wanted.optional.unwrap_or(false);
        ("Secret", &wanted.name, &wanted.key, optional, secret(lookup, namespace, &wanted.name, optional)?)
    } else {
        return Ok(None);
    };
    match content.and_then(|content| content.text_of(key)) {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None => {
            Err(EnvError::KeyMissing { kind, namespace: namespace.to_owned(), name: name.clone(), key: key.clone() })
        }
    }
}

fn config_map(lookup: &dyn Lookup, namespace: &str, name: &str, optional: bool) -> Result<Option<Content>, EnvError> {
    match lookup.config_map(namespace, name).map_err(EnvError::NotRead)? {
        Some(content) => Ok(Some(content)),
        None if optional => Ok(None),
        None => Err(EnvError::ConfigMapMissing { name: name.to_owned() }),
    }
}

fn secret(lookup: &dyn Lookup, namespace: &str, name: &str, optional: bool) -> Result<Option<Content>, EnvError> {
    match lookup.secret(namespace, name).map_err(EnvError::NotRead)? {
        Some(content) => Ok(Some(content)),
        None if optional => Ok(None),
        None => Err(EnvError::SecretMissing { name: name.to_owned() }),
    }
}

/// Printable ASCII without `=`, as upstream allows since 1.34.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

/// The text of a downward API field, for variables and for files.
pub fn field_value(owner: &Pod, field: &ObjectFieldSelector, around: &Surroundings) -> Result<String, EnvError> {
    let path = field.field_path.as_str();
    let meta = &owner.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(EnvError::Field { path: path.to_owned() }),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod::spec(owner);
    Ok(match path {
        "metadata.name" => pod::name(owner).to_owned(),
        "metadata.namespace" => pod::namespace(owner).to_owned(),
        "metadata.uid" => pod::uid(owner).to_owned(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        _ => return Err(EnvError::Field { path: path.to_owned() }),
    })
}

/// `key="value"` lines, quoted as Go's `%q` does.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    let mut output = String::with_capacity(text.len() + 2);
    output.push('"');
    for c in text.chars() {
        match c {
            '"' => output.push_str("\\\""),
            '\\' => output.push_str("\\\\"),
            '\n' => output.push_str("\\n"),
            '\r' => output.push_str("\\r"),
            '\t' => output.push_str("\\t"),
            c if c.is_control() && c.is_ascii() => output.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => output.push(c),
        }
    }
    output.push('"');
    output
}

/// The text of a container's request or limit in units of the divisor, rounded up.
pub fn resource_value(
    owner: &Pod,
    own: Option<&Container>,
    field: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, EnvError> {
    let spec = pod::spec(owner);
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => {
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
        }
        None => own,
    };
    let unsupported = || EnvError::Resource { resource: field.resource.clone() };
    let resources = container.ok_or_else(unsupported)?.resources.as_ref();
    let (kind, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let limit =
        resources.and_then(|resources| resources.limits.as_ref()).and_then(|map| map.get(resource)).map(Amount::of);
    let request =
        resources.and_then(|resources| resources.requests.as_ref()).and_then(|map| map.get(resource)).map(Amount::of);
    let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
    let amount = match kind {
        "limits" if known => limit
            .filter(|limit| !limit.is_zero())
            .or_else(|| around.allocatable.get(resource).copied())
            .unwrap_or_default(),
        "requests" if known => request.or(limit).unwrap_or_default(),
        _ => return Err(unsupported()),
    };
    let divisor = field.divisor.as_ref().map(Amount::of).filter(|divisor| !divisor.is_zero());
    let (value, divisor) = match resource {
        "cpu" => (amount.milli(), divisor.map_or(1000, Amount::milli)),
        _ => (amount.value(), divisor.map_or(1, Amount::value)),
    };
    let divisor = divisor.max(1);
    let rounded = value / divisor + i64::from(value % divisor > 0);
    Ok(rounded.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::references::tests::Fixed;

    #[test]
    fn expands_references() {
        let check = |input: &str, expected: &str| {
            let actual = expand(input, |name| match name {
                "VAR" => Some("x".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            });
            assert_eq!(actual, expected, "{input}");
        };
        check("$(VAR)", "x");
        check("a$(VAR)b$(VAR)", "axbx");
        check("$$(VAR)", "$(VAR)");
        check("$$$(VAR)", "$x");
        check("$(NONE)", "$(NONE)");
        check("$(EMPTY)!", "!");
        check("$VAR", "$VAR");
        check("$(VAR", "$(VAR");
        check("100$", "100$");
        check("$$", "$");
    }

    fn environment_of(container: Value) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "say \"hi\""}},
            "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [container]},
        }))
        .expect("a pod");
        let mut around = Surroundings { pod_ips: vec!["10.0.0.1".into(), "fd00::1".into()], ..Surroundings::default() };
        around.services.insert("KUBERNETES_SERVICE_HOST".into(), "10.96.0.1".into());
        around.allocatable.insert("cpu".into(), Amount::parse("2").expect("amount"));
        let lookup = Fixed::new(&[("cm", "k", "v"), ("cm", "bad=key", "v")], &[("s", "password", "p")]);
        let container = pod.spec.as_ref().expect("spec").containers[0].clone();
        environment(&pod, &container, &around, &lookup).map(|(values, _)| values).map_err(|error| error.to_string())
    }

    #[test]
    fn builds_environments() {
        let check = |env: Value, expected: Result<&[(&str, &str)], &str>| {
            let mut container =
                json!({"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "100m"}}});
            for (key, value) in env.as_object().expect("fields") {
                container[key] = value.clone();
            }
            let actual = environment_of(container).map(|mut values| {
                values.retain(|(name, _)| name != "KUBERNETES_SERVICE_HOST");
                values
            });
            let expected = expected
                .map(|values| {
                    values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
                })
                .map_err(str::to_owned);
            assert_eq!(actual, expected, "{env}");
        };
        check(
            json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)"}]}),
            Ok(&[("A", "1"), ("B", "1-$(C)")]),
        );
        check(json!({"env": [{"name": "H", "value": "$(KUBERNETES_SERVICE_HOST)"}]}), Ok(&[("H", "10.96.0.1")]));
        check(json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}]}), Ok(&[("P_k", "v")]));
        check(json!({"envFrom": [{"configMapRef": {"name": "none"}}]}), Err("configmap \"none\" not found"));
        check(json!({"envFrom": [{"secretRef": {"name": "none", "optional": true}}]}), Ok(&[]));
        check(
            json!({"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}}]}),
            Ok(&[("S", "p")]),
        );
        check(
            json!({"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}}]}),
            Err("couldn't find key x in Secret ns/s"),
        );
        check(
            json!({"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x", "optional": true}}}]}),
            Ok(&[]),
        );
        check(
            json!({"env": [{"name": "I", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}]}),
            Ok(&[("I", "10.0.0.1,fd00::1")]),
        );
        check(
            json!({"env": [{"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}]}),
            Ok(&[("L", "1")]),
        );
        check(
            json!({"env": [{"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}}]}),
            Ok(&[("R", "100")]),
        );
        check(
            json!({"env": [{"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}]}),
            Ok(&[("R", "1")]),
        );
        check(
            json!({"env": [{"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
            Ok(&[("R", "2")]),
        );
        check(
            json!({"env": [{"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}]}),
            Ok(&[("R", "64")]),
        );
    }

    #[test]
    fn maps_are_written_as_upstream_does() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"labels": {"a": "1", "b": "say \"hi\"\n"}}})).expect("a pod");
        let field = ObjectFieldSelector { field_path: "metadata.labels".into(), api_version: None };
        assert_eq!(
            field_value(&pod, &field, &Surroundings::default()),
            Ok("a=\"1\"\nb=\"say \\\"hi\\\"\\n\"".to_owned())
        );
    }
}
