//! Reads what stands around an object.

use anyhow::Result;
use futures::future::join_all;
use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::read::{selector_query, text};
use super::writer::Writer;
use super::{Need, Related, metadata, services};
use crate::connect::Cluster;
use crate::object::ObjectRef;
use crate::request::{self, RequestError};
use crate::verbs::{from_server, outcome};

/// All objects of a path, a page at a time.
pub async fn list(cluster: &Cluster, path: &str, query: &str, chunk_size: usize) -> Result<Vec<Value>, RequestError> {
    let (mut found, mut token) = (Vec::new(), String::new());
    let limit = if chunk_size == 0 { String::new() } else { format!("&limit={chunk_size}") };
    loop {
        let page = format!("{path}?{query}{limit}&continue={}", request::query(&token));
        let answer = request::send(&cluster.client, Method::GET, &page, None, "application/json").await?;
        outcome::warn(&answer.warnings);
        let mut answer = answer.body;
        if let Some(items) = answer.get_mut("items").and_then(Value::as_array_mut) {
            found.append(items);
        }
        token = text(&answer["metadata"]["continue"]);
        if token.is_empty() {
            return Ok(found);
        }
    }
}

/// Reads for one command.
pub struct Gatherer<'c> {
    /// From where.
    pub cluster: &'c Cluster,
    /// How many objects at once.
    pub chunk_size: usize,
    /// Whether events are wanted.
    pub show_events: bool,
}

impl Gatherer<'_> {
    async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, RequestError> {
        list(self.cluster, path, query, self.chunk_size).await
    }

    async fn get(&self, path: &str) -> Result<Value, RequestError> {
        let answer = request::send(&self.cluster.client, Method::GET, path, None, "application/json").await?;
        Ok(answer.body)
    }

    /// What the description of an object needs.
    pub async fn related(&self, need: Need, kind: &str, object: &Value) -> Result<Related, RequestError> {
        let meta = &object["metadata"];
        let (name, namespace) = (text(&meta["name"]), request::query(&text(&meta["namespace"])));
        let core = format!("/api/v1/namespaces/{namespace}");
        let slices = |of: &str| {
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            (path, format!("labelSelector={}", request::query(&format!("kubernetes.io/service-name={of}"))))
        };
        let selected = || {
            let chosen = &object["spec"]["selector"];
            let query = match kind {
                "ReplicationController" => super::read::labels(chosen),
                _ => selector_query(chosen).unwrap_or_default(),
            };
            format!("labelSelector={}", request::query(&query))
        };
        let mut related = Related::default();
        match need {
            Need::Nothing | Need::Events => {}
            Need::Pods => match self.list(&format!("{core}/pods"), &selected()).await {
                Ok(pods) => related.pods = pods,
                // The other controllers are not described then at all.
                Err(error) if kind == "ReplicaSet" => related.pods_error = Some(error.to_string()),
                Err(error) => return Err(error),
            },
            Need::ReplicaSets => {
                let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
                related.replica_sets = self.list(&path, &selected()).await.unwrap_or_default();
            }
            Need::NamespacePods => related.pods = self.list(&format!("{core}/pods"), "").await?,
            Need::Slices => {
                let (path, query) = slices(&name);
                related.slices = self.list(&path, &query).await.unwrap_or_default();
            }
            Need::Backends => {
                let reads = services::backend_services(object).into_iter().map(async |service| {
                    let (path, query) = slices(&service);
                    let both = async {
                        let slices = self.list(&path, &query).await?;
                        Ok((self.get(&format!("{core}/services/{}", request::query(&service))).await?, slices))
                    };
                    let both = both.await.map_err(|error: RequestError| error.to_string());
                    (service, both)
                });
                related.backends = join_all(reads).await.into_iter().collect();
            }
            Need::Bounds => {
                let own = format!("/api/v1/namespaces/{}", request::query(&name));
                related.quotas = self.if_served(&format!("{own}/resourcequotas")).await?;
                related.limit_ranges = self.if_served(&format!("{own}/limitranges")).await?;
            }
            Need::Node => {
                let fields = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
                match self.list("/api/v1/pods", &format!("fieldSelector={}", request::query(&fields))).await {
                    Ok(pods) => related.pods = pods,
                    Err(error) if error.is(403) => related.pods_error = Some(error.to_string()),
                    Err(error) => return Err(error),
                }
                let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
                let lease = self.get(&format!("{path}/{}", request::query(&name))).await;
                related.lease = Some(lease.map_err(|error| error.to_string()));
            }
        }
        if self.show_events && !matches!(need, Need::Nothing | Need::Bounds) {
            related.events = Some(self.events(need, kind, object).await);
        }
        Ok(related)
    }

    async fn if_served(&self, path: &str) -> Result<Option<Vec<Value>>, RequestError> {
        match self.list(path, "").await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The events of an object. That they cannot be read is no reason not to describe it.
    async fn events(&self, need: Need, kind: &str, object: &Value) -> Vec<Value> {
        let meta = &object["metadata"];
        let [name, namespace, mut uid] = ["name", "namespace", "uid"].map(|field| text(&meta[field]));
        let mut kind = kind;
        if kind == "Pod" {
            // A pod of a node's own has another uid there.
            uid = super::read::text_or(&meta["annotations"]["kubernetes.io/config.mirror"], &uid);
            kind = "";
        }
        let mut found = self.events_of(&name, &namespace, kind, &uid).await.unwrap_or_default();
        if need == Need::Node {
            // The kubelet speaks of nodes by their names.
            found.extend(self.events_of(&name, &namespace, kind, &name).await.unwrap_or_default());
        }
        found
    }

    async fn events_of(&self, name: &str, namespace: &str, kind: &str, uid: &str) -> Result<Vec<Value>, RequestError> {
        let mut fields = format!("involvedObject.name={name},involvedObject.namespace={namespace}");
        for (field, value) in [("kind", kind), ("uid", uid)] {
            if !value.is_empty() {
                fields.push_str(&format!(",involvedObject.{field}={value}"));
            }
        }
        let path = match namespace {
            "" => "/api/v1/events".to_owned(),
            namespace => format!("/api/v1/namespaces/{}/events", request::query(namespace)),
        };
        self.list(&path, &format!("fieldSelector={}", request::query(&fields))).await
    }

    /// A pod that is gone may have left events.
    pub async fn lost_pod(&self, object: &ObjectRef, error: RequestError, now: Timestamp) -> Result<String> {
        let namespace = object.namespace.clone().unwrap_or_default();
        let events = self.events_of(&object.name, &namespace, "", "").await.unwrap_or_default();
        if events.is_empty() {
            return Err(from_server(error));
        }
        let mut writer = Writer::new();
        writer.line(0, format!("Pod '{}': error '{error}', but found events.", object.name));
        metadata::events(&mut writer, Some(&events), now);
        Ok(writer.finish())
    }
}
