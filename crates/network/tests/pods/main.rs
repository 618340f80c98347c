//! Real links, rules, packets and DNS, in a network and mount namespace of the test's own: nothing of it outlives the
//! test, not even when the test panics.

mod policies;

use std::{
    future::Future,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use kobune_network::{
    Attachment, Bandwidth, Config, HostPort, Network, Protocol,
    cluster::{Cluster, Endpoint, Hints, Key, Service, ServicePort, Slice, Tables},
    dns,
    services::{self, elements::Spread, plan::Family},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a test on a thread with namespaces of its own; every thread and program it starts inherits them.
fn alone<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces of our own");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("mounts of our own");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test(path));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Does something inside a pod's network, on a thread of its own.
fn inside<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let file = std::fs::File::open(netns).expect("the pod's namespace");
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("the pod's namespace can be entered");
        work()
    })
}

async fn finish<T: Send + 'static>(thread: thread::JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(|| thread.join()).await.expect("joined").expect("no panic")
}

/// A TCP server in a pod that greets each client with its name and the client's address.
fn serve(pod: &Attachment, port: u16, name: &'static str) {
    let (ready, wait) = mpsc::channel();
    inside(&pod.netns, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bound");
        ready.send(()).expect("the test waits");
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let client = stream.peer_addr().expect("its address").ip();
            // A client that has gone is its own business.
            if let Err(error) = write!(stream, "{name} {client}") {
                eprintln!("{name}: {error}");
            }
        }
    });
    wait.recv().expect("the server starts");
}

fn greeting(to: SocketAddr) -> Result<String, io::ErrorKind> {
    let read = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error: io::Error| error.kind())
}

/// A client in a pod.
async fn from_pod(pod: &Attachment, to: SocketAddr) -> Result<String, io::ErrorKind> {
    finish(inside(&pod.netns, move || greeting(to))).await
}

/// A client on the host.
async fn from_host(to: SocketAddr) -> Result<String, io::ErrorKind> {
    tokio::task::spawn_blocking(move || greeting(to)).await.expect("no panic")
}

fn key(name: &str) -> Key {
    (Arc::from("default"), Arc::from(name))
}

fn service(address: [u8; 4], port: u16, node_port: Option<u16>, protocol: Protocol) -> Service {
    Service {
        cluster_ips: vec![IpAddr::from(address)],
        ports: vec![ServicePort { name: "main".into(), protocol, port, node_port }],
        ..Service::default()
    }
}

fn slice(service: &str, port: u16, protocol: Protocol, pods: &[&Attachment]) -> Slice {
    let endpoints = pods.iter().map(|pod| Endpoint {
        address: pod.ips[0],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some(Arc::from("node")),
        hints: Hints::default(),
    });
    Slice { service: Arc::from(service), ports: vec![("main".into(), protocol, port)], endpoints: endpoints.collect() }
}

