//! A plain HTTP/1.1 client for one request.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::network::connect;

/// The flags of `http-get`.
#[derive(Debug, Args)]
pub struct Options {
    /// http://host[:port][/path]
    url: String,
    /// Seconds to wait for the connection and for each piece of the answer
    #[arg(long, default_value_t = 5)]
    timeout: u64,
    /// The DNS server to ask [default: /etc/hosts and those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS")]
    dns: Option<IpAddr>,
    /// Also print the status line and the headers
    #[arg(short, long)]
    include: bool,
}

/// Fetches and prints; an answer other than 2xx is a failure.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (host, port, path) = split(&options.url)?;
    let mut stream = connect(host, port, options.dns, Duration::from_secs(options.timeout))?;
    let authority = options.url.trim_start_matches("http://").split('/').next().unwrap_or(host);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: kobune\r\nConnection: close\r\n\r\n")
        .context("send the request")?;
    let mut answer = Vec::new();
    stream.take(64 << 20).read_to_end(&mut answer).context("receive the answer")?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("the answer is not HTTP")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 4..]);
    let chunked = head.lines().any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    let body = if chunked { unchunk(body).context("the answer's chunks are malformed")? } else { body.to_vec() };
    let mut output = std::io::stdout().lock();
    if options.include {
        write!(output, "{head}\r\n\r\n").context("write standard output")?;
    }
    output.write_all(&body).and_then(|()| output.flush()).context("write standard output")?;
    let code =
        head.split_whitespace().nth(1).and_then(|word| word.parse::<u16>().ok()).context("the answer has no status")?;
    if !(200..300).contains(&code) {
        bail!("{} answered {code}", options.url);
    }
    Ok(ExitCode::SUCCESS)
}

fn split(url: &str) -> Result<(&str, u16, &str)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} does not begin with http://"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |place| rest.split_at(place));
    let port_at = authority.rfind(':').filter(|place| !authority[*place..].contains(']'));
    let (host, port) = match port_at {
        Some(place) => {
            (&authority[..place], authority[place + 1..].parse().with_context(|| format!("{url} has no valid port"))?)
        }
        None => (authority, 80),
    };
    if host.is_empty() {
        bail!("{url} names no host");
    }
    Ok((host, port, path))
}

fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend(body.get(end + 2..end + 2 + size)?);
        body = body.get(end + 4 + size..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |url: &str, expected: Option<(&str, u16, &str)>| assert_eq!(split(url).ok(), expected, "{url}");
        check("http://a", Some(("a", 80, "/")));
        check("http://a:81/x?y", Some(("a", 81, "/x?y")));
        check("http://[::1]:81/", Some(("[::1]", 81, "/")));
        check("http://[::1]/", Some(("[::1]", 80, "/")));
        check("https://a", None);
        check("http://:80/", None);
        check("http://a:x/", None);
    }

    #[test]
    fn chunks() {
        assert_eq!(unchunk(b"3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n"), Some(b"abcde".to_vec()));
        assert_eq!(unchunk(b"3\r\nab"), None);
        assert_eq!(unchunk(b"x\r\n"), None);
    }
}
