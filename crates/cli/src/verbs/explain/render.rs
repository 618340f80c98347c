//! The page about a kind or a field. Pure: an OpenAPI v3 document in, text out.

use std::collections::BTreeSet;

use serde_json::Value;

use super::wrap::wrapped;
use crate::verbs::go;

/// How deep schemas are followed: no real one is half as deep, and a wrong one ends.
const DEEPEST: usize = 64;

/// Why there is no page, and what kubectl prints before it notices.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct NoPage {
    /// The beginning of the page.
    pub head: String,
    /// What is wrong.
    pub problem: String,
}

/// The page.
pub fn page(document: &Value, kind: &Value, path: &[String], recursive: bool) -> Result<String, NoPage> {
    let text = |field: &str| kind[field].as_str().unwrap_or_default();
    let mut out = String::new();
    if !text("group").is_empty() {
        out.push_str(&format!("GROUP:      {}\n", text("group")));
    }
    out.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", text("kind"), text("version")));
    let schemas = document["components"]["schemas"].as_object().into_iter().flatten();
    let own = schemas
        .map(|(_, schema)| schema)
        .find(|schema| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| kinds.contains(kind)));
    let Some(schema) = own else {
        return Err(NoPage {
            head: out,
            problem: format!("error: GVK {} not found in OpenAPI schema", go::value(kind)),
        });
    };
    let renderer = Renderer { document, recursive };
    match renderer.output(schema, path, &BTreeSet::new(), 0) {
        Some(page) => out.push_str(&page),
        None => {
            let field = path.last().map(String::as_str).unwrap_or_default();
            return Err(NoPage { head: out, problem: format!("error: field \"{field}\" does not exist") });
        }
    }
    out.push('\n');
    Ok(out)
}

struct Renderer<'d> {
    document: &'d Value,
    recursive: bool,
}

/// What refers to another schema has the name of it.
fn reference(schema: &Value) -> &str {
    schema["$ref"].as_str().unwrap_or_default()
}

