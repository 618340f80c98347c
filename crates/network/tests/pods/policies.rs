//! NetworkPolicies and host ports at the loopback address, with packets.

use kobune_network::policy::{
    admin,
    objects::{Peer, PodFacts, Policy, Ports, Rule},
    selector::Selector,
};

use super::*;

/// How long a connection that is dropped on the way is given: nothing tells the client, so that it has to be waited for.
const DROPPED: Duration = Duration::from_millis(400);

fn facts(name: &str, app: &str) -> PodFacts {
    PodFacts {
        uid: name.into(),
        namespace: "default".into(),
        name: name.into(),
        labels: [("app".into(), app.into())].into(),
        ips: Vec::new(),
        ports: vec![("http".into(), Protocol::Tcp, 8080)],
    }
}

fn app(name: &str) -> Selector {
    Selector::of(&serde_json::from_value(serde_json::json!({"matchLabels": {"app": name}})).expect("a selector"))
}

fn friends(ports: Vec<Ports>) -> Vec<Rule> {
    vec![Rule { peers: vec![Peer::Pods { namespaces: None, pods: app("friend") }], ports }]
}

/// Whether a connection from a pod comes about within `limit`.
async fn connects(pod: &Attachment, to: SocketAddr, limit: Duration) -> bool {
    let connect = move || match TcpStream::connect_timeout(&to, limit) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => false,
        Err(error) => panic!("{to}: {error}"),
    };
    finish(inside(&pod.netns, connect)).await
}

async fn reaches(pod: &Attachment, to: SocketAddr) -> bool {
    connects(pod, to, PATIENCE).await
}

async fn is_dropped(pod: &Attachment, to: SocketAddr) -> bool {
    !connects(pod, to, DROPPED).await
}

#[test]
fn policies_isolate_pods_from_their_first_packet() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let table = config.table.clone();
        let network = Network::start(config).await.expect("a network");
        let mut pods = Vec::new();
        for (name, app) in [("web", "web"), ("friend", "friend"), ("stranger", "other")] {
            let pod = network.attach(name, &[], Some(facts(name, app))).await.expect("attached");
            serve(&pod, 8080, name);
            serve(&pod, 9090, name);
            pods.push(pod);
        }
        let [web, friend, stranger] = pods.as_slice() else { panic!("three pods") };
        let mut tables = Tables::default();
        tables.set_service(key("web"), Some(service(VIP, 80, None, Protocol::Tcp)));
        tables.set_slice(key("web-1"), Some(slice("web", 8080, Protocol::Tcp, &[web])));
        let cluster = Cluster::fixed(tables);
        tokio::spawn(services::run(
            Arc::clone(&network),
            Arc::clone(&cluster),
            "node".to_owned(),
            CancellationToken::new(),
        ));
        until_rules(&table, |text| text.contains("10.96.0.7 . tcp . 80")).await;
        assert!(reaches(stranger, at(web.ips[0], 8080)).await, "nothing isolates it yet");
        let mut open = finish(inside(&stranger.netns, {
            let to = at(web.ips[0], 8080);
            move || TcpStream::connect_timeout(&to, PATIENCE).expect("connected")
        }))
        .await;

        let ports = vec![Ports::Named(Protocol::Tcp, "http".into()), Ports::Numbers(Protocol::Tcp, 9000, 9080)];
        let policy = Policy { pods: app("web"), ingress: Some(friends(ports)), egress: None };
        cluster.update(|tables| tables.set_policy(key("friends"), Some(policy)));
        until_rules(&table, |text| text.contains("jump policy-from")).await;
        for to in [at(web.ips[0], 8080), at(VIP, 80)] {
            assert!(reaches(friend, to).await, "{to} from a friend");
            assert!(is_dropped(stranger, to).await, "{to} from a stranger");
        }
        assert!(is_dropped(friend, at(web.ips[0], 9090)).await, "that port is not allowed");
        assert!(reaches(web, at(stranger.ips[0], 8080)).await, "nothing is said of what goes out");
        assert!(reaches(web, at(VIP, 80)).await, "a pod reaches itself");
        assert_eq!(from_host(at(web.ips[0], 9090)).await.map(|_| ()), Ok(()), "its own node reaches it");
        // What was allowed goes on.
        let mut text = String::new();
        open.set_read_timeout(Some(PATIENCE)).expect("set");
        open.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("web "), "{text:?}");

        // A pod that comes now is isolated when `attach` returns, before anything runs in it.
        let late = network.attach("late", &[], Some(facts("late", "web"))).await.expect("attached");
        serve(&late, 8080, "late");
        assert!(is_dropped(stranger, at(late.ips[0], 8080)).await);
        assert!(reaches(friend, at(late.ips[0], 8080)).await);

        // What goes out: a block with a hole.
        let range: ipnet::IpNet = "10.244.0.0/24".parse().expect("a range");
        let peers = vec![Peer::Block { range, except: vec![stranger.ips[0].into()] }];
        let policy = Policy {
            pods: app("friend"),
            ingress: None,
            egress: Some(vec![Rule { peers, ports: vec![Ports::Numbers(Protocol::Tcp, 0, u16::MAX)] }]),
        };
        cluster.update(|tables| tables.set_policy(key("out"), Some(policy)));
        until_rules(&table, |text| text.contains("blocks4")).await;
        assert!(reaches(friend, at(web.ips[0], 8080)).await);
        assert!(is_dropped(friend, at(stranger.ips[0], 8080)).await);
        assert!(reaches(stranger, at(friend.ips[0], 8080)).await);

        // Nothing at all, and then nothing isolated.
        let deny = Policy { ingress: Some(Vec::new()), egress: Some(Vec::new()), ..Policy::default() };
        cluster.update(|tables| {
            for name in ["friends", "out"] {
                tables.set_policy(key(name), None);
            }
            tables.set_policy(key("deny"), Some(deny))
        });
        until_rules(&table, |text| !text.contains("blocks4")).await;
        assert!(is_dropped(friend, at(web.ips[0], 8080)).await);
        cluster.update(|tables| tables.set_policy(key("deny"), None));
        until_rules(&table, |text| !text.contains("jump policy-from")).await;
        assert!(reaches(stranger, at(web.ips[0], 9090)).await);
    });
}

