//! What the simulated API server keeps, and the rules by which it changes: versions, generations, finalizers, gentle ends.
//!
//! Defaults, validation and patches are those of the real server, so that a controller which writes nonsense is told so here too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kobune_kinds::status::{self, Answer, Status};
use kobune_kinds::{Catalogue, Kind};
use serde_json::{Value, json};

use crate::clock;
use crate::replica_set::seconds;

/// Collection, namespace and name.
pub type Place = (Arc<str>, String, String);

/// Who wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A controller.
    Controller,
    /// A node, the scheduler or a person.
    World,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its revision.
    pub revision: u64,
    /// Of which kind: `apps/deployments`.
    pub collection: Arc<str>,
    /// Whose it is.
    pub writer: Writer,
    /// The object before.
    pub before: Option<Arc<Value>>,
    /// The object after it; nothing once it is gone.
    pub after: Option<Arc<Value>>,
    /// The object as a watch shows it: one that is gone in its last state, with the revision of its end.
    pub object: Arc<Value>,
}

impl Write {
    /// The object if this write makes it.
    pub fn created(&self) -> Option<&Arc<Value>> {
        self.after.as_ref().filter(|_| self.before.is_none())
    }

    /// The object as it was if this write begins its end.
    pub fn condemned(&self) -> Option<&Arc<Value>> {
        let before = self.before.as_ref().filter(|before| !deleting(before))?;
        self.after.as_ref().is_none_or(|after| deleting(after)).then_some(before)
    }
}

/// How something is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// `Foreground`, `Background`, `Orphan` or nothing.
    pub propagation: String,
    /// Seconds.
    pub grace: Option<i64>,
    /// The uid it must have.
    pub uid: Option<String>,
    /// The version it must have.
    pub version: Option<String>,
}

/// Everything there is, and how it came to be.
pub struct Objects {
    objects: BTreeMap<Place, Arc<Value>>,
    /// All writes.
    pub log: Vec<Write>,
    /// Which of them are of a collection.
    of: HashMap<Arc<str>, Vec<usize>>,
    revision: u64,
    born: u64,
}

impl Default for Objects {
    fn default() -> Self {
        // No version is 0, which would mean any.
        Self { objects: BTreeMap::new(), log: Vec::new(), of: HashMap::new(), revision: 100, born: 0 }
    }
}

/// Text at a JSON pointer; empty for none.
pub fn text<'o>(object: &'o Value, pointer: &str) -> &'o str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a JSON pointer; 0 for none.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether the end of an object has begun.
pub fn deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Whether a pod has ended.
pub fn ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether a pod counts as one of its controller's.
pub fn active(pod: &Value) -> bool {
    !ended(pod) && !deleting(pod)
}

/// Whether a pod says that it is ready.
pub fn ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// The uid of the controlling owner; empty for none.
pub fn controller(object: &Value) -> &str {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let mut owners = owners.into_iter().flatten();
    owners.find(|owner| owner["controller"] == true).map_or("", |owner| text(owner, "/uid"))
}

/// Whether an object has a finalizer.
pub fn has_finalizer(object: &Value, name: &str) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|one| one == name))
}

/// The kind that an object says it is of.
pub fn kind_of(object: &Value) -> Arc<Kind> {
    let kind = Catalogue::builtin().by_kind(text(object, "/apiVersion"), text(object, "/kind")).cloned();
    kind.unwrap_or_else(|| panic!("no such kind: {object}"))
}

fn now() -> Value {
    json!(seconds(clock::now()).to_string())
}

/// Whether a namespace still waits for whoever empties it.
fn is_held_namespace(kind: &Kind, object: &Value) -> bool {
    let finalizers = object.pointer("/spec/finalizers").and_then(Value::as_array);
    kind.collection.as_ref() == "core/namespaces" && finalizers.is_some_and(|all| !all.is_empty())
}

