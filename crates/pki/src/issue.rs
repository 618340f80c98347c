//! Certificates for the signing requests of others: the subject and key of the request, the usages that were approved.
//!
//! The certificate is written here and not by the certificate library, because that keeps one value a kind of name and
//! would drop all groups of a user but one. The subject is taken over byte for byte.

use jiff::Timestamp;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};
use yasna::models::{GeneralizedTime, ObjectIdentifier};
use yasna::{DERWriter, DERWriterSeq, Tag};

use crate::authority::new_serial;
use crate::request::SigningRequest;
use crate::{Authority, Error, Result, pem};

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// What a certificate may be used for, as the certificates API spells it: a bit of the key usage, or an extended usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    Bit(usize),
    Extended(&'static [u64]),
}

/// Every usage of the certificates API. `signing` and `digital signature` are one bit, `s/mime` is e-mail protection.
const USAGES: [(&str, Usage); 23] = [
    ("signing", Usage::Bit(0)),
    ("digital signature", Usage::Bit(0)),
    ("content commitment", Usage::Bit(1)),
    ("key encipherment", Usage::Bit(2)),
    ("data encipherment", Usage::Bit(3)),
    ("key agreement", Usage::Bit(4)),
    ("cert sign", Usage::Bit(5)),
    ("crl sign", Usage::Bit(6)),
    ("encipher only", Usage::Bit(7)),
    ("decipher only", Usage::Bit(8)),
    ("any", Usage::Extended(&[2, 5, 29, 37, 0])),
    ("server auth", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 1])),
    ("client auth", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 2])),
    ("code signing", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 3])),
    ("email protection", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("s/mime", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("ipsec end system", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 5])),
    ("ipsec tunnel", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 6])),
    ("ipsec user", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 7])),
    ("timestamping", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 8])),
    ("ocsp signing", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 9])),
    ("microsoft sgc", Usage::Extended(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
    ("netscape sgc", Usage::Extended(&[2, 16, 840, 1, 113_730, 4, 1])),
];

/// How long a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second; it is cut to the authority's own end.
    pub not_after: i64,
}

impl Authority {
    /// The certificate, as PEM, that a request asks for, with these usages in the API's spelling.
    pub fn sign_request(&self, request: &SigningRequest, usages: &[&str], validity: Validity) -> Result<String> {
        let subject = || request.subject.common_name.clone();
        let malformed = |problem: String| Error::Malformed { what: "the signing request".to_owned(), problem };
        let (_, authority) = X509Certificate::from_der(self.certificate_der())
            .map_err(|error| Error::Malformed { what: "ca.crt".to_owned(), problem: error.to_string() })?;
        let mut bits = 0u16;
        let mut extended: Vec<&'static [u64]> = Vec::new();
        let mut unknown = Vec::new();
        for usage in usages {
            match USAGES.iter().find(|(name, _)| name == usage) {
                Some((_, Usage::Bit(bit))) => bits |= 1 << bit,
                Some((_, Usage::Extended(oid))) => extended.push(oid),
                None => unknown.push(*usage),
            }
        }
        if !unknown.is_empty() {
            return Err(malformed(format!("unrecognized usage values: {unknown:?}")));
        }
        extended.sort_unstable();
        extended.dedup();
        let not_after = validity.not_after.min(authority.validity().not_after.timestamp());
        let (from, until) = (time(validity.not_before)?, time(not_after)?);
        let serial = new_serial()?.to_bytes();
        let algorithm = signature_algorithm(self.key())?;
        let issuer = authority.subject().as_raw();
        let identifier = authority.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });

        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_bigint_bytes(&serial, true);
                write_algorithm(writer.next(), algorithm);
                writer.next().write_der(issuer);
                writer.next().write_sequence(|writer| {
                    write_time(writer.next(), &from);
                    write_time(writer.next(), &until);
                });
                writer.next().write_der(&request.raw_subject);
                writer.next().write_der(&request.raw_public_key);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| {
                        if bits != 0 {
                            extension(writer, KEY_USAGE, true, |writer| write_bits(writer, bits));
                        }
                        if !extended.is_empty() {
                            extension(writer, EXTENDED_KEY_USAGE, false, |writer| {
                                writer.write_sequence(|writer| {
                                    for oid in &extended {
                                        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
                                    }
                                });
                            });
                        }
                        // Explicitly no authority.
                        extension(writer, BASIC_CONSTRAINTS, true, |writer| writer.write_sequence(|_| {}));
                        if let Some(identifier) = &identifier {
                            extension(writer, AUTHORITY_KEY_IDENTIFIER, false, |writer| {
                                writer.write_sequence(|writer| {
                                    writer.next().write_tagged_implicit(Tag::context(0), |writer| {
                                        writer.write_bytes(identifier);
                                    });
                                });
                            });
                        }
                        if request.has_names() {
                            extension(writer, SUBJECT_ALTERNATIVE_NAME, false, |writer| write_names(writer, request));
                        }
                    });
                });
            });
        });
        let signature = self.key().sign(&body).map_err(|source| Error::Issue { subject: subject(), source })?;
        let certificate = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                write_algorithm(writer.next(), algorithm);
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem::certificate_pem(&certificate))
    }
}

