//! nftables: a batch of changes, and what a set holds.

use std::time::Duration;

use super::bytes::{Arrived, Attributes, Head, attributes, find, flags, message, number};
use super::expression::Expressions;

/// The subsystem of nftables (`NFNL_SUBSYS_NFTABLES`).
pub(super) const SUBSYSTEM: u16 = 10;

/// The family of tables for IPv4 and IPv6 (`NFPROTO_INET`).
const INET: u8 = 1;

/// What becomes of a packet that no rule of a chain decides about (`NF_ACCEPT`).
const ACCEPT: u32 = 1;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// Elements of one message: the kernel's lists have at most 65,535 bytes.
const ELEMENTS_EACH: usize = 256;

/// Messages of the subsystem (`NFT_MSG_…`).
mod kind {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const DELETE_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const NEW_ELEMENT: u16 = 12;
    pub(super) const GET_ELEMENT: u16 = 13;
    pub(super) const DELETE_ELEMENT: u16 = 14;
}

/// Attributes of an element (`NFTA_SET_ELEM_…`).
mod element {
    pub(super) const KEY: u16 = 1;
    pub(super) const DATA: u16 = 2;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const EXPIRATION: u16 = 5;
    pub(super) const USER_DATA: u16 = 6;
    pub(super) const EXPRESSION: u16 = 7;
    pub(super) const KEY_END: u16 = 10;
    pub(super) const EXPRESSIONS: u16 = 11;
}

/// Where packets meet a chain (`NF_INET_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    #[cfg(test)]
    Output = 3,
    Postrouting = 4,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    Nat,
}

impl ChainKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A chain at a hook. What no rule decides about is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: ChainKind,
    pub(crate) hook: Hook,
    /// Smaller ones come first.
    pub(crate) priority: i32,
}

/// The type of one part of a key, as `nft` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum KeyType {
    V4 = 7,
    V6 = 8,
    Protocol = 12,
    Port = 13,
    /// The name of an interface.
    Interface = 41,
}

impl KeyType {
    const fn length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 | Self::Interface => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// The number of a type that joins these.
    fn joined(parts: &[Self]) -> u32 {
        const BITS: u32 = 6;
        parts
            .iter()
            .fold(0, |sum, part| (sum << BITS) | *part as u32)
    }

    /// Parts of a joined key take whole registers.
    fn joined_length(parts: &[Self]) -> u32 {
        match parts {
            [one] => one.length(),
            _ => parts
                .iter()
                .map(|part| part.length().next_multiple_of(4))
                .sum(),
        }
    }
}

/// What a set can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SetFlags {
    /// Elements may be ranges.
    pub(crate) intervals: bool,
    /// Elements count the packets that match them.
    pub(crate) counters: bool,
}

/// A set, or a map if it has `data`. Elements have a timeout of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: &'a [KeyType],
    pub(crate) data: &'a [KeyType],
    pub(crate) flags: SetFlags,
    /// The most elements.
    pub(crate) size: u32,
    /// Its number within a batch.
    pub(crate) id: u32,
}

impl Set<'_> {
    fn flags(&self) -> u32 {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const CONCATENATED: u32 = 0x80;
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let joined = self.flags.intervals && self.key.len() > 1;
        TIMEOUT
            | bit(self.flags.intervals, INTERVAL)
            | bit(!self.data.is_empty(), MAP)
            | bit(joined, CONCATENATED)
    }

    fn write(&self, table: &str, to: &mut Attributes<'_>) {
        to.text(1, table);
        to.text(2, self.name);
        to.u32(3, self.flags());
        to.u32(4, KeyType::joined(self.key));
        to.u32(5, KeyType::joined_length(self.key));
        if !self.data.is_empty() {
            to.u32(6, KeyType::joined(self.data));
            to.u32(7, KeyType::joined_length(self.data));
        }
        to.nest(9, |description| self.describe(description));
        to.u32(10, self.id);
        if self.key == [KeyType::Interface] {
            // Tells `nft` to show the key as text: record 0 (byte order), 4 bytes, 1 (host's).
            let [b0, b1, b2, b3] = 1_u32.to_ne_bytes();
            to.bytes(13, &[0, 4, b0, b1, b2, b3]);
        }
        if self.flags.counters {
            to.nest(17, |expression| Counted::default().write(expression));
        }
    }

    fn describe(&self, description: &mut Attributes<'_>) {
        description.u32(1, self.size);
        if self.flags.intervals && self.key.len() > 1 {
            description.nest(2, |fields| {
                for part in self.key {
                    fields.nest(1, |field| field.u32(1, part.length()));
                }
            });
        }
    }
}

