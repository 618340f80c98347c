//! A batch: the manifests of one command, looked up in the cluster and compared with it. `plan` shows what comes out, `apply`
//! does it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use http::Method;
use kobune_kinds::Catalogue;
use serde_json::{Value, json};

use crate::apply_set::{self, ApplySet, Member};
use crate::build;
use crate::connect::{Cluster, ConnectOptions};
use crate::discovery::Discovery;
use crate::fields::{self, Owner};
use crate::manifests::{self, Manifest, Mistake, Mistakes};
use crate::namespace::{NamespaceFrom, NamespaceOptions};
use crate::object::ObjectRef;
use crate::plan::ask::{self, Asked, Coming, Question};
use crate::plan::effects;
use crate::plan::explain::{self, Evidence};
use crate::plan::model::{Action, Item, Plan, Why};
use crate::plan::sealed;
use crate::request::{self, RequestError};
use crate::take_over;
use crate::targets::{self, Target};

/// How many requests are on their way at once: enough to hide the way to a server some milliseconds off, too few to take
/// a small one's breath.
pub const AT_ONCE: usize = 32;

/// The flags of commands that take manifests.
#[derive(Debug, Clone, Args)]
pub struct BatchOptions {
    /// Manifests: a file, a folder, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// A kustomization: a folder, or a git repository as `kobune build` takes it
    #[arg(short, long, value_name = "DIR|URL", conflicts_with = "filename")]
    pub kustomize: Option<String>,
    /// Take everything below a folder, not only what is in it
    #[arg(short = 'R', long)]
    pub recursive: bool,
    #[command(flatten)]
    pub namespaces: NamespaceOptions,
    /// The name under which fields are owned
    #[arg(long, value_name = "NAME", default_value = "kobune")]
    pub field_manager: String,
    /// Take fields that another manager holds
    #[arg(long)]
    pub force_conflicts: bool,
    /// Delete objects and make them again where a field changes that cannot
    #[arg(long)]
    pub recreate: bool,
    /// Take everything over that this manager holds: kubectl, helm, argocd, flux, terraform, or a manager's name
    #[arg(long, value_name = "MANAGER")]
    pub take_over: Vec<String>,
    #[command(flatten)]
    pub set: apply_set::ApplySetOptions,
    #[command(flatten)]
    pub connect: ConnectOptions,
}

impl BatchOptions {
    /// Whether the flags name no manifests.
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    /// Reads the manifests that the flags name.
    pub fn read(&self) -> Result<Vec<Manifest>> {
        match &self.kustomize {
            Some(target) => manifests::parse(&format!("build of {target}"), &build::yaml(target)?),
            None => manifests::read(&self.filename, self.recursive),
        }
    }
}

/// One object of a batch, with all that is known of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is to be applied; nothing for an object that is pruned.
    pub target: Option<Target>,
    /// The object as it is.
    pub live: Option<Value>,
    /// Managers that are taken over.
    pub taken_over: Vec<String>,
    /// The member of the set that is pruned.
    pub member: Option<Member>,
    /// Of what was seen and what would come of it.
    pub digest: String,
}

/// A batch that has been compared with the cluster.
pub struct Batch {
    /// The cluster.
    pub cluster: Cluster,
    /// What would happen; its items stand in the order of `entries`.
    pub plan: Plan,
    /// The objects.
    pub entries: Vec<Entry>,
    /// The set that the objects belong to.
    pub set: Option<ApplySet>,
}

