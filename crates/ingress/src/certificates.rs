//! Certificates by the name that the client asks for.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

/// Why a Secret is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text is not PEM, or not what it should be.
    #[error("read {part} as PEM")]
    Pem {
        /// Which of the two.
        part: &'static str,
        /// The cause.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not belong together, or are of a sort that is not known.
    #[error("use the certificate with its key")]
    Use(#[source] rustls::Error),
}

/// A certificate with its key, from the two fields of a Secret of type `kubernetes.io/tls`.
pub fn parse(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let pem = |part| move |source| CertificateError::Pem { part, source };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(pem("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("tls.key"))?;
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new).map_err(CertificateError::Use)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in force, by host; wildcards without the star. They change while connections go on.
#[derive(Debug, Default)]
pub struct Certificates(RwLock<HashMap<String, Arc<CertifiedKey>>>);

impl Certificates {
    /// Puts these in the place of all others.
    pub fn set(&self, by_host: HashMap<String, Arc<CertifiedKey>>) {
        *self.0.write() = by_host;
    }

    /// The certificate for a host.
    pub fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let host = host.to_ascii_lowercase();
        let all = self.0.read();
        let wildcard = || host.find('.').and_then(|dot| all.get(&host[dot..]));
        all.get(&host).or_else(wildcard).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    /// None ends the handshake: a client that is shown another host's certificate would only learn names from it.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name()?)
    }
}

/// What takes TLS connections with these certificates.
pub fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate for a name, and its key.
    pub(crate) fn made(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn certificates_are_found_by_name() {
        let (certificate, key) = made("a.example");
        let parsed = parse(certificate.as_bytes(), key.as_bytes()).expect("it is right");
        let certificates = Certificates::default();
        certificates.set(["a.example", ".b.example"].map(|host| (host.to_owned(), Arc::clone(&parsed))).into());
        let check = |host: &str, expected: bool| assert_eq!(certificates.find(host).is_some(), expected, "{host}");
        check("A.example", true);
        check("x.b.example", true);
        check("b.example", false);
        check("y.x.b.example", false);
        check("c.example", false);
        certificates.set(HashMap::new());
        check("a.example", false);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let ((certificate, _), (_, other)) = (made("a.example"), made("a.example"));
        assert!(matches!(parse(certificate.as_bytes(), other.as_bytes()), Err(CertificateError::Use(_))));
        assert!(matches!(parse(certificate.as_bytes(), b"no key"), Err(CertificateError::Pem { part: "tls.key", .. })));
    }
}
