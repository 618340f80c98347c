//! The controllers of workloads, each with what must never happen to it.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::machines::{Habits, change, delete};
use super::objects::{Objects, Write, Writer, active, controller, deleting, ended, has_finalizer, number, ready, text};
use super::server::{Faults, make};
use super::{Scenario, TROUBLE, die_at_each_step, simulate};
use crate::{
    cron_job, daemon_set, deployment, endpoint_slice, garbage_collector, job, replica_set, stateful_set,
    ttl_after_finished,
};

type Verdict = Result<(), String>;

fn template(app: &str, image: &str, restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": image}]}})
}

fn workload(kind: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("web", "i0", "Always")}});
    for (key, value) in more.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    object
}

fn require(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

fn nothing(_: &mut Objects, _: &mut SmallRng) {}

/// Takes a pod away, as a person does.
fn delete_a_pod(objects: &mut Objects, random: &mut SmallRng) {
    let pods: Vec<_> = objects.all("core/pods").filter(|pod| !deleting(pod)).cloned().collect();
    if let Some(pod) = pods.choose(random) {
        delete(objects, pod, "", None);
    }
}

fn edit(objects: &mut Objects, collection: &str, edit: impl FnOnce(&mut Value)) {
    if let Some(object) = objects.named(collection, "web").filter(|object| !deleting(object)).cloned() {
        change(objects, &object, None, edit);
    }
}

fn pods_of<'o>(objects: &'o Objects, owner: &'o Value) -> Vec<&'o Value> {
    objects.controlled("core/pods", text(owner, "/metadata/uid")).map(|pod| &**pod).collect()
}

// ReplicaSet.

fn scale_the_set(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..3) {
        0 => edit(objects, "apps/replicasets", |set| set["spec"]["replicas"] = random.random_range(0..6).into()),
        1 => delete_a_pod(objects, random),
        // A pod that belongs to nobody is adopted.
        _ => drop(make(
            objects,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "lost-", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i0"}]}}),
        )),
    }
}

fn as_many_as_wanted(objects: &Objects) -> Verdict {
    let set = objects.named("apps/replicasets", "web").ok_or("the set is gone")?;
    let pods = pods_of(objects, set);
    let (running, wanted) =
        (pods.iter().filter(|pod| active(pod) && ready(pod)).count(), number(set, "/spec/replicas"));
    require(running as i64 == wanted, || format!("{running} pods for {wanted}"))?;
    for field in ["replicas", "readyReplicas", "availableReplicas"] {
        let told = number(set, &format!("/status/{field}"));
        require(told == wanted, || format!("status.{field} is {told} for {wanted}"))?;
    }
    Ok(())
}

/// Without lost answers a set never makes a pod too many, whatever it has not heard of yet.
fn no_pod_too_many(objects: &Objects, write: &Write) -> Verdict {
    let Some(pod) = write.created().filter(|pod| &*write.collection == "core/pods" && !controller(pod).is_empty())
    else {
        return Ok(());
    };
    let Some(set) = objects.with_uid(controller(pod)) else { return Ok(()) };
    // What the set did not know when it decided: how many were wanted before, and pods that nobody owned.
    let most = objects.log.iter().filter(|past| text(&past.object, "/metadata/uid") == controller(pod));
    let most = most.map(|past| number(&past.object, "/spec/replicas")).max().unwrap_or(0);
    let count = pods_of(objects, set).into_iter().filter(|pod| active(pod)).count();
    let adopted =
        pods_of(objects, set).into_iter().filter(|pod| text(pod, "/metadata/generateName") == "lost-").count();
    require((count - adopted) as i64 <= most, || format!("{count} pods, {adopted} adopted, for {most}"))
}

