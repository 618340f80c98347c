//! One provider: a cipher with its keys, or none. The forms on disk are upstream's.

use std::borrow::Cow;
use std::fmt;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{AesGcm, KeyInit};
use crypto_secretbox::XSalsa20Poly1305;
use kobune_store::{Opened, SEALED_PREFIX, SealError};
use rand::RngCore as _;

use super::kms::Kms;

/// The bytes of an AES block, which the first ones of a chain stand for.
const BLOCK: usize = 16;
const GCM_NONCE: usize = 12;
const SECRETBOX_NONCE: usize = 24;

/// How values are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    AesGcm,
    AesCbc,
    SecretBox,
}

/// A cipher with its keys, the first of which writes.
pub(super) struct Keyed {
    pub(super) cipher: Cipher,
    pub(super) keys: Vec<(String, Vec<u8>)>,
}

impl fmt::Debug for Keyed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keys.iter().map(|(name, _)| name.as_str()).collect();
        formatter.debug_struct("Keyed").field("cipher", &self.cipher).field("keys", &names).finish()
    }
}

/// A way to write and read values.
#[derive(Debug)]
pub(super) enum Provider {
    Identity,
    Keyed(Keyed),
    Kms(Kms),
}

impl Cipher {
    /// What stands before the key's name.
    fn prefix(self) -> &'static [u8] {
        match self {
            Cipher::AesGcm => b"k8s:enc:aesgcm:v1:",
            Cipher::AesCbc => b"k8s:enc:aescbc:v1:",
            Cipher::SecretBox => b"k8s:enc:secretbox:v1:",
        }
    }

    /// The lengths in bytes that its keys may have.
    pub(super) fn key_lengths(self) -> &'static [usize] {
        match self {
            Cipher::AesGcm | Cipher::AesCbc => &[16, 24, 32],
            Cipher::SecretBox => &[32],
        }
    }

    /// The random bytes before the encrypted ones.
    fn nonce_length(self) -> usize {
        match self {
            Cipher::AesGcm => GCM_NONCE,
            Cipher::AesCbc => BLOCK,
            Cipher::SecretBox => SECRETBOX_NONCE,
        }
    }

    fn encrypt(self, key: &[u8], nonce: &[u8], context: &str, value: &[u8]) -> Option<Vec<u8>> {
        match (self, key.len()) {
            (Cipher::AesGcm, 16) => gcm::<Aes128>(key, nonce, context, value, true),
            (Cipher::AesGcm, 24) => gcm::<Aes192>(key, nonce, context, value, true),
            (Cipher::AesGcm, 32) => gcm::<Aes256>(key, nonce, context, value, true),
            (Cipher::AesCbc, 16) => cbc_encrypt::<Aes128>(key, nonce, value),
            (Cipher::AesCbc, 24) => cbc_encrypt::<Aes192>(key, nonce, value),
            (Cipher::AesCbc, 32) => cbc_encrypt::<Aes256>(key, nonce, value),
            (Cipher::SecretBox, 32) => {
                XSalsa20Poly1305::new_from_slice(key).ok()?.encrypt(GenericArray::from_slice(nonce), value).ok()
            }
            _ => None,
        }
    }

    fn decrypt(self, key: &[u8], nonce: &[u8], context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        match (self, key.len()) {
            (Cipher::AesGcm, 16) => gcm::<Aes128>(key, nonce, context, sealed, false),
            (Cipher::AesGcm, 24) => gcm::<Aes192>(key, nonce, context, sealed, false),
            (Cipher::AesGcm, 32) => gcm::<Aes256>(key, nonce, context, sealed, false),
            (Cipher::AesCbc, 16) => cbc_decrypt::<Aes128>(key, nonce, sealed),
            (Cipher::AesCbc, 24) => cbc_decrypt::<Aes192>(key, nonce, sealed),
            (Cipher::AesCbc, 32) => cbc_decrypt::<Aes256>(key, nonce, sealed),
            (Cipher::SecretBox, 32) => {
                XSalsa20Poly1305::new_from_slice(key).ok()?.decrypt(GenericArray::from_slice(nonce), sealed).ok()
            }
            _ => None,
        }
    }
}

