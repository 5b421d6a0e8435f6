//! Who takes part: two peers with ICE agents, and the STUN server.

use crate::sim::runner::Machine;
use postern_proto::ice::{Agent, Candidate, Credentials, Event, Path};
use postern_proto::stun::BindingServer;
use postern_proto::{Datagram, Transmit, Verdict};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

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
    events: VecDeque<PartyEvent>,
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
    /// Send data on the selected path; nothing happens without one.
    SendData,
}

impl Peer {
    pub(super) fn new(
        now: Instant,
        mut agent: Agent,
        endpoints: &[SocketAddr],
        stun: &[SocketAddr],
    ) -> Self {
        for &endpoint in endpoints {
            agent.add_host(now, endpoint);
        }
        for &server in stun {
            agent.add_stun_server(now, server);
        }
        agent.end_of_hosts(now);
        Self {
            agent,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The agent.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let verdict = self.agent.handle_input(now, datagram);
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
            PartySignal::SendData => self.transmits.extend(self.agent.selected().map(data)),
        }
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

    fn poll_event(&mut self) -> Option<PartyEvent> {
        match self {
            Self::Peer(peer) => {
                let event = peer.events.pop_front();
                event.or_else(|| peer.agent.poll_event().map(PartyEvent::Ice))
            }
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
