//! Allocations at TURN servers: addresses of this side that always work.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use postern_wire::signal::RelayServer;
use postern_wire::turn::ChannelNumber;
use postern_wire::uri::{Host, ServerUri, Transport};
use rand_chacha::ChaCha20Rng;

use super::race::{MAX_WAYS, Race, Way};
use super::tried::Tried;
use crate::turn::client::Credentials;

/// Names a way to a TURN server that the driver opens and keeps; unique in one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LinkId(u64);

impl LinkId {
    /// This one; the next call gives another.
    pub(super) fn take(&mut self) -> Self {
        let taken = *self;
        self.0 = self.0.wrapping_add(1);
        taken
    }
}

/// How a TURN server is reached, the preferred one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelayTransport {
    /// Datagrams from a socket of its own.
    Udp,
    /// A TCP connection.
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl RelayTransport {
    /// The word for it: "udp", "tcp" or "tls".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Which transports may be used to reach a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayTransports {
    /// UDP.
    pub udp: bool,
    /// TCP without TLS.
    pub tcp: bool,
    /// TLS over TCP.
    pub tls: bool,
}

impl Default for RelayTransports {
    fn default() -> Self {
        Self {
            udp: true,
            tcp: true,
            tls: true,
        }
    }
}

impl RelayTransports {
    const fn allow(self, transport: RelayTransport) -> bool {
        match transport {
            RelayTransport::Udp => self.udp,
            RelayTransport::Tcp => self.tcp,
            RelayTransport::Tls => self.tls,
        }
    }
}

/// What happened at a relay, or is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Open a link to a server.
    Open {
        link: LinkId,
        transport: RelayTransport,
        server: SocketAddr,
    },
    /// The link is not needed any more.
    Close(LinkId),
    /// This side can be reached at the relayed address.
    Allocated(Relay),
    /// What the relay sent in the channel comes from the peer, and the other way round.
    Bound {
        relayed: SocketAddr,
        peer: SocketAddr,
        channel: ChannelNumber,
    },
    /// The channel is no more.
    Unbound {
        relayed: SocketAddr,
        peer: SocketAddr,
    },
    /// A peer sent this without a channel.
    Data {
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: Vec<u8>,
    },
    /// The relayed address is gone.
    Ended { relayed: SocketAddr },
}

/// A relayed transport address, and how it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relay {
    /// The link to the server.
    pub link: LinkId,
    /// What the link is.
    pub transport: RelayTransport,
    /// The TURN server.
    pub server: SocketAddr,
    /// The address at which peers reach this side.
    pub relayed: SocketAddr,
    /// The address of this side as the server sees it.
    pub mapped: Option<SocketAddr>,
}

/// What the races keep together.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The name of the next link.
    pub(super) next: LinkId,
    /// What came of the ways.
    pub(super) tried: Tried,
}

/// The allocations of one attempt: at most one for each address family.
#[derive(Debug)]
pub(super) struct Relays {
    allowed: RelayTransports,
    races: Vec<Race>,
    offered: bool,
    book: Book,
    outputs: VecDeque<(LinkId, Vec<u8>)>,
}

