//! Objects whose owners are gone, and owners that wait for their dependents.
//!
//! One watch of metadata a kind feeds a graph that holds only what has owners. A dependent is deleted when none of its
//! owners is there any more, which is asked of the API server itself, never of the graph. An owner with the finalizer
//! `foregroundDeletion` waits until the dependents that block it are gone; one with `orphan` lets go of its dependents
//! first.
//!
//! Kinds come and go with CustomResourceDefinitions and APIServices, which are watched like everything else: a change of
//! one of these has discovery read again, and watches begin and end accordingly.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/garbagecollector/garbagecollector.go>.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kobune_partial::without_managed_fields;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicResourceScope};
use kube::runtime::{WatchStreamExt, watcher};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::context::Context;
use crate::discovery::{Discovered, Kind, deletable};
use crate::informer::Pauses;
use crate::queue::{Doing, PassError, is_conflict, is_not_found};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How long after a failure the work that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long after the last change of a definition discovery is read again: definitions come in numbers, and each changes
/// several times until it is served.
const SETTLED: Duration = Duration::from_millis(200);

/// How long after a group did not answer discovery is read again.
const AWAY: Duration = Duration::from_secs(30);

type Change = watcher::Event<Seen>;
type Changes = SelectAll<BoxStream<'static, (usize, watcher::Result<Change>)>>;

/// An object of any kind, of which no more is read than who it is, whose it is and whether it goes.
#[derive(Clone, Debug, Deserialize)]
struct Seen {
    #[serde(deserialize_with = "without_managed_fields")]
    metadata: ObjectMeta,
}

impl kube::Resource for Seen {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(resource)
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(resource)
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(resource)
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(resource)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The position of its kind.
    kind: usize,
    namespace: Option<Arc<str>>,
    name: Box<str>,
}

/// What is known of all kinds: who depends on whom. Most objects of a large cluster are in here, so equal parts are kept once.
#[derive(Default)]
struct Graph {
    /// Objects with owners, by uid.
    dependents: HashMap<Arc<str>, (Place, Arc<[OwnerReference]>)>,
    /// The uids of dependents by the uid of an owner.
    of: HashMap<String, HashSet<Arc<str>>>,
    /// Objects that are being deleted and wait for their dependents, by uid.
    waiting: HashMap<String, Place>,
}

impl Graph {
    fn insert(&mut self, uid: &str, mut place: Place, owners: Vec<OwnerReference>) {
        self.remove(uid);
        let Some(first) = owners.first() else { return };
        let uid: Arc<str> = uid.into();
        // Dependents of one owner are mostly of one namespace and have the same owners.
        let sibling = self.of.get(&first.uid).and_then(|others| self.dependents.get(others.iter().next()?));
        let shared = sibling.map(|(place, owners)| (place.namespace.clone(), owners.clone()));
        let (namespace, known) = shared.unzip();
        if let Some(namespace) = namespace.filter(|namespace| *namespace == place.namespace) {
            place.namespace = namespace;
        }
        let owners = known.filter(|known| **known == *owners).unwrap_or_else(|| owners.into());
        for owner in &*owners {
            match self.of.get_mut(&owner.uid) {
                Some(others) => drop(others.insert(uid.clone())),
                None => drop(self.of.insert(owner.uid.clone(), HashSet::from([uid.clone()]))),
            }
        }
        self.dependents.insert(uid, (place, owners));
    }

    /// Forgets a dependent and gives the uids of its owners.
    fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some((_, owners)) = self.dependents.remove(uid) else { return Vec::new() };
        for owner in &*owners {
            if let Some(others) = self.of.get_mut(&owner.uid) {
                others.remove(uid);
                if others.is_empty() {
                    self.of.remove(&owner.uid);
                }
            }
        }
        owners.iter().map(|owner| owner.uid.clone()).collect()
    }

    fn dependents_of(&self, uid: &str) -> Vec<Arc<str>> {
        self.of.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Whether a dependent of an object is itself being deleted and waits for its dependents, of which the object may be one.
    fn closes_circle(&self, uid: &str) -> bool {
        self.of.get(uid).into_iter().flatten().any(|dependent| self.waiting.contains_key(&**dependent))
    }

    /// Whether a dependent is left that holds its owner up.
    fn is_blocked(&self, owner: &str) -> bool {
        // One that owns itself does not wait for itself.
        let others = self.dependents_of(owner).into_iter().filter(|uid| **uid != *owner);
        others.filter_map(|uid| self.dependents.get(&uid)).any(|(_, owners)| {
            owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
        })
    }
}

