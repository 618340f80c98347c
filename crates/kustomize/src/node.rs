//! A YAML tree that remembers how each scalar was written, since that decides later what type it has.
//!
//! kustomize hands text from transformer to transformer as nodes of Go's YAML library. Most transformers set a text and
//! leave its type open; only when an object is written is a plain text without a tag looked at again. So a name that was
//! made of digits comes out as a number there, and here.

use crate::scalar::{self, Dialect, Resolved};

/// Where something stands: line and column from 1; a line of 0 is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

/// The type that a scalar was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// None yet: a plain text is looked at when it is written, a quoted one is a string.
    Open,
    /// `!!str`
    Str,
    /// `!!int`
    Int,
    /// `!!float`
    Float,
    /// `!!bool`
    Bool,
    /// `!!null`
    Null,
    /// `!!timestamp`
    Timestamp,
    /// `!!binary`
    Binary,
    /// `!!merge`: the key `<<`
    Merge,
    /// A tag of the user's own; the value is a string.
    Other,
}

/// How a scalar was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In single quotes.
    Single,
    /// In double quotes.
    Double,
    /// After `|`.
    Literal,
    /// After `>`.
    Folded,
}

/// A scalar.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// The text after escapes and folding.
    pub text: String,
    /// Its type, if it has one yet.
    pub tag: Tag,
    /// How it was written.
    pub style: Style,
    /// Whether the tag was written too.
    pub tagged: bool,
    /// Where it was written.
    pub place: Place,
}

impl Scalar {
    /// A plain text whose type is open.
    pub fn open(text: impl Into<String>) -> Scalar {
        Scalar { text: text.into(), tag: Tag::Open, style: Style::Plain, tagged: false, place: Place::default() }
    }

    /// A string, whatever its text looks like.
    pub fn string(text: impl Into<String>) -> Scalar {
        Scalar { text: text.into(), tag: Tag::Str, style: Style::Plain, tagged: false, place: Place::default() }
    }

    /// Whether it is a string or may become one: what kustomize calls a string value.
    pub fn is_string(&self) -> bool {
        matches!(self.tag, Tag::Str | Tag::Open)
    }

    /// What it stands for when it is written; the error is why it cannot be.
    pub fn value(&self) -> Result<Resolved, String> {
        let is_text = matches!(self.tag, Tag::Str | Tag::Open | Tag::Other);
        if is_text && self.style == Style::Folded {
            return Ok(match crate::emit::refolded(&self.text) {
                Some(text) => Resolved::Text(text),
                None => Resolved::Str,
            });
        }
        let resolved = match self.tag {
            Tag::Open if self.style != Style::Plain => return Ok(Resolved::Str),
            Tag::Str | Tag::Other | Tag::Merge => return Ok(Resolved::Str),
            Tag::Binary => return scalar::binary(&self.text),
            _ => scalar::resolve(&self.text, Dialect::Core),
        };
        // A type that the text shows by itself is not written; between quotes it does not show any more.
        let shows = self.style != Style::Plain && !self.tagged;
        let fits = match (&self.tag, &resolved) {
            (Tag::Open, _) => true,
            (Tag::Int, Resolved::Int(_) | Resolved::Uint(_)) => true,
            (Tag::Float, Resolved::Float(_)) => true,
            (Tag::Float, Resolved::Int(number)) => return Ok(Resolved::Float(*number as f64)),
            (Tag::Bool, Resolved::Bool(_)) => true,
            (Tag::Null, Resolved::Null) => true,
            (Tag::Timestamp, Resolved::Timestamp(_)) => true,
            _ => false,
        };
        if fits && shows {
            return Ok(Resolved::Str);
        }
        if fits { Ok(resolved) } else { Err(format!("cannot use {:?} as {}", self.text, self.tag.name())) }
    }
}

impl Tag {
    /// The tag in short.
    pub fn name(&self) -> &'static str {
        match self {
            Tag::Open | Tag::Str | Tag::Other => "a string",
            Tag::Int => "a whole number",
            Tag::Float => "a number",
            Tag::Bool => "true or false",
            Tag::Null => "null",
            Tag::Timestamp => "a time",
            Tag::Binary => "base64",
            Tag::Merge => "a merge key",
        }
    }
}

/// A node of a YAML document; aliases and merge keys are resolved when it is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A scalar.
    Scalar(Scalar),
    /// A map, in the order in which it was written.
    Map(Map),
    /// A list.
    List(Vec<Node>),
}

