//! What machines at the edge meet: a network that loses packets, and a link that is pulled and put back.

use std::time::{Duration, Instant};

use kobune_testbed::{Running, eventually};

use crate::network::{WEB, field, in_pod, reaches, runner};
use crate::{SETTLE, cluster, wait_for};

#[test]
fn links_lose_packets_and_come_back() {
    let mut cluster = cluster();
    let kubeconfig = cluster.kubeconfig();
    cluster.join(["--kubeconfig", kubeconfig.to_str().expect("text"), "--node-name", "far"]).expect("an agent starts");
    wait_for(&cluster, &["node", "far"], r#".status.conditions[?(@.type=="Ready")].status"#, "True");
    let near = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]).unwrap().ok();
    let near = near.split(' ').find(|name| *name != "far").expect("two nodes").to_owned();
    cluster.apply(&runner("web-far", "web-far", Some("far"), WEB, ""));
    cluster.apply(&runner("web-near", "web-near", Some(&near), WEB, ""));
    cluster.apply(&runner("client", "client", Some(&near), r#"["sleep", "infinity"]"#, ""));
    for pod in ["web-far", "web-near", "client"] {
        wait_for(&cluster, &["pod", pod], ".status.phase", "Running");
    }
    for name in ["web-far", "web-near"] {
        cluster.kubectl(["expose", "pod", name, "--port=80", "--target-port=8080"]).unwrap().ok();
        reaches(&cluster, "client", &format!("http://{name}/"));
    }

    // Every tenth packet that comes to the other machine is lost: what TCP makes good of that is not lost by us.
    let on_far = |cluster: &mut kobune_testbed::Cluster, arguments: &[&str]| {
        let mut command = cluster.agents()[0].host().command("nft");
        command.args(arguments);
        Running::start(command, None).expect("nft starts").finish(SETTLE).expect("nft ends").ok();
    };
    on_far(
        &mut cluster,
        &["add table inet loss; add chain inet loss in { type filter hook prerouting priority -400; }; \
        add rule inet loss in iifname eth0 numgen random mod 10 == 0 drop"],
    );
    let lost: Vec<String> = (0..20)
        .filter_map(|_| in_pod(&cluster, "client", &["http-get", "--timeout", "20", "http://web-far/"]).err())
        .collect();
    assert_eq!(lost, Vec::<String>::new());
    on_far(&mut cluster, &["delete", "table", "inet", "loss"]);

    // Without its link a machine goes on for itself: pods, services and names.
    cluster.host().set_connected(false).expect("the link is pulled");
    let address = field(&cluster, "pod/web-near", ".status.podIP");
    for url in [format!("http://{address}:8080/"), "http://web-near/".to_owned()] {
        let answer = in_pod(&cluster, "client", &["http-get", "--timeout", "5", &url]);
        answer.unwrap_or_else(|error| panic!("{url} while the link is down: {error}"));
    }
    // The routes that went with the link are put back, though no object changed.
    cluster.host().set_connected(true).expect("the link is put back");
    let since = Instant::now();
    eventually("the other machine's pods are reached again", Duration::from_secs(30), || {
        in_pod(&cluster, "client", &["http-get", "--timeout", "2", "http://web-far/"])
    });
    println!("reached again after {:?}", since.elapsed());
}