/// Compares manifests with a cluster. All mistakes come together.
pub async fn compare(options: &BatchOptions, manifests: Vec<Manifest>, cluster: Cluster) -> Result<Batch> {
    let discovery =
        Discovery::ask(&cluster.client).await.with_context(|| format!("ask {} what it serves", cluster.url))?;
    let (mut targets, mut mistakes) =
        targets::resolve(manifests, &discovery, &options.namespaces, cluster.namespace.as_deref());
    let set = options.set.find(&cluster.client, &targets, options.namespaces.namespace.as_deref()).await?;
    if let Some(set) = &set {
        mistakes.extend(targets.iter_mut().filter_map(|target| set.claim(target)));
    }
    let question = Question {
        manager: options.field_manager.clone(),
        force_conflicts: options.force_conflicts,
        take_over: take_over::managers(&options.take_over),
    };
    let live = all_live(&cluster, &targets, &mut mistakes).await;
    let coming = coming(&cluster, &targets, &live, &mut mistakes).await?;
    let asked: Vec<Result<Asked, Vec<Mistake>>> = futures::stream::iter(targets.iter().zip(live))
        .map(async |(target, live)| match &target.object.namespace {
            // It was said already.
            Some(namespace) if coming.missing.contains(namespace) && live.is_none() => Err(Vec::new()),
            _ => ask::ask(&cluster.client, &question, target, live, &coming).await,
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut entries = Vec::new();
    let mut items = Vec::new();
    for (target, asked) in targets.into_iter().zip(asked) {
        match asked {
            Ok(asked) => {
                items.push(item(options, &target, &asked, set.as_ref()));
                let digest = sealed::digest(asked.live.as_ref(), &asked.result);
                let (live, taken_over) = (asked.live, asked.taken_over);
                entries.push(Entry { target: Some(target), live, taken_over, member: None, digest });
            }
            Err(found) => mistakes.extend(found),
        }
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes).into());
    }
    if let Some(set) = set.as_ref().filter(|_| options.set.prune) {
        let members = set.members(&cluster.client, &discovery).await?;
        let kept: BTreeSet<ObjectRef> =
            entries.iter().filter_map(|entry| Some(entry.target.as_ref()?.object.clone())).collect();
        let total = members.len();
        let gone = apply_set::to_prune(members, &kept);
        let shrinks = options.set.shrinks_too_much(gone.len(), total);
        for member in gone {
            let mut item = pruned(&member);
            if let Err(error) =
                member.object.namespace.as_deref().map_or(Ok(()), |name| options.namespaces.check_protected(name))
            {
                item.blocked.push(format!("{error}: {}", error.hint()));
            }
            item.blocked.extend(shrinks.clone());
            items.push(item);
            let digest = member.uid.clone();
            entries.push(Entry { target: None, live: None, taken_over: Vec::new(), member: Some(member), digest });
        }
    }
    let plan = Plan {
        server: cluster.url.clone(),
        context: cluster.context.clone(),
        apply_set: set.as_ref().map(|set| set.name.clone()),
        items,
    };
    Ok(Batch { cluster, plan, entries, set })
}

/// From how many objects of a kind in a namespace on they are listed instead of read one by one.
const MANY: usize = 20;

/// How many objects a page of a list holds.
const PAGE: usize = 500;

