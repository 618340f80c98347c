//! What is counted of requests. Counting one takes one short lock and no allocation.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::text::{Labels, Writer};

/// Upper bounds of the duration histogram in seconds: upstream's.
const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// What requests are told apart by. Every part comes from a bounded set: verbs, kinds that exist, their subresources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Series<'a> {
    /// The verb in upper case, as upstream's metrics have it.
    pub verb: &'static str,
    /// The API group.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The subresource, or the path of what is no resource.
    pub subresource: &'a str,
    /// `resource`, `namespace`, `cluster`, or nothing.
    pub scope: &'static str,
    /// Whether nothing was to be kept.
    pub dry_run: bool,
}

#[derive(Debug)]
struct Counted {
    verb: &'static str,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    scope: &'static str,
    dry_run: bool,
    codes: Vec<(u16, u64)>,
    buckets: [u32; BOUNDS.len()],
    slow: u32,
    seconds: f64,
}

/// How many requests of a sort are worked on, and how many were turned away.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    pub read_only: AtomicUsize,
    pub mutating: AtomicUsize,
    pub dropped_read_only: AtomicU64,
    pub dropped_mutating: AtomicU64,
    /// Watches and streams.
    pub long_running: AtomicUsize,
    /// Requests that were given up because they took too long.
    pub timed_out: AtomicU64,
}

/// What the server counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Under a hash of its series, whose seed is this process' own.
    counted: Mutex<HashMap<u64, Counted>>,
    seed: RandomState,
    pub in_flight: InFlight,
}

impl Requests {
    /// Counts a request that has been answered (for watches: begun to be answered).
    pub(crate) fn count(&self, series: &Series<'_>, code: u16, took: Duration) {
        let hash = self.seed.hash_one(series);
        let mut counted = self.counted.lock();
        let entry = counted.entry(hash).or_insert_with(|| Counted {
            verb: series.verb,
            group: series.group.into(),
            version: series.version.into(),
            resource: series.resource.into(),
            subresource: series.subresource.into(),
            scope: series.scope,
            dry_run: series.dry_run,
            codes: Vec::new(),
            buckets: [0; BOUNDS.len()],
            slow: 0,
            seconds: 0.0,
        });
        match entry.codes.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => entry.codes.push((code, 1)),
        }
        if matches!(series.verb, "WATCH" | "CONNECT") {
            return;
        }
        let seconds = took.as_secs_f64();
        entry.seconds += seconds;
        match BOUNDS.iter().position(|bound| seconds <= *bound) {
            Some(bucket) => entry.buckets[bucket] = entry.buckets[bucket].wrapping_add(1),
            None => entry.slow = entry.slow.wrapping_add(1),
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        let counted = self.counted.lock();
        let mut entries: Vec<&Counted> = counted.values().collect();
        entries.sort_by_key(|entry| (&entry.group, &entry.resource, &entry.subresource, entry.verb, entry.scope));
        let labels = |entry: &Counted| {
            Labels::new()
                .with("component", "apiserver")
                .with("dry_run", if entry.dry_run { "All" } else { "" })
                .with("group", &entry.group)
                .with("resource", &entry.resource)
                .with("scope", entry.scope)
                .with("subresource", &entry.subresource)
                .with("verb", entry.verb)
                .with("version", &entry.version)
        };
        out.family(
            "apiserver_request_total",
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for entry in &entries {
            for (code, count) in &entry.codes {
                let labels = labels(entry).with("code", &code.to_string());
                out.value("apiserver_request_total", &labels, *count);
            }
        }
        let name = "apiserver_request_duration_seconds";
        out.family(
            name,
            "histogram",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for entry in &entries {
            if !matches!(entry.verb, "WATCH" | "CONNECT") {
                let buckets = BOUNDS.iter().zip(&entry.buckets).map(|(bound, count)| (*bound, u64::from(*count)));
                out.histogram(name, &labels(entry), buckets, u64::from(entry.slow), entry.seconds);
            }
        }
        drop(counted);
        let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed) as u64;
        let flight = &self.in_flight;
        let kinds = [
            ("mutating", &flight.mutating, &flight.dropped_mutating),
            ("readOnly", &flight.read_only, &flight.dropped_read_only),
        ];
        let name = "apiserver_current_inflight_requests";
        out.family(name, "gauge", "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.");
        for (kind, now, _) in kinds {
            out.value(name, &Labels::new().with("request_kind", kind), load(now));
        }
        let name = "apiserver_dropped_requests_total";
        out.family(name, "counter", "Number of requests dropped with 'Try again later' response.");
        for (kind, _, dropped) in kinds {
            out.value(name, &Labels::new().with("request_kind", kind), dropped.load(Ordering::Relaxed));
        }
        let name = "apiserver_longrunning_requests";
        out.family(name, "gauge", "Gauge of all active long-running apiserver requests.");
        out.value(name, &Labels::new(), load(&flight.long_running));
        let name = "apiserver_request_terminations_total";
        out.family(name, "counter", "Number of requests which apiserver terminated in self-defense.");
        out.value(name, &Labels::new(), flight.timed_out.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted() {
        let requests = Requests::default();
        let series = Series { verb: "GET", version: "v1", resource: "pods", scope: "resource", ..Series::default() };
        requests.count(&series, 200, Duration::from_millis(3));
        requests.count(&series, 200, Duration::from_millis(300));
        requests.count(&series, 404, Duration::from_secs(70));
        requests.count(&Series { verb: "WATCH", ..series }, 200, Duration::from_secs(1));
        let mut out = Writer::default();
        requests.write(&mut out);
        let text = out.into_text();
        let labels = r#"component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1""#;
        for expected in [
            format!("apiserver_request_total{{{labels},code=\"200\"}} 2\n"),
            format!("apiserver_request_total{{{labels},code=\"404\"}} 1\n"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1\n"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.4\"}} 2\n"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"60\"}} 2\n"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3\n"),
            format!("apiserver_request_duration_seconds_count{{{labels}}} 3\n"),
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0\n".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected} in {text}");
        }
        assert!(!text.contains("bucket{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"WATCH\""));
    }
}
