//! What the cluster is told about a node's drivers: the CSINode object, an annotation and topology labels of the Node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kobune_grpc::csi::CONTROLLERS;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::drivers::Driver;
use crate::context::Context;

/// Names the node as each driver calls it, for the drivers' controllers.
const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";

/// The drivers as CSINode lists them.
fn entries(drivers: &[Arc<Driver>]) -> Vec<CSINodeDriver> {
    let mut entries: Vec<CSINodeDriver> = drivers
        .iter()
        .map(|driver| CSINodeDriver {
            name: driver.name.clone(),
            node_id: driver.node_id.clone(),
            topology_keys: Some(driver.topology.keys().cloned().collect()),
            allocatable: (driver.most > 0)
                .then(|| VolumeNodeResources { count: Some(i32::try_from(driver.most).unwrap_or(i32::MAX)) }),
        })
        .collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    entries.dedup_by(|one, other| one.name == other.name);
    entries
}

/// The drivers whose controllers are called through this node, as the annotation has them; `None` without any.
fn controllers(drivers: &[Arc<Driver>]) -> Option<String> {
    let able: BTreeMap<&str, &[i32]> =
        drivers.iter().filter_map(|driver| Some((driver.name.as_str(), driver.controller.as_deref()?))).collect();
    (!able.is_empty()).then(|| json!(able).to_string())
}

/// The change of the Node object.
fn node_change(drivers: &[Arc<Driver>]) -> Value {
    let ids: BTreeMap<&str, &str> =
        drivers.iter().map(|driver| (driver.name.as_str(), driver.node_id.as_str())).collect();
    let labels: BTreeMap<&String, &String> = drivers.iter().flat_map(|driver| &driver.topology).collect();
    let ids = if ids.is_empty() { Value::Null } else { json!(json!(ids).to_string()) };
    json!({"metadata": {"annotations": {NODE_ID: ids}, "labels": labels}})
}

/// Writes what is known now. A failure is logged; the next change writes all of it again.
pub async fn write(context: &Context) {
    let drivers = context.drivers.all();
    if let Err(error) = try_write(context, &drivers).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the cluster could not be told about storage drivers");
    }
}

async fn try_write(context: &Context, drivers: &[Arc<Driver>]) -> kube::Result<()> {
    let (name, client) = (&context.config.name, &context.config.client);
    let nodes = Api::<Node>::all(client.clone());
    let node = nodes.patch(name, &PatchParams::default(), &Patch::Merge(node_change(drivers))).await?;
    let api = Api::<CSINode>::all(client.clone());
    let (entries, controllers) = (entries(drivers), controllers(drivers));
    let said = |known: &CSINode| known.metadata.annotations.as_ref()?.get(CONTROLLERS).cloned();
    match api.get_opt(name).await? {
        Some(known) if known.spec.drivers == entries && said(&known) == controllers => Ok(()),
        Some(_) => {
            let change = json!({"metadata": {"annotations": {CONTROLLERS: controllers}}, "spec": {"drivers": entries}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
        }
        None => {
            let owner = OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid: node.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            };
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![owner]),
                annotations: controllers.map(|able| [(CONTROLLERS.to_owned(), able)].into()),
                ..ObjectMeta::default()
            };
            let made = CSINode { metadata, spec: CSINodeSpec { drivers: entries } };
            api.create(&PostParams::default(), &made).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kobune_grpc::client::Client;

    #[tokio::test]
    async fn drivers_become_entries_and_labels() {
        let driver = |name: &str, most: i64| {
            Arc::new(Driver {
                name: name.to_owned(),
                client: Client::new("/none".into()),
                node_id: format!("{name}-id"),
                topology: [("zone".to_owned(), "a".to_owned())].into(),
                most,
                stages: false,
                gives_to_group: false,
                controller: (most > 0).then(|| vec![1, 2]),
            })
        };
        let drivers = [driver("b", 0), driver("a", 5)];
        let listed: Vec<(String, Option<i32>)> = entries(&drivers)
            .into_iter()
            .map(|entry| (entry.name, entry.allocatable.and_then(|allocatable| allocatable.count)))
            .collect();
        assert_eq!(listed, [("a".to_owned(), Some(5)), ("b".to_owned(), None)]);
        let change = node_change(&drivers);
        assert_eq!(change["metadata"]["annotations"][NODE_ID], r#"{"a":"a-id","b":"b-id"}"#);
        assert_eq!(change["metadata"]["labels"], json!({"zone": "a"}));
        assert_eq!(controllers(&drivers).as_deref(), Some(r#"{"a":[1,2]}"#));
        assert_eq!(controllers(&[]), None);
        assert_eq!(node_change(&[])["metadata"]["annotations"][NODE_ID], Value::Null);
    }
}
