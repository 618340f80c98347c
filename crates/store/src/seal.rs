//! How objects look on disk when they are not to stand there in plain text.
//!
//! Memory, watchers and readers always have the plain value; a store seals it where bytes leave the process.

use std::borrow::Cow;
use std::fmt;

use crate::object::Key;

/// Every sealed value begins with these bytes, as upstream's do; no JSON text does.
pub const SEALED_PREFIX: &[u8] = b"k8s:enc:";

/// Turns values into what is on disk and back.
pub trait Seal: fmt::Debug + Send + Sync {
    /// What is put on disk for a value.
    fn seal<'v>(&self, key: &Key, value: &'v [u8]) -> Result<Cow<'v, [u8]>, SealError>;

    /// The value of what is on disk.
    fn open<'v>(&self, key: &Key, stored: &'v [u8]) -> Result<Opened<'v>, SealError>;
}

/// A value that was read from disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'v> {
    /// The plain value.
    pub value: Cow<'v, [u8]>,
    /// Whether it would be sealed in another way today, so that it should be written anew.
    pub stale: bool,
}

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct SealError {
    /// What went wrong; never any part of the value or a key.
    pub problem: String,
}

/// Opens what is on disk, with or without a seal.
pub(crate) fn open<'v>(seal: Option<&dyn Seal>, key: &Key, stored: &'v [u8]) -> Result<Opened<'v>, SealError> {
    match seal {
        Some(seal) => seal.open(key, stored),
        None if stored.starts_with(SEALED_PREFIX) => {
            Err(SealError { problem: "it is encrypted, and no configuration with its key was given".to_owned() })
        }
        None => Ok(Opened { value: Cow::Borrowed(stored), stale: false }),
    }
}
