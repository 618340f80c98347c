//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{always, any_has, each, put, put_text, within};
use crate::path::{at, flag, size, text};
use crate::validation::pod::whole::requested;

/// The mode of files in volumes made from objects: 0644.
const FILE_MODE: i32 = 0o644;

pub(super) fn pod(object: &mut Value) {
    within(object, "spec", |spec| {
        // A template does not get these: they would change its hash.
        for containers in ["initContainers", "containers"] {
            each(spec, containers, |container| within(container, "resources", requests_from_limits));
        }
        whole_requests(spec);
        put(spec, "enableServiceLinks", true);
        self::spec(spec);
        if flag(spec, "hostNetwork") {
            for containers in ["initContainers", "containers"] {
                each(spec, containers, |container| each(container, "ports", host_port));
            }
        }
    });
}

pub(super) fn template(template: &mut Value) {
    put(template, "metadata", json!({}));
    always(template, "spec", spec);
}

fn requests_from_limits(resources: &mut Value) {
    let limits = at(resources, "limits").as_object().cloned().unwrap_or_default();
    if !limits.is_empty() {
        always(resources, "requests", |requests| {
            limits.into_iter().for_each(|(key, value)| put(requests, &key, value))
        });
    }
}

/// A pod with limits of its own asks for what its containers ask for, and otherwise for what it is limited to.
fn whole_requests(spec: &mut Value) {
    if size(spec, "resources.limits") == 0 {
        return;
    }
    let basics = requested(spec).into_iter().filter(|(resource, _)| matches!(*resource, "cpu" | "memory"));
    let basics: Vec<(String, String)> =
        basics.map(|(resource, amount)| (resource.to_owned(), amount.to_string())).collect();
    within(spec, "resources", |resources| {
        always(resources, "requests", |requests| {
            basics.into_iter().for_each(|(resource, amount)| put(requests, &resource, amount));
        });
        requests_from_limits(resources);
    });
}

/// On the network of the host, a port of a container is the host's.
fn host_port(port: &mut Value) {
    if matches!(at(port, "hostPort").as_i64(), None | Some(0)) {
        let number = at(port, "containerPort").clone();
        port["hostPort"] = number;
    }
}

fn spec(spec: &mut Value) {
    put_text(spec, "dnsPolicy", "ClusterFirst");
    put_text(spec, "restartPolicy", "Always");
    put(spec, "securityContext", json!({}));
    put(spec, "terminationGracePeriodSeconds", 30);
    put_text(spec, "schedulerName", "default-scheduler");
    // The old name of the field follows the new one, and stands in for it.
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        spec["serviceAccount"] = Value::from(account.as_str());
        spec["serviceAccountName"] = Value::from(account);
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, containers, container);
    }
    each(spec, "volumes", volume);
}

/// Images without a tag, or with the tag `latest`, may change under their name.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        None if !digest => "Always",
        Some("latest") if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn container(container: &mut Value) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        put_text(container, "imagePullPolicy", policy);
    }
    put_text(container, "terminationMessagePath", "/dev/termination-log");
    put_text(container, "terminationMessagePolicy", "File");
    put(container, "resources", json!({}));
    each(container, "ports", |port| put_text(port, "protocol", "TCP"));
    each(container, "env", |variable| {
        within(variable, "valueFrom", |from| {
            within(from, "fieldRef", |field| put_text(field, "apiVersion", "v1"));
            within(from, "resourceFieldRef", |field| put(field, "divisor", "0"));
            within(from, "fileKeyRef", |file| put(file, "optional", false));
        });
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, probe, |probe| {
            for (key, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                if at(probe, key) == 0 {
                    probe[key] = Value::Null;
                }
                put(probe, key, value);
            }
            within(probe, "httpGet", http_get);
            within(probe, "grpc", |grpc| put(grpc, "service", ""));
        });
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, |hook| within(hook, "httpGet", http_get));
        }
    });
}

fn http_get(action: &mut Value) {
    put_text(action, "path", "/");
    put_text(action, "scheme", "HTTP");
}

fn downward_items(source: &mut Value) {
    each(source, "items", |item| {
        within(item, "fieldRef", |field| put_text(field, "apiVersion", "v1"));
        within(item, "resourceFieldRef", |field| put(field, "divisor", "0"));
    });
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |fields| fields.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        put(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, source, |source| put(source, "defaultMode", FILE_MODE));
    }
    within(volume, "downwardAPI", downward_items);
    if any_has(volume, "projected.sources", "serviceAccountToken")
        || any_has(volume, "projected.sources", "downwardAPI")
    {
        within(volume, "projected", |projected| {
            each(projected, "sources", |source| {
                within(source, "serviceAccountToken", |token| put(token, "expirationSeconds", 3600));
                within(source, "downwardAPI", downward_items);
            });
        });
    }
    within(volume, "ephemeral", |ephemeral| {
        within(ephemeral, "volumeClaimTemplate", |template| {
            put(template, "metadata", json!({}));
            within(template, "spec", |spec| put(spec, "volumeMode", "Filesystem"));
        });
    });
    within(volume, "image", |image| {
        if text(image, "pullPolicy").is_empty() {
            let policy = pull_policy(text(image, "reference"));
            put_text(image, "pullPolicy", policy);
        }
    });
    super::storage::sources(volume);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        let check = |image: &str, expected: &str| assert_eq!(pull_policy(image), expected, "{image}");
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("nginx:1", "IfNotPresent");
        check("localhost:5000/nginx", "Always");
        check("localhost:5000/nginx:1", "IfNotPresent");
        check("nginx@sha256:0000", "IfNotPresent");
        check("nginx:latest@sha256:0000", "IfNotPresent");
    }

    #[test]
    fn host_ports() {
        let mut pod = json!({"spec": {"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]}});
        super::pod(&mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["ports"][0],
            json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
        );
    }
}
