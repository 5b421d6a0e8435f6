//! What the agent knows about TCP: its ports, the peer's candidates, attempts, connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{
    MAX_REMOTE_TCP_CANDIDATES, MAX_TCP_CONNECTIONS, MAX_TCP_HOSTS, TcpAction, TcpEnds, TcpType,
};
use crate::ice::after;
use crate::ice::candidate::{
    COMPONENT, Candidate, CandidateKind, is_usable, tcp_priority, unscoped,
};
use crate::ice::config::{MAX_REMOTE_PEER_REFLEXIVE, MAX_STUN_SERVERS};
use crate::ice::locals::MAX_ASSISTED;

/// An accepted connection on which no check has proven the peer is closed after this, so that
/// strangers do not keep the places.
const PROBATION: Duration = Duration::from_secs(10);

/// A connection that has been replaced is closed after this, so that data has time to move.
const GRACE: Duration = Duration::from_secs(5);

/// The addresses that stand for connections: `fd70:6f73:7465:7463::/64`, with a number.
pub(super) const BASES: [u16; 4] = [0xfd70, 0x6f73, 0x7465, 0x7463];

/// The port of an active candidate (RFC 6544 section 4.5).
const DISCARD: u16 = 9;

/// The candidates of a port.
const TYPES: [TcpType; 3] = [TcpType::Active, TcpType::Passive, TcpType::SimultaneousOpen];

#[derive(Debug, Default)]
pub(in crate::ice) struct Tcp {
    pub(in crate::ice) hosts: Vec<SocketAddr>,
    pub(super) servers: BTreeSet<SocketAddr>,
    remotes: Vec<Candidate>,
    learnt: usize,
    /// What STUN servers saw of each host.
    mapped: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    /// Where gateways lead to a host on request: of those that mappings had, the latest.
    assisted: Vec<(SocketAddr, SocketAddr)>,
    pub(super) attempts: BTreeMap<TcpEnds, Attempt>,
    open: BTreeMap<SocketAddr, Connection>,
    /// The number of the latest connection. The first one is random, so that two agents of a program
    /// do not give two connections one base.
    numbered: Option<u64>,
    /// When connections to the peer may be opened.
    pub(super) begin: Option<Instant>,
    /// When the next attempt may begin.
    pub(super) paced: Option<Instant>,
    pub(super) actions: VecDeque<TcpAction>,
    /// The port that gets nowhere, and when another is taken; how many have been.
    pub(super) renewal: Option<(SocketAddr, Instant)>,
    pub(super) renewals: u32,
}

/// Connections to one address of the peer, or a STUN server, from one port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) purpose: Purpose,
    pub(super) tries: u32,
    /// When to try; none while one is under way, or when no more are to be made.
    pub(super) due: Option<Instant>,
    pub(super) running: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To learn how a port is mapped.
    Gather,
    /// To an address of the peer's own network, or to a port that its gateway leads to it: it
    /// listens already.
    Listening,
    /// To where the peer's NAT maps it: it has to send first.
    Punch,
}

#[derive(Debug)]
struct Connection {
    ends: TcpEnds,
    candidate: Candidate,
    /// When it is closed unless the peer has proven itself.
    probation: Option<Instant>,
    /// Whether it is closed in any case.
    retired: bool,
}

impl Tcp {
    /// Adds a port; its candidates, or none if it is unusable, known or one too many.
    pub(super) fn add_host(&mut self, address: SocketAddr, loopback: bool) -> Vec<Candidate> {
        let full = self.hosts.len() >= MAX_TCP_HOSTS;
        if full || !is_usable(address, loopback) || self.hosts.contains(&address) {
            return Vec::new();
        }
        let order = self.hosts.len();
        self.hosts.push(address);
        TYPES
            .map(|kind| self.host_candidate(address, order, kind))
            .into()
    }

