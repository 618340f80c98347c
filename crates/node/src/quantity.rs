//! Reads resource quantities (`100m`, `1.5Gi`, `1e3`) as far as a node needs them: whole units and thousandths.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// A parsed quantity in billionths of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Amount(i128);

impl Amount {
    /// Reads the text of a quantity; `None` when it isn't one.
    pub fn parse(text: &str) -> Option<Amount> {
        let text = text.trim();
        let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (negative, number) = match number.as_bytes().first()? {
            b'-' => (true, &number[1..]),
            b'+' => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.contains(['+', '-']) {
            return None;
        }
        let (multiplier, divisor) = factor(suffix)?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut nanos = whole.checked_mul(NANO)?.checked_mul(multiplier)?;
        let mut place: i128 = 10;
        for digit in fraction.chars().take(18) {
            let digit = i128::from(digit.to_digit(10)?);
            nanos = nanos.checked_add(digit.checked_mul(NANO)?.checked_mul(multiplier)? / place)?;
            place *= 10;
        }
        let nanos = nanos / divisor;
        Some(Amount(if negative { -nanos } else { nanos }))
    }

    /// The amount of an API quantity; zero when its text can't be read (the API server has validated it).
    pub fn of(quantity: &Quantity) -> Amount {
        Amount::parse(&quantity.0).unwrap_or_default()
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        clamp(div_ceil(self.0, NANO))
    }

    /// Thousandths of a unit, rounded up.
    pub fn milli(self) -> i64 {
        clamp(div_ceil(self.0, NANO / 1000))
    }

    /// Adds, staying at the limits.
    pub fn plus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }

    /// Whether the amount is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

fn factor(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1_000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let exponent: i32 = digits.parse().ok()?;
            match exponent {
                0..=18 => (10_i128.pow(exponent.unsigned_abs()), 1),
                -18..=-1 => (1, 10_i128.pow(exponent.unsigned_abs())),
                _ => return None,
            }
        }
    })
}

fn div_ceil(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b > 0 { quotient + 1 } else { quotient }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::Amount;

    #[test]
    fn reads_quantities() {
        let check = |text: &str, value: i64, milli: i64| {
            let amount = Amount::parse(text).unwrap_or_else(|| panic!("{text} was not read"));
            assert_eq!((amount.value(), amount.milli()), (value, milli), "{text}");
        };
        check("1", 1, 1000);
        check("100m", 1, 100);
        check("1.5", 2, 1500);
        check("0.5", 1, 500);
        check("1Gi", 1 << 30, 1000 << 30);
        check("1.5Ki", 1536, 1_536_000);
        check("64Mi", 64 << 20, 1000 * (64 << 20));
        check("1e3", 1000, 1_000_000);
        check("2k", 2000, 2_000_000);
        check("-1", -1, -1000);
        check("100u", 1, 1);
        check("5E", 5_000_000_000_000_000_000, i64::MAX);
        for wrong in ["", "x", "1x", "1 Gi", ".", "--1"] {
            assert_eq!(Amount::parse(wrong), None, "{wrong}");
        }
    }
}
