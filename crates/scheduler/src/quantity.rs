//! Reading resource quantities (`100m`, `1.5Gi`, `2e3`) as whole numbers.
//!
//! Upstream: <https://github.com/kubernetes/apimachinery/blob/master/pkg/api/resource/quantity.go>.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The unit amounts are kept in while they are read: a nano is the smallest suffix there is.
const NANO: i128 = 1_000_000_000;

/// A quantity in billionths, or `None` when the text is no quantity.
fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let number_end =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut mantissa: i128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit.to_digit(10)?))?;
    }
    let (scale, decimal_exponent): (i128, i32) = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let exponent = decimal_exponent.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let mut amount = mantissa.checked_mul(scale)?;
    if exponent >= 0 {
        amount = amount.checked_mul(10_i128.checked_pow(exponent.unsigned_abs())?)?;
    } else {
        // Upstream rounds away from zero what is finer than it can keep.
        let divisor = 10_i128.checked_pow(exponent.unsigned_abs())?;
        amount = amount.checked_add(divisor - 1)? / divisor;
    }
    Some(if negative { -amount } else { amount })
}

fn divide_up(amount: i128, divisor: i128) -> i64 {
    let quotient = if amount > 0 { (amount + divisor - 1) / divisor } else { amount / divisor };
    i64::try_from(quotient).unwrap_or(if quotient > 0 { i64::MAX } else { i64::MIN })
}

/// The quantity in thousandths, rounded up; text that is no quantity counts as nothing, since the API server lets none in.
pub fn milli_value(quantity: &Quantity) -> i64 {
    divide_up(nanos(&quantity.0).unwrap_or(0), NANO / 1000)
}

/// The quantity in whole units, rounded up.
pub fn value(quantity: &Quantity) -> i64 {
    divide_up(nanos(&quantity.0).unwrap_or(0), NANO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let check = |text: &str, whole: i64, milli: i64| {
            let quantity = Quantity(text.to_owned());
            assert_eq!((value(&quantity), milli_value(&quantity)), (whole, milli), "{text}");
        };
        check("1", 1, 1000);
        check("100m", 1, 100);
        check("0.5", 1, 500);
        check("1.5Gi", 1_610_612_736, 1_610_612_736_000);
        check("2e3", 2000, 2_000_000);
        check("1E", 1_000_000_000_000_000_000, i64::MAX);
        check("12E2", 1200, 1_200_000);
        check("128Mi", 134_217_728, 134_217_728_000);
        check("-1", -1, -1000);
        check("1n", 1, 1);
        check("nonsense", 0, 0);
        check("", 0, 0);
    }
}
