//! DNS over UDP and TCP.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};
use ipnet::Ipv6Net;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, DnsError, dns64,
    forward::Forwarder,
    zone::{Answer, Found, Zone},
};
use crate::cluster::Cluster;

/// The largest UDP answer: what passes every link without fragments, by the agreement of DNS flag day 2020.
const UDP_SIZE: u16 = 1232;

/// Without EDNS a client takes no more than this.
const PLAIN_UDP_SIZE: u16 = 512;

/// Questions that wait for other resolvers at one time; more are refused, so that memory stays bounded.
const WAITING: usize = 256;

/// TCP connections at one time; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// How long a TCP client may say nothing.
const IDLE: Duration = Duration::from_secs(10);

/// A server whose sockets are bound but that does not answer yet.
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    shared: Shared,
}

struct Shared {
    zone: Zone,
    forwarder: Forwarder,
    dns64: Option<Ipv6Net>,
    turn: AtomicUsize,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Which way a question came, and so how large its answer may be.
#[derive(Clone, Copy)]
enum Way {
    Udp,
    Tcp,
}

/// The answer to a question, or the need to ask others.
enum Outcome {
    Ready(Message),
    Ask { response: Message, question: Query },
}

impl Server {
    /// Binds every address, for UDP and TCP.
    pub async fn bind(config: Config) -> Result<Server, DnsError> {
        let zone = Zone::new(&config.domain, config.addresses.clone(), config.own_ranges.clone())
            .ok_or_else(|| DnsError::Domain { domain: config.domain.clone() })?;
        let mut sockets = Vec::new();
        for &address in &config.addresses {
            let bind = async {
                let udp = UdpSocket::bind((address, config.port)).await?;
                // With port 0 both take the one that UDP was given.
                let tcp = TcpListener::bind((address, udp.local_addr()?.port())).await?;
                io::Result::Ok((udp, tcp))
            };
            let bound = bind.await.map_err(|source| DnsError::Bind { address, port: config.port, source })?;
            sockets.push(bound);
        }
        Ok(Server {
            sockets,
            shared: Shared {
                zone,
                forwarder: Forwarder::new(config.resolv_conf, 53, config.addresses, config.stubs),
                dns64: config.dns64,
                turn: AtomicUsize::new(0),
                waiting: Arc::new(Semaphore::new(WAITING)),
                connections: Arc::new(Semaphore::new(CONNECTIONS)),
            },
        })
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect()
    }

