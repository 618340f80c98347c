//! One line of a container's log as CRI writes it: `<time> <stream> <P|F>[:...] <text>`.

/// A line without copying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds, as written.
    pub time: &'a str,
    /// From standard error, otherwise from standard output.
    pub stderr: bool,
    /// The writer's line goes on in the next one.
    pub partial: bool,
    /// What the container wrote, without the line end.
    pub text: &'a [u8],
}

/// Reads a line; `None` for what isn't one (the beginning of a file that was cut).
pub fn parse(bytes: &[u8]) -> Option<Line<'_>> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut parts = bytes.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    if time.len() < 20 || !time.as_bytes()[4..].starts_with(b"-") {
        return None;
    }
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line { time, stderr, partial, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |text: &str, expected: Option<(bool, bool, &str)>| {
            let actual = parse(text.as_bytes())
                .map(|line| (line.stderr, line.partial, String::from_utf8_lossy(line.text).into_owned()));
            assert_eq!(actual, expected.map(|(stderr, partial, text)| (stderr, partial, text.to_owned())), "{text}");
        };
        check("2026-01-01T00:00:00.000000000Z stdout F hello world\n", Some((false, false, "hello world")));
        check("2026-01-01T00:00:00.000000000Z stderr P half", Some((true, true, "half")));
        check("2026-01-01T00:00:00.000000000Z stdout F:x \n", Some((false, false, "")));
        check("2026-01-01T00:00:00.000000000Z stdout F\n", Some((false, false, "")));
        check("garbage\n", None);
        check("0Z stdout F cut\n", None);
    }
}
