//! Multicast DNS (RFC 6762), as far as names of candidates need it: which address has the host of
//! this name?
//!
//! ```
//! use postern_wire::mdns::{HostName, Kind, Message, Question};
//!
//! let name: HostName = "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.local".parse()?;
//! let query = Message::query([Kind::V4, Kind::V6].map(|kind| Question { name, kind }));
//! assert_eq!(Message::parse(&query.to_bytes()), Ok(query));
//! # Ok::<(), postern_wire::mdns::HostNameError>(())
//! ```
//!
//! Other names, kinds of records and classes than these are left out of a message that is read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use simple_dns::rdata::RData;
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE,
    header_buffer,
};

/// The port of everybody.
pub const PORT: u16 = 5353;
/// The group of everybody, in IPv4.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// The group of everybody, in IPv6.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// For how many seconds the address of a host holds (RFC 6762 section 10).
pub const TTL: u32 = 120;

/// More questions and records than this in one message are refused: a page of services has some dozens.
/// The parser makes room for as many as the head of a message promises.
const MAX_RECORDS: u32 = 128;

/// The end of every name.
const LOCAL: &str = ".local";
/// Before which octets of a UUID there is a hyphen (RFC 9562 section 4).
const HYPHENS: [usize; 4] = [4, 6, 8, 10];
/// How long a UUID is as text.
const UUID: usize = 36;

/// The name of a host that tells nothing of it: a random UUID and `.local`
/// (draft-ietf-mmusic-mdns-ice-candidates, section 3.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName([u8; 16]);

/// Not a random UUID and `.local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name is not a UUID of version 4 and \".local\"")]
pub struct HostNameError;

impl HostName {
    /// The name that these random octets make, of which 122 bits count (RFC 9562 section 5.4).
    #[must_use]
    pub const fn random(octets: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(octets);
        let version = bits & !(0xf << 76) | (4 << 76);
        let variant = version & !(0b11 << 62) | (0b10 << 62);
        Self(variant.to_be_bytes())
    }

    fn of(name: &Name<'_>) -> Option<Self> {
        let [host, local] = name.get_labels() else {
            return None;
        };
        let is_local = LOCAL
            .get(1..)
            .is_some_and(|end| local.as_ref().eq_ignore_ascii_case(end.as_bytes()));
        let host = std::str::from_utf8(host.as_ref()).ok()?;
        if is_local { from_uuid(host) } else { None }
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let (host, end) = name.split_at_checked(UUID).ok_or(HostNameError)?;
        let found = from_uuid(host).filter(|_| end.eq_ignore_ascii_case(LOCAL));
        found.ok_or(HostNameError)
    }
}

/// Reads a UUID of version 4.
fn from_uuid(text: &str) -> Option<HostName> {
    let mut digits = text.chars();
    let mut octets = [0; 16];
    for (at, octet) in octets.iter_mut().enumerate() {
        if HYPHENS.contains(&at) && digits.next() != Some('-') {
            return None;
        }
        let mut digit = || digits.next()?.to_digit(16);
        let value = digit()?.checked_mul(16)?.checked_add(digit()?)?;
        *octet = u8::try_from(value).ok()?;
    }
    let name = HostName(octets);
    (digits.next().is_none() && HostName::random(octets) == name).then_some(name)
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            if HYPHENS.contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{octet:02x}")?;
        }
        f.write_str(LOCAL)
    }
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4, `A`.
    V4,
    /// IPv6, `AAAA`.
    V6,
    /// Whatever there is, `ANY`.
    Any,
}

impl Kind {
    /// Whether an address is an answer.
    #[must_use]
    pub const fn fits(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Any => true,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Of which host.
    pub name: HostName,
    /// What of it.
    pub kind: Kind,
}

/// What is told, or known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Of which host.
    pub name: HostName,
    /// Its address.
    pub address: IpAddr,
    /// For how many seconds that holds; zero if it does not any longer.
    pub ttl: u32,
}

/// A message, without what is of no use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whether it answers.
    pub is_response: bool,
    /// Zero, but for programs that are no hosts of multicast DNS (RFC 6762 section 6.7): they want
    /// theirs back.
    pub id: u16,
    /// What is asked. In a response these are for the same programs only.
    pub questions: Vec<Question>,
    /// What is told, or known to who asks (RFC 6762 section 7.1).
    pub records: Vec<Record>,
}

