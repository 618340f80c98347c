//! JSON web tokens of other issuers, and the keys that verify them (RFC 7515, 7517, 7518).
//!
//! A token is taken apart without trusting it ([`WebToken::parse`]); what it claims is good only when one of its issuer's
//! [`WebKeys`] has signed it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

/// The longest token that is looked at; identity providers put many groups into theirs.
const MAXIMUM_LENGTH: usize = 64 * 1024;
/// How many keys of a set are used: issuers have a handful.
const MAXIMUM_KEYS: usize = 100;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1, SHA-256.
    Rs256,
    /// RSA, PKCS #1, SHA-384.
    Rs384,
    /// RSA, PKCS #1, SHA-512.
    Rs512,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// RSA, PSS, SHA-384.
    Ps384,
    /// RSA, PSS, SHA-512.
    Ps512,
    /// ECDSA, P-256, SHA-256.
    Es256,
    /// ECDSA, P-384, SHA-384.
    Es384,
}

impl Algorithm {
    /// All that are known. ES512 is not: the library has no P-521.
    pub const ALL: [Algorithm; 8] = [
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
    ];

    /// The name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
        }
    }

    /// The algorithm called so.
    pub fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// Why a text is no token that could be verified.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebTokenError {
    /// It has not the three parts of a signed token.
    #[error("malformed token")]
    Malformed,
    /// A part cannot be decoded.
    #[error("error decoding token: {0}")]
    Decode(String),
    /// It is signed in a way that is not known.
    #[error("id token signed with unsupported algorithm {0:?}")]
    Algorithm(String),
    /// No key of its issuer has signed it.
    #[error("failed to verify signature: failed to verify id token signature")]
    Signature,
}

/// A token that was taken apart.
#[derive(Debug)]
pub struct WebToken<'t> {
    /// How it says that it is signed.
    pub algorithm: Algorithm,
    key: String,
    signed: &'t str,
    signature: Vec<u8>,
    claims: Value,
}

/// The part of a token that tells how it is signed.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

fn decode(part: &str) -> Result<Vec<u8>, WebTokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|error| WebTokenError::Decode(error.to_string()))
}

fn read<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, WebTokenError> {
    serde_json::from_slice(&decode(part)?).map_err(|error| WebTokenError::Decode(error.to_string()))
}

/// What a token says who issued it, without looking at anything else; nobody has verified that.
pub fn untrusted_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    if token.len() > MAXIMUM_LENGTH {
        return None;
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    read::<Issued>(payload).ok().map(|issued| issued.iss)
}

impl<'t> WebToken<'t> {
    /// Takes a token apart.
    pub fn parse(token: &'t str) -> Result<WebToken<'t>, WebTokenError> {
        if token.len() > MAXIMUM_LENGTH {
            return Err(WebTokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(WebTokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(WebTokenError::Malformed)?;
        if payload.contains('.') {
            return Err(WebTokenError::Malformed);
        }
        let header: Header = read(header)?;
        let algorithm = Algorithm::named(&header.alg).ok_or(WebTokenError::Algorithm(header.alg))?;
        let claims: Value = read(payload)?;
        if !claims.is_object() {
            return Err(WebTokenError::Malformed);
        }
        Ok(WebToken { algorithm, key: header.kid, signed, signature: decode(signature)?, claims })
    }

    /// What the token claims, if one of these keys has signed it.
    pub fn claims(&self, keys: &WebKeys) -> Result<&Value, WebTokenError> {
        let fits = |key: &&WebKey| self.key.is_empty() || key.id == self.key;
        match keys.0.iter().filter(fits).any(|key| key.has_signed(self)) {
            true => Ok(&self.claims),
            false => Err(WebTokenError::Signature),
        }
    }
}

/// The keys of an issuer.
#[derive(Clone, Debug, Default)]
pub struct WebKeys(Vec<WebKey>);

#[derive(Clone, Debug)]
struct WebKey {
    id: String,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

impl WebKeys {
    /// Reads a key set. Keys of sorts that are not known, and those that only encrypt, are left out; `None` when it is no
    /// key set at all.
    pub fn read(set: &Value) -> Option<WebKeys> {
        let keys = set.get("keys")?.as_array()?;
        Some(WebKeys(keys.iter().take(MAXIMUM_KEYS).filter_map(WebKey::read).collect()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl WebKey {
    fn read(key: &Value) -> Option<WebKey> {
        let text = |field: &str| key[field].as_str().unwrap_or_default();
        let bytes = |field: &str| URL_SAFE_NO_PAD.decode(text(field).trim_end_matches('=')).ok();
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let mut point = vec![0x04];
            for coordinate in [x, y] {
                // Leading zeros may have been left out.
                point.extend(std::iter::repeat_n(0, length.checked_sub(coordinate.len())?));
                point.extend(coordinate);
            }
            Some(point)
        };
        if !matches!(text("use"), "" | "sig") {
            return None;
        }
        let material = match (text("kty"), text("crv")) {
            ("RSA", _) => Material::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            _ => return None,
        };
        let algorithm = key["alg"].as_str().map(str::to_owned);
        Some(WebKey { id: text("kid").to_owned(), algorithm, material })
    }

    fn has_signed(&self, token: &WebToken<'_>) -> bool {
        if self.algorithm.as_deref().is_some_and(|only| only != token.algorithm.name()) {
            return false;
        }
        let (message, given) = (token.signed.as_bytes(), token.signature.as_slice());
        match (&self.material, token.algorithm) {
            (Material::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, given).is_ok()
            }
            (Material::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, given).is_ok()
            }
            (Material::Rsa { modulus, exponent }, algorithm) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Algorithm::Es256 | Algorithm::Es384 => return false,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, given).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
