//! Traces: what a collector hears of requests.

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kobune_apiserver::Tracer;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Cluster, config_map,
    webhook_server::{WebhookServer, reviewed},
};

/// A collector that hands on the bodies that it gets.
async fn collector() -> (u16, mpsc::UnboundedReceiver<Vec<u8>>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (heard, bodies) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let heard = heard.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let heard = heard.clone();
                    async move {
                        assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
                        let body = request.into_body().collect().await.expect("a body").to_bytes().to_vec();
                        heard.send(body).expect("the test listens");
                        // An empty message, and the end of the call in the head.
                        let response = Response::builder()
                            .header("content-type", "application/grpc")
                            .header("grpc-status", "0")
                            .body(Full::new(bytes::Bytes::from_static(&[0, 0, 0, 0, 0])));
                        Ok::<_, std::convert::Infallible>(response.expect("a response"))
                    }
                });
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer);
                // The other side goes away when the test ends.
                let _ended = served.await;
            });
        }
    });
    (port, bodies, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn requests_have_spans() {
    let (port, mut bodies, _collector) = collector().await;
    let server = WebhookServer::start(|_, question| reviewed(question, json!({"allowed": true}))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tracing.yaml");
    let text =
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: 127.0.0.1:{port}\n");
    std::fs::write(&path, text).expect("a file");
    let tracer = Tracer::load(&path).expect("a tracer");
    let cluster = Cluster::start_with(|config| config.tracer = Some(Arc::clone(&tracer))).await;
    let hook = json!({
        "metadata": {"name": "hook"},
        "webhooks": [{
            "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": server.at("/"),
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        }],
    });
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    cluster.post(hooks, &hook.to_string()).await.expect(201);
    // Nothing so far was part of a trace, and none is begun here.
    let trace = [0x4b_u8, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
    let hex: String = trace.iter().map(|byte| format!("{byte:02x}")).collect();
    let maps = "/api/v1/namespaces/default/configmaps";
    let (sampled, not) = (format!("00-{hex}-00f067aa0ba902b7-01"), format!("00-{hex}-00f067aa0ba902b7-00"));
    let headers = [("traceparent", not.as_str())];
    cluster.send("POST", maps, &headers, &config_map("silent", "{}")).await.expect(201);
    let headers = [("traceparent", sampled.as_str()), ("content-type", "application/json")];
    cluster.send("POST", maps, &headers, &config_map("a", "{}")).await.expect(201);
    let passed: Vec<_> =
        server.seen().iter().map(|seen| seen["headers"]["traceparent"].as_str().map(str::to_owned)).collect();
    let [None, Some(passed)] = passed.as_slice() else { panic!("{passed:?}") };
    assert!(passed.starts_with(&format!("00-{hex}-")) && passed.ends_with("-01"), "{passed}");
    assert_ne!(*passed, sampled, "the webhook's span is another one");

    let body = bodies.recv().await.expect("a batch");
    let has = |words: &[u8]| body.windows(words.len()).any(|window| window == words);
    for words in
        ["create configmaps", "store create", "call webhook", "https://127.0.0.1", "core/configmaps", "apiserver"]
    {
        assert!(has(words.as_bytes()), "{words}");
    }
    assert!(has(&trace) && has(&[0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
    assert!(!has(b"validatingwebhookconfigurations"));
    let metrics = String::from_utf8(cluster.get("/metrics").await.bytes.to_vec()).expect("text");
    assert!(metrics.contains("kobune_trace_spans_dropped_total 0\n"), "{metrics}");
    cluster.stop().await;
}
