//! Which objects a node needs: those that the pods bound to it name. Follows the store's pods and volumes.

use std::collections::HashMap;
use std::sync::Arc;

use kobune_store::{At, Event, EventKind, Range, Record, Store, StoreError, Watch, WatchError};
use parking_lot::RwLock;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::references::{Referred, references_in};

const PODS: &str = "core/pods";
const VOLUMES: &str = "core/persistentvolumes";
const ATTACHMENTS: &str = "storage.k8s.io/volumeattachments";

type Target = (Referred, String, String);

#[derive(Debug, Default)]
struct Edges {
    /// How many pods of each node refer to an object.
    pods: HashMap<Target, HashMap<Arc<str>, u32>>,
    /// The claim (namespace and name) that a volume is bound to.
    claims: HashMap<String, (String, String)>,
    /// The secrets (namespace and name) that the node needs for a volume.
    volume_secrets: HashMap<String, Vec<(String, String)>>,
    /// The node that a volume is to be attached to, by the attachment's name.
    attachments: HashMap<String, String>,
}

/// The references of all bound pods, counted by node.
#[derive(Debug, Default)]
pub(crate) struct NodeGraph {
    edges: RwLock<Edges>,
}

impl Edges {
    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        let Some((namespace, claim)) = self.claims.get(volume) else { return false };
        let target = (Referred::Claim, namespace.clone(), claim.clone());
        self.pods.get(&target).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether a volume that a pod on the node uses can only be mounted with this secret.
    fn needs_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        let names =
            |secrets: &[(String, String)]| secrets.iter().any(|secret| secret.0 == namespace && secret.1 == name);
        self.volume_secrets.iter().any(|(volume, secrets)| names(secrets) && self.uses_volume(node, volume))
    }
}

