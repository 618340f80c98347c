//! Server and node apart: `kobune server` on one machine, `kobune agent` on another.

use kobune_testbed::{Cluster, eventually};

use crate::{SETTLE, sleeper, wait_for};

#[test]
fn an_agent_on_another_machine_runs_pods() {
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).server_only().start().expect("a server starts");
    assert_eq!(cluster.kubectl(["get", "nodes", "-o", "name"]).unwrap().ok(), "", "a server is no node");
    let kubeconfig = cluster.kubeconfig();
    let agent = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node-name", "far"];
    cluster.join(agent).unwrap();
    wait_for(&cluster, &["node", "far"], r#".status.conditions[?(@.type=="Ready")].status"#, "True");
    cluster.kubectl(["apply", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/")]).unwrap().ok();
    cluster.kubectl(["-n", "hello", "rollout", "status", "deployment/hello", "--timeout=90s"]).unwrap().ok();
    let addresses =
        cluster.kubectl(["-n", "hello", "get", "pods", "-o", "jsonpath={.items[*].status.podIP}"]).unwrap().ok();
    assert!(addresses.split(' ').all(|address| address.starts_with("10.244.")), "{addresses}");

    // What the server asks of a node goes over the link, with the server's certificate.
    cluster.apply(&sleeper("shell", ""));
    wait_for(&cluster, &["pod", "shell"], ".status.phase", "Running");
    assert_eq!(cluster.kubectl(["exec", "shell", "--", "hostname"]).unwrap().ok(), "shell\n");
    let asked = ["exec", "shell", "--", "http-get", "http://hello.hello.svc.cluster.local/"];
    eventually("a pod on the far node reaches the Service by name", SETTLE, || {
        let got = cluster.kubectl(asked).map_err(|error| error.to_string())?;
        if got.stdout.contains("hello-") { Ok(()) } else { Err(format!("{}{}", got.stdout, got.stderr)) }
    });
    assert!(!cluster.kubectl(["-n", "hello", "logs", "deployment/hello"]).unwrap().ok().is_empty());

    // The server goes away and comes back: the node goes on, and is told of what changed meanwhile.
    let restarts = ["get", "pod", "shell", "-o", "jsonpath={.status.containerStatuses[0].containerID}"];
    let before = cluster.kubectl(restarts).unwrap().ok();
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    cluster.apply(&sleeper("late", ""));
    wait_for(&cluster, &["pod", "late"], ".status.phase", "Running");
    assert_eq!(cluster.kubectl(restarts).unwrap().ok(), before);

    // So does the node.
    cluster.agents()[0].kill().unwrap();
    cluster.agents()[0].start().unwrap();
    cluster.kubectl(["delete", "pod", "late", "--timeout=60s"]).unwrap().ok();
    assert_eq!(cluster.kubectl(restarts).unwrap().ok(), before);
}
