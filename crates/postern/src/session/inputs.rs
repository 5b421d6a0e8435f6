//! What the session waited for, handed to the connector.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use noq::{ConnectionError, PathEvent};
use postern_proto::Datagram;
use postern_proto::connect::LinkId;
use postern_proto::ice::tcp::{TcpEnds, TcpEvent};
use postern_proto::signal::RendezvousEvent;
use postern_wire::transport::Transport;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{EstablishError, Established, LATE_QUEUE, Session};
use crate::aside::{Aside, Said};
use crate::clock;
use crate::connection::{Connection, PathFollower};
use crate::explain::Explanation;
use crate::mapped::Mapped;
use crate::net::{AddressPair, Late, LinkInput, Opened, StunDatagram, Train};
use crate::quic;
use crate::rendezvous::{Signalling, SignallingError};
use crate::tcp::{self, TcpNews};

/// Handshakes that a peer may have under way at a time: it tries one path after the
/// other, and some of them may still be on their way.
const MAX_HANDSHAKES: usize = 4;

impl Session {
    pub(super) fn on_signal(&mut self, event: Option<RendezvousEvent>) {
        let now = clock::now();
        match event {
            Some(event) => {
                if event == RendezvousEvent::Authenticated {
                    self.authenticated = now;
                }
                self.connector.handle_signal(now, event);
            }
            None => {
                self.signals = None;
                self.connector.handle_signalling_lost(now);
            }
        }
    }

    /// The peer can be told something at the server again, or it cannot.
    pub(super) fn on_met(&mut self, met: Result<Signalling, SignallingError>) {
        self.meeting = None;
        match met {
            Ok(signalling) => {
                self.outgoing = Some(signalling.outgoing);
                self.signals = Some(signalling.events);
            }
            Err(error) => {
                tracing::debug!(%error, "the other side cannot be met again");
                self.connector.handle_signalling_lost(clock::now());
            }
        }
    }

    pub(super) fn on_said(&mut self, said: Said) {
        match said {
            Said::Message(message) => self.connector.handle_told(clock::now(), message),
            Said::Late(datagram) => self.on_late(&datagram),
        }
    }

    /// A datagram came late by another path than its own: QUIC is told that it came on its own, as
    /// on each that it may be. Of one that was lost while it was being opened the peer alone may think
    /// that it stands.
    fn on_late(&self, datagram: &Bytes) {
        let Some(established) = &self.established else {
            return;
        };
        let mut paths = self.shared.paths().lost_by(self.inbox.id);
        for older in established.follower.older() {
            if !paths.contains(&older) {
                paths.push(older);
            }
        }
        for (address, path) in paths {
            let train = Train {
                address: Some(address),
                ..Train::of(path, datagram.clone())
            };
            self.shared.inlets().try_inject(train);
        }
    }

    /// The path of this datagram is lost: the peer gets it by another one, as soon as there is one. The
    /// latest says most.
    pub(super) fn carry(&mut self, late: Late) {
        let Some(established) = &mut self.established else {
            return;
        };
        let (address, datagram) = &late;
        let follower = &established.follower;
        let is_older = follower.older().any(|(older, _)| older == *address);
        if !is_older {
            return;
        }
        if follower.is_alive() && established.to_carry > 0 {
            established.to_carry -= 1;
            established.aside.say(Said::Late(datagram.clone()));
        } else {
            established.held = Some(late);
        }
    }

    pub(super) fn on_addresses(&mut self) {
        let hosts = self.hosts.borrow_and_update().clone();
        self.connector.handle_addresses(clock::now(), &hosts);
    }

    pub(super) fn on_nat64(&mut self) {
        let prefix = self.nat64.borrow_and_update().prefix();
        self.connector.set_nat64_prefix(clock::now(), prefix);
    }

    pub(super) fn on_stun(&mut self, datagram: &StunDatagram) {
        let AddressPair { local, remote } = datagram.pair;
        let payload = &datagram.payload;
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        self.connector.handle_input(clock::now(), datagram);
    }

    pub(super) fn on_mapped(&mut self, transport: Transport, mapped: Mapped) {
        let mapping = match mapped {
            Mapped::Pending => return,
            Mapped::At { base, external } => Some((base, external)),
            Mapped::Nowhere => None,
        };
        self.connector
            .handle_mapping(clock::now(), transport, mapping);
    }

