//! Two servers on one etcd cluster: what one acknowledges the other shows, one of them runs the controllers, and when it
//! is killed the other one does.

use std::path::Path;
use std::process::Command;

use kobune_testbed::{Host, Lan, Running, eventually, tools};

use crate::SETTLE;

/// A server without a node.
struct Server {
    folder: tempfile::TempDir,
    name: &'static str,
}

/// The servers of one cluster have one port, on machines of their own.
const PORT: &str = "7001";

impl Server {
    fn new(name: &'static str) -> Server {
        Server { folder: tempfile::tempdir().expect("a temporary folder"), name }
    }

    /// The keys of a cluster are the same on all of its servers.
    fn with_keys_of(name: &'static str, other: &Server) -> Server {
        let server = Server::new(name);
        let copied = Command::new("cp")
            .args(["-a", "--"])
            .arg(other.folder.path().join("pki"))
            .arg(server.folder.path())
            .status()
            .expect("cp runs");
        assert!(copied.success(), "the keys are copied");
        server
    }

    fn kubeconfig(&self) -> std::path::PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    fn start(&self, host: &Host, etcd: &str) -> Running {
        let mut command = host.command(env!("CARGO_BIN_EXE_kobune"));
        command.arg("server").args(["--etcd-servers", etcd, "--port", PORT]);
        command.arg("--data-dir").arg(self.folder.path()).args(["--node-name", self.name]);
        Running::start(command, None).expect("the server starts")
    }

    fn kubectl(&self, host: &Host, arguments: &[&str]) -> String {
        let output = kubectl(host, &self.kubeconfig()).args(arguments).output().expect("kubectl starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    fn wait_until_ready(&self, host: &Host, running: &Running) {
        eventually("the server answers", SETTLE, || {
            let output = kubectl(host, &self.kubeconfig()).args(["get", "--raw", "/readyz"]).output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                other => Err(format!("{other:?}\n{}", running.stderr())),
            }
        });
    }
}

fn kubectl(host: &Host, kubeconfig: &Path) -> Command {
    let mut command = host.command(tools().join("kubectl"));
    command.arg("--kubeconfig").arg(kubeconfig);
    command
}

#[test]
fn another_server_takes_over_when_the_leader_is_killed() {
    let lan = Lan::new().expect("a link");
    let host = lan.host().expect("a host");
    let other = lan.host().expect("another host");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = host.command(tools().join("etcd-3.5/etcd"));
    let url = format!("http://{}:2379", host.address());
    command.arg("--data-dir").arg(folder.path()).args(["--log-level", "error"]);
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    let _etcd = Running::start(command, None).expect("etcd starts");

    let one = Server::new("server-1");
    let first = one.start(&host, &url);
    one.wait_until_ready(&host, &first);
    let two = Server::with_keys_of("server-2", &one);
    let second = two.start(&other, &url);
    two.wait_until_ready(&host, &second);

    // Both are endpoints of the API's Service.
    let endpoints = |expected: &[&str]| {
        eventually(&format!("the servers are {expected:?}"), SETTLE, || {
            let path = "jsonpath={.endpoints[*].addresses[0]}";
            let slice = two.kubectl(&host, &["get", "endpointslice", "kubernetes", "-o", path]);
            let path = "jsonpath={.subsets[*].addresses[*].ip}";
            let old = two.kubectl(&host, &["get", "endpoints", "kubernetes", "-o", path]);
            if slice.split(' ').eq(expected.iter().copied()) && old == slice {
                Ok(())
            } else {
                Err(format!("{slice}; {old}"))
            }
        });
    };
    endpoints(&[host.address(), other.address()]);

    // Each write is read at the other server at once.
    for number in 0..10 {
        let name = format!("map-{number}");
        let (writer, reader) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
        writer.kubectl(&host, &["create", "configmap", &name]);
        reader.kubectl(&host, &["get", "configmap", &name]);
    }
    // Services that are made side by side never share an address or a port.
    let mut made = Vec::new();
    for number in 0..12 {
        let server = if number % 2 == 0 { &one } else { &two };
        let mut command = kubectl(&host, &server.kubeconfig());
        command.args(["create", "service", "nodeport", &format!("s{number}"), "--tcp=80"]);
        made.push(Running::start(command, None).expect("kubectl starts"));
    }
    for running in made {
        running.finish(SETTLE).expect("it ends").ok();
    }
    let path = "jsonpath={range .items[*]}{.spec.clusterIP} {.spec.ports[0].nodePort}{\"\\n\"}{end}";
    let services = one.kubectl(&host, &["get", "services", "-o", path]);
    let mut words: Vec<&str> = services.split_whitespace().collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count, "{services}");
    assert_eq!(count, 13 + 12, "{services}");

    two.kubectl(&host, &["create", "deployment", "web", "--image=none.invalid/none", "--replicas=2"]);
    let pods = |server: &Server, running: &Running, expected: usize| {
        eventually(&format!("there are {expected} pods"), SETTLE, || {
            let found = server.kubectl(&host, &["get", "pods", "-o", "name"]).lines().count();
            if found == expected { Ok(()) } else { Err(format!("{found}\n{}", running.stderr())) }
        });
    };
    pods(&two, &first, 2);
    let holder = || {
        let path = "jsonpath={.spec.holderIdentity}";
        two.kubectl(&host, &["get", "lease", "-n", "kube-system", "kube-controller-manager", "-o", path])
    };
    assert!(holder().starts_with("server-1_"), "{}", holder());
    // kill -9: the lease of 15 s does not have to run out, since the other one sees that nobody is there any more.
    drop(first);
    eventually("the other server leads", SETTLE, || match holder() {
        other if other.starts_with("server-2_") => Ok(()),
        other => Err(other),
    });
    let log = second.stderr();
    assert!(log.contains("the leader's server is gone"), "{log}");
    two.kubectl(&host, &["scale", "deployment", "web", "--replicas=3"]);
    pods(&two, &second, 3);
    endpoints(&[other.address()]);

    // The first one comes back as a candidate, and leads as soon as the second one stops cleanly.
    let first = one.start(&host, &url);
    one.wait_until_ready(&host, &first);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .expect("it runs");
    second.finish(SETTLE).expect("it ends").ok();
    one.kubectl(&host, &["scale", "deployment", "web", "--replicas=4"]);
    pods(&one, &first, 4);
}
