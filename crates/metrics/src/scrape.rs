//! Asks the nodes, as rarely as an answer needs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;

use crate::sample::{self, Point, Sample};

/// What was read this long ago is still "now".
const FRESH: Duration = Duration::from_secs(10);
/// A rate is of at least this long.
const SHORTEST: Duration = Duration::from_secs(1);
/// What was read this long ago says nothing about now; the same is metrics-server's longest window, doubled.
const STALE: Duration = Duration::from_secs(120);
/// A node may take so long to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many nodes are asked at a time.
const NODES_AT_ONCE: usize = 8;

/// What all nodes said at about one moment.
pub type Round = BTreeMap<String, Sample>;

/// Use of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPUs.
    pub cpu: f64,
    /// Bytes.
    pub memory: f64,
    /// How long the CPUs were measured.
    pub window: Duration,
}

/// Two rounds, the older first.
#[derive(Clone, Debug)]
pub struct Pair(Arc<Round>, Arc<Round>);

impl Pair {
    /// Use of a node.
    pub fn node(&self, name: &str) -> Option<Usage> {
        let now = self.1.get(name)?;
        // Without an earlier word nothing is known of its CPUs.
        let before = self.0.get(name)?;
        Some(usage(Some(before.node), now.node, now.at - before.at))
    }

    /// Use of a pod's containers by name, wherever it runs.
    pub fn containers(&self, namespace: &str, pod: &str) -> Vec<(String, Usage)> {
        let mut found = Vec::new();
        for (node, now) in self.1.iter() {
            let before = self.0.get(node);
            let between = before.map_or(Duration::ZERO, |before| now.at - before.at);
            let first = (namespace.to_owned(), pod.to_owned(), String::new());
            let own = now.containers.range(first..).take_while(|((ns, name, _), _)| ns == namespace && name == pod);
            found.extend(own.map(|(name, point)| {
                let earlier = before.and_then(|before| before.containers.get(name)).copied();
                (name.2.clone(), usage(earlier, *point, between))
            }));
        }
        found
    }
}

fn usage(before: Option<Point>, now: Point, between: Duration) -> Usage {
    Usage { cpu: sample::rate(before, now, between), memory: now.memory, window: between }
}

/// Reads nodes and remembers the last rounds.
#[derive(Debug)]
pub struct Scraper<C> {
    source: C,
    /// The newest last; at most two.
    rounds: Mutex<VecDeque<(Instant, Arc<Round>)>>,
    /// Whoever asks while somebody reads waits for what that one reads.
    turn: tokio::sync::Mutex<()>,
}

/// Where samples come from.
pub trait Source: Send + Sync {
    /// What every node says now; a node that does not answer is left out.
    fn read(&self) -> impl Future<Output = Result<Round, kube::Error>> + Send;
}