#[test]
fn administrators_have_the_first_and_the_last_word() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let table = config.table.clone();
        let network = Network::start(config).await.expect("a network");
        let mut pods = Vec::new();
        for (name, app) in [("web", "web"), ("friend", "friend"), ("stranger", "other")] {
            let pod = network.attach(name, &[], Some(facts(name, app))).await.expect("attached");
            serve(&pod, 8080, name);
            serve(&pod, 9090, name);
            pods.push(pod);
        }
        let [web, friend, stranger] = pods.as_slice() else { panic!("three pods") };
        let mut tables = Tables::default();
        tables.set_namespace((Arc::from(""), Arc::from("default")), Some([("kind".into(), "test".into())].into()));
        let cluster = Cluster::fixed(tables);
        let token = CancellationToken::new();
        tokio::spawn(services::run(Arc::clone(&network), Arc::clone(&cluster), "node".to_owned(), token));
        let (first, second) = (at(web.ips[0], 8080), at(web.ips[0], 9090));
        let set = |name: &str, spec: Option<serde_json::Value>| {
            let key = (Arc::from("ClusterNetworkPolicy"), Arc::from(name));
            let policy = spec.map(|spec| admin::of("ClusterNetworkPolicy", &spec).expect("a policy"));
            cluster.update(|tables| tables.set_admin(key, policy));
        };
        let of = |app: &str| serde_json::json!({"namespaceSelector": {"matchLabels": {"kind": "test"}}, "podSelector": {"matchLabels": {"app": app}}});
        let anybody = serde_json::json!([{"namespaces": {}}]);

        // The last word: nobody may, unless NetworkPolicies say something of the pod.
        let mut last = serde_json::json!({"tier": "Baseline", "priority": 0, "subject": {"pods": of("web")},
            "ingress": [{"action": "Accept", "from": [{"pods": of("friend")}]}, {"action": "Deny", "from": anybody}]});
        set("last", Some(last.clone()));
        until_rules(&table, |text| text.contains("jump policy-from")).await;
        assert!(reaches(friend, first).await);
        assert!(is_dropped(stranger, first).await);
        let open = Policy { pods: app("web"), ingress: Some(vec![Rule::default()]), egress: None };
        cluster.update(|tables| tables.set_policy(key("open"), Some(open)));
        until_rules(&table, |text| !text.contains("peers4")).await;
        assert!(reaches(stranger, first).await, "a NetworkPolicy is of a tier before");

        // The first word: what NetworkPolicies allow is denied but for one port that is theirs to decide, and one side that
        // may whatever they say.
        last["tier"] = "Admin".into();
        last["ingress"].as_array_mut().expect("rules").insert(
            0,
            serde_json::json!({"action": "Pass", "from": anybody, "protocols": [{"destinationNamedPort": "http"}]}),
        );
        set("last", None);
        set("first", Some(last));
        until_rules(&table, |text| text.contains("named4") && text.contains("drop")).await;
        assert!(reaches(stranger, first).await && is_dropped(stranger, second).await);
        assert!(reaches(friend, second).await);
        let shut = Policy { pods: app("web"), ingress: Some(Vec::new()), egress: None };
        cluster.update(|tables| tables.set_policy(key("open"), Some(shut)));
        eventually_dropped(stranger, first).await;
        assert!(reaches(friend, second).await, "accepted is accepted");
        assert!(is_dropped(friend, first).await, "what is passed on is not");

        // A pod reaches itself through a Service whatever NetworkPolicies say, unless administrators do.
        cluster.update(|tables| {
            tables.set_service(key("web"), Some(service(VIP, 80, None, Protocol::Tcp)))
                | tables.set_slice(key("web-1"), Some(slice("web", 9090, Protocol::Tcp, &[web])))
        });
        until_rules(&table, |text| text.contains("10.96.0.7 . tcp . 80")).await;
        eventually_dropped(web, at(VIP, 80)).await;
        let itself = serde_json::json!({"tier": "Admin", "priority": 0, "subject": {"pods": of("web")},
            "ingress": [{"action": "Pass", "from": [{"pods": of("web")}]}]});
        set("first", Some(itself));
        until_rules(&table, |text| !text.contains("named4")).await;
        assert!(reaches(web, at(VIP, 80)).await);

        // What goes out, by addresses.
        set("first", None);
        cluster.update(|tables| tables.set_policy(key("open"), None));
        until_rules(&table, |text| !text.contains("jump policy-from")).await;
        let block = format!("{}/32", web.ips[0]);
        set(
            "out",
            Some(serde_json::json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "egress": [
                {"action": "Accept", "to": [{"networks": [block]}], "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9000, "end": 9100}}}}]},
                {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]})),
        );
        until_rules(&table, |text| text.contains("blocks4")).await;
        assert!(reaches(stranger, second).await && is_dropped(stranger, first).await);
        assert!(is_dropped(web, at(friend.ips[0], 9090)).await);
        assert_eq!(from_host(first).await.map(|_| ()), Ok(()), "its own node reaches it");
    });
}

