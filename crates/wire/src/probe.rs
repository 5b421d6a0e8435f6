//! What a client asks a postern server to find out: can its port be reached from outside?
//!
//! One HTTPS request, `POST /probe` with a [`Request`] in JSON, and its [`Answer`]. The server
//! probes the address that it sees the client at, and no other; the client chooses the port.
//!
//! ```
//! use postern_wire::probe::{Answer, Outcome, Request, Verdict};
//!
//! let request = Request::parse(br#"{"transport":"tcp","port":4001}"#)?;
//! assert_eq!(request, Request::Tcp { port: 4001 });
//! let answer = Answer::parse(br#"{"address":"45.45.3.2","outcome":"connected"}"#)?;
//! assert_eq!(answer.verdict, Verdict::Outcome(Outcome::Connected));
//! # Ok::<(), postern_wire::probe::ProbeParseError>(())
//! ```

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use data_encoding::HEXLOWER;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::transport::Transport;

/// Where a server answers such requests.
pub const PATH: &str = "/probe";
/// The type of both documents.
pub const CONTENT_TYPE: &str = "application/json";
/// The most bytes of a request, and of an answer.
pub const MAX_BODY: usize = 1024;
/// The server's ports from which [`Request::TcpCrossing`] may come: the dynamic ones (RFC 6335
/// section 6), at which no service of it is.
pub const CROSSING_PORTS: RangeInclusive<u16> = 49_152..=65_535;
/// What the datagram of a probe begins with: no message of another protocol, so that who gets
/// it by mistake has nothing to do with it.
const DATAGRAM: &[u8] = b"postern-probe ";

/// Sixteen bytes that tell one probe over UDP from another; hexadecimal in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// The datagram that the server sends, and that comes back to it.
    #[must_use]
    pub fn datagram(&self) -> Vec<u8> {
        [DATAGRAM, self.to_string().as_bytes()].concat()
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        <[u8; 16]>::try_from(bytes)
            .map(Self)
            .map_err(|_| D::Error::custom("a nonce has 16 bytes"))
    }
}

/// What is to be probed, at the address that the client is seen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "lowercase")]
pub enum Request {
    /// Whether a connection can be made.
    Tcp {
        /// The port.
        port: u16,
    },
    /// The same from the second address that the server has for RFC 5780.
    #[serde(rename = "tcp-alternate")]
    TcpAlternate {
        /// The port.
        port: u16,
    },
    /// Whether a connection comes to be that both ends open at the same time (RFC 9293 section
    /// 3.5, figure 7): the server tries it a few times.
    #[serde(rename = "tcp-crossing")]
    TcpCrossing {
        /// The port.
        port: u16,
        /// The server's own port, at the address to which the request came, to which the client
        /// opens its side; see [`CROSSING_PORTS`].
        from: u16,
    },
    /// Whether [`Nonce::datagram`] arrives and comes back.
    Udp {
        /// The port.
        port: u16,
        /// What the datagram shall have in it.
        nonce: Nonce,
    },
}

impl Request {
    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Tcp { port }
            | Self::TcpAlternate { port }
            | Self::TcpCrossing { port, .. }
            | Self::Udp { port, .. } => *port,
        }
    }

    /// TCP or UDP.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Tcp { .. } | Self::TcpAlternate { .. } | Self::TcpCrossing { .. } => {
                Transport::Tcp
            }
            Self::Udp { .. } => Transport::Udp,
        }
    }

    /// Reads a request. Its port may be zero.
    ///
    /// # Errors
    ///
    /// It is too long, or no request.
    pub fn parse(body: &[u8]) -> Result<Self, ProbeParseError> {
        parse(body)
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // It is a map with string keys, which serde_json always can write.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The address that it sees the client at.
    pub address: IpAddr,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The port was probed.
    Outcome(Outcome),
    /// It was not.
    Error(Refusal),
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A TCP connection was made.
    Connected,
    /// The datagram came back.
    Echoed,
    /// The port is closed: a TCP reset, or an ICMP message that says so.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// A router on the way says that there is no way, or that it must not be gone.
    Unreachable,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Echoed => "echoed",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

/// Why nothing was probed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    /// The request cannot be read, or its port is zero.
    #[error("the request cannot be read")]
    Malformed,
    /// The client is at an address that the server does not probe: not one of the public
    /// internet, or the server's own.
    #[error("the server does not probe this address")]
    Address,
    /// A port at which probes could be taken for abuse.
    #[error("the server does not probe this port")]
    Port,
    /// The server has no second address of this family.
    #[error("the server has no second address to probe from")]
    Alternate,
    /// This client has asked too often, or all clients together have.
    #[error("too many probes were asked for")]
    Rate,
    /// Too many probes are under way.
    #[error("too many probes are under way")]
    Busy,
    /// Something that this version does not know.
    #[serde(other)]
    #[error("the server does not probe")]
    Unknown,
}

