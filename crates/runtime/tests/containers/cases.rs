//! The tests.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kobune_runtime::{
    ContainerEventKind, ContainerState, ExecOptions, Mount, Resize, ResizeError, Resources, SandboxState,
    SeccompProfile,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{PATIENCE, World, tool};

type Case = fn(Arc<World>) -> Pin<Box<dyn Future<Output = Result<()>>>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), |world| Box::pin($name(world)))),*] };
}

/// Runs all tests, or those whose name contains a text.
pub fn run(filter: Option<&str>) -> ExitCode {
    let all: [(&str, Case); 16] = cases![
        an_archive_runs,
        a_registry_is_pulled_from,
        exit_codes_and_logs,
        a_missing_program_is_named,
        what_a_pod_shares,
        rights_are_bounded,
        mounts_are_shown,
        commands_run_beside,
        a_terminal_is_one,
        standard_input_reaches_in,
        stopping_asks_first,
        memory_has_a_bound,
        a_shared_process_namespace,
        other_runtimes_run_the_same,
        a_killed_kobune_changes_nothing,
        a_killed_shim_is_noticed,
    ];
    if !nix::unistd::geteuid().is_root() {
        for (name, _) in all {
            println!("test {name} ... skipped: needs root");
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, case) in all.into_iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter))) {
        let started = Instant::now();
        match one(case) {
            Ok(()) => println!("test {name} ... ok ({} ms)", started.elapsed().as_millis()),
            Err(error) => {
                println!("test {name} ... FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(case: Case) -> Result<()> {
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let world = Arc::new(executor.block_on(World::new())?);
    let result = executor.block_on(async {
        tokio::time::timeout(3 * PATIENCE, case(world.clone())).await.context("it takes too long")?
    });
    drop(executor);
    result.and(world.end())
}

async fn an_archive_runs(world: Arc<World>) -> Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut layer = tar::Builder::new(Vec::new());
    let program = std::fs::read("/proc/self/exe")?;
    add(&mut layer, "app/program", 0o755, &program)?;
    add(&mut layer, "etc/passwd", 0o644, b"root:x:0:0::/root:/x\nweb:x:33:34::/srv:/x\n")?;
    add(&mut layer, "etc/group", 0o644, b"logs:x:40:web\n")?;
    let layer = layer.into_inner()?;
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Entrypoint": ["/app/program", "tool"], "Cmd": ["file", "/proc/self/status"], "User": "web", "WorkingDir": "/app", "Env": ["PATH=/app", "KIND=image"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    add(&mut archive, "layer.tar", 0o644, &layer)?;
    add(&mut archive, "config.json", 0o644, config.to_string().as_bytes())?;
    let index =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["example.org/tools:1"], "Layers": ["layer.tar"]}]);
    add(&mut archive, "manifest.json", 0o644, index.to_string().as_bytes())?;
    let bytes = archive.into_inner()?;

    let images = world.runtime.images().clone();
    let cut = bytes[..bytes.len() / 2].to_vec();
    let compressed = zstd::encode_all(&bytes[..], 1)?;
    let names = tokio::task::spawn_blocking(move || -> Result<Vec<String>> {
        let before = images.list().len();
        let error = images.load(&cut[..]).err().context("half an archive was taken")?;
        ensure!(error.to_string().contains("archive is broken"), "{error}");
        ensure!(images.list().len() == before, "half an archive has left an image");
        Ok(images.load(&compressed[..])?)
    })
    .await??;
    ensure!(names == ["example.org/tools:1"], "{names:?}");

    let sandbox = world.sandbox().await?;
    let mut container = tool(&[]);
    container.image = "example.org/tools:1".to_owned();
    container.args = None;
    container.log_path = Some("archive/0.log".into());
    let (code, log) = world.finish(&sandbox, container.clone()).await?;
    ensure!(code == 0, "code {code}: {log}");
    ensure!(log.contains("Uid:\t33\t33\t33\t33") && log.contains("Gid:\t34\t34"), "{log}");
    ensure!(log.contains("Groups:\t40"), "{log}");
    container.args = Some(vec!["env".to_owned(), "HOME".to_owned()]);
    container.log_path = Some("archive/1.log".into());
    ensure!(world.finish(&sandbox, container).await?.1 == "stdout F /srv");
    Ok(())
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A registry of one image: two platforms in its index, gzip layers.
async fn a_registry_is_pulled_from(world: Arc<World>) -> Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "app", 0o755, &std::fs::read("/proc/self/exe")?)?;
    let layer = layer.into_inner()?;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &layer)?;
    let packed = packed.finish()?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config =
        serde_json::json!({"architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/app", "tool"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}})
        .to_string()
        .into_bytes();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&packed), "size": packed.len()}]})
    .to_string()
    .into_bytes();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture}}]})
    .to_string()
    .into_bytes();
    let index_digest = digest(&index);
    let mut wrong = config.clone();
    wrong.push(b' ');
    let bad = serde_json::json!({"schemaVersion": 2, "config": {"digest": digest(b"other"), "size": wrong.len()}, "layers": []}).to_string().into_bytes();
    let files = std::collections::HashMap::from([
        ("/v2/".to_owned(), b"{}".to_vec()),
        ("/v2/team/app/manifests/v1".to_owned(), index.clone()),
        (format!("/v2/team/app/manifests/{}", digest(&manifest)), manifest.clone()),
        (format!("/v2/team/app/manifests/{index_digest}"), index),
        (format!("/v2/team/app/blobs/{}", digest(&config)), config),
        (format!("/v2/team/app/blobs/{}", digest(&packed)), packed),
        ("/v2/team/app/manifests/bad".to_owned(), bad),
        (format!("/v2/team/app/blobs/{}", digest(b"other")), wrong),
    ]);
    let address = crate::world::serve(files)?;
    let images = world.runtime.images();
    let name = format!("{address}/team/app:v1");
    let image = images.pull(&name, None).await?;
    ensure!(
        image.tags == [name.clone()] && image.digests == [format!("{address}/team/app@{index_digest}")],
        "{image:?}"
    );
    ensure!(
        images.get(&image.digests[0]) == Some(image.clone()) && images.get(&image.id[7..20]) == Some(image.clone())
    );
    ensure!(images.pull(&image.digests[0], None).await?.id == image.id);
    let error =
        images.pull(&format!("{address}/team/app:missing"), None).await.err().context("it was found")?.to_string();
    ensure!(error.contains("failed to pull image") && error.contains("team/app:missing"), "{error}");
    let error = images.pull(&format!("{address}/team/app:bad"), None).await.err().context("it was taken")?.to_string();
    ensure!(error.to_lowercase().contains("digest"), "{error}");
    println!("  wrong content says: {error}");

    let sandbox = world.sandbox().await?;
    let mut container = tool(&["exit", "4"]);
    container.image = name.clone();
    ensure!(world.finish(&sandbox, container).await?.0 == 4);
    let images = images.clone();
    tokio::task::spawn_blocking(move || -> Result<()> {
        images.remove(&name)?;
        ensure!(images.get(&name).is_none() && images.get(&image.id).is_none(), "{:?}", images.list());
        Ok(images.remove(&name)?)
    })
    .await?
}

