//! The largest packet that gets to a server in one piece (RFC 8899: by sending, not by trusting
//! what routers say).
//!
//! Requests of many sizes leave at once; the next ones are between the largest that was answered
//! and the smallest that was not. What makes them large is an attribute that no server knows and
//! each ignores (RFC 8489 section 14), so that answers are small and the way back does not matter.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{AttributeType, Builder, Class, Message, Method, is_stun};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::probes::{Probe, Probes};
use crate::stun::random_transaction_id;
use crate::{Datagram, Transmit, Verdict};

/// What is tried first, in bytes of an IP packet: what every network carries, what IPv6 asks for,
/// tunnels, PPPoE, Ethernet.
const LADDER: [u16; 13] = [
    576, 1200, 1280, 1340, 1380, 1400, 1420, 1440, 1452, 1464, 1480, 1492, 1500,
];

/// Sizes of each later round.
const STEPS: u16 = 15;

/// STUN messages have multiples of four bytes.
const GRAIN: u16 = 4;

/// How long each request waits, and waits again. It is lost three times in ten thousand where one
/// packet in seventy is.
const WAITS: &[Duration] = &[Duration::from_millis(250), Duration::from_millis(350)];

/// Of those that a receiver ignores if it does not know them, one that nobody has.
const IGNORED: AttributeType = AttributeType(0xbfff);

/// How large packets may be on the way to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtu {
    /// Bytes of the largest IP packet that arrived, headers included; 1,500 is the most that is
    /// tried. Up to three bytes more may fit.
    pub bytes: u16,
    /// Larger ones disappear, and nobody says so, as a router should (RFC 1191, RFC 2923 section
    /// 2.1).
    pub black_hole: bool,
}

/// Searches for the [`PathMtu`] to a server. The caller sends its datagrams unfragmented, and
/// says which ones were refused.
#[derive(Debug)]
pub struct MtuSearch {
    rng: ChaCha20Rng,
    local: SocketAddr,
    server: SocketAddr,
    probes: Probes<u16>,
    whole: Option<u16>,
    /// Sizes that did not arrive, and whether nobody has said why.
    lost: BTreeMap<u16, bool>,
    done: bool,
    told: bool,
}

