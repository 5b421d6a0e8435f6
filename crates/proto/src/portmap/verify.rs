//! Whether a mapping works: a server looks at it from outside, and one that is dead is removed
//! and made again.
//!
//! | the port inside is | a connection, or the datagram, | verdict |
//! |---|---|---|
//! | ours, opened for the probe | arrives there | it works |
//! | | does not, whatever the server saw | dead |
//! | another program's, TCP | is made | it works |
//! | | is refused, or nothing answers | dead |
//! | another program's, UDP; nobody's | – | none: nothing of ours could answer |
//!
//! Three probes in a row must say that it is dead. A server that cannot be asked says nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::probe::{Answer, Outcome, Refusal, Verdict as Told};
use postern_wire::transport::Transport;

use super::after;
use super::client::Client;
use super::mapping::{Entry, Kind};
use super::timers::Timer;
use super::types::{Event, Mapping, MappingId};

/// How often a port is probed before it counts as dead, or the server as silent.
const TRIES: u8 = 3;
/// A server that says nothing is asked again within this only: whoever waits for the mapping waits
/// for that.
const IMPATIENCE: Duration = Duration::from_secs(5);
/// How long before it is probed again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the driver may take for a probe, and a little.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Names a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub(super) u32);

/// A port to be probed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its name.
    pub id: ProbeId,
    /// TCP or UDP.
    pub transport: Transport,
    /// The port outside: the server is to probe it at the address that it sees us at.
    pub external_port: u16,
    /// Where it leads to.
    pub internal: SocketAddr,
    /// Whether that is this host, so that the port may be opened for the probe.
    pub is_ours: bool,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Who has the port inside.
    pub listener: Listener,
    /// What the server says; `None` if it cannot be asked, or was not.
    pub answer: Option<Answer>,
}

/// Who has the port inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// We opened it for the probe.
    Ours {
        /// Whether a connection, or the datagram, has come.
        arrived: bool,
    },
    /// Another program; over TCP it takes connections from inside.
    Another,
    /// Nobody, as far as can be told.
    Nobody,
}

/// How far the look at a mapping is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    /// The probe that is under way.
    probe: Option<ProbeId>,
    tries: u8,
    began: Instant,
}

/// What a probe says about a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Works,
    Dead,
    /// The next probe may say more.
    Unheard,
    /// Nor will the next.
    Unknown,
}

impl Client {
    /// Says what came of a probe.
    pub fn handle_probed(&mut self, now: Instant, id: ProbeId, probed: Probed) {
        let is_it = |entry: &Entry| entry.check.is_some_and(|check| check.probe == Some(id));
        let found = self.mappings.iter().find(|(_, entry)| is_it(entry));
        let Some((id, entry)) = found else {
            return;
        };
        let (id, transport) = (*id, entry.wish.transport);
        let external = entry.held.as_ref().and_then(|h| h.mapping.external_address);
        if let Some(answer) = probed.answer {
            self.note_seen(answer.address);
        }
        let judgement = match probed.answer {
            Some(answer) if went_elsewhere(answer.address, external) => Judgement::Unknown,
            Some(_) | None => judge(transport, probed),
        };
        self.on_judgement(now, id, judgement);
    }

    /// What others see as our address.
    fn note_seen(&mut self, address: IpAddr) {
        if address.is_ipv4() != self.config.is_v6() {
            self.public_address = Some(address);
        }
    }

    /// Whether a mapping is to be looked at from outside.
    pub(super) fn is_verified(&self, id: MappingId) -> bool {
        let entry = self.mappings.get(&id);
        // A datagram to another host comes back from nobody.
        let can_tell = |entry: &Entry| {
            entry.wish.internal_host.is_none() || entry.wish.transport == Transport::Tcp
        };
        self.config.verify && entry.is_some_and(can_tell)
    }

    pub(super) fn is_checking(&self, id: MappingId) -> bool {
        let entry = self.mappings.get(&id);
        entry.is_some_and(|entry| entry.check.is_some())
    }

    /// Begins to look at a mapping that stands.
    pub(super) fn verify(&mut self, now: Instant, id: MappingId) {
        if let Some(entry) = self.mappings.get_mut(&id) {
            entry.check = Some(Check {
                probe: None,
                tries: 0,
                began: now,
            });
        }
        self.probe(now, id);
    }

