//! A small HTTP/1.1 server that says who answers.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::network::listen;

/// The flags of `http-echo`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Where to listen
    #[arg(long, default_value = ":8080")]
    listen: String,
    /// The first line of the answer
    #[arg(long)]
    text: Option<String>,
    /// A file with the first lines of the answer, read for each request
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    text_file: Option<PathBuf>,
    /// The status of the answer
    #[arg(long, default_value_t = 200)]
    status: u16,
}

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Serves until it is told to end.
pub fn run(options: &Options) -> Result<ExitCode> {
    let listener = listen(&options.listen)?;
    println!("listening on {}", options.listen);
    for stream in listener.incoming() {
        let stream = stream.context("accept a connection")?;
        let options = options.clone();
        let spawned = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            if let Err(error) = serve(&stream, &options) {
                eprintln!("{error:#}");
            }
        });
        spawned.context("start a thread")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(stream: &TcpStream, options: &Options) -> Result<()> {
    let peer = stream.peer_addr().context("read the client's address")?;
    stream.set_read_timeout(Some(IDLE)).context("set a time limit")?;
    let mut input = BufReader::new(stream);
    loop {
        let mut request = String::new();
        // A client that went away or says nothing has no further request.
        if input.read_line(&mut request).is_ok_and(|count| count > 0) {
            let mut close = request.trim_end().ends_with("HTTP/1.0");
            let mut length = 0;
            loop {
                let mut header = String::new();
                if input.read_line(&mut header).context("read a header")? == 0 || header == "\r\n" {
                    break;
                }
                let header = header.trim_end().to_ascii_lowercase();
                close |= header == "connection: close";
                length = header
                    .strip_prefix("content-length:")
                    .and_then(|value| value.trim().parse().ok())
                    .unwrap_or(length);
            }
            std::io::copy(&mut std::io::Read::take(&mut input, length), &mut std::io::sink())
                .context("read the body")?;
            let words: Vec<&str> = request.split_whitespace().collect();
            let (method, path) = (words.first().copied().unwrap_or("?"), words.get(1).copied().unwrap_or("?"));
            println!("{method} {path} from {}", peer.ip().to_canonical());
            let body = answer(options, path, &peer.ip().to_canonical().to_string())?;
            let connection = if close { "close" } else { "keep-alive" };
            let head = format!(
                "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
                options.status,
                if options.status < 400 { "OK" } else { "Error" },
                body.len()
            );
            let mut output = stream;
            output.write_all((head + &body).as_bytes()).context("answer")?;
            if close {
                return Ok(());
            }
        } else {
            return Ok(());
        }
    }
}

fn answer(options: &Options, path: &str, client: &str) -> Result<String> {
    let mut text = match (&options.text, &options.text_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?,
        (None, None) => "Hello.".to_owned(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let host = nix::unistd::gethostname().context("read the host name")?;
    let lines = [
        ("pod", std::env::var("POD_NAME").unwrap_or_else(|_| host.to_string_lossy().into_owned())),
        ("node", std::env::var("NODE_NAME").unwrap_or_default()),
        ("path", path.to_owned()),
        ("client", client.to_owned()),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("  {name:6} {value}\n"));
    }
    Ok(text)
}
