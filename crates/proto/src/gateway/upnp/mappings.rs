//! WANIPConnection: adding and deleting mappings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::transport::Transport;
use postern_wire::upnp::igd::{Entry, Key, Range};
use postern_wire::upnp::soap::ErrorCode;

use super::actions::{Called, Done, code};
use crate::gateway::ask::{Answer, Ask, What};
use crate::gateway::{Filter, Gateway, Kind, Lease, LeaseId, MAX_LEASE, Origin};
use crate::turn::server::Cidr;

/// An argument that is a number, but not in the range of its variable.
const OUT_OF_RANGE: ErrorCode = ErrorCode(601);

impl Gateway {
    /// AddPortMapping and AddAnyPortMapping (WANIPConnection:2 sections 2.5.16 and 2.5.17).
    pub(super) fn add_mapping(&mut self, now: Instant, called: &Called<'_>) -> Done {
        let entry = Entry::from_call(called.arguments())?;
        let any = called.call.action == "AddAnyPortMapping";
        if entry.key.external_port == 0 {
            return Err(ErrorCode::WILDCARD_NOT_PERMITTED_IN_EXT_PORT);
        }
        if entry.internal_port == 0 {
            return Err(ErrorCode::WILDCARD_NOT_PERMITTED_IN_INT_PORT);
        }
        let client: Ipv4Addr = address(&entry.internal_client)?;
        let filters = filters(&entry.key.remote_host)?;
        let internal = SocketAddr::new(client.into(), entry.internal_port);
        let life = self.life(entry.lease, called.version)?;
        let port = entry.key.external_port;
        let key = self.keyed(entry.key.transport, port, &filters);
        let old = key.filter(|lease| lease.origin == Origin::Upnp);
        // With another host's, a client that takes any port gets another one.
        let old = old.filter(|lease| lease.internal.ip() == internal.ip());
        let ask = Ask {
            client: called.client,
            internal,
            transport: entry.key.transport,
            what: match any && old.is_none() {
                true => What::Preferably(port),
                false => What::Exactly(port),
            },
            filters,
            life,
            origin: Origin::Upnp,
            description: entry.description,
            enabled: entry.enabled,
        };
        let old = old.map(|lease| lease.id);
        self.grant(now, ask, old, Answer::Soap(called.later()))
            .map_err(|why| code(why, called.version))?;
        Ok(None)
    }

    /// How long a lease is to last. In version 1, 0 is for ever; in version 2 it is a week,
    /// which nothing exceeds.
    fn life(&self, seconds: u32, version: u8) -> Result<Option<Duration>, ErrorCode> {
        let asked = Duration::from_secs(seconds.into());
        match (seconds, version) {
            (0, 1) => Ok(None),
            (0, _) => Ok(Some(self.config.max_lease)),
            _ if version > 1 && asked > MAX_LEASE => Err(OUT_OF_RANGE),
            _ => Ok(Some(asked.min(self.config.max_lease))),
        }
    }

    /// The mapping that a key names.
    pub(super) fn keyed(
        &self,
        transport: Transport,
        port: u16,
        filters: &[Filter],
    ) -> Option<&Lease> {
        let mut leases = self.table.at_external(transport, port);
        leases.find(|lease| matches!(lease.kind, Kind::Mapping { .. }) && lease.filters == filters)
    }

    pub(super) fn find(&self, key: &Key) -> Result<&Lease, ErrorCode> {
        let filters = filters(&key.remote_host)?;
        self.keyed(key.transport, key.external_port, &filters)
            .ok_or(ErrorCode::NO_SUCH_ENTRY_IN_ARRAY)
    }

    /// DeletePortMapping (section 2.5.18).
    pub(super) fn delete_mapping(&mut self, called: &Called<'_>) -> Done {
        let key = Key::from_call(called.arguments())?;
        let lease = self.find(&key)?;
        if !self.may_change(called, lease) {
            return Err(ErrorCode::NOT_AUTHORIZED);
        }
        let id = lease.id;
        self.take_back(id, Answer::Soap(called.later()));
        Ok(None)
    }

    /// DeletePortMappingRange (section 2.5.19): those that the caller may delete.
    pub(super) fn delete_mappings(&mut self, called: &Called<'_>) -> Done {
        let range = Range::from_call(called.arguments())?;
        let ids: Vec<LeaseId> = self
            .in_range(&range)
            .filter(|lease| self.may_change(called, lease))
            .map(|lease| lease.id)
            .collect();
        let (last, others) = ids.split_last().ok_or(ErrorCode::PORT_MAPPING_NOT_FOUND)?;
        for id in others {
            self.take_back(*id, Answer::Nobody);
        }
        self.take_back(*last, Answer::Soap(called.later()));
        Ok(None)
    }

    /// A host changes its own mappings of UPnP; of others only if it may map for them.
    pub(super) fn may_change(&self, called: &Called<'_>, lease: &Lease) -> bool {
        let own = lease.internal.ip() == called.client.address || self.config.third_party;
        own && lease.origin == Origin::Upnp
    }

    pub(super) fn in_range(&self, range: &Range) -> impl Iterator<Item = &Lease> {
        self.table
            .externals(range.transport, range.start..=range.end)
            .filter(|lease| matches!(lease.kind, Kind::Mapping { .. }))
    }
}

/// An address, and never a name: what a host writes starts no look-up.
pub(super) fn address<A: std::str::FromStr>(text: &str) -> Result<A, ErrorCode> {
    text.parse().map_err(|_| ErrorCode::INVALID_ARGS)
}

/// What NewRemoteHost asks for: nothing, or one address.
pub(super) fn filters(remote_host: &str) -> Result<Vec<Filter>, ErrorCode> {
    if remote_host.is_empty() {
        return Ok(Vec::new());
    }
    let host: Ipv4Addr = address(remote_host)?;
    if host.is_unspecified() {
        return Ok(Vec::new());
    }
    Ok(vec![Filter {
        network: Cidr::host(IpAddr::V4(host)),
        port: None,
    }])
}
