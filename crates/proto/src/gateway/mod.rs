//! The router's side of port mapping: one table of leases, asked for by NAT-PMP (RFC 6886),
//! PCP (RFC 6887) and UPnP-IGD.
//!
//! [`Gateway`] knows no socket, no kernel and no clock. It says what is to be opened, and is
//! told what became of that; an asker is answered then, and not before. The loop:
//!
//! 1. [`Gateway::handle_input`] for every datagram from inside.
//! 2. [`Gateway::handle_timeout`] when the time of [`Gateway::poll_timeout`] has come.
//! 3. After each of these, [`Gateway::poll_event`] until `None`: an [`Event::Change`] is made
//!    in the kernel at once, with one batch, and its result handed to
//!    [`Gateway::handle_changed`]. **Then** [`Gateway::poll_transmit`] until `None`.
//!    (Behind another router the result may come later: when that one has opened the port.)
//! 4. What changes outside of it: [`Gateway::set_external`], [`Gateway::set_shown`],
//!    [`Gateway::set_config`], [`Gateway::revoke`].
//!
//! What holds, whatever arrives:
//!
//! - A host opens nothing for another one, and nothing that [`Config`] does not allow.
//! - No two hosts have the same outside port for the same remote endpoint.
//! - What is said to be open is open in the kernel, and ends there by itself.
//! - Nothing that a host can grow is without a bound: [`Quotas`].
//!
//! Assumptions: the driver drops what did not come from a network inside, and gives the
//! address that it has seen; `now` never runs backwards.
//!
//! Out of scope: other transports than TCP and UDP; PCP authentication (RFC 7652).

mod announce;
mod ask;
mod config;
mod lease;
mod natpmp;
mod pcp;
mod rate;
mod refusal;
mod table;
mod upnp;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::upnp::http;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::Transmit;

pub use config::{
    Action, Config, MAX_DESCRIPTION, MAX_FILTERS, MAX_LEASE, MAX_PCP_LEASE, MIN_PCP_LEASE, Mac,
    Quotas, REFUSED_PORTS, Rule,
};
pub use lease::{Client, Filter, Kind, Lease, LeaseId, Origin};
pub use refusal::Refused;
pub use upnp::{ExchangeId, Identity, Place, SubscriptionId, Traffic};

use announce::Announcements;
use ask::InFlight;
use rate::Rates;
use table::Table;
use upnp::{SoapAnswer, Upnp};

/// A change that is being made. A number is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(u64);

/// What the kernel is to hold for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The lease.
    pub lease: Lease,
    /// The outside address, if the lease has a port of it.
    pub external: Option<Ipv4Addr>,
    /// Whether what the host sends from the inside port leaves from the outside one, and what
    /// crosses by it is counted: one lease of each inside port has that.
    pub both_ways: bool,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Make this change in the kernel, all of it or nothing, and call
    /// [`Gateway::handle_changed`].
    Change {
        /// Its name.
        id: ChangeId,
        /// What to take away. That it has ended by itself is no failure.
        remove: Option<Opening>,
        /// What to add, and for how long.
        add: Option<(Opening, Duration)>,
    },
    /// End the flows that came in by this: its lease was taken back before its time.
    EndFlows(Opening),
    /// Keep the flow from inside to this lease's remote endpoint for so long, if there is one
    /// (PCP's PEER).
    KeepFlow(Opening, Duration),
    /// Leases were granted, changed or ended: write [`Gateway::leases`] down soon.
    Store,
    /// The outside address is another one: make the table anew, with all of
    /// [`Gateway::openings`].
    Reinstall,
    /// Answer an HTTP request.
    Respond {
        /// Which one.
        exchange: ExchangeId,
        /// With this.
        response: http::Response,
    },
    /// Send this HTTP request to a subscriber, and call [`Gateway::handle_delivered`].
    Deliver {
        /// Whose.
        subscription: SubscriptionId,
        /// Where to connect to.
        to: SocketAddr,
        /// What to send.
        request: http::Request,
    },
    /// Read how many packets have crossed by this, and call [`Gateway::handle_counted`].
    Count(Opening),
}

/// Why the kernel did not make a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeError {
    /// No room: a set of the kernel is full.
    Full,
    /// The next router, which has to open the port as well, has given it to another one.
    Taken,
    /// The same, and it offers this port in its place.
    Instead(u16),
    /// Something else.
    Failed,
}

