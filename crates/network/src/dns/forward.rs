//! Questions about other domains: asked of the host's resolvers, with a small memory for answers.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::Stub;

/// How long one resolver may take. A client usually asks again after five seconds, so that two must fit.
const PATIENCE: Duration = Duration::from_millis(1800);

/// The same for one that did not answer a moment ago.
const LITTLE_PATIENCE: Duration = Duration::from_millis(400);

/// How long a resolver that did not answer counts as gone.
const AVOID: Duration = Duration::from_secs(5);

/// Answers are kept at most this long, as CoreDNS does by default; failures shorter, so that a network that comes
/// back is noticed.
const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_NEGATIVE: Duration = Duration::from_secs(5);
const FAILURE: Duration = Duration::from_secs(1);

/// The memory for answers is bounded in bytes.
const MEMORY: usize = 512 * 1024;

/// What an upstream resolver is offered for UDP answers; larger ones come by TCP.
const UDP_SIZE: u16 = 1232;

/// Asks other resolvers.
pub struct Forwarder {
    resolv_conf: PathBuf,
    port: u16,
    own: Vec<IpAddr>,
    stubs: Vec<Stub>,
    resolvers: Mutex<Resolvers>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Resolvers {
    modified: Option<SystemTime>,
    servers: Vec<IpAddr>,
    avoid: HashMap<SocketAddr, Instant>,
}

type Question = (Name, RecordType);

#[derive(Default)]
struct Memory {
    answers: HashMap<Question, Kept>,
    order: VecDeque<Question>,
    bytes: usize,
}

struct Kept {
    message: Vec<u8>,
    since: Instant,
    until: Instant,
}

impl Forwarder {
    /// Asks the servers that `resolv_conf` names, on `port`, but never one of `own`: that would go round for ever. Of names
    /// in the domain of a stub its servers are asked.
    pub fn new(resolv_conf: PathBuf, port: u16, own: Vec<IpAddr>, stubs: Vec<Stub>) -> Forwarder {
        Forwarder { resolv_conf, port, own, stubs, resolvers: Mutex::default(), memory: Mutex::default() }
    }

    /// The answer of the first resolver that gives one; a message with `SERVFAIL` when none does.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Message {
        let question = (name.to_lowercase(), kind);
        if let Some(message) = self.memory.lock().get(&question, Instant::now()) {
            return message;
        }
        let message = self.ask_servers(name, kind).await;
        self.memory.lock().put(question, &message, Instant::now());
        message
    }

    async fn ask_servers(&self, name: &Name, kind: RecordType) -> Message {
        let mut last = None;
        for (server, patience) in self.servers(name, Instant::now()) {
            let asked = timeout(patience, ask_one(server, name, kind)).await;
            match asked {
                Ok(Ok(message)) => {
                    self.resolvers.lock().avoid.remove(&server);
                    // A server that refuses or fails may have a neighbour that does better.
                    if matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
                        return message;
                    }
                    last = Some(message);
                }
                failed => {
                    match failed {
                        Ok(Err(error)) => tracing::debug!(%server, %name, %error, "resolver failed"),
                        _ => tracing::debug!(%server, %name, "resolver did not answer in time"),
                    }
                    self.resolvers.lock().avoid.insert(server, Instant::now() + AVOID);
                }
            }
        }
        last.unwrap_or_else(|| {
            let mut message = Message::new(0, MessageType::Response, OpCode::Query);
            message.metadata.response_code = ResponseCode::ServFail;
            message
        })
    }

    /// The servers to ask about a name, in order, those that answered lately first.
    fn servers(&self, name: &Name, now: Instant) -> Vec<(SocketAddr, Duration)> {
        let modified = std::fs::metadata(&self.resolv_conf).and_then(|meta| meta.modified()).ok();
        let mut resolvers = self.resolvers.lock();
        if modified.is_none() || modified != resolvers.modified {
            resolvers.modified = modified;
            let text = match std::fs::read_to_string(&self.resolv_conf) {
                Ok(text) => text,
                Err(error) => {
                    tracing::debug!(path = %self.resolv_conf.display(), %error, "no resolvers to ask");
                    String::new()
                }
            };
            resolvers.servers = servers_in(&text).into_iter().filter(|server| !self.own.contains(server)).collect();
        }
        resolvers.avoid.retain(|_, until| *until > now);
        let stubs = self.stubs.iter().filter(|stub| stub.domain.zone_of(name));
        let servers = match stubs.max_by_key(|stub| stub.domain.num_labels()) {
            Some(stub) => stub.servers.clone(),
            None => resolvers.servers.iter().map(|server| SocketAddr::new(*server, self.port)).collect(),
        };
        let (bad, good): (Vec<SocketAddr>, Vec<SocketAddr>) =
            servers.iter().partition(|server| resolvers.avoid.contains_key(server));
        let good = good.into_iter().map(|server| (server, PATIENCE));
        good.chain(bad.into_iter().map(|server| (server, LITTLE_PATIENCE))).collect()
    }
}

