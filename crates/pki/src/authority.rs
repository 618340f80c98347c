//! The certificate authority: made at the first start, then read from disk for ever.
//!
//! Machines without a clock of their own start in 1970, and some clocks run far ahead. So the validity of what is made
//! here does not follow the clock alone: everything is valid from 1970 on, the authority to a fixed day far away, and
//! other certificates for decades after the later of "now" and the day this was written.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::files::{private_folder, read_if_present, write_private, write_public};
use crate::{Error, Result, pem};

/// The year before whose end the authority is valid. Nobody rotates the authority of a machine in a shop's cellar.
const AUTHORITY_LAST_YEAR: i32 = 2126;
/// How many years a server or client certificate is valid after its making.
const LEAF_YEARS: i32 = 30;
/// A clock before this year is wrong; certificates are made as if it were this year.
const EARLIEST_BELIEVABLE_YEAR: i32 = 2026;
/// A kept certificate is made anew at start when fewer than this many years of it are left.
const RENEW_YEARS: i32 = 10;

/// A name for which a server answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl San {
    /// An address when the text is one, a DNS name otherwise.
    pub fn parse(text: &str) -> San {
        text.parse().map_or_else(|_| San::Dns(text.to_owned()), San::Ip)
    }

    /// The name as the certificate library takes it.
    pub(crate) fn for_certificate(&self) -> Result<SanType> {
        Ok(match self {
            San::Ip(address) => SanType::IpAddress(*address),
            San::Dns(name) => {
                SanType::DnsName(name.as_str().try_into().map_err(|source| Error::Name { name: name.clone(), source })?)
            }
        })
    }
}

