//! Waits until objects are ready: one watch a kind and namespace, and one of the pods there, so that whatever holds a workload
//! up is said at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use futures::stream::{BoxStream, SelectAll, StreamExt};
use kobune_kinds::selector::LabelSelector;
use kube::api::{Api, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;

use super::diagnose;
use super::progress::Progress;
use crate::discovery::Resource;
use crate::object::ObjectRef;
use crate::readiness::{self, Readiness};

/// An object that is waited for.
#[derive(Debug, Clone)]
pub struct Awaited {
    /// What names it.
    pub object: ObjectRef,
    /// Its resource.
    pub resource: Resource,
    /// The object as it was last seen.
    pub last: Value,
}

/// Everything is written, and something does not get ready.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// The API of a resource, in a namespace where it has one.
pub fn api(client: &kube::Client, resource: &Resource, namespace: Option<&str>) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(&resource.group, &resource.version, &resource.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, &resource.plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Waits until an object is gone, or is another one of the same name than the one with the uid.
pub async fn gone(api: Api<DynamicObject>, name: &str, uid: Option<&str>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(api, config).default_backoff());
    let mut seen = false;
    while let Some(change) = changes.next().await {
        match change {
            Ok(watcher::Event::Delete(_)) => return,
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                if uid.is_some() && object.metadata.uid.as_deref() != uid {
                    return;
                }
                seen = true;
            }
            Ok(watcher::Event::InitDone) if !seen => return,
            Ok(watcher::Event::Init) => seen = false,
            // The watch begins again by itself.
            Ok(watcher::Event::InitDone) | Err(_) => {}
        }
    }
}

enum News {
    Object(Box<Resource>, Value),
    Pod(Value),
    Trouble(String),
}

fn follow(
    api: Api<DynamicObject>,
    only: Option<&str>,
    news: impl Fn(Value) -> News + Send + 'static,
) -> BoxStream<'static, News> {
    let config = match only {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    watcher(api, config)
        .default_backoff()
        .applied_objects()
        .map(move |change| match change.map(serde_json::to_value) {
            Ok(Ok(object)) => news(object),
            Ok(Err(error)) => News::Trouble(error.to_string()),
            // The watch begins again by itself; what goes wrong for long ends with the time limit.
            Err(error) => News::Trouble(error.to_string()),
        })
        .boxed()
}

