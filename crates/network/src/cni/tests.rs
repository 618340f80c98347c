//! Calls of made-up plug-ins, which write down how they were called.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::network::Protocol;

/// A folder of configurations, one of programs, and the data folder.
struct Node {
    folder: tempfile::TempDir,
    plugins: Plugins,
}

/// Writes down its variables and its input, and answers what is in a file that is named like the command, if there is one.
const PLUGIN: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
input=$(cat)
printf '%s\n' "$(basename "$0") $CNI_COMMAND id=$CNI_CONTAINERID netns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS $input" >> calls
for answer in "$(basename "$0").$CNI_COMMAND" "$CNI_COMMAND"; do
  [ -f "$answer.sh" ] && . "./$answer.sh"
  [ -f "$answer.fails" ] && { cat "$answer.fails"; exit 1; }
  [ -f "$answer" ] && { cat "$answer"; exit 0; }
done
exit 0
"#;

const ADDED: &str = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": "0a:58:0a:01:00:05", "sandbox": "/n"}],
    "ips": [{"address": "10.1.0.5/24", "interface": 0}]}"#;

impl Node {
    fn new(plugins: &[&str]) -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["conf", "bin", "data"] {
            fs::create_dir(path(name)).expect("a folder");
        }
        for plugin in plugins {
            let path = path("bin").join(plugin);
            fs::write(&path, PLUGIN).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        let folders = Folders { configurations: path("conf"), programs: vec![path("nowhere"), path("bin")] };
        let mut plugins = Plugins::new(folders, &path("data"));
        plugins.within = Duration::from_secs(20);
        Node { folder, plugins }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("written");
    }

    /// The calls since the last time: each one's plug-in, command and the rest.
    fn calls(&self) -> Vec<(String, String, String)> {
        let path = self.folder.path().join("bin/calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        self.write("bin/calls", "");
        let call = |line: &str| {
            let mut parts = line.splitn(3, ' ').map(str::to_owned);
            let mut next = || parts.next().expect("three parts");
            (next(), next(), next())
        };
        text.lines().map(call).collect()
    }

    fn called(&self) -> Vec<String> {
        self.calls().into_iter().map(|(plugin, command, _)| format!("{plugin} {command}")).collect()
    }

    async fn add(&self, id: &str) -> Result<Added, String> {
        let told = Told { namespace: "default".into(), name: "web".into(), ..Told::default() };
        self.plugins.add(id, Path::new("/n"), &told, &[]).await.map_err(|error| error.to_string())
    }

    fn status(&self) -> Result<(), String> {
        self.plugins.status().borrow().clone()
    }
}

fn input(rest: &str) -> Value {
    let start = rest.find('{').expect("an input");
    serde_json::from_str(&rest[start..]).expect("JSON")
}

#[tokio::test]
async fn a_chain_of_plugins() {
    let node = Node::new(&["first", "second"]);
    node.write(
        "conf/10-net.conflist",
        r#"{"name": "net", "cniVersion": "1.0.0", "plugins": [{"type": "first", "own": 1, "ipam": {"type": "x"}},
            {"type": "second", "capabilities": {"portMappings": true, "bandwidth": true, "dns": true, "mac": true}}]}"#,
    );
    node.write("bin/ADD", ADDED);
    assert!(!node.plugins.reload().await);
    assert_eq!(node.status(), Ok(()));
    assert!(node.calls().is_empty(), "before 1.1.0 nobody can say how it is");
    let told = Told {
        namespace: "default".into(),
        name: "web".into(),
        bandwidth: Bandwidth { to_pod: Some(125_000), from_pod: None },
        dns_servers: vec!["10.96.0.10".into()],
        cgroup: "/kobune/pod".into(),
        ..Told::default()
    };
    let port = HostPort { host_ip: None, host_port: 80, container_port: 8080, protocol: Protocol::Udp };
    let added = node.plugins.add("pod-1", Path::new("/n"), &told, &[port]).await.expect("added");
    assert_eq!(added, Added { ips: vec![[10, 1, 0, 5].into()], mac: [0x0a, 0x58, 0x0a, 1, 0, 5] });
    let calls = node.calls();
    assert_eq!(calls.len(), 2);
    let about = "id=pod-1 netns=/n if=eth0 args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
                 K8S_POD_INFRA_CONTAINER_ID=pod-1;K8S_POD_UID=pod-1 ";
    assert!(calls.iter().all(|(_, command, rest)| command == "ADD" && rest.starts_with(about)), "{calls:?}");
    assert_eq!(
        input(&calls[0].2),
        json!({"type": "first", "own": 1, "ipam": {"type": "x"}, "name": "net", "cniVersion": "1.0.0"})
    );
    let second = input(&calls[1].2);
    let result: Value = serde_json::from_str(ADDED).expect("JSON");
    assert_eq!(second["prevResult"], result);
    assert_eq!(
        second["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": ""}],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": u32::MAX},
            "dns": {"servers": ["10.96.0.10"], "searches": [], "options": []}})
    );

    // Another program knows as much as the one before: what was given, with which configuration.
    let after = Plugins::new(node.plugins.folders.clone(), &node.folder.path().join("data"));
    node.write("conf/10-net.conflist", r#"{"name": "other", "cniVersion": "0.4.0", "plugins": []}"#);
    after.check("pod-1", Path::new("/n")).await.expect("all is well");
    after.del("pod-1", Some(Path::new("/n"))).await.expect("taken back");
    let calls = node.calls();
    let order: Vec<_> = calls.iter().map(|(plugin, command, _)| format!("{plugin} {command}")).collect();
    assert_eq!(order, ["first CHECK", "second CHECK", "second DEL", "first DEL"]);
    for (_, _, rest) in &calls {
        assert!(rest.starts_with(about));
        let input = input(rest);
        assert_eq!((&input["prevResult"], &input["name"]), (&result, &json!("net")));
    }
    assert_eq!(input(&calls[2].2)["runtimeConfig"], second["runtimeConfig"]);
    after.del("pod-1", None).await.expect("nothing is left to take back");
    assert!(node.called().is_empty());
}

