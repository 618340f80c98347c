//! A plan for a terminal.

use super::{Shown, action_words, block, name, namespaces, place, plural, reason, shown, sign};
use crate::plan::model::{Action, Item, Plan};
use crate::plan::report::lines::Line;
use crate::style::Style;

/// Writes a plan.
pub fn write(plan: &Plan, summary: bool, style: Style) -> String {
    let mut out = String::new();
    for item in plan.items.iter().filter(|item| worth_showing(item)) {
        object(item, summary, style, &mut out);
    }
    let mut foot = namespaces(plan);
    let blocked = plan.items.iter().filter(|item| !item.blocked.is_empty()).count();
    if blocked > 0 {
        foot.push(style.red(format!(
            "apply refuses as long as {blocked} object{} need{} a decision (see !)",
            plural(blocked),
            if blocked == 1 { "s" } else { "" }
        )));
    }
    out.push_str(&format!(
        "{} {}\n",
        style.bold(format!("Plan: {}.", plan.summary())),
        style.dim(format!("({})", place(plan)))
    ));
    for line in foot {
        out.push_str(&format!("      {line}\n"));
    }
    out
}

fn worth_showing(item: &Item) -> bool {
    item.action != Action::Unchanged || !item.warnings.is_empty()
}

fn object(item: &Item, summary: bool, style: Style, out: &mut String) {
    let paint = |text: String| match item.action {
        Action::Create => style.green(text),
        Action::Change => style.yellow(text),
        Action::Recreate | Action::Prune => style.red(text),
        Action::Adopt | Action::Unchanged => style.dim(text),
    };
    let place = item.place.as_ref().map(|place| style.dim(format!("  {place}"))).unwrap_or_default();
    out.push_str(&format!(
        "{} {} {}{place}\n",
        paint(sign(item.action).to_owned()),
        style.bold(name(item)),
        paint(action_words(item.action).to_owned())
    ));
    for effect in &item.effects {
        out.push_str(&format!("    {}\n", style.yellow(format!("→ {effect}"))));
    }
    for note in &item.notes {
        out.push_str(&format!("    {}\n", style.dim(format!("· {note}"))));
    }
    for warning in &item.warnings {
        out.push_str(&format!("    {}\n", style.yellow(format!("warning: {warning}"))));
    }
    for blocked in &item.blocked {
        out.push_str(&format!("    {}\n", style.red(format!("! {blocked}"))));
    }
    if summary {
        return;
    }
    for change in &item.changes {
        let why = style.dim(reason(change));
        match shown(change) {
            Shown::Short { old, new } => {
                let values = match (old, new) {
                    (Some(old), Some(new)) => format!("{} → {}", style.red(old), style.green(new)),
                    (None, Some(new)) => style.green(format!("+ {new}")),
                    (Some(old), None) => style.red(format!("- {old}")),
                    (None, None) => String::new(),
                };
                out.push_str(&format!("    {}  {values}  {why}\n", change.path));
            }
            Shown::Long(lines) => {
                out.push_str(&format!("    {}  {why}\n", change.path));
                for line in lines {
                    let text = match line {
                        Line::Same(text) => style.dim(format!("  {text}")),
                        Line::Old(text) => style.red(format!("- {text}")),
                        Line::New(text) => style.green(format!("+ {text}")),
                        Line::Skipped(count) => style.dim(format!("  … {count} line{}", plural(count))),
                    };
                    out.push_str(&format!("      {}\n", text.trim_end()));
                }
            }
        }
    }
    if let Some(content) = &item.content {
        for line in block(Some(content)).lines() {
            out.push_str(&format!("    {}\n", style.green(format!("+ {line}"))));
        }
    }
    out.push('\n');
}
