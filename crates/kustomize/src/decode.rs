//! Reading settings out of nodes: every mistake with its place, all of them at once.

use crate::error::{BuildError, Mistake, Source};
use crate::node::{Map, Node, Place, Scalar, Style, Tag};
use crate::scalar::{self, Dialect, Resolved};

/// Reads one file's settings.
pub(crate) struct Decoder<'s> {
    source: &'s Source,
    /// Kustomizations refuse what they do not know; configurations of transformers ignore it and take numbers as texts.
    strict: bool,
    mistakes: Vec<Mistake>,
}

/// The fields of a map that were asked for so far.
pub(crate) struct Object<'n> {
    map: &'n Map,
    what: &'static str,
    known: Vec<&'static str>,
}

impl<'n> Object<'n> {
    /// The value of a field; the last of several counts, and the case of letters does not.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        let fits = |key: &&(Scalar, Node)| key.0.text.eq_ignore_ascii_case(name);
        self.map.entries.iter().rfind(fits).map(|(_, value)| value).filter(|value| !value.is_null())
    }
}

impl<'s> Decoder<'s> {
    pub(crate) fn new(source: &'s Source, strict: bool) -> Decoder<'s> {
        Decoder { source, strict, mistakes: Vec::new() }
    }

    /// The end: what was read, or the mistakes.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, BuildError> {
        if self.mistakes.is_empty() { Ok(value) } else { Err(BuildError::Mistakes(self.mistakes)) }
    }

    pub(crate) fn mistake(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        self.mistakes.push(self.source.mistake(place, message, hint));
    }

    pub(crate) fn object<'n>(&mut self, node: &'n Node, what: &'static str) -> Object<'n> {
        static NOTHING: Map = Map { entries: Vec::new() };
        let map = match node {
            Node::Map(map) => map,
            node if node.is_null() => &NOTHING,
            other => {
                self.mistake(other.place(), format!("{what} must be a map, not {}", other.kind()), None);
                &NOTHING
            }
        };
        Object { map, what, known: Vec::new() }
    }

    /// Complains about fields that nobody asked for.
    pub(crate) fn close(&mut self, object: Object<'_>) {
        if !self.strict {
            return;
        }
        for (key, _) in &object.map.entries {
            if object.known.iter().any(|known| known.eq_ignore_ascii_case(&key.text)) {
                continue;
            }
            let hint = nearest(&key.text, &object.known).map(|name| format!("did you mean {name:?}?"));
            self.mistake(key.place, format!("{} has no field {:?}", object.what, key.text), hint);
        }
    }

    fn resolve(&self, scalar: &Scalar) -> Resolved {
        if !self.strict {
            return scalar.value().unwrap_or(Resolved::Str);
        }
        match scalar.tag {
            Tag::Binary => scalar.value().unwrap_or(Resolved::Str),
            _ if scalar.style != Style::Plain || scalar.tagged => Resolved::Str,
            _ => scalar::resolve(&scalar.text, Dialect::Yaml11),
        }
    }

    pub(crate) fn text(&mut self, node: Option<&Node>, what: &str) -> String {
        let Some(node) = node else { return String::new() };
        let Node::Scalar(scalar) = node else {
            self.mistake(node.place(), format!("{what} must be a text, not {}", node.kind()), None);
            return String::new();
        };
        match self.resolve(scalar) {
            Resolved::Str | Resolved::Timestamp(_) | Resolved::Merge => scalar.text.clone(),
            Resolved::Text(text) => text,
            Resolved::Null => String::new(),
            value if !self.strict => plain(&value),
            _ => {
                let hint = Some(format!("put quotes around it: \"{}\"", scalar.text));
                self.mistake(scalar.place, format!("{what} must be a text, not {}", scalar.text), hint);
                String::new()
            }
        }
    }

    pub(crate) fn truth(&mut self, node: Option<&Node>, what: &str) -> bool {
        let Some(node) = node else { return false };
        match node {
            Node::Scalar(scalar) => match self.resolve(scalar) {
                Resolved::Bool(value) => return value,
                Resolved::Null => return false,
                _ => {}
            },
            Node::Map(_) | Node::List(_) => {}
        }
        self.mistake(node.place(), format!("{what} must be true or false"), None);
        false
    }

    pub(crate) fn number(&mut self, node: Option<&Node>, what: &str) -> i64 {
        let Some(node) = node else { return 0 };
        match node {
            Node::Scalar(scalar) => match self.resolve(scalar) {
                Resolved::Int(value) => return value,
                // JSON knows one kind of number: 3.0 is 3 there.
                Resolved::Float(value) if value == value.trunc() && value.abs() < 9e15 => return value as i64,
                Resolved::Null => return 0,
                _ => {}
            },
            Node::Map(_) | Node::List(_) => {}
        }
        self.mistake(node.place(), format!("{what} must be a whole number"), None);
        0
    }

    pub(crate) fn list<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        mut read: impl FnMut(&mut Self, &Node) -> T,
    ) -> Vec<T> {
        match node {
            None => Vec::new(),
            Some(Node::List(items)) => items.iter().map(|item| read(self, item)).collect(),
            Some(other) => {
                let hint = Some("begin each item with \"- \"".to_owned());
                self.mistake(other.place(), format!("{what} must be a list, not {}", other.kind()), hint);
                Vec::new()
            }
        }
    }

    pub(crate) fn texts(&mut self, node: Option<&Node>, what: &'static str) -> Vec<String> {
        self.list(node, what, |decoder, item| decoder.text(Some(item), what))
    }

    /// A map of texts, sorted by key.
    pub(crate) fn pairs(&mut self, node: Option<&Node>, what: &'static str) -> Vec<(String, String)> {
        let Some(node) = node else { return Vec::new() };
        let object = self.object(node, what);
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in &object.map.entries {
            let value = self.text(Some(value), what);
            pairs.retain(|(known, _)| *known != key.text);
            pairs.push((key.text.clone(), value));
        }
        pairs.sort();
        pairs
    }
}

/// A value as Go's YAML library turns it into a text.
fn plain(value: &Resolved) -> String {
    match value {
        Resolved::Bool(value) => value.to_string(),
        Resolved::Int(value) => value.to_string(),
        Resolved::Uint(value) => value.to_string(),
        Resolved::Float(value) => scalar::float(f64::from(*value as f32)).unwrap_or_else(|| value.to_string()),
        _ => String::new(),
    }
}

/// The known name that differs least, if any is near.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = |candidate: &&str| {
        let (a, b) = (name.to_lowercase(), candidate.to_lowercase());
        distance(a.as_bytes(), b.as_bytes())
    };
    let best = known.iter().copied().min_by_key(near)?;
    (near(&best) * 3 <= best.len().max(3)).then_some(best)
}

fn distance(one: &[u8], other: &[u8]) -> usize {
    // Names that nobody could have meant need no exact answer.
    const LONGEST: usize = 64;
    if one.len() > LONGEST || other.len() > LONGEST {
        return LONGEST;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (index, wanted) in other.iter().enumerate() {
            let next = (diagonal + usize::from(letter != wanted)).min(row[index] + 1).min(row[index + 1] + 1);
            diagonal = row[index + 1];
            row[index + 1] = next;
        }
    }
    row[other.len()]
}
