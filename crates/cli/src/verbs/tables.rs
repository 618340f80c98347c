//! The server's Tables as kubectl prints them (cli-runtime's `tableprinter.go`). Pure.

use serde_json::Value;

/// What is printed beside the server's own columns.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Columns that are shown only when wide.
    pub wide: bool,
    /// The namespace first.
    pub namespaces: bool,
    /// `deployment.apps/` before names.
    pub kind: Option<String>,
    /// Labels that have columns of their own.
    pub label_columns: Vec<String>,
    /// All labels last.
    pub labels: bool,
}

/// Which of the Table's columns are shown.
fn columns<'t>(table: &'t Value, shape: &'t Shape) -> impl Iterator<Item = (usize, &'t Value)> {
    let definitions = table["columnDefinitions"].as_array().into_iter().flatten().enumerate();
    definitions.filter(|(_, column)| shape.wide || column["priority"].as_i64().unwrap_or(0) == 0)
}

/// The headings.
pub fn headings(table: &Value, shape: &Shape) -> Vec<String> {
    let mut row: Vec<String> = shape.namespaces.then(|| "NAMESPACE".to_owned()).into_iter().collect();
    row.extend(columns(table, shape).map(|(_, column)| column["name"].as_str().unwrap_or_default().to_uppercase()));
    row.extend(shape.label_columns.iter().map(|label| label.rsplit('/').next().unwrap_or(label).to_uppercase()));
    row.extend(shape.labels.then(|| "LABELS".to_owned()));
    row
}

/// The rows.
pub fn rows(table: &Value, shape: &Shape) -> Vec<Vec<String>> {
    let shown: Vec<(usize, bool)> =
        columns(table, shape).map(|(at, column)| (at, column["format"] == "name")).collect();
    let row = |row: &Value| {
        let metadata = &row["object"]["metadata"];
        let mut cells: Vec<String> = Vec::with_capacity(shown.len() + 2);
        if shape.namespaces {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for (at, is_name) in &shown {
            let text = cell(&row["cells"][*at]);
            cells.push(match &shape.kind {
                Some(kind) if *is_name => format!("{kind}/{text}"),
                _ => text,
            });
        }
        for label in &shape.label_columns {
            cells.push(metadata["labels"][label].as_str().unwrap_or_default().to_owned());
        }
        if shape.labels {
            let labels = metadata["labels"].as_object().into_iter().flatten();
            let labels: Vec<String> =
                labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
            cells.push(if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") });
        }
        cells
    };
    table["rows"].as_array().into_iter().flatten().map(row).collect()
}

/// A cell; of several lines only the first is shown.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = match text.find(['\n', '\r', '\u{c}']) {
        Some(end) => format!("{}...", &text[..end]),
        None => text,
    };
    // What objects say does not steer the terminal.
    text.replace('\u{1b}', "^[")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "format": "name", "priority": 0}, {"name": "Count", "priority": 0}, {"name": "Node", "priority": 1},
            ],
            "rows": [
                {"cells": ["a", 3, "n\nm"], "object": {"metadata": {"namespace": "x", "labels": {"app.io/tier": "t", "b": "c"}}}},
                {"cells": ["b", null, "n"], "object": {"metadata": {"namespace": "y"}}},
            ],
        });
        let print = |shape: &Shape| {
            (headings(&table, shape).join("|"), rows(&table, shape).iter().map(|row| row.join("|")).collect::<Vec<_>>())
        };
        assert_eq!(print(&Shape::default()), ("NAME|COUNT".to_owned(), vec!["a|3".to_owned(), "b|".to_owned()]));
        let all = Shape {
            wide: true,
            namespaces: true,
            kind: Some("boat.x".to_owned()),
            label_columns: vec!["app.io/tier".to_owned()],
            labels: true,
        };
        assert_eq!(
            print(&all),
            (
                "NAMESPACE|NAME|COUNT|NODE|TIER|LABELS".to_owned(),
                vec!["x|boat.x/a|3|n...|t|app.io/tier=t,b=c".to_owned(), "y|boat.x/b||n||<none>".to_owned()]
            )
        );
    }
}
