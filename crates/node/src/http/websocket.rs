//! The WebSocket protocols of Kubernetes: each message's first byte says which channel it belongs to.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::remote::{Client, Output, parse_size};

/// Messages waiting on their way.
const QUEUE: usize = 16;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the channel named by the next byte is closed.
const CLOSE: u8 = 255;

/// How messages are written: the versions of the protocol differ in that and in what they say at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Messages are text: the channel as a digit, then base64.
    base64: bool,
    /// The end is told as a `Status`, also when nothing went wrong. Older clients get the words of a failure only.
    status: bool,
}

impl Dialect {
    /// The names that clients ask for, the best first. Source: `wsstream` of `k8s.io/apimachinery` and
    /// `pkg/kubelet/cri/streaming/remotecommand/websocket.go`.
    pub const NAMES: [&'static str; 6] = [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ];

    /// The dialect of one of [`Self::NAMES`].
    pub fn named(name: &str) -> Self {
        Self { base64: name.contains("base64"), status: name.starts_with('v') }
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            // Channels above the ninth go on through the character set, as upstream writes them.
            let channel = char::from(b'0'.saturating_add(channel));
            return Message::text(format!("{channel}{}", STANDARD.encode(bytes)));
        }
        message(channel, bytes)
    }

    /// The message for how it ended, if this dialect has one.
    fn end(self, status: &[u8]) -> Option<Message> {
        if self.status {
            return Some(self.message(ERROR, status));
        }
        // The status is our own; what it says when something went wrong is what an older client shows.
        let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
        let failed = status["status"] != "Success";
        failed.then(|| self.message(ERROR, status["message"].as_str().unwrap_or("internal error").as_bytes()))
    }

    /// The channel and bytes of a message.
    fn read(self, message: Message) -> Option<(u8, Bytes)> {
        let bytes = content(message)?;
        let first = *bytes.first()?;
        if !self.base64 {
            return Some((first, bytes.slice(1..)));
        }
        let decoded = STANDARD.decode(&bytes[1..]).ok()?;
        Some((first.checked_sub(b'0')?, Bytes::from(decoded)))
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = BytesMut::with_capacity(bytes.len() + 1);
    framed.put_u8(channel);
    framed.extend_from_slice(bytes);
    Message::Binary(framed.freeze())
}

fn content(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        // Some clients send what is typed as text.
        Message::Text(text) => Some(Bytes::from(text)),
        _ => None,
    }
}

async fn close<C>(sink: &mut SplitSink<WebSocketStream<C>, Message>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if let Err(error) = sink.send(Message::Close(Some(frame))).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a WebSocket was not closed in order");
    }
}

/// Serves `exec` and `attach`: starts the connection's task and returns the client's end. `greet` is the first channel that has
/// something for the client: an empty message on it says that the connection stands.
pub fn remote<C>(socket: WebSocketStream<C>, dialect: Dialect, stdout: bool, stderr: bool) -> Client
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (typed, stdin) = mpsc::channel(QUEUE);
    let (sizes, resize) = mpsc::channel(QUEUE);
    let (output, mut outputs) = mpsc::channel::<Output>(QUEUE);
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    let greet = match (stdout, stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    tokio::spawn(async move {
        let _guard = guard;
        let (mut sink, mut source) = socket.split();
        if sink.send(dialect.message(greet, &[])).await.is_err() {
            return;
        }
        let read = async {
            let mut typed = Some(typed);
            while let Some(Ok(received)) = source.next().await {
                if matches!(received, Message::Close(_)) {
                    return;
                }
                let Some((channel, bytes)) = dialect.read(received) else { continue };
                match channel {
                    STDIN => {
                        if let Some(to) = &typed
                            && !bytes.is_empty()
                            && to.send(bytes).await.is_err()
                        {
                            typed = None;
                        }
                    }
                    RESIZE => {
                        // Only the last size counts: one that finds no room is followed by another.
                        if let Some(size) = parse_size(&bytes)
                            && sizes.try_send(size).is_err()
                        {
                            tracing::debug!("a terminal's size was passed over");
                        }
                    }
                    CLOSE if bytes.first() == Some(&STDIN) => typed = None,
                    _ => {}
                }
            }
        };
        let write = async {
            while let Some(output) = outputs.recv().await {
                let message = match &output {
                    Output::Stdout(bytes) => Some(dialect.message(STDOUT, bytes)),
                    Output::Stderr(bytes) => Some(dialect.message(STDERR, bytes)),
                    Output::Status(bytes) => dialect.end(bytes),
                };
                if let Some(message) = message
                    && sink.send(message).await.is_err()
                {
                    return;
                }
            }
            close(&mut sink).await;
        };
        // The client closes, or everything has been said.
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    });
    Client { stdin, resize, output, gone }
}

