//! What can be wrong with a kustomization: where, why, and what to do about it.

use std::fmt;
use std::sync::Arc;

use crate::node::Place;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Files say something wrong; every mistake that was found at once.
    #[error("{}", Mistake::all(.0))]
    Mistakes(Vec<Mistake>),
    /// A file or a folder could not be read.
    #[error("{path}: {problem}")]
    Read {
        /// What was to be read.
        path: String,
        /// What the system said.
        problem: String,
    },
    /// What the kustomization asks for cannot be done.
    #[error("{0}")]
    Refused(String),
    /// A program that was run for it failed.
    #[error("{program}: {problem}")]
    Program {
        /// The program: `git` or `helm`.
        program: String,
        /// What it said.
        problem: String,
    },
    /// Something went wrong with a part of the kustomization.
    #[error("{what}: {source}")]
    In {
        /// The part: a file, a field, a base.
        what: String,
        /// What went wrong.
        source: Box<BuildError>,
    },
}

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, as the kustomization names it.
    pub file: String,
    /// Where in it.
    pub place: Place,
    /// The line that is meant.
    pub line: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Mistake {
    fn all(mistakes: &[Mistake]) -> String {
        mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.place.line > 0 {
            write!(f, ":{}:{}", self.place.line, self.place.column)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(line) = &self.line {
            let number = self.place.line.to_string();
            let before: String = (line.chars().take(self.place.column.saturating_sub(1) as usize))
                .map(|letter| if letter == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n {number} | {line}\n {} | {before}^", " ".repeat(number.len()))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl BuildError {
    /// Says which part this happened in.
    pub(crate) fn within(self, what: impl Into<String>) -> BuildError {
        BuildError::In { what: what.into(), source: Box::new(self) }
    }

    /// Whether, at the bottom, the text of a file is no YAML.
    pub(crate) fn is_malformed(&self) -> bool {
        match self {
            BuildError::Mistakes(_) => true,
            BuildError::In { source, .. } => source.is_malformed(),
            _ => false,
        }
    }
}

/// For `ok_or_else` and friends.
pub(crate) fn refused(message: impl Into<String>) -> BuildError {
    BuildError::Refused(message.into())
}

/// A text with its name, to point into.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name of the file, as people know it.
    pub file: Arc<str>,
    /// What it says.
    pub text: Arc<str>,
}

impl Source {
    /// Names a text.
    pub fn new(file: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Source {
        Source { file: file.into(), text: text.into() }
    }

    /// A mistake at a place of this text.
    pub fn mistake(&self, place: Place, message: impl Into<String>, hint: Option<String>) -> Mistake {
        // A line of a generated file can be megabytes long; people cannot read that anyway.
        const LONGEST: usize = 300;
        let line = (place.line > 0)
            .then(|| self.text.lines().nth(place.line as usize - 1))
            .flatten()
            .filter(|line| line.len() <= LONGEST)
            .map(str::to_owned);
        Mistake { file: self.file.to_string(), place, line, message: message.into(), hint }
    }
}
