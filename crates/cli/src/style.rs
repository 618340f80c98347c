//! Colours of a terminal, and none elsewhere.

use std::fmt::Display;
use std::io::IsTerminal;

use clap::ValueEnum;

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// The style for a stream.
    pub fn style(self, stream: &impl IsTerminal) -> Style {
        let colours = match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Style { colours }
    }
}

/// Whether and how texts are coloured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    colours: bool,
}

impl Style {
    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Something new or good.
    pub fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// Something that goes or is wrong.
    pub fn red(self, text: impl Display) -> String {
        self.paint("31", text)
    }

    /// Something that changes.
    pub fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    /// A name.
    pub fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// What is said beside it.
    pub fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    /// One of some colours that are told apart, by number.
    pub fn nth(self, number: usize, text: impl Display) -> String {
        const CODES: [&str; 6] = ["36", "35", "34", "33", "32", "31"];
        self.paint(CODES[number % CODES.len()], text)
    }
}
