//! Schedules of cron jobs: what is wrong with a text that should be one.
//!
//! Source: `ParseStandard` of `github.com/robfig/cron/v3`, which upstream reads schedules with, and whose words a client sees.

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// There is nothing.
    #[error("empty spec string")]
    Empty,
    /// The time zone in front is none.
    #[error("provided bad location {0}: unknown time zone {0}")]
    Location(String),
    /// `@…` is none of the words that there are.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// `@every` is not followed by a length of time.
    #[error("failed to parse duration {descriptor}: time: invalid duration {duration:?}")]
    Duration {
        /// The whole text.
        descriptor: String,
        /// What should be a length of time.
        duration: String,
    },
    /// There are not five fields.
    #[error("expected exactly 5 fields, found {count}: [{fields}]")]
    Fields {
        /// How many there are.
        count: usize,
        /// Which.
        fields: String,
    },
    /// A range with more than two ends.
    #[error("too many hyphens: {0}")]
    Hyphens(String),
    /// A range with more than one step.
    #[error("too many slashes: {0}")]
    Slashes(String),
    /// What should be a number is none.
    #[error("failed to parse int from {0}: strconv.Atoi: parsing {0:?}: invalid syntax")]
    Number(String),
    /// A number below zero.
    #[error("negative number ({number}) not allowed: {text}")]
    Negative {
        /// The number.
        number: i64,
        /// How it is written.
        text: String,
    },
    /// A range that begins too early.
    #[error("beginning of range ({start}) below minimum ({minimum}): {expression}")]
    BelowMinimum {
        /// Where it begins.
        start: u64,
        /// Where it may begin.
        minimum: u64,
        /// The whole range.
        expression: String,
    },
    /// A range that ends too late.
    #[error("end of range ({end}) above maximum ({maximum}): {expression}")]
    AboveMaximum {
        /// Where it ends.
        end: u64,
        /// Where it may end.
        maximum: u64,
        /// The whole range.
        expression: String,
    },
    /// A range that ends before it begins.
    #[error("beginning of range ({start}) beyond end of range ({end}): {expression}")]
    Backwards {
        /// Where it begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// The whole range.
        expression: String,
    },
    /// A step of zero.
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// What one field may hold.
struct Bounds {
    minimum: u64,
    maximum: u64,
    /// Names for numbers, the first for the minimum.
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { minimum: 0, maximum: 59, names: &[] },
    Bounds { minimum: 0, maximum: 23, names: &[] },
    Bounds { minimum: 1, maximum: 31, names: &[] },
    Bounds {
        minimum: 1,
        maximum: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Bounds { minimum: 0, maximum: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// Says what is wrong with a schedule.
pub(crate) fn check(schedule: &str) -> Result<(), ScheduleError> {
    if schedule.is_empty() {
        return Err(ScheduleError::Empty);
    }
    let mut rest = schedule;
    if let Some(zone) = rest.strip_prefix("TZ=").or_else(|| rest.strip_prefix("CRON_TZ=")) {
        let (zone, after) = zone.split_once(' ').unwrap_or((zone, ""));
        if !zone.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
            return Err(ScheduleError::Location(zone.to_owned()));
        }
        rest = after.trim();
    }
    if rest.starts_with('@') {
        return descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(ScheduleError::Fields { count: fields.len(), fields: fields.join(" ") });
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        field.split(',').filter(|part| !part.is_empty()).try_for_each(|part| range(part, bounds))?;
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), ScheduleError> {
    if matches!(text, "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly") {
        return Ok(());
    }
    let Some(duration) = text.strip_prefix("@every ") else { return Err(ScheduleError::Descriptor(text.to_owned())) };
    if is_duration(duration) {
        return Ok(());
    }
    Err(ScheduleError::Duration { descriptor: text.to_owned(), duration: duration.to_owned() })
}

/// A length of time as Go writes it: `1h30m`, `-1.5s`, `0`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if !digits.bytes().any(|b| b.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        if !matches!(unit, "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = after;
    }
    true
}

fn range(expression: &str, bounds: &Bounds) -> Result<(), ScheduleError> {
    let slashes: Vec<&str> = expression.split('/').collect();
    let ends: Vec<&str> = slashes[0].split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        // Whatever follows a star is not looked at.
        ["*" | "?", ..] => (bounds.minimum, bounds.maximum),
        [only] => {
            let number = number_or_name(only, bounds)?;
            (number, number)
        }
        [first, last] => (number_or_name(first, bounds)?, number_or_name(last, bounds)?),
        _ => return Err(ScheduleError::Hyphens(expression.to_owned())),
    };
    let step = match slashes.as_slice() {
        [_] => 1,
        [_, step] => {
            if ends.len() == 1 {
                end = bounds.maximum;
            }
            number(step)?
        }
        _ => return Err(ScheduleError::Slashes(expression.to_owned())),
    };
    let expression = || expression.to_owned();
    if start < bounds.minimum {
        return Err(ScheduleError::BelowMinimum { start, minimum: bounds.minimum, expression: expression() });
    }
    if end > bounds.maximum {
        return Err(ScheduleError::AboveMaximum { end, maximum: bounds.maximum, expression: expression() });
    }
    if start > end {
        return Err(ScheduleError::Backwards { start, end, expression: expression() });
    }
    if step == 0 {
        return Err(ScheduleError::Step(expression()));
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let lower = text.to_ascii_lowercase();
    match (bounds.minimum..).zip(bounds.names).find(|(_, name)| **name == lower) {
        Some((number, _)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, ScheduleError> {
    let number: i64 = text.parse().map_err(|_| ScheduleError::Number(text.to_owned()))?;
    u64::try_from(number).map_err(|_| ScheduleError::Negative { number, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_as_upstream() {
        let check = |schedule: &str, expected: &str| {
            let found = super::check(schedule).map_or_else(|error| error.to_string(), |()| String::new());
            assert_eq!(found, expected, "{schedule:?}");
        };
        for good in [
            "* * * * *",
            "*/5 0-12/2 1,15 jan-DEC mon-fri",
            "? 1/2 * * *",
            "@hourly",
            "@every 1h30m",
            "@every 1.5s",
            "TZ=UTC 0 0 * * *",
        ] {
            check(good, "");
        }
        check("", "empty spec string");
        check("* * * *", "expected exactly 5 fields, found 4: [* * * *]");
        check("60 * * * *", "end of range (60) above maximum (59): 60");
        check("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        check("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
        check("*/0 * * * *", "step of range should be a positive number: */0");
        check("1-2-3 * * * *", "too many hyphens: 1-2-3");
        check("1/2/3 * * * *", "too many slashes: 1/2/3");
        check("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax");
        check("@sometimes", "unrecognized descriptor: @sometimes");
        check("@every x", "failed to parse duration @every x: time: invalid duration \"x\"");
        check("TZ=Nowhere/Land * * * * *", "provided bad location Nowhere/Land: unknown time zone Nowhere/Land");
    }
}
