//! The SDP attribute `candidate` (RFC 8839 section 5.1).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::{FromStr, SplitAsciiWhitespace};

use super::candidate::{Candidate, CandidateKind, MAX_PRIORITY};
use super::credentials::is_ice_char;
use super::tcp::TcpType;

/// Longer lines are refused: a candidate with its extensions takes about 150 bytes.
const MAX_LINE: usize = 512;
/// RFC 8839 section 5.1: `foundation = 1*32ice-char`.
const MAX_FOUNDATION: usize = 32;

/// Why a candidate line cannot be used.
///
/// [`Transport`](Self::Transport), [`Mdns`](Self::Mdns) and [`NotAnAddress`](Self::NotAnAddress) are
/// legal candidates that this agent has no use for; the others are the peer's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseCandidateError {
    /// Longer than 512 bytes.
    #[error("the candidate is longer than 512 bytes")]
    TooLong,
    /// Does not begin with `candidate:`.
    #[error("the line does not begin with \"candidate:\"")]
    NotACandidate,
    /// Ends before the last mandatory field, or an extension has no value.
    #[error("the candidate ends too early")]
    Truncated,
    /// Not 1 to 32 ice-chars.
    #[error("the foundation is not 1 to 32 ice-chars")]
    Foundation,
    /// Not a number from 1 to 256.
    #[error("the component is not a number from 1 to 256")]
    Component,
    /// A transport other than UDP and TCP.
    #[error("the transport is neither UDP nor TCP")]
    Transport,
    /// A candidate over TCP without a known `tcptype`.
    #[error("the tcptype is unknown")]
    TcpType,
    /// Not a number from 1 to 2³¹ - 1.
    #[error("the priority is not a number from 1 to 2147483647")]
    Priority,
    /// A `.local` name (mDNS): [`NamedCandidate`](super::NamedCandidate) reads it.
    #[error("the address is an mDNS name")]
    Mdns,
    /// Neither an IPv4 nor an IPv6 address: names are not resolved.
    #[error("the address is a name")]
    NotAnAddress,
    /// Not a port number.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// The word `typ` or a known type is missing.
    #[error("the candidate type is unknown")]
    Kind,
}

impl FromStr for Candidate {
    type Err = ParseCandidateError;

    /// Reads `candidate:…`, with or without `a=` before it. Unknown extensions are skipped.
    fn from_str(line: &str) -> Result<Self, Self::Err> {
        read_line(line, address)
    }
}

/// Reads a line whose address `address` reads.
pub(super) fn read_line(
    line: &str,
    address: impl FnOnce(&str) -> Result<IpAddr, ParseCandidateError>,
) -> Result<Candidate, ParseCandidateError> {
    if line.len() > MAX_LINE {
        return Err(ParseCandidateError::TooLong);
    }
    let line = line.trim();
    let line = line.strip_prefix("a=").unwrap_or(line);
    let fields = line
        .strip_prefix("candidate:")
        .ok_or(ParseCandidateError::NotACandidate)?;
    read(&mut fields.split_ascii_whitespace(), address)
}

fn read(
    fields: &mut SplitAsciiWhitespace<'_>,
    address: impl FnOnce(&str) -> Result<IpAddr, ParseCandidateError>,
) -> Result<Candidate, ParseCandidateError> {
    let foundation = foundation(next(fields)?)?;
    let component = component(next(fields)?)?;
    let is_tcp = is_tcp(next(fields)?)?;
    let priority = priority(next(fields)?)?;
    let address = address(next(fields)?)?;
    let port = port(next(fields)?)?;
    let kind = kind(next(fields)?, next(fields)?)?;
    let Extensions { related, tcp } = extensions(fields)?;
    if is_tcp && tcp.is_none() {
        return Err(ParseCandidateError::TcpType);
    }
    Ok(Candidate {
        foundation,
        component,
        priority,
        address: SocketAddr::new(address, port),
        kind,
        related,
        tcp: tcp.filter(|_| is_tcp),
    })
}

fn next<'a>(fields: &mut SplitAsciiWhitespace<'a>) -> Result<&'a str, ParseCandidateError> {
    fields.next().ok_or(ParseCandidateError::Truncated)
}

