//! WANIPv6FirewallControl: pinholes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::transport::Transport;
use postern_wire::upnp::igd::{Pinhole, number};
use postern_wire::upnp::soap::{Arguments, ErrorCode};

use super::actions::{Called, Done, done};
use super::mappings::address;
use crate::gateway::ask::{Answer, Ask, What};
use crate::gateway::refusal::Refusal;
use crate::gateway::{Event, Filter, Gateway, Kind, LeaseId, Origin};
use crate::turn::server::Cidr;

/// The longest LeaseTime (WANIPv6FirewallControl:1 section 2.2.5): a day.
const MAX_LEASE_TIME: u32 = 86_400;

/// The wildcard of Protocol.
const ANY_PROTOCOL: u16 = 65_535;

impl Gateway {
    pub(super) fn ipv6_firewall(&mut self, now: Instant, called: &Called<'_>) -> Done {
        match called.call.action.as_str() {
            "GetFirewallStatus" => Ok(Some(
                Arguments::default()
                    .with("FirewallEnabled", 1)
                    .with("InboundPinholeAllowed", 1),
            )),
            "GetOutboundPinholeTimeout" => self.outbound_timeout(called),
            "AddPinhole" => self.add_pinhole(now, called),
            "UpdatePinhole" => self.update_pinhole(now, called),
            "DeletePinhole" => self.delete_pinhole(called),
            "GetPinholePackets" | "CheckPinholeWorking" => self.count_packets(called),
            _ => Err(ErrorCode::INVALID_ACTION),
        }
    }

    /// How long the connection tracker keeps an idle flow is the kernel's matter: what it has
    /// unless told otherwise, in seconds.
    #[expect(clippy::unused_self, reason = "one of the actions")]
    fn outbound_timeout(&self, called: &Called<'_>) -> Done {
        let seconds = match number(called.arguments(), "Protocol")? {
            6_u16 => 432_000,
            17 => 120,
            ANY_PROTOCOL => return Err(ErrorCode::PROTOCOL_WILDCARDING_NOT_ALLOWED),
            _ => return Err(ErrorCode::PROTOCOL_NOT_SUPPORTED),
        };
        Ok(Some(
            Arguments::default().with("OutboundPinholeTimeout", seconds),
        ))
    }

    fn add_pinhole(&mut self, now: Instant, called: &Called<'_>) -> Done {
        let asked = Pinhole::from_call(called.arguments())?;
        if asked.internal_client.is_empty() {
            return Err(ErrorCode::SRC_ADDRESS_WILDCARDING_NOT_ALLOWED);
        }
        let host: Ipv6Addr = address(&asked.internal_client)?;
        let transport = transport(asked.protocol)?;
        if asked.internal_port == 0 {
            return Err(ErrorCode::INTERNAL_PORT_WILDCARDING_NOT_ALLOWED);
        }
        let internal = SocketAddr::new(host.into(), asked.internal_port);
        let filters = filters(&asked)?;
        // The same pinhole again is the one that is there.
        let old = self.table.at_internal(transport, internal).find(|lease| {
            lease.kind == Kind::Pinhole && lease.origin == Origin::Upnp && lease.filters == filters
        });
        let old = old.map(|lease| lease.id);
        let id = match old.and_then(|old| self.unique_id(old)) {
            Some(id) => id,
            None => self.new_unique_id()?,
        };
        let ask = Ask {
            client: called.client,
            internal,
            transport,
            what: What::Pinhole,
            filters,
            life: Some(lease_time(asked.lease)?),
            origin: Origin::Upnp,
            description: String::new(),
            enabled: true,
        };
        let mut answer = called.later();
        answer.pinhole = Some(id);
        self.grant(now, ask, old, Answer::Soap(answer))
            .map_err(code)?;
        Ok(None)
    }

    fn update_pinhole(&mut self, now: Instant, called: &Called<'_>) -> Done {
        let lease = self.pinhole(called)?;
        let life = lease_time(number(called.arguments(), "NewLeaseTime")?)?;
        let Some(lease) = self.table.get(lease).cloned() else {
            return Err(ErrorCode::NO_SUCH_ENTRY);
        };
        let ask = Ask {
            client: called.client,
            internal: lease.internal,
            transport: lease.transport,
            what: What::Pinhole,
            filters: lease.filters,
            life: Some(life),
            origin: Origin::Upnp,
            description: lease.description,
            enabled: true,
        };
        let answer = Answer::Soap(called.later());
        self.grant(now, ask, Some(lease.id), answer).map_err(code)?;
        Ok(None)
    }

