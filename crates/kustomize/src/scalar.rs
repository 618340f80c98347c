//! What a plain text stands for, in the rules of Go's YAML libraries.
//!
//! Objects are read by the rules of its version 3 (YAML 1.2 with leftovers), kustomizations and configurations by those of
//! its version 2, for which `yes` and `on` are truth values.

use base64::Engine;

/// Which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Version 3: objects and patches.
    Core,
    /// Version 2: kustomizations, configurations of transformers, and what must be quoted on the way out.
    Yaml11,
}

/// What a scalar stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// Null.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond `i64`.
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// The text itself.
    Str,
    /// Another text than what was written: base64 decoded.
    Text(String),
    /// A time, in the form of RFC 3339.
    Timestamp(String),
    /// The merge key.
    Merge,
}

/// What a plain text stands for.
pub fn resolve(text: &str, dialect: Dialect) -> Resolved {
    let Some(first) = text.bytes().next() else { return Resolved::Null };
    match first {
        b'~' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'y' | b'Y' | b'o' | b'O' => word(text, dialect),
        b'<' if text == "<<" => Resolved::Merge,
        b'.' => match text {
            ".nan" | ".NaN" | ".NAN" => Resolved::Float(f64::NAN),
            ".inf" | ".Inf" | ".INF" => Resolved::Float(f64::INFINITY),
            _ => text.parse().map_or(Resolved::Str, Resolved::Float),
        },
        b'+' | b'-' | b'0'..=b'9' => number(text),
        _ => Resolved::Str,
    }
}

fn word(text: &str, dialect: Dialect) -> Resolved {
    match text {
        "~" | "null" | "Null" | "NULL" => Resolved::Null,
        "true" | "True" | "TRUE" => Resolved::Bool(true),
        "false" | "False" | "FALSE" => Resolved::Bool(false),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" if dialect == Dialect::Yaml11 => Resolved::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" if dialect == Dialect::Yaml11 => Resolved::Bool(false),
        _ => Resolved::Str,
    }
}

fn number(text: &str) -> Resolved {
    match text {
        "+.inf" | "+.Inf" | "+.INF" => return Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if let Some(time) = timestamp(text) {
        return Resolved::Timestamp(time);
    }
    let joined;
    let plain = if text.contains('_') {
        joined = text.replace('_', "");
        &joined
    } else {
        text
    };
    whole(plain).or_else(|| fraction(plain)).unwrap_or(Resolved::Str)
}

/// A whole number in the notations of Go: decimal, `0x`, `0b`, `0o`, and a leading zero for octal.
fn whole(text: &str) -> Option<Resolved> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A sign after the prefix is none.
    if !digits.bytes().next()?.is_ascii_alphanumeric() {
        return None;
    }
    let value = u64::from_str_radix(digits, base).ok()?;
    if negative {
        let value = -i128::from(value);
        return i64::try_from(value).ok().map(Resolved::Int);
    }
    match i64::try_from(value) {
        Ok(value) => Some(Resolved::Int(value)),
        // Go reads a sign only for numbers that fit.
        Err(_) if text.starts_with('+') => None,
        Err(_) => Some(Resolved::Uint(value)),
    }
}

/// A decimal fraction, with or without an exponent; one that is too great is a text.
fn fraction(text: &str) -> Option<Resolved> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let valid = body.bytes().next().is_some_and(|first| first.is_ascii_digit() || first == b'.')
        && body.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'))
        && body.bytes().any(|byte| byte.is_ascii_digit());
    if !valid {
        return None;
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Resolved::Float)
}

