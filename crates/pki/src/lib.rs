//! The cluster's certificate authority, key files, kubeconfigs and service account tokens.
//!
//! Everything that is secret on disk is written here: [`write_private`] is the one way a key reaches a file.
//! Nothing in this crate knows the API or the network; it turns names into certificates and claims into tokens.
//!
//! * [`Authority`] makes certificates, and makes itself at the first start;
//! * [`SigningRequest`] reads what others want to have signed, and [`Authority::sign_request`] signs it;
//! * [`tls`] turns certificates into rustls configurations, with a server certificate that can change while running;
//! * [`kubeconfig`] writes the file that kubectl reads;
//! * [`ServiceAccountTokens`] signs and verifies the tokens that pods hold;
//! * [`WebToken`] and [`WebKeys`] verify those of other issuers.

mod authority;
mod error;
mod files;
mod issue;
mod kubeconfig;
mod pem;
mod request;
mod subject;
pub mod tls;
mod tokens;
mod web_token;

pub use authority::{Authority, Pair, San, api_server_sans};
pub use error::Error;
pub use files::{write_private, write_public};
pub use issue::Validity;
pub use kubeconfig::{cluster_info, kubeconfig};
pub use pem::{certificate_der, certificate_pem, check_certificates, end_of_certificate, public_key_hash};
pub use request::{RequestError, SigningRequest, new_request};
pub use subject::Subject;
pub use tokens::{Bound, Claims, LegacyClaims, Reference, ServiceAccountTokens, TokenError, detached_signature};
pub use web_token::{Algorithm, WebKeys, WebToken, WebTokenError, untrusted_issuer};

/// The result of what this crate does on disk and with keys.
pub type Result<T> = std::result::Result<T, Error>;
