//! The little of PEM that certificates need: text to DER.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, Result};

/// All certificates of a PEM text, in order; none at all is an error.
pub(crate) fn certificates(what: &str, text: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| malformed(what, &error))?;
    if found.is_empty() {
        return Err(Error::Malformed { what: what.to_owned(), problem: "it has no certificate".to_owned() });
    }
    Ok(found)
}

/// The first private key of a PEM text.
pub(crate) fn private_key(what: &str, text: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| malformed(what, &error))
}

fn malformed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Malformed { what: what.to_owned(), problem: error.to_string() }
}

/// Whether a PEM text holds readable certificates and nothing else.
pub fn check_certificates(text: &str) -> Result<()> {
    for certificate in certificates("the certificate", text)? {
        X509Certificate::from_der(&certificate).map_err(|error| malformed("the certificate", &error))?;
    }
    Ok(())
}

/// When the first certificate of a PEM text ends, in seconds since 1970; `None` when it is unreadable.
pub fn end_of_certificate(pem: &[u8]) -> Option<i64> {
    let first = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&first).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The first certificate of a PEM text in DER.
pub fn certificate_der(text: &str) -> Result<Vec<u8>> {
    Ok(certificates("the certificate", text)?[0].to_vec())
}

/// The SHA-256 of the first certificate's public key with its algorithm (RFC 7469), in hexadecimal digits.
pub fn public_key_hash(text: &str) -> Result<String> {
    let der = certificate_der(text)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| malformed("the certificate", &error))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.public_key().raw);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A certificate as PEM text.
pub fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_comes_back() {
        let der: Vec<u8> = (0..100).collect();
        assert_eq!(certificates("test", &certificate_pem(&der)).unwrap()[0].as_ref(), der);
    }
}
