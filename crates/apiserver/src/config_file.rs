//! The files that configure an API server: upstream's kinds, in YAML or JSON, read strictly and checked as a whole.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest configuration file that is read.
const MAXIMUM_BYTES: u64 = 1 << 20;

/// Why a configuration file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is neither YAML nor JSON of the kind that is wanted.
    #[error("{}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        problem: String,
    },
    /// The file says something that cannot be.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong, each with its field.
        problems: Vec<String>,
    },
}

/// Mistakes of a file, with their fields.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Notes a mistake.
    pub(crate) fn add(&mut self, field: impl fmt::Display, problem: impl fmt::Display) {
        self.0.push(format!("{field}: {problem}"));
    }

    /// The mistakes, if there are any.
    pub(crate) fn into_list(self) -> Option<Vec<String>> {
        (!self.0.is_empty()).then_some(self.0)
    }

    /// The result, if there was no mistake.
    pub(crate) fn into_result<T>(self, path: &Path, value: T) -> Result<T, ConfigError> {
        if self.0.is_empty() {
            return Ok(value);
        }
        Err(ConfigError::Invalid { path: path.to_owned(), problems: self.0 })
    }
}

/// Reads a file of a kind in one of its versions. Unknown fields and second documents are mistakes.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, kind: &str, api_versions: &[&str]) -> Result<T, ConfigError> {
    let text = read_text(path)?;
    parse(&text, kind, api_versions).map_err(|problem| ConfigError::Parse { path: path.to_owned(), problem })
}

/// Reads a text file of bounded size.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAXIMUM_BYTES {
        let problem = format!("it is larger than {MAXIMUM_BYTES} bytes");
        return Err(ConfigError::Parse { path: path.to_owned(), problem });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Reads the text of a file of a kind.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, kind: &str, api_versions: &[&str]) -> Result<T, String> {
    let mut object: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let fields = object.as_object_mut().ok_or("it is not an object")?;
    let mut take = |field: &str| fields.remove(field).and_then(|value| value.as_str().map(str::to_owned));
    let (found_version, found_kind) = (take("apiVersion").unwrap_or_default(), take("kind").unwrap_or_default());
    if found_kind != kind || !api_versions.contains(&found_version.as_str()) {
        let versions = api_versions.join(" or ");
        return Err(format!("expected kind {kind} of {versions}, found kind {found_kind:?} of {found_version:?}"));
    }
    fields.remove("metadata");
    serde_json::from_value(object).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
    }

    #[test]
    fn files_are_read_strictly() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = parse::<Sample>(text, "Sample", &["example.com/v1"]);
            match (found, expected) {
                (Ok(found), Ok(name)) => assert_eq!(found.name, name),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                other => panic!("{text}: {other:?}"),
            }
        };
        check("apiVersion: example.com/v1\nkind: Sample\nname: a\n", Ok("a"));
        check(r#"{"apiVersion": "example.com/v1", "kind": "Sample", "name": "a"}"#, Ok("a"));
        check("apiVersion: example.com/v1\nkind: Sample\nname: a\nnmae: b\n", Err("unknown field `nmae`"));
        check("apiVersion: example.com/v2\nkind: Sample\nname: a\n", Err("expected kind Sample of example.com/v1"));
        check("- a\n", Err("not an object"));
        check("a: [", Err(""));
    }
}
