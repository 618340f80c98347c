//! Names to addresses by `/etc/hosts` and the servers of `/etc/resolv.conf`.
//!
//! A static glibc cannot be relied on for this: it loads its resolver's modules from the machine it runs on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A record type by its number.
pub const TYPES: &[(&str, u16)] = &[("A", 1), ("CNAME", 5), ("PTR", 12), ("TXT", 16), ("AAAA", 28), ("SRV", 33)];

/// An answer of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code: 0 is success, 3 is no such name.
    pub code: u8,
    /// The records: name, type, content as text.
    pub records: Vec<(String, u16, String)>,
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The servers, in order.
    pub servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Settings {
    /// Reads the machine's or pod's settings.
    pub fn read() -> Self {
        std::fs::read_to_string("/etc/resolv.conf").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut settings = Self { dots: 1, ..Self::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    settings.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search") => settings.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:").and_then(|count| count.parse().ok()));
                    settings.dots = dots.unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings
    }

    /// The full names to try for a name, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let place = if name.matches('.').count() >= self.dots { 0 } else { names.len() };
        names.insert(place, name.to_owned());
        names
    }
}

/// The addresses of a name; `server` replaces those of `/etc/resolv.conf`.
pub fn addresses(name: &str, server: Option<IpAddr>) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    if server.is_none() {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let known = in_hosts(&hosts, name);
        if !known.is_empty() {
            return Ok(known);
        }
    }
    let mut settings = Settings::read();
    if let Some(server) = server {
        settings.servers = vec![server];
    }
    for candidate in settings.candidates(name) {
        let mut found = Vec::new();
        for kind in [1, 28] {
            let records = ask(&settings.servers, &candidate, kind)?.records;
            found.extend(
                records
                    .into_iter()
                    .filter_map(|(_, kind, text)| matches!(kind, 1 | 28).then(|| text.parse::<IpAddr>().ok())?),
            );
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    bail!("no address for {name}")
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let found = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word == name).then_some(address)
    });
    found.collect()
}

/// Asks the servers in order; the first that answers counts.
pub fn ask(servers: &[IpAddr], name: &str, kind: u16) -> Result<Answer> {
    let mut last = anyhow::anyhow!("no name server is known");
    for server in servers {
        match ask_one(*server, name, kind) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error.context(format!("ask {server} for {name}")),
        }
    }
    Err(last)
}

fn ask_one(server: IpAddr, name: &str, kind: u16) -> Result<Answer> {
    let id: u16 = rand::random();
    let query = query(id, name, kind)?;
    let from: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
    socket.connect(SocketAddr::new(server, 53))?;
    let mut buffer = [0; 4096];
    for wait in [1, 3] {
        socket.set_read_timeout(Some(Duration::from_secs(wait)))?;
        socket.send(&query)?;
        match socket.recv(&mut buffer) {
            Ok(count) if buffer[..count].starts_with(&id.to_be_bytes()) => {
                return parse(&buffer[..count]).context("the answer is malformed");
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no answer")
}

fn query(id: u16, name: &str, kind: u16) -> Result<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion is wished for; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        bytes.push(length.with_context(|| format!("{name:?} is not a name"))?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let code = bytes.get(3)? & 15;
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name_at(bytes, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        let (name, after) = name_at(bytes, at)?;
        let (kind, length) = (number(after)?, usize::from(number(after + 8)?));
        let start = after + 10;
        let content = bytes.get(start..start + length)?;
        let text = match kind {
            1 => IpAddr::from(<[u8; 4]>::try_from(content).ok()?).to_string(),
            28 => IpAddr::from(<[u8; 16]>::try_from(content).ok()?).to_string(),
            5 | 12 => name_at(bytes, start)?.0,
            33 => format!(
                "{} {} {} {}",
                number(start)?,
                number(start + 2)?,
                number(start + 4)?,
                name_at(bytes, start + 6)?.0
            ),
            _ => String::from_utf8_lossy(content.get(1..).unwrap_or_default()).into_owned(),
        };
        records.push((name, kind, text));
        at = start + length;
    }
    Some(Answer { code, records })
}

/// The name at a place and the place after it; compression pointers are followed a bounded number of times.
fn name_at(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end) = (String::new(), None);
    for _ in 0..128 {
        let length = *bytes.get(at)?;
        if length & 0xc0 == 0xc0 {
            end = end.or(Some(at + 2));
            at = usize::from(length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
        } else if length == 0 {
            return Some((name, end.unwrap_or(at + 1)));
        } else {
            let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
            name.push_str(&String::from_utf8_lossy(label));
            name.push('.');
            at += 1 + usize::from(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_domains() {
        let settings = Settings::parse("nameserver 10.96.0.10\nsearch a.svc svc\noptions ndots:2\n");
        assert_eq!(settings.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(settings.candidates("x"), ["x.a.svc", "x.svc", "x"]);
        assert_eq!(settings.candidates("x.y.z"), ["x.y.z", "x.y.z.a.svc", "x.y.z.svc"]);
        assert_eq!(settings.candidates("x."), ["x."]);
    }

    #[test]
    fn hosts() {
        let hosts = "127.0.0.1 localhost here # not this\n::1 localhost\n";
        assert_eq!(in_hosts(hosts, "localhost").len(), 2);
        assert_eq!(in_hosts(hosts, "this").len(), 0);
    }

    #[test]
    fn answers() {
        let mut bytes = query(7, "a.b", 1).unwrap();
        bytes[2] = 0x81;
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        let expected = Answer { code: 0, records: vec![("a.b.".to_owned(), 1, "10.0.0.1".to_owned())] };
        assert_eq!(parse(&bytes), Some(expected));
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), None, "cut at {length}");
        }
        let mut endless = bytes.clone();
        endless[12..14].copy_from_slice(&[0xc0, 12]);
        assert_eq!(parse(&endless), None);
    }
}