async fn exit_codes_and_logs(world: Arc<World>) -> Result<()> {
    let mut events = world.runtime.events();
    let sandbox = world.sandbox().await?;
    let (code, _) = world.finish(&sandbox, tool(&["exit", "3"])).await?;
    ensure!(code == 3, "code {code}");
    let (_, log) = world.finish(&sandbox, tool(&["print", "to-out", "to-err"])).await?;
    ensure!(log.contains("stdout F to-out") && log.contains("stderr F to-err"), "{log}");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(
            tokio::time::timeout(PATIENCE, events.next()).await.context("events are missing")??.map(|event| event.kind),
        );
    }
    ensure!(seen.contains(&ContainerEventKind::Exited(3)) && seen.contains(&ContainerEventKind::Exited(0)), "{seen:?}");
    let status = world
        .runtime
        .containers()
        .into_iter()
        .find(|status| status.exit_code == Some(3))
        .context("its status is gone")?;
    ensure!(
        status.state == ContainerState::Exited
            && status.reason == "Error"
            && status.started_at.is_some()
            && status.finished_at.is_some()
    );

    // For the record: what a container's way from nothing costs.
    let mut times = Vec::new();
    for _ in 0..10 {
        let started = Instant::now();
        let mut config = world.sandbox_config();
        config.uid = format!("timing-{}", times.len());
        let sandbox = world.runtime.run_pod_sandbox(config).await?;
        let made = started.elapsed();
        let id = world.run(&sandbox, tool(&["hold"])).await?;
        times.push((started.elapsed(), made));
        world.runtime.stop_container(&id, Duration::ZERO, None).await?;
        world.runtime.remove_pod_sandbox(&sandbox).await?;
    }
    times.sort();
    println!("  sandbox and container: median {:?}, of which the sandbox {:?}", times[5].0, times[5].1);
    Ok(())
}

