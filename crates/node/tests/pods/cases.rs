//! The tests: each one pod or a few, on one node.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use futures::{SinkExt, StreamExt};
use nix::sched::CloneFlags;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::claims::devices_of_claims;
use crate::devices::devices_of_plugins;
use crate::placement::has_a_cpu_of_its_own;
use crate::static_pods::run_from_files;
use crate::user_namespaces::runs_among_users_of_its_own;
use crate::world::{World, condition};

/// Runs all cases, or those whose name has `filter`.
pub fn run(filter: Option<&str>) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: pods (needs root)");
        return ExitCode::SUCCESS;
    }
    let apart = nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).and_then(|()| {
        nix::mount::mount(
            None::<&str>,
            "/",
            None::<&str>,
            nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
            None::<&str>,
        )
    });
    if let Err(errno) = apart {
        println!("SKIPPED: pods (no namespaces of its own: {errno})");
        return ExitCode::SUCCESS;
    }
    match std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status() {
        Ok(status) if status.success() => {}
        other => {
            println!("SKIPPED: pods (ip link set lo up: {other:?})");
            return ExitCode::SUCCESS;
        }
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match runtime.block_on(all(filter)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

macro_rules! cases {
    ($world:ident, $filter:ident, $failed:ident, $($case:ident),* $(,)?) => {$(
        if $filter.is_none_or(|filter| stringify!($case).contains(filter)) {
            let begun = Instant::now();
            match $case(&mut $world).await {
                Ok(()) => println!("test {} ... ok ({} ms)", stringify!($case), begun.elapsed().as_millis()),
                Err(error) => {
                    println!("test {} ... FAILED\n{error:#}", stringify!($case));
                    $failed += 1;
                }
            }
        }
    )*};
}

async fn all(filter: Option<&str>) -> Result<usize> {
    let mut world = World::new().await?;
    let mut failed = 0;
    cases!(
        world,
        filter,
        failed,
        registers,
        runs_and_ends,
        shows_its_surroundings,
        volumes_follow_their_objects,
        restarts_what_crashes,
        init_containers_and_sidecars,
        probes_decide,
        a_hung_probe_concerns_its_container_only,
        commands_and_logs,
        forwards_ports,
        shows_the_files_of_an_image,
        restarts_all_containers_together,
        resizes_in_place,
        resizes_wait_for_room,
        has_a_cpu_of_its_own,
        evicts_when_the_machine_runs_short,
        says_what_is_wrong,
        runs_among_users_of_its_own,
        survives_a_restart,
        comes_back_without_the_api_server,
        run_from_files,
        devices_of_plugins,
        devices_of_claims,
    );
    world.end().await?;
    Ok(failed)
}

async fn registers(world: &mut World) -> Result<()> {
    let begun = Instant::now();
    loop {
        let node = world.api.get("/api/v1/nodes/n").unwrap_or_default();
        let lease = world.api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n");
        if condition(&node, "Ready") == "True" && lease.is_some() {
            ensure!(node["metadata"]["labels"]["kubernetes.io/hostname"] == "n");
            ensure!(
                node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().is_some_and(|port| port != 0)
            );
            return Ok(());
        }
        ensure!(begun.elapsed() < crate::world::PATIENCE, "the node is not ready: {node:#}");
        tokio::task::yield_now().await;
    }
}

async fn runs_and_ends(world: &mut World) -> Result<()> {
    let begun = Instant::now();
    world.create("hold", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "run": "hold"}]}));
    let pod = world.ready("hold").await?;
    println!("  created to ready: {} ms", begun.elapsed().as_millis());
    let status = &pod["status"];
    ensure!(
        status["phase"] == "Running" && status["qosClass"] == "BestEffort" && status["hostIP"] == "127.0.0.1",
        "{status:#}"
    );
    ensure!(status["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.244.")), "{status:#}");
    let container = &status["containerStatuses"][0];
    ensure!(container["containerID"].as_str().is_some_and(|id| id.starts_with("kobune://")), "{status:#}");
    ensure!(container["started"] == true && container["restartCount"] == 0, "{status:#}");
    world.delete("hold", 1);
    world.gone("hold").await?;

    world.create("done", json!({"restartPolicy": "Never", "containers": [{"name": "c", "run": "last-words bye 0"}]}));
    let pod = world.phase("done", "Succeeded").await?;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(end["exitCode"] == 0 && end["reason"] == "Completed" && end["message"] == "bye", "{pod:#}");
    world.create("failed", json!({"restartPolicy": "Never", "containers": [{"name": "c", "run": "exit 3"}]}));
    let pod = world.phase("failed", "Failed").await?;
    ensure!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3, "{pod:#}");
    // A user who is not root opens its streams by their names too, as images do that log to /dev/stdout.
    world.create(
        "user",
        json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "run": "write-hold /dev/null", "securityContext": {"runAsUser": 1000}}]}),
    );
    world.ready("user").await?;
    ensure!(world.written("user", "c").await? == "written\n", "{}", world.written("user", "c").await?);
    let (text, status) = exec(world, "user", &["/kobune", "tool", "write", "/dev/null"]).await?;
    ensure!(status["status"] == "Success" && text == "written\n", "{text} {status}");
    for (name, grace) in [("done", 30), ("failed", 30), ("user", 1)] {
        world.delete(name, grace);
        world.gone(name).await?;
    }
    Ok(())
}

