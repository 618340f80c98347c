//! What many services cost a node: `cargo bench -p kobune-network` (as root; all of it in a network namespace of its own).
//!
//! usage: `services [services] [changes]`: 10,000 services of two endpoints each, 200 changes. Prints `name value unit`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use kobune_network::{
    Attachment, Config, Network, Protocol,
    cluster::{Cluster, Endpoint, Hints, Key, Service, ServicePort, Slice, Tables},
    dns, services,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use tokio_util::sync::CancellationToken;

/// The port of every service.
const PORT: u16 = 80;
/// The port of the pod that answers.
const TARGET: u16 = 8080;

fn main() {
    // `cargo test --benches` and `cargo bench` give flags of their own.
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<u32>().ok());
    let services = numbers.next().unwrap_or(10_000);
    let changes = numbers.next().unwrap_or(200);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let alone = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces of our own");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("mounts of our own");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(measure(path, services, changes));
    });
    alone.join().expect("no panic");
}

async fn measure(folder: PathBuf, services: u32, changes: u32) {
    let config = Config::for_data_dir(&folder);
    let network = Network::start(config).await.expect("a network");
    let mut pods = Vec::new();
    for name in ["one", "two"] {
        pods.push(network.attach(name, &[], None).await.expect("attached"));
    }
    pods.iter().for_each(serve);
    let before = resident();
    let cluster = Cluster::fixed(Tables::default());
    let token = CancellationToken::new();
    tokio::spawn(services::run(Arc::clone(&network), Arc::clone(&cluster), "node".to_owned(), token.clone()));
    cluster.update(|tables| {
        for number in 0..services {
            put(tables, number, &pods);
        }
        true
    });
    let known = resident();
    let start = Instant::now();
    until(services - 1, true).await;
    print("whole_table", start.elapsed().as_secs_f64() * 1e3, "ms");
    print("memory_of_objects", (known - before) / f64::from(services), "B/service");
    print("memory_of_all", (resident() - before) / f64::from(services), "B/service");

    let (mut gone, mut there) = (Vec::new(), Vec::new());
    for turn in 0..changes {
        let number = turn * 7919 % services;
        for (pods, times) in [(&[][..], &mut gone), (&pods, &mut there)] {
            let start = Instant::now();
            cluster.update(|tables| put(tables, number, pods));
            until(number, !pods.is_empty()).await;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (name, times) in [("endpoint_gone_to_refused", &mut gone), ("endpoint_known_to_first_answer", &mut there)] {
        times.sort_by(f64::total_cmp);
        print(&format!("{name}_p50"), times[times.len() / 2], "ms");
        print(&format!("{name}_p99"), times[times.len() * 99 / 100], "ms");
    }
    print("memory_after_changes", (resident() - before) / f64::from(services), "B/service");
    connections(&network, &pods[0], services).await;
    let server = dns::Server::bind(dns::Config::new(network.config().dns_addresses.clone(), "cluster.local"));
    tokio::spawn(server.await.expect("bound on the bridge").run(cluster, token.clone()));
    names(&pods[1], network.config().dns_addresses[0], services).await;
    token.cancel();
}

/// Connections from one pod to another: to its address, and through the last of all services.
async fn connections(network: &Arc<Network>, server: &Attachment, services: u32) {
    let client = network.attach("client", &[], None).await.expect("attached");
    let (direct, through) = (SocketAddr::new(server.ips[0], TARGET), SocketAddr::new(address(services - 1), PORT));
    let work = inside(&client, move || {
        let mut times = [Vec::new(), Vec::new()];
        // In turn, so that the machine's moods hit both alike.
        for _ in 0..4000 {
            for (to, times) in [direct, through].into_iter().zip(&mut times) {
                let start = Instant::now();
                TcpStream::connect(to).expect("connected");
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        times
    });
    let times = tokio::task::spawn_blocking(|| work.join().expect("no panic")).await.expect("joined");
    for (name, mut times) in ["connect_direct", "connect_through_service"].into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        print(&format!("{name}_p50"), times[times.len() / 2], "us");
        print(&format!("{name}_p99"), times[times.len() * 99 / 100], "us");
    }
}

/// Questions from a pod about services in turn: one at a time, and from four clients together.
async fn names(client: &Attachment, server: IpAddr, services: u32) {
    let ask = move |count: u32| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
        socket.connect((server, 53)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        let mut times = Vec::new();
        let mut buffer = [0; 512];
        for turn in 0..count {
            let number = turn * 7919 % services;
            let name = format!("service-{number}.namespace-{}.svc.cluster.local.", number % 50);
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
            let bytes = message.to_vec().expect("encoded");
            let start = Instant::now();
            socket.send(&bytes).expect("sent");
            let length = socket.recv(&mut buffer).expect("an answer");
            times.push(start.elapsed().as_secs_f64() * 1e6);
            // One answer in the header's count of them.
            assert!(length > 12 && buffer[7] == 1, "service {number} has one address");
        }
        times
    };
    let one = inside(client, move || ask(20_000));
    let mut times = tokio::task::spawn_blocking(|| one.join().expect("no panic")).await.expect("joined");
    times.sort_by(f64::total_cmp);
    print("dns_answer_p50", times[times.len() / 2], "us");
    print("dns_answer_p99", times[times.len() * 99 / 100], "us");
    let start = Instant::now();
    let four: Vec<_> = (0..4).map(|_| inside(client, move || ask(10_000).len())).collect();
    let join = || four.into_iter().map(|one| one.join().expect("no panic")).sum::<usize>();
    let answers = tokio::task::spawn_blocking(join).await.expect("joined");
    print("dns_answers_four_clients", answers as f64 / start.elapsed().as_secs_f64(), "/s");
}

fn address(number: u32) -> IpAddr {
    IpAddr::from((u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number).to_be_bytes())
}

/// A service with these pods behind it.
fn put(tables: &mut Tables, number: u32, pods: &[Attachment]) -> bool {
    let key = |name: String| -> Key { (Arc::from(format!("namespace-{}", number % 50)), Arc::from(name)) };
    let name = format!("service-{number}");
    let endpoint = |pod: &Attachment| Endpoint {
        address: pod.ips[0],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some(Arc::from("node")),
        hints: Hints::default(),
    };
    let endpoints = pods.iter().map(endpoint).collect();
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: PORT, node_port: None };
    let service = Service { cluster_ips: vec![address(number)], ports: vec![port], ..Service::default() };
    let changed = tables.set_service(key(name.clone()), Some(service));
    let ports = vec![("http".into(), Protocol::Tcp, TARGET)];
    let slice = Slice { service: Arc::from(name.as_str()), ports, endpoints };
    tables.set_slice(key(format!("{name}-abcde")), Some(slice)) || changed
}

/// Connects until the service answers, or refuses.
async fn until(number: u32, answers: bool) {
    let to = SocketAddr::new(address(number), PORT);
    let start = Instant::now();
    loop {
        // A first packet that met no rules at all would only be sent again after a second.
        let found = tokio::time::timeout(Duration::from_millis(20), tokio::net::TcpStream::connect(to)).await;
        let found = found.unwrap_or_else(|late| Err(late.into()));
        match found.map(drop).map_err(|error| error.kind()) {
            Ok(()) if answers => return,
            Err(io::ErrorKind::ConnectionRefused) if !answers => return,
            other => assert!(start.elapsed() < Duration::from_secs(120), "service {number}: {other:?}"),
        }
    }
}

fn serve(pod: &Attachment) {
    let (ready, wait) = mpsc::channel();
    inside(pod, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET)).expect("bound");
        ready.send(()).expect("the bench waits");
        listener.incoming().for_each(drop);
    });
    wait.recv().expect("the server starts");
}

fn inside<T: Send + 'static>(pod: &Attachment, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let file = std::fs::File::open(&pod.netns).expect("the pod's namespace");
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("the pod's namespace can be entered");
        work()
    })
}

/// Bytes of memory of this process that are its own.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("read");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("a line of anonymous memory");
    let kilobytes: f64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    kilobytes * 1024.0
}

fn print(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.2} {unit}");
}
