//! Where an object's JSON holds its `metadata.resourceVersion`, found without parsing the whole object.

use std::ops::Range;

/// The place between the quotation marks of `metadata.resourceVersion`. `None` when the text is no object that has one as
/// a string without escapes.
pub fn version_place(json: &[u8]) -> Option<Range<usize>> {
    let mut scanner = Scanner { json, at: 0 };
    scanner.enter(b"metadata")?;
    scanner.enter(b"resourceVersion")?;
    let place = scanner.string()?;
    (!json[place.clone()].contains(&b'\\')).then_some(place)
}

/// The object with another `metadata.resourceVersion`, in exactly as much memory as it takes.
pub(crate) fn with_version(json: &[u8], place: &Range<usize>, version: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(json.len() - place.len() + version.len());
    value.extend_from_slice(&json[..place.start]);
    value.extend_from_slice(version.as_bytes());
    value.extend_from_slice(&json[place.end..]);
    value
}

struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn skip_space(&mut self) {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// The next byte that is no space, which is stepped over.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.json.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Steps into an object to the value of one of its fields.
    fn enter(&mut self, field: &[u8]) -> Option<()> {
        if self.next()? != b'{' {
            return None;
        }
        loop {
            let name = self.string()?;
            if self.next()? != b':' {
                return None;
            }
            if &self.json[name] == field {
                self.skip_space();
                return Some(());
            }
            self.value()?;
            if self.next()? != b',' {
                return None;
            }
        }
    }

    /// Steps over a string; answers what is between its quotation marks.
    fn string(&mut self) -> Option<Range<usize>> {
        if self.next()? != b'"' {
            return None;
        }
        let start = self.at;
        loop {
            match self.json.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(start..self.at - 1)
    }

    /// Steps over any value. Brackets are counted, not matched: only stored objects come here.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            self.skip_space();
            match self.json.get(self.at)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b'}' | b']' | b',' | b':' => return None,
                _ => {
                    while self.json.get(self.at).is_some_and(|byte| !b"{}[],:\" \t\r\n".contains(byte)) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(json: &str, expected: Option<&str>) {
        let found = version_place(json.as_bytes()).map(|place| &json[place]);
        assert_eq!(found, expected, "{json}");
    }

    #[test]
    fn the_version_is_found_where_it_is() {
        check(r#"{"metadata":{"resourceVersion":"12"}}"#, Some("12"));
        check(r#"{"metadata":{"name":"a","resourceVersion":"","uid":"x"},"spec":{}}"#, Some(""));
        check(r#"{"data":{"metadata":{"resourceVersion":"1"}},"metadata":{"resourceVersion":"2"}}"#, Some("2"));
        check(r#"{"a":[1,{"b":"}\"]"},true,null,-1.5e3],"metadata":{"l":{},"resourceVersion":"3"}}"#, Some("3"));
        check(r#" { "metadata" : { "x" : [ ] , "resourceVersion" : "4" } } "#, Some("4"));
    }

    #[test]
    fn anything_else_has_none() {
        for json in [
            "",
            "1",
            "[]",
            "{",
            "{}",
            r#"{"metadata":1}"#,
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"resourceVersion":1}}"#,
            r#"{"metadata":{"resourceVersion":"1"#,
            r#"{"a":}"#,
            r#"{"a":"\"#,
            r#"{"metadata":{"resourceVersion":"\u0031"}}"#,
            r#"{"spec":{"resourceVersion":"1"}}"#,
            r#"{"metadata":{"annotations":{"resourceVersion":"1"}}}"#,
        ] {
            check(json, None);
        }
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(prop::sample::select(br#"{}[],:"\metadataresourceVersion 1"#.to_vec()), 0..60)) {
            if let Some(place) = version_place(&bytes) {
                prop_assert!(place.end < bytes.len());
            }
        }
    }
}
