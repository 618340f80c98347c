//! What stands around messages: the envelope of objects, the heads of lists, the frames of watches.

use std::convert::Infallible;

use serde_json::Value;

use super::{
    MAGIC,
    encode::{self, EncodeError},
    write,
};
use crate::{
    catalogue::type_name,
    schema::{SchemaRef, Types},
};

/// The group of partial objects, of which two versions are alike.
const META_GROUP: &str = "meta.k8s.io/";

/// The package of the types that belong to no group.
const META_PACKAGE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

fn sure(written: Result<(), Infallible>) {
    let Ok(()) = written;
}

/// Writes the first fields of an envelope: whose content follows.
fn head(out: &mut Vec<u8>, api_version: &str, kind: &str) {
    out.extend_from_slice(MAGIC);
    sure(write::nested(out, 1, |out| {
        write::bytes(out, 1, api_version.as_bytes());
        write::bytes(out, 2, kind.as_bytes());
        Ok(())
    }));
}

/// Writes an object of a type from its JSON.
pub fn object(
    out: &mut Vec<u8>,
    api_version: &str,
    kind: &str,
    schema: SchemaRef<'_>,
    json: &[u8],
) -> Result<(), EncodeError> {
    head(out, api_version, kind);
    write::nested(out, 2, |out| encode::message(out, schema, json))
}

/// Writes the `PartialObjectMetadata` of an object of any kind from the object's JSON.
pub fn partial(out: &mut Vec<u8>, api_version: &str, json: &[u8]) -> Result<(), EncodeError> {
    head(out, api_version, "PartialObjectMetadata");
    write::nested(out, 2, |out| encode::metadata(out, json))
}

/// Writes an item of a list from its JSON.
pub fn item(out: &mut Vec<u8>, schema: SchemaRef<'_>, json: &[u8]) -> Result<(), EncodeError> {
    write::nested(out, 2, |out| encode::message(out, schema, json))
}

/// Writes an item of a `PartialObjectMetadataList` from the JSON of an object of any kind.
pub fn partial_item(out: &mut Vec<u8>, json: &[u8]) -> Result<(), EncodeError> {
    write::nested(out, 2, |out| encode::metadata(out, json))
}

/// Writes what stands before the items of a list, whose length together has to be known. `metadata` is the JSON of a
/// `ListMeta`.
pub fn list_head(
    out: &mut Vec<u8>,
    api_version: &str,
    kind: &str,
    metadata: &[u8],
    items: usize,
) -> Result<(), EncodeError> {
    let mut meta = Vec::new();
    let schema = named(&format!("{META_PACKAGE}.ListMeta"), api_version, kind)?;
    write::nested(&mut meta, 1, |out| encode::message(out, schema, metadata))?;
    head(out, api_version, kind);
    write::length(out, 2, meta.len() + items);
    out.extend_from_slice(&meta);
    Ok(())
}

/// Writes one event of a watch with its frame; `object` is an object in its envelope.
pub fn watch_frame(out: &mut Vec<u8>, word: &str, object: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write::bytes(out, 1, word.as_bytes());
    write::length(out, 2, 1 + write::varint_length(object.len() as u64) + object.len());
    write::bytes(out, 1, object);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn named(name: &str, api_version: &str, kind: &str) -> Result<SchemaRef<'static>, EncodeError> {
    let unknown = || EncodeError::Unknown { api_version: api_version.to_owned(), kind: kind.to_owned() };
    Types::builtin().named(name).filter(|schema| schema.has_numbers()).ok_or_else(unknown)
}

/// The type of objects that say `apiVersion` and `kind`; for kinds of `v1` also those that belong to no group.
fn type_of(api_version: &str, kind: &str) -> Result<SchemaRef<'static>, EncodeError> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let own = named(&type_name(group, version, kind), api_version, kind);
    if api_version == "v1" && own.is_err() { named(&format!("{META_PACKAGE}.{kind}"), api_version, kind) } else { own }
}

/// Writes whatever an object says that it is: an object, a list, a `Status`, a `PartialObjectMetadata`.
pub fn value(out: &mut Vec<u8>, value: &Value) -> Result<(), EncodeError> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    // `APIVersions` says no version in JSON; on the wire it is of the version of all kinds without a group.
    let (api_version, kind) = match (text("apiVersion"), text("kind")) {
        ("", kind @ "APIVersions") => ("v1", kind),
        said => said,
    };
    let json = value.to_string();
    let is_partial = api_version.starts_with(META_GROUP);
    if is_partial && kind == "PartialObjectMetadata" {
        return partial(out, api_version, json.as_bytes());
    }
    let of_items = match value.get("items") {
        Some(Value::Array(items)) => kind.strip_suffix("List").map(|kind| (items, kind)),
        _ => None,
    };
    let Some((items, item_kind)) = of_items else {
        return object(out, api_version, kind, type_of(api_version, kind)?, json.as_bytes());
    };
    let mut content = Vec::new();
    for object in items {
        let json = object.to_string();
        if is_partial {
            partial_item(&mut content, json.as_bytes())?;
        } else {
            item(&mut content, type_of(api_version, item_kind)?, json.as_bytes())?;
        }
    }
    let metadata = value.get("metadata").map_or_else(|| "{}".to_owned(), Value::to_string);
    list_head(out, api_version, kind, metadata.as_bytes(), content.len())?;
    out.extend_from_slice(&content);
    Ok(())
}
