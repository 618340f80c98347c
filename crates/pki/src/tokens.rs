//! Service account tokens: ES256 JSON web tokens, their keys, and the documents with which others verify them.
//!
//! `sa.key` signs. Any `sa-<something>.key` or `.pub` beside it only verifies: to rotate, rename the old key to
//! `sa-previous.key` and start again; tokens that it signed stay good until they end.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::files::{private_folder, read_if_present, write_private};
use crate::{Error, Result};

/// The longest token that is looked at: larger ones are not ours, and decoding them would cost.
const MAXIMUM_LENGTH: usize = 16 * 1024;
/// The fixed part of the DER form (SubjectPublicKeyInfo) of a P-256 public key, before the 65 bytes of the point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The claims of a service account token, as upstream writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is meant.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// The token's own identity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// The service account and the objects that must still exist for the token to be good.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Not to be used before, in seconds since 1970.
    #[serde(default)]
    pub nbf: i64,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace of the service account, pod and secret.
    pub namespace: String,
    /// The node, either bound directly or the one that the pod ran on when the token was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    pub serviceaccount: Reference,
    /// When a client that still uses the token should be warned, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and unique identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reference {
    /// The name.
    pub name: String,
    /// The uid; empty where upstream knows none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims of the token in a Secret of type `kubernetes.io/service-account-token`: it has no end of its own, and is good
/// as long as the Secret holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    /// [`LegacyClaims::ISSUER`].
    pub iss: String,
    /// The namespace of Secret and service account.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret's name.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The service account's name.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// The service account's uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

impl LegacyClaims {
    /// The issuer of all of them.
    pub const ISSUER: &str = "kubernetes/serviceaccount";
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It is not a JSON web token of the form that is made here.
    #[error("token is malformed")]
    Malformed,
    /// No key here signed it.
    #[error("token is signed by an unknown key")]
    UnknownKey,
    /// The signature is not its key's.
    #[error("token has a bad signature")]
    Signature,
    /// Somebody else issued it.
    #[error("token is of another issuer")]
    Issuer,
    /// It has ended.
    #[error("token has expired")]
    Expired,
}

struct VerificationKey {
    /// The uncompressed point, 65 bytes.
    point: Vec<u8>,
    /// The key as it stands in a JSON web key set.
    jwk: Value,
}

/// Signs and verifies service account tokens.
pub struct ServiceAccountTokens {
    issuer: String,
    signing_key: EcdsaKeyPair,
    /// The encoded header of every token signed here: it never changes.
    header: String,
    verification_keys: HashMap<String, VerificationKey>,
    random: SystemRandom,
}

impl std::fmt::Debug for ServiceAccountTokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServiceAccountTokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl ServiceAccountTokens {
    /// Reads `sa.key` (and keys that only verify) from the folder, or makes it. `issuer` is what tokens name as theirs,
    /// upstream's default being `https://kubernetes.default.svc.cluster.local`.
    pub fn load_or_create(folder: &Path, issuer: &str) -> Result<ServiceAccountTokens> {
        private_folder(folder)?;
        let path = folder.join("sa.key");
        let pem = match read_if_present(&path)? {
            Some(text) => text,
            None => {
                let fresh = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                    .map_err(|source| Error::Key { what: "sa.key".into(), source })?;
                write_private(&path, fresh.serialize_pem().as_bytes())?;
                fresh.serialize_pem()
            }
        };
        let mut tokens = ServiceAccountTokens::from_pem(&pem, issuer)?;
        for path in other_keys(folder)? {
            let what = path.display().to_string();
            let Some(text) = read_if_present(&path)? else { continue };
            let point = if text.contains("PUBLIC KEY") {
                rcgen::SubjectPublicKeyInfo::from_pem(&text)
                    .map(|key| rcgen::PublicKeyData::der_bytes(&key).to_vec())
                    .map_err(|source| Error::Key { what: what.clone(), source })?
            } else {
                let key = KeyPair::from_pem(&text).map_err(|source| Error::Key { what: what.clone(), source })?;
                key.public_key_raw().to_vec()
            };
            tokens.trust(&what, point)?;
        }
        Ok(tokens)
    }

