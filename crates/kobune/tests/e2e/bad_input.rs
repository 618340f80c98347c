//! What wrong input gets: a Status that names the field, a reason in the pod, and never a half-written object.

use kobune_testbed::eventually;

use crate::{SETTLE, cluster, sleeper, wait_for};

#[test]
fn a_status_names_the_field() {
    let cluster = cluster();
    let check = |manifest: &str, expected: &str| {
        let said = cluster.kubectl_with(["create", "-f", "-"], Some(manifest)).unwrap().err();
        assert!(said.contains(expected), "{manifest}\ngave {said}\nnot {expected}");
    };
    check(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c"}]}}"#,
        "spec.containers[0].image: Required value",
    );
    check(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"UPPER"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
        "metadata.name: Invalid value: \"UPPER\"",
    );
    check(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dada":{}}"#, "unknown field \"dada\"");
    check(
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"nowhere"}}"#,
        "namespaces \"nowhere\" not found",
    );
    check(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
        "`selector` does not match template `labels`",
    );
    check(
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"ports":[{"port":99999}]}}"#,
        "spec.ports[0].port: Invalid value: 99999",
    );
    let missing = cluster.kubectl(["get", "pod", "nothing"]).unwrap().err();
    assert!(missing.contains(r#"pods "nothing" not found"#), "{missing}");
    cluster.kubectl(["create", "configmap", "there"]).unwrap().ok();
    let twice = cluster.kubectl(["create", "configmap", "there"]).unwrap().err();
    assert!(twice.contains(r#"configmaps "there" already exists"#), "{twice}");
    let stale = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"there","resourceVersion":"1"}}"#;
    let said = cluster.kubectl_with(["replace", "-f", "-"], Some(stale)).unwrap().err();
    assert!(said.contains("the object has been modified"), "{said}");
}

#[test]
fn images_that_cannot_be_had_become_reasons() {
    let cluster = cluster();
    cluster.apply(&sleeper("unpullable", "").replace("kobune.local/kobune", "127.0.0.1:9/nothing:here"));
    cluster.apply(
        &sleeper("never", "").replace("kobune.local/kobune", "kobune.local/absent").replace("IfNotPresent", "Never"),
    );
    cluster.apply(&sleeper("missing", "").replace(r#"["sleep", "infinity"]"#, r#"["no-such-program"]"#));
    cluster.apply(&sleeper("config", r#", "envFrom": [{"configMapRef": {"name": "absent"}}]"#));
    cluster.apply(&sleeper("fine", ""));
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    wait_for(&cluster, &["pod", "unpullable"], waiting, "ImagePullBackOff");
    wait_for(&cluster, &["pod", "never"], waiting, "ErrImageNeverPull");
    wait_for(&cluster, &["pod", "config"], waiting, "CreateContainerConfigError");
    wait_for(&cluster, &["pod", "missing"], ".status.containerStatuses[0].lastState.terminated.reason", "StartError");
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/fine", "--timeout=90s"]).unwrap().ok();
    eventually("the events say so", SETTLE, || {
        let events = cluster.kubectl(["get", "events"]).unwrap().ok();
        let expected = ["Failed to pull image", "configmap \"absent\" not found", "no-such-program"];
        match expected.iter().find(|part| !events.contains(**part)) {
            None => Ok(()),
            Some(part) => Err(format!("{part} is not in\n{events}")),
        }
    });

    let corrupt = cluster.data_dir().join("corrupt.tar");
    std::fs::write(&corrupt, vec![7; 5000]).unwrap();
    let data_dir = cluster.data_dir().to_str().unwrap();
    let said = cluster.kobune(["image", "load", "--data-dir", data_dir, corrupt.to_str().unwrap()]).unwrap().err();
    assert!(said.contains("corrupt.tar"), "{said}");
    let images = cluster.kobune(["image", "ls", "--data-dir", data_dir]).unwrap().ok();
    assert!(images.contains("kobune.local/kobune"), "{images}");
}
