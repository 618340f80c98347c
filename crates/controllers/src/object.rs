//! What all cached objects have in common: how they are named, what they belong to, how new they are.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

/// Where an object is: namespace (empty for cluster-wide kinds) and name. Work queues run on these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of these parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// An object as a cache keeps it.
pub trait Cached: Send + Sync + 'static {
    /// Its key.
    fn key(&self) -> ObjectKey;
    /// Its unique id.
    fn uid(&self) -> &str;
    /// Its `resourceVersion` as a number: versions of one kind compare, since Kubernetes 1.35 by promise.
    fn revision(&self) -> u64;
    /// What it belongs to.
    fn owners(&self) -> &[OwnerReference];
    /// Whether its deletion has begun.
    fn deleting(&self) -> bool;

    /// Its controlling owner.
    fn controller(&self) -> Option<&OwnerReference> {
        self.owners().iter().find(|owner| owner.controller == Some(true))
    }
}

impl<K: Resource<DynamicType = ()> + Send + Sync + 'static> Cached for K {
    fn key(&self) -> ObjectKey {
        let meta = self.meta();
        ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    fn revision(&self) -> u64 {
        self.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    fn owners(&self) -> &[OwnerReference] {
        self.meta().owner_references.as_deref().unwrap_or_default()
    }

    fn deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}