async fn a_missing_program_is_named(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let mut config = tool(&[]);
    config.command = Some(vec!["no-such-program".to_owned()]);
    config.log_path = None;
    let id = world.runtime.create_container(&sandbox, config).await?;
    let error = world.runtime.start_container(&id).await.err().context("it was started")?.to_string();
    ensure!(error == "exec: \"no-such-program\": executable file not found in $PATH", "{error}");
    let status = world.runtime.container(&id).context("it is gone")?;
    ensure!(status.exit_code == Some(128) && status.reason == "StartError", "{status:?}");
    Ok(())
}

async fn what_a_pod_shares(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let first = world.run(&sandbox, tool(&["hold"])).await?;
    let mut second = tool(&["hold"]);
    second.log_path = Some("second.log".into());
    let second = world.run(&sandbox, second).await?;
    let say = async |id, words: &[&str]| -> Result<String> {
        let command = ["/kobune", "tool"].iter().chain(words).map(ToString::to_string).collect();
        let result = world.runtime.exec_sync(id, command, PATIENCE).await?;
        ensure!(result.exit_code == 0, "{words:?}: {result:?}");
        Ok(String::from_utf8(result.stdout)?)
    };
    ensure!(say(&first, &["file", "/proc/sys/kernel/hostname"]).await? == "the-pod\n");
    ensure!(say(&first, &["file", "/etc/hostname"]).await? == "the-pod\n");
    ensure!(say(&first, &["file", "/etc/resolv.conf"]).await? == "nameserver 10.96.0.10\n");
    ensure!(say(&first, &["env", "HOSTNAME"]).await? == "the-pod\n");
    ensure!(say(&first, &["file", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).await? == "0\n");
    say(&first, &["write", "/dev/shm/note", "shared"]).await?;
    ensure!(say(&second, &["file", "/dev/shm/note"]).await? == "shared");
    say(&first, &["write", "/tmp/note", "own"]).await?;
    ensure!(say(&second, &["list", "/tmp"]).await? == "\n");
    ensure!(say(&first, &["list", "/"]).await?.contains("kobune"));
    let stats = world.runtime.stats(&first)?;
    ensure!(
        stats.memory_usage > 0 && stats.pids >= 1 && world.runtime.disk_usage(&first)?.writable_layer.inodes >= 1,
        "{stats:?}"
    );
    let private = private_kilobytes(
        world.runtime.pod_sandbox(&sandbox).and_then(|status| status.shim_pid).context("there is no shim")?,
    )?;
    println!("  a shim with two containers has {private} KiB of its own");
    Ok(())
}

fn private_kilobytes(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    Ok(lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}

async fn rights_are_bounded(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let mut config = tool(&["file", "/proc/self/status"]);
    config.security.seccomp = SeccompProfile::RuntimeDefault;
    let (code, log) = world.finish(&sandbox, config.clone()).await?;
    ensure!(code == 0 && log.contains("CapEff:\t00000000a80425fb") && log.contains("Seccomp:\t2"), "{code} {log}");
    config.security.drop_capabilities = vec!["ALL".to_owned()];
    config.security.add_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
    config.security.no_new_privileges = true;
    config.security.run_as_user = Some(1000);
    config.security.run_as_group = Some(3000);
    config.security.supplemental_groups = vec![2000];
    config.security.read_only_root = true;
    config.log_path = Some("less.log".into());
    let (code, log) = world.finish(&sandbox, config.clone()).await?;
    ensure!(code == 0 && log.contains("CapBnd:\t0000000000000400") && log.contains("NoNewPrivs:\t1"), "{code} {log}");
    ensure!(log.contains("Uid:\t1000") && log.contains("Gid:\t3000") && log.contains("Groups:\t2000"), "{log}");
    config.args = Some(["write", "/x", "y"].iter().map(ToString::to_string).collect());
    ensure!(world.finish(&sandbox, config).await?.0 == 1, "the root could be written");

    // A command has the same rights as its container.
    let mut config = tool(&["hold"]);
    config.security.seccomp = SeccompProfile::RuntimeDefault;
    config.security.drop_capabilities = vec!["ALL".to_owned()];
    let id = world.run(&sandbox, config).await?;
    let command = ["/kobune", "tool", "file", "/proc/self/status"].iter().map(ToString::to_string).collect();
    let result = world.runtime.exec_sync(&id, command, PATIENCE).await?;
    let status = String::from_utf8(result.stdout)?;
    ensure!(status.contains("CapBnd:\t0000000000000000") && status.contains("Seccomp:\t2"), "{status}");

    let mut config = tool(&["list", "/dev"]);
    config.security.privileged = true;
    config.log_path = Some("privileged.log".into());
    let (code, log) = world.finish(&sandbox, config).await?;
    ensure!(code == 0 && log.contains("kmsg"), "{code} {log}");
    Ok(())
}

async fn mounts_are_shown(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let host = world.folder.path().join("volume");
    std::fs::create_dir(&host)?;
    std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o777))?;
    let mut config = tool(&["write", "/data/deep/note", "hello"]);
    std::fs::create_dir(host.join("deep"))?;
    config.mounts = vec![Mount { host_path: host.clone(), container_path: "/data".into(), ..Mount::default() }];
    let (code, log) = world.finish(&sandbox, config.clone()).await?;
    ensure!(code == 0 && std::fs::read_to_string(host.join("deep/note"))? == "hello", "{code} {log}");
    config.mounts[0].read_only = true;
    config.log_path = Some("read-only.log".into());
    ensure!(world.finish(&sandbox, config.clone()).await?.0 == 1, "a read-only mount could be written");
    config.mounts[0].host_path = host.join("missing");
    ensure!(world.runtime.create_container(&sandbox, config).await.is_err(), "a missing path was taken");
    Ok(())
}