#[test]
fn a_replica_set_has_as_many_pods_as_it_wants() {
    let scenario = Scenario {
        start: &[replica_set::start],
        shown: &[],
        faults: TROUBLE,
        habits: Habits { crash: 10, waver: 10, fail: 0 },
        setup: |objects, _| drop(make(objects, workload("ReplicaSet", json!({"replicas": 3})))),
        disturb: scale_the_set,
        last: |_| (),
        always: no_pod_too_many,
        finally: as_many_as_wanted,
    };
    simulate(&scenario);
    simulate(&Scenario { faults: Faults { lost: 10, ..TROUBLE }, always: |_, _| Ok(()), ..scenario });
    die_at_each_step(&scenario, 12);
}

// Deployment.

fn roll(objects: &mut Objects, random: &mut SmallRng) {
    let image = format!("i{}", random.random_range(0..4));
    edit(objects, "apps/deployments", |web| web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
}

/// A new template once the last one is everywhere. Sooner, and pods that become ready are taken as if they were not yet: upstream
/// counts by the sets' statuses, which are always a little old.
fn roll_when_settled(objects: &mut Objects, random: &mut SmallRng) {
    let Some(web) = objects.named("apps/deployments", "web") else { return };
    let told = |field: &str| number(web, &format!("/status/{field}"));
    let all = ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| told(field) == 4);
    if all && told("observedGeneration") == number(web, "/metadata/generation") {
        roll(objects, random);
    }
}

fn disturb_a_deployment(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..5) {
        0 => edit(objects, "apps/deployments", |web| web["spec"]["replicas"] = random.random_range(0..6).into()),
        1 => edit(objects, "apps/deployments", |web| web["spec"]["paused"] = random.random_bool(0.5).into()),
        2 => delete_a_pod(objects, random),
        3 => {
            let which = ["Recreate", "RollingUpdate"][random.random_range(0..2)];
            edit(objects, "apps/deployments", |web| web["spec"]["strategy"] = json!({"type": which}));
        }
        _ => roll(objects, random),
    }
}

fn rolled_out(objects: &Objects) -> Verdict {
    let web = objects.named("apps/deployments", "web").ok_or("the deployment is gone")?;
    let wanted = number(web, "/spec/replicas");
    let sets: Vec<_> = objects.controlled("apps/replicasets", text(web, "/metadata/uid")).collect();
    let pods: Vec<&Value> = sets.iter().flat_map(|set| pods_of(objects, set)).filter(|pod| active(pod)).collect();
    require(pods.len() as i64 == wanted, || format!("{} pods for {wanted}", pods.len()))?;
    let image = text(web, "/spec/template/spec/containers/0/image");
    for pod in pods {
        let found = text(pod, "/spec/containers/0/image");
        require(found == image, || format!("a pod of {found} instead of {image}"))?;
    }
    let same = sets.iter().filter(|set| text(set, "/spec/template/spec/containers/0/image") == image).count();
    require(same == 1, || format!("{same} sets of {image}"))?;
    for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        let told = number(web, &format!("/status/{field}"));
        require(told == wanted, || format!("status.{field} is {told} for {wanted}"))?;
    }
    Ok(())
}

/// While a template rolls out, no controller takes more from what serves than may be missing, nor makes more than may be.
fn within_the_bounds(objects: &Objects, write: &Write) -> Verdict {
    let Some(web) = objects.named("apps/deployments", "web") else { return Ok(()) };
    let (wanted, surge, missing) = (4, 2, 1);
    let sets: Vec<_> = objects.controlled("apps/replicasets", text(web, "/metadata/uid")).collect();
    let asked: i64 = sets.iter().map(|set| number(set, "/spec/replicas")).sum();
    require(asked <= wanted + surge, || format!("{asked} pods asked for"))?;
    if &*write.collection != "core/pods" || write.writer == Writer::World {
        return Ok(());
    }
    let pods: Vec<&Value> = sets.iter().flat_map(|set| pods_of(objects, set)).filter(|pod| active(pod)).collect();
    // How many pods there are is the sets' business: one may make its next before another has taken its last, as upstream's.
    if write.condemned().is_some_and(|pod| ready(pod)) {
        let serve = pods.iter().filter(|pod| ready(pod)).count();
        require(serve as i64 >= wanted - missing, || format!("{serve} pods serve"))?;
    }
    Ok(())
}

