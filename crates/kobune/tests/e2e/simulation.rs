//! A cluster of nodes that are not there: controllers and scheduler at a size that no test machine has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kobune_testbed::{Cluster, Running, eventually};

use crate::{SETTLE, wait_for};

#[test]
fn many_nodes() {
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune"))
        .simulated(30)
        .argument("--pods=60")
        .argument("--zones=3")
        .start()
        .expect("a cluster starts");
    let get = |cluster: &Cluster, arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    wait_for(&cluster, &["deployment", "-n", "simulated", "simulated-0"], ".status.availableReplicas", "60");
    let fields = "jsonpath={range .items[*]}{.spec.nodeName} {.status.podIP}{'\\n'}{end}";
    let places = get(&cluster, &["get", "pods", "-n", "simulated", "-o", fields]);
    let nodes: BTreeSet<&str> = places.lines().filter_map(|line| line.split(' ').next()).collect();
    let addresses: BTreeSet<&str> = places.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!((nodes.len(), addresses.len()), (30, 60), "two pods a node, each with an address:\n{places}");

    // A DaemonSet on every node rolls back without touching the pods that its update has not reached.
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec: {containers: [{name: c, image: first}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 40
  parallelism: 20
  completionMode: Indexed
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: sums}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: doomed}
spec:
  completions: 2
  backoffLimit: 1
  template:
    metadata: {annotations: {simulator.kobune.dev/run-for: "0", simulator.kobune.dev/exit-code: "3"}}
    spec: {restartPolicy: Never, containers: [{name: c, image: doomed}]}
"#,
    );
    wait_for(&cluster, &["daemonset", "logs"], ".status.numberAvailable", "30");
    let first = get(&cluster, &["get", "pods", "-l", "app=logs", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let first: BTreeSet<&str> = first.split(' ').collect();
    // The new pods never become ready, so that the update stops at the first.
    let stuck =
        r#"{"spec": {"template": {"metadata": {"annotations": {"simulator.kobune.dev/ready-after": "3600"}}}}}"#;
    get(&cluster, &["patch", "daemonset", "logs", "-p", stuck]);
    wait_for(&cluster, &["daemonset", "logs"], ".status.numberUnavailable", "1");
    wait_for(&cluster, &["daemonset", "logs"], ".status.updatedNumberScheduled", "1");
    get(&cluster, &["rollout", "undo", "daemonset/logs"]);
    get(&cluster, &["rollout", "status", "daemonset/logs", "--timeout=90s"]);
    let after = get(&cluster, &["get", "pods", "-l", "app=logs", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let kept = after.split(' ').filter(|uid| first.contains(uid)).count();
    assert_eq!((after.split(' ').count(), kept), (30, 29), "only what was updated is replaced");

    wait_for(&cluster, &["job", "sums"], ".status.succeeded", "40");
    wait_for(&cluster, &["job", "sums"], ".status.completedIndexes", "0-39");
    wait_for(&cluster, &["job", "doomed"], r#".status.conditions[?(@.type=="Failed")].reason"#, "BackoffLimitExceeded");

    // Nodes and pods are taken over by the next start; a namespace goes with all that is in it.
    cluster.kill().expect("kobune is killed");
    cluster.start_again().expect("kobune starts again");
    get(&cluster, &["scale", "-n", "simulated", "deployment/simulated-0", "--replicas=90"]);
    wait_for(&cluster, &["deployment", "-n", "simulated", "simulated-0"], ".status.availableReplicas", "90");
    get(&cluster, &["delete", "namespace", "simulated"]);
    eventually("all pods go", SETTLE, || match get(&cluster, &["get", "pods", "-n", "simulated", "-o", "name"]) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// What the server's process has used of the processors.
fn processor_time(cluster: &Cluster) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", cluster.process_id())).expect("kobune runs");
    // The name of the program, which may hold anything, ends with the last bracket; times are in hundredths of a second.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks: u64 = fields[12..14].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Objects that mean nothing good: each gets its condition or event, nothing spins, and the rest goes on as if they were not there.
#[test]
fn hostile_objects() {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).simulated(3).start().expect("a cluster starts");
    let get = |arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    let labels: String = (0..3_000).map(|number| format!(", key-{number}: value-{number}")).collect();
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: first}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: second}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: elsewhere}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: beyond, namespace: elsewhere}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: never}}
spec:
  schedule: "* * 31 2 *"
  jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: everything}}
spec: {{minAvailable: 100%, selector: {{}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: crowded, labels: {{a: b{labels}}}}}
spec: {{selector: {{app: good}}, ports: [{{port: 80}}]}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: circle}}
spec:
  maxReplicas: 3
  scaleTargetRef: {{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, name: circle}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: far}}
spec:
  serviceName: far
  replicas: 2
  ordinals: {{start: 2147483646}}
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: far}}}}
  template:
    metadata: {{labels: {{app: far}}}}
    spec: {{containers: [{{name: c, image: i}}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: wide}}
spec:
  completions: 100000
  parallelism: 5
  completionMode: Indexed
  template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: everywhere}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: everywhere}}}}
  template:
    metadata: {{labels: {{app: everywhere}}}}
    spec:
      topologySpreadConstraints:
      - {{maxSkew: 2147483647, topologyKey: nowhere, whenUnsatisfiable: DoNotSchedule, labelSelector: {{}}}}
      containers: [{{name: c, image: i}}]
