//! Gateways that answered before. They spare the search, and are asked before they are
//! believed: what is written here may be out of date, and costs nothing then.

use std::net::IpAddr;

use postern::portmap::{Found, Known, Link, PortMapping, Protocol, Ticket};
use serde::{Deserialize, Serialize};

use super::records::{Durability, Records};
use super::state;

/// The most networks that are remembered.
const MAX_NETWORKS: usize = 16;

/// What worked on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    interface: String,
    router: Option<IpAddr>,
    protocol: String,
    location: Option<String>,
}

impl Entry {
    fn known(&self) -> Option<Known> {
        let mut protocols = Protocol::ALL.into_iter();
        Some(Known {
            interface: self.interface.clone(),
            router: self.router,
            protocol: protocols.find(|known| known.as_str() == self.protocol)?,
            location: self.location.as_ref().and_then(|url| url.parse().ok()),
        })
    }

    fn is_about(&self, link: &Link) -> bool {
        self.interface == link.interface && self.router == link.gateway
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct Gateways {
    file: Option<Records>,
}

impl Gateways {
    /// The file of this user; without a home directory nothing is remembered.
    pub(super) fn of_user() -> Self {
        Self {
            file: state::file_of_user("gateways.jsonl"),
        }
    }

    /// All of them. A file that cannot be read counts as empty.
    pub(super) fn known(&self) -> Vec<Known> {
        let entries: Vec<Entry> = self.file.as_ref().map(Records::read).unwrap_or_default();
        entries.iter().filter_map(Entry::known).collect()
    }

    /// Notes what made a mapping.
    pub(super) fn note_mapping(&self, link: &Link, mapping: &PortMapping) {
        let location = match &mapping.ticket {
            Ticket::Upnp(url) | Ticket::Pinhole(url, _) => Some(url.to_string()),
            Ticket::Pcp(_) | Ticket::NatPmp => None,
        };
        self.note(link, mapping.protocol, location);
    }

    /// Notes who has answered.
    pub(super) fn note_found(&self, link: &Link, found: &Found) {
        let location = found.location.as_ref().map(ToString::to_string);
        self.note(link, found.protocol, location);
    }

    /// Who cannot write it down searches the next time.
    fn note(&self, link: &Link, protocol: Protocol, location: Option<String>) {
        let Some(file) = &self.file else {
            return;
        };
        let _ = file.change(|entries: &mut Vec<Entry>| {
            let known = entries.iter().position(|entry| entry.is_about(link));
            let before = known.and_then(|index| entries.remove(index).location);
            entries.push(Entry {
                interface: link.interface.clone(),
                router: link.gateway,
                protocol: protocol.to_string(),
                location: location.or(before),
            });
            let excess = entries.len().saturating_sub(MAX_NETWORKS);
            entries.drain(..excess);
            Durability::Later
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_known_by_its_interface_and_router() {
        let directory = tempfile::tempdir().unwrap();
        let gateways = Gateways {
            file: Some(Records::new(directory.path().join("gateways.jsonl"))),
        };
        let link = |last: u8| Link {
            interface: "eth0".to_owned(),
            index: 2,
            address: [192, 168, last, 10].into(),
            prefix: 24,
            gateway: Some([192, 168, last, 1].into()),
        };
        let url = || Some("http://192.168.1.1:5000/r.xml".to_owned());
        gateways.note(&link(1), Protocol::Upnp, url());
        gateways.note(&link(1), Protocol::NatPmp, None);
        gateways.note(&link(2), Protocol::Pcp, None);
        let known = gateways.known();
        assert_eq!(known.len(), 2);
        assert_eq!(known[0].protocol, Protocol::NatPmp);
        assert_eq!(known[0].location, url().and_then(|url| url.parse().ok()));
        assert_eq!(known[1].location, None);
        for last in 0..40 {
            gateways.note(&link(last), Protocol::Pcp, None);
        }
        assert_eq!(gateways.known().len(), MAX_NETWORKS);
    }
}
