//! Resource quantities: `100m`, `1.5Gi`, `2e3`.
//!
//! A quantity is a whole number of billionths, which is as fine as upstream's, with the family of suffixes it was
//! written in. Its text is canonical: no fraction, the greatest suffix that loses nothing.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Upstream caps values at the greatest signed number of 64 bits.
const CAP: i128 = (i64::MAX as i128) * NANO;

/// The family of suffixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `m`, none, `k`, `M`.
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`.
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is not of the form of one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Its suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// A whole amount.
    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    /// An amount in thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// The whole amount, rounded away from zero.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// The amount in thousandths, rounded away from zero.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(self, unit: i128) -> i64 {
        let whole = divide_away(self.nanos, unit);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// The amount as a floating-point number.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether nothing is there.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The family of suffixes in which it is written.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether the amount is a whole number.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }
}

/// Division that rounds away from zero, as upstream rounds quantities.
fn divide_away(nanos: i128, unit: i128) -> i128 {
    let whole = nanos / unit;
    match nanos % unit {
        0 => whole,
        rest if rest > 0 => whole + 1,
        _ => whole - 1,
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-CAP, CAP), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos - other.nanos).clamp(-CAP, CAP), format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// What a suffix stands for: a family, a base and its power.
fn suffix(text: &str) -> Option<(Format, i128, i32)> {
    Some(match text {
        "n" => (Format::DecimalSi, 10, -9),
        "u" => (Format::DecimalSi, 10, -6),
        "m" => (Format::DecimalSi, 10, -3),
        "" => (Format::DecimalSi, 10, 0),
        "k" => (Format::DecimalSi, 10, 3),
        "M" => (Format::DecimalSi, 10, 6),
        "G" => (Format::DecimalSi, 10, 9),
        "T" => (Format::DecimalSi, 10, 12),
        "P" => (Format::DecimalSi, 10, 15),
        "E" => (Format::DecimalSi, 10, 18),
        "Ki" => (Format::BinarySi, 1024, 1),
        "Mi" => (Format::BinarySi, 1024, 2),
        "Gi" => (Format::BinarySi, 1024, 3),
        "Ti" => (Format::BinarySi, 1024, 4),
        "Pi" => (Format::BinarySi, 1024, 5),
        "Ei" => (Format::BinarySi, 1024, 6),
        _ => {
            let exponent: i32 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
            (Format::DecimalExponent, 10, exponent)
        }
    })
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, rest) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        let known = |c: char| "eEinumkKMGTP".contains(c);
        let tail = rest.trim_start_matches(known);
        let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        let (format, base, power) = suffix(rest).ok_or(QuantityError::Suffix)?;

        // The digits without their point are an integer that counts units of 10^-fraction.
        let digits = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let mut exponent = 9 - i32::try_from(fraction.len()).unwrap_or(i32::MAX / 2);
        let mut nanos: i128 = 0;
        let mut inexact = false;
        let mut overflow = false;
        for digit in digits.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0')) {
            match nanos.checked_mul(10).and_then(|n| n.checked_add(digit)) {
                Some(next) if !inexact && !overflow => nanos = next,
                // 38 digits hold every value below the cap to the billionth: what comes after only rounds.
                _ => {
                    overflow = true;
                    exponent += 1;
                    inexact |= digit != 0;
                }
            }
        }
        if base == 1024 {
            let factor = 1024_i128.pow(u32::try_from(power).unwrap_or(0));
            nanos = nanos.saturating_mul(factor);
        } else {
            exponent = exponent.saturating_add(power);
        }
        while exponent > 0 && nanos != 0 && nanos < CAP {
            nanos = nanos.saturating_mul(10);
            exponent -= 1;
        }
        while exponent < 0 && nanos != 0 {
            inexact |= nanos % 10 != 0;
            nanos /= 10;
            exponent += 1;
            if nanos == 0 {
                break;
            }
        }
        if inexact {
            nanos = nanos.saturating_add(1);
        }
        nanos = nanos.min(CAP);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small {
            let mut value = divide_away(self.nanos, NANO);
            let mut power = 0;
            while power < 6 && value % 1024 == 0 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut value = self.nanos;
        let mut power = 0_usize;
        while power < 9 && value % 1000 == 0 {
            value /= 1000;
            power += 1;
        }
        if self.format == Format::DecimalExponent {
            return match power {
                3 => write!(f, "{value}"),
                _ => write!(f, "{value}e{}", (i32::try_from(power).unwrap_or(0) - 3) * 3),
            };
        }
        write!(f, "{value}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power])
    }
}

/// The canonical text of a quantity.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    text.parse::<Quantity>().map(|quantity| quantity.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_text() {
        let check = |text: &str, expected: &str| {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        };
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-5m", "-5m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("100000", "100k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1Mi", "104858"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1500e-3", "1500e-3"),
            ("12e0", "12"),
            ("0.1n", "1n"),
            ("1u", "1u"),
            ("9223372036854775807", "9223372036854775807"),
            ("9999999999999999999", "9223372036854775807"),
            ("1Ei", "1Ei"),
            ("100Ei", "9223372036854775807"),
            ("123456789012345678901234567890123456789012345678901234567890", "9223372036854775807"),
            ("0.000000000000000000000000000000000000000000000000000001", "1n"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn refuses() {
        for text in ["", "a", "1 ", "1.1.1", "1x", "--1", "m", ".", "1Ki1x"] {
            assert_eq!(canonical(text), Err(QuantityError::Format), "{text}");
        }
        for text in ["1mm", "1ki", "1K", "1e", "1Mi2"] {
            assert_eq!(canonical(text), Err(QuantityError::Suffix), "{text}");
        }
    }

    #[test]
    fn compares_and_counts() {
        let read = |text: &str| text.parse::<Quantity>().expect("a quantity");
        assert!(read("1Gi") > read("1G") && read("1000m") == read("1"));
        assert_eq!((read("1500m").value(), read("1500m").milli_value(), read("0.5m").milli_value()), (2, 1500, 1));
        assert_eq!((read("1Gi") + read("1Mi")).to_string(), "1025Mi");
        assert_eq!((read("1") - read("250m")).to_string(), "750m");
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(number in 0_i64..i64::MAX, suffix in prop::sample::select(vec!["", "m", "k", "Ki", "Mi"])) {
            let quantity: Quantity = format!("{number}{suffix}").parse().expect("a quantity");
            let again: Quantity = quantity.to_string().parse().expect("canonical text is a quantity");
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn no_text_panics(text in "[+-]?[0-9.]{0,50}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,12}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert!(!quantity.to_string().is_empty());
            }
        }
    }
}