async fn shows_its_surroundings(world: &mut World) -> Result<()> {
    world.create(
        "env",
        json!({"restartPolicy": "Never", "containers": [{
            "name": "c", "run": "env A B IP KUBERNETES_SERVICE_HOST",
            "env": [
                {"name": "A", "value": "a"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}),
    );
    let pod = world.phase("env", "Succeeded").await?;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    let log = world.log("env", "c").await?;
    ensure!(log == format!("A=a\nB=value\nIP={ip}\nKUBERNETES_SERVICE_HOST=10.96.0.1\n"), "{log}");
    world.create("files", json!({"restartPolicy": "Never", "containers": [{"name": "c", "run": "show /etc/resolv.conf /etc/hosts /etc/hostname"}]}));
    let pod = world.phase("files", "Succeeded").await?;
    let log = world.log("files", "c").await?;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    ensure!(log.starts_with("search ns.svc.cluster.local svc.cluster.local cluster.local"), "{log}");
    ensure!(
        log.contains("nameserver 10.96.0.10") && log.contains(&format!("{ip}\tfiles")) && log.ends_with("files\n"),
        "{log}"
    );
    for name in ["env", "files"] {
        world.delete(name, 30);
        world.gone(name).await?;
    }
    Ok(())
}

async fn volumes_follow_their_objects(world: &mut World) -> Result<()> {
    let spec = json!({"terminationGracePeriodSeconds": 1, "serviceAccountName": "default", "securityContext": {"fsGroup": 1234},
        "volumes": [
            {"name": "cm", "configMap": {"name": "cm"}},
            {"name": "all", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"name": "c", "run": "hold", "volumeMounts": [
            {"name": "cm", "mountPath": "/cm"}, {"name": "all", "mountPath": "/all"}, {"name": "memory", "mountPath": "/memory"},
            {"name": "cm", "mountPath": "/single", "subPath": "key"}]}]});
    world.create("volumes", spec);
    world.ready("volumes").await?;
    let show = async |path: &str| exec(world, "volumes", &["/kobune", "tool", "show", path]).await;
    ensure!(show("/cm/key").await?.0 == "value\n");
    ensure!(show("/single").await?.0 == "value\n");
    ensure!(show("/all/token").await?.0 == "a-token\n");
    ensure!(show("/all/name").await?.0 == "volumes\n");
    let mut map = world.api.get("/api/v1/namespaces/ns/configmaps/cm").expect("the map");
    map["data"]["key"] = json!("other");
    world.api.put("/api/v1/namespaces/ns/configmaps/cm", map);
    let begun = Instant::now();
    while show("/cm/key").await?.0 != "other\n" {
        ensure!(begun.elapsed() < crate::world::PATIENCE, "the file does not change");
    }
    world.delete("volumes", 1);
    world.gone("volumes").await
}

async fn restarts_what_crashes(world: &mut World) -> Result<()> {
    world.create("crash", json!({"containers": [{"name": "c", "run": "exit 4"}]}));
    let pod = world
        .wait("crash", "backing off", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await?;
    let container = &pod["status"]["containerStatuses"][0];
    ensure!(container["restartCount"] == 1 && container["lastState"]["terminated"]["exitCode"] == 4, "{container:#}");
    let message = container["state"]["waiting"]["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("back-off 10s restarting failed container=c pod=crash_ns("), "{message}");
    ensure!(pod["status"]["phase"] == "Running", "{pod:#}");
    world.delete("crash", 30);
    world.gone("crash").await?;
    let reasons = world.reasons("crash");
    for reason in ["Pulled", "Created", "Started", "BackOff"] {
        ensure!(reasons.iter().any(|known| known == reason), "no event {reason}: {reasons:?}");
    }
    Ok(())
}

async fn init_containers_and_sidecars(world: &mut World) -> Result<()> {
    world.create(
        "init",
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "initContainers": [
            {"name": "first", "run": "exit 0"}, {"name": "side", "run": "hold", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "run": "exit 0"}]}),
    );
    let pod = world.phase("init", "Succeeded").await?;
    ensure!(condition(&pod, "Initialized") == "True", "{pod:#}");
    ensure!(pod["status"]["initContainerStatuses"][1]["state"]["terminated"].is_object(), "{pod:#}");
    world.create("init-fails", json!({"restartPolicy": "Never", "initContainers": [{"name": "first", "run": "exit 1"}], "containers": [{"name": "c", "run": "hold"}]}));
    let pod = world.phase("init-fails", "Failed").await?;
    ensure!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing", "{pod:#}");
    for name in ["init", "init-fails"] {
        world.delete(name, 1);
        world.gone(name).await?;
    }
    Ok(())
}

async fn probes_decide(world: &mut World) -> Result<()> {
    let http = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    let tcp = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30});
    world.create(
        "probed",
        json!({"terminationGracePeriodSeconds": 1, "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "c", "run": "serve 8080", "startupProbe": tcp, "readinessProbe": http,
                "livenessProbe": {"exec": {"command": ["/kobune", "tool", "exit", "0"]}, "periodSeconds": 1},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
                {"name": "weak", "run": "hold", "livenessProbe": {"exec": {"command": ["/kobune", "tool", "exit", "1"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    world.wait("probed", "ready", |pod| pod["status"]["containerStatuses"][0]["ready"] == true).await?;
    let restarted =
        |pod: &Value| pod["status"]["containerStatuses"][1]["restartCount"].as_u64().is_some_and(|count| count > 0);
    world.wait("probed", "restarted", restarted).await?;
    ensure!(world.reasons("probed").iter().any(|reason| reason == "Unhealthy"));
    world.delete("probed", 1);
    world.gone("probed").await
}

/// A probe whose command never ends counts as failed after its time, and no other pod waits for it.
async fn a_hung_probe_concerns_its_container_only(world: &mut World) -> Result<()> {
    let probe = json!({"exec": {"command": ["/kobune", "tool", "hold"]}, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 1});
    world.create(
        "hung",
        json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "run": "hold", "livenessProbe": probe}, {"name": "beside", "run": "hold"}]}),
    );
    world.phase("hung", "Running").await?;
    world.create("other", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "run": "hold"}]}));
    world.ready("other").await?;
    let count = |pod: &Value, index: usize| pod["status"]["containerStatuses"][index]["restartCount"].as_u64();
    let of = |pod: &Value, name: &str| {
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        count(pod, statuses.iter().position(|status| status["name"] == name)?)
    };
    let pod = world.wait("hung", "restarted", |pod| of(pod, "c").is_some_and(|count| count > 0)).await?;
    ensure!(of(&pod, "beside") == Some(0), "{:#}", pod["status"]);
    ensure!(world.reasons("hung").iter().any(|reason| reason == "Unhealthy"), "{:?}", world.reasons("hung"));
    for name in ["hung", "other"] {
        world.delete(name, 1);
        world.gone(name).await?;
    }
    Ok(())
}

/// Runs a command in a pod's container `c`: what it writes, and the status on the error channel.
pub async fn exec(world: &World, pod: &str, command: &[&str]) -> Result<(String, Value)> {
    let words: Vec<String> = command
        .iter()
        .map(|word| {
            format!("command={}", percent_encoding::utf8_percent_encode(word, percent_encoding::NON_ALPHANUMERIC))
        })
        .collect();
    let uri = format!("wss://node/exec/ns/{pod}/c?{}&stdin=true&stdout=true&stderr=true", words.join("&"));
    let request = http::Request::get(uri)
        .header("host", "node")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(())?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, world.connect().await?).await?;
    socket.send(Message::Binary(b"\0typed".to_vec().into())).await?;
    socket.send(Message::Binary(vec![255, 0].into())).await?;
    let (mut text, mut status) = (String::new(), Value::Null);
    while let Some(message) = socket.next().await {
        let bytes = match message? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => break,
            _ => continue,
        };
        match bytes.first() {
            Some(1 | 2) => text.push_str(&String::from_utf8_lossy(&bytes[1..])),
            Some(3) => status = serde_json::from_slice(&bytes[1..])?,
            _ => {}
        }
    }
    Ok((text, status))
}

async fn commands_and_logs(world: &mut World) -> Result<()> {
    world.create("exec", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "run": "hold"}]}));
    world.ready("exec").await?;
    let (text, status) = exec(world, "exec", &["/kobune", "tool", "cat"]).await?;
    ensure!(text == "typed" && status["details"]["causes"][0]["message"] == "7", "{text} {status}");
    let (text, status) = exec(world, "exec", &["/kobune", "tool", "show", "/etc/hostname"]).await?;
    ensure!(text == "exec\n" && status["status"] == "Success", "{text} {status}");
    let (_, status) = exec(world, "exec", &["/nothing"]).await?;
    ensure!(status["status"] == "Failure", "{status}");
    ensure!(world.written("exec", "c").await? == "holding\n");
    ensure!(world.fetch("/containerLogs/ns/exec/c?timestamps=true&tailLines=1").await?.ends_with("Z holding\n"));
    let summary: Value = serde_json::from_str(&world.fetch("/stats/summary").await?)?;
    let own = summary["pods"].as_array().into_iter().flatten().find(|pod| pod["podRef"]["name"] == "exec");
    let memory = own.and_then(|pod| pod["containers"][0]["memory"]["workingSetBytes"].as_u64());
    ensure!(memory.is_some_and(|bytes| bytes > 0), "{summary:#}");
    if std::path::Path::new("/proc/pressure/cpu").exists() {
        ensure!(summary["node"]["cpu"]["psi"]["some"]["total"].is_u64(), "{summary:#}");
        let metrics = world.fetch("/metrics/cadvisor").await?;
        ensure!(metrics.contains("container_pressure_memory_waiting_seconds_total{id=\"/\"}"), "{metrics}");
    }
    world.fetch("/metrics/resource").await?;
    let follow = world.fetch("/containerLogs/ns/exec/c?follow=true");
    let end = async {
        world.delete("exec", 1);
        world.gone("exec").await
    };
    let (log, gone) = tokio::join!(follow, end);
    gone?;
    ensure!(log? == "holding\n");
    Ok(())
}

