//! A cluster of nodes that are not there: controllers and scheduler at a size that no test machine has.

use std::collections::BTreeSet;

use kobune_testbed::{Cluster, eventually};

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
