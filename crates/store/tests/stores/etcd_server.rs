//! etcd clusters of a test: real members with folders and ports of their own, which end with the test.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kobune_store::EtcdConfig;

/// How often a cluster is started before the test gives up.
const TRIES: usize = 5;
/// How long a member may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// Certificates for a cluster that asks for them.
pub struct Tls {
    ca: String,
    server: (String, String),
    client: (String, String),
}

impl Tls {
    pub fn new() -> Tls {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = parameters.self_signed(&ca_key).expect("a certificate");
        let issuer = rcgen::Issuer::new(parameters, ca_key);
        let issue = || {
            let key = rcgen::KeyPair::generate().expect("a key");
            let names = vec!["127.0.0.1".to_owned()];
            let mut parameters = rcgen::CertificateParams::new(names).expect("an address");
            parameters.extended_key_usages =
                vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
            (certificate.pem(), key.serialize_pem())
        };
        Tls { ca: ca.pem(), server: issue(), client: issue() }
    }
}

struct Member {
    arguments: Vec<String>,
    process: Option<Child>,
}

/// A running cluster.
pub struct Etcd {
    program: PathBuf,
    folder: tempfile::TempDir,
    members: Vec<Member>,
    urls: Vec<String>,
    tls: Option<Tls>,
}

fn tools() -> PathBuf {
    match std::env::var_os("KOBUNE_TEST_TOOLS") {
        Some(folder) => folder.into(),
        None => Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/kobune-tools"),
    }
}

/// The program, or a word on the test that goes without it. The word reaches the terminal also when output is captured.
fn program(version: &str, test: &str) -> Option<PathBuf> {
    let path = tools().join(format!("etcd-{version}/etcd"));
    if path.is_file() {
        return Some(path);
    }
    let line = format!("test {test} ... skipped: etcd {version} is not installed (scripts/install-test-tools.sh)\n");
    std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
    None
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

impl Etcd {
    /// Starts a cluster; `None` when this version is not installed.
    pub fn start(version: &str, test: &str, members: usize, tls: Option<Tls>) -> Option<Etcd> {
        let program = program(version, test)?;
        let mut tls = tls;
        // A port that was free a moment ago may be somebody's by now: then the member ends, and others are tried.
        for _ in 0..TRIES {
            let mut etcd = Etcd::spawn(program.clone(), members, tls);
            if etcd.listens() {
                return Some(etcd);
            }
            tls = etcd.tls.take();
        }
        panic!("etcd {version} did not start in {TRIES} tries");
    }

    /// Whether all members come to listen; a member that ends first never does.
    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let addresses: Vec<String> = (0..self.members.len()).map(|number| self.address(number)).collect();
        addresses.iter().zip(&mut self.members).all(|(address, member)| {
            while TcpStream::connect(address).is_err() {
                let ended = member.process.as_mut().is_none_or(|child| child.try_wait().expect("it is ours").is_some());
                if ended || Instant::now() > deadline {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            true
        })
    }

    fn spawn(program: PathBuf, members: usize, tls: Option<Tls>) -> Etcd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let urls: Vec<String> = (0..members).map(|_| format!("{scheme}://127.0.0.1:{}", free_port())).collect();
        let peers: Vec<String> = (0..members).map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
        let cluster: Vec<String> = peers.iter().enumerate().map(|(number, url)| format!("m{number}={url}")).collect();
        let mut etcd = Etcd { program, folder, members: Vec::new(), urls: urls.clone(), tls };
        for (number, (url, peer)) in urls.iter().zip(&peers).enumerate() {
            let mut arguments: Vec<String> = [
                ("name", format!("m{number}")),
                ("data-dir", etcd.folder.path().join(format!("m{number}")).display().to_string()),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url.clone()),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", cluster.join(",")),
                ("heartbeat-interval", "50".to_owned()),
                ("election-timeout", "500".to_owned()),
            ]
            .map(|(flag, value)| format!("--{flag}={value}"))
            .into();
            if let Some(tls) = &etcd.tls {
                let file = |name: &str, text: &str| {
                    let path = etcd.folder.path().join(name);
                    std::fs::write(&path, text).expect("writable");
                    path.display().to_string()
                };
                arguments.push("--client-cert-auth".to_owned());
                arguments.push(format!("--trusted-ca-file={}", file("ca.pem", &tls.ca)));
                arguments.push(format!("--cert-file={}", file("server.pem", &tls.server.0)));
                arguments.push(format!("--key-file={}", file("server.key", &tls.server.1)));
            }
            etcd.members.push(Member { arguments, process: None });
            etcd.revive(number);
        }
        etcd
    }

    /// Starts a member that is not running.
    pub fn revive(&mut self, number: usize) {
        let log = std::fs::File::create(self.folder.path().join(format!("m{number}.log"))).expect("a log file");
        let member = &mut self.members[number];
        let child = Command::new(&self.program)
            .args(&member.arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        member.process = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].process.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it has ended");
        }
    }

    /// The address of a member, without the scheme.
    pub fn address(&self, number: usize) -> String {
        self.urls[number].rsplit('/').next().expect("a URL").to_owned()
    }

    /// How a store finds this cluster.
    pub fn config(&self) -> EtcdConfig {
        let mut config = EtcdConfig::new(self.urls.clone());
        config.paths = [("core/pods", "pods"), ("core/nodes", "minions"), ("core/leases", "leases")]
            .map(|(collection, path)| (collection.to_owned(), path.to_owned()))
            .into();
        config.paths.push(("core/services".to_owned(), "services/specs".to_owned()));
        if let Some(tls) = &self.tls {
            config.ca_pem = Some(tls.ca.clone().into());
            config.identity_pem = Some((tls.client.0.clone().into(), tls.client.1.clone().into()));
        }
        config
    }

    /// Stores any bytes.
    pub fn put_bytes(&self, key: &str, value: &[u8]) {
        let mut child = Command::new(tools().join("etcd-3.5/etcdctl"))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.urls.join(","), "put", key])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("etcdctl is installed beside etcd");
        child.stdin.take().expect("it is piped").write_all(value).expect("it reads its input");
        assert!(child.wait().expect("it ends").success());
    }

    /// What `etcdctl` prints.
    pub fn control(&self, arguments: &[&str]) -> String {
        let program = tools().join("etcd-3.5/etcdctl");
        let output = Command::new(program)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.urls.join(",")])
            .args(arguments)
            .output()
            .expect("etcdctl is installed beside etcd");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it prints text")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