/// An element to add.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Element {
    /// Each part padded to four bytes.
    pub(crate) key: Vec<u8>,
    /// The end of a range, in a set of intervals.
    pub(crate) key_end: Option<Vec<u8>>,
    /// What a map's key leads to; empty in a set.
    pub(crate) data: Vec<u8>,
    /// How long it lives; `None` for ever.
    pub(crate) timeout: Option<Duration>,
    /// Bytes that the kernel keeps and does not read; at most 128.
    pub(crate) note: Vec<u8>,
    /// What it begins to count from, in a set that counts.
    pub(crate) counted: Counted,
}

/// Packets, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Counted {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Counted {
    fn write(self, expression: &mut Attributes<'_>) {
        expression.text(1, "counter");
        expression.nest(2, |counter| {
            counter.u64(1, self.bytes);
            counter.u64(2, self.packets);
        });
    }
}

impl Element {
    fn write(&self, to: &mut Attributes<'_>) {
        to.nest(element::KEY, |key| key.bytes(1, &self.key));
        if let Some(end) = &self.key_end {
            to.nest(element::KEY_END, |key| key.bytes(1, end));
        }
        if !self.data.is_empty() {
            to.nest(element::DATA, |data| data.bytes(1, &self.data));
        }
        if let Some(timeout) = self.timeout {
            to.u64(element::TIMEOUT, milliseconds(timeout));
        }
        if !self.note.is_empty() {
            to.bytes(element::USER_DATA, &note(&self.note));
        }
        if self.counted != Counted::default() {
            to.nest(element::EXPRESSION, |one| self.counted.write(one));
        }
    }

    fn write_key(&self, to: &mut Attributes<'_>) {
        to.nest(element::KEY, |key| key.bytes(1, &self.key));
        if let Some(end) = &self.key_end {
            to.nest(element::KEY_END, |key| key.bytes(1, end));
        }
    }
}

/// The kernel takes a timeout of 0 for none at all.
fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// `nft` takes user data for records of type, length and value, and shows those of type 0.
const NOTE: u8 = 0x70;

fn note(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    let kept = bytes.iter().take(usize::from(length)).copied();
    [NOTE, length].into_iter().chain(kept).collect()
}

/// An element that a set holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoredElement {
    pub(crate) element: Element,
    /// How long it still lives; `None` for ever.
    pub(crate) left: Option<Duration>,
    /// What matched it, where the set counts.
    pub(crate) counted: Counted,
}

impl StoredElement {
    /// Reads one element of a dump.
    fn read(bytes: &[u8]) -> Self {
        let mut stored = Self::default();
        for (kind, value) in attributes(bytes) {
            let data = || find(value, 1).unwrap_or_default().to_vec();
            let time = || number(value).map(Duration::from_millis);
            match kind {
                element::KEY => stored.element.key = data(),
                element::KEY_END => stored.element.key_end = Some(data()),
                element::DATA => stored.element.data = data(),
                element::TIMEOUT => stored.element.timeout = time(),
                element::EXPIRATION => stored.left = time(),
                element::USER_DATA => stored.element.note = read_note(value),
                element::EXPRESSION => stored.count(value),
                element::EXPRESSIONS => {
                    attributes(value).for_each(|(_, one)| stored.count(one));
                }
                _ => {}
            }
        }
        stored
    }

    fn count(&mut self, expression: &[u8]) {
        if find(expression, 1) == Some(b"counter\0") {
            let data = find(expression, 2).unwrap_or_default();
            self.counted = Counted {
                bytes: find(data, 1).and_then(number).unwrap_or_default(),
                packets: find(data, 2).and_then(number).unwrap_or_default(),
            };
        }
    }
}

fn read_note(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [NOTE, length, note @ ..] => note
            .get(..usize::from(*length))
            .unwrap_or_default()
            .to_vec(),
        _ => Vec::new(),
    }
}

