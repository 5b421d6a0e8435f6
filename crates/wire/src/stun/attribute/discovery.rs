//! The attributes of NAT behaviour discovery (RFC 5780 section 7) that are not addresses.

use super::{Attribute, AttributeType, exactly};
use crate::stun::{TransactionId, ValueError};

const CHANGE_IP: u32 = 0x04;
const CHANGE_PORT: u32 = 0x02;

/// CHANGE-REQUEST (RFC 5780 section 7.2): where the client wants the response from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRequest {
    /// From the server's other IP address.
    pub ip: bool,
    /// From the server's other port.
    pub port: bool,
}

impl Attribute<'_> for ChangeRequest {
    const TYPE: AttributeType = AttributeType::CHANGE_REQUEST;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let flags = u32::from_be_bytes(exactly(value)?);
        Ok(Self {
            ip: flags & CHANGE_IP != 0,
            port: flags & CHANGE_PORT != 0,
        })
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        let ip = if self.ip { CHANGE_IP } else { 0 };
        let port = if self.port { CHANGE_PORT } else { 0 };
        value.extend_from_slice(&(ip | port).to_be_bytes());
    }
}

/// RESPONSE-PORT (RFC 5780 section 7.5): the port the client wants the response at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsePort(pub u16);

impl Attribute<'_> for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    /// Some senders count the two bytes of padding in the length: both are accepted.
    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        match value {
            [p0, p1] | [p0, p1, _, _] => Ok(Self(u16::from_be_bytes([*p0, *p1]))),
            _ => Err(ValueError::Length),
        }
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// PADDING (RFC 5780 section 7.6): makes a message big enough to be fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding(u16);

impl Padding {
    /// The most bytes of padding: a jumbo frame is fragmented with it.
    pub const MAX: u16 = 9216;

    /// Padding of this many bytes.
    ///
    /// # Errors
    ///
    /// [`ValueError::Range`] above [`Self::MAX`].
    pub const fn new(length: u16) -> Result<Self, ValueError> {
        if length > Self::MAX {
            return Err(ValueError::Range);
        }
        Ok(Self(length))
    }

    /// How many bytes.
    #[must_use]
    pub const fn length(self) -> u16 {
        self.0
    }
}

impl Attribute<'_> for Padding {
    const TYPE: AttributeType = AttributeType::PADDING;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        u16::try_from(value.len())
            .map_err(|_| ValueError::Range)
            .and_then(Self::new)
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.resize(value.len().saturating_add(usize::from(self.0)), 0);
    }
}
