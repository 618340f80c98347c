//! Volumes that outlive their pods.

use kobune_testbed::{Cluster, eventually};

use crate::{SETTLE, cluster, wait_for};

fn read(cluster: &Cluster, pod: &str, path: &str) -> String {
    cluster.kubectl(["exec", pod, "--", "cat", path]).expect("kubectl runs").ok()
}

/// The folders of local volumes on the node's disk.
fn on_disk(cluster: &Cluster) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(cluster.data_dir().join("volumes")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_stateful_set_keeps_its_data_grows_and_lets_go() {
    let mut cluster = cluster();
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ledger}
spec:
  serviceName: ledger
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      containers:
        - name: main
          image: kobune.local/kobune
          imagePullPolicy: IfNotPresent
          command: [sleep, infinity]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#,
    );
    wait_for(&cluster, &["statefulset", "ledger"], ".status.readyReplicas", "2");
    for pod in ["ledger-0", "ledger-1"] {
        cluster.kubectl(["exec", pod, "--", "write-file", "/data/name", pod]).unwrap().ok();
    }
    wait_for(&cluster, &["pvc", "data-ledger-0"], ".status.phase", "Bound");
    wait_for(&cluster, &["pvc", "data-ledger-0"], ".spec.storageClassName", "local");
    let listed = cluster.kubectl(["exec", "ledger-0", "--", "ls", "-l", "-d", "/data"]).unwrap().ok();
    assert!(listed.contains("2000"), "the group owns the folder: {listed}");

    // The data outlive the pod, and kobune.
    let uid = |cluster: &Cluster| {
        cluster.kubectl(["get", "pod", "ledger-0", "-o", "jsonpath={.metadata.uid}"]).unwrap().stdout
    };
    let first = uid(&cluster);
    cluster.kubectl(["delete", "pod", "ledger-0", "--timeout=60s"]).unwrap().ok();
    wait_for(&cluster, &["statefulset", "ledger"], ".status.readyReplicas", "2");
    assert_ne!(uid(&cluster), first);
    assert_eq!(read(&cluster, "ledger-0", "/data/name"), "ledger-0\n");
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    wait_for(&cluster, &["statefulset", "ledger"], ".status.readyReplicas", "2");
    assert_eq!(read(&cluster, "ledger-1", "/data/name"), "ledger-1\n");
    cluster.kubectl(["delete", "pod", "ledger-1", "--timeout=60s"]).unwrap().ok();
    wait_for(&cluster, &["statefulset", "ledger"], ".status.readyReplicas", "2");
    assert_eq!(read(&cluster, "ledger-1", "/data/name"), "ledger-1\n");

    // A claim may ask for more, also while it is used.
    let more = r#"{"spec": {"resources": {"requests": {"storage": "20Mi"}}}}"#;
    cluster.kubectl(["patch", "pvc", "data-ledger-0", "-p", more]).unwrap().ok();
    wait_for(&cluster, &["pvc", "data-ledger-0"], ".status.capacity.storage", "20Mi");

    // A claim that a pod uses stays until the pod is gone; then volume and files go too.
    cluster.kubectl(["delete", "pvc", "data-ledger-0", "--wait=false"]).unwrap().ok();
    assert_eq!(read(&cluster, "ledger-0", "/data/name"), "ledger-0\n");
    assert!(cluster.kubectl(["get", "pvc"]).unwrap().ok().contains("Terminating"));
    assert_eq!(on_disk(&cluster).len(), 2);
    cluster.kubectl(["delete", "statefulset", "ledger", "--timeout=60s"]).unwrap().ok();
    cluster.kubectl(["wait", "--for=delete", "pvc/data-ledger-0", "--timeout=60s"]).unwrap().ok();
    cluster.kubectl(["delete", "pvc", "data-ledger-1", "--timeout=60s"]).unwrap().ok();
    eventually("volumes and files are gone", SETTLE, || {
        let volumes = cluster.kubectl(["get", "pv", "-o", "name"]).map_err(|error| error.to_string())?.stdout;
        let folders = on_disk(&cluster);
        if volumes.is_empty() && folders.is_empty() { Ok(()) } else { Err(format!("{volumes} {folders:?}")) }
    });
}

#[test]
fn volumes_by_hand_devices_and_ephemeral_claims() {
    let cluster = cluster();
    let folder = cluster.data_dir().join("by-hand");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("note"), "made by hand\n").unwrap();
    cluster.apply(
        &r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: manual
  hostPath: {path: FOLDER}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: by-hand}
