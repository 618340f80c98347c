//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, for `kubectl top` and for autoscalers.
//!
//! Nothing runs while nobody asks. A request reads `/metrics/resource` of every node through the API server, compares
//! with what the same nodes said some seconds before, and answers with the rate between the two; only the first request
//! after a pause waits a second for its second sample. Shapes are those of `k8s.io/metrics` and of metrics-server.

mod answer;
mod sample;
mod scrape;

pub use answer::{Answer, Metrics};

/// The API group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";
