//! Claims that pods use, as volumes and on devices.

use serde::Deserialize;

/// What of a pod's volume says which claim it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeInput {
    name: String,
    persistent_volume_claim: Option<SourceInput>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SourceInput {
    claim_name: String,
}

/// A claim on devices, in a pod's `spec.resourceClaims` and in its `status.resourceClaimStatuses`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceClaimInput {
    /// The name that the pod's containers use.
    pub name: String,
    /// The claim.
    pub resource_claim_name: Option<String>,
    /// The template that the claim is made out of.
    pub resource_claim_template_name: Option<String>,
}

/// A claim that a pod uses as a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUse {
    /// The claim's name.
    pub claim: Box<str>,
    /// The volume's name, when the claim is made for this pod alone.
    pub ephemeral: Option<Box<str>>,
}

impl VolumeInput {
    /// The claim that the volume is in the pod of this name, when it is one.
    pub fn claim(&self, pod: &str) -> Option<ClaimUse> {
        match &self.persistent_volume_claim {
            Some(source) => Some(ClaimUse { claim: source.claim_name.as_str().into(), ephemeral: None }),
            None => self.ephemeral.map(|_| ClaimUse {
                claim: format!("{pod}-{}", self.name).into(),
                ephemeral: Some(self.name.as_str().into()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_of_volumes() {
        let check = |volume: serde_json::Value, expected: Option<(&str, bool)>| {
            let found = serde_json::from_value::<VolumeInput>(volume).expect("a volume").claim("p");
            let found = found.as_ref().map(|found| (&*found.claim, found.ephemeral.is_some()));
            assert_eq!(found, expected);
        };
        check(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}), Some(("c", false)));
        check(json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}), Some(("p-v", true)));
        check(json!({"name": "v", "emptyDir": {}}), None);
    }
}