/// The identifier of a signature's algorithm, and whether it has a parameter (which is null).
type Algorithm = (&'static [u64], bool);

fn signature_algorithm(key: &KeyPair) -> Result<Algorithm> {
    let algorithm = key.algorithm();
    let known: [(_, Algorithm); 4] = [
        (&PKCS_ECDSA_P256_SHA256, (&[1, 2, 840, 10045, 4, 3, 2], false)),
        (&PKCS_ECDSA_P384_SHA384, (&[1, 2, 840, 10045, 4, 3, 3], false)),
        (&PKCS_ED25519, (&[1, 3, 101, 112], false)),
        (&PKCS_RSA_SHA256, (&[1, 2, 840, 113_549, 1, 1, 11], true)),
    ];
    known.iter().find(|(one, _)| *one == algorithm).map(|(_, algorithm)| *algorithm).ok_or_else(|| Error::Malformed {
        what: "ca.key".to_owned(),
        problem: format!("keys of the algorithm {algorithm:?} cannot sign requests"),
    })
}

fn write_algorithm(writer: DERWriter<'_>, (oid, null): Algorithm) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if null {
            writer.next().write_null();
        }
    });
}

fn extension(sequence: &mut DERWriterSeq<'_>, oid: &[u64], critical: bool, content: impl FnOnce(DERWriter<'_>)) {
    sequence.next().write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&yasna::construct_der(content));
    });
}

/// A bit string without trailing zeros, the first usage being the highest bit.
fn write_bits(writer: DERWriter<'_>, bits: u16) {
    let length = 16 - bits.leading_zeros() as usize;
    writer.write_bitvec_bytes(&bits.reverse_bits().to_be_bytes()[..length.div_ceil(8)], length);
}

fn write_names(writer: DERWriter<'_>, request: &SigningRequest) {
    let text = |writer: &mut DERWriterSeq<'_>, tag: u64, name: &str| {
        // Under an implicit tag a text and its bytes are written alike.
        writer.next().write_tagged_implicit(Tag::context(tag), |writer| writer.write_bytes(name.as_bytes()));
    };
    writer.write_sequence(|writer| {
        for name in &request.dns_names {
            text(writer, 2, name);
        }
        for name in &request.email_addresses {
            text(writer, 1, name);
        }
        for address in &request.ip_addresses {
            writer.next().write_tagged_implicit(Tag::context(7), |writer| match address {
                std::net::IpAddr::V4(four) => writer.write_bytes(&four.octets()),
                std::net::IpAddr::V6(sixteen) => writer.write_bytes(&sixteen.octets()),
            });
        }
        for name in &request.uris {
            text(writer, 6, name);
        }
    });
}

/// A time in the two forms that certificates have: with two digits of the year until 2049, with four from 2050 on.
enum Time {
    Short(yasna::models::UTCTime),
    Long(GeneralizedTime),
}