    fn probe(&mut self, now: Instant, id: MappingId) {
        let name = ProbeId(self.next_probe);
        self.next_probe = self.next_probe.wrapping_add(1);
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let (Some(check), Some(held)) = (&mut entry.check, &entry.held) else {
            return;
        };
        check.probe = Some(name);
        check.tries = check.tries.saturating_add(1);
        let mapping = &held.mapping;
        self.events.push_back(Event::Probe(Probe {
            id: name,
            transport: mapping.transport,
            external_port: mapping.external_port,
            internal: SocketAddr::new(mapping.internal_address, mapping.internal_port),
            is_ours: entry.wish.internal_host.is_none(),
        }));
        self.timers.set(Timer::Verify(id), after(now, TIMEOUT));
    }

    /// It is time for the next probe, or the last one was not answered.
    pub(super) fn on_verify_due(&mut self, now: Instant, id: MappingId) {
        let check = self.mappings.get_mut(&id).and_then(|e| e.check.as_mut());
        match check.map(|check| check.probe.take()) {
            Some(Some(_)) => self.on_judgement(now, id, Judgement::Unheard),
            Some(None) => self.probe(now, id),
            None => {}
        }
    }

    fn on_judgement(&mut self, now: Instant, id: MappingId, judgement: Judgement) {
        let check = self.mappings.get_mut(&id).and_then(|e| e.check.as_mut());
        let Some(check) = check else {
            return;
        };
        check.probe = None;
        let may_repeat = check.tries < TRIES;
        let is_early = now.saturating_duration_since(check.began) < IMPATIENCE;
        match judgement {
            Judgement::Works => self.on_verdict(now, id, Some(true)),
            Judgement::Dead | Judgement::Unheard
                if may_repeat && (is_early || judgement == Judgement::Dead) =>
            {
                self.timers.set(Timer::Verify(id), after(now, PAUSE));
            }
            Judgement::Dead => self.on_verdict(now, id, Some(false)),
            Judgement::Unheard | Judgement::Unknown => self.on_verdict(now, id, None),
        }
    }

    /// What is dead is made again, once; another NAT behind the gateway cannot be healed.
    fn on_verdict(&mut self, now: Instant, id: MappingId, verdict: Option<bool>) {
        self.drop_check(id);
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(held) = &entry.held else {
            return;
        };
        let external = held.mapping.external_address;
        let is_hopeless = external.is_some() && self.is_double(external);
        if verdict == Some(false) && !entry.healed && !is_hopeless && entry.job.is_none() {
            return self.heal(now, id);
        }
        self.tell(id, verdict);
    }

    pub(super) fn drop_check(&mut self, id: MappingId) {
        self.timers.clear(Timer::Verify(id));
        if let Some(entry) = self.mappings.get_mut(&id) {
            entry.check = None;
        }
    }

    /// Removes it and makes it again: it is there, and does not work.
    pub fn heal(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        if let (None, Some(held)) = (&entry.job, &entry.held) {
            entry.healing = true;
            entry.healed = true;
            let route = held.route;
            self.begin(now, id, Kind::Remove, route);
        }
    }

    /// Tells what stands, with what is known of it.
    pub(super) fn tell(&mut self, id: MappingId, verified: Option<bool>) {
        let held = self.mappings.get(&id).and_then(|entry| entry.held.as_ref());
        let Some(external) = held.map(|held| held.mapping.external_address) else {
            return;
        };
        let works_untold = external.is_none() && verified == Some(true);
        let double_nat = self.is_double(external) && !works_untold;
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let Some(held) = &mut entry.held else {
            return;
        };
        held.mapping.double_nat = double_nat;
        held.mapping.verified = verified;
        let mapping = held.mapping.clone();
        let healed = std::mem::take(&mut entry.healed) && verified != Some(false);
        let event = match entry.told.replace(mapping.clone()) {
            None => Event::Made(id, mapping),
            Some(_) if healed => Event::Healed(id, mapping),
            Some(told) if place(&told) == place(&mapping) => Event::Renewed(id, mapping),
            Some(_) => Event::Moved(id, mapping),
        };
        self.events.push_back(event);
    }
}

/// What makes it another mapping to whoever uses it.
fn place(mapping: &Mapping) -> impl PartialEq + use<> {
    (
        mapping.protocol,
        mapping.gateway,
        mapping.external_address,
        mapping.external_port,
        mapping.double_nat,
    )
}

/// Whether the probe went to another family than the mapping's, or to another IPv6 address of
/// this host than the one that was opened.
fn went_elsewhere(probed: IpAddr, external: Option<IpAddr>) -> bool {
    external.is_some_and(|external| match external {
        IpAddr::V4(_) => probed.is_ipv6(),
        IpAddr::V6(_) => probed != external,
    })
}

