//! Plans on paper: for a terminal, for a pull request, for a browser.

pub mod html;
mod lines;
pub mod markdown;
pub mod text;

use serde_json::Value;

use crate::fields::Owner;
use crate::plan::model::{Action, Change, Item, Plan, Why};

/// How one change is shown.
enum Shown {
    /// Both values fit into a line.
    Short { old: Option<String>, new: Option<String> },
    /// Lines that stay, go and come.
    Long(Vec<lines::Line>),
}

/// The widest pair of values that is shown in one line.
const NARROW: usize = 72;

fn shown(change: &Change) -> Shown {
    let short = |value: &Option<Value>| match value {
        None => Some(None),
        Some(Value::String(text)) if text.is_empty() => Some(Some("\"\"".to_owned())),
        Some(Value::String(text)) if !text.contains('\n') && text.len() <= NARROW => Some(Some(text.clone())),
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => Some(Some(value.to_string())),
        Some(Value::Array(items)) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let text = Value::Array(items.clone()).to_string();
            (text.len() <= NARROW).then_some(Some(text))
        }
        Some(Value::Object(fields)) if fields.is_empty() => Some(Some("{}".to_owned())),
        Some(_) => None,
    };
    match (short(&change.old), short(&change.new)) {
        (Some(old), Some(new)) => Shown::Short { old, new },
        _ => Shown::Long(lines::compare(&block(change.old.as_ref()), &block(change.new.as_ref()))),
    }
}

/// A value as lines: a text as it is, anything else as YAML.
fn block(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => yaml(value),
    }
}

/// A value as YAML; of an object first what it is, as people write it.
pub fn yaml(value: &Value) -> String {
    let text = |value: &Value| serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string());
    const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
    match value.as_object().filter(|fields| fields.contains_key("kind") && fields.contains_key("metadata")) {
        Some(fields) => {
            let rest = fields.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
            let order = FIRST.into_iter().filter(|name| fields.contains_key(*name)).chain(rest);
            order.map(|name| text(&serde_json::json!({name: fields[name]}))).collect()
        }
        None => text(value),
    }
}

/// Why a field changes and who holds it, in one breath. The one who applies goes without saying.
fn reason(change: &Change) -> String {
    let others: Vec<String> =
        change.owners.iter().filter(|owner| owner.manager != "kobune").map(Owner::to_string).collect();
    let words = change.why.words();
    match (change.why, others.is_empty()) {
        (Why::AnotherHoldsIt, false) => format!("{} holds it", others.join(" and ")),
        (Why::TakenOver | Why::LeftBehind, false) => format!("{words} (from {})", others.join(", ")),
        (_, false) => format!("{words}; {} holds it too", others.join(", ")),
        (_, true) => words.to_owned(),
    }
}

/// The sign before an object.
fn sign(action: Action) -> &'static str {
    match action {
        Action::Create => "+",
        Action::Change => "~",
        Action::Recreate => "±",
        Action::Prune => "-",
        Action::Adopt | Action::Unchanged => "=",
    }
}

/// What happens to an object, in words.
fn action_words(action: Action) -> &'static str {
    match action {
        Action::Create => "is created",
        Action::Change => "changes",
        Action::Recreate => "is deleted and made again",
        Action::Prune => "is pruned",
        Action::Adopt => "stays as it is, and is owned from now on",
        Action::Unchanged => "stays as it is",
    }
}

/// The object with its namespace: `deployment/web in shop`.
fn name(item: &Item) -> String {
    match &item.object.namespace {
        Some(namespace) => format!("{} in {namespace}", item.object),
        None => item.object.to_string(),
    }
}

/// Namespaces that the manifests do not say themselves, with who did and for how many objects.
fn namespaces(plan: &Plan) -> Vec<String> {
    use crate::namespace::NamespaceFrom;
    let mut told: Vec<(String, usize)> = Vec::new();
    for item in &plan.items {
        if let (Some(namespace), NamespaceFrom::Flag | NamespaceFrom::Context) =
            (&item.object.namespace, item.namespace_from)
        {
            let text = format!("{namespace} ({})", item.namespace_from.words());
            match told.iter_mut().find(|(known, _)| *known == text) {
                Some((_, count)) => *count += 1,
                None => told.push((text, 1)),
            }
        }
    }
    told.into_iter()
        .map(|(text, count)| format!("{count} object{} without a namespace of their own: {text}", plural(count)))
        .collect()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// `context admin at https://…`.
fn place(plan: &Plan) -> String {
    match &plan.context {
        Some(context) => format!("{context} at {}", plan.server),
        None => plan.server.clone(),
    }
}

#[cfg(test)]
mod tests;
