//! `services/proxy` and its like, after upstream's `test/e2e/network/proxy.go`.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use super::{Cluster, pod};

const PREFIX: &str = "/api/v1/namespaces/default/services/web/proxy";

/// Says what it was asked, as agnhost's porter.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.expect("an upgrade"));
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.expect("a word");
            stream.write_all(&word).await.expect("the word goes back");
        });
        let response = Response::builder().status(101).header("upgrade", "echo").header("connection", "upgrade");
        return Ok(response.body(Full::default()).expect("a response"));
    }
    let response = match request.uri().path() {
        "/page" => {
            Response::builder().header("content-type", "text/html").body(r#"<a href="/rewriteme">test</a>"#.into())
        }
        "/moved" => Response::builder().status(302).header("location", "/there?x=1").body(Full::default()),
        "/broken" => Response::builder().status(500).body("as it is".into()),
        _ => {
            let header =
                |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let said = json!({
                "method": request.method().as_str(), "uri": request.uri().to_string(), "host": header("host"),
                "authorization": header("authorization"), "forwarded": header("x-forwarded-uri"),
            });
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let said = json!({"said": said, "body": String::from_utf8_lossy(&body)});
            Response::builder().header("content-type", "application/json").body(said.to_string().into())
        }
    };
    Ok(response.expect("a response"))
}

/// A cluster with a service `web` in front of a server of its own.
async fn cluster() -> (Cluster, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let running = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades();
            tokio::spawn(async move { connection.await.expect("a connection without faults") });
        }
    });
    let cluster = Cluster::start().await;
    let service = r#"{"metadata":{"name":"web"},"spec":{"ports":[{"name":"http","port":80}]}}"#;
    cluster.post("/api/v1/namespaces/default/services", service).await.expect(201);
    cluster.put_endpoint("web", "http", port).await;
    (cluster, AbortOnDropHandle::new(running))
}

#[tokio::test]
async fn every_method_goes_through() {
    let (cluster, _running) = cluster().await;
    for method in ["DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"] {
        for (name, rest) in [("web", "/some/path/with/"), ("web:http", "/a%20b"), ("http:web:80", "/x?y=z&y=%2F")] {
            let path = format!("/api/v1/namespaces/default/services/{name}/proxy{rest}");
            let headers = [("authorization", "Bearer t"), ("host", "api.example")];
            let said = cluster.send(method, &path, &headers, "hello").await.expect(200);
            let forwarded = path.split('?').next();
            let expected = json!({
                "method": method, "uri": rest, "host": "api.example", "authorization": null, "forwarded": forwarded,
            });
            assert_eq!((&said["said"], &said["body"]), (&expected, &"hello".into()));
        }
        if method != "GET" {
            let said = cluster.send(method, &format!("{PREFIX}?method={method}"), &[], "").await.expect(200);
            assert_eq!(said["said"]["uri"], format!("/?method={method}"));
        }
    }
    for method in ["GET", "HEAD"] {
        let reply = cluster.send(method, &format!("{PREFIX}?method={method}"), &[], "").await;
        assert_eq!(reply.status, StatusCode::MOVED_PERMANENTLY);
        assert_eq!(reply.headers["location"], format!("{PREFIX}/?method={method}"));
        assert_eq!(cluster.send(method, &format!("{PREFIX}/x"), &[], "").await.status, 200);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn addresses_lead_back_through_the_proxy() {
    let (cluster, _running) = cluster().await;
    let page = cluster.get(&format!("{PREFIX}/page")).await;
    assert_eq!(page.bytes, format!(r#"<a href="{PREFIX}/rewriteme">test</a>"#));
    let moved = cluster.get(&format!("{PREFIX}/moved")).await;
    assert_eq!(
        (moved.status.as_u16(), &moved.headers["location"]),
        (302, &format!("{PREFIX}/there?x=1").parse().expect("a value"))
    );
    let broken = cluster.get(&format!("{PREFIX}/broken")).await;
    assert_eq!((broken.status.as_u16(), &*broken.bytes), (500, &b"as it is"[..]));
    cluster.stop().await;
}

#[tokio::test]
async fn what_leads_nowhere() {
    let (cluster, _running) = cluster().await;
    let failure = async |name: &str, code: u16| {
        cluster.get(&format!("/api/v1/namespaces/default/{name}/proxy/x")).await.failure(code)
    };
    assert_eq!(failure("services/gone", 404).await.1, "services \"gone\" not found");
    assert_eq!(failure("services/web:1", 503).await.1, "no service port \"1\" found for service \"web\"");
    assert_eq!(failure("services/a:b:c:d", 400).await.1, "invalid service request \"a:b:c:d\"");
    cluster.post("/api/v1/namespaces/default/pods", &pod("p", "{}")).await.expect(201);
    assert_eq!(failure("pods/p", 400).await.1, "address not allowed");
    let status = r#"{"status":{"podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}"#;
    cluster.patch("/api/v1/namespaces/default/pods/p/status", "application/merge-patch+json", status).await.expect(200);
    assert_eq!(failure("pods/p", 400).await.1, "address not allowed", "nobody reaches this machine by a pod's status");
    // Somebody without rights does not get that far.
    let jane = cluster.with_user("jane", &[]);
    let reply = cluster.send_as(&jane, "OPTIONS", &format!("{PREFIX}/x"), &[], "").await;
    reply.failure(403);
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_listens() {
    let (cluster, running) = cluster().await;
    drop(running);
    let (reason, message) = cluster.get(&format!("{PREFIX}/x")).await.failure(503);
    assert_eq!(reason, "ServiceUnavailable");
    assert!(message.starts_with("error trying to reach service: dial tcp 127.0.0.1:"), "{message}");
    cluster.stop().await;
}

#[tokio::test]
async fn upgrades_go_through() {
    let (cluster, _running) = cluster().await;
    // An upgrade needs a connection: the server's service is put behind one in memory.
    let (ours, theirs) = tokio::io::duplex(4096);
    let service = cluster.with_user("admin", &["system:masters"]);
    let serving = service_fn(move |request: Request<Incoming>| service.clone().oneshot(request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(theirs), serving).with_upgrades();
    let server = tokio::spawn(connection);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.expect("a connection");
    let client = tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .uri(format!("{PREFIX}/echo"))
        .header("host", "api.example")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Full::new(Bytes::new()))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!((response.status().as_u16(), &response.headers()["upgrade"]), (101, &"echo".parse().expect("a value")));
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("an upgrade"));
    stream.write_all(b"hello").await.expect("a word goes out");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.expect("the word comes back");
    assert_eq!(back, b"hello");
    drop((stream, sender));
    client.await.expect("the client ends").expect("without a fault");
    server.await.expect("the server ends").expect("without a fault");
    let value: Value = cluster.get(&format!("{PREFIX}/x")).await.expect(200);
    assert_eq!(value["said"]["method"], "GET");
    cluster.stop().await;
}