/// Waits until the kernel's table says something. The rules follow the objects within milliseconds.
async fn until_rules(table: &str, what: impl Fn(&str) -> bool) {
    let start = Instant::now();
    loop {
        let output = tokio::process::Command::new("nft").args(["list", "table", "inet", table]).output().await;
        let output = output.expect("nft runs");
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && what(&text) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the rules did not come:\n{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

const VIP: [u8; 4] = [10, 96, 0, 7];
const IDLE: [u8; 4] = [10, 96, 0, 8];
const STICKY: [u8; 4] = [10, 96, 0, 9];
const UDP: [u8; 4] = [10, 96, 0, 11];
const REFUSED: Result<String, io::ErrorKind> = Err(io::ErrorKind::ConnectionRefused);

#[test]
fn services_reach_pods() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let table = config.table.clone();
        let network = Network::start(config).await.expect("a network without any other link");
        let gateway = network.gateways()[0];
        assert_eq!(network.node_addresses().await.expect("an address"), [gateway]);
        let one = network.attach("one", &[], None).await.expect("attached");
        let port = HostPort { host_ip: None, host_port: 8088, container_port: 8080, protocol: Protocol::Tcp };
        let two = network.attach("two", &[port], None).await.expect("attached");
        serve(&one, 8080, "one");
        serve(&two, 8080, "two");

        let mut tables = Tables::default();
        tables.set_service(key("web"), Some(service(VIP, 80, Some(30080), Protocol::Tcp)));
        tables.set_slice(key("web-1"), Some(slice("web", 8080, Protocol::Tcp, &[&one, &two])));
        tables.set_service(key("idle"), Some(service(IDLE, 80, Some(30081), Protocol::Tcp)));
        let mut sticky = service(STICKY, 80, None, Protocol::Tcp);
        sticky.affinity_seconds = Some(60);
        tables.set_service(key("sticky"), Some(sticky));
        tables.set_slice(key("sticky-1"), Some(slice("sticky", 8080, Protocol::Tcp, &[&one, &two])));
        let cluster = Cluster::fixed(tables);
        let token = CancellationToken::new();
        let rules =
            tokio::spawn(services::run(Arc::clone(&network), Arc::clone(&cluster), "node".to_owned(), token.clone()));
        until_rules(&table, |text| text.contains("idle-ports4") && text.contains("30081")).await;

        let remembered = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait");
        assert_eq!(remembered.expect("connections are tracked").trim(), "3600");

        // Pod to pod, host to pod, with the senders' own addresses.
        assert_eq!(from_pod(&one, at(two.ips[0], 8080)).await, Ok(format!("two {}", one.ips[0])));
        assert_eq!(from_host(at(two.ips[0], 8080)).await, Ok(format!("two {gateway}")));

        // The service's address leads to both pods: from a pod with its own address, or, when it reaches itself, the
        // gateway's; and from the host.
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(from_pod(&one, at(VIP, 80)).await.expect("an answer"));
        }
        assert_eq!(Vec::from_iter(seen), [format!("one {gateway}"), format!("two {}", one.ips[0])]);
        assert!(from_host(at(VIP, 80)).await.is_ok());
        // Node ports, on any of the node's addresses; host ports.
        assert!(from_pod(&one, at(gateway, 30080)).await.is_ok());
        assert!(from_host(at(gateway, 30080)).await.is_ok());
        assert_eq!(from_pod(&one, at(gateway, 8088)).await, Ok(format!("two {}", one.ips[0])));
        // Nobody there: refused at once, from a pod and from the host, at the service's address and the node's.
        for (address, port) in [(IpAddr::from(IDLE), 80), (gateway, 30081), (IpAddr::from([10, 96, 9, 9]), 80)] {
            assert_eq!(from_pod(&one, at(address, port)).await, REFUSED, "{address}:{port} from a pod");
            assert_eq!(from_host(at(address, port)).await, REFUSED, "{address}:{port} from the host");
        }
        assert_eq!(from_pod(&one, at(VIP, 81)).await, REFUSED);
        assert!(from_pod(&one, at([10, 244, 0, 77], 80)).await.is_err());
        // A client stays with its pod.
        let first = from_pod(&one, at(STICKY, 80)).await.expect("an answer");
        for _ in 0..10 {
            assert_eq!(from_pod(&one, at(STICKY, 80)).await.as_deref(), Ok(first.as_str()));
        }

        // One pod leaves: the other answers alone. Then both leave.
        cluster.update(|tables| tables.set_slice(key("web-1"), Some(slice("web", 8080, Protocol::Tcp, &[&one]))));
        until_rules(&table, |text| !text.contains("10.96.0.7 . tcp . 80 . 1")).await;
        for _ in 0..5 {
            assert_eq!(from_pod(&two, at(VIP, 80)).await, Ok(format!("one {}", two.ips[0])));
        }
        cluster.update(|tables| tables.set_slice(key("web-1"), None));
        until_rules(&table, |text| !text.contains("10.96.0.7 . ")).await;
        assert_eq!(from_pod(&two, at(VIP, 80)).await, REFUSED);
        assert_eq!(from_pod(&two, at(gateway, 30080)).await, REFUSED);

        // The rules stay when the program ends, and a new run takes over.
        cluster.update(|tables| tables.set_slice(key("web-2"), Some(slice("web", 8080, Protocol::Tcp, &[&two]))));
        until_rules(&table, |text| text.contains("10.96.0.7 . ")).await;
        token.cancel();
        rules.await.expect("no panic");
        assert_eq!(from_pod(&one, at(VIP, 80)).await, Ok(format!("two {}", one.ips[0])));
        let token = CancellationToken::new();
        tokio::spawn(services::run(Arc::clone(&network), Arc::clone(&cluster), "node".to_owned(), token.clone()));
        cluster.update(|tables| tables.set_slice(key("idle-1"), Some(slice("idle", 8080, Protocol::Tcp, &[&one]))));
        until_rules(&table, |text| text.contains("10.96.0.8 . ")).await;
        assert_eq!(from_pod(&two, at(IDLE, 80)).await, Ok(format!("one {}", two.ips[0])));

        // Somebody's firewall begins by taking everybody's rules away.
        let flush = tokio::process::Command::new("nft").args(["flush", "ruleset"]).status().await;
        assert!(flush.expect("nft runs").success());
        until_rules(&table, |text| text.contains("10.96.0.8 . ")).await;
        assert_eq!(from_pod(&two, at(IDLE, 80)).await, Ok(format!("one {}", two.ips[0])));
        // Somebody takes one element out, which the next change meant to.
        let delete = ["delete", "element", "inet", &table, "service-ips4", "{ 10.96.0.8 . tcp . 80 }"];
        let delete = tokio::process::Command::new("nft").args(delete).status().await;
        assert!(delete.expect("nft runs").success());
        let mut many = slice("idle", 8080, Protocol::Tcp, &[&one, &two]);
        let first = many.endpoints[0].clone();
        many.endpoints.extend((0..1000u32).map(|number| {
            let mut endpoint = first.clone();
            endpoint.address = IpAddr::from((0x0af4_8000 + number).to_be_bytes());
            endpoint
        }));
        cluster.update(|tables| tables.set_slice(key("idle-1"), Some(many)));
        until_rules(&table, |text| text.contains("10.96.0.8 . tcp . 80 . 1001")).await;
        // A step that the kernel takes leaves what it remembers of clients alone; making all anew would not.
        assert!(from_pod(&one, at(STICKY, 80)).await.is_ok());
        cluster
            .update(|tables| tables.set_slice(key("idle-1"), Some(slice("idle", 8080, Protocol::Tcp, &[&one, &two]))));
        until_rules(&table, |text| text.contains("goto spread4-2") && text.contains("expires")).await;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(from_host(at(IDLE, 80)).await.expect("an answer"));
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
        cluster.update(|tables| tables.set_slice(key("idle-1"), Some(slice("idle", 8080, Protocol::Tcp, &[&two]))));
        until_rules(&table, |text| !text.contains("10.96.0.8 . tcp . 80 . 1")).await;
        assert_eq!(from_pod(&one, at(IDLE, 80)).await, Ok(format!("two {}", one.ips[0])));
    });
}

