//! Mappings that were made by this program and left standing: NAT-PMP and PCP cannot list, and
//! PCP deletes by a nonce that only its maker knows.

use std::io;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use postern::portmap::{Nonce, PortMapping, Protocol, Ticket, Transport, Wish};
use serde::{Deserialize, Serialize};

use super::records::{Durability, Records};

/// The most mappings that are remembered.
const MAX_RECORDS: usize = 1024;

/// A mapping that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    protocol: String,
    pub(super) transport: String,
    pub(super) gateway: IpAddr,
    external_address: Option<IpAddr>,
    pub(super) external_port: u16,
    pub(super) internal_address: IpAddr,
    internal_port: u16,
    lifetime: u32,
    double_nat: bool,
    /// Seconds since 1970.
    made: u64,
    /// Of PCP, as 24 hexadecimal digits.
    nonce: Option<String>,
    /// Where a UPnP gateway describes itself.
    location: Option<String>,
    /// The number of a pinhole.
    pinhole: Option<u16>,
}

impl Record {
    pub(super) fn new(mapping: &PortMapping) -> Self {
        let (nonce, location, pinhole) = match &mapping.ticket {
            Ticket::Pcp(nonce) => {
                let hex = nonce.0.iter().map(|byte| format!("{byte:02x}"));
                (Some(hex.collect()), None, None)
            }
            Ticket::NatPmp => (None, None, None),
            Ticket::Upnp(url) => (None, Some(url.to_string()), None),
            Ticket::Pinhole(url, number) => (None, Some(url.to_string()), Some(*number)),
        };
        Self {
            protocol: mapping.protocol.to_string(),
            transport: mapping.transport.to_string(),
            gateway: mapping.gateway,
            external_address: mapping.external_address,
            external_port: mapping.external_port,
            internal_address: mapping.internal_address,
            internal_port: mapping.internal_port,
            lifetime: mapping.lifetime,
            double_nat: mapping.double_nat,
            made: seconds(),
            nonce,
            location,
            pinhole,
        }
    }

    /// The mapping, with what is left of its lifetime; `None` if the record makes no sense.
    pub(super) fn mapping(&self) -> Option<PortMapping> {
        let location = self.location.as_ref().map(|url| url.parse());
        let protocol = Protocol::ALL
            .into_iter()
            .find(|known| known.as_str() == self.protocol)?;
        let ticket = match (protocol, location, self.pinhole) {
            (Protocol::Pcp, ..) => Ticket::Pcp(Nonce(parse_hex(self.nonce.as_ref()?)?)),
            (Protocol::NatPmp, ..) => Ticket::NatPmp,
            (Protocol::Upnp, Some(Ok(url)), None) => Ticket::Upnp(url),
            (Protocol::Upnp, Some(Ok(url)), Some(number)) => Ticket::Pinhole(url, number),
            (Protocol::Upnp, ..) => return None,
        };
        Some(PortMapping {
            protocol,
            gateway: self.gateway,
            transport: self.transport.parse().ok()?,
            external_address: self.external_address,
            external_port: self.external_port,
            internal_address: self.internal_address,
            internal_port: self.internal_port,
            lifetime: self.left(),
            double_nat: self.double_nat,
            verified: None,
            ticket,
        })
    }

    /// The wish that leads to it.
    pub(super) fn wish(&self, own: IpAddr) -> Option<Wish> {
        let transport: Transport = self.transport.parse().ok()?;
        let other = (self.internal_address != own).then_some(self.internal_address);
        Some(Wish {
            external_port: self.external_port,
            lifetime: self.lifetime.max(120),
            internal_host: other,
            ..Wish::new(transport, self.internal_port)
        })
    }