async fn forwards_ports(world: &mut World) -> Result<()> {
    world.create("port", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "run": "serve 8080", "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}));
    world.ready("port").await?;
    let request = http::Request::get("wss://node/portForward/ns/port?ports=8080")
        .header("host", "node")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(())?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, world.connect().await?).await?;
    socket.send(Message::Binary(b"\0GET / HTTP/1.0\r\n\r\n".to_vec().into())).await?;
    let mut text = String::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        // The first message of a channel is its port.
        if bytes.first() == Some(&0) && bytes.len() != 3 {
            text.push_str(&String::from_utf8_lossy(&bytes[1..]));
        }
    }
    ensure!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    world.delete("port", 1);
    world.gone("port").await
}

fn limits(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": "50m", "memory": "1Mi"}, "limits": {"cpu": cpu, "memory": memory}})
}

/// Reason and message of a condition that is there.
fn resize_condition(pod: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    ensure_generation(found, pod);
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("reason"), text("message")))
}

fn ensure_generation(condition: &Value, pod: &Value) {
    assert_eq!(condition["observedGeneration"], pod["metadata"]["generation"], "{condition}");
}

/// Whether the status says that the container runs with this and nothing is under way.
fn settled(pod: &Value, resources: &Value) -> bool {
    let status = &pod["status"]["containerStatuses"][0];
    status["resources"] == *resources
        && status["allocatedResources"] == resources["requests"]
        && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
        && condition(pod, "PodResizePending").is_empty()
        && condition(pod, "PodResizeInProgress").is_empty()
}

