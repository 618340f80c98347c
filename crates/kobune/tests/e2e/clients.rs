//! kube-rs and the Python client.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kobune_testbed::Cluster;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::{cluster, sleeper};

/// Runs `body` with a kube-rs client on the cluster's host.
fn with_client<F: Future<Output = anyhow::Result<()>>>(cluster: &Cluster, body: impl FnOnce(kube::Client) -> F + Send) {
    let kubeconfig = cluster.kubeconfig();
    cluster
        .host()
        .enter(move || {
            // One thread: what it opens belongs to the host's network namespace.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
                body(kube::Client::try_from(config)?).await
            })
        })
        .expect("the host can be entered")
        .expect("the client's work succeeds");
}

#[test]
fn kube_rs_creates_watches_applies_and_executes() {
    let cluster = cluster();
    cluster.apply(&sleeper("target", ""));
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/target", "--timeout=90s"]).unwrap().ok();
    with_client(&cluster, |client| async move {
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let made =
            maps.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "m"}}))?).await?;
        let version = made.metadata.resource_version.expect("a stored object has a resourceVersion");
        let mut events = maps.watch(&WatchParams::default().fields("metadata.name=m"), &version).await?.boxed();
        let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
        maps.patch("m", &PatchParams::apply("test"), &Patch::Apply(&apply)).await?;
        match events.try_next().await? {
            Some(WatchEvent::Modified(map)) => assert_eq!(map.data.expect("it was applied")["k"], "v"),
            other => panic!("expected a modification, got {other:?}"),
        }
        maps.delete("m", &DeleteParams::default()).await?;
        match events.try_next().await? {
            Some(WatchEvent::Deleted(map)) => assert_ne!(map.metadata.resource_version, Some(version)),
            other => panic!("expected a deletion, got {other:?}"),
        }
        let pods: Api<Pod> = Api::default_namespaced(client);
        let mut process = pods.exec("target", ["echo", "by kube-rs"], &Default::default()).await?;
        let mut output = String::new();
        let mut stdout = process.stdout().expect("it was asked for");
        tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut output).await?;
        assert_eq!(output, "by kube-rs\n");
        Ok(())
    });
}

#[test]
fn the_python_client_works() {
    let cluster = cluster();
    let program = r#"
import json, time, websocket
from kubernetes import client, config, watch
from kubernetes.stream import stream
config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()
print("version", client.VersionApi().get_code().git_version)
labels = {"app": "py"}
container = client.V1Container(name="c", image="kobune.local/kobune", image_pull_policy="IfNotPresent", command=["sleep", "infinity"])
template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=1))
spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)
apps.create_namespaced_deployment("default", client.V1Deployment(metadata=client.V1ObjectMeta(name="py"), spec=spec))
name = None
for event in watch.Watch().stream(core.list_namespaced_pod, "default", label_selector="app=py", timeout_seconds=90):
    if event["object"].status.phase == "Running":
        name = event["object"].metadata.name
        break
assert name, "no pod became Running"
print("exec", stream(core.connect_get_namespaced_pod_exec, name, "default", command=["echo", "by", "python"], stdout=True, stderr=True, stdin=False, tty=False).strip())
host = client.Configuration.get_default_copy()
tls = {"ca_certs": host.ssl_ca_cert, "certfile": host.cert_file, "keyfile": host.key_file}
def messages(path, protocol):
    socket = websocket.create_connection(host.host.replace("https", "wss") + "/api/v1/namespaces/default/" + path, subprotocols=[protocol] if protocol else None, sslopt=tls, timeout=60)
    found = []
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return found
        found.append(data)
for protocol in ["channel.k8s.io", "v4.base64.channel.k8s.io", None]:
    print("socket", protocol, b"|".join(messages(f"pods/{name}/exec?command=echo&command=over&stdout=1&stderr=1", protocol)))
container.command = ["echo", "logged"]
core.create_namespaced_pod("default", client.V1Pod(metadata=client.V1ObjectMeta(name="said"), spec=client.V1PodSpec(containers=[container], restart_policy="Never")))
for event in watch.Watch().stream(core.list_namespaced_pod, "default", field_selector="metadata.name=said", timeout_seconds=90):
    if event["object"].status.phase == "Succeeded":
        break
print("log", b"".join(messages("pods/said/log", "binary.k8s.io")), messages("pods/said/log", "base64.binary.k8s.io"))
events = messages("pods?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dsaid", None)
print("events", [json.loads(event)["type"] for event in events])
page = core.list_cluster_role_binding() if hasattr(core, "list_cluster_role_binding") else client.RbacAuthorizationV1Api().list_cluster_role_binding(limit=3)
print("page", len(page.items), bool(page.metadata._continue))
try:
    core.read_namespaced_pod("absent", "default")
except client.ApiException as error:
    print("status", error.status)
apps.delete_namespaced_deployment("py", "default", propagation_policy="Foreground")
deadline = time.monotonic() + 90
while core.list_namespaced_pod("default", label_selector="app=py").items:
    assert time.monotonic() < deadline, "the pods are still there"
    time.sleep(0.1)
print("gone")
"#;
    let output = cluster.python(program).unwrap().ok();
    for line in [
        "version v1.36",
        "exec by python",
        // The older forms of the protocol, which upstream's suite speaks.
        r"socket channel.k8s.io b'\x01|\x01over\n'",
        r#"socket v4.base64.channel.k8s.io b'1|1b3Zlcgo=|3eyJtZXRhZGF0YSI6e30sInN0YXR1cyI6IlN1Y2Nlc3MifQ=='"#,
        r"socket None b'\x01|\x01over\n'",
        r"log b'logged\n' [b'bG9nZ2VkCg==']",
        "events ['ADDED']",
        "page 3 True",
        "status 404",
        "gone",
    ] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
}
