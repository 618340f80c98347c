//! Pods run by a real containerd with a real runc, through CRI.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kobune_testbed::{Cluster, Host, Running, eventually, tools};

use crate::{SETTLE, wait_for};

/// containerd with folders of its own. It goes last, after kobune has taken its pods away.
struct Containerd {
    process: Option<Running>,
    folder: tempfile::TempDir,
}

/// Whether `scripts/install-test-tools.sh` was run with the packages at hand.
fn is_installed() -> bool {
    let there = ["containerd", "ctr", "runc", "containerd-shim-runc-v2", "cni/loopback"]
        .iter()
        .all(|name| tools().join("containerd").join(name).exists());
    if !there {
        eprintln!("skipped: containerd is not in {} (scripts/install-test-tools.sh)", tools().display());
    }
    there
}

impl Containerd {
    fn new() -> anyhow::Result<Self> {
        // overlayfs wants a file system that can be an upper layer, sockets want short paths.
        let parent = std::env::var_os("KOBUNE_TEST_DATA").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let folder = tempfile::Builder::new().prefix("kobune-containerd-").tempdir_in(parent)?;
        let (at, bin) = (folder.path().display(), tools().join("containerd"));
        std::fs::create_dir(folder.path().join("cni"))?;
        std::fs::copy(bin.join("cni/loopback"), folder.path().join("cni/loopback"))?;
        let config = format!(
            r#"
            version = 2
            root = "{at}/root"
            state = "{at}/state"
            [grpc]
              address = "{at}/containerd.sock"
            [plugins."io.containerd.grpc.v1.cri"]
              sandbox_image = "kobune.local/pause:latest"
              restrict_oom_score_adj = true
              disable_apparmor = true
              stream_server_address = "127.0.0.1"
              stream_server_port = "0"
              [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "{at}/cni"
                conf_dir = "{at}/conf"
              [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
                runtime_type = "io.containerd.runc.v2"
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
                  BinaryName = "{runc}"
            "#,
            runc = bin.join("runc").display()
        );
        std::fs::write(folder.path().join("config.toml"), config)?;
        std::fs::create_dir(folder.path().join("conf"))?;
        Ok(Self { process: None, folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    fn start(&mut self, host: &Host) -> anyhow::Result<()> {
        let mut command = host.command(tools().join("containerd/containerd"));
        command.arg("--config").arg(self.folder.path().join("config.toml")).env("PATH", path());
        self.process = Some(Running::start(command, None)?);
        Ok(())
    }

    /// Its processes' ends are what kobune has to find out by itself.
    fn die(&mut self) {
        self.process = None;
    }
}

/// Where containerd finds its shims and kobune finds `ctr`.
fn path() -> String {
    format!("{}:{}", tools().join("containerd").display(), std::env::var("PATH").unwrap_or_default())
}

fn start() -> (Containerd, Cluster) {
    let mut containerd = Containerd::new().expect("a folder for containerd");
    let endpoint = format!("--container-runtime-endpoint=unix://{}", containerd.socket().display());
    let builder = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).argument(endpoint).environment("PATH", path());
    builder
        .start_beside(|host| {
            containerd.start(host)?;
            Ok(containerd)
        })
        .expect("a cluster starts")
}

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: kobune.local/kobune
    imagePullPolicy: IfNotPresent
    args: ["http-echo", "--listen", ":8080"]
    env: [{name: COLOUR, value: blue}]
    ports: [{containerPort: 8080}]
    resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {cpu: 500m, memory: 128Mi}}
    readinessProbe: {exec: {command: ["/bin/true"]}, periodSeconds: 1}
    livenessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, args: ["exit", "3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: OnFailure
  containers:
  - {name: c, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, args: ["http-get", "http://web.default.svc.cluster.local/through"]}
"#;

fn ctr(containerd: &Containerd, cluster: &Cluster, words: &[&str]) -> String {
    let mut command = cluster.host().command(tools().join("containerd/ctr"));
    command.arg("--address").arg(containerd.socket()).args(["-n", "k8s.io"]).args(words);
    Running::start(command, None).expect("ctr runs").finish(Duration::from_secs(60)).expect("it ends").ok()
}

#[test]
fn pods_run_in_containerd() {
    if !is_installed() {
        return;
    }
    let (mut containerd, mut cluster) = start();
    cluster.apply(PODS);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=90s"]).unwrap().ok();
    let version = "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}";
    let version = cluster.kubectl(["get", "nodes", "-o", version]).unwrap().ok();
    assert!(version.starts_with("containerd://"), "{version}");
    assert!(ctr(&containerd, &cluster, &["tasks", "ls", "-q"]).lines().count() >= 2, "containerd runs them");
    assert!(!cluster.data_dir().join("sandboxes").exists(), "the runtime built in does not");

    // A Service, DNS and the pod network are kobune's as ever. What ends is told without asking, and starts again.
    wait_for(&cluster, &["pod", "once"], ".status.phase", "Succeeded");
    let once = cluster.kubectl(["logs", "once"]).unwrap().ok();
    assert!(once.contains("web"), "{once}");
    wait_for(&cluster, &["pod", "ends"], ".status.containerStatuses[0].restartCount", "1");
    wait_for(&cluster, &["pod", "ends"], ".status.containerStatuses[0].lastState.terminated.exitCode", "3");

    // Exec: streams, input and its end, exit codes, a terminal.
    let exec = |words: &[&str], input: Option<&str>| {
        let mut arguments = vec!["exec"];
        arguments.extend(input.map(|_| "-i"));
        arguments.extend(["web", "--"]);
        arguments.extend(words);
        cluster.kubectl_with(arguments, input).expect("kubectl runs")
    };
    assert!(exec(&["/bin/env"], None).ok().contains("COLOUR=blue"));
    let large: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
    assert_eq!(exec(&["/bin/cat"], Some(&large)).ok().len(), large.len());
    assert_eq!(exec(&["/bin/exit", "7"], None).status.code(), Some(7));
    assert!(exec(&["/bin/no-such-program"], None).err().contains("no-such-program"));
    let hosts = exec(&["/bin/cat", "/etc/hosts", "/etc/resolv.conf"], None).ok();
    assert!(hosts.contains("web") && hosts.contains("svc.cluster.local"), "{hosts}");
    let kubectl = tools().join("kubectl");
    let mut command = cluster.client("script");
    command.args(["-qec", &format!("{} exec -it web -- /bin/echo on-a-terminal", kubectl.display()), "/dev/null"]);
    let output = Running::start(command, None).unwrap().finish(SETTLE).unwrap().ok();
    assert!(output.contains("on-a-terminal"), "{output:?}");

    // A port, and the log of what came through it.
    let forward = cluster.kubectl_beside(["port-forward", "pod/web", "18080:8080"]).unwrap();
    eventually("the port is forwarded", SETTLE, || {
        if forward.stdout().contains("Forwarding from 127.0.0.1:18080") { Ok(()) } else { Err(forward.stderr()) }
    });
    cluster.kobune(["tool", "http-get", "http://127.0.0.1:18080/forwarded"]).unwrap().ok();
    drop(forward);
    eventually("the request is in the log", SETTLE, || {
        let log = cluster.kubectl(["logs", "web"]).map_err(|error| error.to_string())?.stdout;
        if log.contains("/forwarded") { Ok(()) } else { Err(log) }
    });

    // New limits without a restart, and what is used.
    let patch = r#"{"spec":{"containers":[{"name":"web","resources":{"limits":{"memory":"160Mi"}}}]}}"#;
    cluster.kubectl(["patch", "pod", "web", "--subresource=resize", "-p", patch]).unwrap().ok();
    wait_for(&cluster, &["pod", "web"], ".status.containerStatuses[0].resources.limits.memory", "160Mi");
    let limit = exec(&["/bin/cat", "/proc/1/cgroup"], None).ok();
    let group = limit.lines().find_map(|line| line.split_once(":memory:").or_else(|| line.split_once("0::")));
    let group = group.map(|(_, group)| group.to_owned()).expect("a group");
    let files = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(PathBuf::from);
    let read =
        |file: &str, root: &Path| std::fs::read_to_string(root.join(group.trim_start_matches('/')).join(file)).ok();
    let bytes = read("memory.limit_in_bytes", &files[0]).or_else(|| read("memory.max", &files[1])).expect("a limit");
    assert_eq!(bytes.trim(), (160 << 20).to_string());
    let summary = cluster.kubectl(["get", "nodes", "-o", "name"]).unwrap().ok();
    let node = summary.trim().trim_start_matches("node/");
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let stats = cluster.kubectl(["get", "--raw", &path]).unwrap().ok();
    assert!(stats.contains("\"workingSetBytes\"") && stats.contains("\"web\""), "{stats}");

    // kobune is killed: its pods go on, and are taken over with their addresses.
    let before = cluster
        .kubectl(["get", "pod", "web", "-o", "jsonpath={.status.podIP} {.status.containerStatuses[0].containerID}"])
        .unwrap()
        .ok();
    assert!(before.contains(" containerd://"), "{before}");
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=90s"]).unwrap().ok();
    let after = cluster
        .kubectl(["get", "pod", "web", "-o", "jsonpath={.status.podIP} {.status.containerStatuses[0].containerID}"])
        .unwrap()
        .ok();
    assert_eq!(before, after);
    assert!(exec_on(&cluster, &["/bin/echo", "still here"]).contains("still here"));

    // containerd is killed and comes back: so does the node, and what ended meanwhile is found out.
    containerd.die();
    wait_for(&cluster, &["node", node], ".status.conditions[?(@.type==\"Ready\")].status", "False");
    containerd.start(cluster.host()).unwrap();
    wait_for(&cluster, &["node", node], ".status.conditions[?(@.type==\"Ready\")].status", "True");
    assert!(exec_on(&cluster, &["/bin/echo", "again"]).contains("again"));

    // Deleted pods leave nothing in containerd.
    cluster.kubectl(["delete", "pod", "--all", "--timeout=60s"]).unwrap().ok();
    eventually("containerd has nothing left", SETTLE, || {
        let left = ctr(&containerd, &cluster, &["containers", "ls", "-q"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });

    // Nor does kobune, with a pod that still runs.
    cluster.apply(PODS);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=90s"]).unwrap().ok();
    let data_dir = cluster.data_dir().to_owned();
    cluster.stop().unwrap();
    cluster.kobune([OsStr::new("down"), OsStr::new("--data-dir"), data_dir.as_os_str()]).unwrap().ok();
    assert_eq!(ctr(&containerd, &cluster, &["containers", "ls", "-q"]), "");
    let left = std::fs::read_dir(containerd.folder.path().join("conf")).expect("a folder").count();
    assert_eq!(left, 0, "the CNI configuration is taken away");
}

fn exec_on(cluster: &Cluster, words: &[&str]) -> String {
    let mut arguments = vec!["exec", "web", "--"];
    arguments.extend(words);
    cluster.kubectl(arguments).expect("kubectl runs").ok()
}