    fn delete_pinhole(&mut self, called: &Called<'_>) -> Done {
        let lease = self.pinhole(called)?;
        self.take_back(lease, Answer::Soap(called.later()));
        Ok(None)
    }

    fn count_packets(&mut self, called: &Called<'_>) -> Done {
        let lease = self.pinhole(called)?;
        let Some(lease) = self.table.get(lease) else {
            return done();
        };
        let opening = self.opening(lease);
        let answer = called.later();
        self.waiting_counts.insert(opening.lease.id, answer);
        self.events.push_back(Event::Count(opening));
        Ok(None)
    }

    /// How many packets crossed by a pinhole: the answer to [`Event::Count`].
    pub fn handle_counted(&mut self, lease: LeaseId, packets: u64) {
        let Some(answer) = self.waiting_counts.remove(&lease) else {
            return;
        };
        let result = if answer.is_called("GetPinholePackets") {
            Ok(Arguments::default().with("PinholePackets", packets.min(u64::from(u32::MAX))))
        } else if packets > 0 {
            Ok(Arguments::default().with("IsWorking", 1))
        } else {
            Err(ErrorCode::NO_TRAFFIC_RECEIVED)
        };
        self.answer_now(&answer, result);
    }

    /// The lease of the UniqueID in a call, which must be the caller's.
    fn pinhole(&self, called: &Called<'_>) -> Result<LeaseId, ErrorCode> {
        let id: u16 = number(called.arguments(), "UniqueID")?;
        let lease = self
            .upnp
            .pinholes
            .get(&id)
            .and_then(|id| self.table.get(*id));
        let lease = lease.ok_or(ErrorCode::NO_SUCH_ENTRY)?;
        if lease.internal.ip() != called.client.address && !self.config.third_party {
            return Err(ErrorCode::NOT_AUTHORIZED);
        }
        Ok(lease.id)
    }

    fn unique_id(&self, lease: LeaseId) -> Option<u16> {
        let mut ids = self.upnp.pinholes.iter();
        ids.find_map(|(id, found)| (*found == lease).then_some(*id))
    }

    /// A UniqueID that no pinhole has.
    fn new_unique_id(&mut self) -> Result<u16, ErrorCode> {
        let table = &self.table;
        self.upnp
            .pinholes
            .retain(|_, lease| table.get(*lease).is_some());
        for _ in 0..=u16::MAX {
            self.upnp.next_pinhole = self.upnp.next_pinhole.wrapping_add(1);
            if !self.upnp.pinholes.contains_key(&self.upnp.next_pinhole) {
                return Ok(self.upnp.next_pinhole);
            }
        }
        Err(ErrorCode::PINHOLE_SPACE_EXHAUSTED)
    }

    pub(super) fn name_pinhole(&mut self, id: u16, lease: Option<LeaseId>) {
        match lease {
            Some(lease) => drop(self.upnp.pinholes.insert(id, lease)),
            None => drop(self.upnp.pinholes.remove(&id)),
        }
    }
}

fn transport(protocol: u16) -> Result<Transport, ErrorCode> {
    if protocol == ANY_PROTOCOL {
        return Err(ErrorCode::PROTOCOL_WILDCARDING_NOT_ALLOWED);
    }
    let number = u8::try_from(protocol).ok();
    number
        .and_then(Transport::from_ip_protocol)
        .ok_or(ErrorCode::PROTOCOL_NOT_SUPPORTED)
}

fn lease_time(seconds: u32) -> Result<Duration, ErrorCode> {
    if (1..=MAX_LEASE_TIME).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    Err(ErrorCode::INVALID_ARGS)
}

fn filters(asked: &Pinhole) -> Result<Vec<Filter>, ErrorCode> {
    let host = match asked.remote_host.as_str() {
        "" => Ipv6Addr::UNSPECIFIED,
        host => address(host)?,
    };
    let port = (asked.remote_port != 0).then_some(asked.remote_port);
    if host.is_unspecified() && port.is_none() {
        return Ok(Vec::new());
    }
    let length = if host.is_unspecified() { 0 } else { 128 };
    let network = Cidr::new(IpAddr::V6(host), length).ok_or(ErrorCode::INVALID_ARGS)?;
    Ok(vec![Filter { network, port }])
}

const fn code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::NotAuthorized => ErrorCode::NOT_AUTHORIZED,
        Refusal::Conflict | Refusal::Quota | Refusal::NoResources => {
            ErrorCode::PINHOLE_SPACE_EXHAUSTED
        }
        Refusal::NoExternal => ErrorCode::ACTION_FAILED,
    }
}
