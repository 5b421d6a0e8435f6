//! Handshakes that are under way: a table of fixed size, as a machine.
//!
//! Before a client has returned a cookie, and so proven its address, it is sent no more
//! bytes than it has sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use dimpl::{Config, Dtls, DtlsCertificate, Output, SecurityError};
use postern_proto::turn::server::FiveTuple;

use crate::dtls::{HANDSHAKE_TIMEOUT, records};
use crate::server::slots::source_of;

/// Most handshakes under way; the oldest gives way. Some 10 kB each.
const MAX_HALF_OPEN: usize = 4096;

/// Most of them from one source; its own oldest gives way.
const MAX_PER_SOURCE: usize = 64;

/// Most bytes that are taken from a client before it has proven its address: two hellos
/// with keys of every kind, and each of them once more.
const MAX_UNPROVEN: usize = 8 * 1024;

/// Bytes for what dimpl gives, to begin with.
const BUFFER: usize = 2048;

/// What a handshake has led to.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) client: FiveTuple,
    /// Has more to say: poll its output.
    pub(super) dtls: Box<Dtls>,
}

/// The table.
pub(super) struct Handshakes {
    config: Arc<Config>,
    half_open: BTreeMap<FiveTuple, HalfOpen>,
    /// The entries, the oldest first, and those of each source.
    order: BTreeMap<u64, FiveTuple>,
    by_source: BTreeSet<(IpAddr, u64)>,
    deadlines: BTreeSet<(Instant, FiveTuple)>,
    next: u64,
    buffer: Vec<u8>,
    transmits: VecDeque<(FiveTuple, Vec<u8>)>,
    events: VecDeque<Established>,
}

struct HalfOpen {
    dtls: Box<Dtls>,
    number: u64,
    /// When it is over, whatever dimpl says.
    end: Instant,
    due: Instant,
    received: usize,
    sent: usize,
    proven: bool,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes")
            .field("half_open", &self.half_open.len())
            .finish_non_exhaustive()
    }
}

impl Handshakes {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            half_open: BTreeMap::new(),
            order: BTreeMap::new(),
            by_source: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            next: 0,
            buffer: vec![0; BUFFER],
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes a datagram of a client that has a handshake under way, or begins one. Without
    /// either it does nothing.
    pub(super) fn handle_input(
        &mut self,
        now: Instant,
        client: FiveTuple,
        datagram: &[u8],
        certificate: &DtlsCertificate,
    ) {
        let mut open = match self.take(&client) {
            Some(open) => open,
            None if records::is_client_hello(datagram) => self.open(now, &client, certificate),
            None => return,
        };
        let received = open.received.saturating_add(datagram.len());
        if !open.proven && received > MAX_UNPROVEN {
            self.keep(client, open);
            return;
        }
        open.received = received;
        self.drive(now, client, open, Some(datagram));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, client)) = self.deadlines.first() {
            if due > now {
                return;
            }
            if let Some(open) = self.take(&client)
                && now < open.end
            {
                self.drive(now, client, open, None);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(FiveTuple, Vec<u8>)> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<Established> {
        self.events.pop_front()
    }

    /// A new entry that is not in the table yet, for which there is room.
    fn open(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        certificate: &DtlsCertificate,
    ) -> HalfOpen {
        self.make_room(source_of(client.client.0.ip()));
        let dtls = Dtls::new_auto(self.config.clone(), certificate.clone(), now);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let end = now + HANDSHAKE_TIMEOUT;
        HalfOpen {
            dtls: Box::new(dtls),
            number,
            end,
            due: end,
            received: 0,
            sent: 0,
            proven: false,
        }
    }

    fn make_room(&mut self, source: IpAddr) {
        let own = self.by_source.range((source, 0)..=(source, u64::MAX));
        let (own_oldest, own) = (own.clone().next().copied(), own.count());
        let oldest = if own >= MAX_PER_SOURCE {
            own_oldest.map(|(_, number)| number)
        } else if self.half_open.len() >= MAX_HALF_OPEN {
            self.order.keys().next().copied()
        } else {
            None
        };
        let client = oldest.and_then(|number| self.order.get(&number).copied());
        if let Some(client) = client {
            self.take(&client);
        }
    }

    /// Takes an entry out of the table.
    fn take(&mut self, client: &FiveTuple) -> Option<HalfOpen> {
        let open = self.half_open.remove(client)?;
        let source = source_of(client.client.0.ip());
        self.order.remove(&open.number);
        self.by_source.remove(&(source, open.number));
        self.deadlines.remove(&(open.due, *client));
        Some(open)
    }

    /// Puts it back.
    fn keep(&mut self, client: FiveTuple, open: HalfOpen) {
        let source = source_of(client.client.0.ip());
        self.order.insert(open.number, client);
        self.by_source.insert((source, open.number));
        self.deadlines.insert((open.due, client));
        self.half_open.insert(client, open);
    }

    fn drive(
        &mut self,
        now: Instant,
        client: FiveTuple,
        mut open: HalfOpen,
        datagram: Option<&[u8]>,
    ) {
        let mut fed = open.dtls.handle_timeout(now);
        if let Some(datagram) = datagram {
            fed = fed.and_then(|()| open.dtls.handle_packet(datagram));
        }
        if let Err(error) = fed {
            tracing::debug!(?error, "a DTLS handshake failed");
            let alert = datagram.and_then(|datagram| records::alert(datagram, cause(&error)));
            self.transmits.extend(alert.map(|alert| (client, alert)));
            return;
        }
        loop {
            match open.dtls.poll_output(&mut self.buffer) {
                Output::Packet(packet) => {
                    open.proven |= records::is_server_hello(packet);
                    let sent = open.sent.saturating_add(packet.len());
                    if open.proven || sent <= open.received {
                        open.sent = sent;
                        self.transmits.push_back((client, packet.to_vec()));
                    }
                }
                Output::BufferTooSmall { needed } => self.buffer.resize(needed, 0),
                Output::Connected => {
                    let dtls = open.dtls;
                    self.events.push_back(Established { client, dtls });
                    return;
                }
                Output::Timeout(due) => {
                    open.due = due.min(open.end);
                    self.keep(client, open);
                    return;
                }
                Output::PeerCert(_)
                | Output::KeyingMaterial(..)
                | Output::ApplicationData(_)
                | Output::CloseNotify
                | _ => {}
            }
        }
    }
}

/// The alert's description: RFC 8446 section 6.2. Some clients, coturn's among them, begin
/// with a version that nobody should speak and need to be told.
const fn cause(error: &dimpl::Error) -> u8 {
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    let dimpl::Error::SecurityError(
        SecurityError::ClientHelloLegacyVersionNotDtls12
        | SecurityError::UnsupportedClientVersion(_),
    ) = error
    else {
        return HANDSHAKE_FAILURE;
    };
    PROTOCOL_VERSION
}

#[cfg(test)]
mod tests;
