//! Points and lengths of time.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::mismatch;
use crate::meter::Price::Fixed;
use crate::value::{Evaluated, Value};

/// 0001-01-01T00:00:00Z in seconds since 1970.
const FIRST: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z in seconds since 1970.
const LAST: i64 = 253_402_300_799;

/// Whether the language can hold the time.
pub(crate) fn in_range(at: Timestamp) -> bool {
    (FIRST..=LAST).contains(&at.as_second())
}

/// An RFC 3339 time.
pub(crate) fn parse_timestamp(text: &str) -> Result<Timestamp, EvaluationError> {
    let wrong = || EvaluationError::failed(format!("cannot parse {text:?} as a time of RFC 3339"));
    let bytes = text.as_bytes();
    let zoned = text.ends_with('Z') || (bytes.len() > 6 && matches!(bytes[bytes.len() - 6], b'+' | b'-'));
    if bytes.get(10) != Some(&b'T') || !zoned || bytes.get(16) != Some(&b':') {
        return Err(wrong());
    }
    text.parse().ok().filter(|at| in_range(*at)).ok_or_else(wrong)
}

/// An RFC 3339 day: its first moment in UTC.
pub(crate) fn parse_date(text: &str) -> Result<Timestamp, EvaluationError> {
    let wrong = || EvaluationError::failed(format!("cannot parse {text:?} as a date of RFC 3339"));
    let day: jiff::civil::Date = text.parse().map_err(|_| wrong())?;
    let at = day.to_zoned(TimeZone::UTC).map_err(|_| wrong())?.timestamp();
    if in_range(at) { Ok(at) } else { Err(wrong()) }
}

/// The time as RFC 3339 in UTC, with as many digits of seconds as it has.
pub(crate) fn format_timestamp(at: Timestamp) -> String {
    at.to_string()
}

/// A length of time such as `1h30m` or `-1.5s`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, EvaluationError> {
    read_duration(text).ok_or_else(|| EvaluationError::failed(format!("time: invalid duration {text:?}")))
}

fn read_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // More than eighteen digits of a fraction are less than a nanosecond of an hour.
        let digits = &fraction[..fraction.len().min(18)];
        let part: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let scale = 10i128.pow(u32::try_from(digits.len()).ok()?);
        total = total.checked_add(whole * unit + part * unit / scale)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The length of time in seconds: `5400s`, `1.5s`.
pub(crate) fn format_duration(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let fraction = format!("{:09}", magnitude % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}s", magnitude / 1_000_000_000)
}

fn zone(name: &str) -> Result<TimeZone, EvaluationError> {
    let unknown = || EvaluationError::failed(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return if matches!(name, "" | "UTC") { Ok(TimeZone::UTC) } else { TimeZone::get(name).map_err(|_| unknown()) };
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['-', '+']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = (hours * 60 + minutes) * 60;
    let offset = Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
    Ok(offset.to_time_zone())
}

/// A part of a time in a zone, or of a length of time.
fn part<'a>(arguments: &Arguments<'_, 'a>, of_time: fn(&Zoned) -> i64, unit: Option<i64>) -> Evaluated<'a> {
    let (at, zone) = match arguments.values {
        [Value::Duration(nanos)] => return unit.map_or_else(mismatch, |unit| Ok(Value::Int(nanos / unit))),
        [Value::Timestamp(at)] => (at, TimeZone::UTC),
        [Value::Timestamp(at), Value::String(name)] => (at, zone(name)?),
        _ => return mismatch(),
    };
    Ok(Value::Int(of_time(&at.to_zoned(zone))))
}

fn year<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.year().into(), None)
}

fn month<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| i64::from(at.month()) - 1, None)
}

fn day_of_year<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| i64::from(at.day_of_year()) - 1, None)
}

fn day_of_month<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| i64::from(at.day()) - 1, None)
}

fn date<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.day().into(), None)
}

fn day_of_week<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.weekday().to_sunday_zero_offset().into(), None)
}

fn hours<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.hour().into(), Some(3_600_000_000_000))
}

fn minutes<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.minute().into(), Some(60_000_000_000))
}

fn seconds<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.second().into(), Some(1_000_000_000))
}

fn milliseconds<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |at| at.millisecond().into(), Some(1_000_000))
}

macro_rules! of_time {
    ($($more:literal),*) => {
        &[("timestamp.() int", Fixed(1)), ("timestamp.(string) int", Fixed(1)) $(, ($more, Fixed(1)))*]
    };
}

pub(crate) const FUNCTIONS: Rows = &[
    ("getFullYear", year, of_time!()),
    ("getMonth", month, of_time!()),
    ("getDayOfYear", day_of_year, of_time!()),
    ("getDayOfMonth", day_of_month, of_time!()),
    ("getDate", date, of_time!()),
    ("getDayOfWeek", day_of_week, of_time!()),
    ("getHours", hours, of_time!("duration.() int")),
    ("getMinutes", minutes, of_time!("duration.() int")),
    ("getSeconds", seconds, of_time!("duration.() int")),
    ("getMilliseconds", milliseconds, of_time!("duration.() int")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(read_duration(text).map(format_duration).as_deref(), expected, "{text}");
        };
        check("1h30m", Some("5400s"));
        check("-1.5s", Some("-1.5s"));
        check("100ms", Some("0.1s"));
        check("0", Some("0s"));
        check("1", None);
        check("", None);
        check("s", None);
        check(".s", None);
        check("1d", None);
        check("9223372036854775807ns", Some("9223372036.854775807s"));
        check("9223372036854775808ns", None);
    }

    #[test]
    fn timestamps() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse_timestamp(text).ok().map(format_timestamp).as_deref(), expected, "{text}");
        };
        check("2020-01-02T03:04:05Z", Some("2020-01-02T03:04:05Z"));
        check("2020-01-02T03:04:05.5+01:00", Some("2020-01-02T02:04:05.5Z"));
        check("2020-01-02 03:04:05Z", None);
        check("2020-01-02", None);
        check("-000001-01-02T03:04:05Z", None);
    }
}
