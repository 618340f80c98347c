//! Tokens of other issuers: OpenID Connect, as an `AuthenticationConfiguration` or the `--oidc-*` flags describe it.
//!
//! A token goes to the authenticator whose issuer it names ([`Authentication::of`]). The [`issuer`]'s keys must have signed
//! it; then its claims become a user, by [`mapping`].

mod config;
mod issuer;
mod mapping;

use serde_json::Value;

use super::User;
use issuer::Issuer;
use mapping::Mapping;

pub use config::{OidcError, OidcOptions};

/// Who else may say who sends a request.
#[derive(Debug, Default)]
pub struct Authentication {
    authenticators: Vec<Authenticator>,
    /// Whether requests without credentials are taken, and for which paths; all when there are none.
    anonymous: Option<(bool, Vec<String>)>,
}

/// An issuer and what its tokens mean here.
#[derive(Debug)]
pub(super) struct Authenticator {
    issuer: Issuer,
    mapping: Mapping,
}

impl Authentication {
    /// The authenticator of the issuer that a token names.
    pub(super) fn of(&self, token: &str) -> Option<&Authenticator> {
        if self.authenticators.is_empty() {
            return None;
        }
        let issuer = kobune_pki::untrusted_issuer(token)?;
        self.authenticators.iter().find(|known| known.issuer.url == issuer)
    }

    /// Whether a request without credentials is taken at a path; `None` when nothing is said about that.
    pub(super) fn takes_anonymous(&self, path: &str) -> Option<bool> {
        let (enabled, paths) = self.anonymous.as_ref()?;
        Some(*enabled && (paths.is_empty() || paths.iter().any(|known| known == path)))
    }
}

impl Authenticator {
    /// The user of a token that is good at a time, in seconds since 1970; the error is for logs and reviews.
    pub(super) async fn user(&self, token: &str, now: i64) -> Result<User, String> {
        let claims: Value = self.issuer.verify(token, now).await.map_err(|error| format!("oidc: {error}"))?;
        let mut user = self.mapping.user(&claims).map_err(|problem| format!("oidc: {problem}"))?;
        user.complete();
        Ok(user)
    }
}
