//! Connecting: TCP, then TLS. Errors read as Go's, which is what people search for.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::endpoints::Endpoint;

/// How long the other side may take to accept a connection, and to shake hands.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("dial tcp {address}: {}", words(source))]
    Connect { address: String, source: io::Error },
    #[error("dial tcp {address}: i/o timeout")]
    Slow { address: String },
    #[error("net/http: TLS handshake timeout")]
    SlowHandshake,
    #[error("{}", handshake_words(source))]
    Handshake { source: io::Error },
    #[error("{name:?} cannot be the name of a TLS server")]
    Name { name: String },
}

/// A TCP connection.
pub(crate) async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Connect { address: endpoint.authority(), source };
    let dial = async {
        match endpoint.host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, endpoint.port)).await,
            Err(_) => TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await,
        }
    };
    let stream = tokio::time::timeout(PATIENCE, dial)
        .await
        .map_err(|_| DialError::Slow { address: endpoint.authority() })?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// A TLS connection to a server that must be called `name`.
pub(crate) async fn tls(
    endpoint: &Endpoint,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::Name { name: name.to_owned() })?;
    let stream = tcp(endpoint).await?;
    tokio::time::timeout(PATIENCE, TlsConnector::from(config).connect(name, stream))
        .await
        .map_err(|_| DialError::SlowHandshake)?
        .map_err(|source| DialError::Handshake { source })
}

/// An I/O error in Go's words.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

/// A failed handshake in Go's words.
fn handshake_words(error: &io::Error) -> String {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return words(error);
    };
    let rustls::Error::InvalidCertificate(reason) = inner else { return format!("tls: {inner}") };
    let reason = match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "certificate has expired or is not yet valid".to_owned(),
        CertificateError::NotValidForName => "certificate is not valid for the name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!("certificate is not valid for any names, but wanted to match {}", expected.to_str())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        other => format!("{other:?}"),
    };
    format!("tls: failed to verify certificate: x509: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port };
        let error = tcp(&endpoint).await.expect_err("nobody listens");
        assert_eq!(error.to_string(), format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }

    #[test]
    fn certificates_fail_in_familiar_words() {
        let check = |error: CertificateError, expected: &str| {
            let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error));
            assert_eq!(handshake_words(&error), format!("tls: failed to verify certificate: x509: {expected}"));
        };
        check(CertificateError::UnknownIssuer, "certificate signed by unknown authority");
        check(CertificateError::Expired, "certificate has expired or is not yet valid");
        check(
            CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("a.b.svc").expect("a name"),
                presented: vec!["c.b.svc".to_owned()],
            },
            "certificate is valid for c.b.svc, not a.b.svc",
        );
    }
}
