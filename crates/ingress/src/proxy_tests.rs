//! Real connections through the proxy.

use std::collections::HashMap;

use kobune_network::{
    Protocol,
    cluster::{Endpoint, Hints, Service, ServicePort, Slice, Tables},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    certificates,
    objects::{Backend, Facts, Path, Port, Rule},
    routes::Routes,
};

/// A server that answers with the head of each request, and echoes after a change of protocol.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.expect("a request") == 0 {
                        return;
                    }
                }
                let text = String::from_utf8_lossy(&head).to_lowercase();
                if text.contains("upgrade: echo") {
                    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                    stream.write_all(switch.as_bytes()).await.expect("answered");
                    let mut word = [0; 5];
                    stream.read_exact(&mut word).await.expect("a word");
                    stream.write_all(&word).await.expect("echoed");
                    return;
                }
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nKeep-Alive: 5\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await.expect("answered");
            });
        }
    });
    address
}

fn cluster(endpoint: SocketAddr) -> Arc<Cluster> {
    let mut tables = Tables::default();
    let key = || (Arc::from("shop"), Arc::from("web"));
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    tables.set_service(key(), Some(Service { ports: vec![port], ..Service::default() }));
    let endpoints = vec![Endpoint {
        address: endpoint.ip(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        hints: Hints::default(),
    }];
    let slice =
        Slice { service: Arc::from("web"), ports: vec![("http".into(), Protocol::Tcp, endpoint.port())], endpoints };
    tables.set_slice(key(), Some(slice));
    Cluster::fixed(tables)
}

fn routes() -> Arc<Routes> {
    let to = |service: &str| Backend { service: (Arc::from("shop"), Arc::from(service)), port: Port::Number(80) };
    let path = |path: &str, service: &str| Path { exact: false, path: path.to_owned(), backend: to(service) };
    let rule = Rule { host: "web.example".to_owned(), paths: vec![path("/", "web"), path("/gone", "gone")] };
    Arc::new(Routes::new([Facts { rules: vec![rule], ..Facts::default() }].iter()))
}

/// A proxy on a port of its own.
async fn start(tls: bool) -> (SocketAddr, Arc<Table>) {
    let table = Arc::<Table>::default();
    *table.routes.write() = routes();
    let proxy = Proxy::new(Arc::clone(&table), cluster(backend().await));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let acceptor = tls.then(|| certificates::acceptor(Arc::clone(&table.certificates)).expect("TLS"));
    tokio::spawn(proxy.serve(listener, acceptor));
    (address, table)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.to_lowercase()
}

#[tokio::test]
async fn requests_are_sent_on() {
    let (address, table) = start(false).await;
    let get = |host: &str, path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 6.6.6.6\r\nX-Secret: 1\r\nConnection: close, X-Secret\r\n\r\n"
        )
    };
    let answer = ask(address, &get("web.example", "/a?b=c")).await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    for part in
        ["get /a?b=c http/1.1", "host: web.example", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http\r\n"]
    {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    for part in ["6.6.6.6", "x-secret", "keep-alive: 5"] {
        assert!(!answer.contains(part), "{part}: {answer}");
    }
    assert!(ask(address, &get("other.example", "/")).await.starts_with("http/1.1 404"));
    assert!(ask(address, &get("web.example", "/gone")).await.starts_with("http/1.1 503"));
    *table.routes.write() = Arc::default();
    assert!(ask(address, &get("web.example", "/")).await.starts_with("http/1.1 404"), "routes change at once");
}

#[tokio::test]
async fn connections_may_change_their_protocol() {
    let (address, _table) = start(false).await;
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = "GET / HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.expect("an answer"), 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"hello").await.expect("sent");
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.expect("the echo");
    assert_eq!(&word, b"hello");
}

#[tokio::test]
async fn certificates_follow_names_and_change_while_it_runs() {
    let (address, table) = start(true).await;
    let connect = |trusted: String| async move {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut stream = connector.connect(ServerName::try_from("web.example").expect("a name"), stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).to_lowercase())
    };
    let (first, second) = (certificates::tests::made("web.example"), certificates::tests::made("web.example"));
    let put = |pair: &(String, String)| {
        let parsed = certificates::parse(pair.0.as_bytes(), pair.1.as_bytes()).expect("it is right");
        table.certificates.set(HashMap::from([("web.example".to_owned(), parsed)]));
    };
    assert!(connect(first.0.clone()).await.is_err(), "there is no certificate yet");
    put(&first);
    let answer = connect(first.0.clone()).await.expect("an answer");
    assert!(answer.starts_with("http/1.1 200") && answer.contains("x-forwarded-proto: https"), "{answer}");
    put(&second);
    assert!(connect(first.0).await.is_err(), "the old one is not shown any more");
    assert!(connect(second.0).await.is_ok());
}
