//! NetworkPolicy, and the policies of administrators around it: which pods may talk to which, by rules in the same nftables table as services.
//!
//! [`objects`] keeps what of NetworkPolicies, pods and namespaces matters. [`plan`] decides, without any I/O, which chain
//! each pod of this node goes through and what it lets pass. [`rules`] writes that into the table.
//!
//! ```text
//!   forward ──> policy-from ──source is isolated──> from-… ─match─> policy-to ──destination is isolated──> to-… ─match─> accept
//!                  │                              └─ drop           │                                  └─ drop
//!                  └────────────not isolated─────────────────────> ┴─not isolated─> pass
//! ```
//!
//! Policies of administrators ([`admin`]) stand in chains before and behind: of the first rule that fits, `Accept` goes on
//! as a match does, `Deny` drops, and `Pass` goes to the chain of the next tier.
//!
//! A pod is looked up in a map, and a peer in a set: what a packet costs depends on the rules of the policies that select
//! its own pods, not on how many pods or policies there are. Pods that the same policies select share a chain. Only the
//! first packet of a connection comes here; connections that were allowed stay when policies change.
//!
//! A pod may talk to itself whatever NetworkPolicies say; what it says to itself through a Service is subject to administrators.
//! What a pod and its own node say to each other is never restricted, by administrators neither, and DNS is part of the node: it does not pass
//! `forward`. Pods in the node's network are neither isolated nor peers. Upstream:
//! <https://kubernetes.io/docs/concepts/services-networking/network-policies/>.

pub mod admin;
pub mod objects;
pub mod plan;
mod ranges;
pub mod rules;
pub mod selector;