#[test]
fn chains_that_draw_are_the_same_either_way() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let table = config.table.clone();
        let network = Network::start(config).await.expect("a network");
        let cluster = Cluster::fixed(Tables::default());
        tokio::spawn(services::run(Arc::clone(&network), cluster, "node".to_owned(), CancellationToken::new()));
        until_rules(&table, |text| text.contains("map service-ends4")).await;
        let list = async |chain: &str| {
            let arguments = ["list", "chain", "inet", &table, chain];
            let output = tokio::process::Command::new("nft").args(arguments).output().await.expect("nft runs");
            String::from_utf8(output.stdout).expect("text")
        };
        let all = [Family::V4, Family::V6].into_iter().flat_map(|family| {
            [false, true].into_iter().flat_map(move |node| [1, 7].map(|count| Spread { family, node, count }))
        });
        for spread in all {
            services::batch::make(&table, &[spread]).expect("made");
            let found = list(&spread.chain()).await;
            for (rule, count) in spread.rules().iter().zip(spread.draws()) {
                // The kernel's own form of it, in the words that nft has for it.
                let words = rule.split_once("} ").expect("which protocols it is for").1;
                assert!(found.contains(words), "{found} lacks {words} of {count}");
            }
            assert_eq!(found.lines().filter(|line| line.contains("numgen")).count(), spread.draws().len(), "{found}");
        }
    });
}