/// Every name and address under which clients reach the API server.
///
/// `addresses` are the machine's own and the service address; loopback is always included. `host_name` may be empty.
pub fn api_server_sans(cluster_domain: &str, host_name: &str, addresses: &[IpAddr]) -> Vec<San> {
    let mut names: Vec<San> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .into_iter()
        .map(|name| San::Dns(name.to_owned()))
        .collect();
    names.push(San::Dns(format!("kubernetes.default.svc.{cluster_domain}")));
    if !host_name.is_empty() {
        names.push(San::parse(host_name));
    }
    names.push(San::Ip(IpAddr::from([127, 0, 0, 1])));
    names.push(San::Ip(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
    names.extend(addresses.iter().copied().map(San::Ip));
    names.sort();
    names.dedup();
    names
}

/// A certificate and its private key, both PEM. The key is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pair").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The cluster's certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads `ca.crt` and `ca.key` of the folder, or makes them when neither exists.
    pub fn load_or_create(folder: &Path) -> Result<Authority> {
        private_folder(folder)?;
        let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        match (read_if_present(&certificate_path)?, read_if_present(&key_path)?) {
            (Some(certificate), Some(key)) => Authority::from_pem(certificate, &key),
            (Some(_), None) => Err(Error::Half { present: certificate_path, missing: key_path }),
            (None, key) => {
                // The key is written first, so a key alone is a first start that was cut off: its certificate can be
                // made now, and nobody has seen another one.
                let key = match key {
                    Some(text) => {
                        KeyPair::from_pem(&text).map_err(|source| Error::Key { what: "ca.key".into(), source })?
                    }
                    None => {
                        let key = new_key("ca.key")?;
                        write_private(&key_path, key.serialize_pem().as_bytes())?;
                        key
                    }
                };
                let certificate = authority_parameters()?
                    .self_signed(&key)
                    .map_err(|source| Error::Issue { subject: "kubernetes-ca".into(), source })?;
                write_public(&certificate_path, certificate.pem().as_bytes())?;
                Authority::from_pem(certificate.pem(), &key.serialize_pem())
            }
        }
    }

    /// An authority from the PEM of its certificate and key.
    pub fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Authority> {
        let key = KeyPair::from_pem(key_pem).map_err(|source| Error::Key { what: "ca.key".into(), source })?;
        let certificate = pem::certificates("ca.crt", &certificate_pem)?.remove(0);
        let public_key = {
            let (_, parsed) = X509Certificate::from_der(&certificate)
                .map_err(|error| Error::Malformed { what: "ca.crt".into(), problem: error.to_string() })?;
            parsed.public_key().subject_public_key.data.to_vec()
        };
        if public_key != key.public_key_raw() {
            let problem = "it does not belong to the key in ca.key".to_owned();
            return Err(Error::Malformed { what: "ca.crt".into(), problem });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|source| Error::Issue { subject: "kubernetes-ca".into(), source })?;
        Ok(Authority { issuer, certificate_pem, certificate })
    }

    /// The authority's certificate: what clients and servers trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate in DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// A new certificate for a server (usable as a client certificate too) that answers for these names.
    ///
    /// `common_name` is for people who look at it, like `kube-apiserver`; for a node's server it is
    /// `system:node:<name>` with the organization `system:nodes`.
    pub fn server_certificate(&self, common_name: &str, sans: &[San]) -> Result<Pair> {
        let mut parameters = leaf_parameters(common_name, &[], Timestamp::now())?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for san in sans {
            parameters.subject_alt_names.push(san.for_certificate()?);
        }
        self.sign(common_name, parameters)
    }

    /// A new certificate for a client: the user's name and group as the API server will see them. At most one group.
    pub fn client_certificate(&self, user: &str, groups: &[&str]) -> Result<Pair> {
        let mut parameters = leaf_parameters(user, groups, Timestamp::now())?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, parameters)
    }

    /// The server certificate kept in `<folder>/<name>.crt` and `.key`, made anew when it is missing, unreadable, of
    /// another authority, for other names, or has only ten years left.
    pub fn kept_server_certificate(&self, folder: &Path, name: &str, sans: &[San]) -> Result<Pair> {
        self.kept(folder, name, sans, |authority| authority.server_certificate(name, sans))
    }

    /// The client certificate kept in `<folder>/<name>.crt` and `.key`, renewed as the server's.
    pub fn kept_client_certificate(&self, folder: &Path, name: &str, user: &str, groups: &[&str]) -> Result<Pair> {
        self.kept(folder, name, &[], |authority| authority.client_certificate(user, groups))
    }

    fn kept(
        &self,
        folder: &Path,
        name: &str,
        sans: &[San],
        issue: impl FnOnce(&Authority) -> Result<Pair>,
    ) -> Result<Pair> {
        private_folder(folder)?;
        let (certificate_path, key_path) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        if let (Some(cert_pem), Some(key_pem)) = (read_if_present(&certificate_path)?, read_if_present(&key_path)?) {
            match self.reason_to_renew(&cert_pem, &key_pem, sans, Timestamp::now()) {
                None => return Ok(Pair { cert_pem, key_pem }),
                Some(reason) => tracing::info!(certificate = name, reason, "makes a new certificate"),
            }
        }
        let pair = issue(self)?;
        // A crash between the two leaves a pair that does not match, which is a reason to renew.
        write_private(&key_path, pair.key_pem.as_bytes())?;
        write_public(&certificate_path, pair.cert_pem.as_bytes())?;
        Ok(pair)
    }

    /// Why a kept certificate cannot serve any longer, if so.
    fn reason_to_renew(&self, cert_pem: &str, key_pem: &str, sans: &[San], now: Timestamp) -> Option<&'static str> {
        let Ok(chain) = pem::certificates("certificate", cert_pem) else { return Some("unreadable certificate") };
        let Ok((_, certificate)) = X509Certificate::from_der(&chain[0]) else { return Some("unreadable certificate") };
        let Ok((_, authority)) = X509Certificate::from_der(&self.certificate) else { return Some("new authority") };
        let Ok(key) = KeyPair::from_pem(key_pem) else { return Some("unreadable key") };
        if key.public_key_raw() != certificate.public_key().subject_public_key.data.as_ref() {
            return Some("key of another certificate");
        }
        if certificate.verify_signature(Some(authority.public_key())).is_err() {
            return Some("new authority");
        }
        let last = certificate.validity().not_after.to_datetime().year();
        if last - believable_year(now) < RENEW_YEARS {
            return Some("it ends in a few years");
        }
        let mut wanted = sans.to_vec();
        wanted.sort();
        wanted.dedup();
        (names_of(&certificate) != wanted).then_some("other names or addresses")
    }

    fn sign(&self, subject: &str, parameters: CertificateParams) -> Result<Pair> {
        let key = new_key(subject)?;
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .map_err(|source| Error::Issue { subject: subject.to_owned(), source })?;
        Ok(Pair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<San> {
    let mut names = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(San::Dns((*name).to_owned())),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                        names.push(San::Ip(four.into()));
                    } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                        names.push(San::Ip(sixteen.into()));
                    }
                }
                _ => {}
            }
        }
    }
    names.sort();
    names
}

fn new_key(what: &str) -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| Error::Key { what: what.to_owned(), source })
}

