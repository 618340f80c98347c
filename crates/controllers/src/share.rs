//! Counts that are given as numbers or as percentages of something.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number itself, or that many percent of `total`; nothing is 0.
pub fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let share = if round_up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let check = |value: &str, total: i32, up: bool, expected: i32| {
            let value = value.parse().map_or_else(|_| IntOrString::String(value.to_owned()), IntOrString::Int);
            assert_eq!(resolve(Some(&value), total, up), expected, "{value:?} of {total}");
        };
        check("3", 10, true, 3);
        check("25%", 10, true, 3);
        check("25%", 10, false, 2);
        check("100%", 7, false, 7);
        check("0%", 7, true, 0);
        assert_eq!(resolve(None, 7, true), 0);
    }
}
