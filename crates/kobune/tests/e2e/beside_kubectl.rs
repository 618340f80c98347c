//! kobune's verbs beside kubectl's: the same arguments give the same bytes and exit codes.

use std::time::Duration;

use kobune_testbed::{Cluster, Finished, Running, eventually};

use crate::{SETTLE, cluster, sleeper, wait_for};

/// Runs kubectl and kobune with the same arguments and compares all that a caller sees; answers with it.
#[track_caller]
fn same(cluster: &Cluster, arguments: &[&str]) -> Finished {
    // What only looks is asked of both at once.
    let looks = ["exec", "events", "port-forward", "top", "wait"].contains(&arguments[0]);
    let (theirs, ours) = if looks {
        let theirs = cluster.kubectl_beside(arguments).expect("kubectl starts");
        let ours = kobune(cluster, arguments);
        (theirs.finish(SETTLE).expect("kubectl ends"), ours)
    } else {
        (cluster.kubectl(arguments).expect("kubectl runs"), kobune(cluster, arguments))
    };
    let seen = |finished: &Finished| {
        format!("exit code {:?}\n{}-----\n{}", finished.status.code(), finished.stdout, finished.stderr)
    };
    assert_eq!(seen(&ours), seen(&theirs), "{arguments:?}");
    ours
}

/// Starts kobune as a client of the cluster.
#[track_caller]
fn begin(cluster: &Cluster, arguments: &[&str], input: Option<&str>) -> Running {
    let mut command = cluster.client(env!("CARGO_BIN_EXE_kobune"));
    command.args(arguments);
    Running::start(command, input).expect("kobune starts")
}

/// Runs kobune as a client of the cluster.
#[track_caller]
fn kobune(cluster: &Cluster, arguments: &[&str]) -> Finished {
    begin(cluster, arguments, None).finish(SETTLE).expect("kobune ends")
}

/// A workload of pods that sleep.
fn workload(kind: &str, name: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion": "apps/v1", "kind": "{kind}", "metadata": {{"name": "{name}"}}, "spec": {{
            "selector": {{"matchLabels": {{"app": "{name}"}}}}, "template": {{"metadata": {{"labels": {{"app": "{name}"}}}},
              "spec": {{"terminationGracePeriodSeconds": 1, "containers": [
                {{"name": "main", "image": "kobune.local/kobune", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}}]}}}}{more}}}}}"#
    )
}

