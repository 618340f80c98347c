//! [`Mistake`]: something wrong in a text, with its place, the line it stands in, and what to do about it.

use std::fmt;

/// The longest line that is shown in full.
const WIDEST: usize = 160;

/// Something that is wrong in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    file: String,
    place: Option<(usize, usize)>,
    line: Option<(String, usize)>,
    message: String,
    hint: Option<String>,
}

impl Mistake {
    /// A mistake in a file, at a place that is not known.
    pub fn new(file: &str, message: impl Into<String>) -> Mistake {
        Mistake { file: file.to_owned(), place: None, line: None, message: message.into(), hint: None }
    }

    /// Adds the line and the column, from 1.
    pub fn at(mut self, line: usize, column: usize) -> Mistake {
        self.place = Some((line, column));
        self
    }

    /// Adds the text of the line and how many characters of it are meant.
    pub fn line(mut self, text: &str, width: usize) -> Mistake {
        self.line = Some((text.trim_end().replace('\t', " "), width));
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Mistake {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        let mut margin = 2;
        if let (Some((number, column)), Some((text, width))) = (self.place, &self.line)
            && text.chars().count() <= WIDEST
        {
            let number = number.to_string();
            margin = number.len() + 3;
            let room = text.chars().count().saturating_sub(column - 1).max(1);
            let carets = "^".repeat((*width).clamp(1, room));
            write!(f, "\n  {number} | {text}\n{:margin$}| {:indent$}{carets}", "", "", indent = column - 1)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{:margin$}= {hint}", "")?;
        }
        Ok(())
    }
}

/// All mistakes of a run. Nothing is applied when there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} mistake{}; nothing was applied", if count == 1 { "" } else { "s" })?;
        for mistake in &self.0 {
            write!(f, "\n{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
