use std::net::{IpAddr, Ipv6Addr};

use super::operation::KnownOpcode;
use super::{ResultCode, read_address, write_address};

const THIRD_PARTY: u8 = 1;
const PREFER_FAILURE: u8 = 2;
const FILTER: u8 = 3;
const PREFIX64: u8 = 129;
const PORT_SET: u8 = 130;
/// Codes from here on may be left aside by whoever does not know them (RFC 6887 section 7.3).
const FIRST_OPTIONAL: u8 = 128;

/// Who may reach a mapping (RFC 6887 section 13.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// How many bits of the address count, of 128: an IPv4 address alone has 128, and a
    /// network of 24 bits has 120. Zero removes all filters that there are.
    pub prefix_length: u8,
    /// The remote peer's port; zero means all.
    pub remote_port: u16,
    /// The remote peer's address.
    pub remote_address: IpAddr,
}

/// Several ports at once (RFC 7220).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSet {
    /// How many ports.
    pub size: u16,
    /// The first of the client's ports.
    pub first_internal_port: u16,
    /// Whether the parity of the first port shall be kept.
    pub parity: bool,
}

/// The prefix of a NAT64 (RFC 7225), without the list of IPv4 prefixes that may follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix64 {
    /// The client would like to know it: the option is empty.
    Asked,
    /// This is it.
    Is {
        /// Bits of the prefix: 32, 40, 48, 56, 64 or 96.
        length: u8,
        /// The prefix, then zeros.
        prefix: Ipv6Addr,
    },
}

/// The options of a message. Those that are not known and may be left aside are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The host whose ports are mapped, if it is not the client.
    pub third_party: Option<IpAddr>,
    /// Whether no mapping is better than one with another external port.
    pub prefer_failure: bool,
    /// Who may reach the mapping; everybody if it is empty. No more than fit into a message.
    pub filters: Vec<Filter>,
    /// More ports than one.
    pub port_set: Option<PortSet>,
    /// The prefix of a NAT64.
    pub prefix64: Option<Prefix64>,
}

impl Options {
    /// Reads the options behind an operation.
    ///
    /// # Errors
    ///
    /// Says what a server owes to whom it cannot read: UNSUPP_OPTION for an option that it
    /// must know and does not, or not with this opcode; MALFORMED_OPTION for anything else.
    pub(super) fn parse(opcode: KnownOpcode, mut bytes: &[u8]) -> Result<Self, ResultCode> {
        let mut options = Self::default();
        while let Some(([code, _, l0, l1], rest)) = bytes.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            let data = rest.get(..length).ok_or(ResultCode::MALFORMED_OPTION)?;
            options.read(opcode, *code, data)?;
            bytes = rest
                .get(length.next_multiple_of(4)..)
                .ok_or(ResultCode::MALFORMED_OPTION)?;
        }
        if bytes.is_empty() {
            Ok(options)
        } else {
            Err(ResultCode::MALFORMED_OPTION)
        }
    }

    fn read(&mut self, opcode: KnownOpcode, code: u8, data: &[u8]) -> Result<(), ResultCode> {
        use KnownOpcode::{Map, Peer};
        let exact = || ResultCode::MALFORMED_OPTION;
        match (code, opcode) {
            (THIRD_PARTY, Map | Peer) => {
                let octets = data.try_into().map_err(|_| exact())?;
                once(&mut self.third_party, read_address(octets))
            }
            (PREFER_FAILURE, Map) if data.is_empty() && !self.prefer_failure => {
                self.prefer_failure = true;
                Ok(())
            }
            (PREFER_FAILURE, Map) => Err(exact()),
            (FILTER, Map) => {
                self.filters.push(Filter::parse(data).ok_or_else(exact)?);
                Ok(())
            }
            (PORT_SET, Map) => once(&mut self.port_set, PortSet::parse(data).ok_or_else(exact)?),
            (PREFIX64, _) => once(&mut self.prefix64, Prefix64::parse(data).ok_or_else(exact)?),
            (FIRST_OPTIONAL.., _) => Ok(()),
            (..FIRST_OPTIONAL, _) => Err(ResultCode::UNSUPP_OPTION),
        }
    }

    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        if let Some(address) = self.third_party {
            write_option(bytes, THIRD_PARTY, &write_address(address));
        }
        if self.prefer_failure {
            write_option(bytes, PREFER_FAILURE, &[]);
        }
        for filter in &self.filters {
            let [p0, p1] = filter.remote_port.to_be_bytes();
            let head = [0, filter.prefix_length, p0, p1];
            let data = [&head[..], &write_address(filter.remote_address)].concat();
            write_option(bytes, FILTER, &data);
        }
        if let Some(set) = self.port_set {
            let [s0, s1] = set.size.to_be_bytes();
            let [f0, f1] = set.first_internal_port.to_be_bytes();
            write_option(bytes, PORT_SET, &[s0, s1, f0, f1, set.parity.into()]);
        }
        if let Some(prefix) = self.prefix64 {
            write_option(bytes, PREFIX64, &prefix.to_data());
        }
    }
}

/// An option that may be there once is there once.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), ResultCode> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ResultCode::MALFORMED_OPTION),
    }
}

/// Appends an option, padded with zeros to a multiple of four bytes.
fn write_option(bytes: &mut Vec<u8>, code: u8, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    bytes.extend([code, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

impl Filter {
    fn parse(data: &[u8]) -> Option<Self> {
        let [_, prefix_length, p0, p1, address @ ..] = *data.as_array::<20>()?;
        // The first 96 bits of a mapped IPv4 address are no choice.
        let remote_address = read_address(address);
        let least = if remote_address.is_ipv4() { 96 } else { 0 };
        let sound = prefix_length == 0 || (least..=128).contains(&prefix_length);
        sound.then_some(Self {
            prefix_length,
            remote_port: u16::from_be_bytes([p0, p1]),
            remote_address,
        })
    }
}

impl PortSet {
    fn parse(data: &[u8]) -> Option<Self> {
        let [s0, s1, f0, f1, parity] = *data.as_array::<5>()?;
        let size = u16::from_be_bytes([s0, s1]);
        (size != 0).then_some(Self {
            size,
            first_internal_port: u16::from_be_bytes([f0, f1]),
            parity: parity & 1 == 1,
        })
    }
}

impl Prefix64 {
    /// The length counts bytes; a suffix fills up to twelve. Then the list may follow.
    fn parse(data: &[u8]) -> Option<Self> {
        let Some(([l0, l1], rest)) = data.split_first_chunk() else {
            return data.is_empty().then_some(Self::Asked);
        };
        let length = match u16::from_be_bytes([*l0, *l1]) {
            length @ (4..=8 | 12) => usize::from(length),
            _ => return None,
        };
        let filled = rest.get(..12)?;
        let mut octets = [0; 16];
        octets
            .get_mut(..length)?
            .copy_from_slice(filled.get(..length)?);
        Some(Self::Is {
            length: u8::try_from(length.saturating_mul(8)).ok()?,
            prefix: octets.into(),
        })
    }

    fn to_data(self) -> Vec<u8> {
        match self {
            Self::Asked => Vec::new(),
            Self::Is { length, prefix } => {
                let octets = prefix.octets();
                let prefix = octets.get(..12).unwrap_or_default();
                [&[0, length.div_euclid(8)], prefix].concat()
            }
        }
    }
}
