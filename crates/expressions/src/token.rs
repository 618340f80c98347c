//! Source text to tokens.

/// The sort of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Identifier,
    /// An identifier in back quotes.
    Escaped,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    True,
    False,
    Null,
    In,
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub token: Token,
    pub start: u32,
    pub end: u32,
}

/// Longer signs before those that begin them.
const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%",
];

/// The tokens of a source, ended by [`Token::End`], and what is no token at all.
pub(crate) fn tokens(source: &str) -> (Vec<Spot>, Vec<(u32, String)>) {
    let bytes = source.as_bytes();
    let mut spots = Vec::new();
    let mut errors = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\t' | b' ' | b'\r' | b'\n' | 0x0c => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = source[at..].find('\n').map_or(bytes.len(), |end| at + end);
                continue;
            }
            _ => {}
        }
        let token = match text(bytes, at) {
            Some(Ok((token, end))) => {
                at = end;
                token
            }
            Some(Err(end)) => {
                let end = source.floor_char_boundary(end);
                errors.push((offset(start), format!("token recognition error at: '{}'", &source[start..end])));
                at = end.max(start + 1);
                continue;
            }
            None => match plain(source, at) {
                Some((token, end)) => {
                    at = end;
                    token
                }
                None => {
                    let length = source[at..].chars().next().map_or(1, char::len_utf8);
                    let wrong = &source[at..at + length];
                    errors.push((offset(start), format!("token recognition error at: '{wrong}'")));
                    at += length;
                    continue;
                }
            },
        };
        spots.push(Spot { token, start: offset(start), end: offset(at) });
    }
    let end = offset(bytes.len());
    spots.push(Spot { token: Token::End, start: end, end });
    (spots, errors)
}

/// Sources are shorter than four gigabytes: [`crate::parse`] checks.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A string or bytes at `at`: where it ends, or where it goes wrong.
fn text(bytes: &[u8], at: usize) -> Option<Result<(Token, usize), usize>> {
    let mut open = at;
    let mut token = Token::String;
    let mut raw = false;
    if matches!(bytes[open], b'b' | b'B') {
        token = Token::Bytes;
        open += 1;
    }
    if matches!(bytes.get(open), Some(b'r' | b'R')) {
        raw = true;
        open += 1;
    }
    let quote = *bytes.get(open).filter(|quote| matches!(quote, b'"' | b'\''))?;
    let triple = bytes[open..].starts_with(&[quote; 3]);
    let mut inside = if triple { open + 3 } else { open + 1 };
    loop {
        match bytes.get(inside) {
            None => return Some(Err(inside)),
            Some(b'\\') if !raw => inside += 2,
            Some(b'\n' | b'\r') if !triple => return Some(Err(inside)),
            Some(found) if *found == quote => {
                if !triple {
                    return Some(Ok((token, inside + 1)));
                }
                if bytes[inside..].starts_with(&[quote; 3]) {
                    return Some(Ok((token, inside + 3)));
                }
                inside += 1;
            }
            Some(_) => inside += 1,
        }
        if inside > bytes.len() {
            return Some(Err(bytes.len()));
        }
    }
}

fn plain(source: &str, at: usize) -> Option<(Token, usize)> {
    let bytes = source.as_bytes();
    let run =
        |from: usize, accepts: fn(&u8) -> bool| from + bytes[from..].iter().take_while(|byte| accepts(byte)).count();
    let first = bytes[at];
    if first.is_ascii_alphabetic() || first == b'_' {
        let end = run(at, |byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let token = match &source[at..end] {
            "true" => Token::True,
            "false" => Token::False,
            "null" => Token::Null,
            "in" => Token::In,
            _ => Token::Identifier,
        };
        return Some((token, end));
    }
    if first == b'`' {
        let end = run(at + 1, |byte| byte.is_ascii_alphanumeric() || b"_.-/ ".contains(byte));
        return (end > at + 1 && bytes.get(end) == Some(&b'`')).then_some((Token::Escaped, end + 1));
    }
    let digit: fn(&u8) -> bool = u8::is_ascii_digit;
    if first.is_ascii_digit() || (first == b'.' && bytes.get(at + 1).is_some_and(digit)) {
        return Some(number(bytes, at, run));
    }
    let sign = SIGNS.iter().find(|sign| source[at..].starts_with(**sign))?;
    Some((Token::Sign(sign), at + sign.len()))
}

fn number(bytes: &[u8], at: usize, run: impl Fn(usize, fn(&u8) -> bool) -> usize) -> (Token, usize) {
    let unsigned = |end: usize| match bytes.get(end) {
        Some(b'u' | b'U') => (Token::Uint, end + 1),
        _ => (Token::Int, end),
    };
    if bytes[at..].starts_with(b"0x") {
        let end = run(at + 2, u8::is_ascii_hexdigit);
        if end > at + 2 {
            return unsigned(end);
        }
    }
    let whole = run(at, u8::is_ascii_digit);
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = run(end + 1, u8::is_ascii_digit);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let digits = if matches!(bytes.get(end + 1), Some(b'+' | b'-')) { end + 2 } else { end + 1 };
        if bytes.get(digits).is_some_and(u8::is_ascii_digit) {
            end = run(digits, u8::is_ascii_digit);
        }
    }
    if end > whole { (Token::Double, end) } else { unsigned(end) }
}