async fn commands_run_beside(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let id = world.run(&sandbox, tool(&["hold"])).await?;
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let result = world.runtime.exec_sync(&id, words(&["/kobune", "tool", "exit", "7"]), PATIENCE).await?;
    ensure!(result.exit_code == 7);
    let result = world.runtime.exec_sync(&id, words(&["/kobune", "tool", "print", "a", "b"]), PATIENCE).await?;
    ensure!(result.stdout == b"a\n" && result.stderr == b"b\n", "{result:?}");
    let error =
        world.runtime.exec_sync(&id, words(&["nothing"]), PATIENCE).await.err().context("it was found")?.to_string();
    ensure!(error.contains("executable file not found in $PATH"), "{error}");
    let error = world
        .runtime
        .exec_sync(&id, words(&["/kobune", "tool", "hold"]), Duration::from_millis(50))
        .await
        .err()
        .context("it has ended")?;
    ensure!(error.to_string().contains("timed out"), "{error}");

    let options = ExecOptions {
        command: words(&["/kobune", "tool", "cat"]),
        stdin: true,
        stdout: true,
        ..ExecOptions::default()
    };
    let mut streams = world.runtime.exec(&id, options).await?;
    let mut input = streams.stdin.take().context("there is no way in")?;
    input.write_all(b"through").await?;
    drop(input);
    let mut text = String::new();
    streams.stdout.take().context("there is no way out")?.read_to_string(&mut text).await?;
    ensure!(text == "through<end>\n" && streams.exit.await? == 0, "{text}");

    let mut times = Vec::new();
    for _ in 0..10 {
        let started = Instant::now();
        world.runtime.exec_sync(&id, words(&["/kobune", "tool", "exit", "0"]), PATIENCE).await?;
        times.push(started.elapsed());
    }
    times.sort();
    println!("  a command: median {:?}", times[5]);
    Ok(())
}

