//! Watches and logs over a WebSocket: what a browser can open, and what upstream's tests ask for.
//!
//! Source of the protocols' names and forms: `k8s.io/apimachinery/pkg/util/httpstream/wsstream` for streams of bytes, the
//! handler of watches in `k8s.io/apiserver/pkg/endpoints/handlers/watch.go` for events.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::{
    Body,
    body::RequestBody,
    error::{Answer, ApiError},
    path::{self, Route},
    query::Query,
    security::Refusal,
};

/// The protocols for streams of bytes. Without a name the bytes are sent as they are.
const STREAMS: [&str; 3] = ["binary.k8s.io", "base64.binary.k8s.io", ""];

/// What a protocol begins with that is a bearer token.
const TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// A client that wants the answer to its request on a WebSocket.
pub(crate) struct Asked {
    upgrade: OnUpgrade,
    accept: HeaderValue,
    /// The protocol that is used, if the client named one.
    protocol: Option<HeaderValue>,
    form: Form,
}

/// How a body becomes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A piece a message.
    Bytes,
    /// A piece a message, as text.
    Base64,
    /// An event a message: each line of JSON, or each frame of protobuf.
    Events,
}

/// Takes the token out of the protocols of a request, where a browser has to put it, and shows it as the others do. It is no
/// protocol: nobody further on sees it, and it is never among what is answered. A token in its usual place comes first.
///
/// Source: `pkg/authentication/request/websocket/protocol.go` of apiserver.
pub(crate) fn take_token<B>(request: &mut Request<B>) -> Answer<()> {
    let headers = request.headers_mut();
    if !is_websocket(headers) || !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(());
    }
    let (tokens, protocols): (Vec<String>, Vec<String>) =
        protocols(headers).into_iter().partition(|name| name.starts_with(TOKEN_PREFIX));
    let [token] = tokens.as_slice() else {
        return if tokens.is_empty() { Ok(()) } else { Err(Refusal::unauthorized().into()) };
    };
    let token =
        URL_SAFE_NO_PAD.decode(&token[TOKEN_PREFIX.len()..]).ok().and_then(|token| String::from_utf8(token).ok());
    // The server has to choose a protocol, and the token is none to choose.
    let value = token.filter(|token| !token.is_empty() && !protocols.is_empty());
    let value = value.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    let rest = HeaderValue::from_str(&protocols.join(", ")).ok();
    let (Some(mut value), Some(rest)) = (value, rest) else { return Err(Refusal::unauthorized().into()) };
    value.set_sensitive(true);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
    headers.entry(header::AUTHORIZATION).or_insert(value);
    Ok(())
}

/// Reads from a request whether its answer is to go over a WebSocket. Connections to pods and proxies are none of these:
/// they are passed on as they are.
pub(crate) fn asked(request: &mut Request<RequestBody>) -> Answer<Option<Asked>> {
    if request.method() != Method::GET || !is_websocket(request.headers()) {
        return Ok(None);
    }
    let Route::Resource(target) = path::parse(request.uri().path()) else { return Ok(None) };
    let watches = target.watch || Query::parse(request.uri().query()).flag("watch");
    let names = protocols(request.headers());
    let (form, protocol) = match target.subresource.as_deref() {
        None if watches => (Form::Events, names.first().cloned()),
        Some("log") => stream_form(&names)?,
        _ => return Ok(None),
    };
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| ApiError::bad_request("missing Sec-WebSocket-Key"))?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| ApiError::internal(&error));
    let accept = value(&derive_accept_key(key.as_bytes()))?;
    let protocol = protocol.filter(|name| !name.is_empty()).map(|name| value(&name)).transpose()?;
    Ok(Some(Asked { upgrade: hyper::upgrade::on(request), accept, protocol, form }))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn protocols(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect()
}

/// The form of a stream for the first of the client's protocols that is known.
fn stream_form(names: &[String]) -> Answer<(Form, Option<String>)> {
    if names.is_empty() {
        return Ok((Form::Bytes, None));
    }
    let known = names.iter().find(|name| STREAMS.contains(&name.as_str())).ok_or_else(|| {
        ApiError::bad_request(format!("requested protocol(s) are not supported: {names:?}; supports {STREAMS:?}"))
    })?;
    let form = if known.starts_with("base64") { Form::Base64 } else { Form::Bytes };
    Ok((form, Some(known.clone())))
}

impl Asked {
    /// Switches protocols and sends the body of `response` as messages; anything but a success is answered as it is.
    pub(crate) fn carry(self, response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::OK {
            return response;
        }
        let protobuf = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/vnd.kubernetes.protobuf"));
        let (mut head, body) = response.into_parts();
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = self.protocol {
            head.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let messages = Messages { form: self.form, protobuf, held: BytesMut::new() };
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(connection) => {
                    let connection = TokioIo::new(connection);
                    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
                    send(socket, body, messages).await;
                }
                Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
            }
        });
        Response::from_parts(head, Body::empty())
    }
}

/// Cuts a body into messages.
struct Messages {
    form: Form,
    protobuf: bool,
    /// The beginning of an event whose rest has not come yet.
    held: BytesMut,
}