    /// Forgets the peer and what STUN servers saw; the candidates of our ports and of those that
    /// gateways lead to them, for another session.
    pub(super) fn restart(&mut self) -> Vec<Candidate> {
        self.remotes.clear();
        self.learnt = 0;
        self.mapped.clear();
        self.begin = None;
        self.renewal = None;
        self.renewals = 0;
        let hosts = self.hosts.iter().enumerate();
        let all = hosts
            .flat_map(|(order, host)| TYPES.map(|kind| self.host_candidate(*host, order, kind)));
        let assisted = self.assisted.iter();
        let assisted = assisted.filter_map(|(host, mapped)| self.reflexive_at(*host, *mapped));
        all.chain(assisted).collect()
    }

    /// Notes that a gateway leads an address to a host; the candidate, unless it is known.
    pub(in crate::ice) fn assist(
        &mut self,
        host: SocketAddr,
        mapped: SocketAddr,
    ) -> Option<Candidate> {
        let candidate = self.reflexive_at(host, mapped)?;
        if self.is_assisted_at(host, mapped) || self.hosts.contains(&mapped) {
            return None;
        }
        if self.assisted.len() >= MAX_ASSISTED {
            self.assisted.remove(0);
        }
        self.assisted.push((host, mapped));
        Some(candidate)
    }

    /// No gateway leads the address here any more, where nobody else connects to.
    pub(in crate::ice) fn end_assistance(&mut self, mapped: SocketAddr) -> bool {
        self.assisted.retain(|(_, known)| *known != mapped);
        true
    }

    /// Whoever connects there arrives at a host, without its doing: it is passive.
    fn reflexive_at(&self, host: SocketAddr, mapped: SocketAddr) -> Option<Candidate> {
        let order = self.hosts.iter().position(|known| *known == host)?;
        let tcp = TcpType::Passive;
        let kind = CandidateKind::ServerReflexive;
        Some(Candidate {
            foundation: foundation('m', order, tcp),
            component: COMPONENT,
            priority: tcp_priority(kind, tcp, order),
            address: mapped,
            kind,
            related: Some(unscoped(host)),
            tcp: Some(tcp),
        })
    }

    fn is_assisted_at(&self, host: SocketAddr, mapped: SocketAddr) -> bool {
        self.assisted.contains(&(host, unscoped(mapped)))
    }

    /// Whether a gateway leads this address to the port of a connection.
    pub(in crate::ice) fn is_assisted(&self, base: SocketAddr, mapped: SocketAddr) -> bool {
        self.ends(base)
            .is_some_and(|ends| self.is_assisted_at(ends.local, mapped))
    }

    fn host_candidate(&self, host: SocketAddr, order: usize, tcp: TcpType) -> Candidate {
        let port = match tcp {
            TcpType::Active => DISCARD,
            TcpType::Passive | TcpType::SimultaneousOpen => host.port(),
        };
        Candidate {
            foundation: foundation('h', order, tcp),
            component: COMPONENT,
            priority: tcp_priority(CandidateKind::Host, tcp, order),
            address: SocketAddr::new(host.ip(), port),
            kind: CandidateKind::Host,
            related: None,
            tcp: Some(tcp),
        }
    }

    /// Notes what a STUN server saw of a connection; the new candidate, if it is one.
    pub(super) fn map(&mut self, base: SocketAddr, mapped: SocketAddr) -> Option<Candidate> {
        let TcpEnds { local, remote } = self.ends(base)?;
        let order = self.hosts.iter().position(|host| *host == local)?;
        let known = local == mapped || self.saw(local, mapped);
        self.mapped.insert((local, remote), mapped);
        let tcp = TcpType::SimultaneousOpen;
        let kind = CandidateKind::ServerReflexive;
        (!known).then(|| Candidate {
            foundation: foundation('s', order, tcp),
            component: COMPONENT,
            priority: tcp_priority(kind, tcp, order),
            address: mapped,
            kind,
            related: Some(unscoped(local)),
            tcp: Some(tcp),
        })
    }