#[tokio::test]
async fn failures_are_said_and_cleared_up() {
    let node = Node::new(&["first", "second"]);
    assert_eq!(node.add("a").await, Err(NOT_INITIALIZED.to_owned()));
    node.plugins.reload().await;
    assert!(node.status().is_err_and(|problem| problem.starts_with("cni plugin not initialized: no network config")));
    let list = |version: &str| {
        format!(
            r#"{{"name": "net", "cniVersion": "{version}", "plugins": [{{"type": "first"}}, {{"type": "second"}}]}}"#
        )
    };
    node.write("conf/net.conflist", &list("1.0.0"));
    node.plugins.reload().await;
    node.write("bin/first.ADD", ADDED);
    node.write("bin/second.ADD.fails", r#"{"code": 11, "msg": "no route", "details": "to host"}"#);
    let refused = r#"plugin type="second" failed (add): no route; to host"#;
    assert_eq!(node.add("a").await, Err(refused.to_owned()));
    assert_eq!(node.called(), ["first ADD", "second ADD", "second DEL", "first DEL"]);
    assert!(node.plugins.attached().await.expect("a list").is_empty());

    // What cannot be taken back now is taken back before the next attempt.
    node.write("bin/first.DEL.fails", r#"{"code": 11, "msg": "busy"}"#);
    assert_eq!(node.add("a").await, Err(refused.to_owned()));
    assert_eq!(node.plugins.attached().await.expect("a list"), BTreeSet::from(["a".to_owned()]));
    fs::remove_file(node.folder.path().join("bin/first.DEL.fails")).expect("removed");
    fs::remove_file(node.folder.path().join("bin/second.ADD.fails")).expect("removed");
    node.calls();
    node.write("bin/second.ADD", ADDED);
    node.add("a").await.expect("added");
    assert_eq!(node.called(), ["second DEL", "first DEL", "first ADD", "second ADD"]);

    let fails = |answer: &'static str, expected: &'static str| {
        node.write("bin/second.ADD", answer);
        let node = &node;
        async move {
            let said = node.add("b").await.expect_err(answer);
            assert!(said.contains(expected), "{said:?} lacks {expected:?}");
            assert!(!node.plugins.attached().await.expect("a list").contains("b"));
        }
    };
    fails("", "unable to parse its result: not JSON").await;
    fails("null", "unable to parse its result: not a JSON object").await;
    fails(r#"{"cniVersion": "1.0.0", "ips": [{"address": "x"}]}"#, "not an address with a prefix").await;
    fails(r#"{"cniVersion": "9.0.0"}"#, "unsupported CNI result version").await;
    fails(r#"{"cniVersion": "1.0.0"}"#, "has no address for eth0").await;
    fails(r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}], "ips": [{"address": "10.1.0.1/24", "interface": 0}]}"#, "has no address").await;
    node.write("bin/second.ADD.sh", "yes | head -c 3000000; exit 0");
    fails("", "wrote more than").await;
    node.write("bin/second.ADD.sh", "exit 3");
    fails("", "exit status: 3").await;
    fs::remove_file(node.folder.path().join("bin/second")).expect("removed");
    let said = node.add("b").await.expect_err("the program is gone");
    assert!(said.contains(r#"failed to find plugin "second" in path ["#), "{said}");
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_it_started() {
    let mut node = Node::new(&["first"]);
    node.plugins.within = Duration::from_secs(1);
    node.write("conf/net.conf", r#"{"name": "net", "cniVersion": "0.3.1", "type": "first"}"#);
    node.plugins.reload().await;
    node.write("bin/ADD.sh", "sleep 1000 & echo $! > child; wait");
    let said = node.add("a").await.expect_err("it hangs");
    assert!(said.contains("did not end within 1 s and was killed"), "{said}");
    let child = fs::read_to_string(node.folder.path().join("bin/child")).expect("its child");
    let stat = PathBuf::from("/proc").join(child.trim()).join("stat");
    // Gone, or a zombie that nobody has waited for.
    let ended = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    for _ in 0..200 {
        if ended() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what it started still runs");
}

#[tokio::test]
async fn the_newest_version_speaks_of_itself() {
    let node = Node::new(&["first", "second"]);
    node.write(
        "conf/net.conflist",
        r#"{"name": "net", "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0"], "plugins": [{"type": "first"}, {"type": "second"}]}"#,
    );
    node.write("bin/first.VERSION", r#"{"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}"#);
    node.write("bin/second.VERSION", r#"{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}"#);
    node.write("bin/ADD", ADDED);
    node.plugins.reload().await;
    assert_eq!(node.called(), ["first VERSION", "second VERSION"]);
    node.add("a").await.expect("added");
    assert!(node.calls().iter().all(|(_, _, rest)| input(rest)["cniVersion"] == "1.0.0"));

    node.write("bin/second.VERSION", r#"{"supportedVersions": ["1.1.0"]}"#);
    node.write("bin/second.STATUS.fails", r#"{"code": 50, "msg": "no agent"}"#);
    assert!(node.plugins.reload().await, "it is to be asked again");
    let problem = r#"plugin status check failed: plugin type="second" failed (status): no agent"#;
    assert_eq!(node.status(), Err(problem.to_owned()));
    assert_eq!(node.add("b").await, Err(problem.to_owned()));
    fs::remove_file(node.folder.path().join("bin/second.STATUS.fails")).expect("removed");
    assert!(!node.plugins.reload().await);
    assert_eq!(node.status(), Ok(()));
    node.calls();
    node.plugins.collect().await;
    let calls = node.calls();
    assert_eq!(calls.len(), 2);
    for (_, command, rest) in calls {
        assert_eq!(command, "GC");
        assert_eq!(input(&rest)["cni.dev/valid-attachments"], json!([{"containerID": "a", "ifname": "eth0"}]));
    }

    // An instance that goes takes back everything.
    take_back_all(&node.folder.path().join("data")).await;
    assert_eq!(node.called(), ["second DEL", "first DEL"]);
    assert!(node.plugins.attached().await.expect("a list").is_empty());
}