#[test]
fn a_rolling_update_stays_within_its_bounds() {
    let scenario = Scenario {
        start: &[deployment::start, replica_set::start],
        shown: &[],
        faults: TROUBLE,
        habits: Habits::default(),
        setup: |objects, _| {
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}});
            drop(make(objects, workload("Deployment", json!({"replicas": 4, "strategy": strategy}))));
        },
        disturb: roll_when_settled,
        last: |_| (),
        always: within_the_bounds,
        finally: rolled_out,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 20);
}

#[test]
fn a_deployment_gets_to_what_it_says() {
    simulate(&Scenario {
        start: &[deployment::start, replica_set::start],
        shown: &[],
        faults: Faults { lost: 20, ..TROUBLE },
        habits: Habits { crash: 20, waver: 20, fail: 0 },
        setup: |objects, _| drop(make(objects, workload("Deployment", json!({"replicas": 3})))),
        disturb: disturb_a_deployment,
        last: |objects| edit(objects, "apps/deployments", |web| web["spec"]["paused"] = false.into()),
        always: |_, _| Ok(()),
        finally: rolled_out,
    });
}

// StatefulSet.

fn disturb_a_stateful_set(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..4) {
        0 => edit(objects, "apps/statefulsets", |web| web["spec"]["replicas"] = random.random_range(0..5).into()),
        1 => delete_a_pod(objects, random),
        _ => {
            let image = format!("i{}", random.random_range(0..3));
            edit(objects, "apps/statefulsets", |web| {
                web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into()
            });
        }
    }
}

fn ordinal(pod: &Value) -> i64 {
    text(pod, "/metadata/name").rsplit('-').next().and_then(|end| end.parse().ok()).unwrap_or(-1)
}

/// How many writes the set may not have heard of when it makes a pod.
const UNHEARD: usize = 20;

/// A pod is made once its elders are ready, as far as the set can know.
fn elders_first(objects: &Objects, write: &Write) -> Verdict {
    let Some(pod) = write.created().filter(|_| &*write.collection == "core/pods") else { return Ok(()) };
    let before = objects.log.iter().rposition(|other| other.revision == write.revision).unwrap_or(0);
    let recent = &objects.log[before.saturating_sub(UNHEARD)..before];
    for elder in 0..ordinal(pod) {
        let serves = |pod: &Value| ordinal(pod) == elder && ready(pod) && active(pod);
        let there = objects.controlled("core/pods", controller(pod)).any(|pod| serves(pod));
        let was = || recent.iter().filter_map(|past| past.before.as_ref()).any(|pod| serves(pod));
        require(there || was(), || format!("{} is made although {elder} is not ready", ordinal(pod)))?;
    }
    Ok(())
}

fn all_in_order(objects: &Objects) -> Verdict {
    let set = objects.named("apps/statefulsets", "web").ok_or("the set is gone")?;
    let pods = pods_of(objects, set);
    let (wanted, image) = (number(set, "/spec/replicas"), text(set, "/spec/template/spec/containers/0/image"));
    let there: BTreeSet<i64> = pods.iter().filter(|pod| ready(pod)).map(|pod| ordinal(pod)).collect();
    require(there == (0..wanted).collect(), || format!("{there:?} for {wanted}"))?;
    for pod in pods {
        let found = text(pod, "/spec/containers/0/image");
        require(found == image, || format!("a pod of {found} instead of {image}"))?;
    }
    for field in ["replicas", "readyReplicas", "updatedReplicas", "currentReplicas"] {
        let told = number(set, &format!("/status/{field}"));
        require(told == wanted, || format!("status.{field} is {told} for {wanted}"))?;
    }
    require(set["status"]["currentRevision"] == set["status"]["updateRevision"], || "two revisions".to_owned())
}

