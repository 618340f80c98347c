//! rustls configurations for this cluster's servers and clients.
//!
//! A server presents whatever [`ServingCertificate`] holds at the moment of the handshake, so a renewed certificate or a
//! new address needs no restart and cuts no connection. Clients may present a certificate of the cluster's authority;
//! one that presents another certificate is refused, one that presents none is anonymous until it shows a token.

use std::sync::{Arc, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::{Pair, Result, pem};

/// The certificate that a server presents; it can be replaced while connections are served.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Starts with this certificate.
    pub fn new(pair: &Pair) -> Result<Arc<ServingCertificate>> {
        Ok(Arc::new(ServingCertificate { current: RwLock::new(Arc::new(certified_key(pair)?)) }))
    }

    /// Presents this certificate in every handshake from now on; connections that exist stay.
    pub fn replace(&self, pair: &Pair) -> Result<()> {
        let fresh = Arc::new(certified_key(pair)?);
        // Nothing can panic while the lock is held, so it is never poisoned; if it were, the old value is still whole.
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

/// The certificate that a client presents; it can be replaced, and is used from the next connection on.
#[derive(Debug)]
pub struct ClientIdentity {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ClientIdentity {
    /// Starts with this certificate.
    pub fn new(pair: &Pair) -> Result<Arc<ClientIdentity>> {
        Ok(Arc::new(ClientIdentity { current: RwLock::new(Arc::new(certified_key(pair)?)) }))
    }

    /// Presents this certificate in every handshake from now on; connections that exist stay.
    pub fn replace(&self, pair: &Pair) -> Result<()> {
        let fresh = Arc::new(certified_key(pair)?);
        // As for a server's: the value is whole whatever happened to another thread.
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server that accepts clients with a certificate of this authority and clients without any, over HTTP/2 and HTTP/1.1.
pub fn server_config(certificate: Arc<ServingCertificate>, client_ca_pem: &str) -> Result<Arc<ServerConfig>> {
    let roots = Arc::new(roots(client_ca_pem)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(EarlyClock(verifier)))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client that trusts this authority alone and shows its certificate when it has one. No protocol is negotiated
/// unless the caller sets `alpn_protocols`.
pub fn client_config(ca_pem: &str, identity: Option<&Pair>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_pem)?);
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_auth_cert(
            pem::certificates("client certificate", &pair.cert_pem)?,
            pem::private_key("client key", &pair.key_pem)?,
        )?,
    })
}

/// A client that trusts this authority alone and shows whatever certificate the identity holds at the moment.
pub fn client_config_of(ca_pem: &str, identity: Arc<ClientIdentity>) -> Result<ClientConfig> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_cert_resolver(identity))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca_pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates("certificate authority", ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certified_key(pair: &Pair) -> Result<CertifiedKey> {
    let chain = pem::certificates("server certificate", &pair.cert_pem)?;
    let key = pem::private_key("server key", &pair.key_pem)?;
    let signing_key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, signing_key);
    certified.keys_match()?;
    Ok(certified)
}

/// Verifies client certificates as rustls does, except that one that is not valid *yet* passes: a machine whose clock
/// starts in 1970 must be able to use certificates that were made elsewhere. Ended certificates stay refused.
#[derive(Debug)]
struct EarlyClock(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for EarlyClock {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        match self.0.verify_client_cert(certificate, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                self.0.verify_client_cert(certificate, intermediates, not_before)
            }
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::{Authority, San, Subject};

    /// Shakes hands in memory; gives what the server learned of the client.
    fn shake(
        server: Arc<ServerConfig>,
        client: ClientConfig,
        name: &str,
    ) -> std::result::Result<Option<Subject>, String> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            wire.clear();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut io::Cursor::new(&wire)).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut io::Cursor::new(&wire)).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
        Ok(server.peer_certificates().map(|chain| Subject::of_certificate(&chain[0]).unwrap()))
    }

    #[test]
    fn clients_and_servers_of_one_authority_understand_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(folder.path()).unwrap();
        let stranger_folder = tempfile::tempdir().unwrap();
        let stranger = Authority::load_or_create(stranger_folder.path()).unwrap();
        let sans = [San::parse("kubernetes.default"), San::parse("10.96.0.1")];
        let serving = ServingCertificate::new(&authority.server_certificate("kube-apiserver", &sans).unwrap()).unwrap();
        let server = server_config(serving.clone(), authority.certificate_pem()).unwrap();
        let admin = authority.client_certificate("kubernetes-admin", &["system:masters"]).unwrap();
        let intruder = stranger.client_certificate("kubernetes-admin", &["system:masters"]).unwrap();
        let ca = authority.certificate_pem();

        let check = |identity: Option<&Pair>, ca: &str, name: &str, expected: &str| {
            let answer = shake(server.clone(), client_config(ca, identity).unwrap(), name);
            let answer = match answer {
                Ok(None) => "anonymous".to_owned(),
                Ok(Some(subject)) => format!("{} of {}", subject.common_name, subject.organizations.join(",")),
                Err(error) => error,
            };
            assert!(answer.contains(expected), "{answer:?} does not contain {expected:?}");
        };
        check(None, ca, "kubernetes.default", "anonymous");
        check(Some(&admin), ca, "10.96.0.1", "kubernetes-admin of system:masters");
        check(Some(&admin), ca, "elsewhere", "client: invalid peer certificate");
        check(Some(&admin), stranger.certificate_pem(), "10.96.0.1", "client: invalid peer certificate");
        check(Some(&intruder), ca, "10.96.0.1", "server: invalid peer certificate");

        let wider = [San::parse("elsewhere")];
        serving.replace(&authority.server_certificate("kube-apiserver", &wider).unwrap()).unwrap();
        check(Some(&admin), ca, "elsewhere", "kubernetes-admin of system:masters");
    }
}
