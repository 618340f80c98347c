//! Commands that are clients of the API like any other: they take any kubeconfig and know nothing of kobune's inside.

mod apply;
mod manifests;
mod readiness;

pub use apply::{ApplyOptions, apply};