"#
    ));
    // Two owners of each other: the one that is deleted takes the other along.
    let uid = |name: &str| get(&["get", "configmap", name, "-o", "jsonpath={.metadata.uid}"]);
    for (name, owner) in [("first", "second"), ("second", "first")] {
        let reference = format!(
            r#"{{"metadata": {{"ownerReferences": [{{"apiVersion": "v1", "kind": "ConfigMap", "name": "{owner}", "uid": "{}", "blockOwnerDeletion": true}}]}}}}"#,
            uid(owner)
        );
        get(&["patch", "configmap", name, "-p", &reference]);
    }
    let beyond = get(&["get", "configmap", "beyond", "-n", "elsewhere", "-o", "jsonpath={.metadata.uid}"]);
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: astray, ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: beyond, uid: {beyond}}}]}}
"#
    ));
    get(&["delete", "configmap", "first", "--cascade=foreground", "--timeout=60s"]);
    eventually("the circle is gone", SETTLE, || {
        match get(&["get", "configmap", "second", "--ignore-not-found", "-o", "name"]) {
            gone if gone.is_empty() => Ok(()),
            left => Err(left),
        }
    });
    // What cannot work says so; all else goes on.
    wait_for(&cluster, &["hpa", "circle"], r#".status.conditions[?(@.type=="AbleToScale")].reason"#, "FailedGetScale");
    let why = r#".items[*].status.conditions[?(@.type=="PodScheduled")].reason"#;
    wait_for(&cluster, &["pods", "-l", "app=everywhere"], why, "Unschedulable Unschedulable");
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: good}
spec:
  replicas: 3
  selector: {matchLabels: {app: good}}
  template:
    metadata: {labels: {app: good}}
    spec: {containers: [{name: c, image: i}]}
"#,
    );
    wait_for(&cluster, &["deployment", "good"], ".status.availableReplicas", "3");
    wait_for(
        &cluster,
        &["endpointslice", "-l", "kubernetes.io/service-name=crowded"],
        ".items[0].endpoints[*].conditions.ready",
        "true true true",
    );
    wait_for(&cluster, &["statefulset", "far"], ".status.readyReplicas", "2");
    wait_for(
        &cluster,
        &["events", "--field-selector=involvedObject.name=never"],
        ".items[*].reason",
        "InvalidSchedule",
    );
    // One that was never there in this namespace, whatever is in another.
    eventually("an owner elsewhere is none", SETTLE, || {
        match get(&["get", "configmap", "astray", "--ignore-not-found", "-o", "name"]) {
            gone if gone.is_empty() => Ok(()),
            left => Err(left),
        }
    });
    get(&["delete", "job", "wide", "--timeout=60s"]);
    // Nothing of it keeps kobune busy: a spin would take a processor of its own for ever.
    let mut before = (Instant::now(), processor_time(&cluster));
    eventually("kobune rests", SETTLE, || {
        let (elapsed, used) = (before.0.elapsed(), processor_time(&cluster) - before.1);
        if elapsed < Duration::from_secs(1) {
            return Err("it is being watched".to_owned());
        }
        before = (Instant::now(), processor_time(&cluster));
        if used * 20 < elapsed { Ok(()) } else { Err(format!("{used:?} of the processor in {elapsed:?}")) }
    });
    assert!(!cluster.log().contains("panicked"), "{}", cluster.log());
}

/// Controllers and scheduler as programs of their own, which know of the server no more than a kubeconfig tells.
#[test]
fn controllers_and_scheduler_run_alone() {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune"))
        .simulated(2)
        .argument("--without=controllers,scheduler")
        .start()
        .expect("a cluster starts");
    let alone_with = |part: &str, flags: &[&str]| {
        let mut command = cluster.host().command(env!("CARGO_BIN_EXE_kobune"));
        command.args([part, "--kubeconfig"]).arg(cluster.kubeconfig()).args(flags);
        Running::start(command, None).expect("it starts")
    };
    let alone = |part: &str| alone_with(part, &[]);
    let stop = |running: Running| {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(running.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("it runs");
        running.finish(SETTLE).expect("it ends").ok();
    };
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
"#,
    );
    let pods = || cluster.kubectl(["get", "replicasets,pods", "-o", "name"]).unwrap().ok();
    assert_eq!(pods(), "", "nobody is there who would make any");
    // Two controllers, which take no lease: Jobs get their pods, whose service account is there, and Deployments wait.
    let jobs = alone_with(
        "controllers",
        &["--leader-elect=false", "--controllers=job-controller,serviceaccount", "--concurrent-job-syncs=2"],
    );
    cluster.apply(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: sum}, spec: {template: {spec: {restartPolicy: Never, \
         containers: [{name: c, image: i}]}}}}",
    );
    wait_for(&cluster, &["job", "sum"], ".status.active", "1");
    stop(jobs);
    let left = cluster.kubectl(["get", "replicasets,leases", "-A", "-o", "name"]).unwrap().ok();
    assert!(!left.contains("replicaset") && !left.contains("kube-controller-manager"), "{left}");
    let (first, _scheduler) = (alone("controllers"), alone("scheduler"));
    wait_for(&cluster, &["deployment", "web"], ".status.availableReplicas", "2");
    // Of two that stand for the lease one works; the other one begins when the first one stops.
    let second = alone("controllers");
    let leads = |running: &Running| running.stderr().contains("leads from now on");
    assert!(leads(&first) && !leads(&second), "{}", second.stderr());
    stop(first);
    cluster.kubectl(["scale", "deployment/web", "--replicas=4"]).unwrap().ok();
    wait_for(&cluster, &["deployment", "web"], ".status.availableReplicas", "4");
    assert!(leads(&second), "{}", second.stderr());
}