/// Why bytes are no message to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More questions and records than anybody needs.
    #[error("the message has too many records")]
    TooMany,
    /// Not DNS, or with something in it that makes no sense.
    #[error("the message is no DNS")]
    Malformed,
    /// Another operation, or a failure: to be ignored (RFC 6762 sections 18.3 and 18.11).
    #[error("the message is neither a question nor an answer")]
    Foreign,
}

impl Message {
    /// Asks everybody.
    #[must_use]
    pub fn query(questions: impl IntoIterator<Item = Question>) -> Self {
        Self {
            is_response: false,
            id: 0,
            questions: questions.into_iter().collect(),
            records: Vec::new(),
        }
    }

    /// Tells everybody.
    #[must_use]
    pub fn response(record: Record) -> Self {
        Self {
            is_response: true,
            id: 0,
            questions: Vec::new(),
            records: vec![record],
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// Says why it is to be ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if promised(bytes).ok_or(ParseError::Malformed)? > MAX_RECORDS {
            return Err(ParseError::TooMany);
        }
        let packet = Packet::parse(bytes).map_err(|_| ParseError::Malformed)?;
        if packet.opcode() != OPCODE::StandardQuery || packet.rcode() != RCODE::NoError {
            return Err(ParseError::Foreign);
        }
        // Who answers with one record may tell others beside it.
        let records = packet.answers.iter().chain(&packet.additional_records);
        Ok(Self {
            is_response: packet.has_flags(PacketFlag::RESPONSE),
            id: packet.id(),
            questions: packet.questions.iter().filter_map(question).collect(),
            records: records.filter_map(record).collect(),
        })
    }

    /// The message as a datagram. Names are written out.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut packet = if self.is_response {
            Packet::new_reply(self.id)
        } else {
            Packet::new_query(self.id)
        };
        if self.is_response {
            packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        }
        let questions = self.questions.iter().map(|q| (q.name.to_string(), q.kind));
        let questions: Vec<_> = questions.collect();
        let records = self.records.iter().map(|r| (r.name.to_string(), r));
        let records: Vec<_> = records.collect();
        packet.questions = questions.iter().map(write_question).collect();
        // Programs that know unicast DNS alone take the bit for a part of the class (section 10.2).
        let flush = self.is_response && self.questions.is_empty();
        let records = records.iter().map(write_record);
        packet.answers = records.map(|r| r.with_cache_flush(flush)).collect();
        // Writing to memory does not fail.
        packet.build_bytes_vec().unwrap_or_default()
    }
}

/// How many questions and records the head promises.
fn promised(bytes: &[u8]) -> Option<u32> {
    let counts = [
        header_buffer::questions(bytes),
        header_buffer::answers(bytes),
        header_buffer::name_servers(bytes),
        header_buffer::additional_records(bytes),
    ];
    counts
        .into_iter()
        .try_fold(0_u32, |sum, count| sum.checked_add(count.ok()?.into()))
}

fn question(question: &simple_dns::Question<'_>) -> Option<Question> {
    let kinds = [Kind::V4, Kind::V6, Kind::Any];
    let kind = kinds
        .into_iter()
        .find(|kind| qtype(*kind) == question.qtype)?;
    let internet = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    let name = HostName::of(&question.qname).filter(|_| internet)?;
    Some(Question { name, kind })
}

fn record(record: &ResourceRecord<'_>) -> Option<Record> {
    let address = if let RData::A(v4) = &record.rdata {
        Ipv4Addr::from(v4.address).into()
    } else if let RData::AAAA(v6) = &record.rdata {
        Ipv6Addr::from(v6.address).into()
    } else {
        return None;
    };
    let name = HostName::of(&record.name).filter(|_| record.class == CLASS::IN)?;
    let ttl = record.ttl;
    Some(Record { name, address, ttl })
}

fn write_question((name, kind): &(String, Kind)) -> simple_dns::Question<'_> {
    let name = Name::new_unchecked(name);
    simple_dns::Question::new(name, qtype(*kind), CLASS::IN.into(), false)
}

fn qtype(kind: Kind) -> QTYPE {
    match kind {
        Kind::V4 => TYPE::A.into(),
        Kind::V6 => TYPE::AAAA.into(),
        Kind::Any => QTYPE::ANY,
    }
}

