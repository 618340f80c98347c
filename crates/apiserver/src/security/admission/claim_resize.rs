//! PersistentVolumeClaimResize: a claim may ask for more only when its class lets volumes grow.
//!
//! Upstream: `plugin/pkg/admission/storage/persistentvolume/resize`.

use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use super::Request;
use super::fields::{metadata, text};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

/// Refuses the growth of a claim whose class does not allow it.
pub(super) async fn validate(
    lookup: &Lookup,
    request: &Request<'_>,
    claim: &Value,
    old: &Value,
) -> Result<(), Refusal> {
    if !grows(claim, old) || old["status"]["phase"] != "Bound" {
        return Ok(());
    }
    let beta = metadata(old, "annotations", "volume.beta.kubernetes.io/storage-class");
    let named = beta.unwrap_or_else(|| text(&old["spec"], "storageClassName"));
    let classes = lookup.all("storage.k8s.io/storageclasses", None).await?;
    let class = classes.iter().find(|class| text(&class["metadata"], "name") == named);
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
               support resize";
    Err(request.forbid(Some(claim), why))
}

fn grows(claim: &Value, old: &Value) -> bool {
    let asked = |claim: &Value| {
        let amount = claim["spec"]["resources"]["requests"]["storage"].as_str()?;
        amount.parse::<Quantity>().ok()
    };
    match (asked(claim), asked(old)) {
        (Some(now), Some(before)) => now > before,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn growth_is_noticed_whatever_the_notation() {
        let claim = |amount: &str| json!({"spec": {"resources": {"requests": {"storage": amount}}}});
        let check = |now: &str, before: &str, expected: bool| {
            assert_eq!(grows(&claim(now), &claim(before)), expected, "{before} to {now}");
        };
        check("2Gi", "1Gi", true);
        check("1024Mi", "1Gi", false);
        check("1Gi", "2Gi", false);
        check("1025Mi", "1Gi", true);
        assert!(!grows(&json!({}), &claim("1Gi")));
    }
}
