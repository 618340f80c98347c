//! A plan for a comment on a pull request: a table of what happens, and the fields folded below it.

use super::{Shown, action_words, block, name, namespaces, place, reason, shown, sign};
use crate::plan::model::{Action, Item, Plan};
use crate::plan::report::lines::Line;

/// Comments of GitHub end at 65,536 characters; what would not fit is left out, and that is said.
const LONGEST: usize = 60_000;

/// Writes a plan.
pub fn write(plan: &Plan, summary: bool) -> String {
    let mut out = format!("### kobune plan: {}\n\n`{}`\n\n", plan.summary(), place(plan));
    let items: Vec<&Item> =
        plan.items.iter().filter(|item| item.action != Action::Unchanged || !item.warnings.is_empty()).collect();
    for line in namespaces(plan) {
        out.push_str(&format!("> {line}\n\n"));
    }
    if items.is_empty() {
        return out;
    }
    out.push_str("| | object | what happens |\n|---|---|---|\n");
    for item in &items {
        let mut words = vec![action_words(item.action).to_owned()];
        words.extend(item.effects.iter().cloned());
        words.extend(item.notes.iter().cloned());
        words.extend(item.warnings.iter().map(|warning| format!("⚠️ {warning}")));
        words.extend(item.blocked.iter().map(|blocked| format!("⛔ {blocked}")));
        let words = words.join("<br>").replace('|', "\\|").replace('\n', " ");
        out.push_str(&format!("| `{}` | `{}` | {words} |\n", sign(item.action), name(item)));
    }
    if summary {
        return out;
    }
    let mut left_out = 0;
    for item in items {
        let details = details(item);
        if details.is_empty() {
            continue;
        }
        if out.len() + details.len() > LONGEST {
            left_out += 1;
        } else {
            out.push_str(&details);
        }
    }
    if left_out > 0 {
        out.push_str(&format!("\n_The fields of {left_out} more objects do not fit into a comment._\n"));
    }
    out
}

fn details(item: &Item) -> String {
    let mut diff = String::new();
    for change in &item.changes {
        diff.push_str(&format!("@@ {} @@ {}\n", change.path, reason(change)));
        match shown(change) {
            Shown::Short { old, new } => {
                for (sign, value) in [("-", old), ("+", new)] {
                    if let Some(value) = value {
                        diff.push_str(&format!("{sign} {value}\n"));
                    }
                }
            }
            Shown::Long(lines) => {
                for line in lines {
                    diff.push_str(&match line {
                        Line::Same(text) => format!("  {text}\n"),
                        Line::Old(text) => format!("- {text}\n"),
                        Line::New(text) => format!("+ {text}\n"),
                        Line::Skipped(count) => format!("  … {count} more\n"),
                    });
                }
            }
        }
    }
    if let Some(content) = &item.content {
        for line in block(Some(content)).lines() {
            diff.push_str(&format!("+ {line}\n"));
        }
    }
    if diff.is_empty() {
        return String::new();
    }
    // A fence must be longer than any that is inside.
    let longest = diff.split(|letter| letter != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!(
        "\n<details><summary><code>{}</code></summary>\n\n{fence}diff\n{diff}{fence}\n\n</details>\n",
        escape(&name(item))
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