impl Objects {
    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The first write to a collection after a revision.
    pub fn after(&self, collection: &str, since: u64) -> Option<&Write> {
        let of = self.of.get(collection)?;
        let next = of.partition_point(|at| self.log[*at].revision <= since);
        of.get(next).map(|at| &self.log[*at])
    }

    /// One object.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&(kind.collection.clone(), namespace.to_owned(), name.to_owned()))
    }

    /// All objects and where they are.
    pub fn everything(&self) -> impl Iterator<Item = (&Place, &Arc<Value>)> {
        self.objects.iter()
    }

    /// All objects of a collection, such as `core/pods`.
    pub fn all<'o>(&'o self, collection: &'o str) -> impl Iterator<Item = &'o Arc<Value>> {
        self.objects.iter().filter(move |(place, _)| *place.0 == *collection).map(|(_, object)| object)
    }

    /// The object with this name in a collection.
    pub fn named(&self, collection: &str, name: &str) -> Option<&Arc<Value>> {
        let named = |(place, _): &(&Place, &Arc<Value>)| *place.0 == *collection && place.2 == name;
        self.objects.iter().find(named).map(|(_, object)| object)
    }

    /// The object with this uid.
    pub fn with_uid(&self, uid: &str) -> Option<&Arc<Value>> {
        self.objects.values().find(|object| text(object, "/metadata/uid") == uid)
    }

    /// The objects of a collection whose controlling owner has this uid.
    pub fn controlled<'o>(&'o self, collection: &'o str, uid: &'o str) -> impl Iterator<Item = &'o Arc<Value>> {
        self.all(collection).filter(move |object| controller(object) == uid)
    }

    fn write(
        &mut self,
        kind: &Kind,
        writer: Writer,
        before: Option<Arc<Value>>,
        mut object: Value,
        stays: bool,
    ) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let place = (
            kind.collection.clone(),
            text(&object, "/metadata/namespace").to_owned(),
            text(&object, "/metadata/name").to_owned(),
        );
        let after = stays.then(|| object.clone());
        match &after {
            Some(object) => drop(self.objects.insert(place, object.clone())),
            None => drop(self.objects.remove(&place)),
        }
        let (revision, collection) = (self.revision, kind.collection.clone());
        self.of.entry(collection.clone()).or_default().push(self.log.len());
        self.log.push(Write { revision, collection, writer, before, after, object: object.clone() });
        object
    }

    /// Makes an object.
    pub fn create(
        &mut self,
        kind: &Kind,
        writer: Writer,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Answer> {
        self.born += 1;
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = (&*kind.kind).into();
        let home = self.named("core/namespaces", namespace).filter(|home| kind.namespaced && deleting(home));
        if home.is_some() {
            let message = format!("namespace {namespace} is being terminated");
            let refusal = Status::new(403, "Forbidden", message.clone());
            return Err(refusal.cause("NamespaceTerminating", &message, "metadata.namespace").answer());
        }
        if kind.namespaced {
            object["metadata"]["namespace"] = namespace.into();
        }
        if text(&object, "/metadata/name").is_empty() {
            let name = format!("{}{:05}", text(&object, "/metadata/generateName"), self.born);
            object["metadata"]["name"] = name.into();
        }
        let name = text(&object, "/metadata/name").to_owned();
        if self.get(kind, if kind.namespaced { namespace } else { "" }, &name).is_some() {
            return Err(status::already_exists(&kind.group_resource(), &name));
        }
        object["metadata"]["uid"] = format!("00000000-0000-0000-0000-{:012}", self.born).into();
        object["metadata"]["creationTimestamp"] = now();
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        let errors = kind.validate(&object);
        if !errors.is_empty() {
            return Err(status::invalid(&kind.kind, &name, &errors));
        }
        Ok(self.write(kind, writer, None, object, true))
    }

    /// Replaces an object by what `change` makes of it.
    pub fn update(
        &mut self,
        kind: &Kind,
        writer: Writer,
        (namespace, name): (&str, &str),
        subresource: Option<&str>,
        change: impl FnOnce(&Value) -> Result<Value, Answer>,
    ) -> Result<Arc<Value>, Answer> {
        let Some(old) = self.get(kind, namespace, name).cloned() else {
            return Err(status::not_found(&kind.group_resource(), name));
        };
        let mut object = change(&old)?;
        let (uid, version) = (text(&object, "/metadata/uid"), text(&object, "/metadata/resourceVersion"));
        let other = !uid.is_empty() && uid != text(&old, "/metadata/uid");
        if other || (!version.is_empty() && version != text(&old, "/metadata/resourceVersion")) {
            return Err(status::modified(&kind.group_resource(), name));
        }
        for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"]
        {
            match old["metadata"].get(field) {
                Some(value) => object["metadata"][field] = value.clone(),
                None => drop(object["metadata"].as_object_mut().map(|metadata| metadata.remove(field))),
            }
        }
        kind.default(&mut object);
        kind.prepare_update(&mut object, &old, subresource);
        let errors = kind.validate_update(&object, &old, subresource);
        if !errors.is_empty() {
            return Err(status::invalid(&kind.kind, name, &errors));
        }
        if object == *old {
            return Ok(old);
        }
        let waits =
            kind.collection.as_ref() == "core/pods" && number(&object, "/metadata/deletionGracePeriodSeconds") > 0;
        let held = object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        let stays = !deleting(&object) || waits || held || is_held_namespace(kind, &object);
        Ok(self.write(kind, writer, Some(old), object, stays))
    }

    /// Deletes an object, or begins to. The object as it is now.
    pub fn delete(
        &mut self,
        kind: &Kind,
        writer: Writer,
        (namespace, name): (&str, &str),
        how: &Deletion,
    ) -> Result<Arc<Value>, Answer> {
        let Some(old) = self.get(kind, namespace, name).cloned() else {
            return Err(status::not_found(&kind.group_resource(), name));
        };
        let differs = |wanted: &Option<String>, pointer: &str| {
            wanted.as_deref().is_some_and(|wanted| wanted != text(&old, pointer))
        };
        if differs(&how.uid, "/metadata/uid") || differs(&how.version, "/metadata/resourceVersion") {
            return Err(status::conflict(&kind.group_resource(), name, "the precondition does not hold"));
        }
        let mut object = (*old).clone();
        let mut finalizers: Vec<Value> =
            object.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        let wanted = match how.propagation.as_str() {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        };
        if let Some(wanted) = wanted.filter(|wanted| !finalizers.contains(&json!(wanted))) {
            finalizers.push(wanted.into());
            object["metadata"]["finalizers"] = finalizers.clone().into();
        }
        let is_pod = kind.collection.as_ref() == "core/pods";
        let idle = ended(&object) || text(&object, "/spec/nodeName").is_empty();
        let grace = match how.grace {
            _ if !is_pod || idle => 0,
            Some(grace) => grace,
            None => 30,
        };
        let current = deleting(&object).then(|| number(&object, "/metadata/deletionGracePeriodSeconds"));
        let grace = current.map_or(grace, |current| current.min(how.grace.unwrap_or(current)));
        if current.is_none() {
            object["metadata"]["deletionTimestamp"] = now();
        }
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if object == *old {
            return Ok(old);
        }
        let held = is_held_namespace(kind, &object);
        if held {
            object["status"]["phase"] = "Terminating".into();
        }
        let stays = grace > 0 || held || !finalizers.is_empty();
        Ok(self.write(kind, writer, Some(old), object, stays))
    }
}

impl Objects {
    /// Gives a pod its node, as the scheduler's binding does.
    pub fn bind(&mut self, kind: &Kind, (namespace, name): (&str, &str), node: &str) {
        let Some(old) = self.get(kind, namespace, name).cloned() else { return };
        let mut object = (*old).clone();
        object["spec"]["nodeName"] = node.into();
        self.write(kind, Writer::World, Some(old), object, true);
    }
}
