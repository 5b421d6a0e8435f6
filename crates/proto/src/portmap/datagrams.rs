//! Mappings by PCP and NAT-PMP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use postern_wire::natpmp::{self, Answer};
use postern_wire::pcp::{self, Operation, Options, Response};
use postern_wire::transport::Transport;

use super::after;
use super::choice::Route;
use super::client::Client;
use super::mapping::{Entry, Grant, Job, Kind};
use super::probe::Probe;
use super::timers::Timer;
use super::types::{Failure, MappingId, Protocol, Refusal, Ticket};

impl Client {
    /// Sends the request of a mapping, or notices that it was sent often enough.
    pub(super) fn send_datagram(&mut self, now: Instant, id: MappingId) {
        let local = self.config.local.ip();
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let Some(job) = &mut entry.job else {
            return;
        };
        let protocol = job.route.protocol();
        let tries = job.tries;
        if tries >= most_tries(protocol, job.kind) {
            return self.on_silence(now, id);
        }
        job.tries = tries.saturating_add(1);
        let payload = match protocol {
            Protocol::Pcp => pcp_request(entry, local),
            Protocol::NatPmp | Protocol::Upnp => natpmp_request(entry),
        };
        self.send_to_gateway(payload);
        let wait = self.retry_wait(protocol, tries);
        self.timers.set(Timer::Mapping(id), after(now, wait));
    }

    /// A NAT-PMP message from the gateway.
    pub(super) fn on_natpmp(&mut self, now: Instant, payload: &[u8], announced: bool) {
        let Ok(response) = natpmp::Response::parse(payload) else {
            return;
        };
        if response.outcome == Err(natpmp::ResultCode::UNSUPPORTED_VERSION) {
            // What we send by NAT-PMP has its version: the answer is to PCP (RFC 6887 section 9).
            if !announced && self.probes.pcp.is_asking() {
                self.probes.pcp = Probe::Absent(None);
                self.timers.clear(Timer::Probe(Protocol::Pcp));
                self.choose(now);
            }
            return;
        }
        if !self.probes.natpmp_epoch.accept(now, response.epoch) {
            self.on_forgotten(now, Protocol::NatPmp, announced);
        }
        match response.outcome {
            Ok(Answer::ExternalAddress(address)) => {
                self.on_external_address(now, address);
                if !announced {
                    self.on_probe_answer(now, Protocol::NatPmp);
                }
            }
            Ok(Answer::Map(map)) if !announced => self.on_natpmp_map(now, map),
            Ok(Answer::Map(_)) => {}
            Err(_) if announced => {}
            Err(code) => self.on_natpmp_refusal(now, response.opcode, code, payload),
        }
    }

    /// The address outside may be another one: mappings tell it.
    fn on_external_address(&mut self, now: Instant, address: Ipv4Addr) {
        let address = IpAddr::V4(address);
        let changed = self.probes.external.is_some_and(|known| known != address);
        self.probes.external = Some(address);
        if changed {
            self.renew_all(now, Protocol::NatPmp, std::time::Duration::ZERO);
        }
    }

    fn on_natpmp_map(&mut self, now: Instant, map: natpmp::Map) {
        let external = self.external_of(Route::NatPmp);
        let Some(gateway) = self.config.gateway else {
            return;
        };
        let Some(id) = self.natpmp_job(map.transport, map.internal_port) else {
            return;
        };
        let Some(kind) = self.kind_of(id) else {
            return;
        };
        match (kind, map.lifetime) {
            (Kind::Remove, 0) => self.on_removed(now, id, Ok(())),
            // An answer to what was sent before it was to be removed.
            (Kind::Remove, _) => {}
            (Kind::Add | Kind::Renew, 0) => self.on_refused(now, id, Failure::Garbled),
            (Kind::Add | Kind::Renew, lifetime) if map.external_port != 0 => {
                let grant = Grant {
                    external_port: map.external_port,
                    external_address: external,
                    lifetime,
                    ticket: Ticket::NatPmp,
                    gateway,
                };
                self.on_granted(now, id, grant);
            }
            (Kind::Add | Kind::Renew, _) => self.on_refused(now, id, Failure::Garbled),
        }
    }

