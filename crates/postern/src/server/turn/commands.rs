//! What tasks tell a shard.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mio::Waker;
use postern_proto::stun::Credentials;
use postern_proto::turn::server::{
    Alternates, ConnectError, FiveTuple, PeerConnection, PeerPolicy, Quotas, RelayId, Server, Stats,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::streams::StreamSender;

/// Commands that wait; who has more waits too.
const WAITING: usize = 1024;

#[derive(Debug)]
pub(super) enum Command {
    /// A client's stream is there, and takes what is for it here.
    Opened {
        client: FiveTuple,
        sender: StreamSender,
    },
    /// Complete messages of a client's stream, one behind the other.
    Messages { client: FiveTuple, bytes: Bytes },
    /// A message of a client that comes in datagrams, but not on a socket of the shard.
    Datagram { client: FiveTuple, bytes: Bytes },
    /// A client's stream has ended, and the peer's connection that was joined to it.
    Closed { client: FiveTuple },
    /// A peer has connected to the listener of a TCP relay.
    PeerArrived { relay: RelayId, stream: TcpStream },
    /// What an operator changes.
    Change(Box<Change>),
    /// No new allocations; clients are sent to these servers.
    Drain(Alternates),
    /// What has been counted is wanted.
    Count(oneshot::Sender<Stats>),
    /// A connection with a peer was made, or not.
    Connected {
        connection: PeerConnection,
        result: Result<TcpStream, ConnectError>,
    },
}

/// What can change while the relay runs.
#[derive(Debug, Clone)]
pub(in crate::server) struct Change {
    pub(super) credentials: Credentials,
    pub(super) quotas: Quotas,
    pub(super) policy: PeerPolicy,
    pub(super) overflow: Alternates,
}

impl Change {
    pub(super) fn make(self, now: Instant, machine: &mut Server) {
        machine.set_credentials(self.credentials);
        machine.set_quotas(self.quotas);
        machine.set_policy(now, self.policy);
        machine.set_overflow(self.overflow);
    }
}

/// A shard, as tasks see it.
#[derive(Debug, Clone)]
pub(in crate::server) struct Remote {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

impl Remote {
    /// A remote and what the shard takes commands from.
    pub(super) fn new(poll: &mio::Poll) -> io::Result<(Self, mpsc::Receiver<Command>)> {
        let waker = Waker::new(poll.registry(), super::sockets::WAKER)?;
        let (commands, receiver) = mpsc::channel(WAITING);
        let remote = Self {
            commands,
            waker: Arc::new(waker),
        };
        Ok((remote, receiver))
    }

    /// Tells the shard; `false` if it has stopped.
    pub(super) async fn tell(&self, command: Command) -> bool {
        let told = self.commands.send(command).await.is_ok();
        self.wake();
        told
    }

    /// Lets this hold from now on.
    pub(in crate::server) async fn change(&self, change: Change) {
        self.tell(Command::Change(Box::new(change))).await;
    }

    /// Sends away whoever wants a new allocation.
    pub(in crate::server) async fn drain(&self, alternates: Alternates) {
        self.tell(Command::Drain(alternates)).await;
    }

    /// What has been counted; nothing if the shard has stopped.
    pub(in crate::server) async fn stats(&self) -> Stats {
        let (sender, stats) = oneshot::channel();
        self.tell(Command::Count(sender)).await;
        stats.await.unwrap_or_default()
    }

    pub(super) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the relay could not be woken");
        }
    }
}
