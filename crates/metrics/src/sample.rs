//! What a node said at a moment, and the use of CPU between two moments. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// CPU time and memory of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// CPU time since its start in seconds.
    pub cpu: f64,
    /// Working set in bytes.
    pub memory: f64,
    /// When it was started, in seconds of the epoch; 0 when that is not told.
    pub started: f64,
    /// When the node read this, in seconds of the epoch; 0 when that is not told.
    pub at: f64,
}

/// Namespace, pod and container.
pub type Name = (String, String, String);

/// What one node said.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When it was asked.
    pub at: Instant,
    /// The machine.
    pub node: Point,
    /// Its containers.
    pub containers: BTreeMap<Name, Point>,
}

/// Reads the text of `/metrics/resource`; lines that it does not know are passed over.
pub fn parse(text: &str, at: Instant) -> Sample {
    let mut sample = Sample { at, node: Point::default(), containers: BTreeMap::new() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, labels, value, time)) = split(line) else { continue };
        let set = |point: &mut Point| {
            match metric {
                "container_cpu_usage_seconds_total" | "node_cpu_usage_seconds_total" => {
                    (point.cpu, point.at) = (value, time);
                }
                "container_memory_working_set_bytes" | "node_memory_working_set_bytes" => point.memory = value,
                "container_start_time_seconds" => point.started = value,
                _ => {}
            };
        };
        if metric.starts_with("node_") {
            set(&mut sample.node);
        } else if metric.starts_with("container_")
            && let (Some(namespace), Some(pod), Some(container)) =
                (label(labels, "namespace"), label(labels, "pod"), label(labels, "container"))
        {
            set(sample.containers.entry((namespace, pod, container)).or_default());
        }
    }
    sample
}

/// Metric, labels, value and time in seconds of a line.
fn split(line: &str) -> Option<(&str, &str, f64, f64)> {
    let (metric, labels, rest) = match line.split_once('{') {
        Some((metric, rest)) => {
            let (labels, rest) = rest.rsplit_once('}')?;
            (metric, labels, rest)
        }
        None => {
            let (metric, rest) = line.split_once(' ')?;
            (metric, "", rest)
        }
    };
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let milliseconds: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    Some((metric, labels, value, milliseconds / 1000.0))
}

/// The value of a label. Names of objects have nothing in them that would have to be escaped.
fn label(labels: &str, name: &str) -> Option<String> {
    labels.split(',').find_map(|pair| {
        let value = pair.trim().strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"')?;
        Some(value.to_owned())
    })
}

/// CPUs in use between two moments. A thing that is new, or was started anew, has its average since its start.
pub fn rate(before: Option<Point>, now: Point, between: Duration) -> f64 {
    let same = before.filter(|before| before.started == now.started && before.cpu <= now.cpu);
    let (used, seconds) = match same {
        Some(before) if before.at > 0.0 && now.at > before.at => (now.cpu - before.cpu, now.at - before.at),
        Some(before) => (now.cpu - before.cpu, between.as_secs_f64()),
        None if now.started > 0.0 && now.at > now.started => (now.cpu, now.at - now.started),
        None => return 0.0,
    };
    if seconds > 0.0 { used / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "# HELP x\n# TYPE x counter\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 2000\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 4096 2000\n\
            container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1\n\
            pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 9 2000\n\
            node_cpu_usage_seconds_total 7 2000\nnode_memory_working_set_bytes 8192 2000\nnonsense\n{}\n";
        let sample = parse(text, Instant::now());
        let name = ("ns".to_owned(), "p".to_owned(), "c".to_owned());
        assert_eq!(sample.containers[&name], Point { cpu: 1.5, memory: 4096.0, started: 1.0, at: 2.0 });
        assert_eq!(sample.containers.len(), 1);
        assert_eq!(sample.node, Point { cpu: 7.0, memory: 8192.0, started: 0.0, at: 2.0 });
    }

    #[test]
    fn rates() {
        let point = |cpu: f64, started: f64, at: f64| Point { cpu, memory: 0.0, started, at };
        let check = |before: Option<Point>, now: Point, expected: f64| {
            assert_eq!(rate(before, now, Duration::from_secs(2)), expected, "{before:?} {now:?}");
        };
        check(Some(point(1.0, 5.0, 10.0)), point(3.0, 5.0, 14.0), 0.5);
        check(Some(point(1.0, 0.0, 0.0)), point(3.0, 0.0, 0.0), 1.0);
        check(None, point(3.0, 5.0, 11.0), 0.5);
        check(Some(point(9.0, 5.0, 10.0)), point(1.0, 10.0, 12.0), 0.5);
        check(None, point(3.0, 0.0, 11.0), 0.0);
    }
}
