//! What literals in a source stand for.

use crate::syntax::Literal;

/// The number of an `Int` token, with the sign before it.
pub(crate) fn int(text: &str, negative: bool) -> Option<Literal> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok().map(Literal::Int)
}

/// The number of a `Uint` token.
pub(crate) fn uint(text: &str) -> Option<Literal> {
    let text = text.trim_end_matches(['u', 'U']);
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    u64::from_str_radix(digits, radix).ok().map(Literal::Uint)
}

/// The number of a `Double` token.
pub(crate) fn double(text: &str, negative: bool) -> Option<Literal> {
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    Some(Literal::Double(if negative { -number } else { number }))
}

/// The text of a `String` token.
pub(crate) fn string(token: &str) -> Result<Literal, &'static str> {
    let bytes = unquote(token, false)?;
    String::from_utf8(bytes).map(|text| Literal::String(text.into())).map_err(|_| "invalid unicode code point")
}

/// The bytes of a `Bytes` token.
pub(crate) fn bytes(token: &str) -> Result<Literal, &'static str> {
    unquote(&token[1..], true).map(|bytes| Literal::Bytes(bytes.into()))
}

const WRONG: &str = "unable to unescape string";
const WRONG_OCTAL: &str = "unable to unescape octal sequence in string";

fn unquote(token: &str, as_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let (raw, token) = match token.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, token),
    };
    let quotes = if token.len() >= 6 && (token.starts_with("'''") || token.starts_with("\"\"\"")) { 3 } else { 1 };
    let inside = token.get(quotes..token.len().saturating_sub(quotes)).ok_or(WRONG)?;
    let inside = inside.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !inside.contains('\\') {
        return Ok(inside.into_bytes());
    }
    let mut text = Vec::with_capacity(inside.len());
    let mut characters = inside.chars();
    let mut buffer = [0; 4];
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let escape = characters.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let mut digits = |count: usize, radix: u32, wrong: &'static str| -> Result<u32, &'static str> {
            (0..count).try_fold(0u32, |number, _| {
                let digit = characters.next().and_then(|digit| digit.to_digit(radix)).ok_or(wrong)?;
                Ok((number << if radix == 16 { 4 } else { 3 }) | digit)
            })
        };
        let code = match escape {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            '\\' | '\'' | '"' | '`' | '?' => u32::from(escape),
            'x' | 'X' => digits(2, 16, WRONG)?,
            'u' if !as_bytes => digits(4, 16, WRONG)?,
            'U' if !as_bytes => digits(8, 16, WRONG)?,
            '0'..='3' => (u32::from(escape) - u32::from('0')) << 6 | digits(2, 8, WRONG_OCTAL)?,
            _ => return Err(WRONG),
        };
        if as_bytes {
            text.push(u8::try_from(code).map_err(|_| WRONG)?);
        } else {
            let character = char::from_u32(code).ok_or("invalid unicode code point")?;
            text.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |token: &str, expected: Result<&str, &str>| {
            let found = string(token);
            assert_eq!(found, expected.map(|text| Literal::String(text.into())), "{token}");
        };
        check(r"'a'", Ok("a"));
        check(r"'\x41\u0042\103\n'", Ok("ABC\n"));
        check(r"r'\d+'", Ok(r"\d+"));
        check("'''a\r\n'b'''", Ok("a\n'b"));
        check(r"'\q'", Err(WRONG));
        check(r"'\08'", Err(WRONG_OCTAL));
        check(r"'\ud800'", Err("invalid unicode code point"));
        assert_eq!(bytes(r"b'\xff\303\277é'"), Ok(Literal::Bytes([0xff, 0xc3, 0xbf, 0xc3, 0xa9].into())));
    }

    #[test]
    fn numbers() {
        assert_eq!(int("9223372036854775808", true), Some(Literal::Int(i64::MIN)));
        assert_eq!(int("9223372036854775808", false), None);
        assert_eq!(int("0xff", true), Some(Literal::Int(-255)));
        assert_eq!(uint("18446744073709551615u"), Some(Literal::Uint(u64::MAX)));
        assert_eq!(double("1e400", false), None);
    }
}