/// All objects as they are: many of a kind from a list, the others one by one, side by side.
async fn all_live(cluster: &Cluster, targets: &[Target], mistakes: &mut Vec<Mistake>) -> Vec<Option<Value>> {
    let mut folders: HashMap<String, HashSet<&str>> = HashMap::new();
    for target in targets.iter().filter(|target| !target.defined_here) {
        let folder = target.resource.path(target.object.namespace.as_deref());
        folders.entry(folder).or_default().insert(&target.object.name);
    }
    folders.retain(|_, names| names.len() >= MANY);
    let lists: Vec<Option<(String, HashMap<String, Value>)>> = futures::stream::iter(folders)
        .map(async |(folder, names)| {
            // Who may not list may still read; then they are read one by one.
            let found = list_some(cluster, &folder, &names).await.ok()?;
            Some((folder, found))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut listed: HashMap<String, HashMap<String, Value>> = lists.into_iter().flatten().collect();
    let known: Vec<Option<Option<Value>>> = targets
        .iter()
        .map(|target| {
            let found = listed.get_mut(&target.resource.path(target.object.namespace.as_deref()))?;
            Some(found.remove(&target.object.name))
        })
        .collect();
    let answers: Vec<Result<Option<Value>, Vec<Mistake>>> = futures::stream::iter(targets.iter().zip(known))
        .map(async |(target, known)| match known {
            Some(known) => Ok(known),
            None => ask::live(&cluster.client, target).await,
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let found = |answer: Result<Option<Value>, Vec<Mistake>>| {
        answer.unwrap_or_else(|found| {
            mistakes.extend(found);
            None
        })
    };
    answers.into_iter().map(found).collect()
}

/// Those objects of a list that have one of the names, page by page.
async fn list_some(
    cluster: &Cluster,
    folder: &str,
    names: &HashSet<&str>,
) -> Result<HashMap<String, Value>, RequestError> {
    let mut found = HashMap::with_capacity(names.len());
    let mut token = String::new();
    loop {
        let path = format!("{folder}?limit={PAGE}&continue={}", request::query(&token));
        let mut page = request::send(&cluster.client, Method::GET, &path, None, "application/json").await?.body;
        // The items of a list do not say what they are.
        let kind = page["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default().to_owned();
        let api_version = page["apiVersion"].take();
        for mut item in page["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
            let Some(name) = item["metadata"]["name"].as_str().filter(|name| names.contains(name)).map(str::to_owned)
            else {
                continue;
            };
            item["kind"] = kind.clone().into();
            item["apiVersion"] = api_version.clone();
            found.insert(name, item);
        }
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Ok(found);
        }
    }
}

/// What the batch brings that is not there yet. An object whose namespace neither is there nor comes is a mistake.
async fn coming(
    cluster: &Cluster,
    targets: &[Target],
    live: &[Option<Value>],
    mistakes: &mut Vec<Mistake>,
) -> Result<Coming> {
    let new = || targets.iter().zip(live).filter(|(_, live)| live.is_none()).map(|(target, _)| target);
    let mut coming = Coming::default();
    for target in new() {
        if target.object.kind == "Namespace" {
            coming.namespaces.push(target.object.name.clone());
        }
        coming.objects.push((target.object.kind.to_lowercase(), target.object.name.clone()));
    }
    let definitions = targets.iter().zip(live).filter(|(target, _)| target.object.kind == "CustomResourceDefinition");
    let mut kinds = Vec::new();
    for (target, live) in definitions {
        let value = &target.manifest.value;
        let known = live.as_ref().map(|live| fields::overlay(live, value, Some(&fields::all_fields([live]))));
        if known.is_none_or(|after| live.as_ref().is_none_or(|live| after["spec"] != live["spec"])) {
            coming.groups.extend(value["spec"]["group"].as_str().map(str::to_owned));
        }
        let text = bytes::Bytes::from(value.to_string());
        if let Ok(definition) = kobune_kinds::custom::Definition::read(&text) {
            kinds.extend(kobune_kinds::custom::kinds(&definition, &text, 0, &[]));
        }
    }
    coming.catalogue = Arc::new(Catalogue::with(kinds));
    // Only namespaces of new objects can be missing.
    let names: BTreeSet<&String> = new()
        .filter_map(|target| target.object.namespace.as_ref())
        .filter(|name| !coming.namespaces.contains(name))
        .collect();
    let missing: Vec<Option<&String>> = futures::stream::iter(names)
        .map(async |name| {
            match request::get(&cluster.client, &format!("/api/v1/namespaces/{}", request::query(name))).await {
                Ok(None) => Ok(Some(name)),
                Ok(Some(_)) => Ok(None),
                // Who may not read namespaces may still write into one.
                Err(error) if error.is(403) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    for name in missing.into_iter().flatten() {
        for target in new().filter(|target| target.object.namespace.as_ref() == Some(name)) {
            let path = ["metadata".into(), "namespace".into()];
            let words = format!("{}: there is no namespace {name}", target.object);
            let hint = "add the Namespace to these manifests, or create it first".to_owned();
            mistakes.push(target.manifest.mistake(&path, words).hint(hint));
        }
        coming.missing.push(name.clone());
    }
    Ok(coming)
}

/// What would happen to one object.
fn item(options: &BatchOptions, target: &Target, asked: &Asked, set: Option<&ApplySet>) -> Item {
    let mut item = Item {
        object: target.object.clone(),
        action: Action::Create,
        place: Some(target.manifest.place()),
        namespace_from: target.namespace_from,
        changes: Vec::new(),
        effects: Vec::new(),
        notes: asked.local.clone().into_iter().collect(),
        warnings: asked.warnings.clone(),
        blocked: Vec::new(),
        content: None,
        resource_version: None,
    };
    let Some(live) = &asked.live else {
        item.content = Some(explain::shown(&target.manifest.value));
        return item;
    };
    item.resource_version = live["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let conflicts: Vec<String> = asked.conflicts.iter().map(|(field, _)| field.clone()).collect();
    let evidence = Evidence {
        manifest: &target.manifest.value,
        live,
        result: &asked.result,
        manager: &options.field_manager,
        taken_over: &asked.taken_over,
        conflicts: &conflicts,
    };
    item.changes = explain::explain(&evidence);
    let (group, kind) = (target.object.group(), target.object.kind.as_str());
    let resizes = group.is_empty() && kind == "Pod" && effects::only_resizes(&item.changes);
    let owned = |object: &Value| fields::applied_by(object, &options.field_manager).cloned();
    item.action = if !asked.immutable.is_empty() && !resizes {
        Action::Recreate
    } else if !item.changes.is_empty() {
        Action::Change
    } else if owned(live) != owned(&asked.result) || !asked.taken_over.is_empty() {
        Action::Adopt
    } else {
        Action::Unchanged
    };
    item.effects = effects::effects(group, kind, live, &asked.result, &item.changes);
    if item.action == Action::Recreate {
        item.effects = asked.immutable.clone();
        if !options.recreate {
            item.blocked
                .push("a field changes that cannot; --recreate deletes the object and makes it again".to_owned());
        }
    }
    if live["metadata"]["deletionTimestamp"].is_string() {
        item.blocked.push("it is being deleted: apply again when it is gone".to_owned());
    }
    if !asked.conflicts.is_empty() && item.action != Action::Recreate {
        item.blocked.push(conflict_hint(options, &item));
    }
    for manager in &asked.taken_over {
        item.notes.push(format!("taken over from {manager}"));
    }
    match set {
        Some(set) => item.notes.extend(set.note(live)),
        None if apply_set::leaves(live, &asked.result) && !options.set.leave_applyset => item.blocked.push(
            "it belongs to a set of objects and would leave it: give its --applyset, or --leave-applyset".to_owned(),
        ),
        None => {}
    }
    item
}

fn conflict_hint(options: &BatchOptions, item: &Item) -> String {
    let held = item.changes.iter().filter(|change| change.why == Why::AnotherHoldsIt);
    let owners: Vec<&Owner> =
        held.flat_map(|change| &change.owners).filter(|owner| owner.manager != options.field_manager).collect();
    let mut names: Vec<&str> = owners.iter().map(|owner| take_over::name_of(&owner.manager)).collect();
    names.sort_unstable();
    names.dedup();
    let whole =
        owners.iter().find(|owner| owner.subresource.is_empty()).map(|owner| take_over::name_of(&owner.manager));
    let whole = whole.map(|name| format!(", --take-over {name} everything that it holds")).unwrap_or_default();
    let who = match names.as_slice() {
        [] => "other managers hold".to_owned(),
        [only] => format!("{only} holds"),
        names => format!("{} hold", names.join(" and ")),
    };
    format!(
        "{who} fields that the manifest changes; --force-conflicts takes these{whole}; or leave them out of the manifest"
    )
}

fn pruned(member: &Member) -> Item {
    Item {
        object: member.object.clone(),
        action: Action::Prune,
        place: None,
        namespace_from: NamespaceFrom::Manifest,
        changes: Vec::new(),
        effects: vec!["no longer in the manifests of its set".to_owned()],
        notes: Vec::new(),
        warnings: Vec::new(),
        blocked: Vec::new(),
        content: None,
        resource_version: Some(member.resource_version.clone()),
    }
}

/// The options of a DELETE that hits exactly one state of an object.
pub fn delete_options(uid: &str, resource_version: Option<&str>, propagation: &str) -> Value {
    let mut preconditions = json!({"uid": uid});
    if let Some(version) = resource_version {
        preconditions["resourceVersion"] = version.into();
    }
    json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation, "preconditions": preconditions})
}
