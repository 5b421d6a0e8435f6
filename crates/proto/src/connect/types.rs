//! What a connector is told, and what it says.

use std::net::SocketAddr;

use postern_wire::signal::{Code, Fingerprint, PeerMessage, Report};
use postern_wire::turn::ChannelNumber;

use super::explanation::Explanation;
use super::relays::{LinkId, Relay, RelayTransport, RelayTransports};
use super::tried::Tried;
use crate::ice::Path;
use crate::ice::tcp::TcpAction;
use crate::punch::{Technique, Techniques};
use crate::{Transmit, signal};

/// What a [`Connector`](super::Connector) has to know.
#[derive(Debug, Clone)]
pub struct ConnectorConfig {
    /// Whether this side made the code: it opens the connection and its paths.
    pub is_creator: bool,
    /// The hash of the certificate that this side shows in QUIC.
    pub fingerprint: Fingerprint,
    /// The addresses of this side's sockets, the preferred one first.
    pub hosts: Vec<SocketAddr>,
    /// The ports that this side listens on for TCP, with the addresses of the machine; none where it
    /// is not to be used for direct paths.
    pub tcp_hosts: Vec<SocketAddr>,
    /// Whether loopback addresses may be used.
    pub allow_loopback: bool,
    /// Which paths may be used.
    pub policy: PathPolicy,
    /// How relays may be reached.
    pub relay_transports: RelayTransports,
    /// Whether to punch through NATs that plain checks do not pass ([`crate::punch`]). The
    /// driver must then be able to open sockets.
    pub punch: bool,
    /// STUN servers to ask besides those that the server names.
    pub stun: Vec<SocketAddr>,
    /// What is not to be used. Without [relays](crate::punch::Technique::Relay) the policy is
    /// [`PathPolicy::DirectOnly`]; without [IPv6](crate::punch::Technique::Ipv6) direct paths are
    /// over IPv4.
    pub disabled: Techniques,
}

impl ConnectorConfig {
    /// Policy and switches: no relay is wanted either way.
    pub(super) fn limits(&self) -> (PathPolicy, Techniques) {
        let mut disabled = self.disabled;
        if self.policy == PathPolicy::DirectOnly {
            disabled.insert(Technique::Relay);
        }
        match disabled.contains(Technique::Relay) {
            true => (PathPolicy::DirectOnly, disabled),
            false => (self.policy, disabled),
        }
    }
}

/// Which paths a connection may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathPolicy {
    /// Direct ones where possible, relayed ones until then.
    #[default]
    Any,
    /// Direct ones only: no relay learns who speaks with whom.
    DirectOnly,
    /// Relayed ones only: the peer does not learn this side's addresses.
    RelayOnly,
}

