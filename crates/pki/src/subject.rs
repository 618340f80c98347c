//! Who a certificate says it is: the form in which Kubernetes puts users and groups into certificates.

use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate, X509Error, X509Name};

use crate::{Error, Result};

/// The parts of a client certificate's subject that name a Kubernetes user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The common name: the user's name.
    pub common_name: String,
    /// The organizations: the user's groups.
    pub organizations: Vec<String>,
}

impl Subject {
    /// Reads the subject of a certificate in DER. It does not verify the certificate: TLS has done that.
    pub fn of_certificate(der: &[u8]) -> Result<Subject> {
        let malformed = |problem: String| Error::Malformed { what: "the client certificate".to_owned(), problem };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        Subject::of_name(certificate.subject()).map_err(|error| malformed(error.to_string()))
    }

    /// Reads a distinguished name.
    pub(crate) fn of_name(name: &X509Name<'_>) -> std::result::Result<Subject, X509Error> {
        let text = |value: &AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned);
        let common_name = name.iter_common_name().next().map(text).transpose()?.unwrap_or_default();
        let organizations = name.iter_organization().map(text).collect::<std::result::Result<_, _>>()?;
        Ok(Subject { common_name, organizations })
    }
}
