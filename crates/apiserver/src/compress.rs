//! gzip for long answers to clients that ask for it.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;

use crate::{Body, BodyError, call};

/// Shorter answers are sent faster than they are compressed; upstream's limit.
const WORTH_IT: u64 = 128 << 10;

/// A mark on responses that stream data which is worth compressing: lists, but not watches or logs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compressible;

/// Whether a client takes gzip.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    call::header(headers, "accept-encoding").is_some_and(|value| {
        value.split(',').any(|coding| coding.split(';').next().is_some_and(|coding| coding.trim() == "gzip"))
    })
}

/// Compresses a response piece by piece if it is long enough.
pub(crate) fn compress(mut response: Response<Body>) -> Response<Body> {
    let long = match response.body().known_length() {
        Some(length) => length > WORTH_IT,
        None => response.extensions().get::<Compressible>().is_some(),
    };
    if !long || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response.map(|body| {
        let state = Some((body.into_data_stream(), GzEncoder::new(Vec::new(), Compression::fast())));
        Body::stream(futures::stream::try_unfold(state, |state| async move {
            let Some((mut pieces, mut encoder)) = state else { return Ok::<_, BodyError>(None) };
            loop {
                match pieces.next().await {
                    None => {
                        let rest = encoder.finish().map_err(BodyError::new)?;
                        return Ok(Some((Bytes::from(rest), None)));
                    }
                    Some(Err(error)) => return Err(error),
                    Some(Ok(piece)) => {
                        encoder.write_all(&piece).map_err(BodyError::new)?;
                        let ready = std::mem::take(encoder.get_mut());
                        if !ready.is_empty() {
                            return Ok(Some((Bytes::from(ready), Some((pieces, encoder)))));
                        }
                    }
                }
            }
        }))
    })
}

/// The bytes compressed at once.
pub(crate) fn whole(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The bytes before compression.
pub(crate) fn expanded(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut decoder = flate2::write::GzDecoder::new(Vec::with_capacity(bytes.len() * 8));
    decoder.write_all(bytes)?;
    decoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_answers_shrink() {
        let text = "kobune ".repeat(40_000);
        let response = compress(Response::new(Body::full(text.clone())));
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(bytes.len() < 4096);
        assert_eq!(expanded(&bytes).expect("gzip"), text.as_bytes());
        let short = compress(Response::new(Body::full("short")));
        assert!(!short.headers().contains_key(header::CONTENT_ENCODING));
    }
}