    fn left(&self) -> u32 {
        let age = seconds().saturating_sub(self.made);
        let left = u64::from(self.lifetime).saturating_sub(age);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Whether it may stand still.
    fn stands(&self) -> bool {
        self.lifetime == 0 || self.left() > 0
    }

    fn is_same(&self, other: &Self) -> bool {
        let key = |r: &Self| (r.gateway, r.transport.clone(), r.external_port, r.pinhole);
        key(self) == key(other)
    }
}

fn parse_hex(text: &str) -> Option<[u8; 12]> {
    let mut bytes = [0; 12];
    let sound = text.len() == 24 && text.is_ascii();
    for (byte, index) in bytes.iter_mut().zip((0..24).step_by(2)) {
        *byte = u8::from_str_radix(text.get(index..index + 2)?, 16).ok()?;
    }
    sound.then_some(bytes)
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct State {
    file: Option<Records>,
}

impl State {
    /// The file of this user; without a home directory nothing is remembered.
    pub(super) fn of_user() -> Self {
        Self {
            file: file_of_user("mappings.jsonl"),
        }
    }

    /// What may stand still. A file that cannot be read counts as empty.
    pub(super) fn records(&self) -> Vec<Record> {
        let records: Vec<Record> = self.file.as_ref().map(Records::read).unwrap_or_default();
        records.into_iter().filter(Record::stands).collect()
    }

    /// The nonce with which a port was mapped before at this gateway, by PCP.
    pub(super) fn nonce(
        &self,
        gateway: Option<IpAddr>,
        transport: Transport,
        (host, port): (IpAddr, u16),
    ) -> Option<Nonce> {
        let same = |record: &&Record| {
            Some(record.gateway) == gateway
                && record.transport == transport.as_str()
                && (record.internal_address, record.internal_port) == (host, port)
        };
        let records = self.records();
        let nonce = records.iter().find(same)?.nonce.as_ref()?;
        parse_hex(nonce).map(Nonce)
    }

    /// Remembers a mapping.
    pub(super) fn add(&self, mapping: &PortMapping) -> io::Result<()> {
        let record = Record::new(mapping);
        self.change(|records| {
            records.retain(|known| !known.is_same(&record));
            records.push(record);
            let excess = records.len().saturating_sub(MAX_RECORDS);
            records.drain(..excess);
        })
    }

    /// Forgets one.
    pub(super) fn remove(&self, record: &Record) -> io::Result<()> {
        self.change(|records| records.retain(|known| !known.is_same(record)))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Record>)) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.change(|records: &mut Vec<Record>| {
            records.retain(Record::stands);
            change(records);
            // What a lease ends may be forgotten when the power fails; the disk takes its time.
            if records.iter().any(|record| record.lifetime == 0) {
                Durability::Now
            } else {
                Durability::Later
            }
        })
    }
}

/// A file in the directory where this user's state is.
pub(super) fn file_of_user(name: &str) -> Option<Records> {
    let directories = directories::ProjectDirs::from("", "", "postern")?;
    let state = directories.state_dir();
    let directory = state.unwrap_or_else(|| directories.data_local_dir());
    Some(Records::new(directory.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(ticket: Ticket, protocol: Protocol) -> PortMapping {
        PortMapping {
            protocol,
            gateway: [192, 168, 1, 1].into(),
            transport: Transport::Tcp,
            external_address: Some([45, 45, 1, 1].into()),
            external_port: 4001,
            internal_address: [192, 168, 1, 10].into(),
            internal_port: 4000,
            lifetime: 3600,
            double_nat: false,
            verified: None,
            ticket,
        }
    }

    #[test]
    fn every_kind_of_mapping_is_remembered_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let state = State {
            file: Some(Records::new(directory.path().join("b.jsonl"))),
        };
        let url: postern::portmap::HttpUrl = "http://192.168.1.1:5000/r.xml".parse().unwrap();
        for (ticket, protocol) in [
            (Ticket::Pcp(Nonce([0xab; 12])), Protocol::Pcp),
            (Ticket::NatPmp, Protocol::NatPmp),
            (Ticket::Upnp(url.clone()), Protocol::Upnp),
            (Ticket::Pinhole(url, 7), Protocol::Upnp),
        ] {
            let mapping = mapping(ticket, protocol);
            state.add(&mapping).unwrap();
            let records = state.records();
            let record = records.last().unwrap();
            let left = record.mapping().unwrap().lifetime;
            assert!((3590..=3600).contains(&left));
            let same = PortMapping {
                lifetime: left,
                ..mapping
            };
            assert_eq!(record.mapping(), Some(same));
        }
        // The pinhole is another place than the mapping; the three others are one.
        assert_eq!(state.records().len(), 2);
        for record in state.records() {
            state.remove(&record).unwrap();
        }
        assert_eq!(state.records(), []);
    }
}
