//! Lists as protobuf.
//!
//! A list is one message, and a message says how long it is before it begins. So all items are encoded before the first
//! byte goes out; what that gives is kept up to a limit, and the rest is encoded once more while it is sent. A list of any
//! size takes that much memory and no more.

use bytes::Bytes;
use http::{Response, StatusCode};
use kobune_kinds::protobuf;
use kobune_store::Record;
use serde_json::Value;

use crate::{
    Body, BodyError,
    accept::Form,
    compress::Compressible,
    error::{Answer, ApiError},
    list::{CHUNK, Writer},
    respond,
};

/// How many bytes of a list are kept from counting to sending.
const KEPT: usize = 4 << 20;

/// Appends one item.
fn write_item(out: &mut Vec<u8>, writer: &Writer, record: &Record) -> Answer<()> {
    let written = match writer.accept.form {
        Form::Partial => protobuf::partial_item(out, &record.value),
        _ => protobuf::item(out, writer.kind.schema(), &respond::shown(&writer.kind, record)?),
    };
    written.map_err(|error| {
        ApiError::internal_words(&format!("the stored object {} has no protobuf form: {error}", record.key))
    })
}

/// Appends items until the piece is full; answers how many.
fn write_piece(out: &mut Vec<u8>, writer: &Writer, records: &[Record]) -> Answer<usize> {
    for (index, record) in records.iter().enumerate() {
        write_item(out, writer, record)?;
        if out.len() >= CHUNK {
            return Ok(index + 1);
        }
    }
    Ok(records.len())
}

/// The response that lists these records.
pub(crate) async fn protobuf_list(writer: Writer, records: Vec<Record>, metadata: Value) -> Answer<Response<Body>> {
    let mut kept: Vec<Bytes> = Vec::new();
    let mut kept_bytes = 0;
    let mut kept_records = 0;
    let mut keeps = true;
    let mut length = 0;
    let mut done = 0;
    let mut piece = Vec::new();
    while done < records.len() {
        done += write_piece(&mut piece, &writer, &records[done..])?;
        length += piece.len();
        keeps &= kept_bytes + piece.len() <= KEPT;
        if keeps {
            kept_bytes += piece.len();
            kept_records = done;
            kept.push(Bytes::from(std::mem::take(&mut piece)));
        }
        piece.clear();
        // A long list takes long to encode: others go in between.
        tokio::task::yield_now().await;
    }
    let (api_version, kind) = match writer.accept.form {
        Form::Partial => (writer.accept.meta_version.to_owned(), "PartialObjectMetadataList"),
        _ => (writer.kind.api_version(), &*writer.kind.list_kind),
    };
    let mut head = Vec::new();
    protobuf::list_head(&mut head, &api_version, kind, metadata.to_string().as_bytes(), length)
        .map_err(|error| ApiError::internal(&error))?;
    let pieces = std::iter::once(Bytes::from(head)).chain(kept);
    if kept_records == records.len() {
        return Ok(respond::protobuf_body(StatusCode::OK, Body::pieces(pieces)));
    }
    let rest = futures::stream::try_unfold((writer, records, kept_records), |(writer, records, done)| async move {
        if done == records.len() {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(CHUNK + 8192);
        let written = write_piece(&mut piece, &writer, &records[done..]).map_err(BodyError::new)?;
        Ok(Some((Bytes::from(piece), (writer, records, done + written))))
    });
    let first = futures::stream::iter(pieces.map(Ok).collect::<Vec<_>>());
    let mut response = respond::protobuf_body(StatusCode::OK, Body::stream(futures::StreamExt::chain(first, rest)));
    response.extensions_mut().insert(Compressible);
    Ok(response)
}
