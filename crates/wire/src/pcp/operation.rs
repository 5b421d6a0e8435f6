use std::fmt;
use std::net::IpAddr;

use super::{OPCODE_ANNOUNCE, OPCODE_MAP, OPCODE_PEER, read_address, write_address};

/// What a mapping is known by: whoever has it may renew and delete (RFC 6887 section 11.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 12]);

impl fmt::Debug for Nonce {
    /// It is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(…)")
    }
}

/// The data of MAP, in a request and in its answer (RFC 6887 sections 11.1 and 11.2).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                 Mapping Nonce (96 bits)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   Protocol    |          Reserved (24 bits)                   |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |        Internal Port          |    External Port              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |           External IP Address (128 bits)                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Who may change it.
    pub nonce: Nonce,
    /// The number of the protocol in the IP header: 6, 17; zero means all.
    pub protocol: u8,
    /// The client's port; zero means all.
    pub internal_port: u16,
    /// The port outside: suggested in a request (zero if any will do), assigned in an answer.
    pub external_port: u16,
    /// The address outside, suggested or assigned. Unspecified, of either family, if any will do.
    pub external_address: IpAddr,
}

/// The data of PEER, in a request and in its answer (RFC 6887 sections 12.1 and 12.2): that of
/// MAP, then the remote peer's port, 16 reserved bits and the remote peer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The mapping; its protocol and ports are not zero in a sound request.
    pub map: Map,
    /// The remote peer's port.
    pub remote_port: u16,
    /// The remote peer's address.
    pub remote_address: IpAddr,
}

/// What is done, and with which data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Nothing: asks for the epoch, or announces a new one (RFC 6887 section 14.1).
    Announce,
    /// Makes, renews or deletes a mapping for whoever comes.
    Map(Map),
    /// Makes, renews or shortens a mapping for one remote peer.
    Peer(Peer),
}

/// Bytes of MAP's data.
const MAP_LEN: usize = 36;
/// Bytes that PEER's data has more than MAP's.
const REMOTE_LEN: usize = 20;

impl Operation {
    /// The opcode: 0, 1 or 2.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        match self {
            Self::Announce => OPCODE_ANNOUNCE,
            Self::Map(_) => OPCODE_MAP,
            Self::Peer(_) => OPCODE_PEER,
        }
    }

    /// Reads the data of an opcode that is known, and returns what follows it.
    ///
    /// `None` if there are too few bytes.
    pub(super) fn parse(opcode: KnownOpcode, bytes: &[u8]) -> Option<(Self, &[u8])> {
        match opcode {
            KnownOpcode::Announce => Some((Self::Announce, bytes)),
            KnownOpcode::Map => {
                let (data, rest) = bytes.split_first_chunk()?;
                Some((Self::Map(Map::parse(data)), rest))
            }
            KnownOpcode::Peer => {
                let (data, rest) = bytes.split_first_chunk()?;
                let (remote, rest) = rest.split_first_chunk()?;
                Some((Self::Peer(Peer::parse(data, remote)), rest))
            }
        }
    }

    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Announce => {}
            Self::Map(map) => map.write(bytes),
            Self::Peer(peer) => {
                peer.map.write(bytes);
                bytes.extend(peer.remote_port.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(write_address(peer.remote_address));
            }
        }
    }
}

/// The opcodes whose data is known.
#[derive(Clone, Copy)]
pub(super) enum KnownOpcode {
    Announce,
    Map,
    Peer,
}

impl KnownOpcode {
    pub(super) const fn new(opcode: u8) -> Option<Self> {
        match opcode {
            OPCODE_ANNOUNCE => Some(Self::Announce),
            OPCODE_MAP => Some(Self::Map),
            OPCODE_PEER => Some(Self::Peer),
            _ => None,
        }
    }
}

impl Map {
    fn parse(data: &[u8; MAP_LEN]) -> Self {
        let mut nonce = [0; 12];
        let mut address = [0; 16];
        let (first, rest) = data.split_at(12);
        nonce.copy_from_slice(first);
        let (fields, last) = rest.split_at(8);
        address.copy_from_slice(last);
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        Self {
            nonce: Nonce(nonce),
            protocol: field(0),
            internal_port: u16::from_be_bytes([field(4), field(5)]),
            external_port: u16::from_be_bytes([field(6), field(7)]),
            external_address: read_address(address),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.nonce.0);
        bytes.extend([self.protocol, 0, 0, 0]);
        bytes.extend(self.internal_port.to_be_bytes());
        bytes.extend(self.external_port.to_be_bytes());
        bytes.extend(write_address(self.external_address));
    }
}

impl Peer {
    fn parse(map: &[u8; MAP_LEN], remote: &[u8; REMOTE_LEN]) -> Self {
        let [p0, p1, _, _, address @ ..] = *remote;
        Self {
            map: Map::parse(map),
            remote_port: u16::from_be_bytes([p0, p1]),
            remote_address: read_address(address),
        }
    }
}
