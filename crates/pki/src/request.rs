//! Certificate signing requests (PKCS #10) as the certificates API takes them: PEM text that somebody else wrote.

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, GeneralName};

use crate::{Error, San, Subject};

/// The longest request that is looked at: the largest key with hundreds of names fits.
const MAXIMUM_LENGTH: usize = 64 * 1024;

/// Why a text is no signing request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It is not PEM of the right sort.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    /// It is larger than any real request.
    #[error("the request is larger than {MAXIMUM_LENGTH} bytes")]
    TooLarge,
    /// The DER inside is damaged.
    #[error("x509: malformed certificate request: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
    /// The requester does not hold the key: its signature is not by it.
    #[error("x509: the signature of the certificate request is not valid")]
    Signature,
}

/// What a signing request asks for; its signature has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRequest {
    /// Who the certificate would be for.
    pub subject: Subject,
    /// The DNS names it would answer for.
    pub dns_names: Vec<String>,
    /// The addresses it would answer for.
    pub ip_addresses: Vec<IpAddr>,
    /// The mail addresses it would be valid for.
    pub email_addresses: Vec<String>,
    /// The URIs it would be valid for.
    pub uris: Vec<String>,
    /// The subject as it stands in the request, in DER.
    pub(crate) raw_subject: Vec<u8>,
    /// The public key with its algorithm, in DER.
    pub(crate) raw_public_key: Vec<u8>,
}

/// A request for a certificate of this user in this group that answers for these names, and its new key, both PEM.
pub fn new_request(user: &str, group: &str, sans: &[San]) -> crate::Result<(String, String)> {
    let issue = |source| Error::Issue { subject: user.to_owned(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| Error::Key { what: user.to_owned(), source })?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, group);
    parameters.distinguished_name.push(DnType::CommonName, user);
    for name in sans {
        parameters.subject_alt_names.push(name.for_certificate()?);
    }
    let request = parameters.serialize_request(&key).and_then(|request| request.pem()).map_err(issue)?;
    Ok((request, key.serialize_pem()))
}

impl SigningRequest {
    /// Reads the first request of a PEM text and verifies that its sender holds the key.
    pub fn from_pem(text: &[u8]) -> Result<SigningRequest, RequestError> {
        if text.len() > MAXIMUM_LENGTH {
            return Err(RequestError::TooLarge);
        }
        let (_, block) = x509_parser::pem::parse_x509_pem(text).map_err(|_| RequestError::NotPem)?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(RequestError::NotPem);
        }
        SigningRequest::from_der(&block.contents)
    }

    fn from_der(der: &[u8]) -> Result<SigningRequest, RequestError> {
        let malformed = |problem: String| RequestError::Malformed { problem };
        let (rest, parsed) = X509CertificationRequest::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("trailing data".to_owned()));
        }
        parsed.verify_signature().map_err(|_| RequestError::Signature)?;
        let info = &parsed.certification_request_info;
        let subject = Subject::of_name(&info.subject).map_err(|error| malformed(error.to_string()))?;
        let mut request = SigningRequest {
            subject,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            email_addresses: Vec::new(),
            uris: Vec::new(),
            raw_subject: info.subject.as_raw().to_vec(),
            raw_public_key: info.subject_pki.raw.to_vec(),
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => request.dns_names.push((*name).to_owned()),
                    GeneralName::RFC822Name(name) => request.email_addresses.push((*name).to_owned()),
                    GeneralName::URI(uri) => request.uris.push((*uri).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        request.ip_addresses.push(
                            address(bytes).ok_or_else(|| malformed(format!("an address has {} bytes", bytes.len())))?,
                        );
                    }
                    // Upstream's parser passes over the other sorts of names, and so they get into no certificate.
                    _ => {}
                }
            }
        }
        Ok(request)
    }

    /// Whether the request asks for any alternative name.
    pub(crate) fn has_names(&self) -> bool {
        !(self.dns_names.is_empty()
            && self.ip_addresses.is_empty()
            && self.email_addresses.is_empty()
            && self.uris.is_empty())
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn pem(common_name: &str, organization: &str) -> String {
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, organization);
        name.push(DnType::CommonName, common_name);
        parameters.distinguished_name = name;
        parameters.subject_alt_names = vec![
            SanType::DnsName("node-1".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
            SanType::IpAddress(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
        ];
        parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn requests_are_read() {
        let request = SigningRequest::from_pem(pem("system:node:node-1", "system:nodes").as_bytes()).unwrap();
        assert_eq!(request.subject.common_name, "system:node:node-1");
        assert_eq!(request.subject.organizations, ["system:nodes"]);
        assert_eq!(request.dns_names, ["node-1"]);
        assert_eq!(request.ip_addresses.len(), 2);
        assert!(request.has_names());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let check = |text: &str, expected: RequestError| {
            assert_eq!(SigningRequest::from_pem(text.as_bytes()), Err(expected), "{text}");
        };
        check("", RequestError::NotPem);
        check("nonsense", RequestError::NotPem);
        let certificate = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap().cert.pem();
        check(&certificate, RequestError::NotPem);
        check(&"x".repeat(MAXIMUM_LENGTH + 1), RequestError::TooLarge);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn damage_is_noticed(position in 0usize..10_000, byte: u8) {
            static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                x509_parser::pem::parse_x509_pem(pem("jane", "dev").as_bytes()).unwrap().1.contents
            });
            let mut damaged = DER.clone();
            let position = position % damaged.len();
            damaged[position] = byte;
            if let Ok(request) = SigningRequest::from_der(&damaged) {
                prop_assert_eq!(request, SigningRequest::from_der(&DER).unwrap());
            }
        }
    }
}