async fn resizes_in_place(world: &mut World) -> Result<()> {
    let container = json!({"name": "c", "run": "hold", "resources": limits("200m", "64Mi"),
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}]});
    world.create("grow", json!({"terminationGracePeriodSeconds": 0, "containers": [container]}));
    let pod = world.ready("grow").await?;
    ensure!(settled(&pod, &limits("200m", "64Mi")), "{:#}", pod["status"]);
    let file = world.cpu_file(&pod, "burstable")?;
    let mut took = Vec::new();
    for round in 0..60 {
        let cpu = if round % 2 == 0 { 300 } else { 200 };
        world.resize("grow", limits(&format!("{cpu}m"), "64Mi"));
        let begun = Instant::now();
        let wanted = (cpu * 100).to_string();
        while std::fs::read_to_string(&file)?.split_whitespace().next() != Some(&wanted) {
            ensure!(begun.elapsed() < crate::world::PATIENCE, "the limit does not come");
            tokio::task::yield_now().await;
        }
        took.push(begun.elapsed());
    }
    took.sort();
    println!("  from the change to the limit in the cgroup: median {:?}, p95 {:?}", took[30], took[57]);
    let pod = world.wait("grow", "resized", |pod| settled(pod, &limits("200m", "64Mi"))).await?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{:#}", pod["status"]);

    // Less than is in use is refused, shown, and taken back.
    world.resize("grow", limits("200m", "8Ki"));
    let pod = world.wait("grow", "refused", |pod| resize_condition(pod, "PodResizeInProgress").is_some()).await?;
    let (reason, message) = resize_condition(&pod, "PodResizeInProgress").unwrap_or_default();
    ensure!(reason == "Error" && message.contains("memory limit (8192) below current usage"), "{reason} {message}");
    ensure!(pod["status"]["containerStatuses"][0]["resources"] == limits("200m", "64Mi"), "{:#}", pod["status"]);
    world.resize("grow", limits("200m", "32Mi"));
    world.wait("grow", "resized again", |pod| settled(pod, &limits("200m", "32Mi"))).await?;

    // More than the node has is never granted.
    let too_much = json!({"requests": {"cpu": "9000"}, "limits": {"cpu": "9000", "memory": "32Mi"}});
    world.resize("grow", too_much);
    let pod = world.wait("grow", "refused", |pod| condition(pod, "PodResizePending") == "True").await?;
    let (reason, message) = resize_condition(&pod, "PodResizePending").unwrap_or_default();
    ensure!(
        reason == "Infeasible" && message.starts_with("Node didn't have enough capacity: cpu"),
        "{reason} {message}"
    );
    world.resize("grow", limits("200m", "32Mi"));
    world.wait("grow", "settled", |pod| settled(pod, &limits("200m", "32Mi"))).await?;
    for reason in ["ResizeStarted", "ResizeCompleted", "ResizeError", "ResizeInfeasible"] {
        ensure!(world.reasons("grow").contains(&reason.to_owned()), "{:?}", world.reasons("grow"));
    }

    // What was granted survives the end of kobune; what was asked for meanwhile is granted when it is back.
    world.stop().await?;
    world.resize("grow", limits("400m", "32Mi"));
    world.start().await?;
    let pod = world.wait("grow", "resized", |pod| settled(pod, &limits("400m", "32Mi"))).await?;
    ensure!(std::fs::read_to_string(&file)?.starts_with("40000"));
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{:#}", pod["status"]);

    // A policy may want a restart; it counts as one and nothing backs off.
    let mut pod = world.api.get(&World::path("grow")).expect("the pod");
    pod["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    world.api.put(&World::path("grow"), pod);
    for (restarts, memory) in [(1, "48Mi"), (2, "40Mi")] {
        world.resize("grow", limits("400m", memory));
        let done = |pod: &Value| {
            settled(pod, &limits("400m", memory))
                && pod["status"]["containerStatuses"][0]["restartCount"] == restarts
                && condition(pod, "Ready") == "True"
        };
        world.wait("grow", "restarted with its new memory", done).await?;
    }
    world.delete("grow", 0);
    world.gone("grow").await
}

async fn resizes_wait_for_room(world: &mut World) -> Result<()> {
    let node = world.api.get("/api/v1/nodes/n").unwrap_or_default();
    let cpus: i64 = node["status"]["allocatable"]["cpu"].as_str().and_then(|text| text.parse().ok()).unwrap_or(1);
    let of = |milli: i64| json!({"requests": {"cpu": format!("{milli}m")}});
    let spec = |milli: i64, priority: i64| {
        json!({"priority": priority, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "run": "hold", "resources": of(milli)}]})
    };
    world.create("large", spec(cpus * 1000 - 300, 0));
    world.create("low", spec(100, 0));
    world.create("high", spec(100, 10));
    for name in ["large", "low", "high"] {
        world.ready(name).await?;
    }
    // One that has no room is turned away, with upstream's words.
    world.create("late", spec(200, 0));
    let pod = world.phase("late", "Failed").await?;
    ensure!(pod["status"]["reason"] == "OutOfcpu", "{:#}", pod["status"]);
    ensure!(
        pod["status"]["message"].as_str().is_some_and(
            |text| text.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 200")
        ),
        "{:#}",
        pod["status"]
    );
    for name in ["low", "high"] {
        world.resize(name, of(cpus * 1000 - 200));
        let pod = world.wait(name, "deferred", |pod| condition(pod, "PodResizePending") == "True").await?;
        ensure!(resize_condition(&pod, "PodResizePending").is_some_and(|(reason, _)| reason == "Deferred"));
        ensure!(pod["status"]["containerStatuses"][0]["allocatedResources"] == json!({"cpu": "100m"}));
    }
    world.delete("large", 0);
    let wanted = of(cpus * 1000 - 200);
    world.wait("high", "granted", |pod| settled(pod, &wanted)).await?;
    let low = world.api.get(&World::path("low")).unwrap_or_default();
    ensure!(condition(&low, "PodResizePending") == "True", "{:#}", low["status"]);
    world.delete("high", 0);
    world.wait("low", "granted", |pod| settled(pod, &wanted)).await?;
    for name in ["low", "late"] {
        world.delete(name, 0);
    }
    for name in ["large", "high", "low", "late"] {
        world.gone(name).await?;
    }
    Ok(())
}

