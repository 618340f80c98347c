//! From manifests to objects of a cluster: which resource they are, in which namespace they land, in which order they go.

use std::collections::HashSet;

use serde_json::Value;

use crate::discovery::{Discovery, Resource};
use crate::manifests::{Manifest, Mistake, Step};
use crate::namespace::{NamespaceFrom, NamespaceOptions};
use crate::object::ObjectRef;
use crate::order::{self, Phase};

/// An object that is to be applied.
#[derive(Debug, Clone)]
pub struct Target {
    /// What names it.
    pub object: ObjectRef,
    /// Its manifest, with its namespace.
    pub manifest: Manifest,
    /// Who said its namespace.
    pub namespace_from: NamespaceFrom,
    /// Its resource.
    pub resource: Resource,
    /// Whether the cluster does not serve the resource yet, because its definition is in the same batch.
    pub defined_here: bool,
    /// When it is applied.
    pub phase: Phase,
}

impl Target {
    /// The object's path.
    pub fn path(&self) -> String {
        self.resource.object_path(self.object.namespace.as_deref(), &self.object.name)
    }

    /// Something that is wrong with the object as a whole.
    pub fn mistake(&self, message: impl Into<String>) -> Mistake {
        self.manifest.mistake(&[Step::from("metadata"), "name".into()], message)
    }
}

/// The resources that definitions among the manifests will serve.
pub fn defined(manifests: &[Manifest]) -> Vec<Resource> {
    let definitions =
        manifests.iter().map(|manifest| &manifest.value).filter(|value| value["kind"] == "CustomResourceDefinition");
    let mut resources = Vec::new();
    for definition in definitions {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for version in spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true) {
            resources.push(Resource {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                kind: text(&spec["names"]["kind"]),
                plural: text(&spec["names"]["plural"]),
                singular: text(&spec["names"]["singular"]),
                short_names: Vec::new(),
                categories: Vec::new(),
                namespaced: spec["scope"] == "Namespaced",
                verbs: Vec::new(),
                subresources: Vec::new(),
            });
        }
    }
    resources
}

/// Finds resources and namespaces; what is wrong with some objects keeps nobody from looking at the others.
pub fn resolve(
    manifests: Vec<Manifest>,
    discovery: &Discovery,
    options: &NamespaceOptions,
    context: Option<&str>,
) -> (Vec<Target>, Vec<Mistake>) {
    let defined = defined(&manifests);
    let mut mistakes = Vec::new();
    let mut targets = Vec::new();
    for mut manifest in manifests {
        let mut object = ObjectRef::of(&manifest.value);
        let served = discovery.of_object(&object);
        let here = || defined.iter().find(|it| it.api_version() == object.api_version && it.kind == object.kind);
        let Some(resource) = served.or_else(here).cloned() else {
            let words = format!("this cluster has no kind {} in {}", object.kind, object.api_version);
            let mut mistake = manifest.mistake(&["kind".into()], words);
            if let Some(hint) = discovery.suggestion(&object.api_version, &object.kind) {
                mistake = mistake.hint(hint);
            }
            mistakes.push(mistake);
            continue;
        };
        let defined_here = served.is_none();
        let namespace_path = [Step::from("metadata"), "namespace".into()];
        let namespace_from = if resource.namespaced {
            match options.decide(object.namespace.as_deref(), context) {
                Ok((namespace, from)) => {
                    manifest.value["metadata"]["namespace"] = Value::from(namespace.clone());
                    object.namespace = Some(namespace);
                    from
                }
                Err(error) => {
                    let words = format!("{object}: {error}");
                    mistakes.push(manifest.mistake(&namespace_path, words).hint(error.hint()));
                    continue;
                }
            }
        } else {
            if object.namespace.is_some() {
                let words = format!("{object}: objects of kind {} belong to no namespace", object.kind);
                mistakes.push(manifest.mistake(&namespace_path, words).hint("leave metadata.namespace out"));
                continue;
            }
            // A namespace that is protected is protected itself, too.
            if object.kind == "Namespace"
                && let Err(error) = options.check_protected(&object.name)
            {
                mistakes.push(
                    manifest.mistake(&[Step::from("metadata"), "name".into()], error.to_string()).hint(error.hint()),
                );
                continue;
            }
            NamespaceFrom::Cluster
        };
        encode_secret(&mut manifest.value);
        let phase = order::phase(object.group(), &object.kind);
        targets.push(Target { object, manifest, namespace_from, resource, defined_here, phase });
    }
    let mut seen: HashSet<(String, String, Option<String>, String)> = HashSet::new();
    for target in &targets {
        let (group, kind, namespace, name) = target.object.identity();
        if !seen.insert((group.to_owned(), kind.to_owned(), namespace.map(str::to_owned), name.to_owned())) {
            mistakes.push(target.mistake(format!("{} is here twice in the same namespace", target.object)));
        }
    }
    targets.sort_by_key(|target| target.phase);
    (targets, mistakes)
}