impl Relays {
    pub(super) fn new(allowed: RelayTransports) -> Self {
        Self {
            allowed,
            races: Vec::new(),
            offered: false,
            book: Book::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Asks for an allocation in each address family in which there is a server.
    pub(super) fn begin(&mut self, now: Instant, servers: &[RelayServer]) {
        self.offered |= !servers.is_empty();
        let ways: Vec<Way> = servers.iter().flat_map(ways_to).collect();
        for is_ipv4 in [true, false] {
            let usable =
                |way: &&Way| way.server.is_ipv4() == is_ipv4 && self.allowed.allow(way.transport);
            let of_family: Vec<Way> = ways.iter().filter(usable).cloned().collect();
            let known = self.races.iter_mut().find(|race| race.is_ipv4 == is_ipv4);
            match known {
                _ if of_family.is_empty() => {}
                Some(race) => race.take_ways(now, of_family, &mut self.book),
                None => self.races.push(Race::new(now, of_family, &mut self.book)),
            }
        }
    }

    /// Whether the server offered any.
    pub(super) fn were_offered(&self) -> bool {
        self.offered
    }

    /// What came of each transport so far.
    pub(super) fn tried(&self) -> &Tried {
        &self.book.tried
    }

    /// Whether an answer of a server is still awaited.
    pub(super) fn is_gathering(&self) -> bool {
        self.races.iter().any(Race::is_gathering)
    }

    pub(super) fn has(&self, relayed: SocketAddr) -> bool {
        self.races.iter().any(|race| race.has(relayed))
    }

    pub(super) fn link_opened(
        &mut self,
        now: Instant,
        rng: &mut ChaCha20Rng,
        link: LinkId,
        local: SocketAddr,
    ) {
        let mut races = self.races.iter_mut();
        races.any(|race| race.opened(now, rng, (link, local), &mut self.book));
    }

    pub(super) fn link_closed(&mut self, now: Instant, link: LinkId) {
        let mut races = self.races.iter_mut();
        races.any(|race| race.closed(now, link, &mut self.book));
    }

    pub(super) fn link_input(&mut self, now: Instant, link: LinkId, payload: &[u8]) {
        let mut races = self.races.iter_mut();
        races.any(|race| race.input(now, link, payload));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for race in &mut self.races {
            race.handle_timeout(now, &mut self.book);
        }
    }

    /// These addresses of this machine are gone, and so is what was allocated from them.
    pub(super) fn leave(&mut self, now: Instant, gone: &[IpAddr]) {
        for race in &mut self.races {
            race.leave(now, gone, &mut self.book);
        }
    }

    /// A path has fallen silent: whether the relays are still there is asked.
    pub(super) fn doubt(&mut self, now: Instant) {
        for race in &mut self.races {
            race.doubt(now);
        }
    }

    /// There is another network: whatever waits for a better time begins now.
    pub(super) fn hasten(&mut self, now: Instant) {
        for race in &mut self.races {
            race.hasten(now, &mut self.book);
        }
    }

    /// Sends to a peer from a relayed address.
    pub(super) fn send(
        &mut self,
        now: Instant,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
    ) {
        let found = self.races.iter_mut().find_map(|race| race.client(relayed));
        let Some((link, client)) = found else { return };
        match client.send(now, peer, payload) {
            Ok(transmit) => {
                let payload = transmit.map(|transmit| (link, transmit.payload));
                self.outputs.extend(payload);
            }
            Err(error) => tracing::debug!(%error, "a datagram for the relay was dropped"),
        }
    }

    /// The relayed addresses of this side.
    pub(super) fn relayed(&self) -> impl Iterator<Item = SocketAddr> {
        self.races.iter().filter_map(Race::relayed)
    }

    /// How long it took to get the quickest of them, a round trip to the server at least.
    pub(super) fn took(&self) -> Option<Duration> {
        self.races.iter().filter_map(Race::took).min()
    }

    /// Lets relays at the address of this relay send to it: the peer is likely to have one there,
    /// and then no round trip is lost. The server knows by the port that a relay is meant.
    pub(super) fn permit_neighbours(&mut self, now: Instant, relayed: SocketAddr) {
        let found = self.races.iter_mut().find_map(|race| race.client(relayed));
        if let Some((_, client)) = found {
            let _ = client.permit_peer(now, relayed);
        }
    }

    /// Asks the server whether the allocation still exists.
    pub(super) fn probe(&mut self, now: Instant, relayed: SocketAddr) {
        let found = self.races.iter_mut().find_map(|race| race.client(relayed));
        if let Some((_, client)) = found {
            client.refresh(now);
        }
    }

    /// A path from this address works: the allocation is not replaced any more.
    pub(super) fn keep(&mut self, relayed: SocketAddr) {
        for race in &mut self.races {
            race.keep(relayed);
        }
    }

    /// Keeps the channel of a peer, whose datagrams do not pass through here.
    pub(super) fn keep_channel(&mut self, now: Instant, relayed: SocketAddr, peer: SocketAddr) {
        let found = self.races.iter_mut().find_map(|race| race.client(relayed));
        if let Some((_, client)) = found {
            let _ = client.channel_of(now, peer);
        }
    }

    /// Gives the allocations back.
    pub(super) fn close(&mut self, now: Instant) {
        for race in &mut self.races {
            race.close(now);
        }
    }

    /// What is to go over which link.
    pub(super) fn poll_output(&mut self) -> Option<(LinkId, Vec<u8>)> {
        let mut races = self.races.iter_mut();
        let from_client = races.find_map(Race::poll_output);
        from_client.or_else(|| self.outputs.pop_front())
    }

    pub(super) fn poll_event(&mut self, now: Instant) -> Option<Event> {
        let mut races = self.races.iter_mut();
        races.find_map(|race| race.poll_event(now, &mut self.book))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.races.iter().filter_map(Race::poll_timeout).min()
    }
}

/// The ways to a server that can be understood.
fn ways_to(server: &RelayServer) -> Vec<Way> {
    let Ok(credentials) = Credentials::new(&server.username, &server.password) else {
        return Vec::new();
    };
    let challenge = server.challenge.as_deref();
    let challenge = challenge.and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let uris = [&server.uri].into_iter().chain(&server.also);
    let ways = uris.filter_map(|uri| {
        let (transport, server) = relay_address(uri)?;
        Some(Way {
            transport,
            server,
            credentials: credentials.clone(),
            challenge: challenge.clone(),
        })
    });
    ways.take(MAX_WAYS).collect()
}

/// The address and the transport in a TURN URI (RFC 7065). `None` for names, and for DTLS,
/// which is not used here.
#[must_use]
pub fn relay_address(uri: &str) -> Option<(RelayTransport, SocketAddr)> {
    let uri: ServerUri = uri.parse().ok()?;
    let transport = match (uri.scheme.is_turn(), uri.scheme.is_secure(), uri.transport) {
        (true, false, None | Some(Transport::Udp)) => RelayTransport::Udp,
        (true, false, Some(Transport::Tcp)) => RelayTransport::Tcp,
        (true, true, None | Some(Transport::Tcp)) => RelayTransport::Tls,
        (true, true, Some(Transport::Udp)) | (false, _, _) => return None,
    };
    match &uri.host {
        Host::Ip(ip) => Some((transport, SocketAddr::new(ip.to_canonical(), uri.port()))),
        Host::Name(_) => None,
    }
}
