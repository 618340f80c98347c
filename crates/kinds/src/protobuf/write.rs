//! Protobuf's wire format, written.

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes a number takes.
pub(crate) fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn tag(out: &mut Vec<u8>, number: u16, wire: u64) {
    varint(out, u64::from(number) << 3 | wire);
}

/// A whole number; negative ones take ten bytes, also those of 32 bits.
pub(crate) fn integer(out: &mut Vec<u8>, number: u16, value: i64) {
    tag(out, number, VARINT);
    varint(out, u64::from_ne_bytes(value.to_ne_bytes()));
}

pub(crate) fn double(out: &mut Vec<u8>, number: u16, value: f64) {
    tag(out, number, FIXED64);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(crate) fn bytes(out: &mut Vec<u8>, number: u16, content: &[u8]) {
    length(out, number, content.len());
    out.extend_from_slice(content);
}

/// The head of a field whose `length` bytes follow.
pub(crate) fn length(out: &mut Vec<u8>, number: u16, length: usize) {
    tag(out, number, LENGTH);
    varint(out, length as u64);
}

/// A field with a message that `content` writes. Its length is known only afterwards: one byte is kept free for it,
/// which is what most need, and long messages are moved along.
pub(crate) fn nested<E>(
    out: &mut Vec<u8>,
    number: u16,
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    tag(out, number, LENGTH);
    let start = out.len();
    out.push(0);
    content(out)?;
    let end = out.len();
    let mut length = (end - start - 1) as u64;
    let more = varint_length(length) - 1;
    if more > 0 {
        out.resize(end + more, 0);
        out.copy_within(start + 1..end, start + 1 + more);
    }
    for byte in &mut out[start..start + more] {
        *byte = (length & 0x7f) as u8 | 0x80;
        length >>= 7;
    }
    out[start + more] = length as u8;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn nested_messages_of_any_length() {
        for length in [0usize, 1, 127, 128, 16_383, 16_384, 2_100_000] {
            let content = vec![7u8; length];
            let mut plain = Vec::new();
            bytes(&mut plain, 3, &content);
            let mut moved = Vec::new();
            let Ok(()) = nested(&mut moved, 3, |out| {
                out.extend_from_slice(&content);
                Ok::<(), Infallible>(())
            });
            assert!(plain == moved, "{length}");
            assert_eq!(plain.len(), 1 + varint_length(length as u64) + length);
        }
    }

    #[test]
    fn numbers() {
        let check = |value: i64, expected: &[u8]| {
            let mut out = Vec::new();
            integer(&mut out, 1, value);
            assert_eq!(out, expected, "{value}");
        };
        check(0, &[8, 0]);
        check(300, &[8, 0xac, 2]);
        check(-1, &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }
}