#[test]
fn udp_clients_follow_their_service() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let table = config.table.clone();
        let network = Network::start(config).await.expect("a network");
        let client = network.attach("client", &[], None).await.expect("attached");
        let mut pods = Vec::new();
        for name in ["one", "two"] {
            let pod = network.attach(name, &[], None).await.expect("attached");
            let (ready, wait) = mpsc::channel();
            inside(&pod.netns, move || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).expect("bound");
                ready.send(()).expect("the test waits");
                let mut buffer = [0; 64];
                loop {
                    let (_, from) = socket.recv_from(&mut buffer).expect("a packet");
                    socket.send_to(name.as_bytes(), from).expect("answered");
                }
            });
            wait.recv().expect("the server starts");
            pods.push(pod);
        }
        let mut tables = Tables::default();
        tables.set_service(key("names"), Some(service(UDP, 53, None, Protocol::Udp)));
        tables.set_slice(key("names-1"), Some(slice("names", 5353, Protocol::Udp, &[&pods[0]])));
        let cluster = Cluster::fixed(tables);
        tokio::spawn(services::run(network, Arc::clone(&cluster), "node".to_owned(), CancellationToken::new()));
        until_rules(&table, |text| text.contains("10.244.0.3 . 5353")).await;

        let ask = |socket: UdpSocket| {
            inside(&client.netns, move || {
                socket.send(b"?").expect("sent");
                let mut buffer = [0; 64];
                let answer =
                    socket.recv(&mut buffer).map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
                (socket, answer.map_err(|error| error.kind()))
            })
        };
        let open = inside(&client.netns, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            socket.connect((Ipv4Addr::from(UDP), 53)).expect("connected");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
            socket
        });
        let (mut socket, answer) = finish(ask(finish(open).await)).await;
        assert_eq!(answer.as_deref(), Ok("one"));
        // The same socket, which the kernel remembers, reaches the pod that took over.
        cluster
            .update(|tables| tables.set_slice(key("names-1"), Some(slice("names", 5353, Protocol::Udp, &[&pods[1]]))));
        let start = Instant::now();
        loop {
            let (back, answer) = finish(ask(socket)).await;
            socket = back;
            if answer.as_deref() == Ok("two") {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "still {answer:?}");
        }
        // Without endpoints a datagram is refused.
        cluster.update(|tables| tables.set_slice(key("names-1"), None));
        until_rules(&table, |text| !text.contains("5353")).await;
        let start = Instant::now();
        loop {
            let (back, answer) = finish(ask(socket)).await;
            socket = back;
            if answer == Err(io::ErrorKind::ConnectionRefused) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "still {answer:?}");
        }
    });
}

