//! PCP (RFC 6887), and telling it from NAT-PMP.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::pcp::{
    self, Map, Operation, Options, Peer, Request, RequestError, Response, ResultCode,
};
use postern_wire::transport::Transport;

use super::ask::{Answer, Ask, What};
use super::lease::{Client, Filter, Kind, Lease, LeaseId, Origin};
use super::refusal::Refusal;
use super::{Event, Gateway, MAX_FILTERS, MAX_PCP_LEASE, MIN_PCP_LEASE};
use crate::turn::server::Cidr;
use crate::{Datagram, Verdict};

/// How long a client should not ask again (RFC 6887 section 7.4): seconds.
const LONG_ERROR: u32 = 1800;
const SHORT_ERROR: u32 = 30;

/// Whom to answer, and what was asked.
#[derive(Debug, Clone)]
pub(super) struct PcpAnswer {
    local: SocketAddr,
    remote: SocketAddr,
    asked: Vec<u8>,
    operation: Operation,
    options: Options,
}

/// A MAP or PEER request that may be looked at.
struct Wanted<'a> {
    client: Client,
    datagram: &'a Datagram<'a>,
    lifetime: u32,
    /// Whose port: the client's, or a third party's.
    internal: SocketAddr,
    map: Map,
    options: Options,
    operation: Operation,
}

impl Gateway {
    /// Takes a datagram that came to port 5351 from inside.
    pub fn handle_input(
        &mut self,
        now: Instant,
        client: Client,
        datagram: Datagram<'_>,
    ) -> Verdict {
        if !self.config.is_inside(client.address) || datagram.remote.port() == 0 {
            return Verdict::NotMine;
        }
        match datagram.payload.first() {
            Some(&postern_wire::natpmp::VERSION) => self.on_nat_pmp(now, client, &datagram),
            Some(_) if self.config.pcp => {
                self.on_pcp(now, client, &datagram);
                Verdict::Consumed
            }
            _ => Verdict::NotMine,
        }
    }

    fn on_pcp(&mut self, now: Instant, client: Client, datagram: &Datagram<'_>) {
        let result = match Request::parse(datagram.payload) {
            Ok(request) => self.serve_pcp(now, client, datagram, request),
            Err(RequestError::NotRequest) => return,
            Err(RequestError::Version(_)) => Err(ResultCode::UNSUPP_VERSION),
            Err(RequestError::Refused(code)) => Err(code),
        };
        if let Err(code) = result {
            self.refuse_pcp(now, datagram, code);
        }
    }

    fn serve_pcp(
        &mut self,
        now: Instant,
        client: Client,
        datagram: &Datagram<'_>,
        request: Request,
    ) -> Result<(), ResultCode> {
        if request.client.to_canonical() != client.address {
            return Err(ResultCode::ADDRESS_MISMATCH);
        }
        let host = self.host(client, &request.options)?;
        match request.operation {
            Operation::Announce => {
                let epoch = self.epoch_seconds(now);
                let answer = Response::granted(0, epoch, Operation::Announce, Options::default());
                self.send_back(datagram, answer.to_bytes());
                Ok(())
            }
            Operation::Map(map) | Operation::Peer(Peer { map, .. }) => {
                let wanted = Wanted {
                    client,
                    datagram,
                    lifetime: request.lifetime,
                    internal: SocketAddr::new(host, map.internal_port),
                    map,
                    options: request.options,
                    operation: request.operation,
                };
                match request.operation {
                    Operation::Peer(peer) => self.on_peer(now, &wanted, peer),
                    Operation::Announce | Operation::Map(_) => self.on_map(now, &wanted),
                }
            }
        }
    }

    /// For whom a mapping is to be (section 13.1).
    fn host(&self, client: Client, options: &Options) -> Result<IpAddr, ResultCode> {
        match options.third_party.map(|host| host.to_canonical()) {
            None => Ok(client.address),
            Some(_) if !self.config.third_party => Err(ResultCode::UNSUPP_OPTION),
            Some(host) if host == client.address => Err(ResultCode::MALFORMED_REQUEST),
            Some(host) if host.is_ipv4() != client.address.is_ipv4() => {
                Err(ResultCode::MALFORMED_OPTION)
            }
            Some(host) => Ok(host),
        }
    }

