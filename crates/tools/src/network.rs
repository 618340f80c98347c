//! Tools about the network other than HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::resolver::{self, TYPES};

/// The flags of `dns`.
#[derive(Debug, Args)]
pub struct DnsOptions {
    /// The full name
    name: String,
    /// A, AAAA, SRV, PTR, CNAME or TXT
    #[arg(default_value = "A")]
    kind: String,
    /// The server to ask [default: those of /etc/resolv.conf]
    #[arg(long)]
    server: Option<IpAddr>,
}

/// The flags of servers.
#[derive(Debug, Args)]
pub struct ListenOptions {
    /// Where to listen
    #[arg(long, default_value = ":7")]
    listen: String,
}

/// The flags of `tcp-get` and `udp-get`.
#[derive(Debug, Args)]
pub struct LineOptions {
    /// The host
    host: String,
    /// The port
    port: u16,
    /// What to send before the new line
    #[arg(default_value = "hello")]
    line: String,
}

/// An address like `:8080` means every address.
pub fn listen_address(text: &str) -> Result<String> {
    Ok(if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() })
}

/// Binds a listener; where the machine has no IPv6, every address is every IPv4 address.
pub fn listen(text: &str) -> Result<TcpListener> {
    let address = listen_address(text)?;
    TcpListener::bind(&address)
        .or_else(|error| match text.strip_prefix(':') {
            Some(port) => TcpListener::bind(format!("0.0.0.0:{port}")),
            None => Err(error),
        })
        .with_context(|| format!("listen on {text}"))
}

/// Looks a name up and prints the records.
pub fn dns(options: &DnsOptions) -> Result<ExitCode> {
    let kind = TYPES.iter().find(|(name, _)| options.kind.eq_ignore_ascii_case(name));
    let Some((_, number)) = kind else { bail!("{} is not a record type that is known here", options.kind) };
    let servers = options.server.map_or_else(|| resolver::Settings::read().servers, |server| vec![server]);
    let answer = resolver::ask(&servers, &options.name, *number)?;
    for (name, kind, text) in &answer.records {
        let kind = TYPES.iter().find(|(_, number)| number == kind).map_or("?", |(name, _)| name);
        println!("{name} {kind} {text}");
    }
    match answer.code {
        0 => Ok(ExitCode::SUCCESS),
        3 => bail!("{}: no such name", options.name),
        code => bail!("{}: the server answered with code {code}", options.name),
    }
}

/// Sends back what TCP connections send.
pub fn tcp_echo(options: &ListenOptions) -> Result<ExitCode> {
    let listener = listen(&options.listen)?;
    for stream in listener.incoming() {
        let mut stream = stream.context("accept a connection")?;
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut input = stream.try_clone()?;
            std::io::copy(&mut input, &mut stream).map(drop)
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends back what UDP packets carry.
pub fn udp_echo(options: &ListenOptions) -> Result<ExitCode> {
    let socket = UdpSocket::bind(listen_address(&options.listen)?)
        .or_else(|error| match options.listen.strip_prefix(':') {
            Some(port) => UdpSocket::bind(format!("0.0.0.0:{port}")),
            None => Err(error),
        })
        .with_context(|| format!("listen on {}", options.listen))?;
    let mut buffer = [0; 65536];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).context("receive")?;
        socket.send_to(&buffer[..count], from).context("answer")?;
    }
}

/// Sends a line and prints the line that comes back.
pub fn tcp_get(options: &LineOptions) -> Result<ExitCode> {
    let mut stream = connect(&options.host, options.port, None, Duration::from_secs(5))?;
    writeln!(stream, "{}", options.line).context("send")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("receive")?;
    print!("{answer}");
    Ok(ExitCode::SUCCESS)
}

/// Sends a packet and prints what comes back, within a moment or not at all: packets get lost.
pub fn udp_get(options: &LineOptions) -> Result<ExitCode> {
    let address = resolver::addresses(&options.host, None)?;
    let address = *address.first().with_context(|| format!("{} has no address", options.host))?;
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("open a socket")?;
    socket.connect((address, options.port)).with_context(|| format!("send to {address}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(options.line.as_bytes()).context("send")?;
    let mut buffer = [0; 65536];
    let count = socket.recv(&mut buffer).context("receive")?;
    println!("{}", String::from_utf8_lossy(&buffer[..count]));
    Ok(ExitCode::SUCCESS)
}

/// Connects to the first address of a host that takes the connection.
pub fn connect(host: &str, port: u16, dns: Option<IpAddr>, limit: Duration) -> Result<TcpStream> {
    let mut last = anyhow::anyhow!("{host} has no address");
    for address in resolver::addresses(host, dns)? {
        let address = SocketAddr::new(address, port);
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_read_timeout(Some(limit))?;
                return Ok(stream);
            }
            Err(error) => last = anyhow::Error::new(error).context(format!("connect to {address}")),
        }
    }
    Err(last)
}