/// What to do, or what happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Send this to the other side through the rendezvous.
    Tell(PeerMessage),
    /// Send this to the other side over the connection.
    TellDirectly(PeerMessage),
    /// Meet the other side again at the server, by a secret that both sides have from the
    /// connection. What happens there goes to [`handle_signal`](super::Connector::handle_signal)
    /// as the first time, and that it is over or cannot be to
    /// [`handle_signalling_lost`](super::Connector::handle_signalling_lost).
    MeetAgain,
    /// The code is there, to be shown.
    CodeReady(Code),
    /// Packets of the connection may pass on this path from now on.
    Admit(Path),
    /// What arrives at this address of ours from `source` belongs to the path to `remote`, now or when it
    /// is admitted ([`ice::Event::Heard`](crate::ice::Event::Heard)).
    Heard {
        /// Our address.
        local: SocketAddr,
        /// Where the path sends to.
        remote: SocketAddr,
        /// Where it hears from.
        source: SocketAddr,
    },
    /// Nothing may pass on this path any more.
    Revoke(Path),
    /// The peer is known: incoming handshakes that show this certificate are welcome. Comes
    /// once, on the side that did not make the code.
    Accept(Fingerprint),
    /// Open the connection to whoever shows this certificate on this path, instead of any
    /// handshake that is under way. Comes only on the side that made the code.
    Connect {
        /// The path.
        path: Path,
        /// The certificate that the peer must show.
        peer: Fingerprint,
    },
    /// Add this path to the connection; tell [`handle_path_opened`](super::Connector::handle_path_opened).
    OpenPath(Path),
    /// This path carries the connection: close the others.
    SettleOn(Path),
    /// Open a way to a TURN server, and tell [`handle_link_opened`](super::Connector::handle_link_opened)
    /// or [`handle_link_closed`](super::Connector::handle_link_closed). A link of datagrams
    /// has a port of its own: a server tells allocations apart by that (RFC 8656 section 5).
    OpenLink {
        /// Its name.
        link: LinkId,
        /// What it is to be.
        transport: RelayTransport,
        /// Where to.
        server: SocketAddr,
    },
    /// The link is not needed any more: close it when what was to be sent has left.
    CloseLink(LinkId),
    /// This side can be reached at a relayed address: what comes from the server in a
    /// channel comes from a peer.
    Relay(Relay),
    /// Data to and from this peer of a relayed address is framed with the channel, or, with
    /// none, handed to [`handle_relay_data`](super::Connector::handle_relay_data).
    RelayChannel {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The channel.
        channel: Option<ChannelNumber>,
    },
    /// A peer sent this to the relayed address, without a channel; it is not STUN.
    RelayData {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// The relayed address is gone.
    RelayEnded(SocketAddr),
    /// Say how much the connection has sent and received:
    /// [`handle_traffic`](super::Connector::handle_traffic).
    Measure,
    /// Open so many more UDP sockets on the address of `base`, each on a port of its own, and tell
    /// [`handle_sockets_opened`](super::Connector::handle_sockets_opened).
    OpenSockets {
        /// A host address.
        base: SocketAddr,
        /// How many; 0 is a request to begin.
        count: usize,
        /// For an attempt to punch, which the [`HostBudget`](crate::punch::HostBudget) must allow.
        attempt: bool,
    },
    /// Close these sockets.
    CloseSockets(Vec<SocketAddr>),
    /// The attempt is over: the budget is free.
    AttemptEnded,
    /// Send this datagram with this time to live.
    SendLimited {
        /// The datagram.
        transmit: Transmit,
        /// Its time to live.
        ttl: u8,
    },
    /// Open or close a connection, and tell what came of it:
    /// [`handle_tcp`](super::Connector::handle_tcp).
    Tcp(TcpAction),
    /// Send what was told, and leave the mailbox.
    LeaveMailbox,
    /// There is no connection, and the machine is inert. Comes last; what was told before
    /// still has to be sent.
    Failed(Failure),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The rendezvous failed.
    #[error(transparent)]
    Rendezvous(#[from] signal::Failure),
    /// The server closed the connection too early.
    #[error("the connection to the server was lost before the two sides were connected")]
    ServerLost,
    /// The peer left too early.
    #[error("the other side went away before a connection was made")]
    PeerLeft,
    /// The peer knew the code, and then said nothing.
    #[error("the other side knows the code, but did not say how to reach it")]
    PeerSilent,
    /// The two networks let no direct path through.
    #[error("no direct path was found")]
    NoPath {
        /// What this side saw.
        ours: Report,
        /// What the peer saw, if it said so.
        theirs: Option<Report>,
        /// Why there is no relayed one either.
        relay: NoRelay,
        /// Whether this side looked for a direct one: it has addresses, and may use them.
        looked: bool,
        /// What was tried, and why none of it worked.
        explanation: Box<Explanation>,
    },
    /// Paths work, but no handshake succeeded on any of them.
    #[error("a path was found, but no encrypted connection could be made over it")]
    Handshake,
}

/// Why there is no relayed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRelay {
    /// The server offered none.
    NotOffered,
    /// This side allows direct paths only.
    NotWanted,
    /// The relay did not work: what came of each way to it.
    Failed(Tried),
}