    fn on_map(&mut self, now: Instant, wanted: &Wanted<'_>) -> Result<(), ResultCode> {
        let map = wanted.map;
        if map.protocol == 0 && map.internal_port != 0 {
            return Err(ResultCode::MALFORMED_REQUEST);
        }
        if wanted.lifetime == 0 {
            return self.delete_pcp(now, wanted);
        }
        // Whole protocols, or all ports of a host, are not opened.
        let transport =
            Transport::from_ip_protocol(map.protocol).ok_or(ResultCode::UNSUPP_PROTOCOL)?;
        if map.internal_port == 0 {
            return Err(ResultCode::NOT_AUTHORIZED);
        }
        let old = self.pcp_lease(transport, wanted.internal, &is_map);
        if old.is_some_and(|lease| lease.origin != Origin::Pcp(map.nonce)) {
            return Err(ResultCode::NOT_AUTHORIZED);
        }
        let before = old.map(|lease| &lease.filters[..]).unwrap_or_default();
        let filters = filters(before, wanted)?;
        let what = self.what_to_map(wanted, old)?;
        let old = old.map(|lease| lease.id);
        self.grant_pcp(now, wanted, transport, what, filters, old)
    }

    fn what_to_map(&self, wanted: &Wanted<'_>, old: Option<&Lease>) -> Result<What, ResultCode> {
        let map = wanted.map;
        let suggested = map.external_address.to_canonical();
        let external = match wanted.internal.ip() {
            IpAddr::V4(_) => self.outside().map(IpAddr::V4),
            own @ IpAddr::V6(_) => Some(own),
        };
        let external = external.ok_or(ResultCode::NETWORK_FAILURE)?;
        let fixed = match old {
            Some(lease) => Some(lease.kind.external_port().unwrap_or(map.internal_port)),
            None => wanted.internal.is_ipv6().then_some(map.internal_port),
        };
        if wanted.options.prefer_failure {
            let other_port = fixed.is_some_and(|port| port != map.external_port);
            let other_address = !suggested.is_unspecified() && suggested != external;
            if (map.external_port != 0 && other_port) || other_address {
                return Err(ResultCode::CANNOT_PROVIDE_EXTERNAL);
            }
        }
        Ok(match fixed {
            _ if wanted.internal.is_ipv6() => What::Pinhole,
            Some(port) => What::Exactly(port),
            None if wanted.options.prefer_failure && map.external_port != 0 => {
                What::Exactly(map.external_port)
            }
            None => What::Preferably(map.external_port),
        })
    }

    fn on_peer(&mut self, now: Instant, wanted: &Wanted<'_>, peer: Peer) -> Result<(), ResultCode> {
        if self.behind && wanted.internal.is_ipv4() {
            return Err(ResultCode::UNSUPP_OPCODE);
        }
        let map = peer.map;
        let remote = SocketAddr::new(peer.remote_address.to_canonical(), peer.remote_port);
        let transport =
            Transport::from_ip_protocol(map.protocol).ok_or(ResultCode::UNSUPP_PROTOCOL)?;
        let is_complete = map.internal_port != 0
            && remote.port() != 0
            && !remote.ip().is_unspecified()
            && remote.is_ipv4() == wanted.internal.is_ipv4();
        if !is_complete || !wanted.options.filters.is_empty() || wanted.lifetime == 0 {
            return Err(ResultCode::MALFORMED_REQUEST);
        }
        let this = |lease: &Lease| is_peer_of(lease, remote);
        let old = self.pcp_lease(transport, wanted.internal, &this);
        if old.is_some_and(|lease| lease.origin != Origin::Pcp(map.nonce)) {
            return Err(ResultCode::NOT_AUTHORIZED);
        }
        let mapped = self.pcp_lease(transport, wanted.internal, &is_map);
        let has = old.or(mapped).and_then(|lease| lease.kind.external_port());
        if wanted.options.prefer_failure && has.is_some_and(|port| port != map.external_port) {
            return Err(ResultCode::CANNOT_PROVIDE_EXTERNAL);
        }
        let what = match remote {
            SocketAddr::V4(remote) => What::Peer(has.unwrap_or(map.external_port), remote),
            SocketAddr::V6(remote) => What::PeerPinhole(remote),
        };
        let old = old.map(|lease| lease.id);
        self.grant_pcp(now, wanted, transport, what, Vec::new(), old)
    }

