//! Connections with peers (RFC 6062): listeners and connecting, in tasks; what is not
//! joined to a client yet waits here, unread.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_proto::turn::server::{ConnectError, FiveTuple, PeerAddr, PeerConnection, RelayId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::commands::{Command, Remote};
use super::shard::Shard;

/// Peers that wait to be accepted at one relay.
const BACKLOG: i32 = 64;

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The TCP side of a shard's relays.
#[derive(Debug)]
pub(super) struct Connections {
    runtime: Handle,
    shard: Remote,
    /// Dropping a guard ends the task that accepts.
    listeners: BTreeMap<RelayId, DropGuard>,
    live: BTreeMap<PeerConnection, Stage>,
}

/// How far a connection has come.
#[derive(Debug)]
enum Stage {
    Connecting { _task: DropGuard },
    Waiting(TcpStream),
    Joined(FiveTuple),
}

impl Connections {
    pub(super) const fn new(runtime: Handle, shard: Remote) -> Self {
        Self {
            runtime,
            shard,
            listeners: BTreeMap::new(),
            live: BTreeMap::new(),
        }
    }

    pub(super) fn listen(&mut self, relay: RelayId, address: SocketAddr) -> io::Result<()> {
        let socket = bind(address)?;
        socket.listen(BACKLOG)?;
        let _inside = self.runtime.enter();
        let listener = TcpListener::from_std(socket.into())?;
        let stop = CancellationToken::new();
        let task = accept(listener, relay, self.shard.clone());
        self.runtime
            .spawn(stop.clone().run_until_cancelled_owned(task));
        self.listeners.insert(relay, stop.drop_guard());
        Ok(())
    }

    pub(super) fn close_listener(&mut self, relay: RelayId) {
        self.listeners.remove(&relay);
    }

    pub(super) fn connect(&mut self, connection: PeerConnection, from: SocketAddr, to: SocketAddr) {
        let stop = CancellationToken::new();
        let shard = self.shard.clone();
        let task = async move {
            let result = connect(from, to).await.map_err(|error| refusal(&error));
            shard.tell(Command::Connected { connection, result }).await;
        };
        self.runtime
            .spawn(stop.clone().run_until_cancelled_owned(task));
        let stage = Stage::Connecting {
            _task: stop.drop_guard(),
        };
        self.live.insert(connection, stage);
    }

    /// Ends a connection; gives the client whose stream carries it, if one does.
    pub(super) fn close(&mut self, connection: PeerConnection) -> Option<FiveTuple> {
        match self.live.remove(&connection)? {
            Stage::Joined(client) => Some(client),
            Stage::Connecting { .. } | Stage::Waiting(_) => None,
        }
    }

    /// Gives a connection that waits to a client.
    pub(super) fn take(
        &mut self,
        connection: PeerConnection,
        client: &FiveTuple,
    ) -> Option<TcpStream> {
        let stage = self.live.get_mut(&connection)?;
        match std::mem::replace(stage, Stage::Joined(*client)) {
            Stage::Waiting(stream) => Some(stream),
            Stage::Connecting { .. } | Stage::Joined(_) => None,
        }
    }
}

impl Shard {
    pub(super) fn on_peer(&mut self, now: Instant, relay: RelayId, stream: TcpStream) {
        let Ok(peer) = stream.peer_addr() else {
            return;
        };
        let peer = PeerAddr(peer);
        if let Some(connection) = self.machine.handle_peer_connected(now, relay, peer) {
            let stage = Stage::Waiting(stream);
            self.connections.live.insert(connection, stage);
        }
    }

    pub(super) fn on_connected(
        &mut self,
        now: Instant,
        connection: PeerConnection,
        result: Result<TcpStream, ConnectError>,
    ) {
        let Some(stage) = self.connections.live.get_mut(&connection) else {
            return;
        };
        let result = result.map(|stream| *stage = Stage::Waiting(stream));
        if result.is_err() {
            self.connections.close(connection);
        }
        self.machine.handle_connected(now, connection, result);
    }
}

async fn accept(listener: TcpListener, relay: RelayId, shard: Remote) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Best effort: without it small messages wait a while.
                let _ = stream.set_nodelay(true);
                if !shard.tell(Command::PeerArrived { relay, stream }).await {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a peer's connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::from_std_stream(bind(from)?.into());
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket at the relay's address, which its listener and all its connections share
/// (RFC 6062 section 5.2).
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn refusal(error: &io::Error) -> ConnectError {
    tracing::debug!(%error, "a peer could not be connected to");
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        ConnectError::AddressNotAvailable
    } else {
        ConnectError::Failed
    }
}