    pub(super) fn on_dialled(&mut self, link: LinkId, opened: io::Result<Opened>) {
        let now = clock::now();
        match self.links.opened(link, opened, self.shared.inlets()) {
            Ok(Some(local)) => self.connector.handle_link_opened(now, link, local),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a relay cannot be reached");
                self.connector.handle_link_closed(now, link);
            }
        }
    }

    pub(super) fn on_link_input(&mut self, input: LinkInput) {
        let now = clock::now();
        match input {
            LinkInput::Message(link, payload) => {
                self.connector.handle_link_input(now, link, &payload);
            }
            LinkInput::Closed(link) => {
                self.links.close(link);
                self.connector.handle_link_closed(now, link);
            }
        }
    }

    pub(super) fn on_tcp(&mut self, news: TcpNews) {
        match news {
            TcpNews::Accepted(ends, stream) => {
                self.on_tcp_open(ends, TcpEvent::Accepted, stream, true);
            }
            TcpNews::Dialled(ends, framed, Ok(stream)) => {
                self.on_tcp_open(ends, TcpEvent::Connected, stream, framed);
            }
            TcpNews::Dialled(ends, _, Err(error)) => {
                tracing::debug!(%error, "a connection could not be opened");
                self.connector
                    .handle_tcp(clock::now(), ends, tcp::failure(&error));
            }
            TcpNews::Listening(host) => self.connector.add_tcp_host(clock::now(), host),
            TcpNews::Ended(base) => {
                if let Some(ends) = self.tcp.end(base) {
                    self.connector
                        .handle_tcp(clock::now(), ends, TcpEvent::Closed);
                }
            }
        }
    }

    /// A connection without a base is not wanted: it is closed by being dropped.
    fn on_tcp_open(&mut self, ends: TcpEnds, event: TcpEvent, stream: TcpStream, framed: bool) {
        if let Some(base) = self.connector.handle_tcp(clock::now(), ends, event) {
            self.tcp.begin(ends, base, stream, framed);
        }
    }

    pub(super) fn on_incoming(&mut self, incoming: noq::Incoming) -> Result<(), EstablishError> {
        let wanted = !self.is_creator && self.established.is_none();
        if !wanted || self.handshakes.len() >= MAX_HANDSHAKES {
            incoming.ignore();
            return Ok(());
        }
        let Some(peer) = self.accept else {
            self.early = Some(incoming);
            return Ok(());
        };
        let round_trip = self.connector.round_trip();
        let config = quic::server_config(self.shared.identity(), peer, round_trip)?;
        match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => self.handshakes.push(Box::pin(connecting)),
            Err(error) => tracing::debug!(%error, "an incoming handshake was dropped"),
        }
        Ok(())
    }

    pub(super) fn on_handshake(&mut self, result: Result<noq::Connection, ConnectionError>) {
        let now = clock::now();
        match result {
            Ok(quic) => self.on_connected(quic),
            Err(error) => {
                tracing::debug!(%error, "a handshake failed");
                let is_final = !is_silence(&error);
                self.connector.handle_handshake_failed(now, is_final);
            }
        }
    }

    fn on_connected(&mut self, quic: noq::Connection) {
        let table = self.shared.paths().clone();
        let events = quic.path_events();
        let Some((follower, path)) = PathFollower::begin(&quic, table, self.authenticated) else {
            let now = clock::now();
            return self.connector.handle_handshake_failed(now, false);
        };
        let closed = quic.on_closed();
        let (aside, ears) = Aside::begin(&quic);
        let (late_sender, late) = mpsc::channel(LATE_QUEUE);
        self.shared.paths().on_late(self.inbox.id, late_sender);
        self.connector.handle_connected(clock::now());
        if let Some(first) = follower.pair() {
            self.connector.handle_first_path(first.local, first.remote);
        }
        let explanation = self.connector.explain(clock::now());
        let (publisher, explanation) = watch::channel(Explanation::from(explanation));
        self.established = Some(Established {
            quic: quic.weak_handle(),
            aside,
            late,
            held: None,
            to_carry: 0,
            secret: quic::meeting_secret(&quic),
            follower,
            events: Box::pin(events.filter_map(async |event| event.ok())),
            closed: Box::pin(async move { drop(closed.await) }),
            explanation: publisher,
        });
        self.handshakes.clear();
        self.attempt = None;
        if let Some(listener) = self.listener.take() {
            let connection = Connection::new(quic, path, explanation, self.is_creator, ears);
            let _ = listener.outcome.send(Ok(connection));
        }
    }

    pub(super) fn on_path_event(&mut self, event: &PathEvent) {
        let Some(established) = &mut self.established else {
            return;
        };
        if let Some(lost) = established.follower.on_event(event) {
            self.connector
                .handle_path_abandoned(lost.local, lost.remote);
        }
        if matches!(event, PathEvent::Established { .. }) {
            self.nudge();
        }
        self.explain();
    }
}

/// Whether the peer did not answer, so that another path may help.
fn is_silence(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::LocallyClosed
    )
}
