//! Text to nodes: documents, anchors, aliases and merge keys.
//!
//! Aliases are copied in place as kustomize does it, within bounds: a few lines of YAML can stand for gigabytes.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag as ParserTag};

use crate::error::{BuildError, Mistake, Source};
use crate::node::{Map, Node, Place, Scalar, Style, Tag};
use crate::scalar::{self, Dialect, Resolved};

/// How many nodes aliases may add to a document: far beyond what anybody writes, and some tens of megabytes.
const MOST_COPIES: usize = 250_000;
/// How deep a document may be once its aliases are copied.
const DEEPEST: usize = 400;

/// The objects of a file: its documents without the empty ones.
///
/// Documents are cut apart at lines that begin with `---` before any YAML is read, as kustomize does.
pub fn documents(source: &Source) -> Result<Vec<Node>, BuildError> {
    let text: &str = &source.text;
    let mut found = Vec::new();
    let mut mistakes = Vec::new();
    let mut line = 0;
    let pieces = split(text);
    for (piece, separator) in pieces {
        match document(piece, line) {
            Ok(Some(node)) if !node.is_null() => found.push(node),
            Ok(_) => {}
            Err((place, message)) => mistakes.push(explain(source, place, &message)),
        }
        line += count_lines(piece);
        if let Some(separator) = separator {
            let rest = separator.trim_start_matches('-').trim();
            if !separator.starts_with("---") || (!rest.is_empty() && !rest.starts_with('#')) {
                let place = Place { line: line + 1, column: 1 };
                let hint = Some("put what follows the three dashes on the next line".to_owned());
                mistakes.push(source.mistake(place, format!("invalid document separator: {separator}"), hint));
            }
            line += 1;
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(BuildError::Mistakes(mistakes)) }
}

fn count_lines(text: &str) -> u32 {
    u32::try_from(text.bytes().filter(|byte| *byte == b'\n').count()).unwrap_or(u32::MAX)
}

/// The pieces of a stream and the separator line after each.
fn split(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut from = 0;
    while let Some(found) = text[from..].find("\n---") {
        let at = from + found;
        let Some(end) = text[at + 1..].find('\n').map(|end| at + 1 + end) else { break };
        pieces.push((&text[start..=at], Some(&text[at + 1..end])));
        start = end + 1;
        // The next separator needs a line break of its own before it.
        from = start;
    }
    pieces.push((&text[start..], None));
    pieces
}

/// The first document of a text, as kustomizations and configurations are read.
pub fn first(source: &Source) -> Result<Option<Node>, BuildError> {
    document(&source.text, 0).map_err(|(place, message)| BuildError::Mistakes(vec![explain(source, place, &message)]))
}

/// One document without a name; the error is what is wrong.
pub fn one(text: &str) -> Result<Node, String> {
    document(text, 0).map(|node| node.unwrap_or_else(Node::null)).map_err(|(_, message)| message)
}

fn explain(source: &Source, place: Place, message: &str) -> Mistake {
    let line = source.text.lines().nth((place.line as usize).saturating_sub(1)).unwrap_or_default();
    let indent = &line[..line.len() - line.trim_start().len()];
    let hint = if indent.contains('\t') {
        Some("YAML is indented with blanks; here is a tab".to_owned())
    } else if line.contains(": ") && message.contains("mapping values") {
        Some("put quotes around a value that contains \": \"".to_owned())
    } else if line.trim_start().starts_with(['@', '`', '%']) || line.contains(": @") || line.contains(": %") {
        Some("put quotes around a value that begins with a special character".to_owned())
    } else {
        None
    };
    source.mistake(place, message, hint)
}

type Wrong = (Place, String);

fn document(text: &str, line: u32) -> Result<Option<Node>, Wrong> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.block_scalar_eof_without_line_feed = true;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        Reader { parser: Parser::new_from_str_with_options(text, options), line, anchors: HashMap::new(), copies: 0 };
    loop {
        match reader.next()? {
            None | Some((Event::StreamEnd | Event::DocumentEnd, _)) => return Ok(None),
            Some((Event::StreamStart | Event::DocumentStart(..), _)) => {}
            Some((event, span)) => {
                let (node, _) = reader.node(event, span)?;
                // The end of the document may still show that it is none.
                reader.next()?;
                return Ok(Some(node));
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    line: u32,
    /// What an anchor stands for, how many nodes that are, and how deep it is.
    anchors: HashMap<usize, (Node, usize, usize)>,
    copies: usize,
}

/// How many nodes a node has, itself included, and how deep it is.
type Size = (usize, usize);

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Wrong> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => {
                let marker = error.marker();
                Err((self.place(marker.line(), marker.col()), error.info()))
            }
        }
    }

    fn place(&self, line: usize, column: usize) -> Place {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Place { line: self.line.saturating_add(narrow(line)), column: narrow(column).saturating_add(1) }
    }

    fn must(&mut self, place: Place) -> Result<(Event<'t>, Span), Wrong> {
        self.next()?.ok_or_else(|| (place, "the document ends too early".to_owned()))
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<(Node, Size), Wrong> {
        let place = self.place(span.start.line(), span.start.col());
        let (node, size, anchor) = match event {
            Event::Alias(id) => {
                let Some((node, nodes, depth)) = self.anchors.get(&id) else {
                    return Err((place, "an anchor contains itself".to_owned()));
                };
                self.copies += nodes;
                if self.copies > MOST_COPIES {
                    return Err((place, "the document contains excessive aliasing".to_owned()));
                }
                return Ok((node.clone(), (*nodes, *depth)));
            }
            Event::Scalar(text, style, anchor, tag) => {
                // The parser writes a value that is not there as `~`.
                let is_nothing = style == ScalarStyle::Plain && span.is_empty();
                let text = if is_nothing { String::new() } else { text.into_owned() };
                let node = Node::Scalar(scalar(text, style, tag.as_deref(), place));
                (node, (1, 1), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                let mut size = (1, 1);
                loop {
                    let (event, span) = self.must(place)?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    let (item, inner) = self.node(event, span)?;
                    items.push(item);
                    size = (size.0 + inner.0, size.1.max(inner.1 + 1));
                }
                (Node::List(items), size, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let (map, size) = self.map(place)?;
                (Node::Map(map), size, anchor)
            }
            _ => return Err((place, "unexpected content".to_owned())),
        };
        if size.1 > DEEPEST {
            return Err((place, format!("deeper than {DEEPEST} levels")));
        }
        if anchor != 0 {
            // Anchors that nobody refers to cost a copy too, so they count as well.
            self.copies += size.0;
            if self.copies > MOST_COPIES {
                return Err((place, "the document contains excessive aliasing".to_owned()));
            }
            self.anchors.insert(anchor, (node.clone(), size.0, size.1));
        }
        Ok((node, size))
    }

    fn map(&mut self, place: Place) -> Result<(Map, Size), Wrong> {
        let mut map = Map::default();
        let mut merged = None;
        let mut size = (1, 1);
        loop {
            let (event, span) = self.must(place)?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let (key, inner) = self.node(event, span)?;
            size = (size.0 + inner.0, size.1.max(inner.1 + 1));
            let key = match key {
                Node::Scalar(key) => key,
                other => return Err((other.place(), format!("{} is no key", other.kind()))),
            };
            let (event, span) = self.must(place)?;
            let (value, inner) = self.node(event, span)?;
            size = (size.0 + inner.0, size.1.max(inner.1 + 1));
            if key.tag != Tag::Merge {
                map.entries.push((key, value));
                continue;
            }
            if merged.is_some() {
                return Err((key.place, "duplicate merge key".to_owned()));
            }
            merged = Some((key.place, value));
        }
        if let Some((place, merged)) = merged {
            let sources = match merged {
                Node::Map(source) => vec![source],
                Node::List(items) => {
                    let maps = items.into_iter().map(|item| match item {
                        Node::Map(map) => Ok(map),
                        _ => Err((place, "map merge requires map or sequence of maps as the value".to_owned())),
                    });
                    maps.collect::<Result<_, _>>()?
                }
                Node::Scalar(_) => {
                    return Err((place, "map merge requires map or sequence of maps as the value".to_owned()));
                }
            };
            // What the map says itself wins, then what is merged first.
            for (key, value) in sources.into_iter().flat_map(|source| source.entries) {
                if map.get(&key.text).is_none() {
                    map.entries.push((key, value));
                }
            }
        }
        Ok((map, size))
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&ParserTag>, place: Place) -> Scalar {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::Single,
        ScalarStyle::DoubleQuoted => Style::Double,
        ScalarStyle::Literal => Style::Literal,
        ScalarStyle::Folded => Style::Folded,
    };
    let tagged = tag.is_some();
    let tag = match tag {
        None if style != Style::Plain => Tag::Str,
        None => match scalar::resolve(&text, Dialect::Core) {
            Resolved::Null => Tag::Null,
            Resolved::Bool(_) => Tag::Bool,
            Resolved::Int(_) | Resolved::Uint(_) => Tag::Int,
            Resolved::Float(_) => Tag::Float,
            Resolved::Timestamp(_) => Tag::Timestamp,
            Resolved::Merge => Tag::Merge,
            Resolved::Str | Resolved::Text(_) => Tag::Str,
        },
        Some(tag) if tag.handle() == "tag:yaml.org,2002:" => match tag.suffix() {
            "str" => Tag::Str,
            "int" => Tag::Int,
            "float" => Tag::Float,
            "bool" => Tag::Bool,
            "null" => Tag::Null,
            "timestamp" => Tag::Timestamp,
            "binary" => Tag::Binary,
            "merge" => Tag::Merge,
            _ => Tag::Other,
        },
        // The tag `!` alone means a string.
        Some(_) => Tag::Other,
    };
    Scalar { text, tag, style, tagged, place }
}
