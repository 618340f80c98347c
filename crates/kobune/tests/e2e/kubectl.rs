//! kubectl's commands against the API server.

use kobune_testbed::eventually;

use crate::{SETTLE, cluster, sleeper};

#[test]
fn discovery_and_explain() {
    let cluster = cluster();
    let version = cluster.kubectl(["version"]).unwrap().ok();
    assert!(version.contains("Server Version: v1.36"), "{version}");
    let resources = cluster.kubectl(["api-resources"]).unwrap().ok();
    for row in ["deployments", "deploy", "pods", "customresourcedefinitions", "po "] {
        assert!(resources.contains(row), "{row} is not in\n{resources}");
    }
    let versions = cluster.kubectl(["api-versions"]).unwrap().ok();
    assert!(versions.lines().any(|line| line == "apps/v1"), "{versions}");
    let fields = cluster.kubectl(["explain", "pod.spec", "--recursive"]).unwrap().ok();
    for field in ["containers", "terminationGracePeriodSeconds", "-required-"] {
        assert!(fields.contains(field), "{field} is not in\n{fields}");
    }
    let field = cluster.kubectl(["explain", "deployment.spec.strategy"]).unwrap().ok();
    assert!(field.contains("DeploymentStrategy"), "{field}");
    let can = cluster.kubectl(["auth", "can-i", "delete", "pods"]).unwrap().ok();
    assert_eq!(can.trim(), "yes");
    let who = cluster.kubectl(["auth", "whoami"]).unwrap().ok();
    assert!(who.contains("system:masters"), "{who}");
}

