//! What the agent says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::signal::PeerMessage;

use super::connector::{Connector, Stage};
use super::paths::same;
use super::punching;
use super::summary;
use super::types::{Event, PathPolicy};
use crate::Transmit;
use crate::ice::{self, Candidate, Path};

/// Paths of the peer's checks that are remembered: more than it has under way at once is rare, and
/// without one an explanation is late, no more.
const MAX_SEEN: usize = 16;

/// What the agent says.
impl Connector {
    pub(super) fn follow(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.agent.poll_event() {
                self.on_agent_event(now, event);
            }
            self.follow_tcp();
            while let Some(transmit) = self.agent.poll_transmit() {
                self.route(now, transmit);
            }
            while let Some(output) = self.relays.poll_output() {
                self.outputs.push_back(output);
            }
            match self.relays.poll_event(now) {
                Some(event) => self.on_relay_event(now, event),
                None => break,
            }
        }
        self.run_reunion(now);
    }

    /// A check from a relayed address goes through the relay.
    pub(super) fn route(&mut self, now: Instant, transmit: Transmit) {
        let Transmit {
            local,
            remote,
            payload,
        } = transmit;
        if self.relays.has(local) {
            self.relays.send(now, local, remote, &payload);
        } else {
            self.transmits.push_back(Transmit {
                local,
                remote,
                payload,
            });
        }
    }

    pub(super) fn on_agent_event(&mut self, now: Instant, event: ice::Event) {
        match event {
            ice::Event::LocalCandidate(candidate) => {
                self.remember(&candidate);
                self.tell_candidate(candidate);
                // The network is back, or another one.
                self.hasten_reunion(now);
            }
            ice::Event::EndOfLocalCandidates => self.on_end_of_local_candidates(),
            ice::Event::PeerSeen(path) => self.on_seen(path),
            ice::Event::Heard {
                local,
                remote,
                source,
            } => self.events.push_back(Event::Heard {
                local,
                remote,
                source,
            }),
            ice::Event::Valid { path, rtt } => self.on_valid(now, path, rtt),
            ice::Event::Selected(path) => self.on_selected(now, path),
            ice::Event::Lost(path) => self.on_lost(now, path),
            ice::Event::Failed(report) => self.on_failed(now, report),
            // Peers of ours tell addresses.
            ice::Event::ResolveName(_) => {}
            ice::Event::TellPeer(message) => self.tell(punching::told(message)),
            ice::Event::OpenSockets {
                base,
                count,
                attempt,
            } => self.events.push_back(Event::OpenSockets {
                base,
                count,
                attempt,
            }),
            ice::Event::CloseSockets(sockets) => {
                let of = |own: &Candidate, socket: &SocketAddr| {
                    own.address == *socket || own.related == Some(*socket)
                };
                self.own
                    .retain(|own| !sockets.iter().any(|socket| of(own, socket)));
                self.events.push_back(Event::CloseSockets(sockets));
            }
            ice::Event::AttemptEnded => self.events.push_back(Event::AttemptEnded),
            ice::Event::SendLimited { transmit, ttl } => {
                self.events.push_back(Event::SendLimited { transmit, ttl });
            }
        }
    }

    /// The peer may send its handshake by this path.
    fn on_seen(&mut self, path: Path) {
        self.events.push_back(Event::Admit(path));
        let known = self.seen.iter().any(|known| same(*known, path));
        if !known && self.seen.len() < MAX_SEEN && self.stage == Stage::Connecting {
            self.seen.push(path);
        }
    }

    /// Who uses the relay only does not want the address behind it known (RFC 8839 section
    /// 5.1 allows 0.0.0.0 and port 9 in its place).
    pub(super) fn tell_candidate(&mut self, mut candidate: Candidate) {
        if self.policy == PathPolicy::RelayOnly {
            candidate.related = candidate.related.map(hidden);
        }
        self.tell(PeerMessage::Candidate {
            mapped: self.is_mapped(&candidate),
            candidate: candidate.to_string(),
        });
    }

    pub(super) fn on_valid(&mut self, now: Instant, path: Path, rtt: Option<Duration>) {
        self.events.push_back(Event::Admit(path));
        self.relays.keep(path.local);
        if !self.valid.iter().any(|known| same(*known, path)) {
            self.valid.push(path);
        }
        match self.stage {
            Stage::Connecting if self.handshake.is_none() => {
                self.round_trip = rtt.unwrap_or(self.round_trip);
                self.shake_hands(now, path);
            }
            Stage::Established => {
                self.recover();
                self.leave_relay(path);
            }
            Stage::Connecting | Stage::Ended => {}
        }
    }

    pub(super) fn on_selected(&mut self, now: Instant, path: Path) {
        self.events.push_back(Event::Admit(path));
        if !self.is_overtaken(path) {
            self.want(path);
        }
        self.leave_if_done(now);
    }

    pub(super) fn on_lost(&mut self, now: Instant, path: Path) {
        self.events.push_back(Event::Revoke(path));
        self.valid.retain(|known| !same(*known, path));
        if self.stage == Stage::Established {
            self.relays.doubt(now);
        }
        self.paths.lose(path.local, path.remote);
        self.recover();
        if self
            .handshake
            .is_some_and(|handshake| same(handshake.path, path))
        {
            self.try_next_path(now);
        }
    }

    /// The checks have failed. On a standing connection QUIC notices by itself.
    pub(super) fn on_failed(&mut self, now: Instant, report: ice::Report) {
        if self.stage != Stage::Connecting {
            return;
        }
        self.tell(PeerMessage::Report(summary(&report)));
        self.report = Some(report);
        self.await_report(now, self.peer_report.is_some());
    }
}

/// The unspecified address of the same family, and the discard port.
fn hidden(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 9)
}
