//! CSI drivers by their own sockets.
//!
//! ```text
//!  <node>/plugins_registry/<driver>-reg.sock ─▶ who are you? ─▶ NodeGetInfo ─▶ CSINode, the node's labels
//!  pod with a volume ─▶ NodeStageVolume (once a node) ─▶ NodePublishVolume ─▶ containers
//!  pod is gone ─▶ NodeUnpublishVolume ─▶ NodeUnstageVolume (with the last pod)
//! ```
//!
//! `<node>` is laid out like a kubelet's folder, so that manifests of drivers work with its path in place of
//! `/var/lib/kubelet`. A driver that comes with sidecars is introduced by one of them, its registrar, and they call its
//! controller. One that has none puts its own socket into `plugins_registry`: it is asked for its name there, and the cluster's
//! controllers call it through the node (`http::csi`).

pub mod drivers;
pub mod local;
pub mod mount;
mod objects;
pub mod proto;
