//! Short names for templates: equal templates have equal names.

use std::hash::Hasher;

/// FNV-1a with 32 bits, which upstream names pods by as well.
#[derive(Clone, Copy)]
struct Fnv(u32);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        u64::from(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(16_777_619);
        }
    }
}

/// Upstream's alphabet for generated names: no vowels, so no words.
fn safe(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// A short name for anything that can be serialized; equal things have equal names.
pub fn short_hash(value: &impl serde::Serialize, collisions: Option<i32>) -> String {
    let mut hash = Fnv(2_166_136_261);
    // Through `Value` the keys come in a fixed order.
    let canonical = serde_json::to_value(value).map(|value| value.to_string()).unwrap_or_default();
    hash.write(canonical.as_bytes());
    if let Some(collisions) = collisions {
        hash.write(&collisions.to_le_bytes());
    }
    safe(&hash.finish().to_string())
}