#[test]
fn pods_outlive_the_program() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let network = Network::start(config.clone()).await.expect("a network");
        let one = network.attach("one", &[], None).await.expect("attached");
        assert_eq!(network.attach("one", &[], None).await.expect("attached again"), one);
        let two = network.attach("two", &[], None).await.expect("attached");
        assert_ne!(one.ips, two.ips);
        assert!(network.attach("../x", &[], None).await.is_err());
        serve(&one, 8080, "one");
        drop(network);

        // Leftovers of a power cut: files without mounts, links without records.
        std::fs::write(folder.join("run/netns/ghost"), "").expect("written");
        std::fs::write(folder.join("run/network/ghost"), "{").expect("written");
        std::fs::remove_file(folder.join("run/network/two")).expect("removed");

        let network = Network::start(config.clone()).await.expect("started again");
        assert_eq!(network.list(), [("one".to_owned(), one.clone())]);
        assert_eq!(network.attach("one", &[], None).await.expect("adopted"), one);
        assert!(!folder.join("run/netns/ghost").exists());
        assert!(!folder.join("run/netns/two").exists());
        let three = network.attach("two", &[], None).await.expect("attached anew");
        assert_eq!(from_pod(&three, at(one.ips[0], 8080)).await, Ok(format!("one {}", three.ips[0])));

        // Another instance with the same ranges is told; with its own it coexists.
        let mut other = Config::for_data_dir(&folder.join("other"));
        let error = Network::start(other.clone()).await.err().expect("refused").to_string();
        assert!(error.contains("already on link"), "{error}");
        other.pod_cidrs = vec!["10.245.0.0/24".parse().expect("a range")];
        other.cluster_cidrs = vec!["10.245.0.0/16".parse().expect("a range")];
        other.service_cidrs = vec!["10.97.0.0/16".parse().expect("a range")];
        other.dns_addresses = vec![IpAddr::from([10, 97, 0, 10])];
        let second = Network::start(other.clone()).await.expect("a second instance");
        second.attach("one", &[], None).await.expect("attached there");

        network.detach("one").await.expect("detached");
        network.detach("one").await.expect("detaching twice is fine");
        assert!(!one.netns.exists());
        Network::purge(&config).await.expect("purged");
        Network::purge(&config).await.expect("purging twice is fine");
        assert!(second.list()[0].1.netns.exists());
        Network::purge(&other).await.expect("purged");
        let links = nix::net::if_::if_nameindex().expect("listed");
        let names: Vec<String> = links.iter().map(|link| link.name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| !name.starts_with("kb") && !name.starts_with("kobune")), "{names:?}");
        let tables = tokio::process::Command::new("nft").args(["list", "tables"]).output().await.expect("nft runs");
        assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("read");
        let own = folder.to_string_lossy();
        assert!(!mounts.contains(&*own), "{mounts}");
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").expect("read");
        assert_eq!(routes.lines().count(), 1, "{routes}");
    });
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.connect(server).expect("connected");
    socket.send(&message.to_vec().expect("encoded")).expect("sent");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    Message::from_vec(&buffer[..length]).expect("decoded")
}

fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).expect("connected");
    let bytes = message.to_vec().expect("encoded");
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()).expect("sent");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer");
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).expect("the answer");
    Message::from_vec(&bytes).expect("decoded")
}