impl<C: Source> Scraper<C> {
    /// Nothing is read yet.
    pub fn new(source: C) -> Scraper<C> {
        Scraper { source, rounds: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Two rounds whose newer one is new enough.
    pub async fn pair(&self) -> Result<Pair, kube::Error> {
        let _turn = self.turn.lock().await;
        loop {
            let wait = match next(&mut self.rounds.lock(), Instant::now()) {
                Step::Answer(pair) => return Ok(pair),
                Step::ReadAfter(wait) => wait,
            };
            tokio::time::sleep(wait).await;
            let round = Arc::new(self.source.read().await?);
            self.rounds.lock().push_back((Instant::now(), round));
        }
    }
}

/// What to do for an answer.
#[derive(Debug)]
enum Step {
    /// It is known.
    Answer(Pair),
    /// Nodes have to be read, not before this has passed.
    ReadAfter(Duration),
}

/// The next step; drops rounds that are of no use any more. Pure.
fn next(rounds: &mut VecDeque<(Instant, Arc<Round>)>, now: Instant) -> Step {
    rounds.retain(|(at, _)| now.duration_since(*at) < STALE);
    while rounds.len() > 2 {
        rounds.pop_front();
    }
    let age = |at: &Instant| now.duration_since(*at);
    match (rounds.front(), rounds.back()) {
        (Some((_, before)), Some((last, newest))) if rounds.len() == 2 && age(last) < FRESH => {
            Step::Answer(Pair(Arc::clone(before), Arc::clone(newest)))
        }
        (_, Some((last, _))) => Step::ReadAfter(SHORTEST.saturating_sub(age(last))),
        _ => Step::ReadAfter(Duration::ZERO),
    }
}

/// The nodes of a cluster, through its API server.
pub struct Nodes(pub kube::Client);

impl Source for Nodes {
    async fn read(&self) -> Result<Round, kube::Error> {
        let nodes = Api::<Node>::all(self.0.clone()).list_metadata(&ListParams::default()).await?;
        let names = nodes.items.into_iter().filter_map(|node| node.metadata.name);
        let asked = futures::stream::iter(names).map(|name| async move {
            let sample = tokio::time::timeout(PATIENCE, self.ask(&name)).await;
            match sample {
                Ok(Ok(sample)) => Some((name, sample)),
                Ok(Err(error)) => {
                    tracing::debug!(
                        node = name,
                        error = &error as &dyn std::error::Error,
                        "a node does not say what it uses"
                    );
                    None
                }
                Err(_) => None,
            }
        });
        Ok(asked.buffer_unordered(NODES_AT_ONCE).filter_map(std::future::ready).collect().await)
    }
}

impl Nodes {
    async fn ask(&self, name: &str) -> Result<Sample, kube::Error> {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let request = http::Request::get(format!("/api/v1/nodes/{name}/proxy/metrics/resource")).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        let text = self.0.request_text(request).await?;
        Ok(sample::parse(&text, Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(at: Instant, cpu: f64) -> (Instant, Arc<Round>) {
        let text = format!(
            "node_cpu_usage_seconds_total {cpu}\nnode_memory_working_set_bytes 7\n\
             container_cpu_usage_seconds_total{{container=\"c\",namespace=\"ns\",pod=\"p\"}} {cpu}\n"
        );
        (at, Arc::new([("n".to_owned(), sample::parse(&text, at))].into()))
    }

    #[test]
    fn nodes_are_asked_no_more_than_needed() {
        let begin = Instant::now();
        let second = |seconds: u64| begin + Duration::from_secs(seconds);
        let check = |ages: &[u64], now: u64, expected: &str| {
            let mut rounds = ages.iter().map(|at| round(second(*at), *at as f64 / 2.0)).collect();
            let step = match next(&mut rounds, second(now)) {
                Step::Answer(pair) => format!("{:?}", pair.node("n").expect("the node")),
                Step::ReadAfter(wait) => format!("read after {wait:?}"),
            };
            assert_eq!(step, expected, "{ages:?} {now}");
        };
        let half = |window: u64| format!("{:?}", Usage { cpu: 0.5, memory: 7.0, window: Duration::from_secs(window) });
        check(&[], 0, "read after 0ns");
        check(&[5], 5, "read after 1s");
        check(&[5], 9, "read after 0ns");
        check(&[5, 6], 7, &half(1));
        check(&[5, 20], 21, &half(15));
        check(&[5, 6], 20, "read after 0ns");
        check(&[5, 6, 20], 21, &half(14));
        check(&[5, 6], 500, "read after 0ns");
    }

    #[test]
    fn pods_are_found_wherever_they_run() {
        let begin = Instant::now();
        let pair = Pair(round(begin, 0.0).1, round(begin + Duration::from_secs(2), 1.0).1);
        let found = pair.containers("ns", "p");
        assert_eq!((found.len(), found[0].0.as_str(), found[0].1.cpu), (1, "c", 0.5));
        assert!(pair.containers("ns", "other").is_empty() && pair.node("m").is_none());
    }
}
