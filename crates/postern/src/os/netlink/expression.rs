//! The expressions of a rule: what `nft` writes as a line, the kernel runs as a few small
//! instructions on registers.

use super::bytes::Attributes;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// The register of the verdict (`NFT_REG_VERDICT`).
const VERDICT: u32 = 0;

/// `NFT_REG32_00`: registers of four bytes each begin here.
const FIRST_REGISTER: u32 = 8;

/// One of the registers of four bytes, from 0; longer values take the ones behind it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    const fn number(self) -> u32 {
        FIRST_REGISTER + self.0
    }
}

/// What can be known of a packet without looking into it (`NFT_META_…`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Meta {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    /// Of the network layer, one byte (`NFPROTO_…`).
    Family = 15,
    /// Of the transport layer, one byte (`IPPROTO_…`).
    Protocol = 16,
}

/// Where a field is counted from.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// What the connection tracker knows of a packet (`NFT_CT_…`), four bytes each.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Tracked {
    State = 0,
    Status = 2,
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Family {
    V4 = 2,
    V6 = 10,
}

/// Which address is translated.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
enum Translation {
    Source = 0,
    Destination = 1,
}

/// The expressions of one rule, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expressions(Vec<u8>);

impl Expressions {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The attributes of the list, ready for a rule.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn meta(self, what: Meta, to: Register) -> Self {
        self.add("meta", |data| {
            data.u32(1, to.number());
            data.u32(2, what as u32);
        })
    }

    /// Marks the packet with what is in the register.
    pub(crate) fn set_mark(self, from: Register) -> Self {
        self.add("meta", |data| {
            data.u32(2, Meta::Mark as u32);
            data.u32(3, from.number());
        })
    }

    /// Loads `length` bytes at `offset`.
    pub(crate) fn payload(self, base: Base, offset: u32, length: u32, to: Register) -> Self {
        self.add("payload", |data| {
            data.u32(1, to.number());
            data.u32(2, base as u32);
            data.u32(3, offset);
            data.u32(4, length);
        })
    }

    pub(crate) fn tracked(self, what: Tracked, to: Register) -> Self {
        self.add("ct", |data| {
            data.u32(1, to.number());
            data.u32(2, what as u32);
        })
    }

    /// Goes on if the register holds this.
    pub(crate) fn equals(self, register: Register, value: &[u8]) -> Self {
        self.compare(register, 0, value)
    }

    /// Goes on if the register holds something else.
    pub(crate) fn differs(self, register: Register, value: &[u8]) -> Self {
        self.compare(register, 1, value)
    }

    fn compare(self, register: Register, operation: u32, value: &[u8]) -> Self {
        self.add("cmp", |data| {
            data.u32(1, register.number());
            data.u32(2, operation);
            data.nest(3, |value_data| value_data.bytes(DATA_VALUE, value));
        })
    }

    /// Keeps the bits of `mask`, four bytes in the machine's order.
    pub(crate) fn mask(self, register: Register, mask: u32) -> Self {
        self.add("bitwise", |data| {
            data.u32(1, register.number());
            data.u32(2, register.number());
            data.u32(3, 4);
            data.nest(4, |value| value.bytes(DATA_VALUE, &mask.to_ne_bytes()));
            data.nest(5, |value| value.bytes(DATA_VALUE, &[0; 4]));
        })
    }

    /// Sets a bit of the register, four bytes in the machine's order.
    pub(crate) fn set_bits(self, register: Register, bits: u32) -> Self {
        self.add("bitwise", |data| {
            data.u32(1, register.number());
            data.u32(2, register.number());
            data.u32(3, 4);
            data.nest(4, |value| value.bytes(DATA_VALUE, &(!bits).to_ne_bytes()));
            data.nest(5, |value| value.bytes(DATA_VALUE, &bits.to_ne_bytes()));
        })
    }

    /// Goes on if the set has what begins in the register.
    pub(crate) fn in_set(self, set: &str, register: Register) -> Self {
        self.add("lookup", |data| {
            data.text(1, set);
            data.u32(2, register.number());
        })
    }

    /// Goes on if the map has what begins in `from`; what it maps to begins in `to` then.
    pub(crate) fn in_map(self, map: &str, from: Register, to: Register) -> Self {
        self.add("lookup", |data| {
            data.text(1, map);
            data.u32(2, from.number());
            data.u32(3, to.number());
        })
    }

    /// Translates the destination to address and port in the registers.
    pub(crate) fn destination_nat(self, family: Family, address: Register, port: Register) -> Self {
        self.nat(Translation::Destination, family, address, port)
    }

    /// Translates the source to address and port in the registers.
    pub(crate) fn source_nat(self, family: Family, address: Register, port: Register) -> Self {
        self.nat(Translation::Source, family, address, port)
    }

    fn nat(
        self,
        translation: Translation,
        family: Family,
        address: Register,
        port: Register,
    ) -> Self {
        self.add("nat", |data| {
            data.u32(1, translation as u32);
            data.u32(2, u32::from(family as u8));
            data.u32(3, address.number());
            data.u32(5, port.number());
        })
    }

    /// Translates the source to an address of the interface.
    pub(crate) fn masquerade(self) -> Self {
        self.add("masq", |_| {})
    }

    /// Counts what comes so far.
    pub(crate) fn counter(self) -> Self {
        self.add("counter", |data| {
            data.u64(1, 0);
            data.u64(2, 0);
        })
    }

    pub(crate) fn accept(self) -> Self {
        const ACCEPT: u32 = 1;
        self.add("immediate", |data| {
            data.u32(1, VERDICT);
            data.nest(2, |value| {
                value.nest(DATA_VERDICT, |verdict| verdict.u32(VERDICT_CODE, ACCEPT));
            });
        })
    }

    fn add(mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) -> Self {
        Attributes::at_end_of(&mut self.0).nest(LIST_ELEMENT, |expression| {
            expression.text(EXPRESSION_NAME, name);
            expression.nest(EXPRESSION_DATA, fill);
        });
        self
    }
}
