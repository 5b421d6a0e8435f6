//! The URIs of STUN and TURN servers (RFC 7064, RFC 7065).
//!
//! ```text
//! stun:example.org   stuns:[2001:db8::1]:5349   turn:192.0.2.1:3478?transport=tcp
//! ```
//!
//! ```
//! use postern_wire::uri::{Scheme, ServerUri};
//!
//! let uri: ServerUri = "turns:relay.example.org?transport=tcp".parse()?;
//! assert_eq!((uri.scheme, uri.port()), (Scheme::Turns, 5349));
//! assert_eq!(uri.to_string(), "turns:relay.example.org?transport=tcp");
//! # Ok::<(), postern_wire::uri::UriError>(())
//! ```
//!
//! Out of scope: finding addresses and ports of a name (RFC 5928), percent-encoded names, and
//! transports beyond UDP and TCP.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The most bytes of a URI: a name of 253 and everything else has room.
pub const MAX_LEN: usize = 512;
/// The most bytes of a name (RFC 1035 section 2.3.4, without the root's dot).
const MAX_NAME: usize = 253;
/// The most bytes between two dots.
const MAX_LABEL: usize = 63;

/// What the server is and whether the way to it is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// STUN over UDP or TCP.
    Stun,
    /// STUN over TLS or DTLS.
    Stuns,
    /// TURN over UDP or TCP.
    Turn,
    /// TURN over TLS or DTLS.
    Turns,
}

impl Scheme {
    /// The name, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stun => "stun",
            Self::Stuns => "stuns",
            Self::Turn => "turn",
            Self::Turns => "turns",
        }
    }

    /// Whether the way to the server is encrypted.
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Stuns | Self::Turns)
    }

    /// Whether the server is a TURN server.
    #[must_use]
    pub const fn is_turn(self) -> bool {
        matches!(self, Self::Turn | Self::Turns)
    }

    /// The port when none is written and none is found otherwise: 3478 or 5349.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        if self.is_secure() { 5349 } else { 3478 }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Stun, Self::Stuns, Self::Turn, Self::Turns];
        all.into_iter()
            .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }
}

/// What carries the messages between client and server, under TLS and DTLS if the scheme is
/// secure (RFC 7065 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP, or DTLS over it.
    Udp,
    /// TCP, or TLS over it.
    Tcp,
}

impl Transport {
    /// The name, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, in lower case: at most 253 bytes of letters, digits, `-`, `_` and dots.
    Name(String),
}

/// The URI of a STUN or TURN server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUri {
    /// What the server is.
    pub scheme: Scheme,
    /// Where it is.
    pub host: Host,
    /// The port if one is written, 1 to 65535.
    pub explicit_port: Option<u16>,
    /// How to reach it, if that is written; never for STUN.
    pub transport: Option<Transport>,
}

/// Why text is not the URI of a STUN or TURN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// More than [`MAX_LEN`] bytes.
    #[error("the URI is too long")]
    TooLong,
    /// It does not begin with one of the four schemes and a colon.
    #[error("the URI must begin with stun:, stuns:, turn: or turns:")]
    Scheme,
    /// Two slashes follow the scheme: these URIs have none.
    #[error("there are no slashes in the URI of a STUN or TURN server")]
    Slashes,
    /// There is an `@`: credentials are not part of the URI.
    #[error("credentials do not belong in the URI")]
    Credentials,
    /// The host is no IPv4 address, no IPv6 address in brackets, and no name.
    #[error("the host is neither a name nor an address")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Something other than `?transport=` follows, or anything in a STUN URI.
    #[error("the URI has a part that is not understood")]
    Query,
    /// A transport other than `udp` and `tcp`.
    #[error("the transport is neither udp nor tcp")]
    Transport,
}

impl ServerUri {
    /// The port: the one that is written, or the scheme's.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.explicit_port
            .unwrap_or_else(|| self.scheme.default_port())
    }
}

impl FromStr for ServerUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_LEN {
            return Err(UriError::TooLong);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        let scheme = Scheme::parse(scheme).ok_or(UriError::Scheme)?;
        if rest.starts_with("//") {
            return Err(UriError::Slashes);
        }
        if rest.contains('@') {
            return Err(UriError::Credentials);
        }
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (host, explicit_port) = parse_place(place)?;
        Ok(Self {
            scheme,
            host,
            explicit_port,
            transport: query.map(|q| parse_query(scheme, q)).transpose()?,
        })
    }
}

impl fmt::Display for ServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme.as_str(), self.host)?;
        if let Some(port) = self.explicit_port {
            write!(f, ":{port}")?;
        }
        match self.transport {
            Some(transport) => write!(f, "?transport={}", transport.as_str()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Host and port.
fn parse_place(place: &str) -> Result<(Host, Option<u16>), UriError> {
    if let Some(rest) = place.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or(UriError::Host)?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| UriError::Host)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => None,
            None => return Err(UriError::Host),
        };
        return Ok((Host::Ip(ip.into()), port));
    }
    match place.split_once(':') {
        Some((host, port)) => Ok((parse_host(host)?, parse_port(port)?)),
        None => Ok((parse_host(place)?, None)),
    }
}

/// An empty port is none (RFC 3986 section 3.2.3).
fn parse_port(text: &str) -> Result<Option<u16>, UriError> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.map(Some).ok_or(UriError::Port)
}

