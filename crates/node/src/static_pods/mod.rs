//! Static pods: pods of manifests in a folder, which run whether or not there is an API server, and their mirrors in it.
//!
//! ```text
//!  folder ─▶ files ─▶ pods (a worker each) ─▶ status ─▶ mirror pod
//!                          └──────────▶ mirrors: create, replace, delete ─▶ API server
//! ```
//!
//! Source of the rules: `pkg/kubelet/config/{common,file}.go`, `pkg/kubelet/pod/mirror_client.go`.

pub mod files;
pub mod mirrors;

use k8s_openapi::api::core::v1::Pod;

/// Annotation of a static pod: its hash, which is its uid.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Annotation of any pod a kubelet has: where it came from.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation of a mirror pod: the hash of the static pod that it mirrors.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

fn annotation<'a>(owner: &'a Pod, key: &str) -> Option<&'a str> {
    owner.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether a pod came from a file.
pub fn is_static(owner: &Pod) -> bool {
    annotation(owner, SOURCE).is_some_and(|source| source != "api") && annotation(owner, MIRROR).is_none()
}

/// The hash of the static pod that this one of the API server stands for, if it is a mirror.
pub fn mirrored(owner: &Pod) -> Option<&str> {
    annotation(owner, MIRROR)
}

/// A static pod as its worker sees it: what the file says, and what its mirror says became of it.
pub fn with_mirror(own: &Pod, mirror: &Pod) -> Pod {
    let mut whole = own.clone();
    whole.status.clone_from(&mirror.status);
    whole.metadata.resource_version.clone_from(&mirror.metadata.resource_version);
    whole
}
