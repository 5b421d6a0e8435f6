use std::fmt;

/// Length of the STUN header in bytes (RFC 8489 section 5).
pub const HEADER_LEN: usize = 20;

/// The magic cookie, bytes 4 to 7 of every message (RFC 8489 section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_a442;

/// What a message is within its transaction (RFC 8489 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Expects a response.
    Request,
    /// Expects none.
    Indication,
    /// The request was carried out.
    Success,
    /// The request was refused; ERROR-CODE says why.
    Error,
}

impl Class {
    const fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }

    const fn from_message_type(message_type: u16) -> Self {
        match message_type & 0x110 {
            0x000 => Self::Request,
            0x010 => Self::Indication,
            0x100 => Self::Success,
            _ => Self::Error,
        }
    }
}

/// What a message asks for: 12 bits (RFC 8489 section 18.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Method(u16);

impl Method {
    /// Binding (RFC 8489).
    pub const BINDING: Self = Self(0x001);
    /// Allocate (RFC 8656).
    pub const ALLOCATE: Self = Self(0x003);
    /// Refresh (RFC 8656).
    pub const REFRESH: Self = Self(0x004);
    /// Send, an indication (RFC 8656).
    pub const SEND: Self = Self(0x006);
    /// Data, an indication (RFC 8656).
    pub const DATA: Self = Self(0x007);
    /// CreatePermission (RFC 8656).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// ChannelBind (RFC 8656).
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// Connect (RFC 6062).
    pub const CONNECT: Self = Self(0x00a);
    /// ConnectionBind (RFC 6062).
    pub const CONNECTION_BIND: Self = Self(0x00b);
    /// ConnectionAttempt, an indication (RFC 6062).
    pub const CONNECTION_ATTEMPT: Self = Self(0x00c);

    /// The method with this number, 0 to 0xfff; `None` above.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number <= 0xfff {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number, 0 to 0xfff.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    const fn bits(self) -> u16 {
        (self.0 & 0x00f) | ((self.0 & 0x070) << 1) | ((self.0 & 0xf80) << 2)
    }

    const fn from_message_type(message_type: u16) -> Self {
        Self(
            (message_type & 0x000f)
                | ((message_type & 0x00e0) >> 1)
                | ((message_type & 0x3e00) >> 2),
        )
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({:#05x})", self.0)
    }
}

/// Ties responses to requests; 96 random bits (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The message type field: class and method interleaved.
pub(super) const fn message_type(class: Class, method: Method) -> u16 {
    class.bits() | method.bits()
}

/// Class and method of a message type field whose first two bits are zero.
pub(super) const fn split_message_type(message_type: u16) -> (Class, Method) {
    (
        Class::from_message_type(message_type),
        Method::from_message_type(message_type),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_and_method_survives_the_message_type_field() {
        let classes = [
            Class::Request,
            Class::Indication,
            Class::Success,
            Class::Error,
        ];
        for (number, class) in (0..=0xfff).flat_map(|n| classes.map(|class| (n, class))) {
            let method = Method::new(number).unwrap();
            let field = message_type(class, method);
            assert_eq!(field & 0xc000, 0);
            assert_eq!(split_message_type(field), (class, method));
        }
    }

    #[test]
    fn binding_has_the_message_types_of_rfc_8489() {
        assert_eq!(message_type(Class::Request, Method::BINDING), 0x0001);
        assert_eq!(message_type(Class::Indication, Method::BINDING), 0x0011);
        assert_eq!(message_type(Class::Success, Method::BINDING), 0x0101);
        assert_eq!(message_type(Class::Error, Method::BINDING), 0x0111);
    }

    #[test]
    fn a_method_has_twelve_bits() {
        assert_eq!(Method::new(0x1000), None);
    }
}