impl NodeGraph {
    /// Fills the graph from the store and keeps it current until `shutdown`.
    pub(crate) async fn follow(
        store: Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> Result<Arc<NodeGraph>, StoreError> {
        let graph = Arc::new(NodeGraph::default());
        let watches = graph.fill(store.as_ref()).await?;
        let follower = graph.clone();
        tokio::spawn(async move {
            tokio::select! {
                // Dropping the loop loses nothing: the graph goes with the server.
                () = shutdown.cancelled() => {}
                () = follower.keep_current(store, watches) => {}
            }
        });
        Ok(graph)
    }

    /// Whether a pod on the node refers to the object.
    pub(crate) fn refers(&self, node: &str, kind: Referred, namespace: &str, name: &str) -> bool {
        let edges = self.edges.read();
        let target = (kind, namespace.to_owned(), name.to_owned());
        edges.pods.get(&target).is_some_and(|nodes| nodes.contains_key(node))
            || (kind == Referred::Secret && edges.needs_secret(node, namespace, name))
    }

    /// Whether the attachment is one to the node.
    pub(crate) fn attaches(&self, node: &str, attachment: &str) -> bool {
        self.edges.read().attachments.get(attachment).is_some_and(|to| to == node)
    }

    /// Whether a pod on the node uses a claim that is bound to the volume.
    pub(crate) fn uses_volume(&self, node: &str, volume: &str) -> bool {
        self.edges.read().uses_volume(node, volume)
    }

    async fn fill(&self, store: &dyn Store) -> Result<[Watch; 3], StoreError> {
        let fresh = NodeGraph::default();
        let (pods, volumes, attachments) = (Range::all(PODS), Range::all(VOLUMES), Range::all(ATTACHMENTS));
        let bound_pods = store.list(&pods, At::Latest).await?;
        for record in bound_pods.iter() {
            fresh.count_pod(record, 1);
        }
        let bound_volumes = store.list(&volumes, At::Latest).await?;
        for record in bound_volumes.iter() {
            fresh.put_volume(record);
        }
        let known_attachments = store.list(&attachments, At::Latest).await?;
        for record in known_attachments.iter() {
            fresh.put_attachment(record);
        }
        let watches = [
            store.watch(&pods, bound_pods.revision())?,
            store.watch(&volumes, bound_volumes.revision())?,
            store.watch(&attachments, known_attachments.revision())?,
        ];
        *self.edges.write() = fresh.edges.into_inner();
        Ok(watches)
    }

    async fn keep_current(&self, store: Arc<dyn Store>, mut watches: [Watch; 3]) {
        loop {
            let [pods, volumes, attachments] = &mut watches;
            // Each arm only waits for an event and takes it when it is there: dropping the others loses none.
            let event = tokio::select! {
                event = pods.next() => event,
                event = volumes.next() => event,
                event = attachments.next() => event,
            };
            match event {
                Ok(event) => self.take(&event),
                Err(WatchError::Closed) => return,
                Err(WatchError::Lagged { .. }) => match self.fill(store.as_ref()).await {
                    Ok(fresh) => watches = fresh,
                    Err(error) => {
                        tracing::warn!(%error, "the pods of nodes are not followed any longer");
                        return;
                    }
                },
            }
        }
    }

    fn take(&self, event: &Event) {
        if &*event.record.key.collection == VOLUMES {
            match event.kind {
                EventKind::Deleted => {
                    let mut edges = self.edges.write();
                    edges.claims.remove(&*event.record.key.name);
                    edges.volume_secrets.remove(&*event.record.key.name);
                }
                EventKind::Created | EventKind::Updated => self.put_volume(&event.record),
            }
            return;
        }
        if &*event.record.key.collection == ATTACHMENTS {
            match event.kind {
                EventKind::Deleted => {
                    self.edges.write().attachments.remove(&*event.record.key.name);
                }
                EventKind::Created | EventKind::Updated => self.put_attachment(&event.record),
            }
            return;
        }
        let node = |record: &Record| record.facets.field("spec.nodeName").unwrap_or_default().to_owned();
        let before = event.previous.as_ref().map(node).unwrap_or_default();
        let after = if event.kind == EventKind::Deleted { String::new() } else { node(&event.record) };
        // What a pod refers to is fixed when it is made; only its binding and its end matter. So the many changes of a
        // pod's status cost a comparison of two short strings here.
        if before == after {
            return;
        }
        if !before.is_empty()
            && let Some(previous) = &event.previous
        {
            self.count_pod(previous, -1);
        }
        if !after.is_empty() {
            self.count_pod(&event.record, 1);
        }
    }

    fn count_pod(&self, record: &Record, step: i32) {
        let Some(node) = record.facets.field("spec.nodeName").filter(|node| !node.is_empty()) else { return };
        match references_in(&record.key.name, &record.value) {
            Ok(references) => self.count(node, &record.key.namespace, references, step),
            Err(error) => tracing::error!(key = %record.key, %error, "a stored pod is unreadable"),
        }
    }

    fn count(&self, node: &str, namespace: &str, references: Vec<(Referred, String)>, step: i32) {
        let mut edges = self.edges.write();
        for (kind, name) in references {
            let target = (kind, namespace.to_owned(), name);
            let nodes = edges.pods.entry(target.clone()).or_default();
            let count = nodes.entry(Arc::from(node)).or_default();
            *count = count.saturating_add_signed(step);
            if *count == 0 {
                nodes.remove(node);
            }
            if nodes.is_empty() {
                edges.pods.remove(&target);
            }
        }
    }

    fn put_attachment(&self, record: &Record) {
        match serde_json::from_slice::<Value>(&record.value) {
            Ok(attachment) => {
                let node = attachment["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
                self.edges.write().attachments.insert(record.key.name.to_string(), node);
            }
            Err(error) => tracing::error!(key = %record.key, %error, "a stored attachment is unreadable"),
        }
    }

    fn put_volume(&self, record: &Record) {
        let volume: Value = match serde_json::from_slice(&record.value) {
            Ok(volume) => volume,
            Err(error) => {
                tracing::error!(key = %record.key, %error, "a stored volume is unreadable");
                return;
            }
        };
        let text = |key: &str| volume.pointer(&format!("/spec/claimRef/{key}")).and_then(Value::as_str);
        let secrets = secrets_of(&volume);
        let mut edges = self.edges.write();
        if secrets.is_empty() {
            edges.volume_secrets.remove(&*record.key.name);
        } else {
            edges.volume_secrets.insert(record.key.name.to_string(), secrets);
        }
        match (text("namespace"), text("name")) {
            (Some(namespace), Some(name)) => {
                edges.claims.insert(record.key.name.to_string(), (namespace.to_owned(), name.to_owned()));
            }
            _ => {
                edges.claims.remove(&*record.key.name);
            }
        }
    }
}

/// The secrets with which a node stages, publishes and grows a volume.
fn secrets_of(volume: &Value) -> Vec<(String, String)> {
    let references = ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    let named = references.iter().filter_map(|reference| {
        let reference = volume.pointer(&format!("/spec/csi/{reference}"))?;
        Some((reference["namespace"].as_str()?.to_owned(), reference["name"].as_str()?.to_owned()))
    });
    named.collect()
}

#[cfg(test)]
impl NodeGraph {
    /// Adds a volume that is bound to a claim and needs a secret, and an attachment.
    pub(crate) fn with_volume(
        self,
        volume: &str,
        claim: (&str, &str),
        secret: (&str, &str),
        attached: (&str, &str),
    ) -> NodeGraph {
        let own = |(first, second): (&str, &str)| (first.to_owned(), second.to_owned());
        let mut edges = self.edges.into_inner();
        edges.claims.insert(volume.to_owned(), own(claim));
        edges.volume_secrets.insert(volume.to_owned(), vec![own(secret)]);
        edges.attachments.insert(attached.0.to_owned(), attached.1.to_owned());
        NodeGraph { edges: RwLock::new(edges) }
    }

    /// A graph of these pods (node, namespace, pod).
    pub(crate) fn of(pods: &[(&str, &str, Value)]) -> NodeGraph {
        let graph = NodeGraph::default();
        for (node, namespace, pod) in pods {
            graph.count(node, namespace, super::references(pod), 1);
        }
        graph
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::references;
    use super::*;

    fn pod() -> Value {
        json!({"spec": {"volumes": [{"name": "a", "secret": {"secretName": "tls"}}]}})
    }

    #[test]
    fn references_end_with_the_last_pod() {
        let graph = NodeGraph::of(&[("n1", "a", pod()), ("n1", "a", pod()), ("n2", "a", pod())]);
        let check = |node: &str, expected: bool| {
            assert_eq!(graph.refers(node, Referred::Secret, "a", "tls"), expected, "{node}");
        };
        check("n1", true);
        graph.count("n1", "a", references(&pod()), -1);
        check("n1", true);
        graph.count("n1", "a", references(&pod()), -1);
        check("n1", false);
        check("n2", true);
        assert!(!graph.refers("n2", Referred::Secret, "b", "tls"));
        graph.count("n2", "a", references(&pod()), -1);
        assert!(graph.edges.read().pods.is_empty(), "nothing stays behind");
    }
}