fn judge(transport: Transport, probed: Probed) -> Judgement {
    let Probed { listener, answer } = probed;
    if listener == (Listener::Ours { arrived: true }) {
        return Judgement::Works;
    }
    let is_blind = match listener {
        Listener::Ours { .. } => false,
        Listener::Another => transport == Transport::Udp,
        Listener::Nobody => true,
    };
    let outcome = match answer.map(|answer| answer.verdict) {
        _ if is_blind => return Judgement::Unknown,
        Some(Told::Outcome(outcome)) => outcome,
        Some(Told::Error(Refusal::Busy)) | None => return Judgement::Unheard,
        Some(Told::Error(_)) => return Judgement::Unknown,
    };
    match (outcome, listener) {
        (Outcome::Unknown, _) => Judgement::Unknown,
        (Outcome::Connected, Listener::Another) => Judgement::Works,
        _ => Judgement::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_ARRIVED: Listener = Listener::Ours { arrived: false };

    fn judged(transport: Transport, listener: Listener, outcome: Outcome) -> Judgement {
        let address = [45, 45, 3, 2].into();
        let verdict = Told::Outcome(outcome);
        let answer = Some(Answer { address, verdict });
        judge(transport, Probed { listener, answer })
    }

    #[test]
    fn what_arrives_counts_whatever_the_server_saw() {
        let arrived = Listener::Ours { arrived: true };
        for transport in Transport::ALL {
            assert_eq!(
                judged(transport, arrived, Outcome::Silent),
                Judgement::Works
            );
            // Somebody else answered in our place.
            for outcome in [Outcome::Connected, Outcome::Echoed, Outcome::Silent] {
                assert_eq!(judged(transport, NOT_ARRIVED, outcome), Judgement::Dead);
            }
        }
    }

    #[test]
    fn another_programs_port_is_judged_by_connections_and_not_by_datagrams() {
        let tcp = |outcome| judged(Transport::Tcp, Listener::Another, outcome);
        assert_eq!(tcp(Outcome::Connected), Judgement::Works);
        for outcome in [Outcome::Refused, Outcome::Silent, Outcome::Unreachable] {
            assert_eq!(tcp(outcome), Judgement::Dead);
        }
        for outcome in [Outcome::Echoed, Outcome::Refused, Outcome::Silent] {
            let udp = judged(Transport::Udp, Listener::Another, outcome);
            assert_eq!(udp, Judgement::Unknown);
        }
    }

    #[test]
    fn where_nobody_listens_nothing_is_said() {
        for transport in Transport::ALL {
            for outcome in [Outcome::Connected, Outcome::Refused, Outcome::Silent] {
                let judgement = judged(transport, Listener::Nobody, outcome);
                assert_eq!(judgement, Judgement::Unknown);
            }
        }
    }

    #[test]
    fn a_server_that_cannot_be_asked_says_nothing() {
        let of = |answer| {
            let listener = NOT_ARRIVED;
            judge(Transport::Tcp, Probed { listener, answer })
        };
        assert_eq!(of(None), Judgement::Unheard);
        let refused = |refusal| {
            let address = [45, 45, 3, 2].into();
            let verdict = Told::Error(refusal);
            of(Some(Answer { address, verdict }))
        };
        assert_eq!(refused(Refusal::Busy), Judgement::Unheard);
        assert_eq!(refused(Refusal::Rate), Judgement::Unknown);
        assert_eq!(
            judged(Transport::Tcp, NOT_ARRIVED, Outcome::Unknown),
            Judgement::Unknown
        );
    }

    #[test]
    fn a_probe_of_another_address_says_nothing_about_this_one() {
        let v4: IpAddr = [45, 45, 3, 2].into();
        let other: IpAddr = [45, 45, 4, 2].into();
        let v6: IpAddr = [0x2a45, 0x45, 1, 0, 0, 0, 0, 0x10].into();
        let private: IpAddr = [0x2a45, 0x45, 1, 0, 0, 0, 0, 0x11].into();
        assert!(!went_elsewhere(v4, Some(v4)));
        assert!(!went_elsewhere(other, Some(v4)), "behind two NATs");
        assert!(!went_elsewhere(v4, None));
        assert!(went_elsewhere(v6, Some(v4)));
        assert!(went_elsewhere(private, Some(v6)));
    }
}
