//! Asks the server what would become of an object: a dry run of server-side apply beside the object as it is. What the server
//! cannot answer yet, because a namespace, a definition or another object of the same batch is still missing, is planned
//! here.

use std::sync::Arc;

use http::Method;
use kobune_kinds::Catalogue;
use kube::Client;
use kube::core::Status;
use serde_json::{Value, json};

use crate::fields;
use crate::manifests::Mistake;
use crate::plan::effects;
use crate::plan::local;
use crate::request::{self, RequestError};
use crate::take_over;
use crate::targets::Target;

/// What is the same for all objects of a batch.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who applies.
    pub manager: String,
    /// Whether fields of other managers are taken.
    pub force_conflicts: bool,
    /// Managers whose fields become the manager's.
    pub take_over: Vec<String>,
}

/// What came back about one object.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The object as it is.
    pub live: Option<Value>,
    /// The object as it would be.
    pub result: Value,
    /// What the server warns of.
    pub warnings: Vec<String>,
    /// Fields that other managers hold: the field, and the server's words.
    pub conflicts: Vec<(String, String)>,
    /// Fields that cannot change, with the server's words.
    pub immutable: Vec<String>,
    /// Why the server could not be asked.
    pub local: Option<String>,
    /// Managers that hold fields and are taken over.
    pub taken_over: Vec<String>,
}

/// What the batch will bring that is not there yet.
#[derive(Debug, Clone, Default)]
pub struct Coming {
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Names of all new objects: kind in small letters, name.
    pub objects: Vec<(String, String)>,
    /// Groups of definitions that are new or change.
    pub groups: Vec<String>,
    /// Kubernetes' own kinds and those that the batch's definitions bring.
    pub catalogue: Arc<Catalogue>,
    /// Namespaces that are neither there nor come.
    pub missing: Vec<String>,
}

/// The path and query of a server-side apply.
pub fn apply_path(path: &str, manager: &str, force: bool, dry_run: bool) -> String {
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    format!("{path}?fieldManager={}&force={force}&fieldValidation=Strict{dry_run}", request::query(manager))
}

/// Reads the object as it is; nothing where it cannot exist yet.
pub async fn live(client: &Client, target: &Target) -> Result<Option<Value>, Vec<Mistake>> {
    if target.defined_here {
        return Ok(None);
    }
    request::get(client, &target.path())
        .await
        .map_err(|error| vec![target.mistake(format!("{}: {error}", target.object))])
}

