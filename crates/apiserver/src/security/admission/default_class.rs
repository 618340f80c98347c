//! DefaultStorageClass and DefaultIngressClass: what names no class gets the default one.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{is_set, metadata, text};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

/// Puts the default storage class into a claim that names none; an empty name means "no class" and stays.
pub(super) async fn admit_claim(lookup: &Lookup, claim: &mut Value) -> Result<(), Refusal> {
    let named = is_set(&claim["spec"], "storageClassName")
        || metadata(claim, "annotations", "volume.beta.kubernetes.io/storage-class").is_some();
    if named {
        return Ok(());
    }
    let classes = lookup.all("storage.k8s.io/storageclasses", None).await?;
    let keys = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(class) = newest_default(&classes, &keys) {
        claim["spec"]["storageClassName"] = text(&class["metadata"], "name").into();
    }
    Ok(())
}

/// Puts the default ingress class into an ingress that names none.
pub(super) async fn admit_ingress(lookup: &Lookup, ingress: &mut Value) -> Result<(), Refusal> {
    let named = is_set(&ingress["spec"], "ingressClassName")
        || metadata(ingress, "annotations", "kubernetes.io/ingress.class").is_some();
    if named {
        return Ok(());
    }
    let classes = lookup.all("networking.k8s.io/ingressclasses", None).await?;
    if let Some(class) = newest_default(&classes, &["ingressclass.kubernetes.io/is-default-class"]) {
        ingress["spec"]["ingressClassName"] = text(&class["metadata"], "name").into();
    }
    Ok(())
}

/// Of several defaults, the one that was made last, then the one whose name comes first.
fn newest_default<'a>(classes: &'a [Arc<Value>], keys: &[&str]) -> Option<&'a Arc<Value>> {
    let is_default = |class: &&Arc<Value>| keys.iter().any(|key| metadata(class, "annotations", key) == Some("true"));
    classes.iter().filter(is_default).min_by(|one, other| {
        let age = |class: &'a Arc<Value>| text(&class["metadata"], "creationTimestamp");
        let name = |class: &'a Arc<Value>| text(&class["metadata"], "name");
        age(other).cmp(age(one)).then(name(one).cmp(name(other)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, made: &str, default: &str| {
            Arc::new(json!({ "metadata": {
                "name": name, "creationTimestamp": made, "annotations": { "is-default": default },
            } }))
        };
        let check = |classes: &[Arc<Value>], expected: Option<&str>| {
            let found = newest_default(classes, &["is-default"]).map(|class| text(&class["metadata"], "name"));
            assert_eq!(found, expected);
        };
        check(&[], None);
        check(&[class("a", "2026-01-01T00:00:00Z", "false")], None);
        let old = class("old", "2026-01-01T00:00:00Z", "true");
        let (b, a) = (class("b", "2026-02-01T00:00:00Z", "true"), class("a", "2026-02-01T00:00:00Z", "true"));
        check(&[old, b, a], Some("a"));
    }
}