async fn a_terminal_is_one(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let mut config = tool(&["terminal"]);
    config.tty = true;
    let (code, log) = world.finish(&sandbox, config).await?;
    ensure!(code == 0 && log.contains("stdout F true"), "{code} {log}");
    let id = world.run(&sandbox, tool(&["hold"])).await?;
    let command = ["/kobune", "tool", "terminal"].iter().map(ToString::to_string).collect();
    let mut streams =
        world.runtime.exec(&id, ExecOptions { command, tty: true, stdin: true, stdout: true, stderr: false }).await?;
    streams.control.resize(100, 40)?;
    let mut text = String::new();
    streams.stdout.take().context("there is no way out")?.read_to_string(&mut text).await?;
    ensure!(text == "true\r\n" && streams.exit.await? == 0, "{text:?}");
    Ok(())
}

async fn standard_input_reaches_in(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let mut config = tool(&["cat"]);
    config.stdin = true;
    config.stdin_once = true;
    let id = world.run(&sandbox, config).await?;
    let mut streams = world.runtime.attach(&id).await?;
    let mut input = streams.stdin.take().context("there is no way in")?;
    input.write_all(b"once").await?;
    drop(input);
    let mut text = String::new();
    streams.stdout.take().context("there is no way out")?.read_to_string(&mut text).await?;
    ensure!(text == "once<end>\n" && streams.exit.await? == 0, "{text:?}");
    ensure!(world.log(&id)? == "stdout F once<end>");
    Ok(())
}

async fn stopping_asks_first(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let id = world.run(&sandbox, tool(&["stubborn"])).await?;
    let started = Instant::now();
    world.runtime.stop_container(&id, Duration::from_millis(300), None).await?;
    let status = world.runtime.container(&id).context("it is gone")?;
    ensure!(started.elapsed() >= Duration::from_millis(300), "the grace was not given");
    ensure!(status.exit_code == Some(137) && status.signal == Some(9), "{status:?}");
    world.runtime.stop_container(&id, Duration::ZERO, None).await?;
    world.runtime.remove_container(&id).await?;
    world.runtime.remove_container(&id).await?;
    ensure!(world.runtime.container(&id).is_none());
    world.runtime.remove_pod_sandbox(&sandbox).await?;
    world.runtime.remove_pod_sandbox(&sandbox).await?;
    Ok(())
}

async fn memory_has_a_bound(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let mut config = tool(&["eat", "200"]);
    config.resources = Resources {
        memory_limit: Some(48 << 20),
        cpu_shares: Some(512),
        pids_limit: Some(100),
        ..Resources::default()
    };
    config.resources.oom_score_adj = Some(-500);
    let id = world.run(&sandbox, config).await?;
    let code = tokio::time::timeout(PATIENCE, world.runtime.wait_container(&id)).await.context("it does not end")??;
    let status = world.runtime.container(&id).context("it is gone")?;
    ensure!(code == 137 && status.oom_killed && status.reason == "OOMKilled", "{status:?}");
    let id = world.run(&sandbox, tool(&["hold"])).await?;
    let memory = |bytes: i64| Resources { memory_limit: Some(bytes), ..Resources::default() };
    let resize = |pod: i64, container: i64| Resize {
        pod: Some(Resources { cpu_quota: Some(20_000), cpu_period: Some(100_000), ..memory(pod) }),
        containers: vec![(
            id.clone(),
            Resources { cpu_quota: Some(20_000), cpu_period: Some(100_000), ..memory(container) },
        )],
    };
    world.runtime.resize(&sandbox, resize(128 << 20, 64 << 20)).await?;
    ensure!(world.runtime.stats(&id)?.memory_limit == Some(64 << 20));
    ensure!(world.runtime.sandbox_stats(&sandbox)?.memory_limit == Some(128 << 20));
    // All or nothing: what is in use refuses the container, and the pod stays as it was.
    match world.runtime.resize(&sandbox, resize(256 << 20, 4096)).await {
        Err(error @ ResizeError::BelowUsage { .. }) => println!("  refused: {error}"),
        other => anyhow::bail!("{other:?}"),
    }
    ensure!(world.runtime.stats(&id)?.memory_limit == Some(64 << 20));
    ensure!(world.runtime.sandbox_stats(&sandbox)?.memory_limit == Some(128 << 20));
    world.runtime.resize(&sandbox, resize(32 << 20, 32 << 20)).await?;
    ensure!(world.runtime.sandbox_stats(&sandbox)?.memory_limit == Some(32 << 20));
    ensure!(world.runtime.container(&id).is_some_and(|status| status.resources.memory_limit == Some(32 << 20)));
    // Limits that are no longer asked for go.
    world.runtime.resize(&sandbox, Resize { pod: Some(Resources::default()), containers: Vec::new() }).await?;
    ensure!(world.runtime.sandbox_stats(&sandbox)?.memory_limit.is_none());
    Ok(())
}

