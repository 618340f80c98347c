//! Bodies of requests and responses.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};

/// Any error, as tower and hyper pass it on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body ended early.
///
/// A type of its own, because futures that hold a boxed error behind a generic bound are not provably `Send`.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early")]
pub struct BodyError(#[source] BoxError);

impl BodyError {
    pub(crate) fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }

    /// The cause.
    pub(crate) fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

/// The body of a request, whoever sent it.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Makes the one type of request body from any other.
pub(crate) fn request_body<B>(body: B) -> RequestBody
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(BodyError::new).boxed_unsync()
}

/// The body of a request that has none.
pub(crate) fn no_body() -> RequestBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// The body of a response.
pub struct Body(Inner);

enum Inner {
    /// Pieces that are all known: stored objects are joined without being copied.
    Pieces { pieces: VecDeque<Bytes>, left: u64 },
    /// Pieces that come as they come: lists that are joined while they are sent, watches, logs.
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
    /// The body of another server's answer, passed on.
    Proxied(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// A body without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Inner::Pieces { pieces: VecDeque::new(), left: 0 })
    }

    /// A body of one piece.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::pieces([bytes.into()])
    }

    /// A body of several pieces, none of them copied.
    pub(crate) fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self(Inner::Pieces { pieces, left })
    }

    /// A body that is made while it is sent.
    pub(crate) fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream)))
    }

    /// A body that another server sends.
    pub(crate) fn proxied<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Inner::Proxied(body.map_err(BodyError::new).boxed_unsync()))
    }

    /// The number of bytes when it is known beforehand.
    pub(crate) fn known_length(&self) -> Option<u64> {
        match &self.0 {
            Inner::Pieces { left, .. } => Some(*left),
            Inner::Stream(_) | Inner::Proxied(_) => None,
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("length", &self.known_length()).finish()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Pieces { pieces, left } => Poll::Ready(pieces.pop_front().map(|piece| {
                *left -= piece.len() as u64;
                Ok(Frame::data(piece))
            })),
            Inner::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|next| next.map(|piece| piece.map(Frame::data)))
            }
            Inner::Proxied(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Pieces { pieces, .. } => pieces.is_empty(),
            Inner::Stream(_) => false,
            Inner::Proxied(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Pieces { left, .. } => SizeHint::with_exact(*left),
            Inner::Stream(_) => SizeHint::default(),
            Inner::Proxied(body) => body.size_hint(),
        }
    }
}
