//! A command's streams in the channels of one WebSocket: `v5.channel.k8s.io` (KEP-4006; `k8s.io/client-go/tools/remotecommand`).
//!
//! The first byte of a frame says the channel: 0 to 2 are the standard streams, 3 brings a Status when the command has ended, 4
//! takes sizes of the terminal, and 255 says that the channel in the next byte has ended.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use futures::stream::SplitSink;
use futures::{SinkExt as _, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

use super::terminal::Size;
use super::words::{self, Failure};
use crate::request::{self, RequestError};

/// How often the server is asked whether it is still there, and how long it may say nothing; both as client-go has them.
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(60);

/// What is asked of a container.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// `exec` or `attach`.
    pub verb: &'static str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The container.
    pub container: &'a str,
    /// The command and its arguments; none for `attach`.
    pub command: &'a [String],
    /// Whether it has a terminal, whose output then is all on one stream.
    pub tty: bool,
}

impl Call<'_> {
    fn path(&self, input: bool) -> String {
        let mut path = format!(
            "/api/v1/namespaces/{}/pods/{}/{}?container={}&stdin={input}&stdout=true&stderr={}&tty={}",
            request::query(self.namespace),
            request::query(self.pod),
            self.verb,
            request::query(self.container),
            !self.tty,
            self.tty,
        );
        for word in self.command {
            path.push_str("&command=");
            path.push_str(&request::query(word));
        }
        path
    }
}

/// Where output goes.
#[derive(Debug)]
pub enum Output {
    /// To standard output.
    Standard,
    /// To standard error.
    Errors,
    /// To another part of this program; how many bytes went there is counted.
    Pipe(mpsc::Sender<Bytes>, Arc<AtomicU64>),
    /// Nowhere.
    Nothing,
}

impl Output {
    async fn write(&self, bytes: Bytes) -> io::Result<()> {
        let all = |out: &mut dyn io::Write| out.write_all(&bytes).and_then(|()| out.flush());
        match self {
            Output::Standard => all(&mut io::stdout().lock()),
            Output::Errors => all(&mut io::stderr().lock()),
            Output::Pipe(sender, count) => {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                sender.send(bytes).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                count.fetch_add(length, Ordering::Relaxed);
                Ok(())
            }
            Output::Nothing => Ok(()),
        }
    }
}

/// The near ends of a command's streams.
#[derive(Debug)]
pub struct Streams {
    /// What it reads.
    pub input: Option<mpsc::Receiver<Bytes>>,
    /// The sizes that its terminal takes.
    pub sizes: Option<mpsc::Receiver<Size>>,
    /// Where its standard output goes.
    pub output: Output,
    /// Where its standard error goes.
    pub errors: Output,
}

/// Runs a command and carries its streams until it has ended. A command that fails is a [`Failure`] with its exit code.
pub async fn call(client: &kube::Client, call: &Call<'_>, streams: Streams) -> Result<()> {
    let request = http::Request::get(call.path(streams.input.is_some())).body(Vec::new())?;
    let connection = client.connect(request).await.map_err(refusal)?;
    let closes = connection.supports_stream_close();
    let (sink, source) = connection.into_stream().split();
    let Streams { input, sizes, output, errors } = streams;
    // Neither direction may wait for the other: the far end may stop reading until it has been read from.
    let sending = send(sink, input, sizes, closes);
    let receiving = receive(source, &output, &errors);
    tokio::select! {
        result = receiving => result,
        never = sending => match never {},
    }
}

/// Why no WebSocket came to be.
pub fn refusal(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => words::refused(RequestError::Refused(status)),
        kube::Error::UpgradeConnection(error) => anyhow!("unable to upgrade connection: {error}"),
        other => {
            let mut cause: &dyn std::error::Error = &other;
            while let Some(next) = cause.source() {
                cause = next;
            }
            anyhow!("the API server does not answer: {cause}")
        }
    }
}