    /// Whether connections to the peer are being opened, or are to be.
    pub(in crate::ice) fn is_trying(&self) -> bool {
        let mut attempts = self.attempts.values();
        attempts.any(|a| a.purpose != Purpose::Gather && (a.running || a.due.is_some()))
    }

    /// Begins to number connections after this one, unless it has begun.
    pub(super) fn number_from(&mut self, first: u64) {
        self.numbered.get_or_insert(first);
    }

    /// Whether this server has answered this port.
    pub(super) fn has_answered(&self, TcpEnds { local, remote }: TcpEnds) -> bool {
        self.mapped.contains_key(&(local, remote))
    }

    fn saw(&self, local: SocketAddr, mapped: SocketAddr) -> bool {
        let mut seen = self.mapped.iter();
        seen.any(|((host, _), seen)| *host == local && *seen == mapped)
    }

    /// The kind of the local candidate that the peer saw on a connection.
    pub(in crate::ice) fn kind_of(
        &self,
        base: SocketAddr,
        mapped: SocketAddr,
    ) -> Option<CandidateKind> {
        let TcpEnds { local, .. } = self.ends(base)?;
        Some(match unscoped(mapped) {
            mapped if mapped == unscoped(local) => CandidateKind::Host,
            mapped if self.saw(local, mapped) || self.is_assisted_at(local, mapped) => {
                CandidateKind::ServerReflexive
            }
            _ => CandidateKind::PeerReflexive,
        })
    }

    /// Adds a candidate of the peer; false if it is unusable, known or one too many.
    pub(super) fn add_remote(&mut self, mut candidate: Candidate, loopback: bool) -> bool {
        candidate.address = unscoped(candidate.address);
        let signalled = self.remotes.len().saturating_sub(self.learnt);
        let wanted = candidate.component == COMPONENT
            && candidate.kind != CandidateKind::Relayed
            && candidate.tcp.is_some_and(TcpType::can_be_dialled)
            && is_usable(candidate.address, loopback);
        let same = |known: &Candidate| {
            known.address == candidate.address
                && (known.tcp == candidate.tcp || known.kind == CandidateKind::PeerReflexive)
        };
        if !wanted || signalled >= MAX_REMOTE_TCP_CANDIDATES || self.remotes.iter().any(same) {
            return false;
        }
        self.remotes.push(candidate);
        true
    }

    /// Adds a peer-reflexive candidate (RFC 8445 section 7.3.1.3) unless the address is known.
    pub(in crate::ice) fn learn(
        &mut self,
        remote: SocketAddr,
        priority: u32,
        loopback: bool,
    ) -> bool {
        if self.remote(remote).is_some() {
            return true;
        }
        if self.learnt >= MAX_REMOTE_PEER_REFLEXIVE || !is_usable(remote, loopback) {
            return false;
        }
        self.learnt = self.learnt.saturating_add(1);
        self.remotes.push(Candidate {
            // "~" is not an ice-char: no signalled foundation is the same.
            foundation: format!("~t{}", self.learnt),
            component: COMPONENT,
            priority,
            address: unscoped(remote),
            kind: CandidateKind::PeerReflexive,
            related: None,
            tcp: Some(TcpType::Active),
        });
        true
    }

    pub(in crate::ice) fn remote(&self, address: SocketAddr) -> Option<&Candidate> {
        let address = unscoped(address);
        self.remotes.iter().find(|remote| remote.address == address)
    }

    pub(super) fn remotes(&self) -> impl Iterator<Item = &Candidate> {
        self.remotes.iter()
    }

    pub(super) fn add_server(&mut self, server: SocketAddr) -> bool {
        self.servers.len() < MAX_STUN_SERVERS && self.servers.insert(server)
    }

    /// The candidate that stands for a connection.
    pub(in crate::ice) fn base(&self, base: SocketAddr) -> Option<&Candidate> {
        Some(&self.open.get(&unscoped(base))?.candidate)
    }