/// What an owner is when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It is there.
    Solid,
    /// It is there, is being deleted and waits for its dependents.
    Waiting,
    /// It is not there, or something else has its name.
    Absent,
    /// Its kind is not known: nobody can say.
    Unknown,
}

/// What is to be done with a dependent.
#[derive(Debug, PartialEq)]
enum Action {
    Keep,
    /// Take these owners' references away.
    Release(Vec<String>),
    Delete(PropagationPolicy),
}

fn plan(metadata: &ObjectMeta, owners: &[(String, Owner)], has_dependents: bool) -> Action {
    if owners.is_empty() || owners.iter().any(|(_, owner)| *owner == Owner::Unknown) {
        return Action::Keep;
    }
    let gone = owners.iter().filter(|(_, owner)| *owner != Owner::Solid);
    let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
    if gone.is_empty() {
        return Action::Keep;
    }
    if gone.len() < owners.len() {
        return Action::Release(gone);
    }
    if metadata.deletion_timestamp.is_some() {
        return Action::Keep;
    }
    let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|name| name == finalizer);
    let waited_for = owners.iter().any(|(_, owner)| *owner == Owner::Waiting);
    Action::Delete(if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) || (waited_for && has_dependents) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    if !context.config.controllers.runs("garbage-collector") {
        return;
    }
    let own = context.clone();
    context.spawn("garbage-collector", async move {
        let token = own.token.clone();
        tokio::select! {
            () = token.cancelled() => {}
            () = run(own) => {}
        }
    });
}

async fn run(context: Arc<Context>) {
    let mut changes = Changes::new();
    let mut collector = Collector {
        client: context.client.clone(),
        kinds: Vec::new(),
        graph: Graph::default(),
        present: HashSet::new(),
        work: BTreeSet::new(),
    };
    let mut discover: Option<Pin<Box<Sleep>>> = Some(Box::pin(tokio::time::sleep(Duration::ZERO)));
    let mut retry: Option<Pin<Box<Sleep>>> = None;
    loop {
        tokio::select! {
            biased;
            // Dropping an arm loses nothing: a change stays in its stream, work in its set, and a time in its place.
            Some((kind, change)) = changes.next() => match change {
                Ok(change) => {
                    if collector.defines_kinds(kind) && !matches!(change, Change::Init | Change::InitApply(_)) {
                        discover = Some(Box::pin(tokio::time::sleep(SETTLED)));
                    }
                    if let Some(followed) = &collector.kinds[kind] {
                        tell(&context, &followed.kind, &change);
                    }
                    collector.note(kind, change);
                }
                Err(error) => {
                    tracing::debug!(%error, "a watch of the garbage collector is tried again");
                    collector.unreachable(kind);
                }
            },
            () = at(&mut discover) => {
                discover = match deletable(&context.client).await {
                    Ok(mut found) => {
                        found.kinds.retain(is_collected);
                        collector.follow(&found, &mut changes);
                        // A group that is away is asked again; its definition does not change when it comes back.
                        (!found.failed.is_empty()).then(|| Box::pin(tokio::time::sleep(AWAY)))
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "the garbage collector cannot discover the kinds");
                        Some(Box::pin(tokio::time::sleep(RETRY)))
                    }
                };
            }
            () = at(&mut retry) => {}
        }
        retry = None;
        if collector.is_synced() && !collector.catch_up().await {
            retry = Some(Box::pin(tokio::time::sleep(RETRY)));
        }
    }
}

