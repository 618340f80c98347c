//! The reading of Go templates (`text/template/parse`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Command, DEEPEST, Datum, Mistake, Node, Pipe, Spot, Template, What, Word, functions, line_and_column};

/// Reads a template.
pub fn parse(source: &str) -> Result<Template, Mistake> {
    let mut parser =
        Parser { source, at: 0, depth: 0, loops: 0, variables: vec!["$".to_owned()], named: BTreeMap::new() };
    let (body, end) = parser.nodes()?;
    match end {
        End::Text => Ok(Template { source: source.to_owned(), body, named: parser.named }),
        End::Closing => Err(parser.wrong("unexpected {{end}}")),
        End::Else => Err(parser.wrong("unexpected {{else}}")),
    }
}

/// What a list of nodes ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Text,
    Closing,
    Else,
}

struct Parser<'t> {
    source: &'t str,
    at: usize,
    depth: usize,
    loops: usize,
    variables: Vec<String>,
    named: BTreeMap<String, Vec<Node>>,
}

/// The words that begin an action with a meaning of its own.
const KEYWORDS: [&str; 9] = ["if", "range", "with", "define", "block", "template", "else", "end", "break"];

impl Parser<'_> {
    fn wrong(&self, words: impl std::fmt::Display) -> Mistake {
        Mistake(format!("{}: {words}", line_and_column(self.source, self.at).0))
    }

    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn blanks(&mut self) -> bool {
        let before = self.at;
        self.at = self.source.len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at > before
    }

    /// The nodes up to `{{end}}`, `{{else` or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, End), Mistake> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong(format!("the template nests deeper than {DEEPEST} levels")));
        }
        let mut nodes = Vec::new();
        loop {
            let found = self.rest().find("{{");
            let end = self.at + found.unwrap_or(self.rest().len());
            let mut text = &self.source[self.at..end];
            self.at = end;
            if found.is_some() {
                self.at += 2;
                // A marker before which blanks of the text go has a blank behind it.
                if self.rest().starts_with('-') && self.rest()[1..].starts_with([' ', '\t', '\r', '\n']) {
                    text = text.trim_end_matches([' ', '\t', '\r', '\n']);
                    self.at += 1;
                }
            }
            if !text.is_empty() {
                nodes.push(Node::Text(text.to_owned()));
            }
            if found.is_none() {
                self.depth -= 1;
                return Ok((nodes, End::Text));
            }
            self.blanks();
            if self.take("/*") {
                let end = self.rest().find("*/").ok_or_else(|| self.wrong("unclosed comment"))?;
                self.at += end + 2;
                self.close()?;
                continue;
            }
            let end = match self.keyword() {
                Some("end") => End::Closing,
                Some("else") => End::Else,
                keyword => {
                    self.action(keyword, &mut nodes)?;
                    continue;
                }
            };
            self.at += if end == End::Closing { 3 } else { 4 };
            if end == End::Closing {
                self.close()?;
            }
            self.depth -= 1;
            return Ok((nodes, end));
        }
    }

    /// Fails where a word goes on with a letter that can neither be in it nor end it.
    fn ended_word(&self) -> Result<(), Mistake> {
        match self.rest().chars().next() {
            Some(letter) if !" \t\r\n.,|:=)(".contains(letter) && !self.rest().starts_with("}}") => {
                Err(self.wrong(format!("bad character U+{:04X} '{letter}'", u32::from(letter))))
            }
            _ => Ok(()),
        }
    }

    /// The keyword that stands here.
    fn keyword(&self) -> Option<&'static str> {
        let word = self.rest().split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()?;
        KEYWORDS.into_iter().chain(["continue"]).find(|known| *known == word)
    }

    fn close(&mut self) -> Result<(), Mistake> {
        self.blanks();
        let blank = self.source[..self.at].ends_with([' ', '\t', '\r', '\n']);
        if blank && self.take("-}}") {
            self.blanks();
            return Ok(());
        }
        if self.take("}}") {
            return Ok(());
        }
        match self.rest().chars().next() {
            None => Err(self.wrong("unclosed action")),
            Some(letter) => Err(self.wrong(format!("unexpected {:?} in command", letter.to_string()))),
        }
    }

    fn at_close(&self) -> bool {
        let rest = self.rest().trim_start_matches([' ', '\t', '\r', '\n']);
        rest.starts_with("}}") || rest.starts_with("-}}")
    }

    fn action(&mut self, keyword: Option<&'static str>, into: &mut Vec<Node>) -> Result<(), Mistake> {
        let Some(keyword) = keyword else {
            let pipe = self.pipe()?;
            self.close()?;
            into.push(Node::Action(pipe));
            return Ok(());
        };
        let at = self.at;
        self.at += keyword.len();
        self.ended_word()?;
        self.blanks();
        match keyword {
            "if" | "with" | "range" => {
                let (pipe, body, other) = self.control(keyword)?;
                into.push(match keyword {
                    "if" => Node::If(pipe, body, other),
                    "with" => Node::With(pipe, body, other),
                    _ => Node::Range(pipe, body, other),
                });
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(self.wrong(format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                }
                self.close()?;
                into.push(if keyword == "break" { Node::Break } else { Node::Continue });
            }
            "template" | "block" | "define" => {
                let name = self.text()?.ok_or_else(|| self.wrong(format!("unexpected word in {keyword} clause")))?;
                let pipe = if keyword == "define" || self.at_close() { None } else { Some(self.pipe()?) };
                let spot = Spot { at, text: self.source[at..self.at].trim_end().to_owned() };
                self.close()?;
                if keyword != "template" {
                    let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
                    let loops = std::mem::take(&mut self.loops);
                    let body = self.ended()?;
                    (self.variables, self.loops) = (outer, loops);
                    self.named.insert(name.clone(), body);
                }
                if keyword != "define" {
                    into.push(Node::Call(spot, name, pipe));
                }
            }
            _ => return Err(self.wrong(format!("unexpected {{{{{keyword}}}}}"))),
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Vec<Node>, Mistake> {
        match self.nodes()? {
            (nodes, End::Closing) => Ok(nodes),
            (_, End::Else) => Err(self.wrong("unexpected {{else}}")),
            (_, End::Text) => Err(self.wrong("unexpected EOF")),
        }
    }

    fn control(&mut self, keyword: &str) -> Result<(Pipe, Vec<Node>, Vec<Node>), Mistake> {
        let known = self.variables.len();
        let pipe = self.pipe()?;
        self.close()?;
        self.loops += usize::from(keyword == "range");
        let (body, end) = self.nodes()?;
        self.loops -= usize::from(keyword == "range");
        let other = match end {
            End::Text => return Err(self.wrong("unexpected EOF")),
            End::Closing => Vec::new(),
            End::Else => {
                self.blanks();
                // `{{else if}}` is an `if` in the `else`, and one `{{end}}` ends both.
                if keyword != "range" && self.keyword() == Some(keyword) {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Err(self.wrong(format!("the template nests deeper than {DEEPEST} levels")));
                    }
                    self.at += keyword.len();
                    self.blanks();
                    let (pipe, body, other) = self.control(keyword)?;
                    self.depth -= 1;
                    vec![if keyword == "if" { Node::If(pipe, body, other) } else { Node::With(pipe, body, other) }]
                } else {
                    self.close()?;
                    self.ended()?
                }
            }
        };
        self.variables.truncate(known);
        Ok((pipe, body, other))
    }

    fn pipe(&mut self) -> Result<Pipe, Mistake> {
        self.blanks();
        let mut pipe = Pipe { variables: Vec::new(), assigns: false, commands: Vec::new() };
        let before = self.at;
        while let Some(name) = self.variable_name() {
            pipe.variables.push(name);
            self.blanks();
            if self.take(":=") || (self.rest().starts_with('=') && self.take("=")) {
                pipe.assigns = !self.source[..self.at].ends_with(":=");
                break;
            }
            if pipe.variables.len() > 1 || !self.take(",") {
                // It was a value.
                self.at = before;
                pipe.variables.clear();
                break;
            }
            self.blanks();
        }
        loop {
            self.blanks();
            pipe.commands.push(self.command()?);
            self.blanks();
            if !self.take("|") {
                break;
            }
        }
        if !pipe.assigns {
            self.variables.extend(pipe.variables.iter().cloned());
        } else if let Some(name) = pipe.variables.iter().find(|name| !self.variables.contains(name)) {
            return Err(self.wrong(format!("undefined variable {name:?}")));
        }
        Ok(pipe)
    }

    fn command(&mut self) -> Result<Command, Mistake> {
        let at = self.at;
        let mut words = Vec::new();
        let mut end = self.at;
        while !self.at_close() && !self.rest().starts_with(['|', ')']) {
            words.push(self.word()?);
            end = self.at;
            let blanks = self.blanks();
            if !blanks && !self.at_close() && !self.rest().starts_with(['|', ')']) {
                return Err(match self.rest().chars().next() {
                    None => self.wrong("unclosed action"),
                    Some(letter) => self.wrong(format!("unexpected {:?} in operand", letter.to_string())),
                });
            }
        }
        if words.is_empty() {
            return Err(self.wrong("missing value for command"));
        }
        Ok(Command { spot: Spot { at, text: self.source[at..end].to_owned() }, words })
    }

    fn identifier(&mut self) -> Option<String> {
        let rest = self.rest();
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        self.at += end;
        (end > 0).then_some(name)
    }

    fn variable_name(&mut self) -> Option<String> {
        self.take("$").then(|| format!("${}", self.identifier().unwrap_or_default()))
    }

    /// `.a.b`: the fields, and where the second one stands, which is where Go says that a chain is.
    fn fields(&mut self) -> (Vec<String>, Option<usize>) {
        let (mut fields, mut second) = (Vec::new(), None);
        loop {
            let before = self.at;
            if !self.take(".") {
                break;
            }
            let Some(name) = self.identifier() else {
                self.at = before;
                break;
            };
            if fields.len() == 1 {
                second = Some(before);
            }
            fields.push(name);
        }
        (fields, second)
    }

    fn word(&mut self) -> Result<Word, Mistake> {
        let at = self.at;
        let mut place = at;
        let first = self.rest().chars().next();
        let what = match first {
            None => return Err(self.wrong("unclosed action")),
            Some('.') if !self.rest()[1..].starts_with(|letter: char| letter.is_ascii_digit()) => {
                let (fields, second) = self.fields();
                if fields.is_empty() {
                    self.take(".");
                    What::Dot
                } else {
                    place = second.unwrap_or(at);
                    What::Fields(fields)
                }
            }
            Some('$') => {
                let name = self.variable_name().unwrap_or_default();
                if !self.variables.contains(&name) {
                    return Err(self.wrong(format!("undefined variable {name:?}")));
                }
                let before = self.at;
                let (fields, _) = self.fields();
                place = if fields.is_empty() { at } else { before };
                What::Variable(name, fields)
            }
            Some('(') => {
                self.take("(");
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(self.wrong(format!("the template nests deeper than {DEEPEST} levels")));
                }
                let pipe = self.pipe()?;
                self.depth -= 1;
                self.blanks();
                if !self.take(")") {
                    return Err(self.wrong("unclosed left paren"));
                }
                let (fields, _) = self.fields();
                What::Pipe(Box::new(pipe), fields)
            }
            Some('"' | '`' | '\'') => match self.text()? {
                Some(text) => What::Literal(Datum::Value(Value::String(text))),
                None => self.letter()?,
            },
            Some(digit) if digit.is_ascii_digit() || matches!(digit, '+' | '-' | '.') => self.number()?,
            Some(letter) if letter.is_alphabetic() || letter == '_' => {
                match self.identifier().unwrap_or_default().as_str() {
                    "true" => What::Literal(Datum::Value(true.into())),
                    "false" => What::Literal(Datum::Value(false.into())),
                    "nil" => What::Nil,
                    name if functions::NAMES.contains(&name) => What::Function(name.to_owned()),
                    name => return Err(self.wrong(format!("function {name:?} not defined"))),
                }
            }
            Some(letter) => return Err(self.wrong(format!("unexpected {:?} in command", letter.to_string()))),
        };
        if matches!(what, What::Fields(_) | What::Variable(..) | What::Function(_) | What::Nil) {
            self.ended_word()?;
        }
        Ok(Word { spot: Spot { at: place, text: self.source[at..self.at].to_owned() }, what })
    }

    fn number(&mut self) -> Result<What, Mistake> {
        let rest = self.rest();
        let end = rest
            .find(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '+' | '-' | '.' | '_'))
            .unwrap_or(rest.len());
        let text = rest[..end].to_owned();
        let plain = text.replace('_', "");
        let (sign, digits) = match plain.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
        };
        let radix = |prefix: &str| digits.strip_prefix(prefix).or_else(|| digits.strip_prefix(&prefix.to_uppercase()));
        let whole = match (radix("0x"), radix("0o"), radix("0b")) {
            (Some(digits), ..) => i64::from_str_radix(digits, 16).ok(),
            (_, Some(digits), _) => i64::from_str_radix(digits, 8).ok(),
            (.., Some(digits)) => i64::from_str_radix(digits, 2).ok(),
            _ => digits.parse().ok(),
        };
        let what = match (whole, plain.parse::<f64>()) {
            (Some(whole), _) => Datum::Int(sign * whole),
            (None, Ok(float)) if float.is_finite() => Datum::Value(float.into()),
            _ => return Err(self.wrong(format!("bad number syntax: {text:?}"))),
        };
        self.at += end;
        Ok(What::Literal(what))
    }

    fn letter(&mut self) -> Result<What, Mistake> {
        let text = self.quoted('\'')?;
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Ok(What::Literal(Datum::Int(i64::from(u32::from(letter))))),
            _ => Err(self.wrong(format!("malformed character constant: '{text}'"))),
        }
    }

    /// A text in quotes, if there is one.
    fn text(&mut self) -> Result<Option<String>, Mistake> {
        if self.rest().starts_with('"') {
            return self.quoted('"').map(Some);
        }
        if !self.take("`") {
            return Ok(None);
        }
        let end = self.rest().find('`').ok_or_else(|| self.wrong("unterminated raw quoted string"))?;
        let text = self.rest()[..end].to_owned();
        self.at += end + 1;
        Ok(Some(text))
    }

    fn quoted(&mut self, quote: char) -> Result<String, Mistake> {
        let unterminated = match quote {
            '"' => "unterminated quoted string",
            _ => "unterminated character constant",
        };
        let mut text = String::new();
        let inside = self.at + 1;
        let mut letters = self.source[inside..].char_indices();
        while let Some((offset, letter)) = letters.next() {
            match letter {
                '\n' => break,
                '\\' => {
                    let escaped = letters.next().map(|(_, letter)| letter);
                    let digits = |count: usize, letters: &mut std::str::CharIndices<'_>| {
                        let digits: String = letters.by_ref().take(count).map(|(_, letter)| letter).collect();
                        u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
                    };
                    let letter = match escaped {
                        Some('n') => Some('\n'),
                        Some('t') => Some('\t'),
                        Some('r') => Some('\r'),
                        Some('a') => Some('\u{7}'),
                        Some('b') => Some('\u{8}'),
                        Some('f') => Some('\u{c}'),
                        Some('v') => Some('\u{b}'),
                        Some('x') => digits(2, &mut letters),
                        Some('u') => digits(4, &mut letters),
                        Some('U') => digits(8, &mut letters),
                        Some(letter @ ('\\' | '"' | '\'')) => Some(letter),
                        _ => None,
                    };
                    text.push(letter.ok_or_else(|| self.wrong("invalid syntax"))?);
                }
                letter if letter == quote => {
                    self.at = inside + offset + quote.len_utf8();
                    return Ok(text);
                }
                letter => text.push(letter),
            }
        }
        Err(self.wrong(unterminated))
    }
}