    fn grant_pcp(
        &mut self,
        now: Instant,
        wanted: &Wanted<'_>,
        transport: Transport,
        what: What,
        filters: Vec<Filter>,
        old: Option<LeaseId>,
    ) -> Result<(), ResultCode> {
        let longest = MAX_PCP_LEASE.min(self.config.max_lease);
        let life = Duration::from_secs(wanted.lifetime.into());
        let ask = Ask {
            client: wanted.client,
            internal: wanted.internal,
            transport,
            what,
            filters,
            life: Some(life.max(MIN_PCP_LEASE).min(longest)),
            origin: Origin::Pcp(wanted.map.nonce),
            description: "PCP".to_owned(),
            enabled: true,
        };
        self.grant(now, ask, old, Answer::Pcp(wanted.answer()))
            .map_err(|why| code(why, wanted))
    }

    /// Deletes one mapping, or with an inside port of 0 all of a protocol, or of all
    /// protocols (section 15.1). What is not there is deleted already.
    fn delete_pcp(&mut self, now: Instant, wanted: &Wanted<'_>) -> Result<(), ResultCode> {
        if wanted.map.external_port != 0 && wanted.options.prefer_failure {
            return Err(ResultCode::MALFORMED_OPTION);
        }
        let map = wanted.map;
        let transport = Transport::from_ip_protocol(map.protocol);
        if map.protocol != 0 && transport.is_none() {
            return Err(ResultCode::UNSUPP_PROTOCOL);
        }
        let found: Vec<(LeaseId, Origin)> = if map.internal_port == 0 {
            let of_host = |lease: &&Lease| {
                lease.internal.ip() == wanted.internal.ip()
                    && transport.is_none_or(|transport| transport == lease.transport)
                    && lease.origin == Origin::Pcp(map.nonce)
                    && is_map(lease)
            };
            let leases = self.table.iter().filter(of_host);
            leases.map(|lease| (lease.id, lease.origin)).collect()
        } else {
            let lease =
                transport.and_then(|transport| self.pcp_lease(transport, wanted.internal, &is_map));
            lease
                .into_iter()
                .map(|lease| (lease.id, lease.origin))
                .collect()
        };
        if found
            .iter()
            .any(|(_, origin)| *origin != Origin::Pcp(map.nonce))
        {
            return Err(ResultCode::NOT_AUTHORIZED);
        }
        let Some(((last, _), others)) = found.split_last() else {
            self.answer_pcp(now, wanted.answer(), None, Ok(()));
            return Ok(());
        };
        for (id, _) in others {
            self.take_back(*id, Answer::Nobody);
        }
        self.take_back(*last, Answer::Pcp(wanted.answer()));
        Ok(())
    }

    /// A lease of PCP for a port of a host.
    fn pcp_lease(
        &self,
        transport: Transport,
        internal: SocketAddr,
        fits: &dyn Fn(&Lease) -> bool,
    ) -> Option<&Lease> {
        let mut leases = self.table.at_internal(transport, internal);
        leases.find(|lease| matches!(lease.origin, Origin::Pcp(_)) && fits(lease))
    }

    pub(super) fn answer_pcp(
        &mut self,
        now: Instant,
        answer: PcpAnswer,
        lease: Option<&Lease>,
        result: Result<(), Refusal>,
    ) {
        let datagram = Datagram {
            local: answer.local,
            remote: answer.remote,
            payload: &answer.asked,
        };
        match result {
            Ok(()) => {}
            Err(Refusal::Conflict) if answer.options.prefer_failure => {
                return self.refuse_pcp(now, &datagram, ResultCode::CANNOT_PROVIDE_EXTERNAL);
            }
            Err(_) => return self.refuse_pcp(now, &datagram, ResultCode::NO_RESOURCES),
        }
        let epoch = self.epoch_seconds(now);
        let operation = self.granted(answer.operation, lease);
        let lifetime = lease.map_or(0, |lease| lease.seconds_left(now));
        let response = Response::granted(lifetime, epoch, operation, answer.options);
        self.send_back(&datagram, response.to_bytes());
        if let Some(lease) = lease.filter(|lease| matches!(lease.kind, Kind::Peer { .. })) {
            let life = Duration::from_secs(lifetime.into());
            let opening = self.opening(lease);
            self.events.push_back(Event::KeepFlow(opening, life));
        }
    }

