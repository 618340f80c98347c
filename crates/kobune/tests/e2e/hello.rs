//! The newcomer's first minutes: the example, its Service from two pods, by address and by name.

use std::collections::BTreeSet;

use kobune_testbed::eventually;

use crate::{SETTLE, cluster, wait_for};

#[test]
fn the_example_answers_from_both_pods() {
    let cluster = cluster();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/");
    cluster.kubectl(["apply", "-f", example]).expect("kubectl runs").ok();
    cluster
        .kubectl(["-n", "hello", "rollout", "status", "deployment/hello", "--timeout=90s"])
        .expect("kubectl runs")
        .ok();
    let address =
        cluster.kubectl(["-n", "hello", "get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"]).unwrap().ok();
    let pods = cluster
        .kubectl(["-n", "hello", "get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"])
        .unwrap()
        .ok();
    let expected: BTreeSet<String> = pods.lines().map(str::to_owned).collect();
    assert_eq!(expected.len(), 2, "{pods}");

    let url = format!("http://{address}/");
    let mut seen = BTreeSet::new();
    eventually("both pods answer at the Service", SETTLE, || {
        let answer = cluster.kobune(["tool", "http-get", &url]).unwrap();
        if !answer.stdout.contains("Hello from a small boat.") {
            return Err(format!("it answered {:?} {:?}", answer.stdout, answer.stderr));
        }
        seen.extend(expected.iter().filter(|pod| answer.stdout.contains(pod.as_str())).cloned());
        if seen == expected { Ok(()) } else { Err(format!("only {seen:?} of {expected:?} answered")) }
    });

    // By name, from inside a pod, and through a node port.
    let pod = expected.first().expect("there are two");
    for name in ["hello", "hello.hello", "hello.hello.svc.cluster.local"] {
        let url = format!("http://{name}/");
        let answer = cluster.kubectl(["-n", "hello", "exec", pod, "--", "http-get", &url]).expect("kubectl runs").ok();
        assert!(answer.contains("Hello from a small boat."), "{answer}");
    }
    cluster
        .kubectl(["-n", "hello", "patch", "service", "hello", "-p", r#"{"spec":{"type":"NodePort"}}"#])
        .unwrap()
        .ok();
    let port = cluster
        .kubectl(["-n", "hello", "get", "service", "hello", "-o", "jsonpath={.spec.ports[0].nodePort}"])
        .unwrap()
        .ok();
    let url = format!("http://{}:{port}/", cluster.host().address());
    eventually("the node port answers", SETTLE, || {
        let answer = cluster.kobune(["tool", "http-get", &url]).unwrap();
        if answer.stdout.contains("Hello") { Ok(()) } else { Err(answer.stderr) }
    });
}

#[test]
fn a_rolling_update_changes_the_answer_and_can_be_undone() {
    let cluster = cluster();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/");
    cluster.kubectl(["apply", "-f", example]).unwrap().ok();
    let rollout =
        |verb: &str| cluster.kubectl(["-n", "hello", "rollout", verb, "deployment/hello"]).expect("kubectl runs").ok();
    rollout("status");
    cluster.kubectl(["-n", "hello", "set", "env", "deployment/hello", "GREETING=changed"]).unwrap().ok();
    rollout("status");
    let history = rollout("history");
    assert!(history.contains('1') && history.contains('2'), "{history}");
    let env = "jsonpath={.spec.template.spec.containers[0].env[*].name}";
    let names = cluster.kubectl(["-n", "hello", "get", "deployment", "hello", "-o", env]).unwrap().ok();
    assert!(names.contains("GREETING"), "{names}");
    rollout("undo");
    rollout("status");
    let names = cluster.kubectl(["-n", "hello", "get", "deployment", "hello", "-o", env]).unwrap().ok();
    assert!(!names.contains("GREETING"), "{names}");
    rollout("restart");
    rollout("status");

    cluster.kubectl(["-n", "hello", "scale", "deployment/hello", "--replicas=3"]).unwrap().ok();
    wait_for(&cluster, &["-n", "hello", "deployment", "hello"], ".status.readyReplicas", "3");
    cluster.kubectl(["delete", "namespace", "hello", "--timeout=90s"]).unwrap().ok();
    let left = cluster.kubectl(["get", "all", "-n", "hello"]).unwrap();
    assert!(left.stderr.contains("No resources found"), "{} {}", left.stdout, left.stderr);
}