impl Messages {
    /// The messages that are whole after another piece of the body. Text that is not UTF-8 is no JSON and goes as bytes.
    fn push(&mut self, piece: Bytes) -> Vec<Message> {
        match self.form {
            Form::Bytes => vec![Message::Binary(piece)],
            Form::Base64 => vec![Message::text(STANDARD.encode(piece))],
            Form::Events => {
                self.held.extend_from_slice(&piece);
                std::iter::from_fn(|| if self.protobuf { self.frame() } else { self.line() }).collect()
            }
        }
    }

    fn line(&mut self) -> Option<Message> {
        let end = self.held.iter().position(|byte| *byte == b'\n')?;
        let line = self.held.split_to(end + 1).freeze();
        Some(match std::str::from_utf8(&line) {
            Ok(text) => Message::text(text),
            Err(_) => Message::Binary(line),
        })
    }

    fn frame(&mut self) -> Option<Message> {
        let length = usize::try_from(u32::from_be_bytes(*self.held.first_chunk()?)).ok()?;
        if self.held.len() - 4 < length {
            return None;
        }
        self.held.advance(4);
        Some(Message::Binary(self.held.split_to(length).freeze()))
    }
}

/// Sends a body until it ends or the client goes. What the client says otherwise is read and dropped.
async fn send<C>(socket: WebSocketStream<C>, mut body: Body, mut messages: Messages)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let read = async {
        while let Some(Ok(received)) = source.next().await
            && !received.is_close()
        {}
    };
    let write = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(piece) = frame.into_data() else { continue };
            for message in messages.push(piece) {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        }
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if let Err(error) = sink.send(Message::Close(Some(end))).await {
            tracing::debug!(%error, "a WebSocket was not closed in order");
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_out_of_the_protocols() {
        let check = |given: &[&str], authorization: Option<&str>, expected: Result<(Option<&str>, &str), ()>| {
            let mut request = Request::builder().header("upgrade", "websocket");
            for value in given {
                request = request.header("sec-websocket-protocol", *value);
            }
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let mut request = request.body(()).expect("a request");
            let outcome = take_token(&mut request);
            let text = |name: &str| {
                let values = request.headers().get_all(name).iter();
                values.map(|value| value.to_str().expect("text")).collect::<Vec<_>>().join("|")
            };
            match expected {
                Ok((token, rest)) => {
                    outcome.expect("good protocols");
                    assert_eq!(text("authorization"), token.unwrap_or_default(), "{given:?}");
                    assert_eq!(text("sec-websocket-protocol"), rest, "{given:?}");
                }
                Err(()) => assert_eq!(outcome.expect_err("bad protocols").code(), 401, "{given:?}"),
            }
        };
        let token = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
        check(
            &[token, "v5.channel.k8s.io, v4.channel.k8s.io"],
            None,
            Ok((Some("Bearer secret"), "v5.channel.k8s.io, v4.channel.k8s.io")),
        );
        check(&[&format!("binary.k8s.io, {token}")], None, Ok((Some("Bearer secret"), "binary.k8s.io")));
        check(&[&format!("binary.k8s.io, {token}")], Some("Bearer x"), Ok((Some("Bearer x"), "binary.k8s.io")));
        check(&["binary.k8s.io"], None, Ok((None, "binary.k8s.io")));
        check(&[token], None, Err(()));
        check(&[token, token, "binary.k8s.io"], None, Err(()));
        check(&["base64url.bearer.authorization.k8s.io., a"], None, Err(()));
        check(&["base64url.bearer.authorization.k8s.io.c2VjcmV0==, a"], None, Err(()));
        check(&["base64url.bearer.authorization.k8s.io.CgoK, a"], None, Err(()));
        let mut plain = Request::get("/").header("sec-websocket-protocol", token).body(()).expect("a request");
        take_token(&mut plain).expect("no WebSocket");
        assert!(!plain.headers().contains_key("authorization"));
    }

    #[test]
    fn forms_of_streams() {
        let form = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            stream_form(&names).ok()
        };
        assert_eq!(form(&[]), Some((Form::Bytes, None)));
        assert_eq!(form(&["x", "binary.k8s.io"]), Some((Form::Bytes, Some("binary.k8s.io".to_owned()))));
        assert_eq!(form(&["base64.binary.k8s.io"]), Some((Form::Base64, Some("base64.binary.k8s.io".to_owned()))));
        assert_eq!(form(&["v4.channel.k8s.io"]), None);
    }

    #[test]
    fn events_are_messages_however_the_body_is_cut() {
        let lines = b"{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}\n";
        let frames = b"\0\0\0\x02ab\0\0\0\x00\0\0\0\x01c";
        for size in 1..lines.len() {
            let mut messages = Messages { form: Form::Events, protobuf: false, held: BytesMut::new() };
            let cut: Vec<Message> =
                lines.chunks(size).flat_map(|piece| messages.push(Bytes::copy_from_slice(piece))).collect();
            assert_eq!(cut, [Message::text("{\"type\":\"ADDED\"}\n"), Message::text("{\"type\":\"DELETED\"}\n")]);
            let mut messages = Messages { form: Form::Events, protobuf: true, held: BytesMut::new() };
            let cut: Vec<Message> =
                frames.chunks(size).flat_map(|piece| messages.push(Bytes::copy_from_slice(piece))).collect();
            assert_eq!(cut, [Message::binary(&b"ab"[..]), Message::binary(&b""[..]), Message::binary(&b"c"[..])]);
        }
    }
}