/// A time: a date alone, or with a time of day and a zone, or with a blank between and no zone.
fn timestamp(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || bytes[4] != b'-' || !bytes[..4].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut rest = Digits(&text[5..]);
    let year: u32 = text[..4].parse().ok()?;
    let month = rest.take(1, 2)?;
    rest.expect('-')?;
    let day = rest.take(1, 2)?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > longest {
        return None;
    }
    let date = format!("{year:04}-{month:02}-{day:02}");
    if rest.0.is_empty() {
        return Some(format!("{date}T00:00:00Z"));
    }
    let separator = rest.0.chars().next()?;
    if !matches!(separator, 'T' | 't' | ' ') {
        return None;
    }
    rest.0 = &rest.0[1..];
    let (hour, minute, second) = {
        let hour = rest.take(1, 2)?;
        rest.expect(':')?;
        let minute = rest.take(1, 2)?;
        rest.expect(':')?;
        (hour, minute, rest.take(1, 2)?)
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut part = String::new();
    if rest.0.starts_with(['.', ',']) {
        let digits: String = rest.0[1..].chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() {
            return None;
        }
        rest.0 = &rest.0[1 + digits.len()..];
        let digits = digits.get(..9).unwrap_or(&digits).trim_end_matches('0');
        if !digits.is_empty() {
            part = format!(".{digits}");
        }
    }
    let zone = match (separator, rest.0) {
        (' ', "") => "Z".to_owned(),
        (' ', _) => return None,
        (_, "Z") => "Z".to_owned(),
        (_, zone) => {
            let valid = zone.len() == 6
                && zone.starts_with(['+', '-'])
                && zone.as_bytes()[3] == b':'
                && zone.bytes().enumerate().all(|(at, byte)| at == 0 || at == 3 || byte.is_ascii_digit());
            if !valid {
                return None;
            }
            if &zone[1..] == "00:00" { "Z".to_owned() } else { zone.to_owned() }
        }
    };
    Some(format!("{date}T{hour:02}:{minute:02}:{second:02}{part}{zone}"))
}

struct Digits<'t>(&'t str);

impl Digits<'_> {
    fn take(&mut self, least: usize, most: usize) -> Option<u32> {
        let count = self.0.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if count < least {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        digits.parse().ok()
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.0 = self.0.strip_prefix(wanted)?;
        Some(())
    }
}