/// The gateway: see the [module](self).
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    /// When the epoch began.
    epoch: Instant,
    rng: ChaCha20Rng,
    table: Table,
    rates: Rates,
    in_flight: BTreeMap<ChangeId, InFlight>,
    next_change: u64,
    announcements: Announcements,
    /// When permanent leases are written into the kernel again.
    renewal: Option<Instant>,
    upnp: Upnp,
    /// Calls that wait for a count.
    waiting_counts: BTreeMap<LeaseId, SoapAnswer>,
    refused: Refused,
    /// What clients are told is the outside address, if it is another router's.
    shown: Option<Ipv4Addr>,
    /// Whether another router in front of this one has to open the ports as well.
    behind: bool,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Gateway {
    /// A gateway without leases. The seed decides which ports are chosen: 32 bytes that nobody
    /// else knows.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], config: Config) -> Self {
        Self {
            epoch: now.checked_sub(config.epoch).unwrap_or(now),
            config,
            rng: ChaCha20Rng::from_seed(seed),
            table: Table::default(),
            rates: Rates::default(),
            in_flight: BTreeMap::new(),
            next_change: 0,
            announcements: Announcements::default(),
            renewal: None,
            upnp: Upnp::default(),
            waiting_counts: BTreeMap::new(),
            refused: Refused::default(),
            shown: None,
            behind: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Gateway::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [
            self.table.next_end(),
            self.renewal,
            self.announcements.due(),
            self.upnp.ssdp.due(),
            self.upnp.events.due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Forgets what has ended: the kernel has done so by itself. Writes permanent leases into
    /// the kernel again, and sends announcements.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.end_leases(now);
        self.renew_permanent(now);
        self.announce(now);
        self.work_ssdp(now);
        self.work_events(now);
    }

    /// All leases, in the order in which they were granted.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.table.iter()
    }

    /// One lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.table.get(id)
    }

    /// How many wishes were not granted.
    #[must_use]
    pub const fn refused(&self) -> Refused {
        self.refused
    }

    /// What the kernel should hold, with the time that is left.
    pub fn openings(&self, now: Instant) -> impl Iterator<Item = (Opening, Duration)> {
        let leases = self.table.iter();
        leases.filter_map(move |lease| self.opening_if_live(now, lease))
    }

    /// The same of one lease.
    #[must_use]
    pub fn opening_of(&self, now: Instant, id: LeaseId) -> Option<(Opening, Duration)> {
        self.opening_if_live(now, self.table.get(id)?)
    }

    fn opening_if_live(&self, now: Instant, lease: &Lease) -> Option<(Opening, Duration)> {
        let live = lease.is_live(now) && lease.enabled;
        live.then(|| (self.opening(lease), kernel_life(now, lease)))
    }

    /// For how long leases have been kept: the next gateway's [`Config::epoch`], if it gets
    /// these leases.
    #[must_use]
    pub fn epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// The outside address is this one from now on, or there is none. All leases stay. The
    /// epoch begins anew and is announced, so that clients ask what their address is.
    pub fn set_external(&mut self, now: Instant, external: Option<Ipv4Addr>) {
        if self.config.external == external {
            return;
        }
        self.config.external = external;
        self.events.push_back(Event::Reinstall);
        self.begin_epoch(now);
    }

    /// What clients are told is the outside address from now on, where another router in
    /// front of this one opens the ports as well (RFC 6970); `None` if it is this one's own.
    pub fn set_shown(&mut self, now: Instant, shown: Option<Ipv4Addr>) {
        if self.shown != shown {
            self.shown = shown;
            self.begin_epoch(now);
        }
    }

    /// Whether another router in front of this one has to open the ports as well. Flows get another
    /// port there, which is not known: PCP's PEER is refused over IPv4 (UNSUPP_OPCODE).
    pub const fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// Clients are told to ask again, because what they were told does not hold any longer.
    pub fn begin_epoch(&mut self, now: Instant) {
        self.epoch = now;
        self.store();
        self.announcements.begin(now);
        self.changed(now);
    }

    /// The outside address, as clients are told.
    const fn outside(&self) -> Option<Ipv4Addr> {
        match self.shown {
            Some(shown) => Some(shown),
            None => self.config.external,
        }
    }

    /// What UPnP shows of this gateway.
    pub fn set_identity(&mut self, identity: Identity) {
        self.upnp.identity = identity;
    }

    /// How much the outside interface has carried.
    pub const fn set_traffic(&mut self, traffic: Traffic) {
        self.upnp.traffic = traffic;
    }

    /// From now on this holds. Leases that are no longer allowed stay until they end; the
    /// outside address is not touched.
    pub fn set_config(&mut self, config: Config) {
        let external = self.config.external;
        self.config = Config { external, ..config };
    }

    /// Where announcements go to and come from: one pair of addresses for each network
    /// inside, of the socket that NAT-PMP and PCP are answered from and of 224.0.0.1 or
    /// ff02::1 at port 5350.
    pub fn set_announced(&mut self, to: Vec<(SocketAddr, SocketAddr)>) {
        self.announcements.to = to;
    }

    /// Seconds of the epoch, as messages carry them.
    fn epoch_seconds(&self, now: Instant) -> u32 {
        u32::try_from(self.epoch(now).as_secs()).unwrap_or(u32::MAX)
    }
}

/// How long the kernel keeps a lease: those without an end are renewed there.
fn kernel_life(now: Instant, lease: &Lease) -> Duration {
    match lease.expires {
        Some(expires) => expires.saturating_duration_since(now),
        None => MAX_LEASE,
    }
}
