//! What takes pods away from where they are: taints, more important pods, evictions, nodes that refuse them, owners that go.

use kobune_testbed::{Cluster, eventually};

use crate::{SETTLE, cluster, sleeper, wait_for};

/// A pod that asks for some of an extended resource under a priority class.
fn asking(name: &str, class: &str, amount: u32) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"terminationGracePeriodSeconds": 1,
            "priorityClassName": "{class}", "containers": [{{"name": "main", "image": "kobune.local/kobune",
            "command": ["sleep", "infinity"], "resources": {{"limits": {{"example.com/boat": "{amount}"}}}}}}]}}}}"#
    )
}

fn names(cluster: &Cluster) -> String {
    let output = "jsonpath={range .items[*]}{.metadata.name} {end}";
    cluster.kubectl(["get", "pods", "-o", output]).unwrap().ok()
}

#[track_caller]
fn wait_for_pods(cluster: &Cluster, expected: &str) {
    eventually(&format!("there are {expected:?}"), SETTLE, || match names(cluster).trim_end() {
        found if found == expected => Ok(()),
        found => Err(found.to_owned()),
    });
}

#[test]
fn taints_priorities_and_evictions() {
    let cluster = cluster();
    let get = |arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    let running = |name: &str| wait_for(&cluster, &["pod", name], ".status.phase", "Running");
    let node = get(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);

    // The node gets an extended resource, and keeps it although it writes its own status.
    let boats = r#"{"status":{"capacity":{"example.com/boat":"2"},"allocatable":{"example.com/boat":"2"}}}"#;
    get(&["patch", "node", &node, "--subresource=status", "-p", boats]);
    for (class, value) in [("low", "1"), ("middle", "5"), ("high", "9")] {
        get(&["create", "priorityclass", class, &format!("--value={value}")]);
    }
    cluster.apply(&asking("small", "low", 1));
    cluster.apply(&asking("medium", "middle", 1));
    running("small");
    running("medium");
    cluster.apply(&asking("great", "high", 1));
    running("great");
    wait_for_pods(&cluster, "great medium");
    let told = get(&["get", "events", "-o", r#"jsonpath={.items[?(@.reason=="Preempted")].involvedObject.name}"#]);
    assert_eq!(told, "small");

    // A taint takes away what does not tolerate it, and what does for as long as it does.
    let tolerant = |name: &str, seconds: &str| {
        let toleration = format!(r#"{{"key": "ill", "operator": "Exists", "effect": "NoExecute"{seconds}}}"#);
        sleeper(name, "").replacen("\"containers\"", &format!("\"tolerations\": [{toleration}], \"containers\""), 1)
    };
    cluster.apply(&tolerant("patient", ""));
    cluster.apply(&tolerant("hasty", r#", "tolerationSeconds": 1"#));
    running("patient");
    running("hasty");
    get(&["taint", "node", &node, "ill=yes:NoExecute"]);
    wait_for_pods(&cluster, "patient");
    get(&["taint", "node", &node, "ill-"]);

    // An eviction says so in the pod, which a Job then does not count as a failure.
    cluster.apply(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {name: steady}
spec:
  backoffLimit: 0
  podFailurePolicy:
    rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget, status: "True"}]}]
  template:
    metadata: {labels: {app: steady}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: kobune.local/kobune, command: [sleep, infinity]}]
"#,
    );
    let of_job = [
        "get",
        "pods",
        "-l",
        "app=steady",
        "--field-selector=status.phase=Running",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ];
    let one_runs = |but: &str| {
        eventually("a pod of the job runs", SETTLE, || match get(&of_job) {
            found if !found.is_empty() && found != but && !found.contains(' ') => Ok(()),
            found => Err(found),
        });
        get(&of_job)
    };
    let first = one_runs("");
    let body = format!(
        r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{first}","namespace":"default"}}}}"#
    );
    cluster
        .kubectl_with(
            ["create", "--raw", &format!("/api/v1/namespaces/default/pods/{first}/eviction"), "-f", "-"],
            Some(&body),
        )
        .unwrap()
        .ok();
    let second = one_runs(&first);
    assert_eq!(get(&["get", "job", "steady", "-o", "jsonpath={.status.failed}"]), "");
    // A pod that no longer matches is let go of, finalizer and all.
    get(&["label", "pod", &second, "controller-uid-", "batch.kubernetes.io/controller-uid-", "app-"]);
    wait_for(&cluster, &["pod", &second], ".metadata.ownerReferences", "");
    wait_for(&cluster, &["pod", &second], ".metadata.finalizers", "");
    get(&["delete", "job/steady", &format!("pod/{second}")]);

    // The node refuses a pod that was bound past the scheduler.
    let bound = |name: &str| {
        let port = r#", "ports": [{"containerPort": 80, "hostPort": 8080}]"#;
        sleeper(name, port).replacen("\"containers\"", &format!("\"nodeName\": \"{node}\", \"containers\""), 1)
    };
    cluster.apply(&bound("holder"));
    running("holder");
    cluster.apply(&bound("latecomer"));
    wait_for(&cluster, &["pod", "latecomer"], ".status.reason", "NodePorts");
}

