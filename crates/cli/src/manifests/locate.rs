//! Where in a YAML text a field stands. Only asked when something is wrong, so the text is read once more for it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// One step of the way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a map.
    Key(String),
    /// An item of a list, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Step {
        Step::Key(key.to_owned())
    }
}

impl Step {
    /// The parts of a path as the API server writes it, `spec.containers[0].image`: names, and what stands in brackets with
    /// its brackets.
    pub fn parts(text: &str) -> Vec<&str> {
        let mut parts = Vec::new();
        let mut rest = text.trim_start_matches('.');
        while !rest.is_empty() {
            let end = match rest.strip_prefix('[') {
                Some(inside) => inside.find(']').map_or(rest.len(), |end| end + 2),
                None => rest.find(['.', '[']).unwrap_or(rest.len()),
            };
            parts.push(&rest[..end]);
            rest = rest[end..].trim_start_matches('.');
        }
        parts
    }
}

/// A place in a text, from 1, and how many characters of the line are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

/// The place of a path, or of what is nearest above it. The value is meant where it is a short one, else the key.
pub fn locate(text: &str, path: &[Step]) -> Option<Found> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins, with_snippet: false };
    let mut best = None;
    // What cannot be read any further leaves the best place up to there.
    let _ = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Seek { path, best: &mut best }.deserialize(deserializer)
    });
    let start = || {
        let (index, line) =
            text.lines().enumerate().find(|(_, line)| !line.trim_start().is_empty() && !line.starts_with('#'))?;
        Some(Found { line: index + 1, column: 1, width: line.trim_end().chars().count().max(1) })
    };
    best.or_else(start)
}

fn found(location: serde_saphyr::Location, width: usize) -> Option<Found> {
    let number = |value: u64| usize::try_from(value).ok().filter(|value| *value > 0);
    Some(Found { line: number(location.line())?, column: number(location.column())?, width: width.max(1) })
}

struct Seek<'s> {
    path: &'s [Step],
    best: &'s mut Option<Found>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let wanted = match self.path.first() {
            Some(Step::Index(index)) => Some(*index),
            _ => None,
        };
        let mut index = 0;
        loop {
            let more = if Some(index) == wanted {
                let rest = &self.path[1..];
                list.next_element_seed(Item { path: rest, best: &mut *self.best })?.is_some()
            } else {
                list.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let wanted = match self.path.first() {
            Some(Step::Key(key)) => Some(key.as_str()),
            _ => None,
        };
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if Some(key.value.as_str()) != wanted {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            *self.best = found(key.referenced, key.value.chars().count());
            let rest = &self.path[1..];
            if rest.is_empty() {
                let value = map.next_value::<Spanned<Short>>()?;
                if let Some(width) = value.value.0 {
                    *self.best = found(value.referenced, width).or(*self.best);
                }
            } else {
                map.next_value_seed(Seek { path: rest, best: &mut *self.best })?;
            }
        }
        Ok(())
    }
}

/// The item of a list that the path goes through. Its place is that of its first key or of itself.
struct Item<'s> {
    path: &'s [Step],
    best: &'s mut Option<Found>,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            let value = <Spanned<Short> as serde::Deserialize>::deserialize(deserializer)?;
            *self.best = found(value.referenced, value.value.0.unwrap_or(1)).or(*self.best);
            return Ok(());
        }
        Seek { path: self.path, best: self.best }.deserialize(deserializer)
    }
}

/// How long a scalar is; nothing for lists and maps.
struct Short(Option<usize>);

impl<'de> serde::Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Short, D::Error> {
        struct Length;
        impl<'de> Visitor<'de> for Length {
            type Value = Short;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E: Error>(self) -> Result<Short, E> {
                Ok(Short(None))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Short, E> {
                Ok(Short(Some(value.to_string().len())))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Short, E> {
                Ok(Short(Some(value.to_string().len())))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Short, E> {
                Ok(Short(Some(value.to_string().len())))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Short, E> {
                Ok(Short(Some(value.to_string().len())))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Short, E> {
                Ok(Short(Some(value.lines().next().map_or(1, |line| line.chars().count()))))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Short, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Short(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Short, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Short(None))
            }
        }
        deserializer.deserialize_any(Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = "# first\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: a\n    image: x\n  - name: b\n    imagee: nginx\n  list: [1, 22]\n";
        let check = |path: &str, expected: (usize, usize, usize)| {
            let step = |part: &str| match part.trim_matches(['[', ']']).parse() {
                Ok(index) => Step::Index(index),
                Err(_) => Step::from(part),
            };
            let steps: Vec<Step> = Step::parts(path).into_iter().map(step).collect();
            let got = locate(text, &steps).expect(path);
            assert_eq!((got.line, got.column, got.width), expected, "{path}");
        };
        check("", (2, 1, 9));
        check("metadata.name", (3, 9, 3));
        check(".spec.containers[1].imagee", (9, 13, 5));
        check("spec.containers[1].missing", (5, 3, 10));
        check("spec.list[1]", (10, 13, 2));
        assert_eq!(Step::parts("metadata.labels[a.b/c].x"), ["metadata", "labels", "[a.b/c]", "x"]);
    }
}
