//! Sets of indexes written as text: `1,3-5,7`.

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IndexError {
    /// More than two ends.
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Parts(String),
    /// An end that is no number.
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    /// An end beyond the number of completions.
    #[error("too large index: {0:?}")]
    TooLarge(String),
    /// An interval that does not begin after the one before it has ended.
    #[error("non-increasing order, previous: {previous}, current: {current}")]
    Order {
        /// Where it ended.
        previous: i64,
        /// Where this one begins.
        current: i64,
    },
    /// An index that is both completed and failed.
    #[error("failedIndexes and completedIndexes overlap at index: {0}")]
    Overlap(i64),
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), IndexError> {
    let end = |text: &str| {
        let number: i64 = text.parse().map_err(|_| IndexError::Number(text.to_owned()))?;
        if number >= completions { Err(IndexError::TooLarge(text.to_owned())) } else { Ok(number) }
    };
    let Some((first, last)) = text.split_once('-') else {
        let only = end(text)?;
        return Ok((only, only));
    };
    if last.contains('-') {
        return Err(IndexError::Parts(text.to_owned()));
    }
    let (first, last) = (end(first)?, end(last)?);
    if first >= last { Err(IndexError::Order { previous: first, current: last }) } else { Ok((first, last)) }
}

/// How many indexes a text names.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, IndexError> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut before: Option<i64> = None;
    let mut total = 0;
    for part in text.split(',') {
        let (first, last) = interval(part, completions)?;
        if let Some(previous) = before.filter(|previous| *previous >= first) {
            return Err(IndexError::Order { previous, current: first });
        }
        total += last - first + 1;
        before = Some(last);
    }
    Ok(total)
}

/// Whether two texts name an index both; parts that cannot be read are passed over.
pub(super) fn apart(completed: &str, failed: &str, completions: i64) -> Result<(), IndexError> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (completed, failed) = (read(completed), read(failed));
    let (mut one, mut other) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some(&&(first, last)), Some(&&(failed_first, failed_last))) = (one.peek(), other.peek()) {
        if first <= failed_last && failed_first <= last {
            return Err(IndexError::Overlap(first.max(failed_first)));
        }
        if first <= failed_first {
            one.next();
        } else {
            other.next();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let check = |text: &str, expected: Result<i64, &str>| {
            let found = count(text, 10).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        };
        check("", Ok(0));
        check("1,3-5,7", Ok(5));
        check("10", Err("too large index: \"10\""));
        check("a", Err("cannot convert string to integer for index: \"a\""));
        check("3-3", Err("non-increasing order, previous: 3, current: 3"));
        check("3,2", Err("non-increasing order, previous: 3, current: 2"));
        assert!(count("1-2-3", 10).is_err());
    }

    #[test]
    fn finds_overlaps() {
        assert_eq!(apart("1,3-5", "2,6", 10), Ok(()));
        assert_eq!(apart("1,3-5", "4", 10), Err(IndexError::Overlap(4)));
        assert_eq!(apart("x,1", "1", 10), Err(IndexError::Overlap(1)));
    }
}
