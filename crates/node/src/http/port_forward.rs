//! Port forwarding: connections to ports inside a pod, over SPDY streams or the older WebSocket channels.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kobune_spdy::{self as spdy, PIECE, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;

use super::websocket::{self, Dialect, PortOutput};

/// Connects to a port on the loopback address inside a network namespace (`None`: the host's).
///
/// A socket belongs for good to the namespace it was made in, so a thread of its own goes there, connects and ends.
pub async fn connect(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("port-forward".to_owned()).stack_size(64 << 10).spawn(move || {
        // Without a receiver the client has gone.
        drop(sender.send(connect_in(netns.as_deref(), port)));
    });
    spawned?;
    let stream = receiver.await.map_err(|_| io::Error::other("the connecting thread ended"))??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connect_in(netns: Option<&Path>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(path) = netns {
        let file = std::fs::File::open(path)?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    match std::net::TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::net::TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| error)
        }
        result => result,
    }
}

fn refused(port: u16, error: &io::Error) -> String {
    format!("error forwarding port {port} to pod: failed to connect to localhost:{port} inside namespace: {error}")
}

/// Serves the SPDY protocol: for each connection the client opens a stream for errors and one for data.
pub async fn over_spdy<C>(connection: C, netns: Option<PathBuf>)
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut streams = spdy::serve(connection);
    let mut errors: HashMap<String, Stream> = HashMap::new();
    let mut data: HashMap<String, Stream> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        // Both keep their news when dropped.
        let stream = tokio::select! {
            stream = streams.opened.recv() => stream,
            Some(_ended) = running.join_next(), if !running.is_empty() => continue,
        };
        let Some(stream) = stream else { break };
        // Old clients send no id and open the two streams one after the other.
        let key = stream.header("requestid").unwrap_or_else(|| stream.header("port").unwrap_or_default()).to_owned();
        match stream.header("streamtype") {
            Some("error") => errors.insert(key.clone(), stream),
            Some("data") => data.insert(key.clone(), stream),
            _ => {
                drop(stream.outgoing.reset().await);
                continue;
            }
        };
        if errors.contains_key(&key)
            && data.contains_key(&key)
            && let (Some(data), Some(error)) = (data.remove(&key), errors.remove(&key))
        {
            running.spawn(forward(data, error, netns.clone()));
        }
    }
    running.shutdown().await;
}

async fn forward(data: Stream, error: Stream, netns: Option<PathBuf>) {
    let port = data.header("port").and_then(|port| port.parse().ok()).unwrap_or(0);
    let result = match connect(netns, port).await {
        Ok(connection) => carry(data.incoming, &data.outgoing, connection).await,
        Err(cause) => Err(refused(port, &cause)),
    };
    // Whatever can't be sent any more has nobody to read it.
    if let Err(message) = result {
        drop(error.outgoing.send(Bytes::from(message)).await);
    }
    drop(data.outgoing.end().await);
    drop(error.outgoing.end().await);
}

async fn carry(
    mut incoming: mpsc::Receiver<Bytes>,
    outgoing: &spdy::Sender,
    connection: TcpStream,
) -> Result<(), String> {
    let (mut reader, mut writer) = connection.into_split();
    let up = async {
        while let Some(bytes) = incoming.recv().await {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = reader.read(&mut buffer).await?;
            if count == 0 || outgoing.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    // The client's end leaves the pod time to answer; the pod's end is the end.
    let result = tokio::select! {
        result = &mut down => result,
        result = &mut up => match result {
            Ok(()) => down.await,
            Err(error) => Err(error),
        },
    };
    match result {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
            ) =>
        {
            Err(format!("error forwarding port: {error}"))
        }
        _ => Ok(()),
    }
}

/// Serves the older WebSocket protocol: the ports are in the request, one connection each.
pub async fn over_websocket<C>(socket: WebSocketStream<C>, dialect: Dialect, list: &[u16], netns: Option<PathBuf>)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ports, output) = websocket::ports(socket, dialect, list);
    let mut running = JoinSet::new();
    for (index, mut port) in ports.into_iter().enumerate() {
        let (output, netns) = (output.clone(), netns.clone());
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        running.spawn(async move {
            let connection = match connect(netns, port.port).await {
                Ok(connection) => connection,
                Err(error) => {
                    drop(output.send(PortOutput::Error(index, refused(port.port, &error))).await);
                    return;
                }
            };
            let (mut reader, mut writer) = connection.into_split();
            let up = async {
                while let Some(bytes) = port.incoming.recv().await {
                    if writer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            };
            let down = async {
                let mut buffer = vec![0; PIECE];
                while let Ok(count) = reader.read(&mut buffer).await {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    if count == 0 || output.send(PortOutput::Data(index, bytes)).await.is_err() {
                        return;
                    }
                }
            };
            // The client has gone, or the pod has closed.
            tokio::select! {
                () = up => {}
                () = down => {}
            }
        });
    }
    drop(output);
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kobune_spdy::frame::{Decoder, Encoder, Frame};

    #[tokio::test]
    async fn a_connection_over_spdy() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let echo = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).await.expect("read");
            stream.write_all(&buffer).await.expect("written");
        });
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(over_spdy(ours, None));
        let (mut reader, mut writer) = tokio::io::split(theirs);
        let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
        for (id, kind) in [(1, "error"), (3, "data")] {
            let headers = [("streamtype", kind), ("port", &port.to_string()), ("requestid", "0")];
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            encoder.encode(&Frame::SynStream { id, flags: 0, headers }, &mut bytes).expect("encoded");
        }
        encoder
            .encode(&Frame::Data { id: 3, flags: 0, bytes: Bytes::from_static(b"hello") }, &mut bytes)
            .expect("encoded");
        writer.write_all(&bytes).await.expect("written");
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let (mut text, mut ended) = (Vec::new(), Vec::new());
        while ended.len() < 2 {
            while let Some(frame) = decoder.decode(&mut buffer).expect("decoded") {
                if let Frame::Data { id, flags, bytes } = frame {
                    text.extend_from_slice(&bytes);
                    if flags != 0 {
                        ended.push(id);
                    }
                }
            }
            if ended.len() < 2 {
                assert_ne!(reader.read_buf(&mut buffer).await.expect("read"), 0, "the connection ended early");
            }
        }
        assert_eq!(text, b"hello");
        echo.await.expect("no panic");
    }
}
