//! What keeps pods besides Deployments: StatefulSets, DaemonSets, Jobs, CronJobs, ReplicationControllers, and the budgets
//! and quotas around them.

use kobune_testbed::eventually;

use crate::{SETTLE, cluster, wait_for};

#[test]
fn sets_and_jobs() {
    let cluster = cluster();
    cluster.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: kobune.local/kobune, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: kobune.local/kobune, command: [sleep, infinity]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: kobune.local/kobune, command: [env]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: doomed}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: kobune.local/kobune, command: ["false"]}]
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 1
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: kobune.local/kobune, command: [sleep, infinity]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {minAvailable: 2, selector: {matchLabels: {app: db}}}
"#,
    );
    wait_for(&cluster, &["statefulset", "db"], ".status.readyReplicas", "3");
    wait_for(&cluster, &["daemonset", "logs"], ".status.numberAvailable", "1");
    wait_for(&cluster, &["job", "sum"], r#".status.conditions[?(@.type=="Complete")].status"#, "True");
    wait_for(&cluster, &["job", "doomed"], r#".status.conditions[?(@.type=="Failed")].reason"#, "BackoffLimitExceeded");
    wait_for(&cluster, &["replicationcontroller", "old"], ".status.readyReplicas", "1");
    wait_for(&cluster, &["poddisruptionbudget", "db"], ".status.disruptionsAllowed", "1");
    let get = |arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    let path = "jsonpath={.status.succeeded} {.status.completedIndexes} {.status.failed}";
    assert_eq!(get(&["get", "job", "sum", "-o", path]), "3 0-2 ");
    let logs = get(&["logs", "-l", "batch.kubernetes.io/job-completion-index=2,job-name=sum"]);
    assert!(logs.contains("JOB_COMPLETION_INDEX=2"), "{logs}");

    // Each pod of the set has its name, also in DNS.
    assert_eq!(get(&["exec", "db-1", "--", "hostname"]), "db-1\n");
    let address = get(&["get", "pod", "db-2", "-o", "jsonpath={.status.podIP}"]);
    eventually("a pod of the set has a name", SETTLE, || {
        let asked = ["exec", "db-0", "--", "dns", "db-2.db.default.svc.cluster.local"];
        let got = cluster.kubectl(asked).map_err(|error| error.to_string())?;
        if got.stdout.contains(&address) { Ok(()) } else { Err(format!("{}{}", got.stdout, got.stderr)) }
    });

    // Rolling to a new template, from the top down; then one less.
    get(&[
        "patch",
        "statefulset",
        "db",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/spec/template/metadata/annotations","value":{"v":"2"}}]"#,
    ]);
    get(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    get(&["rollout", "undo", "statefulset/db"]);
    get(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    get(&["rollout", "restart", "daemonset/logs"]);
    get(&["rollout", "status", "daemonset/logs", "--timeout=90s"]);
    get(&["scale", "statefulset", "db", "--replicas=2"]);
    wait_for(&cluster, &["statefulset", "db"], ".status.replicas", "2");
    wait_for(&cluster, &["poddisruptionbudget", "db"], ".status.disruptionsAllowed", "0");
    assert_eq!(get(&["get", "pods", "-l", "app=db", "-o", "name"]), "pod/db-0\npod/db-1\n");

    // Deleting the owner takes the pods along, those that the Job counted as well.
    get(&["delete", "job/sum", "job/doomed", "daemonset/logs", "statefulset/db", "replicationcontroller/old"]);
    eventually("all pods go", SETTLE, || match get(&["get", "pods", "-o", "name"]) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn schedules_and_quotas() {
    let cluster = cluster();
    let get = |arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    cluster.apply(
        r#"
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: "2", secrets: "5", count/cronjobs.batch: "1", requests.cpu: "1"}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "@every 1s"
  concurrencyPolicy: Forbid
  successfulJobsHistoryLimit: 1
  jobTemplate:
    spec:
      ttlSecondsAfterFinished: 600
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - {name: c, image: kobune.local/kobune, command: ["true"], resources: {requests: {cpu: 100m}}}
"#,
    );
    wait_for(&cluster, &["resourcequota", "small"], r#".status.used.count/cronjobs\.batch"#, "1");
    eventually("a job was well", SETTLE, || {
        let at = get(&["get", "cronjob", "tick", "-o", "jsonpath={.status.lastSuccessfulTime}"]);
        if at.is_empty() { Err(get(&["get", "jobs,pods,events"])) } else { Ok(()) }
    });
    get(&["patch", "cronjob", "tick", "-p", r#"{"spec":{"suspend":true}}"#]);
    get(&["create", "secret", "generic", "one", "--from-literal=a=b"]);
    wait_for(&cluster, &["resourcequota", "small"], ".status.used.secrets", "1");
    let refused = cluster.kubectl(["create", "cronjob", "more", "--image=i", "--schedule=* * * * *"]).unwrap();
    assert!(refused.stderr.contains("exceeded quota: small"), "{}", refused.stderr);
    get(&["delete", "secret", "one"]);
    wait_for(&cluster, &["resourcequota", "small"], ".status.used.secrets", "0");
}