#[test]
fn names_are_answered() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let network = Network::start(config.clone()).await.expect("a network");
        let gateway = network.gateways()[0];
        let pod = network.attach("one", &[], None).await.expect("attached");
        let mut tables = Tables::default();
        tables.set_service(key("web"), Some(service(VIP, 80, None, Protocol::Tcp)));
        let crowd = Service { headless: true, ..Service::default() };
        tables.set_service(key("crowd"), Some(crowd));
        let mut many = slice("crowd", 80, Protocol::Tcp, &[]);
        for last in 0..100 {
            let mut endpoint = slice("crowd", 80, Protocol::Tcp, &[&pod]).endpoints.remove(0);
            endpoint.address = IpAddr::from([10, 244, 1, last]);
            many.endpoints.push(endpoint);
        }
        tables.set_slice(key("crowd-1"), Some(many));
        let outside = Service { external_name: Some("example.org".into()), ..Service::default() };
        tables.set_service(key("outside"), Some(outside));

        // The host's resolver: on the gateway's address here, so that questions stay in this namespace.
        let resolv_conf = folder.join("resolv.conf");
        std::fs::write(&resolv_conf, format!("nameserver 10.96.0.10\nnameserver {gateway}\n")).expect("written");
        let server = dns::Server::bind(dns::Config {
            resolv_conf,
            own_ranges: config.pod_cidrs.clone(),
            stubs: vec![format!("corp.example={gateway}:5354").parse().expect("a stub domain")],
            dns64: Some("64:ff9b::/96".parse().expect("a prefix")),
            ..dns::Config::new(config.dns_addresses.clone(), "cluster.local")
        });
        let server = server.await.expect("bound on the bridge");
        let token = CancellationToken::new();
        let running = tokio::spawn(server.run(Cluster::fixed(tables), token.clone()));

        let address = at([10, 96, 0, 10], 53);
        type Ask = fn(SocketAddr, &Message) -> Message;
        let ask = async |way: Ask, name: &'static str, kind| {
            let from_pod = inside(&pod.netns, move || way(address, &question(name, kind)));
            let from_pod = finish(from_pod).await;
            let from_host = tokio::task::spawn_blocking(move || way(address, &question(name, kind))).await;
            let from_host = from_host.expect("no panic");
            assert_eq!(from_pod.metadata.response_code, from_host.metadata.response_code);
            from_pod
        };
        for way in [ask_udp as Ask, ask_tcp as Ask] {
            let found = ask(way, "web.default.svc.cluster.local.", RecordType::A).await;
            assert_eq!(found.answers.len(), 1);
            assert_eq!(found.answers[0].data.to_string(), "10.96.0.7");
            assert!(found.metadata.authoritative && found.metadata.recursion_available);
            let missing = ask(way, "none.default.svc.cluster.local.", RecordType::A).await;
            assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(missing.authorities.len(), 1);
            let none = ask(way, "web.default.svc.cluster.local.", RecordType::AAAA).await;
            assert_eq!(none.metadata.response_code, ResponseCode::NoError);
            assert_eq!((none.answers.len(), none.authorities.len()), (0, 1));
            // Nobody listens at the gateway yet: the kernel says so at once, and so does the answer.
            let failed = ask(way, "example.com.", RecordType::A).await;
            assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        }
        let cut = ask(ask_udp, "crowd.default.svc.cluster.local.", RecordType::A).await;
        assert!(cut.metadata.truncation && cut.answers.len() < 100);
        let whole = ask(ask_tcp, "crowd.default.svc.cluster.local.", RecordType::A).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 100);

        // With a resolver on the host, other names and aliases are answered from there.
        for (port, last) in [(53, 80), (5354, 54)] {
            let upstream = UdpSocket::bind((gateway, port)).expect("bound");
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                loop {
                    let (length, from) = upstream.recv_from(&mut buffer).expect("a question");
                    let asked = Message::from_vec(&buffer[..length]).expect("decoded");
                    let mut message = asked.clone().into_response();
                    if asked.queries[0].query_type() == RecordType::A {
                        let name = asked.queries[0].name().clone();
                        let data = hickory_proto::rr::RData::A(Ipv4Addr::new(192, 0, 2, last).into());
                        message.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
                    }
                    upstream.send_to(&message.to_vec().expect("encoded"), from).expect("answered");
                }
            });
        }
        let found = ask(ask_udp, "example.net.", RecordType::A).await;
        assert_eq!(found.answers[0].data.to_string(), "192.0.2.80");
        assert_eq!(found.metadata.response_code, ResponseCode::NoError);
        let found = ask(ask_udp, "outside.default.svc.cluster.local.", RecordType::A).await;
        let data: Vec<String> = found.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(data, ["example.org.", "192.0.2.80"]);
        // A domain of others, and addresses that a NAT64 knows.
        for (name, kind, expected) in [
            ("a.corp.example.", RecordType::A, "192.0.2.54"),
            ("notcorp.example.", RecordType::A, "192.0.2.80"),
            ("a.corp.example.", RecordType::AAAA, "64:ff9b::c000:236"),
            ("example.net.", RecordType::AAAA, "64:ff9b::c000:250"),
        ] {
            let found = ask(ask_udp, name, kind).await;
            let data: Vec<String> = found.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!(data, [expected], "{name} {kind}");
        }
        let none = ask(ask_udp, "web.default.svc.cluster.local.", RecordType::AAAA).await;
        assert_eq!((none.answers.len(), none.authorities.len()), (0, 1), "services have the addresses that they have");

        token.cancel();
        running.await.expect("no panic");
    });
}

