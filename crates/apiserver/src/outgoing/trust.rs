//! Whose certificates are good for connections that the server makes.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whom a client trusts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// The authorities that the machine knows.
    System,
    /// The certificates of a PEM bundle, and no others.
    Bundle(Arc<str>),
    /// Everybody. Only where a configuration says so in as many words.
    Anybody,
}

/// The certificate and key by which this server shows who it is.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A bundle has no certificate.
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    NotPem,
    /// No certificate of a bundle can be used.
    #[error("unable to load root certificates")]
    Malformed(#[source] rustls::Error),
    /// The machine's own certificates are missing.
    #[error("the certificates of this machine cannot be read: {0}")]
    System(String),
    /// The certificates make no verifier.
    #[error("no verifier can be made of the certificates")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// The server's own certificate and key do not fit.
    #[error("the identity of this server cannot be used")]
    Identity(#[source] rustls::Error),
    /// The server's own certificate or key is no PEM.
    #[error("the identity of this server cannot be read")]
    IdentityPem(#[source] rustls::pki_types::pem::Error),
}

impl Identity {
    /// From a certificate and key as the authority made them.
    pub(crate) fn of(pair: &kobune_pki::Pair) -> Result<Self, TrustError> {
        let chain = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(TrustError::IdentityPem)?;
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(TrustError::IdentityPem)?;
        Ok(Self { chain, key })
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// The certificates of a PEM bundle; none at all is an error.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TrustError::NotPem),
    }
}

impl Trust {
    /// A client that trusts like this and shows the identity where it is asked to. It offers HTTP/1.1 alone: several
    /// connections spread over several endpoints, the streams of one would not.
    pub(crate) fn client(&self, identity: Option<&Identity>) -> Result<ClientConfig, TrustError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Identity)?;
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Anybody => Arc::new(Anybody(provider())),
            Self::System => verifier(&system_roots()?)?,
            Self::Bundle(pem) => verifier(&certificates(pem)?)?,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(TrustError::Identity)?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let problems: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        return Err(TrustError::System(problems.join("; ")));
    }
    Ok(loaded.certs)
}

fn verifier(anchors: &[CertificateDer<'static>]) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    let mut refused = None;
    for certificate in anchors {
        if let Err(error) = roots.add(certificate.clone()) {
            refused = Some(error);
        }
    }
    if roots.is_empty() {
        return Err(refused.map_or(TrustError::NotPem, TrustError::Malformed));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(TrustError::Verifier)?;
    Ok(Arc::new(Anchored { inner, anchors: anchors.to_vec() }))
}

/// Verifies as rustls does, and also takes a certificate that is itself one of the trusted ones although it says that
/// it is an authority: what many a webhook makes for itself, and what Go takes.
#[derive(Debug)]
struct Anchored {
    inner: Arc<WebPkiServerVerifier>,
    anchors: Vec<CertificateDer<'static>>,
}

impl Anchored {
    fn verify_anchor(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let invalid = |error: CertificateError| rustls::Error::InvalidCertificate(error);
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| invalid(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < parsed.validity().not_before.timestamp() {
            return Err(invalid(CertificateError::NotValidYet));
        }
        if now > parsed.validity().not_after.timestamp() {
            return Err(invalid(CertificateError::Expired));
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Anchored {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.anchors.iter().any(|anchor| anchor == certificate) =>
            {
                self.verify_anchor(certificate, name, now)
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes every certificate, but still wants the handshake to be signed by its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_must_have_a_certificate() {
        let check = |pem: &str| Trust::Bundle(pem.into()).client(None).map(|_| ()).map_err(|error| error.to_string());
        let words = "unable to load root certificates: unable to parse bytes as PEM block";
        assert_eq!(check("hello"), Err(words.to_owned()));
        assert_eq!(check(""), Err(words.to_owned()));
        let folder = tempfile::tempdir().expect("a folder");
        let authority = kobune_pki::Authority::load_or_create(folder.path()).expect("an authority");
        assert_eq!(check(authority.certificate_pem()), Ok(()));
        let noisy = format!("a comment\n{}", authority.certificate_pem());
        assert_eq!(check(&noisy), Ok(()));
    }
}
