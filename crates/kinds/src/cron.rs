//! Cron schedules, as CronJobs write them: five fields, or a word such as `@hourly`.
//!
//! The grammar and its complaints are those of upstream's library: <https://github.com/robfig/cron/blob/v3/parser.go>.

use jiff::{SignedDuration, Timestamp, ToSpan, Zoned, civil, tz::TimeZone};

/// How far ahead a time is looked for: `* * 30 2 *` never comes.
const YEARS_AHEAD: i16 = 5;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is to happen, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    times: Times,
    /// The zone that the text itself names, as old CronJobs do.
    zone: Option<TimeZone>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    /// At times of the calendar.
    Calendar(Calendar),
    /// Each time this long has passed.
    Every(SignedDuration),
}

/// The values that each field allows, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, and the day of the week, is `*`: then the other one decides alone.
    any_day: (bool, bool),
}

struct Field {
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const MINUTES: Field = Field { first: 0, last: 59, names: &[] };
const HOURS: Field = Field { first: 0, last: 23, names: &[] };
const DAYS: Field = Field { first: 1, last: 31, names: &[] };
const MONTH_FIELD: Field = Field { first: 1, last: 12, names: &MONTHS };
const WEEKDAY_FIELD: Field = Field { first: 0, last: 6, names: &WEEKDAYS };

impl Field {
    fn value(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.first + u32::try_from(at).unwrap_or(0));
        }
        number(text)
    }

    /// The bits of a field, and whether it is a star.
    fn parse(&self, text: &str) -> Result<(u64, bool), String> {
        let (mut bits, mut star) = (0, false);
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (more, any) = self.range(part)?;
            bits |= more;
            star |= any;
        }
        if bits == 0 { Err(format!("failed to parse int from {text}: empty field")) } else { Ok((bits, star)) }
    }

    fn range(&self, text: &str) -> Result<(u64, bool), String> {
        let mut parts = text.split('/');
        let span = parts.next().unwrap_or_default();
        let step = parts.next();
        if parts.next().is_some() {
            return Err(format!("too many slashes: {text}"));
        }
        let mut ends = span.split('-');
        let begin = ends.next().unwrap_or_default();
        let end = ends.next();
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {text}"));
        }
        let mut star = begin == "*" || begin == "?";
        let (first, mut last) = if star {
            (self.first, self.last)
        } else {
            let first = self.value(begin)?;
            (first, end.map_or(Ok(first), |end| self.value(end))?)
        };
        let mut stride = 1;
        if let Some(step) = step {
            stride = number(step)?;
            // "n/step" means from n to the end of the field.
            if end.is_none() && !star {
                last = self.last;
            }
            star &= stride <= 1;
        }
        if first < self.first {
            return Err(format!("beginning of range ({first}) below minimum ({}): {text}", self.first));
        }
        if last > self.last {
            return Err(format!("end of range ({last}) above maximum ({}): {text}", self.last));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
        }
        if stride == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let stride = usize::try_from(stride).unwrap_or(usize::MAX);
        Ok(((first..=last).step_by(stride).fold(0, |bits, value| bits | 1 << value), star))
    }
}

fn number(text: &str) -> Result<u32, String> {
    let parsed: i64 = text
        .parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    u32::try_from(parsed).map_err(|_| format!("negative number ({parsed}) not allowed: {text}"))
}

impl Schedule {
    /// Reads a schedule; the error is upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let named = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
        let Some(named) = named else { return Ok(Self { times: Times::parse(text)?, zone: None }) };
        let (name, rest) = named.split_once(' ').unwrap_or((named, ""));
        let zone =
            TimeZone::get(name).map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?;
        Ok(Self { times: Times::parse(rest.trim())?, zone: Some(zone) })
    }

    /// The first time after `after`, by the schedule's own zone or else by `zone`; `None` when there is none in the next
    /// years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.times {
            Times::Every(span) => after.checked_add(*span).ok(),
            Times::Calendar(calendar) => calendar.next(after.to_zoned(self.zone.as_ref().unwrap_or(zone).clone())),
        }
    }

    /// The length of time from one to the next, where it is always the same.
    pub fn interval(&self) -> Option<SignedDuration> {
        match self.times {
            Times::Every(span) => Some(span),
            Times::Calendar(_) => None,
        }
    }
}

impl Times {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(word) = text.strip_prefix('@') {
            return match word {
                "yearly" | "annually" => Self::parse("0 0 1 1 *"),
                "monthly" => Self::parse("0 0 1 * *"),
                "weekly" => Self::parse("0 0 * * 0"),
                "daily" | "midnight" => Self::parse("0 0 * * *"),
                "hourly" => Self::parse("0 * * * *"),
                _ => match word.strip_prefix("every ").map(|span| (span, go_duration(span))) {
                    Some((_, Some(span))) => Ok(Self::Every(span)),
                    Some((span, None)) => {
                        Err(format!("failed to parse duration {text}: time: invalid duration {span:?}"))
                    }
                    None => Err(format!("unrecognized descriptor: {text}")),
                },
            };
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        let (days, any_day) = DAYS.parse(day)?;
        let (weekdays, any_weekday) = WEEKDAY_FIELD.parse(weekday)?;
        Ok(Self::Calendar(Calendar {
            minutes: MINUTES.parse(minute)?.0,
            hours: HOURS.parse(hour)?.0,
            days,
            months: MONTH_FIELD.parse(month)?.0,
            weekdays,
            any_day: (any_day, any_weekday),
        }))
    }
}

