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
    let rolled = cluster.kubectl(["-n", "hello", "rollout", "status", "deployment/hello", "--timeout=60s"]).unwrap();
    let told = cluster.kubectl(["-n", "hello", "describe", "pods"]).unwrap().stdout;
    assert!(rolled.status.success(), "{}{told}", rolled.stderr);
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

#[test]
fn machines_join_by_token() {
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).server_only().start().expect("a server starts");
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let create = ["token", "create", "--print-join-command", "--kubeconfig", kubeconfig];
    let command = cluster.kobune(create).unwrap().ok();
    let words: Vec<String> = command.split_whitespace().skip(2).map(str::to_owned).collect();
    assert_eq!(words.iter().filter(|word| word.starts_with("--")).count(), 3, "{command}");
    for name in ["one", "two"] {
        let node = ["--node-name".to_owned(), name.to_owned()];
        cluster.join(words.iter().cloned().chain(node)).unwrap();
    }
    for name in ["one", "two"] {
        wait_for(&cluster, &["node", name], r#".status.conditions[?(@.type=="Ready")].status"#, "True");
        let pod = sleeper(name, "").replacen(r#""spec": {"#, &format!(r#""spec": {{"nodeName": "{name}", "#), 1);
        cluster.apply(&pod);
        wait_for(&cluster, &["pod", name], ".status.phase", "Running");
    }
    let ranges = ["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"];
    let ranges = cluster.kubectl(ranges).unwrap().ok();
    let (one, two) = ranges.split_once(' ').expect("two ranges");
    assert_ne!(one, two, "each node has a range of its own");

    // Pods of different nodes reach each other, by plain routes.
    let serve = r#", "ports": [{"containerPort": 8080}]"#;
    let web = sleeper("web", serve).replace(r#"["sleep", "infinity"]"#, r#"["http-echo", "--listen", ":8080"]"#);
    cluster.apply(&web.replacen(r#""spec": {"#, r#""spec": {"nodeName": "two", "#, 1));
    wait_for(&cluster, &["pod", "web"], ".status.phase", "Running");
    let address = cluster.kubectl(["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]).unwrap().ok();
    let url = format!("http://{address}:8080/");
    eventually("a pod on one node reaches a pod on the other", SETTLE, || {
        let got = cluster.kubectl(["exec", "one", "--", "http-get", &url]).map_err(|error| error.to_string())?;
        if got.status.success() { Ok(()) } else { Err(format!("{}{}", got.stdout, got.stderr)) }
    });

    // A wrong token is refused in words; a start without the server needs neither it nor a token.
    let refused = cluster.kobune([
        "agent",
        "--server",
        &cluster.url(),
        "--token",
        "aaaaaa.0123456789abcdef",
        "--data-dir",
        "/nonexistent/kobune",
    ]);
    let refused = refused.unwrap();
    assert!(!refused.status.success());
    cluster.kill().unwrap();
    cluster.agents()[0].kill().unwrap();
    cluster.agents()[0].start().unwrap();
    cluster.start_again().unwrap();
    cluster.kubectl(["delete", "pod", "one", "--timeout=60s"]).unwrap().ok();
}