#[test]
fn a_stateful_set_keeps_its_order() {
    let scenario = Scenario {
        start: &[stateful_set::start],
        shown: &[],
        faults: Faults { lost: 15, ..TROUBLE },
        habits: Habits { crash: 20, waver: 0, fail: 0 },
        setup: |objects, _| drop(make(objects, workload("StatefulSet", json!({"replicas": 3, "serviceName": "web"})))),
        disturb: disturb_a_stateful_set,
        last: |_| (),
        always: elders_first,
        finally: all_in_order,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 15);
    let parallel = |objects: &mut Objects, _: &mut SmallRng| {
        let more = json!({"replicas": 3, "serviceName": "web", "podManagementPolicy": "Parallel"});
        drop(make(objects, workload("StatefulSet", more)));
    };
    let habits = Habits { crash: 20, waver: 20, fail: 0 };
    simulate(&Scenario { setup: parallel, always: |_, _| Ok(()), habits, ..scenario });
}

// DaemonSet.

fn disturb_nodes(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..5) {
        0 => drop(make(objects, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"generateName": "late-"}}))),
        1 => delete_a_pod(objects, random),
        2 | 3 => {
            let nodes: Vec<_> = objects.all("core/nodes").cloned().collect();
            let Some(node) = nodes.choose(random) else { return };
            let dedicated = json!([{"key": "dedicated", "effect": "NoExecute"}]);
            let taints = if random.random_bool(0.5) { dedicated } else { Value::Null };
            change(objects, node, None, |node| node["spec"] = json!({"taints": taints}));
        }
        _ => {
            let image = format!("i{}", random.random_range(0..3));
            edit(objects, "apps/daemonsets", |web| {
                web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into()
            });
        }
    }
}

fn node_of(pod: &Value) -> &str {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
    text(pod, &format!("{terms}/matchFields/0/values/0"))
}

/// Without lost answers no node ever gets a second pod.
fn one_a_node(objects: &Objects, write: &Write) -> Verdict {
    let Some(made) = write.created().filter(|_| &*write.collection == "core/pods") else { return Ok(()) };
    let Some(set) = objects.with_uid(controller(made)) else { return Ok(()) };
    let pods = pods_of(objects, set);
    let there = pods.iter().filter(|pod| active(pod) && node_of(pod) == node_of(made)).count();
    require(there == 1, || format!("{there} pods on {}", node_of(made)))
}

fn one_on_each_node(objects: &Objects) -> Verdict {
    let set = objects.named("apps/daemonsets", "web").ok_or("the set is gone")?;
    let free = |node: &&std::sync::Arc<Value>| node.pointer("/spec/taints/0").is_none();
    let nodes: Vec<&str> = objects.all("core/nodes").filter(free).map(|node| text(node, "/metadata/name")).collect();
    let pods = pods_of(objects, set);
    let mut on: Vec<&str> = pods.iter().filter(|pod| ready(pod)).map(|pod| text(pod, "/spec/nodeName")).collect();
    on.sort_unstable();
    require(on == nodes, || format!("pods on {on:?} for {nodes:?}"))?;
    let image = text(set, "/spec/template/spec/containers/0/image");
    require(pods.iter().all(|pod| text(pod, "/spec/containers/0/image") == image), || "an old pod".to_owned())?;
    for field in ["desiredNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"] {
        let told = number(set, &format!("/status/{field}"));
        require(told == nodes.len() as i64, || format!("status.{field} is {told} for {}", nodes.len()))?;
    }
    Ok(())
}

#[test]
fn a_daemon_set_has_one_pod_on_each_node() {
    let scenario = Scenario {
        start: &[daemon_set::start],
        shown: &[],
        faults: TROUBLE,
        habits: Habits { crash: 10, waver: 20, fail: 0 },
        setup: |objects, _| drop(make(objects, workload("DaemonSet", json!({})))),
        disturb: disturb_nodes,
        last: |_| (),
        always: one_a_node,
        finally: one_on_each_node,
    };
    simulate(&scenario);
    simulate(&Scenario { faults: Faults { lost: 10, ..TROUBLE }, always: |_, _| Ok(()), ..scenario });
    die_at_each_step(&scenario, 12);
}