#[test]
fn objects_come_change_and_go() {
    let cluster = cluster();
    let manifest = |colour: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: one, labels: {{a: b}}}}, data: {{colour: {colour}}}}}"
        )
    };
    assert_eq!(cluster.apply(&manifest("blue")), "configmap/one created\n");
    assert_eq!(cluster.apply(&manifest("blue")), "configmap/one unchanged\n");
    let diff = cluster.kubectl_with(["diff", "-f", "-"], Some(&manifest("red"))).unwrap();
    assert_eq!(diff.status.code(), Some(1), "{}", diff.stderr);
    assert!(diff.stdout.contains("-  colour: blue") && diff.stdout.contains("+  colour: red"), "{}", diff.stdout);
    assert_eq!(cluster.apply(&manifest("red")), "configmap/one configured\n");
    let get = |arguments: &[&str]| {
        let mut all = vec!["get", "configmap", "one"];
        all.extend(arguments);
        cluster.kubectl(all).unwrap().ok()
    };
    assert_eq!(get(&["-o", "jsonpath={.data.colour}"]), "red");
    assert!(get(&["-o", "yaml"]).contains("colour: red"));
    assert!(get(&["-o", "json"]).contains(r#""colour": "red""#));
    assert!(get(&["-o", "wide"]).starts_with("NAME   DATA   AGE"));
    let applied = cluster
        .kubectl_with(["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(&manifest("green")))
        .unwrap()
        .ok();
    assert_eq!(applied, "configmap/one serverside-applied\n");
    let conflict = cluster
        .kubectl_with(["apply", "--server-side", "--field-manager=other", "-f", "-"], Some(&manifest("black")))
        .unwrap()
        .err();
    assert!(conflict.contains("conflict with \"kubectl\"") && conflict.contains(".data.colour"), "{conflict}");

    let watch = cluster.kubectl_beside(["get", "configmap", "-w", "-o", "name"]).unwrap();
    eventually("the watch shows what is there", SETTLE, || {
        if watch.stdout().contains("configmap/one") { Ok(()) } else { Err(watch.stderr()) }
    });
    cluster.kubectl(["create", "configmap", "two", "--from-literal=x=y"]).unwrap().ok();
    eventually("the watch shows the new one", SETTLE, || {
        if watch.stdout().contains("configmap/two") { Ok(()) } else { Err(watch.stdout()) }
    });
    let selected = cluster.kubectl(["get", "configmap", "-l", "a=b", "-o", "name"]).unwrap().ok();
    assert_eq!(selected, "configmap/one\n");
    let selected =
        cluster.kubectl(["get", "configmap", "--field-selector", "metadata.name=two", "-o", "name"]).unwrap();
    assert_eq!(selected.ok(), "configmap/two\n");
    cluster.kubectl(["label", "configmap", "two", "a=c"]).unwrap().ok();
    cluster.kubectl(["annotate", "configmap", "two", "note=x"]).unwrap().ok();
    let mut edit = cluster.client(kobune_testbed::tools().join("kubectl"));
    let editor = cluster.data_dir().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/x: .*y.*/x: edited/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    edit.args(["edit", "configmap", "two"]).env("KUBE_EDITOR", &editor);
    let edited = kobune_testbed::Running::start(edit, None).unwrap().finish(SETTLE).unwrap().ok();
    assert!(edited.contains("configmap/two edited"), "{edited}");
    let patches = [("merge", r#"{"data":{"z":"1"}}"#), ("strategic", r#"{"data":{"z":"2"}}"#)];
    for (kind, patch) in patches {
        cluster.kubectl(["patch", "configmap", "two", "--type", kind, "-p", patch]).unwrap().ok();
    }
    let patch = r#"[{"op":"test","path":"/data/z","value":"2"},{"op":"replace","path":"/data/z","value":"3"}]"#;
    cluster.kubectl(["patch", "configmap", "two", "--type=json", "-p", patch]).unwrap().ok();
    let data = cluster.kubectl(["get", "configmap", "two", "-o", "jsonpath={.data.x} {.data.z}"]).unwrap().ok();
    assert_eq!(data, "edited 3");
    let chunks = cluster.kubectl(["get", "clusterroles", "--chunk-size=7", "-o", "name"]).unwrap().ok();
    let whole = cluster.kubectl(["get", "clusterroles", "--chunk-size=0", "-o", "name"]).unwrap().ok();
    assert_eq!(chunks, whole);
    cluster.kubectl(["delete", "configmap", "one", "two"]).unwrap().ok();
}

#[test]
fn describe_expose_run_and_tokens() {
    let cluster = cluster();
    cluster.apply(&sleeper("shown", ""));
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/shown", "--timeout=90s"]).unwrap().ok();
    let text = cluster.kubectl(["describe", "pod", "shown"]).unwrap().ok();
    for part in ["Status:", "Running", "Started container main", "Successfully assigned default/shown"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let node = cluster.kubectl(["describe", "nodes"]).unwrap().ok();
    assert!(node.contains("KubeletReady") && node.contains("default                     shown"), "{node}");
    let wide = cluster.kubectl(["get", "pods", "-o", "wide"]).unwrap().ok();
    assert!(wide.contains("NOMINATED NODE") && wide.contains("1/1"), "{wide}");
    let nodes = cluster.kubectl(["get", "nodes", "-o", "wide"]).unwrap().ok();
    assert!(nodes.contains("Ready") && nodes.contains(cluster.host().address()), "{nodes}");
    cluster.kubectl(["expose", "pod", "shown", "--port=80"]).unwrap().ok();
    let service = cluster.kubectl(["get", "service", "shown", "-o", "jsonpath={.spec.clusterIP}"]).unwrap().ok();
    assert!(service.starts_with("10.96."), "{service}");

    cluster.kubectl(["create", "serviceaccount", "robot"]).unwrap().ok();
    let token = cluster.kubectl(["create", "token", "robot"]).unwrap().ok();
    let with_token = |arguments: &[&str]| {
        let mut all = vec!["--token", token.trim(), "--kubeconfig", "/dev/null", "--insecure-skip-tls-verify"];
        let url = cluster.url();
        all.extend(["--server", &url]);
        all.extend(arguments);
        cluster.kubectl(all).unwrap()
    };
    let denied = with_token(&["get", "pods"]).err();
    let expected = r#"pods is forbidden: User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert!(denied.contains(expected), "{denied}");
    cluster
        .kubectl(["create", "rolebinding", "robot", "--clusterrole=view", "--serviceaccount=default:robot"])
        .unwrap()
        .ok();
    eventually("the role binding is in force", SETTLE, || {
        let got = with_token(&["get", "pods", "-o", "name"]);
        if got.stdout == "pod/shown\n" { Ok(()) } else { Err(got.stderr) }
    });
    assert_eq!(with_token(&["auth", "can-i", "delete", "pods"]).stdout.trim(), "no");
}
