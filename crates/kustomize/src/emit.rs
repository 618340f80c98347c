//! Nodes to text, in the form that kustomize prints: keys sorted as people count, lists not indented, long texts folded
//! after 80 columns.
//!
//! kustomize turns an object into JSON and that into YAML with version 2 of Go's library, so comments, styles and the order
//! of keys are gone, and every scalar is written by that library's rules.

use std::cmp::Ordering;

use crate::node::{Map, Node, Place, Scalar};
use crate::scalar::{self, Resolved};

/// Where lines are folded.
const WIDTH: usize = 80;

/// An object as YAML; the error is what cannot be written, and where it stood.
pub fn object(node: &Node) -> Result<String, (Place, String)> {
    let mut writer = Writer { out: String::new(), column: 0, blank: true, fresh: true };
    writer.node(node, -1, false)?;
    writer.line(0);
    Ok(writer.out)
}

/// A scalar's text and whether it is a string, in the values that JSON has.
fn text(scalar: &Scalar) -> Result<(String, bool), (Place, String)> {
    let value = scalar.value().map_err(|problem| (scalar.place, problem))?;
    Ok(match value {
        Resolved::Null => ("null".to_owned(), false),
        Resolved::Bool(value) => (value.to_string(), false),
        Resolved::Int(value) => (value.to_string(), false),
        Resolved::Uint(value) => (value.to_string(), false),
        Resolved::Float(value) => match scalar::float(value) {
            Some(text) => (text, false),
            None => return Err((scalar.place, format!("{} cannot be written as JSON", scalar.text))),
        },
        Resolved::Str | Resolved::Merge => (scalar.text.clone(), true),
        Resolved::Text(text) | Resolved::Timestamp(text) => (text, true),
    })
}

/// The keys of a map in the order in which they are written.
fn sorted(map: &Map) -> Result<Vec<&(Scalar, Node)>, (Place, String)> {
    let mut entries: Vec<&(Scalar, Node)> = map.entries.iter().collect();
    for (key, _) in &map.entries {
        let is_string = matches!(key.value(), Ok(Resolved::Str | Resolved::Text(_)));
        if !is_string {
            return Err((key.place, format!("the key {:?} is no string; put quotes around it", key.text)));
        }
    }
    entries.sort_by(|(one, _), (other, _)| natural(&one.text, &other.text));
    // Equal keys need not be neighbours in this order, but are in any sane one; the exact check costs a set.
    if entries.len() > 1 {
        let mut seen = std::collections::HashSet::with_capacity(entries.len());
        for (key, _) in &map.entries {
            if !seen.insert(key.text.as_str()) {
                return Err((key.place, format!("the key {:?} stands twice in one map", key.text)));
            }
        }
    }
    Ok(entries)
}

/// The order of keys: letters after everything else, runs of digits by their value.
pub fn natural(one: &str, other: &str) -> Ordering {
    if one == other {
        return Ordering::Equal;
    }
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    for index in 0..a.len().min(b.len()) {
        let (x, y) = (a[index], b[index]);
        if x == y {
            continue;
        }
        match (x.is_alphabetic(), y.is_alphabetic()) {
            (true, true) => return x.cmp(&y),
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {}
        }
        let (mut an, mut bn) = (0_i64, 0_i64);
        if x == '0' || y == '0' {
            let before = a[..index].iter().rev().take_while(|letter| letter.is_ascii_digit());
            if before.into_iter().any(|letter| *letter != '0') {
                (an, bn) = (1, 1);
            }
        }
        let (an, ai) = digits(&a, index, an);
        let (bn, bi) = digits(&b, index, bn);
        return an.cmp(&bn).then(ai.cmp(&bi)).then(x.cmp(&y));
    }
    a.len().cmp(&b.len())
}

fn digits(letters: &[char], from: usize, start: i64) -> (i64, usize) {
    let mut value = start;
    let mut at = from;
    while let Some(digit) = letters.get(at).and_then(|letter| letter.to_digit(10)) {
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
        at += 1;
    }
    (value, at)
}

struct Writer {
    out: String,
    /// In characters.
    column: usize,
    /// Whether the last character was a blank or a line break.
    blank: bool,
    /// Whether the line has nothing but indentation and indicators.
    fresh: bool,
}

