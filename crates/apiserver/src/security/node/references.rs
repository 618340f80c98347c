//! Which objects of its namespace a pod refers to, read from its text without building a tree of it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A kind of object that pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Referred {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// The objects that a pod refers to, each once.
pub(crate) fn references(pod: &Value) -> Vec<(Referred, String)> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    // A tree that is there already has no mistakes in its text.
    read(name, pod).unwrap_or_default()
}

/// The same of the text of a pod of that name.
pub(crate) fn references_in(name: &str, pod: &[u8]) -> Result<Vec<(Referred, String)>, serde_json::Error> {
    read(name, &mut serde_json::Deserializer::from_slice(pod))
}

fn read<'de, D: Deserializer<'de>>(name: &str, pod: D) -> Result<Vec<(Referred, String)>, D::Error> {
    let mut found = Vec::new();
    Seek { place: Place::Pod, pod: name, found: &mut found }.deserialize(pod)?;
    found.sort();
    found.dedup();
    Ok(found)
}

/// What a part of a pod is, which says what its fields mean.
#[derive(Clone, Copy)]
enum Place {
    Pod,
    Spec,
    Status,
    /// One of the pod's volumes.
    Volume,
    /// Anything inside of a volume or container: references are known by their fields' names there.
    Part,
    /// Something, or a list of those, with the name of an object in one of two fields, the first of which counts more.
    Reference(Referred, [Field; 2]),
}

/// The fields that matter, by what they mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Spec,
    Status,
    ServiceAccountName,
    ImagePullSecrets,
    Volumes,
    Containers,
    ResourceClaims,
    ResourceClaimStatuses,
    Ephemeral,
    Name,
    SecretName,
    ClaimName,
    ResourceClaimName,
    SecretReference,
    Secret,
    AzureFile,
    ConfigMap,
    PersistentVolumeClaim,
    Other,
}

impl Field {
    fn of(name: &str) -> Field {
        match name {
            "spec" => Field::Spec,
            "status" => Field::Status,
            "serviceAccountName" => Field::ServiceAccountName,
            "imagePullSecrets" => Field::ImagePullSecrets,
            "volumes" => Field::Volumes,
            "containers" | "initContainers" | "ephemeralContainers" => Field::Containers,
            "resourceClaims" => Field::ResourceClaims,
            "resourceClaimStatuses" => Field::ResourceClaimStatuses,
            "ephemeral" => Field::Ephemeral,
            "name" => Field::Name,
            "secretName" => Field::SecretName,
            "claimName" => Field::ClaimName,
            "resourceClaimName" => Field::ResourceClaimName,
            "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => Field::SecretReference,
            "secret" => Field::Secret,
            "azureFile" => Field::AzureFile,
            "configMap" | "configMapRef" | "configMapKeyRef" => Field::ConfigMap,
            "persistentVolumeClaim" => Field::PersistentVolumeClaim,
            _ => Field::Other,
        }
    }

    /// What a field inside of a volume or container is. Their names mean the same in all kinds of volumes and environments.
    fn of_part(self) -> Place {
        let reference = |kind, field| Place::Reference(kind, [field, field]);
        match self {
            Field::SecretReference => reference(Referred::Secret, Field::Name),
            Field::Secret => Place::Reference(Referred::Secret, [Field::SecretName, Field::Name]),
            Field::AzureFile => reference(Referred::Secret, Field::SecretName),
            Field::ConfigMap => reference(Referred::ConfigMap, Field::Name),
            Field::PersistentVolumeClaim => reference(Referred::Claim, Field::ClaimName),
            _ => Place::Part,
        }
    }
}

struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(Field::of(name))
    }
}

/// A text, `None` for anything else.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<String>, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<String>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Option<String>, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Reads a value at a place for the references in it.
struct Seek<'a> {
    place: Place,
    pod: &'a str,
    found: &'a mut Vec<(Referred, String)>,
}

