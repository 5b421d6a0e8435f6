//! Who takes part: two peers with ICE agents, and the STUN server.

use crate::sim::random::Stream;
use crate::sim::runner::Machine;
use postern_proto::ice::{Agent, Candidate, Credentials, Event, Path};
use postern_proto::punch;
use postern_proto::stun::BindingServer;
use postern_proto::{Datagram, Transmit, Verdict};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

/// The first port of those that systems choose.
const EPHEMERAL: u16 = 32_768;

/// A machine of the scenario.
#[derive(Debug)]
pub enum Party {
    /// One of the two who want to meet.
    Peer(Box<Peer>),
    /// The STUN server.
    Server(BindingServer),
}

/// A peer: an ICE agent, and data on the path that it has selected.
#[derive(Debug)]
pub struct Peer {
    agent: Agent,
    transmits: VecDeque<Transmit>,
    limited: VecDeque<(Transmit, u8)>,
    events: VecDeque<PartyEvent>,
    /// Chooses the ports of sockets that the agent asks for.
    random: Stream,
}

/// What a peer reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartyEvent {
    /// The agent says so.
    Ice(Event),
    /// Data arrived.
    Data {
        /// Where.
        local: SocketAddr,
        /// From whom.
        remote: SocketAddr,
    },
}

/// What a peer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartySignal {
    /// The other side's credentials.
    Credentials(Credentials),
    /// A candidate of the other side.
    Candidate(Candidate),
    /// The other side has no more candidates.
    EndOfCandidates,
    /// What the other side's puncher has told.
    Punch(punch::Message),
    /// Send data on the selected path; nothing happens without one.
    SendData,
}

impl Peer {
    pub(super) fn new(
        now: Instant,
        mut agent: Agent,
        endpoints: &[SocketAddr],
        stun: &[SocketAddr],
        random: Stream,
    ) -> Self {
        for &endpoint in endpoints {
            agent.add_host(now, endpoint);
        }
        for &server in stun {
            agent.add_stun_server(now, server);
        }
        agent.end_of_hosts(now);
        let mut peer = Self {
            agent,
            transmits: VecDeque::new(),
            limited: VecDeque::new(),
            events: VecDeque::new(),
            random,
        };
        peer.follow(now);
        peer
    }

    /// Takes what the agent says, and gives it the sockets that it asks for.
    fn follow(&mut self, now: Instant) {
        while let Some(event) = self.agent.poll_event() {
            if let Event::OpenSockets { base, count, .. } = event {
                let sockets = (0..count).map(|_| self.socket(base)).collect();
                self.agent.sockets_opened(now, Some(sockets));
            } else if let Event::SendLimited { transmit, ttl } = event {
                self.limited.push_back((transmit, ttl));
            } else {
                self.events.push_back(PartyEvent::Ice(event));
            }
        }
    }

    fn socket(&mut self, base: SocketAddr) -> SocketAddr {
        let port = EPHEMERAL + self.random.below(u64::from(u16::MAX - EPHEMERAL) + 1) as u16;
        SocketAddr::new(base.ip(), port)
    }

    /// The agent.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let verdict = self.agent.handle_input(now, datagram);
        self.follow(now);
        if verdict == Verdict::NotMine && datagram.payload == DATA {
            self.events.push_back(PartyEvent::Data {
                local: datagram.local,
                remote: datagram.remote,
            });
            return Verdict::Consumed;
        }
        verdict
    }

    fn handle_signal(&mut self, now: Instant, signal: PartySignal) {
        match signal {
            PartySignal::Credentials(peer) => self.agent.set_remote_credentials(now, peer),
            PartySignal::Candidate(candidate) => self.agent.add_remote_candidate(now, candidate),
            PartySignal::EndOfCandidates => self.agent.end_of_remote_candidates(now),
            PartySignal::Punch(message) => self.agent.handle_punch(now, message),
            PartySignal::SendData => self.transmits.extend(self.agent.selected().map(data)),
        }
        self.follow(now);
    }
}

impl Machine for Party {
    type Event = PartyEvent;
    type Signal = PartySignal;

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        match self {
            Self::Peer(peer) => peer.handle_input(now, datagram),
            Self::Server(server) => server.handle_input(now, datagram),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Self::Peer(peer) = self {
            peer.agent.handle_timeout(now);
            peer.follow(now);
        }
    }

    fn handle_signal(&mut self, now: Instant, signal: PartySignal) {
        if let Self::Peer(peer) = self {
            peer.handle_signal(now, signal);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Peer(peer) => {
                let data = peer.transmits.pop_front();
                data.or_else(|| peer.agent.poll_transmit())
            }
            Self::Server(server) => server.poll_transmit(),
        }
    }

    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        match self {
            Self::Peer(peer) => peer.limited.pop_front(),
            Self::Server(_) => None,
        }
    }

    fn poll_event(&mut self) -> Option<PartyEvent> {
        match self {
            Self::Peer(peer) => peer.events.pop_front(),
            Self::Server(_) => None,
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Peer(peer) => peer.agent.poll_timeout(),
            Self::Server(_) => None,
        }
    }
}

/// First byte in the range of QUIC (RFC 9443), so that no agent takes it for STUN.
const DATA: &[u8] = b"@data";

fn data(path: Path) -> Transmit {
    Transmit {
        local: path.local,
        remote: path.remote,
        payload: DATA.to_vec(),
    }
}