fn foundation(field: &str) -> Result<String, ParseCandidateError> {
    if field.len() > MAX_FOUNDATION || !field.bytes().all(is_ice_char) {
        return Err(ParseCandidateError::Foundation);
    }
    Ok(field.to_owned())
}

fn component(field: &str) -> Result<u16, ParseCandidateError> {
    let number = field.parse().ok();
    number
        .filter(|n| (1..=256).contains(n))
        .ok_or(ParseCandidateError::Component)
}

fn is_tcp(field: &str) -> Result<bool, ParseCandidateError> {
    match field {
        udp if udp.eq_ignore_ascii_case("udp") => Ok(false),
        tcp if tcp.eq_ignore_ascii_case("tcp") => Ok(true),
        _ => Err(ParseCandidateError::Transport),
    }
}

fn priority(field: &str) -> Result<u32, ParseCandidateError> {
    let number = field.parse().ok();
    number
        .filter(|n| (1..=MAX_PRIORITY).contains(n))
        .ok_or(ParseCandidateError::Priority)
}

fn address(field: &str) -> Result<IpAddr, ParseCandidateError> {
    if field.to_ascii_lowercase().ends_with(".local") {
        return Err(ParseCandidateError::Mdns);
    }
    field.parse().map_err(|_| ParseCandidateError::NotAnAddress)
}

fn port(field: &str) -> Result<u16, ParseCandidateError> {
    field.parse().map_err(|_| ParseCandidateError::Port)
}

fn kind(typ: &str, name: &str) -> Result<CandidateKind, ParseCandidateError> {
    match (typ, name) {
        ("typ", "host") => Ok(CandidateKind::Host),
        ("typ", "srflx") => Ok(CandidateKind::ServerReflexive),
        ("typ", "prflx") => Ok(CandidateKind::PeerReflexive),
        ("typ", "relay") => Ok(CandidateKind::Relayed),
        _ => Err(ParseCandidateError::Kind),
    }
}

/// The extensions that we know.
struct Extensions {
    related: Option<SocketAddr>,
    /// RFC 6544 section 4.5.
    tcp: Option<TcpType>,
}

/// Reads the extensions, pairs of a name and a value. A related address is for people only,
/// so one that cannot be read is none (browsers send `0.0.0.0 rport 9`, or a name).
fn extensions(fields: &mut SplitAsciiWhitespace<'_>) -> Result<Extensions, ParseCandidateError> {
    let (mut address, mut port, mut tcp) = (None, None, None);
    while let Some(name) = fields.next() {
        let value = next(fields)?;
        match name {
            "raddr" => address = value.parse().ok(),
            "rport" => port = value.parse().ok(),
            "tcptype" => tcp = TcpType::named(value),
            _ => {}
        }
    }
    let pair: Option<(IpAddr, u16)> = address.zip(port);
    let related = pair.map(|(address, port)| SocketAddr::new(address, port));
    Ok(Extensions { related, tcp })
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_at(f, &self.address.ip())
    }
}