/// Sends what there is to send, and is never done: the far end says when all is over.
async fn send<S>(
    mut sink: SplitSink<S, Message>,
    mut input: Option<mpsc::Receiver<Bytes>>,
    mut sizes: Option<mpsc::Receiver<Size>>,
    closes: bool,
) -> std::convert::Infallible
where
    S: futures::Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.reset();
    loop {
        let next_input = async {
            match &mut input {
                Some(input) => input.recv().await,
                None => std::future::pending().await,
            }
        };
        let next_size = async {
            match &mut sizes {
                Some(sizes) => sizes.recv().await,
                None => std::future::pending().await,
            }
        };
        // Receiving from a channel and a tick lose nothing when another arm is taken.
        let frame = tokio::select! {
            bytes = next_input => match bytes {
                Some(bytes) => framed(0, &bytes),
                None => {
                    input = None;
                    // Before v5 nobody could say that a stream has ended; then the command sees no end of its input.
                    if !closes {
                        continue;
                    }
                    Message::binary(vec![255, 0])
                }
            },
            size = next_size => match size {
                Some((width, height)) => framed(4, json!({"Width": width, "Height": height}).to_string().as_bytes()),
                None => {
                    sizes = None;
                    continue;
                }
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(frame).await.is_err() {
            // Who receives learns why, and perhaps still gets what came before.
            return std::future::pending().await;
        }
    }
}

fn framed(channel: u8, bytes: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(bytes);
    Message::binary(frame)
}

/// Writes what comes until the Status does.
async fn receive(
    mut source: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    output: &Output,
    errors: &Output,
) -> Result<()> {
    loop {
        let message = match tokio::time::timeout(SILENCE, source.next()).await {
            Err(_) => bail!("lost the connection to the server: it has said nothing for {} s", SILENCE.as_secs()),
            Ok(None) => bail!("lost the connection to the server before the command had ended"),
            Ok(Some(Err(error))) => bail!("lost the connection to the server: {error}"),
            Ok(Some(Ok(Message::Close(frame)))) => {
                let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                bail!("the server closed the connection before the command had ended{reason}");
            }
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(_))) => continue,
        };
        let Some(&channel) = message.first() else { continue };
        let bytes = message.slice(1..);
        let written = match channel {
            1 => output.write(bytes).await,
            2 => errors.write(bytes).await,
            3 => return status(&bytes),
            _ => Ok(()),
        };
        match written {
            // Whoever reads has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Failure::silent().into()),
            result => result.map_err(|error| anyhow!("write the output: {error}"))?,
        }
    }
}

/// What the Status at the end says (`remotecommand/v4.go`).
fn status(bytes: &[u8]) -> Result<()> {
    let status: Value = serde_json::from_slice(bytes)
        .map_err(|error| anyhow!("error stream protocol error: {error} in {:?}", String::from_utf8_lossy(bytes)))?;
    match status["status"].as_str() {
        Some("Success") => Ok(()),
        Some("Failure") if status["reason"] == "NonZeroExitCode" => {
            let causes = status["details"]["causes"].as_array().into_iter().flatten();
            let code = causes.into_iter().find(|cause| cause["reason"] == "ExitCode");
            let code = code.and_then(|cause| cause["message"].as_str()?.parse::<u8>().ok());
            let code = code.ok_or_else(|| anyhow!("error stream protocol error: no ExitCode cause given"))?;
            Err(Failure { words: format!("command terminated with exit code {code}"), code }.into())
        }
        Some("Failure") => bail!("{}", status["message"].as_str().unwrap_or_default()),
        _ => bail!("error stream protocol error: unknown error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let command = ["sh".to_owned(), "-c".to_owned(), "echo a&b".to_owned()];
        let call = Call { verb: "exec", namespace: "n", pod: "p", container: "c", command: &command, tty: false };
        assert_eq!(
            call.path(true),
            "/api/v1/namespaces/n/pods/p/exec?container=c&stdin=true&stdout=true&stderr=true&tty=false&command=sh&command=-c&command=echo%20a%26b"
        );
    }

    #[test]
    fn ends() {
        let check = |text: &str, expected: Result<(), (&str, u8)>| match (status(text.as_bytes()), expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err((words, code))) => {
                assert!(error.to_string().contains(words), "{error}");
                assert_eq!(error.downcast_ref::<Failure>().map_or(1, |failure| failure.code), code);
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        };
        check(r#"{"status": "Success"}"#, Ok(()));
        check(
            r#"{"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "42"}]}}"#,
            Err(("command terminated with exit code 42", 42)),
        );
        check(r#"{"status": "Failure", "reason": "NonZeroExitCode"}"#, Err(("no ExitCode cause given", 1)));
        check(r#"{"status": "Failure", "message": "no such program"}"#, Err(("no such program", 1)));
        check("{}", Err(("unknown error", 1)));
        check("x", Err(("error stream protocol error", 1)));
    }

    #[tokio::test]
    async fn what_comes_in() {
        let receive_all = async |messages: Vec<Message>| {
            let (sender, mut pipe) = mpsc::channel(8);
            let count = Arc::new(AtomicU64::new(0));
            let output = Output::Pipe(sender, Arc::clone(&count));
            let source = futures::stream::iter(messages.into_iter().map(Ok));
            let result = receive(source, &output, &Output::Nothing).await;
            drop(output);
            let mut got = Vec::new();
            while let Some(bytes) = pipe.recv().await {
                got.extend_from_slice(&bytes);
            }
            assert_eq!(count.load(Ordering::Relaxed), u64::try_from(got.len()).unwrap());
            (got, result.map_err(|error| error.to_string()))
        };
        let (got, result) = receive_all(vec![
            framed(1, b"one "),
            framed(2, b"not this"),
            Message::binary(Vec::new()),
            framed(1, b"two"),
            framed(3, br#"{"status": "Success"}"#),
        ])
        .await;
        assert_eq!((got.as_slice(), result), (b"one two".as_slice(), Ok(())));
        let (got, result) = receive_all(vec![framed(1, b"half")]).await;
        assert_eq!(got, b"half");
        assert!(result.unwrap_err().contains("before the command had ended"));
        let (_, result) = receive_all(vec![Message::Close(None)]).await;
        assert!(result.unwrap_err().contains("the server closed the connection"));
    }
}