/// Whether a part of a schema says anything, as Go's templates see it.
fn says(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn indented(amount: usize, text: &str) -> String {
    let pad = " ".repeat(amount);
    format!("{pad}{}", text.replace('\n', &format!("\n{pad}")))
}

impl<'d> Renderer<'d> {
    fn resolved<'s>(&self, schema: &'s Value) -> &'s Value
    where
        'd: 's,
    {
        self.referred(schema).unwrap_or(schema)
    }

    fn referred(&self, schema: &Value) -> Option<&'d Value> {
        let path = reference(schema).strip_prefix('#')?;
        self.document.pointer(path).filter(|found| says(found))
    }

    /// The page from a schema on, or none if the path does not lead anywhere.
    fn output(&self, schema: &Value, path: &[String], history: &BTreeSet<String>, depth: usize) -> Option<String> {
        if depth > DEEPEST {
            return None;
        }
        let resolved = self.resolved(schema);
        let Some((first, rest)) = path.split_first() else {
            let description = self.description(resolved, depth);
            let description = if description.is_empty() { "<empty>" } else { &description };
            let mut out = format!("DESCRIPTION:\n{}\n", indented(4, &wrapped(description, 76)));
            let fields = self.fields(resolved, 1, &BTreeSet::new(), depth);
            if !fields.is_empty() {
                out.push_str("FIELDS:\n");
                out.push_str(&fields);
            }
            return Some(out);
        };
        let name = reference(schema);
        if !name.is_empty() && history.contains(name) {
            return None;
        }
        let mut history = history.clone();
        history.insert(name.to_owned());
        let field = &resolved["properties"][first];
        if says(field) {
            let head = if rest.is_empty() {
                let mut enumeration = String::new();
                self.enumeration(&mut enumeration, field, None);
                format!("FIELD: {first} <{}>\n{enumeration}\n\n", self.type_name(field, depth))
            } else {
                String::new()
            };
            let body = self.output(field, rest, &BTreeSet::new(), depth + 1);
            return match (head.is_empty(), body) {
                (true, body) => body,
                (false, body) => Some(head + &body.unwrap_or_default()),
            };
        }
        if says(&resolved["items"]) {
            return self.output(&resolved["items"], path, &history, depth + 1);
        }
        let more = &resolved["additionalProperties"];
        if says(more) && !more.is_boolean() {
            return self.output(more, path, &history, depth + 1);
        }
        let all = resolved["allOf"].as_array().into_iter().flatten();
        all.into_iter().find_map(|one| self.output(one, path, &history, depth + 1))
    }

    /// The fields of a schema, each with its description, or with the fields below it.
    fn fields(&self, schema: &Value, level: usize, history: &BTreeSet<String>, depth: usize) -> String {
        let name = reference(schema);
        if depth > DEEPEST || (!name.is_empty() && history.contains(name)) {
            return String::new();
        }
        let mut history = history.clone();
        history.insert(name.to_owned());
        let resolved = self.resolved(schema);
        let mut out = String::new();
        for (name, field) in resolved["properties"].as_object().into_iter().flatten() {
            self.field(&mut out, resolved, name, field, level, depth);
            if self.recursive {
                out.push_str(&self.fields(field, level + 1, &history, depth + 1));
            }
        }
        let items = Some(&resolved["items"]).filter(|items| says(items));
        let more = Some(&resolved["additionalProperties"]).filter(|more| says(more) && !more.is_boolean());
        for one in resolved["allOf"].as_array().into_iter().flatten().chain(items).chain(more) {
            out.push_str(&self.fields(one, level, &history, depth + 1));
        }
        out
    }

    fn field(&self, out: &mut String, schema: &Value, name: &str, field: &Value, level: usize, depth: usize) {
        let amount = level * 2;
        out.push_str(&format!("{}\t<{}>", indented(amount, name), self.type_name(field, depth)));
        if schema["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name)) {
            out.push_str(" -required-");
        }
        self.enumeration(out, field, Some(amount));
        out.push('\n');
        if !self.recursive {
            let description = field["description"].as_str().filter(|text| !text.is_empty());
            let width = 78_usize.saturating_sub(amount);
            out.push_str(&indented(amount + 2, &wrapped(description.unwrap_or("<no description>"), width)));
            out.push_str("\n\n");
        }
    }

    /// The descriptions of a schema and of those that it is made of.
    fn description(&self, schema: &Value, depth: usize) -> String {
        let mut out = String::new();
        if depth > DEEPEST {
            return out;
        }
        let resolved = self.resolved(schema);
        if let Some(text) = resolved["description"].as_str().filter(|text| !text.is_empty()) {
            out.push_str(text);
            out.push('\n');
        }
        let items = Some(&resolved["items"]).filter(|items| says(items));
        let more = Some(&resolved["additionalProperties"]).filter(|more| says(more) && !more.is_boolean());
        for one in resolved["allOf"].as_array().into_iter().flatten().chain(items).chain(more) {
            out.push_str(&self.description(one, depth + 1));
        }
        out
    }

    /// `string`, `[]Container`, `map[string]string`.
    fn type_name(&self, schema: &Value, depth: usize) -> String {
        if depth > DEEPEST {
            return "Object".to_owned();
        }
        let plain = |schema: &Value| {
            let name = schema["type"].as_str().filter(|name| !name.is_empty()).unwrap_or("Object");
            if name == "object" { "Object".to_owned() } else { name.to_owned() }
        };
        let more = &schema["additionalProperties"];
        let all = schema["allOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        if says(&schema["items"]) {
            return format!("[]{}", self.type_name(&schema["items"], depth + 1));
        }
        if says(more) && !more.is_boolean() {
            return format!("map[string]{}", self.type_name(more, depth + 1));
        }
        if let ([one], false) = (all, says(&schema["properties"])) {
            return self.type_name(one, depth + 1);
        }
        let name = reference(schema);
        if name.is_empty() {
            return plain(schema);
        }
        match self.referred(schema) {
            Some(found) if says(&found["type"]) && found["type"] != "object" => plain(found),
            _ => {
                let last = name.rsplit(['/', '.']).next().unwrap_or_default();
                if last.is_empty() { "Object".to_owned() } else { last.to_owned() }
            }
        }
    }

    /// The values that a field may have: all below one another, or the first four in a line at an indentation.
    fn enumeration(&self, out: &mut String, schema: &Value, line: Option<usize>) {
        const MOST: usize = 4;
        let values = schema["enum"].as_array().map(Vec::as_slice).unwrap_or_default();
        if values.is_empty() {
            return;
        }
        match line {
            Some(amount) => out.push_str(&format!("\n{}enum: ", " ".repeat(amount))),
            None => out.push_str("ENUM:"),
        }
        for (index, value) in values.iter().enumerate() {
            if line.is_some() && index >= MOST {
                out.push_str(", ....");
                break;
            }
            match line {
                Some(_) if index > 0 => out.push_str(", "),
                Some(_) => {}
                None => out.push_str("\n    "),
            }
            out.push_str(&if value == "" { "\"\"".to_owned() } else { go::value(value) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn document() -> Value {
        let kind = json!({"group": "x.io", "kind": "Boat", "version": "v1"});
        json!({"components": {"schemas": {
            "io.x.Boat": {"x-kubernetes-group-version-kind": [kind], "type": "object", "description": "A boat.", "properties": {
                "spec": {"allOf": [{"$ref": "#/components/schemas/io.x.Spec"}], "description": "What it is."},
                "self": {"$ref": "#/components/schemas/io.x.Boat"}}},
            "io.x.Spec": {"type": "object", "description": "Its spec.", "required": ["size"], "properties": {
                "size": {"type": "integer", "description": "How long."},
                "colour": {"type": "string", "enum": ["red", "", "a", "b", "c"]},
                "sails": {"type": "array", "items": {"$ref": "#/components/schemas/io.x.Sail"}},
                "notes": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "io.x.Sail": {"type": "object", "properties": {"area": {"$ref": "#/components/schemas/io.x.Area"}}},
            "io.x.Area": {"type": "string"}}}})
    }

    fn shown(path: &str, recursive: bool) -> Result<String, NoPage> {
        let kind = json!({"group": "x.io", "kind": "Boat", "version": "v1"});
        let path: Vec<String> = path.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect();
        page(&document(), &kind, &path, recursive)
    }

    #[test]
    fn pages() {
        let head = "GROUP:      x.io\nKIND:       Boat\nVERSION:    v1\n\n";
        let check = |path: &str, recursive: bool, expected: &str| {
            assert_eq!(shown(path, recursive).unwrap(), format!("{head}{expected}\n"), "{path}");
        };
        check(
            "spec",
            false,
            "FIELD: spec <Spec>\n\n\nDESCRIPTION:\n    What it is.\n    Its spec.\n    \nFIELDS:\n  \
             colour\t<string>\n  enum: red, \"\", a, b, ....\n    <no description>\n\n  \
             notes\t<map[string]string>\n    <no description>\n\n  \
             sails\t<[]Sail>\n    <no description>\n\n  \
             size\t<integer> -required-\n    How long.\n\n",
        );
        check(
            "",
            true,
            "DESCRIPTION:\n    A boat.\n    \nFIELDS:\n  self\t<Boat>\n    self\t<Boat>\n    spec\t<Spec>\n      \
             colour\t<string>\n      enum: red, \"\", a, b, ....\n      notes\t<map[string]string>\n      sails\t<[]Sail>\n        \
             area\t<string>\n      size\t<integer> -required-\n  spec\t<Spec>\n    colour\t<string>\n    \
             enum: red, \"\", a, b, ....\n    notes\t<map[string]string>\n    sails\t<[]Sail>\n      area\t<string>\n    \
             size\t<integer> -required-\n",
        );
        check(
            "spec.colour",
            false,
            "FIELD: colour <string>\nENUM:\n    red\n    \"\"\n    a\n    b\n    c\n\nDESCRIPTION:\n    <empty>\n",
        );
        check("spec.sails.area", false, "FIELD: area <string>\n\n\nDESCRIPTION:\n    <empty>\n");
        assert_eq!(shown("spec.nothing", false).unwrap_err().to_string(), "error: field \"nothing\" does not exist");
    }

    proptest! {
        #[test]
        fn no_document_is_too_much(path in "(self|spec|sails|area|x)(\\.(self|spec|sails|items)){0,70}", recursive in any::<bool>()) {
            let _ = shown(&path, recursive);
        }
    }
}
