//! What can go wrong with keys, certificates and their files.

use std::path::PathBuf;

/// A failure to make, read or write a key, a certificate or a token key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file could not be written so that it survives a power cut.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate of {subject}")]
    Issue {
        /// Whose certificate it would have been.
        subject: String,
        /// What the certificate library says.
        source: rcgen::Error,
    },
    /// A key could not be made or read.
    #[error("cannot use the key {what}")]
    Key {
        /// Which key: a file's name or a purpose.
        what: String,
        /// What the certificate library says.
        source: rcgen::Error,
    },
    /// A name cannot stand in a certificate.
    #[error("{name:?} cannot be a subject alternative name")]
    Name {
        /// The name.
        name: String,
        /// What the certificate library says.
        source: rcgen::Error,
    },
    /// A certificate of ours can name one group.
    #[error("the certificate of {subject} cannot name more than one group")]
    Groups {
        /// Whose certificate it would have been.
        subject: String,
    },
    /// A certificate or key does not have the form it should have.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// One of the two files of the authority is missing, so the other one is of no use.
    #[error("{} is there but {} is missing: restore it, or remove both to make a new authority", present.display(), missing.display())]
    Half {
        /// The file that exists.
        present: PathBuf,
        /// The file that does not.
        missing: PathBuf,
    },
    /// The TLS library rejects a certificate or key.
    #[error("cannot set up TLS")]
    Tls {
        /// What the TLS library says.
        #[from]
        source: rustls::Error,
    },
    /// The verifier of client or server certificates could not be built.
    #[error("cannot build the certificate verifier")]
    Verifier {
        /// What the TLS library says.
        #[from]
        source: rustls::server::VerifierBuilderError,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}
