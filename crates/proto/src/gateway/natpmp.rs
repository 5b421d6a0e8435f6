//! NAT-PMP (RFC 6886).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::natpmp::{
    Answer as Granted, Map, ParseError, Request, Response, ResultCode, refusal,
};

use super::Gateway;
use super::ask::{Answer, Ask, What};
use super::lease::{Client, Lease, LeaseId, Origin};
use super::refusal::Refusal;
use crate::{Datagram, Transmit, Verdict};

/// Whom to answer, and what.
#[derive(Debug, Clone)]
pub(super) struct NatPmpAnswer {
    local: SocketAddr,
    remote: SocketAddr,
    map: Map,
}

impl Gateway {
    pub(super) fn on_nat_pmp(
        &mut self,
        now: Instant,
        client: Client,
        datagram: &Datagram<'_>,
    ) -> Verdict {
        if !self.config.nat_pmp || !datagram.remote.is_ipv4() {
            return Verdict::NotMine;
        }
        match Request::parse(datagram.payload) {
            Ok(Request::ExternalAddress) => self.tell_external(now, datagram),
            Ok(Request::Map(map)) => self.on_nat_pmp_map(now, client, datagram, map),
            Err(ParseError::Opcode(_)) => {
                self.refuse_nat_pmp(now, datagram, ResultCode::UNSUPPORTED_OPCODE);
            }
            Err(ParseError::Version(_) | ParseError::Truncated | ParseError::Direction) => {}
        }
        Verdict::Consumed
    }

    fn tell_external(&mut self, now: Instant, datagram: &Datagram<'_>) {
        let Some(external) = self.outside() else {
            return self.refuse_nat_pmp(now, datagram, ResultCode::NETWORK_FAILURE);
        };
        let answer = Granted::ExternalAddress(external);
        let response = Response::granted(self.epoch_seconds(now), answer);
        self.send_back(datagram, response.to_bytes());
    }

    fn on_nat_pmp_map(&mut self, now: Instant, client: Client, datagram: &Datagram<'_>, map: Map) {
        let internal = SocketAddr::new(datagram.remote.ip(), map.internal_port);
        let answer = NatPmpAnswer {
            local: datagram.local,
            remote: datagram.remote,
            map,
        };
        if map.lifetime == 0 {
            return self.delete_nat_pmp(now, client, answer);
        }
        if map.internal_port == 0 {
            return self.refuse_nat_pmp(now, datagram, ResultCode::NOT_AUTHORIZED);
        }
        let old = self.nat_pmp_lease(map, internal);
        let ask = Ask {
            client,
            internal,
            transport: map.transport,
            what: match old.and_then(|old| old.kind.external_port()) {
                Some(port) => What::Exactly(port),
                None => What::Preferably(map.external_port),
            },
            filters: Vec::new(),
            life: Some(Duration::from_secs(map.lifetime.into()).min(self.config.max_lease)),
            origin: Origin::NatPmp,
            description: "NAT-PMP".to_owned(),
            enabled: true,
        };
        let old = old.map(|lease| lease.id);
        if let Err(why) = self.grant(now, ask, old, Answer::NatPmp(answer)) {
            self.refuse_nat_pmp(now, datagram, code(why));
        }
    }

    fn nat_pmp_lease(&self, map: Map, internal: SocketAddr) -> Option<&Lease> {
        let mut leases = self.table.at_internal(map.transport, internal);
        leases.find(|lease| lease.origin == Origin::NatPmp)
    }

    /// Deletes one mapping, or with an inside port of 0 all of the host (section 3.4). What
    /// is not there is deleted already.
    fn delete_nat_pmp(&mut self, now: Instant, client: Client, answer: NatPmpAnswer) {
        let map = answer.map;
        let mine = |lease: &&Lease| {
            lease.origin == Origin::NatPmp
                && lease.internal.ip() == client.address
                && lease.transport == map.transport
        };
        let ids: Vec<LeaseId> = if map.internal_port == 0 {
            self.table
                .iter()
                .filter(mine)
                .map(|lease| lease.id)
                .collect()
        } else {
            let internal = SocketAddr::new(client.address, map.internal_port);
            let found = self.nat_pmp_lease(map, internal);
            found.into_iter().map(|lease| lease.id).collect()
        };
        let Some((last, others)) = ids.split_last() else {
            return self.answer_nat_pmp(now, answer, None, Ok(()));
        };
        for id in others {
            self.take_back(*id, Answer::Nobody);
        }
        self.take_back(*last, Answer::NatPmp(answer));
    }

    pub(super) fn answer_nat_pmp(
        &mut self,
        now: Instant,
        answer: NatPmpAnswer,
        lease: Option<&Lease>,
        result: Result<(), Refusal>,
    ) {
        let NatPmpAnswer { local, remote, map } = answer;
        let granted = Map {
            external_port: lease
                .and_then(|lease| lease.kind.external_port())
                .unwrap_or_default(),
            lifetime: lease.map_or(0, |lease| lease.seconds_left(now)),
            ..map
        };
        let mut response = Response::granted(self.epoch_seconds(now), Granted::Map(granted));
        let payload = match result {
            Ok(()) => response.to_bytes(),
            Err(why) => {
                response.outcome = Err(code(why));
                response.to_bytes()
            }
        };
        self.transmits.push_back(Transmit {
            local,
            remote,
            payload,
        });
    }

    fn refuse_nat_pmp(&mut self, now: Instant, datagram: &Datagram<'_>, code: ResultCode) {
        let epoch = self.epoch_seconds(now);
        if let Some(payload) = refusal(datagram.payload, code, epoch) {
            self.send_back(datagram, payload);
        }
    }

    pub(super) fn send_back(&mut self, datagram: &Datagram<'_>, payload: Vec<u8>) {
        self.transmits.push_back(Transmit {
            local: datagram.local,
            remote: datagram.remote,
            payload,
        });
    }
}

const fn code(refusal: Refusal) -> ResultCode {
    match refusal {
        Refusal::NotAuthorized => ResultCode::NOT_AUTHORIZED,
        Refusal::NoExternal => ResultCode::NETWORK_FAILURE,
        Refusal::Conflict | Refusal::Quota | Refusal::NoResources => ResultCode::OUT_OF_RESOURCES,
    }
}
