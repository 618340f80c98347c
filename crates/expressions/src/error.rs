//! What goes wrong with expressions, before and while they are evaluated.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// One mistake in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 0.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// What is wrong with a source; [`fmt::Display`] writes it as upstream does, with the line and a mark under the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// The mistakes, in order of their place.
    pub issues: Vec<Issue>,
    source: Box<str>,
}

impl std::error::Error for CompileError {}

/// The longest line that is shown.
const LONGEST_SNIPPET: usize = 16384;

impl CompileError {
    pub(crate) fn new(source: &str, mut marks: Vec<(u32, String)>) -> CompileError {
        marks.sort_by_key(|(offset, _)| *offset);
        let issues = marks
            .into_iter()
            .map(|(offset, message)| {
                let before = &source[..source.floor_char_boundary(offset as usize)];
                let line = before.matches('\n').count() + 1;
                let start = before.rfind('\n').map_or(0, |at| at + 1);
                Issue { line, column: before[start..].chars().count(), message }
            })
            .collect();
        CompileError { issues, source: source.into() }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", issue.line, issue.column + 1, issue.message)?;
            let Some(line) = self.source.split('\n').nth(issue.line - 1).filter(|line| line.len() <= LONGEST_SNIPPET)
            else {
                continue;
            };
            let line = line.replace('\t', " ");
            write!(f, "\n | {line}\n | ")?;
            let mut characters = line.chars();
            for character in characters.by_ref().take(issue.column) {
                f.write_char(if character.is_ascii() { '.' } else { '\u{ff0e}' })?;
            }
            f.write_char(if characters.next().is_none_or(|mark| mark.is_ascii()) { '^' } else { '\u{ff3e}' })?;
        }
        Ok(())
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The values do not allow it: a missing key, a division by zero, the wrong type.
    #[error("{0}")]
    Failed(Cow<'static, str>),
    /// It would cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
}

impl EvaluationError {
    pub(crate) fn failed(message: impl Into<Cow<'static, str>>) -> EvaluationError {
        EvaluationError::Failed(message.into())
    }

    pub(crate) fn no_such_overload() -> EvaluationError {
        EvaluationError::Failed(Cow::Borrowed("no such overload"))
    }
}
