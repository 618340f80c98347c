//! Why fields change: compares an object with what it would be, and asks its managed fields who is behind it. Pure.

use serde_json::Value;

use crate::fields::{self, Difference, Element};
use crate::plan::model::{Change, Why};

/// What an explanation looks at.
pub struct Evidence<'e> {
    /// The manifest.
    pub manifest: &'e Value,
    /// The object as it is.
    pub live: &'e Value,
    /// The object as it would be.
    pub result: &'e Value,
    /// Who applies.
    pub manager: &'e str,
    /// Managers whose fields become the manager's.
    pub taken_over: &'e [String],
    /// The fields of conflicts that nobody has allowed, as the server names them.
    pub conflicts: &'e [String],
}

/// The fields of metadata that change by themselves.
const BOOKKEEPING: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"];

/// An object without what the server keeps about it.
pub fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in BOOKKEEPING {
                metadata.remove(field);
            }
        }
    }
    object
}

/// Every field that changes, with who owns it and why it changes.
pub fn explain(evidence: &Evidence<'_>) -> Vec<Change> {
    let known = fields::all_fields([evidence.live, evidence.result]);
    let differences = fields::differences(&essence(evidence.live), &essence(evidence.result), &known);
    let hides = evidence.manifest["kind"] == "Secret" && evidence.manifest["apiVersion"] == "v1";
    differences.into_iter().map(|difference| change(evidence, difference, hides)).collect()
}

fn change(evidence: &Evidence<'_>, difference: Difference, hides: bool) -> Change {
    let owners = fields::owners(evidence.live, &difference.path);
    let why = why(evidence, &difference);
    let secret = hides && difference.path.first().is_some_and(|first| *first == Element::Field("data".to_owned()));
    // What a client-side apply left in an annotation holds the whole object.
    let secret = secret || (hides && fields::show(&difference.path).contains("last-applied-configuration"));
    let (old, new) = if secret {
        let same_length = length(difference.old.as_ref()) == length(difference.new.as_ref());
        let new = difference.new.map(|value| hidden(&value, if same_length { ", another value" } else { "" }));
        (difference.old.map(|value| hidden(&value, "")), new)
    } else {
        (difference.old, difference.new)
    };
    Change { path: fields::show(&difference.path), old, new, owners, why }
}

fn why(evidence: &Evidence<'_>, difference: &Difference) -> Why {
    let path = &difference.path;
    let written = fields::at(evidence.manifest, path).is_some();
    let mine = fields::applied_by(evidence.live, evidence.manager)
        .is_some_and(|applied| fields::has(applied, path, evidence.live));
    let others = fields::owners(evidence.live, path);
    let taken = others.iter().any(|owner| evidence.taken_over.contains(&owner.manager));
    let other = others.iter().any(|owner| owner.manager != evidence.manager || owner.operation != "Apply");
    if written {
        let text = fields::show_as_conflict(path);
        let conflicts = |field: &String| {
            field == &text
                || field.strip_prefix(&text).is_some_and(|rest| rest.starts_with(['.', '[']))
                || text.strip_prefix(field.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        return if evidence.conflicts.iter().any(conflicts) {
            Why::AnotherHoldsIt
        } else if difference.old.is_none() {
            Why::YouAddedIt
        } else if mine || taken {
            Why::YouChangedIt
        } else if other {
            Why::TakenOver
        } else {
            Why::YouChangedIt
        };
    }
    match (&difference.old, &difference.new) {
        (Some(_), None) if mine => Why::YouRemovedIt,
        (Some(_), Some(_)) if mine => Why::BackToDefault,
        (Some(_), _) if taken => Why::LeftBehind,
        (None, Some(_)) => Why::Default,
        _ => Why::Server,
    }
}

fn length(value: Option<&Value>) -> Option<usize> {
    value.map(|value| fields::plain(value).len())
}

fn hidden(value: &Value, more: &str) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), hidden(value, more))).collect(),
        // Of base64 every four letters are three bytes.
        other => {
            let text = fields::plain(other);
            let bytes =
                text.len() / 4 * 3 - text.len().min(text.bytes().rev().take_while(|byte| *byte == b'=').count());
            Value::from(format!("(hidden, {bytes} bytes{more})"))
        }
    }
}

/// An object as it may be shown: the data of secrets is hidden.
pub fn shown(object: &Value) -> Value {
    let mut object = object.clone();
    if object["kind"] == "Secret" && object["apiVersion"] == "v1" {
        for field in ["data", "stringData"] {
            if let Some(data) = object.get_mut(field) {
                *data = hidden(data, "");
            }
        }
        if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn explained(manifest: Value, live: Value, result: Value, conflicts: &[&str], taken_over: &[&str]) -> Vec<String> {
        let own = |list: &[&str]| -> Vec<String> { list.iter().map(|&text| text.to_owned()).collect() };
        let evidence = Evidence {
            manifest: &manifest,
            live: &live,
            result: &result,
            manager: "kobune",
            conflicts: &own(conflicts),
            taken_over: &own(taken_over),
        };
        explain(&evidence).iter().map(|it| format!("{} {}", it.path, it.why.words())).collect()
    }

    #[test]
    fn reasons() {
        let live = json!({
            "metadata": {"name": "web", "resourceVersion": "1", "managedFields": [
                {"manager": "kobune", "operation": "Apply", "fieldsV1": {"f:spec": {"f:mine": {}, "f:gone": {}, "f:back": {}}}},
                {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:theirs": {}, "f:left": {}}}},
            ]},
            "spec": {"mine": 1, "gone": 1, "back": 7, "theirs": 1, "left": 1, "default": 1},
            "status": {"x": 1},
        });
        let manifest = json!({"spec": {"mine": 2, "theirs": 2, "default": 2, "new": 2}});
        let result = json!({"metadata": {"name": "web", "resourceVersion": "2"},
            "spec": {"mine": 2, "back": 1, "theirs": 2, "default": 2, "new": 2, "filled": 3}});
        let rest = ["spec.filled a default", "spec.gone you removed it"];
        let check = |conflicts: &[&str], taken: &[&str], theirs: &str, left: &str| {
            let expected = [
                "spec.back you removed it, back to the default",
                "spec.default you changed it",
                rest[0],
                rest[1],
                left,
                "spec.mine you changed it",
                "spec.new you added it",
                theirs,
            ];
            assert_eq!(explained(manifest.clone(), live.clone(), result.clone(), conflicts, taken), expected);
        };
        check(&[".spec.theirs"], &[], "spec.theirs another manager holds it", "spec.left the server sets it");
        check(&[], &[], "spec.theirs taken over", "spec.left the server sets it");
        check(&[], &["kubectl-edit"], "spec.theirs you changed it", "spec.left not in your manifest");
    }

    #[test]
    fn secrets_stay_hidden() {
        let secret = |text: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"key": text}});
        let (live, result) = (secret("aHVzaA=="), secret("bG91ZA=="));
        let evidence = Evidence {
            manifest: &result,
            live: &live,
            result: &result,
            manager: "kobune",
            conflicts: &[],
            taken_over: &[],
        };
        let changes = explain(&evidence);
        assert_eq!(changes[0].old, Some(json!("(hidden, 4 bytes)")));
        assert_eq!(changes[0].new, Some(json!("(hidden, 4 bytes, another value)")));
        let text = format!("{}{}", serde_json::to_string(&changes).unwrap(), shown(&live));
        assert!(!text.contains("aHVzaA") && !text.contains("bG91ZA"), "{text}");
    }
}
