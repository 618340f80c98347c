//! Kubernetes objects of which only some fields are decoded.
//!
//! A whole `Pod` takes some ten kilobytes as a Rust value. Who watches all pods of a cluster says with two types of its own which
//! fields of `spec` and `status` it reads; the rest of the text is skipped and never becomes memory.

mod metadata;

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

pub use metadata::without_managed_fields;

/// An object of kind `K`: its metadata, and what `S` and `T` take of `spec` and `status`.
///
/// Of a part that nobody reads the type is `serde::de::IgnoredAny`. To a `kube` client it is an object of kind `K`; it can be
/// read, not written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, bound(deserialize = "S: Default + Deserialize<'de>, T: Default + Deserialize<'de>"))]
pub struct Partial<K, S, T> {
    /// The metadata but for its managed fields.
    #[serde(deserialize_with = "without_managed_fields")]
    pub metadata: ObjectMeta,
    /// What is read of `spec`.
    pub spec: S,
    /// What is read of `status`.
    pub status: T,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K, S: Default, T: Default> Default for Partial<K, S, T> {
    fn default() -> Self {
        Self { metadata: ObjectMeta::default(), spec: S::default(), status: T::default(), kind: PhantomData }
    }
}

impl<K: kube::Resource<DynamicType = ()>, S, T> kube::Resource for Partial<K, S, T> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::Resource;
    use serde::de::IgnoredAny;

    use super::*;

    type Named = Partial<Pod, Spec, IgnoredAny>;

    #[derive(Clone, Debug, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Spec {
        node_name: Option<String>,
    }

    #[test]
    fn takes_what_it_knows_and_is_of_its_kind() {
        let text = r#"{"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "a", "containers": [{}]}, "status": {"phase": "Running"}}"#;
        let read: Named = serde_json::from_str(text).expect("a pod");
        assert_eq!(
            (read.spec.node_name.as_deref(), read.meta().name.as_deref(), &*Named::plural(&())),
            (Some("a"), Some("p"), "pods")
        );
        assert_eq!(Named::url_path(&(), Some("n")), "/api/v1/namespaces/n/pods");
    }
}
