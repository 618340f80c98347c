//! The options of writes that stand in a query: `CreateOptions`, `UpdateOptions`, `PatchOptions`, `DeleteOptions`.
//!
//! Source: `pkg/apis/meta/v1/validation` of apimachinery, Kubernetes 1.36, and the handlers that call it.

use http::HeaderMap;
use kobune_kinds::{FieldError, FieldValidation};
use serde_json::json;

use crate::call::header;
use crate::error::{Answer, ApiError};
use crate::query::Query;

/// The longest name of a field manager, in bytes.
const LONGEST_MANAGER: usize = 128;

/// What a write's query asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct WriteOptions {
    /// The name under which fields are tracked: `fieldManager`, or what the user agent begins with.
    pub manager: String,
    /// Whether nothing is to be kept.
    pub dry_run: bool,
    /// What happens on unknown fields.
    pub validation: FieldValidation,
}

impl WriteOptions {
    /// Reads the options of a verb. All mistakes are told at once.
    pub(crate) fn read(verb: &str, query: &Query, headers: &HeaderMap) -> Answer<Self> {
        let applies = header(headers, "content-type").is_some_and(|kind| kind.starts_with("application/apply-patch+"));
        let (kind, errors) = match verb {
            // Deletions have no manager and decode nothing.
            "delete" | "deletecollection" => ("DeleteOptions", dry_run(query)),
            "patch" => ("PatchOptions", [force(query, applies), common(query)].concat()),
            "update" => ("UpdateOptions", common(query)),
            _ => ("CreateOptions", common(query)),
        };
        refuse(kind, &errors)?;
        let validation = match query.get("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        };
        let manager = query.get("fieldManager").map_or_else(|| manager(headers), str::to_owned);
        Ok(Self { manager, dry_run: query.all("dryRun").next().is_some(), validation })
    }
}

/// Refuses options of a kind of `meta.k8s.io` that have mistakes.
pub(crate) fn refuse(kind: &str, errors: &[FieldError]) -> Answer<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("meta.k8s.io", kind, "", errors)) }
}

/// The mistake of `dryRun` values other than `All`.
pub(crate) fn dry_runs(values: &[&str]) -> Option<FieldError> {
    values.iter().any(|value| *value != "All").then(|| FieldError::not_supported("dryRun", json!(values), &["All"]))
}

fn dry_run(query: &Query) -> Vec<FieldError> {
    dry_runs(&query.all("dryRun").collect::<Vec<_>>()).into_iter().collect()
}

/// Only an apply may be forced, and it needs a manager.
fn force(query: &Query, applies: bool) -> Vec<FieldError> {
    match (applies, query.get("fieldManager"), query.has("force")) {
        (true, None, _) => vec![FieldError::required("fieldManager", "is required for apply patch")],
        (false, _, true) => vec![FieldError::forbidden("force", "may not be specified for non-apply patch")],
        _ => Vec::new(),
    }
}

fn common(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let manager = query.get("fieldManager").unwrap_or_default();
    if manager.len() > LONGEST_MANAGER {
        errors.push(FieldError::too_long("fieldManager", LONGEST_MANAGER));
    }
    for (index, character) in manager.char_indices().filter(|(_, character)| !is_printed(*character)) {
        let detail = format!("invalid character U+{:04X} (at position {index})", u32::from(character));
        errors.push(FieldError::invalid("fieldManager", manager, detail));
    }
    errors.extend(dry_run(query));
    if let Some(value) = query.get("fieldValidation")
        && !["Ignore", "Strict", "Warn"].contains(&value)
    {
        errors.push(FieldError::not_supported("fieldValidation", value, &["", "Ignore", "Strict", "Warn"]));
    }
    errors
}

/// Whether a character can be seen; of those between words only the space of ASCII.
fn is_printed(character: char) -> bool {
    character == ' ' || !character.is_control() && !character.is_whitespace()
}

/// What the user agent begins with, as upstream names who says nothing.
fn manager(headers: &HeaderMap) -> String {
    let agent = header(headers, "user-agent").unwrap_or_default();
    let prefix = agent.split('/').next().unwrap_or_default();
    let name: String = prefix.chars().filter(|character| is_printed(*character)).take(LONGEST_MANAGER).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(verb: &str, query: &str, kind: &'static str) -> Answer<WriteOptions> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(kind));
        headers.insert("user-agent", HeaderValue::from_static("tool/1.0 (linux)"));
        WriteOptions::read(verb, &Query::parse(Some(query)), &headers)
    }

    #[test]
    fn what_a_query_asks_for() {
        let check = |verb: &str, query: &str, manager: &str, dry_run: bool, validation: FieldValidation| {
            let expected = WriteOptions { manager: manager.to_owned(), dry_run, validation };
            assert_eq!(read(verb, query, "application/json").expect(query), expected, "{verb} {query}");
        };
        check("create", "", "tool", false, FieldValidation::Warn);
        check("update", "fieldManager=", "tool", false, FieldValidation::Warn);
        check("update", "fieldManager=me+too&fieldValidation=Ignore", "me too", false, FieldValidation::Ignore);
        check("patch", "dryRun=All&dryRun=All&fieldValidation=Strict", "tool", true, FieldValidation::Strict);
        check("delete", "fieldValidation=Sometimes&force=true", "tool", false, FieldValidation::Warn);
    }

    #[test]
    fn mistakes() {
        let check = |verb: &str, query: &str, kind: &'static str, expected: &str| {
            let error = read(verb, query, kind).expect_err(query);
            let status = error.to_status();
            assert_eq!((&status["code"], &status["message"]), (&json!(422), &json!(expected)), "{verb} {query}");
        };
        let json = "application/merge-patch+json";
        let apply = "application/apply-patch+yaml";
        check(
            "create",
            "dryRun=All&dryRun=Some",
            json,
            r#"CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["All","Some"]: supported values: "All""#,
        );
        check(
            "deletecollection",
            "dryRun=",
            json,
            r#"DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: [""]: supported values: "All""#,
        );
        check(
            "update",
            "fieldValidation=Sometimes",
            json,
            r#"UpdateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Sometimes": supported values: "", "Ignore", "Strict", "Warn""#,
        );
        check(
            "patch",
            "force=true",
            json,
            r#"PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch"#,
        );
        check(
            "patch",
            "fieldManager=&force=true",
            apply,
            r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#,
        );
        check(
            "patch",
            "fieldManager=a%07",
            apply,
            r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Invalid value: "a\u0007": invalid character U+0007 (at position 1)"#,
        );
        let long = format!("fieldManager={}&dryRun=x", "m".repeat(129));
        check(
            "create",
            &long,
            json,
            r#"CreateOptions.meta.k8s.io "" is invalid: [fieldManager: Too long: may not be more than 128 bytes, dryRun: Unsupported value: ["x"]: supported values: "All"]"#,
        );
    }
}
