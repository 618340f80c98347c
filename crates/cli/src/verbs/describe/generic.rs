//! Every kind without a description of its own: all fields, with readable names.

use jiff::Timestamp;
use serde_json::Value;

use super::read::text;
use super::writer::Writer;
use super::{Related, metadata};
use crate::verbs::go;

/// What stands at the top already, or is of interest to nobody.
const LEFT_OUT: &[&str] =
    &[".metadata.managedFields", ".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations"];

/// An object of any kind.
pub fn object(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name(w, object);
    w.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    metadata::labels_and_annotations(w, object);
    fields(w, 0, object, "");
    metadata::events(w, related.events(), now);
}

fn fields(w: &mut Writer, level: usize, value: &Value, path: &str) {
    let mut fields: Vec<(&String, &Value)> = value.as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| *name);
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        if LEFT_OUT.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {
                w.line(level, format!("{}:", label(name)));
                self::fields(w, level + 1, value, &path);
            }
            Value::Array(items) => {
                w.line(level, format!("{}:", label(name)));
                for item in items {
                    match item {
                        Value::Object(_) => self::fields(w, level + 1, item, &path),
                        other => w.line(level + 1, go::value(other)),
                    }
                }
            }
            other => w.field(level, &label(name), go::value(other)),
        }
    }
}

/// `Last Transition Time` for `lastTransitionTime`: one word a change of case, with a few abbreviations in capitals.
fn label(name: &str) -> String {
    if name.chars().any(|letter| !letter.is_alphabetic() && letter != '-') {
        return name.to_owned();
    }
    let class = |letter: char| match letter {
        _ if letter.is_lowercase() => 1,
        _ if letter.is_uppercase() => 2,
        _ => 4,
    };
    let mut words: Vec<Vec<char>> = Vec::new();
    for letter in name.chars() {
        match words.last_mut() {
            Some(word) if word.last().is_some_and(|last| class(*last) == class(letter)) => word.push(letter),
            _ => words.push(vec![letter]),
        }
    }
    // The last capital of a row belongs to the small letters after it.
    for at in 1..words.len() {
        if words[at - 1].first().is_some_and(|first| first.is_uppercase())
            && words[at].first().is_some_and(|first| first.is_lowercase())
            && let Some(capital) = words[at - 1].pop()
        {
            words[at].insert(0, capital);
        }
    }
    let words = words.into_iter().filter(|word| !word.is_empty()).map(|word| {
        let word: String = word.into_iter().collect();
        let upper = word.to_uppercase();
        if ["API", "URL", "UID", "OSB", "GUID"].contains(&upper.as_str()) {
            return upper;
        }
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
        first + &letters.as_str().to_lowercase()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels() {
        let check = |name: &str, expected: &str| assert_eq!(label(name), expected);
        check("apiVersion", "API Version");
        check("uid", "UID");
        check("lastTransitionTime", "Last Transition Time");
        check("podCIDRs", "Pod Cid Rs");
        check("PDFLoader", "Pdf Loader");
        check("app.io/x", "app.io/x");
        check("a1", "a1");
        check("foo-bar", "Foo - Bar");
        check("", "");
    }

    #[test]
    fn any_object() {
        let given = json!({"kind": "Boat", "metadata": {"name": "b", "uid": "1", "managedFields": [1]},
            "spec": {"sails": [{"size": 1.5}, 7, null], "crew": null, "big": true}});
        let mut w = Writer::new();
        object(&mut w, &given, &Related::default(), Timestamp::UNIX_EPOCH);
        let expected = "Name:         b\nNamespace:    \nLabels:       <none>\nAnnotations:  <none>\nKind:         Boat\n\
            Metadata:\n  UID:  1\nSpec:\n  Big:   true\n  Crew:  <nil>\n  Sails:\n    Size:  1.5\n    7\n    <nil>\n";
        assert_eq!(w.finish(), expected);
    }
}