impl Candidate {
    /// Writes the line with something else in the place of the address.
    pub(super) fn write_at(
        &self,
        f: &mut fmt::Formatter<'_>,
        address: &dyn fmt::Display,
    ) -> fmt::Result {
        write!(
            f,
            "candidate:{} {} {} {} {} {} typ {}",
            self.foundation,
            self.component,
            if self.tcp.is_some() { "tcp" } else { "udp" },
            self.priority,
            address,
            self.address.port(),
            self.kind
        )?;
        if let Some(related) = self.related {
            write!(f, " raddr {} rport {}", related.ip(), related.port())?;
        }
        match self.tcp {
            Some(tcp) => write!(f, " tcptype {}", tcp.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINES: [&str; 5] = [
        "candidate:1 1 udp 2130706431 10.0.1.1 8998 typ host",
        "candidate:2 1 udp 1694498815 192.0.2.3 45664 typ srflx raddr 10.0.1.1 rport 8998",
        "candidate:a+/Z 256 udp 1 2001:db8::5 9 typ relay raddr 2001:db8::1 rport 3",
        "candidate:4 1 tcp 1518338047 10.0.1.1 9 typ host tcptype active",
        "candidate:5 1 tcp 5 192.0.2.3 7 typ srflx raddr 10.0.1.1 rport 7 tcptype so",
    ];

    fn read(line: &str) -> Result<Candidate, ParseCandidateError> {
        line.parse()
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        for line in LINES {
            assert_eq!(read(line).unwrap().to_string(), line);
            assert_eq!(read(&format!("a={line}\r\n")), read(line));
        }
    }

    #[test]
    fn a_browsers_extensions_are_skipped() {
        let line = "candidate:842163049 1 UDP 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 rport 0 generation 0 ufrag dqr4 network-cost 999";
        let candidate = read(line).unwrap();
        assert_eq!(candidate.kind, CandidateKind::ServerReflexive);
        assert_eq!(candidate.address, "203.0.113.7:46154".parse().unwrap());
        assert_eq!(candidate.related, "0.0.0.0:0".parse().ok());
    }

    #[test]
    fn every_line_that_cannot_be_used_has_its_own_error() {
        use ParseCandidateError as E;
        let long = format!("{} x {}", LINES[0], "y".repeat(512));
        let foundation = LINES[0].replace(":1 ", &format!(":{} ", "x".repeat(33)));
        for (line, error) in [
            ("", E::NotACandidate),
            ("candidates:1", E::NotACandidate),
            ("candidate:", E::Truncated),
            ("candidate:1 1 udp 5 10.0.0.1 9 typ", E::Truncated),
            ("candidate:1 1 udp 5 10.0.0.1 9 typ host x", E::Truncated),
            ("candidate:a~b 1 udp 5 10.0.0.1 9 typ host", E::Foundation),
            ("candidate:1 0 udp 5 10.0.0.1 9 typ host", E::Component),
            ("candidate:1 257 udp 5 10.0.0.1 9 typ host", E::Component),
            ("candidate:1 1 dccp 5 10.0.0.1 9 typ host", E::Transport),
            ("candidate:1 1 tcp 5 10.0.0.1 9 typ host", E::TcpType),
            (
                "candidate:1 1 tcp 5 10.0.0.1 9 typ host tcptype x",
                E::TcpType,
            ),
            ("candidate:1 1 udp 0 10.0.0.1 9 typ host", E::Priority),
            (
                "candidate:1 1 udp 2147483648 10.0.0.1 9 typ host",
                E::Priority,
            ),
            ("candidate:1 1 udp 5 0a1b-2c.Local 9 typ host", E::Mdns),
            (
                "candidate:1 1 udp 5 example.org 9 typ host",
                E::NotAnAddress,
            ),
            ("candidate:1 1 udp 5 10.0.0.1 65536 typ host", E::Port),
            ("candidate:1 1 udp 5 10.0.0.1 9 typ hosts", E::Kind),
            ("candidate:1 1 udp 5 10.0.0.1 9 type host", E::Kind),
            (long.as_str(), E::TooLong),
            (foundation.as_str(), E::Foundation),
        ] {
            assert_eq!(read(line), Err(error), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(line in "\\PC{0,200}") {
            let _ = read(&line);
            let _ = read(&format!("candidate:{line}"));
        }

        #[test]
        fn every_candidate_survives_the_way_there_and_back(
            foundation in "[a-zA-Z0-9+/]{1,32}",
            component in 1u16..=256,
            priority in 1u32..=MAX_PRIORITY,
            address: SocketAddr,
            related: Option<SocketAddr>,
            tcp in 0..4_usize,
        ) {
            let strip = |a: SocketAddr| SocketAddr::new(a.ip(), a.port());
            let candidate = Candidate {
                foundation, component, priority,
                address: strip(address),
                kind: CandidateKind::PeerReflexive,
                related: related.map(strip),
                tcp: [None, Some("active"), Some("passive"), Some("so")][tcp].and_then(TcpType::named),
            };
            prop_assert_eq!(candidate.to_string().parse::<Candidate>().unwrap(), candidate);
        }
    }
}