    /// What was asked for with what was given in its place.
    fn granted(&self, operation: Operation, lease: Option<&Lease>) -> Operation {
        let fill = |map: Map| match lease {
            None => map,
            Some(lease) => Map {
                external_port: lease
                    .kind
                    .external_port()
                    .unwrap_or_else(|| lease.internal.port()),
                external_address: match (lease.kind.external_port(), self.outside()) {
                    (Some(_), Some(external)) => external.into(),
                    (Some(_), None) => Ipv6Addr::UNSPECIFIED.into(),
                    (None, _) => lease.internal.ip(),
                },
                ..map
            },
        };
        match operation {
            Operation::Announce => Operation::Announce,
            Operation::Map(map) => Operation::Map(fill(map)),
            Operation::Peer(peer) => Operation::Peer(Peer {
                map: fill(peer.map),
                ..peer
            }),
        }
    }

    fn refuse_pcp(&mut self, now: Instant, datagram: &Datagram<'_>, code: ResultCode) {
        let epoch = self.epoch_seconds(now);
        let is_short = matches!(
            code,
            ResultCode::NETWORK_FAILURE
                | ResultCode::NO_RESOURCES
                | ResultCode::USER_EX_QUOTA
                | ResultCode::CANNOT_PROVIDE_EXTERNAL
        );
        let lifetime = if is_short { SHORT_ERROR } else { LONG_ERROR };
        if let Some(payload) = pcp::refusal(datagram.payload, code, lifetime, epoch) {
            self.send_back(datagram, payload);
        }
    }
}

impl Wanted<'_> {
    fn answer(&self) -> PcpAnswer {
        PcpAnswer {
            local: self.datagram.local,
            remote: self.datagram.remote,
            asked: self.datagram.payload.to_vec(),
            operation: self.operation,
            options: Options {
                third_party: self.options.third_party,
                prefer_failure: self.options.prefer_failure,
                filters: self.options.filters.clone(),
                ..Options::default()
            },
        }
    }
}

/// Made by MAP, and not by PEER.
const fn is_map(lease: &Lease) -> bool {
    matches!(lease.kind, Kind::Mapping { .. } | Kind::Pinhole)
}

fn is_peer_of(lease: &Lease, to: SocketAddr) -> bool {
    match lease.kind {
        Kind::Mapping { .. } | Kind::Pinhole => false,
        Kind::Peer { remote, .. } => SocketAddr::V4(remote) == to,
        Kind::PeerPinhole { remote } => SocketAddr::V6(remote) == to,
    }
}

/// The filters that a mapping has after a request: those that it had and the new ones, and a
/// filter of no bits removes those before it (section 13.3).
fn filters(before: &[Filter], wanted: &Wanted<'_>) -> Result<Vec<Filter>, ResultCode> {
    let mut filters = before.to_vec();
    for filter in &wanted.options.filters {
        if filter.prefix_length == 0 {
            filters.clear();
            continue;
        }
        let address = filter.remote_address.to_canonical();
        let length = if address.is_ipv4() {
            filter.prefix_length.checked_sub(96)
        } else {
            Some(filter.prefix_length)
        };
        let network = length.and_then(|length| Cidr::new(address, length));
        let network = network
            .filter(|_| address.is_ipv4() == wanted.internal.is_ipv4())
            .ok_or(ResultCode::MALFORMED_OPTION)?;
        let filter = Filter {
            network,
            port: (filter.remote_port != 0).then_some(filter.remote_port),
        };
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    if filters.len() > MAX_FILTERS {
        return Err(ResultCode::EXCESSIVE_REMOTE_PEERS);
    }
    Ok(filters)
}

const fn code(refusal: Refusal, wanted: &Wanted<'_>) -> ResultCode {
    match refusal {
        Refusal::NotAuthorized => ResultCode::NOT_AUTHORIZED,
        Refusal::Quota => ResultCode::USER_EX_QUOTA,
        Refusal::NoExternal => ResultCode::NETWORK_FAILURE,
        Refusal::Conflict if wanted.options.prefer_failure => ResultCode::CANNOT_PROVIDE_EXTERNAL,
        Refusal::Conflict | Refusal::NoResources => ResultCode::NO_RESOURCES,
    }
}