/// Asks about one object.
pub async fn ask(
    client: &Client,
    question: &Question,
    target: &Target,
    live: Option<Value>,
    coming: &Coming,
) -> Result<Asked, Vec<Mistake>> {
    let namespace_comes = target.object.namespace.as_ref().is_some_and(|name| coming.namespaces.contains(name));
    if target.defined_here || namespace_comes {
        let missing = if target.defined_here { "its definition" } else { "its namespace" };
        return local::plan(
            target,
            live,
            coming,
            format!("{missing} is in this batch: checked here, not by the server"),
        );
    }
    let manifest = &target.manifest.value;
    let path = |force| apply_path(&target.path(), &question.manager, force, true);
    let send = async |force| request::write(client, Method::PATCH, &path(force), request::APPLY, manifest).await;
    let mut asked = Asked { live, ..Asked::default() };
    if let Some(live) = &asked.live {
        asked.taken_over = take_over::held(live, &question.take_over);
    }
    let mut answer = send(question.force_conflicts).await;
    if let Err(error) = &answer
        && let Some(conflicts) = conflicts(error)
    {
        asked.conflicts = conflicts
            .into_iter()
            .filter(|(_, words)| !asked.taken_over.iter().any(|manager| words.contains(&format!("{manager:?}"))))
            .collect();
        answer = send(true).await;
    }
    match answer {
        Ok(answer) => {
            asked.warnings = answer.warnings;
            asked.result = answer.body;
        }
        Err(error) => return refused(target, asked, &error, coming),
    }
    if let Some(live) = &asked.live
        && !asked.taken_over.is_empty()
    {
        // What the former managers had and the manifest has not goes with them. A dry run of an update says what that
        // leads to, defaults included.
        let mut after = take_over::without_left_behind(live, &asked.result, &question.manager, &asked.taken_over);
        after["metadata"]["managedFields"] = json!([{}]);
        after["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        let path = format!("{}?dryRun=All&fieldManager={}", target.path(), request::query(&question.manager));
        let mut attempts = take_over::ATTEMPTS;
        let answer = loop {
            match request::write(client, Method::PUT, &path, "application/json", &after).await {
                // Its status has moved; this dry run is about the rest.
                Err(error) if error.is(409) && attempts > 1 => {
                    attempts -= 1;
                    let Ok(Some(now)) = request::get(client, &target.path()).await else { break Err(error) };
                    after["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
                }
                answer => break answer,
            }
        };
        match answer {
            Ok(answer) => {
                let managed = asked.result["metadata"]["managedFields"].take();
                asked.result = answer.body;
                asked.result["metadata"]["managedFields"] = managed;
            }
            Err(error) => return refused(target, asked, &error, coming),
        }
    }
    Ok(asked)
}

/// The conflicts of a server-side apply: each field with the words about its owner.
pub fn conflicts(error: &RequestError) -> Option<Vec<(String, String)>> {
    let status = error.status().filter(|status| status.code == 409)?;
    let causes = &status.details.as_ref()?.causes;
    let conflicts: Vec<(String, String)> = causes
        .iter()
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| (cause.field.clone(), cause.message.clone()))
        .collect();
    (!conflicts.is_empty()).then_some(conflicts)
}

fn refused(target: &Target, mut asked: Asked, error: &RequestError, coming: &Coming) -> Result<Asked, Vec<Mistake>> {
    let Some(status) = error.status() else {
        return Err(vec![target.mistake(format!("{}: {error}", target.object))]);
    };
    if let Some(live) = &asked.live {
        asked.immutable = effects::immutable(status);
        if !asked.immutable.is_empty() {
            let known = fields::all_fields([live]);
            asked.result = fields::overlay(live, &target.manifest.value, Some(&known));
            return Ok(asked);
        }
    }
    if let Some(waits_for) = names_what_comes(status, coming) {
        return local::plan(
            target,
            asked.live,
            coming,
            format!("{waits_for} is in this batch: checked here, not by the server"),
        );
    }
    if coming.groups.iter().any(|group| group == target.object.group()) {
        return local::plan(
            target,
            asked.live,
            coming,
            "its definition changes in this batch: checked here, not by the server".to_owned(),
        );
    }
    Err(mistakes(target, status))
}

/// Whether the server misses something that the same batch brings. It names it in quotes.
fn names_what_comes(status: &Status, coming: &Coming) -> Option<String> {
    if !matches!(status.code, 400 | 403 | 404 | 409 | 422 | 500) {
        return None;
    }
    let named =
        |name: &String| status.message.contains(&format!("{name:?}")) || status.message.contains(&format!("/{name}:"));
    let missing = ["not found", "no PriorityClass", "does not exist", "not exist", "no such", "could not find"];
    let says_missing = missing.iter().any(|words| status.message.contains(words));
    let (kind, name) = coming.objects.iter().find(|(_, name)| says_missing && named(name))?;
    Some(format!("{kind}/{name}"))
}

/// What the server refuses, at the fields that it names.
fn mistakes(target: &Target, status: &Status) -> Vec<Mistake> {
    let object = &target.object;
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let unknown = unknown_fields(&status.message);
    if !unknown.is_empty() {
        let mistake = |(field, words): &(String, String)| {
            let path = target.manifest.steps(field);
            let nearest = if words.contains("unknown field") { local::nearest_field(target, &path) } else { None };
            let mistake = target.manifest.mistake(&path, format!("{object}: {words}"));
            match nearest {
                Some(nearest) => mistake.hint(format!("did you mean {nearest}?")),
                None => mistake,
            }
        };
        return unknown.iter().map(mistake).collect();
    }
    if causes.is_empty() {
        return vec![target.mistake(format!("{object}: {}", status.message))];
    }
    let mut seen = Vec::new();
    for cause in causes {
        if !seen.contains(&(&cause.field, &cause.message)) {
            seen.push((&cause.field, &cause.message));
        }
    }
    seen.into_iter()
        .map(|(field, message)| {
            let path = if field.is_empty() || field == "<nil>" { Vec::new() } else { target.manifest.steps(field) };
            let mut words = format!("{object}: {field}: {message}");
            if object.kind == "Secret" {
                words = format!("{object}: {field}: {}", message.split(": ").next().unwrap_or_default());
            }
            target.manifest.mistake(&path, words)
        })
        .collect()
}

/// The fields of a strict decoding error: `unknown field "spec.x"`, `duplicate field "spec.y"`.
fn unknown_fields(message: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    // Of server-side apply: `failed to create typed patch object (…): .spec.x: field not declared in schema`, or several such
    // lines after `errors:`.
    if let Some((_, list)) =
        message.split_once("failed to create typed patch object (").and_then(|(_, rest)| rest.split_once("): "))
    {
        for line in list.lines().map(str::trim).filter(|line| line.starts_with('.')) {
            let Some((field, words)) = line.split_once(": ") else { continue };
            let field = field.trim_start_matches('.');
            fields.push((
                field.to_owned(),
                match words {
                    "field not declared in schema" => format!("unknown field \"{field}\""),
                    words => format!("{field}: {words}"),
                },
            ));
        }
    }
    // Of decoding: `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
    if let Some((found, rest)) =
        message.split_once("cannot unmarshal ").and_then(|(_, rest)| rest.split_once(" into Go struct field "))
        && let Some((field, wanted)) = rest.split_once(" of type ")
        && let Some((_, field)) = field.split_once('.')
    {
        fields.push((field.to_owned(), format!("{field}: expected {wanted}, got {found}")));
    }
    let Some((_, list)) = message.split_once("strict decoding error: ") else {
        return fields;
    };
    let mut rest = list;
    while let Some(start) = rest.find("field \"") {
        let from = rest[..start].rfind([',', ':']).map_or(0, |at| at + 1);
        let Some((field, behind)) = rest[start + 7..].split_once('"') else {
            break;
        };
        fields.push((field.to_owned(), format!("{}field \"{field}\"", rest[from..start].trim_start())));
        rest = behind;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_decoding_errors() {
        let message = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.a\", duplicate field \"spec.b[0].c\"";
        let fields = unknown_fields(message);
        assert_eq!(
            fields,
            [
                ("spec.a".to_owned(), "unknown field \"spec.a\"".to_owned()),
                ("spec.b[0].c".to_owned(), "duplicate field \"spec.b[0].c\"".to_owned())
            ]
        );
        let typed = "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): errors:\n  .spec.a: field not declared in schema\n  .spec.b: expected numeric, got string";
        assert_eq!(
            unknown_fields(typed),
            [
                ("spec.a".to_owned(), "unknown field \"spec.a\"".to_owned()),
                ("spec.b".to_owned(), "spec.b: expected numeric, got string".to_owned())
            ]
        );
    }

    #[test]
    fn values_of_the_wrong_type() {
        let message = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32";
        assert_eq!(
            unknown_fields(message),
            [("spec.replicas".to_owned(), "spec.replicas: expected int32, got string".to_owned())]
        );
    }

    #[test]
    fn what_waits_for_the_batch() {
        let coming = Coming { objects: vec![("priorityclass".to_owned(), "high".to_owned())], ..Coming::default() };
        let status = |message: &str| Status { code: 403, message: message.to_owned(), ..Status::default() };
        let check = |message: &str, expected: Option<&str>| {
            assert_eq!(names_what_comes(&status(message), &coming).as_deref(), expected, "{message}");
        };
        check("pods \"a\" is forbidden: no PriorityClass with name \"high\" was found", Some("priorityclass/high"));
        check("pods \"a\" is forbidden: no PriorityClass with name high was found", None);
        check("pods \"high\" is forbidden: exceeded quota", None);
    }
}
