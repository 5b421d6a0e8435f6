//! What tasks tell a shard.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mio::Waker;
use postern_proto::stun::Credentials;
use postern_proto::turn::server::{
    Alternates, ConnectError, FiveTuple, PeerAddr, PeerConnection, PeerPolicy, Quotas, RelayId,
    Server, ShardIndex, Stats,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::streams::StreamSender;

/// Commands that wait; who has more waits too.
const WAITING: usize = 1024;

/// Commands that may wait when one shard passes data on to another: at most 64 KiB each.
const PASSED_ON: usize = 64;

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
    /// Bytes are to pass on a joined connection: may they?
    Spend {
        connection: PeerConnection,
        bytes: usize,
        answer: oneshot::Sender<bool>,
    },
    /// So much has passed on joined connections.
    Carried { to_peers: u64, to_clients: u64 },
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
    /// A message or a train of a client whose allocation is here, though it came to another
    /// shard.
    Train {
        client: FiveTuple,
        stride: usize,
        bytes: Vec<u8>,
    },
    /// Datagrams of so many bytes each for a relay of this shard, from another shard's.
    Relayed {
        relay: RelayId,
        source: PeerAddr,
        lengths: Vec<usize>,
        bytes: Vec<u8>,
    },
    /// Bytes for a client's stream, which is here, though its allocation is not.
    ToStream { client: FiveTuple, bytes: Vec<u8> },
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

/// The shards, as tasks and other shards see them.
///
/// All streams are the first one's: a CONNECTION-ID is good where it was given.
#[derive(Debug, Clone)]
pub(in crate::server) struct Remote {
    first: Link,
    others: Arc<[Link]>,
}

/// The way to one shard.
#[derive(Debug, Clone)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

impl Link {
    /// A link and what the shard takes commands from.
    pub(super) fn new(poll: &mio::Poll) -> io::Result<(Self, mpsc::Receiver<Command>)> {
        let waker = Waker::new(poll.registry(), super::sockets::WAKER)?;
        let (commands, receiver) = mpsc::channel(WAITING);
        let link = Self {
            commands,
            waker: Arc::new(waker),
        };
        Ok((link, receiver))
    }

    async fn tell(&self, command: Command) -> bool {
        let told = self.commands.send(command).await.is_ok();
        self.wake();
        told
    }

    fn waiting(&self) -> usize {
        let commands = &self.commands;
        commands.max_capacity().saturating_sub(commands.capacity())
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the relay could not be woken");
        }
    }
}

impl Remote {
    pub(super) fn new(first: Link, others: Vec<Link>) -> Self {
        Self {
            first,
            others: others.into(),
        }
    }

    /// Tells the shard that has the streams; `false` if it has stopped.
    pub(super) async fn tell(&self, command: Command) -> bool {
        self.first.tell(command).await
    }

    /// Lets another shard have what is its business. It is lost if that one does not keep
    /// up, as a datagram would be.
    pub(super) fn pass_on(&self, ShardIndex(index): ShardIndex, command: Command) {
        let other = usize::from(index).checked_sub(1);
        let link = other.map_or(Some(&self.first), |index| self.others.get(index));
        if let Some(link) = link
            && (link.waiting() < PASSED_ON || matches!(command, Command::Closed { .. }))
            && link.commands.try_send(command).is_ok()
        {
            link.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        self.links().for_each(Link::wake);
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.first).chain(self.others.iter())
    }

    /// Lets this hold from now on.
    pub(in crate::server) async fn change(&self, change: Change) {
        for link in self.links() {
            link.tell(Command::Change(Box::new(change.clone()))).await;
        }
    }

    /// Sends away whoever wants a new allocation.
    pub(in crate::server) async fn drain(&self, alternates: Alternates) {
        for link in self.links() {
            link.tell(Command::Drain(alternates)).await;
        }
    }

    /// What all shards have counted; a shard that has stopped has counted nothing.
    pub(in crate::server) async fn stats(&self) -> Stats {
        let mut answers = Vec::new();
        for link in self.links() {
            let (sender, stats) = oneshot::channel();
            link.tell(Command::Count(sender)).await;
            answers.push(stats);
        }
        let mut sum = Stats::default();
        for stats in answers {
            sum.add(&stats.await.unwrap_or_default());
        }
        sum
    }
}