/// Waits for a time, or for ever when there is none.
async fn at(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// Tells other controllers that an object in a namespace has changed: these watches see all kinds.
fn tell(context: &Context, kind: &Kind, change: &Change) {
    let object = match change {
        watcher::Event::Apply(object) | watcher::Event::Delete(object) | watcher::Event::InitApply(object) => object,
        watcher::Event::Init | watcher::Event::InitDone => return,
    };
    if let Some(namespace) = &object.metadata.namespace {
        context.touched.touch(&kind.resource.group, &kind.resource.plural, namespace);
    }
}

/// Events have no owners and come in numbers.
fn is_collected(kind: &Kind) -> bool {
    kind.can("watch") && kind.resource.plural != "events"
}

/// A piece of work, by the uid of what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// Look whether a dependent still has an owner.
    Dependent(Arc<str>),
    /// Look whether an owner that waits may go.
    Owner(Arc<str>),
}

/// A kind that is watched.
struct Followed {
    kind: Kind,
    /// While the list is not complete yet, the uids seen in it.
    listing: Option<HashSet<String>>,
    /// Whether the last list or watch has failed: then nobody waits for it.
    unreachable: bool,
    /// Ends the watch.
    _stop: DropGuard,
}

struct Collector {
    client: kube::Client,
    /// The watched kinds by their positions; a kind that is not served any more leaves its position free.
    kinds: Vec<Option<Followed>>,
    graph: Graph,
    /// Owners that were there when they were last asked for and have not been seen going since.
    present: HashSet<String>,
    work: BTreeSet<Work>,
}

impl Collector {
    /// Begins to watch kinds that are new and forgets those that are not served any more.
    fn follow(&mut self, found: &Discovered, changes: &mut Changes) {
        let mut served: Vec<Kind> = found.kinds.clone();
        for position in 0..self.kinds.len() {
            let Some(followed) = &self.kinds[position] else { continue };
            match served.iter().position(|kind| *kind == followed.kind) {
                Some(known) => {
                    served.swap_remove(known);
                }
                // Nobody can say whether it is still there.
                None if found.misses(&followed.kind.resource.group) => {}
                None => self.forget(position),
            }
        }
        for kind in served {
            let position = self.kinds.iter().position(Option::is_none).unwrap_or_else(|| {
                self.kinds.push(None);
                self.kinds.len() - 1
            });
            let api: Api<Seen> = Api::all_with(self.client.clone(), &kind.resource);
            let stop = CancellationToken::new();
            let stream = watcher(api, watcher::Config::default()).backoff(Pauses::default());
            let stream = stream.take_until(stop.clone().cancelled_owned());
            changes.push(stream.map(move |change| (position, change)).boxed());
            let listing = Some(HashSet::new());
            self.kinds[position] = Some(Followed { kind, listing, unreachable: false, _stop: stop.drop_guard() });
        }
    }

    /// A kind is not served any more: its objects are gone as far as anybody can tell.
    fn forget(&mut self, position: usize) {
        self.kinds[position] = None;
        let mut gone: BTreeSet<Arc<str>> = BTreeSet::new();
        gone.extend(
            self.graph.dependents.iter().filter(|(_, (place, _))| place.kind == position).map(|(uid, _)| uid.clone()),
        );
        let waiting = self.graph.waiting.iter().filter(|(_, place)| place.kind == position);
        gone.extend(waiting.map(|(uid, _)| Arc::from(uid.as_str())));
        gone.iter().for_each(|uid| self.gone(uid));
        // Whether other owners of that kind were there is not known any more.
        self.present.clear();
    }

    fn followed(&mut self, kind: usize) -> Option<&mut Followed> {
        self.kinds.get_mut(kind).and_then(Option::as_mut)
    }

    /// Whether objects of this kind decide which kinds there are.
    fn defines_kinds(&mut self, kind: usize) -> bool {
        self.followed(kind).is_some_and(|followed| {
            matches!(
                (&*followed.kind.resource.group, &*followed.kind.resource.plural),
                ("apiextensions.k8s.io", "customresourcedefinitions") | ("apiregistration.k8s.io", "apiservices")
            )
        })
    }

    fn unreachable(&mut self, kind: usize) {
        if let Some(followed) = self.followed(kind) {
            followed.unreachable = true;
        }
    }

