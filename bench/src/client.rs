//! A small TURN client: it sets up what a load goes through.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use postern_wire::stun::{
    Builder, Class, ErrorCode, HEADER_LEN, Message, Method, Nonce, Realm, TransactionId, Username,
    long_term_key_md5,
};
use postern_wire::turn::{
    ChannelNumber, ConnectionId, Lifetime, RequestedTransport, StreamFrame, XorPeerAddress,
    XorRelayedAddress, split_stream,
};

/// The user of the servers under load.
pub const USER: &str = "user";
/// The password of [`USER`].
pub const PASSWORD: &str = "pass";

/// Every answer comes sooner.
const PATIENCE: Duration = Duration::from_secs(5);

/// Packets of a load that may come before an answer.
const STRAY: usize = 10_000;

/// Enough for what is on the way at once.
const SOCKET_BUFFER: usize = 4 << 20;

/// A UDP socket on the loopback interface that has room for a load.
pub fn udp() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The first is for root, beyond the system's limit; else as much as the limit allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    }
    let _ = setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER);
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// How a client talks to its server: a request goes out, its answer comes back.
pub trait Transport {
    /// Asks and waits.
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>>;
}

impl Transport for UdpSocket {
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.send(request)?;
        for _ in 0..STRAY {
            let answer = answer(self)?;
            if answer.get(4..HEADER_LEN) == request.get(4..HEADER_LEN) {
                return Ok(answer);
            }
        }
        bail!("no answer among {STRAY} other packets")
    }
}

impl Transport for TcpStream {
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.write_all(request)?;
        let mut bytes = vec![0; 4];
        self.read_exact(&mut bytes)?;
        loop {
            let needed = match split_stream(&bytes)? {
                StreamFrame::Incomplete { needed } => needed,
                StreamFrame::Stun { length } if length > bytes.len() => length,
                StreamFrame::Stun { .. } => return Ok(bytes),
                StreamFrame::ChannelData { .. } => bail!("data instead of an answer"),
            };
            let have = bytes.len();
            bytes.resize(needed, 0);
            self.read_exact(&mut bytes[have..])?;
        }
    }
}

/// The next datagram at a connected socket.
pub fn answer(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 2048];
    let length = socket.recv(&mut buffer).context("no answer")?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Starts a request.
#[must_use]
pub fn request(method: Method) -> Builder {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut id = [0x5a; 12];
    id[4..].copy_from_slice(&number.to_be_bytes());
    Builder::new(Class::Request, method, TransactionId(id))
}

/// What a server's challenge said, and the key that follows from it.
#[derive(Debug, Clone)]
pub struct Credentials {
    realm: String,
    nonce: String,
    key: [u8; 16],
}

impl Credentials {
    /// Reads the answer to a request that was not signed.
    pub fn from_challenge(answer: &[u8]) -> Result<Self> {
        let message = Message::parse(answer)?;
        let realm: Realm<'_> = message.get()?.context("no challenge: no realm")?;
        let nonce: Nonce<'_> = message.get()?.context("no challenge: no nonce")?;
        Ok(Self {
            realm: realm.as_str().to_owned(),
            nonce: nonce.as_str().to_owned(),
            key: long_term_key_md5(USER, realm.as_str(), PASSWORD),
        })
    }

    /// Completes a request.
    pub fn sign(&self, request: Builder) -> Result<Vec<u8>> {
        let request = request.attribute(&Username::new(USER)?);
        let request = request.attribute(&Realm::new(&self.realm)?);
        let request = request.attribute(&Nonce::new(&self.nonce)?);
        Ok(request.message_integrity(&self.key).build())
    }
}

/// The relayed address, if the answer to an Allocate request is a success.
pub fn relayed(answer: &[u8]) -> Result<SocketAddr> {
    let message = success(answer)?;
    let relayed: XorRelayedAddress = message.get()?.context("no relayed address")?;
    Ok(relayed.0)
}

fn success(answer: &[u8]) -> Result<Message<'_>> {
    let message = Message::parse(answer)?;
    if message.class() != Class::Success {
        let code: Option<ErrorCode<'_>> = message.get()?;
        bail!("the server refused a request: {code:?}");
    }
    Ok(message)
}

/// An allocation and the transport it was made over.
#[derive(Debug)]
pub struct Allocation<T> {
    transport: T,
    credentials: Credentials,
    relayed: SocketAddr,
}

