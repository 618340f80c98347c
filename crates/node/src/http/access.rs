//! Who may use the node's API: only the API server, by its client certificate.

use x509_parser::prelude::{FromDer, X509Certificate};

/// The user name of the API server towards nodes.
const CLIENT: &str = "kube-apiserver-kubelet-client";
/// Its group; administrators have it too.
const MASTERS: &str = "system:masters";

/// Whether the certificate (DER, its chain already verified by TLS) may use the node's API.
pub fn allowed(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let name = subject.iter_common_name().any(|name| name.as_str() == Ok(CLIENT));
    let group = subject.iter_organization().any(|group| group.as_str() == Ok(MASTERS));
    name || group
}

#[cfg(test)]
mod tests {
    #[test]
    fn nonsense_is_not_allowed() {
        assert!(!super::allowed(b""));
        assert!(!super::allowed(&[0x30, 0x00]));
    }
}
