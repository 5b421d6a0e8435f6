//! The layout that all netlink families share: messages with a header of 16 bytes, the
//! netfilter header of 4, and attributes of type, length and value, all padded to 4 bytes.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! |                       length of the message                   |
//! +-------------------------------+-------------------------------+
//! |   subsystem   |    message    |             flags             |
//! +-------------------------------+-------------------------------+
//! |                            sequence                           |
//! +---------------------------------------------------------------+
//! |                             port                              |
//! +---------------+---------------+-------------------------------+
//! |    family     |    version    |     resource (big-endian)     |
//! +---------------+---------------+-------------------------------+
//! |  attribute's length (with it) |N|B|     attribute's type      |
//! +-------------------------------+-------------------------------+
//! |                    value, padded to 4 bytes                   |
//! ```
//!
//! Numbers of the headers are in the machine's order, numbers in values big-endian.

/// The header of a netlink message.
pub(super) const HEADER: usize = 16;

/// The header of a netfilter message, behind it.
pub(super) const FAMILY_HEADER: usize = 4;

/// Marks an attribute that holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

/// What is left of an attribute's type without its marks.
const TYPE_MASK: u16 = 0x3fff;

/// What a message asks for.
pub(super) mod flags {
    pub(in super::super) const REQUEST: u16 = 0x1;
    pub(in super::super) const ACK: u16 = 0x4;
    pub(in super::super) const DUMP: u16 = 0x300;
    pub(in super::super) const EXCL: u16 = 0x200;
    pub(in super::super) const CREATE: u16 = 0x400;
    pub(in super::super) const APPEND: u16 = 0x800;
}

/// What begins a netfilter message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Subsystem and message, as in the header's type.
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// An address family, or the family of a table.
    pub(super) family: u8,
    pub(super) resource: u16,
}

/// Appends one message; `fill` writes its attributes.
pub(super) fn message(to: &mut Vec<u8>, head: Head, fill: impl FnOnce(&mut Attributes<'_>)) {
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&head.kind.to_ne_bytes());
    to.extend_from_slice(&head.flags.to_ne_bytes());
    to.extend_from_slice(&head.sequence.to_ne_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&[head.family, 0]);
    to.extend_from_slice(&head.resource.to_be_bytes());
    fill(&mut Attributes(to));
    let length = u32::try_from(to.len() - start).unwrap_or(u32::MAX);
    to[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Writes attributes at the end of a message.
#[derive(Debug)]
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl<'a> Attributes<'a> {
    /// Writes attributes that become part of a message later.
    pub(super) const fn at_end_of(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(super) fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text ends with a zero byte.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Attributes that were written before.
    pub(super) fn nest_written(&mut self, kind: u16, written: &[u8]) {
        self.bytes(kind | NESTED, written);
    }

    fn pad(&mut self) {
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
    }
}

/// A message that arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    /// The socket on whose behalf the kernel sent it.
    pub(super) port: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

impl<'a> Arrived<'a> {
    /// Cuts the first message off; `None` at the end and where the rest makes no sense.
    pub(super) fn cut(from: &mut &'a [u8]) -> Option<Self> {
        let (header, _) = from.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = from.get(HEADER..length)?;
        *from = from.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self {
            kind: u16::from_ne_bytes([k0, k1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            payload,
        })
    }

    /// The attributes of a netfilter message.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.payload.get(FAMILY_HEADER..).unwrap_or_default())
    }
}

/// Reads attributes, one behind the other, until they make no sense.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, t0, t1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & TYPE_MASK, value))
    })
}

/// The value of the first attribute of this type.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A big-endian number of a value.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    (value.len() <= 8).then(|| {
        value
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    })
}
