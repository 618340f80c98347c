//! Pods that are attached by other people's network plug-ins: those of Debian's package containernetworking-plugins.

use std::collections::BTreeSet;
use std::path::Path;

use kobune_testbed::{Cluster, eventually, tools};

use crate::network::{WEB, field, get, in_pod, reaches, runner};
use crate::{SETTLE, wait_for};

const READY: &str = r#".status.conditions[?(@.type=="Ready")].status"#;

/// A bridge with addresses of both families, host ports, limits and a firewall of its own.
fn bridge(addresses: &Path) -> String {
    serde_json::json!({"cniVersion": "1.0.0", "name": "test", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": addresses,
            "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "firewall"}, {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}]})
    .to_string()
}

/// The addresses that are given, as the plug-in for addresses has them on disk.
fn given(addresses: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(addresses.join("test")).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name.contains("88")).map(|name| name.replace('_', ":")).collect()
}

fn addresses_of(cluster: &Cluster, pods: &[&str]) -> BTreeSet<String> {
    let of = |pod: &&str| field(cluster, &format!("pod/{pod}"), ".status.podIPs[*].ip");
    pods.iter().map(of).flat_map(|ips| ips.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn plugins_of_others_attach_pods() {
    let programs = tools().join("cni");
    assert!(
        programs.join("bridge").exists(),
        "scripts/install-test-tools.sh puts plug-ins into {}",
        programs.display()
    );
    let folder = tempfile::tempdir().expect("a folder");
    let (configurations, addresses) = (folder.path().join("net.d"), folder.path().join("addresses"));
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune"))
        .argument("--network=cni")
        .argument(format!("--cni-conf-dir={}", configurations.display()))
        .argument(format!("--cni-bin-dir=/nowhere,{}", programs.display()))
        .argument("--service-cidr=10.96.0.0/16,fd00:96::/112")
        .argument("--cluster-cidr=10.88.0.0/16,fd00:88::/48")
        .start()
        .expect("a cluster starts");

    // Without a network the node is not ready and pods wait.
    let node = eventually("the node registers", SETTLE, || {
        let name = get(&cluster, &["nodes", "-o", "name"]).trim().to_owned();
        if name.is_empty() { Err("there is no node".to_owned()) } else { Ok(name) }
    });
    let node: Vec<&str> = node.split('/').collect();
    wait_for(&cluster, &node, READY, "False");
    let said = field(&cluster, &node.join("/"), r#".status.conditions[?(@.type=="Ready")].message"#);
    let words = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin \
                 returns error: cni plugin not initialized";
    assert!(said.starts_with(words), "{said}");
    let tolerates = r#""tolerations": [{"operator": "Exists"}], "#;
    let anywhere = |pod: String| pod.replacen(r#""spec": {"#, &format!(r#""spec": {{{tolerates}"#), 1);
    let web = runner("web", "web", None, WEB, r#", "ports": [{"containerPort": 8080, "hostPort": 54380}]"#).replacen(
        r#""metadata": {"#,
        r#""metadata": {"annotations": {"kubernetes.io/ingress-bandwidth": "10M"}, "#,
        1,
    );
    cluster.apply(&anywhere(web));
    let waits = |reason: &str| {
        eventually(&format!("an event {reason}"), SETTLE, || {
            let events = get(&cluster, &["events", "-o", "jsonpath={range .items[*]}{.reason} {.message}{'\\n'}{end}"]);
            match events.lines().find(|line| line.starts_with(reason)) {
                Some(line) => Ok(line.to_owned()),
                None => Err(events),
            }
        })
    };
    waits("NetworkNotReady network is not ready: container runtime network not ready");

    // A network that cannot be made says why, in the plug-in's words.
    std::fs::create_dir_all(&configurations).expect("a folder");
    let broken =
        r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "bridge", "ipam": {"type": "nothing"}}]}"#;
    std::fs::write(configurations.join("10-test.conflist"), broken).expect("written");
    let failed = waits("FailedCreatePodSandBox");
    let words = r#"plugin type="bridge" failed (add): "#;
    assert!(failed.contains("failed to setup network for sandbox ") && failed.contains(words), "{failed}");

    std::fs::write(configurations.join("10-test.conflist"), bridge(&addresses)).expect("written");
    wait_for(&cluster, &node, READY, "True");
    for pod in ["other", "client"] {
        let command = if pod == "other" { WEB } else { r#"["sleep", "infinity"]"# };
        let app = if pod == "other" { "web" } else { pod };
        cluster.apply(&anywhere(runner(pod, app, None, command, "")));
    }
    let pods = ["web", "other", "client"];
    for pod in pods {
        wait_for(&cluster, &["pod", pod], ".status.phase", "Running");
    }
    let ips = field(&cluster, "pod/client", ".status.podIPs[*].ip");
    assert!(ips.starts_with("10.88.0.") && ips.contains(" fd00:88::"), "{ips}");
    assert_eq!(given(&addresses), addresses_of(&cluster, &pods));

    // Pods talk, also by Services, also those that are on one bridge; and a pod with itself.
    cluster
        .kubectl([
            "expose",
            "pod",
            "web",
            "--name=shop",
            "--selector=app=web",
            "--port=80",
            "--target-port=8080",
            "--type=NodePort",
        ])
        .unwrap()
        .ok();
    let host = cluster.host().address().to_owned();
    let port = field(&cluster, "service/shop", ".spec.ports[0].nodePort");
    let everything = |cluster: &Cluster| {
        let direct = field(cluster, "pod/web", ".status.podIP");
        for pod in ["client", "web"] {
            for url in [
                format!("http://{direct}:8080/"),
                "http://shop/".to_owned(),
                format!("http://{host}:{port}/"),
                format!("http://{host}:54380/"),
            ] {
                reaches(cluster, pod, &url);
            }
        }
        let got = cluster.kobune([
            "tool",
            "http-get",
            &format!("http://{}/", field(cluster, "service/shop", ".spec.clusterIP")),
        ]);
        got.expect("the node's own programs").ok();
        let own = field(cluster, "pod/client", ".status.podIP");
        let answer = in_pod(cluster, "client", &["http-get", "http://shop/"]).expect("an answer");
        assert!(answer.contains(&format!("client {own}")), "the sender's own address is seen: {answer}");
    };
    everything(&cluster);
    let seen = in_pod(&cluster, "web", &["cat", "/proc/sys/net/core/somaxconn"]).expect("a setting");
    assert_eq!(seen.trim(), "500");

    // Whatever becomes of kobune, pods keep what they have; what has ended meanwhile is taken back.
    let before = addresses_of(&cluster, &pods);
    cluster.kill().expect("killed");
    cluster.start_again().expect("started again");
    wait_for(&cluster, &node, READY, "True");
    everything(&cluster);
    assert_eq!(addresses_of(&cluster, &pods), before);
    cluster.kubectl(["delete", "pod", "other", "--wait"]).unwrap().ok();
    eventually("the address is free again", SETTLE, || {
        let (left, wanted) = (given(&addresses), addresses_of(&cluster, &["web", "client"]));
        if left == wanted { Ok(()) } else { Err(format!("{left:?}")) }
    });

    // Nothing stays given to an instance that is no more.
    let folder = cluster.data_dir().to_owned();
    cluster.kobune(["down".as_ref(), "--purge".as_ref(), "--data-dir".as_ref(), folder.as_os_str()]).unwrap().ok();
    assert_eq!(given(&addresses), BTreeSet::new());
}
