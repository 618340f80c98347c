//! Services, endpoints and policies as their users see them: on two nodes, in clusters of two families and of the sixth
//! alone, and across links.

use std::collections::BTreeSet;

use kobune_testbed::{Cluster, eventually};

use crate::{SETTLE, cluster, sleeper, wait_for};

/// A pod that runs a tool, on a node.
pub(crate) fn runner(name: &str, app: &str, node: Option<&str>, command: &str, more: &str) -> String {
    let node = node.map(|node| format!(r#""nodeName": "{node}", "#)).unwrap_or_default();
    sleeper(name, more)
        .replace(&format!(r#"{{"app": "{name}"}}"#), &format!(r#"{{"app": "{app}"}}"#))
        .replacen(r#""spec": {"#, &format!(r#""spec": {{{node}"#), 1)
        .replace(r#"["sleep", "infinity"]"#, command)
}

pub(crate) const WEB: &str = r#"["http-echo", "--listen", ":8080"]"#;

pub(crate) fn get(cluster: &Cluster, arguments: &[&str]) -> String {
    let all: Vec<&str> = ["get"].iter().chain(arguments).copied().collect();
    cluster.kubectl(all).expect("kubectl runs").ok()
}

pub(crate) fn field(cluster: &Cluster, object: &str, path: &str) -> String {
    get(cluster, &[object, "-o", &format!("jsonpath={{{path}}}")])
}

/// Whether a tool in a pod succeeds, with what it said.
pub(crate) fn in_pod(cluster: &Cluster, pod: &str, command: &[&str]) -> Result<String, String> {
    let all: Vec<&str> = ["exec", pod, "--"].iter().chain(command).copied().collect();
    let got = cluster.kubectl(all).map_err(|error| error.to_string())?;
    if got.status.success() { Ok(got.stdout) } else { Err(format!("{}{}", got.stdout, got.stderr)) }
}

#[track_caller]
pub(crate) fn reaches(cluster: &Cluster, pod: &str, url: &str) {
    eventually(&format!("{pod} reaches {url}"), SETTLE, || in_pod(cluster, pod, &["http-get", url]).map(drop));
}

#[track_caller]
pub(crate) fn reaches_not(cluster: &Cluster, pod: &str, url: &str) {
    eventually(&format!("{pod} does not reach {url}"), SETTLE, || {
        match in_pod(cluster, pod, &["http-get", "--timeout", "1", url]) {
            Ok(answer) => Err(answer),
            Err(_) => Ok(()),
        }
    });
}

/// The names of the pods that answer.
fn answering(cluster: &Cluster, pod: &str, url: &str) -> BTreeSet<String> {
    let answer = |_| in_pod(cluster, pod, &["http-get", url]).expect("an answer");
    let name = |answer: String| {
        answer.lines().find_map(|line| line.trim().strip_prefix("pod").map(str::trim).map(str::to_owned))
    };
    (0..8).map(answer).filter_map(name).collect()
}

fn replace(cluster: &Cluster, object: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_str(&get(cluster, &[object, "-o", "json"])).expect("JSON");
    change(&mut value);
    cluster.kubectl_with(["replace", "-f", "-"], Some(&value.to_string())).expect("kubectl runs").ok();
}

#[test]
fn services_change_on_two_nodes() {
    let mut cluster = cluster();
    let kubeconfig = cluster.kubeconfig();
    cluster.join(["--kubeconfig", kubeconfig.to_str().expect("text"), "--node-name", "far"]).expect("an agent starts");
    wait_for(&cluster, &["node", "far"], r#".status.conditions[?(@.type=="Ready")].status"#, "True");
    let far = cluster.agents()[0].host().address().to_owned();
    let near = cluster.host().address().to_owned();
    for pod in [
        runner("web-far", "web", Some("far"), WEB, ""),
        runner(
            "web-near",
            "web",
            None,
            WEB,
            r#", "ports": [{"containerPort": 8080, "hostPort": 54323, "hostIP": "127.0.0.1"}]"#,
        ),
        runner("udp", "udp", Some("far"), r#"["udp-echo", "--listen", ":8080"]"#, ""),
        runner("client", "client", None, r#"["sleep", "infinity"]"#, ""),
        runner("stranger", "stranger", Some("far"), r#"["sleep", "infinity"]"#, ""),
    ] {
        cluster.apply(&pod);
    }
    for pod in ["web-far", "web-near", "udp", "client", "stranger"] {
        wait_for(&cluster, &["pod", pod], ".status.phase", "Running");
    }
    let local = ["tool", "http-get", "http://127.0.0.1:54323/"];
    if field(&cluster, "pod/web-near", ".status.hostIP") == near {
        eventually("the host port answers at the loopback address", SETTLE, || {
            let got = cluster.kobune(local).map_err(|error| error.to_string())?;
            if got.stdout.contains("web-near") { Ok(()) } else { Err(format!("{}{}", got.stdout, got.stderr)) }
        });
    }

    // An alias becomes a Service with an address, with node ports, and an alias again.
    cluster.kubectl(["create", "service", "externalname", "s", "--external-name=foo.example.com"]).unwrap().ok();
    let alias = |expected: &'static str| {
        eventually("the alias is answered", SETTLE, || {
            let said = in_pod(&cluster, "client", &["dns", "s.default.svc.cluster.local", "CNAME"])?;
            if said.contains(expected) { Ok(()) } else { Err(said) }
        });
    };
    alias("foo.example.com");
    replace(&cluster, "service/s", |service| {
        service["spec"] = serde_json::json!({"type": "ClusterIP", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]});
    });
    reaches(&cluster, "client", "http://s/");
    replace(&cluster, "service/s", |service| service["spec"]["type"] = "NodePort".into());
    let port = field(&cluster, "service/s", ".spec.ports[0].nodePort");
    for pod in ["client", "stranger"] {
        for node in [&near, &far] {
            reaches(&cluster, pod, &format!("http://{node}:{port}/"));
        }
    }
    assert_eq!(answering(&cluster, "client", "http://s/").len(), 2, "both pods answer");
    let sticky = |sticky: bool, pods: usize| {
        let affinity = if sticky { "ClientIP" } else { "None" };
        replace(&cluster, "service/s", |service| service["spec"]["sessionAffinity"] = affinity.into());
        eventually(&format!("affinity {affinity} leads to {pods}"), SETTLE, || {
            let found = answering(&cluster, "client", &format!("http://{near}:{port}/"));
            if found.len() == pods { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    sticky(true, 1);
    sticky(false, 2);
    replace(&cluster, "service/s", |service| {
        service["spec"]["type"] = "ExternalName".into();
        service["spec"]["externalName"] = "bar.example.com".into();
    });
    alias("bar.example.com");
    assert_eq!(field(&cluster, "service/s", ".spec.clusterIP"), "");

    // One number for two protocols, of which one goes away.
    cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "both"}, "spec": {"selector": {"app": "udp"}, "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}, {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080}]}}"#,
    );
    let says = |expected: bool| {
        eventually(&format!("UDP is answered: {expected}"), SETTLE, || {
            match (in_pod(&cluster, "client", &["udp-get", "both", "80", "echo"]), expected) {
                (Ok(text), true) if text == "echo\n" => Ok(()),
                (Err(_), false) => Ok(()),
                (other, _) => Err(format!("{other:?}")),
            }
        });
    };
    says(true);
    replace(&cluster, "service/both", |service| service["spec"]["ports"].as_array_mut().expect("ports").truncate(1));
    says(false);

    // Hand-made Endpoints are mirrored.
    cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "custom"}, "spec": {"ports": [{"port": 80}]}}"#,
    );
    let address = field(&cluster, "pod/web-far", ".status.podIP");
    let made = format!(
        r#"{{"apiVersion": "v1", "kind": "Endpoints", "metadata": {{"name": "custom"}}, "subsets": [{{"addresses": [{{"ip": "{address}"}}], "ports": [{{"port": 8080}}]}}]}}"#
    );
    cluster.apply(&made);
    reaches(&cluster, "client", "http://custom/");
    cluster.kubectl(["delete", "endpoints", "custom"]).unwrap().ok();
    eventually("the mirror goes with its original", SETTLE, || {
        let left = get(&cluster, &["endpointslices", "-l", "kubernetes.io/service-name=custom", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });

    // A further range of Services, and nodes as load balancers.
    cluster.apply(r#"{"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}}"#);
    wait_for(&cluster, &["servicecidr", "more"], ".status.conditions[0].status", "True");
    cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "balanced"}, "spec": {"type": "LoadBalancer", "clusterIP": "203.0.113.10",
            "selector": {"app": "web"}, "ports": [{"port": 8099, "targetPort": 8080}]}}"#,
    );
    reaches(&cluster, "client", "http://203.0.113.10:8099/");
    reaches(&cluster, "stranger", "http://203.0.113.10:8099/");
    wait_for(&cluster, &["service", "balanced"], ".status.loadBalancer.ingress[*].ip", &format!("{near} {far}"));
    for node in [&near, &far] {
        reaches(&cluster, "stranger", &format!("http://{node}:8099/"));
    }

    // Policies hold on both nodes, for pods that come later too.
    cluster.apply(
        r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "clients"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 8080}]}]}}"#,
    );
    let urls: Vec<String> = ["web-far", "web-near"]
        .map(|pod| format!("http://{}:8080/", field(&cluster, &format!("pod/{pod}"), ".status.podIP")))
        .to_vec();
    for url in &urls {
        reaches_not(&cluster, "stranger", url);
        reaches(&cluster, "client", url);
    }
    cluster.kubectl(["delete", "networkpolicy", "clients"]).unwrap().ok();
    for url in &urls {
        reaches(&cluster, "stranger", url);
    }

    // Policies of administrators are of a kind that somebody defines while all runs, and takes away again.
    cluster.apply(
        r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "clusternetworkpolicies.policy.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/300"}},
            "spec": {"group": "policy.networking.k8s.io", "scope": "Cluster", "names": {"kind": "ClusterNetworkPolicy", "plural": "clusternetworkpolicies"},
            "versions": [{"name": "v1alpha2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}}"#,
    );
    wait_for(
        &cluster,
        &["crd", "clusternetworkpolicies.policy.networking.k8s.io"],
        r#".status.conditions[?(@.type=="Established")].status"#,
        "True",
    );
    let denial = r#"{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "strangers"}, "spec": {
        "tier": "Admin", "priority": 10, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
        "ingress": [{"action": "Deny", "from": [{"pods": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            "podSelector": {"matchLabels": {"app": "stranger"}}}}], "protocols": [{"tcp": {"destinationPort": {"number": 8080}}}]}]}}"#;
    eventually("the kind is served", SETTLE, || {
        let got = cluster.kubectl_with(["apply", "-f", "-"], Some(denial)).map_err(|error| error.to_string())?;
        if got.status.success() { Ok(()) } else { Err(got.stderr) }
    });
    for url in &urls {
        reaches_not(&cluster, "stranger", url);
        reaches(&cluster, "client", url);
    }
    cluster.kubectl(["delete", "crd", "clusternetworkpolicies.policy.networking.k8s.io"]).unwrap().ok();
    for url in &urls {
        reaches(&cluster, "stranger", url);
    }
}