// Job.

const TRACKED: &str = "batch.kubernetes.io/job-tracking";

fn work(more: Value) -> Value {
    let mut object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "web"},
        "spec": {"completions": 6, "parallelism": 2, "backoffLimit": 1000, "template": template("web", "i", "Never")}});
    for (key, value) in more.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    object
}

/// How many pods of each phase have ended while their Job watched over them, each once.
fn ends(objects: &Objects) -> BTreeMap<&'static str, BTreeSet<&str>> {
    let mut ends: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for write in objects.log.iter().filter(|write| &*write.collection == "core/pods") {
        let pod = &*write.object;
        if !write.before.as_ref().is_some_and(|before| has_finalizer(before, TRACKED)) {
            continue;
        }
        let phase = match text(pod, "/status/phase") {
            "Succeeded" => "succeeded",
            "Failed" => "failed",
            // What is being deleted counts as failed unless it ends well.
            _ if deleting(pod) => "failed",
            _ => continue,
        };
        ends.entry(phase).or_default().insert(text(pod, "/metadata/uid"));
    }
    ends
}

/// A Job never tells of more ends than there were, and never takes one back.
fn counted_once(objects: &Objects, write: &Write) -> Verdict {
    if &*write.collection != "batch/jobs" || write.before.is_none() {
        return Ok(());
    }
    let ends = ends(objects);
    for which in ["succeeded", "failed"] {
        let noted = write.object.pointer(&format!("/status/uncountedTerminatedPods/{which}"));
        let noted = noted.and_then(Value::as_array).map_or(0, Vec::len) as i64;
        let told = number(&write.object, &format!("/status/{which}"));
        let indexed = text(&write.object, "/spec/completionMode") == "Indexed";
        let told_and_noted = if indexed && which == "succeeded" { told } else { told + noted };
        let there = ends.get(which).map_or(0, BTreeSet::len) as i64;
        require(told_and_noted <= there, || format!("{told} and {noted} noted {which} of {there}"))?;
        let before = write.before.as_ref().map_or(0, |before| number(before, &format!("/status/{which}")));
        require(told >= before, || format!("{told} {which} after {before}"))?;
    }
    Ok(())
}

fn all_done(objects: &Objects) -> Verdict {
    let job = objects.named("batch/jobs", "web").ok_or("the job is gone")?;
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let complete = conditions.iter().any(|one| one["type"] == "Complete" && one["status"] == "True");
    require(complete, || format!("it is not complete: {}", job["status"]))?;
    let wanted = number(job, "/spec/completions");
    let succeeded = number(job, "/status/succeeded");
    if text(job, "/spec/completionMode") == "Indexed" {
        let indexes = text(job, "/status/completedIndexes");
        require((succeeded, indexes) == (wanted, &*format!("0-{}", wanted - 1)), || format!("indexes {indexes}"))?;
    }
    // A pod that is being deleted has a successor already, and may still end well.
    require(succeeded >= wanted, || format!("{succeeded} succeeded"))?;
    let held = objects.all("core/pods").filter(|pod| has_finalizer(pod, TRACKED)).count();
    let busy = objects.all("core/pods").filter(|pod| active(pod)).count();
    require(held == 0 && busy == 0, || format!("{held} pods are held and {busy} run"))
}

fn disturb_a_job(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..3) {
        0 => edit(objects, "batch/jobs", |job| job["spec"]["parallelism"] = random.random_range(0..4).into()),
        1 => edit(objects, "batch/jobs", |job| job["spec"]["suspend"] = random.random_bool(0.5).into()),
        _ => delete_a_pod(objects, random),
    }
}

