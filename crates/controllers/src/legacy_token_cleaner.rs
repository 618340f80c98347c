//! Marks, and later removes, tokens in Secrets that were made without being asked for and that nobody has used for a year.
//!
//! ```text
//!   used, mounted, or younger than a year ──> stays
//!        │ a year passes
//!        v
//!   label legacy-token-invalid-since: refused by the API server, comes back when somebody takes the label away
//!        │ another year passes
//!        v
//!      removed
//! ```
//!
//! Only Secrets that their service account lists are meant: those that a person made stay. The API server notes the last use as
//! a label, and in a ConfigMap since when it does. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go>.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};
use crate::service_account_tokens::{ACCOUNT_NAME, ACCOUNT_UID, Known, annotation};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// How long a token may be unused, and how long a mark stands before the end; upstream's default.
const PERIOD: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How often a Secret whose time has come is looked at again while a pod mounts it; also the longest wait for any other, because
/// a machine that slept has a wrong idea of how long it has waited.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Starts the controller.
pub fn start(context: &Arc<Context>, known: &Known) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&*known.secrets, &queue);
    let (wake, all) = (queue.clone(), known.clone());
    known.accounts.on_change(move |before, after| {
        let lists = |account: Option<&Arc<ServiceAccount>>| account.and_then(|account| account.secrets.clone());
        let Some(account) = after.filter(|_| lists(before) != lists(after)) else { return };
        all.secrets_of(&account.key()).for_each(|secret| wake.add(secret.key()));
    });
    let (own, known) = (context.clone(), known.clone());
    let ready = known.clone().synced();
    context.run_controller("legacy-serviceaccount-token-cleaner", queue, ready, move |key| {
        pass(own.clone(), known.clone(), key)
    });
}

/// What is to become of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It stays.
    Keep,
    /// It is to be looked at again then.
    Later(Timestamp),
    /// Unless a pod uses it, its token is to be refused from now on.
    Mark,
    /// Unless a pod uses it, it goes.
    Remove,
}

/// Whether the service account lists a Secret, as it did those that were made without being asked for.
fn generated(secret: &Secret, account: Option<&ServiceAccount>) -> bool {
    let Some(account) = account else { return false };
    let uid = annotation(secret, ACCOUNT_UID);
    (uid.is_empty() || account.metadata.uid.as_deref() == Some(uid))
        && account.secrets.iter().flatten().any(|listed| listed.name == secret.metadata.name)
}