async fn evicts_when_the_machine_runs_short(world: &mut World) -> Result<()> {
    let hold = |priority: i32| json!({"priority": priority, "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "run": "hold"}]});
    world.create("vital", hold(2_000_000_000));
    world.create("lesser", hold(0));
    world.create("least", hold(-5));
    for name in ["vital", "lesser", "least"] {
        world.ready(name).await?;
    }
    world.stop().await?;
    world.eviction = vec![kobune_node::Threshold::parse("memory.available<99.9%", None)?];
    world.start().await?;
    let pod = world.phase("least", "Failed").await?;
    ensure!(pod["status"]["reason"] == "Evicted", "{:#}", pod["status"]);
    ensure!(
        pod["status"]["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("The node was low on resource: memory. ")),
        "{:#}",
        pod["status"]
    );
    ensure!(condition(&pod, "DisruptionTarget") == "True", "{:#}", pod["status"]);
    world.phase("lesser", "Failed").await?;
    world
        .until("the node says that it is short", async |world| {
            let node = world.api.get("/api/v1/nodes/n").unwrap_or_default();
            if condition(&node, "MemoryPressure") == "True" { Ok(()) } else { Err(format!("{node:#}")) }
        })
        .await?;
    // One that asks for nothing is not let in now.
    world.create("late", hold(0));
    let late = world.phase("late", "Failed").await?;
    ensure!(
        late["status"]["message"] == "Pod was rejected: The node had condition: [MemoryPressure]. ",
        "{:#}",
        late["status"]
    );
    let vital = world.api.get(&World::path("vital")).unwrap_or_default();
    ensure!(vital["status"]["phase"] == "Running", "{:#}", vital["status"]);
    world.stop().await?;
    world.eviction = Vec::new();
    world.start().await?;
    for name in ["vital", "lesser", "least", "late"] {
        world.delete(name, 0);
        world.gone(name).await?;
    }
    Ok(())
}

async fn shows_the_files_of_an_image(world: &mut World) -> Result<()> {
    let image = json!({"reference": kobune_runtime::SELF_IMAGE, "pullPolicy": "IfNotPresent"});
    let mounts =
        json!([{"name": "files", "mountPath": "/files"}, {"name": "files", "mountPath": "/part", "subPath": "etc"}]);
    let volumes = json!([{"name": "files", "image": image}]);
    let container = json!({"name": "c", "run": "show /files/etc/passwd /part/passwd", "volumeMounts": mounts});
    world.create("files", json!({"restartPolicy": "Never", "containers": [container], "volumes": volumes}));
    let pod = world.phase("files", "Succeeded").await?;
    let log = world.log("files", "c").await?;
    ensure!(log.lines().filter(|line| line.starts_with("root:")).count() == 2, "{log}");
    let shown = &pod["status"]["containerStatuses"][0]["volumeMounts"][0];
    ensure!(shown["volumeStatus"]["image"]["imageRef"].as_str().is_some_and(|id| id.contains("sha256:")), "{shown}");

    let missing = json!([{"name": "files", "image": {"reference": "kobune.local/none", "pullPolicy": "Never"}}]);
    let container = json!({"name": "c", "run": "exit 0", "volumeMounts": [{"name": "files", "mountPath": "/files"}]});
    world.create("missing", json!({"containers": [container], "volumes": missing}));
    world
        .wait("missing", "waiting", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
        })
        .await?;
    for name in ["files", "missing"] {
        world.delete(name, 0);
        world.gone(name).await?;
    }
    Ok(())
}

/// The exit of one container starts the whole pod anew, init containers first, where it is.
async fn restarts_all_containers_together(world: &mut World) -> Result<()> {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let volume = json!([{"name": "v", "mountPath": "/v"}]);
    world.create(
        "together",
        json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "initContainers": [{"name": "i", "run": "exit 0"}],
            "containers": [
                {"name": "a", "run": "hold"},
                // The file that it leaves in the volume is still there the second time.
                {"name": "b", "run": "once /v/mark 42", "restartPolicyRules": rule, "restartPolicy": "Never", "volumeMounts": volume},
            ],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }),
    );
    let count = |status: &Value| status["restartCount"].as_i64();
    let pod = world
        .wait("together", "restarted", |pod| {
            let (init, main) = (&pod["status"]["initContainerStatuses"], &pod["status"]["containerStatuses"]);
            let all = [&init[0], &main[0], &main[1]].into_iter().all(|status| count(status) == Some(1));
            all && condition(pod, "Ready") == "True"
        })
        .await?;
    ensure!(condition(&pod, "AllContainersRestarting") == "False", "{pod:#}");
    let pod = world.api.get(&World::path("together")).unwrap_or_default();
    ensure!(pod["status"]["phase"] == "Running", "{pod:#}");
    world.delete("together", 1);
    world.gone("together").await
}

