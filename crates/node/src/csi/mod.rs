//! CSI drivers by their own sockets.
//!
//! ```text
//!  <node>/plugins_registry/<driver>-reg.sock ─▶ who are you? ─▶ NodeGetInfo ─▶ CSINode, the node's labels
//!  pod with a volume ─▶ NodeStageVolume (once a node) ─▶ NodePublishVolume ─▶ containers
//!  pod is gone ─▶ NodeUnpublishVolume ─▶ NodeUnstageVolume (with the last pod)
//! ```
//!
//! `<node>` is laid out like a kubelet's folder, so that manifests of drivers work with its path in place of
//! `/var/lib/kubelet`. Controller calls are left to the drivers' own sidecars, which need nothing but the API.

pub mod drivers;
pub mod local;
pub mod mount;
mod objects;
pub mod proto;
