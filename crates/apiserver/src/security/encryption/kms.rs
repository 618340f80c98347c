//! A key management service, by version 2 of its protocol: it encrypts one seed of this server's; the keys that encrypt
//! values are derived from that seed here.
//!
//! ```text
//! service's key ──encrypts──> seed, one for each start of a server and each key of the service
//!                              │ HKDF-Expand with 32 random bytes
//!                              ▼
//!                             key of one value, AES-GCM
//! ```
//!
//! What is on disk has the encrypted seed beside the value, so the service is asked once for each seed that is met, and not
//! for each value. It is asked how it is every minute; once it has not answered well for [`GRACE`], nothing is encrypted
//! any more: whoever takes the key away means it. Source: `pkg/storage/value/encrypt/envelope/kmsv2` and `.../aes` of
//! apiserver, Kubernetes 1.36, whose form on disk this is.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes::Aes256;
use kobune_store::SealError;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use rand::RngCore as _;
use sha2::{Digest, Sha256};

use super::kms_link::{Encrypted, Link, LinkError};
use super::provider::gcm;

/// What stands before the service's name on disk.
const PREFIX: &[u8] = b"k8s:enc:kms:v2:";

/// The bytes of a seed, and of what a value's key is derived with.
const SEED: usize = 32;
const INFO: usize = 32;
const NONCE: usize = 12;

/// How a seed is used; upstream's number for what is described above.
const HKDF_SHA256_XNONCE_AES_GCM_SEED: i32 = 1;

/// How long the last good word of the service is good for.
pub(super) const GRACE: Duration = Duration::from_secs(3 * 60);

/// How many seeds are kept: one for each start of a server whose values are still there.
const SEEDS: usize = 1000;

/// What upstream takes from a service at most, in bytes.
const LONGEST_KEY_ID: usize = 1024;
const LONGEST_SEED: usize = 1024;
const LONGEST_ANNOTATIONS: usize = 32 << 10;

/// What is on disk behind the service's name.
#[derive(Clone, PartialEq, prost::Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    encrypted_dek_source_type: i32,
}

/// The seed that encrypts now.
struct Current {
    seed: [u8; SEED],
    encrypted: Encrypted,
    /// When the service last said that it is well and that its key is this one.
    confirmed: Instant,
}

/// What is known of a service, shared with the thread that talks to it.
pub(super) struct State {
    current: RwLock<Option<Arc<Current>>>,
    /// What the last question found, for health checks.
    health: Mutex<Result<(), String>>,
}

impl State {
    fn new() -> State {
        State { current: RwLock::new(None), health: Mutex::new(Err("it has not answered yet".to_owned())) }
    }

    /// Notes what a question about its health has found.
    pub(super) fn note(&self, found: Result<(), String>) {
        *self.health.lock() = found;
    }

    /// Notes that the service is well. Answers whether its key is the one in use; otherwise a new seed is needed.
    pub(super) fn confirm(&self, key_id: &str) -> bool {
        let mut current = self.current.write();
        let Some(found) = current.as_ref().filter(|current| current.encrypted.key_id == key_id) else { return false };
        *current =
            Some(Arc::new(Current { seed: found.seed, encrypted: found.encrypted.clone(), confirmed: Instant::now() }));
        true
    }

    /// Takes a new seed into use.
    pub(super) fn adopt(&self, seed: [u8; SEED], encrypted: Encrypted) -> Result<(), String> {
        check(&encrypted)?;
        *self.current.write() = Some(Arc::new(Current { seed, encrypted, confirmed: Instant::now() }));
        Ok(())
    }
}

/// A new seed.
pub(super) fn new_seed() -> [u8; SEED] {
    let mut seed = [0u8; SEED];
    rand::rng().fill_bytes(&mut seed);
    seed
}

/// Whether an answer keeps within what every value will carry along.
fn check(encrypted: &Encrypted) -> Result<(), String> {
    let annotations: usize = encrypted.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    match encrypted {
        Encrypted { key_id, .. } if key_id.is_empty() || key_id.len() > LONGEST_KEY_ID => {
            Err(format!("its key's name has {} bytes, and 1 to {LONGEST_KEY_ID} are allowed", key_id.len()))
        }
        Encrypted { ciphertext, .. } if ciphertext.is_empty() || ciphertext.len() > LONGEST_SEED => {
            Err(format!("the encrypted seed has {} bytes, and 1 to {LONGEST_SEED} are allowed", ciphertext.len()))
        }
        _ if annotations > LONGEST_ANNOTATIONS => {
            Err(format!("its annotations have {annotations} bytes, and {LONGEST_ANNOTATIONS} are allowed"))
        }
        _ => Ok(()),
    }
}

/// A key management service.
pub(super) struct Kms {
    name: String,
    state: Arc<State>,
    link: Link,
    /// Seeds by the hash of their encrypted form.
    seeds: Mutex<HashMap<[u8; 32], [u8; SEED]>>,
}