impl Refusal {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Address => "address",
            Self::Port => "port",
            Self::Alternate => "alternate",
            Self::Rate => "rate",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
        }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Address | Self::Port => 403,
            Self::Alternate => 501,
            Self::Rate => 429,
            Self::Busy | Self::Unknown => 503,
        }
    }
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// It is too long, or no answer.
    pub fn parse(body: &[u8]) -> Result<Self, ProbeParseError> {
        parse(body)
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What came of the probe, if there was one.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.verdict {
            Verdict::Outcome(outcome) => Some(outcome),
            Verdict::Error(_) => None,
        }
    }
}

/// Bytes that are no request or answer: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeParseError {
    /// More than [`MAX_BODY`] bytes.
    #[error("the message about a probe is too long")]
    TooLong,
    /// Not the JSON that it should be.
    #[error("the message about a probe cannot be read")]
    Malformed,
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ProbeParseError> {
    if body.len() > MAX_BODY {
        return Err(ProbeParseError::TooLong);
    }
    serde_json::from_slice(body).map_err(|_| ProbeParseError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([0xab; 16]);

    fn requests() -> [Request; 4] {
        let nonce = NONCE;
        let crossing = Request::TcpCrossing {
            port: 4001,
            from: 50_000,
        };
        [
            Request::Tcp { port: 4001 },
            Request::Udp { port: 53, nonce },
            Request::TcpAlternate { port: 4001 },
            crossing,
        ]
    }

    fn answers() -> Vec<Answer> {
        let outcomes = [
            Outcome::Connected,
            Outcome::Echoed,
            Outcome::Refused,
            Outcome::Silent,
            Outcome::Unreachable,
        ];
        let refusals = [
            Refusal::Malformed,
            Refusal::Address,
            Refusal::Port,
            Refusal::Alternate,
            Refusal::Rate,
            Refusal::Busy,
        ];
        let outcomes = outcomes.map(Verdict::Outcome).into_iter();
        let verdicts = outcomes.chain(refusals.map(Verdict::Error));
        let address = [45, 45, 3, 2].into();
        verdicts
            .map(|verdict| Answer { address, verdict })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for request in requests() {
            assert_eq!(Request::parse(request.to_json().as_bytes()), Ok(request));
        }
        for answer in answers() {
            assert_eq!(Answer::parse(answer.to_json().as_bytes()), Ok(answer));
        }
    }

    #[test]
    fn names_are_those_of_the_json() {
        for answer in answers() {
            let name = match answer.verdict {
                Verdict::Outcome(outcome) => outcome.as_str(),
                Verdict::Error(refusal) => refusal.as_str(),
            };
            assert!(answer.to_json().contains(&format!("\"{name}\"")), "{name}");
        }
        let udp = r#"{"transport":"udp","port":53,"nonce":"abababababababababababababababab"}"#;
        assert_eq!(requests()[1].to_json(), udp);
        let crossing = r#"{"transport":"tcp-crossing","port":4001,"from":50000}"#;
        assert_eq!(requests()[3].to_json(), crossing);
    }

    #[test]
    fn one_byte_short_is_nothing() {
        for request in requests() {
            let text = request.to_json();
            let short = &text.as_bytes()[..text.len() - 1];
            assert_eq!(Request::parse(short), Err(ProbeParseError::Malformed));
        }
        for answer in answers() {
            let text = answer.to_json();
            let short = &text.as_bytes()[..text.len() - 1];
            assert_eq!(Answer::parse(short), Err(ProbeParseError::Malformed));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"transport":"sctp","port":1}"#,
            r#"{"transport":"tcp","port":65536}"#,
            r#"{"transport":"tcp","port":-1}"#,
            r#"{"transport":"udp","port":1}"#,
            r#"{"transport":"udp","port":1,"nonce":"ab"}"#,
        ] {
            let result = Request::parse(text.as_bytes());
            assert_eq!(result, Err(ProbeParseError::Malformed), "{text}");
        }
        let long = format!("{}{}", " ".repeat(MAX_BODY), requests()[0].to_json());
        assert_eq!(
            Request::parse(long.as_bytes()),
            Err(ProbeParseError::TooLong)
        );
    }

    #[test]
    fn words_of_a_later_version_are_read_as_unknown() {
        let answer = Answer::parse(br#"{"address":"::1","outcome":"delayed","more":1}"#).unwrap();
        assert_eq!(answer.outcome(), Some(Outcome::Unknown));
        let answer = Answer::parse(br#"{"address":"::1","error":"asleep"}"#).unwrap();
        assert_eq!(answer.verdict, Verdict::Error(Refusal::Unknown));
    }

    #[test]
    fn the_datagram_has_the_nonce_in_it() {
        let datagram = NONCE.datagram();
        assert_eq!(
            datagram,
            b"postern-probe abababababababababababababababab".to_vec()
        );
        assert!(datagram.len() < 64);
    }
}
