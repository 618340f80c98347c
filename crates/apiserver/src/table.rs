//! `meta.k8s.io/v1` Tables: what kubectl prints.

use jiff::Timestamp;
use kobune_kinds::Kind;
use serde_json::{Value, json};

use crate::{error::Answer, error::ApiError, query::Query, respond};

/// How much of each object a row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// The metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub(crate) fn of(query: &Query) -> Answer<Self> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!("unrecognized includeObject value: \"{other}\""))),
        }
    }
}

/// The definitions of a kind's columns.
pub(crate) fn columns(kind: &Kind) -> Value {
    kind.column_definitions()
}

/// The row of one object.
pub(crate) fn row(kind: &Kind, object: &Value, include: Include, meta_version: &str) -> Value {
    let row = kind.full_row(object, Timestamp::now());
    let mut value = json!({"cells": row.cells, "object": null});
    if !row.conditions.is_empty() {
        value["conditions"] = Value::Array(row.conditions);
    }
    match include {
        Include::None => {}
        Include::Metadata => value["object"] = respond::partial(object, meta_version),
        Include::Object => value["object"] = object.clone(),
    }
    value
}

/// The table of one object.
pub(crate) fn of_one(kind: &Kind, object: &Value, include: Include, meta_version: &str) -> Value {
    let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_else(|| "".into());
    json!({
        "kind": "Table", "apiVersion": meta_version, "metadata": {"resourceVersion": version},
        "columnDefinitions": columns(kind), "rows": [row(kind, object, include, meta_version)],
    })
}

/// The same as an event of a watch, whose headings are sent only once.
pub(crate) fn of_event(kind: &Kind, object: &Value, include: Include, meta_version: &str, with_columns: bool) -> Value {
    let mut table = of_one(kind, object, include, meta_version);
    if !with_columns {
        table["columnDefinitions"] = Value::Null;
    }
    table
}