/// When the day is over, in UTC.
fn end_of(day: Date) -> Timestamp {
    let next = day.saturating_add(1.day());
    next.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

fn day_of(secret: &Secret, label: &str) -> Option<Result<Date, jiff::Error>> {
    secret.metadata.labels.as_ref()?.get(label).map(|text| text.parse())
}

/// Decides about a Secret that was made without being asked for; `since` is the day from which uses are noted.
fn plan(secret: &Secret, since: Date, now: Timestamp) -> Verdict {
    let after = |time: Timestamp| time.saturating_add(PERIOD).unwrap_or(Timestamp::MAX);
    let created = secret.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let used = match day_of(secret, LAST_USED) {
        None => Timestamp::MIN,
        Some(Ok(day)) => end_of(day),
        // Nobody can tell when it was used.
        Some(Err(_)) => return Verdict::Keep,
    };
    let idle = [end_of(since), created, used].into_iter().map(after).max().unwrap_or(Timestamp::MAX);
    if idle > now {
        return Verdict::Later(idle);
    }
    match day_of(secret, INVALID_SINCE) {
        Some(Ok(day)) if after(end_of(day)) > now => Verdict::Later(after(end_of(day))),
        Some(Ok(_)) => Verdict::Remove,
        Some(Err(_)) | None => Verdict::Mark,
    }
}

/// Whether a pod uses a Secret: to pull images, in the environment of a container, or as a volume of whatever type.
fn uses(pod: &PodSpec, name: &str) -> bool {
    let pulls = pod.image_pull_secrets.iter().flatten().any(|secret| secret.name == name);
    let all = pod.init_containers.iter().flatten().chain(&pod.containers);
    let ephemeral = pod.ephemeral_containers.iter().flatten();
    let (env, env_from) = (
        all.clone().flat_map(|one| &one.env).chain(ephemeral.clone().flat_map(|one| &one.env)).flatten(),
        all.flat_map(|one| &one.env_from).chain(ephemeral.flat_map(|one| &one.env_from)).flatten(),
    );
    let mut keys = env.filter_map(|one| one.value_from.as_ref()?.secret_key_ref.as_ref());
    let mut whole = env_from.filter_map(|one| one.secret_ref.as_ref());
    let mounts = |volume: &k8s_openapi::api::core::v1::Volume| {
        let local = |found: Option<&k8s_openapi::api::core::v1::LocalObjectReference>| {
            found.is_some_and(|secret| secret.name == name)
        };
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        volume.secret.as_ref().is_some_and(|secret| secret.secret_name.as_deref() == Some(name))
            || projected.filter_map(|source| source.secret.as_ref()).any(|secret| secret.name == name)
            || volume.azure_file.as_ref().is_some_and(|azure| azure.secret_name == name)
            || local(volume.cephfs.as_ref().and_then(|ceph| ceph.secret_ref.as_ref()))
            || local(volume.cinder.as_ref().and_then(|cinder| cinder.secret_ref.as_ref()))
            || local(volume.flex_volume.as_ref().and_then(|flex| flex.secret_ref.as_ref()))
            || local(volume.rbd.as_ref().and_then(|rbd| rbd.secret_ref.as_ref()))
            || local(volume.scale_io.as_ref().map(|scale| &scale.secret_ref))
            || local(volume.iscsi.as_ref().and_then(|iscsi| iscsi.secret_ref.as_ref()))
            || local(volume.storageos.as_ref().and_then(|storage| storage.secret_ref.as_ref()))
            || local(volume.csi.as_ref().and_then(|csi| csi.node_publish_secret_ref.as_ref()))
    };
    pulls
        || keys.any(|key| key.name == name)
        || whole.any(|secret| secret.name == name)
        || pod.volumes.iter().flatten().any(mounts)
}

async fn pass(context: Arc<Context>, known: Known, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(secret) = known.secrets.get(&key).filter(|secret| !secret.deleting()) else { return Ok(None) };
    let account = known.accounts.get(&ObjectKey::new(&key.namespace, annotation(&secret, ACCOUNT_NAME)));
    if !generated(&secret, account.as_deref()) {
        return Ok(None);
    }
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), "kube-system");
    let map = maps.get_opt(TRACKING).await.doing("reading since when the use of tokens is noted")?;
    let since = map.and_then(|map| map.data?.get("since")?.parse::<Date>().ok());
    // As long as nobody notes the uses, none is known to be long ago.
    let Some(since) = since else { return Ok(Some(DAY)) };
    let now = clock::now();
    let verdict = plan(&secret, since, now);
    match verdict {
        Verdict::Keep => return Ok(None),
        Verdict::Later(time) => return Ok(Some(time.duration_since(now).unsigned_abs().min(DAY))),
        Verdict::Mark | Verdict::Remove => {}
    }
    // Few Secrets come this far, so that what pods mount is asked for here and kept nowhere.
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = pods.list(&ListParams::default()).await.doing("looking for pods that use a token")?;
    if pods.iter().filter_map(|pod| pod.spec.as_ref()).any(|pod| uses(pod, &key.name)) {
        return Ok(Some(DAY));
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let result = if verdict == Verdict::Mark {
        let day = now.to_zoned(TimeZone::UTC).date().to_string();
        tracing::info!(secret = %key, "a token that was made without being asked for is marked invalid: nobody has used it for long");
        let change = json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: day}}});
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(change)).await;
        written.map(|written| known.secrets.wrote(written))
    } else {
        tracing::info!(secret = %key, "a token that was made without being asked for is removed: it has been invalid for long");
        // A use that is noted meanwhile keeps it.
        let unchanged = Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        };
        let options = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
        api.delete(&key.name, &options).await.map(|_| known.secrets.removed(&key, secret.uid()))
    };
    match result {
        Ok(()) => Ok(Some(DAY)),
        // The watch tells of what is there now.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(None),
        Err(error) => Err(error).doing("cleaning up an unused token"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn plans() {
        let check = |created: &str, used: Option<&str>, invalid: Option<&str>, now: &str, expected: Verdict| {
            let labels = [(LAST_USED, used), (INVALID_SINCE, invalid)];
            let labels: std::collections::BTreeMap<_, _> =
                labels.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            let secret = json!({"metadata": {"name": "s", "creationTimestamp": created, "labels": labels}});
            let secret: Secret = serde_json::from_value(secret).expect("a secret");
            let found = plan(&secret, "2026-01-01".parse().expect("a day"), at(now));
            assert_eq!(found, expected, "made {created}, used {used:?}, invalid {invalid:?}, at {now}");
        };
        let (old, new) = ("2020-01-01T00:00:00Z", "2026-06-01T00:00:00Z");
        // A year after uses are noted at all, a year after it was made, a year after it was used.
        let noted = Verdict::Later(at("2027-01-02T00:00:00Z"));
        check(old, None, None, "2026-06-01T00:00:00Z", noted);
        check(old, None, None, "2027-01-01T23:59:59Z", noted);
        check(old, None, None, "2027-01-02T00:00:00Z", Verdict::Mark);
        check(new, None, None, "2027-01-02T00:00:00Z", Verdict::Later(at("2027-06-01T00:00:00Z")));
        check(old, Some("2026-12-31"), None, "2027-06-01T00:00:00Z", Verdict::Later(at("2028-01-01T00:00:00Z")));
        check(old, Some("2026-02-01"), None, "2027-06-01T00:00:00Z", Verdict::Mark);
        check(old, Some("yesterday"), None, "2029-06-01T00:00:00Z", Verdict::Keep);
        // A mark stands for a year; one that nobody can read is made anew; one that was used meanwhile stays.
        let marked = Verdict::Later(at("2028-06-02T00:00:00Z"));
        check(old, None, Some("2027-06-02"), "2027-06-03T00:00:00Z", marked);
        check(old, None, Some("2027-06-02"), "2028-06-02T00:00:00Z", Verdict::Remove);
        check(old, None, Some("soon"), "2028-06-02T00:00:00Z", Verdict::Mark);
        let used = Verdict::Later(at("2029-06-02T00:00:00Z"));
        check(old, Some("2028-06-01"), Some("2027-06-02"), "2028-06-03T00:00:00Z", used);
    }

    #[test]
    fn only_what_the_account_lists() {
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "bot-token",
            "annotations": {ACCOUNT_NAME: "bot", ACCOUNT_UID: "u1"}}}))
        .expect("a secret");
        let account = |uid: &str, lists: &[&str]| -> ServiceAccount {
            let lists: Vec<_> = lists.iter().map(|name| json!({"name": name})).collect();
            serde_json::from_value(json!({"metadata": {"name": "bot", "uid": uid}, "secrets": lists}))
                .expect("an account")
        };
        assert!(generated(&secret, Some(&account("u1", &["other", "bot-token"]))));
        assert!(!generated(&secret, Some(&account("u1", &["other"]))));
        assert!(!generated(&secret, Some(&account("u2", &["bot-token"]))));
        assert!(!generated(&secret, None));
    }

    #[test]
    fn whatever_a_pod_uses_stays() {
        let check = |spec: serde_json::Value, expected: bool| {
            let mut spec = spec;
            if spec["containers"].is_null() {
                spec["containers"] = json!([{"name": "c"}]);
            }
            let pod: PodSpec = serde_json::from_value(spec.clone()).expect("a pod");
            assert_eq!(uses(&pod, "s"), expected, "{spec}");
        };
        let env =
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
        let volume = |source: serde_json::Value| {
            let mut volume = source;
            volume["name"] = "v".into();
            json!({"volumes": [volume]})
        };
        check(json!({}), false);
        check(json!({"imagePullSecrets": [{"name": "s"}]}), true);
        check(json!({"containers": [env]}), true);
        check(json!({"initContainers": [env]}), true);
        check(json!({"ephemeralContainers": [env]}), true);
        check(json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}), true);
        check(json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "s"}}]}]}), false);
        check(volume(json!({"secret": {"secretName": "s"}})), true);
        check(volume(json!({"secret": {"secretName": "t"}})), false);
        check(volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})), true);
        check(volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})), true);
        check(volume(json!({"azureFile": {"secretName": "s", "shareName": "x"}})), true);
    }
}