/// Rules that look the same to a search are in force within moments.
async fn eventually_dropped(pod: &Attachment, to: SocketAddr) {
    let start = Instant::now();
    while !is_dropped(pod, to).await {
        assert!(start.elapsed() < PATIENCE, "{to} is still reached");
    }
}

#[test]
fn host_ports_of_one_number() {
    alone(|folder| async move {
        let config = Config::for_data_dir(&folder);
        let table = config.table.clone();
        let network = Network::start(config).await.expect("a network");
        let gateway = network.gateways()[0];
        let port =
            |host_ip: Option<IpAddr>, protocol| HostPort { host_ip, host_port: 54323, container_port: 8080, protocol };
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let one = network.attach("one", &[port(Some(local), Protocol::Tcp)], None).await.expect("attached");
        let two = network.attach("two", &[port(Some(gateway), Protocol::Tcp)], None).await.expect("attached");
        let three = network.attach("three", &[port(Some(gateway), Protocol::Udp)], None).await.expect("attached");
        serve(&one, 8080, "one");
        serve(&two, 8080, "two");
        serve(&three, 8080, "three");
        let cluster = Cluster::fixed(Tables::default());
        tokio::spawn(services::run(Arc::clone(&network), cluster, "node".to_owned(), CancellationToken::new()));
        until_rules(&table, |text| text.contains("54323")).await;
        assert_eq!(from_host(at(local, 54323)).await, Ok(format!("one {gateway}")), "from the loopback address");
        assert_eq!(from_host(at(gateway, 54323)).await, Ok(format!("two {gateway}")));
        // From another of the node's addresses to the loopback address, as a client that binds first.
        let bound = tokio::task::spawn_blocking(move || {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(at(gateway, 0)).expect("bound");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut stream = socket.connect(at(local, 54323)).await.expect("connected");
                let mut text = String::new();
                tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.expect("an answer");
                text
            })
        });
        assert_eq!(bound.await.expect("no panic"), format!("one {gateway}"));
        assert_eq!(from_pod(&two, at(gateway, 54323)).await, Ok(format!("two {gateway}")));
        let udp = tokio::task::spawn_blocking(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            socket.connect((gateway, 54323)).expect("connected");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket.send(b"?").expect("sent");
            // Nobody listens for UDP in the third pod; that it is the pod who says so shows the way.
            socket.recv(&mut [0; 8]).expect_err("refused").kind()
        });
        assert_eq!(udp.await.expect("no panic"), io::ErrorKind::ConnectionRefused);
    });
}