/// The resolvers that a `resolv.conf` names: the first three, as the C library takes.
pub fn servers_in(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then(|| words.next())??.parse().ok()
        })
        .take(3)
        .collect()
}

async fn ask_one(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Message> {
    let bad = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_SIZE);
    query.set_edns(edns);
    let id = query.metadata.id;
    let bytes = query.to_vec().map_err(|error| bad(&error))?;

    // A new socket for every question: its random port, with the random id, is what a forger would have to guess.
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    let is_answer = |message: &Message| {
        let same = message.queries.first().is_some_and(|asked| asked.name() == name && asked.query_type() == kind);
        message.metadata.id == id && message.metadata.message_type == MessageType::Response && same
    };
    let message = loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not parse or does not fit is forged or late; the right one may still come.
        if let Ok(message) = Message::from_vec(&buffer[..length])
            && is_answer(&message)
        {
            break message;
        }
    };
    if !message.metadata.truncation {
        return Ok(message);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|error| bad(&error))?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    let message = Message::from_vec(&bytes).map_err(|error| bad(&error))?;
    if is_answer(&message) { Ok(message) } else { Err(bad(&"the answer is to another question")) }
}

impl Memory {
    fn get(&mut self, question: &Question, now: Instant) -> Option<Message> {
        let kept = self.answers.get(question)?;
        if kept.until <= now {
            return None;
        }
        let mut message = Message::from_vec(&kept.message).ok()?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    fn put(&mut self, question: Question, message: &Message, now: Instant) {
        let lowest = |records: &[hickory_proto::rr::Record]| records.iter().map(|record| record.ttl).min();
        let seconds = |ttl: Option<u32>| Duration::from_secs(u64::from(ttl.unwrap_or_default()));
        let time = match message.metadata.response_code {
            ResponseCode::NoError if !message.answers.is_empty() => seconds(lowest(&message.answers)).min(LONGEST),
            ResponseCode::NoError | ResponseCode::NXDomain => {
                seconds(lowest(&message.authorities)).min(LONGEST_NEGATIVE)
            }
            _ => FAILURE,
        };
        let Ok(bytes) = message.to_vec() else { return };
        if time.is_zero() || bytes.len() > MEMORY / 16 {
            return;
        }
        let weight = |message: &[u8]| message.len() + 200;
        self.bytes += weight(&bytes);
        let kept = Kept { message: bytes, since: now, until: now + time };
        match self.answers.insert(question.clone(), kept) {
            Some(old) => self.bytes -= weight(&old.message),
            None => self.order.push_back(question),
        }
        while self.bytes > MEMORY {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(old) = self.answers.remove(&oldest) {
                self.bytes -= weight(&old.message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{RData, Record};

    use super::*;

    #[test]
    fn resolv_conf_names_the_first_three() {
        let text = "# nameserver 1.1.1.1\nsearch lan\nnameserver 10.0.0.1\n nameserver\t10.0.0.2 # two\nnameserver nine\n\
                    nameserver fe80::1%eth0\nnameserver fd00::1\nnameserver 10.0.0.4\noptions ndots:2\n";
        let expected: Vec<IpAddr> =
            ["10.0.0.1", "10.0.0.2", "fd00::1"].iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(servers_in(text), expected);
        assert_eq!(servers_in(""), Vec::<IpAddr>::new());
    }

    fn answer(name: &Name, ttl: u32, code: ResponseCode) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        if code == ResponseCode::NoError {
            message.add_answer(Record::from_rdata(name.clone(), ttl, RData::A(Ipv4Addr::LOCALHOST.into())));
        }
        message
    }

    #[test]
    fn memory_counts_time_down_and_ends() {
        let name = Name::from_ascii("example.org.").expect("a name");
        let question = (name.clone(), RecordType::A);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let check = |ttl, code, seconds, expected: Option<u32>| {
            let mut memory = Memory::default();
            memory.put(question.clone(), &answer(&name, ttl, code), start);
            let found = memory.get(&question, at(seconds));
            assert_eq!(found.map(|message| message.answers.first().map_or(0, |record| record.ttl)), expected);
        };
        check(20, ResponseCode::NoError, 5, Some(15));
        check(20, ResponseCode::NoError, 21, None);
        check(3600, ResponseCode::NoError, 29, Some(3571));
        check(3600, ResponseCode::NoError, 31, None);
        check(0, ResponseCode::NoError, 0, None);
        check(0, ResponseCode::ServFail, 0, Some(0));
        check(0, ResponseCode::ServFail, 2, None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..5000 {
            let name = Name::from_ascii(format!("host{number}.example.org.")).expect("a name");
            memory.put((name.clone(), RecordType::A), &answer(&name, 30, ResponseCode::NoError), Instant::now());
        }
        assert!(memory.bytes <= MEMORY);
        assert_eq!(memory.answers.len(), memory.order.len());
        let sum: usize = memory.answers.values().map(|kept| kept.message.len() + 200).sum();
        assert_eq!(sum, memory.bytes);
    }
}
