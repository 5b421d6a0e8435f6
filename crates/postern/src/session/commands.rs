//! What the connector wants, done.

use std::net::SocketAddr;
use std::time::Duration;

use noq::PathStatus;
use postern_proto::Transmit;
use postern_proto::connect::{Event, Relay, Traffic};
use postern_proto::ice;
use postern_proto::signal::Role;
use postern_wire::signal::{Code, Fingerprint, PeerMessage};
use tokio::time::timeout;

use super::{EstablishError, MAX_CARRIED, Session, pair_of};
use crate::aside::Said;
use crate::clock;
use crate::explain::Explanation;
use crate::net::{AddressPair, Found, Train};
use crate::quic;

/// A path that is to be added to a connection opens within so long, or not at all.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

impl Session {
    pub(super) fn obey(&mut self, event: Event) -> Result<(), EstablishError> {
        match event {
            Event::Tell(message) => self.tell(message),
            Event::TellDirectly(message) => self.tell_directly(message),
            Event::MeetAgain => self.meet_again(),
            Event::CodeReady(code) => self.show(code),
            Event::Admit(path) => drop(self.admit(path)),
            Event::Heard {
                local,
                remote,
                source,
            } => {
                let pair = AddressPair { local, remote };
                self.shared.paths().hear(pair, source, self.inbox.id);
            }
            Event::Revoke(path) => self.revoke(path),
            Event::Accept(peer) => self.accept(peer)?,
            Event::Connect { path, peer } => self.connect(path, peer)?,
            Event::OpenPath(path) => self.open_path(path),
            Event::SettleOn(path) => self.settle_on(path),
            Event::Measure => self.measure(),
            Event::LeaveMailbox => self.leave_mailbox(),
            Event::OpenSockets {
                base,
                count,
                attempt,
            } => self.open_sockets(base, count, attempt),
            Event::CloseSockets(sockets) => self.close_sockets(&sockets),
            Event::AttemptEnded => self.shared.punch_budget().end(&self.inbox.id),
            Event::SendLimited { transmit, ttl } => self.send_limited(&transmit, ttl),
            Event::OpenLink {
                link,
                transport,
                server,
            } => {
                let dialer = self.shared.dialer();
                self.links.dial(dialer, link, transport, server);
            }
            Event::CloseLink(link) => self.links.close(link),
            Event::Tcp(action) => self.tcp.obey(action),
            Event::Relay(relay) => self.on_relay(relay),
            Event::RelayChannel {
                relayed,
                peer,
                channel,
            } => {
                self.shared.relays().set_channel(relayed, peer, channel);
            }
            Event::RelayData {
                relayed,
                peer,
                payload,
            } => {
                let pair = AddressPair {
                    local: relayed,
                    remote: peer,
                };
                let train = Train::of(pair, payload.into());
                self.shared.inlets().try_inject(train);
            }
            Event::RelayEnded(relayed) => {
                self.relayed.retain(|relay| relay.relayed != relayed);
                self.shared.relays().close(relayed);
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    fn leave_mailbox(&mut self) {
        self.outgoing = None;
        self.meeting = None;
        self.explain();
    }

    fn measure(&mut self) {
        let established = self.established.as_ref();
        if let Some(quic) = established.and_then(|established| established.quic.upgrade()) {
            let stats = quic.stats();
            let traffic = Traffic {
                sent: stats.udp_tx.datagrams,
                received: stats.udp_rx.datagrams,
            };
            self.connector.handle_traffic(clock::now(), traffic);
        }
        self.explain();
    }

    /// Publishes what is known of why the path is what it is.
    pub(super) fn explain(&self) {
        if let Some(established) = &self.established {
            let latest = Explanation::from(self.connector.explain(clock::now()));
            established.explanation.send_if_modified(|known| {
                let changed = *known != latest;
                *known = latest;
                changed
            });
        }
    }

    fn open_sockets(&mut self, base: SocketAddr, count: usize, attempt: bool) {
        let now = clock::now();
        let allowed = !attempt || self.shared.punch_budget().begin(now, &self.inbox.id);
        let opened = allowed.then(|| {
            let inlets = self.shared.inlets();
            self.shared.punched().open(base.ip(), count, inlets)
        });
        let opened = opened.and_then(|opened| {
            opened
                .inspect_err(|error| tracing::debug!(%error, "sockets could not be opened"))
                .ok()
        });
        self.punched.extend(opened.iter().flatten());
        self.connector.handle_sockets_opened(now, opened);
    }

    fn close_sockets(&mut self, sockets: &[SocketAddr]) {
        self.punched.retain(|socket| !sockets.contains(socket));
        self.shared.punched().close(sockets);
    }

    fn send_limited(&self, transmit: &Transmit, ttl: u8) {
        if let Err(error) = self.shared.punched().send_limited(transmit, ttl) {
            tracing::debug!(%error, "a datagram with a low time to live was not sent");
        }
    }

    fn on_relay(&mut self, relay: Relay) {
        if let Some(link) = self.links.get(relay.link) {
            self.relayed.push(relay);
            let slow = self.slow.0.clone();
            self.shared.relays().open(relay.relayed, link, slow);
        }
    }

    pub(super) fn tell(&self, message: PeerMessage) {
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        if outgoing.try_send(message).is_err() {
            tracing::debug!("signalling is gone or full, message dropped");
        }
    }

    fn tell_directly(&self, message: PeerMessage) {
        if let Some(established) = &self.established {
            established.aside.say(Said::Message(message));
        }
    }

    /// The mailbox from before is of no use.
    fn meet_again(&mut self) {
        tracing::debug!("there is no path: the two meet again");
        self.signals = None;
        let secret = self.established.as_ref().and_then(|e| e.secret.clone());
        let Some(secret) = secret else {
            return self.connector.handle_signalling_lost(clock::now());
        };
        let role = match self.is_creator {
            true => Role::Creator,
            false => Role::Joiner,
        };
        let meeting = self
            .shared
            .dialer()
            .meet_again(&self.introducer, role, secret);
        self.meeting = Some(meeting);
    }

    fn show(&mut self, code: Code) {
        let listener = self
            .listener
            .as_mut()
            .and_then(|listener| listener.code.take());
        if let Some(listener) = listener {
            let _ = listener.send(code);
        }
    }

    /// Lets QUIC datagrams of this path through; yields the address QUIC knows it by.
    fn admit(&self, path: ice::Path) -> Option<SocketAddr> {
        tracing::debug!(local = %path.local, remote = %path.remote, "a path is admitted");
        let table = self.shared.paths();
        let address = table.admit(pair_of(path), self.inbox.id)?;
        if [path.local_kind, path.remote_kind].contains(&ice::CandidateKind::Relayed) {
            let mut relayed = self.relayed.iter();
            let ours = relayed.find(|relay| relay.relayed == path.local);
            table.mark_relayed(pair_of(path), ours.map(|relay| relay.transport));
        }
        let (technique, probes, sockets) = self.connector.technique(&path);
        let found = Found {
            technique,
            probes,
            sockets,
            stream: self.connector.tcp_ends(path.local).map(|ends| ends.local),
        };
        table.mark_found(pair_of(path), found);
        if let Some(established) = &self.established {
            established.follower.publish();
        }
        Some(address)
    }

    fn revoke(&mut self, path: ice::Path) {
        tracing::debug!(local = %path.local, remote = %path.remote, "a path is lost");
        self.shared.paths().revoke(pair_of(path), self.inbox.id);
        self.nudge();
    }

    /// Another path than a lost one is in use: what QUIC sends on that one to find out what was lost
    /// is carried, and no more of it than it takes.
    pub(super) fn nudge(&mut self) {
        if let Some(established) = &mut self.established
            && established.follower.nudge()
        {
            established.to_carry = MAX_CARRIED;
            if let Some(held) = established.held.take() {
                self.carry(held);
            }
        }
    }

    fn accept(&mut self, peer: Fingerprint) -> Result<(), EstablishError> {
        self.accept = Some(peer);
        match self.early.take() {
            Some(incoming) => self.on_incoming(incoming),
            None => Ok(()),
        }
    }

    fn connect(&mut self, path: ice::Path, peer: Fingerprint) -> Result<(), EstablishError> {
        self.handshakes.clear();
        let round_trip = self.connector.round_trip();
        let config = quic::client_config(self.shared.identity(), peer, round_trip)?;
        let Some(address) = self.admit(path) else {
            return Ok(());
        };
        let name = quic::server_name();
        match self.shared.quic().connect_with(config, address, name) {
            Ok(connecting) => self.handshakes.push(Box::pin(connecting)),
            Err(error) => tracing::debug!(%error, "QUIC refused the path"),
        }
        Ok(())
    }

    pub(super) fn open_path(&self, path: ice::Path) {
        tracing::debug!(local = %path.local, remote = %path.remote, "a path is opened");
        let established = self.established.as_ref();
        let quic = established.and_then(|established| established.quic.upgrade());
        let (Some(quic), Some(address)) = (quic, self.admit(path)) else {
            return;
        };
        let opening = quic.open_path_ensure(address, PathStatus::Available);
        self.openings.push(Box::pin(async move {
            let opened = timeout(OPEN_TIMEOUT, opening).await;
            (path, matches!(opened, Ok(Ok(_))))
        }));
    }

    fn settle_on(&self, path: ice::Path) {
        let address = self.shared.paths().address_of(pair_of(path));
        if let (Some(established), Some(address)) = (&self.established, address) {
            established.follower.settle_on(address);
        }
    }
}
