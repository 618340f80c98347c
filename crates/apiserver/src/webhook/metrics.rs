//! What is counted of webhooks, under upstream's names.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use parking_lot::Mutex;

/// Upper bounds of the duration histogram in seconds: upstream's.
const BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

/// How many series are kept of each metric: names of webhooks come and go with their configurations.
const SERIES: usize = 2000;

/// Codes above this are counted as this.
const GREATEST_CODE: u16 = 600;

/// One call of a webhook, as the labels of the metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    pub(super) name: String,
    /// `admit` or `validating`.
    pub(super) sort: &'static str,
    pub(super) operation: &'static str,
}

impl Asked {
    fn labels(&self) -> String {
        format!("name={:?},operation={:?}", self.name, self.operation)
    }
}

#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Counts {
    durations: BTreeMap<(Asked, bool), Durations>,
    requests: BTreeMap<(Asked, bool, u16), u64>,
    rejections: BTreeMap<(Asked, &'static str, u16), u64>,
    failed_open: BTreeMap<(String, &'static str), u64>,
}

/// The counters of all webhooks.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

fn counted<K: Ord, V: Default>(series: &mut BTreeMap<K, V>, key: K) -> &mut V {
    if series.len() >= SERIES && !series.contains_key(&key) {
        series.clear();
    }
    series.entry(key).or_default()
}

impl Metrics {
    /// A call that has ended.
    pub(super) fn asked(&self, asked: &Asked, took: Duration, rejected: bool, code: u16) {
        let mut counts = self.0.lock();
        *counted(&mut counts.requests, (asked.clone(), rejected, code.min(GREATEST_CODE))) += 1;
        let durations = counted(&mut counts.durations, (asked.clone(), rejected));
        let seconds = took.as_secs_f64();
        durations.count += 1;
        durations.sum += seconds;
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            durations.buckets[bucket] += 1;
        }
    }

    /// A request that was refused: by the webhook, for want of its answer, or for a mistake of this server.
    pub(super) fn rejected(&self, asked: &Asked, error: &'static str, code: u16) {
        *counted(&mut self.0.lock().rejections, (asked.clone(), error, code.min(GREATEST_CODE))) += 1;
    }

    /// A request that went on without the webhook's answer.
    pub(super) fn failed_open(&self, asked: &Asked) {
        *counted(&mut self.0.lock().failed_open, (asked.name.clone(), asked.sort)) += 1;
    }

    /// Adds the lines of `/metrics`; none when no webhook was ever asked.
    pub(crate) fn write(&self, text: &mut String) {
        let counts = self.0.lock();
        if counts.requests.is_empty() {
            return;
        }
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            writeln!(text, "{arguments}").expect("writing to a string does not fail");
        };
        let name = "apiserver_admission_webhook_admission_duration_seconds";
        line(format_args!(
            "# HELP {name} Admission webhook latency histogram in seconds, by name, type and operation."
        ));
        line(format_args!("# TYPE {name} histogram"));
        for ((asked, rejected), durations) in &counts.durations {
            let labels = format!("{},rejected=\"{rejected}\",type=\"{}\"", asked.labels(), asked.sort);
            let mut sum = 0;
            for (bound, bucket) in BOUNDS.iter().zip(&durations.buckets) {
                sum += bucket;
                line(format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {sum}"));
            }
            line(format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {}", durations.count));
            line(format_args!("{name}_sum{{{labels}}} {}", durations.sum));
            line(format_args!("{name}_count{{{labels}}} {}", durations.count));
        }
        let name = "apiserver_admission_webhook_request_total";
        line(format_args!("# HELP {name} Admission webhook request total, by name, type, operation and code."));
        line(format_args!("# TYPE {name} counter"));
        for ((asked, rejected, code), count) in &counts.requests {
            let (labels, sort) = (asked.labels(), asked.sort);
            line(format_args!("{name}{{code=\"{code}\",{labels},rejected=\"{rejected}\",type=\"{sort}\"}} {count}"));
        }
        let name = "apiserver_admission_webhook_rejection_count";
        line(format_args!("# HELP {name} Admission webhook rejection count, by name, type, operation and error."));
        line(format_args!("# TYPE {name} counter"));
        for ((asked, error, code), count) in &counts.rejections {
            let (labels, sort) = (asked.labels(), asked.sort);
            line(format_args!(
                "{name}{{error_type=\"{error}\",{labels},rejection_code=\"{code}\",type=\"{sort}\"}} {count}"
            ));
        }
        let name = "apiserver_admission_webhook_fail_open_count";
        line(format_args!("# HELP {name} Admission webhook fail open count, by name and type."));
        line(format_args!("# TYPE {name} counter"));
        for ((webhook, sort), count) in &counts.failed_open {
            line(format_args!("{name}{{name={webhook:?},type=\"{sort}\"}} {count}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let metrics = Metrics::default();
        let mut text = String::new();
        metrics.write(&mut text);
        assert_eq!(text, "");
        let asked = Asked { name: "a.b.c".to_owned(), sort: "validating", operation: "CREATE" };
        metrics.asked(&asked, Duration::from_millis(30), true, 4000);
        metrics.rejected(&asked, "no_error", 400);
        metrics.failed_open(&asked);
        metrics.write(&mut text);
        for line in [
            r#"apiserver_admission_webhook_request_total{code="600",name="a.b.c",operation="CREATE",rejected="true",type="validating"} 1"#,
            r#"apiserver_admission_webhook_rejection_count{error_type="no_error",name="a.b.c",operation="CREATE",rejection_code="400",type="validating"} 1"#,
            r#"apiserver_admission_webhook_fail_open_count{name="a.b.c",type="validating"} 1"#,
            r#"apiserver_admission_webhook_admission_duration_seconds_bucket{name="a.b.c",operation="CREATE",rejected="true",type="validating",le="0.1"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