/// A machine that boots while its API server is away starts its pods from what is on disk.
async fn comes_back_without_the_api_server(world: &mut World) -> Result<()> {
    let container = json!({"name": "c", "run": "env KEY KUBERNETES_SERVICE_HOST",
        "env": [{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}}]});
    let hold = json!({"name": "hold", "run": "hold"});
    world.create("away", json!({"terminationGracePeriodSeconds": 0, "containers": [container, hold]}));
    world
        .wait("away", "run once", |pod| pod["status"]["containerStatuses"][0]["lastState"]["terminated"].is_object())
        .await?;
    world.stop().await?;
    world.reboot().await?;
    world.api.set_down(true);
    world.start().await?;
    world
        .until("the pod comes back", async |world| {
            let log = world.log("away", "c").await.unwrap_or_default();
            let metrics = world.fetch("/metrics").await.unwrap_or_default();
            let runs = metrics.contains("kubelet_running_containers{container_state=\"running\"}");
            let has_key = log.lines().any(|line| line.starts_with("KEY=") && line.len() > 4);
            let told = has_key && log.contains("KUBERNETES_SERVICE_HOST=10.96.0.1");
            if runs && told { Ok(()) } else { Err(format!("{log}\n{metrics}")) }
        })
        .await?;
    world.api.set_down(false);
    world
        .wait("away", "told of", |pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1))
        .await?;
    world.delete("away", 0);
    world.gone("away").await
}