async fn a_shared_process_namespace(world: Arc<World>) -> Result<()> {
    let mut config = world.sandbox_config();
    config.share_process_namespace = true;
    let sandbox = world.runtime.run_pod_sandbox(config).await?;
    let (_, log) = world.finish(&sandbox, tool(&["pid"])).await?;
    ensure!(log != "stdout F 1", "it is the first process of its own namespace");
    let own = world.sandbox_config();
    let other = world.runtime.run_pod_sandbox(kobune_runtime::SandboxConfig { uid: "other".to_owned(), ..own }).await?;
    let mut config = tool(&["pid"]);
    config.log_path = Some("own.log".into());
    let (_, log) = world.finish(&other, config).await?;
    ensure!(log == "stdout F 1", "{log}");
    // One that is to look at another enters its namespace.
    let mut config = tool(&["hold"]);
    config.log_path = Some("hold.log".into());
    let target = world.run(&other, config).await?;
    let mut config = tool(&["pid"]);
    (config.log_path, config.process_target) = (Some("debug.log".into()), Some(target));
    let (_, log) = world.finish(&other, config).await?;
    ensure!(log != "stdout F 1", "{log}");
    Ok(())
}

/// What a container does must not depend on who starts it.
async fn other_runtimes_run_the_same(world: Arc<World>) -> Result<()> {
    let wrong = kobune_runtime::SandboxConfig { runtime_handler: "nobody".to_owned(), ..world.sandbox_config() };
    let error = world.runtime.run_pod_sandbox(wrong).await.err().context("it was taken")?.to_string();
    ensure!(error.starts_with("no runtime for \"nobody\" is configured; there are kobune, libcontainer"), "{error}");
    if world.config.handlers.is_empty() {
        println!("  SKIPPED: no other OCI runtime is installed");
    }
    for handler in world.config.handlers.keys() {
        let config = kobune_runtime::SandboxConfig {
            uid: handler.clone(),
            runtime_handler: handler.clone(),
            ..world.sandbox_config()
        };
        let sandbox = world.runtime.run_pod_sandbox(config).await?;
        let named = |name: &str, words: &[&str]| {
            let mut config = tool(words);
            config.log_path = Some(format!("{handler}-{name}.log").into());
            config
        };
        let begun = Instant::now();
        let first = world.finish(&sandbox, named("exit", &["print", "out", "err"])).await;
        // crun cannot work where version 2 of cgroups is mounted beside version 1 with a controller in it.
        if let Err(error) = &first
            && handler == "crun"
            && format!("{error:#}").contains("hybrid")
        {
            println!("  SKIPPED: {error:#}");
            continue;
        }
        let (code, log) = first?;
        ensure!(code == 0 && log.contains("stdout F out") && log.contains("stderr F err"), "{handler}: {code} {log}");
        println!("  {handler}: {:?} from nothing to the end", begun.elapsed());
        let hold = world.run(&sandbox, named("hold", &["hold"])).await?;
        let said =
            world.runtime.exec_sync(&hold, vec!["/kobune".into(), "tool".into(), "pid".into()], PATIENCE).await?;
        ensure!(said.exit_code == 0 && said.stdout != b"1\n", "{handler}: {said:?}");
        world
            .runtime
            .resize(
                &sandbox,
                Resize {
                    pod: None,
                    containers: vec![(
                        hold.clone(),
                        Resources { memory_limit: Some(32 << 20), ..Resources::default() },
                    )],
                },
            )
            .await?;
        ensure!(world.runtime.stats(&hold)?.memory_limit == Some(32 << 20), "{handler}");
        world.runtime.stop_container(&hold, Duration::ZERO, None).await?;
        ensure!(world.runtime.container(&hold).is_some_and(|status| status.exit_code == Some(137)), "{handler}");
        let mut missing = named("missing", &[]);
        missing.command = Some(vec!["/nowhere".to_owned()]);
        let error = world.run(&sandbox, missing).await.err().context("it runs")?.to_string();
        ensure!(error.contains("no such file or directory"), "{handler}: {error}");
        world.runtime.remove_pod_sandbox(&sandbox).await?;
    }
    Ok(())
}