#[test]
fn a_job_counts_each_pod_once() {
    let scenario = Scenario {
        start: &[job::start],
        shown: &[],
        faults: Faults { lost: 10, ..TROUBLE },
        habits: Habits { fail: 4, ..Habits::default() },
        setup: |objects, random| {
            let mode = ["Indexed", "NonIndexed"][random.random_range(0..2)];
            drop(make(objects, work(json!({"completionMode": mode}))));
        },
        disturb: delete_a_pod,
        last: |_| (),
        always: counted_once,
        finally: all_done,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 20);
    let last = |objects: &mut Objects| {
        edit(objects, "batch/jobs", |job| {
            job["spec"]["suspend"] = false.into();
            job["spec"]["parallelism"] = 2.into();
        });
    };
    simulate(&Scenario { disturb: disturb_a_job, last, ..scenario });
}

// CronJob.

/// Of a CronJob that forbids it no two Jobs run at once, and no time is served twice.
fn one_at_a_time(objects: &Objects, write: &Write) -> Verdict {
    let Some(made) = write.created().filter(|_| &*write.collection == "batch/jobs") else { return Ok(()) };
    let finished = |job: &Value| {
        let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
        conditions
            .into_iter()
            .flatten()
            .any(|one| ["Complete", "Failed"].contains(&text(one, "/type")) && one["status"] == "True")
    };
    let running =
        objects.controlled("batch/jobs", controller(made)).filter(|job| !finished(job) && !deleting(job)).count();
    require(running == 1, || format!("{running} jobs run"))?;
    let time = "/metadata/annotations/batch.kubernetes.io~1cronjob-scheduled-timestamp";
    let again = objects.log.iter().filter_map(Write::created).filter(|job| text(job, time) == text(made, time)).count();
    require(again == 1, || format!("{} is served {again} times", text(made, time)))
}

#[test]
fn a_cron_job_runs_once_each_time() {
    simulate(&Scenario {
        start: &[cron_job::start, job::start],
        shown: &[],
        // Slow enough for minutes to pass.
        faults: Faults { slow: 4000, ..TROUBLE },
        habits: Habits { fail: 4, ..Habits::default() },
        setup: |objects, _| {
            let job = json!({"spec": {"template": template("web", "i", "Never"), "backoffLimit": 0}});
            let spec = json!({"schedule": "@every 5s", "concurrencyPolicy": "Forbid", "jobTemplate": job});
            drop(make(
                objects,
                json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "web"}, "spec": spec}),
            ));
        },
        disturb: |objects, random| {
            edit(objects, "batch/cronjobs", |cron| cron["spec"]["suspend"] = random.random_bool(0.2).into());
        },
        last: |objects| edit(objects, "batch/cronjobs", |cron| cron["spec"]["suspend"] = true.into()),
        always: one_at_a_time,
        finally: |_| Ok(()),
    });
}

// Garbage collector.

fn owners(object: &Value) -> Vec<Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn make_a_family(objects: &mut Objects, random: &mut SmallRng) {
    for number in 0..12 {
        let kind = ["ConfigMap", "Secret"][random.random_range(0..2)];
        let known: Vec<_> = objects.all("core/configmaps").chain(objects.all("core/secrets")).cloned().collect();
        let mut owners: Vec<Value> = Vec::new();
        for _ in 0..random.random_range(0..3) {
            let Some(owner) = known.choose(random) else { continue };
            let uid = text(owner, "/metadata/uid");
            if owners.iter().all(|other| other["uid"] != uid) {
                owners.push(
                    json!({"apiVersion": "v1", "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": uid,
                    "blockOwnerDeletion": random.random_bool(0.5)}),
                );
            }
        }
        let metadata = json!({"name": format!("o{number}"), "ownerReferences": owners});
        make(objects, json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}));
    }
}

