//! What is counted of authorizers, under upstream's names.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::metrics::{Labels, Writer};

/// Upper bounds of the histogram of webhooks' answers in seconds.
const BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

/// How often an authorizer has settled what becomes of a request.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) allowed: AtomicU64,
    pub(crate) denied: AtomicU64,
}

/// How asking a webhook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Success,
    Timeout,
    Error,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Counts {
    /// By type and name.
    decisions: BTreeMap<(&'static str, String), Arc<Decisions>>,
    evaluations: BTreeMap<(String, Outcome), Histogram>,
    failed_open: BTreeMap<String, u64>,
    excluded: BTreeMap<String, u64>,
    condition_errors: BTreeMap<String, u64>,
    reloads: BTreeMap<&'static str, u64>,
}

/// The counters. Their names are those of authorizers, which configurations bound.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

impl Metrics {
    /// The counters of an authorizer, which outlive it: one that comes back after a reload counts on.
    pub(super) fn decisions(&self, kind: &'static str, name: &str) -> Arc<Decisions> {
        Arc::clone(self.0.lock().decisions.entry((kind, name.to_owned())).or_default())
    }

    pub(super) fn asked(&self, name: &str, outcome: Outcome, took: Duration) {
        let mut counts = self.0.lock();
        let histogram = counts.evaluations.entry((name.to_owned(), outcome)).or_default();
        let seconds = took.as_secs_f64();
        histogram.count += 1;
        histogram.sum += seconds;
        for (bound, bucket) in BOUNDS.iter().zip(&mut histogram.buckets) {
            *bucket += u64::from(seconds <= *bound);
        }
    }

    pub(super) fn failed_open(&self, name: &str) {
        *self.0.lock().failed_open.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn excluded(&self, name: &str) {
        *self.0.lock().excluded.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn condition_failed(&self, name: &str) {
        *self.0.lock().condition_errors.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn reloaded(&self, worked: bool) {
        *self.0.lock().reloads.entry(if worked { "success" } else { "failure" }).or_default() += 1;
    }

    /// Adds the lines of `/metrics`.
    pub(crate) fn write(&self, out: &mut Writer) {
        let counts = self.0.lock();
        let name = "apiserver_authorization_decisions_total";
        out.family(
            name,
            "counter",
            "Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision.",
        );
        for ((kind, authorizer), decisions) in &counts.decisions {
            for (decision, count) in [("allowed", &decisions.allowed), ("denied", &decisions.denied)] {
                let labels = Labels::new().with("decision", decision).with("name", authorizer).with("type", kind);
                out.value(name, &labels, count.load(Ordering::Relaxed));
            }
        }
        if !counts.reloads.is_empty() {
            let name = "apiserver_authorization_config_controller_automatic_reloads_total";
            out.family(
                name,
                "counter",
                "Total number of automatic reloads of authorization configuration split by status.",
            );
            for (status, count) in &counts.reloads {
                out.value(name, &Labels::new().with("status", status), count);
            }
        }
        if !counts.evaluations.is_empty() {
            let name = "apiserver_authorization_webhook_evaluations_total";
            out.family(name, "counter", "Round-trips to authorization webhooks.");
            for ((webhook, outcome), histogram) in &counts.evaluations {
                let labels = Labels::new().with("name", webhook).with("result", outcome.name());
                out.value(name, &labels, histogram.count);
            }
            let name = "apiserver_authorization_webhook_duration_seconds";
            out.family(name, "histogram", "Request latency in seconds.");
            for ((webhook, outcome), histogram) in &counts.evaluations {
                let labels = || Labels::new().with("name", webhook).with("result", outcome.name());
                for (bound, bucket) in BOUNDS.iter().zip(&histogram.buckets) {
                    out.value(&format!("{name}_bucket"), &labels().with("le", &bound.to_string()), bucket);
                }
                out.value(&format!("{name}_bucket"), &labels().with("le", "+Inf"), histogram.count);
                out.value(&format!("{name}_sum"), &labels(), histogram.sum);
                out.value(&format!("{name}_count"), &labels(), histogram.count);
            }
        }
        for (name, help, series) in [
            (
                "apiserver_authorization_webhook_evaluations_fail_open_total",
                "NoOpinion results due to webhook timeout or error.",
                &counts.failed_open,
            ),
            (
                "apiserver_authorization_match_condition_exclusions_total",
                "Total number of exclusions when an authorization webhook is skipped because match conditions exclude it.",
                &counts.excluded,
            ),
            (
                "apiserver_authorization_match_condition_evaluation_errors_total",
                "Total number of errors when an authorization webhook encounters a match condition error.",
                &counts.condition_errors,
            ),
        ] {
            if !series.is_empty() {
                out.family(name, "counter", help);
                for (authorizer, count) in series {
                    let mut labels = Labels::new().with("name", authorizer);
                    if name.contains("match_condition") {
                        labels = labels.with("type", "Webhook");
                    }
                    out.value(name, &labels, count);
                }
            }
        }
    }
}
