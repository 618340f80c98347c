//! A node of a test's own: data folder, namespaces, runtime, network and API, taken away at its end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kobune_network::Network;
use kobune_node::{Config, Node};
use kobune_runtime::{Runtime, SELF_IMAGE};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub api: Arc<Api>,
    runtime_config: kobune_runtime::Config,
    network_config: kobune_network::Config,
    folder: tempfile::TempDir,
    running: Option<Running>,
    tls: Tls,
    /// For the next start.
    pub eviction: Vec<kobune_node::Threshold>,
    /// For the next start.
    pub placement: kobune_node::PlacementSettings,
}

struct Running {
    token: CancellationToken,
    task: JoinHandle<Result<(), kobune_node::NodeError>>,
    port: u16,
}

#[derive(Clone)]
struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

fn tls() -> Result<Tls> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::from_params(&params, &authority_key);
    let make = |name: &str| -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        Ok((vec![certificate.der().clone()], key))
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let roots = Arc::new(roots);
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()?;
    let (chain, key) = make("node")?;
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    let (chain, key) = make("kube-apiserver-kubelet-client")?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Tls { server: Arc::new(server), client: Arc::new(client) })
}

/// Both directions of a connection to the node.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl World {
    pub async fn new() -> Result<World> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let name = folder.path().file_name().unwrap_or_default().to_string_lossy().replace('.', "");
        let api = Api::new();
        api.put(
            "/api/v1/namespaces/ns/configmaps/cm",
            json!({"metadata": {"name": "cm", "namespace": "ns"}, "data": {"key": "value"}}),
        );
        api.put(
            "/api/v1/namespaces/default/services/kubernetes",
            json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443, "protocol": "TCP"}]}}),
        );
        let mut world = World {
            api,
            runtime_config: kobune_runtime::Config::new(&data, format!("/kobune-node-{name}")),
            network_config: kobune_network::Config::for_data_dir(&data),
            folder,
            running: None,
            tls: tls()?,
            eviction: Vec::new(),
            placement: Default::default(),
        };
        world.start().await?;
        Ok(world)
    }

    /// Starts the node, over whatever an earlier one left.
    pub async fn start(&mut self) -> Result<()> {
        let runtime = Runtime::open(self.runtime_config.clone()).await.context("open the runtime")?;
        let images = Arc::clone(runtime.images());
        tokio::task::spawn_blocking(move || images.ensure_self()).await??;
        let network = Network::start(self.network_config.clone()).await.context("start the network")?;
        let node = Node::build(Config {
            name: "n".to_owned(),
            client: self.api.client(),
            runtime: Arc::new(runtime),
            network,
            node_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: Arc::clone(&self.tls.server),
            data_dir: self.folder.path().join("data"),
            cluster_dns: vec!["10.96.0.10".parse()?],
            cluster_domain: "cluster.local".to_owned(),
            max_pods: 110,
            pod_cidrs: vec!["10.244.0.0/24".to_owned()],
            eviction: self.eviction.clone(),
            placement: self.placement.clone(),
            eviction_period: Duration::from_millis(100),
            offline_after: Duration::from_millis(300),
            offline_records: true,
            static_pods: self.manifests(),
            credential_providers: Default::default(),
            cdi_dirs: vec![self.folder.path().join("cdi")],
            labels: Default::default(),
            version: "v1.36.0".to_owned(),
        })
        .await?;
        let token = CancellationToken::new();
        let port = node.port();
        self.running = Some(Running { task: tokio::spawn(node.run(token.clone())), token, port });
        Ok(())
    }

    /// Ends the node; pods go on.
    pub async fn stop(&mut self) -> Result<()> {
        let running = self.running.take().context("the node does not run")?;
        running.token.cancel();
        tokio::time::timeout(PATIENCE, running.task).await.context("the node does not end")???;
        Ok(())
    }

    /// Ends the pods' processes as a reboot would, while the node does not run.
    pub async fn reboot(&self) -> Result<()> {
        let runtime = Runtime::open(self.runtime_config.clone()).await?;
        for sandbox in runtime.pod_sandboxes() {
            runtime.stop_pod_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    pub async fn end(mut self) -> Result<()> {
        self.stop().await?;
        let config = self.runtime_config.clone();
        tokio::task::spawn_blocking(move || Runtime::purge(&config)).await??;
        Network::purge(&self.network_config).await?;
        let volumes = self.folder.path().to_string_lossy().into_owned();
        for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines().rev() {
            if let Some(path) = line.split(' ').nth(4).filter(|path| path.starts_with(&volumes)) {
                nix::mount::umount2(&PathBuf::from(path), nix::mount::MntFlags::MNT_DETACH)?;
            }
        }
        Ok(())
    }

    pub fn path(name: &str) -> String {
        format!("/api/v1/namespaces/ns/pods/{name}")
    }

    /// Creates a pod; containers without an image get the test's own.
    pub fn create(&self, name: &str, mut spec: Value) {
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container["image"].is_null() {
                    container["image"] = json!(SELF_IMAGE);
                }
                container["imagePullPolicy"] = json!("IfNotPresent");
                if let Some(words) = container["run"].take().as_str() {
                    let mut command = vec!["/kobune".to_owned(), "tool".to_owned()];
                    command.extend(words.split(' ').map(str::to_owned));
                    container["command"] = json!(command);
                }
            }
        }
        spec.as_object_mut().expect("a spec").retain(|_, value| !value.is_null());
        spec["nodeName"] = json!("n");
        let meta = json!({"name": name, "namespace": "ns", "generation": 1, "creationTimestamp": jiff::Timestamp::now().to_string()});
        self.api.put(&World::path(name), json!({"metadata": meta, "spec": spec}));
    }

    pub fn delete(&self, name: &str, grace: i64) {
        let changed = self.api.change(&World::path(name), |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        });
        changed.expect("the pod");
    }

    /// Waits until the pod is as wanted; the error shows how it is.
    pub async fn wait(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = tokio::time::Instant::now();
        loop {
            let pod = self.api.get(&World::path(name)).unwrap_or_default();
            if wanted(&pod) {
                return Ok(pod);
            }
            if begun.elapsed() > PATIENCE {
                let events: Vec<String> = self
                    .api
                    .all("/events/")
                    .iter()
                    .filter(|event| event["involvedObject"]["name"] == name)
                    .map(|event| format!("{}: {} (x{})", event["reason"], event["message"], event["count"]))
                    .collect();
                bail!("pod {name} is not {what}: {:#}\n{}", pod["status"], events.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The folder of static pods' manifests.
    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// The folder of CDI files.
    pub fn cdi(&self) -> PathBuf {
        self.folder.path().join("cdi")
    }

    /// The node's own folder.
    pub fn node_dir(&self) -> PathBuf {
        self.folder.path().join("data").join("node")
    }

    /// Waits until something holds; the error shows what it said last.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&World) -> Result<(), String>) -> Result<()> {
        let begun = tokio::time::Instant::now();
        loop {
            match holds(self).await {
                Ok(()) => return Ok(()),
                Err(still) if begun.elapsed() > PATIENCE => bail!("not so: {what}: {still}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub async fn ready(&self, name: &str) -> Result<Value> {
        self.wait(name, "ready", |pod| condition(pod, "Ready") == "True").await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Result<Value> {
        self.wait(name, phase, |pod| pod["status"]["phase"] == phase).await
    }

    pub async fn gone(&self, name: &str) -> Result<()> {
        self.wait(name, "gone", Value::is_null).await.map(drop)
    }

    pub fn reasons(&self, name: &str) -> Vec<String> {
        let events = self.api.all("/events/");
        events
            .iter()
            .filter(|event| event["involvedObject"]["name"] == name)
            .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The file of a container's cgroup that limits its CPU time, in version 1 or 2.
    pub fn cpu_file(&self, pod: &Value, class: &str) -> Result<PathBuf> {
        let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().context("a container has an id")?;
        let first = PathBuf::from("/sys/fs/cgroup/cpu");
        let (root, file) =
            if first.is_dir() { (first, "cpu.cfs_quota_us") } else { (PathBuf::from("/sys/fs/cgroup"), "cpu.max") };
        let group = self.runtime_config.cgroup_parent.trim_start_matches('/');
        let id = id.trim_start_matches("kobune://");
        Ok(root.join(group).join(class).join(format!("pod{uid}")).join(id).join(file))
    }

    /// Changes a pod's resources as the API's `resize` does.
    pub fn resize(&self, name: &str, resources: Value) {
        let changed = self.api.change(&World::path(name), |pod| {
            pod["spec"]["containers"][0]["resources"] = resources;
            let generation = pod["metadata"]["generation"].as_i64().unwrap_or(1);
            pod["metadata"]["generation"] = json!(generation + 1);
        });
        changed.expect("the pod");
    }

    pub async fn connect(&self) -> Result<Box<dyn Connection>> {
        let port = self.running.as_ref().context("the node does not run")?.port;
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let name = rustls::pki_types::ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Box::new(tokio_rustls::TlsConnector::from(Arc::clone(&self.tls.client)).connect(name, stream).await?))
    }

    /// One GET to the node's API.
    pub async fn fetch(&self, path: &str) -> Result<String> {
        use http_body_util::{BodyExt, Empty};
        let connection = hyper_util::rt::TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(connection).await?;
        let task = tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "node").body(Empty::<bytes::Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        task.abort();
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Waits until a container has written something: that it runs does not say that it has.
    pub async fn written(&self, name: &str, container: &str) -> Result<String> {
        let what = format!("container {container} of pod {name} has written something");
        let has = async |world: &World| match world.log(name, container).await {
            Ok(log) if log.is_empty() => Err("its log is empty".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        };
        self.until(&what, has).await?;
        self.log(name, container).await
    }

    pub async fn log(&self, name: &str, container: &str) -> Result<String> {
        self.fetch(&format!("/containerLogs/ns/{name}/{container}")).await
    }
}

pub fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}
