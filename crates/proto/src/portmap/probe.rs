//! Asking the default gateway for PCP and NAT-PMP, without making anything.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::natpmp;
use postern_wire::pcp::{self, Operation, Options};

use super::client::Client;
use super::epoch::{NatPmpEpoch, PcpEpoch};
use super::timers::Timer;
use super::types::{Failure, Protocol};
use super::{after, choice::Route};
use crate::Transmit;

/// The first wait for an answer (RFC 6886 section 3.1): then twice as long, and so on.
pub(super) const NATPMP_RETRY: Duration = Duration::from_millis(250);
/// The first wait for an answer (RFC 6887 section 8.1.1, IRT).
pub(super) const PCP_RETRY: Duration = Duration::from_secs(3);
/// How often the gateway is asked before it counts as not speaking the protocol: 7.75 s of
/// NAT-PMP. When nobody else answers either, that is noticed earlier ([`SETTLE`](super::choice)).
const TRIES: u32 = 5;

/// What is known of the gateway, by one of the two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Probe {
    /// Nobody is asked.
    #[default]
    Off,
    /// So many questions were sent.
    Asking(u32),
    /// It speaks the protocol, and was ready at this time.
    Ready(Instant),
    /// It does not, or refuses.
    Absent(Option<Failure>),
}

impl Probe {
    pub(super) const fn is_asking(self) -> bool {
        matches!(self, Self::Asking(_))
    }

    pub(super) const fn is_ready(self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

/// Both of them, and what the gateway has said.
#[derive(Debug, Default)]
pub(super) struct Probes {
    pub(super) pcp: Probe,
    pub(super) natpmp: Probe,
    pub(super) pcp_epoch: PcpEpoch,
    pub(super) natpmp_epoch: NatPmpEpoch,
    /// What NAT-PMP says is the address outside.
    pub(super) external: Option<IpAddr>,
}

impl Probes {
    pub(super) const fn of(&mut self, protocol: Protocol) -> &mut Probe {
        match protocol {
            Protocol::Pcp => &mut self.pcp,
            Protocol::NatPmp | Protocol::Upnp => &mut self.natpmp,
        }
    }
}

impl Client {
    /// Asks by both protocols, unless they are ready or off.
    pub(super) fn start_probes(&mut self, now: Instant) {
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            let wanted = self.config.protocols.contains(protocol)
                && (protocol == Protocol::Pcp || !self.config.is_v6());
            if wanted && self.config.gateway.is_some() && !self.probes.of(protocol).is_ready() {
                *self.probes.of(protocol) = Probe::Asking(0);
                self.send_probe(now, protocol);
            }
        }
    }

    /// Asks once more, or gives up.
    pub(super) fn send_probe(&mut self, now: Instant, protocol: Protocol) {
        let Probe::Asking(tries) = *self.probes.of(protocol) else {
            return;
        };
        if tries >= TRIES {
            *self.probes.of(protocol) = Probe::Absent(None);
            return self.choose(now);
        }
        *self.probes.of(protocol) = Probe::Asking(tries.saturating_add(1));
        let payload = match protocol {
            Protocol::Pcp => self.announce_request(),
            Protocol::NatPmp | Protocol::Upnp => natpmp::Request::ExternalAddress.to_bytes(),
        };
        self.send_to_gateway(payload);
        let wait = self.retry_wait(protocol, tries);
        self.timers.set(Timer::Probe(protocol), after(now, wait));
    }

    /// How long to wait after so many tries: doubled each time, and for PCP off by up to a
    /// tenth (RFC 6887 section 8.1.1).
    pub(super) fn retry_wait(&mut self, protocol: Protocol, tries: u32) -> Duration {
        let first = if protocol == Protocol::Pcp {
            let tenth = PCP_RETRY.div_f32(10.0);
            self.between(
                PCP_RETRY.saturating_sub(tenth),
                PCP_RETRY.saturating_add(tenth),
            )
        } else {
            NATPMP_RETRY
        };
        first.saturating_mul(1_u32.checked_shl(tries.min(8)).unwrap_or(1))
    }

    /// ANNOUNCE makes nothing and is answered with the epoch (RFC 6887 section 14.1).
    fn announce_request(&self) -> Vec<u8> {
        pcp::Request {
            lifetime: 0,
            client: self.config.local.ip(),
            operation: Operation::Announce,
            options: Options::default(),
        }
        .to_bytes()
    }

    pub(super) fn send_to_gateway(&mut self, payload: Vec<u8>) {
        if let Some(gateway) = self.config.gateway {
            self.transmits.push_back(Transmit {
                local: self.config.local,
                remote: self.config.at(gateway, natpmp::GATEWAY_PORT),
                payload,
            });
        }
    }

    /// The gateway has answered by this protocol, for the first time or again.
    pub(super) fn on_probe_answer(&mut self, now: Instant, protocol: Protocol) {
        let probe = self.probes.of(protocol);
        if probe.is_ready() {
            return;
        }
        *probe = Probe::Ready(now);
        self.timers.clear(Timer::Probe(protocol));
        self.on_ready(now);
    }

    /// The gateway does not speak this protocol, or refuses whatever is asked.
    pub(super) fn on_probe_refused(&mut self, now: Instant, protocol: Protocol, why: Failure) {
        *self.probes.of(protocol) = Probe::Absent(Some(why));
        self.timers.clear(Timer::Probe(protocol));
        let route = if protocol == Protocol::Pcp {
            Route::Pcp
        } else {
            Route::NatPmp
        };
        self.abandon_route(now, route, why);
        self.choose(now);
    }
}
