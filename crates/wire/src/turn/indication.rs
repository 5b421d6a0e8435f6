use std::net::{IpAddr, SocketAddr};

use crate::stun::attribute::address::xor_address;
use crate::stun::{AttributeType, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId};

/// The most bytes of a [`DataHeader`]: the STUN header, XOR-PEER-ADDRESS with an IPv6
/// address, and the header of DATA.
const MAX_LEN: usize = HEADER_LEN + 24 + 4;

/// What precedes the data in a Send or Data indication that carries XOR-PEER-ADDRESS and
/// DATA, in this order (RFC 8656 sections 11.1 and 11.3).
///
/// Whoever sends the header, the data and [`DataHeader::padding`] zero bytes in one
/// datagram has sent the indication without having copied the data.
#[derive(Debug, Clone, Copy)]
pub struct DataHeader {
    bytes: [u8; MAX_LEN],
    length: usize,
    padding: usize,
}

impl DataHeader {
    /// The most bytes of data in one indication.
    pub const MAX_DATA: usize = 65_500;

    /// For a Data indication, from the server to the client. `None` above
    /// [`Self::MAX_DATA`] bytes.
    #[must_use]
    pub fn data(peer: SocketAddr, id: TransactionId, data_len: usize) -> Option<Self> {
        Self::new(Method::DATA, peer, id, data_len)
    }

    /// For a Send indication, from the client to the server. `None` above
    /// [`Self::MAX_DATA`] bytes.
    #[must_use]
    pub fn send(peer: SocketAddr, id: TransactionId, data_len: usize) -> Option<Self> {
        Self::new(Method::SEND, peer, id, data_len)
    }

    /// The bytes before the data: 36 for IPv4, 48 for IPv6.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// How many zero bytes, 0 to 3, follow the data.
    #[must_use]
    pub const fn padding(&self) -> usize {
        self.padding
    }

    fn new(method: Method, peer: SocketAddr, id: TransactionId, data_len: usize) -> Option<Self> {
        if data_len > Self::MAX_DATA {
            return None;
        }
        let padded = data_len.next_multiple_of(4);
        let address_len = if peer.is_ipv4() { 8_u16 } else { 20 };
        let body = u16::try_from(padded)
            .ok()?
            .checked_add(address_len)?
            .checked_add(8)?;
        let mut writer = Writer::default();
        writer.u16(method.number() | 0x0010);
        writer.u16(body);
        writer.put(&MAGIC_COOKIE.to_be_bytes());
        writer.put(&id.0);
        writer.u16(AttributeType::XOR_PEER_ADDRESS.0);
        writer.u16(address_len);
        writer.address(xor_address(peer, id));
        writer.u16(AttributeType::DATA.0);
        writer.u16(u16::try_from(data_len).ok()?);
        Some(Self {
            bytes: writer.bytes,
            length: writer.length,
            padding: padded.checked_sub(data_len)?,
        })
    }
}

#[derive(Debug)]
struct Writer {
    bytes: [u8; MAX_LEN],
    length: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_LEN],
            length: 0,
        }
    }
}

impl Writer {
    /// Appends what fits; [`MAX_LEN`] is made for all of it.
    fn put(&mut self, part: &[u8]) {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(part) {
            *to = *from;
        }
        self.length = self.length.saturating_add(part.len()).min(MAX_LEN);
    }

    fn u16(&mut self, number: u16) {
        self.put(&number.to_be_bytes());
    }

    fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => {
                self.u16(0x0001);
                self.u16(address.port());
                self.put(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u16(0x0002);
                self.u16(address.port());
                self.put(&ip.octets());
            }
        }
    }
}
