//! ServiceAccount: every pod runs as a service account and gets its token, the cluster's authority and its namespace as files.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::Request;
use super::fields::{is_set, items, list_mut, metadata, text};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The beginning of the token volume's name.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a little: upstream's number, by which the token request recognizes this volume.
const EXPIRATION_SECONDS: i64 = 3607;
/// How long a pod waits for the `default` service account of a namespace that was made just before.
const WAIT_FOR_DEFAULT: Duration = Duration::from_secs(1);

/// Completes a new pod.
pub(super) async fn admit(lookup: &Lookup, request: &Request<'_>, pod: &mut Value) -> Result<(), Refusal> {
    if metadata(pod, "annotations", "kubernetes.io/config.mirror").is_some() {
        return mirror(request, pod);
    }
    let name = match text(&pod["spec"], "serviceAccountName") {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    let account = find(lookup, request.namespace, &name).await?;
    let Some(account) = account else {
        let namespace = request.namespace;
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(request.forbid(Some(pod), why));
    };
    complete(pod, &name, &account, &random_suffix());
    Ok(())
}

async fn find(lookup: &Lookup, namespace: &str, name: &str) -> Result<Option<std::sync::Arc<Value>>, Refusal> {
    const COLLECTION: &str = "core/serviceaccounts";
    let found = lookup.object(COLLECTION, namespace, name).await?;
    if found.is_some() || name != "default" {
        return Ok(found);
    }
    // A controller makes it right after the namespace; clients that are quicker wait here instead of failing.
    lookup.wait_for(COLLECTION, namespace, name, WAIT_FOR_DEFAULT).await?;
    lookup.object(COLLECTION, namespace, name).await
}

/// A mirror pod only shows what runs on a node already; it gets nothing from the API.
fn mirror(request: &Request<'_>, pod: &Value) -> Result<(), Refusal> {
    let spec = &pod["spec"];
    if !text(spec, "serviceAccountName").is_empty() {
        return Err(request.forbid(Some(pod), "a mirror pod may not reference service accounts"));
    }
    for volume in items(spec, "volumes") {
        if is_set(volume, "secret") {
            return Err(request.forbid(Some(pod), "a mirror pod may not reference secrets"));
        }
        let token = |source: &Value| is_set(source, "serviceAccountToken");
        if items(&volume["projected"], "sources").iter().any(token) {
            let why = "a mirror pod may not use ServiceAccountToken volume projections";
            return Err(request.forbid(Some(pod), why));
        }
    }
    Ok(())
}

/// Puts name, pull secrets and token volume in; `suffix` is used when a volume has to be named.
fn complete(pod: &mut Value, name: &str, account: &Value, suffix: &str) {
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = name.into();
    // The old spelling, which upstream still writes.
    spec["serviceAccount"] = name.into();
    let automount = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    let automount = automount.or_else(|| account.get("automountServiceAccountToken").and_then(Value::as_bool));
    if automount.unwrap_or(true) {
        mount_token(spec, suffix);
    }
    if items(spec, "imagePullSecrets").is_empty() {
        let secrets = items(account, "imagePullSecrets");
        if !secrets.is_empty() {
            spec["imagePullSecrets"] = secrets.into();
        }
    }
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let present = items(spec, "volumes").iter().map(|volume| text(volume, "name"));
    let present = present.filter(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned).next();
    let name = present.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(kind).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            if items(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
            list_mut(container, "volumeMounts").push(mount);
            mounted = true;
        }
    }
    if mounted && present.is_none() {
        list_mut(spec, "volumes").push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": EXPIRATION_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}

/// Five letters of upstream's alphabet, which has no vowels so that no words come out.
fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut pod: Value, account: Value, expected: Value) {
        complete(&mut pod, "bot", &account, "x4k9z");
        assert_eq!(pod, expected);
    }

    #[test]
    fn pods_get_what_their_account_gives() {
        let mount = json!({ "name": "kube-api-access-x4k9z", "readOnly": true, "mountPath": MOUNT_PATH });
        check(
            json!({ "spec": { "containers": [{ "name": "a" }], "initContainers": [{ "name": "i" }] } }),
            json!({ "imagePullSecrets": [{ "name": "registry" }] }),
            json!({ "spec": {
                "serviceAccountName": "bot", "serviceAccount": "bot",
                "imagePullSecrets": [{ "name": "registry" }],
                "containers": [{ "name": "a", "volumeMounts": [mount] }],
                "initContainers": [{ "name": "i", "volumeMounts": [mount] }],
                "volumes": [token_volume("kube-api-access-x4k9z")],
            } }),
        );
        let plain = json!({ "spec": {
            "serviceAccountName": "bot", "serviceAccount": "bot", "containers": [{ "name": "a" }],
        } });
        check(
            json!({ "spec": { "containers": [{ "name": "a" }] } }),
            json!({ "automountServiceAccountToken": false }),
            plain.clone(),
        );
        let mut own = plain.clone();
        own["spec"]["automountServiceAccountToken"] = false.into();
        check(
            json!({ "spec": { "containers": [{ "name": "a" }], "automountServiceAccountToken": false } }),
            json!({ "automountServiceAccountToken": true }),
            own,
        );
        let mounted = json!({ "spec": {
            "serviceAccountName": "bot", "serviceAccount": "bot", "imagePullSecrets": [{ "name": "own" }],
            "containers": [{ "name": "a", "volumeMounts": [{ "name": "mine", "mountPath": MOUNT_PATH }] }],
        } });
        check(mounted.clone(), json!({ "imagePullSecrets": [{ "name": "registry" }] }), mounted);
    }

    #[test]
    fn a_volume_that_is_there_is_used() {
        let mut pod = json!({ "spec": {
            "containers": [{ "name": "a" }], "volumes": [{ "name": "kube-api-access-mine0" }],
        } });
        complete(&mut pod, "bot", &json!({}), "x4k9z");
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-mine0");
    }
}
