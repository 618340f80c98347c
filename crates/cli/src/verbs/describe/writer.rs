//! Text in columns as Go's `text/tabwriter` aligns it for `kubectl describe`: a column is a run of lines that have a cell
//! there, and it is as wide as its widest cell and two more. Pure.

/// Blanks between columns.
const PADDING: usize = 2;

/// A text that is written line by line, part by part, and aligned at the end.
///
/// Every part starts with the blanks of its level, also in the middle of a line: that is how kubectl's writer works, and
/// what is printed depends on it.
#[derive(Debug, Default)]
pub struct Writer {
    done: String,
    pending: String,
    indent: usize,
}

impl Writer {
    /// An empty text.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Writes a part at a level of two blanks each.
    pub fn put(&mut self, level: usize, text: impl AsRef<str>) {
        for _ in 0..(level + self.indent) {
            self.pending.push_str("  ");
        }
        escape_into(&mut self.pending, text.as_ref());
    }

    /// Writes a part at a level and ends the line.
    pub fn line(&mut self, level: usize, text: impl AsRef<str>) {
        self.put(level, text);
        self.pending.push('\n');
    }

    /// `Name:`, a column further the value.
    pub fn field(&mut self, level: usize, name: &str, value: impl AsRef<str>) {
        self.line(level, format!("{name}:\t{}", value.as_ref()));
    }

    /// The rest of a line that was begun.
    pub fn end(&mut self, text: &str) {
        self.put(0, text);
        self.pending.push('\n');
    }

    /// What `body` writes stands further in.
    pub fn nested(&mut self, levels: usize, body: impl FnOnce(&mut Writer)) {
        self.indent += levels;
        body(self);
        self.indent -= levels;
    }

    /// What follows has columns of its own.
    pub fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.done.push_str(&aligned(&pending));
    }

    /// The aligned text.
    pub fn finish(mut self) -> String {
        self.flush();
        self.done
    }

    /// The text with its tabs as they are, for what kubectl does not align.
    pub fn unaligned(self) -> String {
        self.pending
    }
}

/// Keeps what objects say from steering the terminal, in kubectl's way (cli-runtime's `printers.WriteEscaped`).
pub fn escape_into(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '\u{1b}' => out.push_str("^["),
            '\r' => out.push_str("\\r"),
            letter => out.push(letter),
        }
    }
}

struct Cell<'t> {
    text: &'t str,
    width: usize,
}

fn cell(text: &str) -> Cell<'_> {
    Cell { text, width: text.chars().count() }
}

/// Aligns a text whose cells end with tabs.
fn aligned(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    // A form feed ends a line and all columns.
    let mut parts = text.split('\u{c}').peekable();
    while let Some(part) = parts.next() {
        let lines: Vec<Vec<Cell<'_>>> =
            part.split('\n').map(|line| line.split(['\t', '\u{b}']).map(cell).collect()).collect();
        let mut widths = Vec::new();
        block(&mut out, &lines, &mut widths, 0, lines.len());
        if parts.peek().is_some() {
            out.push('\n');
        }
    }
    out
}

/// Writes the lines from `first` up to `end`, whose cells left of here have the given widths.
fn block(out: &mut String, lines: &[Vec<Cell<'_>>], widths: &mut Vec<usize>, first: usize, end: usize) {
    let column = widths.len();
    let mut start = first;
    let mut at = first;
    while at < end {
        if column + 1 >= lines[at].len() {
            at += 1;
            continue;
        }
        write_lines(out, lines, widths, start, at);
        start = at;
        let mut width = 0;
        while at < end && column + 1 < lines[at].len() {
            width = width.max(lines[at][column].width + PADDING);
            at += 1;
        }
        widths.push(width);
        block(out, lines, widths, start, at);
        widths.pop();
        start = at;
    }
    write_lines(out, lines, widths, start, end);
}

fn write_lines(out: &mut String, lines: &[Vec<Cell<'_>>], widths: &[usize], first: usize, end: usize) {
    for (index, line) in lines.iter().enumerate().take(end).skip(first) {
        for (column, cell) in line.iter().enumerate() {
            out.push_str(cell.text);
            if let Some(width) = widths.get(column) {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width)));
            }
        }
        if index + 1 < lines.len() {
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let check = |text: &str, expected: &str| assert_eq!(aligned(text), expected, "{text:?}");
        check("a:\tb\nlong:\tc\n", "a:     b\nlong:  c\n");
        check("a:\tb\nno column\nlonger:\tc\n", "a:  b\nno column\nlonger:  c\n");
        check("a:\t\nb:\tx\ty\n", "a:  \nb:  x  y\n");
        check("a\tbb\tc\nd\te\n\tf\tg\n", "a  bb  c\nd  e\n   f  g\n");
        check("ö:\tx\nab:\ty\n", "ö:   x\nab:  y\n");
        check("a:\tb\u{c}long:\tc", "a:  b\nlong:  c");
        check("", "");
    }

    #[test]
    fn parts_and_levels() {
        let mut writer = Writer::new();
        writer.field(0, "Name", "a\u{1b}[31m\r");
        writer.put(1, "half ");
        writer.put(1, "more");
        writer.end("!");
        writer.nested(2, |writer| writer.line(0, "in"));
        writer.flush();
        writer.field(0, "N", "b");
        assert_eq!(writer.finish(), "Name:  a^[[31m\\r\n  half   more!\n    in\nN:  b\n");
    }
}
