//! Pods with `hostUsers: false`.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::exec;
use crate::world::World;

/// The numbers of `/proc/self/uid_map` in a pod's container.
async fn map(world: &World, pod: &str) -> Result<Vec<u64>> {
    let (text, status) = exec(world, pod, &["/kobune", "tool", "show", "/proc/self/uid_map"]).await?;
    ensure!(status["status"] == "Success", "{text} {status}");
    text.split_whitespace().map(|word| word.parse().context("a number")).collect()
}

/// Two pods whose root is two different users of the host, with files as other pods have them.
pub async fn runs_among_users_of_its_own(world: &mut World) -> Result<()> {
    let folder = world.node_dir().join("shown");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("of-root"), "x")?;
    for name in ["mapped", "mapped-too"] {
        world.create(
            name,
            json!({"terminationGracePeriodSeconds": 1, "hostUsers": false, "shareProcessNamespace": name == "mapped-too",
                "securityContext": {"fsGroup": 77, "supplementalGroups": [78],
                    "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "net.ipv4.tcp_fin_timeout", "value": "55"}]},
                "initContainers": [{"name": "init", "run": "last-words farewell 0", "restartPolicy": null}],
                "volumes": [{"name": "empty", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                    {"name": "config", "configMap": {"name": "cm"}}, {"name": "host", "hostPath": {"path": folder}},
                    {"name": "image", "image": {"reference": "kobune.local/kobune"}}],
                "containers": [{"name": "c", "run": "write-hold /empty/file",
                    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                    "livenessProbe": {"exec": {"command": ["/kobune", "tool", "owners", "/empty/file"]}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "empty", "mountPath": "/empty"}, {"name": "memory", "mountPath": "/memory"},
                        {"name": "config", "mountPath": "/config"}, {"name": "host", "mountPath": "/host", "readOnly": true},
                        {"name": "image", "mountPath": "/image"}]},
                    {"name": "user", "run": "write-hold /memory/file", "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "readOnlyRootFilesystem": true},
                        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}]}]}),
        );
    }
    for name in ["mapped", "mapped-too"] {
        world.ready(name).await?;
        ensure!(world.written(name, "c").await? == "written\n", "{}", world.written(name, "c").await?);
    }
    let (one, two) = (map(world, "mapped").await?, map(world, "mapped-too").await?);
    ensure!(one[0] == 0 && one[2] == 65_536 && one[1] >= 65_536, "{one:?}");
    ensure!(two[0] == 0 && two[2] == 65_536 && two[1].abs_diff(one[1]) >= 65_536, "{one:?} {two:?}");

    let paths =
        ["/empty/file", "/memory/file", "/config/key", "/host/of-root", "/", "/etc/hosts", "/kobune", "/image/kobune"];
    let command: Vec<&str> = ["/kobune", "tool", "owners"].into_iter().chain(paths).collect();
    let (text, status) = exec(world, "mapped", &command).await?;
    ensure!(status["status"] == "Success", "{text} {status}");
    let expected = [
        "/empty/file 0:77",
        "/memory/file 1000:77",
        "/config/key 0:77",
        "/host/of-root 0:0",
        "/ 0:0",
        "/etc/hosts 0:0",
        "/kobune 0:0",
        "/image/kobune 0:0",
    ];
    ensure!(text.lines().eq(expected), "{text}");
    let (text, status) = exec(world, "mapped", &["/kobune", "tool", "write-hold", "/host/new"]).await?;
    ensure!(status["status"] == "Failure" && text.contains("Read-only"), "{text} {status}");
    let (text, _) = exec(
        world,
        "mapped",
        &[
            "/kobune",
            "tool",
            "show",
            "/proc/sys/net/ipv4/tcp_fin_timeout",
            "/proc/sys/kernel/shm_rmid_forced",
            "/proc/sys/kernel/hostname",
        ],
    )
    .await?;
    ensure!(text == "55\n1\nmapped\n", "{text}");

    // On disk, files belong to whom the container sees; its processes are nobody of the host's.
    let pod = world.ready("mapped").await?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    let own = world.node_dir().join("pods").join(uid);
    let file = own.join("volumes/kubernetes.io~empty-dir/empty/file").metadata()?;
    ensure!((file.uid(), file.gid()) == (0, 77), "{file:?}");
    let init = &pod["status"]["initContainerStatuses"][0]["state"]["terminated"];
    ensure!(init["message"] == "farewell", "{init}");

    // The next kobune knows whose they are.
    world.stop().await?;
    world.start().await?;
    world.create(
        "mapped-late",
        json!({"terminationGracePeriodSeconds": 1, "hostUsers": false, "containers": [{"name": "c", "run": "hold"}]}),
    );
    world.ready("mapped-late").await?;
    // That one runs, so the node has heard of all of them.
    ensure!(map(world, "mapped").await? == one && map(world, "mapped-too").await? == two);
    let late = map(world, "mapped-late").await?;
    ensure!(late[1] != one[1] && late[1] != two[1], "{late:?}");
    for name in ["mapped", "mapped-too", "mapped-late"] {
        world.delete(name, 1);
        world.gone(name).await?;
    }
    ensure!(!own.exists());
    Ok(())
}