    fn on_natpmp_refusal(
        &mut self,
        now: Instant,
        opcode: u8,
        code: natpmp::ResultCode,
        payload: &[u8],
    ) {
        let why = Failure::Refused(Refusal::NatPmp(code));
        let transport = match opcode {
            1 => Transport::Udp,
            2 => Transport::Tcp,
            _ => {
                // The gateway has no address outside, or will not tell: mapping may work still.
                return match code {
                    natpmp::ResultCode::NETWORK_FAILURE => {
                        self.on_probe_answer(now, Protocol::NatPmp);
                    }
                    _ if self.probes.natpmp.is_asking() => {
                        self.on_probe_refused(now, Protocol::NatPmp, why);
                    }
                    _ => {}
                };
            }
        };
        // Not all say which port is refused.
        let port = match payload.get(8..10) {
            Some([first, second]) => u16::from_be_bytes([*first, *second]),
            _ => 0,
        };
        let named = self.natpmp_job(transport, port);
        if let Some(id) = named.or_else(|| self.natpmp_job_of(transport)) {
            self.on_refused(now, id, why);
        }
    }

    fn natpmp_job(&self, transport: Transport, port: u16) -> Option<MappingId> {
        self.find(|entry, job| {
            job.route == Route::NatPmp
                && entry.wish.transport == transport
                && entry.wish.internal_port == port
        })
    }

    fn natpmp_job_of(&self, transport: Transport) -> Option<MappingId> {
        self.find(|entry, job| job.route == Route::NatPmp && entry.wish.transport == transport)
    }

    fn find(&self, is_it: impl Fn(&Entry, &Job) -> bool) -> Option<MappingId> {
        let mut all = self.mappings.iter();
        let found = all.find(|(_, entry)| entry.job.as_ref().is_some_and(|job| is_it(entry, job)));
        found.map(|(id, _)| *id)
    }

    fn kind_of(&self, id: MappingId) -> Option<Kind> {
        self.mappings.get(&id)?.job.as_ref().map(|job| job.kind)
    }

    /// A PCP message from the gateway.
    pub(super) fn on_pcp(&mut self, now: Instant, payload: &[u8], announced: bool) {
        let Ok(response) = Response::parse(payload) else {
            return;
        };
        if response.result == pcp::ResultCode::UNSUPP_VERSION {
            // It is of our version: what it does not know is our NAT-PMP.
            if !announced && self.probes.natpmp.is_asking() {
                self.probes.natpmp = Probe::Absent(None);
                self.timers.clear(Timer::Probe(Protocol::NatPmp));
            }
            return self.choose(now);
        }
        if response.result == pcp::ResultCode::SUCCESS
            && !self.probes.pcp_epoch.accept(now, response.epoch)
        {
            self.on_forgotten(now, Protocol::Pcp, announced);
        }
        if announced {
            return;
        }
        match response.operation {
            Some(Operation::Map(map)) => self.on_pcp_map(now, &response, &map),
            // Whoever knows no ANNOUNCE may know MAP nonetheless (RFC 6887 section 14.1).
            Some(Operation::Announce) => match response.result {
                pcp::ResultCode::SUCCESS | pcp::ResultCode::UNSUPP_OPCODE => {
                    self.on_probe_answer(now, Protocol::Pcp);
                }
                code => self.on_probe_refused(now, Protocol::Pcp, failure_of(code)),
            },
            Some(Operation::Peer(_)) | None => {}
        }
    }