#[test]
fn owners_and_namespaces_that_go() {
    let cluster = cluster();
    let get = |arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    // Each of three owns the next; deleting one in the foreground takes them all.
    let all = ["one", "two", "three"];
    for name in all {
        get(&["create", "configmap", name]);
    }
    let uid = |name: &str| get(&["get", "configmap", name, "-o", "jsonpath={.metadata.uid}"]);
    for (at, name) in all.iter().enumerate() {
        let owner = all[(at + 2) % 3];
        let patch = format!(
            r#"{{"metadata":{{"ownerReferences":[{{"apiVersion":"v1","kind":"ConfigMap","name":"{owner}","uid":"{}","blockOwnerDeletion":true}}]}}}}"#,
            uid(owner)
        );
        get(&["patch", "configmap", name, "-p", &patch]);
    }
    get(&["delete", "configmap", "one", "--cascade=foreground", "--wait=false"]);
    eventually("the circle goes", SETTLE, || {
        let left = get(&["get", "configmap", "one", "two", "three", "--ignore-not-found", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });

    // An autoscaler brings its target into bounds before it asks for any metric.
    get(&["create", "deployment", "crew", "--image=kobune.local/kobune", "--", "sleep", "infinity"]);
    get(&["autoscale", "deployment", "crew", "--min=2", "--max=3", "--cpu-percent=50"]);
    wait_for(&cluster, &["deployment", "crew"], ".spec.replicas", "2");
    wait_for(
        &cluster,
        &["horizontalpodautoscaler", "crew"],
        r#".status.conditions[?(@.type=="AbleToScale")].reason"#,
        "SucceededRescale",
    );
    get(&["delete", "horizontalpodautoscaler/crew", "deployment/crew"]);

    // Pods go before all else, and the namespace says what it waits for.
    get(&["create", "namespace", "tide"]);
    get(&["create", "configmap", "kept", "-n", "tide"]);
    let pod = sleeper("anchor", "").replacen(
        "\"labels\"",
        "\"namespace\": \"tide\", \"finalizers\": [\"example.com/hold\"], \"labels\"",
        1,
    );
    eventually("the namespace takes pods", SETTLE, || {
        let applied = cluster.kubectl_with(["apply", "-f", "-"], Some(&pod)).map_err(|error| error.to_string())?;
        if applied.status.success() { Ok(()) } else { Err(applied.stderr) }
    });
    get(&["delete", "namespace", "tide", "--wait=false"]);
    let remaining = r#".status.conditions[?(@.type=="NamespaceFinalizersRemaining")].message"#;
    let words = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
    wait_for(&cluster, &["namespace", "tide"], remaining, words);
    assert_eq!(get(&["get", "configmap", "kept", "-n", "tide", "-o", "jsonpath={.metadata.deletionTimestamp}"]), "");
    get(&["patch", "pod", "anchor", "-n", "tide", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    eventually("the namespace goes", SETTLE, || {
        let left = get(&["get", "namespace", "tide", "--ignore-not-found", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