/// Carries a stream of bytes in binary messages: what runs inside of it is another protocol. Returns the inner end.
pub fn tunnel<C>(socket: WebSocketStream<C>) -> DuplexStream
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (inner, outer) = tokio::io::duplex(64 << 10);
    let (mut from_inner, mut to_inner) = tokio::io::split(outer);
    tokio::spawn(async move {
        let (mut sink, mut source) = socket.split();
        let read = async {
            while let Some(Ok(received)) = source.next().await {
                if matches!(received, Message::Close(_)) {
                    break;
                }
                if let Some(bytes) = content(received)
                    && to_inner.write_all(&bytes).await.is_err()
                {
                    break;
                }
            }
        };
        let write = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count) = from_inner.read(&mut buffer).await {
                if count == 0 || sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                    break;
                }
            }
            close(&mut sink).await;
        };
        // Either side's end ends the tunnel; the inner connection sees it as its end.
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    });
    inner
}

/// One port of the older port-forward protocol: channel `2 * index` carries data, the one after it errors.
pub struct Port {
    /// The port in the pod.
    pub port: u16,
    /// From the client.
    pub incoming: mpsc::Receiver<Bytes>,
}

/// What goes to the client of the older port-forward protocol.
pub enum PortOutput {
    /// Data of the port with this index.
    Data(u8, Bytes),
    /// Something went wrong with it.
    Error(u8, String),
}

/// The names of the older port-forward protocol that clients ask for, the best first; some name none. Source:
/// `pkg/kubelet/cri/streaming/portforward/websocket.go`.
pub const PORT_NAMES: [&str; 3] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];