spec: {accessModes: [ReadWriteMany], storageClassName: manual, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeMounts:
        - {name: by-hand, mountPath: /by-hand}
        - {name: scratch, mountPath: /scratch}
      volumeDevices: [{name: disk, devicePath: /dev/disk}]
  volumes:
    - {name: by-hand, persistentVolumeClaim: {claimName: by-hand, readOnly: true}}
    - {name: disk, persistentVolumeClaim: {claimName: disk}}
    - name: scratch
      ephemeral:
        volumeClaimTemplate:
          spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#
        .replace("FOLDER", folder.to_str().unwrap()),
    );
    wait_for(&cluster, &["pod", "user"], ".status.phase", "Running");
    let exec = |words: &[&str]| {
        let mut arguments = vec!["exec", "user", "--"];
        arguments.extend(words);
        cluster.kubectl(arguments).unwrap()
    };
    assert_eq!(read(&cluster, "user", "/by-hand/note"), "made by hand\n");
    assert!(!exec(&["touch", "/by-hand/other"]).status.success(), "the claim is used read-only");
    exec(&["write-file", "/scratch/file", "x"]).ok();
    assert!(exec(&["ls", "-l", "/dev/disk"]).ok().starts_with('b'));
    exec(&["write-file", "--append", "/dev/disk", "on the device"]).ok();
    assert!(exec(&["cat", "/dev/disk"]).stdout.starts_with("on the device\n"));

    // The ephemeral claim goes with its pod; the others stay, and so does what people made.
    cluster.kubectl(["delete", "pod", "user", "--timeout=60s"]).unwrap().ok();
    cluster.kubectl(["wait", "--for=delete", "pvc/user-scratch", "--timeout=60s"]).unwrap().ok();
    cluster.kubectl(["delete", "pvc", "by-hand", "--timeout=60s"]).unwrap().ok();
    wait_for(&cluster, &["pv", "by-hand"], ".status.phase", "Released");
    assert!(folder.join("note").exists());
    eventually("only the device's file is left, and no device", SETTLE, || {
        let folders = on_disk(&cluster);
        let attached = std::fs::read_dir("/sys/block").map_err(|error| error.to_string())?.flatten().any(|device| {
            let backing = std::fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
            backing.starts_with(cluster.data_dir().to_str().unwrap_or_default())
        });
        if folders.len() == 1 && !attached { Ok(()) } else { Err(format!("{folders:?} {attached}")) }
    });
}

/// The kinds of snapshots as far as anybody looks at them here.
fn snapshot_kinds() -> String {
    let kind = |kind: &str, plural: &str, scope: &str| {
        format!(
            r#"
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.snapshot.storage.k8s.io
  annotations: {{api-approved.kubernetes.io: "https://github.com/kubernetes-csi/external-snapshotter/pull/814"}}
spec:
  group: snapshot.storage.k8s.io
  scope: {scope}
  names: {{kind: {kind}, plural: {plural}}}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {{status: {{}}}}
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"#
        )
    };
    kind("VolumeSnapshot", "volumesnapshots", "Namespaced")
        + &kind("VolumeSnapshotContent", "volumesnapshotcontents", "Cluster")
        + &kind("VolumeSnapshotClass", "volumesnapshotclasses", "Cluster")
}

#[test]
fn claims_are_snapshotted_restored_and_cloned() {
    let cluster = cluster();
    cluster.apply(&snapshot_kinds());
    let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
    cluster.kubectl(established).unwrap().ok();
    let with_claim = |name: &str, source: &str| {
        format!(
            r#"
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 5Mi}}}}{source}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {name}}}}}]
"#
        )
    };
    cluster.apply(&with_claim("first", ""));
    wait_for(&cluster, &["pod", "first"], ".status.phase", "Running");
    let write = |text: &str| {
        cluster.kubectl(["exec", "first", "--", "write-file", "/data/file", text]).unwrap().ok();
    };
    write("before");
    cluster.apply(
        r#"
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: local}
driver: local.kobune.dev
deletionPolicy: Delete
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: yesterday}
spec: {volumeSnapshotClassName: local, source: {persistentVolumeClaimName: first}}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: of-nothing}
spec: {volumeSnapshotClassName: local, source: {persistentVolumeClaimName: none}}
"#,
    );
    let yesterday = ["volumesnapshot", "yesterday"];
    wait_for(&cluster, &yesterday, ".status.readyToUse", "true");
    wait_for(&cluster, &yesterday, ".status.restoreSize", "5242880");
    let refused = "the claim none does not exist or is not bound";
    wait_for(&cluster, &["volumesnapshot", "of-nothing"], ".status.error.message", refused);
    write("after");
    let restored = ", dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: yesterday}";
    cluster.apply(&with_claim("restored", restored));
    cluster.apply(&with_claim("cloned", ", dataSource: {kind: PersistentVolumeClaim, name: first}"));
    wait_for(&cluster, &["pod", "restored"], ".status.phase", "Running");
    wait_for(&cluster, &["pod", "cloned"], ".status.phase", "Running");
    assert_eq!(read(&cluster, "restored", "/data/file"), "before\n");
    assert_eq!(read(&cluster, "cloned", "/data/file"), "after\n");

    // The snapshot goes with what is behind it; what was made from it stays.
    let snapshots = cluster.data_dir().join("volumes/.snapshots");
    let count = || std::fs::read_dir(&snapshots).expect("a folder").count();
    assert_eq!(count(), 1);
    cluster.kubectl(["delete", "volumesnapshot", "--all", "--timeout=60s"]).unwrap().ok();
    eventually("content and files are gone", SETTLE, || {
        let left = cluster.kubectl(["get", "volumesnapshotcontents", "-o", "name"]);
        let left = left.map_err(|error| error.to_string())?.stdout;
        if left.is_empty() && count() == 0 { Ok(()) } else { Err(format!("{left} {}", count())) }
    });
    assert_eq!(read(&cluster, "restored", "/data/file"), "before\n");
}
