//! Settings of the agent and the bounds it never exceeds.

use std::time::Duration;

use crate::punch::Techniques;

/// Host candidates that one agent takes (a machine with more interfaces than this keeps
/// the first ones).
pub const MAX_HOSTS: usize = 32;
/// Relayed candidates that one agent takes: two families at a few servers.
pub const MAX_RELAYED: usize = 8;
/// STUN servers that one agent asks.
pub const MAX_STUN_SERVERS: usize = 8;
/// Candidates that the peer may signal; a sealed message can hold a few dozen.
pub const MAX_REMOTE_CANDIDATES: usize = 64;
/// Candidates at names that wait until these are resolved; browsers tell one for each interface.
pub const MAX_REMOTE_NAMES: usize = 16;
/// Peer-reflexive remote candidates learnt from checks, on top of the signalled ones.
pub const MAX_REMOTE_PEER_REFLEXIVE: usize = 32;
/// Checks that are remembered until the peer's credentials are known.
pub const MAX_EARLY_CHECKS: usize = 16;
/// Pairs in the check list (RFC 8445 section 6.1.2.5 recommends 100).
pub const MAX_PAIRS: usize = 100;

/// Components of a data stream: two for RTP and RTCP, and two for whoever has a use for them.
pub const MAX_COMPONENTS: u16 = 4;

/// Settings of an [`Agent`](super::Agent).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Ta, the time between two new transactions (RFC 8445 section 14.2), shared by
    /// checks and gathering; raised to 5 ms, the RFC's lower limit.
    ///
    /// The RFC's default of 50 ms is for agents that know nothing about their network. 20 ms
    /// makes 50 datagrams of about 120 bytes a second, 48 kbit/s, and halves the time to the first
    /// valid pair where unreachable host candidates are tried first.
    pub ta: Duration,
    /// The least retransmission time-out (RFC 8445 section 14.3 says 500 ms); it doubles with
    /// each retransmission and grows with the number of pairs.
    pub rto_min: Duration,
    /// How long the agent waits, from the moment the remote credentials are known, before
    /// it says that no pair works (RFC 8863 recommends 39.5 s, the life of one check).
    pub patience: Duration,
    /// The same after the loss of the last pair that worked.
    pub recovery: Duration,
    /// How long a controlling agent waits after the first valid pair for a better one, while
    /// checks of better pairs still run, before it nominates.
    pub nomination_delay: Duration,
    /// The same when all valid pairs lead through a relay: they are usable meanwhile, and a
    /// direct pair that becomes valid later still is nominated in their place.
    pub relayed_nomination_delay: Duration,
    /// Mean time between two consent checks (RFC 7675 section 5.1: 5 s); each is
    /// multiplied by a random factor from 0.8 to 1.2.
    pub consent_interval: Duration,
    /// Silence after which consent is lost (RFC 7675 section 5.1: 30 s).
    pub consent_expiry: Duration,
    /// The same two for the selected pair while its user says that data is in flight
    /// ([`Agent::set_busy`](super::Agent::set_busy)): the mean time between two checks, and how
    /// long they may stay unanswered, counted from the first of them that did. What is in
    /// flight waits meanwhile, so these are shorter than RFC 7675's.
    pub busy_consent_interval: Duration,
    /// See [`Config::busy_consent_interval`].
    pub busy_consent_expiry: Duration,
    /// How often a mapping at a STUN server is refreshed while no pair is selected.
    ///
    /// Home routers forget a UDP mapping after 30 s and more; 15 s survives the loss of one
    /// refresh.
    pub binding_refresh: Duration,
    /// How long connections over TCP to the peer wait for the checks over UDP, if there are any.
    pub tcp_delay: Duration,
    /// Whether the agent classifies the NAT and goes on where plain checks cannot succeed
    /// ([`crate::punch`]). The peer must do the same, and both must carry what the other's
    /// [`Event::TellPeer`](super::Event::TellPeer) says.
    pub punch: bool,
    /// Components of the data stream, 1 to [`MAX_COMPONENTS`]. Punching, TCP and
    /// [`Agent::set_busy`](super::Agent::set_busy) are for the first one.
    pub components: u16,
    /// What the agent does not use: prediction and birthdays are not tried, primers not sent.
    /// What it is told of, hosts and relays say, it uses.
    pub disabled: Techniques,
    /// Whether loopback addresses are candidates: for tests and for peers on one machine.
    pub allow_loopback: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ta: Duration::from_millis(20),
            rto_min: Duration::from_millis(500),
            patience: Duration::from_millis(39_500),
            recovery: Duration::from_millis(39_500),
            nomination_delay: Duration::from_millis(150),
            relayed_nomination_delay: Duration::from_secs(1),
            consent_interval: Duration::from_secs(5),
            consent_expiry: Duration::from_secs(30),
            busy_consent_interval: Duration::from_secs(5),
            busy_consent_expiry: Duration::from_secs(30),
            binding_refresh: Duration::from_secs(15),
            tcp_delay: Duration::from_millis(250),
            punch: false,
            components: 1,
            disabled: Techniques::NONE,
            allow_loopback: false,
        }
    }
}

/// Which side nominates (RFC 8445 section 6.1.1). A conflict is repaired by the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Chooses the pair.
    Controlling,
    /// Follows the choice.
    Controlled,
}

impl Role {
    /// The other role.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Controlling => Self::Controlled,
            Self::Controlled => Self::Controlling,
        }
    }
}
