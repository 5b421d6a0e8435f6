//! Who takes part: two peers, the STUN server, the relay, and perhaps a proxy.

use super::peer::Peer;
use super::proxy::Proxy;
use super::relay::Relay;
use crate::sim::runner::Machine;
use crate::sim::tcp::{TcpCall, TcpEvent};
use postern_proto::ice::{Candidate, Credentials, Event};
use postern_proto::punch;
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
    Server(Box<StunServer>),
    /// The TURN server.
    Relay(Box<Relay>),
    /// A home's HTTP proxy.
    Proxy(Box<Proxy>),
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

/// A STUN server, over UDP and at one address over TCP, too.
#[derive(Debug)]
pub struct StunServer {
    server: BindingServer,
    calls: VecDeque<TcpCall>,
    tcp: SocketAddr,
}

impl StunServer {
    pub(super) fn new(tcp: SocketAddr) -> Self {
        Self {
            server: BindingServer::new(),
            calls: VecDeque::from([TcpCall::Listen(tcp)]),
            tcp,
        }
    }

    fn handle_tcp(&mut self, now: Instant, remote: SocketAddr, event: &TcpEvent) {
        let TcpEvent::Message(payload) = event else {
            return;
        };
        let local = self.tcp;
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        self.server.handle_input(now, datagram);
        while let Some(out) = self.server.poll_transmit() {
            let call = TcpCall::Send(local, remote, out.payload);
            self.calls.push_back(call);
        }
    }
}

impl Machine for Party {
    type Event = PartyEvent;
    type Signal = PartySignal;

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        match self {
            Self::Peer(peer) => peer.handle_input(now, datagram),
            Self::Server(stun) => stun.server.handle_input(now, datagram),
            Self::Relay(relay) => relay.handle_input(now, datagram),
            Self::Proxy(_) => Verdict::NotMine,
        }
    }

    fn handle_tcp(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        event: &TcpEvent,
    ) -> Verdict {
        match self {
            Self::Peer(peer) => peer.handle_tcp(now, local, remote, event),
            Self::Server(stun) if local == stun.tcp => {
                stun.handle_tcp(now, remote, event);
                Verdict::Consumed
            }
            Self::Server(_) => Verdict::NotMine,
            Self::Relay(relay) => relay.handle_tcp(now, local, remote, event),
            Self::Proxy(proxy) => proxy.handle_tcp((local, remote), event),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Peer(peer) => peer.handle_timeout(now),
            Self::Relay(relay) => relay.handle_timeout(now),
            Self::Server(_) | Self::Proxy(_) => {}
        }
    }

    fn handle_signal(&mut self, now: Instant, signal: PartySignal) {
        if let Self::Peer(peer) = self {
            peer.handle_signal(now, signal);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Peer(peer) => peer.poll_transmit(),
            Self::Server(stun) => stun.server.poll_transmit(),
            Self::Relay(relay) => relay.poll_transmit(),
            Self::Proxy(_) => None,
        }
    }

    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        match self {
            Self::Peer(peer) => peer.poll_limited(),
            Self::Server(_) | Self::Relay(_) | Self::Proxy(_) => None,
        }
    }

    fn poll_event(&mut self) -> Option<PartyEvent> {
        match self {
            Self::Peer(peer) => peer.poll_event(),
            Self::Server(_) | Self::Relay(_) | Self::Proxy(_) => None,
        }
    }

    fn poll_tcp(&mut self) -> Option<TcpCall> {
        match self {
            Self::Peer(peer) => peer.poll_tcp(),
            Self::Server(stun) => stun.calls.pop_front(),
            Self::Relay(relay) => relay.poll_tcp(),
            Self::Proxy(proxy) => proxy.poll_tcp(),
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Peer(peer) => peer.poll_timeout(),
            Self::Relay(relay) => relay.poll_timeout(),
            Self::Server(_) | Self::Proxy(_) => None,
        }
    }
}