/// AES-GCM, bound to a context.
pub(super) fn gcm<A>(key: &[u8], nonce: &[u8], context: &str, input: &[u8], encrypts: bool) -> Option<Vec<u8>>
where
    AesGcm<A, U12>: Aead + KeyInit,
    AesGcm<A, U12>: aes_gcm::aead::AeadCore<NonceSize = U12>,
{
    let cipher = <AesGcm<A, U12> as KeyInit>::new_from_slice(key).ok()?;
    let payload = Payload { msg: input, aad: context.as_bytes() };
    let nonce = GenericArray::from_slice(nonce);
    if encrypts { cipher.encrypt(nonce, payload).ok() } else { cipher.decrypt(nonce, payload).ok() }
}

fn cbc_encrypt<A>(key: &[u8], first: &[u8], value: &[u8]) -> Option<Vec<u8>>
where
    A: aes::cipher::BlockCipher + BlockEncryptMut,
    cbc::Encryptor<A>: KeyIvInit + BlockEncryptMut,
{
    Some(cbc::Encryptor::<A>::new_from_slices(key, first).ok()?.encrypt_padded_vec_mut::<Pkcs7>(value))
}

fn cbc_decrypt<A>(key: &[u8], first: &[u8], sealed: &[u8]) -> Option<Vec<u8>>
where
    A: aes::cipher::BlockCipher + BlockDecryptMut,
    cbc::Decryptor<A>: KeyIvInit + BlockDecryptMut,
{
    cbc::Decryptor::<A>::new_from_slices(key, first).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed).ok()
}

impl Provider {
    /// What is put on disk.
    pub(super) fn seal<'v>(&self, context: &str, value: &'v [u8]) -> Result<Cow<'v, [u8]>, SealError> {
        let (cipher, keys) = match self {
            Provider::Identity => return Ok(Cow::Borrowed(value)),
            Provider::Kms(kms) => return kms.seal(context, value).map(Cow::Owned),
            Provider::Keyed(Keyed { cipher, keys }) => (cipher, keys),
        };
        let failed = || SealError { problem: "the value cannot be encrypted".to_owned() };
        let (name, key) = keys.first().ok_or_else(failed)?;
        let mut nonce = [0u8; SECRETBOX_NONCE];
        let nonce = &mut nonce[..cipher.nonce_length()];
        rand::rng().fill_bytes(nonce);
        let encrypted = cipher.encrypt(key, nonce, context, value).ok_or_else(failed)?;
        let prefix = cipher.prefix();
        let mut sealed = Vec::with_capacity(prefix.len() + name.len() + 1 + nonce.len() + encrypted.len());
        for part in [prefix, name.as_bytes(), b":", nonce, &encrypted] {
            sealed.extend_from_slice(part);
        }
        Ok(Cow::Owned(sealed))
    }

    /// What is on disk made plain; `None` when another provider wrote it.
    pub(super) fn open<'v>(&self, context: &str, stored: &'v [u8]) -> Result<Option<Opened<'v>>, SealError> {
        let (cipher, keys) = match self {
            Provider::Identity => {
                let plain = !stored.starts_with(SEALED_PREFIX);
                return Ok(plain.then_some(Opened { value: Cow::Borrowed(stored), stale: false }));
            }
            Provider::Kms(kms) => {
                let opened = kms.open(context, stored)?;
                return Ok(opened.map(|(value, stale)| Opened { value: Cow::Owned(value), stale }));
            }
            Provider::Keyed(Keyed { cipher, keys }) => (cipher, keys),
        };
        let Some(rest) = stored.strip_prefix(cipher.prefix()) else { return Ok(None) };
        let found = keys.iter().enumerate().find_map(|(place, (name, key))| {
            let rest = rest.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
            Some((place, key, rest))
        });
        let Some((place, key, rest)) = found else { return Ok(None) };
        let damaged = || SealError { problem: "the encrypted value is damaged or its key is another one".to_owned() };
        let (nonce, sealed) = rest.split_at_checked(cipher.nonce_length()).ok_or_else(damaged)?;
        let value = cipher.decrypt(key, nonce, context, sealed).ok_or_else(damaged)?;
        Ok(Some(Opened { value: Cow::Owned(value), stale: place > 0 }))
    }
}
