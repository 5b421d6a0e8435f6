//! The client: its state, the five verbs, and what is sorted where.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::natpmp::{CLIENT_PORT, GATEWAY_PORT};
use postern_wire::pcp::Nonce;
use postern_wire::upnp::http::Response;
use postern_wire::upnp::soap::Reply;
use postern_wire::upnp::ssdp;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::device::Device;
use super::mapping::Entry;
use super::probe::Probes;
use super::query::Queries;
use super::timers::{Timer, Timers};
use super::types::{Config, Event, ExchangeId, MappingId};
use crate::{Datagram, Transmit, Verdict};

/// The client of the gateways of one address of this machine.
pub struct Client {
    pub(super) config: Config,
    pub(super) rng: ChaCha20Rng,
    pub(super) timers: Timers,
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
    /// When we began to look around.
    pub(super) started: Instant,
    /// Whether the first that was ready was so a little while ago.
    pub(super) collected: bool,
    /// Whether slow gateways are still waited for.
    pub(super) patient: bool,
    /// Whether everybody has had the time to answer.
    pub(super) settled: bool,
    pub(super) search_rounds: usize,
    pub(super) probes: Probes,
    pub(super) devices: Vec<Device>,
    pub(super) exchanges: BTreeMap<ExchangeId, Purpose>,
    pub(super) next_exchange: u32,
    pub(super) mappings: BTreeMap<MappingId, Entry>,
    pub(super) next_mapping: u32,
    pub(super) next_probe: u32,
    pub(super) queries: Queries,
    /// What others see as our address, if somebody has told.
    pub(super) public_address: Option<IpAddr>,
    /// Of the gateway's last notification.
    pub(super) boot_id: Option<u32>,
    /// Whether it has said farewell since.
    pub(super) has_left: bool,
    /// When its notifications last made us look.
    pub(super) checked: Option<Instant>,
}

/// What an exchange is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The description of a gateway.
    Describe(usize),
    /// State or address of a gateway's service.
    Status(usize, usize),
    /// The present step of a mapping.
    Mapping(MappingId),
    /// An entry of a table.
    List,
    /// A call of the caller's.
    Call,
    /// To leave nothing behind: nobody waits.
    Nothing,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("local", &self.config.local)
            .field("devices", &self.devices.len())
            .field("mappings", &self.mappings.len())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that looks around at once. Nonces come from the seed, so it must be secret
    /// and used once.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], config: Config) -> Self {
        let mut client = Self {
            config,
            rng: ChaCha20Rng::from_seed(seed),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            started: now,
            collected: false,
            patient: true,
            settled: false,
            search_rounds: 0,
            probes: Probes::default(),
            devices: Vec::new(),
            exchanges: BTreeMap::new(),
            next_exchange: 0,
            mappings: BTreeMap::new(),
            next_mapping: 0,
            next_probe: 0,
            queries: Queries::default(),
            public_address: None,
            boot_id: None,
            has_left: false,
            checked: None,
        };
        client.look_around(now);
        client
    }

    /// Says which address others see as ours (by STUN): a gateway that says another one is
    /// behind a second NAT. Counts for mappings that are made or renewed from here on.
    pub const fn note_public_address(&mut self, address: IpAddr) {
        self.public_address = Some(address);
    }

    /// Takes a datagram: `local` is the socket's address, or the group and port at which an
    /// announcement arrived.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let Datagram {
            local,
            remote,
            payload,
        } = datagram;
        let announced = local.ip().is_multicast();
        if !announced && local != self.config.local {
            return Verdict::NotMine;
        }
        let from = remote.ip();
        let from_gateway = self.config.gateway == Some(from) && remote.port() == GATEWAY_PORT;
        let heard = !announced || local.port() == CLIENT_PORT;
        match payload.first() {
            Some(0) if from_gateway && heard && self.config.protocols.natpmp => {
                self.on_natpmp(now, payload, announced);
            }
            // A gateway without PCP answers it by NAT-PMP.
            Some(0) if from_gateway && heard && !announced => {
                self.on_natpmp(now, payload, announced)
            }
            Some(2) if from_gateway && heard => self.on_pcp(now, payload, announced),
            Some(b'H' | b'N') if !announced || local.port() == ssdp::PORT => {
                self.on_ssdp(now, from, payload);
            }
            _ => {}
        }
        Verdict::Consumed
    }

    /// Takes the answer of an exchange; `None` if there was no connection, or no whole answer.
    pub fn handle_response(&mut self, now: Instant, id: ExchangeId, response: Option<Response>) {
        let Some(purpose) = self.exchanges.remove(&id) else {
            return;
        };
        self.timers.clear(Timer::Exchange(id));
        self.on_response(now, purpose, response);
    }

    /// Says that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Probe(protocol) => self.send_probe(now, protocol),
                Timer::Search => self.send_search(now),
                Timer::Collected => {
                    self.collected = true;
                    self.choose(now);
                }
                Timer::Patience => {
                    self.patient = false;
                    self.choose(now);
                }
                Timer::Settled => self.on_settled(now),
                Timer::Again => self.look_around(now),
                Timer::Mapping(id) => self.on_mapping_due(now, id),
                Timer::Verify(id) => self.on_verify_due(now, id),
                Timer::Expiry(id) => self.on_expiry(now, id),
                Timer::Exchange(id) => self.on_exchange_due(now, id),
                Timer::Check => self.on_check_due(now),
            }
        }
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What happened, or is to be done.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Client::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn on_exchange_due(&mut self, now: Instant, id: ExchangeId) {
        if let Some(purpose) = self.exchanges.remove(&id) {
            self.events.push_back(Event::Abandoned(id));
            self.on_response(now, purpose, None);
        }
    }

    fn on_response(&mut self, now: Instant, purpose: Purpose, response: Option<Response>) {
        if let Purpose::Describe(index) = purpose {
            return self.on_description(now, index, response);
        }
        let status = response.as_ref().map(|response| response.status);
        let reply = response.and_then(|response| Reply::parse(&response.body).ok());
        // A page that says no is not what was asked for, whatever else it is.
        let sound = |reply: &Reply| matches!(reply, Reply::Fault(_)) || status == Some(200);
        let reply = reply.filter(sound);
        match purpose {
            Purpose::Describe(_) | Purpose::Nothing => {}
            Purpose::Status(index, number) => self.on_status(now, index, number, reply.as_ref()),
            Purpose::Mapping(id) => self.on_call(now, id, reply),
            Purpose::List => self.on_entry_of_list(now, reply, status),
            Purpose::Call => self.on_called(reply),
        }
    }

    /// A random duration, `from` to `to`.
    pub(super) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_millis();
        let span = u64::try_from(span).unwrap_or(u64::MAX).saturating_add(1);
        from.saturating_add(Duration::from_millis(self.random_below(span)))
    }

    /// A number below `bound`; the bias is of no importance here.
    pub(super) fn random_below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64().checked_rem(bound).unwrap_or(0)
    }

    pub(super) fn nonce(&mut self) -> Nonce {
        let mut bytes = [0; 12];
        self.rng.fill_bytes(&mut bytes);
        Nonce(bytes)
    }
}