    fn on_pcp_map(&mut self, now: Instant, response: &Response, map: &pcp::Map) {
        let Some(gateway) = self.config.gateway else {
            return;
        };
        let ours = |entry: &Entry| {
            entry.nonce == map.nonce
                && entry.wish.internal_port == map.internal_port
                && entry.wish.transport.ip_protocol() == map.protocol
        };
        let found = self.mappings.iter().find(|(_, entry)| ours(entry));
        let Some((id, job)) = found.map(|(id, entry)| (*id, entry.job.as_ref())) else {
            return;
        };
        let kind = match job {
            Some(job) if job.route == Route::Pcp => job.kind,
            // The server says unasked that the mapping has changed (RFC 6887 section 14.2).
            None => {
                let held = self.mappings.get(&id).and_then(|entry| entry.held.as_ref());
                if held.is_some_and(|held| held.route == Route::Pcp) {
                    self.timers.set(Timer::Mapping(id), now);
                }
                return;
            }
            Some(_) => return,
        };
        match (response.result, kind) {
            (pcp::ResultCode::SUCCESS, Kind::Remove) if response.lifetime == 0 => {
                self.on_removed(now, id, Ok(()));
            }
            (pcp::ResultCode::SUCCESS, Kind::Remove) => {}
            // Of what is not there some say this in place of SUCCESS (RFC 6887 section 15.1).
            (pcp::ResultCode::NO_RESOURCES, Kind::Remove) => self.on_removed(now, id, Ok(())),
            (pcp::ResultCode::SUCCESS, Kind::Add | Kind::Renew)
                if response.lifetime == 0 || map.external_port == 0 =>
            {
                self.on_refused(now, id, Failure::Garbled);
            }
            (pcp::ResultCode::SUCCESS, Kind::Add | Kind::Renew) => {
                let address = map.external_address;
                let grant = Grant {
                    external_port: map.external_port,
                    external_address: (!address.is_unspecified()).then_some(address),
                    lifetime: response.lifetime,
                    ticket: Ticket::Pcp(map.nonce),
                    gateway,
                };
                self.on_granted(now, id, grant);
            }
            (code, _) => self.on_refused(now, id, failure_of(code)),
        }
    }
}

/// How often a request is sent. A first one has other ways to fall back on; to remove, the
/// lease does the rest.
const fn most_tries(protocol: Protocol, kind: Kind) -> u32 {
    match (protocol, kind) {
        (Protocol::Pcp, Kind::Renew) => 3,
        (Protocol::Pcp, Kind::Add | Kind::Remove) => 2,
        (_, Kind::Add | Kind::Renew) => 5,
        (_, Kind::Remove) => 4,
    }
}

const fn failure_of(code: pcp::ResultCode) -> Failure {
    match code {
        pcp::ResultCode::ADDRESS_MISMATCH => Failure::NatBetween,
        pcp::ResultCode::CANNOT_PROVIDE_EXTERNAL => Failure::PortTaken,
        code => Failure::Refused(Refusal::Pcp(code)),
    }
}

fn pcp_request(entry: &Entry, local: IpAddr) -> Vec<u8> {
    let any: IpAddr = if local.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let job = entry.job.as_ref();
    let removing = job.is_some_and(|job| job.kind == Kind::Remove);
    let suggested = entry
        .held
        .as_ref()
        .and_then(|held| held.mapping.external_address);
    let wish = &entry.wish;
    pcp::Request {
        lifetime: if removing { 0 } else { wish.lifetime },
        client: local,
        operation: Operation::Map(pcp::Map {
            nonce: entry.nonce,
            protocol: wish.transport.ip_protocol(),
            internal_port: wish.internal_port,
            external_port: if removing {
                0
            } else {
                job.map_or(0, |job| job.attempt.external_port)
            },
            external_address: suggested.filter(|_| !removing).unwrap_or(any),
        }),
        options: Options {
            third_party: wish.internal_host,
            prefer_failure: wish.exact && wish.external_port != 0 && !removing,
            ..Options::default()
        },
    }
    .to_bytes()
}

fn natpmp_request(entry: &Entry) -> Vec<u8> {
    let job = entry.job.as_ref();
    let removing = job.is_some_and(|job| job.kind == Kind::Remove);
    natpmp::Request::Map(natpmp::Map {
        transport: entry.wish.transport,
        internal_port: entry.wish.internal_port,
        external_port: if removing {
            0
        } else {
            job.map_or(0, |job| job.attempt.external_port)
        },
        lifetime: if removing { 0 } else { entry.wish.lifetime },
    })
    .to_bytes()
}
