//! YAML inside a text, written back in its own order and with its own quotes after a value in it was replaced.

use crate::node::{Node, Scalar, Style};
use crate::scalar;

/// A node as YAML in block style, indented by two blanks.
pub(crate) fn text(node: &Node) -> String {
    let mut out = String::new();
    write(node, 0, &mut out);
    out
}

fn write(node: &Node, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match node {
        Node::Scalar(value) => out.push_str(&scalar_text(value, &"  ".repeat(depth.max(1)))),
        Node::Map(map) if map.entries.is_empty() => out.push_str("{}"),
        Node::List(items) if items.is_empty() => out.push_str("[]"),
        Node::Map(map) => {
            for (at, (key, value)) in map.entries.iter().enumerate() {
                if at > 0 {
                    out.push('\n');
                    out.push_str(&indent);
                }
                out.push_str(&scalar_text(key, &indent));
                out.push(':');
                match value {
                    Node::Map(inner) if !inner.entries.is_empty() => {
                        out.push('\n');
                        out.push_str(&"  ".repeat(depth + 1));
                        write(value, depth + 1, out);
                    }
                    Node::List(inner) if !inner.is_empty() => {
                        out.push('\n');
                        out.push_str(&indent);
                        write(value, depth, out);
                    }
                    value => {
                        out.push(' ');
                        write(value, depth + 1, out);
                    }
                }
            }
        }
        Node::List(items) => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push('\n');
                    out.push_str(&indent);
                }
                out.push_str("- ");
                write(item, depth + 1, out);
            }
        }
    }
}

fn scalar_text(scalar: &Scalar, indent: &str) -> String {
    let text = &scalar.text;
    let single = || format!("'{}'", text.replace('\'', "''"));
    match scalar.style {
        Style::Double => serde_json::Value::String(text.clone()).to_string(),
        Style::Single => single(),
        _ if text.contains('\n') => {
            let keep = match (text.ends_with("\n\n"), text.ends_with('\n')) {
                (true, _) => "+",
                (_, true) => "",
                _ => "-",
            };
            let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
            let lines: Vec<String> =
                lines.map(|line| if line.is_empty() { String::new() } else { format!("{indent}{line}") }).collect();
            format!("|{keep}\n{}", lines.join("\n"))
        }
        _ if scalar.tag == crate::node::Tag::Str
            && scalar::resolve(text, scalar::Dialect::Core) != scalar::Resolved::Str =>
        {
            format!("\"{text}\"")
        }
        _ if text.starts_with(['#', ',', '[', ']', '{', '}', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`'])
            || text.contains(": ")
            || text.contains(" #")
            || text.ends_with([':', ' '])
            || text.starts_with([' ', '-', '?'])
                && (text.len() == 1 || text.starts_with(' ') || text[1..].starts_with(' ')) =>
        {
            single()
        }
        _ => text.clone(),
    }
}