/// Waits until all are ready, for so long. Fails when one will not get there by itself.
pub async fn ready(
    client: &kube::Client,
    mut waiting: Vec<Awaited>,
    limit: Duration,
    progress: &mut Progress,
) -> Result<()> {
    waiting.retain(|it| readiness::of(&it.object.kind, &it.last) != Readiness::Ready);
    if waiting.is_empty() {
        return Ok(());
    }
    let mut groups: BTreeMap<(String, Option<String>), (Resource, Vec<String>)> = BTreeMap::new();
    for it in &waiting {
        let group = groups.entry((it.resource.name(), it.object.namespace.clone()));
        group.or_insert_with(|| (it.resource.clone(), Vec::new())).1.push(it.object.name.clone());
    }
    let mut news = SelectAll::new();
    for ((_, namespace), (resource, names)) in &groups {
        let only = if let [name] = names.as_slice() { Some(name.as_str()) } else { None };
        let of = resource.clone();
        news.push(follow(api(client, resource, namespace.as_deref()), only, move |object| {
            News::Object(Box::new(of.clone()), object)
        }));
    }
    let runs_pods = |it: &Awaited| {
        matches!(it.object.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "Pod")
    };
    let spaces: BTreeSet<String> =
        waiting.iter().filter(|it| runs_pods(it)).filter_map(|it| it.object.namespace.clone()).collect();
    let pods = Resource {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        plural: "pods".to_owned(),
        singular: "pod".to_owned(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Vec::new(),
        subresources: Vec::new(),
    };
    for space in &spaces {
        news.push(follow(api(client, &pods, Some(space)), None, News::Pod));
    }
    let waited = tokio::time::timeout(limit, watch(client, &mut waiting, news, progress)).await;
    progress.clear();
    match waited {
        Ok(result) => result,
        Err(_) => {
            let lines: Vec<String> = waiting.iter().map(|it| format!("  {}: {}", label(it), words(it))).collect();
            Err(NotReady(format!("not everything is ready after {} s:\n{}", limit.as_secs(), lines.join("\n"))).into())
        }
    }
}

fn label(it: &Awaited) -> String {
    match &it.object.namespace {
        Some(namespace) => format!("{} in {namespace}", it.object),
        None => it.object.to_string(),
    }
}

fn words(it: &Awaited) -> String {
    match readiness::of(&it.object.kind, &it.last) {
        Readiness::Ready => "ready".to_owned(),
        Readiness::Missing(text) | Readiness::Failed(text) => text,
    }
}

async fn watch(
    client: &kube::Client,
    waiting: &mut Vec<Awaited>,
    mut news: SelectAll<BoxStream<'static, News>>,
    progress: &mut Progress,
) -> Result<()> {
    let total = waiting.len();
    let mut told = BTreeSet::new();
    say(waiting, total, progress);
    while let Some(next) = news.next().await {
        match next {
            News::Object(resource, object) => {
                let found = ObjectRef::of(&object);
                let is = |it: &Awaited| {
                    it.resource.name() == resource.name()
                        && it.object.name == found.name
                        && it.object.namespace == found.namespace
                };
                let Some(index) = waiting.iter().position(is) else { continue };
                waiting[index].last = object;
                match readiness::of(&resource.kind, &waiting[index].last) {
                    Readiness::Ready => {
                        let done = waiting.remove(index);
                        let line = format!("{} {}", label(&done), progress.style.green("ready"));
                        progress.line(&line);
                    }
                    Readiness::Failed(why) => {
                        return Err(NotReady(format!("{} failed: {why}", label(&waiting[index]))).into());
                    }
                    Readiness::Missing(_) => {}
                }
                if waiting.is_empty() {
                    return Ok(());
                }
            }
            News::Pod(pod) => {
                let Some(trouble) = diagnose::trouble(&pod) else { continue };
                let Some(owner) = waiting.iter().find(|it| selects(it, &pod)) else { continue };
                let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                // The same trouble of another pod of the same workload says nothing new.
                if !told.insert((owner.object.clone(), trouble.container.clone(), trouble.reason.clone())) {
                    continue;
                }
                let container = trouble.container.as_ref().map(|name| format!(" container {name}")).unwrap_or_default();
                let head = format!(
                    "{} waits for pod {name}:{container} {}: {}",
                    label(owner),
                    trouble.reason,
                    trouble.message
                );
                let head = progress.style.red(head);
                progress.line(&head);
                for line in diagnose::evidence(client, &pod, &trouble).await {
                    let line = progress.style.dim(format!("    {line}"));
                    progress.line(&line);
                }
            }
            News::Trouble(error) => progress.status(&error),
        }
        say(waiting, total, progress);
    }
    bail!("the watches ended")
}

fn say(waiting: &[Awaited], total: usize, progress: &mut Progress) {
    let first: Vec<String> = waiting.iter().take(3).map(|it| format!("{} {}", it.object, words(it))).collect();
    let more = if waiting.len() > first.len() { ", …" } else { "" };
    progress.status(&format!("{} of {total} ready; {}{more}", total - waiting.len(), first.join(", ")));
}

/// Whether a pod is one of an object's.
fn selects(it: &Awaited, pod: &Value) -> bool {
    if pod["metadata"]["namespace"].as_str() != it.object.namespace.as_deref() {
        return false;
    }
    match it.object.kind.as_str() {
        "Pod" => pod["metadata"]["name"] == it.object.name.as_str(),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
            let selector = LabelSelector::from_object(&it.last["spec"]["selector"]);
            selector
                .is_ok_and(|selector| !selector.is_everything() && selector.matches_labels(&pod["metadata"]["labels"]))
        }
        _ => false,
    }
}