/// A name whose last label is a number would be an address to some resolvers, and which one is
/// a matter of taste.
fn parse_host(text: &str) -> Result<Host, UriError> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_sound = |label: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(letters)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with(|first: char| first.is_ascii_digit())
        && (last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x"));
    if name.len() <= MAX_NAME && name.split('.').all(is_sound) && !is_number {
        Ok(Host::Name(name.to_ascii_lowercase()))
    } else {
        Err(UriError::Host)
    }
}

fn parse_query(scheme: Scheme, query: &str) -> Result<Transport, UriError> {
    let value = query.strip_prefix("transport=").ok_or(UriError::Query)?;
    if !scheme.is_turn() {
        return Err(UriError::Query);
    }
    [Transport::Udp, Transport::Tcp]
        .into_iter()
        .find(|transport| transport.as_str().eq_ignore_ascii_case(value))
        .ok_or(UriError::Transport)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<ServerUri, UriError> {
        text.parse()
    }

    /// The examples of RFC 7064 appendix A and RFC 7065 appendix A: URI, secure, port,
    /// transport.
    #[test]
    fn the_examples_of_the_rfcs_are_read_and_written() {
        use Transport::{Tcp, Udp};
        for (text, secure, port, transport) in [
            ("stun:example.org", false, None, None),
            ("stuns:example.org", true, None, None),
            ("stun:example.org:8000", false, Some(8000), None),
            ("turn:example.org", false, None, None),
            ("turns:example.org", true, None, None),
            ("turn:example.org:8000", false, Some(8000), None),
            ("turn:example.org?transport=udp", false, None, Some(Udp)),
            ("turn:example.org?transport=tcp", false, None, Some(Tcp)),
            ("turns:example.org?transport=tcp", true, None, Some(Tcp)),
        ] {
            let uri = parse(text).unwrap();
            assert_eq!(uri.scheme.is_secure(), secure, "{text}");
            assert_eq!(uri.explicit_port, port, "{text}");
            assert_eq!(uri.transport, transport, "{text}");
            assert_eq!(uri.host, Host::Name("example.org".into()));
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn ports_default_by_scheme() {
        assert_eq!(parse("stun:a").unwrap().port(), 3478);
        assert_eq!(parse("turns:a").unwrap().port(), 5349);
        assert_eq!(parse("turns:a:443").unwrap().port(), 443);
        assert_eq!(parse("turn:a:").unwrap().port(), 3478, "empty is none");
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let v4 = parse("turn:192.0.2.1:3478").unwrap();
        assert_eq!(v4.host, Host::Ip([192, 0, 2, 1].into()));
        for text in [
            "stun:[2001:db8::1]",
            "turns:[2001:db8::1]:443?transport=tcp",
        ] {
            let uri = parse(text).unwrap();
            assert_eq!(uri.host, Host::Ip("2001:db8::1".parse().unwrap()));
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn letters_have_no_case_and_names_may_end_in_a_dot() {
        let uri = parse("TURN:Relay.Example.ORG.?transport=UDP").unwrap();
        assert_eq!(uri.to_string(), "turn:relay.example.org?transport=udp");
    }

    #[test]
    fn what_is_wrong_has_a_name() {
        let long = format!("turn:{}", "a".repeat(600));
        let name = format!("turn:{}", "a.".repeat(127) + "a");
        let label = format!("turn:{}.org", "a".repeat(64));
        for (text, error) in [
            ("", UriError::Scheme),
            ("example.org", UriError::Scheme),
            ("http:example.org", UriError::Scheme),
            ("turn://example.org", UriError::Slashes),
            ("turn:user@example.org", UriError::Credentials),
            ("turn:", UriError::Host),
            ("turn::3478", UriError::Host),
            ("turn:2001:db8::1", UriError::Host),
            ("turn:[2001:db8::1", UriError::Host),
            ("turn:[2001:db8::1]3478", UriError::Host),
            ("turn:[fe80::1%eth0]", UriError::Host),
            ("turn:[192.0.2.1]", UriError::Host),
            ("turn:256.1.1.1", UriError::Host),
            ("turn:127.1", UriError::Host),
            ("turn:0x7f000001", UriError::Host),
            ("turn:a..b", UriError::Host),
            ("turn:ex%61mple.org", UriError::Host),
            ("turn:example.org/path", UriError::Host),
            ("turn:b\u{fc}cher.example", UriError::Host),
            ("turn:a:0", UriError::Port),
            ("turn:a:65536", UriError::Port),
            ("turn:a:+80", UriError::Port),
            ("turn:a:80:80", UriError::Port),
            ("stun:a?transport=udp", UriError::Query),
            ("turn:a?", UriError::Query),
            ("turn:a?ttl=5", UriError::Query),
            ("turn:a?transport=sctp", UriError::Transport),
            ("turn:a?transport=udp&x=y", UriError::Transport),
            (&long, UriError::TooLong),
            (&name, UriError::Host),
            (&label, UriError::Host),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(
            text in "(stun|stuns|turn|turns):[-a-zA-Z0-9_.:\\[\\]?=]{0,40}",
        ) {
            if let Ok(uri) = parse(&text) {
                prop_assert_eq!(parse(&uri.to_string()), Ok(uri));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            _ = parse(&text);
            _ = parse(&format!("turn:{text}"));
        }
    }
}