/// Changes that the kernel makes all at once, or not at all.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            messages: 0,
        };
        batch.edge(BATCH_BEGIN);
        batch
    }

    /// Adds a table, if it is not there.
    pub(crate) fn add_table(&mut self, name: &str) {
        self.add(kind::NEW_TABLE, flags::CREATE, |to| to.text(1, name));
    }

    /// Deletes a table with all that is in it; it has to be there.
    pub(crate) fn delete_table(&mut self, name: &str) {
        self.add(kind::DELETE_TABLE, 0, |to| to.text(1, name));
    }

    pub(crate) fn add_chain(&mut self, table: &str, chain: &Chain<'_>) {
        self.add(kind::NEW_CHAIN, flags::CREATE, |to| {
            to.text(1, table);
            to.text(3, chain.name);
            to.nest(4, |hook| {
                hook.u32(1, chain.hook as u32);
                hook.bytes(2, &chain.priority.to_be_bytes());
            });
            to.u32(5, ACCEPT);
            to.text(7, chain.kind.name());
        });
    }

    pub(crate) fn add_set(&mut self, table: &str, set: &Set<'_>) {
        self.add(kind::NEW_SET, flags::CREATE, |to| set.write(table, to));
    }

    /// Adds a rule behind the others of its chain.
    pub(crate) fn add_rule(&mut self, table: &str, chain: &str, expressions: &Expressions) {
        self.add(kind::NEW_RULE, flags::CREATE | flags::APPEND, |to| {
            to.text(1, table);
            to.text(2, chain);
            to.nest_written(4, expressions.as_bytes());
        });
    }

    /// Adds elements; none of them may be there with other data.
    pub(crate) fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_EACH) {
            self.add(kind::NEW_ELEMENT, flags::CREATE, |to| {
                write_elements(table, set, some, to, Element::write);
            });
        }
    }

    /// Adds elements that must not be there yet.
    pub(crate) fn add_new_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_EACH) {
            self.add(kind::NEW_ELEMENT, flags::CREATE | flags::EXCL, |to| {
                write_elements(table, set, some, to, Element::write);
            });
        }
    }

    /// Deletes elements; each has to be there.
    pub(crate) fn delete_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_EACH) {
            self.add(kind::DELETE_ELEMENT, 0, |to| {
                write_elements(table, set, some, to, Element::write_key);
            });
        }
    }

    /// Whether nothing is in it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.messages <= 1
    }

    /// Its size so far, in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes to send, and the sequence number that is acknowledged last.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.messages.saturating_sub(1);
        self.edge(BATCH_END);
        (self.bytes, last)
    }

    fn edge(&mut self, edge: u16) {
        let head = Head {
            kind: edge,
            flags: flags::REQUEST,
            sequence: self.messages,
            family: 0,
            resource: SUBSYSTEM,
        };
        message(&mut self.bytes, head, |_| {});
        self.messages += 1;
    }

    fn add(&mut self, kind: u16, asked: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.add_to(INET, kind, asked, fill);
    }

    /// The same about a table of another family.
    pub(super) fn add_to(
        &mut self,
        family: u8,
        kind: u16,
        asked: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let head = Head {
            kind: (SUBSYSTEM << 8) | kind,
            flags: flags::REQUEST | flags::ACK | asked,
            sequence: self.messages,
            family,
            resource: 0,
        };
        message(&mut self.bytes, head, fill);
        self.messages += 1;
    }
}

fn write_elements(
    table: &str,
    set: &str,
    elements: &[Element],
    to: &mut Attributes<'_>,
    write: impl Fn(&Element, &mut Attributes<'_>),
) {
    to.text(1, table);
    to.text(2, set);
    to.nest(3, |list| {
        for element in elements {
            list.nest(1, |one| write(element, one));
        }
    });
}

/// A request for all elements of a set.
pub(super) fn dump_elements(table: &str, set: &str, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Head {
        kind: (SUBSYSTEM << 8) | kind::GET_ELEMENT,
        flags: flags::REQUEST | flags::DUMP,
        sequence,
        family: INET,
        resource: 0,
    };
    message(&mut bytes, head, |to| {
        to.text(1, table);
        to.text(2, set);
    });
    bytes
}

/// A request for the element of a set that has this one's key.
pub(super) fn get_element(table: &str, set: &str, element: &Element, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Head {
        kind: (SUBSYSTEM << 8) | kind::GET_ELEMENT,
        flags: flags::REQUEST | flags::ACK,
        sequence,
        family: INET,
        resource: 0,
    };
    message(&mut bytes, head, |to| {
        let one = std::slice::from_ref(element);
        write_elements(table, set, one, to, Element::write_key);
    });
    bytes
}

/// The elements in one message of a dump.
pub(super) fn read_elements(arrived: &Arrived<'_>) -> Vec<StoredElement> {
    let lists = arrived.attributes().filter(|(kind, _)| *kind == 3);
    lists
        .flat_map(|(_, list)| attributes(list))
        .map(|(_, element)| StoredElement::read(element))
        .collect()
}

/// What somebody changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// In which table.
    pub(crate) table: String,
    /// Whether something was taken away: the table, a chain, a set, a rule or an element.
    pub(crate) removed: bool,
    /// Whether it concerns elements only.
    pub(crate) elements: bool,
}

impl Change {
    /// Reads a notification; `None` if it is about something else.
    pub(super) fn read(arrived: &Arrived<'_>) -> Option<Self> {
        if arrived.kind >> 8 != SUBSYSTEM {
            return None;
        }
        let message = arrived.kind & 0xff;
        let text = arrived.attributes().find(|(kind, _)| *kind == 1)?.1;
        let table = text.strip_suffix(&[0]).unwrap_or(text);
        Some(Self {
            table: String::from_utf8_lossy(table).into_owned(),
            removed: matches!(message, 2 | 5 | 8 | 11 | 14),
            elements: matches!(message, 12 | 14),
        })
    }
}
