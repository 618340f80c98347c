//! Deletion: finalizers, graceful termination of pods, namespaces that wait for their content, and whole collections.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use kobune_kinds::{FieldError, Kind, protobuf, schema::Types};
use kobune_store::{At, CommitError, Op, Record, Write};
use serde_json::{Value, json};

use crate::{
    ApiServer, Body,
    accept::media_type,
    call::{Call, key},
    create::{durability, meta, metadata},
    decode, encode,
    error::{Answer, ApiError},
    list, options,
    query::Query,
    respond::{self, Made, Produced},
};

/// How many objects of a collection are deleted at once: enough to fill a batch of the store.
const AT_ONCE: usize = 256;

/// How often a deletion is tried again when the object changes meanwhile.
const ATTEMPTS: usize = 8;

/// What upstream calls the options.
const KIND: &str = "DeleteOptions";

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `meta/v1` `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Seconds until a pod is killed.
    pub grace: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub policy: Option<String>,
    /// The old form of `policy`.
    pub orphan: Option<bool>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The revision that the object must have.
    pub version: Option<String>,
    /// Whether nothing is to be kept.
    pub dry_run: bool,
}

impl Options {
    /// Reads the body, if there is one, and otherwise the query.
    pub(crate) fn read(body: &[u8], content_type: &str, query: &Query) -> Answer<Self> {
        let mut options = Self::default();
        if body.iter().all(u8::is_ascii_whitespace) {
            options.grace = query.integer("gracePeriodSeconds").map_err(ApiError::bad_request)?;
            options.policy = query.get("propagationPolicy").map(str::to_owned);
            options.orphan = query.maybe_flag("orphanDependents");
        } else {
            let object = if media_type(content_type) == protobuf::MEDIA {
                let schema = Types::builtin()
                    .named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
                    .ok_or_else(|| ApiError::internal_words("the schema of DeleteOptions is missing"))?;
                protobuf::decode(body, schema).map_err(|error| ApiError::bad_request(error.to_string()))?
            } else {
                decode::any(body, decode::media(content_type)?)?
            };
            options = Self::from_object(&object)?;
            if let Some(grace) = query.integer("gracePeriodSeconds").map_err(ApiError::bad_request)?
                && options.grace.is_none()
            {
                options.grace = Some(grace);
            }
        }
        options.check()?;
        Ok(options)
    }

    /// Reads a `DeleteOptions` object, also one inside an eviction.
    pub(crate) fn from_object(object: &Value) -> Answer<Self> {
        if !object.is_object() {
            return Err(ApiError::bad_request("expected DeleteOptions, the body is no object"));
        }
        if let Some(kind) = object.get("kind").and_then(Value::as_str)
            && kind != "DeleteOptions"
        {
            return Err(ApiError::bad_request(format!("expected DeleteOptions, got kind \"{kind}\"")));
        }
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let mut options = Self {
            grace: object.get("gracePeriodSeconds").and_then(Value::as_i64),
            policy: text("/propagationPolicy"),
            orphan: object.get("orphanDependents").and_then(Value::as_bool),
            uid: text("/preconditions/uid"),
            version: text("/preconditions/resourceVersion"),
            dry_run: false,
        };
        let values = object.get("dryRun").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let values: Vec<&str> = values.iter().map(|value| value.as_str().unwrap_or_default()).collect();
        options::refuse(KIND, options::dry_runs(&values).as_slice())?;
        options.dry_run = !values.is_empty();
        Ok(options)
    }

    /// The `DeleteOptions` object that admission sees.
    fn to_object(&self, dry_run: bool) -> Value {
        let mut object = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(grace) = self.grace {
            object["gracePeriodSeconds"] = grace.into();
        }
        if let Some(policy) = &self.policy {
            object["propagationPolicy"] = policy.as_str().into();
        }
        if let Some(orphan) = self.orphan {
            object["orphanDependents"] = orphan.into();
        }
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.version)] {
            if let Some(value) = value {
                object["preconditions"][field] = value.as_str().into();
            }
        }
        if self.dry_run || dry_run {
            object["dryRun"] = json!(["All"]);
        }
        object
    }

    fn check(&self) -> Answer<()> {
        let Some(policy) = self.policy.as_deref() else { return Ok(()) };
        let mut errors = Vec::new();
        if self.orphan.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid("propagationPolicy", policy, detail));
        }
        if !["Orphan", "Background", "Foreground"].contains(&policy) {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", policy, &known));
        }
        options::refuse(KIND, &errors)
    }

    fn orphans(&self, kind: &Kind, finalizers: &[String]) -> bool {
        let has = |finalizer: &str| finalizers.iter().any(|known| known == finalizer);
        match (self.orphan, self.policy.as_deref()) {
            (Some(orphan), _) => orphan,
            (None, Some(policy)) => policy == "Orphan",
            (None, None) => has(ORPHAN) || !has(FOREGROUND) && spares_dependents(kind),
        }
    }

    fn foreground(&self, kind: &Kind, finalizers: &[String]) -> bool {
        match (self.orphan, self.policy.as_deref()) {
            (Some(_), _) => false,
            (None, Some(policy)) => policy == "Foreground",
            (None, None) => {
                finalizers.iter().any(|finalizer| finalizer == FOREGROUND) && !self.orphans(kind, finalizers)
            }
        }
    }
}

/// The finalizers of an object.
fn finalizers(object: &Value) -> Vec<String> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

/// Whether an update takes away the last thing that kept a dying object.
pub(crate) fn is_complete(kind: &Kind, new: &Value, old: &Value) -> bool {
    if old.pointer("/metadata/deletionTimestamp").is_none() || !finalizers(new).is_empty() {
        return false;
    }
    if &*kind.collection == "core/namespaces" && has_namespace_finalizers(new) {
        return false;
    }
    old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}

fn has_namespace_finalizers(namespace: &Value) -> bool {
    namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// What is to be done with an object that a client wants gone.
#[derive(Debug, PartialEq)]
enum Plan {
    /// It goes now; the state is what watchers are shown last.
    Remove(Value),
    /// It stays for a while, in this state.
    Mark(Value),
    /// It is on its way already; nothing changes.
    Pending,
}

/// Seconds that a pod is given to end.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let mut grace =
        asked.or_else(|| pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64)).unwrap_or(30);
    // Nothing runs that could end gracefully.
    let unscheduled = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().is_empty();
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if unscheduled || matches!(phase, "Succeeded" | "Failed") {
        grace = 0;
    }
    if grace < 0 { 1 } else { grace }
}

/// Whether a deletion that says nothing of dependents leaves them: so it was before there was a garbage collector. Source:
/// `DefaultGarbageCollectionPolicy` in `pkg/registry/{core/replicationcontroller,batch/job}/strategy.go`.
fn spares_dependents(kind: &Kind) -> bool {
    matches!(&*kind.collection, "core/replicationcontrollers" | "batch/jobs")
}

/// Whether [`plan`], if it removes the object at once, removes it in the state in which it is.
fn goes_as_it_is(kind: &Kind, object: &Value) -> bool {
    let changes = [crate::definitions::COLLECTION, "core/namespaces"].contains(&&*kind.collection);
    !changes
        && !spares_dependents(kind)
        && object.pointer("/metadata/deletionTimestamp").is_none()
        && finalizers(object).is_empty()
}

/// Decides, from the object as it is, what a deletion does.
fn plan(kind: &Kind, mut object: Value, options: &Options, now: Timestamp) -> Plan {
    let dying_since = object.pointer("/metadata/deletionTimestamp").and_then(Value::as_str).map(str::to_owned);
    let dying = dying_since.is_some();
    let current_grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    if &*kind.collection == crate::definitions::COLLECTION && !dying {
        crate::definitions::mark_dying(&mut object);
    }
    let old_finalizers = finalizers(&object);
    let mut new_finalizers: Vec<String> =
        old_finalizers.iter().filter(|finalizer| *finalizer != ORPHAN && *finalizer != FOREGROUND).cloned().collect();
    if options.orphans(kind, &old_finalizers) {
        new_finalizers.push(ORPHAN.to_owned());
    }
    if options.foreground(kind, &old_finalizers) {
        new_finalizers.push(FOREGROUND.to_owned());
    }
    let same_finalizers = new_finalizers == old_finalizers;

    if &*kind.collection == "core/namespaces" {
        if !dying {
            mark(&mut object, now, None);
            object["status"]["phase"] = "Terminating".into();
        }
        set_finalizers(&mut object, &new_finalizers);
        return if has_namespace_finalizers(&object) || !new_finalizers.is_empty() {
            if dying && same_finalizers { Plan::Pending } else { Plan::Mark(object) }
        } else {
            Plan::Remove(object)
        };
    }

    let mut graceful = false;
    if &*kind.collection == "core/pods" {
        if dying {
            // A shorter grace replaces a longer one; anything else changes nothing.
            let current = current_grace.unwrap_or(0);
            match options.grace {
                Some(asked) if asked.max(0) < current => {
                    let asked = if asked < 0 { 1 } else { asked };
                    let began = dying_since
                        .as_deref()
                        .and_then(|text| text.parse::<Timestamp>().ok())
                        .unwrap_or(now)
                        .saturating_sub(SignedDuration::from_secs(current));
                    let began = began.unwrap_or(now);
                    mark_at(&mut object, began, asked);
                    graceful = asked > 0;
                    if graceful {
                        set_finalizers(&mut object, &new_finalizers);
                        return Plan::Mark(object);
                    }
                }
                _ if current > 0 && same_finalizers => return Plan::Pending,
                _ if current > 0 => graceful = true,
                _ => {}
            }
        } else {
            let grace = pod_grace(&object, options.grace);
            if grace > 0 {
                mark(&mut object, now, Some(grace));
                bump_generation(&mut object);
                graceful = true;
            }
        }
    }
    set_finalizers(&mut object, &new_finalizers);
    if graceful {
        return Plan::Mark(object);
    }
    if new_finalizers.is_empty() {
        if &*kind.collection == "core/pods" && object.pointer("/metadata/deletionTimestamp").is_some() {
            metadata(&mut object).insert("deletionGracePeriodSeconds".into(), 0.into());
        }
        return Plan::Remove(object);
    }
    if dying && same_finalizers && current_grace == Some(0) {
        return Plan::Pending;
    }
    if !dying {
        mark(&mut object, now, Some(0));
        bump_generation(&mut object);
    } else {
        metadata(&mut object).insert("deletionGracePeriodSeconds".into(), 0.into());
    }
    Plan::Mark(object)
}

fn mark(object: &mut Value, now: Timestamp, grace: Option<i64>) {
    match grace {
        Some(grace) => mark_at(object, now, grace),
        None => {
            metadata(object).insert("deletionTimestamp".into(), seconds(now).into());
        }
    }
}

/// The deletion timestamp is the time at which the grace is over.
fn mark_at(object: &mut Value, began: Timestamp, grace: i64) {
    let end = began.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(began);
    let fields = metadata(object);
    fields.insert("deletionTimestamp".into(), seconds(end).into());
    fields.insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn bump_generation(object: &mut Value) {
    let fields = metadata(object);
    if let Some(generation) = fields.get("generation").and_then(Value::as_i64)
        && generation > 0
    {
        fields.insert("generation".into(), (generation + 1).into());
    }
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let fields = metadata(object);
    if finalizers.is_empty() {
        fields.remove("finalizers");
    } else {
        fields.insert("finalizers".into(), finalizers.iter().map(String::as_str).collect());
    }
}

impl ApiServer {
    /// DELETE of one object.
    pub(crate) async fn delete(&self, call: &Call, options: &Options) -> Answer<Made> {
        self.delete_named(call, call.namespace(), call.name(), options).await
    }

    /// Deletes an object of the call's kind; whoever calls has checked that the user may.
    pub(crate) async fn delete_named(
        &self,
        call: &Call,
        namespace: &str,
        name: &str,
        options: &Options,
    ) -> Answer<Made> {
        let kind = &call.kind;
        let key = key(kind, namespace, name);
        for _ in 0..ATTEMPTS {
            let Some(record) = self.read_as(kind, &key).await? else { return Err(ApiError::not_found(kind, name)) };
            match self.delete_once(call, name, &record, options).await {
                Err(DeleteError::Raced) if options.version.is_none() => {}
                Err(DeleteError::Raced) => return Err(ApiError::stale(kind, name)),
                Err(DeleteError::Api(error)) => return Err(error),
                Ok(made) => return Ok(made),
            }
        }
        Err(ApiError::stale(kind, name))
    }

    async fn delete_once(
        &self,
        call: &Call,
        name: &str,
        record: &Record,
        options: &Options,
    ) -> Result<Made, DeleteError> {
        let kind = &call.kind;
        let object = respond::parse(kind, record)?;
        let uid = meta(&object, "uid").to_owned();
        if let Some(wanted) = &options.uid
            && *wanted != uid
        {
            let text = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
            return Err(ApiError::conflict(kind, name, &text).into());
        }
        if let Some(wanted) = &options.version
            && *wanted != meta(&object, "resourceVersion")
        {
            let found = meta(&object, "resourceVersion");
            let text = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {found}"
            );
            return Err(ApiError::conflict(kind, name, &text).into());
        }
        let warnings = self.review_deletion(call, name, &object, &options.to_object(call.dry_run)).await?;
        let dry_run = options.dry_run || call.dry_run;
        // What goes in its stored form need not be encoded again.
        let as_it_is = goes_as_it_is(kind, &object) && kind.shows_as_stored(&record.value, record.revision.0);
        let stored = if as_it_is { encode::redraft(record) } else { None };
        match plan(kind, object, options, Timestamp::now()) {
            Plan::Pending => Ok(self.kept(options, Produced::Stored(record.clone())).with_warnings(warnings)),
            Plan::Mark(object) if dry_run => Ok(self.kept(options, Produced::Object(object)).with_warnings(warnings)),
            Plan::Mark(object) => {
                let object = self.for_storage(kind, object).await?;
                let draft = encode::draft(&self.storage_kind(kind), &object);
                let op = Op::Update { expected: record.revision, draft };
                let written = self.commit_deletion(call, name, record, op).await?;
                Ok(self.kept(options, Produced::Stored(written)).with_warnings(warnings))
            }
            Plan::Remove(object) if dry_run => {
                Ok(Made::ok(self.removed(kind, name, &uid, Produced::Object(object))).with_warnings(warnings))
            }
            Plan::Remove(object) => {
                let last = match stored {
                    Some(draft) => draft,
                    None => encode::draft(&self.storage_kind(kind), &self.for_storage(kind, object).await?),
                };
                let op = Op::Delete { expected: record.revision, last };
                let deleted = self.commit_deletion(call, name, record, op).await?;
                self.deleted(kind, &deleted).await;
                Ok(Made::ok(self.removed(kind, name, &uid, Produced::Stored(deleted))).with_warnings(warnings))
            }
        }
    }

    async fn commit_deletion(&self, call: &Call, name: &str, record: &Record, op: Op) -> Result<Record, DeleteError> {
        let write = Write { key: record.key.clone(), op, durability: durability(&call.kind) };
        self.store.commit(write).await.map_err(|error| match error {
            CommitError::Conflict { .. } => DeleteError::Raced,
            error => DeleteError::Api(ApiError::from_commit(&call.kind, name, &error)),
        })
    }

    /// The answer when the object stays for a while.
    fn kept(&self, options: &Options, produced: Produced) -> Made {
        let mut made = Made::ok(produced);
        if options.orphan == Some(false) {
            made.code = StatusCode::ACCEPTED;
        }
        made
    }

    /// The answer when the object is gone.
    fn removed(&self, kind: &Kind, name: &str, uid: &str, produced: Produced) -> Produced {
        if kind.deletion_answers_with_object() {
            produced
        } else {
            Produced::Object(respond::success(kind, name, Some(uid)))
        }
    }

    /// Deletes an object whose definition goes, without asking anybody; whether it stays for its finalizers. It stays in the
    /// version in which it is stored: the webhook that would convert it may be gone already.
    pub(crate) async fn delete_unasked(&self, kind: &Arc<Kind>, record: &Record) -> Answer<bool> {
        let name = &record.key.name;
        let object: Value = serde_json::from_slice(&record.value).map_err(|error| ApiError::internal(&error))?;
        let (op, stays) = match plan(kind, object, &Options::default(), Timestamp::now()) {
            Plan::Pending => return Ok(true),
            Plan::Mark(object) => {
                let draft = encode::draft(kind, &object);
                (Op::Update { expected: record.revision, draft }, true)
            }
            Plan::Remove(object) => {
                (Op::Delete { expected: record.revision, last: encode::draft(kind, &object) }, false)
            }
        };
        match self.store.commit(Write { key: record.key.clone(), op, durability: durability(kind) }).await {
            // Changed or gone meanwhile: the next look tells.
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(stays),
            Err(error) => Err(ApiError::from_commit(kind, name, &error)),
        }
    }

    /// Deletes one object of a collection; one that is gone already is no error.
    async fn delete_member(&self, call: &Call, record: Record, options: &Options) -> Answer<()> {
        match self.delete_named(call, &record.key.namespace, &record.key.name, options).await {
            Err(error) if error.code() != 404 => Err(error),
            _ => Ok(()),
        }
    }

    /// DELETE of all objects that match; answers with their list.
    pub(crate) async fn delete_collection(&self, call: &Call, options: &Options) -> Answer<Response<Body>> {
        let selection = list::Selection::read(call)?;
        let range = list::range(call);
        let listing = self.store.list(&range, At::Latest).await.map_err(|error| ApiError::from_store(&error))?;
        let chosen: Vec<Record> = selection.of(&listing, "", "").cloned().collect();
        let revision = listing.revision();
        drop(listing);
        let chosen = self.selected(call, &selection, chosen).await?;
        let options = Options { uid: None, version: None, ..options.clone() };
        // Objects of the same batch are written together, so many are deleted at once.
        stream::iter(chosen.clone())
            .map(|record| self.delete_member(call, record, &options).boxed())
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        self.list_of(call, chosen, revision).await
    }
}

enum DeleteError {
    Raced,
    Api(ApiError),
}

impl From<ApiError> for DeleteError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kobune_kinds::Catalogue;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a valid time")
    }

    fn check(kind: &str, object: Value, options: Value, expected: impl FnOnce(Plan)) {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind("v1", kind).expect("a built-in kind");
        expected(plan(kind, object, &Options::from_object(&options).expect("valid options"), now()));
    }

    #[test]
    fn pods_end_gracefully() {
        let pod = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 10}});
        check("Pod", pod.clone(), json!({}), |plan| {
            let Plan::Mark(pod) = plan else { panic!("{plan:?}") };
            assert_eq!(pod["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
            assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 10);
            assert_eq!(pod["metadata"]["generation"], 2);
        });
        check("Pod", pod, json!({"gracePeriodSeconds": 0}), |plan| assert!(matches!(plan, Plan::Remove(_))));
        check("Pod", json!({"metadata": {"name": "a"}, "spec": {}}), json!({}), |plan| {
            assert!(matches!(plan, Plan::Remove(_)))
        });
        let dying = json!({
            "metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:10Z", "deletionGracePeriodSeconds": 10},
            "spec": {"nodeName": "n"},
        });
        check("Pod", dying.clone(), json!({}), |plan| assert_eq!(plan, Plan::Pending));
        check("Pod", dying.clone(), json!({"gracePeriodSeconds": 20}), |plan| assert_eq!(plan, Plan::Pending));
        check("Pod", dying.clone(), json!({"gracePeriodSeconds": 5}), |plan| {
            let Plan::Mark(pod) = plan else { panic!("{plan:?}") };
            assert_eq!(pod["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        });
        check("Pod", dying, json!({"gracePeriodSeconds": 0}), |plan| assert!(matches!(plan, Plan::Remove(_))));
    }

    #[test]
    fn controllers_of_old_leave_their_pods() {
        let object = || json!({"metadata": {"name": "a"}});
        let finalizers = |plan: Plan| match plan {
            Plan::Mark(object) => object["metadata"]["finalizers"].clone(),
            other => panic!("{other:?}"),
        };
        check("ReplicationController", object(), json!({}), |plan| assert_eq!(finalizers(plan), json!(["orphan"])));
        check("ReplicationController", object(), json!({"propagationPolicy": "Foreground"}), |plan| {
            assert_eq!(finalizers(plan), json!(["foregroundDeletion"]));
        });
        check("ReplicationController", object(), json!({"propagationPolicy": "Background"}), |plan| {
            assert!(matches!(plan, Plan::Remove(_)));
        });
        check("ConfigMap", object(), json!({}), |plan| assert!(matches!(plan, Plan::Remove(_))));
    }

    #[test]
    fn what_goes_as_it_is() {
        let check = |kind: &str, object: Value, options: Value, expected: bool| {
            let catalogue = Catalogue::builtin();
            let found = catalogue.by_kind("v1", kind).expect("a built-in kind");
            assert_eq!(goes_as_it_is(found, &object), expected, "{object}");
            let options = Options::from_object(&options).expect("valid options");
            if let Plan::Remove(last) = plan(found, object.clone(), &options, now()) {
                assert!(!expected || last == object, "{object} {last}");
            }
        };
        let now = json!({"gracePeriodSeconds": 0});
        let pod = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": "n"}});
        check("Pod", pod.clone(), now.clone(), true);
        check("Pod", pod, json!({}), true);
        check("ConfigMap", json!({"metadata": {"name": "a"}}), json!({"propagationPolicy": "Background"}), true);
        check("ConfigMap", json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}), now.clone(), false);
        check(
            "Pod",
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            now.clone(),
            false,
        );
        check("Namespace", json!({"metadata": {"name": "a"}}), now, false);
    }

    #[test]
    fn finalizers_keep_objects() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
        check("ConfigMap", object.clone(), json!({}), |plan| {
            let Plan::Mark(object) = plan else { panic!("{plan:?}") };
            assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
            assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 0);
        });
        check("ConfigMap", json!({"metadata": {"name": "a"}}), json!({"propagationPolicy": "Foreground"}), |plan| {
            let Plan::Mark(object) = plan else { panic!("{plan:?}") };
            assert_eq!(object["metadata"]["finalizers"], json!([FOREGROUND]));
        });
        check("ConfigMap", json!({"metadata": {"name": "a"}}), json!({"propagationPolicy": "Orphan"}), |plan| {
            let Plan::Mark(object) = plan else { panic!("{plan:?}") };
            assert_eq!(object["metadata"]["finalizers"], json!([ORPHAN]));
        });
        check("ConfigMap", json!({"metadata": {"name": "a"}}), json!({}), |plan| {
            assert!(matches!(plan, Plan::Remove(_)))
        });
    }

    #[test]
    fn namespaces_wait_for_their_content() {
        let namespace =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        check("Namespace", namespace, json!({}), |plan| {
            let Plan::Mark(namespace) = plan else { panic!("{plan:?}") };
            assert_eq!(namespace["status"]["phase"], "Terminating");
            assert_eq!(namespace["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
        });
    }
}