    /// Whether all kinds that can be read have been read once.
    fn is_synced(&self) -> bool {
        !self.kinds.is_empty()
            && self.kinds.iter().flatten().all(|followed| followed.listing.is_none() || followed.unreachable)
    }

    /// Whether all kinds have been read once.
    fn is_complete(&self) -> bool {
        self.kinds.iter().flatten().all(|followed| followed.listing.is_none())
    }

    fn note(&mut self, kind: usize, change: Change) {
        match change {
            watcher::Event::Init => {
                if let Some(followed) = self.followed(kind) {
                    followed.listing = Some(HashSet::new());
                }
            }
            watcher::Event::InitApply(object) => {
                let seen = self.followed(kind).and_then(|followed| followed.listing.as_mut());
                if let (Some(seen), Some(uid)) = (seen, object.metadata.uid.clone()) {
                    seen.insert(uid);
                }
                self.there(kind, object.metadata);
            }
            watcher::Event::InitDone => {
                let Some(followed) = self.followed(kind) else { return };
                followed.unreachable = false;
                let seen = followed.listing.take().unwrap_or_default();
                let known = self.graph.dependents.iter().filter(|(_, (place, _))| place.kind == kind);
                let gone: Vec<Arc<str>> =
                    known.map(|(uid, _)| uid.clone()).filter(|uid| !seen.contains(&**uid)).collect();
                gone.iter().for_each(|uid| self.gone(uid));
                // Owners may have gone unseen: every dependent is looked at once more.
                self.present.clear();
                self.work.extend(self.graph.dependents.keys().cloned().map(Work::Dependent));
            }
            watcher::Event::Apply(object) => self.there(kind, object.metadata),
            watcher::Event::Delete(object) => self.gone(object.metadata.uid.as_deref().unwrap_or_default()),
        }
    }

    fn there(&mut self, kind: usize, metadata: ObjectMeta) {
        let (Some(uid), Some(name)) = (metadata.uid, metadata.name) else { return };
        let place = Place { kind, namespace: metadata.namespace.map(Arc::from), name: name.into() };
        let waits = metadata.deletion_timestamp.is_some()
            && metadata.finalizers.iter().flatten().any(|name| name == FOREGROUND || name == ORPHAN);
        if waits {
            self.present.remove(&uid);
            self.graph.waiting.insert(uid.clone(), place.clone());
            self.work.insert(Work::Owner(uid.as_str().into()));
        }
        let owners = metadata.owner_references.unwrap_or_default();
        let known = self.graph.dependents.get(&*uid);
        if known.is_some_and(|(_, known)| **known == *owners) || owners.is_empty() && known.is_none() {
            return;
        }
        let before = self.graph.remove(&uid);
        self.owners_to_look_at(before);
        self.graph.insert(&uid, place, owners);
        self.work.insert(Work::Dependent(uid.into()));
    }

    fn gone(&mut self, uid: &str) {
        self.present.remove(uid);
        self.graph.waiting.remove(uid);
        let owners = self.graph.remove(uid);
        self.owners_to_look_at(owners);
        self.work.extend(self.graph.dependents_of(uid).into_iter().map(Work::Dependent));
    }

    fn owners_to_look_at(&mut self, owners: Vec<String>) {
        let waiting = owners.into_iter().filter(|uid| self.graph.waiting.contains_key(uid));
        self.work.extend(waiting.map(|uid| Work::Owner(uid.into())));
    }

    /// Does what is to be done; whether all of it succeeded.
    async fn catch_up(&mut self) -> bool {
        let mut failed = BTreeSet::new();
        while let Some(work) = self.work.pop_first() {
            let done = match &work {
                Work::Dependent(uid) => self.dependent(uid).await,
                Work::Owner(uid) => self.owner(uid).await,
            };
            if let Err(error) = done {
                tracing::warn!(error = &error as &dyn std::error::Error, ?work, "garbage collection is tried again");
                failed.insert(work);
            }
        }
        self.work = failed;
        self.work.is_empty()
    }