impl MtuSearch {
    /// Begins.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], local: SocketAddr, server: SocketAddr) -> Self {
        let mut this = Self {
            rng: ChaCha20Rng::from_seed(seed),
            local,
            server,
            probes: Probes::with_waits(WAITS),
            whole: None,
            lost: BTreeMap::new(),
            done: local.is_ipv4() != server.is_ipv4(),
            told: false,
        };
        if !this.done {
            LADDER.iter().for_each(|size| this.ask(*size));
            this.work(now);
        }
        this
    }

    /// A datagram arrived.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let expected = (datagram.local, datagram.remote) == (self.local, self.server);
        if !expected || !is_stun(datagram.payload) {
            return Verdict::NotMine;
        }
        let Ok(message) = Message::parse(datagram.payload) else {
            return Verdict::NotMine;
        };
        if !matches!(message.class(), Class::Success | Class::Error) {
            return Verdict::NotMine;
        }
        let Some(running) = self.probes.take(message.transaction_id()) else {
            return Verdict::NotMine;
        };
        if running.sent == 1 {
            let round_trip = now.saturating_duration_since(running.first_sent);
            self.probes.learn_round_trip(round_trip);
        }
        self.whole = self.whole.max(Some(running.probe.test));
        self.work(now);
        Verdict::Consumed
    }

    /// The system did not send a datagram with so many bytes of payload, because it is too large.
    pub fn handle_refused(&mut self, now: Instant, payload: usize) {
        let payload = u16::try_from(payload).unwrap_or(u16::MAX);
        self.limit(
            now,
            payload.saturating_add(self.headers()).saturating_sub(1),
        );
    }

    /// A router said that no packet larger than this passes.
    pub fn handle_too_big(&mut self, now: Instant, mtu: u16) {
        self.limit(now, mtu);
        let size = mtu.saturating_sub(mtu % GRAIN);
        let knows = self.probes.tests().any(|known| *known == size);
        let sound = LADDER.first().is_some_and(|least| size > *least);
        if !knows && !self.done && sound && self.whole < Some(size) {
            self.ask(size);
            self.work(now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.probes.poll_transmit()
    }

    /// What was found, once; the inner value is `None` if nothing was answered at all.
    pub fn poll_event(&mut self) -> Option<Option<PathMtu>> {
        if !self.done || self.told {
            return None;
        }
        self.told = true;
        Some(self.found())
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            return None;
        }
        self.probes.poll_timeout()
    }

    fn found(&self) -> Option<PathMtu> {
        let bytes = self.whole?;
        Some(PathMtu {
            bytes,
            black_hole: self.least_lost().is_some_and(|(_, silently)| silently),
        })
    }

    /// The smallest that is larger than what has arrived: what was lost besides was bad luck.
    fn least_lost(&self) -> Option<(u16, bool)> {
        let larger = self.whole?.checked_add(1)?;
        let (size, silently) = self.lost.range(larger..).next()?;
        Some((*size, *silently))
    }

    fn limit(&mut self, now: Instant, most: u16) {
        let over = most.saturating_sub(most % GRAIN).saturating_add(GRAIN);
        if self.whole.is_some_and(|whole| over <= whole) {
            return;
        }
        self.lost.insert(over, false);
        for (_, silently) in self.lost.range_mut(over..) {
            *silently = false;
        }
        self.work(now);
    }

    fn work(&mut self, now: Instant) {
        if self.done {
            return;
        }
        for given_up in self.probes.work(now) {
            let size = given_up.probe.test;
            let explained = self.lost.range(..=size).any(|(_, silently)| !silently);
            self.lost.entry(size).or_insert(!explained);
        }
        if self.is_known() {
            self.done = true;
        } else if self.probes.is_idle() {
            self.next_round(now);
        }
    }

    /// Whether there is nothing left between what arrives and what does not.
    fn is_known(&self) -> bool {
        let Some(whole) = self.whole else {
            return false;
        };
        let most = LADDER.last().copied().unwrap_or(u16::MAX);
        let lost = self.least_lost();
        whole >= most || lost.is_some_and(|(lost, _)| lost <= whole.saturating_add(GRAIN))
    }

    fn next_round(&mut self, now: Instant) {
        let bounds = self.whole.zip(self.least_lost());
        let Some((whole, (lost, _))) = bounds else {
            self.done = true;
            return;
        };
        let grains = lost.saturating_sub(whole) / GRAIN;
        let step = grains.div_ceil(STEPS.saturating_add(1)).max(1);
        let step = step.saturating_mul(GRAIN);
        let sizes = (1..=STEPS).map(|n| whole.saturating_add(step.saturating_mul(n)));
        for size in sizes.filter(|size| *size < lost) {
            self.ask(size);
        }
        for given_up in self.probes.work(now) {
            self.lost.insert(given_up.probe.test, true);
        }
    }

    const fn headers(&self) -> u16 {
        if self.server.is_ipv4() { 28 } else { 48 }
    }

    fn ask(&mut self, size: u16) {
        /// Of STUN, and of the attribute.
        const HEADERS: u16 = 24;
        let id = random_transaction_id(&mut self.rng);
        let filling = size.saturating_sub(self.headers()).saturating_sub(HEADERS);
        let payload = Builder::new(Class::Request, Method::BINDING, id)
            .raw_attribute(IGNORED, &vec![0; filling.into()])
            .build();
        let probe = Probe {
            test: size,
            local: self.local,
            remote: self.server,
            payload,
            ahead: None,
        };
        self.probes.add(id, probe);
    }
}