/// Serves the older port-forward protocol for the ports that the request names.
pub fn ports<C>(socket: WebSocketStream<C>, dialect: Dialect, ports: &[u16]) -> (Vec<Port>, mpsc::Sender<PortOutput>)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (output, mut outputs) = mpsc::channel::<PortOutput>(QUEUE);
    let mut senders = Vec::new();
    let mut list = Vec::new();
    for port in ports {
        let (sender, incoming) = mpsc::channel(QUEUE);
        senders.push(Some(sender));
        list.push(Port { port: *port, incoming });
    }
    let numbers = ports.to_vec();
    tokio::spawn(async move {
        let (mut sink, mut source) = socket.split();
        for (index, port) in numbers.iter().enumerate() {
            // Each channel begins with its port, so that the client knows that it stands.
            let base = u8::try_from(index * 2).unwrap_or(u8::MAX - 1);
            for channel in [base, base + 1] {
                if sink.send(dialect.message(channel, &port.to_le_bytes())).await.is_err() {
                    return;
                }
            }
        }
        let read = async {
            while let Some(Ok(received)) = source.next().await {
                if matches!(received, Message::Close(_)) {
                    return;
                }
                let Some((channel, bytes)) = dialect.read(received).filter(|(channel, _)| channel % 2 == 0) else {
                    continue;
                };
                let Some(slot) = senders.get_mut(usize::from(channel / 2)) else { continue };
                if let Some(sender) = slot
                    && !bytes.is_empty()
                    && sender.send(bytes).await.is_err()
                {
                    *slot = None;
                }
            }
        };
        let write = async {
            while let Some(output) = outputs.recv().await {
                let message = match &output {
                    PortOutput::Data(index, bytes) => dialect.message(index * 2, bytes),
                    PortOutput::Error(index, text) => dialect.message(index * 2 + 1, text.as_bytes()),
                };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            close(&mut sink).await;
        };
        // The client closes, or all ports are done.
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    });
    (list, output)
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn channels_of_a_command() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let mut end = remote(server, Dialect::named("v5.channel.k8s.io"), true, true);
        assert_eq!(client.next().await.expect("a message").expect("read"), message(STDOUT, &[]));
        client.send(message(STDIN, b"hi")).await.expect("sent");
        client.send(message(RESIZE, br#"{"Width":80,"Height":24}"#)).await.expect("sent");
        assert_eq!(end.stdin.recv().await, Some(Bytes::from_static(b"hi")));
        assert_eq!(end.resize.recv().await, Some((80, 24)));
        client.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await.expect("sent");
        assert_eq!(end.stdin.recv().await, None);
        end.output.send(Output::Stderr(Bytes::from_static(b"oh"))).await.expect("sent");
        end.output.send(Output::Status(Bytes::from_static(b"{}"))).await.expect("sent");
        drop(end.output);
        assert_eq!(client.next().await.expect("a message").expect("read"), message(STDERR, b"oh"));
        assert_eq!(client.next().await.expect("a message").expect("read"), message(ERROR, b"{}"));
        assert!(matches!(
            client.next().await,
            Some(Ok(Message::Close(Some(CloseFrame { code: CloseCode::Normal, .. }))))
        ));
        drop(client);
        end.gone.cancelled().await;
    }

    #[test]
    fn dialects() {
        let oldest = Dialect::named("");
        assert_eq!(oldest, Dialect::named("channel.k8s.io"));
        assert_eq!(oldest.end(br#"{"status":"Success"}"#), None);
        assert_eq!(oldest.end(br#"{"status":"Failure","message":"no"}"#), Some(message(ERROR, b"no")));
        let text = Dialect::named("v4.base64.channel.k8s.io");
        assert_eq!(text.message(STDOUT, b"hi"), Message::text("1aGk="));
        assert_eq!(text.read(Message::text("0aGk=")), Some((STDIN, Bytes::from_static(b"hi"))));
        assert_eq!(text.end(b"{}"), Some(Message::text("3e30=")));
        for wrong in ["", "0%", " aGk="] {
            assert_eq!(text.read(Message::text(wrong)), None, "{wrong:?}");
        }
        assert_eq!(Dialect::named("v5.channel.k8s.io").read(Message::binary(Bytes::new())), None);
        assert_eq!(text.message(10, b"hi"), Message::text(":aGk="));
    }

    #[tokio::test]
    async fn ports_in_every_dialect() {
        for name in PORT_NAMES {
            let dialect = Dialect::named(name);
            let (ours, theirs) = tokio::io::duplex(4096);
            let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
            let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
            let (mut list, output) = ports(server, dialect, &[8080, 53]);
            for (channel, port) in [(0, 8080_u16), (1, 8080), (2, 53), (3, 53)] {
                let greeting = client.next().await.expect("a message").expect("read");
                assert_eq!(greeting, dialect.message(channel, &port.to_le_bytes()), "{name:?}");
            }
            client.send(dialect.message(2, b"question")).await.expect("sent");
            assert_eq!(list[1].incoming.recv().await, Some(Bytes::from_static(b"question")), "{name:?}");
            output.send(PortOutput::Data(1, Bytes::from_static(b"answer"))).await.expect("sent");
            output.send(PortOutput::Error(0, "refused".to_owned())).await.expect("sent");
            assert_eq!(
                client.next().await.expect("a message").expect("read"),
                dialect.message(2, b"answer"),
                "{name:?}"
            );
            assert_eq!(
                client.next().await.expect("a message").expect("read"),
                dialect.message(1, b"refused"),
                "{name:?}"
            );
        }
    }
}
