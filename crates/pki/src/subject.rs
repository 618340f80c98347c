//! Who a certificate says it is: the form in which Kubernetes puts users and groups into certificates.

use x509_parser::prelude::{FromDer, X509Certificate};

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
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).map_err(|error| malformed(error.to_string()))
        };
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next().map(text).transpose()?.unwrap_or_default();
        let organizations = subject.iter_organization().map(text).collect::<Result<_>>()?;
        Ok(Subject { common_name, organizations })
    }
}