#[test]
fn streams_rollouts_and_waiting() {
    let cluster = cluster();
    let create = |manifest: &str| cluster.kubectl_with(["create", "-f", "-"], Some(manifest)).unwrap().ok();
    create(
        &sleeper("stream", r#", "ports": [{"name": "http", "containerPort": 8080}]"#)
            .replace(r#"["sleep", "infinity"]"#, r#"["http-echo", "--listen", ":8080"]"#),
    );
    let container = r#"{"name": "main", "#;
    let twin = format!(
        r#"{{"name": "b", "image": "kobune.local/kobune", "imagePullPolicy": "IfNotPresent", "command": ["cat"], "stdin": true, "tty": true}}, {container}"#
    );
    create(&sleeper("two", "").replace(container, &twin));
    create(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "stream"}, "spec": {"selector": {"app": "stream"},
            "ports": [{"name": "web", "port": 80, "targetPort": "http"}]}}"#,
    );
    create(&workload("Deployment", "web", r#", "replicas": 2"#));
    create(&workload("StatefulSet", "set", r#", "serviceName": "set""#));
    create(&workload("DaemonSet", "each", ""));

    waiting(&cluster);
    sessions(&cluster);
    copies(&cluster);
    forwarding(&cluster);
    rollouts(&cluster);
    usage_and_events(&cluster);
    marks_and_patches(&cluster);
    nodes_without_pods(&cluster);
    pods_at_once(&cluster);
    a_server_that_goes_away(cluster);
}

fn waiting(cluster: &Cluster) {
    let kobune = |arguments: &[&str]| kobune(cluster, arguments);
    let ready = kobune(&["wait", "--for=condition=Ready", "pod/stream", "pod/two", "--timeout=90s"]).ok();
    assert_eq!(ready, "pod/stream condition met\npod/two condition met\n");
    for workload in ["deployment/web", "statefulset/set", "daemonset/each"] {
        kobune(&["rollout", "status", workload, "--timeout=90s"]).ok();
    }
    for arguments in [
        &["--for=condition=Ready", "pod", "-l", "app=stream"] as &[&str],
        &["--for=condition=ready", "pods", "--all"],
        &["--for=condition=Available", "deploy/web"],
        &["--for=jsonpath={.status.phase}=Running", "pod/stream"],
        &[r#"--for=jsonpath={.status.conditions[?(@.type=="Ready")].status}=True"#, "pod/stream"],
        &["--for=create", "pod/stream"],
        &["--for=delete", "pod/none"],
        &["--for=delete", "pod", "-l", "app=none"],
    ] {
        assert!(same(cluster, &[&["wait"], arguments].concat()).status.success());
    }
    for arguments in [
        &["--for=condition=Ready", "pod", "-l", "app=none"] as &[&str],
        &["--for=condition=Ready", "pod/none"],
        &["--for=condition=Ready=false", "pod/stream", "--timeout=0s"],
        &["--for=condition=Ready=false", "pod/stream", "pod/two", "--timeout=200ms"],
        &["--for=delete", "pod/stream", "--timeout=200ms"],
        &["--for=jsonpath={.status.conditions}=x", "pod/stream"],
        &["--for=ready", "pod/stream"],
        &["--for=condition=Ready"],
    ] {
        assert!(!same(cluster, &[&["wait"], arguments].concat()).status.success());
    }
    let wait = |what: &str| begin(cluster, &["wait", what, "configmap/late", "--timeout=60s"], None);
    let created = wait("--for=create");
    cluster.kubectl(["create", "configmap", "late"]).unwrap().ok();
    assert_eq!(created.finish(SETTLE).unwrap().ok(), "configmap/late condition met\n");
    let deleted = wait("--for=delete");
    cluster.kubectl(["delete", "configmap", "late"]).unwrap().ok();
    let deleted = deleted.finish(SETTLE).unwrap().ok();
    // Either the wait or the deletion came first.
    assert!(deleted.is_empty() || deleted == "configmap/late condition met\n", "{deleted}");
}

fn sessions(cluster: &Cluster) {
    for (arguments, code) in [
        (&["stream", "--", "echo", "a b", "c&d"] as &[&str], 0),
        (&["stream", "--", "exit", "7"], 7),
        (&["stream", "--", "ls", "/no-such-folder"], 2),
        (&["stream", "--", "no-such-program"], 1),
        (&["two", "--", "echo", "the first container"], 0),
        (&["two", "-c", "main", "--", "echo", "the other"], 0),
        (&["deploy/web", "--", "echo", "of a deployment"], 0),
        (&["service/stream", "--", "echo", "of a service"], 0),
        (&["configmap/kube-root-ca.crt", "--", "echo"], 1),
        (&["none", "--", "echo"], 1),
        (&["boats/none", "--", "echo"], 1),
        (&["stream"], 1),
        (&["-it", "stream", "--", "echo", "no terminal"], 0),
    ] {
        assert_eq!(same(cluster, &[&["exec"], arguments].concat()).status.code(), Some(code), "{arguments:?}");
    }
    let large: String = (0..200_000).map(|line| format!("line {line}\n")).collect();
    let echo = begin(cluster, &["exec", "-i", "stream", "--", "cat"], Some(&large)).finish(SETTLE).unwrap();
    assert_eq!(echo.ok(), large);

    // A terminal: `script` gives one, and `stty` says afterwards whether it is as before.
    let on_terminal = |words: &str, input: &str| {
        let mut command = cluster.client("script");
        let executable = env!("CARGO_BIN_EXE_kobune");
        let words = format!(
            "stty -a >/tmp/$$.a; {executable} {words}; code=$?; stty -a >/tmp/$$.b; cmp /tmp/$$.a /tmp/$$.b && echo as before; rm /tmp/$$.a /tmp/$$.b; exit $code"
        );
        command.args(["-qec", &words, "/dev/null"]);
        Running::start(command, Some(input)).unwrap().finish(SETTLE).unwrap()
    };
    let output = on_terminal("exec -it stream -- echo on-a-terminal", "").ok();
    assert!(output.contains("on-a-terminal\r\n") && output.ends_with("as before\r\n"), "{output:?}");
    let failed = on_terminal("exec -it stream -- exit 5", "");
    assert_eq!(failed.status.code(), Some(5), "{}", failed.stdout);
    let words = "command terminated with exit code 5\r\nas before\r\n";
    assert!(failed.stdout.ends_with(words), "{:?}", failed.stdout);
}

fn copies(cluster: &Cluster) {
    let folder = cluster.data_dir().join("copies");
    std::fs::create_dir_all(folder.join("tree/inner")).unwrap();
    std::fs::create_dir_all(folder.join("tree/empty")).unwrap();
    let large: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
    std::fs::write(folder.join("tree/inner/large"), &large).unwrap();
    std::fs::write(folder.join("tree/small"), "small").unwrap();
    let path = |name: &str| folder.join(name).to_str().expect("the path is text").to_owned();
    for arguments in [
        &[&path("tree"), "stream:/tmp/tree"] as &[&str],
        &[&path("tree/small"), "stream:/tmp"],
        // A folder that is there, into which the second copy goes.
        &[&path("tree"), "two:/tmp/", "-c", "main", "--no-preserve"],
    ] {
        assert!(same(cluster, &[&["cp"], arguments].concat()).status.success());
    }
    // kubectl ends with the archive, before or after `tar` in the pod has said something: its bytes are not always the same.
    for (from, to) in [("stream:/tmp/tree", path("back")), ("stream:/tmp/small", path("file"))] {
        kobune(cluster, &["cp", from, &to]).ok();
    }
    for (from, to) in [
        (path("none"), "stream:/tmp/none".to_owned()),
        ("a".to_owned(), "b".to_owned()),
        ("stream:/a".to_owned(), "two:/b".to_owned()),
        (path("tree"), "nobody:/tmp".to_owned()),
        (":x".to_owned(), "b".to_owned()),
    ] {
        assert!(!same(cluster, &["cp", &from, &to]).status.success());
    }
    // kubectl's first copy made the folder, so kobune's went into it, as a second one of kubectl's would have.
    assert_eq!(std::fs::read_to_string(folder.join("back/inner/large")).unwrap(), large);
    assert_eq!(std::fs::read_to_string(folder.join("back/tree/inner/large")).unwrap(), large);
    assert!(folder.join("back/empty").is_dir() && folder.join("back/tree/empty").is_dir());
    assert_eq!(std::fs::read_to_string(folder.join("file")).unwrap(), "small");
    let there = kobune(cluster, &["exec", "two", "-c", "main", "--", "cat", "/tmp/tree/small"]).ok();
    assert_eq!(there, "small");
    let missing = kobune(cluster, &["cp", "stream:/no-such-file", &path("missing")]);
    assert_eq!(missing.status.code(), Some(2), "{}", missing.stderr);
}

fn forwarding(cluster: &Cluster) {
    for arguments in [
        &["stream", "none"] as &[&str],
        &["service/stream", "99"],
        &["none", "80"],
        &["stream", "--address", "host", "80"],
        &["stream", "--address", "203.0.113.1", "80"],
    ] {
        assert!(!same(cluster, &[&["port-forward"], arguments].concat()).status.success());
    }
    let forward = begin(cluster, &["port-forward", "service/stream", "18080:web", "18081:80"], None);
    eventually("the ports are forwarded", SETTLE, || {
        if forward.stdout().contains("[::1]:18081 -> 8080") { Ok(()) } else { Err(forward.stderr()) }
    });
    for url in ["http://127.0.0.1:18080/", "http://[::1]:18081/", "http://127.0.0.1:18080/"] {
        let answer = cluster.kobune(["tool", "http-get", url]).unwrap().ok();
        assert!(answer.contains("stream"), "{answer}");
    }
    let lines = "Forwarding from 127.0.0.1:18080 -> 8080\nForwarding from [::1]:18080 -> 8080\n\
        Forwarding from 127.0.0.1:18081 -> 8080\nForwarding from [::1]:18081 -> 8080\n\
        Handling connection for 18080\nHandling connection for 18081\nHandling connection for 18080\n";
    assert_eq!(forward.stdout(), lines);
    cluster.kubectl(["delete", "pod", "stream", "--now"]).unwrap().ok();
    let ended = forward.finish(SETTLE).unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(1), "error: lost connection to pod\n"));
}

fn rollouts(cluster: &Cluster) {
    let both = |arguments: &[&str]| same(cluster, &[&["rollout"], arguments].concat());
    for arguments in [
        &["status", "deploy/web"] as &[&str],
        &["status", "deploy,statefulset,daemonset"],
        &["status", "deploy", "-l", "app=none"],
        &["history", "deploy/web"],
        &["history", "deploy,statefulset,daemonset"],
        &["history", "deploy,statefulset,daemonset", "--revision=1"],
    ] {
        assert!(both(arguments).status.success());
    }
    for arguments in [
        &["status"] as &[&str],
        &["status", "pod/two"],
        &["status", "deploy/none", "deploy/nothing"],
        &["status", "deploy/web", "--revision=5"],
        &["history", "pod/two"],
        &["history", "deploy/web", "--revision=7"],
        &["undo", "deploy/web"],
        &["undo", "statefulset/set"],
        &["undo", "daemonset/each", "--to-revision=9"],
        &["pause", "statefulset/set"],
        &["resume", "deploy/web"],
        &["restart", "pod/two"],
    ] {
        assert!(!both(arguments).status.success());
    }
    let kobune = |arguments: &[&str]| kobune(cluster, &[&["rollout"], arguments].concat());
    assert_eq!(kobune(&["pause", "deploy/web"]).ok(), "deployment.apps/web paused\n");
    for paused in ["pause", "restart"] {
        assert!(!both(&[paused, "deploy/web"]).status.success());
    }
    assert_eq!(kobune(&["resume", "deploy/web"]).ok(), "deployment.apps/web resumed\n");
    let all = ["deploy/web", "statefulset/set", "daemonset/each"];
    let restarted = kobune(&[&["restart"], &all as &[&str]].concat()).ok();
    assert_eq!(
        restarted,
        "deployment.apps/web restarted\nstatefulset.apps/set restarted\ndaemonset.apps/each restarted\n"
    );
    let template = |workload: &str| {
        let output = "jsonpath={.spec.template.metadata.annotations}";
        cluster.kubectl(["get", workload, "-o", output]).unwrap().ok()
    };
    for workload in all {
        assert!(kobune(&["status", workload, "--timeout=90s"]).status.success());
        assert!(template(workload).contains("restartedAt"));
    }
    both(&["history", "deploy,statefulset,daemonset"]);
    let dry = both(&["undo", "deploy/web", "--dry-run=server"]).ok();
    assert_eq!(dry, "deployment.apps/web rolled back (server dry run)\n");
    for workload in all {
        let name = workload.split_once('/').expect("a kind and a name").1;
        let undone = kobune(&["undo", workload, "--to-revision=1"]).ok();
        assert!(undone.ends_with(&format!(".apps/{name} rolled back\n")), "{undone}");
        assert_eq!(template(workload), "", "{workload}");
        assert!(kobune(&["status", workload, "--timeout=90s"]).status.success());
    }
    both(&["undo", "statefulset/set", "--to-revision=3"]);
    both(&["history", "deploy/web"]);
    let image = r#"{"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]}}}}"#;
    cluster.kubectl(["patch", "deploy/web", "-p", image]).unwrap().ok();
    let late = kobune(&["status", "deploy/web", "--timeout=1s"]);
    assert_eq!((late.status.code(), late.stderr.as_str()), (Some(1), "error: timed out waiting for the condition\n"));
}

/// What is measured and how long ago things were changes while one looks: the same twice in some moment.
fn usage_and_events(cluster: &Cluster) {
    for arguments in [
        &["top", "pods"] as &[&str],
        &["top", "pod", "-A", "--containers", "--sum", "--sort-by=memory"],
        &["top", "pods", "-l", "app=web", "--no-headers"],
        &["top", "pod", "two"],
        &["top", "nodes"],
        &["top", "node", "--show-capacity", "--no-headers"],
        &["events", "--for=pod/two"],
        &["events", "--for=pod/two", "--types=Normal", "-A", "--no-headers"],
    ] {
        eventually(&format!("the same of {arguments:?}"), SETTLE, || {
            let (theirs, ours) = (cluster.kubectl(arguments).unwrap(), kobune(cluster, arguments));
            let same = theirs.stdout == ours.stdout && theirs.stderr == ours.stderr && !ours.stdout.is_empty();
            if same && ours.status.success() {
                Ok(())
            } else {
                Err(format!("{}\n{}{}", theirs.stdout, ours.stdout, ours.stderr))
            }
        });
    }
    for arguments in [
        &["top", "pod", "none"] as &[&str],
        &["top", "pod", "two", "-l", "app=two"],
        &["events", "--for=pod"],
        &["events", "--for=boat/none"],
        &["events", "--types=Strange"],
    ] {
        assert!(!same(cluster, arguments).status.success());
    }
    assert!(same(cluster, &["events", "--for=pod/none"]).status.success());
    let watch = begin(cluster, &["events", "--for=pod/new", "-w"], None);
    cluster.apply(&sleeper("new", ""));
    eventually("the events of a new pod are printed", SETTLE, || {
        if watch.stdout().contains("Started container main") { Ok(()) } else { Err(watch.stdout()) }
    });
}

fn marks_and_patches(cluster: &Cluster) {
    for arguments in [
        &["label", "pod", "two", "app=two"] as &[&str],
        &["label", "pod", "two", "none-"],
        &["label", "pods", "two", "new", "colour=blue", "--dry-run=client"],
        &["label", "pods", "-l", "app=two", "app-", "--dry-run=server"],
        &["label", "pods", "--all", "--overwrite", "app=x", "--dry-run=server"],
        &["label", "pod", "two", "--list"],
        &["annotate", "pod/two", "note=one=two", "--dry-run=server"],
        &["annotate", "pod/two", "note=one=two"],
        &["annotate", "pod/two", "note=one=two", "none-"],
        &["patch", "pod", "two", "-p", "metadata: {annotations: {note: other}}", "--dry-run=server"],
        &["patch", "pod/two", "--type=merge", "-p", r#"{"metadata": {"annotations": {"note": "one=two"}}}"#],
        &["patch", "deploy/web", "--subresource=scale", "--type=merge", "-p", r#"{"spec": {"replicas": 2}}"#],
    ] {
        assert!(same(cluster, arguments).status.success());
    }
    for arguments in [
        &["label", "pod", "two", "app=x"] as &[&str],
        &["label", "pod", "two"],
        &["label", "app=x"],
        &["label", "pod", "none", "app=x"],
        &["label", "pod", "two", "app=x", "new"],
        &["label", "pod", "two", "app=x", "app-"],
        &["label", "pod", "two", "colour=x", "--resource-version=1"],
        &["annotate", "pod", "two", "note=other"],
        &["annotate", "pod", "two"],
        &["annotate", "pod"],
        &["patch", "pod", "two"],
        &["patch", "pod", "none", "-p", "{}"],
        &["patch", "deploy/web", "-p", r#"{"spec": {"replicas": -1}}"#],
        &["patch", "deploy/web", "--type=json", "-p", r#"[{"op": "test", "path": "/spec/replicas", "value": 7}]"#],
    ] {
        assert!(!same(cluster, arguments).status.success());
    }
    assert_eq!(kobune(cluster, &["label", "pod", "two", "app-", "colour=blue"]).ok(), "pod/two modified\n");
    assert_eq!(kobune(cluster, &["label", "pod", "two", "app=two", "--overwrite"]).ok(), "pod/two labeled\n");
    let patched = kobune(cluster, &["patch", "pod/two", "-p", r#"{"metadata": {"labels": {"colour": null}}}"#]);
    assert_eq!(patched.ok(), "pod/two patched\n");
    let labels = cluster.kubectl(["get", "pod", "two", "-o", "jsonpath={.metadata.labels}"]).unwrap().ok();
    assert_eq!(labels, r#"{"app":"two"}"#);
}

fn nodes_without_pods(cluster: &Cluster) {
    let node = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap().ok();
    assert_eq!(kobune(cluster, &["cordon", &node]).ok(), format!("node/{node} cordoned\n"));
    for arguments in [
        &["cordon", &node] as &[&str],
        &["uncordon", &node, "--dry-run=server"],
        &["drain", &node, "--dry-run=client", "--pod-selector=app=set"],
        &["drain", &node, "--ignore-daemonsets", "--pod-selector=app=each"],
    ] {
        assert!(same(cluster, arguments).status.success());
    }
    for arguments in [&["cordon", "none"] as &[&str], &["drain", &node, "--force", "--pod-selector=app in (each,web)"]]
    {
        assert!(!same(cluster, arguments).status.success());
    }
    let unmanaged = kobune(cluster, &["drain", &node, "--pod-selector=app=two"]).err();
    assert!(
        unmanaged.contains("cannot delete Pods that declare no controller (use --force to override): default/two"),
        "{unmanaged}"
    );
    let budget = r#"{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "set"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "set"}}}}"#;
    cluster.apply(budget);
    wait_for(cluster, &["pdb", "set"], ".status.currentHealthy", "1");
    let kept = kobune(cluster, &["drain", &node, "--pod-selector=app=set", "--timeout=3s"]);
    assert_eq!(kept.status.code(), Some(1));
    for words in [
        "(will retry after 5s): Cannot evict pod",
        "global timeout reached: 3s",
        "There are pending nodes to be drained:",
    ] {
        assert!(kept.stderr.contains(words), "{}", kept.stderr);
    }
    let drained = kobune(cluster, &["drain", &node, "--pod-selector=app=set", "--disable-eviction"]).ok();
    assert_eq!(drained, format!("node/{node} already cordoned\npod/set-0 deleted\nnode/{node} drained\n"));
    let drained = kobune(cluster, &["drain", &node, "--pod-selector=app=web"]).ok();
    assert!(drained.contains(" evicted\n") && drained.ends_with(" drained\n"), "{drained}");
    assert_eq!(kobune(cluster, &["uncordon", &node]).ok(), format!("node/{node} uncordoned\n"));
    assert!(same(cluster, &["uncordon", &node]).status.success());
}

fn pods_at_once(cluster: &Cluster) {
    let node = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap().ok();
    assert_eq!(
        kobune(cluster, &["taint", "nodes", &node, "slow=1:PreferNoSchedule"]).ok(),
        format!("node/{node} tainted\n")
    );
    let set = kobune(cluster, &["set", "image", "deploy/web", "main=kobune.local/kobune"]).ok();
    assert_eq!(set, "deployment.apps/web image updated\n");
    for arguments in [
        &["taint", "nodes", &node, "slow=2:PreferNoSchedule", "--overwrite", "--dry-run=server"] as &[&str],
        &["taint", "nodes", "--all", "slow-", "other=1:NoSchedule", "--dry-run=server"],
        &["set", "image", "deploy/web", "main=kobune.local/kobune"],
        &["set", "image", "deploy", "web", "*=other", "--dry-run=server"],
        &["run", "quick", "--image=i", "--dry-run=client"],
        &["run", "quick", "--image=i", "--dry-run=client", "-o", "yaml", "--env=A=B", "--port=80", "--", "sleep", "-5"],
        &["run", "quick", "--image=i", "--dry-run=client", "-o", "yaml", "--labels=a=b", "--command", "--", "sleep"],
        &["run", "quick", "--image=i", "--dry-run=server"],
    ] {
        assert!(same(cluster, arguments).status.success());
    }
    for arguments in [
        &["taint", "nodes", &node, "slow=2:PreferNoSchedule"] as &[&str],
        &["taint", "nodes", &node, "none-"],
        &["taint", "nodes", &node],
        &["taint", "pods", "two", "a=b:NoSchedule"],
        &["set", "image", "deploy/web", "none=other"],
        &["set", "image", "deploy/web"],
        &["set", "image", "service/stream", "main=other"],
        &["run", "quick"],
        &["run", "two", "--image=i"],
    ] {
        assert!(!same(cluster, arguments).status.success());
    }
    assert_eq!(kobune(cluster, &["taint", "nodes", &node, "slow-"]).ok(), format!("node/{node} untainted\n"));
    for flag in ["--rm", "-t"] {
        assert!(!kobune(cluster, &["run", "quick", "--image=i", flag]).status.success());
    }
    let run = |name: &str, words: &[&str], input: &str| {
        let flags = [
            "--image=kobune.local/kobune",
            "--image-pull-policy=IfNotPresent",
            "--restart=Never",
            "-i",
            "--rm",
            "--command",
        ];
        let arguments = [&["run", name] as &[&str], &flags, &["--"], words].concat();
        begin(cluster, &arguments, Some(input)).finish(SETTLE).unwrap()
    };
    let echoed = run("quick", &["cat"], "through a pod\n").ok();
    assert!(echoed.contains("through a pod\n"), "{echoed}");
    assert!(echoed.ends_with("pod \"quick\" deleted from default namespace\n"), "{echoed}");
    let failed = run("failing", &["exit", "7"], "");
    assert_eq!(failed.status.code(), Some(7), "{}{}", failed.stdout, failed.stderr);
    assert!(failed.stderr.contains("pod default/failing terminated (Error)"), "{}", failed.stderr);
}

/// Whoever holds a stream learns that the server has gone, and ends.
fn a_server_that_goes_away(mut cluster: Cluster) {
    let exec = begin(&cluster, &["exec", "two", "-c", "main", "--", "http-echo", "--listen", ":8099"], None);
    let cat = begin(&cluster, &["attach", "two", "-c", "main"], None);
    let wait = begin(&cluster, &["wait", "--for=delete", "pod/two", "--timeout=1h"], None);
    eventually("the sessions have begun", SETTLE, || {
        if exec.stdout().contains("listening") && cat.stderr().contains("pressing enter") {
            Ok(())
        } else {
            Err(exec.stderr())
        }
    });
    cluster.kill().unwrap();
    for (what, running) in [("exec", exec), ("attach", cat), ("wait", wait)] {
        let ended = running.finish(Duration::from_secs(60)).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{what}: {}", ended.stderr);
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && !ended.stderr.contains("panicked"), "{what}: {}", ended.stderr);
    }
}