/// What a scalar allows, found by looking at all of it once.
struct Shape {
    many_lines: bool,
    plain: bool,
    single: bool,
    block: bool,
}

impl Writer {
    fn put(&mut self, letter: char) {
        self.out.push(letter);
        self.column += 1;
    }

    fn end_line(&mut self) {
        self.out.push('\n');
        self.column = 0;
    }

    /// Begins a line at an indentation, unless the current one is fit for that.
    fn line(&mut self, indent: i32) {
        let indent = usize::try_from(indent).unwrap_or(0);
        if !self.fresh || self.column > indent || (self.column == indent && !self.blank) {
            self.end_line();
        }
        while self.column < indent {
            self.put(' ');
        }
        self.blank = true;
        self.fresh = true;
    }

    fn indicator(&mut self, text: &str, needs_blank: bool, is_indentation: bool) {
        if needs_blank && !self.blank {
            self.put(' ');
        }
        for letter in text.chars() {
            self.put(letter);
        }
        self.blank = false;
        self.fresh = self.fresh && is_indentation;
    }

    fn node(&mut self, node: &Node, indent: i32, in_map: bool) -> Result<(), (Place, String)> {
        match node {
            Node::Scalar(scalar) => {
                let (text, is_string) = text(scalar)?;
                self.scalar(&text, is_string, indent, false);
            }
            Node::List(items) if items.is_empty() => self.indicator("[]", true, false),
            Node::Map(map) if map.entries.is_empty() => self.indicator("{}", true, false),
            Node::List(items) => {
                let inner = match indent {
                    ..0 => 0,
                    _ if in_map && !self.fresh => indent,
                    _ => indent + 2,
                };
                for item in items {
                    self.line(inner);
                    self.indicator("-", true, true);
                    self.node(item, inner, false)?;
                }
            }
            Node::Map(map) => {
                let inner = if indent < 0 { 0 } else { indent + 2 };
                for (key, value) in sorted(map)? {
                    self.line(inner);
                    self.key(&key.text, inner);
                    self.node(value, inner, true)?;
                }
            }
        }
        Ok(())
    }

    fn key(&mut self, key: &str, indent: i32) {
        let simple = key.len() <= 128 && !key.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
        if simple {
            self.scalar(key, true, indent, true);
            self.indicator(":", false, false);
        } else {
            self.indicator("?", true, true);
            self.scalar(key, true, indent, false);
            self.line(indent);
            self.indicator(":", true, true);
        }
    }

    fn scalar(&mut self, text: &str, is_string: bool, indent: i32, is_key: bool) {
        if !is_string {
            self.plain(text, indent, false);
            return;
        }
        // Go's library gives scalars an indentation of their own, which shows where they are folded.
        let indent = if indent < 0 { 0 } else { indent + 2 };
        let shape = shape(text);
        let literal = text.contains('\n');
        if literal && shape.block && !is_key {
            self.literal(text, indent);
        } else if literal || (is_key && shape.many_lines) || scalar::needs_quotes(text) {
            self.double(text, indent, !is_key);
        } else if shape.plain && !(text.is_empty() && is_key) {
            self.plain(text, indent, !is_key);
        } else if shape.single && !(is_key && shape.many_lines) {
            self.single(text, indent, !is_key);
        } else {
            self.double(text, indent, !is_key);
        }
    }

    fn plain(&mut self, text: &str, indent: i32, folds: bool) {
        if !self.blank {
            self.put(' ');
        }
        if self.column + text.len() <= WIDTH {
            // Most texts are short: nothing to fold.
            self.out.push_str(text);
            self.column += text.chars().count();
        } else {
            self.folded(text, indent, folds, false);
        }
        self.blank = false;
        self.fresh = false;
    }

    fn single(&mut self, text: &str, indent: i32, folds: bool) {
        self.indicator("'", true, false);
        self.folded(text, indent, folds, true);
        self.indicator("'", false, false);
    }