pub(crate) fn new_serial() -> Result<SerialNumber> {
    let mut bytes = [0u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    // A serial number is a positive integer: the highest bit would make it negative, a zero first byte would be cut.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn authority_parameters() -> Result<CertificateParams> {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "kubernetes-ca");
    parameters.distinguished_name = name;
    parameters.serial_number = Some(new_serial()?);
    parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(AUTHORITY_LAST_YEAR, 1, 1);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(parameters)
}

fn leaf_parameters(common_name: &str, organizations: &[&str], now: Timestamp) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    match organizations {
        [] => {}
        [organization] => name.push(DnType::OrganizationName, *organization),
        // The certificate library keeps one value a kind of name; dropping a group silently would be worse.
        _ => return Err(Error::Groups { subject: common_name.to_owned() }),
    }
    name.push(DnType::CommonName, common_name);
    parameters.distinguished_name = name;
    parameters.serial_number = Some(new_serial()?);
    parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_after = rcgen::date_time_ymd((believable_year(now) + LEAF_YEARS).min(AUTHORITY_LAST_YEAR), 1, 1);
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    Ok(parameters)
}

/// The year of the clock, or the earliest year that it can really be.
fn believable_year(now: Timestamp) -> i32 {
    i32::from(now.to_zoned(jiff::tz::TimeZone::UTC).year()).max(EARLIEST_BELIEVABLE_YEAR)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_authority_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        let first = Authority::load_or_create(&pki).unwrap();
        let again = Authority::load_or_create(&pki).unwrap();
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        assert_eq!((mode(&pki), mode(&pki.join("ca.key")), mode(&pki.join("ca.crt"))), (0o700, 0o600, 0o644));

        fs::remove_file(pki.join("ca.crt")).unwrap();
        let cut_off = Authority::load_or_create(&pki).unwrap();
        let leaf = cut_off.client_certificate("x", &[]).unwrap();
        assert_eq!(first.reason_to_renew(&leaf.cert_pem, &leaf.key_pem, &[], Timestamp::now()), None, "same key");

        fs::remove_file(pki.join("ca.key")).unwrap();
        assert!(matches!(Authority::load_or_create(&pki), Err(Error::Half { .. })));
    }

    #[test]
    fn kept_certificates_are_renewed_when_they_must() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(folder.path()).unwrap();
        let names = |texts: &[&str]| texts.iter().map(|text| San::parse(text)).collect::<Vec<_>>();
        let keep = |sans: &[San]| authority.kept_server_certificate(folder.path(), "apiserver", sans).unwrap();

        let first = keep(&names(&["localhost", "127.0.0.1", "fd00::1"]));
        assert_eq!(first, keep(&names(&["fd00::1", "127.0.0.1", "localhost"])), "order does not matter");
        let moved = keep(&names(&["localhost", "192.0.2.7"]));
        assert_ne!(first, moved);
        fs::write(folder.path().join("apiserver.key"), &first.key_pem).unwrap();
        let repaired = keep(&names(&["localhost", "192.0.2.7"]));
        assert_ne!(moved, repaired, "a key of another certificate is replaced");
        assert_eq!(mode(&folder.path().join("apiserver.key")), 0o600);

        let later: Timestamp = "2048-01-01T00:00:00Z".parse().unwrap();
        let sans = names(&["localhost", "192.0.2.7"]);
        let reason = authority.reason_to_renew(&repaired.cert_pem, &repaired.key_pem, &sans, later);
        assert_eq!(reason, Some("it ends in a few years"));
        let stopped: Timestamp = "1970-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(authority.reason_to_renew(&repaired.cert_pem, &repaired.key_pem, &sans, stopped), None);
    }

    #[test]
    fn a_client_certificate_names_user_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(folder.path()).unwrap();
        let pair = authority.client_certificate("system:node:n1", &["system:nodes"]).unwrap();
        let der = pem::certificates("x", &pair.cert_pem).unwrap().remove(0);
        let subject = crate::Subject::of_certificate(&der).unwrap();
        assert_eq!(subject.common_name, "system:node:n1");
        assert_eq!(subject.organizations, ["system:nodes"]);
        assert!(matches!(authority.client_certificate("x", &["a", "b"]), Err(Error::Groups { .. })));
    }

    #[test]
    fn the_api_servers_names() {
        let names = api_server_sans("cluster.local", "shop-7", &["10.96.0.1".parse().unwrap()]);
        for name in ["kubernetes.default.svc.cluster.local", "shop-7", "10.96.0.1", "127.0.0.1", "::1", "localhost"] {
            assert!(names.contains(&San::parse(name)), "{name} is missing");
        }
    }
}
