//! The header `traceparent` of W3C's trace context: `00-<trace>-<span>-<flags>`, all in hexadecimal digits.

use std::fmt;

/// The span above, in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// Whether the one above is sent to a collector, and those below are to be too.
    pub(super) sampled: bool,
}

/// Digits as bytes; capital ones are not allowed.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut found = [0u8; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in found.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(found)
}

impl Parent {
    /// Reads a header. Later versions may add parts, which are not looked at.
    pub(super) fn parse(header: &[u8]) -> Option<Parent> {
        let mut parts = header.split(|byte| *byte == b'-');
        let [version] = bytes(parts.next()?)?;
        let (trace, span) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
        let [flags]: [u8; 1] = bytes(parts.next()?)?;
        let known = version != 0xff && (version != 0 || parts.next().is_none());
        (known && trace != [0; 16] && span != [0; 8]).then_some(Parent { trace, span, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        write!(formatter, "-{:02x}", u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::parse(text.as_bytes()).expect("it is good");
        assert_eq!((parent.trace[0], parent.span[7], parent.sampled), (0x4b, 0xb7, true));
        assert_eq!(parent.to_string(), text);
        let check = |text: &str, expected: Option<bool>| {
            assert_eq!(Parent::parse(text.as_bytes()).map(|parent| parent.sampled), expected, "{text}");
        };
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false));
        check("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", Some(true));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None);
        check("00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        check("00-4bf9-00f067aa0ba902b7-01", None);
        check("", None);
    }
}