    /// The inside of a plain or a single-quoted text.
    fn folded(&mut self, text: &str, indent: i32, folds: bool, quoted: bool) {
        let mut spaces = false;
        let mut breaks = false;
        let mut letters = text.char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            if letter == ' ' {
                let next_is_space = letters.peek().is_some_and(|(_, next)| *next == ' ');
                let inside = !quoted || (at > 0 && at + 1 < text.len());
                if folds && !spaces && self.column > WIDTH && inside && !next_is_space {
                    self.line(indent);
                } else {
                    self.put(letter);
                }
                spaces = true;
            } else if is_break(letter) {
                if !breaks && letter == '\n' {
                    self.end_line();
                }
                self.line_break(letter);
                self.fresh = true;
                breaks = true;
            } else {
                if breaks {
                    self.line(indent);
                }
                if quoted && letter == '\'' {
                    self.put('\'');
                }
                self.put(letter);
                self.fresh = false;
                spaces = false;
                breaks = false;
            }
        }
    }

    fn line_break(&mut self, letter: char) {
        if letter == '\n' {
            self.end_line();
        } else {
            self.out.push(letter);
            self.column = 0;
        }
    }

    fn double(&mut self, text: &str, indent: i32, folds: bool) {
        self.indicator("\"", true, false);
        let mut spaces = false;
        let mut letters = text.char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            if !is_printable(letter) || letter == '\u{feff}' || is_break(letter) || letter == '"' || letter == '\\' {
                self.escape(letter);
                spaces = false;
            } else if letter == ' ' {
                if folds && !spaces && self.column > WIDTH && at > 0 && at + 1 < text.len() {
                    self.line(indent);
                    if letters.peek().is_some_and(|(_, next)| *next == ' ') {
                        self.put('\\');
                    }
                } else {
                    self.put(letter);
                }
                spaces = true;
            } else {
                self.put(letter);
                spaces = false;
            }
        }
        self.indicator("\"", false, false);
    }

    fn escape(&mut self, letter: char) {
        self.put('\\');
        let short = match letter {
            '\0' => '0',
            '\u{7}' => 'a',
            '\u{8}' => 'b',
            '\t' => 't',
            '\n' => 'n',
            '\u{b}' => 'v',
            '\u{c}' => 'f',
            '\r' => 'r',
            '\u{1b}' => 'e',
            '"' => '"',
            '\\' => '\\',
            '\u{85}' => 'N',
            '\u{a0}' => '_',
            '\u{2028}' => 'L',
            '\u{2029}' => 'P',
            _ => {
                let code = u32::from(letter);
                let long = match code {
                    0..=0xff => format!("x{code:02X}"),
                    0x100..=0xffff => format!("u{code:04X}"),
                    _ => format!("U{code:08X}"),
                };
                self.out.push_str(&long);
                self.column += long.len();
                return;
            }
        };
        self.put(short);
    }

    fn literal(&mut self, text: &str, indent: i32) {
        self.indicator("|", true, false);
        if text.starts_with(|letter| letter == ' ' || is_break(letter)) {
            self.indicator("2", false, false);
        }
        let mut last = text.chars().rev();
        let keep = match (last.next(), last.next()) {
            (Some(end), _) if !is_break(end) => "-",
            (Some(_), None) => "+",
            (Some(_), Some(before)) if is_break(before) => "+",
            _ => "",
        };
        if !keep.is_empty() {
            self.indicator(keep, false, false);
        }
        self.end_line();
        self.blank = true;
        self.fresh = true;
        let mut breaks = true;
        for letter in text.chars() {
            if is_break(letter) {
                self.line_break(letter);
                self.fresh = true;
                breaks = true;
            } else {
                if breaks {
                    self.line(indent);
                }
                self.put(letter);
                self.fresh = false;
                breaks = false;
            }
        }
    }
}

/// What becomes of a folded text when Go's library writes it folded again and reads that, as kustomize does on the way to
/// JSON: a line that is indented further moves one line down. Nothing when the text stays as it is.
pub(crate) fn refolded(text: &str) -> Option<String> {
    if !text.contains('\n') || !shape(text).block {
        return None;
    }
    let start = text.trim_start_matches('\n');
    let is_blank = |line: &str| line.starts_with([' ', '\t']);
    // The library looks at the first letter of the whole text where it means that of the next line.
    let adds = !start.is_empty() && !is_blank(start);
    let mut out = "\n".repeat(text.len() - start.len());
    let mut rest = start;
    while let Some(at) = rest.find('\n') {
        let (line, tail) = rest.split_at(at);
        let next = tail.trim_start_matches('\n');
        let breaks = tail.len() - next.len();
        let written = breaks + usize::from(adds && !is_blank(line));
        out.push_str(line);
        match (next.is_empty(), is_blank(line) || is_blank(next)) {
            (true, _) => out.push_str(&"\n".repeat(if breaks == 1 { 1 } else { written })),
            (false, true) => out.push_str(&"\n".repeat(written)),
            (false, false) if written == 1 => out.push(' '),
            (false, false) => out.push_str(&"\n".repeat(written - 1)),
        }
        rest = next;
    }
    out.push_str(rest);
    (out != text).then_some(out)
}

