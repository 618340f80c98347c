//! Requests for `metrics.k8s.io` and their answers.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PartialObjectMeta};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::scrape::{Nodes, Pair, Scraper, Usage};
use crate::{GROUP, VERSION};

/// Code and document.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub code: StatusCode,
    /// The object, the list or the `Status`.
    pub body: Value,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{resource}.{GROUP} \"{name}\" not found")]
    NotFound { resource: &'static str, name: String },
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    #[error("unable to fetch metrics")]
    Api(#[from] kube::Error),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Resources,
    Nodes,
    Node(String),
    Pods(Option<String>),
    Pod(String, String),
}

/// Serves the group.
pub struct Metrics {
    client: kube::Client,
    scraper: Scraper<Nodes>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Reads nodes and pods with this client, which has to have the right to.
    pub fn new(client: kube::Client) -> Metrics {
        Metrics { scraper: Scraper::new(Nodes(client.clone())), client }
    }

    /// The group's `APIResourceList`.
    pub fn resources() -> Value {
        let one = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
            "resources": [one("nodes", "NodeMetrics", false), one("pods", "PodMetrics", true)],
        })
    }

    /// Answers a GET of a path below `/apis/metrics.k8s.io/v1beta1`.
    pub async fn answer(&self, path: &str, query: &str) -> Answer {
        let result = match parse(path) {
            Some(asked) => self.find(asked, query).await,
            None => Err(Failure::NoSuchPath),
        };
        match result {
            Ok(body) => Answer { code: StatusCode::OK, body },
            Err(failure) => refuse(&failure),
        }
    }

    async fn find(&self, asked: Asked, query: &str) -> Result<Value, Failure> {
        let list = params(query);
        match asked {
            Asked::Resources => Ok(Metrics::resources()),
            Asked::Nodes => {
                let nodes = Api::<Node>::all(self.client.clone()).list_metadata(&list).await?;
                let pair = self.scraper.pair().await?;
                Ok(list_of("NodeMetricsList", nodes.items.iter().filter_map(|node| node_metrics(node, &pair))))
            }
            Asked::Node(name) => {
                let missing = || Failure::NotFound { resource: "nodes", name: name.clone() };
                let node = Api::<Node>::all(self.client.clone()).get_metadata_opt(&name).await?.ok_or_else(missing)?;
                node_metrics(&node, &self.scraper.pair().await?).ok_or_else(missing)
            }
            Asked::Pods(namespace) => {
                let api: Api<Pod> = match namespace {
                    Some(namespace) => Api::namespaced(self.client.clone(), &namespace),
                    None => Api::all(self.client.clone()),
                };
                let pods = api.list_metadata(&list).await?;
                let pair = self.scraper.pair().await?;
                Ok(list_of("PodMetricsList", pods.items.iter().filter_map(|pod| pod_metrics(pod, &pair))))
            }
            Asked::Pod(namespace, name) => {
                let missing = || Failure::NotFound { resource: "pods", name: format!("{namespace}/{name}") };
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
                let pod = api.get_metadata_opt(&name).await?.ok_or_else(missing)?;
                pod_metrics(&pod, &self.scraper.pair().await?).ok_or_else(missing)
            }
        }
    }
}

fn parse(path: &str) -> Option<Asked> {
    let rest = path.strip_prefix("/apis/")?.strip_prefix(GROUP)?.strip_prefix('/')?.strip_prefix(VERSION)?;
    let parts: Vec<String> = rest
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Some(match parts.as_slice() {
        [] => Asked::Resources,
        ["nodes"] => Asked::Nodes,
        ["nodes", name] => Asked::Node((*name).to_owned()),
        ["pods"] => Asked::Pods(None),
        ["namespaces", namespace, "pods"] => Asked::Pods(Some((*namespace).to_owned())),
        ["namespaces", namespace, "pods", name] => Asked::Pod((*namespace).to_owned(), (*name).to_owned()),
        _ => return None,
    })
}

/// The selectors of a request, for the list of the objects themselves.
fn params(query: &str) -> ListParams {
    let value = |wanted: &str| {
        query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
            (name == wanted && !value.is_empty()).then_some(value)
        })
    };
    ListParams {
        label_selector: value("labelSelector"),
        field_selector: value("fieldSelector"),
        ..ListParams::default()
    }
}

