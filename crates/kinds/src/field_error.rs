//! What is wrong with a field, in upstream's words.

use std::fmt;

use serde_json::Value;

/// The sort of a mistake; it decides the words and the `reason` of the Status' cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value is missing.
    Required,
    /// A value is malformed.
    Invalid,
    /// A value is none of those allowed.
    NotSupported,
    /// A value is well formed but not allowed here.
    Forbidden,
    /// A value is there twice.
    Duplicate,
    /// A text is too long.
    TooLong,
    /// A list has too many items.
    TooMany,
    /// A reference leads nowhere.
    NotFound,
    /// Validation itself failed.
    Internal,
    /// A value is of the wrong type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The words that open the message.
    pub fn words(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::Internal => "Internal error",
        }
    }

    /// The `reason` of a Status' cause.
    pub fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::Internal => "InternalError",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The sort of the mistake.
    pub kind: FieldErrorKind,
    /// Where: `spec.containers[0].image`.
    pub field: String,
    /// The value that is wrong, where the message shows it.
    pub value: Option<Value>,
    /// What is wrong about it.
    pub detail: String,
}

impl FieldError {
    /// `field: Required value: detail`.
    pub fn required(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError { kind: FieldErrorKind::Required, field: field.to_string(), value: None, detail: detail.into() }
    }

    /// `field: Invalid value: value: detail`.
    pub fn invalid(field: impl fmt::Display, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        let value = Some(value.into());
        FieldError { kind: FieldErrorKind::Invalid, field: field.to_string(), value, detail: detail.into() }
    }

    /// `field: Unsupported value: value: supported values: "a", "b"`, in the order given.
    pub fn not_supported(field: impl fmt::Display, value: impl Into<Value>, allowed: &[&str]) -> FieldError {
        let quoted: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        FieldError { kind: FieldErrorKind::NotSupported, field: field.to_string(), value: Some(value.into()), detail }
    }

    /// `field: Invalid value: detail`: where the value itself would say nothing.
    pub fn invalid_without_value(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError { kind: FieldErrorKind::Invalid, field: field.to_string(), value: None, detail: detail.into() }
    }

    /// `field: Forbidden: detail`.
    pub fn forbidden(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError { kind: FieldErrorKind::Forbidden, field: field.to_string(), value: None, detail: detail.into() }
    }

    /// `field: Duplicate value: value`.
    pub fn duplicate(field: impl fmt::Display, value: impl Into<Value>) -> FieldError {
        let value = Some(value.into());
        FieldError { kind: FieldErrorKind::Duplicate, field: field.to_string(), value, detail: String::new() }
    }

    /// `field: Too long: may not be more than limit bytes`.
    pub fn too_long(field: impl fmt::Display, limit: usize) -> FieldError {
        let bytes = if limit == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {limit} {bytes}");
        FieldError { kind: FieldErrorKind::TooLong, field: field.to_string(), value: None, detail }
    }

    /// `field: Too many: actual: must have at most limit items`.
    pub fn too_many(field: impl fmt::Display, actual: usize, limit: usize) -> FieldError {
        let items = if limit == 1 { "item" } else { "items" };
        FieldError {
            kind: FieldErrorKind::TooMany,
            field: field.to_string(),
            value: Some(Value::from(actual)),
            detail: format!("must have at most {limit} {items}"),
        }
    }

    /// `field: Not found: value`.
    pub fn not_found(field: impl fmt::Display, value: impl Into<Value>) -> FieldError {
        let value = Some(value.into());
        FieldError { kind: FieldErrorKind::NotFound, field: field.to_string(), value, detail: String::new() }
    }

    /// The message without the field, as a Status' cause has it.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.body()) } else { write!(f, "{}: {}", self.field, self.body()) }
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_upstream() {
        let check = |error: FieldError, expected: &str| assert_eq!(error.to_string(), expected);
        check(FieldError::required("spec.containers", ""), "spec.containers: Required value");
        check(FieldError::invalid("a", "B", "must be lower"), r#"a: Invalid value: "B": must be lower"#);
        check(FieldError::invalid("a", -1, "must be greater"), "a: Invalid value: -1: must be greater");
        check(
            FieldError::not_supported("p", "X", &["SCTP", "TCP"]),
            r#"p: Unsupported value: "X": supported values: "SCTP", "TCP""#,
        );
        check(FieldError::duplicate("n[1].name", "x"), r#"n[1].name: Duplicate value: "x""#);
        check(FieldError::too_long("a", 3), "a: Too long: may not be more than 3 bytes");
    }
}