    /// The way to objects of a kind; `None` when it is not served any more.
    fn api(&self, kind: usize, namespace: Option<&str>) -> Option<Api<DynamicObject>> {
        let resource = &self.kinds.get(kind)?.as_ref()?.kind.resource;
        Some(match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        })
    }

    async fn dependent(&mut self, uid: &str) -> Result<(), PassError> {
        let Some((place, owners)) = self.graph.dependents.get(uid) else { return Ok(()) };
        // Owners that are there keep it; should it get others, its watch says so.
        if owners.iter().all(|owner| self.present.contains(&owner.uid)) {
            return Ok(());
        }
        let place = place.clone();
        let Some(api) = self.api(place.kind, place.namespace.as_deref()) else { return Ok(()) };
        let live = api.get_metadata_opt(&place.name).await.doing("reading a dependent")?;
        let Some(metadata) = live.map(|live| live.metadata).filter(|live| live.uid.as_deref() == Some(uid)) else {
            return Ok(());
        };
        let mut owners = Vec::new();
        for reference in metadata.owner_references.iter().flatten() {
            owners.push((reference.uid.clone(), self.ask_for(reference, place.namespace.as_deref()).await?));
        }
        let done = match plan(&metadata, &owners, self.graph.of.contains_key(uid)) {
            Action::Keep => Ok(()),
            Action::Release(gone) => release(&api, &metadata, &gone).await,
            Action::Delete(policy) => {
                let mut version = metadata.resource_version.clone();
                if policy == PropagationPolicy::Foreground && self.graph.closes_circle(uid) {
                    // Each would wait for the next for ever: here the circle is cut.
                    match unblock(&api, &metadata).await {
                        Ok(unblocked) => version = unblocked,
                        Err(error) => return settled(Err(error), "cutting a circle of owners"),
                    }
                }
                let preconditions = Preconditions { uid: metadata.uid.clone(), resource_version: version };
                let parameters = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                api.delete(&place.name, &parameters).await.map(drop)
            }
        };
        settled(done, "collecting a dependent")
    }

    /// What an owner is, asked of the API server unless it was seen and has not gone since.
    async fn ask_for(&mut self, reference: &OwnerReference, namespace: Option<&str>) -> Result<Owner, PassError> {
        if self.present.contains(&reference.uid) {
            return Ok(Owner::Solid);
        }
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let known = self.kinds.iter().enumerate().find_map(|(position, followed)| {
            let kind = &followed.as_ref()?.kind;
            (kind.resource.group == group && kind.resource.kind == reference.kind)
                .then_some((position, kind.namespaced))
        });
        let Some((kind, namespaced)) = known else { return Ok(Owner::Unknown) };
        let namespace = namespace.filter(|_| namespaced);
        if namespaced && namespace.is_none() {
            // A cluster-scoped object cannot belong to one in a namespace.
            return Ok(Owner::Unknown);
        }
        let Some(api) = self.api(kind, namespace) else { return Ok(Owner::Unknown) };
        let live = api.get_metadata_opt(&reference.name).await.doing("reading an owner")?;
        let Some(metadata) = live.map(|live| live.metadata).filter(|live| live.uid.as_deref() == Some(&*reference.uid))
        else {
            return Ok(Owner::Absent);
        };
        let waits = metadata.finalizers.iter().flatten().any(|name| name == FOREGROUND);
        if metadata.deletion_timestamp.is_some() && waits {
            return Ok(Owner::Waiting);
        }
        self.present.insert(reference.uid.clone());
        Ok(Owner::Solid)
    }

    async fn owner(&mut self, uid: &str) -> Result<(), PassError> {
        let Some(place) = self.graph.waiting.get(uid).cloned() else { return Ok(()) };
        let Some(api) = self.api(place.kind, place.namespace.as_deref()) else { return Ok(()) };
        let live = api.get_metadata_opt(&place.name).await.doing("reading an owner")?;
        let Some(metadata) = live.map(|live| live.metadata).filter(|live| live.uid.as_deref() == Some(uid)) else {
            self.graph.waiting.remove(uid);
            return Ok(());
        };
        let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|name| name == finalizer);
        if has(ORPHAN) {
            if !self.is_complete() {
                // A dependent that is not known yet would be deleted after its owner instead of being released.
                return Err(PassError::Object { what: "some kinds have not been read yet".to_owned() });
            }
            for dependent in self.graph.dependents_of(uid) {
                let Some((place, _)) = self.graph.dependents.get(&dependent).cloned() else { continue };
                let Some(api) = self.api(place.kind, place.namespace.as_deref()) else { continue };
                if let Some(live) = api.get_metadata_opt(&place.name).await.doing("reading a dependent")? {
                    settled(release(&api, &live.metadata, &[uid.to_owned()]).await, "releasing a dependent")?;
                }
            }
            return settled(without_finalizer(&api, &metadata, ORPHAN).await, "letting an owner go");
        }
        if !has(FOREGROUND) {
            self.graph.waiting.remove(uid);
            return Ok(());
        }
        for dependent in self.graph.dependents_of(uid) {
            self.dependent(&dependent).await?;
        }
        if self.graph.is_blocked(uid) {
            return Ok(());
        }
        settled(without_finalizer(&api, &metadata, FOREGROUND).await, "letting an owner go")
    }
}

