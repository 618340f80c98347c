//! Clocks that are wrong: a machine without a battery begins in 1970, is set right while everything runs, and then far ahead.

use std::time::{SystemTime, UNIX_EPOCH};

use kobune_testbed::{Cluster, Running, tools};

use crate::{SETTLE, wait_for};

/// The first day of 1970 a day later, and that of 2040, in seconds.
const YEAR_1970: i64 = 86_400;
const YEAR_2040: i64 = 2_208_988_800;

const STEADY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: steady}
spec:
  replicas: 1
  selector: {matchLabels: {app: steady}}
  template:
    metadata: {labels: {app: steady}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: kobune.local/kobune
        imagePullPolicy: IfNotPresent
        command: [sleep, infinity]
        readinessProbe: {exec: {command: [env]}, periodSeconds: 1}
"#;

/// Has the deployment this many pods, all of them ready, and checks that what asks a node goes on.
fn works(cluster: &Cluster, pods: u32) {
    let replicas = format!("--replicas={pods}");
    cluster.kubectl(["scale", "deployment/steady", &replicas]).unwrap().ok();
    wait_for(cluster, &["deployment", "steady"], ".status.readyReplicas", &pods.to_string());
    let ready = ".items[0].status.conditions[?(@.type==\"Ready\")].status";
    wait_for(cluster, &["nodes"], ready, "True");
    let said = cluster.kubectl(["exec", "deployment/steady", "--", "env"]).unwrap().ok();
    assert!(said.contains("KUBERNETES_SERVICE_HOST="), "{said}");
}

#[test]
fn years_that_are_wrong() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the machine's own clock is right");
    let now = i64::try_from(now.as_secs()).expect("a time");
    let started = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).clock(YEAR_1970 - now).start();
    let mut cluster = started.expect("a cluster starts in 1970");
    cluster.apply(STEADY);
    works(&cluster, 1);
    let of_pods = [
        "get",
        "pods",
        "-o",
        "jsonpath={range .items[*]}{.metadata.creationTimestamp} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}",
    ];
    let first = cluster.kubectl(of_pods).unwrap().ok();
    assert!(first.starts_with("1970-01-02T"), "{first}");
    let old = cluster.kubectl(["create", "token", "default"]).unwrap().ok();

    // Somebody sets it right: nothing restarts, and new things have the right time.
    cluster.set_clock(0).unwrap();
    works(&cluster, 2);
    let both = cluster.kubectl(of_pods).unwrap().ok();
    assert!(both.contains(first.trim_end()), "{first} is not in {both}");
    assert!(both.lines().any(|line| !line.starts_with("1970-")), "{both}");
    let token = cluster.kubectl(["create", "token", "default"]).unwrap().ok();
    let whoami = |cluster: &Cluster, token: &str| {
        let token = format!("--token={}", token.trim());
        // Without the administrator's certificate, which would speak for itself.
        let mut command = cluster.client(tools().join("kubectl"));
        command.env("KUBECONFIG", "/dev/null");
        command.args([
            "--server",
            &cluster.url(),
            "--insecure-skip-tls-verify",
            &token,
            "auth",
            "whoami",
            "-o",
            "name",
        ]);
        Running::start(command, None).unwrap().finish(SETTLE).unwrap()
    };
    assert!(whoami(&cluster, &token).status.success(), "a token of today");
    assert!(!whoami(&cluster, &old).status.success(), "a token that has been over for years");

    // Far ahead, and started there once more: what runs goes on.
    cluster.set_clock(YEAR_2040 - now).unwrap();
    works(&cluster, 3);
    assert!(!whoami(&cluster, &token).status.success(), "a token that will be over");
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    works(&cluster, 4);
    let all = cluster.kubectl(of_pods).unwrap().ok();
    assert!(both.trim_end().lines().all(|line| all.contains(line)), "{both} is not in {all}");
    assert!(all.contains("2040-01-01T"), "{all}");
}
