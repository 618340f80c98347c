//! What a pod may ask of the node.

use kobune_testbed::eventually;

use crate::{SETTLE, cluster, sleeper, wait_for};

#[test]
fn volumes_environment_init_containers_and_probes() {
    let cluster = cluster();
    cluster.apply(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, nested: "a: 1"}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata:
  name: everything
  labels: {role: test}
  annotations: {note: hello}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
    - name: first
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [write-file, /shared/made-by-init, made]
      volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
    - name: main
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [http-echo, --listen, ":8080"]
      env:
        - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: password}}}
        - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
        - {name: GREETING, value: "it is $(COLOUR)"}
      resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {cpu: 10m}}
      readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
      livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 5}
      startupProbe: {exec: {command: ["true"]}, periodSeconds: 1}
      volumeMounts:
        - {name: shared, mountPath: /shared}
        - {name: settings, mountPath: /settings}
        - {name: key, mountPath: /key, readOnly: true}
        - {name: about, mountPath: /about}
        - {name: host, mountPath: /host}
    - name: second
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeMounts: [{name: shared, mountPath: /shared}]
  volumes:
    - {name: shared, emptyDir: {}}
    - {name: settings, configMap: {name: settings}}
    - {name: key, secret: {secretName: key}}
    - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
    - {name: host, hostPath: {path: /etc, type: Directory}}
"#,
    );
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/everything", "--timeout=90s"]).unwrap().ok();
    let exec = |words: &[&str]| {
        let mut arguments = vec!["exec", "everything", "-c", "main", "--"];
        arguments.extend(words);
        cluster.kubectl(arguments).expect("kubectl runs").ok()
    };
    assert_eq!(exec(&["cat", "/shared/made-by-init"]).trim(), "made");
    assert_eq!(exec(&["cat", "/settings/colour"]), "blue");
    assert_eq!(exec(&["cat", "/key/password"]), "s3cret");
    assert_eq!(exec(&["cat", "/about/labels"]).trim(), r#"role="test""#);
    assert!(!exec(&["cat", "/host/passwd"]).is_empty());
    let token = exec(&["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]);
    assert_eq!(token.split('.').count(), 3, "{token}");
    let environment = exec(&["env"]);
    let address = cluster.kubectl(["get", "pod", "everything", "-o", "jsonpath={.status.podIP}"]).unwrap().ok();
    for line in
        ["COLOUR=blue", "PASSWORD=s3cret", "GREETING=it is blue", "LIMIT=67108864", "KUBERNETES_SERVICE_PORT=443"]
    {
        assert!(environment.lines().any(|have| have == line), "{line} is not in\n{environment}");
    }
    assert!(environment.contains(&format!("ADDRESS={address}")), "{environment}");

    // A change of the ConfigMap reaches the running pod.
    cluster.kubectl(["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#]).unwrap().ok();
    eventually("the volume follows the ConfigMap", SETTLE, || {
        let colour = exec(&["cat", "/settings/colour"]);
        if colour == "green" { Ok(()) } else { Err(colour) }
    });
}

#[test]
fn a_container_that_fails_is_restarted_with_back_off_and_its_reason() {
    let cluster = cluster();
    cluster.apply(&sleeper("failing", "").replace(r#"["sleep", "infinity"]"#, r#"["exit", "3"]"#));
    let status = ".status.containerStatuses[0]";
    wait_for(&cluster, &["pod", "failing"], &format!("{status}.lastState.terminated.exitCode"), "3");
    wait_for(&cluster, &["pod", "failing"], &format!("{status}.state.waiting.reason"), "CrashLoopBackOff");
    let table = cluster.kubectl(["get", "pod", "failing"]).unwrap().ok();
    assert!(table.contains("CrashLoopBackOff"), "{table}");

    // One container's end starts the whole pod anew, where it is.
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: together}
spec:
  restartPolicy: Never
  initContainers: [{name: i, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, command: ["true"]}]
  containers:
    - {name: a, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}
    - name: b
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [exit, "42"]
      restartPolicy: Never
      restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
"#,
    );
    for path in ["initContainerStatuses[0]", "containerStatuses[0]", "containerStatuses[1]"] {
        wait_for(&cluster, &["pod", "together"], &format!(".status.{path}.restartCount"), "1");
    }
    let phase = cluster.kubectl(["get", "pod", "together", "-o", "jsonpath={.status.phase}"]).unwrap().ok();
    assert_ne!(phase, "Failed");

    let once = sleeper("once", "").replace(r#"["sleep", "infinity"]"#, r#"["exit", "4"]"#);
    cluster.apply(&once.replace(r#""containers""#, r#""restartPolicy": "Never", "containers""#));
    wait_for(&cluster, &["pod", "once"], ".status.phase", "Failed");
    let done = sleeper("done", "").replace(r#"["sleep", "infinity"]"#, r#"["true"]"#);
    cluster.apply(&done.replace(r#""containers""#, r#""restartPolicy": "OnFailure", "containers""#));
    wait_for(&cluster, &["pod", "done"], ".status.phase", "Succeeded");
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let cluster = cluster();
    cluster.apply(&sleeper("large", r#", "resources": {"requests": {"memory": "900Gi"}}"#));
    wait_for(&cluster, &["pod", "large"], r#".status.conditions[?(@.type=="PodScheduled")].reason"#, "Unschedulable");
    eventually("the event says what is missing", SETTLE, || {
        let events = cluster.kubectl(["get", "events"]).unwrap().ok();
        if events.contains("0/1 nodes are available: 1 Insufficient memory") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn memory_and_cpu_limits_are_in_the_cgroup() {
    let cluster = cluster();
    let hungry = sleeper("hungry", r#", "resources": {"limits": {"memory": "24Mi"}}"#);
    cluster.apply(&hungry.replace(r#"["sleep", "infinity"]"#, r#"["eat", "200"]"#));
    wait_for(&cluster, &["pod", "hungry"], ".status.containerStatuses[0].lastState.terminated.reason", "OOMKilled");
}

#[test]
fn static_pods_are_shown_and_follow_their_files() {
    let cluster = cluster();
    let node = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap().ok();
    let name = format!("web-{node}");
    let file = cluster.data_dir().join("manifests/web.yaml");
    std::fs::write(&file, sleeper("web", "")).expect("written");
    let ready = r#".status.conditions[?(@.type=="Ready")].status"#;
    wait_for(&cluster, &["pod", &name], ready, "True");
    let get = |path: &str| {
        let output = format!("jsonpath={{{path}}}");
        cluster.kubectl(["get", "pod", &name, "-o", &output]).unwrap().ok()
    };
    let (uid, container) = (get(".metadata.uid"), get(".status.containerStatuses[0].containerID"));
    // What shows it comes again; what runs goes on.
    cluster.kubectl(["delete", "pod", &name, "--wait=false"]).unwrap().ok();
    eventually("the pod is shown again", SETTLE, || {
        let got = cluster.kubectl(["get", "pod", &name, "-o", "jsonpath={.metadata.uid}"]).unwrap();
        if got.status.success() && got.stdout != uid { Ok(()) } else { Err(got.stdout) }
    });
    wait_for(&cluster, &["pod", &name], ready, "True");
    assert_eq!(get(".status.containerStatuses[0].containerID"), container);
    std::fs::remove_file(&file).expect("removed");
    cluster.kubectl(["wait", "--for=delete", &format!("pod/{name}"), "--timeout=60s"]).unwrap().ok();
}