#[test]
fn two_families() {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune"))
        .argument("--service-cidr=10.96.0.0/16,fd00:96::/112")
        .argument("--cluster-cidr=10.244.0.0/16,fd00:244::/48")
        .argument("--ingress")
        .start()
        .expect("a cluster starts");
    cluster.apply(&runner("web", "web", None, WEB, ""));
    cluster.apply(&sleeper("client", ""));
    for pod in ["web", "client"] {
        wait_for(&cluster, &["pod", pod], ".status.phase", "Running");
    }
    let ips = field(&cluster, "pod/web", ".status.podIPs[*].ip");
    assert!(ips.starts_with("10.244.") && ips.contains(" fd00:244:"), "{ips}");
    cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}"#,
    );
    let addresses = field(&cluster, "service/web", ".spec.clusterIPs[*]");
    let (v4, v6) = addresses.split_once(' ').expect("two addresses");
    reaches(&cluster, "client", &format!("http://{v4}/"));
    reaches(&cluster, "client", &format!("http://[{v6}]/"));
    for (kind, address) in [("A", v4), ("AAAA", v6)] {
        let said = in_pod(&cluster, "client", &["dns", "web.default.svc.cluster.local", kind]).expect("an answer");
        assert!(said.contains(address), "{kind}: {said}");
    }
    ingress_serves(&cluster);

    // One family is enough after all.
    replace(&cluster, "service/web", |service| service["spec"]["ipFamilyPolicy"] = "SingleStack".into());
    assert_eq!(field(&cluster, "service/web", ".spec.clusterIPs[*]"), v4);
    reaches_not(&cluster, "client", &format!("http://[{v6}]/"));
}

