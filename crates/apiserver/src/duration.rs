//! Lengths of time as Go writes them: `1h30m`, `90s`, `1.5s`, `250ms`.

use std::time::Duration;

/// Reads a length of time in Go's form. Negative ones and such without a unit are none; a lone `0` is zero.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end =
            tail.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let nanoseconds: u64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" | "μs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        whole = whole.checked_add(part(number, nanoseconds)?)?;
        rest = next;
    }
    Some(whole)
}

/// A decimal number of a unit.
fn part(number: &str, nanoseconds: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = u128::from(whole) * u128::from(nanoseconds);
    // What follows the eighteenth digit is less than a nanosecond of any unit.
    let digits = &fraction[..fraction.len().min(18)];
    if !digits.is_empty() {
        let scale = 10u128.pow(u32::try_from(digits.len()).ok()?);
        total += u128::from(digits.parse::<u64>().ok()?) * u128::from(nanoseconds) / scale;
    }
    Some(Duration::from_nanos(u64::try_from(total).ok()?))
}

/// Writes a length of time in Go's form, whole milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, amount) in [("h", seconds / 3600), ("m", seconds / 60 % 60), ("s", seconds % 60)] {
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    let milliseconds = duration.subsec_millis();
    if milliseconds > 0 {
        text.push_str(&format!("{milliseconds}ms"));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_duration(text), expected.map(Duration::from_micros), "{text}");
        };
        check("8760h", Some(8760 * 3_600_000_000));
        check("8760h0m0s", Some(8760 * 3_600_000_000));
        check("1h30m", Some(5_400_000_000));
        check("1.5s", Some(1_500_000));
        check(".5s", Some(500_000));
        check("250ms", Some(250_000));
        check("3us", Some(3));
        check("0", Some(0));
        for text in ["", "5", "h", "1d", "-1s", "1..5s", ".s", "99999999999999999999h", "18446744073709551615h", "1s "]
        {
            check(text, None);
        }
        assert_eq!(format_duration(Duration::from_millis(5_401_250)), "1h30m1s250ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[0-9.hmsuµn -]{0,24}") {
            if let Some(duration) = parse_duration(&text) {
                let whole = Duration::from_millis(duration.as_millis() as u64);
                prop_assert_eq!(parse_duration(&format_duration(whole)), Some(whole));
            }
        }
    }
}