    /// Answers until `token` is cancelled.
    pub async fn run(self, cluster: Arc<Cluster>, token: CancellationToken) {
        let shared = Arc::new(self.shared);
        let tasks = TaskTracker::new();
        for (udp, tcp) in self.sockets {
            let udp = serve_udp(Arc::new(udp), Arc::clone(&shared), Arc::clone(&cluster));
            let tcp = serve_tcp(tcp, Arc::clone(&shared), Arc::clone(&cluster));
            let (one, two) = (token.clone(), token.clone());
            tasks.spawn(async move { one.run_until_cancelled(udp).await });
            tasks.spawn(async move { two.run_until_cancelled(tcp).await });
        }
        tasks.close();
        token.cancelled().await;
        tasks.wait().await;
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>, cluster: Arc<Cluster>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP message about an earlier answer whose client has gone: nothing is wrong here.
            Err(error) => {
                tracing::debug!(%error, "receiving a DNS question failed");
                continue;
            }
        };
        match shared.outcome(&buffer[..length], &cluster) {
            None => {}
            Some((request, Outcome::Ready(response))) => {
                send_udp(&socket, client, &encode(&response, &request, Way::Udp)).await;
            }
            Some((request, Outcome::Ask { response, question })) => {
                let Ok(permit) = Arc::clone(&shared.waiting).try_acquire_owned() else {
                    send_udp(&socket, client, &encode(&failure(&request), &request, Way::Udp)).await;
                    continue;
                };
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                tokio::spawn(async move {
                    let response = shared.ask(response, &question).await;
                    send_udp(&socket, client, &encode(&response, &request, Way::Udp)).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn send_udp(socket: &UdpSocket, client: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "a DNS answer could not be sent");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, cluster: Arc<Cluster>) {
    loop {
        let permit = Arc::clone(&shared.connections).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this would spin.
                tracing::warn!(%error, "accepting a DNS connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shared, cluster) = (Arc::clone(&shared), Arc::clone(&cluster));
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &shared, &cluster).await {
                tracing::debug!(%client, %error, "a DNS connection ended early");
            }
            drop(permit);
        });
    }
}

/// One TCP connection: questions one after the other until the client closes or falls silent.
async fn converse(mut stream: TcpStream, shared: &Shared, cluster: &Cluster) -> io::Result<()> {
    loop {
        let question = async {
            let length = match stream.read_u16().await {
                Ok(length) => usize::from(length),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await?;
            Ok(Some(bytes))
        };
        let Ok(question) = timeout(IDLE, question).await else { return Ok(()) };
        let Some(bytes) = question? else { return Ok(()) };
        let Some((request, outcome)) = shared.outcome(&bytes, cluster) else { return Ok(()) };
        let response = match outcome {
            Outcome::Ready(response) => response,
            Outcome::Ask { response, question } => match shared.waiting.try_acquire() {
                Ok(_permit) => shared.ask(response, &question).await,
                Err(_) => failure(&request),
            },
        };
        let bytes = encode(&response, &request, Way::Tcp);
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    }
}

fn reply(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.metadata.response_code = code;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_SIZE);
        response.set_edns(edns);
    }
    response
}

fn failure(request: &Message) -> Message {
    reply(request, ResponseCode::ServFail)
}

/// The bytes of an answer, cut to what the client takes, with the mark that tells it to come again by TCP.
fn encode(response: &Message, request: &Message, way: Way) -> Vec<u8> {
    let size = match (way, &request.edns) {
        (Way::Tcp, _) => u16::MAX,
        (Way::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP_SIZE, UDP_SIZE),
        (Way::Udp, None) => PLAIN_UDP_SIZE,
    };
    let attempt = |message: &Message| {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(size);
        message.emit(&mut encoder).map(|()| bytes)
    };
    let is_cut = |bytes: &[u8]| bytes.get(2).is_some_and(|flags| flags & 2 != 0);
    let whole = attempt(response).and_then(|bytes| {
        if !is_cut(&bytes) || response.additionals.is_empty() {
            return Ok(bytes);
        }
        // Addresses beside the answer are a courtesy, and no reason to come again by TCP.
        let mut lean = response.clone();
        lean.additionals.clear();
        attempt(&lean)
    });
    whole.or_else(|_| attempt(&response.truncate())).unwrap_or_else(|error| {
        tracing::warn!(%error, "a DNS answer could not be encoded");
        // The header alone: the question's id, a response, SERVFAIL.
        let id = request.metadata.id.to_be_bytes();
        vec![id[0], id[1], 0x80, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]
    })
}

impl Shared {
    /// Decides on one request. None when nothing must be answered: noise, or another server's answer.
    fn outcome(&self, bytes: &[u8], cluster: &Cluster) -> Option<(Message, Outcome)> {
        let request = match Message::from_vec(bytes) {
            Ok(request) => request,
            Err(_) => {
                let id = u16::from_be_bytes(*bytes.first_chunk::<2>()?);
                let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
                let request = Message::new(id, MessageType::Query, OpCode::Query);
                let response = reply(&request, ResponseCode::FormErr);
                return is_query.then_some((request, Outcome::Ready(response)));
            }
        };
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let ready = |request: Message, code: ResponseCode| {
            let response = reply(&request, code);
            Some((request, Outcome::Ready(response)))
        };
        if request.metadata.op_code != OpCode::Query {
            return ready(request, ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return ready(request, ResponseCode::BADVERS);
        }
        let [question] = request.queries.as_slice() else { return ready(request, ResponseCode::FormErr) };
        if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
            return ready(request, ResponseCode::Refused);
        }
        let question = question.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let answer = cluster.read(|tables| self.zone.answer(tables, question.name(), question.query_type(), turn));
        let mut response = reply(&request, ResponseCode::NoError);
        let outcome = match answer {
            Answer::NotOurs => Outcome::Ask { response, question },
            // Before the lists are there, "no such name" would be a guess that clients then keep.
            _ if !cluster.is_synced() => Outcome::Ready(failure(&request)),
            Answer::NoSuchName => {
                response.metadata.authoritative = true;
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(self.zone.start_of_authority());
                Outcome::Ready(response)
            }
            Answer::Found(Found { answers, additionals, elsewhere }) => {
                response.metadata.authoritative = true;
                if answers.is_empty() {
                    response.add_authority(self.zone.start_of_authority());
                }
                response.add_answers(answers);
                response.add_additionals(additionals);
                match elsewhere {
                    None => Outcome::Ready(response),
                    Some(name) => {
                        let mut question = question;
                        question.set_name(name);
                        Outcome::Ask { response, question }
                    }
                }
            }
        };
        Some((request, outcome))
    }

    /// Completes an answer with what other resolvers say.
    async fn ask(&self, mut response: Message, question: &Query) -> Message {
        let mut found = self.forwarder.ask(question.name(), question.query_type()).await;
        if let Some(prefix) = &self.dns64
            && question.query_type() == RecordType::AAAA
            // Who checks signatures itself would find none for what is made up here.
            && !response.metadata.checking_disabled
            && dns64::lacks_addresses(&found)
        {
            let other = self.forwarder.ask(question.name(), RecordType::A).await;
            found = dns64::translated(prefix, &other).unwrap_or(found);
        }
        let has_alias = !response.answers.is_empty();
        let code = found.metadata.response_code;
        // An alias that leads to a name which cannot be looked up now is still the answer for its own name.
        response.metadata.response_code =
            if has_alias && code == ResponseCode::ServFail { ResponseCode::NoError } else { code };
        response.metadata.authoritative = has_alias;
        response.add_answers(found.answers);
        response.add_authorities(found.authorities);
        response.add_additionals(found.additionals);
        response
    }
}

/// The addresses of a server, for error messages and logs.
impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<IpAddr> = self.addresses().iter().map(SocketAddr::ip).collect();
        f.debug_struct("Server").field("addresses", &addresses).finish_non_exhaustive()
    }
}
