//! The two transports whose ports are mapped, as each protocol names them.

use std::fmt;
use std::str::FromStr;

/// What a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both, TCP first.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The name in lower case, for people and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The name in upper case, as UPnP writes it. There are gateways that know no other.
    #[must_use]
    pub const fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// The number in an IP header and in PCP: 6 or 17.
    #[must_use]
    pub const fn ip_protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The transport with this number in an IP header.
    #[must_use]
    pub const fn from_ip_protocol(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names neither TCP nor UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither tcp nor udp")]
pub struct UnknownTransport;

impl FromStr for Transport {
    type Err = UnknownTransport;

    /// Reads the name in any case. A gateway that must be strict compares with
    /// [`Transport::upper`] itself.
    fn from_str(text: &str) -> Result<Self, UnknownTransport> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.as_str().eq_ignore_ascii_case(text))
            .ok_or(UnknownTransport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_leads_back_to_its_transport() {
        for transport in Transport::ALL {
            assert_eq!(transport.as_str().parse(), Ok(transport));
            assert_eq!(transport.upper().parse(), Ok(transport));
            let number = transport.ip_protocol();
            assert_eq!(Transport::from_ip_protocol(number), Some(transport));
        }
        assert_eq!("sctp".parse::<Transport>(), Err(UnknownTransport));
        assert_eq!("".parse::<Transport>(), Err(UnknownTransport));
        assert_eq!(Transport::from_ip_protocol(132), None);
    }
}
