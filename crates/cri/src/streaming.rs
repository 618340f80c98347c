//! `Exec` and `Attach`: the runtime gives an address, and behind it speaks SPDY/3.1 with a stream each for input, output,
//! errors, the terminal's size and how it ended.
//!
//! Source: `pkg/kubelet/cri/streaming` and `remotecommand` of Kubernetes, which all runtimes serve.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kobune_runtime::{Error, ExecOptions, Result, StreamControl, Streams};
use kobune_spdy::client::{Connection, connect};
use kobune_spdy::{PIECE, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// How long the runtime's streaming server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// More of a refusal's text is not read, nor of the message that says how it ended.
const LONGEST_TEXT: usize = 64 << 10;
/// Input that is typed ahead.
const TYPED: usize = 64 << 10;

fn failed(text: impl Into<String>) -> Error {
    Error::Remote(text.into())
}

/// Opens the streams behind an address.
pub(crate) async fn open(url: &str, options: &ExecOptions) -> Result<Streams> {
    let opened = tokio::time::timeout(PATIENCE, async {
        let connection = upgrade(url).await?;
        streams(connect(connection), options).await
    });
    opened.await.unwrap_or_else(|_| Err(failed("the container runtime's streaming server does not answer")))
}

async fn upgrade(url: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>> {
    let wrong = |why: &str| failed(format!("the container runtime gave the streaming address {url:?}: {why}"));
    let uri: Uri = url.parse().map_err(|_| wrong("not an address"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("only plain http on this machine is spoken (enable_tls_streaming = false)"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await;
    let stream = stream.map_err(|error| wrong(&error.to_string()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", "v4.channel.k8s.io")
        .body(Empty::<Bytes>::new())
        .map_err(|error| wrong(&error.to_string()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| wrong(&error.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the runtime's streaming server ended");
        }
    });
    let response = sender.send_request(request).await.map_err(|error| wrong(&error.to_string()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_TEXT).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(wrong(&format!("{status}: {text}")));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| wrong(&error.to_string()))?;
    Ok(TokioIo::new(upgraded))
}

async fn streams(mut connection: Connection, options: &ExecOptions) -> Result<Streams> {
    let closed = |_| failed("the container runtime closed the streaming connection");
    let mut open =
        async |kind: &str| connection.open(vec![("streamtype".to_owned(), kind.to_owned())]).await.map_err(closed);
    let error = open("error").await?;
    let stdin = if options.stdin { Some(open("stdin").await?) } else { None };
    let stdout = if options.stdout { Some(open("stdout").await?) } else { None };
    let stderr = if options.stderr && !options.tty { Some(open("stderr").await?) } else { None };
    let control = if options.tty { resizing(open("resize").await?) } else { StreamControl::default() };
    // The connection lives as long as its streams' senders: the one that says how it ended goes last.
    drop(connection);
    Ok(Streams {
        stdin: stdin.map(writer),
        stdout: stdout.map(reader),
        stderr: stderr.map(reader),
        control,
        exit: ended(error).boxed(),
    })
}

/// What the container gets to read. Dropping it ends its input.
fn writer(stream: Stream) -> Box<dyn AsyncWrite + Send + Unpin> {
    let (near, mut far) = tokio::io::duplex(TYPED);
    tokio::spawn(async move {
        let Stream { outgoing, .. } = stream;
        let mut buffer = vec![0; PIECE];
        // A connection that is over ends this too: nobody reads what is typed any more.
        while let Ok(count @ 1..) = far.read(&mut buffer).await {
            if outgoing.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                return;
            }
        }
        if outgoing.end().await.is_err() {
            tracing::trace!("the connection was over before the input");
        }
    });
    Box::new(near)
}

fn reader(stream: Stream) -> Box<dyn AsyncRead + Send + Unpin> {
    let pieces = futures::stream::unfold(stream, |mut stream| async move {
        stream.incoming.recv().await.map(|bytes| (Ok::<Bytes, io::Error>(bytes), stream))
    });
    Box::new(StreamReader::new(Box::pin(pieces)))
}

fn resizing(stream: Stream) -> StreamControl {
    let (sizes, mut wanted) = mpsc::channel::<(u16, u16)>(4);
    tokio::spawn(async move {
        while let Some((columns, rows)) = wanted.recv().await {
            let message = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
            if stream.outgoing.send(Bytes::from(message)).await.is_err() {
                return;
            }
        }
    });
    StreamControl::through(sizes)
}

/// The last stream: nothing while it runs, then a `Status` as JSON.
async fn ended(mut stream: Stream) -> Result<i32> {
    let mut text = Vec::new();
    while let Some(bytes) = stream.incoming.recv().await {
        if text.len() + bytes.len() > LONGEST_TEXT {
            return Err(failed("the container runtime's last word is too long"));
        }
        text.extend_from_slice(&bytes);
    }
    exit_code(&text)
}

/// What a `Status` says of an exit code. Pure.
fn exit_code(text: &[u8]) -> Result<i32> {
    if text.is_empty() {
        return Err(failed("the container runtime ended the connection without saying why"));
    }
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(text) else {
        // Older servers send the failure's text alone.
        return Err(failed(String::from_utf8_lossy(text).into_owned()));
    };
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
    code.ok_or_else(|| failed(status["message"].as_str().unwrap_or("the command failed").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        assert_eq!(exit_code(br#"{"status":"Success"}"#).ok(), Some(0));
        let failure =
            br#"{"status":"Failure","message":"x","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(exit_code(failure).ok(), Some(3));
        let check = |text: &[u8], expected: &str| {
            let error = exit_code(text).expect_err("a failure").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(br#"{"status":"Failure","message":"no such file"}"#, "no such file");
        check(b"plain text", "plain text");
        check(b"", "without saying why");
        check(b"7", "the command failed");
    }
}
