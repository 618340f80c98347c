//! The revisions of a workload, and what brings one of them back (`k8s.io/kubectl/pkg/polymorphichelpers/history.go`,
//! `rollback.go`): the ReplicaSets of a deployment, the ControllerRevisions of others.

use anyhow::{Result, anyhow, bail};
use http::Method;
use serde_json::{Map, Value, json};

use crate::connect::Cluster;
use crate::request;
use crate::verbs::chosen::Chosen;
use crate::verbs::{describe, pods, words};

/// Where `kubectl apply` notes what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const HASH: &str = "pod-template-hash";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// What a deployment has of itself: a revision does not bring it back.
const KEPT: [&str; 6] = [
    LAST_APPLIED,
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

/// One revision.
#[derive(Debug, Clone)]
pub struct Revision {
    /// Its number.
    pub number: i64,
    /// The object that holds it.
    pub object: Value,
}

/// The revisions of a workload, in order.
pub async fn revisions(cluster: &Cluster, one: &Chosen) -> Result<Vec<Revision>> {
    let deployment = one.resource.kind == "Deployment";
    let plural = match (one.resource.group.as_str(), one.resource.kind.as_str()) {
        ("apps", "Deployment") => "replicasets",
        ("apps", "DaemonSet" | "StatefulSet") => "controllerrevisions",
        (_, "Job" | "Pod" | "ReplicaSet" | "ReplicationController" | "CronJob") => {
            bail!("no history viewer has been implemented for {:?}", one.resource.group_kind())
        }
        (_, kind) => {
            bail!("error retrieving history for {:?}, no visitor method exists for {kind:?}", one.resource.group_kind())
        }
    };
    let selector = pods::selector(&one.object)?;
    let path = format!(
        "/apis/apps/v1/namespaces/{}/{plural}?labelSelector={}",
        request::query(one.namespace.as_deref().unwrap_or_default()),
        request::query(&selector)
    );
    let list = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
    let mut list = list.map_err(words::refused)?.body;
    let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let uid = &one.object["metadata"]["uid"];
    let own = items.into_iter().filter(|item| {
        let owners = item["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        owners.into_iter().any(|owner| owner["controller"] == true && owner["uid"] == *uid)
    });
    let mut revisions: Vec<Revision> = own
        .filter_map(|object| {
            let number = match deployment {
                true => object["metadata"]["annotations"][REVISION].as_str().unwrap_or("0").parse().ok()?,
                false => object["revision"].as_i64()?,
            };
            Some(Revision { number, object })
        })
        .collect();
    revisions.sort_by_key(|revision| revision.number);
    Ok(revisions)
}

/// The revisions and what somebody noted as their causes.
pub fn overview(revisions: &[Revision]) -> String {
    if revisions.is_empty() {
        return "No rollout history found.".to_owned();
    }
    let mut rows = vec![("REVISION".to_owned(), "CHANGE-CAUSE")];
    for revision in revisions {
        let cause = revision.object["metadata"]["annotations"][CAUSE].as_str();
        rows.push((revision.number.to_string(), cause.filter(|cause| !cause.is_empty()).unwrap_or("<none>")));
    }
    rows.iter().map(|(number, cause)| format!("{number:<10}{cause}\n")).collect()
}

/// The template of one revision.
pub fn details(revisions: &[Revision], number: i64) -> Result<String> {
    if revisions.is_empty() {
        return Ok("No rollout history found.".to_owned());
    }
    let found = revisions.iter().find(|revision| revision.number == number);
    let found = &found.ok_or_else(|| anyhow!("unable to find the specified revision"))?.object;
    // What a ControllerRevision holds is a patch that replaces the whole template.
    let held = if found["data"].is_object() { &found["data"]["spec"]["template"] } else { &found["spec"]["template"] };
    let mut template = held.clone();
    if let Some(cause) = found["metadata"]["annotations"].get(CAUSE).filter(|_| found["data"].is_null()) {
        template["metadata"]["annotations"][CAUSE] = cause.clone();
    }
    Ok(describe::template(&template))
}

/// The revision to go back to; 0 means the one before the last.
pub fn target<'r>(one: &Chosen, revisions: &'r [Revision], wanted: i64) -> Result<&'r Revision> {
    if wanted != 0 {
        let found = revisions.iter().find(|revision| revision.number == wanted);
        return found.ok_or_else(|| anyhow!("unable to find specified revision {wanted} in history"));
    }
    match revisions {
        [.., before, _] => Ok(before),
        _ if one.resource.kind == "Deployment" => bail!("no rollout history found for deployment {:?}", one.name),
        _ => bail!("no last revision to roll back to"),
    }
}