fn refuse(failure: &Failure) -> Answer {
    let (code, reason) = match failure {
        Failure::NotFound { .. } | Failure::NoSuchPath => (StatusCode::NOT_FOUND, "NotFound"),
        // What the API server said of the selector or of the user is what the client wants to hear.
        Failure::Api(kube::Error::Api(status)) => {
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Answer { code, body: serde_json::to_value(status).unwrap_or_default() };
        }
        Failure::Api(error) => {
            tracing::warn!(error = error as &dyn std::error::Error, "metrics cannot be read");
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
        }
    };
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": failure.to_string(),
        "reason": reason, "code": code.as_u16(),
    });
    if let Failure::NotFound { resource, name } = failure {
        body["details"] = json!({"name": name, "group": GROUP, "kind": resource});
    }
    Answer { code, body }
}

fn list_of(kind: &str, items: impl Iterator<Item = Value>) -> Value {
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items.collect::<Vec<_>>(),
    })
}

/// CPUs in billionths, memory in kibibytes: as metrics-server writes them.
fn amounts(usage: &Usage) -> Value {
    // Never negative and far below 2^53.
    let cpu = format!("{:.0}n", (usage.cpu * 1e9).max(0.0));
    let memory = format!("{:.0}Ki", (usage.memory / 1024.0).max(0.0));
    json!({"cpu": cpu, "memory": memory})
}

fn metrics(kind: &str, meta: &ObjectMeta, window: Duration) -> Value {
    let now = Timestamp::now();
    let time = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let mut metadata = json!({"name": meta.name, "creationTimestamp": time});
    if let Some(namespace) = &meta.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(labels) = &meta.labels {
        metadata["labels"] = json!(labels);
    }
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata, "timestamp": time,
        "window": format!("{:.3}s", window.as_secs_f64()),
    })
}

fn node_metrics(node: &PartialObjectMeta<Node>, pair: &Pair) -> Option<Value> {
    let usage = pair.node(node.metadata.name.as_deref()?)?;
    let mut made = metrics("NodeMetrics", &node.metadata, usage.window);
    made["usage"] = amounts(&usage);
    Some(made)
}

fn pod_metrics(pod: &PartialObjectMeta<Pod>, pair: &Pair) -> Option<Value> {
    let (namespace, name) = (pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
    let used = pair.containers(namespace, name);
    let window = used.iter().map(|(_, usage)| usage.window).max()?;
    let mut made = metrics("PodMetrics", &pod.metadata, window);
    made["containers"] = used.iter().map(|(name, usage)| json!({"name": name, "usage": amounts(usage)})).collect();
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |rest: &str, expected: Option<Asked>| {
            assert_eq!(parse(&format!("/apis/metrics.k8s.io/v1beta1{rest}")), expected, "{rest}");
        };
        check("", Some(Asked::Resources));
        check("/nodes", Some(Asked::Nodes));
        check("/nodes/a%2eb", Some(Asked::Node("a.b".into())));
        check("/pods", Some(Asked::Pods(None)));
        check("/namespaces/ns/pods", Some(Asked::Pods(Some("ns".into()))));
        check("/namespaces/ns/pods/p", Some(Asked::Pod("ns".into(), "p".into())));
        check("/namespaces/ns", None);
        assert_eq!(parse("/apis/apps/v1"), None);
    }

    #[test]
    fn selectors_are_passed_on() {
        let list = params("limit=500&labelSelector=a%3Db%2Cc+in+%28d%29&fieldSelector=");
        assert_eq!(list.label_selector.as_deref(), Some("a=b,c in (d)"));
        assert_eq!(list.field_selector, None);
    }

    #[test]
    fn amounts_as_metrics_server_writes_them() {
        let usage = Usage { cpu: 0.25, memory: 4096.0, window: Duration::from_secs(15) };
        assert_eq!(amounts(&usage), json!({"cpu": "250000000n", "memory": "4Ki"}));
        let refused = refuse(&Failure::NotFound { resource: "pods", name: "ns/p".into() });
        assert_eq!(refused.body["message"], "pods.metrics.k8s.io \"ns/p\" not found");
    }
}
