//! The status of ResourceQuotas: what is used, counted from what exists.
//!
//! Admission counts for itself before it lets something in; this controller tells people. Every change of an object that
//! a quota of its namespace counts wakes it, through the garbage collector's watches of all kinds. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/resourcequota/resource_quota_controller.go>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kobune_kinds::quantity::Quantity;
use kobune_kinds::quota::{DEVICES_OF_CLASS, Resources, measure, resources};
use kube::api::{Api, PostParams};
use serde_json::Value;

use crate::context::{Context, enqueue_changes};
use crate::discovery::deletable;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

/// Objects asked for in one request.
const PAGE: usize = 500;

/// A kind that is counted: group and plural name.
type Counted = (String, String);

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.quotas, &queue);
    let (quotas, wake) = (caches.quotas.clone(), queue.clone());
    context.touched.on_touch(move |group, plural, namespace| {
        for quota in quotas.in_namespace(namespace) {
            if counted(&quota).iter().any(|(of_group, of_plural)| of_group == group && of_plural == plural) {
                wake.add(quota.key());
            }
        }
    });
    let quotas = caches.quotas.clone();
    let ready = async move { quotas.synced().await };
    let context_of_pass = context.clone();
    context.run_controller("resourcequota", queue, ready, move |key| {
        let context = context_of_pass.clone();
        async move { pass(&context, key).await }
    });
}

/// The kinds whose objects a quota counts.
fn counted(quota: &ResourceQuota) -> BTreeSet<Counted> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter().flatten().map(|(name, _)| kind_of(name)).collect()
}

/// The kind whose objects use a resource.
fn kind_of(resource: &str) -> Counted {
    let core = |plural: &str| (String::new(), plural.to_owned());
    if let Some(named) = resource.strip_prefix("count/") {
        return match named.split_once('.') {
            Some((plural, group)) => (group.to_owned(), plural.to_owned()),
            None => core(named),
        };
    }
    match resource {
        "services"
        | "configmaps"
        | "secrets"
        | "replicationcontrollers"
        | "resourcequotas"
        | "persistentvolumeclaims" => core(resource),
        "services.nodeports" | "services.loadbalancers" => core("services"),
        "requests.storage" => core("persistentvolumeclaims"),
        _ if resource.contains(".storageclass.storage.k8s.io/") => core("persistentvolumeclaims"),
        _ if resource.ends_with(DEVICES_OF_CLASS) => ("resource.k8s.io".to_owned(), "resourceclaims".to_owned()),
        _ => core("pods"),
    }
}

async fn pass(context: &Context, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(quota) = caches.quotas.get(&key).filter(|quota| !quota.deleting()) else { return Ok(None) };
    let as_value = serde_json::to_value(&*quota)
        .map_err(|error| PassError::Object { what: format!("a quota cannot be read: {error}") })?;
    let hard = resources(as_value.pointer("/spec/hard"));
    let mut used: Resources = hard.keys().map(|name| (name.clone(), Quantity::from_milli(0))).collect();
    for (group, plural) in counted(&quota) {
        let Some(objects) = list(context, &group, &plural, &key.namespace).await? else { continue };
        for object in &objects {
            let measured = measure(&group, &plural, object);
            if !measured.in_scope(&as_value) {
                continue;
            }
            for (name, sum) in &mut used {
                if let Some(more) = measured.used.get(name) {
                    *sum = *sum + *more;
                }
            }
        }
    }
    let status = ResourceQuotaStatus {
        hard: quota.spec.as_ref().and_then(|spec| spec.hard.clone()),
        used: Some(
            used.into_iter().map(|(name, sum)| (name, ApiQuantity(sum.to_string()))).collect::<BTreeMap<_, _>>(),
        )
        .filter(|used| !used.is_empty()),
    };
    if quota.status.as_ref().unwrap_or(&ResourceQuotaStatus::default()) == &status {
        return Ok(None);
    }
    let mut changed = (*quota).clone();
    changed.status = Some(status);
    let api = Api::<ResourceQuota>::namespaced(context.client.clone(), &key.namespace);
    match api.replace_status(&key.name, &PostParams::default(), &changed).await {
        Ok(written) => caches.quotas.wrote(written),
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(error).doing("writing the status of a quota"),
    }
    Ok(None)
}

/// The objects of a kind in a namespace; `None` when there is no such kind, which a quota may name all the same.
async fn list(context: &Context, group: &str, plural: &str, namespace: &str) -> Result<Option<Vec<Value>>, PassError> {
    let path = if group.is_empty() {
        format!("/api/v1/namespaces/{namespace}/{plural}")
    } else {
        let kinds = deletable(&context.client).await?.kinds;
        match kinds.iter().find(|kind| kind.resource.group == group && kind.resource.plural == plural) {
            Some(kind) => kind.path(Some(namespace)),
            None => return Ok(None),
        }
    };
    let mut objects = Vec::new();
    let mut token = String::new();
    loop {
        let params = kube::api::ListParams::default().limit(u32::try_from(PAGE).unwrap_or(u32::MAX));
        let params = if token.is_empty() { params } else { params.continue_token(&token) };
        let request = kube::core::Request::new(path.clone()).list(&params);
        let request = request.map_err(kube::Error::BuildRequest).doing("building a list")?;
        let mut page = match context.client.request::<Value>(request).await {
            Ok(page) => page,
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("listing what a quota counts"),
        };
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            objects.extend(items);
        }
        match page.pointer("/metadata/continue").and_then(Value::as_str) {
            Some(more) if !more.is_empty() => token = more.to_owned(),
            _ => return Ok(Some(objects)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_resources() {
        let check = |resource: &str, group: &str, plural: &str| {
            assert_eq!(kind_of(resource), (group.to_owned(), plural.to_owned()), "{resource}");
        };
        check("pods", "", "pods");
        check("requests.cpu", "", "pods");
        check("limits.memory", "", "pods");
        check("requests.nvidia.com/gpu", "", "pods");
        check("services.nodeports", "", "services");
        check("requests.storage", "", "persistentvolumeclaims");
        check("gold.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims");
        check("gpu.deviceclass.resource.k8s.io/devices", "resource.k8s.io", "resourceclaims");
        check("count/deployments.apps", "apps", "deployments");
        check("count/widgets.example.com", "example.com", "widgets");
        check("count/secrets", "", "secrets");
    }
}