/// The Service `web` under a host name, with a certificate; the class is the default one.
fn ingress_serves(cluster: &Cluster) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = kobune_pki::Authority::load_or_create(folder.path()).expect("an authority");
    let names = [kobune_pki::San::Dns("web.example".to_owned())];
    let pair = authority.kept_server_certificate(folder.path(), "web", &names).expect("a certificate");
    let trusted = folder.path().join("trusted.pem");
    std::fs::write(&trusted, authority.certificate_pem()).expect("written");
    cluster.apply(
        &serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": pair.cert_pem, "tls.key": pair.key_pem}})
        .to_string(),
    );
    cluster.apply(
        r#"{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"}, "spec": {
            "tls": [{"hosts": ["web.example"], "secretName": "web"}], "rules": [{"host": "web.example", "http": {"paths": [
                {"path": "/shop", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}"#,
    );
    let address = cluster.host().address().to_owned();
    let ask = |url: &str| {
        let mut command = cluster.client("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--cacert"]).arg(&trusted);
        for port in ["80", "443"] {
            command.args(["--resolve", &format!("web.example:{port}:{address}")]);
        }
        let output = command.arg(url).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    for scheme in ["http", "https"] {
        eventually(&format!("{scheme} is served"), SETTLE, || ask(&format!("{scheme}://web.example/shop/x")).map(drop));
    }
    let answer = ask("https://web.example/shop/x").expect("an answer");
    assert!(answer.contains("path   /shop/x"), "{answer}");
    assert!(ask("http://web.example/other").expect_err("no rule is for it").contains("404"));
    wait_for(cluster, &["ingress", "web"], ".status.loadBalancer.ingress[0].ip", &address);
}

#[test]
fn the_sixth_family_alone() {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune"))
        .only_v6()
        .argument("--service-cidr=fd00:96::/112")
        .argument("--cluster-cidr=fd00:244::/48")
        .start()
        .expect("a cluster starts");
    cluster.apply(&runner("web", "web", None, WEB, ""));
    cluster.apply(&sleeper("client", ""));
    for pod in ["web", "client"] {
        wait_for(&cluster, &["pod", pod], ".status.phase", "Running");
    }
    cluster.kubectl(["expose", "pod", "web", "--port=80", "--target-port=8080", "--type=NodePort"]).unwrap().ok();
    assert_eq!(field(&cluster, "service/web", ".spec.ipFamilies[*]"), "IPv6");
    reaches(&cluster, "client", "http://web/");
    let port = field(&cluster, "service/web", ".spec.ports[0].nodePort");
    reaches(&cluster, "client", &format!("http://[{}]:{port}/", cluster.host().address()));
    let said = in_pod(&cluster, "client", &["dns", "kubernetes.default.svc.cluster.local", "AAAA"]).expect("an answer");
    assert!(said.contains("fd00:96::1"), "{said}");
    let endpoints = field(&cluster, "endpointslice/kubernetes", ".endpoints[0].addresses[0]");
    assert_eq!(endpoints, cluster.host().address());
    assert!(!cluster.kubectl(["logs", "web"]).unwrap().ok().is_empty());
}

#[test]
fn nodes_of_different_links() {
    let builder = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).argument("--backend=vxlan");
    let mut cluster = builder.start().expect("a cluster starts");
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("text");
    cluster
        .join_far(["--kubeconfig", kubeconfig, "--node-name", "far", "--backend", "vxlan"])
        .expect("an agent starts");
    wait_for(&cluster, &["node", "far"], r#".status.conditions[?(@.type=="Ready")].status"#, "True");
    let near = get(&cluster, &["nodes", "-o", "jsonpath={.items[*].metadata.name}"]);
    let near = near.split(' ').find(|name| *name != "far").expect("two nodes").to_owned();
    cluster.apply(&runner("web-far", "web", Some("far"), WEB, ""));
    cluster.apply(&runner("web-near", "web", Some(&near), WEB, ""));
    cluster.apply(&runner("far", "client", Some("far"), r#"["sleep", "infinity"]"#, ""));
    cluster.apply(&runner("near", "client", Some(&near), r#"["sleep", "infinity"]"#, ""));
    for pod in ["web-far", "web-near", "far", "near"] {
        wait_for(&cluster, &["pod", pod], ".status.phase", "Running");
    }
    for (client, server) in [("far", "web-near"), ("near", "web-far")] {
        let address = field(&cluster, &format!("pod/{server}"), ".status.podIP");
        reaches(&cluster, client, &format!("http://{address}:8080/"));
        let answer = in_pod(&cluster, client, &["http-get", &format!("http://{address}:8080/")]).expect("an answer");
        let own = field(&cluster, &format!("pod/{client}"), ".status.podIP");
        assert!(answer.contains(&format!("client {own}")), "the sender's own address is seen: {answer}");
    }
    cluster.kubectl(["create", "service", "clusterip", "web", "--tcp=80:8080"]).unwrap().ok();
    for client in ["far", "near"] {
        eventually("both pods answer", SETTLE, || {
            in_pod(&cluster, client, &["http-get", "http://web/"])?;
            let found = answering(&cluster, client, "http://web/");
            if found.len() == 2 { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
}