impl Seek<'_> {
    fn at(&mut self, place: Place) -> Seek<'_> {
        Seek { place, pod: self.pod, found: self.found }
    }

    fn note(&mut self, kind: Referred, name: Option<String>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.found.push((kind, name));
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.at(self.place))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        let mut names = [None, None];
        let mut ephemeral = false;
        while let Some(field) = fields.next_key_seed(FieldSeed)? {
            let reference = |kind, field| Some(Place::Reference(kind, [field, field]));
            let inner = match (self.place, field) {
                (Place::Pod, Field::Spec) => Some(Place::Spec),
                (Place::Pod, Field::Status) => Some(Place::Status),
                (Place::Spec, Field::ServiceAccountName) => {
                    let name = fields.next_value_seed(Text)?;
                    self.note(Referred::ServiceAccount, name);
                    continue;
                }
                (Place::Spec, Field::ImagePullSecrets) => reference(Referred::Secret, Field::Name),
                (Place::Spec, Field::Volumes) => Some(Place::Volume),
                (Place::Spec, Field::Containers) => Some(Place::Part),
                // Those made from templates have their names, in the status, before the pod is bound.
                (Place::Spec, Field::ResourceClaims) | (Place::Status, Field::ResourceClaimStatuses) => {
                    reference(Referred::ResourceClaim, Field::ResourceClaimName)
                }
                (Place::Volume, Field::Name) => {
                    names[0] = fields.next_value_seed(Text)?;
                    continue;
                }
                (Place::Volume, field) => {
                    ephemeral |= field == Field::Ephemeral;
                    Some(field.of_part())
                }
                (Place::Part, field) => Some(field.of_part()),
                (Place::Reference(_, wanted), field) => match wanted.iter().position(|name| *name == field) {
                    Some(rank) => {
                        names[rank] = fields.next_value_seed(Text)?;
                        continue;
                    }
                    None => None,
                },
                _ => None,
            };
            match inner {
                Some(place) => fields.next_value_seed(self.at(place))?,
                None => fields.next_value::<IgnoredAny>().map(|IgnoredAny| ())?,
            }
        }
        let [first, second] = names;
        match self.place {
            Place::Reference(kind, _) => self.note(kind, first.or(second)),
            Place::Volume if ephemeral => {
                let claim = format!("{}-{}", self.pod, first.unwrap_or_default());
                self.note(Referred::Claim, Some(claim));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_a_pod_names() {
        let pod = json!({
            "metadata": {"name": "web", "annotations": {"spec": "no", "secret": "no"}},
            "spec": {
                "serviceAccountName": "bot",
                "imagePullSecrets": [{"name": "registry"}, {"name": ""}, {}],
                "nodeSelector": {"secretName": "no"},
                "resourceClaims": [
                    {"name": "no", "resourceClaimName": "gpu"}, {"name": "no", "resourceClaimTemplateName": "no"},
                ],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "tls", "items": [{"key": "name", "path": "no"}]}},
                    {"name": "b", "configMap": {"name": "settings", "optional": true}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "data", "readOnly": false}},
                    {"ephemeral": {"volumeClaimTemplate": {}}, "name": "d"},
                    {"name": "e", "projected": {"sources": [
                        {"secret": {"name": "s1"}}, {"configMap": {"name": "kube-root-ca.crt"}},
                        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    ]}},
                    {"name": "f", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "s2"}}},
                    {"name": "g", "azureFile": {"secretName": "s4", "shareName": "no"}},
                    {"name": "h", "emptyDir": {}},
                ],
                "containers": [{
                    "name": "no",
                    "env": [
                        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "k"}}},
                        {"name": "secret", "value": "no"},
                    ],
                    "envFrom": [{"configMapRef": {"name": "env"}}, {"secretRef": {"name": "s3"}}],
                }],
            },
            "status": {"resourceClaimStatuses": [{"name": "no", "resourceClaimName": "web-gpu-x"}, {"name": "no", "resourceClaimName": null}]},
        });
        let mut expected: Vec<(Referred, String)> = [
            (Referred::ServiceAccount, "bot"),
            (Referred::Secret, "registry"),
            (Referred::Secret, "tls"),
            (Referred::Secret, "s1"),
            (Referred::Secret, "s2"),
            (Referred::Secret, "s3"),
            (Referred::Secret, "s4"),
            (Referred::ConfigMap, "settings"),
            (Referred::ConfigMap, "kube-root-ca.crt"),
            (Referred::ConfigMap, "env"),
            (Referred::Claim, "data"),
            (Referred::Claim, "web-d"),
            (Referred::ResourceClaim, "gpu"),
            (Referred::ResourceClaim, "web-gpu-x"),
        ]
        .into_iter()
        .map(|(kind, name)| (kind, name.to_owned()))
        .collect();
        expected.sort();
        assert_eq!(references(&pod), expected);
        assert_eq!(references_in("web", pod.to_string().as_bytes()).expect("it is JSON"), expected);
    }

    #[test]
    fn text_that_ends_early_is_a_mistake() {
        assert!(references_in("web", br#"{"spec": {"volumes": [{"secret": {"secretName": "tls""#).is_err());
    }
}
