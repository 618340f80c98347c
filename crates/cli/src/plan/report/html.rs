//! A plan as one page of HTML that loads nothing else and runs no script.

use super::{Shown, action_words, block, name, namespaces, place, reason, shown, sign};
use crate::plan::model::{Action, Change, Item, Plan};
use crate::plan::report::lines::Line;

const STYLE: &str = include_str!("page.css");

/// Writes a plan.
pub fn write(plan: &Plan) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>kobune plan: {summary}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n\
         <header><h1>Plan</h1><p class=\"place\">{place}</p></header>\n<ul class=\"counts\">\n",
        summary = escape(&plan.summary()),
        place = escape(&place(plan)),
    );
    for (action, words) in [
        (Action::Create, "to create"),
        (Action::Change, "to change"),
        (Action::Recreate, "to recreate"),
        (Action::Prune, "to prune"),
        (Action::Adopt, "to adopt"),
        (Action::Unchanged, "unchanged"),
    ] {
        let count = plan.count(action);
        if count > 0 {
            out.push_str(&format!("<li class=\"{}\"><b>{count}</b> {words}</li>\n", class(action)));
        }
    }
    out.push_str("</ul>\n");
    for line in namespaces(plan) {
        out.push_str(&format!("<p class=\"note\">{}</p>\n", escape(&line)));
    }
    for item in plan.items.iter().filter(|item| item.action != Action::Unchanged || !item.warnings.is_empty()) {
        object(item, &mut out);
    }
    let same: Vec<String> = plan.items.iter().filter(|item| item.action == Action::Unchanged).map(name).collect();
    if !same.is_empty() {
        let list: String = same.iter().map(|name| format!("<li>{}</li>", escape(name))).collect();
        out.push_str(&format!("<details class=\"item\"><summary><span class=\"name\">{} unchanged</span></summary><ul class=\"same\">{list}</ul></details>\n", same.len()));
    }
    out.push_str("</main></body></html>\n");
    out
}

fn class(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Change => "change",
        Action::Recreate => "recreate",
        Action::Prune => "prune",
        Action::Adopt | Action::Unchanged => "same",
    }
}

fn object(item: &Item, out: &mut String) {
    // What is new is long and holds no surprise: it is folded.
    let open = if item.action == Action::Create { "" } else { " open" };
    let (namespace, place) = (item.object.namespace.as_deref(), item.place.as_deref());
    out.push_str(&format!(
        "<details class=\"item {class}\"{open}><summary><span class=\"sign\">{sign}</span>\
         <span class=\"name\">{name}</span>{namespace}<span class=\"what\">{what}</span>{place}</summary>\n",
        class = class(item.action),
        sign = sign(item.action),
        name = escape(&item.object.to_string()),
        namespace =
            namespace.map(|text| format!("<span class=\"namespace\">{}</span>", escape(text))).unwrap_or_default(),
        what = action_words(item.action),
        place = place.map(|text| format!("<span class=\"file\">{}</span>", escape(text))).unwrap_or_default(),
    ));
    let said =
        [("effect", &item.effects), ("note", &item.notes), ("warning", &item.warnings), ("blocked", &item.blocked)];
    for (class, lines) in said {
        for line in lines {
            out.push_str(&format!("<p class=\"{class}\">{}</p>\n", escape(line)));
        }
    }
    if !item.changes.is_empty() {
        out.push_str("<table><thead><tr><th>field</th><th>now</th><th>then</th><th>why</th></tr></thead><tbody>\n");
        for change in &item.changes {
            row(change, out);
        }
        out.push_str("</tbody></table>\n");
    }
    if let Some(content) = &item.content {
        out.push_str(&format!("<pre class=\"new\">{}</pre>\n", escape(block(Some(content)).trim_end())));
    }
    out.push_str("</details>\n");
}

fn row(change: &Change, out: &mut String) {
    let why = escape(&reason(change));
    let path = escape(&change.path);
    match shown(change) {
        Shown::Short { old, new } => {
            let cell = |class: &str, value: Option<String>| match value {
                Some(value) => format!("<td><code class=\"{class}\">{}</code></td>", escape(&value)),
                None => "<td class=\"none\">–</td>".to_owned(),
            };
            out.push_str(&format!(
                "<tr><td><code>{path}</code></td>{}{}<td class=\"why\">{why}</td></tr>\n",
                cell("old", old),
                cell("new", new)
            ));
        }
        Shown::Long(lines) => {
            let line = |line: &Line| match line {
                Line::Same(text) => format!("<span>  {}</span>", escape(text)),
                Line::Old(text) => format!("<span class=\"old\">- {}</span>", escape(text)),
                Line::New(text) => format!("<span class=\"new\">+ {}</span>", escape(text)),
                Line::Skipped(count) => format!("<span class=\"skipped\">  … {count} more</span>"),
            };
            let text: Vec<String> = lines.iter().map(line).collect();
            out.push_str(&format!("<tr><td><code>{path}</code></td><td colspan=\"2\"><pre>{}</pre></td><td class=\"why\">{why}</td></tr>\n", text.join("\n")));
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
