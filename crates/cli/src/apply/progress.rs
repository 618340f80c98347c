//! What a person sees while things happen: lines that stay on standard output, and on a terminal one line below them that says
//! what is being waited for.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};

use crate::style::Style;

/// Says what happens.
pub struct Progress {
    /// How lines look.
    pub style: Style,
    live: bool,
    shown: bool,
    /// The last lines, where nobody looks on.
    kept: Option<VecDeque<String>>,
}

/// How many lines are kept where nobody looks on.
const KEPT: usize = 20;

impl Progress {
    /// Lines in a style; the moving line only on a terminal.
    pub fn new(style: Style) -> Progress {
        Progress { style, live: std::io::stderr().is_terminal(), shown: false, kept: None }
    }

    /// Says nothing, and keeps the last lines.
    pub fn silent() -> Progress {
        Progress { style: Style::default(), live: false, shown: false, kept: Some(VecDeque::new()) }
    }

    /// The lines that were kept.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().flatten().map(String::as_str)
    }

    /// A line that stays. Standard output that nobody reads any more must not stop what is under way.
    pub fn line(&mut self, text: &str) {
        if let Some(kept) = &mut self.kept {
            kept.truncate(KEPT - 1);
            kept.push_front(text.to_owned());
            return;
        }
        self.clear();
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// What is being waited for now.
    pub fn status(&mut self, text: &str) {
        if self.live {
            let short: String = text.chars().take(100).collect();
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", self.style.dim(short));
            self.shown = true;
        }
    }

    /// Takes the moving line away.
    pub fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            self.shown = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