fn delete_somebody(objects: &mut Objects, random: &mut SmallRng) {
    let all: Vec<_> = objects.all("core/configmaps").chain(objects.all("core/secrets")).cloned().collect();
    let Some(object) = all.choose(random) else { return };
    match random.random_range(0..3) {
        0 if !deleting(object) => {
            // Somebody gets an owner that is there.
            let Some(owner) = all.choose(random).filter(|owner| !deleting(owner)) else { return };
            let reference = json!([{"apiVersion": "v1", "kind": owner["kind"], "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
            change(objects, object, None, |object| object["metadata"]["ownerReferences"] = reference);
        }
        _ => delete(objects, object, ["Foreground", "Background", "Orphan"][random.random_range(0..3)], None),
    }
}

/// Nothing is deleted that has an owner which is there and stays.
fn the_owned_live(objects: &Objects, write: &Write) -> Verdict {
    let Some(before) = write.condemned().filter(|_| write.writer == Writer::Controller) else { return Ok(()) };
    let references = owners(before);
    require(!references.is_empty(), || "an object without owners is deleted".to_owned())?;
    for reference in references {
        let owner = objects.with_uid(text(&reference, "/uid"));
        require(owner.is_none_or(|owner| deleting(owner)), || {
            format!("{} is deleted, whose owner {} lives", text(before, "/metadata/name"), text(&reference, "/name"))
        })?;
    }
    Ok(())
}

fn no_orphans_are_left(objects: &Objects) -> Verdict {
    for object in objects.all("core/configmaps").chain(objects.all("core/secrets")) {
        let name = text(object, "/metadata/name");
        require(!deleting(object), || format!("{name} does not end: {}", object["metadata"]))?;
        let references = owners(object);
        let alive = references.iter().filter(|owner| objects.with_uid(text(owner, "/uid")).is_some()).count();
        require(references.is_empty() || alive > 0, || format!("{name} is left without an owner"))?;
        require(alive == references.len(), || format!("{name} names owners that are gone"))?;
    }
    Ok(())
}

#[test]
fn the_garbage_collector_takes_what_nobody_owns() {
    let scenario = Scenario {
        start: &[garbage_collector::start],
        shown: &["core/configmaps", "core/secrets"],
        faults: Faults { lost: 10, ..TROUBLE },
        habits: Habits::default(),
        setup: make_a_family,
        disturb: delete_somebody,
        last: |_| (),
        always: the_owned_live,
        finally: no_orphans_are_left,
    };
    simulate(&scenario);
    // The same objects without anybody who disturbs: the process dies while it works on what the first deletion left.
    die_at_each_step(
        &Scenario {
            setup: |objects, random| {
                make_a_family(objects, random);
                let first = objects.all("core/configmaps").next().cloned();
                first.iter().for_each(|first| delete(objects, first, "Foreground", None));
            },
            disturb: nothing,
            ..scenario
        },
        20,
    );
}

/// A whole workload goes with its owner, however that is deleted, and nothing of another one.
#[test]
fn a_workload_goes_with_its_owner() {
    simulate(&Scenario {
        start: &[deployment::start, replica_set::start, garbage_collector::start],
        shown: &["apps/deployments", "apps/replicasets", "core/pods"],
        faults: Faults { lost: 20, ..TROUBLE },
        habits: Habits { crash: 20, waver: 20, fail: 0 },
        setup: |objects, _| {
            for name in ["web", "other"] {
                let mut deployment = workload("Deployment", json!({"replicas": 2}));
                deployment["metadata"]["name"] = name.into();
                deployment["spec"]["selector"]["matchLabels"]["app"] = name.into();
                deployment["spec"]["template"]["metadata"]["labels"]["app"] = name.into();
                make(objects, deployment);
            }
        },
        disturb: roll,
        last: |objects| {
            let web = objects.named("apps/deployments", "web").cloned().expect("it is there");
            let how = ["Foreground", "Background"][(objects.revision() % 2) as usize];
            delete(objects, &web, how, None);
        },
        always: |_, _| Ok(()),
        finally: |objects| {
            require(objects.named("apps/deployments", "web").is_none(), || "the deployment is left".to_owned())?;
            let left = objects.all("apps/replicasets").chain(objects.all("core/pods"));
            let left = left.filter(|object| text(object, "/metadata/labels/app") == "web").count();
            require(left == 0, || format!("{left} sets and pods are left"))?;
            let serve = objects.all("core/pods").filter(|pod| active(pod) && ready(pod)).count();
            require(serve == 2, || format!("{serve} pods of the other serve"))
        },
    });
}

/// Jobs that have ended go once their time is over, not sooner.
#[test]
fn a_finished_job_goes_after_its_time() {
    simulate(&Scenario {
        start: &[job::start, ttl_after_finished::start, garbage_collector::start],
        shown: &["batch/jobs", "core/pods"],
        faults: Faults { lost: 20, ..TROUBLE },
        habits: Habits { fail: 4, ..Habits::default() },
        setup: |objects, _| drop(make(objects, work(json!({"completions": 2, "ttlSecondsAfterFinished": 5})))),
        disturb: nothing,
        last: |_| (),
        always: |_, write| {
            let Some(job) = write.condemned().filter(|_| &*write.collection == "batch/jobs") else { return Ok(()) };
            let ended: jiff::Timestamp = text(job, "/status/completionTime").parse().map_err(|_| "it has not ended")?;
            let age = crate::clock::now().duration_since(ended).as_secs();
            require(age >= 5, || format!("it goes after {age} s"))
        },
        finally: |objects| require(objects.named("batch/jobs", "web").is_none(), || "the job is left".to_owned()),
    });
}

// EndpointSlices.

fn disturb_endpoints(objects: &mut Objects, random: &mut SmallRng) {
    match random.random_range(0..4) {
        0 => delete_a_pod(objects, random),
        1 => edit(objects, "core/services", |service| {
            service["spec"]["ports"] = json!([{"port": 80, "targetPort": random.random_range(80..82)}]);
        }),
        2 => {
            let pods: Vec<_> = objects.all("core/pods").filter(|pod| !deleting(pod)).cloned().collect();
            let Some(pod) = pods.choose(random) else { return };
            let app = ["web", "none"][random.random_range(0..2)];
            change(objects, pod, None, |pod| pod["metadata"]["labels"]["app"] = app.into());
        }
        _ => make_a_server(objects),
    }
}

fn make_a_server(objects: &mut Objects) {
    let metadata = json!({"generateName": "server-", "labels": {"app": "web"}});
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    make(objects, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
}

fn slices_are_right(objects: &Objects) -> Verdict {
    let service = objects.named("core/services", "web").ok_or("the service is gone")?;
    let serves = |pod: &&std::sync::Arc<Value>| text(pod, "/metadata/labels/app") == "web" && !ended(pod);
    let mut wanted: Vec<(String, bool)> = objects
        .all("core/pods")
        .filter(serves)
        .filter(|pod| !text(pod, "/status/podIP").is_empty())
        .map(|pod| (text(pod, "/status/podIP").to_owned(), ready(pod) && !deleting(pod)))
        .collect();
    let mut found = Vec::new();
    for slice in objects.controlled("discovery.k8s.io/endpointslices", text(service, "/metadata/uid")) {
        let port = number(service, "/spec/ports/0/targetPort");
        let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
        let told = number(slice, "/ports/0/port");
        require(endpoints.is_empty() || told == port, || format!("port {told} for {port}"))?;
        let each =
            endpoints.iter().map(|one| (text(one, "/addresses/0").to_owned(), one["conditions"]["ready"] == true));
        found.extend(each);
    }
    wanted.sort();
    found.sort();
    require(wanted == found, || format!("{found:?} for {wanted:?}"))
}

#[test]
fn endpoint_slices_name_the_pods_that_serve() {
    let scenario = Scenario {
        start: &[endpoint_slice::start],
        shown: &[],
        faults: Faults { lost: 15, ..TROUBLE },
        habits: Habits { crash: 10, waver: 4, fail: 0 },
        setup: |objects, _| {
            let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.9",
                "clusterIPs": ["10.96.0.9"], "ipFamilyPolicy": "SingleStack"});
            make(objects, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}));
            (0..4).for_each(|_| make_a_server(objects));
        },
        disturb: disturb_endpoints,
        last: |_| (),
        always: |_, _| Ok(()),
        finally: slices_are_right,
    };
    simulate(&scenario);
    die_at_each_step(&scenario, 10);
}