async fn a_killed_kobune_changes_nothing(world: Arc<World>) -> Result<()> {
    let sandbox = world.sandbox().await?;
    let mut client = Command::new("/proc/self/exe")
        .arg("client")
        .arg(&world.config.data_dir)
        .arg(sandbox.as_str())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(client.stdout.take().context("there is no output")?).lines();
    let hold: kobune_runtime::ContainerId = lines.next().context("the client has ended")??.into();
    let cat: kobune_runtime::ContainerId = lines.next().context("the client has ended")??.into();
    client.kill()?;
    client.wait()?;
    // While no kobune looks, one container ends.
    let runtime = kobune_runtime::Runtime::open(world.config.clone()).await?;
    ensure!(
        runtime.pod_sandbox(&sandbox).is_some_and(|status| status.state == SandboxState::Ready),
        "the sandbox is lost"
    );
    for id in [&hold, &cat] {
        let status = runtime.container(id).context("a container is lost")?;
        ensure!(status.state == ContainerState::Running && status.started_at.is_some(), "{status:?}");
    }
    let pid = runtime.container(&cat).and_then(|status| status.pid).context("it has no process")?;
    drop(runtime);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    let record = world.config.data_dir.join("containers").join(cat.as_str()).join("exit.json");
    let started = Instant::now();
    while !record.exists() {
        ensure!(started.elapsed() < PATIENCE, "its end is not put on record");
        tokio::task::yield_now().await;
    }
    let runtime = kobune_runtime::Runtime::open(world.config.clone()).await?;
    let status = runtime.container(&cat).context("it is lost")?;
    ensure!(
        status.state == ContainerState::Exited && status.exit_code == Some(137) && status.signal == Some(9),
        "{status:?}"
    );
    let command = ["/kobune", "tool", "exit", "5"].iter().map(ToString::to_string).collect();
    ensure!(runtime.exec_sync(&hold, command, PATIENCE).await?.exit_code == 5);
    runtime.stop_container(&hold, Duration::ZERO, None).await?;
    ensure!(runtime.container(&hold).is_some_and(|status| status.exit_code == Some(137)));
    Ok(())
}

async fn a_killed_shim_is_noticed(world: Arc<World>) -> Result<()> {
    let mut events = world.runtime.events();
    let sandbox = world.sandbox().await?;
    let id = world.run(&sandbox, tool(&["hold"])).await?;
    let shim = world.runtime.pod_sandbox(&sandbox).and_then(|status| status.shim_pid).context("there is no shim")?;
    let init = world.runtime.container(&id).and_then(|status| status.pid).context("there is no process")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.context("nothing is noticed")??;
        if event.is_some_and(|event| event.kind == ContainerEventKind::SandboxLost) {
            break;
        }
    }
    let status = world.runtime.container(&id).context("it is gone")?;
    ensure!(status.state == ContainerState::Exited && status.exit_code == Some(255), "{status:?}");
    ensure!(world.runtime.pod_sandbox(&sandbox).is_some_and(|status| status.state == SandboxState::NotReady));
    let state = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap_or_default();
    ensure!(state.is_empty() || state.contains(") Z"), "its process lives on: {state}");
    world.runtime.remove_pod_sandbox(&sandbox).await?;
    Ok(())
}
