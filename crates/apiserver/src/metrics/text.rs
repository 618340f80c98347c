//! The Prometheus text form.

use std::fmt::{Display, Write};

/// The content type of the form.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The labels of a value, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels(String);

impl Labels {
    /// No labels.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a label.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
        self
    }
}

/// Writes families of values one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(String);

impl Writer {
    /// Begins a family.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// Writes a value.
    pub(crate) fn value(&mut self, name: &str, labels: &Labels, value: impl Display) {
        if labels.0.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.0));
        }
    }

    /// A family of one value without labels.
    pub(crate) fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.value(name, &Labels::new(), value);
    }

    /// Writes a histogram from the counts between its bounds and the count beyond the last one.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        labels: &Labels,
        buckets: impl Iterator<Item = (f64, u64)>,
        beyond: u64,
        sum: f64,
    ) {
        let separator = if labels.0.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bound, more) in buckets {
            count += more;
            self.line(format_args!("{name}_bucket{{{}{separator}le=\"{bound}\"}} {count}", labels.0));
        }
        count += beyond;
        self.line(format_args!("{name}_bucket{{{}{separator}le=\"+Inf\"}} {count}", labels.0));
        self.value(&format!("{name}_sum"), labels, sum);
        self.value(&format!("{name}_count"), labels, count);
    }

    /// Text in the same form that somebody else wrote.
    pub(crate) fn append(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// What was written.
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{arguments}").expect("writing to a string does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let mut out = Writer::default();
        out.value("a", &Labels::new().with("b", "x\"y\\z\n").with("c", ""), 1);
        out.single("d", "gauge", "Help.", 2.5);
        assert_eq!(out.into_text(), "a{b=\"x\\\"y\\\\z\\n\",c=\"\"} 1\n# HELP d Help.\n# TYPE d gauge\nd 2.5\n");
    }
}
