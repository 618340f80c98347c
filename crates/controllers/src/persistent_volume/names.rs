//! The annotations and finalizers by which binder, scheduler and provisioners talk to each other.
//!
//! Upstream: <https://github.com/kubernetes/component-helpers/blob/master/storage/volume/pv_helpers.go>.

/// On a claim: binding is complete; from then on a missing volume means lost data.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either: the binder chose the other side, so it may undo the choice.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it, and who is to delete what is behind it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume; the second is what older provisioners read.
pub const STORAGE_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a claim: the node that its first pod will run on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a StorageClass: it is the default.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Keeps a volume until its provisioner has deleted what is behind it.
pub const PROVISIONER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Keeps a claim while pods use it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while it is bound.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// The provisioner of classes whose volumes people make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// An annotation's value, unless it is empty.
pub fn annotation<'o, K: kube::Resource>(object: &'o K, key: &str) -> Option<&'o str> {
    let all = object.meta().annotations.as_ref()?;
    all.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

/// Whether the object has this finalizer.
pub fn has_finalizer<K: kube::Resource>(object: &K, name: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|finalizer| finalizer == name)
}
