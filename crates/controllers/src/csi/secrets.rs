//! Secrets that drivers get: named by a class, with the claim's names put in.
//!
//! Source: `GetSecretReference` of external-provisioner, `pkg/controller/controller.go`.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, SecretReference};
use kube::Api;

use super::Csi;
use crate::queue::{Doing, PassError};

/// What a secret is for, as the parameters of a class name it.
pub const PROVISIONER: &str = "provisioner";
/// For attaching.
pub const CONTROLLER_PUBLISH: &str = "controller-publish";
/// For making ready on a node.
pub const NODE_STAGE: &str = "node-stage";
/// For mounting.
pub const NODE_PUBLISH: &str = "node-publish";
/// For growing.
pub const CONTROLLER_EXPAND: &str = "controller-expand";
/// For growing on a node.
pub const NODE_EXPAND: &str = "node-expand";

/// The secret for one purpose; `None` when the class names none.
pub fn named(
    parameters: &BTreeMap<String, String>,
    purpose: &str,
    volume: &str,
    claim: &PersistentVolumeClaim,
) -> Result<Option<SecretReference>, String> {
    let part = |part: &str| {
        let text = parameters.get(&format!("csi.storage.k8s.io/{purpose}-secret-{part}"));
        text.map(|text| fill(text, volume, claim)).transpose()
    };
    match (part("name")?, part("namespace")?) {
        (None, None) => Ok(None),
        (Some(name), Some(namespace)) => Ok(Some(SecretReference { name: Some(name), namespace: Some(namespace) })),
        _ => Err(format!("the class has to give both name and namespace of the {purpose} secret")),
    }
}

/// Puts names in place of `${pv.name}`, `${pvc.namespace}`, `${pvc.name}` and `${pvc.annotations['<key>']}`.
fn fill(template: &str, volume: &str, claim: &PersistentVolumeClaim) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${") {
        let (token, after) = after.split_once('}').ok_or_else(|| format!("{template:?} has no end of ${{"))?;
        let annotation = token.strip_prefix("pvc.annotations['").and_then(|token| token.strip_suffix("']"));
        let value = match token {
            "pv.name" => Some(volume),
            "pvc.namespace" => claim.metadata.namespace.as_deref(),
            "pvc.name" => claim.metadata.name.as_deref(),
            _ => annotation.and_then(|key| claim.metadata.annotations.as_ref()?.get(key)).map(String::as_str),
        };
        text.push_str(before);
        text.push_str(value.ok_or_else(|| format!("{template:?} asks for {token}, which is not known"))?);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

impl Csi {
    /// What is in a secret.
    pub(super) async fn secret(&self, name: Option<&SecretReference>) -> Result<HashMap<String, String>, PassError> {
        let Some(SecretReference { name: Some(name), namespace: Some(namespace) }) = name else {
            return Ok(HashMap::new());
        };
        let api = Api::<Secret>::namespaced(self.context.client.clone(), namespace);
        let secret = api.get(name).await.doing("reading a driver's secret")?;
        let text =
            |(key, value): (String, k8s_openapi::ByteString)| (key, String::from_utf8_lossy(&value.0).into_owned());
        Ok(secret.data.into_iter().flatten().map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates() {
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "ns", "annotations": {"team": "red"}}}),
        )
        .expect("a claim");
        let check = |template: &str, expected: Option<&str>| {
            assert_eq!(fill(template, "pv", &claim).ok().as_deref(), expected, "{template}");
        };
        check("plain", Some("plain"));
        check("${pvc.namespace}-${pvc.name}-${pv.name}", Some("ns-c-pv"));
        check("x${pvc.annotations['team']}", Some("xred"));
        check("${pvc.annotations['none']}", None);
        check("${pvc.uid}", None);
        check("${pvc.name", None);
        let half = [("csi.storage.k8s.io/node-stage-secret-name".to_owned(), "s".to_owned())].into();
        assert!(named(&half, NODE_STAGE, "pv", &claim).is_err());
        assert_eq!(named(&half, PROVISIONER, "pv", &claim), Ok(None));
    }
}
