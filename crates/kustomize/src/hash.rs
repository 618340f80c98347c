//! The suffix of generated names: a short hash of what the object holds. (kustomize means to hash the name too, but looks
//! for it in a field that no object has, so the name that is hashed is always empty.)

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::json;
use crate::node::{Node, Place};

/// The hash of a ConfigMap, a Secret or anything else.
pub(crate) fn of(node: &Node) -> Result<String, (Place, String)> {
    let value = |path: &[&str]| match node.at(path) {
        None => Ok(Value::String(String::new())),
        Some(Node::Scalar(scalar)) => Ok(Value::String(scalar.text.clone())),
        Some(node) => json::value(node),
    };
    let kind = node.get("kind").map_or("", Node::text);
    let mut content = json!({"kind": kind, "name": "", "data": value(&["data"])?});
    match kind {
        "ConfigMap" => {
            let binary = value(&["binaryData"])?;
            if binary.is_object() {
                content["binaryData"] = binary;
            }
        }
        "Secret" => {
            content["type"] = value(&["type"])?;
            let texts = value(&["stringData"])?;
            if texts.is_object() {
                content["stringData"] = texts;
            }
        }
        _ => content = json::value(node)?,
    }
    let mut text = String::new();
    json::write(&content, &mut text);
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    // No vowels, so that no words arise, and no digits that look like letters.
    let letter = |letter: char| match letter {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        letter => letter,
    };
    Ok(hex.chars().map(letter).collect())
}