/// What `!!binary` stands for.
pub fn binary(text: &str) -> Result<Resolved, String> {
    let joined: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(joined)
        .map_err(|error| format!("!!binary value contains invalid base64 data: {error}"))?;
    Ok(Resolved::Text(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether a text must be quoted so that a reader of YAML 1.1 takes it for a string.
pub fn needs_quotes(text: &str) -> bool {
    resolve(text, Dialect::Yaml11) != Resolved::Str || is_base_60(text)
}

/// Whether YAML 1.1 reads a text alone in a document as something that is no string.
pub fn is_other_in_yaml_1_1(text: &str) -> bool {
    if text.is_empty() || text.contains('\n') {
        return false;
    }
    let trimmed = text.trim_matches(' ');
    match trimmed.as_bytes() {
        [] | [b'#', ..] => true,
        // Whatever else is no plain scalar is a map, a list, or cannot be read.
        [b'[', .., b']'] | [b'{', .., b'}'] => crate::parse::one(text).is_ok_and(|node| node.as_str().is_none()),
        [b'-', b' ', ..] => true,
        [
            b'\'' | b'"' | b'|' | b'>' | b'&' | b'*' | b'!' | b'%' | b'@' | b'`' | b'[' | b'{' | b']' | b'}' | b',',
            ..,
        ] => false,
        _ if trimmed.contains(": ") || trimmed.ends_with(':') => {
            crate::parse::one(text).is_ok_and(|node| node.as_str().is_none())
        }
        // Without a type to aim at, a time stays the text that it is.
        _ => !matches!(resolve(trimmed, Dialect::Yaml11), Resolved::Str | Resolved::Timestamp(_) | Resolved::Merge),
    }
}

/// The numbers to base 60 of YAML 1.1, such as `12:30:45`.
fn is_base_60(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or_default();
    if !first.starts_with(|letter: char| letter.is_ascii_digit())
        || !first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
    {
        return false;
    }
    let mut rest: Vec<&str> = parts.collect();
    let Some(last) = rest.pop() else { return false };
    let last = match last.split_once('.') {
        Some((whole, part)) if part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_') => whole,
        Some(_) => return false,
        None => last,
    };
    rest.into_iter().chain([last]).all(|part| match part.as_bytes() {
        [digit] => digit.is_ascii_digit(),
        [b'0'..=b'5', digit] => digit.is_ascii_digit(),
        _ => false,
    })
}

/// A number that is not whole, as Go writes it in YAML: the shortest digits, an exponent below 1e-4 and from 1e6 on.
///
/// Numbers pass through JSON first, where whole ones below 1e21 lose their point.
pub fn float(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    if value == value.trunc() && value.abs() < 1e21 {
        if value == 0.0 {
            // A negative zero keeps its sign in JSON and is the number 0 after it.
            return Some("0".to_owned());
        }
        // In JSON such a number is written without an exponent, and read again as a whole one where that fits.
        if (-(2f64.powi(63))..2f64.powi(64)).contains(&value) {
            return Some(format!("{value:.0}"));
        }
    }
    Some(shortest(value))
}

/// A finite number as Go writes it: the shortest digits, with an exponent below 1e-4 and from 1e6 on.
pub(crate) fn shortest(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts() {
        let check = |text: &str, core: Resolved, yaml11: Resolved| {
            assert_eq!(resolve(text, Dialect::Core), core, "{text}");
            assert_eq!(resolve(text, Dialect::Yaml11), yaml11, "{text}");
        };
        let both = |text: &str, value: Resolved| check(text, value.clone(), value);
        both("", Resolved::Null);
        both("~", Resolved::Null);
        both("true", Resolved::Bool(true));
        check("yes", Resolved::Str, Resolved::Bool(true));
        check("n", Resolved::Str, Resolved::Bool(false));
        both("0644", Resolved::Int(420));
        both("0o17", Resolved::Int(15));
        both("0x1F", Resolved::Int(31));
        both("-0b11", Resolved::Int(-3));
        both("1_000", Resolved::Int(1000));
        both("089", Resolved::Float(89.0));
        both("18446744073709551615", Resolved::Uint(u64::MAX));
        both("-9223372036854775808", Resolved::Int(i64::MIN));
        both("1e3", Resolved::Float(1000.0));
        both(".5", Resolved::Float(0.5));
        both("1.", Resolved::Float(1.0));
        both("1.2.3", Resolved::Str);
        both("1e400", Resolved::Str);
        both("-", Resolved::Str);
        both("--1", Resolved::Str);
        both("0x", Resolved::Str);
        both("0-1", Resolved::Str);
        both("2001-01-01", Resolved::Timestamp("2001-01-01T00:00:00Z".into()));
        both("2001-2-3 4:5:6.70", Resolved::Timestamp("2001-02-03T04:05:06.7Z".into()));
        both("2001-02-03T04:05:06+01:00", Resolved::Timestamp("2001-02-03T04:05:06+01:00".into()));
        both("2001-02-30", Resolved::Str);
        both("2001-02-03T04:05:06", Resolved::Str);
    }

    #[test]
    fn quotes() {
        for (text, quotes) in
            [("12:30:45", true), ("1:60", false), ("on", true), ("a", false), ("10.0.0.1", false), ("0x1", true)]
        {
            assert_eq!(needs_quotes(text), quotes, "{text}");
        }
    }

    #[test]
    fn floats() {
        for (value, text) in [
            (0.5, "0.5"),
            (1234567.5, "1.2345675e+06"),
            (123456.5, "123456.5"),
            (0.00001, "1e-05"),
            (1e21, "1e+21"),
            (1000.0, "1000"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(float(value).as_deref(), Some(text));
        }
        assert_eq!(float(f64::NAN), None);
    }
}