#[cfg(test)]
mod tests {
    use postern_wire::stun::XorMappedAddress;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
    fn clock() -> Instant {
        Instant::now()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Who says that a packet is too large.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Says {
        Nobody,
        Router,
        System,
    }

    /// What is found on a path that carries so much, and how long it takes.
    fn search(server: &str, mtu: usize, says: Says) -> (Option<PathMtu>, Duration) {
        let (begun, server) = (clock(), at(server));
        let local = if server.is_ipv4() {
            at("10.0.0.2:5000")
        } else {
            at("[2a45::2]:5000")
        };
        let headers = if server.is_ipv4() { 28 } else { 48 };
        let mut machine = MtuSearch::new(begun, [3; 32], local, server);
        let mut now = begun;
        for _ in 0..1_000 {
            while let Some(sent) = machine.poll_transmit() {
                let length = sent.payload.len().saturating_add(headers);
                let later = now.checked_add(Duration::from_millis(1)).unwrap();
                match says {
                    _ if length <= mtu => {
                        let payload = answer(&sent);
                        let datagram = Datagram {
                            local,
                            remote: server,
                            payload: &payload,
                        };
                        let verdict = machine.handle_input(later, datagram);
                        assert_eq!(verdict, Verdict::Consumed);
                    }
                    Says::Nobody => {}
                    Says::Router => machine.handle_too_big(later, u16::try_from(mtu).unwrap()),
                    Says::System => machine.handle_refused(later, sent.payload.len()),
                }
                now = later;
            }
            if let Some(found) = machine.poll_event() {
                assert_eq!(machine.poll_timeout(), None);
                assert_eq!(machine.poll_event(), None);
                return (found, now.saturating_duration_since(begun));
            }
            now = now.max(machine.poll_timeout().unwrap());
            machine.handle_timeout(now);
        }
        panic!("no end");
    }

    fn answer(request: &Transmit) -> Vec<u8> {
        let message = Message::parse(&request.payload).unwrap();
        Builder::new(Class::Success, Method::BINDING, message.transaction_id())
            .attribute(&XorMappedAddress(at("45.0.1.1:6000")))
            .build()
    }

    #[test]
    fn every_size_is_found_to_within_four_bytes_whoever_speaks() {
        for server in ["45.0.0.1:3478", "[2a45::1]:3478"] {
            for says in [Says::Nobody, Says::Router, Says::System] {
                for mtu in (576..=1500).step_by(7).chain([1280, 1492, 1500, 9000]) {
                    let (found, took) = search(server, mtu, says);
                    let found = found.unwrap();
                    let expected = (mtu - mtu % 4).min(1500);
                    assert_eq!(usize::from(found.bytes), expected, "{mtu} {says:?}");
                    let silent = says == Says::Nobody && mtu < 1500;
                    assert_eq!(found.black_hole, silent, "{mtu} {says:?}");
                    assert!(
                        took < Duration::from_millis(2500),
                        "{mtu} {says:?} {took:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn where_nothing_is_answered_nothing_is_known() {
        let (found, took) = search("45.0.0.1:3478", 0, Says::Nobody);
        assert_eq!(found, None);
        assert!(took < Duration::from_secs(1));
    }

    #[test]
    fn a_router_that_lies_is_not_believed() {
        let now = clock();
        let (local, server) = (at("10.0.0.2:5000"), at("45.0.0.1:3478"));
        let mut machine = MtuSearch::new(now, [3; 32], local, server);
        let mut now = now;
        while let Some(due) = machine.poll_timeout() {
            machine.handle_too_big(now, 68);
            while let Some(sent) = machine.poll_transmit() {
                let payload = answer(&sent);
                let datagram = Datagram {
                    local,
                    remote: server,
                    payload: &payload,
                };
                machine.handle_input(now, datagram);
            }
            now = now.max(due);
            machine.handle_timeout(now);
        }
        let expected = PathMtu {
            bytes: 1500,
            black_hole: false,
        };
        assert_eq!(machine.poll_event(), Some(Some(expected)));
    }
}
