//! A data folder, a network namespace and a runtime of a test's own, taken away at its end.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kobune_runtime::{Config, ContainerConfig, ContainerId, Runtime, SELF_IMAGE, SandboxConfig, SandboxId};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Everything of one test.
pub struct World {
    pub folder: tempfile::TempDir,
    pub config: Config,
    pub runtime: Arc<Runtime>,
    pub namespace: PathBuf,
}

/// The arrangement of a data folder; a client in another process makes the same one.
pub fn config(data: &Path) -> Config {
    // Named after the folder, so that tests beside each other do not meet.
    let name = data.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().replace('.', "");
    let mut config = Config::new(data, format!("/kobune-test-{name}"));
    // Runtimes that are not in the usual places: a PATH of folders.
    let more = std::env::var_os("KOBUNE_TEST_RUNTIMES").unwrap_or_default();
    for folder in std::env::split_paths(&more) {
        for name in ["runc", "crun", "youki"] {
            let path = folder.join(name);
            let works = Command::new(&path).arg("--version").output().is_ok_and(|output| output.status.success());
            if works {
                config.handlers.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    config
}

impl World {
    pub async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = config(&folder.path().join("data"));
        let namespace = folder.path().join("netns");
        make_namespace(&namespace)?;
        let runtime = Runtime::open(config.clone()).await?;
        let images = runtime.images().clone();
        tokio::task::spawn_blocking(move || images.ensure_self()).await??;
        Ok(Self { folder, config, runtime, namespace })
    }

    pub fn sandbox_config(&self) -> SandboxConfig {
        SandboxConfig {
            uid: "11111111-2222-3333-4444-555555555555".to_owned(),
            name: "pod".to_owned(),
            namespace: "default".to_owned(),
            hostname: "the-pod".to_owned(),
            log_dir: self.folder.path().join("logs"),
            resolv_conf: Some("nameserver 10.96.0.10\n".to_owned()),
            hosts: Some("127.0.0.1 localhost\n".to_owned()),
            cgroup_qos: "burstable".to_owned(),
            network_namespace: Some(self.namespace.clone()),
            ..SandboxConfig::default()
        }
    }

    pub async fn sandbox(&self) -> Result<SandboxId> {
        Ok(self.runtime.run_pod_sandbox(self.sandbox_config()).await?)
    }

    pub async fn run(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId> {
        let id = self.runtime.create_container(sandbox, config).await?;
        self.runtime.start_container(&id).await?;
        Ok(id)
    }

    /// Runs a container to its end; its code, and what it wrote without times.
    pub async fn finish(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<(i32, String)> {
        let id = self.run(sandbox, config).await?;
        let code = tokio::time::timeout(PATIENCE, self.runtime.wait_container(&id))
            .await
            .context("the container does not end")??;
        Ok((code, self.log(&id)?))
    }

    pub fn log(&self, id: &ContainerId) -> Result<String> {
        let path = self.runtime.container(id).and_then(|status| status.log_path).context("there is no log")?;
        let text = std::fs::read_to_string(path)?;
        Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest).collect::<Vec<_>>().join("\n"))
    }

    /// Takes everything away and looks whether anything is left.
    pub fn end(&self) -> Result<()> {
        let Self { folder, config, namespace, .. } = self;
        Runtime::purge(config)?;
        nix::mount::umount2(namespace, nix::mount::MntFlags::MNT_DETACH)?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&*folder.path().to_string_lossy()), "a mount is left");
        for tree in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
            ensure!(
                !tree.path().join(config.cgroup_parent.trim_start_matches('/')).exists(),
                "a cgroup is left in {}",
                tree.path().display()
            );
        }
        for process in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let own = process.file_name().to_string_lossy() == std::process::id().to_string();
            ensure!(own || !line.contains(&*folder.path().to_string_lossy()), "a process is left: {line}");
        }
        for part in ["images", "snapshots", "sandboxes", "containers"] {
            ensure!(!config.data_dir.join(part).exists(), "{part} is left");
        }
        Ok(())
    }
}

/// A container that runs one of the tools.
pub fn tool(words: &[&str]) -> ContainerConfig {
    ContainerConfig {
        name: words.first().copied().unwrap_or("none").to_owned(),
        image: SELF_IMAGE.to_owned(),
        args: Some(words.iter().map(ToString::to_string).collect()),
        log_path: Some(format!("{}/0.log", words.join("-").replace('/', "_")).into()),
        ..ContainerConfig::default()
    }
}

/// A network namespace that a file keeps, made in a thread that ends.
fn make_namespace(path: &Path) -> Result<()> {
    std::fs::write(path, "")?;
    let target = path.to_path_buf();
    let made = std::thread::spawn(move || -> Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        nix::mount::mount(
            Some("/proc/thread-self/ns/net"),
            &target,
            None::<&str>,
            nix::mount::MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(())
    });
    made.join().map_err(|_| anyhow::anyhow!("the thread has panicked"))?
}

/// A kobune in another process: starts two containers, says so and waits to be killed.
pub fn client(arguments: Vec<String>) -> ExitCode {
    let run = || -> Result<()> {
        let data = PathBuf::from(arguments.first().context("no data folder")?);
        let sandbox = SandboxId::from(arguments.get(1).context("no sandbox")?.as_str());
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let runtime = Runtime::open(config(&data)).await?;
            for words in [&["hold"][..], &["cat"][..]] {
                let mut container = tool(words);
                container.stdin = words[0] == "cat";
                let id = runtime.create_container(&sandbox, container).await?;
                runtime.start_container(&id).await?;
                println!("{id}");
            }
            std::future::pending::<Result<()>>().await
        })
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers GET requests with these files until the test ends. Returns host and port.
pub fn serve(files: std::collections::HashMap<String, Vec<u8>>) -> Result<String> {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut request = String::new();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                if request.is_empty() {
                    request = line.clone();
                }
                line.clear();
            }
            let path = request.split(' ').nth(1).unwrap_or("").to_owned();
            let (status, body) = files.get(&path).map_or(("404 Not Found", &b"{}"[..]), |body| ("200 OK", &body[..]));
            let kind = if path.contains("manifests") {
                "application/vnd.oci.image.index.v1+json"
            } else {
                "application/octet-stream"
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            if (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body)).is_err() {
                eprintln!("a client of the registry went away");
            }
        }
    });
    Ok(address)
}