/// `stringData` is never read back, so nobody would be noted as the owner of what it brings and leaving a key out would
/// not remove it (<https://github.com/kubernetes/kubernetes/issues/70281> and its like). As `data` it is a field like any.
fn encode_secret(object: &mut Value) {
    use base64::Engine as _;
    if object["kind"] != "Secret" || object["apiVersion"] != "v1" {
        return;
    }
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|object| object.remove("stringData")) else {
        return;
    };
    let data = &mut object["data"];
    if !data.is_object() {
        *data = serde_json::json!({});
    }
    for (name, text) in texts {
        data[name] = match text {
            Value::String(text) => base64::engine::general_purpose::STANDARD.encode(text).into(),
            // Of the wrong type: for the server to say.
            other => other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests;

    fn discovery() -> Discovery {
        let resource = |kind: &str, plural: &str, namespaced| Resource {
            group: String::new(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: String::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced,
            verbs: Vec::new(),
            subresources: Vec::new(),
        };
        Discovery::of(vec![
            resource("Namespace", "namespaces", false),
            resource("ConfigMap", "configmaps", true),
            resource("Secret", "secrets", true),
            Resource {
                group: "apiextensions.k8s.io".to_owned(),
                ..resource("CustomResourceDefinition", "customresourcedefinitions", false)
            },
        ])
    }

    #[test]
    fn a_batch_brings_its_own_kinds_in_order() {
        let text = "apiVersion: x.io/v1\nkind: Boat\nmetadata: {name: b, namespace: sea}\n---\n\
            apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: sea}\nstringData: {a: hi}\n---\n\
            apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: boats.x.io}\n\
            spec: {group: x.io, scope: Namespaced, names: {kind: Boat, plural: boats}, versions: [{name: v1, served: true}]}\n---\n\
            apiVersion: v1\nkind: Namespace\nmetadata: {name: sea}\n";
        let (targets, mistakes) =
            resolve(manifests::parse("f", text).unwrap(), &discovery(), &NamespaceOptions::default(), None);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let names: Vec<String> = targets.iter().map(|target| target.object.to_string()).collect();
        assert_eq!(names, ["namespace/sea", "customresourcedefinition/boats.x.io", "secret/s", "boat/b"]);
        assert!(targets[3].defined_here && !targets[0].defined_here);
        assert_eq!(targets[2].manifest.value["data"]["a"], "aGk=");
        assert_eq!(targets[3].path(), "/apis/x.io/v1/namespaces/sea/boats/b");
    }

    #[test]
    fn mistakes() {
        let check = |text: &str, expected: &[&str]| {
            let manifests = manifests::parse("f", text).unwrap();
            let (_, mistakes) = resolve(manifests, &discovery(), &NamespaceOptions::default(), Some("ctx"));
            let error = manifests::Mistakes(mistakes).to_string();
            for part in expected {
                assert!(error.contains(part), "{error}\nlacks {part}");
            }
        };
        check(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
            &["f:3:1: configmap/a: no namespace", "--allow-context-namespace"],
        );
        check(
            "apiVersion: v1\nkind: ConfigMop\nmetadata: {name: a}\n",
            &["f:2:7: this cluster has no kind ConfigMop in v1", "did you mean ConfigMap of v1?"],
        );
        check("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n", &["belong to no namespace"]);
        check(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}\n",
            &["namespace kube-system is protected"],
        );
    }
}
