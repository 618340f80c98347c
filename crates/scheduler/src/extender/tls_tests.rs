//! An extender that is reached over TLS and wants to know who asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::call::{CallError, Caller};
use crate::profile::Config;

/// The only name in the extender's certificate.
const NAME: &str = "extender.example.com";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Authority::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

fn certificate(authority: &Authority, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("parameters");
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, authority).expect("a certificate"), key)
}

/// Base64 of a text, as configurations have it.
fn data(text: String) -> Value {
    serde_json::to_value(ByteString(text.into_bytes())).expect("JSON")
}

/// Answers each connection once: of all nodes that it is asked about the first one does. Takes clients of the authority only.
async fn serve(listener: TcpListener, authority: Arc<Authority>) {
    let (own, key) = certificate(&authority, ExtendedKeyUsagePurpose::ServerAuth);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.as_ref().der().to_vec())).expect("an authority");
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_client_cert_verifier(clients);
    let config = config.with_single_cert(vec![CertificateDer::from(own.der().to_vec())], key).expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        // A client that is not let in has lost its turn.
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut request = Vec::new();
        let asked: Value = loop {
            let mut part = [0; 4096];
            let read = stream.read(&mut part).await.unwrap_or(0);
            request.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&request);
            match text.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str(body)) {
                Some(Ok(asked)) => break asked,
                _ if read == 0 => break Value::Null,
                _ => {}
            }
        };
        let answer = json!({"NodeNames": [asked["NodeNames"][0]]}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
        // A client that went away is no concern of the extender's.
        drop(stream.write_all((head + &answer).as_bytes()).await);
        drop(stream.shutdown().await);
    }
}

async fn ask(address: SocketAddr, tls: Value) -> Result<Vec<Arc<str>>, CallError> {
    let config = Config::from_value(json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "extenders": [{"urlPrefix": format!("https://{address}/say"), "filterVerb": "filter", "enableHTTPS": true,
            "nodeCacheCapable": true, "tlsConfig": tls}],
    }));
    let extender = config.expect("a configuration").extenders.remove(0);
    let caller = Caller::new(extender).await.expect("a way to it");
    let nodes = ["a", "b"].map(Arc::from).to_vec();
    caller.filter(&json!({"metadata": {"name": "p"}}), nodes, &BTreeMap::new()).await.map(|left| left.nodes)
}

#[tokio::test]
async fn each_side_proves_who_it_is() {
    // Another test may have been faster; what is installed is the same.
    drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
    let (trusted, stranger) = (Arc::new(authority()), authority());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(serve(listener, trusted.clone()));
    let client = |authority: &Authority| {
        let (own, key) = certificate(authority, ExtendedKeyUsagePurpose::ClientAuth);
        json!({"certData": data(own.pem()), "keyData": data(key.serialize_pem())})
    };
    let with = |mut tls: Value, more: Value| {
        more.as_object().expect("an object").iter().for_each(|(key, value)| tls[key] = value.clone());
        tls
    };
    let authority_of = |authority: &Authority| data(authority.as_ref().pem());
    let good = with(client(&trusted), json!({"caData": authority_of(&trusted), "serverName": NAME}));

    let found = ask(address, good.clone()).await.expect("an answer");
    assert_eq!(found.iter().map(|node| &**node).collect::<Vec<_>>(), ["a"]);
    // Whoever names no authority takes any certificate, as upstream.
    ask(address, client(&trusted)).await.expect("an answer");
    let refused = [
        ("the certificate has another name", with(good.clone(), json!({"serverName": "other.example.com"}))),
        ("nobody we know has signed it", with(good.clone(), json!({"caData": authority_of(&stranger)}))),
        ("it does not know who signed ours", with(good, client(&stranger))),
        ("it wants one", json!({"caData": authority_of(&trusted), "serverName": NAME})),
    ];
    for (why, tls) in refused {
        match ask(address, tls).await {
            Err(CallError::Unreachable { .. }) => {}
            other => panic!("{why}: {other:?}"),
        }
    }
    server.abort();
}
