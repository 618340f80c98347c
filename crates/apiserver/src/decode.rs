//! Bodies to objects.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kobune_kinds::{Decoded, Kind, Media, Yaml, protobuf};
use serde_json::Value;

use crate::{
    BodyError,
    accept::{OFFERED, media_type},
    body::RequestBody,
    call::Call,
    error::{Answer, ApiError},
};

/// The longest body that is taken, upstream's limit.
pub(crate) const LONGEST_BODY: usize = 3 << 20;

/// Reads a whole body within the limit.
pub(crate) async fn collect(body: RequestBody) -> Answer<Bytes> {
    match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(LONGEST_BODY)),
        Err(error) => {
            let cause =
                error.downcast_ref::<BodyError>().map_or_else(|| error.to_string(), |error| error.cause().to_string());
            Err(ApiError::bad_request(format!("the body could not be read: {cause}")))
        }
    }
}

/// How a body is written, by its `Content-Type`. An absent one is JSON, as upstream takes it.
pub(crate) fn media(content_type: &str) -> Answer<Media> {
    match media_type(content_type) {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        _ => Err(ApiError::unsupported_media_type(OFFERED)),
    }
}

/// A body of any shape.
pub(crate) fn any(body: &[u8], media: Media) -> Answer<Value> {
    let malformed =
        |message: String| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {message}"));
    match media {
        Media::Json => serde_json::from_slice(body).map_err(|error| malformed(error.to_string())),
        Media::Yaml => Yaml::parse(body).map(|yaml| yaml.value).map_err(malformed),
    }
}

/// A body of a given kind, checked against its schema, with the kind's defaults.
pub(crate) fn object(kind: &Kind, call: &Call, body: &[u8]) -> Answer<Decoded> {
    let mut decoded = if media_type(&call.content_type) == protobuf::MEDIA && kind.custom().is_none() {
        let mut object =
            protobuf::decode(body, kind.schema()).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let warnings =
            kind.check_shape(&mut object, call.validation).map_err(|error| ApiError::bad_request(error.to_string()))?;
        Decoded { object, warnings }
    } else {
        let media = media(&call.content_type)?;
        kind.decode(body, media, call.validation).map_err(|error| ApiError::bad_request(error.to_string()))?
    };
    kind.default(&mut decoded.object);
    Ok(decoded)
}