impl Allocation<UdpSocket> {
    /// Allocates over UDP, for UDP.
    pub fn udp(server: SocketAddr) -> Result<Self> {
        let socket = udp()?;
        socket.connect(server)?;
        Self::new(socket, RequestedTransport::UDP)
    }

    /// The socket that talks to the server.
    pub fn socket(&self) -> &UdpSocket {
        &self.transport
    }

    /// Binds a channel to a peer.
    pub fn bind(&mut self, peer: SocketAddr) -> Result<ChannelNumber> {
        let channel = ChannelNumber::MIN;
        let bind = request(Method::CHANNEL_BIND).attribute(&channel);
        self.ask(bind.attribute(&XorPeerAddress(peer)))?;
        Ok(channel)
    }
}

impl Allocation<TcpStream> {
    /// Allocates over TCP, for TCP (RFC 6062).
    pub fn tcp(server: SocketAddr) -> Result<Self> {
        Self::new(connect(server)?, RequestedTransport::TCP)
    }

    /// Connects to a peer through the relay, and says what to bind a connection to.
    pub fn connect(&mut self, peer: SocketAddr) -> Result<ConnectionId> {
        let answer = self.ask(request(Method::CONNECT).attribute(&XorPeerAddress(peer)))?;
        let id = success(&answer)?.get()?;
        id.context("no CONNECTION-ID")
    }

    /// Opens the connection that carries the data.
    pub fn data_connection(&self, id: ConnectionId) -> Result<TcpStream> {
        let mut stream = connect(self.transport.peer_addr()?)?;
        let bind = request(Method::CONNECTION_BIND).attribute(&id);
        success(&stream.ask(&self.credentials.sign(bind)?)?)?;
        Ok(stream)
    }
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl<T: Transport> Allocation<T> {
    fn new(mut transport: T, relay: RequestedTransport) -> Result<Self> {
        let allocate = || request(Method::ALLOCATE).attribute(&relay);
        let challenge = transport.ask(&allocate().build())?;
        let credentials = Credentials::from_challenge(&challenge)?;
        let answer = transport.ask(&credentials.sign(allocate())?)?;
        Ok(Self {
            transport,
            credentials,
            relayed: relayed(&answer)?,
        })
    }

    /// The relayed address.
    pub const fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// Allows a peer.
    pub fn permit(&mut self, peer: SocketAddr) -> Result<()> {
        self.ask(request(Method::CREATE_PERMISSION).attribute(&XorPeerAddress(peer)))?;
        Ok(())
    }

    fn ask(&mut self, request: Builder) -> Result<Vec<u8>> {
        let answer = self.transport.ask(&self.credentials.sign(request)?)?;
        success(&answer)?;
        Ok(answer)
    }

    /// Deletes the allocation.
    pub fn delete(mut self) -> Result<()> {
        self.ask(request(Method::REFRESH).attribute(&Lifetime(0)))?;
        Ok(())
    }
}

/// Allocates `count` times over UDP with a challenge each, many at once.
pub fn allocate_many(server: SocketAddr, count: usize) -> Result<Vec<Allocation<UdpSocket>>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.extend(wave(server, WAVE.min(count - all.len()))?);
    }
    Ok(all)
}

/// How many wait for an answer at once: a server's socket has room for them.
const WAVE: usize = 64;

fn wave(server: SocketAddr, count: usize) -> Result<Vec<Allocation<UdpSocket>>> {
    let allocate = || request(Method::ALLOCATE).attribute(&RequestedTransport::UDP);
    let mut begun = Vec::with_capacity(count);
    for socket in challenge_many(server, count)? {
        let credentials = Credentials::from_challenge(&answer(&socket)?)?;
        begun.push((socket, credentials));
    }
    for (socket, credentials) in &begun {
        socket.send(&credentials.sign(allocate())?)?;
    }
    let complete = |(transport, credentials)| {
        let answer = answer(&transport)?;
        Ok(Allocation {
            relayed: relayed(&answer)?,
            transport,
            credentials,
        })
    };
    begun.into_iter().map(complete).collect()
}

/// Sends an Allocate request without credentials from `count` sockets.
pub fn challenge_many(server: SocketAddr, count: usize) -> Result<Vec<UdpSocket>> {
    ensure!(count <= WAVE, "more than a server has room for");
    let allocate = || request(Method::ALLOCATE).attribute(&RequestedTransport::UDP);
    let challenge = |_| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(&allocate().build())?;
        Ok(socket)
    };
    (0..count).map(challenge).collect()
}
