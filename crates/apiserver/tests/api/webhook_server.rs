//! A TLS server as those that people put behind webhooks and APIServices, on a port of this machine.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kobune_pki::{Authority, San, Subject, tls};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// What a server answers to the body of a request for a path.
pub(crate) type Handler = dyn Fn(&str, &Value) -> Said + Send + Sync;

/// An answer.
pub(crate) enum Said {
    /// A body of JSON.
    Json(Value),
    /// A status and a body of any sort.
    Raw(u16, Vec<u8>),
    /// No answer at all.
    Nothing,
}

/// The server; it ends when it is dropped.
pub(crate) struct WebhookServer {
    pub(crate) port: u16,
    authority: Authority,
    seen: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
    _running: AbortOnDropHandle<()>,
}

impl WebhookServer {
    /// Answers as `handler` says, with a certificate for `localhost`, 127.0.0.1 and `hook.default.svc`.
    pub(crate) async fn start(handler: impl Fn(&str, &Value) -> Said + Send + Sync + 'static) -> WebhookServer {
        Self::trusting(None, handler).await
    }

    /// The same, and clients may show a certificate of an authority.
    pub(crate) async fn trusting(
        clients: Option<&str>,
        handler: impl Fn(&str, &Value) -> Said + Send + Sync + 'static,
    ) -> WebhookServer {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::load_or_create(folder.path()).expect("an authority");
        let names = ["localhost", "127.0.0.1", "hook.default.svc"].map(San::parse);
        let pair = authority.server_certificate("hook", &names).expect("a certificate");
        let serving = tls::ServingCertificate::new(&pair).expect("a serving certificate");
        let clients = clients.unwrap_or(authority.certificate_pem());
        let mut config = Arc::unwrap_or_clone(tls::server_config(serving, clients).expect("a configuration"));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let handler: Arc<Handler> = Arc::new(handler);
        let running = tokio::spawn({
            let (seen, connections) = (Arc::clone(&seen), Arc::clone(&connections));
            async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (acceptor, handler, seen) = (acceptor.clone(), Arc::clone(&handler), Arc::clone(&seen));
                    tokio::spawn(async move {
                        // A client that does not trust the certificate goes away here.
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                        let client =
                            certificate.map(|der| Subject::of_certificate(der).expect("a subject").common_name);
                        let service = service_fn(move |request: Request<Incoming>| {
                            answer(Arc::clone(&handler), Arc::clone(&seen), client.clone(), request)
                        });
                        if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                        {
                            assert!(!error.is_parse(), "{error}");
                        }
                    });
                }
            }
        });
        let running = AbortOnDropHandle::new(running);
        WebhookServer { port, authority, seen, connections, _folder: folder, _running: running }
    }

    /// The authority's certificate as `caBundle` wants it.
    pub(crate) fn bundle(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.authority.certificate_pem())
    }

    /// A `clientConfig` with the address of this server.
    pub(crate) fn at(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle()})
    }

    /// The bodies that have come, in order.
    pub(crate) fn seen(&self) -> Vec<Value> {
        self.seen.lock().clone()
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn answer(
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Value>>>,
    client: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut about = json!({
        "path": request.uri().to_string(), "host": request.headers().get("host").and_then(|host| host.to_str().ok()),
    });
    let headers: serde_json::Map<String, Value> = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.into())))
        .collect();
    about["headers"] = Value::Object(headers);
    about["client"] = client.into();
    about["method"] = request.method().as_str().into();
    let bytes = request.into_body().collect().await.expect("a whole body").to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    about["body"] = body.clone();
    seen.lock().push(about);
    let response = match handler(&path, &body) {
        Said::Json(value) => {
            Response::builder().header("content-type", "application/json").body(Full::from(value.to_string()))
        }
        Said::Raw(code, bytes) => Response::builder().status(code).body(Full::from(bytes)),
        Said::Nothing => std::future::pending().await,
    };
    Ok(response.expect("a response"))
}

/// `AdmissionReview` with this response to a question.
pub(crate) fn reviewed(question: &Value, mut response: Value) -> Said {
    response["uid"] = question["request"]["uid"].clone();
    Said::Json(json!({"apiVersion": question["apiVersion"], "kind": "AdmissionReview", "response": response}))
}

/// A response that changes the object by a JSON patch.
pub(crate) fn patched(question: &Value, patch: &Value) -> Said {
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    reviewed(question, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}
