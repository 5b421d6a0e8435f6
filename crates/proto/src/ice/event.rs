//! What the agent tells its user.

use std::net::SocketAddr;
use std::time::Duration;

use super::candidate::{Candidate, CandidateKind};
use super::pair::Path;
use crate::{Transmit, punch};

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A candidate to signal to the peer (RFC 8838). A changed mapping makes a new one, even
    /// after [`EndOfLocalCandidates`](Self::EndOfLocalCandidates).
    LocalCandidate(Candidate),
    /// All hosts and STUN servers have been dealt with; signal it. Comes once.
    EndOfLocalCandidates,
    /// An authenticated check has arrived on this path, so data from there comes from the
    /// peer. Comes once a path, perhaps before the remote credentials are known.
    PeerSeen(Path),
    /// Look this multicast DNS name up (RFC 6762) and tell
    /// [`Agent::name_resolved`](super::Agent::name_resolved). Who does not, loses that candidate.
    ResolveName(String),
    /// A check has succeeded: the path carries data both ways. The first one may be used at
    /// once.
    Valid {
        /// The path.
        path: Path,
        /// The round trip; unknown when the check had to be retransmitted.
        rtt: Option<Duration>,
    },
    /// The controlling side has nominated this path. It comes again when a direct path takes the
    /// place of a relayed one, and when a peer nominates more than once: use the latest.
    Selected(Path),
    /// Consent on this path has ended, or its nomination got no answer: send nothing there.
    ///
    /// After the loss of the selected path the agent checks all pairs again, and
    /// [`Valid`](Self::Valid) or [`Failed`](Self::Failed) follows.
    Lost(Path),
    /// Open so many more UDP sockets on the address of `base`, each on a port of its own, and call
    /// [`Agent::sockets_opened`](super::Agent::sockets_opened). With a count of 0 it is a request
    /// to begin. Comes with [`Config::punch`](super::Config::punch) only, as do the four below.
    OpenSockets {
        /// A host candidate.
        base: SocketAddr,
        /// How many, at most [`MAX_SOCKETS`](crate::punch::MAX_SOCKETS).
        count: usize,
        /// For an attempt, which the host's [`HostBudget`](crate::punch::HostBudget) must allow;
        /// otherwise for a look at the NAT.
        attempt: bool,
    },
    /// Send this datagram with this time to live: it opens a mapping of ours and is not to arrive.
    SendLimited {
        /// The datagram.
        transmit: Transmit,
        /// Its time to live, 2 to 4.
        ttl: u8,
    },
    /// Close these sockets, which were opened on request.
    CloseSockets(Vec<SocketAddr>),
    /// The attempt that [`OpenSockets`](Self::OpenSockets) announced is over: the host's budget
    /// is free.
    AttemptEnded,
    /// What arrives at this base from `source` is the peer's and belongs to the path to `remote`: both
    /// NATs have a port for each direction. Data from there counts as from `remote`, as
    /// checks do. It comes before the path is told of.
    Heard {
        /// The base.
        local: SocketAddr,
        /// Where the path sends to.
        remote: SocketAddr,
        /// Where it hears from: the same host, another port.
        source: SocketAddr,
    },
    /// Tell the peer's agent, in order: [`Agent::handle_punch`](super::Agent::handle_punch).
    TellPeer(punch::Message),
    /// No pair works. The agent neither sends nor answers from here on.
    Failed(Report),
}

/// What was tried and seen: the material for telling people why there is no path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Our candidates.
    pub local: Kinds,
    /// The peer's candidates, signalled and learnt from checks.
    pub remote: Kinds,
    /// STUN servers asked.
    pub stun_servers: usize,
    /// STUN servers that answered at least once. None of several: UDP is probably blocked.
    pub stun_servers_answered: usize,
    /// Our addresses for TCP, which are no part of `local`.
    pub tcp_hosts: usize,
    /// Checks sent, without retransmissions and consent checks.
    pub checks_sent: u64,
    /// Checks that the peer answered with success.
    pub checks_answered: u64,
    /// Checks that were answered with an error other than a role conflict.
    pub checks_refused: u64,
    /// Authenticated checks that arrived from the peer, with retransmissions.
    pub checks_received: u64,
    /// Checks that arrived for us with wrong credentials or malformed.
    pub checks_rejected: u64,
    /// Our NAT maps endpoint-dependently: the peer saw an address that no STUN server saw, or
    /// two servers saw different ones.
    pub local_endpoint_dependent: bool,
    /// A check of the peer came from an address that it has not signalled: its NAT
    /// probably maps endpoint-dependently, unless the candidate is still under way.
    pub remote_unsignalled: bool,
    /// The remote credentials are known.
    pub has_remote_credentials: bool,
    /// The peer has said that it has no more candidates.
    pub remote_ended: bool,
}

/// How many candidates of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds {
    /// Addresses of interfaces.
    pub host: usize,
    /// Addresses that STUN servers saw.
    pub server_reflexive: usize,
    /// Addresses that checks revealed.
    pub peer_reflexive: usize,
    /// Addresses at TURN servers.
    pub relayed: usize,
}

impl Report {
    /// Whether either side had a relayed candidate.
    #[must_use]
    pub const fn had_relay(&self) -> bool {
        self.local.relayed > 0 || self.remote.relayed > 0
    }
}

impl FromIterator<CandidateKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = CandidateKind>>(kinds: I) -> Self {
        let mut counts = Self::default();
        for kind in kinds {
            let count = counts.of(kind);
            *count = count.saturating_add(1);
        }
        counts
    }
}

impl Kinds {
    fn of(&mut self, kind: CandidateKind) -> &mut usize {
        match kind {
            CandidateKind::Host => &mut self.host,
            CandidateKind::ServerReflexive => &mut self.server_reflexive,
            CandidateKind::PeerReflexive => &mut self.peer_reflexive,
            CandidateKind::Relayed => &mut self.relayed,
        }
    }
}
