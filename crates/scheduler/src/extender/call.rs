//! One extender's own words: requests and answers as in `k8s.io/kube-scheduler/extender/v1`, whose fields have no JSON names of
//! their own and so begin with capitals; Go reads them in any case, and so is done here.

use std::collections::BTreeMap;
use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::Extender;
use crate::pod::PodInfo;

/// The largest answer that is taken: ten thousand whole nodes.
const LARGEST_ANSWER: usize = 128 * 1024 * 1024;

/// Why an extender is of no help.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It cannot be reached.
    #[error("{verb} with extender at URL {url} failed: {source}")]
    Unreachable {
        /// What was asked.
        verb: String,
        /// Where.
        url: String,
        /// Why it did not work.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It takes too long.
    #[error("{verb} with extender at URL {url}: no answer within {seconds} s")]
    Late {
        /// What was asked.
        verb: String,
        /// Where.
        url: String,
        /// How long it had.
        seconds: f64,
    },
    /// It answers with another code than 200.
    #[error("failed {verb} with extender at URL {url}, code {code}")]
    Code {
        /// What was asked.
        verb: String,
        /// Where.
        url: String,
        /// What it answered.
        code: u16,
    },
    /// It says something that is no answer.
    #[error("{verb} with extender at URL {url}: {problem}")]
    Junk {
        /// What was asked.
        verb: String,
        /// Where.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// It says that it has failed.
    #[error("{0}")]
    Said(String),
}

/// An extender, and the way to it.
pub struct Caller {
    /// What is configured.
    pub extender: Extender,
    client: kube::Client,
}

/// What an extender leaves of some nodes.
#[derive(Debug, Default, PartialEq)]
pub struct Left {
    /// The nodes that do.
    pub nodes: Vec<Arc<str>>,
    /// Those that do not, why, and whether other pods' going could help.
    pub failed: BTreeMap<String, (String, bool)>,
}

/// Victims by node: their uids, and how many disruption budgets they break.
pub type Victims = BTreeMap<String, (Vec<String>, i64)>;

/// A field whatever its letters' case.
fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    let found = value.as_object().and_then(|all| all.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
    found.map_or(&Value::Null, |(_, value)| value)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Caller {
    /// Reads certificates and keys.
    pub async fn new(extender: Extender) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let tls = &extender.tls;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        // What a kubeconfig says of a server is what is said of an extender here.
        let kubeconfig: Kubeconfig = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "extender",
            "contexts": [{"name": "extender", "context": {"cluster": "extender", "user": "extender"}}],
            "clusters": [{"name": "extender", "cluster": {
                "server": extender.url_prefix, "insecure-skip-tls-verify": tls.insecure,
                "certificate-authority": some(&tls.ca_file), "certificate-authority-data": some(&tls.ca_data),
                "tls-server-name": some(&tls.server_name),
            }}],
            "users": [{"name": "extender", "user": {
                "client-certificate": some(&tls.cert_file), "client-certificate-data": some(&tls.cert_data),
                "client-key": some(&tls.key_file), "client-key-data": some(&tls.key_data),
            }}],
        }))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self { client: kube::Client::try_from(config)?, extender })
    }

    /// Whether it takes part in preemption for this pod.
    pub fn preempts_for(&self, pod: &PodInfo) -> bool {
        !self.extender.preempt_verb.is_empty() && self.extender.cares_for(pod)
    }

    /// Whether it wants to see whole nodes.
    pub fn wants_nodes(&self) -> bool {
        let asks = !self.extender.filter_verb.is_empty() || !self.extender.prioritize_verb.is_empty();
        asks && !self.extender.node_cache_capable
    }

    fn junk(&self, verb: &str, problem: impl Into<String>) -> CallError {
        CallError::Junk { verb: verb.to_owned(), url: self.extender.url_prefix.clone(), problem: problem.into() }
    }

    async fn send(&self, verb: &str, body: &Value) -> Result<Value, CallError> {
        let extender = &self.extender;
        let unreachable =
            |source| CallError::Unreachable { verb: verb.to_owned(), url: extender.url_prefix.clone(), source };
        let request = http::Request::post(format!("/{verb}")).header("Content-Type", "application/json");
        let request =
            request.body(Body::from(body.to_string().into_bytes())).map_err(|error| unreachable(error.into()))?;
        let exchange = async {
            let response = self.client.send(request).await.map_err(|error| unreachable(error.into()))?;
            let code = response.status().as_u16();
            if code != 200 {
                return Err(CallError::Code { verb: verb.to_owned(), url: extender.url_prefix.clone(), code });
            }
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(unreachable)?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| self.junk(verb, error.to_string()))
        };
        tokio::time::timeout(extender.timeout, exchange).await.unwrap_or_else(|_| {
            let (verb, url) = (verb.to_owned(), extender.url_prefix.clone());
            Err(CallError::Late { verb, url, seconds: extender.timeout.as_secs_f64() })
        })
    }

    fn question(&self, pod: &Value, nodes: &[Arc<str>], whole: &BTreeMap<Arc<str>, Value>) -> Value {
        if self.extender.node_cache_capable {
            return json!({"Pod": pod, "Nodes": null, "NodeNames": nodes});
        }
        let items: Vec<&Value> = nodes.iter().filter_map(|name| whole.get(name)).collect();
        json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
    }

    /// Which of the nodes do.
    pub async fn filter(
        &self,
        pod: &Value,
        nodes: Vec<Arc<str>>,
        whole: &BTreeMap<Arc<str>, Value>,
    ) -> Result<Left, CallError> {
        let verb = &self.extender.filter_verb;
        if verb.is_empty() {
            return Ok(Left { nodes, failed: BTreeMap::new() });
        }
        let answer = self.send(verb, &self.question(pod, &nodes, whole)).await?;
        let error = text(field(&answer, "Error"));
        if !error.is_empty() {
            return Err(CallError::Said(error.to_owned()));
        }
        let names: Vec<&str> = match field(&answer, "NodeNames").as_array() {
            Some(names) if self.extender.node_cache_capable => names.iter().map(text).collect(),
            _ => {
                let items = field(field(&answer, "Nodes"), "items").as_array();
                items.into_iter().flatten().map(|node| text(&node["metadata"]["name"])).collect()
            }
        };
        let mut left = Left::default();
        for name in names {
            let Some(known) = nodes.iter().find(|known| ***known == *name) else {
                let problem = format!("claims a filtered node {name:?} which is not found in the input node list");
                return Err(self.junk(verb, problem));
            };
            left.nodes.push(known.clone());
        }
        for (map, resolvable) in [("FailedNodes", true), ("FailedAndUnresolvableNodes", false)] {
            for (node, why) in field(&answer, map).as_object().into_iter().flatten() {
                left.failed.insert(node.clone(), (text(why).to_owned(), resolvable));
            }
        }
        Ok(left)
    }

    /// Its scores, 0 to 10, by node.
    pub async fn prioritize(
        &self,
        pod: &Value,
        nodes: &[Arc<str>],
        whole: &BTreeMap<Arc<str>, Value>,
    ) -> Result<BTreeMap<String, i64>, CallError> {
        let verb = &self.extender.prioritize_verb;
        if verb.is_empty() {
            return Ok(BTreeMap::new());
        }
        let answer = self.send(verb, &self.question(pod, nodes, whole)).await?;
        let Some(list) = answer.as_array() else { return Err(self.junk(verb, "no list of scores")) };
        let each =
            list.iter().map(|one| (text(field(one, "Host")).to_owned(), field(one, "Score").as_i64().unwrap_or(0)));
        Ok(each.collect())
    }

    /// What it makes of the victims on some nodes; `whole` are pods by uid, for one that has no cache.
    pub async fn preempt(
        &self,
        pod: &Value,
        victims: &Victims,
        whole: &BTreeMap<String, Value>,
    ) -> Result<Victims, CallError> {
        let verb = &self.extender.preempt_verb;
        let meta = |uids: &[String]| uids.iter().map(|uid| json!({"UID": uid})).collect::<Vec<_>>();
        let full = |uids: &[String]| uids.iter().filter_map(|uid| whole.get(uid).cloned()).collect::<Vec<_>>();
        let map = |pods: &dyn Fn(&[String]) -> Vec<Value>| -> Value {
            let each = victims.iter().map(|(node, (uids, violations))| {
                (node.clone(), json!({"Pods": pods(uids), "NumPDBViolations": violations}))
            });
            Value::Object(each.collect())
        };
        let body = match self.extender.node_cache_capable {
            true => json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": map(&meta)}),
            false => json!({"Pod": pod, "NodeNameToVictims": map(&full), "NodeNameToMetaVictims": null}),
        };
        let answer = self.send(verb, &body).await?;
        let found = field(&answer, "NodeNameToMetaVictims").as_object().into_iter().flatten();
        let each = found.map(|(node, victims)| {
            let pods = field(victims, "Pods").as_array().into_iter().flatten();
            let uids = pods.map(|pod| text(field(pod, "UID")).to_owned()).collect();
            (node.clone(), (uids, field(victims, "NumPDBViolations").as_i64().unwrap_or(0)))
        });
        Ok(each.collect())
    }

    /// Has it bind the pod.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), CallError> {
        let body = json!({"PodName": &*pod.name, "PodNamespace": &*pod.namespace, "PodUID": &*pod.uid, "Node": node});
        let answer = self.send(&self.extender.bind_verb, &body).await?;
        match text(field(&answer, "Error")) {
            "" => Ok(()),
            error => Err(CallError::Said(error.to_owned())),
        }
    }
}
