//! What changes lead to: pods that restart, numbers of pods, resizes in place, fields that cannot change. Pure.

use kube::core::Status;
use serde_json::Value;

use crate::plan::model::Change;

/// What the changes of an object lead to, in words.
pub fn effects(group: &str, kind: &str, live: &Value, result: &Value, changes: &[Change]) -> Vec<String> {
    let mut effects = Vec::new();
    let touches = |prefix: &str| changes.iter().any(|change| under(&change.path, prefix));
    let number = |object: &Value, field: &str| object["spec"][field].as_i64();
    let strategy = match kind {
        "Deployment" => &result["spec"]["strategy"]["type"],
        _ => &result["spec"]["updateStrategy"]["type"],
    };
    match (group, kind) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") => {
            if let (Some(before), Some(after)) = (number(live, "replicas"), number(result, "replicas"))
                && before != after
            {
                effects.push(format!("scales from {before} to {after} pods"));
            }
            // Labels of the object's own metadata are no part of the template.
            if touches("spec.template") {
                let pods = match number(result, "replicas") {
                    _ if kind == "DaemonSet" => "its pods".to_owned(),
                    Some(1) => "its pod".to_owned(),
                    Some(count) => format!("its {count} pods"),
                    None => "its pods".to_owned(),
                };
                effects.push(match strategy.as_str() {
                    Some("Recreate") => format!("restarts {pods}, all at once (strategy Recreate)"),
                    Some("OnDelete") => format!("{pods} change only when somebody deletes them (strategy OnDelete)"),
                    _ => format!("restarts {pods}, step by step"),
                });
            }
        }
        ("apps", "ReplicaSet") if touches("spec.template") => {
            effects.push("only pods that are made from now on are different".to_owned());
        }
        ("batch", "CronJob") if touches("spec.jobTemplate") => effects.push("counts from the next run on".to_owned()),
        ("", "Pod") if only_resizes(changes) => {
            effects.push("resized in place, without a restart unless its resizePolicy says so".to_owned())
        }
        ("", "ConfigMap" | "Secret") if touches("data") || touches("binaryData") || touches("stringData") => {
            effects.push(
                "pods that mount it follow within a minute or so; environment variables only after a restart"
                    .to_owned(),
            );
        }
        _ => {}
    }
    effects
}

fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether all changes of a pod are resources of containers, which its `resize` subresource takes.
pub fn only_resizes(changes: &[Change]) -> bool {
    let resizes = |path: &str| {
        ["spec.containers[", "spec.initContainers["].iter().any(|list| {
            path.strip_prefix(list)
                .and_then(|rest| rest.split_once(']'))
                .is_some_and(|(_, rest)| under(rest, ".resources"))
        })
    };
    !changes.is_empty() && changes.iter().all(|change| resizes(&change.path))
}

/// The fields that a server refuses to change, with its words, when that is why it refuses. Each word is upstream's:
/// `apimachinery/pkg/api/validation` for most kinds, `pkg/apis/*/validation` for pods, StatefulSets, roles and claims; CEL
/// rules of definitions mostly say `immutable` too.
pub fn immutable(status: &Status) -> Vec<String> {
    const WORDS: [&str; 8] = [
        "immutable",
        "may not change fields other than",
        "updates to statefulset spec for fields other than",
        "may not change once set",
        "cannot change roleRef",
        "cannot be changed",
        "pod updates may not",
        "may not be changed",
    ];
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let telling = |text: &str| WORDS.iter().any(|word| text.contains(word));
    if status.code != 422 || causes.is_empty() || !causes.iter().all(|cause| telling(&cause.message)) {
        return Vec::new();
    }
    let words = |message: &str| {
        let first = message.lines().next().unwrap_or_default();
        // The old value that the server quotes may be long, and is shown anyway.
        let words = first.rsplit_once("}: ").map_or(first, |(_, words)| words);
        words.strip_prefix("Forbidden: ").unwrap_or(words).to_owned()
    };
    let mut fields: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", cause.field, words(&cause.message))).collect();
    fields.dedup();
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::model::Why;
    use serde_json::json;

    fn change(path: &str) -> Change {
        Change { path: path.to_owned(), old: None, new: Some(json!(1)), owners: Vec::new(), why: Why::YouAddedIt }
    }

    #[test]
    fn what_follows() {
        let check = |kind: (&str, &str), live: Value, result: Value, paths: &[&str], expected: &[&str]| {
            let changes: Vec<Change> = paths.iter().map(|path| change(path)).collect();
            let got: Vec<String> = effects(kind.0, kind.1, &live, &result, &changes);
            let fits = got.len() == expected.len() && got.iter().zip(expected).all(|(got, part)| got.contains(part));
            assert!(fits, "{got:?} {expected:?}");
        };
        let spec =
            |replicas: i64, strategy: &str| json!({"spec": {"replicas": replicas, "strategy": {"type": strategy}}});
        let deployment = ("apps", "Deployment");
        check(deployment, spec(1, ""), spec(3, ""), &["spec.replicas"], &["from 1 to 3 pods"]);
        check(
            deployment,
            spec(3, ""),
            spec(3, ""),
            &["spec.template.spec.containers[web].image"],
            &["its 3 pods, step by step"],
        );
        check(deployment, spec(1, ""), spec(1, "Recreate"), &["spec.template.x"], &["its pod, all at once"]);
        check(deployment, spec(1, ""), spec(1, ""), &["metadata.labels.a"], &[]);
        check(("", "Pod"), json!({}), json!({}), &["spec.containers[a].resources.limits.cpu"], &["resized in place"]);
        check(
            ("", "Pod"),
            json!({}),
            json!({}),
            &["spec.containers[a].resources.limits.cpu", "metadata.labels.a"],
            &[],
        );
    }

    #[test]
    fn fields_that_cannot_change() {
        let status = |code: u16, messages: &[&str]| -> Status {
            let causes: Vec<Value> = messages.iter().map(|text| json!({"field": "spec.x", "message": text})).collect();
            serde_json::from_value(json!({"code": code, "message": "m", "details": {"causes": causes}})).unwrap()
        };
        assert_eq!(
            immutable(&status(422, &["Invalid value: {\"a\":1}: field is immutable"])),
            ["spec.x: field is immutable"]
        );
        assert_eq!(immutable(&status(422, &["field is immutable", "Required value"])), Vec::<String>::new());
        assert_eq!(immutable(&status(422, &["Forbidden: spec is immutable after creation except x"])).len(), 1);
        assert_eq!(immutable(&status(409, &["field is immutable"])), Vec::<String>::new());
    }
}
