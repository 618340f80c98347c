//! Pods of a folder: they run without an API server, and it shows them when it is there.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::world::{World, condition};

const MIRROR: &str = "kubernetes.io/config.mirror";

fn manifest(greeting: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: static, namespace: ns, labels: {{app: static}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: {image}
    imagePullPolicy: IfNotPresent
    command: [/kobune, tool, env-hold, GREETING]
    env: [{{name: GREETING, value: {greeting}}}]
",
        image = kobune_runtime::SELF_IMAGE,
    )
}

fn container(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned()
}

/// A file's pod is shown, survives its mirror, follows its file without an API server, and goes with it.
pub async fn run_from_files(world: &mut World) -> Result<()> {
    let file = world.manifests().join("static.yaml");
    std::fs::create_dir_all(world.manifests())?;
    std::fs::write(&file, manifest("hello"))?;
    let shown = world.ready("static-n").await?;
    ensure!(shown["metadata"]["annotations"][MIRROR] == shown["metadata"]["annotations"]["kubernetes.io/config.hash"]);
    ensure!(shown["metadata"]["ownerReferences"][0]["kind"] == "Node", "{:#}", shown["metadata"]);
    ensure!(shown["metadata"]["labels"]["app"] == "static" && shown["spec"]["nodeName"] == "n");
    ensure!(world.written("static-n", "c").await? == "GREETING=hello\n");

    // Nobody ends it by deleting what only shows it.
    world.delete("static-n", 30);
    let uid = &shown["metadata"]["uid"];
    let again = world
        .wait("static-n", "shown again", |pod| {
            pod["metadata"]["uid"] != *uid && !pod.is_null() && condition(pod, "Ready") == "True"
        })
        .await?;
    ensure!(container(&again) == container(&shown), "{again:#}");

    // Without an API server the node goes on with it, and follows its file.
    world.api.set_down(true);
    world.stop().await?;
    world.start().await?;
    world
        .until("the pod is adopted", async |world| {
            let log = world.log("static-n", "c").await.unwrap_or_default();
            if log == "GREETING=hello\n" { Ok(()) } else { Err(log) }
        })
        .await?;
    std::fs::write(&file, manifest("changed"))?;
    world
        .until("the pod follows its file", async |world| {
            let log = world.log("static-n", "c").await.unwrap_or_default();
            if log == "GREETING=changed\n" { Ok(()) } else { Err(log) }
        })
        .await?;
    world.api.set_down(false);
    let old = again["metadata"]["annotations"][MIRROR].as_str().context("a hash")?.to_owned();
    let changed = world
        .wait("static-n", "the changed one", |pod| {
            pod["metadata"]["annotations"][MIRROR].as_str().is_some_and(|hash| hash != old)
                && condition(pod, "Ready") == "True"
        })
        .await?;
    ensure!(container(&changed) != container(&shown), "{changed:#}");

    // What is no manifest ends nothing.
    std::fs::write(world.manifests().join("bad.yaml"), "a: [")?;
    std::fs::remove_file(&file)?;
    world.gone("static-n").await
}
