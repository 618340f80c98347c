//! `/metrics` in the Prometheus text form. Counting a request takes one short lock.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use parking_lot::Mutex;

use crate::ApiServer;

/// Upper bounds of the duration histogram in seconds: a few of upstream's.
const BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Counts {
    /// By verb, resource and code.
    requests: BTreeMap<(&'static str, Box<str>), BTreeMap<u16, u64>>,
    durations: BTreeMap<&'static str, Durations>,
}

/// What the server counts. The number of series is bounded by verbs, known resources and status codes.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

impl Metrics {
    /// Counts a request that has been answered (for watches: begun to be answered).
    pub(crate) fn count(&self, verb: &'static str, resource: &str, code: u16, took: Duration) {
        let mut counts = self.0.lock();
        let by_code = match counts.requests.get_mut(&(verb, resource) as &dyn Pair) {
            Some(found) => found,
            None => counts.requests.entry((verb, resource.into())).or_default(),
        };
        *by_code.entry(code).or_default() += 1;
        if verb != "watch" {
            let durations = counts.durations.entry(verb).or_default();
            let seconds = took.as_secs_f64();
            durations.count += 1;
            durations.sum += seconds;
            if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
                durations.buckets[bucket] += 1;
            }
        }
    }
}

/// A verb and a resource, borrowed for a look-up.
trait Pair {
    fn parts(&self) -> (&str, &str);
}

impl Pair for (&'static str, &str) {
    fn parts(&self) -> (&str, &str) {
        (self.0, self.1)
    }
}

impl Pair for (&'static str, Box<str>) {
    fn parts(&self) -> (&str, &str) {
        (self.0, &self.1)
    }
}

impl<'p> std::borrow::Borrow<dyn Pair + 'p> for (&'static str, Box<str>) {
    fn borrow(&self) -> &(dyn Pair + 'p) {
        self
    }
}

impl PartialEq for dyn Pair + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Pair + '_ {}

impl PartialOrd for dyn Pair + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Pair + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl ApiServer {
    /// The text that `/metrics` answers.
    pub(crate) fn metrics_text(&self) -> String {
        let mut text = String::with_capacity(8192);
        let counts = self.metrics.0.lock();
        text.push_str("# HELP apiserver_request_total Counter of requests by verb, resource and HTTP status.\n# TYPE apiserver_request_total counter\n");
        for ((verb, resource), codes) in &counts.requests {
            for (code, count) in codes {
                line(
                    &mut text,
                    format_args!(
                        "apiserver_request_total{{verb=\"{}\",resource=\"{resource}\",code=\"{code}\"}} {count}",
                        verb.to_uppercase()
                    ),
                );
            }
        }
        text.push_str("# HELP apiserver_request_duration_seconds Response latency by verb.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (verb, durations) in &counts.durations {
            let verb = verb.to_uppercase();
            let mut sum = 0;
            for (bound, bucket) in BOUNDS.iter().zip(&durations.buckets) {
                sum += bucket;
                line(
                    &mut text,
                    format_args!("apiserver_request_duration_seconds_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {sum}"),
                );
            }
            line(
                &mut text,
                format_args!(
                    "apiserver_request_duration_seconds_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {}",
                    durations.count
                ),
            );
            line(
                &mut text,
                format_args!("apiserver_request_duration_seconds_sum{{verb=\"{verb}\"}} {}", durations.sum),
            );
            line(
                &mut text,
                format_args!("apiserver_request_duration_seconds_count{{verb=\"{verb}\"}} {}", durations.count),
            );
        }
        drop(counts);
        text.push_str("# HELP apiserver_current_inflight_requests Requests that are being worked on.\n# TYPE apiserver_current_inflight_requests gauge\n");
        let in_flight = self.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        line(&mut text, format_args!("apiserver_current_inflight_requests {in_flight}"));
        text.push_str(
            "# HELP kobune_store_revision The store's newest revision.\n# TYPE kobune_store_revision gauge\n",
        );
        line(&mut text, format_args!("kobune_store_revision {}", self.store.revision()));
        self.webhooks.metrics.write(&mut text);
        text
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a string does not fail");
}