fn time(seconds: i64) -> Result<Time> {
    let malformed = |problem: String| Error::Malformed { what: "the time of a certificate".to_owned(), problem };
    let at = Timestamp::from_second(seconds).map_err(|error| malformed(error.to_string()))?;
    let year = at.to_zoned(jiff::tz::TimeZone::UTC).year();
    if (1950..2050).contains(&year) {
        let text = at.strftime("%y%m%d%H%M%SZ").to_string();
        let time = yasna::models::UTCTime::parse(text.as_bytes());
        return time.map(Time::Short).ok_or_else(|| malformed(text));
    }
    let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
    GeneralizedTime::parse(text.as_bytes()).map(Time::Long).ok_or_else(|| malformed(text))
}

fn write_time(writer: DERWriter<'_>, time: &Time) {
    match time {
        Time::Short(time) => writer.write_utctime(time),
        Time::Long(time) => writer.write_generalized_time(time),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, SanType};
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::Subject;

    fn authority() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        Authority::load_or_create(&folder.path().join("pki")).unwrap()
    }

    fn request() -> SigningRequest {
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "dev");
        name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "ops");
        name.push(DnType::CommonName, "jane");
        parameters.distinguished_name = name;
        parameters.subject_alt_names =
            vec![SanType::DnsName("a.example".try_into().unwrap()), SanType::IpAddress([10, 0, 0, 1].into())];
        // Nobody gets what it asks for beyond names: this one would like to be an authority.
        parameters.custom_extensions =
            vec![CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff])];
        let pem = parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        SigningRequest::from_pem(pem.as_bytes()).unwrap()
    }

    #[test]
    fn certificates_say_what_was_approved() {
        let authority = authority();
        let validity = Validity { not_before: 1_700_000_000, not_after: 1_700_003_600 };
        let pem = authority.sign_request(&request(), &["digital signature", "client auth"], validity).unwrap();
        let der = pem::certificates("test", &pem).unwrap().remove(0);
        let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let (_, issuer) = X509Certificate::from_der(authority.certificate_der()).unwrap();
        certificate.verify_signature(Some(issuer.public_key())).unwrap();
        let subject = Subject::of_certificate(&der).unwrap();
        assert_eq!((subject.common_name.as_str(), subject.organizations.len()), ("jane", 2));
        assert_eq!(subject.organizations, ["dev", "ops"]);
        assert_eq!(certificate.validity().not_before.timestamp(), validity.not_before);
        assert_eq!(certificate.validity().not_after.timestamp(), validity.not_after);
        assert!(!certificate.is_ca());
        assert_eq!(certificate.key_usage().unwrap().unwrap().value.flags, 1);
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        // TLS takes it as a client certificate of this authority.
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate_der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verifier.verify_client_cert(&der, &[], at(1_700_000_001)).unwrap();
        verifier.verify_client_cert(&der, &[], at(1_700_009_999)).unwrap_err();
    }

    #[test]
    fn no_certificate_outlives_the_authority() {
        let authority = authority();
        let validity = Validity { not_before: 1_700_000_000, not_after: 9_000_000_000 };
        let pem = authority.sign_request(&request(), &["client auth"], validity).unwrap();
        let der = pem::certificates("test", &pem).unwrap().remove(0);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let (_, issuer) = X509Certificate::from_der(authority.certificate_der()).unwrap();
        assert_eq!(certificate.validity().not_after, issuer.validity().not_after);
    }

    #[test]
    fn usages() {
        let authority = authority();
        let validity = Validity { not_before: 0, not_after: 1_700_000_000 };
        for (name, _) in USAGES {
            let pem = authority.sign_request(&request(), &[name], validity).unwrap();
            let der = pem::certificates("test", &pem).unwrap().remove(0);
            X509Certificate::from_der(&der).unwrap();
        }
        let error = authority.sign_request(&request(), &["client auth", "magic"], validity).unwrap_err();
        assert_eq!(error.to_string(), "the signing request is malformed: unrecognized usage values: [\"magic\"]");
    }
}
