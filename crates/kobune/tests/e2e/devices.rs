//! Devices: claims out of templates and by name, through the scheduler to their end. Nodes and drivers are not there; what is
//! tested is what the API server, the controllers and the scheduler make of claims.

use kobune_testbed::{Cluster, eventually};

use crate::{SETTLE, wait_for};

#[test]
fn claims_on_devices() {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_kobune")).simulated(3).start().expect("a cluster starts");
    let get = |arguments: &[&str]| cluster.kubectl(arguments).unwrap().ok();
    let slice = |node: u32, devices: &str| {
        format!(
            "---\napiVersion: resource.k8s.io/v1\nkind: ResourceSlice\nmetadata: {{name: gpus-{node}}}\nspec:\n  \
             driver: gpu.example.com\n  nodeName: simulated-{node}\n  \
             pool: {{name: simulated-{node}, generation: 1, resourceSliceCount: 1}}\n  devices: [{devices}]\n"
        )
    };
    let device = |name: &str, model: &str| {
        format!("{{name: {name}, attributes: {{model: {{string: {model}}}}}, capacity: {{memory: {{value: 8Gi}}}}}}")
    };
    let mut objects = r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu}
spec:
  selectors: [{cel: {expression: device.driver == "gpu.example.com"}}]
  config: [{opaque: {driver: gpu.example.com, parameters: {mode: shared}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: small}
spec:
  metadata: {labels: {made: from-template}}
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpu
          selectors:
          - cel: {expression: 'device.attributes["gpu.example.com"].model == "small" && device.capacity["gpu.example.com"].memory.compareTo(quantity("4Gi")) > 0'}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: large}
spec:
  devices:
    requests:
    - name: gpu
      firstAvailable:
      - {name: many, deviceClassName: gpu, count: 5}
      - {name: one, deviceClassName: gpu, selectors: [{cel: {expression: 'device.attributes["gpu.example.com"].model == "large"'}}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: workers}
spec:
  replicas: 3
  selector: {matchLabels: {app: workers}}
  template:
    metadata: {labels: {app: workers}}
    spec:
      resourceClaims: [{name: gpu, resourceClaimTemplateName: small}]
      containers: [{name: c, image: i, resources: {claims: [{name: gpu}]}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: sharing}
spec:
  completions: 2
  parallelism: 2
  template:
    metadata: {annotations: {simulator.kobune.dev/run-for: "5"}}
    spec:
      restartPolicy: Never
      resourceClaims: [{name: gpu, resourceClaimName: large}]
      containers: [{name: c, image: i, resources: {claims: [{name: gpu}]}}]
"#
    .to_owned();
    objects += &slice(0, &device("a", "small"));
    objects += &slice(1, &[device("a", "small"), device("b", "large")].join(", "));
    cluster.apply(&objects);

    // Both pods of the Job are where the one large device is, with one claim.
    let users = "jsonpath={.status.reservedFor[*].resource} {.status.allocation.devices.results[0].pool}/{.status.allocation.devices.results[0].device} \
                 {.status.allocation.devices.results[0].request} {.status.allocation.devices.config[0].source}";
    eventually("two pods share a claim", SETTLE, || match get(&["get", "resourceclaim", "large", "-o", users]) {
        shared if shared == "pods pods simulated-1/b gpu/one FromClass" => Ok(()),
        other => Err(format!("{other}\n{}", get(&["get", "pods,resourceclaims,events"]))),
    });
    // Two small devices for three pods: the third says what it waits for.
    wait_for(&cluster, &["deployment", "workers"], ".status.readyReplicas", "2");
    let pending = "jsonpath={.items[*].status.conditions[?(@.type==\"PodScheduled\")].message}";
    let waits = ["get", "pods", "-l", "app=workers", "--field-selector", "status.phase=Pending", "-o", pending];
    eventually("the third pod says why it waits", SETTLE, || match get(&waits) {
        said if said.starts_with("0/3 nodes are available: 3 cannot allocate all claims.") => Ok(()),
        other => Err(other),
    });
    let made = get(&[
        "get",
        "resourceclaims",
        "-l",
        "made=from-template",
        "-o",
        "jsonpath={.items[*].metadata.finalizers[0]}",
    ]);
    assert_eq!(made, "resource.kubernetes.io/delete-protection resource.kubernetes.io/delete-protection");

    // A further device is noticed.
    cluster.apply(&slice(2, &device("a", "small")));
    wait_for(&cluster, &["deployment", "workers"], ".status.readyReplicas", "3");

    // A device that breaks costs the pod that has it, and no other one; whole again, it is given out again.
    let on = |node: u32| {
        let selected = format!("--field-selector=spec.nodeName=simulated-{node},status.phase=Running");
        get(&["get", "pods", "-l", "app=workers", &selected, "-o", "jsonpath={.items[*].metadata.uid}"])
    };
    let before = [on(0), on(1), on(2)];
    let broken = device("a", "small").replacen('{', "{taints: [{key: gpu.example.com/broken, effect: NoExecute}], ", 1);
    cluster.apply(&slice(2, &broken));
    eventually("the pod with the broken device goes", SETTLE, || match on(2) {
        none if none.is_empty() => Ok(()),
        other => Err(format!("{other}\n{}", get(&["get", "pods,resourceclaims,events"]))),
    });
    wait_for(&cluster, &["resourceslice", "gpus-2"], ".spec.devices[0].taints[0].effect", "NoExecute");
    wait_for(&cluster, &["deployment", "workers"], ".status.readyReplicas", "2");
    cluster.apply(&slice(2, &device("a", "small")));
    wait_for(&cluster, &["deployment", "workers"], ".status.readyReplicas", "3");
    assert_eq!([on(0), on(1)], before[..2], "only the pod with the broken device was replaced");
    assert_ne!(on(2), before[2]);

    // The Job's pods have ended: their claim has neither users nor devices.
    wait_for(&cluster, &["job", "sharing"], ".status.succeeded", "2");
    wait_for(&cluster, &["resourceclaim", "large"], ".status.allocation", "");
    wait_for(&cluster, &["resourceclaim", "large"], ".status.reservedFor", "");
    wait_for(&cluster, &["resourceclaim", "large"], ".metadata.finalizers", "");
    // A claim that was made for a pod goes with it.
    get(&["delete", "deployment", "workers"]);
    eventually("claims go with their pods", SETTLE, || match get(&["get", "resourceclaims", "-o", "name"]) {
        left if left == "resourceclaim.resource.k8s.io/large\n" => Ok(()),
        other => Err(other),
    });
    get(&["delete", "resourceclaim", "large", "--timeout=30s"]);
}