    pub(super) fn ends(&self, base: SocketAddr) -> Option<TcpEnds> {
        Some(self.open.get(&unscoped(base))?.ends)
    }

    pub(super) fn base_of(&self, ends: TcpEnds) -> Option<SocketAddr> {
        let mut open = self.open.iter();
        open.find(|(_, c)| c.ends == ends).map(|(base, _)| *base)
    }

    pub(super) fn bases(&self) -> impl Iterator<Item = (SocketAddr, TcpEnds)> {
        self.open.iter().map(|(base, c)| (*base, c.ends))
    }

    /// Connections and attempts under way.
    fn connections(&self) -> usize {
        let running = self.attempts.values().filter(|attempt| attempt.running);
        self.open.len().saturating_add(running.count())
    }

    pub(super) fn has_room(&self) -> bool {
        self.connections() < MAX_TCP_CONNECTIONS
    }

    /// Takes a connection; what stands for it.
    pub(super) fn open(
        &mut self,
        now: Instant,
        ends: TcpEnds,
        accepted: bool,
    ) -> Option<SocketAddr> {
        let order = self.hosts.iter().position(|host| *host == ends.local)?;
        let number = self.numbered?.wrapping_add(1);
        self.numbered = Some(number);
        let [a, b, c, d] = BASES;
        let mut segments = [a, b, c, d, 0, 0, 0, 0];
        let number = number.to_be_bytes();
        let (pairs, _) = number.as_chunks::<2>();
        for (segment, pair) in segments.iter_mut().skip(4).zip(pairs) {
            *segment = u16::from_be_bytes(*pair);
        }
        let base = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(segments)), ends.local.port());
        let tcp = if accepted {
            TcpType::Passive
        } else {
            TcpType::SimultaneousOpen
        };
        let candidate = Candidate {
            foundation: foundation('h', order, tcp),
            component: COMPONENT,
            priority: tcp_priority(CandidateKind::Host, tcp, order),
            address: base,
            kind: CandidateKind::Host,
            related: None,
            tcp: Some(tcp),
        };
        let probation = accepted.then(|| after(now, PROBATION));
        let connection = Connection {
            ends,
            candidate,
            probation,
            retired: false,
        };
        self.open.insert(base, connection);
        Some(base)
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, base: SocketAddr) -> Option<TcpEnds> {
        Some(self.open.remove(&unscoped(base))?.ends)
    }

    /// A check of the peer has arrived on a connection.
    pub(in crate::ice) fn prove(&mut self, base: SocketAddr) {
        if let Some(connection) = self.open.get_mut(&unscoped(base)) {
            connection.probation = connection.probation.filter(|_| connection.retired);
        }
    }

    /// Closes all connections soon.
    pub(super) fn retire(&mut self, now: Instant) {
        for connection in self.open.values_mut().filter(|c| !c.retired) {
            connection.retired = true;
            connection.probation = Some(after(now, GRACE));
        }
    }

    /// The PRIORITY of checks on a connection (RFC 6544 section 6.2).
    pub(in crate::ice) fn check_priority(&self, base: SocketAddr) -> Option<u32> {
        let Connection {
            ends, candidate, ..
        } = self.open.get(&unscoped(base))?;
        let order = self.hosts.iter().position(|host| *host == ends.local)?;
        Some(tcp_priority(
            CandidateKind::PeerReflexive,
            candidate.tcp?,
            order,
        ))
    }

    /// The oldest connection that nobody has proven.
    pub(super) fn stranger(&self) -> Option<(SocketAddr, Instant)> {
        let on_probation = self
            .open
            .iter()
            .filter_map(|(b, c)| Some((*b, c.probation?)));
        on_probation.min_by_key(|(_, until)| *until)
    }
}

fn foundation(of: char, order: usize, tcp: TcpType) -> String {
    format!("t{of}{order}{}", tcp.as_str())
}
