//! What is counted of conversions, under upstream's names.
//!
//! Source: `pkg/apiserver/conversion/metrics.go` of apiextensions-apiserver, Kubernetes 1.36.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::metrics::{Labels, Writer};

/// Upper bounds of the duration histogram in seconds: upstream's.
const BOUNDS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Why a conversion failed, as the label `failure_type` names it; empty where it did not.
pub(super) type FailureType = &'static str;

/// It could not be asked.
pub(super) const CALL: FailureType = "conversion_webhook_call_failure";
/// Its answer is none.
pub(super) const MALFORMED: FailureType = "conversion_webhook_malformed_response_failure";
/// It gave back fewer or more objects than it got.
pub(super) const PARTIAL: FailureType = "conversion_webhook_partial_response_failure";
/// An object that it gave back cannot be used.
pub(super) const INVALID: FailureType = "conversion_webhook_invalid_converted_object_failure";

#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; BOUNDS.len()],
    beyond: u64,
    sum: f64,
}

/// The counters of all conversions.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<BTreeMap<FailureType, Durations>>);

impl Metrics {
    /// A call that has ended.
    pub(super) fn count(&self, failure: FailureType, took: Duration) {
        let mut counts = self.0.lock();
        let durations = counts.entry(failure).or_default();
        let seconds = took.as_secs_f64();
        durations.sum += seconds;
        match BOUNDS.iter().position(|bound| seconds <= *bound) {
            Some(bucket) => durations.buckets[bucket] += 1,
            None => durations.beyond += 1,
        }
    }

    /// Adds the lines of `/metrics`; none when no webhook was ever asked.
    pub(super) fn write(&self, out: &mut Writer) {
        let counts = self.0.lock();
        if counts.is_empty() {
            return;
        }
        let labels = |failure: FailureType| {
            let result = if failure.is_empty() { "success" } else { "failure" };
            Labels::new().with("failure_type", failure).with("result", result)
        };
        let name = "apiserver_conversion_webhook_request_total";
        out.family(
            name,
            "counter",
            "Counter for conversion webhook requests with success/failure and failure error type",
        );
        for (failure, durations) in counts.iter() {
            out.value(name, &labels(failure), durations.buckets.iter().sum::<u64>() + durations.beyond);
        }
        let name = "apiserver_conversion_webhook_duration_seconds";
        out.family(name, "histogram", "Conversion webhook request latency");
        for (failure, durations) in counts.iter() {
            let buckets = BOUNDS.into_iter().zip(durations.buckets);
            out.histogram(name, &labels(failure), buckets, durations.beyond, durations.sum);
        }
    }
}