/// The fields of a map. A key that stands twice is kept twice: whoever writes the object complains.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    /// Keys and values in order.
    pub entries: Vec<(Scalar, Node)>,
}

impl Map {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    /// Takes a field out.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let index = self.entries.iter().position(|(name, _)| name.text == key)?;
        Some(self.entries.remove(index).1)
    }

    /// Adds a field at the end.
    pub fn push(&mut self, key: &str, value: Node) -> &mut Node {
        self.entries.push((Scalar::open(key), value));
        &mut self.entries.last_mut().expect("one was just added").1
    }

    /// Sets a field as kustomize sets fields: the text of a number or a truth value gets quotes, an old value's style
    /// stays, a null takes the field away.
    pub fn set(&mut self, key: &str, value: Node) {
        if value.is_null() {
            self.remove(key);
            return;
        }
        let value = guarded(value);
        match self.get_mut(key) {
            Some(old) => {
                let style = old.style();
                *old = value;
                if let (Node::Scalar(scalar), Some(style)) = (old, style) {
                    scalar.style = style;
                    scalar.tagged = false;
                }
            }
            None => {
                self.push(key, value);
            }
        }
    }

    /// Puts a field in place of another of its name, or at the end, as it is.
    pub fn insert(&mut self, key: Scalar, value: Node) {
        match self.entries.iter_mut().find(|(name, _)| name.text == key.text) {
            Some(entry) => *entry = (key, value),
            None => self.entries.push((key, value)),
        }
    }

    /// The map under a key, made when there is none.
    pub fn map_at(&mut self, key: &str) -> Option<&mut Map> {
        let index = match self.entries.iter().position(|(name, _)| name.text == key) {
            Some(index) => index,
            None => {
                self.push(key, Node::Map(Map::default()));
                self.entries.len() - 1
            }
        };
        let value = &mut self.entries[index].1;
        if value.is_null() {
            *value = Node::Map(Map::default());
        }
        value.as_map_mut()
    }
}

/// Quotes a string that YAML 1.1 would read as something else.
pub(crate) fn guarded(value: Node) -> Node {
    match value {
        Node::Scalar(mut scalar)
            if scalar.is_string() && scalar.style == Style::Plain && scalar::is_other_in_yaml_1_1(&scalar.text) =>
        {
            scalar.style = Style::Double;
            Node::Scalar(scalar)
        }
        value => value,
    }
}

impl Node {
    /// A string node.
    pub fn string(text: impl Into<String>) -> Node {
        Node::Scalar(Scalar::string(text))
    }

    /// A null.
    pub fn null() -> Node {
        Node::Scalar(Scalar {
            text: "null".into(),
            tag: Tag::Null,
            style: Style::Plain,
            tagged: false,
            place: Place::default(),
        })
    }

    /// Whether it is tagged null.
    pub fn is_null(&self) -> bool {
        matches!(self, Node::Scalar(scalar) if scalar.tag == Tag::Null)
    }

    /// Whether it is null, an empty map or an empty list.
    pub fn is_empty(&self) -> bool {
        match self {
            Node::Scalar(scalar) => scalar.tag == Tag::Null,
            Node::Map(map) => map.entries.is_empty(),
            Node::List(items) => items.is_empty(),
        }
    }

    /// The text, if it is a scalar.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Node::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The text of a scalar; of anything else the empty text, as Go's nodes have it.
    pub fn text(&self) -> &str {
        self.as_str().unwrap_or_default()
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Node::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The map, if it is one.
    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match self {
            Node::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match self {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a field, if it is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    /// What stands at the end of fields.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    fn style(&self) -> Option<Style> {
        match self {
            Node::Scalar(scalar) => Some(scalar.style),
            _ => None,
        }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Scalar(_) => "a single value",
            Node::Map(_) => "a map",
            Node::List(_) => "a list",
        }
    }

    /// Where it stands, as far as that is known.
    pub fn place(&self) -> Place {
        match self {
            Node::Scalar(scalar) => scalar.place,
            Node::Map(map) => map.entries.first().map_or(Place::default(), |(key, _)| key.place),
            Node::List(items) => items.first().map_or(Place::default(), Node::place),
        }
    }

    /// Sets a scalar as kustomize sets one: the old style stays.
    pub fn set_scalar(&mut self, text: impl Into<String>, tag: Tag) -> Result<(), String> {
        match self {
            Node::Scalar(scalar) => {
                scalar.text = text.into();
                scalar.tag = tag;
                Ok(())
            }
            other => Err(format!("expected a single value but found {}", other.kind())),
        }
    }
}
