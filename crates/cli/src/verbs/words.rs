//! How a verb ends that did not do what it should: kubectl's words on standard error and the command's exit codes (`checkErr` in
//! `k8s.io/kubectl/pkg/cmd/util/helpers.go`).

use std::process::ExitCode;

use anyhow::Result;
use kube::core::Status;

use super::outcome;
use crate::request::RequestError;

/// An end with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct Failure {
    /// What is said, as it stands; nothing where it is empty.
    pub words: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// An end about which all is said already.
    pub fn silent() -> Failure {
        Failure { words: String::new(), code: 1 }
    }
}

/// Says on standard error what went wrong, and answers with the exit code.
pub fn ending(result: Result<ExitCode>) -> Result<ExitCode> {
    let error = match result {
        Ok(code) => return Ok(code),
        Err(error) => error,
    };
    let Some(failure) = error.downcast_ref::<Failure>() else {
        return Ok(outcome::tell(&format!("{error:#}")));
    };
    if !failure.words.is_empty() {
        eprintln!("{}", failure.words.trim_end());
    }
    Ok(ExitCode::from(failure.code))
}

/// A refusal of the server in kubectl's words.
pub fn refused(error: RequestError) -> anyhow::Error {
    match error.status() {
        Some(status) => Failure { words: of_status(status), code: 1 }.into(),
        None => anyhow::Error::new(error),
    }
}

/// A Status in kubectl's words.
pub fn of_status(status: &Status) -> String {
    match status.reason.as_str() {
        "Invalid" => invalid(status),
        "Unauthorized" => format!("error: You must be logged in to the server ({})", status.message),
        "" => format!("Error from server: {}", status.message),
        reason => format!("Error from server ({reason}): {}", status.message),
    }
}

fn invalid(status: &Status) -> String {
    let Some(details) = &status.details else {
        return format!("The request is invalid: {}", status.message);
    };
    let mut head = "The request is invalid".to_owned();
    if !details.kind.is_empty() || !details.name.is_empty() {
        head = format!("The {} {:?} is invalid", details.kind, details.name);
    } else if !status.message.is_empty() && details.causes.is_empty() {
        head = format!("{head}: {}", status.message);
    }
    let mut lines: Vec<String> = Vec::new();
    for cause in &details.causes {
        let line = format!("{}: {}", cause.field, cause.message);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    match lines.as_slice() {
        [] => head,
        [line] => format!("{head}: {line}"),
        lines => format!("{head}: \n{}", lines.iter().map(|line| format!("* {line}\n")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_failures() {
        let check = |status: serde_json::Value, expected: &str| {
            assert_eq!(of_status(&serde_json::from_value(status).unwrap()), expected);
        };
        let status =
            |reason: &str| serde_json::json!({"status": "Failure", "reason": reason, "message": "m", "code": 1});
        check(status("NotFound"), "Error from server (NotFound): m");
        check(status(""), "Error from server: m");
        check(status("Unauthorized"), "error: You must be logged in to the server (m)");
        let mut invalid = status("Invalid");
        let cause = serde_json::json!({"reason": "r", "field": "spec.a", "message": "must be b"});
        invalid["details"] = serde_json::json!({"kind": "Pod", "name": "p", "causes": [cause, cause]});
        check(invalid.clone(), "The Pod \"p\" is invalid: spec.a: must be b");
        let other = serde_json::json!({"reason": "r", "field": "spec.c", "message": "x"});
        invalid["details"]["causes"] = serde_json::json!([cause, other]);
        check(invalid, "The Pod \"p\" is invalid: \n* spec.a: must be b\n* spec.c: x\n");
    }
}
