//! Durations as Go writes them (`time.ParseDuration`), which is how Kubernetes writes them: `1h30m`, `1.5s`, `250ms`.

use std::time::Duration;

const UNITS: [(&str, u64); 6] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// A duration that is not negative; nothing where the text is none.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').filter(|end| *end > 0)?;
        let (number, behind) = rest.split_at(end);
        let (unit, nanoseconds) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty()) || part.contains('.') {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        let mut scale = *nanoseconds;
        let mut fraction = 0;
        for digit in part.bytes() {
            scale /= 10;
            fraction += u64::from(digit - b'0') * scale;
        }
        total = total.checked_add(whole.checked_mul(*nanoseconds)?)?.checked_add(fraction)?;
        rest = &behind[unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
        };
        check("5s", Some(5_000));
        check("1h30m", Some(5_400_000));
        check("1500ms", Some(1_500));
        check("1.5s", Some(1_500));
        check(".5s", Some(500));
        check("0", Some(0));
        for wrong in ["", "5", "m", "-5s", "99999999999999999999h", "1..5s", ".s", "5x"] {
            check(wrong, None);
        }
    }
}
