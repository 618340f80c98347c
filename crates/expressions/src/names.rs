//! Names of fields as expressions must write them: what is no identifier there is escaped.

/// Words that no identifier may be.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether the language keeps a word for itself as the name of a variable or function.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// How a field is kept whose name is a word of the language. Where a field is meant such a word may also be written as it is:
/// `has(self.namespace)`, as upstream's `DeclTypeProvider` allows.
pub(crate) fn kept(word: &str) -> Option<String> {
    is_reserved(word).then(|| format!("__{word}__"))
}

/// The identifier for a field; `None` when the field cannot be named in expressions.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Some(kept) = kept(name) {
        return Some(kept);
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match first {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => escaped.push(first),
            _ => return None,
        }
        rest = &rest[first.len_utf8()..];
    }
    Some(escaped)
}

/// The field that an identifier stands for; `None` for an escape sequence that there is not.
pub fn unescape(identifier: &str) -> Option<String> {
    if let Some(word) = identifier.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return Some(word.to_owned());
    }
    let mut name = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some(at) = rest.find("__") {
        name.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        match inner.find("__") {
            Some(end) if end > 0 && !inner[..end].contains('_') => {
                name.push_str(match &inner[..end] {
                    "underscores" => "__",
                    "dot" => ".",
                    "dash" => "-",
                    "slash" => "/",
                    _ => return None,
                });
                rest = &inner[end + 2..];
            }
            _ => {
                name.push_str("__");
                rest = inner;
            }
        }
    }
    name.push_str(rest);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_upstream() {
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(escape(name).as_deref(), expected, "{name}");
            if let Some(escaped) = expected {
                assert_eq!(unescape(escaped).as_deref(), Some(name));
            }
        };
        check("replicas", Some("replicas"));
        check("namespace", Some("__namespace__"));
        check("int", Some("int"));
        check("a.b", Some("a__dot__b"));
        check("a-b/c", Some("a__dash__b__slash__c"));
        check("a__b", Some("a__underscores__b"));
        check("_a", Some("_a"));
        check("1a", None);
        check("a b", None);
        check("", None);
        assert_eq!(unescape("a__nothing__"), None);
    }
}
