//! What two peers seal to each other.

use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::frame::{self, Frame, ParseError, is_printable, require};
use super::nat::{Nat, Prediction};
use super::{MAX_CANDIDATE, MAX_CANDIDATES, MAX_CREDENTIAL, MAX_PEER_MESSAGE, MAX_PURPOSE};

/// The purpose of a rendezvous that is for sending files.
pub const PURPOSE_TRANSFER: &str = "transfer";

/// Shortest ICE user name fragment in characters (RFC 8839 section 5.4).
const MIN_UFRAG: usize = 4;

/// Shortest ICE password in characters (RFC 8839 section 5.4).
const MIN_PWD: usize = 22;

/// A message from one peer to the other, sealed: the server never sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerMessage {
    /// Is the first message of either side.
    Hello(Hello),
    /// Adds a candidate (trickle, RFC 8838).
    Candidate {
        /// The value of an SDP `candidate` attribute, printable ASCII of at most
        /// [`MAX_CANDIDATE`] bytes.
        candidate: String,
        /// Whether a gateway leads it to this side on request (PCP, NAT-PMP, UPnP): for telling
        /// people how a path came about.
        #[serde(default, skip_serializing_if = "is_false")]
        mapped: bool,
    },
    /// Says that no more candidates come (RFC 8838 section 8.2).
    EndOfCandidates,
    /// Says what this side's NAT does, once it has been looked at.
    Nat(Nat),
    /// Names ports of which one is a mapping that was just opened towards the receiver.
    Prediction(Prediction),
    /// Says what this side's network did, when no path was found.
    Report(Report),
    /// Is the last message.
    Bye {
        /// Why.
        reason: ByeReason,
    },
}

/// What a side must know about the other in order to connect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// ICE user name fragment, 4 to [`MAX_CREDENTIAL`] ice-chars (RFC 8839 section 5.4).
    pub ufrag: String,
    /// ICE password, 22 to [`MAX_CREDENTIAL`] ice-chars (RFC 8839 section 5.4).
    pub pwd: String,
    /// The hash of the certificate that this side shows in QUIC.
    pub fingerprint: Fingerprint,
    /// What the connection is for, such as [`PURPOSE_TRANSFER`]: lower-case letters,
    /// digits and hyphens, 1 to [`MAX_PURPOSE`].
    pub purpose: String,
    /// The candidates gathered so far, at most [`MAX_CANDIDATES`], each the value of an
    /// SDP `candidate` attribute of at most [`MAX_CANDIDATE`] bytes.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// Whether `candidates` are all.
    #[serde(default)]
    pub end_of_candidates: bool,
}

/// Shows no password, so that a log has none.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("ufrag", &self.ufrag)
            .field("fingerprint", &self.fingerprint)
            .field("purpose", &self.purpose)
            .field("candidates", &self.candidates)
            .field("end_of_candidates", &self.end_of_candidates)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate in DER; hexadecimal in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(D::Error::custom)?;
        <[u8; 32]>::try_from(bytes)
            .map(Self)
            .map_err(|_| D::Error::custom("a SHA-256 has 32 bytes"))
    }
}

/// What one side's network did: facts for the sentence that explains a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// A STUN server answered, so this side knows a server-reflexive address.
    pub reflexive: bool,
    /// Connectivity checks sent.
    pub checks_sent: u32,
    /// Connectivity checks received from the peer.
    pub checks_received: u32,
    /// Two STUN servers saw different mapped addresses: the NAT's mapping depends on
    /// the destination.
    pub mapped_differs: bool,
    /// No STUN server answered over UDP.
    pub udp_blocked: bool,
}

/// Why a peer says goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// Everything is done.
    Done,
    /// The person said no.
    Refused,
    /// The person stopped it.
    Cancelled,
    /// No path to the other side was found.
    NoPath,
    /// Something failed on this side.
    Failed,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

impl PeerMessage {
    /// Reads a message; spaces after it are padding.
    ///
    /// # Errors
    /// Any [`ParseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        frame::parse(bytes)
    }

    /// Writes the message: JSON without line breaks.
    #[must_use]
    pub fn to_json(&self) -> String {
        frame::to_json(self)
    }

    /// Checks the bounds that [`PeerMessage::parse`] would apply at the other side.
    ///
    /// # Errors
    /// [`ParseError::BadField`] names the field.
    pub fn check(&self) -> Result<(), ParseError> {
        Frame::check(self)
    }
}

impl Frame for PeerMessage {
    const TYPES: &'static [&'static str] = &[
        "hello",
        "candidate",
        "end_of_candidates",
        "nat",
        "prediction",
        "report",
        "bye",
    ];
    const LIMIT: usize = MAX_PEER_MESSAGE;

    fn check(&self) -> Result<(), ParseError> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Candidate { candidate, .. } => require(is_candidate(candidate), "candidate"),
            Self::Nat(nat) => nat.check(),
            Self::Prediction(prediction) => prediction.check(),
            Self::EndOfCandidates | Self::Report(_) | Self::Bye { .. } => Ok(()),
        }
    }
}

impl Hello {
    fn check(&self) -> Result<(), ParseError> {
        require(is_credential(&self.ufrag, MIN_UFRAG), "ufrag")?;
        require(is_credential(&self.pwd, MIN_PWD), "pwd")?;
        require(is_purpose(&self.purpose), "purpose")?;
        require(self.candidates.len() <= MAX_CANDIDATES, "candidates")?;
        let good = self.candidates.iter().all(|line| is_candidate(line));
        require(good, "candidates")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_candidate(line: &str) -> bool {
    !line.is_empty() && is_printable(line, MAX_CANDIDATE)
}

/// ice-char = ALPHA / DIGIT / "+" / "/" (RFC 8839 section 5.1).
fn is_credential(text: &str, least: usize) -> bool {
    (least..=MAX_CREDENTIAL).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

fn is_purpose(text: &str) -> bool {
    (1..=MAX_PURPOSE).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
