//! WANIPConnection: telling what is mapped.

use std::time::Instant;

use postern_wire::upnp::igd::{Entry, Key, Range, listing_to_xml, number};
use postern_wire::upnp::soap::{Arguments, ErrorCode};

use super::actions::{Called, Done};
use crate::gateway::{Gateway, Kind, Lease};

/// The most entries of one list: about 400 kB.
const MAX_ENTRIES: usize = 1000;

impl Gateway {
    /// GetGenericPortMappingEntry (section 2.5.14).
    pub(super) fn generic_entry(&self, now: Instant, called: &Called<'_>) -> Done {
        let index: usize = number(called.arguments(), "NewPortMappingIndex")?;
        let mut mappings = self.table.iter().filter(|lease| is_mapping(lease));
        let lease = mappings
            .nth(index)
            .ok_or(ErrorCode::SPECIFIED_ARRAY_INDEX_INVALID)?;
        Ok(Some(entry(now, lease).to_arguments()))
    }

    /// GetSpecificPortMappingEntry (section 2.5.15).
    pub(super) fn specific_entry(&self, now: Instant, called: &Called<'_>) -> Done {
        let lease = self.find(&Key::from_call(called.arguments())?)?;
        Ok(Some(entry(now, lease).to_specific_answer()))
    }

    /// GetListOfPortMappings (section 2.5.21).
    pub(super) fn list_mappings(&self, now: Instant, called: &Called<'_>) -> Done {
        let range = Range::from_call(called.arguments())?;
        let most: usize = number(called.arguments(), "NewNumberOfPorts")?;
        let most = if most == 0 {
            MAX_ENTRIES
        } else {
            most.min(MAX_ENTRIES)
        };
        let is_shown =
            |lease: &&Lease| range.manage || lease.internal.ip() == called.client.address;
        let leases = self.in_range(&range).filter(is_shown).take(most);
        let entries: Vec<Entry> = leases.map(|lease| entry(now, lease)).collect();
        if entries.is_empty() {
            return Err(ErrorCode::PORT_MAPPING_NOT_FOUND);
        }
        let listing = listing_to_xml(&entries);
        Ok(Some(Arguments::default().with("NewPortListing", listing)))
    }
}

pub(super) const fn is_mapping(lease: &Lease) -> bool {
    matches!(lease.kind, Kind::Mapping { .. })
}

fn entry(now: Instant, lease: &Lease) -> Entry {
    let hosts = lease.filters.iter().map(|filter| {
        let address = filter.network.network();
        let all = if address.is_ipv4() { 32 } else { 128 };
        match filter.network.prefix_length() {
            length if length == all => address.to_string(),
            length => format!("{address}/{length}"),
        }
    });
    Entry {
        key: Key {
            remote_host: hosts.collect::<Vec<_>>().join(","),
            external_port: lease.kind.external_port().unwrap_or_default(),
            transport: lease.transport,
        },
        internal_port: lease.internal.port(),
        internal_client: lease.internal.ip().to_string(),
        enabled: lease.enabled,
        description: lease.description.clone(),
        lease: lease.seconds_left(now),
    }
}