/// A duration as Go writes it, `1h30m`, whole seconds, at least one.
fn go_duration(text: &str) -> Option<SignedDuration> {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let amount: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(SignedDuration::from_secs(amount.checked_mul(seconds)?))?;
        rest = &rest[unit..];
    }
    Some(total.max(SignedDuration::from_secs(1)))
}

impl Calendar {
    fn day_fits(&self, date: civil::Date) -> bool {
        let day = self.days & 1 << date.day() != 0;
        let weekday = self.weekdays & 1 << date.weekday().to_sunday_zero_offset() != 0;
        if self.any_day.0 || self.any_day.1 { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Zoned) -> Option<Timestamp> {
        let last_year = after.year().saturating_add(YEARS_AHEAD);
        let start = |date: civil::Date| after.time_zone().to_zoned(date.at(0, 0, 0, 0)).ok();
        let minute = |at: &Zoned| at.with().second(0).subsec_nanosecond(0).build().ok();
        let mut at = minute(&after)?.checked_add(1.minute()).ok()?;
        loop {
            if at.year() > last_year {
                return None;
            }
            let date = at.date();
            let next = if self.months & 1 << date.month() == 0 {
                start(date.first_of_month().checked_add(1.month()).ok()?)?
            } else if !self.day_fits(date) {
                start(date.tomorrow().ok()?)?
            } else if self.hours & 1 << at.hour() == 0 {
                // By the clock on the wall an hour may be missing or come twice; what passes is always one.
                at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?
            } else if self.minutes & 1 << at.minute() == 0 {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at.timestamp());
            };
            // A step that does not lead forward, which a turned-back clock could make, becomes one of a minute.
            at = if next > at { next } else { at.checked_add(1.minute()).ok()? };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &str, zone: &str, from: &str) -> Option<String> {
        let zone = TimeZone::get(zone).expect("a zone");
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let from: Timestamp = from.parse().expect("a time");
        let next = schedule.next(from, &zone)?;
        assert!(next > from);
        Some(next.to_string())
    }

    #[test]
    fn next_times() {
        let check = |schedule: &str, from: &str, expected: &str| {
            assert_eq!(after(schedule, "UTC", from).as_deref(), Some(expected), "{schedule}");
        };
        check("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z");
        check("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z");
        check("5/20 * * * ?", "2026-01-01T00:46:00Z", "2026-01-01T01:05:00Z");
        check("0 0 1 1 *", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00Z");
        check("30 4 * feb-MAR mon,wed", "2026-01-01T00:00:00Z", "2026-02-02T04:30:00Z");
        check("0 12 13 * 5", "2026-02-07T00:00:00Z", "2026-02-13T12:00:00Z");
        check("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        // Both days given: either is enough.
        check("0 0 15 * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("@hourly", "2026-01-01T00:10:00Z", "2026-01-01T01:00:00Z");
        check("CRON_TZ=Europe/Berlin 0 8 * * *", "2026-01-01T00:00:00Z", "2026-01-01T07:00:00Z");
        check("@every 1h30m", "2026-01-01T00:10:00Z", "2026-01-01T01:40:00Z");
        assert_eq!(after("* * 31 2 *", "UTC", "2026-01-01T00:00:00Z"), None);
        assert_eq!(after("0 0 30 2 1-5/9", "UTC", "2026-01-01T00:00:00Z").as_deref(), Some("2026-02-02T00:00:00Z"));
    }

    #[test]
    fn zones() {
        let check = |schedule: &str, from: &str, expected: &str| {
            assert_eq!(after(schedule, "Europe/Berlin", from).as_deref(), Some(expected), "{schedule} {from}");
        };
        check("0 8 * * *", "2026-01-01T00:00:00Z", "2026-01-01T07:00:00Z");
        check("0 8 * * *", "2026-07-01T12:00:00Z", "2026-07-02T06:00:00Z");
        // The hour that is skipped in March, and the one that comes twice in October.
        check("30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z");
        check("0 * * * *", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z");
    }

    #[test]
    fn complaints() {
        let check = |schedule: &str, expected: &str| {
            assert_eq!(Schedule::parse(schedule).expect_err(schedule), expected);
        };
        check("", "empty spec string");
        check("* * * *", "expected exactly 5 fields, found 4: [* * * *]");
        check("60 * * * *", "end of range (60) above maximum (59): 60");
        check("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        check("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3");
        check("*/0 * * * *", "step of range should be a positive number: */0");
        check("1/2/3 * * * *", "too many slashes: 1/2/3");
        check("1-2-3 * * * *", "too many hyphens: 1-2-3");
        check("* * * * 7", "end of range (7) above maximum (6): 7");
        check("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax");
        check("@sometimes", "unrecognized descriptor: @sometimes");
        check("@every x", "failed to parse duration @every x: time: invalid duration \"x\"");
        check("TZ=Mars/Base * * * * *", "provided bad location Mars/Base: unknown time zone Mars/Base");
    }
}
