//! What is asked, and when.

use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::stun::{Builder, ChangeRequest, Class, Method, Padding, TransactionId};

use super::super::probes::{Ahead, Probe, Probes};
use super::{Discovery, Event, FIRST_LIMITED, MAX_HOPS, Stage, Test};
use crate::punch::{Filtering, Mapping};
use crate::stun::random_transaction_id;

/// Larger than a frame of Ethernet, and than what any tunnel adds to it.
const LARGE: u16 = 2000;

impl Discovery {
    pub(super) fn work(&mut self, now: Instant) {
        for given_up in self.probes.work(now) {
            self.on_silence(given_up.probe.test);
        }
        loop {
            let before = self.stage;
            self.step(now);
            if self.stage == before {
                break;
            }
        }
        // What the step has asked for goes out at once.
        for given_up in self.probes.work(now) {
            self.on_silence(given_up.probe.test);
        }
    }

    fn step(&mut self, now: Instant) {
        match self.stage {
            Stage::Asking if self.probes.is_idle() => self.finish(),
            Stage::Choosing(until) if until <= now || self.all_have_answered() => {
                self.begin_tests();
            }
            Stage::Testing if self.probes.is_idle() => self.begin_last(),
            Stage::Last if self.is_done() => self.finish(),
            Stage::Asking | Stage::Choosing(_) | Stage::Testing | Stage::Last | Stage::Done => {}
        }
    }

    fn all_have_answered(&self) -> bool {
        !self.probes.tests().any(|test| *test == Test::Map)
            || self.answers.iter().any(|(_, other)| other.is_some())
    }

    /// What is under way is of no use any more once the rest is known.
    fn is_done(&self) -> bool {
        let tells = |test: &Test| match test {
            Test::Hairpin => self.hairpin != Some(true),
            Test::Distance(ttl) => self.opened.is_none_or(|least| *ttl < least),
            Test::Map
            | Test::FilterBase
            | Test::FilterAddress
            | Test::FilterPort
            | Test::Sample
            | Test::Fragments
            | Test::Hop(_) => true,
        };
        !self.probes.tests().any(tells)
    }

    fn on_silence(&mut self, test: Test) {
        if !self.answers.is_empty() && matches!(test, Test::Sample | Test::FilterBase) {
            self.asked = self.asked.saturating_add(1);
            self.lost = self.lost.saturating_add(1);
        }
        match test {
            Test::FilterAddress => self.filtering.from_address = Some(false),
            Test::FilterPort => self.filtering.from_port = Some(false),
            Test::Fragments => self.fragments = Some(false),
            Test::Hairpin => self.on_hairpin_silence(),
            Test::Map | Test::FilterBase | Test::Sample => {}
            Test::Distance(_) | Test::Hop(_) => {}
        }
    }

    /// All tests with the best of the servers that have answered.
    fn begin_tests(&mut self) {
        self.stage = Stage::Testing;
        let mut answers = self.answers.iter();
        let best = answers.clone().find(|(_, other)| other.is_some());
        let Some(&(server, other)) = best.or_else(|| answers.next()) else {
            return;
        };
        self.chosen = Some((server, other));
        if let Some(other) = other {
            let ends = [
                SocketAddr::new(other.ip(), server.port()),
                other,
                SocketAddr::new(server.ip(), other.port()),
            ];
            for end in ends {
                self.ask(0, end, Test::Map);
            }
        }
        if self.locals.len() > 1 {
            self.ask(1, server, Test::FilterBase);
            if other.is_some() {
                self.ask(1, server, Test::FilterAddress);
                self.ask(1, server, Test::FilterPort);
            }
        }
        for index in 2..self.locals.len() {
            self.ask(index, server, Test::Sample);
        }
        if other.is_some() {
            self.ask(0, server, Test::Fragments);
        }
    }

    fn begin_last(&mut self) {
        self.stage = Stage::Last;
        self.begin_hairpin();
        self.begin_distance();
    }

    /// Packets that live longer and longer, towards the server's other address, each from a
    /// socket of its own that the server then answers from there: the first to be answered has
    /// passed the last filter. The routers at which the others died may say who they are.
    ///
    /// Only where all destinations share a mapping does the server know whom to answer.
    fn begin_distance(&mut self) {
        let Some((server, _)) = self.chosen else {
            return;
        };
        let findings = self.findings();
        let opens = findings.nat.is_some_and(|nat| {
            nat.mapping == Mapping::EndpointIndependent
                && matches!(
                    nat.filtering,
                    Filtering::AddressDependent | Filtering::AddressAndPortDependent
                )
        });
        if !opens && findings.translated != Some(true) {
            return;
        }
        for (ttl, index) in (1..=MAX_HOPS).zip(FIRST_LIMITED..self.locals.len()) {
            let test = if opens {
                Test::Distance(ttl)
            } else {
                Test::Hop(ttl)
            };
            self.ask(index, server, test);
        }
    }

    /// What goes before a request, for the routers on its way.
    fn ahead(&mut self, test: Test) -> Option<Ahead> {
        let (Test::Distance(ttl) | Test::Hop(ttl)) = test else {
            return None;
        };
        let (server, other) = self.chosen?;
        let id = random_transaction_id(&mut self.rng);
        Some(Ahead {
            remote: other.unwrap_or(server),
            payload: Builder::new(Class::Indication, Method::BINDING, id).build(),
            ttl,
        })
    }

    /// The packets that the NAT is to turn round go both ways: what the filter of one mapping
    /// does not let in, because that one has sent to another mapped address, the other may.
    fn begin_hairpin(&mut self) {
        let (Some(main), Some(third)) = (self.mapped.first().copied(), self.third) else {
            return;
        };
        if self.locals.first() == Some(&main) {
            return;
        }
        self.ask(0, third, Test::Hairpin);
        self.ask(2, main, Test::Hairpin);
    }

    /// Silence means that nothing is turned round only if it could have come in: where each
    /// endpoint has a mapping of its own that lets in only whom it has sent to, it could not.
    fn on_hairpin_silence(&mut self) {
        let nat = self.findings().nat;
        let could = nat.is_some_and(|nat| {
            nat.mapping == Mapping::EndpointIndependent
                || nat.filtering == Filtering::EndpointIndependent
        });
        if self.hairpin.is_none() && could {
            self.hairpin = Some(false);
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Done;
        self.probes = Probes::default();
        let findings = Box::new(self.findings());
        self.events.push_back(Event::Done(findings));
    }

    pub(super) fn ask(&mut self, socket: usize, remote: SocketAddr, test: Test) {
        let Some(local) = self.locals.get(socket).copied() else {
            return;
        };
        if local.is_ipv4() != remote.is_ipv4() {
            return;
        }
        let id = random_transaction_id(&mut self.rng);
        let payload = request(id, test);
        let probe = Probe {
            test,
            local,
            remote,
            payload,
            ahead: self.ahead(test),
        };
        self.probes.add(id, probe);
    }
}

fn request(id: TransactionId, test: Test) -> Vec<u8> {
    let from = |ip| ChangeRequest { ip, port: true };
    let (change, padding) = match test {
        Test::FilterAddress | Test::Distance(_) => (Some(from(true)), None),
        Test::FilterPort => (Some(from(false)), None),
        Test::Fragments => (None, Padding::new(LARGE).ok()),
        Test::Map | Test::FilterBase | Test::Sample | Test::Hairpin | Test::Hop(_) => (None, None),
    };
    Builder::new(Class::Request, Method::BINDING, id)
        .maybe_attribute(change.as_ref())
        .maybe_attribute(padding.as_ref())
        .build()
}