/// Lets all owners of an object go before it, and gives its new version.
async fn unblock(api: &Api<DynamicObject>, metadata: &ObjectMeta) -> Result<Option<String>, kube::Error> {
    let owners = metadata.owner_references.iter().flatten().cloned();
    let owners: Vec<_> = owners.map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner }).collect();
    let patch = json!({"metadata": {"ownerReferences": owners, "resourceVersion": metadata.resource_version, "uid": metadata.uid}});
    let name = metadata.name.as_deref().unwrap_or_default();
    let patched = api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(patched.metadata.resource_version)
}

/// Takes references to owners away.
async fn release(api: &Api<DynamicObject>, metadata: &ObjectMeta, gone: &[String]) -> Result<(), kube::Error> {
    let kept: Vec<_> = metadata.owner_references.iter().flatten().filter(|owner| !gone.contains(&owner.uid)).collect();
    let kept = if kept.is_empty() { json!(null) } else { json!(kept) };
    let patch = json!({"metadata": {"ownerReferences": kept, "resourceVersion": metadata.resource_version, "uid": metadata.uid}});
    let name = metadata.name.as_deref().unwrap_or_default();
    api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn without_finalizer(
    api: &Api<DynamicObject>,
    metadata: &ObjectMeta,
    finalizer: &str,
) -> Result<(), kube::Error> {
    let kept: Vec<_> = metadata.finalizers.iter().flatten().filter(|name| *name != finalizer).collect();
    let kept = if kept.is_empty() { json!(null) } else { json!(kept) };
    let patch =
        json!({"metadata": {"finalizers": kept, "resourceVersion": metadata.resource_version, "uid": metadata.uid}});
    let name = metadata.name.as_deref().unwrap_or_default();
    api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// What is gone already needs no more; all else that fails is tried again.
fn settled(done: Result<(), kube::Error>, doing: &'static str) -> Result<(), PassError> {
    match done {
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) if is_conflict(&error) => Err(error).doing(doing),
        other => other.doing(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str, blocks: bool) -> OwnerReference {
        OwnerReference { uid: uid.to_owned(), block_owner_deletion: Some(blocks), ..OwnerReference::default() }
    }

    fn place(name: &str) -> Place {
        Place { kind: 0, namespace: None, name: name.into() }
    }

    #[test]
    fn plans() {
        let check = |finalizers: &[&str], owners: &[Owner], has_dependents: bool, expected: Action| {
            let finalizers = finalizers.iter().map(|name| (*name).to_owned()).collect();
            let metadata = ObjectMeta { finalizers: Some(finalizers), ..ObjectMeta::default() };
            let owners: Vec<_> = owners.iter().enumerate().map(|(index, owner)| (index.to_string(), *owner)).collect();
            assert_eq!(plan(&metadata, &owners, has_dependents), expected, "{owners:?}");
        };
        check(&[], &[], false, Action::Keep);
        check(&[], &[Owner::Solid], false, Action::Keep);
        check(&[], &[Owner::Unknown, Owner::Absent], false, Action::Keep);
        check(&[], &[Owner::Absent], true, Action::Delete(PropagationPolicy::Background));
        check(&[], &[Owner::Solid, Owner::Absent], false, Action::Release(vec!["1".to_owned()]));
        check(&[], &[Owner::Waiting], false, Action::Delete(PropagationPolicy::Background));
        check(&[], &[Owner::Waiting], true, Action::Delete(PropagationPolicy::Foreground));
        check(&[ORPHAN], &[Owner::Absent], true, Action::Delete(PropagationPolicy::Orphan));
    }

    #[tokio::test]
    async fn kinds_come_and_go() {
        use crate::discovery::tests::kind;

        // Nothing is sent: a watch begins when its stream is first polled.
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let mut collector = Collector {
            client: kube::Client::new(silent, "default"),
            kinds: Vec::new(),
            graph: Graph::default(),
            present: HashSet::new(),
            work: BTreeSet::new(),
        };
        let mut changes = Changes::new();
        let definitions = kind("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", false);
        let (boats, ships) = (kind("x.io", "Boat", "boats", true), kind("x.io", "Ship", "ships", true));
        let found = |kinds: &[&Kind]| Discovered {
            kinds: kinds.iter().map(|kind| (*kind).clone()).collect(),
            failed: Vec::new(),
        };
        collector.follow(&found(&[&definitions, &boats]), &mut changes);
        let position = |collector: &Collector, kind: &Kind| {
            collector.kinds.iter().position(|one| one.as_ref().is_some_and(|one| one.kind == *kind))
        };
        assert!(!collector.is_synced() && changes.len() == 2);
        for kind in [&definitions, &boats] {
            let position = position(&collector, kind).expect("it is followed");
            assert_eq!(collector.defines_kinds(position), *kind == definitions);
            collector.note(position, Change::InitDone);
        }
        assert!(collector.is_synced() && collector.is_complete());
        let boat = position(&collector, &boats).expect("it is followed");
        let metadata = ObjectMeta {
            uid: Some("b".to_owned()),
            name: Some("b".to_owned()),
            owner_references: Some(vec![owner("o", true)]),
            ..ObjectMeta::default()
        };
        collector.there(boat, metadata);
        assert!(collector.graph.is_blocked("o"));

        let mut partial = found(&[&definitions]);
        partial.failed.push(("x.io/v1".to_owned(), kube::Error::LinesCodecMaxLineLengthExceeded));
        collector.follow(&partial, &mut changes);
        assert!(collector.graph.is_blocked("o"), "a group that does not answer is not forgotten");
        collector.follow(&found(&[&ships, &definitions]), &mut changes);
        assert!(!collector.graph.is_blocked("o"), "objects of a kind that is not served hold nobody up");
        assert_eq!(position(&collector, &ships), Some(boat), "a free position is taken again");
        assert!(!collector.is_synced());
        collector.unreachable(boat);
        assert!(collector.is_synced() && !collector.is_complete(), "a kind that cannot be read holds nobody up");
    }

    #[test]
    fn the_graph_knows_who_blocks() {
        let mut graph = Graph::default();
        graph.insert("a", place("a"), vec![owner("o", false)]);
        assert!(!graph.is_blocked("o"));
        graph.insert("b", place("b"), vec![owner("o", true), owner("p", false)]);
        assert!(graph.is_blocked("o") && !graph.is_blocked("p"));
        assert_eq!(graph.remove("b"), ["o", "p"]);
        assert!(!graph.is_blocked("o"));
        graph.insert("c", place("c"), vec![owner("d", true)]);
        graph.insert("d", place("d"), vec![owner("c", true)]);
        assert!(!graph.closes_circle("c"));
        graph.waiting.insert("d".to_owned(), place("d"));
        assert!(graph.closes_circle("c") && !graph.closes_circle("d"));
        graph.remove("c");
        graph.remove("d");
        graph.insert("a", place("a"), vec![]);
        assert!(graph.of.is_empty() && graph.dependents.is_empty());
    }
}
