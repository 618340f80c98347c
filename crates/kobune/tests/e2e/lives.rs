//! One process, many lives: kill -9 loses no acknowledged write and stops no container; purge leaves nothing behind.

use std::collections::BTreeMap;
use std::path::Path;

use kobune_testbed::{Cluster, eventually};

use crate::{SETTLE, cluster, wait_for};

/// The host's process ids by container id, as the pods say it from inside: what runs, seen from outside kobune.
fn sleepers(cluster: &Cluster) -> Vec<u32> {
    let marker = cluster.data_dir().to_str().expect("the path is text").to_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let line = read("cmdline");
        let root = std::fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if line == b"sleep\0infinity\0" && root.contains(&marker) {
            found.push(id);
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn kill_during_load_loses_no_write_and_stops_no_container() {
    let mut cluster = cluster();
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: steady}
spec:
  replicas: 3
  selector: {matchLabels: {app: steady}}
  template:
    metadata: {labels: {app: steady}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}]
"#,
    );
    wait_for(&cluster, &["deployment", "steady"], ".status.readyReplicas", "3");
    let before = sleepers(&cluster);
    assert_eq!(before.len(), 3, "{before:?}");
    let restarts = |cluster: &Cluster| {
        let path = "jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
        cluster.kubectl(["get", "pods", "-l", "app=steady", "-o", path]).unwrap().ok()
    };
    let pods = restarts(&cluster);

    // A writer that prints each name after the server acknowledged it, until the server is gone.
    let writer = r#"
from kubernetes import client, config
config.load_kube_config()
core = client.CoreV1Api()
for number in range(100000):
    try:
        made = core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"w{number}")))
    except Exception:
        break
    print(made.metadata.name, made.metadata.resource_version, flush=True)
"#;
    let mut acknowledged = BTreeMap::new();
    for _ in 0..2 {
        cluster
            .kubectl(["delete", "configmap", "-l", "!kept", "--field-selector", "metadata.name!=kube-root-ca.crt"])
            .unwrap()
            .ok();
        acknowledged.clear();
        let mut command = cluster.client(kobune_testbed::tools().join("python/bin/python"));
        command.arg("-");
        let running = kobune_testbed::Running::start(command, Some(writer)).unwrap();
        eventually("the writer has written", SETTLE, || {
            let lines = running.stdout().lines().count();
            if lines > 50 { Ok(()) } else { Err(format!("{lines} lines {}", running.stderr())) }
        });
        cluster.kill().unwrap();
        let written = running.finish(SETTLE).unwrap().stdout;
        acknowledged.extend(
            written
                .lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(name, version)| (name.to_owned(), version.parse::<u64>().unwrap())),
        );
        assert_eq!(sleepers(&cluster), before, "the containers go on while kobune is away");
        cluster.start_again().unwrap();
        let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        let there = cluster.kubectl(["get", "configmaps", "-o", path]).unwrap().ok();
        let there: BTreeMap<&str, u64> = there
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, version)| (name, version.parse().unwrap()))
            .collect();
        for (name, version) in &acknowledged {
            assert_eq!(there.get(name.as_str()), Some(version), "{name} was acknowledged");
        }
        let newest = acknowledged.values().max().copied().unwrap_or_default();
        let made = cluster
            .kubectl(["create", "configmap", "after", "-o", "jsonpath={.metadata.resourceVersion}"])
            .unwrap()
            .ok();
        assert!(made.parse::<u64>().unwrap() > newest, "revision {made} does not come after {newest}");
        wait_for(&cluster, &["deployment", "steady"], ".status.readyReplicas", "3");
        assert_eq!(sleepers(&cluster), before, "the same processes were adopted");
        assert_eq!(restarts(&cluster), pods);
        // The adopted containers are under control: exec works, and a deleted pod is replaced.
        let pod = pods.lines().next().and_then(|line| line.split('=').next()).unwrap();
        assert_eq!(cluster.kubectl(["exec", pod, "--", "echo", "here"]).unwrap().ok(), "here\n");
    }
    let pod = pods.lines().next().and_then(|line| line.split('=').next()).unwrap();
    cluster.kubectl(["delete", "pod", pod, "--timeout=60s"]).unwrap().ok();
    wait_for(&cluster, &["deployment", "steady"], ".status.readyReplicas", "3");
    assert_eq!(sleepers(&cluster).iter().filter(|id| before.contains(id)).count(), 2);
}

#[test]
fn purge_leaves_nothing_behind() {
    let mut cluster = cluster();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/");
    cluster.kubectl(["apply", "-f", example]).unwrap().ok();
    cluster.kubectl(["-n", "hello", "rollout", "status", "deployment/hello", "--timeout=90s"]).unwrap().ok();
    let data_dir = cluster.data_dir().to_owned();
    let marker = data_dir.to_str().unwrap();
    assert!(!processes(marker).is_empty());
    cluster.kobune(["down", "--purge", "--data-dir", marker]).unwrap().ok();
    cluster.stop().unwrap();
    assert_eq!(processes(marker), Vec::<String>::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(marker), "{mounts}");
    assert_eq!(cluster.host().foreign_links().unwrap(), Vec::<String>::new());
    let mut rules = cluster.host().command("nft");
    rules.args(["list", "tables"]);
    let rules = kobune_testbed::Running::start(rules, None).unwrap().finish(SETTLE).unwrap().ok();
    assert_eq!(rules, "");
    let left: Vec<_> = std::fs::read_dir(&data_dir).map(|folder| folder.flatten().collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert_eq!(cgroups_of(&controller.path(), marker), Vec::<String>::new());
    }
}

/// The command lines of the processes that name the data folder or live on mounts of it.
fn processes(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let mounts = std::fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if line.contains(marker) || mounts.contains(marker) {
            found.push(line);
        }
    }
    found
}

/// The control groups of a controller that the instance of this data folder made: they are named after it.
fn cgroups_of(controller: &Path, data_dir: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(controller) else { return Vec::new() };
    let name = kobune_name(data_dir);
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|found| found.starts_with(&name))
        .collect()
}

fn kobune_name(data_dir: &str) -> String {
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_kobune"))
        .args(["config", "show", "--data-dir", data_dir])
        .output()
        .expect("kobune runs");
    let text = String::from_utf8(said.stdout).expect("the settings are text");
    let line = text.lines().find_map(|line| line.strip_prefix("instance: ")).expect("the settings name the instance");
    line.to_owned()
}