fn is_break(letter: char) -> bool {
    matches!(letter, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// What Go's library prints as it is: nothing beyond the first 65,536 characters, so no emoji.
fn is_printable(letter: char) -> bool {
    matches!(letter, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && letter != '\u{feff}'
}

fn shape(text: &str) -> Shape {
    if text.is_empty() {
        return Shape { many_lines: false, plain: true, single: true, block: false };
    }
    let mut indicators = text.starts_with("---") || text.starts_with("...");
    let (mut breaks, mut special) = (false, false);
    let (mut leading, mut trailing_space, mut trailing_break) = (false, false, false);
    let (mut break_space, mut space_break) = (false, false);
    let (mut after_space, mut after_break) = (false, false);
    let mut preceded = true;
    let mut letters = text.chars().peekable();
    let mut first = true;
    while let Some(letter) = letters.next() {
        let last = letters.peek().is_none();
        let followed = letters.peek().is_none_or(|next| matches!(next, ' ' | '\t'));
        if first {
            indicators |= matches!(
                letter,
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`'
            ) || (matches!(letter, '?' | ':' | '-') && followed);
        } else {
            indicators |= (letter == ':' && followed) || (letter == '#' && preceded);
        }
        special |= !is_printable(letter);
        if letter == ' ' {
            leading |= first;
            trailing_space |= last;
            break_space |= after_break;
            (after_space, after_break) = (true, false);
        } else if is_break(letter) {
            breaks = true;
            leading |= first;
            trailing_break |= last;
            space_break |= after_space;
            (after_space, after_break) = (false, true);
        } else {
            (after_space, after_break) = (false, false);
        }
        preceded = matches!(letter, ' ' | '\t') || is_break(letter);
        first = false;
    }
    let odd = space_break || special;
    Shape {
        many_lines: breaks,
        plain: !(leading || trailing_space || trailing_break || break_space || odd || breaks || indicators),
        single: !(break_space || odd),
        block: !(trailing_space || odd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let node = crate::parse::one(text).expect("YAML");
        assert_eq!(object(&node).expect("an object"), expected, "{text}");
    }

    #[test]
    fn objects() {
        check("b: 1\na: {x: [], y: {}}\n", "a:\n  x: []\n  \"y\": {}\nb: 1\n");
        check("l:\n  - a\n  - - b\n    - c\n  - k: v\n    l: w\n", "l:\n- a\n- - b\n  - c\n- k: v\n  l: w\n");
        check("a10: 1\na9: 2\na-b: 3\n", "a-b: 3\na9: 2\na10: 1\n");
        check("s: |\n  a\n  b\nt: |-\n  x\n  y\nu: \"a \\nb\"\n", "s: |\n  a\n  b\nt: |-\n  x\n  y\nu: \"a \\nb\"\n");
        check(
            "a: 'true'\nb: '1'\nc: yes\nd: \"x: y\"\ne: \"\"\n",
            "a: \"true\"\nb: \"1\"\nc: \"yes\"\nd: 'x: y'\ne: \"\"\n",
        );
        let words = "word ".repeat(30);
        let folded = format!("a: {}word\n  {}word\n", "word ".repeat(15), "word ".repeat(13));
        check(&format!("a: {}\n", words.trim_end()), &folded);
    }

    #[test]
    fn what_cannot_be_written() {
        for text in ["1: a\n", "a: 1\na: 2\n", "a: .nan\n", "a: !!int x\n"] {
            let node = crate::parse::one(text).expect("YAML");
            assert!(object(&node).is_err(), "{text}");
        }
    }
}