/// The patch that brings a revision back; nothing where it is in force already.
pub fn restoring(one: &Chosen, revision: &Revision) -> Option<(&'static str, Value)> {
    if one.resource.kind != "Deployment" {
        let mut template = one.object["spec"]["template"].clone();
        template["$patch"] = "replace".into();
        let now = json!({"spec": {"template": template}});
        let data = &revision.object["data"];
        return (plain(&now) != plain(data)).then(|| (STRATEGIC_MERGE_PATCH, data.clone()));
    }
    let mut template = revision.object["spec"]["template"].clone();
    if let Some(labels) = template["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    if plain(&template) == plain(&one.object["spec"]["template"]) {
        return None;
    }
    let empty = Map::new();
    let own = one.object["metadata"]["annotations"].as_object().unwrap_or(&empty).iter();
    let old = revision.object["metadata"]["annotations"].as_object().unwrap_or(&empty).iter();
    let annotations: Map<String, Value> = own
        .filter(|(name, _)| KEPT.contains(&name.as_str()))
        .chain(old.filter(|(name, _)| !KEPT.contains(&name.as_str())))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let patch = json!([
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": "replace", "path": "/metadata/annotations", "value": annotations},
    ]);
    Some((request::JSON_PATCH, patch))
}

/// An object without what says nothing: nulls and what is empty.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), plain(value)));
            Value::Object(fields.filter(|(_, value)| !value.is_null()).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Resource;

    fn workload(kind: &str, template: Value) -> Chosen {
        let resource = Resource::of_apps(kind);
        let object = json!({"metadata": {"annotations": {REVISION: "2", "own": "x"}}, "spec": {"template": template}});
        Chosen { resource, namespace: Some("n".to_owned()), name: "web".to_owned(), object }
    }

    fn revision(number: i64, object: Value) -> Revision {
        Revision { number, object }
    }

    #[test]
    fn which_revision() {
        let all: Vec<Revision> = [1, 3, 4].map(|number| revision(number, json!({}))).into();
        let deployment = workload("Deployment", json!({}));
        assert_eq!(target(&deployment, &all, 0).unwrap().number, 3);
        assert_eq!(target(&deployment, &all, 1).unwrap().number, 1);
        assert_eq!(
            target(&deployment, &all, 2).unwrap_err().to_string(),
            "unable to find specified revision 2 in history"
        );
        assert_eq!(
            target(&deployment, &all[..1], 0).unwrap_err().to_string(),
            "no rollout history found for deployment \"web\""
        );
        assert_eq!(
            target(&workload("DaemonSet", json!({})), &all[..1], 0).unwrap_err().to_string(),
            "no last revision to roll back to"
        );
    }

    #[test]
    fn what_is_printed() {
        let cause = json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "because"}}});
        let all = [revision(1, json!({})), revision(12, cause)];
        assert_eq!(overview(&all), "REVISION  CHANGE-CAUSE\n1         <none>\n12        because\n");
        assert_eq!(overview(&[]), "No rollout history found.");
    }

    #[test]
    fn patches() {
        let template = |colour: &str| json!({"metadata": {"labels": {"app": "web"}, "creationTimestamp": null}, "spec": {"colour": colour}});
        let mut old = template("blue");
        old["metadata"]["labels"][HASH] = "123".into();
        let set = json!({"metadata": {"annotations": {REVISION: "1", "then": "y"}}, "spec": {"template": old}});
        assert!(restoring(&workload("Deployment", template("blue")), &revision(1, set.clone())).is_none());
        let (media, patch) = restoring(&workload("Deployment", template("red")), &revision(1, set)).unwrap();
        assert_eq!(media, request::JSON_PATCH);
        assert_eq!(patch[0]["value"], template("blue"));
        assert_eq!(patch[1]["value"], json!({REVISION: "2", "then": "y"}));
        let mut data = template("blue");
        data["$patch"] = "replace".into();
        let history = revision(1, json!({"data": {"spec": {"template": data}}}));
        assert!(restoring(&workload("StatefulSet", template("blue")), &history).is_none());
        let (media, patch) = restoring(&workload("StatefulSet", template("red")), &history).unwrap();
        assert_eq!((media, &patch), (STRATEGIC_MERGE_PATCH, &history.object["data"]));
    }
}