    /// Signs with the key of this PEM text (PKCS #8, P-256).
    pub fn from_pem(key_pem: &str, issuer: &str) -> Result<ServiceAccountTokens> {
        let malformed = |problem: String| Error::Malformed { what: "sa.key".to_owned(), problem };
        let pair = KeyPair::from_pem(key_pem).map_err(|source| Error::Key { what: "sa.key".into(), source })?;
        let random = SystemRandom::new();
        let signing_key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der(), &random)
            .map_err(|error| malformed(error.to_string()))?;
        let point = signing_key.public_key().as_ref().to_vec();
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"ES256","kid":"{}"}}"#, key_id(&point)));
        let mut tokens = ServiceAccountTokens {
            issuer: issuer.to_owned(),
            signing_key,
            header,
            verification_keys: HashMap::new(),
            random,
        };
        tokens.trust("sa.key", point)?;
        Ok(tokens)
    }

    fn trust(&mut self, what: &str, point: Vec<u8>) -> Result<()> {
        let [0x04, coordinates @ ..] = point.as_slice() else {
            return Err(Error::Malformed { what: what.to_owned(), problem: "it is not a P-256 key".to_owned() });
        };
        if coordinates.len() != 64 {
            return Err(Error::Malformed { what: what.to_owned(), problem: "it is not a P-256 key".to_owned() });
        }
        let id = key_id(&point);
        let (x, y) = coordinates.split_at(32);
        let jwk = json!({
            "use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        self.verification_keys.insert(id, VerificationKey { point, jwk });
        Ok(())
    }

    /// What tokens name as their issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs the claims as they are.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        self.sign_any(claims)
    }

    /// Signs the claims of a Secret's token.
    pub fn sign_legacy(&self, claims: &LegacyClaims) -> Result<String> {
        self.sign_any(claims)
    }

    fn sign_any(&self, claims: &impl Serialize) -> Result<String> {
        let malformed =
            |error: serde_json::Error| Error::Malformed { what: "claims".into(), problem: error.to_string() };
        let payload = serde_json::to_vec(claims).map_err(malformed)?;
        let mut token = String::with_capacity(self.header.len() + payload.len() * 4 / 3 + 96);
        token.push_str(&self.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = self.signing_key.sign(&self.random, token.as_bytes()).map_err(|_| Error::Random)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Whether the text has the form of a token of this issuer; cheap, and says nothing about who signed it.
    pub fn looks_like_ours(&self, token: &str) -> bool {
        token.len() <= MAXIMUM_LENGTH && token.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Checks signature, issuer and end. `now` is in seconds since 1970. Whether the audience fits and the bound objects
    /// exist is for the caller to find out.
    ///
    /// The "not before" claim is not compared: tokens are only ever made for immediate use, and after a clock has been
    /// set back, refusing the ones made before would cut off every pod for nothing.
    pub fn verify(&self, token: &str, now: i64) -> std::result::Result<Claims, TokenError> {
        let claims: Claims = serde_json::from_slice(&self.payload(token)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if claims.exp <= now {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// Checks the signature and issuer of a Secret's token. Whether the Secret still holds it is for the caller to find
    /// out.
    pub fn verify_legacy(&self, token: &str) -> std::result::Result<LegacyClaims, TokenError> {
        let claims: LegacyClaims = serde_json::from_slice(&self.payload(token)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss == LegacyClaims::ISSUER { Ok(claims) } else { Err(TokenError::Issuer) }
    }

    /// What a token says, if one of these keys has signed it.
    fn payload(&self, token: &str) -> std::result::Result<Vec<u8>, TokenError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            #[serde(default)]
            kid: String,
        }
        if !self.looks_like_ours(token) {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header.alg != "ES256" {
            return Err(TokenError::UnknownKey);
        }
        let key = self.verification_keys.get(&header.kid).ok_or(TokenError::UnknownKey)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        decode(payload)
    }

    /// The key set document served at `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let mut keys: Vec<&Value> = self.verification_keys.values().map(|key| &key.jwk).collect();
        keys.sort_by_key(|key| key["kid"].as_str());
        json!({ "keys": keys })
    }

    /// The document served at `/.well-known/openid-configuration`. `api_address` is the URL under which the API server
    /// is reached, for the place of the key set.
    pub fn openid_configuration(&self, api_address: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", api_address.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

/// The signature of a content by a bootstrap token, as `cluster-info` has it: a JSON web signature (HS256) whose middle part,
/// the content, is left out.
pub fn detached_signature(content: &[u8], token_id: &str, token_secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{token_id}"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token_secret.as_bytes());
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

/// The key's identity: the hash of its DER form, as upstream computes it, so that it never changes for one key.
fn key_id(point: &[u8]) -> String {
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(point);
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &spki))
}

fn other_keys(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let unreadable = |source| Error::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("sa-") && (name.ends_with(".key") || name.ends_with(".pub")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// An audience may stand alone in a token of somebody else's making.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(audience) => vec![audience],
        OneOrMany::Many(audiences) => audiences,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn claims(exp: i64) -> Claims {
        Claims {
            aud: vec![ISSUER.into()],
            exp,
            iat: 100,
            iss: ISSUER.into(),
            jti: "7a1c".into(),
            bound: Bound {
                namespace: "default".into(),
                pod: Some(Reference { name: "web".into(), uid: "u1".into() }),
                serviceaccount: Reference { name: "builder".into(), uid: "u2".into() },
                ..Bound::default()
            },
            nbf: 100,
            sub: "system:serviceaccount:default:builder".into(),
        }
    }

    #[test]
    fn tokens_are_verified_and_keys_rotate() {
        let folder = tempfile::tempdir().unwrap();
        let first = ServiceAccountTokens::load_or_create(folder.path(), ISSUER).unwrap();
        let token = first.sign(&claims(200)).unwrap();
        assert_eq!(first.verify(&token, 150), Ok(claims(200)));
        assert_eq!(first.verify(&token, 50), Ok(claims(200)), "a clock set back refuses nothing");
        assert_eq!(first.verify(&token, 200), Err(TokenError::Expired));

        let again = ServiceAccountTokens::load_or_create(folder.path(), ISSUER).unwrap();
        assert_eq!(again.verify(&token, 150), Ok(claims(200)), "the key is kept");
        assert_eq!(again.jwks(), first.jwks());
        let other_issuer = ServiceAccountTokens::load_or_create(folder.path(), "https://elsewhere").unwrap();
        assert_eq!(other_issuer.verify(&token, 150), Err(TokenError::Issuer));

        std::fs::rename(folder.path().join("sa.key"), folder.path().join("sa-previous.key")).unwrap();
        let rotated = ServiceAccountTokens::load_or_create(folder.path(), ISSUER).unwrap();
        assert_eq!(rotated.verify(&token, 150), Ok(claims(200)), "the previous key still verifies");
        let fresh = rotated.sign(&claims(200)).unwrap();
        assert_eq!(first.verify(&fresh, 150), Err(TokenError::UnknownKey));
        assert_eq!(rotated.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn tokens_of_secrets_are_another_sort() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = ServiceAccountTokens::load_or_create(folder.path(), ISSUER).unwrap();
        let legacy = LegacyClaims {
            iss: LegacyClaims::ISSUER.into(),
            namespace: "a".into(),
            secret: "bot-token".into(),
            account: "bot".into(),
            account_uid: "u1".into(),
            sub: "system:serviceaccount:a:bot".into(),
        };
        let token = tokens.sign_legacy(&legacy).unwrap();
        assert_eq!(tokens.verify_legacy(&token), Ok(legacy));
        assert_eq!(tokens.verify(&token, 150), Err(TokenError::Malformed));
        assert_eq!(tokens.verify_legacy(&tokens.sign(&claims(200)).unwrap()), Err(TokenError::Malformed));
    }

    #[test]
    fn the_payload_has_upstreams_form() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = ServiceAccountTokens::load_or_create(folder.path(), ISSUER).unwrap();
        let token = tokens.sign(&claims(200)).unwrap();
        let payload: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
        assert_eq!(
            payload,
            json!({
                "aud": [ISSUER], "exp": 200, "iat": 100, "nbf": 100, "iss": ISSUER, "jti": "7a1c",
                "kubernetes.io": {
                    "namespace": "default",
                    "pod": {"name": "web", "uid": "u1"},
                    "serviceaccount": {"name": "builder", "uid": "u2"},
                },
                "sub": "system:serviceaccount:default:builder",
            })
        );
    }

    #[test]
    fn no_other_algorithm_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = ServiceAccountTokens::load_or_create(folder.path(), ISSUER).unwrap();
        let token = tokens.sign(&claims(200)).unwrap();
        let (_, rest) = token.split_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256","kid":"x"}"#] {
            let header = URL_SAFE_NO_PAD.encode(header);
            assert_eq!(tokens.verify(&format!("{header}.{rest}"), 150), Err(TokenError::UnknownKey));
        }
        for nonsense in ["", ".", "..", "a.b.c", "a.b", "....."] {
            assert_eq!(tokens.verify(nonsense, 150), Err(TokenError::Malformed), "{nonsense:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_byte_is_noticed(position in 0usize..10_000, byte in b'A'..=b'z') {
            static TOKENS: std::sync::LazyLock<ServiceAccountTokens> = std::sync::LazyLock::new(|| {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
                ServiceAccountTokens::from_pem(&key.serialize_pem(), ISSUER).unwrap()
            });
            let token = TOKENS.sign(&claims(200)).unwrap();
            let mut bytes = token.clone().into_bytes();
            let position = position % bytes.len();
            bytes[position] = byte;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(TOKENS.verify(&changed, 150).is_ok(), changed == token);
        }
    }
}
