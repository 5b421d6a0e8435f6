use std::fmt;

/// The result of a request (RFC 6887 section 7.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultCode(pub u8);

impl ResultCode {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// The server does not speak this version. A long error.
    pub const UNSUPP_VERSION: Self = Self(1);
    /// The operation is not for this client. A long error.
    pub const NOT_AUTHORIZED: Self = Self(2);
    /// The request cannot be read. A long error.
    pub const MALFORMED_REQUEST: Self = Self(3);
    /// The server does not know the opcode. A long error.
    pub const UNSUPP_OPCODE: Self = Self(4);
    /// The server does not know an option that it must. A long error.
    pub const UNSUPP_OPTION: Self = Self(5);
    /// An option cannot be read, or is there too often. A long error.
    pub const MALFORMED_OPTION: Self = Self(6);
    /// The server's network is not up. A short error.
    pub const NETWORK_FAILURE: Self = Self(7);
    /// The server has no room. A short error.
    pub const NO_RESOURCES: Self = Self(8);
    /// Only TCP, UDP and what the server knows else is mapped. A long error.
    pub const UNSUPP_PROTOCOL: Self = Self(9);
    /// The client has too many mappings. A short error.
    pub const USER_EX_QUOTA: Self = Self(10);
    /// The external port or address that PREFER_FAILURE insists on cannot be had. A short error.
    pub const CANNOT_PROVIDE_EXTERNAL: Self = Self(11);
    /// The packet does not come from the client that it names. A long error.
    pub const ADDRESS_MISMATCH: Self = Self(12);
    /// There are more filters than the server can hold. A long error.
    pub const EXCESSIVE_REMOTE_PEERS: Self = Self(13);

    /// The name in RFC 6887.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SUCCESS => "SUCCESS",
            Self::UNSUPP_VERSION => "UNSUPP_VERSION",
            Self::NOT_AUTHORIZED => "NOT_AUTHORIZED",
            Self::MALFORMED_REQUEST => "MALFORMED_REQUEST",
            Self::UNSUPP_OPCODE => "UNSUPP_OPCODE",
            Self::UNSUPP_OPTION => "UNSUPP_OPTION",
            Self::MALFORMED_OPTION => "MALFORMED_OPTION",
            Self::NETWORK_FAILURE => "NETWORK_FAILURE",
            Self::NO_RESOURCES => "NO_RESOURCES",
            Self::UNSUPP_PROTOCOL => "UNSUPP_PROTOCOL",
            Self::USER_EX_QUOTA => "USER_EX_QUOTA",
            Self::CANNOT_PROVIDE_EXTERNAL => "CANNOT_PROVIDE_EXTERNAL",
            Self::ADDRESS_MISMATCH => "ADDRESS_MISMATCH",
            Self::EXCESSIVE_REMOTE_PEERS => "EXCESSIVE_REMOTE_PEERS",
            _ => return None,
        })
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "result {}", self.0),
        }
    }
}

impl fmt::Debug for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