impl fmt::Debug for Kms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kms").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The key of one value: one block of HKDF-Expand with SHA-256.
fn derived(seed: &[u8; SEED], info: &[u8]) -> [u8; 32] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, seed);
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(info);
    context.update(&[1]);
    let mut derived = [0u8; 32];
    derived.copy_from_slice(context.sign().as_ref());
    derived
}

impl Kms {
    /// A service behind a socket. It is asked at once, and goes on being asked by a thread of its own; when it does not
    /// answer, values cannot be encrypted until it does.
    pub(super) fn start(name: &str, socket: std::path::PathBuf, timeout: Duration) -> std::io::Result<Kms> {
        let state = Arc::new(State::new());
        let link = Link::start(name, socket, timeout, Arc::clone(&state))?;
        Ok(Kms { name: name.to_owned(), state, link, seeds: Mutex::default() })
    }

    /// What is wrong with the service.
    pub(super) fn check(&self) -> Result<(), String> {
        self.state.health.lock().clone().map_err(|problem| format!("{}: {problem}", self.name))
    }

    fn failed(&self, problem: impl fmt::Display) -> SealError {
        SealError { problem: format!("the key management service {:?}: {problem}", self.name) }
    }

    /// What is put on disk.
    pub(super) fn seal(&self, context: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let current = self.state.current.read().clone();
        let current = current.filter(|current| current.confirmed.elapsed() < GRACE).ok_or_else(|| {
            let problem = self.state.health.lock().clone().err();
            self.failed(problem.as_deref().unwrap_or("it does not answer"))
        })?;
        let mut random = [0u8; INFO + NONCE];
        rand::rng().fill_bytes(&mut random);
        let (info, nonce) = random.split_at(INFO);
        let encrypted = gcm::<Aes256>(&derived(&current.seed, info), nonce, context, value, true);
        let mut data = random.to_vec();
        data.extend(encrypted.ok_or_else(|| self.failed("the value cannot be encrypted"))?);
        let object = EncryptedObject {
            encrypted_data: data,
            key_id: current.encrypted.key_id.clone(),
            encrypted_dek_source: current.encrypted.ciphertext.clone(),
            annotations: current.encrypted.annotations.clone(),
            encrypted_dek_source_type: HKDF_SHA256_XNONCE_AES_GCM_SEED,
        };
        let mut sealed = Vec::with_capacity(PREFIX.len() + self.name.len() + 1 + object.encoded_len());
        for part in [PREFIX, self.name.as_bytes(), b":"] {
            sealed.extend_from_slice(part);
        }
        sealed.extend(object.encode_to_vec());
        Ok(sealed)
    }

    /// What is on disk made plain, and whether another key would encrypt it today; `None` when somebody else wrote it.
    pub(super) fn open(&self, context: &str, stored: &[u8]) -> Result<Option<(Vec<u8>, bool)>, SealError> {
        let rest = stored.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(self.name.as_bytes()));
        let Some(rest) = rest.and_then(|rest| rest.strip_prefix(b":")) else { return Ok(None) };
        let damaged = || self.failed("the encrypted value is damaged");
        let object = EncryptedObject::decode(rest).map_err(|_| damaged())?;
        if object.encrypted_dek_source_type != HKDF_SHA256_XNONCE_AES_GCM_SEED {
            return Err(self.failed("the value's key is of another kind than an HKDF seed"));
        }
        let data = object.encrypted_data.as_slice();
        let (info, rest) = data.split_at_checked(INFO).ok_or_else(damaged)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or_else(damaged)?;
        let current = self.state.current.read().clone();
        let stale = current.as_ref().is_some_and(|current| current.encrypted.key_id != object.key_id);
        let own = current.filter(|current| current.encrypted.ciphertext == object.encrypted_dek_source);
        let seed = match own {
            Some(current) => current.seed,
            None => self.seed(Encrypted {
                ciphertext: object.encrypted_dek_source,
                key_id: object.key_id,
                annotations: object.annotations,
            })?,
        };
        let value = gcm::<Aes256>(&derived(&seed, info), nonce, context, sealed, false).ok_or_else(damaged)?;
        Ok(Some((value, stale)))
    }

    /// A seed that some server has used.
    fn seed(&self, encrypted: Encrypted) -> Result<[u8; SEED], SealError> {
        let hash: [u8; 32] = Sha256::digest(&encrypted.ciphertext).into();
        if let Some(seed) = self.seeds.lock().get(&hash) {
            return Ok(*seed);
        }
        let plain = self.link.decrypt(encrypted).map_err(|error: LinkError| self.failed(error))?;
        let seed: [u8; SEED] = plain.try_into().map_err(|_| self.failed("what it decrypts is no seed"))?;
        let mut seeds = self.seeds.lock();
        if seeds.len() >= SEEDS {
            seeds.clear();
        }
        seeds.insert(hash, seed);
        Ok(seed)
    }
}

#[cfg(test)]
#[path = "kms_tests.rs"]
mod tests;