async fn says_what_is_wrong(world: &mut World) -> Result<()> {
    let class = json!({"metadata": {"name": "strange"}, "handler": "nobody"});
    world.api.put("/apis/node.k8s.io/v1/runtimeclasses/strange", class);
    world.create("strange", json!({"runtimeClassName": "strange", "containers": [{"name": "c", "run": "hold"}]}));
    world
        .until("the pod's event says what is wrong", async |world| {
            let reasons = world.reasons("strange");
            if reasons.contains(&"FailedCreatePodSandBox".to_owned()) { Ok(()) } else { Err(format!("{reasons:?}")) }
        })
        .await?;
    ensure!(world.api.get(&World::path("strange")).unwrap_or_default()["status"]["phase"] != "Running");
    world.delete("strange", 0);
    world.gone("strange").await?;
    let enforced = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if !enforced.starts_with('Y') {
        let profile = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        world.create("armor", json!({"containers": [{"name": "c", "run": "hold", "securityContext": profile}]}));
        let pod = world.phase("armor", "Failed").await?;
        ensure!(
            pod["status"]["reason"] == "AppArmor"
                && pod["status"]["message"]
                    == "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host",
            "{pod:#}"
        );
        world.delete("armor", 0);
        world.gone("armor").await?;
    }
    let waiting = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned()
    };
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "k"}}}]);
    world
        .create("config", json!({"restartPolicy": "Never", "containers": [{"name": "c", "run": "env A", "env": env}]}));
    world.create("name", json!({"containers": [{"name": "c", "image": "BAD NAME", "run": "hold"}]}));
    world.create(
        "root",
        json!({"containers": [{"name": "c", "run": "hold", "securityContext": {"runAsNonRoot": true}}]}),
    );
    world.create("start", json!({"containers": [{"name": "c", "command": ["/nothing"]}]}));
    let pod = world.wait("config", "wrong", |pod| waiting(pod) == "CreateContainerConfigError").await?;
    ensure!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"] == "configmap \"later\" not found",
        "{pod:#}"
    );
    world.wait("name", "wrong", |pod| waiting(pod) == "InvalidImageName").await?;
    world.wait("root", "wrong", |pod| waiting(pod) == "CreateContainerConfigError").await?;
    world
        .wait("start", "wrong", |pod| matches!(waiting(pod).as_str(), "RunContainerError" | "CrashLoopBackOff"))
        .await?;
    // What was missing arrives: no waiting for another try.
    world.api.put(
        "/api/v1/namespaces/ns/configmaps/later",
        json!({"metadata": {"name": "later", "namespace": "ns"}, "data": {"k": "here"}}),
    );
    world.phase("config", "Succeeded").await?;
    ensure!(world.log("config", "c").await? == "A=here\n");
    for name in ["config", "name", "root", "start"] {
        world.delete(name, 1);
        world.gone(name).await?;
    }
    Ok(())
}

async fn survives_a_restart(world: &mut World) -> Result<()> {
    let probe = json!({"httpGet": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    let serving = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30});
    for name in ["stays", "goes"] {
        let container = json!({"name": "c", "run": "serve 8080", "startupProbe": serving, "readinessProbe": probe, "livenessProbe": probe});
        world.create(name, json!({"terminationGracePeriodSeconds": 1, "containers": [container]}));
        world.ready(name).await?;
    }
    let before = world.api.get(&World::path("stays")).expect("the pod");
    world.stop().await?;
    world.api.remove(&World::path("goes"));
    world.start().await?;
    world.create("new", json!({"restartPolicy": "Never", "containers": [{"name": "c", "run": "exit 0"}]}));
    world.phase("new", "Succeeded").await?;
    let (_, status) = exec(world, "stays", &["/kobune", "tool", "exit", "0"]).await?;
    ensure!(status["status"] == "Success", "{status}");
    let after = world.api.get(&World::path("stays")).expect("the pod");
    ensure!(before["status"] == after["status"], "before {:#}\nafter {:#}", before["status"], after["status"]);
    for name in ["stays", "new"] {
        world.delete(name, 1);
        world.gone(name).await?;
    }
    Ok(())
}
