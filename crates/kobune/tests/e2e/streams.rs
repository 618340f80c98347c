//! Logs, exec, attach, cp and port-forward by real kubectl.

use std::time::Duration;

use kobune_testbed::{Finished, Running, eventually};

use crate::{SETTLE, cluster, sleeper, wait_for};

#[test]
fn logs_exec_cp_and_port_forward() {
    let cluster = cluster();
    cluster.apply(&sleeper("stream", "").replace(r#"["sleep", "infinity"]"#, r#"["http-echo", "--listen", ":8080"]"#));
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/stream", "--timeout=90s"]).unwrap().ok();

    // Exit codes, both streams, an input.
    let run = |words: &[&str], input: Option<&str>| -> Finished {
        let mut arguments = vec!["exec"];
        if input.is_some() {
            arguments.push("-i");
        }
        arguments.extend(["stream", "--"]);
        arguments.extend(words);
        cluster.kubectl_with(arguments, input).expect("kubectl runs")
    };
    assert_eq!(run(&["echo", "a b"], None).ok(), "a b\n");
    assert_eq!(run(&["cat"], Some("through\nand through\n")).ok(), "through\nand through\n");
    let large: String = (0..200_000).map(|line| format!("line {line}\n")).collect();
    assert_eq!(run(&["cat"], Some(&large)).ok().len(), large.len());
    let failed = run(&["exit", "7"], None);
    assert_eq!(failed.status.code(), Some(7), "{}", failed.stderr);
    let missing = run(&["no-such-program"], None).err();
    assert!(missing.contains("no-such-program"), "{missing}");

    // A terminal: script gives kubectl one.
    let kubectl = kobune_testbed::tools().join("kubectl");
    let mut command = cluster.client("script");
    command.args(["-qec", &format!("{} exec -it stream -- echo on-a-terminal", kubectl.display()), "/dev/null"]);
    let output = Running::start(command, None).unwrap().finish(Duration::from_secs(60)).unwrap().ok();
    assert!(output.contains("on-a-terminal\r\n"), "{output:?}");

    // Files, both ways.
    let file = cluster.data_dir().join("payload");
    std::fs::write(&file, &large).unwrap();
    let file = file.to_str().expect("the path is text");
    cluster.kubectl(["cp", file, "stream:/tmp/payload"]).unwrap().ok();
    let back = format!("{file}.back");
    cluster.kubectl(["cp", "stream:/tmp/payload", &back]).unwrap().ok();
    assert_eq!(std::fs::read_to_string(&back).unwrap(), large);

    // A port.
    let forward = cluster.kubectl_beside(["port-forward", "pod/stream", "18080:8080"]).unwrap();
    eventually("the port is forwarded", SETTLE, || {
        if forward.stdout().contains("Forwarding from 127.0.0.1:18080") { Ok(()) } else { Err(forward.stderr()) }
    });
    for _ in 0..3 {
        let answer = cluster.kobune(["tool", "http-get", "http://127.0.0.1:18080/"]).unwrap().ok();
        assert!(answer.contains("stream"), "{answer}");
    }
    drop(forward);

    // The requests are in the log, which can be followed.
    let log = cluster.kubectl(["logs", "stream", "--timestamps"]).unwrap().ok();
    assert!(log.lines().count() >= 3, "{log}");
    let tail = cluster.kubectl(["logs", "stream", "--tail=1"]).unwrap().ok();
    assert_eq!(tail.lines().count(), 1, "{tail}");
    let follow = cluster.kubectl_beside(["logs", "-f", "stream", "--tail=0"]).unwrap();
    let forward = cluster.kubectl_beside(["port-forward", "pod/stream", "18081:8080"]).unwrap();
    eventually("a new line is followed", SETTLE, || {
        cluster.kobune(["tool", "http-get", "http://127.0.0.1:18081/followed"]).map_err(|error| error.to_string())?;
        if follow.stdout().contains("/followed") {
            Ok(())
        } else {
            Err(format!("{}{}", follow.stdout(), forward.stderr()))
        }
    });
}

#[test]
fn previous_logs_and_attach() {
    let cluster = cluster();
    let twice = sleeper("twice", "").replace(r#"["sleep", "infinity"]"#, r#"["ls", "/no-such-folder"]"#);
    cluster.apply(&twice);
    wait_for(&cluster, &["pod", "twice"], ".status.containerStatuses[0].restartCount", "1");
    eventually("the log of the run before is there", SETTLE, || {
        let log = cluster.kubectl(["logs", "twice", "--previous"]).map_err(|error| error.to_string())?;
        if log.stdout.contains("no-such-folder") { Ok(()) } else { Err(format!("{}{}", log.stdout, log.stderr)) }
    });

    let output = cluster
        .kubectl_with(
            [
                "run",
                "typed",
                "-i",
                "--rm",
                "--restart=Never",
                "--image=kobune.local/kobune",
                "--image-pull-policy=IfNotPresent",
                "--command",
                "--",
                "cat",
            ],
            Some("echoed by a pod\n"),
        )
        .unwrap()
        .ok();
    assert!(output.contains("echoed by a pod"), "{output}");
}
