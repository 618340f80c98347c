//! `exec` and `attach`: a process in a container and a client, whatever protocol the client speaks.

use std::time::Duration;

use bytes::Bytes;
use kobune_runtime::Streams;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::errors::chain;

/// How much is read from a process at a time.
const PIECE: usize = 16 << 10;
/// After the process has ended, children of it may hold its output open; so long is waited for what they still write.
const DRAIN: Duration = Duration::from_secs(2);

/// What goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
    /// How it ended: a `Status` as JSON. The last message.
    Status(Bytes),
}

/// The client's end.
pub struct Client {
    /// What the client types; closed when it ends its input.
    pub stdin: mpsc::Receiver<Bytes>,
    /// Sizes of its terminal: columns and rows.
    pub resize: mpsc::Receiver<(u16, u16)>,
    /// The way to it.
    pub output: mpsc::Sender<Output>,
    /// Cancelled when the client has gone.
    pub gone: CancellationToken,
}

/// The message on the error channel for an exit code. Pure.
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// The message on the error channel for a command that could not be run. Pure.
pub fn failure_status(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
        "details": {"causes": [{"message": message}]}, "code": 500})
}

/// Reads the size that a client sends when its terminal changes. Pure.
pub fn parse_size(bytes: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(bytes).ok()?;
    let side = |key: &str| u16::try_from(size.get(key)?.as_u64()?).ok();
    Some((side("Width")?, side("Height")?))
}

async fn pump(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                if to.send(wrap(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "reading a process's output failed");
                return;
            }
        }
    }
}

/// Carries bytes both ways until the process ends or the client goes.
pub async fn carry(client: Client, streams: Streams) {
    let Client { stdin: mut typed, mut resize, output, gone } = client;
    let Streams { stdin, stdout, stderr, control, exit } = streams;
    let input = async {
        // A command without input leaves what is typed unread.
        let Some(mut stdin) = stdin else { return std::future::pending().await };
        while let Some(bytes) = typed.recv().await {
            if let Err(error) = stdin.write_all(&bytes).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a process reads no more");
                break;
            }
        }
        drop(stdin);
        std::future::pending::<()>().await;
    };
    let sizes = async {
        while let Some((columns, rows)) = resize.recv().await {
            if let Err(error) = control.resize(columns, rows) {
                tracing::debug!(error = &error as &dyn std::error::Error, "a terminal was not resized");
            }
        }
        std::future::pending::<()>().await;
    };
    let mut outputs = std::pin::pin!(async {
        tokio::join!(pump(stdout, output.clone(), Output::Stdout), pump(stderr, output.clone(), Output::Stderr))
    });
    let mut exit = exit;
    let mut drained = false;
    let work = async {
        let code = loop {
            // Neither future loses anything: both are polled again until they end.
            tokio::select! {
                code = &mut exit => break code,
                _ = &mut outputs, if !drained => drained = true,
            }
        };
        // Output that is not read within the time belongs to children that nobody waits for.
        if !drained && tokio::time::timeout(DRAIN, &mut outputs).await.is_err() {
            tracing::debug!("a process ended and left its output open");
        }
        match code {
            Ok(code) => exit_status(code),
            Err(error) => failure_status(&chain(&error)),
        }
    };
    let status = tokio::select! {
        status = work => status,
        () = gone.cancelled() => return,
        () = input => return,
        () = sizes => return,
    };
    // Without a receiver the client has gone.
    drop(output.send(Output::Status(Bytes::from(status.to_string()))).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(3)["details"]["causes"][0]["message"], "3");
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(parse_size(br#"{"Width":80}"#), None);
        assert_eq!(parse_size(b"x"), None);
    }
}