#[test]
fn bandwidth_is_limited_each_way() {
    const BYTES: usize = 600_000;
    /// Bytes a second that are let through; a bucket holds 64 kB at first.
    const RATE: u64 = 1_000_000;

    fn send(mut stream: TcpStream) {
        stream.write_all(&vec![7; BYTES]).expect("sent");
    }
    fn receive(mut stream: TcpStream) -> Duration {
        let start = Instant::now();
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.read_exact(&mut vec![0; BYTES]).expect("received");
        start.elapsed()
    }

    alone(|folder| async move {
        let network = Network::start(Config::for_data_dir(&folder)).await.expect("a network");
        let transfers = async |name: &str, bandwidth: Bandwidth| {
            let pod = network.attach(name, &[], None).await.expect("attached");
            for _ in 0..2 {
                network.limit(name, bandwidth).await.expect("limited, again as well");
            }
            let listener = TcpListener::bind((network.gateways()[0], 0)).expect("bound");
            let to = listener.local_addr().expect("an address");
            let connect = move || TcpStream::connect(to).expect("connected");
            let receiving = inside(&pod.netns, move || receive(connect()));
            send(listener.accept().expect("a connection").0);
            let to_pod = finish(receiving).await;
            let sending = inside(&pod.netns, move || send(connect()));
            let from_pod = receive(listener.accept().expect("a connection").0);
            finish(sending).await;
            (to_pod, from_pod)
        };
        // What the bucket does not hold takes its time; less than that would be a hole.
        let least = Duration::from_millis((BYTES as u64 - 100_000) * 1000 / RATE);
        let (to_pod, _) = transfers("one", Bandwidth { to_pod: Some(RATE), from_pod: None }).await;
        let (_, from_pod) = transfers("two", Bandwidth { to_pod: None, from_pod: Some(RATE) }).await;
        assert!(
            to_pod >= least && from_pod >= least,
            "{to_pod:?} to the pod, {from_pod:?} from it, at least {least:?}"
        );
        let (to_pod, from_pod) = transfers("three", Bandwidth::default()).await;
        assert!(to_pod + from_pod < 2 * least, "{to_pod:?} and {from_pod:?} without limits");
    });
}

#[test]
fn attaching_is_quick_and_leaves_no_locks() {
    alone(|folder| async move {
        let network = Network::start(Config::for_data_dir(&folder)).await.expect("a network");
        let start = Instant::now();
        for number in 0..20 {
            network.attach(&format!("pod-{number}"), &[], None).await.expect("attached");
        }
        let attached = start.elapsed() / 20;
        let together = (20..60).map(|number| {
            let network = Arc::clone(&network);
            tokio::spawn(
                async move { network.attach(&format!("pod-{number}"), &[], None).await.expect("attached").ips[0] },
            )
        });
        let start = Instant::now();
        let mut addresses = std::collections::HashSet::new();
        for task in Vec::from_iter(together) {
            assert!(addresses.insert(task.await.expect("no panic")), "two pods have one address");
        }
        let at_once = start.elapsed() / 40;
        let start = Instant::now();
        for number in 0..60 {
            network.detach(&format!("pod-{number}")).await.expect("detached");
        }
        eprintln!("attach {attached:?}, at once {at_once:?} each, detach {:?}", start.elapsed() / 60);
        assert_eq!(network.list(), []);
    });
}
