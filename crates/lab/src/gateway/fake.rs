//! A fake gateway: its table, and what is sorted where.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::natpmp::GATEWAY_PORT;
use postern_wire::transport::Transport;
use postern_wire::upnp::ssdp;

use super::personality::{Forwards, Personality};

/// A mapping in a gateway's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The host inside.
    pub client: IpAddr,
    /// Its port.
    pub internal_port: u16,
    /// When it ends; `None` if it does not.
    pub ends: Option<Instant>,
    /// What the client calls it.
    pub description: String,
    /// The nonce, if it was made by PCP.
    pub nonce: Option<[u8; 12]>,
    /// Whether packets pass.
    pub works: bool,
}

/// A datagram that a gateway sends: from where, to where, what.
pub(super) type Sent = (SocketAddr, SocketAddr, Vec<u8>);

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAnswer {
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// Nobody listens there.
    Refused,
}

/// A fake gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its address on the link.
    pub address: IpAddr,
    /// Its ways.
    pub personality: Personality,
    /// The HTTP port.
    pub port: u16,
    pub(super) table: BTreeMap<(Transport, u16), Row>,
    pub(super) started: Instant,
    pub(super) boots: u32,
    /// How often each port was deleted.
    pub(super) deletions: BTreeMap<(Transport, u16), u32>,
    /// Something was asked for that no client may ask for.
    pub(super) violations: Vec<String>,
    pub(super) pinholes: BTreeMap<u16, Row>,
}

impl Gateway {
    /// A gateway that has just started.
    #[must_use]
    pub const fn new(now: Instant, address: IpAddr, personality: Personality) -> Self {
        Self {
            address,
            personality,
            port: 5000,
            table: BTreeMap::new(),
            started: now,
            boots: 1,
            deletions: BTreeMap::new(),
            violations: Vec::new(),
            pinholes: BTreeMap::new(),
        }
    }

    /// The mappings and pinholes that stand.
    pub fn rows(&mut self, now: Instant) -> Vec<(Transport, u16, Row)> {
        let stands = |row: &Row| row.ends.is_none_or(|ends| ends > now);
        self.table.retain(|_, row| stands(row));
        self.pinholes.retain(|_, row| stands(row));
        let mapped = self
            .table
            .iter()
            .map(|((t, port), row)| (*t, *port, row.clone()));
        let pinholes = self.pinholes.values();
        let opened = pinholes.map(|row| (Transport::Tcp, row.internal_port, row.clone()));
        mapped.chain(opened).collect()
    }

    /// What was asked for that no client may ask for, ever.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Loses power: everything is forgotten, and its clock starts again.
    pub fn reboot(&mut self, now: Instant) {
        self.table.clear();
        self.pinholes.clear();
        self.started = now;
        self.boots += 1;
    }

    /// Makes the mappings that stand useless, without a word.
    pub fn rot(&mut self) {
        for row in self.table.values_mut() {
            row.works = false;
        }
    }

    /// Whether a new mapping of a port works.
    pub(super) fn passes(&self, key: (Transport, u16)) -> bool {
        match self.personality.forwards {
            Forwards::Always => true,
            Forwards::AfterDeletion => self.deletions.contains_key(&key),
            Forwards::Never => false,
        }
    }

    pub(super) fn note_deletion(&mut self, key: (Transport, u16)) {
        *self.deletions.entry(key).or_default() += 1;
    }

    /// Whether what comes to a port from outside arrives inside.
    pub fn leads_in(&mut self, now: Instant, key: (Transport, u16)) -> bool {
        let mut rows = self.rows(now).into_iter();
        rows.any(|(transport, port, row)| (transport, port) == key && row.works)
    }

    pub(super) fn epoch(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// Takes a datagram that was sent to it or to a group.
    pub fn datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
    ) -> Vec<Sent> {
        if !to.ip().is_multicast() && to.ip() != self.address {
            return Vec::new();
        }
        match to.port() {
            GATEWAY_PORT => {
                let answer = self.control(now, from.ip(), payload);
                let own = SocketAddr::new(self.address, GATEWAY_PORT);
                answer.into_iter().map(|bytes| (own, from, bytes)).collect()
            }
            ssdp::PORT if self.personality.upnp => self.search(from, to, payload),
            _ => Vec::new(),
        }
    }

    pub(super) fn ends(now: Instant, lease: u32) -> Option<Instant> {
        (lease != 0).then(|| now + Duration::from_secs(lease.into()))
    }

    /// Puts a mapping into the table.
    pub(super) fn insert(&mut self, key: (Transport, u16), row: Row) {
        if key.1 == 0 {
            self.violations.push("external port 0".to_owned());
        }
        self.table.insert(key, row);
    }
}