fn write_record<'a>((name, record): &'a (String, &Record)) -> ResourceRecord<'a> {
    let rdata = match record.address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, record.ttl, rdata)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.local";

    fn name() -> HostName {
        NAME.parse().unwrap()
    }

    fn told(address: &str) -> Record {
        Record {
            name: name(),
            address: address.parse().unwrap(),
            ttl: TTL,
        }
    }

    #[test]
    fn only_random_uuids_and_local_are_names() {
        assert_eq!(name().to_string(), NAME);
        assert_eq!(NAME.to_uppercase().parse(), Ok(name()));
        for wrong in [
            "printer.local",
            ".local",
            "",
            "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11",
            "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.locale",
            "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c1.local",
            "4b2e9c52-12ab-1c1d-9d5d-7a0f8e1f3c11.local",
            "4b2e9c52-12ab-4c1d-0d5d-7a0f8e1f3c11.local",
            "4b2e9c5212ab-4c1d-9d5d-7a0f8e1f3c111.local",
            "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3cé.local",
            "+b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.local",
        ] {
            assert_eq!(wrong.parse::<HostName>(), Err(HostNameError), "{wrong}");
        }
    }

    /// As a resolver of other make wrote it (aioice 0.13, dnspython 2.9).
    #[test]
    fn a_question_is_what_others_ask() {
        let asked = Question {
            name: name(),
            kind: Kind::V4,
        };
        let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 36];
        bytes.extend(NAME.as_bytes().iter().take(UUID));
        bytes.extend(*b"\x05local\x00\x00\x01\x00\x01");
        assert_eq!(Message::query([asked]).to_bytes(), bytes);
        assert_eq!(Message::parse(&bytes), Ok(Message::query([asked])));
        for cut in 0..bytes.len() {
            let short = bytes.get(..cut).unwrap();
            assert_eq!(Message::parse(short), Err(ParseError::Malformed), "{cut}");
        }
    }

    #[test]
    fn an_answer_replaces_what_was_known_and_says_how_long_it_holds() {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 36];
        bytes.extend(NAME.as_bytes().iter().take(UUID));
        bytes.extend(*b"\x05local\x00\x00\x01\x80\x01\x00\x00\x00\x78\x00\x04\xc0\xa8\x01\x07");
        let message = Message::response(told("192.168.1.7"));
        assert_eq!(message.to_bytes(), bytes);
        assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn programs_that_know_unicast_alone_get_their_question_and_number_back() {
        let message = Message {
            id: 77,
            questions: vec![Question {
                name: name(),
                kind: Kind::Any,
            }],
            ..Message::response(told("2001:db8::7"))
        };
        let bytes = message.to_bytes();
        assert_eq!(bytes.get(..6), Some(&[0, 77, 0x84, 0, 0, 1][..]));
        let class = [0, 28, 0, 1];
        assert!(bytes.windows(4).any(|window| window == class));
        assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn what_is_of_no_use_is_left_out_or_refused() {
        let text = "printer.local".to_owned();
        let mut packet = Packet::new_reply(0);
        let record = told("192.168.1.7");
        let printer = (text, &record);
        packet.answers.push(write_record(&printer));
        let bytes = packet.build_bytes_vec().unwrap();
        assert_eq!(Message::parse(&bytes).unwrap().records, []);
        *packet.rcode_mut() = RCODE::NameError;
        let bytes = packet.build_bytes_vec().unwrap();
        assert_eq!(Message::parse(&bytes), Err(ParseError::Foreign));
        let many = [0, 0, 0x84, 0, 0, 0, 255, 255, 0, 0, 0, 0];
        assert_eq!(Message::parse(&many), Err(ParseError::TooMany));
        // A name that is a pointer to itself.
        let circle = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
        assert_eq!(Message::parse(&circle), Err(ParseError::Malformed));
    }

    proptest! {
        #[test]
        fn random_names_are_read_back(octets: [u8; 16]) {
            let name = HostName::random(octets);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            crate::fuzz::mdns(&bytes);
        }

        #[test]
        fn no_changed_byte_makes_it_panic(at in 0_usize..80, value: u8) {
            let mut bytes = Message::response(told("2001:db8::7")).to_bytes();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            crate::fuzz::mdns(&bytes);
        }
    }
}
